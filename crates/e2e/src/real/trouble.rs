//! What operators do wrong, and what the product says to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use rcgen::{CertificateParams, Issuer, KeyPair};

use super::product::{NAMESPACE, NETWORK, Product};
use crate::report::{Report, Verdict};

/// A pool of its own and a pod that asks for it.
const SMALL: &str = "
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: small}
spec: {subnet: 10.50.0.0/16, ips: [10.50.101.1-10.50.101.3], gateway: 10.50.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: holder
  annotations: {ipam.spidernet.io/ippool: '{\"ipv4\":[\"small\"]}'}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never}]
";

/// A pod that asks for the same pool.
const LATE: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: late
  annotations: {ipam.spidernet.io/ippool: '{\"ipv4\":[\"small\"]}'}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: spiderpool.test/busybox, imagePullPolicy: Never}]
";

/// The chapter.
pub fn tell(product: &Product<'_>, report: &mut Report) {
    report.chapter("Trouble");
    report.check(
        "T1",
        "a pool is deleted with an address in use: it stays until the pod goes, and serves nobody",
        pool_deleted(product),
    );
    report.check("T2", "a namespace is deleted with its pods", namespace_deleted(product));
    report.check("T3", "a NetworkAttachmentDefinition is edited by hand", edited(product));
    report.check("T4", "the webhook's certificate is deleted", certificate(product, None));
    let garbage = ["bm90aGluZw=="; 2].map(str::to_owned);
    report.check("T5", "the webhook's certificate is replaced by garbage", certificate(product, Some(garbage)));
    let outcome = expired(product).and_then(|pair| certificate(product, Some(pair)));
    report.check("T6", "the webhook's certificate has expired", outcome);
    report.check("T7", "a role binding is missing: the agents say so, and go on once it is back", permission(product));
    let what = "the same for the controller";
    report.check("T7b", what, permission_of_controller(product));
    report.check("T8", "a kind is missing: the agents say so, helm upgrade brings it, and they go on", kind(product));
    report.check("T9", "API, kernel, pods and pools agree", product.agreement());
}

fn pool_deleted(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    access.apply(SMALL)?;
    product.ready("holder")?;
    access.kubectl("delete spiderippool small --wait=false")?;
    access.apply(LATE)?;
    let said = access.until("an event of the pod", Duration::from_secs(30), || {
        let events = access.list("events --field-selector involvedObject.name=late,type=Warning")?;
        let texts = events.iter().filter_map(|event| event["message"].as_str());
        Ok(texts.filter(|text| text.contains("small")).map(str::to_owned).next())
    })?;
    ensure!(!access.field("spiderippool/small", "{.metadata.deletionTimestamp}")?.is_empty(), "the pool is gone");
    ensure!(access.field("pod/late", "{.status.podIP}")?.is_empty(), "pod late has an address of a pool that goes");
    access.kubectl("delete pod holder late --wait")?;
    access.kubectl("wait spiderippool/small --for=delete --timeout=30s")?;
    Ok(Verdict::new(said.contains("small"), "the pool is named in the pod's event; then it goes", said))
}

fn namespace_deleted(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    access.kubectl("create namespace shop")?;
    access.kubectl("create deployment till -n shop --image=spiderpool.test/busybox:latest --replicas=4")?;
    let patch = r#"[{"op":"add","path":"/spec/template/spec/containers/0/imagePullPolicy","value":"Never"}]"#;
    access.words(&["kubectl", "-n", "shop", "patch", "deployment/till", "--type=json", "-p", patch])?;
    access.kubectl("-n shop rollout status deployment/till --timeout=60s")?;
    access.kubectl("delete namespace shop --wait --timeout=90s")?;
    ensure!(access.list("spiderendpoints -n shop")?.is_empty(), "SpiderEndpoints of namespace shop are left");
    product.agreement()
}

