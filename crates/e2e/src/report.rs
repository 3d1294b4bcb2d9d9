//! What people and machines get to read: a story, or one JSON object a line.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::guest;

/// What a check expected and saw.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What should be.
    pub expected: String,
    /// What is.
    pub seen: String,
    /// Whether they agree.
    pub passed: bool,
}

impl Verdict {
    /// A verdict.
    pub fn new(passed: bool, expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { expected: expected.into(), seen: seen.into(), passed }
    }

    /// Whether what was seen is as expected.
    pub fn passed(&self) -> bool {
        self.passed
    }
}

/// Writes the story and counts the checks.
#[derive(Debug)]
pub struct Report {
    json: bool,
    started: Instant,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Report {
    /// A report that begins now.
    pub fn new(json: bool) -> Self {
        Self { json, started: Instant::now(), passed: 0, failed: Vec::new(), skipped: 0 }
    }

    /// A heading.
    pub fn chapter(&mut self, title: &str) {
        let at = self.started.elapsed().as_secs();
        self.emit(json!({"type": "chapter", "title": title, "seconds": at}), || format!("\n== {title}  [{at} s]"));
    }

    /// A line of the story.
    pub fn say(&mut self, text: &str) {
        self.emit(json!({"type": "note", "text": text}), || format!("   {text}"));
    }

    /// A step of something that takes a while.
    pub fn step(&mut self, text: &str) {
        let at = self.started.elapsed().as_secs();
        self.emit(json!({"type": "step", "text": text, "seconds": at}), || format!("   {text}  [{at} s]"));
    }

    /// A command as a reader would type it, and what it printed.
    pub fn shell(&mut self, command: &str, output: &str) {
        self.emit(json!({"type": "command", "command": command, "output": output}), || {
            let mut text = format!("   $ {command}");
            for line in output.lines() {
                let _ = write!(text, "\n     {}", line.trim_end());
            }
            text
        });
    }

    /// A check's line. An error is a failed check.
    pub fn check(&mut self, id: &str, title: &str, outcome: anyhow::Result<Verdict>) -> bool {
        let verdict =
            outcome.unwrap_or_else(|error| Verdict::new(false, "the check can be made", format!("{error:#}")));
        let passed = verdict.passed;
        let seen = verdict.seen.replace('\n', " | ");
        let line = json!({"type": "check", "id": id, "title": title, "expected": verdict.expected, "seen": verdict.seen, "passed": passed});
        self.emit(line, || {
            format!(
                " {} {id:>4}  {title}: expected: {}; seen: {seen}",
                if passed { "PASS" } else { "FAIL" },
                verdict.expected
            )
        });
        if passed {
            self.passed += 1;
        } else {
            self.failed.push(format!("{id} {title}"));
        }
        passed
    }

    /// A check that cannot be made here.
    pub fn skip(&mut self, id: &str, title: &str, reason: &str) {
        self.skipped += 1;
        let line = json!({"type": "skipped", "id": id, "title": title, "reason": reason});
        self.emit(line, || format!(" SKIP {id:>4}  {title}: {}", reason.replace('\n', " | ")));
    }

    /// Whether every check so far passed.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.passed > 0
    }

    /// The last words: what failed, how long it took, the numbers.
    pub fn finish(&mut self) {
        let seconds = self.started.elapsed().as_secs();
        if guest::is_interrupted() {
            return;
        }
        if !self.json {
            println!();
            for failed in &self.failed {
                println!("failed: {failed}");
            }
            println!("took {seconds} s");
        }
        let (passed, failed) = (self.passed, self.failed.len());
        let line = json!({
            "type": "summary", "passed": passed, "failed": failed, "failures": self.failed, "skipped": self.skipped, "seconds": seconds
        });
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        self.emit(line, || format!("{passed} passed, {failed} failed{skipped}"));
    }

    fn emit(&self, value: Value, text: impl FnOnce() -> String) {
        let line = if self.json { value.to_string() } else { text() };
        let mut out = std::io::stdout().lock();
        if guest::is_interrupted() {
            return;
        }
        // A reader that went away does not stop the run: the world must still be cleared.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
