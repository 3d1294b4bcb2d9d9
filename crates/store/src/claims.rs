//! `SpiderIP` objects: the claims. Creating one is the allocation.

use crate::failure::{Failure, bounded};
use ipam::claim::{Claim, Holder, PodHolder, State, Stored};
use ipam::{SpanSet, address_from_name, address_name};
use k8s_api::ip::{Holder as ApiHolder, IpState, NodeHolder, PodHolder as ApiPodHolder};
use k8s_api::{SpiderIP, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::{ObjectList, PartialObjectMeta};
use kube::{Api, Client, ResourceExt};
use std::collections::HashMap;
use std::net::IpAddr;

/// Objects per page of a list.
const PAGE: u32 = 500;

/// Reads and writes claims.
#[derive(Clone, Debug)]
pub struct Claims {
    api: Api<SpiderIP>,
}

impl Claims {
    /// Claims behind this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    /// Claims an address. [`Failure::AlreadyExists`]: somebody has it.
    pub async fn create(&self, claim: &Claim) -> Result<Stored, Failure> {
        let object = to_object(claim)?;
        stored(bounded(self.api.create(&PostParams::default(), &object)).await?)
    }

    /// Replaces a claim if it is still this object in this version.
    pub async fn update(&self, claim: &Claim, uid: &str, version: &str) -> Result<Stored, Failure> {
        let mut object = to_object(claim)?;
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        let name = address_name(claim.address);
        stored(bounded(self.api.replace(&name, &PostParams::default(), &object)).await?)
    }

    /// Frees an address if its claim is still this object in this version.
    pub async fn delete(&self, address: IpAddr, uid: &str, version: &str) -> Result<(), Failure> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: Some(version.to_owned()) };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        bounded(self.api.delete(&address_name(address), &params)).await.map(drop)
    }

    /// The claim of an address, not from a cache.
    pub async fn read(&self, address: IpAddr) -> Result<Stored, Failure> {
        stored(bounded(self.api.get(&address_name(address))).await?)
    }

    /// Addresses in use of a pool, in any state and by anybody.
    ///
    /// `fresh` reads a consistent state; otherwise the API server answers from its cache, which costs it little and is a hint.
    /// Only metadata is transferred: the name tells the address.
    pub async fn used(&self, pool: &str, fresh: bool) -> Result<SpanSet, Failure> {
        let selector = format!("{}={}", labels::IP_POOL, labels::value(pool));
        let mut used = Vec::new();
        let mut params = ListParams::default().labels(&selector);
        // A list from the cache comes in one piece: API servers of old ignore the limit, and paging would leave the cache.
        params = if fresh { params.limit(PAGE) } else { params.match_any() };
        loop {
            let page: ObjectList<PartialObjectMeta<SpiderIP>> = bounded(self.api.list_metadata(&params)).await?;
            let addresses = page.items.iter().filter_map(|object| address_from_name(&object.name_any()));
            used.extend(addresses.map(ipam::Span::single));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(used.into_iter().collect()),
            }
        }
    }

    /// The UIDs of the pods that hold these addresses, consistent.
    pub async fn holders(&self, addresses: &SpanSet) -> Result<HashMap<IpAddr, String>, Failure> {
        let mut holders = HashMap::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = bounded(self.api.list(&params)).await?;
            for object in page.items {
                let address = object.address().filter(|address| addresses.contains(*address));
                holders.extend(address.and_then(|address| Some((address, object.spec.holder.pod()?.uid.clone()))));
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(holders),
            }
        }
    }

    /// The claims of a node, consistent. Objects that no reader of this version understands are left out and logged.
    pub async fn of_node(&self, node: &str) -> Result<Vec<Stored>, Failure> {
        let selector = format!("{}={}", labels::IP_NODE, labels::value(node));
        let mut claims = Vec::new();
        let mut params = ListParams::default().labels(&selector).limit(PAGE);
        loop {
            let page = bounded(self.api.list(&params)).await?;
            for object in page.items {
                // A shortened label may stand for two nodes.
                let name = object.name_any();
                if object.spec.holder.node() != Some(node) {
                    continue;
                }
                match stored(object) {
                    Ok(claim) => claims.push(claim),
                    Err(error) => tracing::warn!(spiderip = %name, %error, "claim is not understood and left alone"),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(claims),
            }
        }
    }
}

