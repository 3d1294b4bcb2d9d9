//! `x-kubernetes-validations`: CEL rules, compiled once with the schema.
//!
//! Expected flow: [`Rule::compile`] when the definition arrives, [`evaluate`] for each object that passed the
//! structural checks. A transition rule (one that names `oldSelf`) runs only where an old value can be correlated:
//! fields, map entries and items of map-type lists. A failing rule on a value that did not change is forgiven
//! (ratcheting) unless it is a transition rule.
//!
//! Caveats: rules are not type-checked and have no cost budget; an expression that cannot be evaluated fails the
//! object with kube-apiserver's runtime texts.

use super::cause::{Cause, child, index, key};
use super::lists::counterpart;
use super::node::{Additional, Node};
use kube_cel::KubeCelExt;
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use kube_cel::cel::{Context, ExecutionError, Program, Value as Cel};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

thread_local! {
    /// CEL with Kubernetes' function libraries; building it costs more than a rule.
    static LIBRARY: Context<'static> = Context::default().with_all();
}

static TO_TIMESTAMP: LazyLock<Program> =
    LazyLock::new(|| Program::compile("timestamp(text)").expect("a literal expression"));
static TO_DURATION: LazyLock<Program> =
    LazyLock::new(|| Program::compile("duration(text)").expect("a literal expression"));

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    rule: String,
    message: Option<String>,
    message_expression: Option<Program>,
    reason: Option<String>,
    field_path: Option<String>,
    optional_old_self: bool,
    uses_old_self: bool,
    program: Result<Program, String>,
}

impl Rule {
    /// Compiles one entry of `x-kubernetes-validations`.
    pub fn compile(rule: &Value) -> Self {
        let text = |key: &str| rule[key].as_str().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
        let expression = text("rule").unwrap_or_default();
        let program = compile(&expression);
        Self {
            message: text("message"),
            message_expression: text("messageExpression").and_then(|e| compile(&e).ok()),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old_self: rule["optionalOldSelf"].as_bool().unwrap_or(false),
            uses_old_self: program.as_ref().is_ok_and(|p| p.references().has_variable("oldSelf")),
            rule: expression,
            program,
        }
    }

    /// Names the rule in errors: its message, or the expression itself.
    fn label(&self) -> &str {
        self.message.as_deref().unwrap_or(&self.rule)
    }
}

/// Parses an expression; the error is what a definition with it is refused for.
pub(crate) fn compile(expression: &str) -> Result<Program, String> {
    Program::compile(expression).map_err(|error| error.to_string())
}

/// Runs all rules of `node` and below against `value`.
pub(crate) fn evaluate(base: &str, value: &Value, old: Option<&Value>, node: &Node, causes: &mut Vec<Cause>) {
    LIBRARY.with(|library| {
        Walk { library, causes }.visit(base, value, old, node, node, false);
    });
}

struct Walk<'a> {
    library: &'a Context<'static>,
    causes: &'a mut Vec<Cause>,
}

impl Walk<'_> {
    /// `rules` carries the rules (it differs from `node` inside `allOf`), `node` the types. `settled` says that an
    /// ancestor did not change.
    fn visit(&mut self, path: &str, value: &Value, old: Option<&Value>, rules: &Node, node: &Node, settled: bool) {
        if value.is_null() || !rules.rules_below {
            return;
        }
        let settled = settled || old == Some(value);
        self.run(path, value, old.filter(|o| !o.is_null()), rules, node, settled);
        for branch in &rules.all_of {
            self.visit(path, value, old, branch, node, false);
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let old = old.and_then(|o| o.get(name));
                    match (rules.properties.get(name), &rules.additional) {
                        (Some(sub), _) => {
                            self.visit(&child(path, name), value, old, sub, node.at(name).unwrap_or(sub), settled)
                        }
                        (None, Additional::Schema(sub)) => {
                            self.visit(&key(path, name), value, old, sub, node.at(name).unwrap_or(sub), settled);
                        }
                        _ => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(sub) = rules.items.as_deref() else { return };
                let item_node = node.items.as_deref().unwrap_or(sub);
                for (i, item) in items.iter().enumerate() {
                    self.visit(&index(path, i), item, counterpart(item, old, node), sub, item_node, settled);
                }
            }
            _ => {}
        }
    }

    fn run(&mut self, path: &str, value: &Value, old: Option<&Value>, rules: &Node, node: &Node, settled: bool) {
        if rules.rules.is_empty() {
            return;
        }
        let this = to_cel(value, Some(node), self.library);
        let before = old.map(|old| to_cel(old, Some(node), self.library));
        for rule in &rules.rules {
            if rule.uses_old_self && before.is_none() && !rule.optional_old_self {
                continue;
            }
            let mut scope = self.library.new_inner_scope();
            scope.add_variable_from_value("self", this.clone());
            match (&before, rule.optional_old_self) {
                (Some(before), true) => {
                    scope.add_variable_from_value("oldSelf", optional(OptionalValue::of(before.clone())))
                }
                (None, true) => scope.add_variable_from_value("oldSelf", optional(OptionalValue::none())),
                (Some(before), false) => scope.add_variable_from_value("oldSelf", before.clone()),
                (None, false) => {}
            }
            if let Some((cause, is_false)) = judge(path, value, rule, node, &scope)
                && (!is_false || rule.uses_old_self || !settled)
            {
                self.causes.push(cause);
            }
        }
    }
}

