//! Validates a value against a structural schema, with the texts and the order of kube-openapi's validator.
//!
//! The texts name the field twice ("spec.a in body must be ..."), as users know them. For `anyOf` and `oneOf` the
//! validator reports the branch that came closest; closeness is the number of checks passed, which is why every
//! check counts matches.

use super::cause::{Cause, go_float, go_quote};
use super::format;
use super::node::{Additional, Node};
use serde_json::{Map, Number, Value};

/// Findings of one subtree.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    matches: u32,
}

/// A finding with the text by which duplicates are recognised.
struct Problem {
    text: String,
    cause: Cause,
}

impl Found {
    fn add(&mut self, text: String, cause: Cause) {
        if self.problems.iter().all(|p| p.text != text) {
            self.problems.push(Problem { text, cause });
        }
    }

    fn merge(&mut self, other: Found) {
        self.matches += other.matches;
        for problem in other.problems {
            self.add(problem.text, problem.cause);
        }
    }

    fn valid(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Where a value is: `base` is in front of every reported field, `path` is what the texts name.
#[derive(Clone, Copy)]
struct At<'a> {
    base: &'a str,
    path: &'a str,
    /// The value before the update: what did not change is not checked again (ratcheting).
    old: Option<&'a Value>,
}

impl At<'_> {
    fn field(&self) -> String {
        let path = self.path.strip_prefix('.').unwrap_or(self.path);
        match (self.base, path) {
            ("", path) => path.to_owned(),
            (base, "") => base.to_owned(),
            (base, path) => format!("{base}.{path}"),
        }
    }
}

/// Checks `value`; fields are reported below `base` (empty for a whole object).
pub(crate) fn value(base: &str, value: &Value, old: Option<&Value>, node: &Node) -> Vec<Cause> {
    let found = check(At { base, path: "", old }, value, node);
    found.problems.into_iter().map(|p| p.cause).collect()
}

fn check(at: At<'_>, value: &Value, node: &Node) -> Found {
    let mut found = Found::default();
    if at.old == Some(value) {
        return found;
    }
    let mut part = |applies: bool, result: Found| {
        if applies {
            found.merge(result);
            found.matches += 1;
        }
    };
    if value.is_null() {
        found.merge(check_type(at, value, node));
        found.merge(check_choices(at, value, node));
        return found;
    }
    part(!node.types.is_empty() || node.format.is_some(), check_type(at, value, node));
    part(true, check_combinations(at, value, node));
    match value {
        Value::String(text) => {
            part(true, check_text(at, text, node));
            if let Some(name) = &node.format {
                part(matches!(node.types.as_slice(), [] | ["string"]), check_format(at, text, name));
            }
        }
        Value::Number(number) => part(true, check_number(at, number, node)),
        Value::Array(items) => part(true, check_items(at, items, node)),
        _ => {}
    }
    part(true, check_choices(at, value, node));
    if let Value::Object(map) = value {
        part(true, check_object(at, map, node));
    }
    found.matches += 1;
    found
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9.0e15)
}

fn wrong_type(at: At<'_>, wanted: &str, seen: &str) -> Found {
    let mut found = Found::default();
    let text = format!("{} in body must be of type {wanted}: {}", at.path, go_quote(seen));
    found.add(text.clone(), Cause::type_invalid(at.field(), seen, text));
    found
}

fn check_type(at: At<'_>, value: &Value, node: &Node) -> Found {
    let passed = Found { matches: 1, ..Found::default() };
    let seen = json_type(value);
    let wanted = node.types.join(",");
    if value.is_null() {
        return if node.types.is_empty() || node.nullable { passed } else { wrong_type(at, &wanted, "null") };
    }
    let allows = |t: &str| node.types.contains(&t);
    let whole = seen == "number" && allows("integer") && is_whole(value);
    let as_number = seen == "integer" && allows("number");
    let fits = allows(seen) || whole || as_number;
    if let Some(format) = &node.format {
        let text_like = matches!(value, Value::String(_) | Value::Array(_));
        if !text_like && !fits {
            let seen_format = match seen {
                "integer" => "int64",
                "number" => "float64",
                _ => "",
            };
            return if format == seen_format { passed } else { wrong_type(at, format, seen_format) };
        }
        if text_like && !allows("number") && !allows("integer") {
            return passed;
        }
    }
    if node.types.is_empty() || fits { passed } else { wrong_type(at, &wanted, seen) }
}

fn simple(at: At<'_>, value: &Value, text: String) -> Found {
    let mut found = Found::default();
    found.add(text.clone(), Cause::invalid(at.field(), value, text));
    found
}

