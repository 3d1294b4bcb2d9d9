//! The network configuration on stdin: the keys of the specification, and the keys of the plugin itself.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use super::error::{CniError, code};
use super::result::CniResult;

/// A container's interface that the runtime still has; GC removes what belongs to no attachment of its list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

/// The keys of a network configuration that the specification defines.
///
/// A plugin's own keys are read from the same text by [`super::Call::plugin_conf`]; nothing is taken away from it, so
/// that a plugin may look at `ipam` or `runtimeConfig` with types of its own.
#[derive(Debug, Default, Deserialize)]
pub struct NetConf {
    #[serde(rename = "cniVersion")]
    pub cni_version: Option<String>,
    #[serde(default)]
    pub name: String,
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The result of the plugin before this one in the chain, as written.
    #[serde(rename = "prevResult")]
    prev_result: Option<Box<RawValue>>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    /// The earlier spelling, which runtimes send as well.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

impl NetConf {
    /// The result of the plugin before, if there was one.
    pub fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        let Some(raw) = &self.prev_result else { return Ok(None) };
        parse_json("prevResult", raw.get().as_bytes()).map(Some)
    }

    /// The result of the plugin before; an error if there was none, because a chained plugin cannot work alone.
    pub fn required_prev_result(&self) -> Result<CniResult, CniError> {
        self.prev_result()?.ok_or_else(|| {
            let msg = format!("prevResult is missing: {} must stand after another plugin in the chain", self.kind);
            CniError::new(code::INVALID_CONFIG, msg)
        })
    }

    /// The attachments that GC must keep.
    pub fn valid_attachments(&self) -> Option<&[Attachment]> {
        self.valid_attachments.as_deref().or(self.attachments.as_deref())
    }

    /// A network name follows the same rule as a container ID (CNI specification, "Network configuration format").
    pub(super) fn check_name(&self) -> Result<(), CniError> {
        let first = self.name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if first && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            return Ok(());
        }
        let msg = if self.name.is_empty() {
            "network configuration: name is missing or empty".to_owned()
        } else {
            format!(
                "network configuration: name {:?} may only have letters, digits, '_', '.' and '-' and must begin with a letter or digit",
                self.name
            )
        };
        Err(CniError::new(code::INVALID_CONFIG, msg))
    }
}

/// Parses a JSON object and says where and why it is wrong, with the path of the offending field. `what` names the document.
pub fn parse_json<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, CniError> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(CniError::new(code::DECODE_FAILURE, format!("{what} is empty, a JSON object is expected")));
    }
    // An array would be taken for an object's values in the order of the type.
    let other = match text.trim_ascii_start() {
        [b'{', ..] => None,
        [b'[', ..] => Some("an array"),
        _ => serde_json::from_slice::<IgnoredAny>(text).ok().map(|_| "no object"),
    };
    if let Some(other) = other {
        return Err(CniError::new(code::DECODE_FAILURE, format!("{what} is {other}, a JSON object is expected")));
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let parsed = serde_path_to_error::deserialize(&mut reader);
    let value = parsed.map_err(|error| explain(what, text, &error))?;
    reader.end().map_err(|error| {
        CniError::new(code::DECODE_FAILURE, format!("{what} has more text behind its JSON object: {error}"))
    })?;
    Ok(value)
}

fn explain(what: &str, text: &[u8], error: &serde_path_to_error::Error<serde_json::Error>) -> CniError {
    let (path, inner) = (error.path().to_string(), error.inner());
    let place = if path == "." { String::new() } else { format!(" at {path}") };
    let head: String = String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
    match inner.classify() {
        serde_json::error::Category::Eof => CniError::new(
            code::DECODE_FAILURE,
            format!("{what} is cut short after {} bytes{place}: {inner}", text.len()),
        ),
        serde_json::error::Category::Data => {
            CniError::new(code::INVALID_CONFIG, format!("{what} is invalid{place}: {inner}"))
        }
        _ => CniError::new(code::DECODE_FAILURE, format!("{what} is not JSON: {inner}; it begins with {head:?}")),
    }
}
