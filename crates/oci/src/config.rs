//! What a runtime is told about an image.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What an image runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Platform {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Platform {
    /// The name of the architecture in OCI (and Go) terms.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A command that tells whether a container is well, for engines that run it (Docker, Podman); Kubernetes uses probes of its own.
#[derive(Clone, Debug)]
pub struct Healthcheck {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Time between two runs.
    pub interval: Duration,
    /// Time for one run.
    pub timeout: Duration,
    /// Failures at the start that do not count.
    pub start_period: Duration,
    /// Failures in a row that count.
    pub retries: u32,
}

/// How a container of the image is started.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `uid:gid`; empty: root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and leading arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that are replaced by those of `docker run`.
    pub cmd: Vec<String>,
    /// Labels, `org.opencontainers.image.*` first of all.
    pub labels: BTreeMap<String, String>,
    /// Ports that may be of interest, `5710/tcp`.
    pub exposed_ports: Vec<String>,
    /// Health check for engines that have one.
    pub healthcheck: Option<Healthcheck>,
    /// When the sources were last changed, RFC 3339.
    pub created: Option<String>,
}

/// The configuration as the specification (and, for `Healthcheck`, Docker) spells it.
#[derive(Serialize)]
pub(crate) struct Wire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    architecture: &'static str,
    os: &'static str,
    config: WireConfig<'a>,
    rootfs: RootFs<'a>,
    history: Vec<History<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireConfig<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<&'a str, Empty>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    env: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    working_dir: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<WireHealthcheck>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireHealthcheck {
    test: Vec<String>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    retries: u32,
}

#[derive(Serialize)]
struct RootFs<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<&'a crate::Digest>,
}

#[derive(Serialize)]
struct History<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    created_by: &'a str,
}

impl Config {
    pub(crate) fn wire<'a>(&'a self, platform: Platform, layers: &'a [(String, crate::Blob)]) -> Wire<'a> {
        let created = self.created.as_deref();
        Wire {
            created,
            architecture: platform.architecture(),
            os: "linux",
            config: WireConfig {
                user: &self.user,
                exposed_ports: self.exposed_ports.iter().map(|port| (port.as_str(), Empty {})).collect(),
                env: &self.env,
                entrypoint: &self.entrypoint,
                cmd: &self.cmd,
                working_dir: "/",
                labels: &self.labels,
                healthcheck: self.healthcheck.as_ref().map(WireHealthcheck::of),
            },
            rootfs: RootFs { kind: "layers", diff_ids: layers.iter().map(|(_, blob)| &blob.diff_id).collect() },
            history: layers.iter().map(|(what, _)| History { created, created_by: what }).collect(),
        }
    }
}

impl WireHealthcheck {
    fn of(check: &Healthcheck) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let test = std::iter::once("CMD".to_owned()).chain(check.command.iter().cloned()).collect();
        Self {
            test,
            interval: nanoseconds(check.interval),
            timeout: nanoseconds(check.timeout),
            start_period: nanoseconds(check.start_period),
            retries: check.retries,
        }
    }
}
