//! One call of one plugin, with the error texts of libcni (users know them from the events of their pods).

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;

use super::Attachment;

/// What went wrong on the way to a result.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The directory has no configuration.
    #[error("no networks found in {}", .dir.display())]
    NoNetwork {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The first configuration cannot be used.
    #[error("network configuration {}: {reason}", .file.display())]
    BadNetwork {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no such program.
    #[error("failed to find plugin \"{kind}\" in path [{}]", .dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" "))]
    NoPlugin {
        /// Its type.
        kind: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// The plugin could not be run.
    #[error("plugin type=\"{kind}\" name=\"{network}\" cannot be run: {source}")]
    Run {
        /// The plugin's type.
        kind: String,
        /// The network's name.
        network: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The plugin said no.
    #[error("plugin type=\"{kind}\" name=\"{network}\" failed ({command}): {message}")]
    Refused {
        /// The plugin's type.
        kind: String,
        /// The network's name.
        network: String,
        /// `add`, `check`, `delete`, ...
        command: &'static str,
        /// Its message and details.
        message: String,
    },
    /// The result could not be kept.
    #[error("cannot keep the result in {}: {source}", .file.display())]
    Cache {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The verbs of the specification.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
}

impl Command {
    fn verb(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    /// As libcni's messages spell it.
    fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Check => "check",
            Self::Del => "delete",
            Self::Gc => "gc",
            Self::Status => "status",
        }
    }
}

/// A call that is ready to be made.
pub(super) struct Call<'a> {
    pub(super) command: Command,
    pub(super) program: PathBuf,
    pub(super) bin_dirs: &'a [PathBuf],
    pub(super) network: &'a str,
    pub(super) kind: &'a str,
    pub(super) attachment: Option<&'a Attachment>,
    pub(super) stdin: Map<String, Value>,
}

impl Call<'_> {
    /// Makes the call and reads its result.
    pub(super) async fn result(&self) -> Result<Value, CniError> {
        let stdout = self.run().await?;
        serde_json::from_slice(&stdout).map_err(|error| self.refused(format!("cannot read the result: {error}")))
    }

    /// Makes the call; what it prints does not matter.
    pub(super) async fn done(&self) -> Result<(), CniError> {
        self.run().await.map(drop)
    }

    async fn run(&self) -> Result<Vec<u8>, CniError> {
        let failed = |source| CniError::Run { kind: self.kind.to_owned(), network: self.network.to_owned(), source };
        let mut process = tokio::process::Command::new(&self.program);
        let path: Vec<_> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        process.env("CNI_COMMAND", self.command.verb()).env("CNI_PATH", path.join(":"));
        if let Some(attachment) = self.attachment {
            process.env("CNI_CONTAINERID", &attachment.container_id).env("CNI_NETNS", &attachment.netns);
            process.env("CNI_IFNAME", &attachment.ifname).env("CNI_ARGS", attachment.args_text());
        }
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().map_err(failed)?;
        let mut stdin = child.stdin.take().expect("stdin was piped above");
        let text = serde_json::to_vec(&self.stdin).expect("JSON values can be written");
        let write = async move {
            // A plugin may end without reading everything.
            let _ = stdin.write_all(&text).await;
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output.map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.refused(message(&output.stdout, &output.stderr)))
    }

    fn refused(&self, message: String) -> CniError {
        CniError::Refused {
            kind: self.kind.to_owned(),
            network: self.network.to_owned(),
            command: self.command.word(),
            message,
        }
    }
}

/// What libcni makes of a plugin's last words.
fn message(stdout: &[u8], stderr: &[u8]) -> String {
    if stdout.is_empty() {
        let stderr = String::from_utf8_lossy(stderr);
        return if stderr.is_empty() {
            "netplugin failed with no error message".into()
        } else {
            format!("netplugin failed: {:?}", stderr.trim_end())
        };
    }
    let Ok(error) = serde_json::from_slice::<Value>(stdout) else {
        return format!(
            "netplugin failed but error parsing its diagnostic message {:?}",
            String::from_utf8_lossy(stdout)
        );
    };
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("msg"), text("details")) {
        (msg, "") => msg.to_owned(),
        (msg, details) => format!("{msg}; {details}"),
    }
}
