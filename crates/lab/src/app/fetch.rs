//! `curl` in the application image: enough of it for `kubectl exec POD -- curl -s http://ADDRESS/`.
//!
//! HTTP/1.1 without TLS, blocking. Exit codes are those of curl: 2 usage, 6 name, 7 connection, 22 status (with `-f`), 28 time, 52 no answer.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    urls: Vec<Url>,
    head: bool,
    include: bool,
    fail: bool,
    discard: bool,
    write_out: Option<String>,
    /// For each URL.
    limit: Duration,
    connect_limit: Duration,
    /// Whether the first failure is the end.
    fail_early: bool,
    headers: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Url {
    host: String,
    port: u16,
    path: String,
}

/// A failure with curl's exit code.
#[derive(Debug, PartialEq, Eq)]
struct Failure(u8, String);

/// Does what curl would do with these arguments.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>();
    match parse(&args).and_then(|call| fetch_all(&call, &mut std::io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, message)) => {
            eprintln!("curl: ({code}) {message}");
            ExitCode::from(code)
        }
    }
}

fn parse(args: &[String]) -> Result<Call, Failure> {
    let usage = |what: String| Failure(2, what);
    let mut call = Call {
        urls: Vec::new(),
        head: false,
        include: false,
        fail: false,
        discard: false,
        write_out: None,
        limit: Duration::from_secs(120),
        connect_limit: Duration::from_secs(120),
        fail_early: false,
        headers: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().ok_or_else(|| usage(format!("option {arg}: requires a value")));
        match arg.as_str() {
            "-m" | "--max-time" => call.limit = seconds(arg, &value()?)?,
            "--connect-timeout" => call.connect_limit = seconds(arg, &value()?)?,
            "--fail-early" => call.fail_early = true,
            "-o" | "--output" => match value()?.as_str() {
                "/dev/null" => call.discard = true,
                other => return Err(usage(format!("{arg} {other}: only /dev/null"))),
            },
            "-w" | "--write-out" => call.write_out = Some(value()?),
            "-H" | "--header" => call.headers.push(value()?),
            "--head" => call.head = true,
            "--silent" | "--show-error" => {}
            "--fail" => call.fail = true,
            "--include" => call.include = true,
            flags if flags.len() > 1 && flags.starts_with('-') && !flags.starts_with("--") => {
                for flag in flags.chars().skip(1) {
                    match flag {
                        's' | 'S' | '4' | '6' | 'g' => {}
                        'I' => call.head = true,
                        'i' => call.include = true,
                        'f' => call.fail = true,
                        other => return Err(usage(format!("option -{other}: is unknown"))),
                    }
                }
            }
            url if !url.starts_with('-') => call.urls.push(parse_url(url)?),
            other => return Err(usage(format!("option {other}: is unknown"))),
        }
    }
    if call.urls.is_empty() { Err(usage("no URL specified".into())) } else { Ok(call) }
}

fn seconds(option: &str, text: &str) -> Result<Duration, Failure> {
    let bad = |why: String| Failure(2, format!("option {option}: {text}: {why}"));
    let seconds: f64 = text.parse().map_err(|_| bad("not a number".into()))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| bad(error.to_string()))
}

fn parse_url(text: &str) -> Result<Url, Failure> {
    let bad = || Failure(3, format!("URL {text:?} is malformed"));
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(Failure(1, format!("Protocol \"{scheme}\" not supported"))),
        None => text,
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or_else(bad)?,
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port = if port.is_empty() { 80 } else { port.trim_start_matches(':').parse().map_err(|_| bad())? };
    if host.is_empty() { Err(bad()) } else { Ok(Url { host: host.to_owned(), port, path: path.to_owned() }) }
}

/// The exit code is that of the last URL, unless the first failure is the end.
fn fetch_all(call: &Call, out: &mut impl Write) -> Result<(), Failure> {
    let mut last = Ok(());
    for url in &call.urls {
        last = fetch(call, url, out);
        if last.is_err() && call.fail_early {
            break;
        }
    }
    last
}

