//! What stands around a plugin process in these tests: a stub agent on a real socket, and a folder of its own.

#![allow(dead_code)] // each test binary uses its part

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The plugin file under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_spiderpool");

/// What the stub agent does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    Json(u16, String),
    Raw(String),
    Hang,
}

/// A request that the stub agent saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub body: Value,
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

/// An agent that answers as it is told. Its thread ends with the process.
pub struct Agent {
    pub socket: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Agent {
    pub fn start(folder: &Path, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let socket = folder.join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, handler): (_, Arc<Handler>) = (Arc::clone(&seen), Arc::new(handler));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                thread::spawn(move || serve(stream, &log, &*handler));
            }
        });
        Self { socket, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests whose first line begins so.
    pub fn seen_of(&self, line: &str) -> Vec<Value> {
        self.seen().into_iter().filter(|seen| seen.line.starts_with(line)).map(|seen| seen.body).collect()
    }
}

fn serve(mut stream: UnixStream, log: &Mutex<Vec<Seen>>, handler: &Handler) {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    let (head, length) = loop {
        let n = stream.read(&mut part).unwrap();
        text.extend_from_slice(&part[..n]);
        if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(text[..end].to_vec()).unwrap();
            let length =
                head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
            break (head, end + 4 + length);
        }
    };
    while text.len() < length {
        let n = stream.read(&mut part).unwrap();
        text.extend_from_slice(&part[..n]);
    }
    let body = &text[text.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4..];
    let seen = Seen {
        line: head.lines().next().unwrap().to_owned(),
        body: serde_json::from_slice(body).unwrap_or(Value::Null),
    };
    log.lock().unwrap().push(seen.clone());
    let answer = match handler(&seen) {
        Reply::Json(status, body) => format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        Reply::Raw(text) => text,
        Reply::Hang => loop {
            thread::park();
        },
    };
    let _ = stream.write_all(answer.as_bytes());
}

/// A process with the CNI environment.
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
}

impl Run {
    pub fn new(program: &Path, cni_command: &str, stdin: impl Into<Vec<u8>>) -> Self {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("CNI_COMMAND", cni_command);
        command.env("CNI_CONTAINERID", "c1").env("CNI_IFNAME", "eth0").env("CNI_NETNS", "/proc/self/ns/net");
        command.env(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c1",
        );
        Self { command, stdin: stdin.into() }
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn spawn(mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let _ = stdin.write_all(&self.stdin); // a plugin may refuse before it has read all
        child
    }

    pub fn run(self) -> Output {
        self.spawn().wait_with_output().unwrap()
    }

    /// It must succeed and print JSON.
    pub fn succeed(self) -> Value {
        let output = self.run();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// It must succeed and print nothing.
    pub fn succeed_silently(self) {
        let output = self.run();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }

    /// It must fail with one error object: code and message.
    pub fn fail(self) -> (u64, String) {
        let output = self.run();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success(), "succeeded: {said}");
        let error: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("not one error object: {said:?}"));
        (
            error["code"].as_u64().unwrap(),
            format!("{} {}", error["msg"].as_str().unwrap(), error["details"].as_str().unwrap_or_default()),
        )
    }
}

/// Waits for a state.
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what} did not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether this process may enter namespaces; the tests that need it say so.
pub fn may_enter_namespaces() -> bool {
    net::Netns::open("/proc/self/ns/net").is_ok()
}

/// The inputs that no plugin may choke on: stdin, and what the error must say.
pub fn bad_stdin(kind: &str) -> Vec<(Vec<u8>, u64, &'static str)> {
    let conf = |version: &str| {
        format!(r#"{{"cniVersion":{version},"name":"n","type":"{kind}","ipam":{{"type":"spiderpool"}}}}"#).into_bytes()
    };
    let whole = conf(r#""1.0.0""#);
    let mut large = br#"{"cniVersion":"1.0.0","name":"n","x":""#.to_vec();
    large.resize(10 << 20, b'x');
    vec![
        (Vec::new(), 6, "is empty"),
        (b" \n".to_vec(), 6, "is empty"),
        (whole[..whole.len() / 2].to_vec(), 6, "is cut short after"),
        (large, 6, "is longer than 1048576 bytes"),
        (b"PK\x03\x04 not json".to_vec(), 6, "is not JSON"),
        (b"[1,2]".to_vec(), 6, "is an array, a JSON object is expected"),
        ([whole.clone(), b"}".to_vec()].concat(), 6, "more text behind"),
        (conf(r#""0.2.0""#), 1, "cniVersion \"0.2.0\" is not supported"),
        (conf(r#""9.9.9""#), 1, "cniVersion \"9.9.9\" is not supported"),
        (conf("null"), 1, "cniVersion is missing"),
        (br#"{"cniVersion":"1.0.0","name":"a b"}"#.to_vec(), 7, "name \"a b\""),
    ]
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
