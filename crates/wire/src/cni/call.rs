//! One call: environment and bounded stdin.

use std::io::{self, Read};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::conf::{NetConf, parse_json};
use super::env::{Command, Env};
use super::error::{CniError, code};
use super::version::SpecVersion;

/// The longest configuration that is read. A configuration with a previous result has a few kilobytes; GC lists grow
/// with the pods of one node.
pub const STDIN_LIMIT: usize = 1 << 20;

/// Everything that a runtime tells a plugin.
#[derive(Debug)]
pub struct Call {
    pub env: Env,
    pub conf: NetConf,
    /// The version of the configuration; the answer has the same.
    pub version: SpecVersion,
    stdin: Vec<u8>,
}

impl Call {
    /// Checks a call whose environment and stdin have been read.
    ///
    /// # Errors
    /// Text that is no JSON object, an unsupported version, a command newer than the version, a bad network name. The
    /// error carries the version of the configuration as far as that was understood.
    pub fn new(env: Env, stdin: Vec<u8>) -> Result<Self, CniError> {
        let conf: NetConf = parse_json("network configuration on stdin", &stdin)?;
        let written = conf.cni_version.clone();
        let check = || {
            let text = written.as_deref().ok_or_else(|| {
                let msg = "network configuration: cniVersion is missing (0.1.0 is not supported)";
                CniError::new(code::INCOMPATIBLE_VERSION, msg)
            })?;
            let version = text.parse::<SpecVersion>().map_err(|error| {
                CniError::new(code::INCOMPATIBLE_VERSION, format!("network configuration: {error}"))
            })?;
            if version < env.command.since() {
                let msg = format!(
                    "{} needs cniVersion {} or later, the network configuration has {version}",
                    env.command,
                    env.command.since()
                );
                return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg));
            }
            conf.check_name()?;
            Ok(version)
        };
        let version = check().map_err(|error| error.for_version(written.as_deref()))?;
        Ok(Self { env, conf, version, stdin })
    }

    /// The plugin's own keys of the configuration. Keys that `T` does not know are ignored.
    pub fn plugin_conf<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        parse_json("network configuration on stdin", &self.stdin)
    }

    /// The configuration as it came.
    pub fn stdin(&self) -> &[u8] {
        &self.stdin
    }
}

/// The version that a VERSION request names; such a request may have an empty stdin.
pub(crate) fn requested_version(stdin: &[u8]) -> Result<Option<String>, CniError> {
    #[derive(Deserialize)]
    struct Request {
        #[serde(rename = "cniVersion")]
        cni_version: Option<String>,
    }
    if stdin.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let request: Request = parse_json("VERSION request on stdin", stdin)?;
    Ok(request.cni_version)
}

/// What a process was started for.
#[derive(Debug)]
pub enum Received {
    /// VERSION, with the version that the request names.
    Version(Option<String>),
    /// Everything else.
    Call(Box<Call>),
}

impl Received {
    /// Reads environment and stdin of this process.
    pub fn from_process() -> Result<Self, CniError> {
        let env = Env::from_process()?;
        Self::read(env, &mut io::stdin().lock())
    }

    /// Reads stdin for a given environment.
    pub fn read(env: Env, stdin: &mut dyn Read) -> Result<Self, CniError> {
        let text = read_bounded(stdin, STDIN_LIMIT)?;
        if env.command == Command::Version {
            return requested_version(&text).map(Self::Version);
        }
        Call::new(env, text).map(|call| Self::Call(Box::new(call)))
    }
}

/// Reads to the end, but refuses more than `limit` bytes without reading on.
pub fn read_bounded(source: &mut dyn Read, limit: usize) -> Result<Vec<u8>, CniError> {
    let mut text = Vec::with_capacity(4096);
    let read = source.take(limit as u64 + 1).read_to_end(&mut text);
    read.map_err(|error| {
        CniError::new(code::IO_FAILURE, format!("reading the network configuration from stdin: {error}"))
    })?;
    if text.len() > limit {
        let msg = format!("network configuration on stdin is longer than {limit} bytes");
        return Err(CniError::new(code::DECODE_FAILURE, msg));
    }
    Ok(text)
}