/// The first failing check of length and pattern; later ones are not looked at.
fn check_text(at: At<'_>, text: &str, node: &Node) -> Found {
    let bounds = &node.bounds;
    let length = text.chars().count() as u64;
    let value = || Value::from(text);
    if let Some(max) = bounds.max_length.filter(|max| length > *max) {
        let mut found = Found::default();
        found.add(format!("{} in body should be at most {max} chars long", at.path), Cause::too_long(at.field(), max));
        return found;
    }
    if let Some(min) = bounds.min_length.filter(|min| length < *min) {
        return simple(at, &value(), format!("{} in body should be at least {min} chars long", at.path));
    }
    match &bounds.pattern {
        Some(pattern) => match &pattern.regex {
            Ok(regex) if regex.is_match(text) => Found::default(),
            Ok(_) => simple(at, &value(), format!("{} in body should match '{}'", at.path, pattern.text)),
            Err(error) => simple(
                at,
                &value(),
                format!("{} in body should match '{}, but pattern is invalid: {error}'", at.path, pattern.text),
            ),
        },
        None => Found::default(),
    }
}

fn check_format(at: At<'_>, text: &str, name: &str) -> Found {
    if format::matches(name, text) { Found::default() } else { wrong_type(at, name, text) }
}

fn check_number(at: At<'_>, number: &Number, node: &Node) -> Found {
    let mut found = Found { matches: 1, ..Found::default() };
    let bounds = &node.bounds;
    let shown = Value::Number(number.clone());
    let float = number.as_f64().unwrap_or_default();
    if let Some(text) = out_of_range(at, number, node) {
        found.add(text.clone(), Cause::invalid_text(at.base, "", text));
    }
    if let Some(factor) = bounds.multiple_of.filter(|factor| !is_multiple(number, *factor)) {
        found.merge(simple(at, &shown, format!("{} in body should be a multiple of {}", at.path, go_float(factor))));
    }
    let below = |min: &f64| float < *min || (bounds.exclusive_minimum && float <= *min);
    if let Some(min) = bounds.minimum.filter(below) {
        let what = if bounds.exclusive_minimum { "greater than" } else { "greater than or equal to" };
        found.merge(simple(at, &shown, format!("{} in body should be {what} {}", at.path, go_float(min))));
    }
    let above = |max: &f64| float > *max || (bounds.exclusive_maximum && float >= *max);
    if let Some(max) = bounds.maximum.filter(above) {
        let what = if bounds.exclusive_maximum { "less than" } else { "less than or equal to" };
        found.merge(simple(at, &shown, format!("{} in body should be {what} {}", at.path, go_float(max))));
    }
    found
}

/// Integers must fit their format; the field of this finding is not named in the cause, only in the text.
fn out_of_range(at: At<'_>, number: &Number, node: &Node) -> Option<String> {
    if node.types != ["integer"] {
        return None;
    }
    let format = node.format.as_deref().filter(|f| matches!(*f, "int32" | "int64"));
    let fits = match (number.as_i64(), format) {
        (Some(value), Some("int32")) => i32::try_from(value).is_ok(),
        (Some(_), _) => true,
        (None, _) => number.is_f64() && number.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9.2e18),
    };
    let kind = format.map_or("(default format)".to_owned(), |f| format!("with format {f}"));
    (!fits).then(|| format!("Checked value must be of type integer {kind} in {}", at.path))
}

fn is_multiple(number: &Number, factor: f64) -> bool {
    if let (Some(value), true) = (number.as_i64(), factor.fract() == 0.0 && factor >= 1.0) {
        return value % (factor as i64) == 0;
    }
    let ratio = number.as_f64().unwrap_or_default() / factor;
    (ratio - ratio.round()).abs() <= 1e-9 * ratio.abs().max(1.0)
}

fn check_items(at: At<'_>, items: &[Value], node: &Node) -> Found {
    let mut found = Found { matches: 1, ..Found::default() };
    if let Some(item_node) = node.items.as_deref() {
        for (i, item) in items.iter().enumerate() {
            let old = super::lists::counterpart(item, at.old, node);
            found.merge(check(At { path: &format!("{}[{i}]", at.path), old, ..at }, item, item_node));
        }
    }
    let size = items.len() as u64;
    if let Some(min) = node.bounds.min_items.filter(|min| size < *min) {
        found.merge(simple(at, &size.into(), format!("{} in body should have at least {min} items", at.path)));
    }
    if let Some(max) = node.bounds.max_items.filter(|max| size > *max) {
        let text = format!("{} in body should have at most {max} items", at.path);
        found.add(text, Cause::too_many(at.field(), size, max));
    }
    if node.bounds.unique_items && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
        found.merge(simple(at, &Value::from(""), format!("{} in body shouldn't contain duplicates", at.path)));
    }
    found
}

