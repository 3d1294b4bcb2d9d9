//! The environment of a call: `CNI_COMMAND`, `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME`, `CNI_ARGS`, `CNI_PATH`.

use std::fmt;
use std::path::PathBuf;

use super::args::Args;
use super::error::{CniError, code};
use super::version::SpecVersion;

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// The text of `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The oldest protocol version that has this command.
    pub fn since(self) -> SpecVersion {
        match self {
            Self::Add | Self::Del | Self::Version => SpecVersion::V0_3_0,
            Self::Check => SpecVersion::V0_4_0,
            Self::Gc | Self::Status => SpecVersion::V1_1_0,
        }
    }

    fn names_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The environment of one call, checked as far as its command needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    pub command: Command,
    /// Set and well formed for ADD, DEL and CHECK, else as given.
    pub container_id: String,
    /// Always set for ADD and CHECK. DEL must work without.
    pub netns: Option<PathBuf>,
    /// Set and well formed for ADD, DEL and CHECK, else as given.
    pub ifname: String,
    pub args: Args,
    /// The folders of `CNI_PATH`, where delegated plugins are looked for.
    pub path: Vec<PathBuf>,
}

impl Env {
    /// Reads the environment of this process.
    pub fn from_process() -> Result<Self, CniError> {
        Self::from_lookup(|key| std::env::var(key).ok())
    }

    /// Reads an environment given as a function from name to value.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let value = |key: &str| lookup(key).unwrap_or_default();
        let command = command(&value("CNI_COMMAND"))?;
        let env = Self {
            command,
            container_id: value("CNI_CONTAINERID"),
            netns: Some(value("CNI_NETNS")).filter(|path| !path.is_empty()).map(PathBuf::from),
            ifname: value("CNI_IFNAME"),
            args: if command.names_attachment() { Args::parse(&value("CNI_ARGS"))? } else { Args::default() },
            path: std::env::split_paths(&value("CNI_PATH")).filter(|path| !path.as_os_str().is_empty()).collect(),
        };
        if command.names_attachment() {
            env.check_attachment()?;
        }
        Ok(env)
    }

    fn check_attachment(&self) -> Result<(), CniError> {
        check_container_id(&self.container_id).map_err(|why| invalid(format!("CNI_CONTAINERID {why}")))?;
        check_ifname(&self.ifname).map_err(|why| invalid(format!("CNI_IFNAME {why}")))?;
        if self.netns.is_none() && self.command != Command::Del {
            return Err(invalid(format!("CNI_NETNS is required for {}, but missing or empty", self.command)));
        }
        Ok(())
    }
}

fn command(text: &str) -> Result<Command, CniError> {
    if text.is_empty() {
        return Err(invalid("CNI_COMMAND is missing or empty".to_owned()));
    }
    let known = Command::ALL.into_iter().find(|command| command.as_str() == text);
    known.ok_or_else(|| invalid(format!("CNI_COMMAND {text:?} is none of ADD, DEL, CHECK, GC, STATUS, VERSION")))
}

/// A container ID is a letter or digit, followed by letters, digits, `_`, `.` and `-` (CNI specification, "Parameters").
fn check_container_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("is missing or empty".to_owned());
    }
    let first = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if first && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        return Ok(());
    }
    Err(format!("{id:?} may only have letters, digits, '_', '.' and '-' and must begin with a letter or digit"))
}

/// What the kernel takes as an interface name.
fn check_ifname(name: &str) -> Result<(), String> {
    match name {
        "" => Err("is missing or empty".to_owned()),
        "." | ".." => Err(format!("{name:?} is no interface name")),
        _ if name.len() > 15 => Err(format!("{name:?} is longer than 15 bytes")),
        _ if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => {
            Err(format!("{name:?} has '/', ':' or blanks"))
        }
        _ => Ok(()),
    }
}

fn invalid(msg: String) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Result<Env, CniError> {
        Env::from_lookup(|key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn an_add_is_read_whole() {
        let add = env(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "0123abc"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "net1"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ])
        .unwrap();
        assert_eq!(add.netns, Some(PathBuf::from("/run/netns/x")));
        assert_eq!(add.path, [PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")]);
    }

    #[test]
    fn del_needs_no_namespace_and_version_needs_nothing() {
        assert_eq!(
            env(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")]).unwrap().netns,
            None
        );
        assert_eq!(env(&[("CNI_COMMAND", "VERSION")]).unwrap().command, Command::Version);
    }

    #[test]
    fn a_bad_environment_names_the_variable() {
        let rows: [(&[(&str, &str)], &str); 7] = [
            (&[], "CNI_COMMAND is missing"),
            (&[("CNI_COMMAND", "add")], "CNI_COMMAND \"add\""),
            (&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")], "CNI_CONTAINERID is missing"),
            (
                &[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "../x"), ("CNI_IFNAME", "eth0")],
                "CNI_CONTAINERID \"../x\"",
            ),
            (
                &[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")],
                "CNI_NETNS is required for ADD",
            ),
            (
                &[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "an-interface-0123")],
                "longer than 15",
            ),
            (&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "a/b")], "CNI_IFNAME \"a/b\""),
        ];
        for (pairs, expected) in rows {
            let error = env(pairs).unwrap_err();
            assert!(error.msg.contains(expected), "{pairs:?}: {error}");
            assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        }
    }
}
