//! A simulated API server, a network that reorders, loses and duplicates, and container runtimes on several nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::claim::*;
use crate::pool::Pool;
use crate::range::SpanSet;
use crate::{Family, range};

/// A small generator of random numbers (splitmix64): the whole run follows from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// The API server: one object per address, strictly serial.
#[derive(Default)]
pub struct Api {
    pub objects: BTreeMap<IpAddr, Stored>,
    /// Former states of the objects' addresses, for stale lists.
    history: Vec<BTreeMap<IpAddr, (String, IpAddr)>>,
    revision: u64,
    pub creates: u64,
    pub lists: u64,
}

impl Api {
    fn next(&mut self) -> String {
        self.revision += 1;
        let now =
            self.objects.iter().map(|(address, stored)| (*address, (stored.claim.pool.clone(), *address))).collect();
        self.history.push(now);
        if self.history.len() > 40 {
            self.history.remove(0);
        }
        self.revision.to_string()
    }

    /// Applies a call, as a server would at this instant.
    pub fn apply(&mut self, node: &str, call: &Call, random: &mut Random) -> Outcome {
        match call {
            Call::Create(claim) => {
                self.creates += 1;
                if self.objects.contains_key(&claim.address) {
                    return Outcome::Exists;
                }
                let version = self.next();
                let stored = Stored { claim: claim.clone(), uid: format!("uid-{version}"), version };
                self.objects.insert(claim.address, stored.clone());
                Outcome::Stored(stored)
            }
            Call::Update { claim, uid, version } => match self.objects.get(&claim.address) {
                None => Outcome::NotFound,
                Some(stored) if stored.uid != *uid || stored.version != *version => Outcome::Conflict,
                Some(_) => {
                    let stored = Stored { claim: claim.clone(), uid: uid.clone(), version: self.next() };
                    self.objects.insert(claim.address, stored.clone());
                    Outcome::Stored(stored)
                }
            },
            Call::Delete { address, uid, version } => match self.objects.get(address) {
                None => Outcome::NotFound,
                Some(stored) if stored.uid != *uid || stored.version != *version => Outcome::Conflict,
                Some(_) => {
                    self.next();
                    self.objects.remove(address);
                    Outcome::Done
                }
            },
            Call::Read(address) => self.objects.get(address).cloned().map_or(Outcome::NotFound, Outcome::Stored),
            Call::List { pool, fresh } => {
                self.lists += 1;
                Outcome::Used(self.used(pool, *fresh, random))
            }
            Call::ListNode => {
                let of_node = |stored: &&Stored| stored.claim.pod().is_some_and(|pod| pod.node == node);
                Outcome::Claims(self.objects.values().filter(of_node).cloned().collect())
            }
        }
    }

    fn used(&self, pool: &str, fresh: bool, random: &mut Random) -> SpanSet {
        let stale = (!fresh && !self.history.is_empty()).then(|| &self.history[random.below(self.history.len())]);
        match stale {
            Some(old) => old.values().filter(|(name, _)| name == pool).map(|(_, address)| *address).collect(),
            None => self
                .objects
                .values()
                .filter(|stored| stored.claim.pool == pool)
                .map(|stored| stored.claim.address)
                .collect(),
        }
    }

    /// Claims of a node, exactly: what a starting agent lists.
    pub fn of_node(&self, node: &str) -> Vec<Stored> {
        let of_node = |stored: &&Stored| stored.claim.pod().is_some_and(|pod| pod.node == node);
        self.objects.values().filter(of_node).cloned().collect()
    }
}

pub fn pool(name: &str, subnet: &str, ranges: &[&str]) -> Pool {
    let subnet: ipnet::IpNet = subnet.parse().unwrap();
    Pool::new(name, subnet, range::parse_ranges(ranges, Family::of(subnet.addr())).unwrap())
}

pub fn want(interface: &str, pools: &[Pool]) -> Want {
    Want {
        interface: interface.into(),
        family: pools[0].family,
        pools: pools.iter().cloned().map(Arc::new).collect(),
        rejected: Vec::new(),
    }
}

pub fn add(pod: &str, container: &str, interface: &str, wants: Vec<Want>) -> Add {
    Add {
        pod: PodKey { namespace: "ns".into(), name: pod.into(), uid: format!("uid-of-{pod}") },
        container: container.into(),
        interface: interface.into(),
        wants,
        reserved: Arc::new(SpanSet::new()),
    }
}

pub fn release(pod: &str, container: &str, interface: &str, fate: PodFate) -> Release {
    Release {
        pod_uid: Some(format!("uid-of-{pod}")),
        container: container.into(),
        interface: Some(interface.into()),
        fate,
    }
}

