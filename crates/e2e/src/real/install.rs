//! `helm install`, the network, the first pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::product::{NAMESPACE, NETWORK, Product, ping, seconds};
use super::{Access, done};
use crate::report::{Report, Verdict};

/// One pod on every node, and a Service for them.
const FIRST: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: first}
spec:
  selector: {matchLabels: {app: first}}
  template:
    metadata: {labels: {app: first}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: docker.io/centos/tools
        imagePullPolicy: IfNotPresent
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: first}
spec: {selector: {app: first}, ports: [{port: 80}]}
";

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("The product is installed by Helm; multinet plays Multus");
    report.check("I1", "a value that does not exist is refused with its name", unknown_value(product));
    report.check("I2", "a value of a wrong type is refused with its name", wrong_value(product));
    report.check("I3", "helm install --wait", install(product, "multinet"));
    report.check("I4", "the cluster's ranges are found", ranges(product.access));
    report.check("I5", "a second release is refused", second(product, &[]));
    report.check("I8", "so is one whose objects have other names and are elsewhere", second(product, &ELSEWHERE));
    report.check("I6", "the network goes over the installation's empty one", network(product.access));
    report.check(
        "I7",
        "a pool whose gateway is no address is refused with field and value",
        wrong_pool(product.access),
    );

    report.chapter("Pods on the real network");
    report.check("P1", "a DaemonSet rolls out", first(product));
    let outcome = traffic(product.access);
    report.check("P2", "pod -> pod of the other node, own node, other node, router", outcome);
    report.check("P3", "node -> pod", from_nodes(product.access));
    report.check("P4", "pod -> ClusterIP", cluster_ip(product.access));
    report.check("P5", "API, kernel, pods and pools agree", product.agreement());
    report.shell("kubectl get spiderippools", &product.access.kubectl("get spiderippools").unwrap_or_default());
    report.shell("kubectl get spiderips", &product.access.kubectl("get spiderips").unwrap_or_default());
}

/// Installs this commit's chart.
pub fn install(product: &Product<'_>, implementation: &str) -> Result<Verdict> {
    let value = format!("multus.implementation={implementation}");
    let took = product.install(&product.chart(), &["--set", &value])?;
    Ok(Verdict::new(true, "ready (60 s is the goal)", format!("ready after {}", seconds(took))))
}

/// Asks helm for what it must refuse, and looks for words in the refusal.
fn refusal(product: &Product<'_>, name: &str, further: &[&str], words: &[&str]) -> Result<Verdict> {
    let chart = product.chart().display().to_string();
    let outcome = product.helm(&[&["install", name, &chart, "--namespace", NAMESPACE], further].concat())?;
    ensure!(!outcome.succeeded(), "helm installed it");
    let seen = outcome.stderr.trim().to_owned();
    Ok(Verdict::new(words.iter().all(|word| seen.contains(word)), words.join(", "), seen))
}

fn unknown_value(product: &Product<'_>) -> Result<Verdict> {
    refusal(product, "spiderpool", &["--set", "ipam.enableIpv4=true"], &["/ipam", "enableIpv4"])
}

fn wrong_value(product: &Product<'_>) -> Result<Verdict> {
    refusal(product, "spiderpool", &["--set", "spiderpoolController.replicas=two"], &["/spiderpoolController/replicas"])
}

/// No object has a name that the first release has given.
const ELSEWHERE: [&str; 4] = [
    "--namespace=default",
    "--set=spiderpoolAgent.name=other-agent,spiderpoolController.name=other-controller,spiderpoolInit.name=other-init",
    "--set=multus.multusCNI.name=other-multus,global.configName=other-conf,global.nameOverride=other",
    "--set=spiderpoolController.tls.secretName=other-certs",
];

fn second(product: &Product<'_>, further: &[&str]) -> Result<Verdict> {
    let first = format!("release \"spiderpool\" in namespace {NAMESPACE} (DaemonSet {NAMESPACE}/spiderpool-agent)");
    refusal(product, "second", further, &["Spiderpool is installed already", &first])
}

fn ranges(access: &Access) -> Result<Verdict> {
    let read = |path: &str| access.field("spidercoordinator/default", path);
    let (pods, services) = access.until("the SpiderCoordinator's status", Duration::from_secs(20), || {
        let pods = read("{.status.overlayPodCIDR[*]}")?;
        let services = read("{.status.serviceCIDR[*]}")?;
        Ok((!pods.is_empty() && !services.is_empty()).then_some((pods, services)))
    })?;
    let network = access.cluster()?.options().network;
    let (expected_pods, expected_services) = (network.pod_cidr(), network.service_cidr());
    Ok(Verdict::new(
        pods == expected_pods && services == expected_services,
        format!("{expected_pods}, {expected_services}"),
        format!("{pods}, {services}, {}", read("{.status.phase}")?),
    ))
}

