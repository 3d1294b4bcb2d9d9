//! Reads typed keys out of a YAML mapping; an error names the key's full path and the value.

use serde_json::{Map, Value};
use std::time::Duration;

/// A mapping of the file and where it is in it. Keys that nobody took are the unknown ones.
pub struct Fields {
    path: String,
    keys: Map<String, Value>,
}

/// A key whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {value} is not {expected}")]
pub struct FieldError {
    /// Path of the key in the file.
    pub key: String,
    /// The value as JSON text.
    pub value: String,
    /// What it should be.
    pub expected: String,
}

impl FieldError {
    /// A value that is of the right type and wrong all the same.
    pub fn new(key: impl Into<String>, value: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), expected: expected.into() }
    }
}

impl Fields {
    /// The whole file; an empty one is a mapping without keys.
    pub fn of_file(value: Value) -> Result<Self, FieldError> {
        match value {
            Value::Object(keys) => Ok(Self { path: String::new(), keys }),
            Value::Null => Ok(Self { path: String::new(), keys: Map::new() }),
            other => Err(FieldError::new("the file", shown(&other), "a mapping of keys")),
        }
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes the value of a key; null counts as absent.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key).filter(|value| !value.is_null())
    }

    fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        convert(&value).map(Some).ok_or_else(|| FieldError::new(self.at(key), shown(&value), expected))
    }

    /// A boolean, also in the spellings of YAML 1.1 that Go's decoder takes.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>, FieldError> {
        self.read(key, "a boolean (true or false)", |value| match value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "y" | "yes" | "on" => Some(true),
                "n" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        })
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, FieldError> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A whole number that is not negative.
    pub fn count(&mut self, key: &str) -> Result<Option<u64>, FieldError> {
        self.read(key, "a number of 0 or more", Value::as_u64)
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, FieldError> {
        self.read(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    /// A duration as Go writes it (`50s`, `1m30s`).
    pub fn duration(&mut self, key: &str) -> Result<Option<Duration>, FieldError> {
        self.read(key, "a duration such as \"30s\"", |value| go_duration(value.as_str()?))
    }

    /// A mapping below this one; without keys when absent.
    pub fn below(&mut self, key: &str) -> Result<Self, FieldError> {
        let keys = self.read(key, "a mapping of keys", |value| value.as_object().cloned())?;
        Ok(Self { path: self.at(key), keys: keys.unwrap_or_default() })
    }

    /// A key that is known and belongs to somebody else: any value will do.
    pub fn ignore(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// Paths of the keys that nobody took.
    pub fn unknown(self) -> Vec<String> {
        self.keys.keys().map(|key| self.at(key)).collect()
    }
}

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.chars().count() > 80 {
        text = text.chars().take(80).chain("...".chars()).collect();
    }
    text
}

/// Go's `time.ParseDuration` without signs.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let scale = match &tail[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = &tail[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("50s", Some(50_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1_500)),
            ("250ms", Some(250)),
            ("0", Some(0)),
            ("", None),
            ("50", None),
            ("s", None),
            ("-1s", None),
            ("5 s", None),
        ] {
            assert_eq!(go_duration(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }
}