/// `enum`.
fn check_choices(at: At<'_>, value: &Value, node: &Node) -> Found {
    let choices = &node.bounds.choices;
    let mut found = Found::default();
    if choices.is_empty() || choices.iter().any(|choice| same(choice, value)) {
        return found;
    }
    let names: Vec<String> = choices.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
    let text = format!("{} in body should be one of [{}]", at.path, names.join(" "));
    found.add(text, Cause::not_supported(at.field(), value, &names));
    found
}

/// Equality that does not tell 1 from 1.0.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn check_object(at: At<'_>, map: &Map<String, Value>, node: &Node) -> Found {
    let mut found = Found::default();
    let size = map.len() as u64;
    if let Some(min) = node.bounds.min_properties.filter(|min| size < *min) {
        found.merge(simple(at, &size.into(), format!("{} in body should have at least {min} properties", at.path)));
    }
    if let Some(max) = node.bounds.max_properties.filter(|max| size > *max) {
        let text = format!("{} in body should have at most {max} properties", at.path);
        found.add(text, Cause::too_many(at.field(), size, max));
    }
    for (key, value) in map.iter().filter(|(key, _)| !node.properties.contains_key(*key)) {
        match &node.additional {
            Additional::Any(false) => {
                let text = format!("{}.{key} in body is a forbidden property", at.path);
                found.merge(simple(at, &Value::from(key.as_str()), text));
            }
            Additional::Schema(known) => {
                let old = at.old.and_then(|o| o.get(key));
                found.merge(check(At { path: &format!("{}.{key}", at.path), old, ..at }, value, known));
            }
            _ => {}
        }
    }
    for (name, known) in &node.properties {
        if let Some(value) = map.get(name) {
            let old = at.old.and_then(|o| o.get(name));
            found.merge(check(At { path: &super::cause::child(at.path, name), old, ..at }, value, known));
        }
    }
    for name in node.bounds.required.iter().filter(|name| !map.contains_key(*name)) {
        let path = format!("{}.{name}", at.path);
        found.add(format!("{path} in body is required"), Cause::required(At { path: &path, ..at }.field(), ""));
    }
    found
}

fn composite(found: &mut Found, at: At<'_>, text: String) {
    found.add(text.clone(), Cause::invalid_text(at.base, "", text));
}

fn check_combinations(at: At<'_>, value: &Value, node: &Node) -> Found {
    let at = At { old: None, ..at };
    let mut found = Found::default();
    let quoted = go_quote(at.path);
    if !node.any_of.is_empty() {
        let (passed, best) = best_branch(at, value, &node.any_of, true);
        if passed == 0 {
            composite(&mut found, at, format!("{quoted} must validate at least one schema (anyOf)"));
        }
        best.into_iter().for_each(|best| found.merge(best));
    }
    if !node.one_of.is_empty() {
        let (passed, best) = best_branch(at, value, &node.one_of, false);
        if passed != 1 {
            let seen =
                if passed == 0 { "Found none valid".into() } else { format!("Found {passed} valid alternatives") };
            composite(&mut found, at, format!("{quoted} must validate one and only one schema (oneOf). {seen}"));
        }
        if passed <= 1 {
            best.into_iter().for_each(|best| found.merge(best));
        }
    }
    if !node.all_of.is_empty() {
        let results: Vec<_> = node.all_of.iter().map(|branch| check(at, value, branch)).collect();
        let passed = results.iter().filter(|r| r.valid()).count();
        let total = results.len();
        results.into_iter().for_each(|result| found.merge(result));
        if passed != total {
            let none = if passed == 0 { ". None validated" } else { "" };
            composite(&mut found, at, format!("{quoted} must validate all the schemas (allOf){none}"));
        }
    }
    if node.not.as_deref().is_some_and(|not| check(at, value, not).valid()) {
        composite(&mut found, at, format!("{quoted} must not validate the schema (not)"));
    }
    found.matches += 1;
    found
}

