//! The JSONPath subset of printer columns, with client-go's grammar.
//!
//! `.a.b`, `['a\.b']` (which is `.a\.b`: the dot inside quotes separates unless escaped), `[0]`, `[-1]`, `[1:3]`,
//! `[*]`, `..name`, and filters `[?(@.type=="Ready")]`.

use serde_json::Value;

/// A parsed path.
#[derive(Debug)]
pub(crate) struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Descend,
    Filter(Filter),
}

#[derive(Debug, PartialEq)]
struct Filter {
    path: Vec<Step>,
    test: Option<(String, Value)>,
}

impl JsonPath {
    /// Parses the text of a column; `None` if it is outside the subset.
    pub fn parse(text: &str) -> Option<Self> {
        steps(text).map(|steps| Self { steps })
    }

    /// The first match.
    pub fn first(&self, object: &Value) -> Option<Value> {
        walk(vec![object], &self.steps).first().map(|v| (*v).clone())
    }
}

fn steps(text: &str) -> Option<Vec<Step>> {
    let mut out = Vec::new();
    let mut rest = text.strip_prefix('$').unwrap_or(text);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            out.push(Step::Descend);
            rest = after;
            let (name, tail) = field(rest);
            push_field(&mut out, name);
            rest = tail;
        } else if rest.starts_with('[') {
            let end = closing(rest)?;
            bracket(&rest[1..end], &mut out)?;
            rest = &rest[end + 1..];
        } else {
            let (name, tail) = field(rest.strip_prefix('.')?);
            push_field(&mut out, name);
            rest = tail;
        }
    }
    Some(out)
}

fn push_field(out: &mut Vec<Step>, name: String) {
    match name.as_str() {
        "" => {}
        "*" => out.push(Step::All),
        _ => out.push(Step::Field(name)),
    }
}

/// A name up to the next separator; a backslash takes the next character as it is.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            ' ' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}' => return (name, &text[i..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// The bracket that closes the one at the start, quotes aside.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(c),
            ('[', None) => depth += 1,
            (']', None) => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

fn bracket(inside: &str, out: &mut Vec<Step>) -> Option<()> {
    let inside = inside.trim();
    let quoted = |q: char| inside.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    if let Some(name) = quoted('\'').or_else(|| quoted('"')) {
        out.extend(steps(&format!(".{name}"))?);
    } else if inside == "*" {
        out.push(Step::All);
    } else if let Some(test) = inside.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        out.push(Step::Filter(filter(test)?));
    } else if let Some((from, to)) = inside.split_once(':') {
        let bound = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        out.push(Step::Slice(bound(from)?, bound(to)?));
    } else {
        out.push(Step::Index(inside.parse().ok()?));
    }
    Some(())
}

fn filter(text: &str) -> Option<Filter> {
    let text = text.trim();
    let operator = ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|op| text.contains(op));
    let (left, test) = match operator.and_then(|op| text.split_once(op).map(|(l, r)| (op, l, r))) {
        Some((op, left, right)) => (left, Some((op.to_owned(), literal(right.trim())?))),
        None => (text, None),
    };
    Some(Filter { path: steps(left.trim().strip_prefix('@')?)?, test })
}

fn literal(text: &str) -> Option<Value> {
    let quoted = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    match quoted('"').or_else(|| quoted('\'')) {
        Some(text) => Some(text.into()),
        None => serde_json::from_str(text).ok(),
    }
}

fn walk<'a>(mut found: Vec<&'a Value>, steps: &[Step]) -> Vec<&'a Value> {
    for step in steps {
        found = found.into_iter().flat_map(|value| advance(value, step)).collect();
    }
    found
}

fn advance<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let at = |i: i64| usize::try_from(if i < 0 { items.len() as i64 + i } else { i }).unwrap_or(usize::MAX);
    match step {
        Step::Field(name) => value.get(name.as_str()).into_iter().collect(),
        Step::Index(i) => items.get(at(*i)).into_iter().collect(),
        Step::Slice(from, to) => {
            let end = to.map_or(items.len(), at).min(items.len());
            let start = from.map_or(0, at).min(end);
            items[start..end].iter().collect()
        }
        Step::All => match value {
            Value::Object(map) => map.values().collect(),
            _ => items.iter().collect(),
        },
        Step::Descend => {
            let mut all = vec![value];
            let children: Vec<&Value> = advance(value, &Step::All);
            children.into_iter().for_each(|child| all.extend(advance(child, &Step::Descend)));
            all
        }
        Step::Filter(filter) => items.iter().filter(|item| filter.holds(item)).collect(),
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let found = walk(vec![item], &self.path);
        let Some((operator, wanted)) = &self.test else { return !found.is_empty() };
        let Some(seen) = found.first() else { return false };
        let order = match (seen, wanted) {
            (Value::String(a), Value::String(b)) => a.partial_cmp(b),
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::Bool(a), Value::Bool(b)) => a.partial_cmp(b),
            _ => None,
        };
        let Some(order) = order else { return false };
        match operator.as_str() {
            "==" => order.is_eq(),
            "!=" => order.is_ne(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let object =
            json!({"a": {"b.c/d": 1, "x": {"y": 2}}, "l": [{"t": "A", "s": "no"}, {"t": "Ready", "s": "yes"}]});
        for (path, wanted) in [
            (".a['b\\.c/d']", Some(json!(1))),
            (".a.b\\.c/d", Some(json!(1))),
            (".a['x.y']", Some(json!(2))),
            (".l[0].t", Some(json!("A"))),
            (".l[-1].t", Some(json!("Ready"))),
            (".l[*].s", Some(json!("no"))),
            (".l[?(@.t==\"Ready\")].s", Some(json!("yes"))),
            (".l[?(@.t=='Ready')].s", Some(json!("yes"))),
            ("..y", Some(json!(2))),
            (".a.missing.deep", None),
            (".l[7]", None),
            (".l[1:2]", Some(json!({"t": "Ready", "s": "yes"}))),
        ] {
            assert_eq!(JsonPath::parse(path).expect(path).first(&object), wanted, "{path}");
        }
        assert!(JsonPath::parse("no-dot").is_none());
    }
}
