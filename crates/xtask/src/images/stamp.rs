//! What labels and bills of materials say of the source: version, commit, time.

use anyhow::{Context, Result};

use crate::run::{command, output, root};

/// The source as the images name it.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// `appVersion` of the chart, which is the version of the workspace.
    pub version: String,
    /// The commit; empty without history.
    pub revision: String,
    /// RFC 3339: SOURCE_DATE_EPOCH, else the commit's time.
    pub created: String,
}

impl Stamp {
    /// Of this checkout.
    pub fn of_source() -> Result<Self> {
        Ok(Self { version: version()?, revision: revision(), created: created()? })
    }
}

/// The chart names the images it pulls by its `appVersion`.
fn version() -> Result<String> {
    let path = root().join("charts/spiderpool/Chart.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("appVersion:"));
    let version = line.map(|value| value.trim().trim_matches('"').to_owned()).filter(|value| !value.is_empty());
    version.with_context(|| format!("{} has no appVersion", path.display()))
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = command("git");
    git.args(arguments).env("TZ", "UTC").stderr(std::process::Stdio::null());
    output(git).ok().map(|text| text.trim().to_owned())
}

fn revision() -> String {
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { format!("{commit}-dirty") } else { commit }
}

fn created() -> Result<String> {
    if let Ok(seconds) = std::env::var("SOURCE_DATE_EPOCH") {
        seconds.parse::<u64>().with_context(|| format!("SOURCE_DATE_EPOCH={seconds} is no number of seconds"))?;
        let mut date = command("date");
        date.args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"]);
        return Ok(output(date)?.trim().to_owned());
    }
    let commit = git(&["log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"]);
    Ok(commit.filter(|text| !text.is_empty()).unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()))
}
