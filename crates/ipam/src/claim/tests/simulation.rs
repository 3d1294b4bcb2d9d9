//! Several agents, an unreliable network, crashes anywhere: one address, one holder at every instant; nothing leaked in the
//! end; a pool that fits exactly fills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::world::{Api, Random, Wire, add, pool, release, want};
use crate::claim::*;
use crate::pool::Pool;

/// What may go wrong, in percent per chance.
#[derive(Clone, Copy, Debug)]
struct Faults {
    /// A request is lost before the server.
    lost: u64,
    /// A reply is lost, the request was applied.
    silent: u64,
    /// A request that was reported as unknown is applied later.
    late: u64,
    /// A request is applied twice.
    twice: u64,
    /// An agent dies before the next event.
    crash: u64,
    /// The runtime gives an ADD up.
    give_up: u64,
    /// A pod finishes, its DEL does not reach the agent, and the controller frees its addresses.
    unnoticed: u64,
}

const NONE: Faults = Faults { lost: 0, silent: 0, late: 0, twice: 0, crash: 0, give_up: 0, unnoticed: 0 };
const ALL: Faults = Faults { lost: 6, silent: 6, late: 40, twice: 4, crash: 1, give_up: 2, unnoticed: 10 };

/// What a runtime does with a pod.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    /// To be started, NIC by NIC.
    Starting,
    Running,
    /// Sandbox being torn down; `alive` tells whether the pod lives on.
    Stopping {
        alive: bool,
    },
    Over,
}

struct Guest {
    name: String,
    node: usize,
    nics: Vec<&'static str>,
    sandbox: u32,
    stage: Stage,
    /// NICs of the current sandbox that are up.
    up: Vec<&'static str>,
    /// The request under way.
    pending: Option<(Ticket, &'static str)>,
    restarts: u32,
    failures: u32,
    /// The guest whose place it takes: it starts when that one is over.
    follows: Option<usize>,
    /// It finished unnoticed: its object, and so what a watch tells of it, stays.
    finished: bool,
}

impl Guest {
    fn container(&self) -> String {
        format!("{}-{}", self.name, self.sandbox)
    }

    fn uid(&self) -> String {
        format!("uid-of-{}", self.name)
    }
}

enum Flight {
    Request {
        node: usize,
        life: u32,
        op: Op,
        call: Call,
    },
    Reply {
        node: usize,
        life: u32,
        op: Op,
        outcome: Outcome,
    },
    /// A request whose sender no longer listens.
    Late {
        node: usize,
        call: Call,
    },
}

struct Simulation {
    random: Random,
    faults: Faults,
    api: Api,
    wire: Wire,
    agents: Vec<Claims>,
    lives: Vec<u32>,
    flights: Vec<Flight>,
    guests: Vec<Guest>,
    pools: BTreeMap<&'static str, Vec<Pool>>,
    tickets: u64,
    steps: u64,
    /// Restarts of sandboxes and ends of pods while it runs.
    churn: bool,
}

fn node_name(node: usize) -> String {
    format!("node-{node}")
}

impl Simulation {
    fn new(seed: u64, nodes: usize, faults: Faults, pools: BTreeMap<&'static str, Vec<Pool>>) -> Self {
        Self {
            random: Random(seed),
            faults,
            api: Api::default(),
            wire: Wire::default(),
            agents: (0..nodes).map(|node| Claims::new(node_name(node), Vec::new())).collect(),
            lives: vec![0; nodes],
            flights: Vec::new(),
            guests: Vec::new(),
            pools,
            tickets: 0,
            steps: 0,
            churn: false,
        }
    }

