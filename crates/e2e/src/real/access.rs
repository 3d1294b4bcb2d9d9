//! How the lane reaches the cluster: `kubectl` and other programs, bounded in time.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::kubernetes::Cluster;
use lab::world::Output;
use serde_json::Value;

/// Every command ends, if need be by force.
const LIMIT: Duration = Duration::from_secs(180);

/// A way into the cluster.
pub struct Access {
    cluster: Option<Cluster>,
    kubeconfig: PathBuf,
}

impl Access {
    /// Into a cluster of namespaces, which ends with this value.
    pub fn lab(cluster: Cluster) -> Self {
        Self { kubeconfig: cluster.kubeconfig(), cluster: Some(cluster) }
    }

    /// Into any cluster.
    pub fn of(kubeconfig: PathBuf) -> Self {
        Self { cluster: None, kubeconfig }
    }

    /// The cluster, if it is the lab's.
    pub fn cluster(&self) -> Result<&Cluster> {
        self.cluster.as_ref().context("only a cluster of the lab can be steered")
    }

    /// The lab's cluster itself.
    pub fn into_cluster(self) -> Option<Cluster> {
        self.cluster
    }

    /// A command that finds the cluster.
    fn command(&self, words: &[&str]) -> Command {
        match &self.cluster {
            Some(cluster) => cluster.command(words),
            None => {
                let mut command = Command::new(words.first().copied().unwrap_or_default());
                command.args(&words[1..]).env("KUBECONFIG", &self.kubeconfig);
                command
            }
        }
    }

    /// Runs `kubectl` with words separated by blanks; it must succeed.
    pub fn kubectl(&self, line: &str) -> Result<String> {
        self.words(&std::iter::once("kubectl").chain(line.split_whitespace()).collect::<Vec<_>>())
    }

    /// Runs a program that must succeed.
    pub fn words(&self, words: &[&str]) -> Result<String> {
        self.outcome(words)?.expect_success()
    }

    /// Runs a program that may fail.
    pub fn outcome(&self, words: &[&str]) -> Result<Output> {
        run(self.command(words), None, &words.join(" "), LIMIT)
    }

    /// The objects of `kubectl get ... -o json`.
    pub fn list(&self, line: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&format!("get {line} -o json"))?;
        let mut list: Value = serde_json::from_str(&text).with_context(|| format!("kubectl get {line}: not JSON"))?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// `kubectl apply -f -`. A webhook that did not answer within its five seconds, as on a machine that is busy otherwise, is asked
    /// again: nothing was stored.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let words = ["kubectl", "apply", "-f", "-"];
        let mut left = 5;
        loop {
            let outcome = run(self.command(&words), Some(yaml), &words.join(" "), LIMIT)?;
            left -= 1;
            if outcome.succeeded() || left == 0 || !outcome.stderr.contains("failed calling webhook") {
                return outcome.expect_success();
            }
        }
    }

    /// Runs a program on a node of the lab.
    pub fn on(&self, node: &str, words: &[&str]) -> Result<Output> {
        run(self.cluster()?.command_on(node, words)?, None, &words.join(" "), LIMIT)
    }

    /// Runs a command in a pod's first container.
    pub fn exec(&self, pod: &str, line: &str) -> Result<String> {
        self.kubectl(&format!("exec {pod} -- {line}"))
    }

    /// A field of an object, by JSONPath.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        self.words(&["kubectl", "get", object, "-o", &format!("jsonpath={path}")])
    }

    /// Asks again and again until the answer is good.
    pub fn until<T>(&self, what: &str, limit: Duration, mut question: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            match question() {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if Instant::now() > deadline => bail!("waited {} s for {what}", limit.as_secs()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
                }
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

/// Runs a command to its end, or ends it after `limit`.
pub fn run(mut command: Command, input: Option<&str>, shown: &str, limit: Duration) -> Result<Output> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run `{shown}`"))?;
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        // A program that does not read it says what it does not like.
        let _ = pipe.write_all(text.as_bytes());
    }
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for `{shown}`"))? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("`{shown}` did not end within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |reader: Reader| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
    Ok(Output { command: shown.to_owned(), code: status.code(), stdout: text(stdout), stderr: text(stderr) })
}

type Reader = std::thread::JoinHandle<Vec<u8>>;

fn drain(stream: Option<impl std::io::Read + Send + 'static>) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}
