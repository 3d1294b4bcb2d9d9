//! Finds fields that a JSON text names twice: `serde_json` keeps the last one silently, a strict request must not.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;

/// The paths of repeated fields, `spec.a` or `spec.list[0].b`, in the order of the text. A text that is no JSON has
/// none: it is refused elsewhere.
pub(crate) fn find(text: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = String::new();
    let scan = Scan { path: &mut path, found: &mut found };
    let _ = scan.deserialize(&mut serde_json::Deserializer::from_slice(text));
    found
}

struct Scan<'a> {
    path: &'a mut String,
    found: &'a mut Vec<String>,
}

impl Scan<'_> {
    /// Goes on below `step`, which is taken off the path again by the caller.
    fn below(&mut self, step: &str) -> Scan<'_> {
        self.path.push_str(step);
        Scan { path: self.path, found: self.found }
    }
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let length = self.path.len();
            let step = if length == 0 { key.clone() } else { format!(".{key}") };
            if seen.contains(&key) {
                self.found.push(format!("{}{step}", self.path));
            }
            map.next_value_seed(self.below(&step))?;
            self.path.truncate(length);
            seen.insert(key);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let length = self.path.len();
        for i in 0.. {
            let more = items.next_element_seed(self.below(&format!("[{i}]")))?;
            self.path.truncate(length);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_fields_are_found_at_every_depth() {
        let text =
            br#"{"spec": {"a": 1, "b": [{"c": 1}, {"c": 1, "d": null, "c": 2.5}], "a": "x"}, "kind": "K", "spec": {}}"#;
        assert_eq!(find(text), ["spec.b[1].c", "spec.a", "spec"]);
        assert_eq!(find(br#"{"a": [1, "x", true, null, {}]}"#), [""; 0]);
        assert_eq!(find(b"{not json"), [""; 0]);
    }
}
