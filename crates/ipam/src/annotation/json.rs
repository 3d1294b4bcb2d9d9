//! JSON read the way Go's decoder reads it into structures.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value whose objects keep order and duplicates, which `serde_json::Value` does not.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Boolean(bool),
    Number,
    Text(String),
    List(Vec<Json>),
    Object(Members),
}

/// The members of an object, in document order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Members(Vec<(String, Json)>);

/// Parses a whole text.
pub(super) fn parse(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl Json {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Number => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// An object; `null` is the empty one.
    pub(super) fn object(self) -> Result<Members, String> {
        match self {
            Self::Object(members) => Ok(members),
            Self::Null => Ok(Members(Vec::new())),
            other => Err(format!("expect an object, found {}", other.kind())),
        }
    }

    /// An array; `null` is the empty one.
    pub(super) fn list(self) -> Result<Vec<Json>, String> {
        match self {
            Self::List(items) => Ok(items),
            Self::Null => Ok(Vec::new()),
            other => Err(format!("expect an array, found {}", other.kind())),
        }
    }

    /// An array of strings; `null` elements are empty strings.
    pub(super) fn strings(self) -> Result<Vec<String>, String> {
        let text = |item| match item {
            Self::Text(text) => Ok(text),
            Self::Null => Ok(String::new()),
            other => Err(format!("expect an array of strings, found {} in it", other.kind())),
        };
        self.list()?.into_iter().map(text).collect()
    }
}

impl Members {
    /// The last member of that name, regardless of case; `null` is absent.
    pub(super) fn member(&self, name: &str) -> Option<&Json> {
        let found = self.0.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value).filter(|value| **value != Json::Null)
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<String>, String> {
        match self.member(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text.clone())),
            Some(other) => Err(format!("expect a string in '{name}', found {}", other.kind())),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, String> {
        match self.member(name) {
            None => Ok(None),
            Some(Json::Boolean(value)) => Ok(Some(*value)),
            Some(other) => Err(format!("expect a boolean in '{name}', found {}", other.kind())),
        }
    }

    pub(super) fn strings(&self, name: &str) -> Result<Vec<String>, String> {
        let list = self.member(name).cloned().unwrap_or(Json::Null).strings();
        list.map_err(|reason| format!("in '{name}': {reason}"))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Boolean(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            members.push(entry);
        }
        Ok(Json::Object(Members(members)))
    }
}
