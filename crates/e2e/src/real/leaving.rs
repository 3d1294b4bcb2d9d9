//! `helm uninstall` under running pods, and the next installation.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::addresses::claimed;
use super::product::{NAMESPACE, NETWORK, Product, ping, seconds};
use super::upgrade::previous_chart;
use super::{Access, install};
use crate::report::{Report, Verdict};

/// Kinds in which an installation could leave something.
const KINDS: &str = "deployments,daemonsets,replicasets,jobs,pods,services,endpointslices,configmaps,secrets,serviceaccounts,\
                     leases,roles,rolebindings,clusterroles,clusterrolebindings,validatingwebhookconfigurations,\
                     mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,\
                     poddisruptionbudgets,network-attachment-definitions,customresourcedefinitions";

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: stay}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never}}]\n"
    )
}

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("The product is removed, pods go on");
    report.check("L0", "a copy is kept before all goes", copied(product));
    report.check("L1", "helm uninstall leaves nothing of ours in the cluster", uninstalled(product));
    report.check("L2", "pods go on", go_on(product));
    report.check("L3", "a pod can be deleted without agent and API of ours", deleted(product));
    report.check("L4", "on the nodes is what pods need to end", on_nodes(product));

    report.chapter("It comes back, out of the previous commit's chart where there is one");
    match previous_chart(product) {
        Ok(Ok(chart)) => {
            let what = "helm install of the previous commit's chart with today's images";
            report.check("L5", what, product.install(&chart, &MULTINET).map(ready));
            report.check("L6", "running pods' addresses are taken over before any is given out", taken_over(product));
            report.check("L7", "helm upgrade to this commit's chart; pods go on", upgraded(product));
        }
        Ok(Err(reason)) => {
            report.skip("L5", "helm upgrade from the previous commit's chart", &reason);
            report.check("L5", "helm install", product.install(&product.chart(), &MULTINET).map(ready));
            report.check("L6", "running pods' addresses are taken over before any is given out", taken_over(product));
        }
        Err(error) => {
            report.check("L5", "the previous commit's chart can be read", Err(error));
        }
    }
    report.check("L8", "API, kernel, pods and pools agree", product.agreement());
    report.check("L9", "with the uninstall values set the files go too", uninstalled_with_files(product));
    report.check("L10", "pods get the cluster's own network again", own_network(product));
}

const MULTINET: [&str; 2] = ["--set", "multus.implementation=multinet"];

fn ready(took: Duration) -> Verdict {
    Verdict::new(true, "ready", format!("ready after {}", seconds(took)))
}

fn copied(product: &Product<'_>) -> Result<Verdict> {
    product.play(product.guides.uninstall.script("What goes and what stays", 0)?)?;
    let names = product.play("grep -h '^    name: ' spiderpool.yaml spidermultusconfigs.yaml")?;
    let names: Vec<&str> = names.lines().map(|line| line.trim().trim_start_matches("name: ")).collect();
    let whole = ["rack", "default", "macvlan-eth1"];
    Ok(Verdict::new(whole.iter().all(|name| names.contains(name)), whole.join(", "), names.join(", ")))
}

fn uninstalled(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    access.kubectl("delete daemonset/first service/first --wait")?;
    for (name, node) in [("stay-1", "master"), ("stay-2", "worker"), ("goes", "worker")] {
        access.apply(&pod(name, node))?;
    }
    product.ready("-l app=stay")?;
    let took = product.uninstall()?;
    in_the_end(took, || left(access))
}

