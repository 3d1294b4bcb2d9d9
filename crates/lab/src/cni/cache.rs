//! The results of ADD, kept for CHECK and DEL as libcni does (`cacheKind: cniCacheV1`).

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Attachment, CniError, NetworkList};

/// The directory of results.
pub(super) struct Cache {
    pub(super) dir: PathBuf,
}

impl Cache {
    fn file(&self, list: &NetworkList, attachment: &Attachment) -> PathBuf {
        self.dir.join(format!("{}-{}-{}", list.name, attachment.container_id, attachment.ifname))
    }

    pub(super) fn store(&self, list: &NetworkList, attachment: &Attachment, result: &Value) -> Result<(), CniError> {
        let args: Vec<_> = attachment.args.iter().map(|(key, value)| json!([key, value])).collect();
        let entry = json!({
            "kind": "cniCacheV1",
            "containerId": attachment.container_id,
            "ifName": attachment.ifname,
            "networkName": list.name,
            "netns": attachment.netns,
            "cniArgs": args,
            "capabilityArgs": attachment.capabilities,
            "result": result,
        });
        let file = self.file(list, attachment);
        let written = fs::create_dir_all(&self.dir).and_then(|()| fs::write(&file, entry.to_string()));
        written.map_err(|source| CniError::Cache { file, source })
    }

    pub(super) fn load(&self, list: &NetworkList, attachment: &Attachment) -> Option<Value> {
        let text = fs::read(self.file(list, attachment)).ok()?;
        let entry: Value = serde_json::from_slice(&text).ok()?;
        entry.get("result").filter(|result| result.is_object()).cloned()
    }

    pub(super) fn forget(&self, list: &NetworkList, attachment: &Attachment) {
        let _ = fs::remove_file(self.file(list, attachment));
    }
}
