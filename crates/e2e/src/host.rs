//! Where the world is made: on this machine if its kernel has ipvlan, else in a guest; and how to get into one that was kept.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::lock::Lock;
use lab::vm::{Forward, Vm};
use lab::world::{self, Options, World};
use lab::{secret, shell, vm};
use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::{guest, story};

/// Where the guest's shell server listens.
const SHELL_PORT: u16 = 7000;
/// Where the API server is reached in the guest.
const API_PORT: u16 = 6443;
/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(1200);

/// Directories that the driver is given.
#[derive(Debug, Clone, clap::Args)]
pub struct Places {
    /// Directory of the programs
    #[arg(long)]
    pub bin_dir: PathBuf,
    /// Directory for the guest's kernel, logs and state
    #[arg(long)]
    pub cache_dir: PathBuf,
    /// The repository
    #[arg(long)]
    pub repository: PathBuf,
}

/// How to run.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// IPv4 and IPv6 instead of IPv4 alone
    #[arg(long)]
    pub dual_stack: bool,
    /// Leave the world up
    #[arg(long)]
    pub keep: bool,
    /// One JSON object a line instead of the story
    #[arg(long)]
    pub json: bool,
    /// In a guest even if this kernel has ipvlan
    #[arg(long)]
    pub vm: bool,
    /// This process is the guest's: the host reaches the API server at that port
    #[arg(long, hide = true)]
    guest_api: Option<u16>,
}

/// A guest that is up.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    pid: u32,
    ticks: u64,
    shell: SocketAddr,
    /// A run is not over yet, or was killed.
    #[serde(default)]
    unfinished: bool,
}

impl Places {
    /// What guest and host share.
    fn scratch(&self) -> PathBuf {
        self.cache_dir.join("guest")
    }

    fn kept_file(&self) -> PathBuf {
        self.scratch().join("kept.json")
    }

    /// At most one run at a time makes a guest here, or ends one.
    fn lock(&self) -> Result<Lock> {
        Lock::take(&self.scratch(), "demo")
    }

    fn kept(&self) -> Option<Kept> {
        let kept: Kept = serde_json::from_slice(&fs::read(self.kept_file()).ok()?).ok()?;
        (lab::kubelet::start_ticks(kept.pid) == Some(kept.ticks)).then_some(kept)
    }
}

/// Runs the walk-through where this machine can; the result is whether every check passed.
pub async fn run(places: &Places, args: &RunArgs) -> Result<bool> {
    if args.guest_api.is_some() || (!args.vm && world::kernel_has_ipvlan()) {
        return here(places, args).await;
    }
    in_guest(places, args)
}

/// On this machine, or as the guest's part of a run.
async fn here(places: &Places, args: &RunArgs) -> Result<bool> {
    let guest = args.guest_api;
    let logs = if guest.is_some() { places.scratch().join("logs") } else { places.cache_dir.join("logs") };
    let options = Options {
        bin_dir: places.bin_dir.clone(),
        repository: places.repository.clone(),
        state_dir: world::state_dir(),
        log_dir: logs.clone(),
        ipv6: args.dual_stack,
        api_listen: if guest.is_some() {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, API_PORT))
        } else {
            world::default_api_listen()
        },
    };
    // A guest's own world is its run's alone.
    let lock = if guest.is_none() { Some(Arc::new(Lock::take(&options.state_dir, "demo")?)) } else { None };
    // Logs of an earlier run would be taken for this one's.
    let _ = fs::remove_dir_all(&logs);
    guest::on_signal(lock.as_ref(), || match world::end_for_good(&world::state_dir()) {
        Ok(true) => "the world is cleared away".into(),
        Ok(false) => "nothing was up".into(),
        Err(error) => format!("{error:#}"),
    })?;
    tell(&options, args, &places.repository, &places.scratch(), &places.cache_dir).await
}

