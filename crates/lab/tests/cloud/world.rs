//! A cloud for one test: namespaces, the switch, both machines as cloud-init leaves them, and the processes that a test
//! starts. Everything goes when it is dropped, also when the test fails.

use lab::control::Client;
use lab::gateway;
use lab::netns::{self, Netns};
use lab::vpc::config::Config;
use lab::vpc::counters::{Reason, Report};
use lab::vpc::reference;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const LAB: &str = env!("CARGO_BIN_EXE_spiderpool-lab");
const DEADLINE: Duration = Duration::from_secs(20);
static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Cloud {
    prefix: String,
    pub config: Config,
    pub dir: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Cloud {
    pub fn start() -> Self {
        let prefix = format!("spiderpool-t{}-{}-", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let config = reference::config(&prefix, dir.path().join("vpc.sock"));
        let mut cloud = Self { prefix, config, dir, processes: Vec::new() };
        cloud.build();
        cloud
    }

    fn build(&mut self) {
        gateway::create_namespaces(&self.prefix).unwrap();
        for instance in &self.config.instances {
            Netns::create(&instance.netns).unwrap();
        }
        self.config.write(&self.config_file()).unwrap();
        let mut vpc = Command::new(LAB);
        vpc.arg("vpc").arg("--config").arg(self.config_file());
        self.spawn_until_ready(vpc);
        gateway::configure(&self.prefix, &self.config).unwrap();
        for instance in &self.config.instances {
            gateway::cloud_init(&self.config, instance).unwrap();
        }
    }

    pub fn config_file(&self) -> std::path::PathBuf {
        self.dir.path().join("cloud.json")
    }

    /// `master`, `worker`, `client`, ...
    pub fn netns(&self, name: &str) -> Netns {
        Netns::named(format!("{}{name}", self.prefix))
    }

    /// One more namespace that goes with the cloud.
    pub fn pod(&self, name: &str) -> Netns {
        Netns::create(format!("{}{name}", self.prefix)).unwrap()
    }

    pub fn vpc(&self) -> Client {
        Client::new(&self.config.control)
    }

    pub fn counters(&self) -> Report {
        self.vpc().get("/counters").unwrap()
    }

    pub fn dropped(&self, reason: Reason) -> u64 {
        self.counters().dropped(reason)
    }

    pub fn outside_prefix(&self) -> &str {
        &self.prefix
    }

    /// Starts a process that is ended with the cloud.
    pub fn spawn(&mut self, mut command: Command) -> usize {
        let log = File::create(self.dir.path().join(format!("{}.log", self.processes.len()))).unwrap();
        self.processes.push(command.stderr(log).spawn().unwrap());
        self.processes.len() - 1
    }

    /// Starts a process and waits for the line that says that it is ready.
    pub fn spawn_until_ready(&mut self, mut command: Command) -> usize {
        command.stdout(Stdio::piped());
        let number = self.spawn(command);
        let mut line = String::new();
        BufReader::new(self.processes[number].stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = || std::fs::read_to_string(self.dir.path().join(format!("{number}.log"))).unwrap();
        assert!(line.contains(" ready: "), "said `{line}`: {}", log());
        number
    }

    /// Ends one of the processes.
    pub fn stop(&mut self, number: usize) {
        self.processes[number].kill().unwrap();
        self.processes[number].wait().unwrap();
    }

    /// The application in a namespace; returns when it listens.
    pub fn app(&mut self, place: &str, port: u16) -> usize {
        let ns = self.netns(place);
        let mut command = ns.command(LAB);
        command.args(["app", "--name", place, "--listen", &format!("[::]:{port}")]);
        let number = self.spawn(command);
        eventually("the application listens", || {
            ns.run(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).unwrap()
        });
        number
    }

    /// Whether one echo request with this source, if any, is answered within a second: for what must not pass.
    pub fn ping(&self, from: &str, source: Option<&str>, to: &str) -> bool {
        self.echo(from, source, to, "1")
    }

    /// Whether an echo request is answered. The first is, unless the neighbour is still looked
    /// for from an attempt that was not to pass (three questions, one a second, and then what waits is given up).
    pub fn reaches(&self, from: &str, source: Option<&str>, to: &str) -> bool {
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            if self.echo(from, source, to, "10") {
                return true;
            }
        }
        false
    }

    fn echo(&self, from: &str, source: Option<&str>, to: &str, seconds: &str) -> bool {
        let mut command = self.netns(from).command("ping");
        command
            .args(["-n", "-c", "1", "-W", seconds])
            .args(source.into_iter().flat_map(|source| ["-I", source]))
            .arg(to);
        command.output().unwrap().status.success()
    }

    /// What curl prints; with an error what it says.
    pub fn curl(&self, from: &str, words: &[&str]) -> Result<String, String> {
        let mut command = self.netns(from).command("curl");
        command.args(["-sS", "--max-time", "5", "--noproxy", "*"]).args(words);
        netns::output(&mut command).map_err(|error| error.to_string())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = gateway::delete_namespaces(&self.prefix);
        // Machines and pods.
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&self.prefix) {
                let _ = Netns::named(name).delete();
            }
        }
    }
}

/// Waits for a state; fails if it does not come about.
pub fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < DEADLINE, "did not come about in {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a `key: value` line is in the application's answer.
pub fn says(answer: &Result<String, String>, line: &str) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.lines().any(|found| found == line))
}
