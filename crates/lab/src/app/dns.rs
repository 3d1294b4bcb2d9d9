//! A DNS server for the lab: Services of the cluster by name, or names of a hosts file. UDP only, one question per message
//! (RFC 1035), no recursion: a name of another domain is refused.
//!
//! It answers from the very address that was asked, with one socket per address: behind Service NAT an answer from another
//! address of the pod would be lost.

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use tracing::{info, warn};

const A: u16 = 1;
const AAAA: u16 = 28;
const TTL: u32 = 5;
const HEADER: usize = 12;

/// `spiderpool-lab dns`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; by default port 53 of every address that this network namespace has now
    #[arg(long)]
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
    /// Names from a file like /etc/hosts
    #[arg(long, conflicts_with = "kubeconfig", required_unless_present = "kubeconfig")]
    pub hosts: Option<PathBuf>,
    /// Names of the Services of the cluster behind this kubeconfig
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

/// Serves until it is killed.
pub fn run(args: Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names = match (&args.hosts, &args.kubeconfig) {
        (Some(file), _) => Names::Fixed(read_hosts(file)?),
        (None, Some(kubeconfig)) => runtime.block_on(watch_services(kubeconfig))?,
        (None, None) => unreachable!("the command line demands one of them"),
    };
    let zone = Arc::new(Zone { domain: args.domain.trim_matches('.').to_lowercase(), names });
    let listen = if args.listen.is_empty() {
        own_addresses()?.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect()
    } else {
        args.listen
    };
    for address in listen {
        let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}/udp"))?;
        info!(listen = %address, domain = zone.domain, "dns serves");
        let zone = zone.clone();
        thread::Builder::new().name(address.to_string()).spawn(move || serve(&socket, &zone))?;
    }
    // Keeps the Service watch going.
    runtime.block_on(crate::control::stopped())
}

fn serve(socket: &UdpSocket, zone: &Zone) {
    let mut buffer = [0; 1500];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error about an earlier answer.
                warn!(%error, "cannot receive");
                continue;
            }
        };
        if let Some(answer) = zone.answer(&buffer[..length])
            && let Err(error) = socket.send_to(&answer, peer)
        {
            warn!(%peer, %error, "cannot answer");
        }
    }
}

enum Names {
    /// Fully qualified lower-case names.
    Fixed(HashMap<String, Vec<IpAddr>>),
    Services(Store<Service>),
}

/// What the server knows.
struct Zone {
    domain: String,
    names: Names,
}

impl Zone {
    /// The answer to a query, `None` if it is no query.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let flags = *query.get(2)?;
        // A response, or another opcode than QUERY.
        if query.len() < HEADER || flags & 0x80 != 0 {
            return None;
        }
        if flags & 0x78 != 0 {
            return Some(message(query, HEADER, 4, &[]));
        }
        let Some((name, kind, end)) = question(query) else { return Some(message(query, HEADER, 1, &[])) };
        match self.addresses(&name) {
            Found::Elsewhere => Some(message(query, end, 5, &[])),
            Found::Nothing => Some(message(query, end, 3, &[])),
            Found::Addresses(addresses) => {
                let fits = |address: &&IpAddr| matches!((kind, address), (A, IpAddr::V4(_)) | (AAAA, IpAddr::V6(_)));
                let records: Vec<_> = addresses.iter().filter(fits).copied().collect();
                Some(message(query, end, 0, &records))
            }
        }
    }

    fn addresses(&self, name: &str) -> Found {
        match &self.names {
            Names::Fixed(names) => match names.get(name) {
                Some(addresses) => Found::Addresses(addresses.clone()),
                None if within(name, &self.domain) => Found::Nothing,
                None => Found::Elsewhere,
            },
            Names::Services(services) => {
                let Some(inside) = name.strip_suffix(&self.domain).and_then(|head| head.strip_suffix(".svc.")) else {
                    return if within(name, &self.domain) { Found::Nothing } else { Found::Elsewhere };
                };
                let Some((service, namespace)) = inside.split_once('.') else { return Found::Nothing };
                let found = services.get(&reflector::ObjectRef::new(service).within(namespace));
                found.and_then(|service| cluster_ips(&service)).map_or(Found::Nothing, Found::Addresses)
            }
        }
    }
}

/// What is known of a name.
enum Found {
    Addresses(Vec<IpAddr>),
    /// In our domain, and not there.
    Nothing,
    /// Of another domain.
    Elsewhere,
}

fn within(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|head| head.ends_with('.'))
}

/// The ClusterIPs; a headless Service has none.
fn cluster_ips(service: &Service) -> Option<Vec<IpAddr>> {
    let spec = service.spec.as_ref()?;
    let all = spec.cluster_ips.clone().or_else(|| spec.cluster_ip.clone().map(|one| vec![one]))?;
    Some(all.iter().filter_map(|address| address.parse().ok()).collect())
}

/// Name, type and end of the only question. `None`: not one readable question of class IN.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let be16 = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    if be16(4)? != 1 {
        return None;
    }
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase()),
            // Nothing before the question that a pointer could point to.
            _ => return None,
        }
        at += length;
    }
    (be16(at + 2)? == 1).then_some((labels.join("."), be16(at)?, at + 4))
}

