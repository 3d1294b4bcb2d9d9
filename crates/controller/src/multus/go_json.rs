//! JSON as Go's encoder writes it, so that a generated `spec.config` equals upstream's byte for byte.
//!
//! Compact; `<`, `>`, `&` and the two line separators are escaped; re-encoded objects have sorted members and numbers
//! without needless fractions.

use std::io;

use serde::Serialize;
use serde_json::{Map, Number, Value, ser::Formatter};

/// `value` as Go's `json.Marshal` writes a struct with the same members in the same order.
pub fn to_string<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let mut text = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Escaping))?;
    Ok(String::from_utf8(text).expect("the serialiser writes UTF-8"))
}

/// `value` as it looks after Go decoded it into a map and encodes it again.
pub fn normal(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(members.into_iter().map(|(name, member)| (name, normal(member))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        Value::Number(number) => Value::Number(whole(number)),
        other => other,
    }
}

/// Beyond this a double no longer holds every integer, and Go would not write it as one either.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn whole(number: Number) -> Number {
    match number.as_f64() {
        #[allow(clippy::cast_possible_truncation)] // guarded: an integer below 2^53
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT => Number::from(float as i64),
        _ => number,
    }
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, tail) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut characters = tail.chars();
            if let Some(special) = characters.next() {
                write!(writer, "\\u{:04x}", u32::from(special))?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        assert_eq!(to_string(&"a<b>&c\u{2028}\"\n").unwrap(), r#""a\u003cb\u003e\u0026c\u2028\"\n""#);
    }

    #[test]
    fn decoded_objects_are_sorted_and_their_numbers_whole() {
        let decoded = normal(serde_json::from_str(r#"{"b":1.0,"a":[{"y":1.5,"x":2}]}"#).unwrap());
        assert_eq!(to_string(&decoded).unwrap(), r#"{"a":[{"x":2,"y":1.5}],"b":1}"#);
        assert_eq!(normal(json!(1e300)), json!(1e300));
    }
}
