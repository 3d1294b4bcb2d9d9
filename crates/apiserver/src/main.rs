//! `spiderpool-apiserver`: opens the store, listens, writes the kubeconfig, says when it is ready.
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use apiserver::listen::{Tokens, serve};
use apiserver::tls::{Identity, kubeconfig, write_secret};
use apiserver::{Options, Server};
use clap::Parser;
use jiff::SignedDuration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A Kubernetes API server in one process and one file.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Directory of the database, certificates and token.
    #[arg(long)]
    data_dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// File of bearer tokens: `token` or `token,user,uid[,groups]` per line. Without it one is made in the data directory.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Directory of `ca.crt` and `ca.key`, made if absent. Default: the data directory.
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// Where to write a kubeconfig.
    #[arg(long)]
    kubeconfig_out: Option<PathBuf>,
    /// Address or name, with or without port, at which clients reach the server. Default: the listen address.
    #[arg(long)]
    advertise: Option<String>,
    /// Ranges of ClusterIPs: IPv4, IPv6 or both, the first is the primary family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/12")]
    service_cluster_ip_range: Vec<String>,
    /// Range of node ports.
    #[arg(long, default_value = "30000-32767")]
    service_node_port_range: String,
    /// How long Events are kept after their last write, such as 1h or 1h30m; 0s keeps them for ever.
    #[arg(long, default_value = "1h", value_parser = duration)]
    event_ttl: Duration,
    /// Least severity of log lines: debug, info, warn, error.
    #[arg(long, default_value = "info")]
    log_level: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    daemon::log::start(daemon::log::level(&flags.log_level)?).context("logging")?;
    let listener = TcpListener::bind(flags.listen).await.with_context(|| format!("--listen {}", flags.listen))?;
    let port = listener.local_addr()?.port();
    let advertise = advertised(&flags, port);
    let server = Server::open(Options {
        data_dir: Some(flags.data_dir.clone()),
        service_ranges: flags.service_cluster_ip_range.clone(),
        node_ports: port_range(&flags.service_node_port_range)?,
        event_ttl: flags.event_ttl,
        advertise: advertise.clone(),
        ..Options::default()
    })
    .await?;
    let names = certificate_names(&flags, &advertise);
    let identity = Identity::open(flags.cert_dir.as_ref().unwrap_or(&flags.data_dir), &names)?;
    let (token, tokens) = tokens(&flags)?;
    let url = format!("https://{advertise}");
    if let Some(path) = &flags.kubeconfig_out {
        let text = kubeconfig(&url, &identity.ca_pem, &token);
        write_secret(path, &text).with_context(|| format!("--kubeconfig-out {}", path.display()))?;
    }
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    if let Ok(address) = advertise.parse() {
        apiserver::publish::publish(&server, address).await;
    }
    println!("spiderpool-apiserver ready at {url}");
    let closing = server.clone();
    let serving = serve(server, listener, Some(identity.config), tokens, stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        _ = interrupt.recv() => { stop.cancel(); serving.await; }
        _ = terminate.recv() => { stop.cancel(); serving.await; }
    }
    closing.close().await;
    Ok(())
}

/// `host:port` of the server for its clients.
fn advertised(flags: &Flags, port: u16) -> String {
    let bracketed = |ip: IpAddr| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    match &flags.advertise {
        Some(text)
            if text.parse::<IpAddr>().is_err()
                && text.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) =>
        {
            text.clone()
        }
        Some(text) => format!("{}:{port}", text.parse().map_or_else(|_| text.clone(), bracketed)),
        None if flags.listen.ip().is_unspecified() => format!("127.0.0.1:{port}"),
        None => format!("{}:{port}", bracketed(flags.listen.ip())),
    }
}

fn certificate_names(flags: &Flags, advertise: &str) -> Vec<String> {
    let host = advertise.rsplit_once(':').map_or(advertise, |(host, _)| host).trim_matches(['[', ']']);
    let mut names = vec![
        host.to_owned(),
        flags.listen.ip().to_string(),
        "localhost".into(),
        "127.0.0.1".into(),
        "::1".into(),
        "kubernetes".into(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
        "kubernetes.default.svc.cluster.local".into(),
    ];
    names.sort();
    names.dedup();
    names
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().map_err(|error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "it is negative".to_owned())
}

fn port_range(text: &str) -> anyhow::Result<(u16, u16)> {
    let parsed = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match parsed {
        Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
        _ => anyhow::bail!("--service-node-port-range {text:?}: want FIRST-LAST, such as 30000-32767"),
    }
}

/// The administrator's token for the kubeconfig, and all that are accepted.
fn tokens(flags: &Flags) -> anyhow::Result<(String, Tokens)> {
    let path = flags.token_file.clone().unwrap_or_else(|| flags.data_dir.join("token"));
    if flags.token_file.is_none() && !path.exists() {
        let token = uuid::Uuid::new_v4().simple().to_string();
        write_secret(&path, &format!("{token}\n")).with_context(|| format!("token file {}", path.display()))?;
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("token file {}", path.display()))?;
    let tokens = Tokens::parse(&text);
    anyhow::ensure!(!tokens.is_empty(), "token file {}: no token in it", path.display());
    let first = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#')).unwrap_or_default();
    Ok((first.split(',').next().unwrap_or_default().trim_matches('"').to_owned(), tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_that_kube_apiserver_takes() {
        for (text, seconds) in [("1h0m0s", 3600), ("1h", 3600), ("1h30m", 5400), ("90s", 90), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["-1h", "", "soon", "5"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
