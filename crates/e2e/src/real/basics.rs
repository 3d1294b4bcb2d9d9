//! Before the product comes in: the cluster itself does what one expects of a Kubernetes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Access, done};
use crate::report::{Report, Verdict};

/// The application under the very image name that the guide uses, and a Service for it.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: docker.io/centos/tools
        imagePullPolicy: IfNotPresent
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: 80}]}
"#;

/// The chapter.
pub fn tell(access: &Access, report: &mut Report) {
    report.chapter("The cluster by itself");
    report.check("B1", "every node is ready and has an InternalIP", nodes(access));
    report.check("B2", "a Deployment of the application's image rolls out", roll_out(access));
    report.check("B3", "kubectl exec, and pods that reach each other over the nodes", pods(access));
    report.check("B4", "kubectl logs", logs(access));
    report.check("B5", "a ClusterIP answers in a pod, with the pod's address as peer", cluster_ip(access));
    if access.cluster().is_ok() {
        report.check("B6", "a ClusterIP answers on every node", cluster_ip_on_nodes(access));
    }
    report.check("B7", "kubeadm-config tells the ranges that are in use", ranges(access));
    report.check("B8", "pods go when their Deployment goes", gone(access));
}

fn nodes(access: &Access) -> Result<Verdict> {
    let mut seen = Vec::new();
    for node in access.list("nodes")? {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        ensure!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "node {name} is not ready");
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
        let address = internal.and_then(|address| address["address"].as_str());
        let info = &node["status"]["nodeInfo"];
        seen.push(format!(
            "{name} {} kubelet {} {}",
            address.with_context(|| format!("node {name} has no InternalIP"))?,
            info["kubeletVersion"].as_str().unwrap_or_default(),
            info["containerRuntimeVersion"].as_str().unwrap_or_default()
        ));
    }
    Ok(Verdict::new(!seen.is_empty(), "Ready, InternalIP", seen.join(", ")))
}

fn roll_out(access: &Access) -> Result<Verdict> {
    access.apply(WEB)?;
    let rolled = access.kubectl("rollout status deployment/web --timeout=50s");
    if let Err(error) = rolled {
        let events = access.kubectl("get events --sort-by=.lastTimestamp").unwrap_or_default();
        return Err(error.context(events));
    }
    done(rolled.map(|text| text.trim().lines().last().unwrap_or_default().to_owned()), "successfully rolled out")
}

/// Name, node and address of the application's pods.
fn web(access: &Access) -> Result<Vec<(String, String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = access.list("pods -l app=web")?;
    let of =
        |pod: &Value| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]), text(&pod["status"]["podIP"]));
    let pods: Vec<_> = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).map(of).collect();
    ensure!(pods.len() == 3, "there are {} pods app=web instead of 3", pods.len());
    Ok(pods)
}

fn pods(access: &Access) -> Result<Verdict> {
    let pods = web(access)?;
    let (from, here, _) = &pods[0];
    let nodes: std::collections::BTreeSet<&String> = pods.iter().map(|(_, node, _)| node).collect();
    for (name, _, address) in &pods[1..] {
        access.exec(from, &format!("ping -c 1 -W 5 {address}")).with_context(|| format!("{from} to {name}"))?;
    }
    Ok(Verdict::new(
        nodes.len() > 1,
        "pings between pods of two nodes",
        format!("{from} on {here} to {} others", pods.len() - 1),
    ))
}

fn logs(access: &Access) -> Result<Verdict> {
    let text = access.kubectl("logs deployment/web")?;
    Ok(Verdict::new(text.contains("app serves"), "the application's line", text.trim()))
}

/// The answer of the Service, asked in a place until it comes: rules follow endpoints with a delay.
fn answer(access: &Access, ask: impl Fn(&str) -> Result<String>) -> Result<String> {
    let url = format!("http://{}:8080/", access.field("service/web", "{.spec.clusterIP}")?);
    access.until(&format!("an answer of {url}"), Duration::from_secs(20), || ask(&url).map(Some))
}

fn cluster_ip(access: &Access) -> Result<Verdict> {
    let (pod, _, address) = web(access)?.swap_remove(0);
    let mut seen = String::new();
    // Among three endpoints one may be the pod itself, which sees the node instead.
    for _ in 0..20 {
        seen = answer(access, |url| access.exec(&pod, &format!("curl -s -m 5 {url}")))?;
        if seen.contains(&format!("peer: {address}\n")) {
            return Ok(Verdict::new(true, format!("peer: {address}"), seen.trim()));
        }
    }
    Ok(Verdict::new(false, format!("peer: {address}"), seen.trim()))
}

fn cluster_ip_on_nodes(access: &Access) -> Result<Verdict> {
    let nodes = access.cluster()?.options().nodes.clone();
    for node in &nodes {
        answer(access, |url| access.on(node, &["curl", "-s", "-m", "5", url])?.expect_success())
            .with_context(|| format!("on node {node}"))?;
    }
    Ok(Verdict::new(true, "an answer", format!("on {}", nodes.join(", "))))
}

fn ranges(access: &Access) -> Result<Verdict> {
    let text = access.words(&[
        "kubectl",
        "-n",
        "kube-system",
        "get",
        "configmap",
        "kubeadm-config",
        "-o",
        "jsonpath={.data.ClusterConfiguration}",
    ])?;
    let range = |key: &str| -> Result<ipnet::IpNet> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).with_context(|| format!("no {key}"))?;
        line.trim().parse().with_context(|| format!("{key}{line} is no range"))
    };
    let (pods, services) = (range("podSubnet:")?, range("serviceSubnet:")?);
    let pod: std::net::IpAddr = web(access)?[0].2.parse().context("a pod without an address")?;
    let service: std::net::IpAddr =
        access.field("service/web", "{.spec.clusterIP}")?.parse().context("a Service without an address")?;
    Ok(Verdict::new(
        pods.contains(&pod) && services.contains(&service),
        format!("pods in {pods}, Services in {services}"),
        format!("pod {pod}, Service {service}"),
    ))
}

fn gone(access: &Access) -> Result<Verdict> {
    access.kubectl("delete deployment/web service/web --wait")?;
    access.until("the pods app=web to go", Duration::from_secs(40), || {
        Ok(access.list("pods -l app=web")?.is_empty().then_some(()))
    })?;
    Ok(Verdict::new(true, "no pod app=web", "none"))
}
