//! Requests in Kubernetes' protobuf encoding, which `kubectl create NAME` and other typed Go clients send for
//! built-in kinds whatever the server prefers. Answers are JSON, which they accept.
//!
//! An envelope (`k8s\0`, then `runtime.Unknown`) holds apiVersion, kind and the message. `fields.txt` has the fields of
//! each message; a zero of a field that is not optional means "not set", as in Go's JSON with `omitempty`.
use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Media type of the encoding.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Deeper nesting than any kind has.
const DEPTH: u8 = 32;

type Messages = HashMap<&'static str, HashMap<u64, Field>>;

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
    let lines = include_str!("protobuf/fields.txt").lines().filter(|l| !l.starts_with('#'));
    let message = |line: &'static str| {
        let (name, fields) = line.split_once(' ')?;
        Some((name, fields.split(' ').filter_map(Field::parse).collect()))
    };
    lines.filter_map(message).collect()
});

#[derive(Debug)]
struct Field {
    name: &'static str,
    repeated: bool,
    optional: bool,
    inline: bool,
    kind: &'static str,
}

impl Field {
    /// `NAME=NUMBER[FLAGS]:TYPE`
    fn parse(text: &'static str) -> Option<(u64, Self)> {
        let (name, rest) = text.split_once('=')?;
        let (number, kind) = rest.split_once(':')?;
        let flag = |f: char| number.contains(f);
        let field = Self { name, repeated: flag('*'), optional: flag('?'), inline: flag('^'), kind };
        Some((number.trim_end_matches(['*', '?', '^']).parse().ok()?, field))
    }
}