fn optional(value: OptionalValue) -> Cel {
    Cel::Opaque(Arc::new(value))
}

/// `None` when the rule holds; the flag tells a rule that is false from one that could not be evaluated.
fn judge(path: &str, value: &Value, rule: &Rule, node: &Node, scope: &Context<'_>) -> Option<(Cause, bool)> {
    let kind = node.type_name();
    let program = match &rule.program {
        Ok(program) => program,
        Err(error) => return Some((Cause::invalid_text(path, kind, format!("rule compile error: {error}")), false)),
    };
    match program.execute(scope) {
        Ok(Cel::Bool(true)) => None,
        Ok(_) => Some((refusal(path, value, rule, node, scope), true)),
        Err(error) => Some((Cause::invalid_text(path, kind, trouble(&error, rule)), false)),
    }
}

fn refusal(path: &str, value: &Value, rule: &Rule, node: &Node, scope: &Context<'_>) -> Cause {
    let detail = message(rule, scope);
    let path = match &rule.field_path {
        Some(field_path) => {
            format!("{}{}", if path.is_empty() { "" } else { path }, normalized(field_path, node, path.is_empty()))
        }
        None => path.to_owned(),
    };
    match (rule.reason.as_deref(), node.is_compound()) {
        (Some("FieldValueForbidden"), _) => Cause::forbidden(path, detail),
        (Some("FieldValueRequired"), _) => Cause::required(path, detail),
        (Some("FieldValueDuplicate"), true) => Cause::duplicate_omitted(path, ""),
        (Some("FieldValueDuplicate"), false) => Cause::duplicate(path, value),
        (_, true) => Cause::invalid_omitted(path, detail),
        (_, false) => Cause::invalid(path, value, detail),
    }
}

fn message(rule: &Rule, scope: &Context<'_>) -> String {
    let computed = rule.message_expression.as_ref().and_then(|program| match program.execute(scope) {
        Ok(Cel::String(text)) => Some(text.trim().to_owned()),
        _ => None,
    });
    let usable = computed.filter(|text| !text.is_empty() && !text.contains('\n') && text.len() <= 5 * 1024);
    usable.or_else(|| rule.message.clone()).unwrap_or_else(|| format!("failed rule: {}", rule.rule))
}

/// An evaluation error of a rule in cel-go's words.
fn trouble(error: &ExecutionError, rule: &Rule) -> String {
    let label = rule.label();
    match &*fault(error) {
        NO_OVERLOAD => format!(
            "'no such overload': call arguments did not match a supported operator, function or macro signature for rule: {label}"
        ),
        what => format!("{what} evaluating rule: {label}"),
    }
}

const NO_OVERLOAD: &str = "no such overload";

/// An evaluation error in cel-go's words.
pub(crate) fn fault(error: &ExecutionError) -> Cow<'static, str> {
    match error {
        ExecutionError::NoSuchOverload
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::ValuesNotComparable(..) => NO_OVERLOAD.into(),
        ExecutionError::NoSuchKey(name) => format!("no such key: {name}").into(),
        ExecutionError::IndexOutOfBounds(Cel::Int(i)) => format!("index out of bounds: {i}").into(),
        ExecutionError::DivisionByZero(_) => "division by zero".into(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".into(),
        ExecutionError::Overflow(..) => "integer overflow".into(),
        other => other.to_string().into(),
    }
}

/// `fieldPath` as it is appended to the rule's own path: `.a`, `.a[key]` for a map's key.
fn normalized(field_path: &str, node: &Node, at_root: bool) -> String {
    let mut out = String::new();
    let mut node = Some(node);
    for (name, _) in super::paths::segments(field_path) {
        let known = node.and_then(|n| n.properties.get(&name));
        if known.is_none() && node.is_some_and(Node::is_map) {
            out.push_str(&format!("[{name}]"));
        } else {
            if !(at_root && out.is_empty()) {
                out.push('.');
            }
            out.push_str(&name);
        }
        node = node.and_then(|n| n.at(&name));
    }
    out
}

/// A JSON value as CEL sees it through its schema: numbers typed, times parsed, field names escaped.
fn to_cel(value: &Value, node: Option<&Node>, library: &Context<'_>) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) if node.is_some_and(|n| n.types == ["number"]) => {
            Cel::Float(number.as_f64().unwrap_or_default())
        }
        Value::Number(number) => match number.as_i64() {
            Some(int) => Cel::Int(int),
            None => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => text_to_cel(text, node, library),
        Value::Array(items) => {
            let item_node = node.and_then(|n| n.items.as_deref());
            Cel::List(Arc::new(items.iter().map(|item| to_cel(item, item_node, library)).collect()))
        }
        Value::Object(map) => {
            let is_map = node.is_none_or(Node::is_map);
            let mut out: HashMap<Key, Cel> = HashMap::with_capacity(map.len());
            for (name, value) in map {
                let name_in_cel = if is_map { name.clone() } else { escaped(name) };
                out.insert(Key::String(Arc::new(name_in_cel)), to_cel(value, node.and_then(|n| n.at(name)), library));
            }
            Cel::Map(Map { map: Arc::new(out) })
        }
    }
}