async fn tell(options: &Options, args: &RunArgs, repository: &Path, scratch: &Path, cache: &Path) -> Result<bool> {
    let mut report = Report::new(args.json);
    report.chapter("The world: an Alibaba Cloud VPC with two machines, and a cluster on them");
    let mut world = World::up(options, &mut |line| report.step(line)).await?;
    let told = story::tell(&mut world, &mut report, repository, args.dual_stack).await;
    if let Err(error) = told {
        report.check("-", "the story goes to its end", Err(error));
    }
    if args.keep {
        world.keep()?;
        let kubeconfig = match args.guest_api {
            Some(port) => keep_in_guest(&mut world, scratch, port)?,
            None => {
                let file = cache.join("kubeconfig");
                secret::write(&file, &fs::read_to_string(world.kubeconfig())?)?;
                file
            }
        };
        report.chapter("The world stays up");
        report.say(&format!("export KUBECONFIG={}", kubeconfig.display()));
        report.say("cargo xtask demo enter master   (or worker, client, outside, nat, balancer, or a pod's name)");
        report.say("cargo xtask demo down           ends it");
    } else {
        let cleared = world.down();
        if let Err(error) = cleared {
            report.check("-", "the world is cleared away", Err(error));
        }
    }
    report.finish();
    Ok(report.is_good())
}

/// Makes the guest stay and opens the ways in.
fn keep_in_guest(world: &mut World, scratch: &Path, port: u16) -> Result<PathBuf> {
    world.serve_shell(SocketAddr::from((Ipv4Addr::UNSPECIFIED, SHELL_PORT)), &scratch.join("secret"))?;
    let text =
        fs::read_to_string(world.kubeconfig())?.replace(&format!("127.0.0.1:{API_PORT}"), &format!("127.0.0.1:{port}"));
    let file = scratch.join("kubeconfig");
    secret::write(&file, &text)?;
    fs::write(scratch.join("stay"), "")?;
    Ok(file)
}

/// In a guest: the host's part.
fn in_guest(places: &Places, args: &RunArgs) -> Result<bool> {
    let lock = Arc::new(places.lock()?);
    end_guest(places, |line| {
        if !args.json {
            println!("{line}");
        }
    })?;
    let scratch = places.scratch();
    let _ = fs::remove_dir_all(&scratch);
    secret::make_dir(&scratch)?;
    lab::shell::new_secret(&scratch.join("secret"))?;
    let (api, shell) = (free_port()?, free_port()?);
    let machine = Vm {
        cache: places.cache_dir.clone(),
        scratch: scratch.clone(),
        name: "lab".into(),
        cpus: guest::cpus(),
        memory: 3072,
        modules: guest::MODULES.to_vec(),
        forwards: vec![
            Forward { host: SocketAddr::from((Ipv4Addr::LOCALHOST, api)), guest: API_PORT },
            Forward { host: SocketAddr::from((Ipv4Addr::LOCALHOST, shell)), guest: SHELL_PORT },
        ],
        command: guest_command(places, args, api)?,
    };
    if !args.json {
        println!("This kernel has no ipvlan: the world is made in a virtual machine with Debian's kernel.");
    }
    let note = |pid: u32, unfinished: bool| -> Result<()> {
        let ticks = lab::kubelet::start_ticks(pid).context("the guest is gone")?;
        let kept = Kept { pid, ticks, shell: SocketAddr::from((Ipv4Addr::LOCALHOST, shell)), unfinished };
        secret::write(&places.kept_file(), &serde_json::to_string(&kept)?)
    };
    let (mut guest, ended) = guest::run(&machine, LIMIT, args.json, &lock, |pid| note(pid, true))?;
    if ended.stays {
        note(guest.pid, false)?;
        guest.detach();
    } else {
        guest.wait(Duration::from_secs(20));
    }
    Ok(ended.code == 0)
}

