//! `install`: atomic under kill, and clear about folders that cannot be used.

use super::{complaint, names, program, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PLUGINS: [&str; 3] = ["coordinator", "multinet", "spiderpool"];

/// A program that ends with success, grown to several megabytes so that writing it takes a while.
fn write_version(path: &Path, version: u8) {
    let mut content = fs::read("/bin/true").unwrap();
    content.resize(6 << 20, version);
    fs::write(path, content).unwrap();
}

fn folders(dir: &Path) -> (PathBuf, PathBuf) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    write_version(&from.join("spiderpool"), 1);
    (from, to)
}

fn arguments<'a>(from: &'a Path, to: &'a Path) -> [&'a str; 5] {
    ["install", "--from", from.to_str().unwrap(), "--to", to.to_str().unwrap()]
}

/// Calls a plugin over and over and counts calls that did not succeed.
fn call_until(stop: &AtomicBool, plugin: &Path) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match Command::new(plugin).status() {
            Ok(status) if status.success() => {}
            other => failures.push(format!("{other:?}")),
        }
    }
    failures
}

#[test]
fn plugins_are_callable_at_every_instant_while_installers_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = folders(dir.path());
    assert!(run(&arguments(&from, &to), &[]).status.success());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers = PLUGINS.map(|name| {
            let (plugin, stop) = (to.join(name), &stop);
            scope.spawn(move || call_until(stop, &plugin))
        });
        for round in 0..40u8 {
            write_version(&from.join("spiderpool"), round);
            let mut child = program(&arguments(&from, &to)).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(u64::from(round)));
            let _ = child.kill();
            child.wait().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            assert_eq!(caller.join().unwrap(), Vec::<String>::new());
        }
    });
    assert!(run(&arguments(&from, &to), &[]).status.success());
    assert_eq!(names(&to), [".spiderpool-plugins", "coordinator", "multinet", "spiderpool"]);
    for name in PLUGINS {
        assert_eq!(fs::read(to.join(name)).unwrap(), fs::read(from.join("spiderpool")).unwrap());
    }
    let check =
        Command::new("sha256sum").args(["--check", "--strict", ".spiderpool-plugins"]).current_dir(&to).output();
    assert!(check.unwrap().status.success());
}

#[test]
fn flags_and_folders_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = folders(dir.path());
    let missing = dir.path().join("missing");
    let error = complaint(&run(&arguments(&from, &missing), &[]));
    assert_eq!(
        error,
        format!("spiderpool-agent: --to {}: no such folder; mount the node's CNI folder there", missing.display())
    );
    let error = complaint(&run(&arguments(&missing, &to), &[]));
    assert!(error.contains(&format!("cannot read {}/spiderpool: No such file", missing.display())), "{error}");
    assert!(complaint(&run(&["install"], &[])).contains("--to"));
    let error = complaint(&run(&arguments(&from, &to), &[("SPIDERPOOL_LOG_LEVEL", "loud")]));
    assert!(error.contains("SPIDERPOOL_LOG_LEVEL"), "{error}");
}

/// Mounts a file system of a few megabytes over a folder, for this test process only.
fn mount_small(folder: &Path, options: &str) {
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status().unwrap();
    assert!(mount.success());
}

fn unmount(folder: &Path) {
    assert!(Command::new("umount").arg(folder).status().unwrap().success());
}

#[test]
#[ignore = "netns"]
fn a_full_disk_changes_nothing_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = folders(dir.path());
    mount_small(&to, "size=20m");
    assert!(run(&arguments(&from, &to), &[]).status.success(), "three files of 6 MB fit");
    write_version(&from.join("spiderpool"), 2);
    let error = complaint(&run(&arguments(&from, &to), &[]));
    let expected = format!("cannot write {}/.spiderpool-coordinator.tmp: No space left on device", to.display());
    assert!(error.contains(&expected), "{error}");
    assert_eq!(names(&to), [".spiderpool-plugins", "coordinator", "multinet", "spiderpool"]);
    for name in PLUGINS {
        assert_eq!(fs::read(to.join(name)).unwrap().last(), Some(&1), "{name} is the old one");
    }
    unmount(&to);
}

#[test]
#[ignore = "netns"]
fn a_read_only_folder_is_named_and_one_that_is_up_to_date_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = folders(dir.path());
    mount_small(&to, "size=40m");
    assert!(run(&arguments(&from, &to), &[]).status.success());
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&to).status().unwrap().success());
    assert!(run(&arguments(&from, &to), &[]).status.success(), "nothing is to be written");
    write_version(&from.join("spiderpool"), 2);
    let error = complaint(&run(&arguments(&from, &to), &[]));
    assert!(error.contains(&format!("{}/.spiderpool-coordinator.tmp: Read-only file system", to.display())), "{error}");
    unmount(&to);
}
