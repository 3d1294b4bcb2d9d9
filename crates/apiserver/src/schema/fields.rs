//! Fields that a CEL rule selects but its schema does not have.
//!
//! kube-apiserver type-checks rules when a definition is created. Of that, this finds the commonest mistake: a misspelt
//! field. What the schema does not tell (open maps, results of functions) is taken to be right.

use super::rules::escaped;
use kube_cel::cel::common::ast::operators::INDEX;
use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr};
use serde_json::Value;

/// The first field that `expression` selects of `self` or `oldSelf`, or below, and that is not in the schema.
pub(crate) fn undefined(expression: &IdedExpr, schema: &Value, optional_old: bool) -> Option<String> {
    let old = (!optional_old).then_some(schema);
    Scope { names: vec![("self", Some(schema)), ("oldSelf", old)] }.visit(expression).err()
}

/// What the names stand for: a value of a schema, or something unknown.
struct Scope<'a> {
    names: Vec<(&'a str, Option<&'a Value>)>,
}

impl<'a> Scope<'a> {
    /// The schema of the expression's value, if it has one.
    fn visit(&mut self, expression: &'a IdedExpr) -> Result<Option<&'a Value>, String> {
        match &expression.expr {
            Expr::Ident(name) => Ok(self.names.iter().rev().find(|(n, _)| n == name).and_then(|(_, schema)| *schema)),
            Expr::Select(select) => match self.visit(&select.operand)? {
                Some(schema) => member(schema, &select.field),
                None => Ok(None),
            },
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(list) => self.all(list.elements.iter()),
            Expr::Map(map) => self.entries(map.entries.iter().map(|e| &e.expr)),
            Expr::Struct(made) => self.entries(made.entries.iter().map(|e| &e.expr)),
            Expr::Literal(_) | Expr::Unspecified => Ok(None),
        }
    }

    fn all(&mut self, expressions: impl Iterator<Item = &'a IdedExpr>) -> Result<Option<&'a Value>, String> {
        for expression in expressions {
            self.visit(expression)?;
        }
        Ok(None)
    }

    fn entries(&mut self, entries: impl Iterator<Item = &'a EntryExpr>) -> Result<Option<&'a Value>, String> {
        for entry in entries {
            match entry {
                EntryExpr::StructField(field) => self.visit(&field.value)?,
                EntryExpr::MapEntry(entry) => self.all([&entry.key, &entry.value].into_iter())?,
            };
        }
        Ok(None)
    }

    fn call(&mut self, call: &'a CallExpr) -> Result<Option<&'a Value>, String> {
        if let (INDEX, [container, index]) = (call.func_name.as_str(), call.args.as_slice()) {
            self.visit(index)?;
            return Ok(self.visit(container)?.and_then(element));
        }
        self.all(call.target.as_deref().into_iter().chain(&call.args))
    }

    /// `all`, `exists`, `map` and the like: the variable stands for the items of a list, or the keys of a map.
    fn comprehension(&mut self, it: &'a ComprehensionExpr) -> Result<Option<&'a Value>, String> {
        let range = self.visit(&it.iter_range)?;
        self.visit(&it.accu_init)?;
        let item = range.filter(|schema| schema["type"] == "array" && it.iter_var2.is_none()).and_then(element);
        let outer = self.names.len();
        self.names.push((&it.accu_var, None));
        self.names.push((&it.iter_var, item));
        self.names.extend(it.iter_var2.as_deref().map(|name| (name, None)));
        let seen = self.all([&it.loop_cond, &it.loop_step, &it.result].into_iter());
        self.names.truncate(outer);
        seen
    }
}

/// The schema of a field; an error if the schema is closed and does not have it.
fn member<'a>(schema: &'a Value, field: &str) -> Result<Option<&'a Value>, String> {
    let Some(properties) = schema["properties"].as_object().filter(|p| !p.is_empty()) else { return Ok(None) };
    if let Some((_, found)) = properties.iter().find(|(name, _)| escaped(name) == field) {
        return Ok(Some(found).filter(|found| found["x-kubernetes-int-or-string"] != true));
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true || !schema["additionalProperties"].is_null();
    let of_any_object = matches!(field, "apiVersion" | "kind" | "metadata");
    if open || of_any_object { Ok(None) } else { Err(field.to_owned()) }
}

/// The schema of the items of a list or of the values of a map.
fn element(schema: &Value) -> Option<&Value> {
    [&schema["items"], &schema["additionalProperties"]].into_iter().find(|inner| inner.is_object())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_a_closed_schema_lacks_is_undefined() {
        let item = json!({"type": "object", "properties": {"x": {"type": "string"}}});
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string"}, "dash-ed": {"type": "string"}, "list": {"type": "array", "items": item}, "map": {"type": "object", "additionalProperties": item},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": item}},
            "either": {"x-kubernetes-int-or-string": true}}});
        for (rule, wanted) in [
            ("self.a == 'x' && has(self.list)", None),
            ("self.b == 'x'", Some("b")),
            ("has(self.b)", Some("b")),
            ("oldSelf.b == self.a", Some("b")),
            ("self.dash__dash__ed == 'x'", None),
            ("self.list.all(i, i.x == self.a)", None),
            ("self.list.all(i, i.y == 'x')", Some("y")),
            ("self.list.all(self, self.x == 'x')", None),
            ("self.list[0].y == 'x'", Some("y")),
            ("self.map['k'].x == 'x' && self.map.k.x == 'x'", None),
            ("self.map['k'].y == 'x'", Some("y")),
            ("self.map.all(k, k == 'x')", None),
            ("self.open.anything.at.all == 1", None),
            ("self.open.known.y == 1", Some("y")),
            ("self.either == 1 && self.metadata.name == 'x'", None),
            ("[self.a, self.b].exists(v, v == 'x')", Some("b")),
            ("{'k': self.b}['k'] == 'x'", Some("b")),
            ("size(self.a.split('x')) == 1", None),
        ] {
            let program = super::super::rules::compile(rule).unwrap();
            assert_eq!(undefined(program.expression(), &schema, false).as_deref(), wanted, "{rule}");
        }
        let program = super::super::rules::compile("oldSelf.hasValue()").unwrap();
        assert_eq!(undefined(program.expression(), &schema, true), None);
    }
}
