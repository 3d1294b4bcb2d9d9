//! Label and field selectors.
use crate::schema::cause::{Cause, index};
use crate::schema::names;
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
        Parser { tokens: tokens(text), at: 0 }.selector().map(Self).map_err(Failure::bad_request)
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

/// A word or an operator of a selector's text; the end is an empty one.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn text(&self) -> String {
        match self {
            Self::Word(text) => text.clone(),
            Self::Sign(sign) => (*sign).to_owned(),
            Self::End => String::new(),
        }
    }
}

const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

/// Takes the text apart (apimachinery `labels.Lexer`).
fn tokens(text: &str) -> Vec<Token> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let word = rest.find(|c: char| c.is_whitespace() || "=!(),><".contains(c)).unwrap_or(rest.len());
        let (token, length) = match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => (Token::Sign(sign), sign.len()),
            None => (Token::Word(rest[..word].to_owned()), word),
        };
        all.push(token);
        rest = rest[length..].trim_start();
    }
    all
}

/// Reads requirements from tokens (apimachinery `labels.Parser`).
struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn selector(mut self) -> Result<Vec<Requirement>, String> {
        let starts = |token: &Token| matches!(token, Token::Word(_) | Token::Sign("!"));
        let mut all = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(all),
                token if !starts(&token) => {
                    return Err(format!("found '{}', expected: !, identifier, or 'end of string'", token.text()));
                }
                _ => {}
            }
            all.push(self.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?);
            match self.next() {
                Token::End => return Ok(all),
                Token::Sign(",") if starts(&self.peek()) => {}
                Token::Sign(",") => {
                    return Err(format!("found '{}', expected: identifier after ','", self.peek().text()));
                }
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Token::Sign("!");
        self.at += usize::from(absent);
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        refuse(names::qualified_name(&key).is_empty(), || {
            Cause::invalid_text("", &key, names::qualified_name(&key).join("; "))
        })?;
        if absent {
            return Ok(Requirement { key, op: Op::Absent });
        }
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(Requirement { key, op: Op::Exists });
        }
        let op = self.operation()?;
        if let Op::In(values) | Op::NotIn(values) = &op {
            for (i, value) in values.iter().enumerate() {
                let problems = names::label_value(value);
                let path = format!("{}[{key}]", index("values", i));
                refuse(problems.is_empty(), || Cause::invalid_text(path, value, problems.join("; ")))?;
            }
        }
        Ok(Requirement { key, op })
    }

    fn operation(&mut self) -> Result<Op, String> {
        match self.next() {
            Token::Word(word) if word == "in" => Ok(Op::In(self.values()?)),
            Token::Word(word) if word == "notin" => Ok(Op::NotIn(self.values()?)),
            Token::Sign("=" | "==") => Ok(Op::In(vec![self.value()?])),
            Token::Sign("!=") => Ok(Op::NotIn(vec![self.value()?])),
            Token::Sign(">") => Ok(Op::Greater(self.number()?)),
            Token::Sign("<") => Ok(Op::Less(self.number()?)),
            other => Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(String::new()),
            Token::Word(value) => {
                self.at += 1;
                Ok(value)
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let value = self.value()?;
        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
        value.parse().map_err(|_| Cause::invalid_text("values[0]", &value, detail).to_string())
    }

    /// `(a, b)`, sorted as the set that it is.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        if self.peek() == Token::Sign(")") {
            let detail = "for 'in', 'notin' operators, values set can't be empty";
            return Err(Cause::invalid("values", &serde_json::json!([]), detail).to_string());
        }
        let mut all = std::collections::BTreeSet::new();
        loop {
            match self.peek() {
                Token::Word(value) => {
                    self.at += 1;
                    all.insert(value);
                }
                Token::Sign("," | ")") => {
                    all.insert(String::new());
                }
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            }
            match self.next() {
                Token::Sign(",") => {}
                Token::Sign(")") => return Ok(all.into_iter().collect()),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

fn refuse(sound: bool, cause: impl FnOnce() -> Cause) -> Result<(), String> {
    if sound { Ok(()) } else { Err(cause().to_string()) }
}

/// A conjunction of field requirements: path, value, whether equal or unequal.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(String, String, bool)>);

impl Fields {
    /// Parses the text of `fieldSelector`; `fault` says why the kind does not support a path.
    pub fn parse(text: &str, fault: impl Fn(&str) -> Option<String>) -> Outcome<Self> {
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
            if let Some(why) = fault(path) {
                return Err(Failure::bad_request(why));
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
            ("k in (,a)", "k=", true),
            ("in in (in)", "in=in", true),
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
        for (text, why) in [
            ("k in a", "unable to parse requirement: found 'a' expected: '('"),
            ("k in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "k in ()",
                "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
            ("k near (a)", "unable to parse requirement: found 'near', expected: in, notin, =, ==, !=, gt, lt"),
            ("=v", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            (
                "k>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            let failure = Labels::parse(text).unwrap_err();
            assert_eq!((failure.code, failure.message.as_str()), (http::StatusCode::BAD_REQUEST, why), "{text:?}");
        }
        for (text, start) in [
            ("a=-", "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label must be"),
            ("a/b/c", "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must"),
        ] {
            let failure = Labels::parse(text).unwrap_err();
            assert!(failure.message.starts_with(start), "{text:?}: {failure}");
        }
        assert_eq!(Fields::parse("a", |_| None).unwrap_err().code, 400);
    }

    #[test]
    fn an_absent_field_counts_as_empty() {
        let fields = Fields::parse("spec.nodeName=,status.phase!=Running", |_| None).unwrap();
        assert!(fields.matches(|_| None));
        assert!(!fields.matches(|path| (path == "spec.nodeName").then(|| "n".to_owned())));
    }
}
