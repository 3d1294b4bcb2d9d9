//! Running a plugin: a process with the CNI environment, its configuration on stdin, its answer on stdout.

use std::env;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use wire::cni::{Call, CniError, Command, code};

use super::cache::Entry;
use super::config::Config;

/// How long a plugin may take: longer than the agent may let an address wait, shorter than runtimes wait for a pod.
const LIMIT: Duration = Duration::from_secs(150);
/// What is read of a plugin's answer and of its complaints.
const MAX_STDOUT: u64 = 4 << 20;
const MAX_STDERR: u64 = 16 << 10;

/// What all plugins of a call have in common.
pub(super) struct Invocation<'a> {
    container_id: &'a str,
    netns: String,
    args: String,
    folders: Vec<PathBuf>,
}

impl<'a> Invocation<'a> {
    /// For the container of a call.
    pub fn of(call: &'a Call, config: &Config) -> Self {
        let netns = call.env.netns.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            container_id: &call.env.container_id,
            netns,
            args: call.env.args.to_string(),
            folders: folders(call, config),
        }
    }

    /// For the container of an entry.
    pub fn of_entry(call: &Call, config: &Config, entry: &'a Entry) -> Self {
        Self {
            container_id: &entry.container_id,
            netns: String::new(),
            args: entry.args.clone(),
            folders: folders(call, config),
        }
    }

    /// Runs a plugin and returns what it printed. `what` begins the message of an error.
    pub fn run(
        &self,
        command: Command,
        kind: &str,
        ifname: &str,
        stdin: &str,
        what: &str,
    ) -> Result<Vec<u8>, CniError> {
        let failed = |why: String| CniError::new(code::DELEGATE, format!("{what}: plugin {kind} {why}"));
        let program =
            self.folders.iter().map(|folder| folder.join(kind)).find(|path| path.is_file()).ok_or_else(|| {
                let folders: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
                failed(format!("is in none of the folders {}", folders.join(", ")))
            })?;
        let path =
            env::join_paths(&self.folders).map_err(|error| failed(format!("cannot be run: CNI_PATH: {error}")))?;
        let mut process = Process::new(&program);
        process.env("CNI_COMMAND", command.as_str()).env("CNI_PATH", path).env("CNI_ARGS", &self.args);
        process.env("CNI_CONTAINERID", self.container_id).env("CNI_NETNS", &self.netns).env("CNI_IFNAME", ifname);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            process.spawn().map_err(|error| failed(format!("cannot be run: {}: {error}", program.display())))?;
        let deadline = Instant::now() + LIMIT;
        let (stdout, stderr) = (reader(child.stdout.take(), MAX_STDOUT), reader(child.stderr.take(), MAX_STDERR));
        feed(&mut child, stdin);
        let answer = stdout.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let status = answer.is_ok().then(|| end_of(&mut child, deadline)).flatten();
        let (Ok(answer), Some(status)) = (answer, status) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("did not end within {LIMIT:?} and was killed")));
        };
        if status.success() {
            return Ok(answer);
        }
        // Its children may keep stderr open.
        let complaint = stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        Err(refusal(&answer, &complaint, status, &format!("{what}: plugin {kind}")))
    }
}

/// Where plugins are: the runtime's folders, then the configuration's.
fn folders(call: &Call, config: &Config) -> Vec<PathBuf> {
    let mut folders = call.env.path.clone();
    if !folders.contains(&config.bin_dir) {
        folders.push(config.bin_dir.clone());
    }
    folders
}

/// Reads to the end on a thread, so that neither side waits for the other; the thread ends with the plugin.
fn reader<R: Read + Send + 'static>(source: Option<R>, limit: u64) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(1);
    let read = move || {
        let mut text = Vec::new();
        if let Some(source) = source {
            let mut source = source.take(limit);
            let _ = source.read_to_end(&mut text);
            let _ = std::io::copy(&mut source.into_inner(), &mut std::io::sink());
        }
        let _ = sender.send(text);
    };
    // Without a thread nothing is sent, and the caller sees a plugin that does not end.
    let _ = thread::Builder::new().name("reader".into()).stack_size(64 << 10).spawn(read);
    receiver
}

/// Writes the configuration. A plugin that does not read it ends by itself, and its exit says more than a broken pipe.
fn feed(child: &mut Child, text: &str) {
    let Some(mut stdin) = child.stdin.take() else { return };
    if text.len() < 32 << 10 {
        let _ = stdin.write_all(text.as_bytes()); // fits the pipe
    } else {
        let text = text.to_owned();
        let write = move || drop(stdin.write_all(text.as_bytes()));
        let _ = thread::Builder::new().name("writer".into()).stack_size(64 << 10).spawn(write);
    }
}

fn end_of(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_micros(50);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(pause),
            _ => return None,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// The plugin's own error object with its code, or what else can be said.
fn refusal(stdout: &[u8], stderr: &[u8], status: ExitStatus, what: &str) -> CniError {
    if let Some(error) = CniError::parse(stdout) {
        return CniError::new(error.code, format!("{what}: {}", error.msg)).with_details(error.details);
    }
    let said = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(1024)]).trim().to_owned();
    let words: Vec<String> = [said(stdout), said(stderr)].into_iter().filter(|text| !text.is_empty()).collect();
    let words = if words.is_empty() { "it said nothing".to_owned() } else { words.join(" / ") };
    CniError::new(code::DELEGATE, format!("{what} failed ({status}) without an error object: {words}"))
}
