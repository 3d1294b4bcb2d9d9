//! Everything that looks at the source without running it.

use anyhow::{Result, bail};

use crate::report::{Check, step};
use crate::run::{cargo, has, passed_on, root};
use crate::{chart, deps, generate, setup};

/// The version of cargo-deny that this repository's `deny.toml` was written for.
const CARGO_DENY: &str = "0.20";

/// Runs every check; a failing one does not stop the next.
pub fn run() -> Result<Vec<Check>> {
    setup::checkers();
    Ok(vec![
        if_there("format", "rustfmt", || cargo_step(&["fmt", "--all", "--check"], None)),
        if_there("clippy", "clippy", || {
            cargo_step(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], None)
        }),
        step(
            "documentation",
            cargo_step(
                &["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"],
                Some("-D warnings -A rustdoc::private_intra_doc_links"),
            ),
        ),
        step("dependency table", deps::check()),
        step("generated files: CRDs", generate::crds(true)),
        step("generated files: roles", generate::rbac(true)),
        step("generated files: README of the chart", chart::readme(true)),
        step("READMEs", readmes()),
        licences(),
    ])
}

/// A check that takes a component of the toolchain; without it the check is skipped.
fn if_there(name: &str, component: &str, check: impl FnOnce() -> Result<()>) -> Check {
    if setup::has_component(component) {
        return step(name, check());
    }
    let what = format!("{name}: the toolchain has no {component} (`rustup component add {component}`)");
    Check::Skipped { count: 1, what }
}

fn cargo_step(args: &[&str], rustdocflags: Option<&str>) -> Result<()> {
    eprintln!("==> cargo {}", args.join(" "));
    let mut check = cargo();
    check.args(args);
    if let Some(flags) = rustdocflags {
        check.env("RUSTDOCFLAGS", flags);
    }
    passed_on(check)
}

/// Bans, licences and sources of all dependencies (`deny.toml`).
fn licences() -> Check {
    if !has("cargo-deny") {
        return Check::Skipped {
            count: 1,
            what: format!("licences: cargo-deny is not installed (`cargo install --locked cargo-deny@{CARGO_DENY}`)"),
        };
    }
    step("licences", cargo_step(&["deny", "--locked", "check", "bans", "licenses", "sources"], None))
}

/// Both READMEs have the same shape: headings, code blocks and tables in the same order.
fn readmes() -> Result<()> {
    let shape = |name: &str| -> Result<Vec<String>> {
        let text = std::fs::read_to_string(root().join(name))?;
        let mut shape = Vec::new();
        let mut in_code = false;
        for line in text.lines() {
            if line.starts_with("```") {
                in_code = !in_code;
                shape.push(line.to_owned());
            } else if in_code {
                shape.push(line.to_owned());
            } else if line.starts_with('#') {
                shape.push("#".repeat(line.bytes().take_while(|byte| *byte == b'#').count()));
            } else if line.starts_with('|') {
                shape.push(format!("row of {}", line.matches('|').count()));
            }
        }
        Ok(shape)
    };
    let (english, chinese) = (shape("README.md")?, shape("README-zh_CN.md")?);
    for (at, (left, right)) in english.iter().zip(&chinese).enumerate() {
        if left != right {
            bail!("README.md and README-zh_CN.md differ at element {at}: {left:?} against {right:?}");
        }
    }
    if english.len() != chinese.len() {
        bail!("README.md has {} headings, code lines and rows, README-zh_CN.md {}", english.len(), chinese.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_without_its_program_is_skipped_and_says_why() {
        let check = if_there("format", "no-such-component", || panic!("it was run"));
        let Check::Skipped { count: 1, what } = check else { panic!("it counts as run") };
        assert_eq!(what, "format: the toolchain has no no-such-component (`rustup component add no-such-component`)");
    }
}
