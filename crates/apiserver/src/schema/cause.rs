//! Why an object is refused: `status.details.causes[]`, worded as apimachinery's `field` package does.
//!
//! A cause is one field with one text. The texts are part of the API: users and scripts match on them, so they are
//! built here in one place from the same few forms ("Invalid value", "Required value", ...).

use serde_json::Value;

/// One reason why an object is refused (`status.details.causes[]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, ...
    pub reason: &'static str,
    /// Text as kube-apiserver words it, without the field.
    pub message: String,
    /// Path of the field, `spec.ips[0]`.
    pub field: String,
}

/// How an empty path prints: Go's `(*field.Path)(nil).String()`.
pub const NO_FIELD: &str = "<nil>";

impl Cause {
    fn new(reason: &'static str, label: &str, field: impl Into<String>, value: Option<String>, detail: &str) -> Self {
        let mut message = label.to_owned();
        if let Some(value) = value {
            message = format!("{message}: {value}");
        }
        if !detail.is_empty() {
            message = format!("{message}: {detail}");
        }
        let field = field.into();
        Self { reason, message, field: if field.is_empty() { NO_FIELD.to_owned() } else { field } }
    }

    /// `Invalid value: VALUE: detail`.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueInvalid", "Invalid value", field, Some(go_value(value)), detail.as_ref())
    }

    /// `Invalid value: "TEXT": detail`.
    pub fn invalid_text(field: impl Into<String>, text: &str, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueInvalid", "Invalid value", field, Some(go_quote(text)), detail.as_ref())
    }

    /// `Invalid value: detail`, for values too big to repeat.
    pub fn invalid_omitted(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueInvalid", "Invalid value", field, None, detail.as_ref())
    }

    /// `Invalid value: "TYPE": detail`, for a value of the wrong JSON type.
    pub fn type_invalid(field: impl Into<String>, text: &str, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueTypeInvalid", "Invalid value", field, Some(go_quote(text)), detail.as_ref())
    }

    /// `Required value` or `Required value: detail`.
    pub fn required(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueRequired", "Required value", field, None, detail.as_ref())
    }

    /// `Forbidden: detail`.
    pub fn forbidden(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueForbidden", "Forbidden", field, None, detail.as_ref())
    }

    /// `Duplicate value: VALUE`.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueDuplicate", "Duplicate value", field, Some(go_value(value)), "")
    }

    /// `Duplicate value: detail`, the value left out.
    pub fn duplicate_omitted(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new("FieldValueDuplicate", "Duplicate value", field, None, detail.as_ref())
    }

    /// `Not found: VALUE`.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueNotFound", "Not found", field, Some(go_value(value)), "")
    }

    /// `Unsupported value: VALUE: supported values: "a", "b"`.
    pub fn not_supported<S: AsRef<str>>(field: impl Into<String>, value: &Value, supported: &[S]) -> Self {
        let list: Vec<_> = supported.iter().map(|s| go_quote(s.as_ref())).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::new("FieldValueNotSupported", "Unsupported value", field, Some(go_value(value)), &detail)
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(field: impl Into<String>, max: u64) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new("FieldValueTooLong", "Too long", field, None, &format!("may not be more than {max} {unit}"))
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(field: impl Into<String>, actual: u64, max: u64) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        Self::new("FieldValueTooMany", "Too many", field, Some(actual.to_string()), &detail)
    }

    /// `Internal error: detail`.
    pub fn internal(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Self::new("InternalError", "Internal error", field, None, detail.as_ref())
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Whether CEL rules are skipped because of this cause (`hasBlockingErr` of the custom resource strategy).
pub(crate) fn blocks_rules(cause: &Cause) -> bool {
    matches!(
        cause.reason,
        "FieldValueNotSupported"
            | "FieldValueRequired"
            | "FieldValueTooLong"
            | "FieldValueTooMany"
            | "FieldValueTypeInvalid"
    )
}

/// A value as `field.Error` prints it: strings quoted, numbers plain, everything else as compact JSON.
pub(crate) fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        Value::Number(number) => go_number(number),
        other => other.to_string(),
    }
}

/// A number as `%v` prints it.
pub(crate) fn go_number(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => go_float(float),
        _ => number.to_string(),
    }
}

/// A float as Go's `%v`: the shortest text, exponent form below 1e-4 and from 1e21 on.
pub(crate) fn go_float(float: f64) -> String {
    let magnitude = float.abs();
    if float != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{float:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{float}")
}

/// A string as Go's `strconv.Quote` writes it.
pub(crate) fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `parent.child`, or `child` at the root.
pub(crate) fn child(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// `parent[index]`.
pub(crate) fn index(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// `parent[key]`.
pub(crate) fn key(parent: &str, key: &str) -> String {
    format!("{parent}[{key}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_print_as_go_prints_them() {
        for (value, text) in [
            (json!("a\"b\n"), r#""a\"b\n""#),
            (json!(1.5), "1.5"),
            (json!(1e21), "1e+21"),
            (json!(0.00001), "1e-05"),
            (json!(100.0), "100"),
            (json!({"a": [1]}), r#"{"a":[1]}"#),
            (json!(null), "null"),
        ] {
            assert_eq!(go_value(&value), text);
        }
    }
}