fn text_to_cel(text: &str, node: Option<&Node>, library: &Context<'_>) -> Cel {
    let program = match node.and_then(|n| n.format.as_deref()) {
        Some("date-time" | "datetime" | "date") => &TO_TIMESTAMP,
        Some("duration") => &TO_DURATION,
        Some("byte") => {
            use base64::Engine;
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            return decoded
                .map_or_else(|_| Cel::String(Arc::new(text.to_owned())), |bytes| Cel::Bytes(Arc::new(bytes)));
        }
        _ => return Cel::String(Arc::new(text.to_owned())),
    };
    let mut scope = library.new_inner_scope();
    scope.add_variable_from_value("text", Cel::String(Arc::new(text.to_owned())));
    program.execute(&scope).unwrap_or_else(|_| Cel::String(Arc::new(text.to_owned())))
}

/// Words that CEL reserves; a field of that name is `__name__` in a rule.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A field name as a rule spells it.
pub(crate) fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    // "__" is the escape character's own escape; a single underscore stays.
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let mut causes = Vec::new();
        evaluate("", &value, old.as_ref(), &Node::compile(&schema), &mut causes);
        causes.iter().map(ToString::to_string).collect()
    }

    fn rule(rule: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [rule],
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "namespace": {"type": "string"}, "dash-ed": {"type": "string"},
                "under_score": {"type": "string"}, "t": {"type": "string", "format": "date-time"}, "n": {"type": "number"}}}}})
    }

    #[test]
    fn a_false_rule_gives_its_message_reason_and_path() {
        let value = json!({"spec": {"a": 1, "b": 2}});
        let rows = [
            (json!({"rule": "self.a > self.b"}), "spec: Invalid value: failed rule: self.a > self.b"),
            (json!({"rule": "self.a > self.b", "message": "a first"}), "spec: Invalid value: a first"),
            (
                json!({"rule": "self.a > self.b", "messageExpression": "'a is ' + string(self.a)"}),
                "spec: Invalid value: a is 1",
            ),
            (
                json!({"rule": "self.a > self.b", "message": "no", "reason": "FieldValueForbidden", "fieldPath": ".a"}),
                "spec.a: Forbidden: no",
            ),
            (
                json!({"rule": "self.n > 1.0"}),
                "spec: Invalid value: \"object\": no such key: n evaluating rule: self.n > 1.0",
            ),
        ];
        for (definition, text) in rows {
            assert_eq!(texts(rule(definition.clone()), value.clone(), None), [text], "{definition}");
        }
    }

    #[test]
    fn names_types_and_functions_are_those_of_kubernetes() {
        let value = json!({"spec": {"namespace": "x", "dash-ed": "y", "under_score": "z", "t": "2026-01-01T00:00:00Z", "n": 2}});
        for expression in [
            "self.__namespace__ == 'x'",
            "self.dash__dash__ed == 'y'",
            "self.under_score == 'z'",
            "self.t < timestamp('2027-01-01T00:00:00Z')",
            "self.n == 2.0",
            "isIP('10.0.0.1') && cidr('10.0.0.0/8').containsIP(ip('10.0.0.1'))",
            "!has(self.a)",
            "[1, 2].exists_one(x, x == 2)",
        ] {
            assert_eq!(texts(rule(json!({"rule": expression})), value.clone(), None), [""; 0], "{expression}");
        }
    }

    #[test]
    fn transition_rules_run_only_where_there_is_an_old_value() {
        let schema = rule(json!({"rule": "self.a == oldSelf.a", "message": "a is immutable"}));
        let (one, two) = (json!({"spec": {"a": 1}}), json!({"spec": {"a": 2}}));
        assert_eq!(texts(schema.clone(), one.clone(), None), [""; 0]);
        assert_eq!(texts(schema.clone(), one.clone(), Some(one.clone())), [""; 0]);
        assert_eq!(texts(schema, two, Some(one.clone())), ["spec: Invalid value: a is immutable"]);
        let schema = rule(
            json!({"rule": "oldSelf.hasValue() || self.a == 1", "optionalOldSelf": true, "message": "starts at 1"}),
        );
        assert_eq!(texts(schema.clone(), json!({"spec": {"a": 2}}), None), ["spec: Invalid value: starts at 1"]);
        assert_eq!(texts(schema, json!({"spec": {"a": 2}}), Some(one)), [""; 0]);
    }

    #[test]
    fn an_unchanged_value_is_forgiven() {
        let schema = rule(json!({"rule": "self.a > 5", "message": "too small"}));
        let value = json!({"spec": {"a": 1}});
        assert_eq!(texts(schema.clone(), value.clone(), Some(value.clone())), [""; 0]);
        assert_eq!(texts(schema, json!({"spec": {"a": 2}}), Some(value)), ["spec: Invalid value: too small"]);
    }
}