    fn guest(&mut self, name: String, node: usize, nics: &[&'static str]) {
        let nics = nics.to_vec();
        self.guests.push(Guest {
            name,
            node,
            nics,
            sandbox: 0,
            stage: Stage::Starting,
            up: Vec::new(),
            pending: None,
            restarts: 2,
            follows: None,
            finished: false,
            failures: 0,
        });
    }

    fn feed(&mut self, node: usize, event: Event) {
        let random = &mut self.random;
        let effects = self.agents[node].step(event, &mut || random.next());
        let life = self.lives[node];
        for effect in effects {
            match effect {
                Effect::Call { op, call, .. } => self.flights.push(Flight::Request { node, life, op, call }),
                Effect::Answer(ticket, answer) => self.answered(ticket, answer),
                Effect::Freed(_) | Effect::Note(_) => {}
            }
        }
        let uids: BTreeMap<String, String> =
            self.guests.iter().map(|guest| (guest.name.clone(), guest.uid())).collect();
        self.wire.check(&self.api, &|user| uids[user.split('/').next().unwrap()].clone());
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer) {
        let Some(index) = self.guests.iter().position(|guest| guest.pending.is_some_and(|(own, _)| own == ticket))
        else {
            return;
        };
        let guest = &mut self.guests[index];
        let (_, nic) = guest.pending.take().unwrap();
        match answer {
            Answer::Added(Ok(granted)) => {
                assert_eq!(guest.stage, Stage::Starting);
                let user = format!("{}/{}/{nic}", guest.name, guest.sandbox);
                let of_nic = granted.iter().filter(|one| one.stored.claim.pod().unwrap().interface == nic);
                let addresses: Vec<IpAddr> = of_nic.map(|one| one.stored.claim.address).collect();
                let families: BTreeSet<_> = addresses.iter().map(|address| address.is_ipv4()).collect();
                assert_eq!(families.len(), addresses.len(), "at most one address per NIC and family: {addresses:?}");
                assert_eq!(
                    addresses.len(),
                    self.pools.values().filter(|pools| pools[0].default).count(),
                    "every family is served"
                );
                for address in addresses {
                    self.wire.configure(address, &user, &guest.uid(), &self.api);
                }
                guest.up.push(nic);
                if guest.up.len() == guest.nics.len() {
                    guest.stage = Stage::Running;
                }
            }
            Answer::Added(Err(_)) => {
                guest.failures += 1;
                guest.stage = Stage::Stopping { alive: true };
                if !guest.up.contains(&nic) {
                    guest.up.push(nic);
                }
            }
            Answer::Released(Ok(_)) => {
                guest.up.retain(|up| *up != nic);
            }
            Answer::Released(Err(_)) => {}
        }
    }

    /// The runtime of a guest takes its next step, if it has one.
    fn run_guest(&mut self, index: usize) {
        if self.guests[index].follows.is_some_and(|former| self.guests[former].stage != Stage::Over) {
            return;
        }
        let guest = &mut self.guests[index];
        if let Some((ticket, nic)) = guest.pending {
            if guest.stage == Stage::Starting && self.random.chance(self.faults.give_up) {
                guest.pending = None;
                guest.stage = Stage::Stopping { alive: true };
                guest.up.push(nic);
                let node = guest.node;
                self.feed(node, Event::Cancel(ticket));
            }
            return;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let (node, name, container) = (guest.node, guest.name.clone(), guest.container());
        match guest.stage.clone() {
            Stage::Running if self.churn && self.random.chance(self.faults.unnoticed) => self.finish(index),
            Stage::Starting => {
                let nic = *guest.nics.iter().find(|nic| !guest.up.contains(nic)).unwrap();
                guest.pending = Some((ticket, nic));
                let families = self.pools.values().filter(|pools| pools[0].default);
                let nics = guest.nics.clone();
                let wants = families.flat_map(|pools| nics.iter().map(|nic| want(nic, pools))).collect();
                self.feed(node, Event::Add(ticket, add(&name, &container, nic, wants)));
            }
            Stage::Running if self.churn && self.random.chance(10) => {
                let alive = guest.restarts > 0 && self.random.chance(60);
                guest.restarts = guest.restarts.saturating_sub(1);
                guest.stage = Stage::Stopping { alive };
            }
            Stage::Stopping { alive } => match guest.up.last().copied() {
                Some(nic) => {
                    // The interface goes first, then its address is released.
                    let user = format!("{name}/{}/{nic}", guest.sandbox);
                    self.wire.remove(&user);
                    guest.pending = Some((ticket, nic));
                    let fate = if alive { PodFate::Alive } else { PodFate::Gone };
                    self.feed(node, Event::Release(ticket, release(&name, &container, nic, fate)));
                }
                None if alive => {
                    guest.sandbox += 1;
                    guest.stage = Stage::Starting;
                }
                None => {
                    guest.stage = Stage::Over;
                    let uid = guest.uid();
                    self.feed(node, Event::PodGone { uid, interfaces_gone: false });
                }
            },
            Stage::Running | Stage::Over => {}
        }
    }

    /// A pod comes to its end while its agent may be away: the agent sees that in its object, and the controller, which knows that no
    /// interface is left, frees the addresses before or after.
    fn finish(&mut self, index: usize) {
        let guest = &mut self.guests[index];
        (guest.stage, guest.finished) = (Stage::Over, true);
        guest.up.clear();
        let (node, uid, user) = (guest.node, guest.uid(), format!("{}/", guest.name));
        self.wire.remove_all(&user);
        let restarts = self.random.chance(50);
        if restarts {
            self.crash(node);
        }
        self.api.objects.retain(|_, stored| stored.claim.pod().is_none_or(|pod| pod.uid != uid));
        if !restarts {
            self.feed(node, Event::PodGone { uid, interfaces_gone: false });
        }
    }

    /// An agent dies and comes back: what it had in flight may still land, what it was asked is asked again.
    fn crash(&mut self, node: usize) {
        self.lives[node] += 1;
        let flights = std::mem::take(&mut self.flights);
        for flight in flights {
            match flight {
                Flight::Request { node: from, call, .. } if from == node => {
                    if self.random.chance(50) {
                        self.flights.push(Flight::Late { node, call });
                    }
                }
                Flight::Reply { node: to, .. } if to == node => {}
                other => self.flights.push(other),
            }
        }
        self.agents[node] = Claims::new(node_name(node), self.api.of_node(&node_name(node)));
        for guest in self.guests.iter_mut().filter(|guest| guest.node == node) {
            if let Some((_, nic)) = guest.pending.take().filter(|_| guest.stage == Stage::Starting) {
                // The plugin lost its connection: the runtime tears the sandbox down.
                guest.stage = Stage::Stopping { alive: true };
                guest.up.push(nic);
            }
        }
        let finished = |guest: &&Guest| guest.node == node && guest.finished;
        let finished: Vec<String> = self.guests.iter().filter(finished).map(Guest::uid).collect();
        for uid in finished {
            self.feed(node, Event::PodGone { uid, interfaces_gone: false });
        }
    }

    fn deliver(&mut self) {
        let index = self.random.below(self.flights.len());
        match self.flights.swap_remove(index) {
            Flight::Request { node, life, op, call } => self.request(node, life, op, call),
            Flight::Reply { node, life, op, outcome } if life == self.lives[node] => {
                self.feed(node, Event::Reply(op, outcome))
            }
            Flight::Reply { .. } => {}
            Flight::Late { node, call } => {
                self.api.apply(&node_name(node), &call, &mut self.random);
            }
        }
    }

    fn request(&mut self, node: usize, life: u32, op: Op, call: Call) {
        let unknown = Outcome::Unknown("timed out".into());
        let name = node_name(node);
        if let Call::Create(Claim { holder: Holder::Pod(pod), address, .. }) = &call {
            let finished = self.guests.iter().any(|guest| guest.finished && guest.uid() == pod.uid);
            assert!(!finished, "{address} is claimed again for {}, which has finished", pod.name);
        }
        let outcome = if self.random.chance(self.faults.lost) {
            if self.random.chance(self.faults.late) {
                self.flights.push(Flight::Late { node, call });
            }
            unknown
        } else {
            let outcome = self.api.apply(&name, &call, &mut self.random);
            if self.random.chance(self.faults.twice) {
                self.flights.push(Flight::Late { node, call });
            }
            if self.random.chance(self.faults.silent) { unknown } else { outcome }
        };
        self.flights.push(Flight::Reply { node, life, op, outcome });
    }

    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < 2_000_000, "the world does not come to rest");
        if self.random.chance(self.faults.crash) && self.random.chance(30) {
            let node = self.random.below(self.agents.len());
            self.crash(node);
        }
        if self.faults.late > 0 && self.random.chance(1) {
            let node = self.random.below(self.agents.len());
            self.feed(node, Event::Reconcile);
        }
        if !self.flights.is_empty() && self.random.chance(70) {
            self.deliver();
        } else if !self.guests.is_empty() {
            let guest = self.random.below(self.guests.len());
            self.run_guest(guest);
        }
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.step();
        }
    }

