//! The balancer's state and the effects that follow it: public addresses, rules, health checks, L7 listeners.

use super::model::{Mode, Refusal, Service, View};
use super::{health, l7, rules};
use crate::netns;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

/// A node is taken out after so many failed checks in a row; one success brings it back.
const FAILURES: u32 = 2;

struct Entry {
    view: View,
    failures: BTreeMap<Ipv4Addr, u32>,
    /// Checks the nodes; replaced when the Service changes.
    checks: JoinHandle<()>,
    /// The L7 listeners by port.
    listeners: BTreeMap<u16, JoinHandle<()>>,
    /// Whether all effects of the last change were carried out; if not, repeating the change does what is left.
    complete: bool,
}

/// The control plane's other end.
pub struct Plane {
    interface: String,
    addresses: RangeInclusive<Ipv4Addr>,
    interval: Duration,
    services: Mutex<BTreeMap<String, Entry>>,
    /// Held while a change of addresses, listeners or rules is carried out, so that effects keep the order of changes.
    effects: tokio::sync::Mutex<()>,
}

impl Plane {
    /// A balancer that gives out these addresses on that interface.
    pub fn new(interface: String, addresses: RangeInclusive<Ipv4Addr>, interval: Duration) -> Self {
        Self { interface, addresses, interval, services: Mutex::default(), effects: tokio::sync::Mutex::default() }
    }

    fn services(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.services.lock().expect("no holder panics")
    }

    /// All Services.
    pub fn views(&self) -> Vec<View> {
        self.services().values().map(|entry| entry.view.clone()).collect()
    }

    /// A Service's view.
    pub fn view(&self, name: &str) -> Option<View> {
        self.services().get(name).map(|entry| entry.view.clone())
    }

    /// Makes the Service what it is asked to be. It keeps its public address, and nodes that it had keep their health.
    pub async fn put(self: &Arc<Self>, name: &str, service: Service) -> Result<View> {
        service.check(name)?;
        let _effects = self.effects.lock().await;
        let old = self.view(name);
        if let Some(view) = old.as_ref().filter(|view| view.service == service && self.is_complete(name)) {
            return Ok(view.clone());
        }
        let address = match &old {
            Some(view) => view.address,
            None => self.give_address(name)?,
        };
        let nodes: BTreeSet<_> = service.nodes().collect();
        let healthy = old.map(|view| view.healthy.intersection(&nodes).copied().collect()).unwrap_or_default();
        let view = View { name: name.to_owned(), address, service, healthy };
        self.replace(view.clone());
        self.bind_listeners(&view).await.with_context(|| format!("service {name}: cannot listen on {address}"))?;
        self.load_rules().await?;
        if let Some(entry) = self.services().get_mut(name) {
            entry.complete = true;
        }
        info!(service = name, %address, mode = ?view.service.mode, "service balanced");
        Ok(view)
    }

    /// Ends the Service and takes its address back.
    pub async fn delete(&self, name: &str) -> Result<View> {
        let _effects = self.effects.lock().await;
        let entry = self.services().remove(name).ok_or_else(|| Refusal::NotFound(name.to_owned()))?;
        entry.checks.abort();
        entry.listeners.values().for_each(JoinHandle::abort);
        self.load_rules().await?;
        netns::run(Command::new("ip").args([
            "addr",
            "del",
            &format!("{}/32", entry.view.address),
            "dev",
            &self.interface,
        ]))?;
        info!(service = name, address = %entry.view.address, "service gone");
        Ok(entry.view)
    }

    /// Loads the rules for the state as it is.
    pub async fn refresh_rules(&self) -> Result<()> {
        let _effects = self.effects.lock().await;
        self.load_rules().await
    }

    fn is_complete(&self, name: &str) -> bool {
        self.services().get(name).is_some_and(|entry| entry.complete)
    }

