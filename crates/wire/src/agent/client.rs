//! A blocking client: one connection per call, as upstream's.

use super::http::{self, Answer, Deadline, Failure};
use super::{
    AddArgs, AddResponse, BatchReleaseArgs, CoordinatorArgs, CoordinatorConfig, FrameworkError, Networks, NetworksArgs,
    ReleaseArgs, StatusArgs, WorkloadEndpoint, path,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Longest wait for the agent's word that it listens (upstream's value).
const HEALTH_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for any other answer (upstream's value; its batch release has none).
const CALL_LIMIT: Duration = Duration::from_secs(100);
/// Pause while the agent's queue of connections is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// Calls the agent behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    limit: Option<Duration>,
}

/// Why a call has no result.
///
/// [`Error::is_down`] tells an agent that cannot be asked from one that refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("cannot reach the agent at {}", socket.display())]
    Connect {
        /// The agent's socket.
        socket: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// No answer, or none that is HTTP.
    #[error("[{method} {target}] the agent at {} failed", socket.display())]
    Exchange {
        /// HTTP method.
        method: &'static str,
        /// Path below the base path.
        target: String,
        /// The agent's socket.
        socket: PathBuf,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent answered that it will not or cannot.
    #[error("[{method} {target}][{status}] {message}")]
    Status {
        /// HTTP method.
        method: &'static str,
        /// Path below the base path.
        target: String,
        /// HTTP status.
        status: u16,
        /// The agent's words.
        message: String,
    },
    /// A success whose body is not what the call returns.
    #[error("[{method} {target}] the agent's answer is not understood, it begins with {beginning:?}")]
    Body {
        /// HTTP method.
        method: &'static str,
        /// Path below the base path.
        target: String,
        /// The first bytes of the answer.
        beginning: String,
        /// What the decoder says.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// The agent gave no answer of its own: it is absent, hangs or is something else.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Exchange { .. } | Self::Body { .. })
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

struct Call<'a> {
    method: &'static str,
    target: &'a str,
    limit: Duration,
}

impl Client {
    /// A client of the agent at `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), limit: None }
    }

    /// Bounds every call by `limit` instead of upstream's values (30 s for health, 100 s otherwise).
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Does the agent listen?
    pub fn healthy(&self) -> Result<(), Error> {
        self.call(&Call { method: "GET", target: path::HEALTHY, limit: HEALTH_LIMIT }, b"").map(drop)
    }

    /// Allocates the addresses of a pod. Repeating it returns the same ones.
    pub fn add(&self, args: &AddArgs) -> Result<AddResponse, Error> {
        self.fetch("POST", path::IP, args)
    }

    /// Ends the use of the addresses by one container and NIC.
    pub fn release(&self, args: &ReleaseArgs) -> Result<(), Error> {
        self.send("DELETE", path::IP, args)
    }

    /// Gives the pod's addresses back after probing failed.
    pub fn release_batch(&self, args: &BatchReleaseArgs) -> Result<(), Error> {
        self.send("DELETE", path::IPS, args)
    }

    /// The recorded addresses of a pod.
    pub fn workload_endpoint(&self, namespace: &str, name: &str) -> Result<WorkloadEndpoint, Error> {
        let target = format!("{}?podName={}&podNamespace={}", path::WORKLOAD_ENDPOINT, escape(name), escape(namespace));
        let call = Call { method: "GET", target: &target, limit: CALL_LIMIT };
        decode(&call, &self.call(&call, b"")?)
    }

    /// What the coordinator is to do for a pod.
    pub fn coordinator_config(&self, args: &CoordinatorArgs) -> Result<CoordinatorConfig, Error> {
        self.fetch("GET", path::COORDINATOR_CONFIG, args)
    }

    /// The networks a pod asks for.
    pub fn networks(&self, args: &NetworksArgs) -> Result<Networks, Error> {
        self.fetch("POST", path::MULTINET_NETWORKS, args)
    }

    /// Has the pod's `network-status` written.
    pub fn network_status(&self, args: &StatusArgs) -> Result<(), Error> {
        self.send("POST", path::MULTINET_STATUS, args)
    }

    fn fetch<T: DeserializeOwned>(
        &self,
        method: &'static str,
        target: &str,
        args: &impl Serialize,
    ) -> Result<T, Error> {
        let call = Call { method, target, limit: CALL_LIMIT };
        decode(&call, &self.call(&call, &encode(args))?)
    }

    fn send(&self, method: &'static str, target: &str, args: &impl Serialize) -> Result<(), Error> {
        self.call(&Call { method, target, limit: CALL_LIMIT }, &encode(args)).map(drop)
    }

    fn call(&self, call: &Call, body: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::Exchange {
            method: call.method,
            target: below_base(call.target),
            socket: self.socket.clone(),
            source: Box::new(source),
        };
        let deadline = Deadline::after(self.limit.unwrap_or(call.limit));
        let connected = connect(&self.socket, &deadline).map_err(failed)?;
        let mut stream = connected.map_err(|source| Error::Connect { socket: self.socket.clone(), source })?;
        let Answer { status, body } =
            http::exchange(&mut stream, call.method, call.target, body, &deadline).map_err(failed)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(Error::Status { method: call.method, target: below_base(call.target), status, message: message(&body) })
    }
}

/// Connecting to a Unix socket blocks without limit once the listener's queue is full, so it is asked without blocking, until the time is
/// over. (A thread that waits instead costs every call more than the rest of it.)
fn connect(socket: &Path, deadline: &Deadline) -> Result<io::Result<UnixStream>, Failure> {
    loop {
        match connect_now(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(QUEUE_PAUSE.min(deadline.left()?)),
            outcome => return Ok(outcome),
        }
    }
}

fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn encode(args: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(args).expect("strings, numbers and lists always serialise")
}

fn decode<T: DeserializeOwned>(call: &Call, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Body {
        method: call.method,
        target: below_base(call.target),
        beginning: http::beginning(body),
        source,
    })
}