/// How many branches pass, and the first that does or else the one that came closest.
fn best_branch(at: At<'_>, value: &Value, branches: &[Node], first_only: bool) -> (usize, Option<Found>) {
    let mut passed = 0;
    let mut best: Option<Found> = None;
    for branch in branches {
        let result = check(at, value, branch);
        if result.valid() {
            passed += 1;
            if passed == 1 {
                best = Some(result);
            }
            if first_only {
                break;
            }
        } else if passed == 0 && best.as_ref().is_none_or(|b| result.matches > b.matches) {
            best = Some(result);
        }
    }
    (passed, best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(schema: Value, object: Value) -> Vec<String> {
        value("", &object, None, &Node::compile(&schema)).iter().map(ToString::to_string).collect()
    }

    fn spec(field: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["must"], "properties": {"f": field, "must": {}}}}})
    }

    fn field(schema: Value, value: Value) -> Vec<String> {
        texts(spec(schema), json!({"spec": {"must": 1, "f": value}}))
    }

    #[test]
    fn each_keyword_has_the_text_of_the_real_server() {
        let rows = [
            (
                json!({"type": "integer"}),
                json!("x"),
                "spec.f: Invalid value: \"string\": spec.f in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                "spec.f: Invalid value: \"null\": spec.f in body must be of type string: \"null\"",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "spec.f: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"type": "integer", "enum": [4, 6]}),
                json!(5),
                "spec.f: Unsupported value: 5: supported values: \"4\", \"6\"",
            ),
            (
                json!({"type": "integer", "minimum": 0}),
                json!(-1),
                "spec.f: Invalid value: -1: spec.f in body should be greater than or equal to 0",
            ),
            (
                json!({"type": "integer", "maximum": 3, "exclusiveMaximum": true}),
                json!(3),
                "spec.f: Invalid value: 3: spec.f in body should be less than 3",
            ),
            (
                json!({"type": "number", "multipleOf": 0.5}),
                json!(0.7),
                "spec.f: Invalid value: 0.7: spec.f in body should be a multiple of 0.5",
            ),
            (json!({"type": "string", "maxLength": 2}), json!("abc"), "spec.f: Too long: may not be more than 2 bytes"),
            (
                json!({"type": "string", "minLength": 2}),
                json!("a"),
                "spec.f: Invalid value: \"a\": spec.f in body should be at least 2 chars long",
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                "spec.f: Invalid value: \"b\": spec.f in body should match '^a+$'",
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("b"),
                "spec.f: Invalid value: \"b\": spec.f in body must be of type ipv4: \"b\"",
            ),
            (json!({"type": "array", "maxItems": 1}), json!([1, 2]), "spec.f: Too many: 2: must have at most 1 item"),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "spec.f: Invalid value: 0: spec.f in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!([1]),
                "spec.f[0]: Invalid value: \"integer\": spec.f[0] in body must be of type string: \"integer\"",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"k": 1}),
                "spec.f.k: Invalid value: \"integer\": spec.f.k in body must be of type string: \"integer\"",
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "spec.f: Invalid value: 0: spec.f in body should have at least 1 properties",
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                "spec.f: Invalid value: \"boolean\": spec.f in body must be of type integer,string: \"boolean\"",
            ),
            (
                json!({"not": {"enum": ["x"]}}),
                json!("x"),
                "<nil>: Invalid value: \"\": \"spec.f\" must not validate the schema (not)",
            ),
        ];
        for (schema, value, text) in rows {
            assert_eq!(field(schema.clone(), value.clone()), [text], "{schema} {value}");
        }
        assert_eq!(texts(spec(json!({})), json!({"spec": {}})), ["spec.must: Required value"]);
        assert_eq!(
            field(json!({"type": "integer"}), json!(1.5)),
            [
                "spec.f: Invalid value: \"number\": spec.f in body must be of type integer: \"number\"",
                "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec.f"
            ]
        );
    }

    #[test]
    fn good_values_pass() {
        for (schema, value) in [
            (json!({"type": "integer", "format": "int32"}), json!(5)),
            (json!({"type": "integer"}), json!(5.0)),
            (json!({"type": "number"}), json!(5)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("80%")),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), json!({"a": [1]})),
            (json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"b": 1})),
        ] {
            assert_eq!(field(schema.clone(), value.clone()), [""; 0], "{schema} {value}");
        }
    }

    #[test]
    fn one_of_reports_the_closest_branch() {
        let schema = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
        assert_eq!(
            field(schema.clone(), json!({})),
            [
                "<nil>: Invalid value: \"\": \"spec.f\" must validate one and only one schema (oneOf). Found none valid",
                "spec.f.a: Required value"
            ]
        );
        assert_eq!(
            field(schema, json!({"a": "", "b": ""})),
            [
                "<nil>: Invalid value: \"\": \"spec.f\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
            ]
        );
    }
}
