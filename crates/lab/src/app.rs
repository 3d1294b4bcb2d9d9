//! What runs in the lab's pods: an HTTP server that says who it is and whom it sees.
//!
//! It stands in for the walk-through's application image. Blocking, a thread per connection, no state: a pod costs little.

pub mod dns;
pub mod fetch;

use anyhow::{Context, Result};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt::Write as _, thread};
use tracing::{debug, info, warn};

/// Longest request header that is read.
const LONGEST_HEAD: u64 = 16 * 1024;
/// A silent client is let go after this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// `spiderpool-lab app`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; by default port 80 of both families
    #[arg(long, default_value = "[::]:80")]
    pub listen: SocketAddr,
    /// The name in every answer; a container's host name is its pod's name
    #[arg(long, env = "HOSTNAME", default_value = "app")]
    pub name: String,
}

/// Serves until it is killed.
pub fn run(args: Args) -> Result<()> {
    let listener = listen(args.listen)?;
    info!(listen = %args.listen, name = args.name, "app serves");
    serve(&listener, args.name)
}

/// Binds, on a machine without IPv6 to the same port of IPv4.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).or_else(|error| match address {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, v6.port()))
        }
        _ => Err(error),
    });
    bound.with_context(|| format!("cannot listen on {address}"))
}

/// Answers connections of `listener` for ever.
pub fn serve(listener: &TcpListener, name: String) -> Result<()> {
    let name: Arc<str> = name.into();
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of files, or a connection that is already gone: the next one may do.
                warn!(%error, "cannot accept");
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        let name = name.clone();
        let answering = move || answer(&stream, &name).unwrap_or_else(|error| debug!(%error, "connection ended"));
        if let Err(error) = thread::Builder::new().stack_size(128 * 1024).spawn(answering) {
            warn!(%error, "cannot answer");
        }
    }
}

/// What matters of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    forwarded_for: Option<String>,
}

fn answer(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (peer, local) = (canonical(stream.peer_addr()?), canonical(stream.local_addr()?));
    let response = match read_request(BufReader::new(stream.take(LONGEST_HEAD)))? {
        Some(request) => respond(&request, name, peer, local),
        None => head("400 Bad Request", 0),
    };
    (&*stream).write_all(response.as_bytes())
}

/// Reads up to the empty line. `None`: no HTTP request.
fn read_request(reader: impl BufRead) -> io::Result<Option<Request>> {
    let mut lines = reader.lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ');
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else { return Ok(None) };
    if !version.starts_with("HTTP/1.") {
        return Ok(None);
    }
    let mut request = Request { method: method.to_owned(), path: path.to_owned(), forwarded_for: None };
    for line in lines {
        let line = line?;
        match line.split_once(':') {
            _ if line.is_empty() => return Ok(Some(request)),
            Some((key, value)) if key.eq_ignore_ascii_case("x-forwarded-for") => {
                request.forwarded_for = Some(value.trim().to_owned())
            }
            _ => {}
        }
    }
    Ok(None)
}

fn respond(request: &Request, name: &str, peer: SocketAddr, local: SocketAddr) -> String {
    let mut body = format!(
        "name: {name}\npeer: {}\npeer-port: {}\nlocal: {}\npath: {}\n",
        peer.ip(),
        peer.port(),
        local.ip(),
        request.path
    );
    if let Some(client) = &request.forwarded_for {
        writeln!(body, "forwarded-for: {client}").expect("writing to a string");
    }
    match request.method.as_str() {
        "GET" => head("200 OK", body.len()) + &body,
        "HEAD" => head("200 OK", body.len()),
        _ => head("405 Method Not Allowed", 0),
    }
}

fn head(status: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nAllow: GET, HEAD\r\nConnection: close\r\n\r\n"
    )
}

/// An IPv4 peer of a socket of both families, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(
        match address.ip() {
            IpAddr::V6(v6) => v6.to_canonical(),
            v4 => v4,
        },
        address.port(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener, "pod-a".into()));
        address
    }

    fn exchange(request: &str) -> String {
        let mut stream = TcpStream::connect(started()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_get_tells_the_peer_and_the_name() {
        let answer = exchange("GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.100\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for line in ["name: pod-a", "peer: 127.0.0.1", "path: /x", "forwarded-for: 203.0.113.100"] {
            assert!(answer.lines().any(|found| found == line), "{line} in {answer}");
        }
    }

    #[test]
    fn a_head_has_the_length_of_the_get_and_no_body() {
        let answer = exchange("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(
            answer.contains("Content-Length: ")
                && !answer.contains("Content-Length: 0")
                && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }

    #[test]
    fn other_methods_and_other_protocols_are_refused() {
        assert!(exchange("POST / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(exchange("hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }
}
