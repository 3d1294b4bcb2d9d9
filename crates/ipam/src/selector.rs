//! Kubernetes label selectors, evaluated without Kubernetes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector as in `meta/v1`. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Pairs that must all be present.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Expressions that must all hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Expression>,
}

/// One expression of a selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expression {
    /// The label key.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// The values of `In` and `NotIn`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Why a selector cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// An operator that does not exist.
    #[error("\"{0}\" is not a valid label selector operator")]
    Operator(String),
    /// `In` or `NotIn` without values, or `Exists`/`DoesNotExist` with some.
    #[error("values of the expression on label key '{key}' must be {expected} for operator {operator}")]
    Values {
        /// Label key.
        key: String,
        /// Operator.
        operator: String,
        /// `set` or `empty`.
        expected: &'static str,
    },
    /// Not a label key.
    #[error("'{0}' is not a valid label key")]
    Key(String),
    /// Not a label value.
    #[error("'{value}' is not a valid value of label key '{key}'")]
    Value {
        /// Label key.
        key: String,
        /// The value.
        value: String,
    },
}

impl LabelSelector {
    /// A selector of one pair.
    pub fn label(key: &str, value: &str) -> Self {
        Self { match_labels: [(key.to_owned(), value.to_owned())].into(), match_expressions: Vec::new() }
    }

    /// Whether it has neither labels nor expressions.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Checks keys, operators and values, as the API machinery does.
    pub fn validate(&self) -> Result<(), SelectorError> {
        for (key, value) in &self.match_labels {
            check_key(key)?;
            check_value(key, value)?;
        }
        self.match_expressions.iter().try_for_each(Expression::validate)
    }

    /// Whether `labels` satisfy it; an invalid selector is an error.
    pub fn matches(&self, labels: &Labels) -> Result<bool, SelectorError> {
        self.validate()?;
        let pairs = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        Ok(pairs && self.match_expressions.iter().all(|expression| expression.holds(labels)))
    }
}

impl Expression {
    fn validate(&self) -> Result<(), SelectorError> {
        check_key(&self.key)?;
        let expected_empty = match self.operator.as_str() {
            "In" | "NotIn" => false,
            "Exists" | "DoesNotExist" => true,
            other => return Err(SelectorError::Operator(other.to_owned())),
        };
        if self.values.is_empty() != expected_empty {
            let expected = if expected_empty { "empty" } else { "set" };
            return Err(SelectorError::Values { key: self.key.clone(), operator: self.operator.clone(), expected });
        }
        self.values.iter().try_for_each(|value| check_value(&self.key, value))
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            _ => value.is_none(),
        }
    }
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let good = prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_text(name);
    good.then_some(()).ok_or_else(|| SelectorError::Key(key.to_owned()))
}

fn check_value(key: &str, value: &str) -> Result<(), SelectorError> {
    let good = value.is_empty() || is_label_text(value);
    good.then_some(()).ok_or_else(|| SelectorError::Value { key: key.to_owned(), value: value.to_owned() })
}

/// `[A-Za-z0-9]` at both ends, `[-_.A-Za-z0-9]` between, at most 63 characters.
fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// RFC 1123 subdomain: lower-case labels joined by dots, at most 253 characters.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label_of_any_length)
}

/// RFC 1123 label: `[a-z0-9]` at both ends, `[-a-z0-9]` between, at most 63 characters.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_label_of_any_length(text)
}

fn is_dns_label_of_any_length(text: &str) -> bool {
    let lower = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(lower)
        && bytes.last().is_some_and(lower)
        && bytes.iter().all(|byte| lower(byte) || *byte == b'-')
}