/// Decodes an enveloped object; the error says what is wrong with it.
pub fn decode(body: &[u8]) -> Result<Value, String> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in (Reader { rest: envelope }) {
        match item? {
            (1, Wire::Bytes(meta)) => {
                for item in (Reader { rest: meta }) {
                    match item? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let message = message_name(&api_version, &kind)
        .ok_or_else(|| format!("no kind {kind:?} is known in protobuf for version {api_version:?}"))?;
    let mut object = message_value(&message, raw, DEPTH)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn message_name(api_version: &str, kind: &str) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let package = format!("{}.{version}.{kind}", group.split('.').next().unwrap_or(group));
    [package, format!("meta.v1.{kind}")].into_iter().find(|name| MESSAGES.contains_key(name.as_str()))
}

fn message_value(name: &str, bytes: &[u8], depth: u8) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    let (Some(fields), Some(depth)) = (MESSAGES.get(name), depth.checked_sub(1)) else {
        return Ok(object);
    };
    for item in (Reader { rest: bytes }) {
        let (number, wire) = item?;
        let Some(field) = fields.get(&number) else { continue };
        if field.inline {
            if let Wire::Bytes(bytes) = wire {
                object.extend(message_value(field.kind, bytes, depth)?);
            }
            continue;
        }
        if let Some(kind) = field.kind.strip_prefix("m:") {
            let (key, value) = map_entry(kind, &wire, depth)?;
            object.entry(field.name).or_insert_with(|| json!({}))[key] = value;
            continue;
        }
        let value = value_of(field.kind, &wire, depth)?;
        if field.repeated {
            if let Value::Array(list) = object.entry(field.name).or_insert_with(|| json!([])) {
                list.push(value);
            }
        } else if field.optional || !is_zero(&value) {
            object.insert(field.name.into(), value);
        }
    }
    Ok(object)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

fn map_entry(kind: &str, wire: &Wire<'_>, depth: u8) -> Result<(String, Value), String> {
    let Wire::Bytes(bytes) = wire else { return Err("map entry is not a message".into()) };
    let (mut key, mut value) = (String::new(), if kind == "s" || kind == "y" { json!("") } else { Value::Null });
    for item in (Reader { rest: bytes }) {
        match item? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => value = value_of(kind, &wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn value_of(kind: &str, wire: &Wire<'_>, depth: u8) -> Result<Value, String> {
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        ("y", Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        ("i", Wire::Varint(n)) => n.cast_signed().into(),
        ("b", Wire::Varint(n)) => (*n != 0).into(),
        ("d", Wire::Fixed64(bits)) => f64::from_bits(*bits).into(),
        ("t" | "u", Wire::Bytes(bytes)) => time(kind, bytes)?,
        ("q", Wire::Bytes(bytes)) => {
            scalar(bytes, 1)?.map_or(json!("0"), |q| utf8(q.bytes()).map_or(Value::Null, Value::from))
        }
        ("o", Wire::Bytes(bytes)) => match scalar(bytes, 1)?.map_or(0, |w| w.number()) {
            0 => scalar(bytes, 2)?.map_or(0, |w| w.number()).cast_signed().into(),
            _ => utf8(scalar(bytes, 3)?.map_or(&[][..], |w| w.bytes()))?.into(),
        },
        ("r", Wire::Bytes(bytes)) => match scalar(bytes, 1)? {
            Some(raw) => serde_json::from_slice(raw.bytes()).map_err(|e| e.to_string())?,
            None => Value::Null,
        },
        (message, Wire::Bytes(bytes)) => Value::Object(message_value(message, bytes, depth)?),
        (kind, wire) => return Err(format!("wrong wire type {wire:?} for a field of type {kind}")),
    })
}

/// The last value of one field of a message.
fn scalar(bytes: &[u8], wanted: u64) -> Result<Option<Wire<'_>>, String> {
    let mut found = None;
    for item in (Reader { rest: bytes }) {
        let (number, wire) = item?;
        if number == wanted {
            found = Some(wire);
        }
    }
    Ok(found)
}

/// Seconds and nanoseconds; an empty message is the zero time, JSON null.
fn time(kind: &str, bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let part = |number| Ok::<_, String>(scalar(bytes, number)?.map_or(0, |w| w.number()).cast_signed());
    let nanos = i32::try_from(part(2)?).map_err(|e| e.to_string())?;
    let at = Timestamp::new(part(1)?, nanos).map_err(|e| e.to_string())?;
    let format = if kind == "u" { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(at.strftime(format).to_string().into())
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a string is not UTF-8".into())
}

#[derive(Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn number(&self) -> u64 {
        if let Self::Varint(n) = self { *n } else { 0 }
    }

    fn bytes(&self) -> &'a [u8] {
        if let Self::Bytes(bytes) = self { bytes } else { &[] }
    }
}

/// The fields of a message in wire order.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or("unexpected EOF")?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("integer overflow".into())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).ok().filter(|n| *n <= self.rest.len()).ok_or("unexpected EOF")?;
        let (head, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u64, Wire<'a>), String> {
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("eight were taken"))),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(format!("illegal wire type {other}")),
        };
        Ok((key >> 3, wire))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[]; // nothing after a fault can be trusted
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kubectl 1.32 sends for `kubectl create configmap x --from-literal=a=b`.
    const CONFIG_MAP: &[u8] = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1b\x0a\x11\x0a\x01x\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0\x12\x06\x0a\x01a\x12\x01b\x1a\0\x22\0";

    #[test]
    fn what_kubectl_sends_is_read() {
        let want = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}});
        assert_eq!(decode(CONFIG_MAP).unwrap(), want);
    }

    #[test]
    fn cut_messages_are_refused_at_every_length() {
        let whole = decode(CONFIG_MAP).unwrap(); // its last four bytes are empty fields
        for length in 0..CONFIG_MAP.len() - 4 {
            assert_ne!(decode(&CONFIG_MAP[..length]).as_ref(), Ok(&whole), "cut to {length} bytes");
        }
        assert!(decode(&CONFIG_MAP[..30]).is_err());
    }

    #[test]
    fn every_message_that_a_field_names_is_known() {
        let scalars = ["s", "i", "b", "d", "y", "t", "u", "q", "o", "r"];
        let empty = ["core.v1.EmptyDirVolumeSource"];
        for (message, fields) in MESSAGES.iter() {
            for field in fields.values() {
                let kind = field.kind.trim_start_matches("m:");
                assert!(
                    scalars.contains(&kind) || MESSAGES.contains_key(kind) || empty.contains(&kind),
                    "{message}.{}: {kind}",
                    field.name
                );
            }
        }
    }
}
