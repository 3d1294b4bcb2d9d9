//! One run at a time: a lock on a file beside what a run makes and ends. Whoever dies holding it has given it back, so it says "running",
//! never "was killed".

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

/// A lock that this process holds; it and its file go when it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    released: AtomicBool,
    _held: File,
}

/// Somebody else has it: the id that he wrote.
struct Held(String);

impl Lock {
    /// Takes the lock beside a directory.
    ///
    /// # Errors
    /// Another process holds it; the message says that another `what` is running, and its id.
    pub fn take(beside: &Path, what: &str) -> Result<Self> {
        let path = beside.with_added_extension("lock");
        let cannot = || format!("cannot lock {}", path.display());
        let attempt = || -> Result<Result<Option<Self>, Held>, io::Error> {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let mut held =
                File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            match held.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Ok(Err(Held(fs::read_to_string(&path).unwrap_or_default())));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever held it until now has taken its file away: ours is not the one that others will open.
            let (ours, there) = (held.metadata()?, fs::metadata(&path).ok());
            if there.is_none_or(|there| (there.dev(), there.ino()) != (ours.dev(), ours.ino())) {
                return Ok(Ok(None));
            }
            held.set_len(0)?;
            write!(held, "{}", std::process::id())?;
            Ok(Ok(Some(Self { path: path.clone(), released: AtomicBool::new(false), _held: held })))
        };
        loop {
            match attempt().with_context(cannot)? {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => {}
                Err(Held(pid)) if pid.is_empty() => bail!("another {what} is running"),
                Err(Held(pid)) => bail!("another {what} is running (pid {})", pid.trim()),
            }
        }
    }

    /// Takes the file away; for who ends the process without dropping anything.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::SeqCst) {
            // A file that stays is locked by nobody.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[test]
    fn who_comes_second_is_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = Lock::take(&state, "demo").unwrap();
        let refusal = format!("{:#}", Lock::take(&state, "demo").unwrap_err());
        assert_eq!(refusal, format!("another demo is running (pid {})", std::process::id()));
        drop(first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays");
        Lock::take(&state, "demo").unwrap();
    }

    #[test]
    fn what_a_killed_run_left_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.lock");
        let mut killed = std::process::Command::new("flock")
            .arg(&file)
            .args(["sh", "-c", "echo 1234567 >\"$0\"; echo held; exec sleep 60"])
            .arg(&file)
            .stdout(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(killed.stdout.take().unwrap()), &mut line).unwrap();
        let refusal = format!("{:#}", Lock::take(&dir.path().join("state"), "demo").unwrap_err());
        assert_eq!(refusal, "another demo is running (pid 1234567)");
        let group = rustix::process::Pid::from_child(&killed);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        killed.wait().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while let Err(error) = Lock::take(&dir.path().join("state"), "demo") {
            assert!(std::time::Instant::now() < deadline, "{error:#}");
        }
    }
}
