//! Three controllers with one Secret: rotation and rollover without a refused call, repair of what is broken.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use k8s_api::SpiderIPPool;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;

use crate::world::{BOTH, Replica, api_server, eventually, object};

/// How old what an API server believes may be.
const SETTLE: Duration = Duration::from_secs(3);
const SECRET: &str = "spiderpool-controller-server-certs";

fn secrets(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), "kube-system")
}

fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| String::from_utf8(value.0.clone()).unwrap()).unwrap_or_default()
}

async fn bundles(client: &Client) -> Vec<String> {
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone()).get("spiderpool-controller").await.unwrap();
    let validating =
        Api::<ValidatingWebhookConfiguration>::all(client.clone()).get("spiderpool-controller").await.unwrap();
    let bundle = |bundle: Option<ByteString>| String::from_utf8(bundle.unwrap_or_default().0).unwrap();
    let mutating = mutating.webhooks.unwrap().into_iter().map(|webhook| bundle(webhook.client_config.ca_bundle));
    let validating = validating.webhooks.unwrap().into_iter().map(|webhook| bundle(webhook.client_config.ca_bundle));
    mutating.chain(validating).collect()
}

/// A handshake as the API server makes it; returns the leaf that was shown.
async fn handshake(address: SocketAddr, bundle: &str) -> std::io::Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("spiderpool-controller.kube-system.svc").unwrap();
    let socket = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(client)).connect(name, socket).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// A pool that the webhook refuses; a dry run.