fn to_object(claim: &Claim) -> Result<SpiderIP, Failure> {
    let state = match claim.state {
        State::Allocated => IpState::Allocated,
        State::Held => IpState::Held,
        State::Cooling => IpState::Cooling,
        State::Conflict => IpState::Conflict,
    };
    let holder = match &claim.holder {
        Holder::Pod(pod) => ApiHolder::Pod(ApiPodHolder {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            container_id: pod.container.clone(),
            interface: pod.interface.clone(),
            node: pod.node.clone(),
        }),
        Holder::Node(name) => ApiHolder::Node(NodeHolder { name: name.clone() }),
        Holder::Nobody => {
            return Err(Failure::Refused(format!(
                "SpiderIP {}: a claim without holder cannot be stored",
                claim.address
            )));
        }
    };
    let since = Time(Timestamp::now());
    let mut object = SpiderIP::claim(&address_name(claim.address), claim.address, &claim.pool, state, holder, since);
    object.spec.mac.clone_from(&claim.mac);
    Ok(object)
}

fn stored(object: SpiderIP) -> Result<Stored, Failure> {
    let name = object.name_any();
    let wrong = |what: String| Failure::Refused(format!("SpiderIP {name}: {what}"));
    let address = object.address().ok_or_else(|| wrong(format!("address {:?}", object.spec.address)))?;
    let state = match object.spec.state {
        IpState::Allocated => State::Allocated,
        IpState::Held => State::Held,
        IpState::Cooling => State::Cooling,
        IpState::Conflict => State::Conflict,
        IpState::Unknown => return Err(wrong("a state of a later version".to_owned())),
    };
    let holder = match object.spec.holder {
        ApiHolder::Pod(pod) => Holder::Pod(PodHolder {
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
            container: pod.container_id,
            interface: pod.interface,
            node: pod.node,
        }),
        ApiHolder::Node(node) => Holder::Node(node.name),
        ApiHolder::Other => return Err(wrong("a holder of a later version".to_owned())),
    };
    let claim = Claim { address, pool: object.spec.pool, state, holder, mac: object.spec.mac };
    let uid = object.metadata.uid.ok_or_else(|| wrong("no UID".to_owned()))?;
    let version = object.metadata.resource_version.ok_or_else(|| wrong("no resourceVersion".to_owned()))?;
    Ok(Stored { claim, uid, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(address: &str) -> Claim {
        let pod = PodHolder {
            namespace: "ns1".into(),
            name: "web".into(),
            uid: "u1".into(),
            container: Some("c1".into()),
            interface: "eth0".into(),
            node: "n".repeat(80),
        };
        Claim {
            address: address.parse().unwrap(),
            pool: "p".into(),
            state: State::Allocated,
            holder: Holder::Pod(pod),
            mac: None,
        }
    }

    #[test]
    fn a_claim_survives_the_way_through_an_object() {
        for address in ["10.0.0.7", "fd00::7"] {
            let mut object = to_object(&claim(address)).unwrap();
            object.metadata.uid = Some("x".into());
            object.metadata.resource_version = Some("5".into());
            assert_eq!(object.metadata.labels.as_ref().unwrap()[labels::IP_NODE].len(), 63);
            let back = stored(serde_json::from_value(serde_json::to_value(&object).unwrap()).unwrap()).unwrap();
            assert_eq!((back.claim, back.uid.as_str(), back.version.as_str()), (claim(address), "x", "5"));
        }
    }

    #[test]
    fn objects_of_a_later_version_are_refused_not_misread() {
        let text = r#"{"metadata":{"name":"10.0.0.7","uid":"x","resourceVersion":"1"},"spec":{"address":"10.0.0.7","pool":"p","state":"Frozen","resourceClaim":{"name":"c"}}}"#;
        let error = stored(serde_json::from_str(text).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "SpiderIP 10.0.0.7: a state of a later version");
    }
}
