//! Label and field selectors.
use crate::status::{Failure, Outcome};

/// A conjunction of label requirements.
#[derive(Debug, Clone, Default)]
pub struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Debug, Clone, PartialEq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Labels {
    /// Parses the text of `labelSelector`.
    pub fn parse(text: &str) -> Outcome<Self> {
        let refuse = |why: String| Failure::bad_request(format!("unable to parse requirement: {why}"));
        split_outside_parentheses(text)
            .into_iter()
            .map(|part| requirement(part).map_err(refuse))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Parses a `metav1.LabelSelector` object.
    pub fn from_object(selector: &serde_json::Value) -> Self {
        let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        let equal = selector["matchLabels"].as_object().into_iter().flatten();
        let mut all: Vec<_> = equal.map(|(k, v)| Requirement { key: k.clone(), op: Op::In(vec![text(v)]) }).collect();
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten().map(text).collect();
            let op = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Op::In(values),
                "NotIn" => Op::NotIn(values),
                "Exists" => Op::Exists,
                _ => Op::Absent,
            };
            all.push(Requirement { key: text(&expression["key"]), op });
        }
        Self(all)
    }

    /// Whether the selector selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &[(String, String)]) -> bool {
        self.0.iter().all(|r| {
            let value = labels.iter().find(|(k, _)| *k == r.key).map(|(_, v)| v);
            match &r.op {
                Op::In(values) => value.is_some_and(|v| values.contains(v)),
                Op::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Op::Exists => value.is_some(),
                Op::Absent => value.is_none(),
                Op::Greater(than) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *than),
                Op::Less(than) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *than),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let make = |key: &str, op| {
        let key = key.trim();
        match key.is_empty() || key.contains([' ', '(', ')', '!', '=']) {
            true => Err(format!("<nil>: Invalid value: {key:?}: label key in {text:?} is not valid")),
            false => Ok(Requirement { key: key.to_owned(), op }),
        }
    };
    if let Some(key) = text.strip_prefix('!') {
        return make(key, Op::Absent);
    }
    if let Some((key, value)) = text.split_once("!=") {
        return make(key, Op::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return make(key, Op::In(vec![value.trim().to_owned()]));
    }
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(|| format!("found {text:?}, expected: ')'"))?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, op) = head.trim().split_once(char::is_whitespace).unwrap_or((head, ""));
        return match op.trim() {
            "in" => make(key, Op::In(values)),
            "notin" => make(key, Op::NotIn(values)),
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
    }
    for (sign, op) in [('>', Op::Greater as fn(i64) -> Op), ('<', Op::Less as fn(i64) -> Op)] {
        if let Some((key, value)) = text.split_once(sign) {
            let number = value
                .trim()
                .parse()
                .map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: {value:?}"))?;
            return make(key, op(number));
        }
    }
    make(text, Op::Exists)
}

/// A conjunction of field requirements: path, value, whether equal or unequal.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(String, String, bool)>);

impl Fields {
    /// Parses the text of `fieldSelector`; `known` says which paths the kind supports.
    pub fn parse(text: &str, known: impl Fn(&str) -> bool) -> Outcome<Self> {
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (path, value, equal) = if let Some((p, v)) = part.split_once("!=") {
                (p, v, false)
            } else if let Some((p, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (p, v, true)
            } else {
                let why = format!("invalid selector: '{text}'; can't understand '{part}'");
                return Err(Failure::bad_request(why));
            };
            if !known(path) {
                return Err(Failure::bad_request(format!("field label not supported: {path}")));
            }
            all.push((path.to_owned(), value.to_owned(), equal));
        }
        Ok(Self(all))
    }

    /// Renames the paths.
    pub fn map_paths(self, rename: impl Fn(&str) -> String) -> Self {
        Self(self.0.into_iter().map(|(path, value, equal)| (rename(&path), value, equal)).collect())
    }

    /// Adds the requirement that the object has this name.
    pub fn named(mut self, name: &str) -> Self {
        self.0.push(("metadata.name".into(), name.into(), true));
        self
    }

    /// The one name that can match, when the selector asks for one.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|(path, _, equal)| path == "metadata.name" && *equal).map(|(_, value, _)| value.as_str())
    }

    /// Whether the selector selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object is selected; an absent field counts as empty.
    pub fn matches(&self, field: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().all(|(path, value, equal)| (field(path).unwrap_or_default() == *value) == *equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<(String, String)> {
        text.split_whitespace().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn each_operator_selects_what_it_says() {
        for (selector, object, selected) in [
            ("", "", true),
            ("k=v", "k=v", true),
            ("k = v", "k=v", true),
            ("k!=v", "", true),
            ("k!=v", "k=v", false),
            ("!k", "k=v", false),
            ("k", "k=", true),
            ("k in (a, b),x notin (c,d)", "k=b", true),
            ("k in (a, b),x notin (c,d)", "k=b x=d", false),
            ("k>4", "k=5", true),
            ("k<4", "k=5", false),
            ("ipam.spidernet.io/pool-node=n,!z", "ipam.spidernet.io/pool-node=n", true),
        ] {
            assert_eq!(
                Labels::parse(selector).unwrap().matches(&labels(object)),
                selected,
                "{selector:?} on {object:?}"
            );
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["k in a", "k in (a", "k near (a)", "=v", "a b", "k>x"] {
            assert_eq!(Labels::parse(text).unwrap_err().code, 400, "{text:?}");
        }
        assert_eq!(Fields::parse("a", |_| true).unwrap_err().code, 400);
    }

    #[test]
    fn an_absent_field_counts_as_empty() {
        let fields = Fields::parse("spec.nodeName=,status.phase!=Running", |_| true).unwrap();
        assert!(fields.matches(|_| None));
        assert!(!fields.matches(|path| (path == "spec.nodeName").then(|| "n".to_owned())));
    }
}