    fn all_in(&self, stage: Stage) -> bool {
        self.guests.iter().all(|guest| guest.stage == stage)
    }

    fn deliver_all(&mut self) {
        while !self.flights.is_empty() {
            self.deliver();
        }
    }

    /// Nothing new happens; everything in flight arrives; then every agent compares its books once, and is told of the pods that are over
    /// as a watch does it. Only one that was started anew does not know which sandboxes have ended: it looks for itself.
    fn come_to_rest(&mut self) {
        self.faults = NONE;
        self.deliver_all();
        for node in 0..self.agents.len() {
            self.feed(node, Event::Reconcile);
            self.deliver_all();
            for pod in self.agents[node].pods() {
                if self.guests.iter().any(|guest| guest.uid() == pod.uid && guest.stage == Stage::Over) {
                    self.feed(node, Event::PodGone { uid: pod.uid, interfaces_gone: self.lives[node] > 0 });
                }
            }
            self.deliver_all();
        }
        assert!(self.agents.iter().all(Claims::is_idle));
    }

    /// API server, books and wire agree.
    fn check_equal(&self) {
        let objects: BTreeSet<IpAddr> = self.api.objects.keys().copied().collect();
        let books: BTreeSet<IpAddr> =
            self.agents.iter().flat_map(|agent| agent.all().map(|stored| stored.claim.address)).collect();
        assert_eq!(objects, books, "API server and books differ");
        assert_eq!(objects, self.wire.addresses(), "API server and kernel differ");
    }
}