async fn refused(client: &Client) -> Result<(), String> {
    let wrong = json!({"spec": {"subnet": "10.9.0.0/24", "ips": ["10.8.0.1"]}});
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match Api::<SpiderIPPool>::all(client.clone()).create(&params, &object("wrong", wrong)).await {
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_rotated_and_rolled_over_without_a_refused_call() {
    let (client, _server) = api_server().await;
    let short = |settings: &mut controller::settings::Settings| {
        settings.tls.ca_validity = Duration::from_secs(36);
        settings.tls.leaf_validity = Duration::from_secs(24);
        settings.tls.settle = SETTLE;
    };
    let first = Replica::start(&client, "a", None, BOTH, &[], short).await;
    let url = format!("https://{}", first.webhook);
    let (second, third) = tokio::join!(
        Replica::start(&client, "b", Some(&url), BOTH, &[], short),
        Replica::start(&client, "c", Some(&url), BOTH, &[], short),
    );
    let replicas = [first, second, third];
    for replica in &replicas {
        replica.ready().await;
    }
    let (mut leaves, mut cas, mut both, mut handshakes) = (HashSet::new(), HashSet::new(), false, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        // What was trusted before a handshake, and not only what is trusted after it.
        let (before, read) = (bundles(&client).await, Instant::now());
        refused(&client).await.unwrap_or_else(|error| panic!("after {:?}: {error}", begun.elapsed()));
        for replica in &replicas {
            let shown = handshake(replica.webhook, &before[0]).await;
            if read.elapsed() < SETTLE {
                handshakes += 1;
                leaves.insert(shown.unwrap_or_else(|error| panic!("after {:?}: {error}", begun.elapsed())));
            }
            assert_eq!(replica.readiness.check(), Ok(()), "after {:?}", begun.elapsed());
        }
        let ca = text(&secrets(&client).get(SECRET).await.unwrap(), "ca.crt");
        let count = ca.matches("BEGIN CERTIFICATE").count();
        both |= count == 2;
        cas.extend(CertificateDer::pem_slice_iter(ca.as_bytes()).map(|ca| ca.unwrap().to_vec()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told = format!("{handshakes} handshakes, {} leaves, {} CAs, both at once: {both}", leaves.len(), cas.len());
    assert!(handshakes >= 30 && leaves.len() >= 3 && cas.len() >= 2 && both, "{told}");
    println!("{told}");
    for replica in replicas {
        replica.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_is_kept_over_restarts_and_what_is_broken_is_replaced() {
    let (client, _server) = api_server().await;
    let quick = |settings: &mut controller::settings::Settings| settings.tls.settle = Duration::from_secs(1);
    let first = Replica::start(&client, "a", None, BOTH, &[], quick).await;
    first.ready().await;
    let made = secrets(&client).get(SECRET).await.unwrap();
    assert_eq!(made.type_.as_deref(), Some("kubernetes.io/tls"));
    first.end().await;

    let again = Replica::start(&client, "a2", None, BOTH, &[], quick).await;
    again.ready().await;
    let kept = secrets(&client).get(SECRET).await.unwrap();
    assert_eq!((text(&kept, "ca.crt"), text(&kept, "ca.key")), (text(&made, "ca.crt"), text(&made, "ca.key")));

    // Corrupt, then gone: each time a new CA, in the webhook configurations too.
    let mut corrupt = kept.clone();
    for value in corrupt.data.get_or_insert_default().values_mut() {
        *value = ByteString(b"nonsense".to_vec());
    }
    let mut last = text(&kept, "ca.crt");
    for round in ["corrupt", "gone"] {
        match round {
            "corrupt" => drop(secrets(&client).replace(SECRET, &PostParams::default(), &corrupt).await.unwrap()),
            _ => drop(secrets(&client).delete(SECRET, &DeleteParams::default()).await.unwrap()),
        }
        let ca = eventually(&format!("a new CA after the Secret was {round}"), || async {
            let ca = text(&secrets(&client).get_opt(SECRET).await.unwrap()?, "ca.crt");
            (ca.contains("BEGIN CERTIFICATE") && ca != last).then_some(ca)
        })
        .await;
        eventually("the configurations name it", || async {
            bundles(&client).await.iter().all(|bundle| *bundle == ca).then_some(())
        })
        .await;
        eventually("the webhook is called", || async { refused(&client).await.ok() }).await;
        handshake(again.webhook, &ca).await.unwrap();
        last = ca;
    }
    again.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_and_an_expired_certificate_is_recovered_from() {
    use controller::certificates::authority::{Plan, Policy, plan};
    let (client, _server) = api_server().await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let names = ["127.0.0.1", "spiderpool-controller.kube-system.svc"].map(str::to_owned).to_vec();
    let day = Duration::from_secs(86_400);
    let policy = Policy { names, ca_validity: day, leaf_validity: day, settle: Duration::ZERO };
    let write = |made_at: i64| {
        let Plan::Write(material, _) = plan(&policy, None, made_at, false).unwrap() else { panic!("nothing made") };
        for (name, text) in [("ca.crt", &material.ca), ("tls.crt", &material.cert), ("tls.key", &material.key)] {
            std::fs::write(at(name), text).unwrap();
        }
        material
    };
    let now = controller::certificates::x509::now();
    write(now - 10 * 86_400);
    let replica = Replica::start(&client, "a", None, BOTH, &[], |settings| {
        settings.flags.tls_server_cert = Some(at("tls.crt"));
        settings.flags.tls_server_key = Some(at("tls.key"));
    })
    .await;
    // Expired: never ready, and alive.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let reason = replica.readiness.check().unwrap_err();
    assert!(reason.contains("the webhook server to answer under a trusted certificate"), "{reason}");
    assert!(refused(&client).await.unwrap_err().contains("webhook"));

    let renewed = write(now);
    replica.ready().await;
    eventually("the webhook is called", || async { refused(&client).await.ok() }).await;
    handshake(replica.webhook, &renewed.ca).await.unwrap();
    assert_eq!(secrets(&client).get_opt(SECRET).await.unwrap(), None, "none of our own beside the operator's");
    replica.end().await;
}

/// `spiderpoolController.tls.method: provided`: certificate and CA are exchanged for those of another authority.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_authority_are_taken_without_a_pause() {
    use controller::certificates::authority::{Plan, Policy, plan};
    let (client, _server) = api_server().await;
    let dir = tempfile::tempdir().unwrap();
    let names = ["127.0.0.1", "spiderpool-controller.kube-system.svc"].map(str::to_owned).to_vec();
    let day = Duration::from_secs(86_400);
    let policy = Policy { names, ca_validity: day, leaf_validity: day, settle: Duration::ZERO };
    let make = || {
        let plan = plan(&policy, None, controller::certificates::x509::now(), false).unwrap();
        let Plan::Write(material, _) = plan else { panic!("nothing made") };
        material
    };
    let (first, other) = (make(), make());
    mount(dir.path(), "v1", &first);
    let replica = Replica::start(&client, "a", None, BOTH, &[], |settings| {
        settings.flags.tls_server_cert = Some(dir.path().join("tls.crt"));
        settings.flags.tls_server_key = Some(dir.path().join("tls.key"));
    })
    .await;
    replica.ready().await;
    refused(&client).await.unwrap();

    mount(dir.path(), "v2", &other);
    let ready = || assert_eq!(replica.readiness.check(), Ok(()));
    eventually("the certificate of the other authority is shown", || async {
        ready();
        handshake(replica.webhook, &other.ca).await.ok()
    })
    .await;
    eventually("the webhook is called", || async {
        ready();
        refused(&client).await.ok()
    })
    .await;
    // A replica whose mount still has the old files is called too.
    for bundle in bundles(&client).await {
        assert!(bundle.contains(other.ca.trim()) && bundle.contains(first.ca.trim()), "{bundle}");
    }
    ready();
    replica.end().await;
}

/// What cert-manager's CA injector does, which reads the Secret that the files are mounted from.
async fn inject(client: &Client, ca: &str) {
    let ca = ByteString(ca.as_bytes().to_vec());
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let mut found = mutating.get("spiderpool-controller").await.unwrap();
    found.webhooks.iter_mut().flatten().for_each(|webhook| webhook.client_config.ca_bundle = Some(ca.clone()));
    mutating.replace("spiderpool-controller", &PostParams::default(), &found).await.unwrap();
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let mut found = validating.get("spiderpool-controller").await.unwrap();
    found.webhooks.iter_mut().flatten().for_each(|webhook| webhook.client_config.ca_bundle = Some(ca.clone()));
    validating.replace("spiderpool-controller", &PostParams::default(), &found).await.unwrap();
}

/// The files of a mounted Secret as the kubelet exchanges them: a new folder, and one rename.
fn mount(dir: &std::path::Path, version: &str, material: &controller::certificates::authority::Material) {
    let data = dir.join(version);
    std::fs::create_dir(&data).unwrap();
    for (name, text) in [("ca.crt", &material.ca), ("tls.crt", &material.cert), ("tls.key", &material.key)] {
        std::fs::write(data.join(name), text).unwrap();
        let link = dir.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(std::path::Path::new("..data").join(name), link).unwrap();
        }
    }
    std::os::unix::fs::symlink(version, dir.join("..new")).unwrap();
    std::fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
}

/// `spiderpoolController.tls.method: certmanager`.
#[tokio::test(flavor = "multi_thread")]
async fn with_cert_manager_no_ca_is_made_or_written_and_a_renewed_certificate_is_shown_without_a_restart() {
    use controller::certificates::authority::{Plan, Policy, plan};
    let (client, _server) = api_server().await;
    let dir = tempfile::tempdir().unwrap();
    let names = ["127.0.0.1", "spiderpool-controller.kube-system.svc"].map(str::to_owned).to_vec();
    let day = Duration::from_secs(86_400);
    let policy = Policy { names, ca_validity: 10 * day, leaf_validity: day, settle: Duration::ZERO };
    let make = |known: Option<&controller::certificates::authority::Material>, now: i64| {
        let Plan::Write(material, _) = plan(&policy, known, now, false).unwrap() else { panic!("nothing made") };
        material
    };
    let now = controller::certificates::x509::now();
    let first = make(None, now - 20 * 3600);
    mount(dir.path(), "v1", &first);
    let env = [("SPIDERPOOL_WEBHOOK_CA_INJECTED", "true")];
    let replica = Replica::start(&client, "a", None, BOTH, &env, |settings| {
        settings.flags.tls_server_cert = Some(dir.path().join("tls.crt"));
        settings.flags.tls_server_key = Some(dir.path().join("tls.key"));
    })
    .await;
    // Its certificate is shown; who is trusted is not its to say, although the CA lies beside the certificate.
    let leaf = eventually("the certificate of the files is shown", || async {
        handshake(replica.webhook, &first.ca).await.ok()
    })
    .await;
    eventually("it says what it waits for", || async {
        let reason = replica.readiness.check().err()?;
        reason.contains("the webhook server to answer under a trusted certificate").then_some(())
    })
    .await;
    assert!(bundles(&client).await.iter().all(String::is_empty));
    inject(&client, &first.ca).await;
    replica.ready().await;
    eventually("the webhook is called", || async { refused(&client).await.ok() }).await;

    // Renewed under the same authority: the files are read again.
    let renewed = make(Some(&first), now);
    mount(dir.path(), "v2", &renewed);
    let shown = eventually("the renewed certificate is shown", || async {
        let shown = handshake(replica.webhook, &first.ca).await.ok()?;
        (shown != leaf).then_some(shown)
    })
    .await;
    let pem = CertificateDer::from_pem_slice(renewed.cert.as_bytes()).unwrap();
    assert_eq!(shown, pem.to_vec());
    assert_eq!(replica.readiness.check(), Ok(()));

    // Under another one: its injector says so, and what it says stays.
    let other = make(None, now);
    mount(dir.path(), "v3", &other);
    inject(&client, &other.ca).await;
    eventually("the certificate of the other authority is shown", || async {
        assert_eq!(replica.readiness.check(), Ok(()));
        handshake(replica.webhook, &other.ca).await.ok()
    })
    .await;
    eventually("the webhook is called", || async { refused(&client).await.ok() }).await;
    // Long enough for a replica to notice that its certificate is not trusted, if it still believes the old CA.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(17) {
        assert_eq!(replica.readiness.check(), Ok(()), "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(bundles(&client).await.iter().all(|bundle| *bundle == other.ca), "what was injected stays");
    assert_eq!(secrets(&client).get_opt(SECRET).await.unwrap(), None, "none of our own");
    replica.end().await;
}
