//! Devices that the kubelet gave to the pod, for networks with a resource name (`k8s.v1.cni.cncf.io/resourceName`).
//!
//! They are read from the kubelet's checkpoint of its device manager: the same information as its gRPC service, without one.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;

const CHECKPOINT: &str = "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint";

#[derive(Deserialize)]
struct Checkpoint {
    #[serde(rename = "Data")]
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "PodDeviceEntries", default)]
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    #[serde(rename = "DeviceIDs")]
    ids: Ids,
}

/// Device IDs, by NUMA node since Kubernetes 1.20.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    ByNode(BTreeMap<String, Vec<String>>),
    Plain(Vec<String>),
}

/// The devices of one pod that were not used yet.
pub(super) struct Devices<'a> {
    pod_uid: &'a str,
    of_resource: Option<BTreeMap<String, Vec<String>>>,
}

impl<'a> Devices<'a> {
    /// Nothing is read before the first device is asked for.
    pub fn of_pod(pod_uid: &'a str) -> Self {
        Self { pod_uid, of_resource: None }
    }

    /// The next device of a resource, in the kubelet's order; none without resource, or when the kubelet knows none.
    pub fn next(&mut self, resource: &str) -> Option<String> {
        if resource.is_empty() {
            return None;
        }
        let read = || fs::read(CHECKPOINT).map(|text| parse(&text, self.pod_uid)).unwrap_or_default();
        let devices = self.of_resource.get_or_insert_with(read).get_mut(resource)?;
        (!devices.is_empty()).then(|| devices.remove(0))
    }
}

fn parse(text: &[u8], pod_uid: &str) -> BTreeMap<String, Vec<String>> {
    let mut devices: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Ok(checkpoint) = serde_json::from_slice::<Checkpoint>(text) else { return devices };
    let entries = checkpoint.data.entries.unwrap_or_default();
    for entry in entries.into_iter().filter(|entry| entry.pod_uid == pod_uid) {
        let ids: Vec<String> = match entry.ids {
            Ids::ByNode(nodes) => nodes.into_values().flatten().collect(),
            Ids::Plain(ids) => ids,
        };
        devices.entry(entry.resource).or_default().extend(ids);
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_the_pod_are_handed_out_in_order() {
        let text = br#"{"Data":{"PodDeviceEntries":[
            {"PodUID":"u1","ContainerName":"c","ResourceName":"x.io/vf","DeviceIDs":{"-1":["0000:03:02.0","0000:03:02.1"]},"AllocResp":""},
            {"PodUID":"u2","ContainerName":"c","ResourceName":"x.io/vf","DeviceIDs":{"0":["0000:03:09.0"]},"AllocResp":""},
            {"PodUID":"u1","ContainerName":"d","ResourceName":"y.io/nic","DeviceIDs":["eth7"],"AllocResp":""}],
            "RegisteredDevices":{}},"Checksum":1}"#;
        let mut devices = Devices { pod_uid: "u1", of_resource: Some(parse(text, "u1")) };
        assert_eq!(devices.next("x.io/vf").as_deref(), Some("0000:03:02.0"));
        assert_eq!(devices.next("x.io/vf").as_deref(), Some("0000:03:02.1"));
        assert_eq!(devices.next("x.io/vf"), None);
        assert_eq!(devices.next("y.io/nic").as_deref(), Some("eth7"));
        assert_eq!(devices.next(""), None);
        assert!(parse(b"{", "u1").is_empty());
    }
}
