//! The chart: its README, made from `values.yaml`, and its tests, which need Helm.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::kube::{self, Kubernetes};
use crate::lanes::verdict;
use crate::report::Check;
use crate::run::{cargo, root, teed};

/// Names a Helm to use.
const GIVEN: &str = "SPIDERPOOL_HELM";

/// Before the tables.
const HEAD: &str = "\
# Chart of Spiderpool

Made from `values.yaml` by `cargo xtask chart-readme`.

Installation, upgrade and removal are in the guides: [install](../../docs/install.md), [upgrade](../../docs/upgrade.md),
[uninstall](../../docs/uninstall.md). Names of values are those of upstream's chart. Unknown names, wrong types and combinations that
cannot work are refused when the chart is rendered, with the name of the value.
";

/// Writes (or with `check` only compares) the chart's README.
pub fn readme(check: bool) -> Result<()> {
    let dir = root().join("charts/spiderpool");
    let read =
        |name: &str| fs::read_to_string(dir.join(name)).with_context(|| format!("cannot read {name} of the chart"));
    let text =
        format!("{HEAD}{}{}", tables(&read("values.yaml")?)?, without_effect(&read("files/without-effect.yaml")?));
    let path = dir.join("README.md");
    if check {
        if fs::read_to_string(&path).unwrap_or_default() != text {
            bail!("{} is out of date: run `cargo xtask chart-readme`", path.display());
        }
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// One table for each group of values: the comment above a value says what it means.
fn tables(values: &str) -> Result<String> {
    let (mut text, mut comment, mut path) = (String::new(), Vec::new(), Vec::<&str>::new());
    for (number, line) in values.lines().enumerate() {
        let trimmed = line.trim_start();
        let depth = (line.len() - trimmed.len()) / 2;
        if let Some(words) = trimmed.strip_prefix('#') {
            comment.push(words.trim());
        } else if trimmed.is_empty() {
            comment.clear();
        } else if let Some((key, value)) = trimmed.split_once(':').filter(|_| !trimmed.starts_with('-')) {
            path.truncate(depth);
            path.push(key);
            let meaning = std::mem::take(&mut comment).join(" ");
            match (depth, meaning.is_empty()) {
                (0, true) => bail!("values.yaml:{}: {key} has no comment", number + 1),
                (0, false) => {
                    let _ =
                        write!(text, "\n## {key}\n\n{meaning}\n\n| value | default | meaning |\n| --- | --- | --- |\n");
                }
                (_, true) => {}
                (_, false) => {
                    let default = match value.trim() {
                        "" => "see [values.yaml](values.yaml)".to_owned(),
                        value => format!("`{value}`"),
                    };
                    let _ = writeln!(text, "| `{}` | {default} | {} |", path.join("."), meaning.replace('|', "\\|"));
                }
            }
        }
    }
    Ok(text)
}

/// The list of values that are accepted and change nothing.
fn without_effect(list: &str) -> String {
    let mut text = "\n## Without effect\n\nAccepted, so that set-ups for upstream's chart pass, and without effect in this version; a path stands for \
                    all below it.\n\n| value | why |\n| --- | --- |\n"
        .to_owned();
    for (path, why) in list.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": ")) {
        let _ = writeln!(text, "| `{path}` | {why} |");
    }
    text
}

/// The chart rendered by Helm, and looked at.
pub fn tests() -> Result<Vec<Check>> {
    let helm = match helm()? {
        Ok(helm) => helm,
        Err(reason) => return Ok(vec![Check::Skipped { count: 1, what: format!("chart: no Helm: {reason}") }]),
    };
    let mut test = cargo();
    test.args(["test", "--locked", "-p", "xtask", "--test", "chart", "--", "--ignored"]).env(GIVEN, helm);
    let (text, succeeded) = teed(test)?;
    Ok(verdict("chart", &text, succeeded))
}

/// A Helm: the given one, that of `PATH`, or that of the real Kubernetes for tests; or why there is none.
fn helm() -> Result<Result<PathBuf, String>> {
    if let Some(given) = std::env::var_os(GIVEN) {
        return Ok(Ok(given.into()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join("helm")).find(|program| program.is_file()) {
        return Ok(Ok(found));
    }
    Ok(match kube::ready()? {
        Kubernetes::Ready(dir) => Ok(dir.join("helm")),
        Kubernetes::Absent(reason) => Err(reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_rows_of_their_group() {
        let values = "# About the file.\n\n# A group.\nag:\n  # First,\n  # second\n  one: \"\"\n  b:\n    # Or a|b\n    two: 2\n  # Whole\n  three:\n    x: 1\n";
        let expected = "\n## ag\n\nA group.\n\n| value | default | meaning |\n| --- | --- | --- |\n| `ag.one` | `\"\"` | First, second |\n\
                        | `ag.b.two` | `2` | Or a\\|b |\n| `ag.three` | see [values.yaml](values.yaml) | Whole |\n";
        assert_eq!(tables(values).unwrap(), expected);
        assert!(tables("a: 1\n").unwrap_err().to_string().contains("values.yaml:1: a has no comment"));
    }
}
