//! The client against API servers that put requests off, lose answers or go silent: a bare TCP server stands in for them.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt as _;
use ipam::claim::{Claim, Holder, PodHolder, State};
use k8s_api::{SpiderIP, SpiderIPPool};
use kube::{Api, Client, Config, api::WatchParams};
use serde_json::json;
use store::{Claims, Failure, client::connect_to};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than anything here waits for an answer.
const PATIENT: Duration = Duration::from_secs(300);
/// Longer than an answer that comes takes.
const IMPATIENT: Duration = Duration::from_secs(2);

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// It is answered with this status.
    Status(u16),
    /// The connection is closed without a word.
    Lost,
    /// Something else is at the other end.
    Garbage,
    /// Nothing, for ever.
    Silence,
    /// A watch begins, tells one object, and nothing any more.
    SilenceAfterOne,
}

/// Answers one request after the other, whatever connection it comes on; the last answer again and again.
#[derive(Clone)]
struct StandIn {
    answers: Arc<Mutex<Vec<Answer>>>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    async fn start(answers: &[Answer], silence: Duration) -> (Client, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = answers.iter().rev().copied().collect();
        let this = Self { answers: Arc::new(Mutex::new(answers)), heard: Arc::default() };
        let server = this.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let server = server.clone();
                tokio::spawn(async move { server.serve(socket).await });
            }
        });
        (connect_to(Config::new(url.parse().unwrap()), silence).unwrap(), this)
    }

    /// The requests that have come, without what is asked for.
    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn answer(&self) -> Answer {
        let mut answers = self.answers.lock().unwrap();
        if answers.len() > 1 { answers.pop().unwrap() } else { answers[0] }
    }

    async fn serve(&self, socket: TcpStream) -> Option<()> {
        let mut socket = BufReader::new(socket);
        loop {
            let method = request(&mut socket).await?;
            self.heard.lock().unwrap().push(method);
            let text = match self.answer() {
                Answer::Status(code) => {
                    let body = json!({"kind": "Status", "code": code, "message": "later", "reason": ""}).to_string();
                    let length = body.len();
                    let head = "content-type: application/json\r\nretry-after: 0";
                    format!("HTTP/1.1 {code} Answer\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}")
                }
                Answer::Lost => return None,
                Answer::Garbage => "SSH-2.0-OpenSSH_9.9\r\n".to_owned(),
                Answer::Silence => std::future::pending().await,
                Answer::SilenceAfterOne => {
                    let pool = json!({"metadata": {"name": "p"}, "spec": {"subnet": "10.0.0.0/24"}});
                    let event = format!("{}\n", json!({"type": "ADDED", "object": pool}));
                    let head = "content-type: application/json\r\ntransfer-encoding: chunked";
                    let first = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{:x}\r\n{event}\r\n", event.len());
                    socket.write_all(first.as_bytes()).await.ok()?;
                    std::future::pending().await
                }
            };
            socket.write_all(text.as_bytes()).await.ok()?;
        }
    }
}

/// Reads a request to its end and tells its method.
async fn request(socket: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut method, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_lowercase();
        if let Some(number) = line.strip_prefix("content-length: ") {
            length = number.parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
        method.get_or_insert_with(|| line.split(' ').next().unwrap_or_default().to_uppercase());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    method
}

fn claim() -> Claim {
    let pod = PodHolder {
        namespace: "default".into(),
        name: "web".into(),
        uid: "u1".into(),
        container: Some("c1".into()),
        interface: "eth0".into(),
        node: "node-a".into(),
    };
    let address = "10.0.0.7".parse().unwrap();
    Claim { address, pool: "p".into(), state: State::Allocated, holder: Holder::Pod(pod), mac: None }
}

async fn in_time<T>(what: &str, request: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, request).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// Only who asked knows whether a request may be sent twice, or is still to be sent at all.
#[tokio::test]
async fn a_request_that_is_put_off_is_not_repeated() {
    for code in [429, 503, 504] {
        let (client, server) = StandIn::start(&[Answer::Status(code)], PATIENT).await;
        let claims = Claims::new(client);
        let made = claims.create(&claim()).await;
        assert!(matches!(&made, Err(failure) if failure.is_unknown()), "{code}: {made:?}");
        assert_eq!(server.heard(), ["POST"], "{code}");
        let read = claims.read(claim().address).await;
        assert!(matches!(&read, Err(failure) if failure.is_unknown()), "{code}: {read:?}");
        assert_eq!(server.heard(), ["POST", "GET"], "{code}");
    }
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_is_not_repeated() {
    for answer in [Answer::Lost, Answer::Garbage] {
        // On a new connection, and on one that served before.
        for before in [&[][..], &[Answer::Status(404)]] {
            let answers: Vec<Answer> = before.iter().copied().chain([answer]).collect();
            let (client, server) = StandIn::start(&answers, PATIENT).await;
            let claims = Claims::new(client);
            for _ in before {
                let read = claims.read(claim().address).await;
                assert!(matches!(read, Err(Failure::Refused(_))), "{read:?}");
            }
            let made = claims.create(&claim()).await;
            assert!(matches!(&made, Err(failure) if failure.is_unknown()), "{answers:?}: {made:?}");
            let writes = server.heard().iter().filter(|method| *method == "POST").count();
            assert_eq!(writes, 1, "{answers:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_on_which_no_answer_comes_is_given_up() {
    let (client, server) = StandIn::start(&[Answer::Silence], IMPATIENT).await;
    let read = in_time("an end", Api::<SpiderIP>::all(client.clone()).get("10.0.0.7")).await;
    assert!(!matches!(read, Ok(_) | Err(kube::Error::Api(_))), "{read:?}");
    assert_eq!(server.heard(), ["GET"]);
    let made = in_time("an end", Claims::new(client).create(&claim())).await;
    assert!(matches!(&made, Err(failure) if failure.is_unknown()), "{made:?}");
    assert_eq!(server.heard(), ["GET", "POST"]);
}

/// The peer of a watch that vanished would be waited for until the kernel gives it up.
#[tokio::test]
async fn a_watch_that_goes_silent_ends() {
    let (client, _server) = StandIn::start(&[Answer::SilenceAfterOne], IMPATIENT).await;
    let pools = Api::<SpiderIPPool>::all(client);
    let watch = in_time("a watch", pools.watch(&WatchParams::default(), "0")).await.unwrap();
    let mut watch = watch.boxed();
    let first = in_time("an object", watch.next()).await;
    assert!(matches!(first, Some(Ok(_))), "{first:?}");
    let next = in_time("the end of the watch", watch.next()).await;
    assert!(!matches!(next, Some(Ok(_))), "{next:?}");
}
