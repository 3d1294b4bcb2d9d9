//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`, and the keys by which container runtimes name the pod.

use super::error::{CniError, code};

/// The pairs of `CNI_ARGS`, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pairs: Vec<(String, String)>,
}

/// The pod that a call is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`
    pub namespace: String,
    /// `K8S_POD_NAME`
    pub name: String,
    /// `K8S_POD_UID`, empty when the runtime does not tell it.
    pub uid: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`, empty when the runtime does not tell it.
    pub infra_container_id: String,
}

const POD_KEYS: [&str; 6] =
    ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID", "IP"];

impl Args {
    /// Parses `CNI_ARGS`. Empty text has no pairs; a trailing semicolon is allowed.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut pairs = Vec::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| invalid(format!("CNI_ARGS: {pair:?} is not a pair KEY=VALUE")))?;
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { pairs })
    }

    /// The value of a key; the last one counts when it is repeated.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All pairs, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Sets a key, replacing an earlier value.
    pub fn set(&mut self, key: &str, value: &str) {
        self.pairs.retain(|(name, _)| name != key);
        self.pairs.push((key.to_owned(), value.to_owned()));
    }

    /// The pod of the call. Keys other than the runtimes' need `IgnoreUnknown=1` (or `true`), as everywhere in CNI.
    ///
    /// # Errors
    /// A missing pod name or namespace, an unknown key, or an `IgnoreUnknown` that is no boolean.
    pub fn pod(&self) -> Result<PodArgs, CniError> {
        let ignore_unknown = match self.value("IgnoreUnknown").map(str::to_ascii_lowercase).as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(other) => return Err(invalid(format!("CNI_ARGS: IgnoreUnknown {other:?} is not a boolean"))),
        };
        let unknown: Vec<&str> = self.iter().map(|(key, _)| key).filter(|key| !POD_KEYS.contains(key)).collect();
        if !ignore_unknown && !unknown.is_empty() {
            return Err(invalid(format!("CNI_ARGS: unknown keys {unknown:?} without IgnoreUnknown=1")));
        }
        let text = |key: &str| self.value(key).unwrap_or_default().to_owned();
        let required = |key: &str| match self.value(key) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(invalid(format!("CNI_ARGS: {key} is missing or empty"))),
        };
        Ok(PodArgs {
            namespace: required("K8S_POD_NAMESPACE")?,
            name: required("K8S_POD_NAME")?,
            uid: text("K8S_POD_UID"),
            infra_container_id: text("K8S_POD_INFRA_CONTAINER_ID"),
        })
    }
}

impl std::fmt::Display for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (key, value)) in self.iter().enumerate() {
            let separator = if at == 0 { "" } else { ";" };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

fn invalid(msg: String) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_s_arguments_name_the_pod() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1;X=y=z";
        let args = Args::parse(text).unwrap();
        let pod = args.pod().unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("ns1", "web-0", "u-1"));
        assert_eq!(args.value("X"), Some("y=z"));
        assert_eq!(args.to_string(), text);
    }

    #[test]
    fn bad_arguments_are_named() {
        let rows = [
            ("K8S_POD_NAME", "\"K8S_POD_NAME\" is not a pair"),
            ("K8S_POD_NAME=a", "K8S_POD_NAMESPACE is missing"),
            ("K8S_POD_NAME=a;K8S_POD_NAMESPACE=", "K8S_POD_NAMESPACE is missing or empty"),
            ("K8S_POD_NAME=a;K8S_POD_NAMESPACE=b;COLOUR=red", "unknown keys [\"COLOUR\"]"),
            ("IgnoreUnknown=perhaps", "IgnoreUnknown \"perhaps\""),
        ];
        for (text, expected) in rows {
            let error = Args::parse(text).and_then(|args| args.pod()).unwrap_err();
            assert!(error.msg.contains(expected), "{text}: {error}");
            assert_eq!(error.code, code::INVALID_ENVIRONMENT, "{text}");
        }
    }
}
