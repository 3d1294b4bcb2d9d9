//! Whether the sandbox of a pod whose object is gone may still be there, and use its addresses, as after a forced deletion.
//!
//! | sign | what it proves |
//! |---|---|
//! | the pair that the coordinator makes | the sandbox's namespace is there; a pod without coordinator has none |
//! | an entry of the runtime, of Multus or of multinet in their caches | the runtime has not ended the sandbox yet |
//! | the machine was started after the claim was made | no sandbox of then is there any more; entries of caches survive and prove nothing |
//!
//! Where nothing proves anything a pod gets the time that its `DEL` may need (see [`crate::recover`]).

use crate::node::file::{self, FileError};
use ipam::claim::Stored;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use wire::spool::Spool;

/// File beside the release notes: the boot in which an agent was at work last, and what is known since its first start in it.
const BOOT: &str = "boot-id";

/// An address, and the container whose sandbox holds it.
type Held = (IpAddr, Option<String>);

/// Content of the file [`BOOT`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct Boot {
    boot: String,
    /// Addresses that are held by sandboxes of an earlier boot, with their containers. Those without one could be claimed again and would
    /// look the same.
    earlier: BTreeSet<(IpAddr, String)>,
}

impl Boot {
    /// What earlier versions wrote is the boot's ID alone.
    fn parse(text: &[u8]) -> Self {
        serde_json::from_slice(text).unwrap_or_else(|_| Self { boot: id(text), ..Self::default() })
    }

    fn has_earlier(&self, (address, container): &Held) -> bool {
        container.as_ref().is_some_and(|container| self.earlier.contains(&(*address, container.clone())))
    }
}

fn id(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().to_owned()
}

/// What is known of sandboxes.
#[derive(Debug, Default)]
pub struct Sandboxes {
    /// Usually `/var/lib/cni`.
    cni_dir: PathBuf,
    /// Addresses that are held by sandboxes of an earlier boot, with their containers.
    earlier: HashSet<Held>,
}

impl Sandboxes {
    /// To be called before the first ADD is answered, with the claims that were there before. `boot_id` is the kernel's file.
    pub fn begin(cni_dir: &Path, boot_id: &Path, spool: &Spool, claims: &[Stored]) -> Self {
        let earlier = earlier(boot_id, spool, claims).unwrap_or_else(|error| {
            let error = daemon::Chain(&error).to_string();
            tracing::warn!(dir = %spool.dir().display(), error, "it cannot be told whether the machine was started anew");
            // What an agent of an earlier boot wrote must not be taken for the last word.
            let _ = std::fs::remove_file(spool.dir().join(BOOT));
            HashSet::new()
        });
        Self { cni_dir: cni_dir.to_owned(), earlier }
    }

    /// Whether all of these are held by sandboxes of an earlier boot: none of them is there any more.
    pub fn are_of_earlier_boot(&self, claims: &[Stored]) -> bool {
        claims.iter().all(|stored| self.earlier.contains(&key(stored)))
    }

    /// What shows that a sandbox that holds one of these is there.
    pub fn sign(&self, claims: &[Stored]) -> Option<String> {
        let containers = |claims: &[Stored]| -> BTreeSet<String> {
            claims.iter().filter_map(|stored| stored.claim.pod()?.container.clone()).collect()
        };
        let pair = pair_of(&containers(claims));
        pair.or_else(|| {
            let claims: Vec<Stored> =
                claims.iter().filter(|stored| !self.earlier.contains(&key(stored))).cloned().collect();
            containers(&claims).iter().find_map(|container| entry_of(&self.cni_dir, container))
        })
    }
}

fn key(stored: &Stored) -> Held {
    (stored.claim.address, stored.claim.pod().and_then(|pod| pod.container.clone()))
}

/// What sandboxes of an earlier boot hold: everything, if the machine was started since an agent was at work last, else what the first
/// agent of this boot found and is still claimed. That an agent is at work, and what it found, is written down at once.
fn earlier(boot_id: &Path, spool: &Spool, claims: &[Stored]) -> Result<HashSet<Held>, FileError> {
    let Some(boot) = file::read(boot_id)?.map(|text| id(&text)).filter(|id| !id.is_empty()) else {
        return Ok(HashSet::new());
    };
    spool.create().map_err(file::failed("create folder", spool.dir()))?;
    let path = spool.dir().join(BOOT);
    let before = file::read(&path)?.map(|text| Boot::parse(&text));
    let is_earlier =
        |held: &Held| before.as_ref().is_some_and(|before| before.boot != boot || before.has_earlier(held));
    let found: HashSet<Held> = claims.iter().map(key).filter(is_earlier).collect();
    let known = found.iter().filter_map(|(address, container)| Some((*address, container.clone()?))).collect();
    let text = serde_json::to_vec(&Boot { boot, earlier: known });
    let text = text.map_err(std::io::Error::from).map_err(file::failed("write", &path))?;
    file::put(spool.dir(), BOOT, &text, 0o644)?;
    Ok(found)
}

