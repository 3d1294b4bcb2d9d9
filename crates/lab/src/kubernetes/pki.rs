//! Certificates, keys and tokens of a cluster.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::addresses::Network;

/// Users with their groups: the components as kubeadm names them.
const USERS: [(&str, &str, &str); 4] = [
    ("admin", "kubernetes-admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", "system:node-proxier"),
];

/// Writes everything below `dir`: `pki/` and `kubeconfig/`.
pub fn write(dir: &Path, network: Network, nodes: &[String]) -> Result<()> {
    let pki = dir.join("pki");
    for sub in [&pki, &dir.join("kubeconfig")] {
        fs::create_dir_all(sub).with_context(|| format!("cannot make {}", sub.display()))?;
    }
    let ca_key = KeyPair::generate().context("cannot make a key")?;
    let ca = authority();
    save(&pki.join("ca.crt"), &ca.self_signed(&ca_key).context("cannot make the authority")?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().context("cannot make a key")?;
    let server = server(network)?.signed_by(&key, &issuer).context("cannot make the API server's certificate")?;
    save(&pki.join("apiserver.crt"), &server.pem())?;
    save(&pki.join("apiserver.key"), &key.serialize_pem())?;
    // Signs the tokens of ServiceAccounts, and checks them.
    let accounts = KeyPair::generate().context("cannot make a key")?;
    save(&pki.join("sa.key"), &accounts.serialize_pem())?;
    save(&pki.join("sa.pub"), &accounts.public_key_pem())?;
    let mut tokens = String::new();
    let mut user = |file: &str, name: &str, groups: &str| -> Result<()> {
        let token = token()?;
        tokens.push_str(&format!("{token},{name},{file},\"{groups}\"\n"));
        let text = kubeconfig(&network.api_server(), &pki.join("ca.crt"), &token);
        save(&kubeconfig_file(dir, file), &text)
    };
    for (file, name, groups) in USERS {
        user(file, name, groups)?;
    }
    for node in nodes {
        user(&format!("kubelet-{node}"), &format!("system:node:{node}"), "system:nodes")?;
    }
    save(&pki.join("tokens.csv"), &tokens)
}

/// The kubeconfig of a user.
pub fn kubeconfig_file(dir: &Path, user: &str) -> PathBuf {
    dir.join("kubeconfig").join(user)
}

fn kubeconfig(server: &str, ca: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: {server}\n    certificate-authority: {}\n\
         contexts:\n- name: lab\n  context: {{cluster: lab, user: lab}}\ncurrent-context: lab\nusers:\n- name: lab\n  user: {{token: {token}}}\n",
        ca.display()
    )
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn server(network: Network) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    for name in names {
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name).context("not a DNS name")?));
    }
    for address in [network.control_plane(), network.api_service()] {
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(address)));
    }
    Ok(params)
}

/// 128 random bits as hexadecimal digits.
fn token() -> Result<String> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn save(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new();
    file.write(true).create_new(true).mode(0o600);
    file.open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
