//! Probes: asked from the node, as a real kubelet does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a probe found: nothing to complain about, or what.
pub type Finding = Result<(), String>;

/// The port that a probe names.
fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("container {} has no port {wanted:?}", container.name))
}

/// Asks once.
pub async fn ask(probe: &Probe, container: &Container, address: IpAddr) -> Finding {
    let limit = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    let question = async {
        if let Some(get) = &probe.http_get {
            let to = SocketAddr::new(address, port(&get.port, container)?);
            return http(get, to).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let to = SocketAddr::new(address, port(&tcp.port, container)?);
            return TcpStream::connect(to).await.map(drop).map_err(|error| format!("dial tcp {to}: {error}"));
        }
        Err("the lab's kubelet has only httpGet and tcpSocket probes".to_owned())
    };
    tokio::time::timeout(limit, question)
        .await
        .unwrap_or_else(|_| Err(format!("no answer from {address} within {} s", limit.as_secs())))
}

async fn http(get: &HTTPGetAction, to: SocketAddr) -> Finding {
    let path = get.path.as_deref().unwrap_or("/");
    let url = format!("http://{to}{path}");
    let failed = |error: std::io::Error| format!("Get {url:?}: {error}");
    let mut stream = TcpStream::connect(to).await.map_err(failed)?;
    let extra = get
        .http_headers
        .iter()
        .flatten()
        .map(|header| format!("{}: {}\r\n", header.name, header.value))
        .collect::<String>();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/lab\r\nConnection: close\r\n{extra}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = [0; 64];
    let mut length = 0;
    while length < answer.len() && !answer[..length].contains(&b'\n') {
        match stream.read(&mut answer[length..]).await.map_err(failed)? {
            0 => break,
            more => length += more,
        }
    }
    let line = String::from_utf8_lossy(&answer[..length]).into_owned();
    match line.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok()) {
        Some(200..400) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("Get {url:?}: no HTTP answer")),
    }
}

/// Counts findings up to the thresholds; tells when the verdict turns.
#[derive(Debug)]
pub struct Judge {
    good: bool,
    run: i32,
    success_threshold: i32,
    failure_threshold: i32,
}

impl Judge {
    /// A judge that begins with that verdict.
    pub fn new(probe: &Probe, good: bool) -> Self {
        Self {
            good,
            run: 0,
            success_threshold: probe.success_threshold.unwrap_or(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3),
        }
    }

    /// Takes a finding; the new verdict if it turned.
    pub fn take(&mut self, good: bool) -> Option<bool> {
        if good == self.good {
            self.run = 0;
            return None;
        }
        self.run += 1;
        let needed = if good { self.success_threshold } else { self.failure_threshold };
        if self.run < needed {
            return None;
        }
        self.run = 0;
        self.good = good;
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_turns_at_the_threshold_and_a_contrary_finding_starts_the_count_again() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(1), ..Default::default() };
        let mut judge = Judge::new(&probe, false);
        assert_eq!(judge.take(false), None);
        assert_eq!(judge.take(true), Some(true));
        assert_eq!(judge.take(false), None);
        assert_eq!(judge.take(true), None);
        assert_eq!(judge.take(false), None);
        assert_eq!(judge.take(false), Some(false));
    }

    #[test]
    fn a_port_may_be_named() {
        let ports = Some(vec![k8s_openapi::api::core::v1::ContainerPort {
            name: Some("http".into()),
            container_port: 80,
            ..Default::default()
        }]);
        let container = Container { name: "c".into(), ports, ..Default::default() };
        assert_eq!(port(&IntOrString::String("http".into()), &container), Ok(80));
        assert_eq!(port(&IntOrString::Int(8080), &container), Ok(8080));
        assert!(port(&IntOrString::String("dns".into()), &container).is_err());
    }
}