/// Applies [`NETWORK`] and waits for the NetworkAttachmentDefinition.
pub fn network(access: &Access) -> Result<Verdict> {
    access.apply(NETWORK)?;
    let config = access.until("the NetworkAttachmentDefinition", Duration::from_secs(20), || {
        let name = ["kubectl", "-n", NAMESPACE, "get", "network-attachment-definition", "macvlan-eth1"];
        let config = access.words(&[&name[..], &["-o", "jsonpath={.spec.config}"]].concat())?;
        Ok(config.contains("\"type\":\"macvlan\"").then_some(config))
    })?;
    let whole = ["\"type\":\"spiderpool\"", "\"type\":\"coordinator\"", "\"master\":\"eth1\""];
    Ok(Verdict::new(whole.iter().all(|part| config.contains(part)), whole.join(", "), config))
}

fn wrong_pool(access: &Access) -> Result<Verdict> {
    let pool = NETWORK.rsplit("---").next().unwrap_or_default();
    let wrong = pool.replace("name: rack", "name: wrong").replace("gateway: 10.50.0.1", "gateway: 10.50.0.256");
    match access.apply(&wrong) {
        Ok(text) => Ok(Verdict::new(false, "refused", text)),
        Err(error) => {
            let seen = format!("{error:#}");
            let words = ["spec.gateway", "10.50.0.256"];
            Ok(Verdict::new(words.iter().all(|word| seen.contains(word)), words.join(", "), seen))
        }
    }
}

fn first(product: &Product<'_>) -> Result<Verdict> {
    product.access.apply(FIRST)?;
    product.wait_for("daemonset/first")?;
    let pods = firsts(product.access)?;
    let seen: Vec<String> = pods.iter().map(|pod| format!("{} on {}", pod.address, pod.node)).collect();
    let good = pods.iter().all(|pod| pod.address.starts_with("10.50.100."));
    Ok(Verdict::new(good && pods.len() == 2, "two addresses of 10.50.100.x", seen.join(", ")))
}

/// A pod of the first DaemonSet.
struct First {
    name: String,
    node: String,
    address: String,
}

fn firsts(access: &Access) -> Result<Vec<First>> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let pods = access.list("pods -l app=first")?;
    let pods = pods.iter().map(|pod| First {
        name: text(&pod["metadata"]["name"]),
        node: text(&pod["spec"]["nodeName"]),
        address: text(&pod["status"]["podIP"]),
    });
    Ok(pods.collect())
}

fn node_address(access: &Access, node: &str) -> Result<String> {
    access.field(&format!("node/{node}"), "{.status.addresses[?(@.type==\"InternalIP\")].address}")
}

fn traffic(access: &Access) -> Result<Verdict> {
    let pods = firsts(access)?;
    for pod in &pods {
        for other in pods.iter().filter(|other| other.name != pod.name) {
            ping(access, &pod.name, &other.address)?;
            ping(access, &pod.name, &node_address(access, &other.node)?).context("to the other's node")?;
        }
        ping(access, &pod.name, &node_address(access, &pod.node)?).context("to its own node")?;
        ping(access, &pod.name, "10.50.0.1").context("to the router")?;
    }
    Ok(Verdict::new(pods.len() > 1, "all answer", format!("0% packet loss from {} pods", pods.len())))
}

fn from_nodes(access: &Access) -> Result<Verdict> {
    let pods = firsts(access)?;
    for pod in &pods {
        let answer = access.on(&pod.node, &["ping", "-c", "2", "-W", "2", &pod.address])?.expect_success();
        answer.with_context(|| format!("{} -> {}", pod.node, pod.address))?;
    }
    done(Ok(format!("{} pods answer", pods.len())), "answers")
}

fn cluster_ip(access: &Access) -> Result<Verdict> {
    let service = access.field("service/first", "{.spec.clusterIP}")?;
    let pods = firsts(access)?;
    for pod in &pods {
        // Both backends: kube-proxy chooses one by chance.
        for _ in 0..6 {
            let answer = access.exec(&pod.name, &format!("curl -s -m 5 http://{service}/"))?;
            ensure!(answer.contains("peer: "), "{} -> {service}: {answer}", pod.name);
        }
    }
    Ok(Verdict::new(!pods.is_empty(), "12 answers", format!("{} answers of {service}", 6 * pods.len())))
}
