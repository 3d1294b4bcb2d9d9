//! Who a recorded UID is: pods and SpiderEndpoints, listed in full, and anew for pools that are younger than the lists, or were given addresses since; else read one by one.
//!
//! A pod that its record's name does not lead to is looked for by its UID in a list of its namespace, which serves many records. A UID never
//! comes back: one that was known before the list was taken, and is not in it, is gone for good. One that is in it is read.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipam::SpanSet;
use k8s_api::{SpiderEndpoint, records::Record};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use store::{
    Failure,
    failure::{bounded, optional},
    pods::Pod,
};
use tokio::sync::Mutex;

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// How long the lists are believed. Afterwards they only say where to look.
const FRESH: Duration = Duration::from_secs(30);

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Its node, as far as anybody tells.
    pub node: String,
    /// The NIC that has the address; empty if nobody tells.
    pub interface: String,
    /// Whether the pod's object exists. If not, its endpoint does.
    pub exists: bool,
}

/// Reads pods and endpoints.
pub struct Sources {
    client: Client,
    lists: Mutex<Option<Arc<Lists>>>,
    /// By namespace.
    names: Mutex<HashMap<String, Arc<Names>>>,
}

/// The pods of a namespace.
struct Names {
    /// The list was asked for after this moment.
    at: Instant,
    /// Names by UID.
    by_uid: HashMap<String, String>,
}

struct Lists {
    at: Instant,
    pods: HashMap<String, Known>,
    endpoints: HashMap<String, Known>,
    addresses: BTreeMap<IpAddr, Vec<String>>,
}

/// What is kept of a pod or an endpoint.
#[derive(Clone, Debug)]
struct Known {
    namespace: String,
    name: String,
    node: String,
    addresses: Vec<(IpAddr, String)>,
    finished: bool,
}

impl Known {
    fn of_pod(pod: &Pod) -> Self {
        let (namespace, name, node) = (pod.namespace.clone(), pod.name.clone(), pod.node.clone());
        Self { namespace, name, node, addresses: pod.addresses(), finished: pod.is_finished() }
    }

    fn of_endpoint(endpoint: &SpiderEndpoint) -> Option<(String, Self)> {
        let current = &endpoint.status.as_ref()?.current;
        let parse = |text: &String| text.split('/').next()?.parse().ok();
        let of_nic = |nic: &k8s_api::endpoint::IPAllocationDetail| {
            let addresses: Vec<IpAddr> = nic.ipv4.iter().chain(&nic.ipv6).filter_map(parse).collect();
            addresses.into_iter().map(|address| (address, nic.interface.clone())).collect::<Vec<_>>()
        };
        let known = Self {
            namespace: endpoint.namespace().unwrap_or_default(),
            name: endpoint.name_any(),
            node: current.node.clone(),
            addresses: current.ips.iter().flat_map(of_nic).collect(),
            finished: false,
        };
        (!current.uid.is_empty()).then(|| (current.uid.clone(), known))
    }

    fn interface(&self, address: IpAddr) -> Option<String> {
        self.addresses.iter().find(|(known, _)| *known == address).map(|(_, nic)| nic.clone())
    }
}

impl Sources {
    /// Sources behind this client; nothing is read yet.
    pub fn new(client: Client) -> Self {
        Self { client, lists: Mutex::default(), names: Mutex::default() }
    }

    /// Who the pod of a record is. `None`: read from the API itself, neither the pod nor an endpoint of it exists. `recorded`: upstream
    /// still says that the pod has the address, so that a list of just now will do. `known`: the record is older than this.
    pub async fn holder(
        &self,
        address: IpAddr,
        record: &Record,
        recorded: bool,
        known: Instant,
    ) -> Result<Option<Holder>, Failure> {
        let lists = self.lists().await?;
        let (pod, endpoint) = if recorded && lists.at.elapsed() < FRESH && lists.pods.contains_key(&record.uid) {
            (lists.pods.get(&record.uid).cloned(), lists.endpoints.get(&record.uid).cloned())
        } else {
            (self.pod(record, known).await?, self.endpoint(record).await?)
        };
        let Some(known) = pod.as_ref().or(endpoint.as_ref()) else { return Ok(None) };
        // An endpoint may know the address before it knows the NIC.
        let told = endpoint.as_ref().and_then(|endpoint| endpoint.interface(address)).filter(|nic| !nic.is_empty());
        let interface = told.or_else(|| pod.as_ref()?.interface(address)).unwrap_or_default();
        let node = Some(known.node.clone()).filter(|node| !node.is_empty());
        Ok(Some(Holder {
            namespace: known.namespace.clone(),
            name: known.name.clone(),
            uid: record.uid.clone(),
            node: node.or(endpoint.map(|endpoint| endpoint.node)).unwrap_or_default(),
            interface,
            exists: pod.is_some(),
        }))
    }

    /// The pods that had one of these addresses when the lists were taken, and endpoints of pods that still exist.
    pub async fn users(&self, addresses: &SpanSet) -> Result<Vec<(IpAddr, Record)>, Failure> {
        let lists = self.lists().await?;
        let mut users = Vec::new();
        for span in addresses.spans() {
            for (address, uids) in lists.addresses.range(span.first()..=span.last()) {
                let known = |uid: &String| {
                    let known = lists.pods.get(uid)?;
                    Some((*address, Record::new(&known.namespace, &known.name, uid)))
                };
                users.extend(uids.iter().filter_map(known));
            }
        }
        Ok(users)
    }

