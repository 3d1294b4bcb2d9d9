//! The webhooks' certificate from elsewhere: the operator's own, and one of cert-manager's.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::product::{NAMESPACE, NETWORK, Product};
use crate::report::Verdict;

/// The Secret of the guide's example with cert-manager.
const SECRET: &str = "secret/spiderpool-cert-manager";

/// A pool that admission must refuse; the error says by what.
pub fn refusal(product: &Product<'_>) -> Result<String> {
    let pool = NETWORK.rsplit("---").next().unwrap_or_default();
    let wrong = pool.replace("name: rack", "name: wrong").replace("gateway: 10.50.0.1", "gateway: 10.50.0.256");
    Ok(format!("{:#}", product.access.apply(&wrong).err().context("a wrong pool was accepted")?))
}

/// Certificate, key and authority in PEM, as an operator has them.
fn certificate() -> Result<[String; 3]> {
    let mut authority = CertificateParams::new(Vec::<String>::new()).context("no authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().context("cannot make a key")?;
    let ca = authority.self_signed(&ca_key).context("cannot make an authority")?;
    let issuer = Issuer::new(authority, ca_key);
    let name = format!("spiderpool-controller.{NAMESPACE}.svc");
    let key = KeyPair::generate().context("cannot make a key")?;
    let params = CertificateParams::new(vec![name]).context("no certificate for that name")?;
    let made = params.signed_by(&key, &issuer).context("cannot make a certificate")?;
    Ok([made.pem(), key.serialize_pem(), ca.pem()])
}

/// The guide's commands for a certificate of the operator's.
pub fn provided(product: &Product<'_>) -> Result<Verdict> {
    let files = certificate()?;
    for (name, content) in ["tls.crt", "tls.key", "ca.crt"].iter().zip(&files) {
        product.write(name, content)?;
    }
    product.release(product.guides.upgrade.script("Certificates", 0)?, &product.chart(), &[])?;
    let used = product
        .play("kubectl -n kube-system get secret spiderpool-webhook -o jsonpath='{.data.ca\\.crt}' | base64 -d")?;
    ensure!(used.trim() == files[2].trim(), "the Secret has another authority than the operator's");
    let (passed, seen) = judged(product, &files[2])?;
    Ok(Verdict::new(passed, "a wrong pool refused by its field, the operator's authority in the webhooks", seen))
}

/// Whether the webhooks hold this authority, perhaps beside the one of before, and refuse a wrong pool under it.
fn judged(product: &Product<'_>, authority: &str) -> Result<(bool, String)> {
    let refused = refusal(product)?;
    let (mut count, mut holding) = (0, 0);
    for kind in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        let path = "{range .items[*].webhooks[*]}{.clientConfig.caBundle}{\"\\n\"}{end}";
        let list = format!("kubectl get {kind} -l app.kubernetes.io/name=spiderpool -o jsonpath='{path}'");
        for bundle in product.play(&list)?.lines() {
            count += 1;
            let bundle = STANDARD.decode(bundle).with_context(|| format!("{kind}: a caBundle that is not base64"))?;
            holding += usize::from(String::from_utf8_lossy(&bundle).contains(authority.trim()));
        }
    }
    let passed = refused.contains("spec.gateway") && count > 1 && holding == count;
    Ok((passed, format!("this authority in {holding} of {count} webhooks; {refused}")))
}

/// cert-manager itself beside the control plane. Ends with this value.
struct CertManager<'a> {
    product: &'a Product<'a>,
    processes: Vec<String>,
}

impl<'a> CertManager<'a> {
    fn start(product: &'a Product<'a>) -> Result<Self> {
        let options = product.access.cluster()?.options();
        let folder = options.kubernetes_dir.join("cert-manager");
        let mut kinds = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                // The source is a template of cert-manager's chart; only labels are filled in.
                let plain: Vec<&str> = text.lines().filter(|line| !line.contains("{{")).collect();
                kinds.push(plain.join("\n"));
            }
        }
        product.access.apply(&kinds.join("\n---\n"))?;
        product.access.kubectl("wait --for=condition=Established --timeout=60s crd/certificates.cert-manager.io")?;
        let mut running = Self { product, processes: Vec::new() };
        for name in ["controller", "cainjector"] {
            let program = folder.join(name).display().to_string();
            let log = options.log_dir.join(format!("cert-manager-{name}.log")).display().to_string();
            let script = "\"$0\" --leader-elect=false --kubeconfig=\"$KUBECONFIG\" > \"$1\" 2>&1 & echo $!";
            let pid = product.access.words(&["sh", "-c", script, &program, &log])?;
            running.processes.push(pid.trim().to_owned());
        }
        Ok(running)
    }
}

impl Drop for CertManager<'_> {
    fn drop(&mut self) {
        for pid in &self.processes {
            // A process that ended by itself is what the check has failed of.
            let _ = self.product.access.outcome(&["kill", pid]);
        }
        let kinds = "certificaterequests certificates challenges.acme clusterissuers issuers orders.acme";
        for kind in kinds.split(' ') {
            let _ = self.product.access.kubectl(&format!("delete crd {kind}.cert-manager.io --wait=false"));
        }
        let _ = self.product.access.kubectl(&format!("-n {NAMESPACE} delete {SECRET} --ignore-not-found"));
    }
}

/// The guide's commands for a certificate of cert-manager's, and the way back.
pub fn of_cert_manager(product: &Product<'_>) -> Result<Verdict> {
    let _running = CertManager::start(product)?;
    product.release(product.guides.upgrade.script("Certificates", 1)?, &product.chart(), &[])?;
    // cert-manager writes the authority into the configurations when it sees them: that is not Helm's to wait for.
    let seen = product.access.until("the authority of cert-manager", Duration::from_secs(60), || {
        let read = format!("kubectl -n {NAMESPACE} get {SECRET} -o jsonpath='{{.data.ca\\.crt}}' | base64 -d");
        let used = product.play(&read)?;
        let (passed, seen) = judged(product, &used)?;
        Ok(passed.then_some(seen))
    })?;
    let back = rolled_back(product)?;
    Ok(Verdict::new(back.passed(), "a wrong pool refused by its field, cert-manager's authority in the webhooks", seen))
}

/// The guide's way back from an upgrade.
pub fn rolled_back(product: &Product<'_>) -> Result<Verdict> {
    product.play(product.guides.upgrade.script("Back", 0)?)?;
    product.rolled_out()?;
    let refused = product.access.until("admission", Duration::from_secs(60), || {
        Ok(Some(refusal(product)?).filter(|refused| refused.contains("spec.gateway")))
    })?;
    let method = product.helm(&["get", "values", "spiderpool", "-n", NAMESPACE, "-o", "json"])?.expect_success()?;
    let before = !method.contains("provided") && !method.contains("certmanager");
    Ok(Verdict::new(before, "the values of before, a wrong pool refused by its field", refused))
}
