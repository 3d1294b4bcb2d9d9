//! The text of a pool's `status.allocatedIPs`, in upstream's form: `{"ADDRESS":{"pod":"NAMESPACE/NAME","podUid":"UID"}}`.
//!
//! For upstream this text *is* the allocation. It is read and changed only while a pool is taken over from upstream; entries that no
//! reader understands are kept as they are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who has an address, by upstream's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `namespace/name` of the pod; of a virtual machine instance for KubeVirt.
    pub pod: String,
    /// UID of the pod.
    #[serde(rename = "podUid")]
    pub uid: String,
}

impl Record {
    /// The record of a pod.
    pub fn new(namespace: &str, name: &str, uid: &str) -> Self {
        Self { pod: format!("{namespace}/{name}"), uid: uid.to_owned() }
    }

    /// Namespace and name of the pod.
    pub fn names(&self) -> Option<(&str, &str)> {
        self.pod.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    }
}

/// An entry that is no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The allocations that a pool's status tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    known: BTreeMap<IpAddr, Record>,
    broken: BTreeMap<String, (Value, String)>,
}

impl Records {
    /// Reads the text; absent or empty means that there is none.
    pub fn parse(text: Option<&str>) -> Result<Self, serde_json::Error> {
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(Self::default()) };
        let entries: Option<BTreeMap<String, Value>> = serde_json::from_str(text)?;
        let mut records = Self::default();
        for (key, value) in entries.into_iter().flatten() {
            match understood(&key, &value) {
                // Two spellings of one address: the second is kept beside, so that nothing is lost.
                Ok((address, _)) if records.known.contains_key(&address) => {
                    records.broken.insert(key, (value, format!("is {address} in another spelling")));
                }
                Ok((address, record)) => drop(records.known.insert(address, record)),
                Err(problem) => drop(records.broken.insert(key, (value, problem))),
            }
        }
        Ok(records)
    }

    /// The text of these allocations; `None` when there is none.
    pub fn text(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let known = self.known.iter().map(|(address, record)| {
            (address.to_string(), serde_json::json!({"pod": record.pod, "podUid": record.uid}))
        });
        let broken = self.broken.iter().map(|(key, (value, _))| (key.clone(), value.clone()));
        let all: BTreeMap<String, Value> = known.chain(broken).collect();
        Some(serde_json::to_string(&all).expect("JSON values have a text"))
    }

    /// Who has an address.
    pub fn get(&self, address: IpAddr) -> Option<&Record> {
        self.known.get(&address)
    }

    /// Books an address.
    pub fn insert(&mut self, address: IpAddr, record: Record) {
        self.known.insert(address, record);
    }

    /// Frees an address.
    pub fn remove(&mut self, address: IpAddr) -> Option<Record> {
        self.known.remove(&address)
    }

    /// All allocations.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Record)> {
        self.known.iter().map(|(address, record)| (*address, record))
    }

    /// The entries that are no allocation.
    pub fn broken(&self) -> impl Iterator<Item = Broken> {
        self.broken.iter().map(|(key, (_, problem))| Broken { key: key.clone(), problem: problem.clone() })
    }

    /// Whether an entry that is no allocation names the address: who has it is not known.
    pub fn is_barred(&self, address: IpAddr) -> bool {
        self.barred().any(|barred| barred == address)
    }

    fn barred(&self) -> impl Iterator<Item = IpAddr> {
        self.broken.keys().filter_map(|key| key.parse().ok()).filter(|address| !self.known.contains_key(address))
    }

    /// The addresses that somebody else than this pod has.
    pub fn not_of(&self, uid: &str) -> impl Iterator<Item = IpAddr> {
        let others = self.known.iter().filter(move |(_, record)| record.uid != uid).map(|(address, _)| *address);
        others.chain(self.barred())
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.known.len() + self.broken.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn understood(key: &str, value: &Value) -> Result<(IpAddr, Record), String> {
    let address = key.parse().map_err(|_| "is not an IP address".to_owned())?;
    let record = Record::deserialize(value).map_err(|error| format!("has no pod and podUid: {error}"))?;
    if record.names().is_none() {
        return Err(format!("pod {:?} is not namespace/name", record.pod));
    }
    if record.uid.is_empty() {
        return Err("podUid is empty".to_owned());
    }
    Ok((address, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_text_is_read_and_written() {
        let text = r#"{"10.1.0.2":{"pod":"ns1/web-0","podUid":"u1"},"fd00::2":{"pod":"ns1/web-0","podUid":"u1"}}"#;
        let records = Records::parse(Some(text)).unwrap();
        assert_eq!(records.get("fd00::2".parse().unwrap()), Some(&Record::new("ns1", "web-0", "u1")));
        assert_eq!(records.text().as_deref(), Some(text));
        for empty in [None, Some(""), Some("{}"), Some("null")] {
            assert_eq!(Records::parse(empty).unwrap().text(), None, "{empty:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_and_kept() {
        let text = r#"{"10.1.0.2":{"pod":"ns1/a","podUid":"u"},"10.1.0.3":{"pod":"a","podUid":"u"},"10.1.0.4":{"pod":"ns1/a","podUid":""},"10.1.0.5":7,"FD00::1":{"pod":"ns1/b","podUid":"v"},"eth0":{"pod":"ns1/a","podUid":"u"},"fd00::1":{"pod":"ns1/a","podUid":"u"}}"#;
        let mut records = Records::parse(Some(text)).unwrap();
        let broken: Vec<String> = records.broken().map(|broken| format!("{} {}", broken.key, broken.problem)).collect();
        assert_eq!(
            broken,
            [
                "10.1.0.3 pod \"a\" is not namespace/name",
                "10.1.0.4 podUid is empty",
                "10.1.0.5 has no pod and podUid: invalid type: integer `7`, expected struct Record",
                "eth0 is not an IP address",
                "fd00::1 is fd00::1 in another spelling",
            ]
        );
        assert_eq!((records.iter().count(), records.len()), (2, 7));
        records.remove("10.1.0.2".parse().unwrap());
        let kept = records.text().unwrap();
        assert!(kept.contains(r#""10.1.0.5":7"#) && !kept.contains("10.1.0.2"), "{kept}");
        assert!(Records::parse(Some("{\"10.1.0.2\":")).is_err());
    }
}