fn pair_of(containers: &BTreeSet<String>) -> Option<String> {
    // A longer name is none of an interface.
    let pairs = containers.iter().map(|container| wire::cni::host_veth(container)).filter(|pair| pair.len() <= 15);
    let looked = net::Netlink::open().and_then(|mut netlink| {
        for pair in pairs {
            match netlink.link(&pair) {
                Ok(_) => return Ok(Some(format!("interface {pair}"))),
                Err(error) if error.not_there() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    });
    looked.unwrap_or_else(|error| Some(format!("the interfaces of the node cannot be read: {error}")))
}

/// The file that one of those keeps who attach a container and end it again: from before the first plugin of its ADD until after the last
/// one of its DEL (multinet, Multus), from the end of its ADD on (runtimes that use the CNI project's library).
fn entry_of(cni_dir: &Path, container: &str) -> Option<String> {
    let (head, middle) = (format!("{container}-"), format!("-{container}-"));
    let entry_in = |folder: &str, is_entry: &dyn Fn(&str) -> io::Result<bool>| {
        let folder = cni_dir.join(folder);
        match find(&folder, is_entry) {
            Ok(found) => found.map(|name| format!("file {}", folder.join(name).display())),
            Err(error) => Some(format!("{} cannot be read: {error}", folder.display())),
        }
    };
    let is_multinets = |name: &str| {
        let is_named = name.starts_with(&head) && name.ends_with(".json");
        Ok(is_named && is_record(&cni_dir.join("multinet").join(name))?)
    };
    entry_in("multinet", &is_multinets)
        .or_else(|| entry_in("multus", &|name| Ok(name == container)))
        .or_else(|| entry_in("results", &|name| Ok(name.contains(&middle))))
}

/// Whether a file of multinet says anything: one that the end of the machine cut short is of a sandbox that went with it.
fn is_record(path: &Path) -> io::Result<bool> {
    match std::fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn find(folder: &Path, is_meant: &dyn Fn(&str) -> io::Result<bool>) -> io::Result<Option<String>> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in files {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_meant(&name)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::claim::{Claim, Holder, PodHolder, State};

    fn claim(address: &str, container: &str) -> Stored {
        let pod = PodHolder {
            namespace: "ns".into(),
            name: "web".into(),
            uid: "u1".into(),
            container: Some(container.into()),
            interface: "eth0".into(),
            node: "n".into(),
        };
        let (pool, holder) = ("p".into(), Holder::Pod(pod));
        let claim = Claim { address: address.parse().unwrap(), pool, state: State::Allocated, holder, mac: None };
        Stored { claim, uid: "x".into(), version: "1".into() }
    }

    #[test]
    fn an_entry_of_a_cache_is_that_of_its_container_only() {
        for (file, content, expected) in [
            ("multinet/c1-eth0.json", "{}", true),
            ("multinet/c1-eth0.json", "", false), // cut short by the end of the machine
            ("multinet/c1-eth0.json", "{\"network\":\"a", false),
            ("multinet/c1-eth0.lock", "", false),
            ("multinet/c11-eth0.json", "{}", false),
            ("multus/c1", "", true),
            ("multus/c11", "", false),
            ("results/net-a-c1-eth0", "", true),
            ("results/net-a-c11-eth0", "", false),
            ("results/net-c1", "", false),
            ("elsewhere/c1-eth0.json", "{}", false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            assert_eq!(entry_of(dir.path(), "c1").is_some(), expected, "{file} {content}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("results"), "no folder").unwrap();
        assert!(entry_of(dir.path(), "c1").is_some(), "what cannot be read is no proof of the end");
    }

    #[test]
    fn sandboxes_of_an_earlier_boot_are_gone_and_their_entries_prove_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (boot_id, cni) = (dir.path().join("boot_id"), dir.path().join("cni"));
        std::fs::create_dir_all(cni.join("multus")).unwrap();
        std::fs::write(cni.join("multus/c1"), "").unwrap();
        let spool = Spool::below(dir.path(), Path::new("/run/a.sock"));
        let (old, next) = ([claim("10.0.0.1", "c1")], [claim("10.0.0.1", "c2")]);
        let begin = || Sandboxes::begin(&cni, &boot_id, &spool, &old);
        let unknown = begin();
        assert!(!unknown.are_of_earlier_boot(&old), "a kernel that does not tell");
        for (boot, rebooted) in [("a", false), ("a", false), ("b", true), ("b", true)] {
            std::fs::write(&boot_id, boot).unwrap();
            let sandboxes = begin();
            assert_eq!(sandboxes.are_of_earlier_boot(&old), rebooted, "{boot}");
            assert_eq!(sandboxes.sign(&old).is_none(), rebooted, "{boot}");
            assert!(!sandboxes.are_of_earlier_boot(&next), "a sandbox that took the address over since");
        }
        // What is not claimed any more is forgotten.
        let written = || std::fs::read_to_string(spool.dir().join(BOOT)).unwrap();
        assert_eq!(written(), r#"{"boot":"b","earlier":[["10.0.0.1","c1"]]}"#);
        assert!(!Sandboxes::begin(&cni, &boot_id, &spool, &next).are_of_earlier_boot(&next));
        assert_eq!(written(), r#"{"boot":"b","earlier":[]}"#);
        // The file of earlier versions, whose content is the kernel's.
        for (before, rebooted) in [("b\n", false), ("a\n", true)] {
            std::fs::write(&boot_id, "b\n").unwrap();
            std::fs::write(spool.dir().join(BOOT), before).unwrap();
            assert_eq!(begin().are_of_earlier_boot(&old), rebooted, "{before}");
        }
        assert!(spool.notes().unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_written_down_is_no_proof() {
        let dir = tempfile::tempdir().unwrap();
        let boot_id = dir.path().join("boot_id");
        let spool = Spool::below(dir.path(), Path::new("/run/a.sock"));
        std::fs::write(&boot_id, "a").unwrap();
        let begin = || Sandboxes::begin(dir.path(), &boot_id, &spool, &[claim("10.0.0.1", "c1")]);
        begin();
        std::fs::write(&boot_id, "b").unwrap();
        std::fs::remove_file(spool.dir().join(BOOT)).unwrap();
        std::fs::create_dir(spool.dir().join(BOOT)).unwrap();
        assert!(!begin().are_of_earlier_boot(&[claim("10.0.0.1", "c1")]));
    }
}