    fn give_address(&self, name: &str) -> Result<Ipv4Addr> {
        let taken: BTreeSet<_> = self.services().values().map(|entry| entry.view.address).collect();
        let all = (u32::from(*self.addresses.start())..=u32::from(*self.addresses.end())).map(Ipv4Addr::from);
        let address = all
            .into_iter()
            .find(|address| !taken.contains(address))
            .ok_or_else(|| Refusal::NoAddress(name.to_owned()))?;
        netns::run(Command::new("ip").args(["addr", "replace", &format!("{address}/32"), "dev", &self.interface]))?;
        Ok(address)
    }

    /// Puts the view into the state with health checks of its own.
    fn replace(self: &Arc<Self>, view: View) {
        let name = view.name.clone();
        let checks = tokio::spawn(self.clone().check_for_ever(name.clone()));
        let mut services = self.services();
        let (listeners, failures) = match services.remove(&name) {
            Some(old) => {
                old.checks.abort();
                (old.listeners, old.failures)
            }
            None => Default::default(),
        };
        services.insert(name, Entry { view, failures, checks, listeners, complete: false });
    }

    /// Makes the L7 listeners those of the view: closes what is no longer wanted, opens what is new.
    async fn bind_listeners(self: &Arc<Self>, view: &View) -> Result<()> {
        let wanted: BTreeSet<u16> = match view.service.mode {
            Mode::L7 => view.service.listeners.iter().map(|listener| listener.port).collect(),
            Mode::L4 => BTreeSet::new(),
        };
        let (closed, have) = {
            let mut services = self.services();
            let entry = services.get_mut(&view.name).expect("put there while effects are held");
            let (keep, closed): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut entry.listeners)
                .into_iter()
                .partition(|(port, task)| wanted.contains(port) && !task.is_finished());
            let have: BTreeSet<u16> = keep.keys().copied().collect();
            entry.listeners = keep;
            (closed, have)
        };
        for task in closed.into_values() {
            task.abort();
            // The socket is closed when the task has ended, not before.
            let _ = task.await;
        }
        for port in wanted.difference(&have) {
            let listener =
                tokio::net::TcpListener::bind((view.address, *port)).await.with_context(|| format!("port {port}"))?;
            let task = tokio::spawn(l7::serve(self.clone(), view.name.clone(), *port, listener));
            self.services()
                .get_mut(&view.name)
                .expect("put there while effects are held")
                .listeners
                .insert(*port, task);
        }
        Ok(())
    }

    async fn load_rules(&self) -> Result<()> {
        let ruleset = rules::ruleset(self.views().iter());
        tokio::task::spawn_blocking(move || nft(&ruleset)).await?
    }

    async fn check_for_ever(self: Arc<Self>, name: String) {
        loop {
            let Some(view) = self.view(&name) else { return };
            let probe = view.service.probe();
            let mut checks: JoinSet<_> =
                view.service.nodes().map(|node| async move { (node, health::passes(probe, node).await) }).collect();
            let mut results = BTreeMap::new();
            while let Some(Ok((node, passed))) = checks.join_next().await {
                results.insert(node, passed);
            }
            if self.note(&name, &results)
                && let Err(error) = self.refresh_rules().await
            {
                warn!(service = name, error = format!("{error:#}"), "cannot load rules");
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// Notes results of checks; whether a node came or went.
    fn note(&self, name: &str, results: &BTreeMap<Ipv4Addr, bool>) -> bool {
        let mut services = self.services();
        let Some(entry) = services.get_mut(name) else { return false };
        let mut changed = false;
        for (node, passed) in results {
            let failures = entry.failures.entry(*node).or_default();
            *failures = if *passed { 0 } else { failures.saturating_add(1) };
            let moved = match *failures {
                0 => entry.view.healthy.insert(*node),
                FAILURES.. => entry.view.healthy.remove(node),
                _ => false,
            };
            if moved {
                info!(service = name, %node, healthy = passed, "node changed");
            }
            changed |= moved;
        }
        changed
    }
}

/// Loads a ruleset into the namespace of this process.
fn nft(ruleset: &str) -> Result<()> {
    use std::io::Write;
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start nft")?;
    child.stdin.take().expect("stdin is piped").write_all(ruleset.as_bytes())?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
