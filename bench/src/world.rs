//! The programs under measurement: an embedded API server or a cluster that is there, a controller, any number of agents, in a temporary
//! directory.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::Args;
use crate::api::Api;

/// A process that ends with this value.
pub struct Process {
    child: Child,
    /// What it is called in messages.
    pub name: String,
}

impl Process {
    fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Process identifier.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/PID/status` in KiB, such as `VmHWM` or `VmRSS`.
    pub fn status_kib(&self, key: &str) -> Result<u64> {
        status_kib(self.id(), key)
    }

    fn must_live(&mut self, log: &Path) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended: {status}\n{}", self.name, std::fs::read_to_string(log).unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of `/proc/PID/status` in KiB.
pub fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {key} of {pid}"))?;
    Ok(number.parse()?)
}

/// One agent and its socket.
pub struct Agent {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub socket: PathBuf,
    /// How long it took from start to ready.
    pub ready_after: Duration,
}

/// The API server and what runs on it. Fields end in this order.
pub struct World {
    controller: Option<Process>,
    /// Embedded: it ends with this value.
    _apiserver: Option<Process>,
    /// Processes of the API server and its storage.
    servers: Vec<u32>,
    dir: TempDir,
    bin: PathBuf,
    kubeconfig: PathBuf,
    /// A client of the API server.
    pub api: Api,
}

impl World {
    /// Starts an API server on an empty directory, or takes the cluster of KUBECONFIG and clears it; with the product's CRDs.
    pub async fn start(args: &Args) -> Result<Self> {
        let dir = TempDir::with_prefix("spiderpool-bench-")?;
        let (apiserver, kubeconfig, api) = if args.real {
            let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").context("KUBECONFIG names no cluster")?);
            (None, kubeconfig.clone(), Api::connect(&kubeconfig).await?)
        } else {
            let (apiserver, api) = embedded(args, dir.path()).await?;
            (Some(apiserver), dir.path().join("kubeconfig"), api)
        };
        api.install_crds(&args.repository.join("charts/spiderpool/crds")).await?;
        if args.real {
            api.clear().await?;
        }
        let servers = apiserver.as_ref().map_or_else(servers, |process| vec![process.id()]);
        let bin = args.bin_dir.clone();
        Ok(Self { controller: None, _apiserver: apiserver, servers, dir, bin, kubeconfig, api })
    }

    /// Starts the controller, which keeps the pools' status.
    pub fn start_controller(&mut self) -> Result<()> {
        let mut command = Command::new(self.bin.join("spiderpool-controller"));
        let config = self.dir.path().join("controller.yml");
        std::fs::write(&config, "enableIPv4: true\nenableIPv6: true\n")?;
        command.arg("daemon").arg("--config-path").arg(config);
        command.env("KUBECONFIG", &self.kubeconfig);
        command.env("SPIDERPOOL_POD_NAMESPACE", "kube-system").env("SPIDERPOOL_POD_NAME", "bench-controller");
        for name in ["SPIDERPOOL_HEALTH_PORT", "SPIDERPOOL_METRIC_HTTP_PORT"] {
            command.env(name, free_port()?.to_string());
        }
        // Addresses in use are here without pods.
        command.env("SPIDERPOOL_GC_IP_ENABLED", "false");
        // Its reconcilers wait until admission is in place; no chart has declared the webhooks here.
        let webhooks = free_port()?;
        command.env("SPIDERPOOL_WEBHOOK_PORT", webhooks.to_string());
        command.arg("--webhook-url").arg(format!("https://127.0.0.1:{webhooks}"));
        let log = self.dir.path().join("controller.log");
        self.controller = Some(Process::start("spiderpool-controller", command, &log)?);
        Ok(())
    }

    /// Starts the agent of a node and waits until it says that it is ready.
    pub async fn start_agent(&self, node: &str) -> Result<Agent> {
        let at = |suffix: &str| self.dir.path().join(format!("{node}{suffix}"));
        let socket = at(".sock");
        std::fs::write(
            at(".yml"),
            format!("ipamUnixSocketPath: {}\nenableIPv4: true\nenableIPv6: true\n", socket.display()),
        )?;
        let (health, metrics) = (free_port()?, free_port()?);
        let mut command = Command::new(self.bin.join("spiderpool-agent"));
        command.arg("daemon").arg("--config-path").arg(at(".yml"));
        command.env("KUBECONFIG", &self.kubeconfig);
        command.env("SPIDERPOOL_POD_NAMESPACE", "kube-system").env("SPIDERPOOL_POD_NAME", format!("agent-{node}"));
        command.env("SPIDERPOOL_NODE_NAME", node).env("MULTUS_CLUSTER_NETWORK", "kube-system/bench");
        command.env("SPIDERPOOL_HEALTH_PORT", health.to_string());
        command.env("SPIDERPOOL_METRIC_HTTP_PORT", metrics.to_string());
        command.env("SPIDERPOOL_GOPS_LISTEN_PORT", "");
        let started = Instant::now();
        let mut process = Process::start(&format!("agent of {node}"), command, &at(".log"))?;
        while !ready(health).await {
            process.must_live(&at(".log"))?;
            if started.elapsed() > Duration::from_secs(30) {
                bail!("{} is not ready\n{}", process.name, std::fs::read_to_string(at(".log"))?);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Agent { process, socket, ready_after: started.elapsed() })
    }

    /// Processor time of the API server and its storage until now; `None` where they run elsewhere.
    pub fn server_cpu(&self) -> Result<Option<Duration>> {
        let all: Result<Vec<Duration>> = self.servers.iter().map(|pid| cpu(*pid)).collect();
        Ok(Some(all?.iter().sum()).filter(|_| !self.servers.is_empty()))
    }

    /// Bytes of etcd's database in use; `None` where there is none that tells.
    pub async fn etcd_in_use(&self) -> Result<Option<u64>> {
        if self._apiserver.is_some() {
            return Ok(None);
        }
        let Some(text) = get(ETCD, "/metrics").await else { return Ok(None) };
        let name = "etcd_mvcc_db_total_size_in_use_in_bytes ";
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let bytes: f64 = value.with_context(|| format!("etcd does not tell {name}"))?.trim().parse()?;
        Ok(Some(bytes as u64))
    }
}

/// Where etcd tells its metrics on a control plane of the lab.
const ETCD: u16 = 2379;

/// Starts the embedded API server.
async fn embedded(args: &Args, dir: &Path) -> Result<(Process, Api)> {
    let at = |name: &str| dir.join(name);
    let port = free_port()?;
    let mut command = Command::new(args.bin_dir.join("spiderpool-apiserver"));
    command.arg("--data-dir").arg(at("data")).arg("--listen").arg(format!("127.0.0.1:{port}"));
    command.arg("--cert-dir").arg(at("certs"));
    command.arg("--kubeconfig-out").arg(at("kubeconfig"));
    let mut apiserver = Process::start("spiderpool-apiserver", command, &at("apiserver.log"))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        apiserver.must_live(&at("apiserver.log"))?;
        match Api::connect(&at("kubeconfig")).await {
            Ok(api) => return Ok((apiserver, api)),
            Err(error) if Instant::now() > deadline => return Err(error.context("the API server is not ready")),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// kube-apiserver and etcd, if both run in this process namespace.
fn servers() -> Vec<u32> {
    let running = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        ["kube-apiserver", "etcd"].contains(&name.trim()).then_some(pid)
    };
    let found: Vec<u32> = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(running).collect();
    if found.len() == 2 { found } else { Vec::new() }
}

fn cpu(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

async fn ready(port: u16) -> bool {
    get(port, "/v1/runtime/readiness").await.is_some()
}

/// What a server of this machine answers, if it is 200.
async fn get(port: u16, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.read_to_string(&mut answer).await.ok()?;
    (answer.split(' ').nth(1) == Some("200")).then_some(answer)
}

/// A port of the loopback interface that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
