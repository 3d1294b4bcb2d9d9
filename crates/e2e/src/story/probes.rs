//! `ping` and `curl` from many places at once.

use std::net::IpAddr;

use anyhow::Result;
use lab::world::{Exec, Output};

use crate::report::Verdict;

/// A command to be run somewhere, with a name for people.
pub struct Probe {
    /// From where to where.
    pub what: String,
    /// Where it runs.
    pub place: Exec,
    /// The words.
    pub words: Vec<String>,
}

/// What a probe printed.
pub struct Found {
    /// From where to where.
    pub what: String,
    /// The output.
    pub output: Result<Output>,
}

impl Found {
    /// Whether the command succeeded.
    pub fn answered(&self) -> bool {
        self.output.as_ref().is_ok_and(Output::succeeded)
    }

    /// Its standard output.
    pub fn stdout(&self) -> &str {
        self.output.as_ref().map_or("", |output| output.stdout.as_str())
    }

    /// What a reader needs to know of a failure.
    pub fn failure(&self) -> String {
        match &self.output {
            Ok(output) => format!("{}: `{}` exit {:?}: {}", self.what, output.command, output.code, last_line(output)),
            Err(error) => format!("{}: {error:#}", self.what),
        }
    }
}

/// The last line that a command printed, errors first.
pub fn last_line(output: &Output) -> String {
    let line = |text: &str| text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    let losses = output.stdout.lines().find(|line| line.contains("packet loss")).map(|line| line.trim().to_owned());
    line(&output.stderr).or(losses).or_else(|| line(&output.stdout)).unwrap_or_default()
}

/// Runs the probes, a few at a time.
pub fn run(probes: Vec<Probe>) -> Vec<Found> {
    let mut found = Vec::new();
    let mut probes = probes.into_iter().peekable();
    while probes.peek().is_some() {
        let batch: Vec<Probe> = probes.by_ref().take(4).collect();
        std::thread::scope(|scope| {
            let started: Vec<_> = batch
                .into_iter()
                .map(|probe| scope.spawn(move || Found { output: probe.place.run(&probe.words), what: probe.what }))
                .collect();
            found.extend(started.into_iter().filter_map(|thread| thread.join().ok()));
        });
    }
    found
}

/// One packet there and back. Two tries: the first may be lost to a neighbour that is still being asked for.
pub fn ping(to: IpAddr) -> Vec<String> {
    words(&["ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", &to.to_string()])
}

/// The page at an address, several times: one connection each, because the application closes it.
pub fn curls(to: IpAddr, port: u16, times: usize) -> Vec<String> {
    let mut all = words(&["curl", "-sS", "--max-time", "20", "--connect-timeout", "6", "--fail-early"]);
    all.extend(std::iter::repeat_n(url(to, port), times));
    all
}

/// The page at an address.
pub fn curl(to: IpAddr, port: u16) -> Vec<String> {
    words(&["curl", "-sS", "--max-time", "6", &url(to, port)])
}

/// `http://ADDRESS:PORT/`
pub fn url(to: IpAddr, port: u16) -> String {
    match to {
        IpAddr::V4(to) => format!("http://{to}:{port}/"),
        IpAddr::V6(to) => format!("http://[{to}]:{port}/"),
    }
}

/// Owned words.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A line `KEY: VALUE` of the application's page.
pub fn field<'a>(page: &'a str, key: &str) -> Option<&'a str> {
    page.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

/// All must have answered.
pub fn all_answered(found: &[Found], of_what: &str) -> Verdict {
    let answered = found.iter().filter(|found| found.answered()).count();
    let failures: Vec<String> = found.iter().filter(|found| !found.answered()).map(Found::failure).collect();
    let seen = if failures.is_empty() {
        format!("{answered} of {}", found.len())
    } else {
        format!("{answered} of {}; {}", found.len(), failures.join("; "))
    };
    Verdict::new(failures.is_empty() && !found.is_empty(), format!("all {} {of_what} answered", found.len()), seen)
}
