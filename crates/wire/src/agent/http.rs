//! The little of HTTP/1.1 that one request needs: it is written in one piece, and the answer is read within a deadline and within bounds.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// An answer larger than this is not one of the agent's.
const MAX_BODY: usize = 4 << 20;
const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// Informational answers (1xx) that may come before the real one.
const MAX_INTERIM: usize = 8;

/// Status and body of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
    #[error("not an HTTP answer: {0}")]
    Garbage(String),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// Time left of one exchange.
pub struct Deadline {
    started: Instant,
    limit: Duration,
}

impl Deadline {
    pub fn after(limit: Duration) -> Self {
        Self { started: Instant::now(), limit }
    }

    pub fn left(&self) -> Result<Duration, Failure> {
        self.limit.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero()).ok_or_else(|| self.late())
    }

    pub fn late(&self) -> Failure {
        Failure::Late(self.limit)
    }
}

/// Sends one request and reads its answer.
pub fn exchange(
    stream: &mut UnixStream,
    method: &str,
    target: &str,
    body: &[u8],
    deadline: &Deadline,
) -> Result<Answer, Failure> {
    let mut request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.set_write_timeout(Some(deadline.left()?)).map_err(Failure::Io)?;
    // An agent that refuses early may close before all is written: its answer still counts.
    let sent = stream.write_all(&request);
    match (receive(stream, deadline), sent) {
        (Ok(answer), _) => Ok(answer),
        (Err(failure), Ok(())) => Err(failure),
        (Err(_), Err(error)) if timed_out(&error) => Err(deadline.late()),
        (Err(_), Err(error)) => Err(Failure::Io(error)),
    }
}

fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Bytes received and not yet used.
struct Inbox<'a> {
    stream: &'a mut UnixStream,
    deadline: &'a Deadline,
    bytes: Vec<u8>,
}

impl Inbox<'_> {
    /// Reads once; `false` at the end of the stream.
    fn more(&mut self) -> Result<bool, Failure> {
        let mut part = [0; 4096];
        loop {
            self.stream.set_read_timeout(Some(self.deadline.left()?)).map_err(Failure::Io)?;
            match self.stream.read(&mut part) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.bytes.extend_from_slice(&part[..n]);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => return Err(self.deadline.late()),
                Err(error) => return Err(Failure::Io(error)),
            }
        }
    }

    fn at_least(&mut self, length: usize) -> Result<(), Failure> {
        while self.bytes.len() < length {
            if !self.more()? {
                return Err(Failure::Garbage(format!("it ends after {} of {length} bytes", self.bytes.len())));
            }
        }
        Ok(())
    }

    /// One line without its end, bounded.
    fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
                self.bytes.drain(..end + 2);
                return Ok(line);
            }
            if self.bytes.len() > MAX_HEAD {
                return Err(Failure::Garbage("a line without end".into()));
            }
            if !self.more()? {
                return Err(Failure::Garbage("it ends within a line".into()));
            }
        }
    }
}

enum Length {
    Known(usize),
    Chunked,
    UntilClosed,
}

struct Head {
    status: u16,
    length: Length,
    size: usize,
}

fn receive(stream: &mut UnixStream, deadline: &Deadline) -> Result<Answer, Failure> {
    let mut inbox = Inbox { stream, deadline, bytes: Vec::new() };
    for _ in 0..MAX_INTERIM {
        let head = head(&mut inbox)?;
        inbox.bytes.drain(..head.size);
        if head.status >= 200 {
            return Ok(Answer { status: head.status, body: body(&mut inbox, head)? });
        }
    }
    Err(Failure::Garbage("informational answers only".into()))
}

fn head(inbox: &mut Inbox) -> Result<Head, Failure> {
    loop {
        if let Some(head) = parse_head(&inbox.bytes)? {
            return Ok(head);
        }
        if inbox.bytes.len() > MAX_HEAD {
            return Err(Failure::Garbage(format!("headers of more than {MAX_HEAD} bytes")));
        }
        if !inbox.more()? {
            let what = if inbox.bytes.is_empty() {
                "the connection was closed without an answer"
            } else {
                "it ends within its headers"
            };
            return Err(Failure::Garbage(what.into()));
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Failure::Garbage(format!("{error}, it begins with {:?}", beginning(bytes)))),
    };
    let status = response.code.expect("a complete answer has a status");
    let value = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
    };
    let length = if status < 200 || status == 204 || status == 304 {
        Length::Known(0)
    } else if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        Length::Chunked
    } else if let Some(text) = value("content-length") {
        Length::Known(text.parse().map_err(|_| Failure::Garbage(format!("Content-Length {text:?}")))?)
    } else {
        Length::UntilClosed
    };
    Ok(Some(Head { status, length, size }))
}

/// The first bytes of what was received, for error texts.
pub fn beginning(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned()
}

fn body(inbox: &mut Inbox, head: Head) -> Result<Vec<u8>, Failure> {
    match head.length {
        Length::Known(length) if length > MAX_BODY => Err(Failure::TooLarge(MAX_BODY)),
        Length::Known(length) => {
            inbox.at_least(length)?;
            inbox.bytes.truncate(length);
            Ok(std::mem::take(&mut inbox.bytes))
        }
        Length::Chunked => chunks(inbox),
        Length::UntilClosed => {
            while inbox.more()? {
                if inbox.bytes.len() > MAX_BODY {
                    return Err(Failure::TooLarge(MAX_BODY));
                }
            }
            Ok(std::mem::take(&mut inbox.bytes))
        }
    }
}

fn chunks(inbox: &mut Inbox) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let line = inbox.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| Failure::Garbage(format!("chunk size {line:?}")))?;
        if size > MAX_BODY || body.len() + size > MAX_BODY {
            return Err(Failure::TooLarge(MAX_BODY));
        }
        if size == 0 {
            while !inbox.line()?.is_empty() {} // trailers
            return Ok(body);
        }
        inbox.at_least(size + 2)?;
        body.extend(inbox.bytes.drain(..size));
        if !inbox.line()?.is_empty() {
            return Err(Failure::Garbage("a chunk longer than its size".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &[u8]) -> Result<Answer, Failure> {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(text).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        receive(&mut ours, &Deadline::after(Duration::from_secs(5)))
    }

    #[test]
    fn the_three_ways_to_end_a_body_are_understood() {
        let expected = Answer { status: 200, body: b"\"abc\"".to_vec() };
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\"abc\"",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n2;x=1\r\n\"a\r\n3\r\nbc\"\r\n0\r\nT: 1\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n\"abc\"",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\"abc\"",
        ] {
            assert_eq!(answer(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn garbage_is_named() {
        for (text, expected) in [
            ("", "the connection was closed without an answer"),
            ("SSH-2.0-OpenSSH\r\n", "it begins with \"SSH-2.0-OpenSSH"),
            ("HTTP/1.1 200 OK\r\nContent-Le", "it ends within its headers"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "it ends after 3 of 9 bytes"),
            ("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "Content-Length \"many\""),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk size \"zz\""),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "a chunk longer than its size"),
        ] {
            let error = answer(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_huge_answer_is_refused_before_it_is_read() {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1);
        assert!(matches!(answer(text.as_bytes()), Err(Failure::TooLarge(_))));
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n";
        assert!(matches!(answer(text.as_bytes()), Err(Failure::TooLarge(_))));
        let text = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
        assert!(matches!(answer(text.as_bytes()), Err(Failure::Garbage(_))));
    }
}
