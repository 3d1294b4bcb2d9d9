//! What a container runtime does with CNI, step by step as containerd does it through libcni 1.2 (`containernetworking/cni`):
//! the first configuration of a directory, one plugin after the other with `prevResult`, runtime arguments, the result cache.
//!
//! Guarantees: ADD stops at the first plugin that fails and does not clean up (that is the caller's DEL, as in containerd); DEL runs the
//! plugins backwards with the cached result and forgets it only when all succeeded.

mod cache;
mod exec;
mod list;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

pub use exec::CniError;
pub use list::NetworkList;

use cache::Cache;
use exec::{Call, Command};

/// Where a runtime finds configurations and plugins, and keeps results.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Usually `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Usually `/opt/cni/bin`.
    pub bin_dirs: Vec<PathBuf>,
    /// Usually `/var/lib/cni`; results are kept below it.
    pub cache_dir: PathBuf,
}

/// One attachment of one container.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The container's (sandbox's) id.
    pub container_id: String,
    /// File of its network namespace.
    pub netns: String,
    /// Name of the interface to make.
    pub ifname: String,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// Capability arguments; a plugin gets those that its configuration asks for.
    pub capabilities: Map<String, Value>,
}

impl Attachment {
    fn args_text(&self) -> String {
        self.args.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
    }
}

impl Runtime {
    /// The configuration in force: the first of the directory, by name.
    pub fn network(&self) -> Result<NetworkList, CniError> {
        list::first_of(&self.conf_dir)
    }

    /// Runs ADD of every plugin; returns the last one's result.
    pub async fn add(&self, list: &NetworkList, attachment: &Attachment) -> Result<Value, CniError> {
        let mut previous = None;
        for plugin in &list.plugins {
            let stdin = list.config(plugin, previous.as_ref(), &attachment.capabilities);
            let call = self.call(Command::Add, list, plugin, Some(attachment), stdin)?;
            previous = Some(call.result().await?);
        }
        let result = previous.unwrap_or(Value::Null);
        self.cache().store(list, attachment, &result)?;
        Ok(result)
    }

    /// Runs CHECK of every plugin against the cached result.
    pub async fn check(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), CniError> {
        if list.disable_check || !list.at_least((0, 4, 0)) {
            return Ok(());
        }
        let previous = self.cache().load(list, attachment);
        for plugin in &list.plugins {
            let stdin = list.config(plugin, previous.as_ref(), &attachment.capabilities);
            self.call(Command::Check, list, plugin, Some(attachment), stdin)?.done().await?;
        }
        Ok(())
    }

    /// Runs DEL of every plugin, last first.
    pub async fn del(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), CniError> {
        let previous = if list.at_least((0, 4, 0)) { self.cache().load(list, attachment) } else { None };
        for plugin in list.plugins.iter().rev() {
            let stdin = list.config(plugin, previous.as_ref(), &attachment.capabilities);
            self.call(Command::Del, list, plugin, Some(attachment), stdin)?.done().await?;
        }
        self.cache().forget(list, attachment);
        Ok(())
    }

    /// Tells every plugin which attachments are still in use (CNI 1.1.0; older configurations: nothing to do).
    pub async fn gc(&self, list: &NetworkList, valid: &[(String, String)]) -> Result<(), CniError> {
        if list.disable_gc || !list.at_least((1, 1, 0)) {
            return Ok(());
        }
        let valid: Vec<Value> = valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
        for plugin in &list.plugins {
            let mut stdin = list.config(plugin, None, &Map::new());
            stdin.insert("cni.dev/valid-attachments".into(), valid.clone().into());
            self.call(Command::Gc, list, plugin, None, stdin)?.done().await?;
        }
        Ok(())
    }

    /// Asks every plugin whether it can serve ADD (CNI 1.1.0; older configurations: always).
    pub async fn status(&self, list: &NetworkList) -> Result<(), CniError> {
        if !list.at_least((1, 1, 0)) {
            return Ok(());
        }
        for plugin in &list.plugins {
            let stdin = list.config(plugin, None, &Map::new());
            self.call(Command::Status, list, plugin, None, stdin)?.done().await?;
        }
        Ok(())
    }

    fn cache(&self) -> Cache {
        Cache { dir: self.cache_dir.join("results") }
    }

    fn call<'a>(
        &'a self,
        command: Command,
        list: &'a NetworkList,
        plugin: &'a Map<String, Value>,
        attachment: Option<&'a Attachment>,
        stdin: Map<String, Value>,
    ) -> Result<Call<'a>, CniError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let program = self.bin_dirs.iter().map(|dir| dir.join(kind)).find(|path| path.is_file());
        let program =
            program.ok_or_else(|| CniError::NoPlugin { kind: kind.to_owned(), dirs: self.bin_dirs.clone() })?;
        Ok(Call { command, program, bin_dirs: &self.bin_dirs, network: &list.name, kind, attachment, stdin })
    }
}

#[cfg(test)]
mod tests;