/// One node with an API server that answers at once: for the tests of single rules.
pub struct Single {
    pub claims: Claims,
    pub api: Api,
    pub random: Random,
    pub notes: Vec<Note>,
    /// Names of pods that an address was freed of.
    pub freed: Vec<String>,
    pub answers: BTreeMap<Ticket, Answer>,
    /// Calls that were not answered yet.
    pub calls: Vec<(Op, Call)>,
    tickets: u64,
}

impl Single {
    pub fn new(known: Vec<Stored>) -> Self {
        Self {
            claims: Claims::new("node", known),
            api: Api::default(),
            random: Random(7),
            notes: Vec::new(),
            freed: Vec::new(),
            answers: BTreeMap::new(),
            calls: Vec::new(),
            tickets: 0,
        }
    }

    pub fn event(&mut self, event: Event) {
        let random = &mut self.random;
        for effect in self.claims.step(event, &mut || random.next()) {
            match effect {
                Effect::Call { op, call, .. } => self.calls.push((op, call)),
                Effect::Answer(ticket, answer) => {
                    assert!(self.answers.insert(ticket, answer).is_none(), "answered twice")
                }
                Effect::Freed(pod) => self.freed.push(pod.name),
                Effect::Note(note) => self.notes.push(note),
            }
        }
    }

    pub fn ask(&mut self, event: impl FnOnce(Ticket) -> Event) -> Ticket {
        self.tickets += 1;
        self.event(event(Ticket(self.tickets)));
        Ticket(self.tickets)
    }

    /// Ends the oldest call with the server's answer, or with `outcome`.
    pub fn reply(&mut self, outcome: Option<Outcome>) -> Call {
        let (op, call) = self.calls.remove(0);
        let outcome = outcome.unwrap_or_else(|| self.api.apply("node", &call, &mut self.random));
        self.event(Event::Reply(op, outcome));
        call
    }

    pub fn settle(&mut self) {
        while !self.calls.is_empty() {
            self.reply(None);
        }
    }

    pub fn add_now(&mut self, add: Add) -> Result<Vec<(String, IpAddr)>, AddError> {
        let ticket = self.ask(|ticket| Event::Add(ticket, add));
        self.settle();
        self.added(ticket)
    }

    pub fn added(&self, ticket: Ticket) -> Result<Vec<(String, IpAddr)>, AddError> {
        match &self.answers[&ticket] {
            Answer::Added(Ok(granted)) => Ok(granted
                .iter()
                .map(|one| (one.stored.claim.pod().unwrap().interface.clone(), one.stored.claim.address))
                .collect()),
            Answer::Added(Err(error)) => Err(error.clone()),
            Answer::Released(_) => panic!("not an ADD"),
        }
    }

    pub fn release_now(&mut self, release: Release) -> Released {
        let ticket = self.ask(|ticket| Event::Release(ticket, release));
        self.settle();
        match &self.answers[&ticket] {
            Answer::Released(Ok(released)) => released.clone(),
            other => panic!("{other:?}"),
        }
    }
}

/// An address in use by a sandbox, as the kernel of a node would see it.
#[derive(Default)]
pub struct Wire {
    users: HashMap<IpAddr, String>,
}

impl Wire {
    /// A sandbox configures an address: nobody else may have it, and the API server must name its pod.
    pub fn configure(&mut self, address: IpAddr, user: &str, uid: &str, api: &Api) {
        if let Some(other) = self.users.insert(address, user.to_owned()) {
            assert_eq!(other, user, "{address} has two holders at once");
        }
        let holder = api.objects.get(&address).and_then(|stored| stored.claim.pod()).map(|pod| pod.uid.clone());
        assert_eq!(holder.as_deref(), Some(uid), "{address} is used by {user} without a claim");
    }

    pub fn remove(&mut self, user: &str) {
        self.users.retain(|_, other| other != user);
    }

    /// Everything of a pod goes.
    pub fn remove_all(&mut self, prefix: &str) {
        self.users.retain(|_, other| !other.starts_with(prefix));
    }

    /// Every address in use is claimed by its user's pod.
    pub fn check(&self, api: &Api, uid_of: &impl Fn(&str) -> String) {
        for (address, user) in &self.users {
            let holder = api.objects.get(address).and_then(|stored| stored.claim.pod()).map(|pod| pod.uid.clone());
            assert_eq!(holder, Some(uid_of(user)), "{address} is used by {user} without a claim");
        }
    }

    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.users.keys().copied().collect()
    }
}
