//! One line of JSON per call in a file of the node, as operators of upstream know it.
//!
//! A log that cannot be written never fails a call.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime};

use serde_json::json;
use wire::cni::Call;

use super::config::Config;

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" => Some(Self::Warn),
            "error" | "fatal" | "panic" => Some(Self::Error),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// The log of one call.
pub(super) struct Log<'a> {
    config: &'a Config,
    call: &'a Call,
    started: Instant,
}

impl<'a> Log<'a> {
    /// Nothing is opened before the first line.
    pub fn open(config: &'a Config, call: &'a Call) -> Self {
        Self { config, call, started: Instant::now() }
    }

    pub fn write(&self, level: Level, action: &str, msg: &str) {
        if level < self.config.log_level {
            return;
        }
        let pod = self.call.env.args.pod().unwrap_or_default();
        let line = json!({
            "level": level.name(),
            "ts": timestamp(SystemTime::now()),
            "logger": "spiderpool",
            "action": action,
            "msg": msg,
            "containerID": self.call.env.container_id,
            "netns": self.call.env.netns,
            "ifName": self.call.env.ifname,
            "podNamespace": pod.namespace,
            "podName": pod.name,
            "podUID": pod.uid,
            "milliseconds": self.started.elapsed().as_secs_f64() * 1000.0,
        });
        if let Ok(mut file) = self.file() {
            // One write: lines of concurrent plugins do not mix.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }

    fn file(&self) -> std::io::Result<File> {
        let path = &self.config.log_path;
        let open = || OpenOptions::new().append(true).create(true).open(path);
        let file = match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                open()?
            }
            other => other?,
        };
        if file.metadata()?.len() < self.config.log_size {
            return Ok(file);
        }
        set_aside(path, self.config.log_count)?;
        open()
    }
}

/// Renames the file to `NAME.SECONDS` and removes the oldest of those beyond `keep`.
fn set_aside(path: &Path, keep: u64) -> std::io::Result<()> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let with_suffix = |suffix: u64| {
        path.with_file_name(format!("{}.{suffix}", path.file_name().unwrap_or_default().to_string_lossy()))
    };
    fs::rename(path, with_suffix(seconds))?;
    let Some(folder) = path.parent() else { return Ok(()) };
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let number = |name: &str| name.strip_prefix(&prefix).and_then(|rest| rest.parse::<u64>().ok());
    let names =
        fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut aside: Vec<u64> = names.filter_map(|name| number(&name)).collect();
    aside.sort_unstable_by(|a, b| b.cmp(a));
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    for old in aside.into_iter().skip(keep) {
        fs::remove_file(with_suffix(old))?;
    }
    Ok(())
}

/// RFC 3339 with milliseconds, in UTC (days to date after H. Hinnant, "chrono-compatible low-level date algorithms").
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_in_rfc_3339() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_102_444_800_001, "2100-01-01T00:00:00.001Z"),
        ];
        for (millis, expected) in rows {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn a_full_log_is_set_aside_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        for old in ["x.log.1", "x.log.2", "x.log.old", "y.log.3"] {
            fs::write(folder.path().join(old), "").unwrap();
        }
        fs::write(&path, "full").unwrap();
        set_aside(&path, 2).unwrap();
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left.len(), 4, "{left:?}");
        assert!(left.contains(&"x.log.2".to_owned()) && !left.contains(&"x.log.1".to_owned()), "{left:?}");
    }
}