/// A response to `query`, whose question ends at `end`.
fn message(query: &[u8], end: usize, code: u8, addresses: &[IpAddr]) -> Vec<u8> {
    let mut answer = query[..end].to_vec();
    // Response, authoritative; recursion desired is repeated.
    answer[2] = 0x84 | (query[2] & 0x79);
    answer[3] = code;
    answer[4..HEADER].fill(0);
    answer[5] = u8::from(end > HEADER);
    answer[7] = u8::try_from(addresses.len()).expect("a Service has few addresses");
    for address in addresses {
        let (kind, data) = match address {
            IpAddr::V4(v4) => (A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
        };
        // The name: a pointer to the question's.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend(u16::try_from(data.len()).expect("4 or 16").to_be_bytes());
        answer.extend(data);
    }
    answer
}

/// Reads `ADDRESS NAME...` lines.
fn read_hosts(file: &Path) -> Result<HashMap<String, Vec<IpAddr>>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next() else { continue };
        let address =
            address.parse().with_context(|| format!("{}:{number}: `{address}` is no address", file.display()))?;
        for name in words {
            names.entry(name.trim_end_matches('.').to_lowercase()).or_default().push(address);
        }
    }
    Ok(names)
}

/// A view of the cluster's Services that keeps itself current; returns once it is complete.
async fn watch_services(kubeconfig: &Path) -> Result<Names> {
    let what = || format!("kubeconfig {}", kubeconfig.display());
    let file = kube::config::Kubeconfig::read_from(kubeconfig).with_context(what)?;
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.with_context(what)?;
    let services = kube::Api::<Service>::all(kube::Client::try_from(config).with_context(what)?);
    let (store, writer) = reflector::store();
    let events = watcher(services, watcher::Config::default()).default_backoff().reflect(writer);
    tokio::spawn(events.for_each(|event| async {
        if let Err(error) = event {
            warn!(%error, "watching Services");
        }
    }));
    store.wait_until_ready().await.context("watching Services")?;
    Ok(Names::Services(store))
}

/// The addresses of this network namespace, link-local ones left out.
fn own_addresses() -> Result<Vec<IpAddr>> {
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).context("cannot open netlink")?;
    socket.bind_auto()?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut query = AddressMessage::default();
    query.header.family = AddressFamily::Unspec;
    let mut request = NetlinkMessage::new(header, RouteNetlinkMessage::GetAddress(query).into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("cannot read netlink's answer")?;
            rest = rest.get((message.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()).context("cannot list addresses"),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
                    found.extend(usable(&address))
                }
                _ => {}
            }
        }
    }
}

fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let remote = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let address = message.attributes.iter().find_map(own).or_else(|| message.attributes.iter().find_map(remote));
    address.filter(|_| message.header.scope != AddressScope::Link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let names = [("test-svc.default.svc.cluster.local", vec!["10.233.0.7", "fd00:10:233::7"])];
        let read = |(name, texts): (&str, Vec<&str>)| {
            (name.to_owned(), texts.iter().map(|text| text.parse().unwrap()).collect())
        };
        Zone { domain: "cluster.local".into(), names: Names::Fixed(names.into_iter().map(read).collect()) }
    }

    /// A query as `dig` sends it: recursion desired, with an OPT record (RFC 6891).
    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_name_is_answered_by_family() {
        let asked = query("Test-Svc.default.svc.cluster.local", A);
        let answer = zone().answer(&asked).unwrap();
        assert_eq!(answer[..12], [0x12, 0x34, 0x85, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[answer.len() - 16..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 233, 0, 7]);
        let answer = zone().answer(&query("test-svc.default.svc.cluster.local", AAAA)).unwrap();
        assert_eq!(answer[answer.len() - 18..], [0, 16, 0xfd, 0, 0, 0x10, 2, 0x33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        let text = zone().answer(&query("test-svc.default.svc.cluster.local", 16)).unwrap();
        assert_eq!((text[3], text[7]), (0, 0), "the name exists, a text record does not");
    }

    #[test]
    fn an_unknown_name_is_denied_and_a_foreign_one_refused() {
        assert_eq!(zone().answer(&query("other.default.svc.cluster.local", A)).unwrap()[3], 3);
        assert_eq!(zone().answer(&query("example.com", A)).unwrap()[3], 5);
        assert_eq!(zone().answer(&query("notcluster.local", A)).unwrap()[3], 5);
    }

    #[test]
    fn a_broken_query_is_a_format_error_and_a_response_is_not_answered() {
        let mut cut = query("test-svc.default.svc.cluster.local", A);
        cut.truncate(20);
        assert_eq!(zone().answer(&cut).unwrap()[3], 1);
        let mut response = query("test-svc.default.svc.cluster.local", A);
        response[2] |= 0x80;
        assert_eq!(zone().answer(&response), None);
        assert_eq!(zone().answer(&[0; 5]), None);
    }
}
