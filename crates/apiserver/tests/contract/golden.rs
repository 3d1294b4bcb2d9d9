//! Sessions of kubectl, as text: the same on both engines, ages, times, versions and UIDs aside.
//!
//! A file of `tests/golden` is a transcript: lines `$ kubectl ...` (with `<<EOF` their input follows up to a line
//! `EOF`), each with what kubectl printed on both streams, and its exit code if it failed. `UPDATE_GOLDEN=1` writes what
//! was seen; that is for a run against kube-apiserver (`CONTRACT_KUBECONFIG`), whose text is the one that counts.

use crate::engine::Api;
use crate::kubectl::Kubectl;
use regex::Regex;
use std::path::Path;
use std::sync::LazyLock;

/// One command of a transcript; what it printed is compared as a whole.
struct Step {
    command: String,
    input: String,
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(command) = line.strip_prefix("$ ") {
            let mut step = Step { command: command.to_owned(), input: String::new() };
            if command.ends_with("<<EOF") {
                for line in lines.by_ref().take_while(|line| *line != "EOF") {
                    step.input += &format!("{line}\n");
                }
            }
            steps.push(step);
        }
    }
    steps
}

/// Words of a command line; single quotes hold a word together.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// What may differ between two runs is replaced by a word for it.
fn normalised(text: &str, namespace: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
            (r"(?i)(resource ?version: +)\S+", "${1}VERSION"),
            (r#"("resourceVersion": )"\d+""#, "${1}VERSION"),
            (r"(?m)(\s)\d+[smh](\d+[smh])?(\s|$)", "${1}AGE${3}"),
            (", application/apply-patch\\+yaml", ""), // server-side apply is not served by the embedded one
            (r"\b10\.\d+\.\d+\.\d+\b", "CLUSTERIP"),
            (r" from NAMESPACE namespace", ""), // later clients say so
            (r" {2,}", "  "),
            (r"(?m)[ \t]+$", ""),
        ]
        .map(|(pattern, word)| (Regex::new(pattern).expect("a constant"), word))
        .into()
    });
    let text = text.replace(namespace, "NAMESPACE");
    RULES.iter().fold(text, |text, (pattern, word)| pattern.replace_all(&text, *word).into_owned())
}

/// The chart's kinds, applied by kubectl. They stay.
pub async fn define(kubectl: &Kubectl) {
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/spiderpool/crds");
    // Two that create the same definitions at once: one is told that they exist already.
    static DEFINING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let alone = DEFINING.lock().await;
    kubectl.ok(&["apply", "--server-side=false", "-f", &crds.to_string_lossy()], "").await;
    drop(alone);
    kubectl.ok(&["wait", "--for=condition=Established", "-f", &crds.to_string_lossy()], "").await;
}

async fn replay(name: &str) {
    let api = Api::new().await;
    let kubectl = Kubectl::new(&api);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    define(&kubectl).await;
    let path = root.join("tests/golden").join(format!("{name}.txt"));
    let expected = std::fs::read_to_string(&path).expect("a transcript");
    let mut seen = String::new();
    for step in parse(&expected) {
        seen += &format!("$ {}\n", step.command);
        if step.command.ends_with("<<EOF") {
            seen += &format!("{}EOF\n", step.input);
        }
        let line = step.command.trim_end_matches("<<EOF").trim_start_matches("kubectl");
        let arguments = words(line);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ran = kubectl.run(&arguments, &step.input).await;
        seen += &normalised(&format!("{}{}", ran.out, ran.err), &api.namespace);
        if !seen.ends_with('\n') {
            seen.push('\n');
        }
        if !ran.ok {
            seen += "(failed)\n";
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(&path, &seen).expect("the transcript is written");
    }
    let difference = expected.lines().zip(seen.lines()).find(|(expected, seen)| expected != seen);
    assert!(expected == seen, "{name}.txt: first difference (expected, seen): {difference:?}\n--- seen:\n{seen}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kubectl"]
async fn pools_are_shown_changed_and_deleted_with_the_same_words() {
    replay("pools").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kubectl"]
async fn builtin_kinds_are_shown_changed_and_deleted_with_the_same_words() {
    replay("builtin").await;
}
