//! The error object of the CNI specification, section "Error".

use serde::{Deserialize, Serialize};

/// Error codes. 1 to 99 belong to the specification, 100 and above to this product.
pub mod code {
    /// The version of the configuration is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported; the message names key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A necessary environment variable is missing or wrong; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input or output failed, for instance reading stdin.
    pub const IO_FAILURE: u32 = 5;
    /// The content could not be decoded, for instance JSON that does not parse.
    pub const DECODE_FAILURE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A transient condition: the runtime should try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: the plugin cannot serve ADD requests.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the plugin cannot serve, and containers on the network may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// The kernel refused a step of the data path.
    pub const DATA_PATH: u32 = 100;
    /// The agent refused the request.
    pub const AGENT: u32 = 101;
    /// A delegated plugin failed; `details` has its own words.
    pub const DELEGATE: u32 = 102;
    /// CHECK found a difference between the wanted and the actual state.
    pub const CHECK_FAILED: u32 = 103;
    /// A fault of the program itself.
    pub const INTERNAL: u32 = 999;
}

/// What a failed plugin prints on stdout: a code, one line that says what is wrong, and optional details.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}", self.suffix())]
pub struct CniError {
    /// The version of the configuration that the call carried, when it was understood.
    #[serde(rename = "cniVersion", default, skip_serializing_if = "Option::is_none")]
    pub cni_version: Option<String>,
    /// See [`code`].
    pub code: u32,
    /// One line, naming object, field and value.
    #[serde(default)]
    pub msg: String,
    /// A longer description.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with a code and a message.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { cni_version: None, code, msg: msg.into(), details: String::new() }
    }

    /// An error whose message is `msg` followed by the causes of `error`, each once.
    pub fn caused(code: u32, msg: &str, error: &dyn std::error::Error) -> Self {
        Self::new(code, format!("{msg}: {}", chain(error)))
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same error, answering a call of this version.
    #[must_use]
    pub fn for_version(mut self, version: Option<&str>) -> Self {
        self.cni_version = self.cni_version.or_else(|| version.map(str::to_owned));
        self
    }

    /// The error object as printed.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a struct of strings and numbers serialises")
    }

    /// Reads the error object that another plugin printed; `None` if it is none.
    pub fn parse(stdout: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(stdout).ok().filter(|error| error.code != 0)
    }

    fn suffix(&self) -> String {
        if self.details.is_empty() { String::new() } else { format!(" ({})", self.details) }
    }
}

/// The messages of an error and its sources, joined by colons; a cause that its parent already printed is left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let message = source.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = source.source();
    }
    text
}