fn guest_command(places: &Places, args: &RunArgs, api: u16) -> Result<Vec<String>> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut words = vec![own.display().to_string()];
    for (flag, dir) in
        [("--bin-dir", &places.bin_dir), ("--cache-dir", &places.cache_dir), ("--repository", &places.repository)]
    {
        words.extend([flag.to_owned(), dir.display().to_string()]);
    }
    words.extend(["run".to_owned(), "--guest-api".into(), api.to_string()]);
    words.extend(
        [("--dual-stack", args.dual_stack), ("--keep", args.keep), ("--json", args.json)]
            .iter()
            .filter(|(_, on)| *on)
            .map(|(flag, _)| (*flag).to_owned()),
    );
    Ok(words)
}

/// A TCP port that is free now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no free port")?
        .port())
}

/// Opens a shell, or runs a command, in a place of a kept world; returns its exit code.
pub fn enter(places: &Places, name: &str, command: &[String]) -> Result<u8> {
    if let Some(kept) = places.kept().filter(|kept| !kept.unfinished) {
        let secret = fs::read_to_string(places.scratch().join("secret")).context("cannot read the guest's secret")?;
        return shell::ask(kept.shell, secret.trim(), name, command);
    }
    let world =
        World::found(&world::state_dir())?.context("no world is up; start one with: cargo xtask demo --keep")?;
    shell::here(&world, name, command)
}

/// Ends a world that was kept, in a guest or here.
pub fn down(places: &Places) -> Result<()> {
    {
        let _lock = places.lock()?;
        end_guest(places, |_| {})?;
    }
    let state_dir = world::state_dir();
    if World::found(&state_dir)?.is_none() {
        return Ok(());
    }
    let _lock = Lock::take(&state_dir, "demo")?;
    World::found(&state_dir)?.map_or(Ok(()), World::down)
}

/// Ends a guest that was kept, or that a killed run left; the lock is held.
fn end_guest(places: &Places, progress: impl FnOnce(&str)) -> Result<()> {
    let Some(guest) = places.kept() else { return Ok(()) };
    progress(if guest.unfinished { "ending the guest that a killed run left behind" } else { world::ENDING_KEPT });
    vm::kill(guest.pid);
    let file = places.kept_file();
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A place with a guest (any process) that a run or `--keep` has left.
    fn with_guest(dir: &Path, unfinished: bool) -> (Places, std::process::Child) {
        let dir = dir.to_owned();
        let places = Places { bin_dir: dir.clone(), cache_dir: dir.clone(), repository: dir };
        let guest = Command::new("sleep").arg("60").spawn().unwrap();
        let ticks = lab::kubelet::start_ticks(guest.id()).unwrap();
        let shell = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let kept = Kept { pid: guest.id(), ticks, shell, unfinished };
        secret::make_dir(&places.scratch()).unwrap();
        fs::write(places.kept_file(), serde_json::to_vec(&kept).unwrap()).unwrap();
        (places, guest)
    }

    #[test]
    fn a_second_run_leaves_the_first_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (places, mut guest) = with_guest(dir.path(), true);
        let first = places.lock().unwrap();
        let args = RunArgs { dual_stack: false, keep: false, json: true, vm: true, guest_api: None };
        let refusal = format!("{:#}", in_guest(&places, &args).unwrap_err());
        assert!(refusal.contains("another demo is running (pid "), "{refusal}");
        assert!(guest.try_wait().unwrap().is_none() && places.kept_file().exists());
        drop(first);
        guest.kill().unwrap();
        guest.wait().unwrap();
    }

    #[test]
    fn a_guest_that_is_ended_is_named() {
        for (unfinished, said) in
            [(false, "ending the world that --keep left up"), (true, "ending the guest that a killed run left behind")]
        {
            let dir = tempfile::tempdir().unwrap();
            let (places, mut guest) = with_guest(dir.path(), unfinished);
            let mut lines = Vec::new();
            end_guest(&places, |line| lines.push(line.to_owned())).unwrap();
            assert_eq!(lines, [said]);
            assert!(!guest.wait().unwrap().success());
            end_guest(&places, |line| panic!("{line}")).unwrap();
        }
    }
}
