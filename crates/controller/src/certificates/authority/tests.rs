//! Years of a Secret in no time. The judge is the verifier of a TLS client, not our own reading.

use super::*;

const DAY: i64 = 86_400;
const START: i64 = 1_800_000_000;

fn policy() -> Policy {
    Policy {
        names: vec!["c.ns.svc".to_owned(), "127.0.0.1".to_owned()],
        ca_validity: Duration::from_secs(90 * 86_400),
        leaf_validity: Duration::from_secs(9 * 86_400),
        settle: Duration::from_secs(30),
    }
}

fn written(plan: Plan) -> (Material, String) {
    match plan {
        Plan::Write(material, why) => (material, why),
        other => panic!("{other:?} writes nothing"),
    }
}

fn made() -> Material {
    written(plan(&policy(), None, START, false).unwrap()).0
}

fn cas(material: &Material) -> Vec<Parsed> {
    x509::chain("ca.crt", &material.ca).unwrap()
}

/// Whether a client that trusts `bundle` accepts what `shown` shows.
fn accepts(bundle: &str, shown: &Material, now: i64) -> Result<(), Fault> {
    let (_, leaf) = x509::pair(&shown.cert, &shown.key)?;
    // As Go's verifier does and webpki does not: the CA's own dates count.
    let roots: Vec<_> = x509::chain("ca.crt", bundle)?.into_iter().filter(|ca| ca.is_valid(now)).collect();
    x509::trusted(&leaf.der, &roots, &policy().names, now)
}

#[test]
fn what_is_good_is_kept() {
    let material = made();
    accepts(&material.ca, &material, START).unwrap();
    accepts(&material.ca, &material, START - 3500).unwrap(); // a clock that is behind
    assert_eq!(plan(&policy(), Some(&material), START + 5 * DAY, false).unwrap(), Plan::Keep);
}

#[test]
fn a_leaf_is_renewed_by_the_same_ca_before_it_expires() {
    let material = made();
    let (renewed, why) = written(plan(&policy(), Some(&material), START + 7 * DAY, false).unwrap());
    assert!(why.contains("the certificate expires at 2027-01-24"), "{why}");
    assert_eq!((&renewed.ca, &renewed.ca_key), (&material.ca, &material.ca_key));
    accepts(&material.ca, &renewed, START + 15 * DAY).unwrap();
}

#[test]
fn a_new_name_makes_a_new_leaf() {
    let material = made();
    let mut more = policy();
    more.names.push("more.example".to_owned());
    let (renewed, why) = written(plan(&more, Some(&material), START, false).unwrap());
    assert!(why.contains("more.example"), "{why}");
    assert_eq!(renewed.ca, material.ca);
}

#[test]
fn a_ca_is_rolled_over_in_steps_without_a_gap() {
    let (mut secret, mut configured) = (made(), String::new());
    let mut cas_seen = std::collections::HashSet::new();
    let mut settled_since = None;
    configured.clone_from(&secret.ca);
    for hour in (0..24 * 400).step_by(3) {
        let now = START + hour * 3600;
        // Replicas that have read the Secret an hour ago or now, API servers likewise.
        let before = (secret.clone(), configured.clone());
        let settled = settled_since.is_some_and(|since| now > since);
        match plan(&policy(), Some(&secret), now, settled).unwrap() {
            Plan::Keep => settled_since = None,
            Plan::Await(ca) => {
                assert!(secret.ca.contains(&ca));
                settled_since = settled_since.or(configured.contains(&ca).then_some(now));
            }
            Plan::Write(material, _) => {
                secret = material;
                settled_since = None;
            }
        }
        let changed = before.0 != secret || before.1 != secret.ca;
        for shown in [&before.0, &secret].into_iter().filter(|_| changed || hour % 48 == 0) {
            for trusted in [&before.1, &configured, &secret.ca] {
                accepts(trusted, shown, now).unwrap_or_else(|fault| panic!("hour {hour}: {fault:?}"));
            }
        }
        configured.clone_from(&secret.ca);
        cas_seen.insert(secret.ca_key.clone());
        assert!(cas(&secret).len() <= 2, "hour {hour}: old CAs are dropped");
    }
    assert!(cas_seen.len() >= 6, "400 days are several CAs of 90 days: {}", cas_seen.len());
}

#[test]
fn what_cannot_be_used_is_replaced_at_once_and_says_why() {
    let good = made();
    let later = START + 200 * DAY;
    let cases: [(&str, Material, i64, &str); 6] = [
        ("expired", good.clone(), later, "the CA has expired at 2027-04-15"),
        (
            "expired leaf",
            good.clone(),
            START + 20 * DAY,
            "certificate cannot be used: it cannot be trusted as c.ns.svc",
        ),
        ("corrupt leaf", Material { cert: "x".to_owned(), ..good.clone() }, START, "tls.crt holds no certificate"),
        ("wrong key", Material { key: made().key, ..good.clone() }, START, "the key cannot be used"),
        ("corrupt CA", Material { ca: "x".to_owned(), ..good.clone() }, START, "no certificate in ca.crt belongs to"),
        ("wrong clock", good.clone(), START - 10 * DAY, "a clock is wrong"),
    ];
    for (case, stored, now, text) in cases {
        let (material, why) = written(plan(&policy(), Some(&stored), now, false).unwrap());
        assert!(why.contains(text), "{case}: {why}");
        accepts(&material.ca, &material, now).unwrap_or_else(|fault| panic!("{case}: {fault:?}"));
    }
}

#[test]
fn a_secret_without_ca_key_is_taken_over_without_a_gap() {
    // As upstream's chart leaves it.
    let theirs = Material { ca_key: String::new(), ..made() };
    let (both, why) = written(plan(&policy(), Some(&theirs), START, false).unwrap());
    assert!(why.contains("ca.key is missing"), "{why}");
    assert_eq!((&both.cert, cas(&both).len()), (&theirs.cert, 2), "the leaf is still theirs, both CAs are trusted");
    let Plan::Await(ca) = plan(&policy(), Some(&both), START, false).unwrap() else { panic!("waits") };
    assert!(both.ca.starts_with(&ca));
    let (ours, _) = written(plan(&policy(), Some(&both), START, true).unwrap());
    accepts(&ca, &ours, START).unwrap();
}