fn one_family(ranges: &[&str]) -> BTreeMap<&'static str, Vec<Pool>> {
    BTreeMap::from([("v4", vec![default(pool("v4", "10.0.0.0/16", ranges))])])
}

fn both_families(v4: &[&str], v6: &[&str]) -> BTreeMap<&'static str, Vec<Pool>> {
    let mut pools = one_family(v4);
    pools.insert("v6", vec![default(pool("v6", "fd00::/64", v6))]);
    pools
}

fn default(pool: Pool) -> Pool {
    Pool { default: true, ..pool }
}

/// Runs per test; `SPIDERPOOL_SIMULATION_FACTOR` multiplies them for a longer search.
fn seeds(runs: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("SPIDERPOOL_SIMULATION_FACTOR").ok().and_then(|text| text.parse::<u64>().ok());
    0..runs * factor.unwrap_or(1)
}

#[test]
fn an_exactly_fitting_pool_fills_from_ten_nodes_without_a_failure() {
    for seed in seeds(10) {
        let mut world = Simulation::new(seed, 10, NONE, one_family(&["10.0.0.1-10.0.0.200"]));
        for pod in 0..200 {
            world.guest(format!("p{pod}"), pod % 10, &["eth0"]);
        }
        world.until(|world| world.all_in(Stage::Running));
        assert!(world.guests.iter().all(|guest| guest.failures == 0), "seed {seed}: no ADD may fail");
        world.come_to_rest();
        world.check_equal();
        assert_eq!(world.api.objects.len(), 200);
        assert!(world.api.creates < 200 * 5, "seed {seed}: {} creates for 200 addresses", world.api.creates);
    }
}

#[test]
fn a_full_pool_serves_whoever_takes_the_place_of_a_pod_that_ended() {
    for seed in seeds(10) {
        let mut world = Simulation::new(300 + seed, 4, NONE, one_family(&["10.0.0.1-10.0.0.30"]));
        world.churn = true;
        for pod in 0..150 {
            world.guest(format!("p{pod}"), pod % 4, &["eth0"]);
            let guest = &mut world.guests[pod];
            (guest.follows, guest.restarts) = (pod.checked_sub(30), 0);
        }
        world.until(|world| world.all_in(Stage::Over));
        assert!(world.guests.iter().all(|guest| guest.failures == 0), "seed {seed}: no ADD may fail");
        world.come_to_rest();
        world.check_equal();
    }
}

#[test]
fn one_holder_per_address_and_no_leak_in_an_unreliable_world() {
    for seed in seeds(100) {
        let pools = both_families(&["10.0.0.1-10.0.0.24"], &["fd00::1-fd00::18"]);
        let mut world = Simulation::new(1000 + seed, 3, ALL, pools);
        world.churn = true;
        for pod in 0..10 {
            let nics: &[&'static str] = if pod % 3 == 0 { &["eth0", "net1"] } else { &["eth0"] };
            world.guest(format!("p{pod}"), pod % 3, nics);
        }
        world.until(|world| world.all_in(Stage::Over));
        world.come_to_rest();
        assert!(world.api.objects.is_empty(), "seed {seed}: leaked {:?}", world.api.objects);
        world.check_equal();
    }
}

#[test]
fn books_and_api_server_agree_after_a_storm_with_pods_left_running() {
    for seed in seeds(60) {
        let mut world = Simulation::new(5000 + seed, 2, ALL, one_family(&["10.0.0.1-10.0.0.12"]));
        for pod in 0..6 {
            world.guest(format!("p{pod}"), pod % 2, &["eth0", "net1"]);
        }
        world.churn = true;
        for _ in 0..3000 {
            world.step();
        }
        world.churn = false;
        world.faults = NONE;
        world.until(|world| world.guests.iter().all(|guest| matches!(guest.stage, Stage::Running | Stage::Over)));
        world.come_to_rest();
        world.check_equal();
    }
}