    /// Whether a pod of this UID exists, read from the API itself. `known`: the UID was known before this moment.
    pub async fn exists(&self, namespace: &str, name: &str, uid: &str, known: Instant) -> Result<bool, Failure> {
        Ok(self.pod(&Record::new(namespace, name, uid), known).await?.is_some())
    }

    /// A pod, by its UID: the record of a virtual machine bears the machine's name, not the pod's.
    async fn pod(&self, record: &Record, known: Instant) -> Result<Option<Known>, Failure> {
        let Some((namespace, name)) = record.names() else { return Ok(None) };
        if let Some(pod) = self.named(namespace, name, &record.uid).await? {
            return Ok(Some(pod));
        }
        match self.names(namespace, known).await?.by_uid.get(&record.uid) {
            Some(found) if found != name => self.named(namespace, found, &record.uid).await,
            // The one of its name was not it a moment ago.
            _ => Ok(None),
        }
    }

    async fn named(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<Known>, Failure> {
        let found = store::pods::read(&self.client, namespace, name).await?;
        Ok(found.filter(|pod| pod.uid == uid).map(|pod| Known::of_pod(&pod)))
    }

    /// The pods of a namespace at a moment after `known`.
    async fn names(&self, namespace: &str, known: Instant) -> Result<Arc<Names>, Failure> {
        // Who waits here for somebody else's list finds it.
        let mut kept = self.names.lock().await;
        if let Some(names) = kept.get(namespace).filter(|names| names.at > known) {
            return Ok(Arc::clone(names));
        }
        let at = Instant::now();
        let pods = Api::<ApiPod>::namespaced(self.client.clone(), namespace);
        let (mut page, mut by_uid) = (ListParams::default().limit(PAGE), HashMap::new());
        loop {
            let list = bounded(pods.list_metadata(&page)).await?;
            by_uid.extend(list.items.iter().filter_map(|pod| Some((pod.uid()?, pod.name_any()))));
            match list.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => break,
            }
        }
        let names = Arc::new(Names { at, by_uid });
        kept.retain(|_, names| names.at.elapsed() < FRESH);
        kept.insert(namespace.to_owned(), Arc::clone(&names));
        Ok(names)
    }

    async fn endpoint(&self, record: &Record) -> Result<Option<Known>, Failure> {
        let Some((namespace, name)) = record.names() else { return Ok(None) };
        let endpoints = Api::<SpiderEndpoint>::namespaced(self.client.clone(), namespace);
        let found = optional(bounded(endpoints.get(name)).await)?;
        let known = found.and_then(|endpoint| Known::of_endpoint(&endpoint));
        Ok(known.filter(|(uid, _)| *uid == record.uid).map(|(_, known)| known))
    }

    async fn lists(&self) -> Result<Arc<Lists>, Failure> {
        let mut kept = self.lists.lock().await;
        if let Some(lists) = &*kept {
            return Ok(Arc::clone(lists));
        }
        Ok(Arc::clone(kept.insert(self.list().await?)))
    }

    /// Takes the lists anew, unless they are younger than `after`: pods may have started since they were taken that have no claim. Of many
    /// pools that change at once the first one asks for all.
    pub async fn renew(&self, after: Instant) -> Result<(), Failure> {
        let mut kept = self.lists.lock().await;
        if kept.as_ref().is_some_and(|lists| lists.at > after) {
            return Ok(());
        }
        *kept = Some(self.list().await?);
        Ok(())
    }

    async fn list(&self) -> Result<Arc<Lists>, Failure> {
        let at = Instant::now();
        let mut pods = HashMap::new();
        let each = |pod: ApiPod| {
            let pod = Pod::from(pod);
            if !pod.host_network && !pod.uid.is_empty() {
                pods.insert(pod.uid.clone(), Known::of_pod(&pod));
            }
        };
        pages(&Api::<ApiPod>::all(self.client.clone()), each).await?;
        let mut endpoints = HashMap::new();
        let each = |endpoint: SpiderEndpoint| endpoints.extend(Known::of_endpoint(&endpoint));
        pages(&Api::<SpiderEndpoint>::all(self.client.clone()), each).await?;
        let mut addresses: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        // An endpoint keeps telling the addresses of a finished pod, which may be another's by now.
        let is_alive = |uid: &String| pods.get(uid).is_some_and(|pod| !pod.finished);
        let of_living = endpoints.iter().filter(|(uid, _)| is_alive(uid));
        for (uid, known) in pods.iter().chain(of_living) {
            for (address, _) in &known.addresses {
                let uids = addresses.entry(*address).or_default();
                if !uids.contains(uid) {
                    uids.push(uid.clone());
                }
            }
        }
        tracing::info!(pods = pods.len(), endpoints = endpoints.len(), "pods and endpoints listed for the import");
        Ok(Arc::new(Lists { at, pods, endpoints, addresses }))
    }
}

/// Hands every object of a consistent list on.
async fn pages<K>(api: &Api<K>, mut each: impl FnMut(K)) -> Result<(), Failure>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = bounded(api.list(&page)).await?;
        list.items.into_iter().for_each(&mut each);
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(()),
        }
    }
}