fn fetch(call: &Call, url: &Url, out: &mut impl Write) -> Result<(), Failure> {
    let deadline = Instant::now() + call.limit;
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let Url { host, port, path } = url;
    let addresses: Vec<SocketAddr> = (host.as_str(), *port)
        .to_socket_addrs()
        .map_err(|_| Failure(6, format!("Could not resolve host: {host}")))?
        .collect();
    let mut last = Failure(6, format!("Could not resolve host: {host}"));
    let mut stream = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, left().min(call.connect_limit)) {
            Ok(open) => {
                stream = Some(open);
                break;
            }
            Err(error) => last = failed(&error, &format!("Failed to connect to {host} port {port}")),
        }
    }
    let mut stream = stream.ok_or(last)?;
    let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let method = if call.head { "HEAD" } else { "GET" };
    let more: String = call.headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {shown}\r\nUser-Agent: curl/lab\r\nAccept: */*\r\n{more}Connection: close\r\n\r\n"
    );
    let lost = |error: std::io::Error| failed(&error, "Transfer failed");
    stream.set_write_timeout(Some(left())).map_err(lost)?;
    stream.write_all(request.as_bytes()).map_err(lost)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left())).map_err(lost)?;
        match stream.read(&mut chunk).map_err(lost)? {
            0 => break,
            count => answer.extend_from_slice(&chunk[..count]),
        }
    }
    show(call, &answer, out)
}

fn failed(error: &std::io::Error, what: &str) -> Failure {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match error.kind() {
        TimedOut | WouldBlock => Failure(28, format!("{what}: timed out")),
        _ => Failure(7, format!("{what}: {error}")),
    }
}

fn show(call: &Call, answer: &[u8], out: &mut impl Write) -> Result<(), Failure> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| Failure(52, "Empty reply from server".into()))? + 4;
    let (head, body) = answer.split_at(end);
    let status = String::from_utf8_lossy(head).split(' ').nth(1).unwrap_or("000").to_owned();
    if call.fail && status.as_str() >= "400" {
        return Err(Failure(22, format!("The requested URL returned error: {status}")));
    }
    let mut text = Vec::new();
    if !call.discard {
        if call.head || call.include {
            text.extend_from_slice(head);
        }
        text.extend_from_slice(body);
    }
    if let Some(format) = &call.write_out {
        text.extend_from_slice(format.replace("\\n", "\n").replace("%{http_code}", &status).as_bytes());
    }
    // A reader that went away does not matter.
    let _ = out.write_all(&text).and_then(|()| out.flush());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn call(words: &str) -> Result<String, Failure> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let mut out = Vec::new();
        fetch_all(&parse(&words)?, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn bodies_heads_and_codes_come_out_as_from_curl() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || crate::app::serve(&listener, "pod-a".into()));
        assert!(call(&format!("-s http://127.0.0.1:{port}/x")).unwrap().contains("\npath: /x\n"));
        let head = call(&format!("-sI 127.0.0.1:{port}")).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert_eq!(call(&format!("-s -o /dev/null -w %{{http_code}} http://127.0.0.1:{port}")).unwrap(), "200");
    }

    #[test]
    fn several_urls_are_fetched_one_after_the_other_until_one_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || crate::app::serve(&listener, "pod-a".into()));
        let both = call(&format!("-s 127.0.0.1:{port}/a 127.0.0.1:{port}/b")).unwrap();
        assert!(both.contains("path: /a\n") && both.contains("path: /b\n"), "{both}");
        let failing = format!("-s -m 5 -f --connect-timeout 1 127.0.0.1:1/a 127.0.0.1:{port}/b");
        assert!(call(&failing).unwrap().contains("path: /b\n"));
        assert_eq!(call(&format!("--fail-early {failing}")).unwrap_err().0, 7);
    }

    #[test]
    fn a_closed_port_and_silence_have_curls_exit_codes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(call(&format!("-s -m 0.2 http://127.0.0.1:{port}/")).unwrap_err().0, 28);
        drop(listener);
        assert_eq!(call(&format!("-s -m 2 http://127.0.0.1:{port}/")).unwrap_err().0, 7);
    }

    #[test]
    fn urls_of_both_families_are_taken_apart() {
        let url = |text| parse_url(text).map(|url| (url.host, url.port, url.path));
        assert_eq!(url("http://[fd00::1]:8080/a"), Ok(("fd00::1".into(), 8080, "/a".into())));
        assert_eq!(url("10.0.0.1"), Ok(("10.0.0.1".into(), 80, "/".into())));
        assert_eq!(url("https://x/").unwrap_err().0, 1);
        assert_eq!(call("-Z x").unwrap_err(), Failure(2, "option -Z: is unknown".into()));
    }
}