fn edited(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    let name = "network-attachment-definition/macvlan-eth1";
    let read = || access.words(&["kubectl", "-n", NAMESPACE, "get", name, "-o", "jsonpath={.spec.config}"]);
    let before = read()?;
    access.words(&["kubectl", "-n", NAMESPACE, "patch", name, "--type=merge", "-p", r#"{"spec":{"config":"{}"}}"#])?;
    access.until("it to be as declared", Duration::from_secs(30), || Ok((read()? == before).then_some(())))?;
    Ok(Verdict::new(true, "as the SpiderMultusConfig says", "put right"))
}

/// Where the webhook's certificate is.
const CERTIFICATE: &str = "secret/spiderpool-controller-server-certs";

/// A member of the Secret, as it is stored: base64.
fn of_secret(product: &Product<'_>, member: &str) -> Result<String> {
    let path = format!("jsonpath={{.data.{}}}", member.replace('.', "\\."));
    product.access.words(&["kubectl", "-n", NAMESPACE, "get", CERTIFICATE, "-o", &path])
}

/// Certificate and key as they are stored, of the webhook's own authority, for the right name, but out of date.
fn expired(product: &Product<'_>) -> Result<[String; 2]> {
    let pem = |member: &str| -> Result<String> {
        let bytes = BASE64.decode(of_secret(product, member)?).with_context(|| format!("{member} is not base64"))?;
        String::from_utf8(bytes).with_context(|| format!("{member} is no text"))
    };
    let ca_key = KeyPair::from_pem(&pem("ca.key")?).context("cannot read the key of the authority")?;
    let issuer = Issuer::from_ca_cert_pem(&pem("ca.crt")?, ca_key).context("cannot read the authority")?;
    let name = format!("spiderpool-controller.{NAMESPACE}.svc");
    let mut params = CertificateParams::new(vec![name]).context("no certificate for that name")?;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().context("cannot make a key")?;
    let made = params.signed_by(&key, &issuer).context("cannot make a certificate")?;
    Ok([made.pem(), key.serialize_pem()].map(|text| BASE64.encode(text)))
}

/// Admission works again without a word of the operator.
fn certificate(product: &Product<'_>, replaced: Option<[String; 2]>) -> Result<Verdict> {
    let access = product.access;
    let wrong = match replaced {
        None => {
            access.kubectl(&format!("-n {NAMESPACE} delete {CERTIFICATE}"))?;
            String::new()
        }
        Some([certificate, key]) => {
            let patch = format!(r#"{{"data":{{"tls.crt":"{certificate}","tls.key":"{key}"}}}}"#);
            access.words(&["kubectl", "-n", NAMESPACE, "patch", CERTIFICATE, "--type=merge", "-p", &patch])?;
            certificate
        }
    };
    let valid = access.until("a new certificate", Duration::from_secs(60), || {
        let text = of_secret(product, "tls.crt")?;
        // "-----BEGIN CERTIFICATE-----"
        Ok((text != wrong && text.starts_with("LS0tLS1CRUdJTi")).then_some(()))
    });
    valid?;
    let pool = NETWORK.rsplit("---").next().unwrap_or_default();
    let labelled = pool.replace("{name: rack}", "{name: rack, labels: {seen: by-admission}}");
    access.until("admission", Duration::from_secs(60), || access.apply(&labelled).map(Some))?;
    let wrong = pool.replace("name: rack", "name: wrong").replace("gateway: 10.50.0.1", "gateway: 10.50.0.256");
    let refused = format!("{:#}", access.apply(&wrong).err().context("a wrong pool was accepted")?);
    Ok(Verdict::new(
        refused.contains("spec.gateway"),
        "a right pool accepted, a wrong one refused by its field",
        refused,
    ))
}

fn permission(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    let name = "clusterrolebinding/spiderpool-agent";
    let manifest = access.kubectl(&format!("get {name} -o yaml"))?;
    access.kubectl(&format!("delete {name}"))?;
    let old = product.agent_on("worker")?;
    access.kubectl(&format!("-n {NAMESPACE} delete pod {old} --wait"))?;
    let said = access.until("the agent's words", Duration::from_secs(40), || {
        let agent = product.agent_on("worker")?;
        let log = access.kubectl(&format!("-n {NAMESPACE} logs {agent} -c spiderpool-agent --tail=200"))?;
        Ok(log.lines().find(|line| line.contains("is forbidden: User")).map(str::to_owned))
    });
    // Whatever it said: the cluster is to be whole again.
    access.apply(&manifest)?;
    let said = said?;
    product.roll_out("daemonset/spiderpool-agent")?;
    Ok(Verdict::new(said.contains("a permission is missing"), "what it may not, and what to do; then ready", said))
}

fn permission_of_controller(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    let name = "clusterrolebinding/spiderpool-controller";
    let manifest = access.kubectl(&format!("get {name} -o yaml"))?;
    access.kubectl(&format!("delete {name}"))?;
    let selector = "-l app.kubernetes.io/component=spiderpool-controller";
    access.kubectl(&format!("-n {NAMESPACE} delete pod {selector} --wait"))?;
    let said = access.until("the controller's words", Duration::from_secs(40), || {
        let log = access.kubectl(&format!("-n {NAMESPACE} logs {selector} --tail=200"))?;
        Ok(log.lines().find(|line| line.contains("is forbidden: User")).map(str::to_owned))
    });
    // Whatever it said: the cluster is to be whole again.
    access.apply(&manifest)?;
    let said = said?;
    product.roll_out("deployment/spiderpool-controller")?;
    Ok(Verdict::new(said.contains("a permission is missing"), "what it may not, and what to do; then ready", said))
}

/// A kind without objects; the agents want to know reserved addresses before they give any out.
fn kind(product: &Product<'_>) -> Result<Verdict> {
    let access = product.access;
    access.kubectl("delete crd spiderreservedips.spiderpool.spidernet.io --wait")?;
    let old = product.agent_on("worker")?;
    access.kubectl(&format!("-n {NAMESPACE} delete pod {old} --wait"))?;
    let said = access.until("the agent's words", Duration::from_secs(40), || {
        let agent = product.agent_on("worker")?;
        let log = access.kubectl(&format!("-n {NAMESPACE} logs {agent} -c spiderpool-agent --tail=200"))?;
        Ok(log.lines().find(|line| line.contains("reserved addresses")).map(str::to_owned))
    });
    // Whatever it said: the cluster is to be whole again.
    product.upgrade(&product.chart(), &[])?;
    product.rolled_out()?;
    let said = said?;
    Ok(Verdict::new(said.contains("custom resource definitions installed?"), "what is not there; then ready", said))
}
