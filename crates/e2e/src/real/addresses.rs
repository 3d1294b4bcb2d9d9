//! Who has which address: asked of the API, of the kernel on every node, of the pods and of the pools, and compared.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;
use lab::kubernetes::SECOND_NETWORK;
use serde_json::Value;

use super::Access;
use crate::report::Verdict;

/// Views follow, and what a node could not tell at once is told later: this long is waited for them.
const PATIENCE: Duration = Duration::from_secs(60);

/// Address -> who has it.
type Holders = BTreeMap<IpAddr, String>;

/// Waits until all four agree; the verdict tells how many addresses they know, or where they differ.
pub fn agreement(access: &Access) -> Result<Verdict> {
    compared(|| {
        let claimed = claimed(access)?;
        let mut differences = difference("SpiderIPs", &claimed, "pods", &of_pods(access)?);
        differences.extend(difference("SpiderIPs", &owners_left_out(&claimed), "kernel", &of_kernel(access)?));
        differences.extend(difference("SpiderIPs", &claimed, "pools", &of_pools(access)?));
        Ok((claimed.len(), differences))
    })
}

/// The same without the pools, whose views need a controller.
pub fn agreement_without_pools(access: &Access) -> Result<Verdict> {
    compared(|| {
        let claimed = claimed(access)?;
        let mut differences = difference("SpiderIPs", &claimed, "pods", &of_pods(access)?);
        differences.extend(difference("SpiderIPs", &owners_left_out(&claimed), "kernel", &of_kernel(access)?));
        Ok((claimed.len(), differences))
    })
}

fn compared(look: impl Fn() -> Result<(usize, Vec<String>)>) -> Result<Verdict> {
    let started = Instant::now();
    loop {
        let (count, differences) = look()?;
        if differences.is_empty() || started.elapsed() > PATIENCE {
            let seen = match differences.as_slice() {
                [] => format!("{count} addresses, after {:.1} s", started.elapsed().as_secs_f32()),
                some => some.join("; "),
            };
            return Ok(Verdict::new(differences.is_empty(), "the same addresses everywhere", seen));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The SpiderIPs.
pub fn claimed(access: &Access) -> Result<Holders> {
    let mut holders = Holders::new();
    for ip in access.list("spiderips")? {
        let spec = &ip["spec"];
        let pod = &spec["pod"];
        let who = format!("{}/{} {}", text(&pod["namespace"]), text(&pod["name"]), text(&pod["uid"]));
        holders.insert(address(&spec["address"])?, who);
    }
    Ok(holders)
}

/// What `network-status` tells of pods that have not ended.
fn of_pods(access: &Access) -> Result<Holders> {
    let network: IpNet = SECOND_NETWORK.parse().context("SECOND_NETWORK")?;
    let mut holders = Holders::new();
    for pod in access.list("pods --all-namespaces")? {
        if matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed") {
            continue;
        }
        let meta = &pod["metadata"];
        let Some(status) = meta["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str() else { continue };
        let status: Value = serde_json::from_str(status)
            .with_context(|| format!("network-status of pod {}: not JSON: {status}", text(&meta["name"])))?;
        let interfaces = status.as_array().cloned().unwrap_or_default();
        for ip in interfaces.iter().flat_map(|interface| interface["ips"].as_array().cloned().unwrap_or_default()) {
            let ip = address(&ip)?;
            if network.contains(&ip) {
                let who = format!("{}/{} {}", text(&meta["namespace"]), text(&meta["name"]), text(&meta["uid"]));
                holders.insert(ip, who);
            }
        }
    }
    Ok(holders)
}

/// What `ip` shows in the network namespaces of every node's pods.
pub fn of_kernel(access: &Access) -> Result<Holders> {
    let network: IpNet = SECOND_NETWORK.parse().context("SECOND_NETWORK")?;
    let script = "for n in /run/netns/*; do nsenter --net=$n ip -o addr show scope global 2>/dev/null; done; true";
    let mut holders = Holders::new();
    for node in &access.cluster()?.options().nodes {
        let lines = access.on(node, &["sh", "-c", script])?.expect_success()?;
        let words = lines.split_whitespace().filter_map(|word| word.parse::<IpNet>().ok().map(|net| net.addr()));
        for ip in words.filter(|ip| network.contains(ip)) {
            if holders.insert(ip, String::new()).is_some() {
                holders.insert(ip, "two interfaces".to_owned());
            }
        }
    }
    Ok(holders)
}

/// What the pools' status tells; a count that is not the list's is a difference as well.
fn of_pools(access: &Access) -> Result<Holders> {
    let mut holders = Holders::new();
    for pool in access.list("spiderippools")? {
        let name = text(&pool["metadata"]["name"]);
        let status = &pool["status"];
        let list = status["allocatedIPs"].as_str().unwrap_or("{}");
        let list: BTreeMap<IpAddr, Value> =
            serde_json::from_str(list).with_context(|| format!("status.allocatedIPs of pool {name}: {list}"))?;
        let count = status["allocatedIPCount"].as_u64().unwrap_or_default();
        let right = usize::try_from(count).is_ok_and(|count| count == list.len());
        for (ip, entry) in list {
            let wrong = if right { String::new() } else { format!(" (allocatedIPCount of {name}: {count})") };
            holders.insert(ip, format!("{} {}{wrong}", text(&entry["pod"]), text(&entry["podUid"])));
        }
    }
    Ok(holders)
}

fn owners_left_out(holders: &Holders) -> Holders {
    holders.keys().map(|ip| (*ip, String::new())).collect()
}

fn difference(one: &str, ones: &Holders, other: &str, others: &Holders) -> Vec<String> {
    let missing =
        ones.iter().filter(|(ip, _)| !others.contains_key(ip)).map(|(ip, who)| format!("{ip} {who}: {one} only"));
    let further = others.iter().filter_map(|(ip, who)| match ones.get(ip) {
        None => Some(format!("{ip} {who}: {other} only")),
        Some(same) if same == who => None,
        Some(differs) => Some(format!("{ip}: {one} {differs}, {other} {who}")),
    });
    missing.chain(further).collect()
}

fn address(value: &Value) -> Result<IpAddr> {
    let word = text(value);
    word.parse().with_context(|| format!("{word:?} is no address"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(list: &[(&str, &str)]) -> Holders {
        list.iter().map(|(ip, who)| (ip.parse().unwrap(), (*who).to_owned())).collect()
    }

    #[test]
    fn every_difference_is_told() {
        let ones = holders(&[("10.0.0.1", "a"), ("10.0.0.2", "b"), ("10.0.0.3", "c")]);
        let others = holders(&[("10.0.0.1", "a"), ("10.0.0.2", "x"), ("10.0.0.4", "d")]);
        assert_eq!(
            difference("API", &ones, "kernel", &others),
            ["10.0.0.3 c: API only", "10.0.0.2: API b, kernel x", "10.0.0.4 d: kernel only"]
        );
        assert!(difference("API", &ones, "kernel", &ones).is_empty());
    }
}