/// Looks again while pods of the release end.
pub fn in_the_end(took: Duration, look: impl Fn() -> Result<Vec<String>>) -> Result<Verdict> {
    let started = Instant::now();
    loop {
        let left = look()?;
        if left.is_empty() || started.elapsed() > Duration::from_secs(45) {
            let seen = format!("after {}: {}", seconds(took + started.elapsed()), or_nothing(&left));
            return Ok(Verdict::new(left.is_empty(), "nothing", seen));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What an installation left in the cluster.
pub fn left(access: &Access) -> Result<Vec<String>> {
    let kinds = access.kubectl("api-resources --api-group=spiderpool.spidernet.io -o name")?;
    let objects = access.kubectl(&format!("get {KINDS} --all-namespaces -o name"))?;
    let ours = |line: &&str| line.contains("spider") || line.contains("macvlan-eth1");
    Ok(kinds.lines().chain(objects.lines().filter(ours)).map(str::to_owned).collect())
}

fn or_nothing(list: &[String]) -> String {
    if list.is_empty() { "nothing".to_owned() } else { list.join(", ") }
}

fn address(access: &Access, pod: &str) -> Result<String> {
    access.field(&format!("pod/{pod}"), "{.status.podIP}")
}

fn go_on(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    let line = ping(access, "stay-1", &address(access, "stay-2")?)?;
    let node = access.field("node/worker", "{.status.addresses[?(@.type==\"InternalIP\")].address}")?;
    ping(access, "stay-2", &node).context("to its own node")?;
    Ok(Verdict::new(true, "0% packet loss", line))
}

fn deleted(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    let before = super::addresses::of_kernel(access)?.len();
    access.kubectl("delete pod goes --wait --timeout=30s")?;
    let after = access.until("its address to leave the kernel", Duration::from_secs(20), || {
        let now = super::addresses::of_kernel(access)?.len();
        Ok((now + 1 == before).then_some(now))
    })?;
    Ok(Verdict::new(true, "one address fewer in the kernel", format!("{before} -> {after}")))
}

/// Files of the product on a node.
pub fn files(product: &Product<'_>, node: &str) -> Result<Vec<String>> {
    let script = "ls -1 /opt/cni/bin/spiderpool /opt/cni/bin/coordinator /opt/cni/bin/multinet /opt/cni/bin/multus \
                  /opt/cni/bin/.spiderpool-plugins /etc/cni/net.d/00-* /etc/cni/net.d/multus.d 2>/dev/null; true";
    let list = product.access.on(node, &["sh", "-c", script])?.expect_success()?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn on_nodes(product: &Product<'_>) -> Result<Verdict> {
    let files = files(product, "worker")?;
    let needed = ["/opt/cni/bin/spiderpool", "/opt/cni/bin/coordinator", "/opt/cni/bin/multinet"];
    let good = needed.iter().all(|name| files.iter().any(|file| file == name));
    Ok(Verdict::new(good, needed.join(", "), files.join(", ")))
}

/// A pool of exactly the addresses that run and three more: whoever does not look first gives one out twice.
fn taken_over(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    let running = [address(access, "stay-1")?, address(access, "stay-2")?];
    let free = ["10.50.100.91", "10.50.100.92", "10.50.100.93"];
    let list: Vec<&str> = running.iter().map(String::as_str).chain(free).collect();
    let tight = NETWORK.replace("10.50.100.1-10.50.100.99", &list.join(", "));
    access.apply(&tight)?;
    for name in ["new-1", "new-2", "new-3"] {
        access.apply(&pod(name, "worker"))?;
    }
    product.ready("-l app=stay")?;
    let mut given = Vec::new();
    for name in ["new-1", "new-2", "new-3"] {
        given.push(address(access, name)?);
    }
    given.sort();
    let claims = claimed(access)?;
    let kept = ["stay-1", "stay-2"].iter().zip(&running).all(|(name, ip)| {
        let holder = ip.parse().ok().and_then(|ip| claims.get(&ip));
        holder.is_some_and(|who| who.starts_with(&format!("default/{name} ")))
    });
    Ok(Verdict::new(
        kept && given == free,
        format!("{} stay theirs; {}", running.join(", "), free.join(", ")),
        format!("taken over: {kept}; {}", given.join(", ")),
    ))
}

fn upgraded(product: &Product<'_>) -> Result<Verdict> {
    let took = product.upgrade(&product.chart(), &[])?;
    product.rolled_out()?;
    let access = product.access;
    let line = ping(access, "stay-1", &address(access, "new-1")?)?;
    Ok(Verdict::new(true, "ready, 0% packet loss", format!("after {}; {line}", seconds(took))))
}

/// Removes the release with everything on the nodes.
pub fn uninstalled_with_files(product: &Product<'_>) -> Result<Verdict> {
    let script = product.guides.uninstall.script("Files on the nodes as well", 0)?;
    let (upgrade, uninstall) = script.split_at(script.find("helm uninstall").context("no helm uninstall")?);
    product.release(upgrade, &product.chart(), &[])?;
    product.rolled_out()?;
    product.access.kubectl("delete pods --all -n default --wait --timeout=60s")?;
    let took = product.remove(uninstall)?;
    // What the guide names for a Secret of cert-manager does no harm without it.
    product.play(product.guides.uninstall.script("What goes and what stays", 1)?)?;
    in_the_end(took, || {
        let mut left = left(product.access)?;
        for node in &product.access.cluster()?.options().nodes {
            left.extend(files(product, node)?.into_iter().map(|file| format!("{node}:{file}")));
        }
        Ok(left)
    })
}

fn own_network(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    access.apply(&pod("plain", "worker"))?;
    product.ready("plain")?;
    let ip = address(access, "plain")?;
    access.kubectl("delete pod plain --wait")?;
    ensure!(access.list("pods -n default")?.is_empty(), "pods are left");
    Ok(Verdict::new(ip.starts_with("10.244."), "an address of 10.244.x", ip))
}

/// The namespace of the release is somebody else's.
pub fn reinstall(product: &Product<'_>, implementation: &str) -> Result<Verdict> {
    ensure!(left(product.access)?.is_empty(), "something of the last installation is left in {NAMESPACE}");
    install::install(product, implementation)
}
