//! The plugin's part of the network configuration: the `ipam` object.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use wire::agent::DEFAULT_SOCKET;
use wire::cni::{Call, CniError, code};

use super::log::Level;

/// The log file unless configured otherwise.
const DEFAULT_LOG: &str = "/var/log/spidernet/spiderpool.log";
/// Megabytes after which the log file is set aside.
const DEFAULT_LOG_SIZE: u64 = 100;

/// Upstream's value; runtimes give a pod about two minutes.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(100);

#[derive(Debug, Default, Deserialize)]
struct Conf {
    #[serde(default)]
    ipam: Option<RawIpam>,
}

/// The keys as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawIpam {
    log_level: Option<String>,
    log_file_path: Option<PathBuf>,
    #[serde(deserialize_with = "number_or_text")]
    log_file_max_size: Option<u64>,
    #[serde(deserialize_with = "number_or_text")]
    log_file_max_count: Option<u64>,
    /// Accepted and without effect: files are set aside by size.
    #[serde(rename = "log_file_max_age", deserialize_with = "number_or_text")]
    _log_file_max_age: Option<u64>,
    default_ipv4_ippool: Option<Vec<String>>,
    default_ipv6_ippool: Option<Vec<String>>,
    clean_gateway: Option<bool>,
    match_master_subnet: Option<bool>,
    ipam_unix_socket_path: Option<PathBuf>,
    /// Our own.
    #[serde(deserialize_with = "number_or_text")]
    agent_timeout_seconds: Option<u64>,
}

/// What the plugin believes.
#[derive(Debug)]
pub(super) struct Config {
    pub socket: PathBuf,
    /// Longest wait for the agent in ADD.
    pub patience: Duration,
    pub ipv4_pools: Option<Vec<String>>,
    pub ipv6_pools: Option<Vec<String>>,
    pub clean_gateway: bool,
    pub match_master_subnet: bool,
    pub log_level: Level,
    pub log_path: PathBuf,
    /// Bytes after which the log file is set aside.
    pub log_size: u64,
    /// Files that are kept aside.
    pub log_count: u64,
}

impl Config {
    pub fn of(call: &Call) -> Result<Self, CniError> {
        let raw =
            raw(call)?.ok_or_else(|| CniError::new(code::INVALID_CONFIG, "network configuration: ipam is missing"))?;
        let level = match raw.log_level.as_deref().filter(|text| !text.is_empty()) {
            None => Level::Debug,
            Some(text) => Level::parse(text).ok_or_else(|| {
                let msg = format!(
                    "network configuration: ipam.log_level {text:?} is none of debug, info, warn, error, fatal, panic"
                );
                CniError::new(code::INVALID_CONFIG, msg)
            })?,
        };
        Ok(Self::from_raw(raw, level))
    }

    /// For DEL: of a configuration that ADD refuses, the socket is all that matters.
    pub fn lenient(call: &Call) -> Result<Self, CniError> {
        let raw = match raw(call) {
            Ok(raw) => raw.unwrap_or_default(),
            Err(_) => essentials(&call.plugin_conf()?),
        };
        let level = raw.log_level.as_deref().and_then(Level::parse).unwrap_or(Level::Debug);
        Ok(Self::from_raw(raw, level))
    }

    fn from_raw(raw: RawIpam, log_level: Level) -> Self {
        let path = |given: Option<PathBuf>, default: &str| {
            given.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| default.into())
        };
        let megabytes = raw.log_file_max_size.filter(|size| *size > 0).unwrap_or(DEFAULT_LOG_SIZE);
        Self {
            patience: raw
                .agent_timeout_seconds
                .filter(|seconds| *seconds > 0)
                .map_or(DEFAULT_PATIENCE, Duration::from_secs),
            socket: path(raw.ipam_unix_socket_path, DEFAULT_SOCKET),
            ipv4_pools: raw.default_ipv4_ippool,
            ipv6_pools: raw.default_ipv6_ippool,
            clean_gateway: raw.clean_gateway.unwrap_or_default(),
            match_master_subnet: raw.match_master_subnet.unwrap_or_default(),
            log_level,
            log_path: path(raw.log_file_path, DEFAULT_LOG),
            log_size: megabytes.saturating_mul(1 << 20),
            log_count: raw.log_file_max_count.filter(|count| *count > 0).unwrap_or(u64::MAX),
        }
    }
}

/// What can be read of a configuration whose other keys are wrong.
fn essentials(conf: &serde_json::Value) -> RawIpam {
    let path = |key: &str| conf["ipam"][key].as_str().map(PathBuf::from);
    RawIpam {
        ipam_unix_socket_path: path("ipam_unix_socket_path"),
        log_file_path: path("log_file_path"),
        agent_timeout_seconds: conf["ipam"]["agent_timeout_seconds"].as_u64(),
        ..RawIpam::default()
    }
}

fn raw(call: &Call) -> Result<Option<RawIpam>, CniError> {
    Ok(call.plugin_conf::<Conf>()?.ipam)
}

/// Upstream's documentation writes these numbers as text, its code wants numbers: both are fine here.
fn number_or_text<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Option::deserialize(source)? {
        None => Ok(None),
        Some(Either::Number(number)) => Ok(Some(number)),
        Some(Either::Text(text)) => {
            text.parse().map(Some).map_err(|_| serde::de::Error::custom(format!("{text:?} is not a number")))
        }
    }
}