/// Upstream's texts name paths without the base path and the query.
fn below_base(target: &str) -> String {
    let path = target.split('?').next().unwrap_or(target);
    path.strip_prefix("/v1").unwrap_or(path).to_owned()
}

/// The words of an error body: a JSON string, an error of the framework, or what was sent.
fn message(body: &[u8]) -> String {
    if let Ok(text) = serde_json::from_slice::<String>(body) {
        return text;
    }
    match serde_json::from_slice::<FrameworkError>(body) {
        Ok(error) => error.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(4096)]).trim().to_owned(),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    /// A directory that is removed with the value.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("spiderpool-wire-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("s")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn serve_once(listener: UnixListener, answer: &'static str) -> thread::JoinHandle<String> {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 8192];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request[..n].to_vec()).unwrap()
        })
    }

    #[test]
    fn a_call_sends_one_request_and_decodes_the_answer() {
        let scratch = Scratch::new("call");
        let body = r#"{"ips":[{"address":"10.0.0.2/24","nic":"eth0","version":4}],"routes":null}"#;
        let text: &'static str = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak();
        let server = serve_once(UnixListener::bind(scratch.socket()).unwrap(), text);
        let args = AddArgs { container_id: "c".into(), ..Default::default() };
        let answer = Client::new(scratch.socket()).add(&args).unwrap();
        assert_eq!(answer.ips[0].address, "10.0.0.2/24");
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /v1/ipam/ip HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with(r#""podUID":"","defaultIPv4IPPool":null,"defaultIPv6IPPool":null}"#), "{request}");
    }

    #[test]
    fn a_refusal_reads_as_upstreams_runbooks_expect() {
        let scratch = Scratch::new("refusal");
        let server = serve_once(
            UnixListener::bind(scratch.socket()).unwrap(),
            "HTTP/1.1 500 X\r\nContent-Length: 12\r\n\r\n\"no IPPool!\"",
        );
        let error = Client::new(scratch.socket()).add(&AddArgs::default()).unwrap_err();
        assert_eq!(error.to_string(), "[POST /ipam/ip][500] no IPPool!");
        assert!(!error.is_down() && error.status() == Some(500));
        server.join().unwrap();
    }

    #[test]
    fn an_absent_agent_is_named() {
        let scratch = Scratch::new("absent");
        let error = Client::new(scratch.socket()).healthy().unwrap_err();
        assert!(error.is_down() && error.to_string().contains(scratch.socket().to_str().unwrap()), "{error}");
    }

    #[test]
    fn an_agent_that_hangs_is_given_up() {
        let scratch = Scratch::new("hang");
        let _listener = UnixListener::bind(scratch.socket()).unwrap(); // never accepts
        let started = Instant::now();
        let error = Client::new(scratch.socket()).within(Duration::from_millis(50)).healthy().unwrap_err();
        assert!(matches!(error, Error::Exchange { .. }) && started.elapsed() >= Duration::from_millis(50), "{error}");
    }

    #[test]
    fn a_full_queue_is_waited_for_within_bounds() {
        let scratch = Scratch::new("queue");
        let address = SocketAddrUnix::new(scratch.socket()).unwrap();
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let listener = UnixListener::from(socket);
        let mut queued = Vec::new();
        while let Ok(stream) = connect_now(&scratch.socket()) {
            queued.push(stream);
        }
        assert!(!queued.is_empty());
        let started = Instant::now();
        let error = Client::new(scratch.socket()).within(Duration::from_millis(50)).healthy().unwrap_err();
        assert!(matches!(error, Error::Exchange { .. }) && started.elapsed() >= Duration::from_millis(50), "{error}");
        // Once the queue moves on it is served.
        let waiting = thread::spawn({
            let socket = scratch.socket();
            move || Client::new(socket).within(Duration::from_secs(60)).healthy()
        });
        for _ in 0..=queued.len() {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); // those that only fill it read nothing
        }
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn an_answer_that_is_no_json_is_shown() {
        let scratch = Scratch::new("nojson");
        let server = serve_once(
            UnixListener::bind(scratch.socket()).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        );
        let error = Client::new(scratch.socket()).add(&AddArgs::default()).unwrap_err();
        assert!(error.is_down() && error.to_string().contains("<html>"), "{error}");
        server.join().unwrap();
    }
}
