//! Competes for the Lease and runs the work of a term while it is held.

use std::time::Duration;

use daemon::{Stop, health::Guard};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{
    clock,
    election::{Election, Outcome, Record, Step, Stored, Timing, Version},
    fence::Fence,
};
use crate::trouble::Explained;

/// The longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// 1 while this process leads.
    pub leads: Gauge,
    /// Terms that were begun.
    pub terms: Counter,
}

/// One process that would like to lead.
pub struct Candidate {
    /// The API.
    pub client: Client,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Who we are: the pod's name.
    pub identity: String,
    /// The times.
    pub timing: Timing,
    /// What is counted.
    pub metrics: Metrics,
}

/// A time of leading, for the work that is done in it.
#[derive(Clone, Debug)]
pub struct Term {
    /// Requested when the process is to end: finish what is under way.
    pub stop: Stop,
    /// Requested when the lease is lost: drop everything.
    pub over: Stop,
    /// Lets writes through while the term lasts.
    pub fence: Fence,
}

/// The Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer from the API server within {ANSWER:?}")]
    NoAnswer(#[from] tokio::time::error::Elapsed),
}

impl Candidate {
    /// Competes until `stop`; runs `work` in each term. `work` must end soon after either of the term's two requests.
    /// `known` is dropped once there is a leader, whoever it is. An error of `work` ends everything.
    pub async fn run<E>(
        self,
        stop: Stop,
        known: Guard,
        mut work: impl AsyncFnMut(Term) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut seat = Seat::new(&self);
        let mut known = Some(known);
        loop {
            let elected = seat.compete(&mut known);
            if stop.run_until_cancelled(elected).await.is_none() {
                return Ok(());
            }
            let fence = Fence::default();
            seat.extend(&fence);
            let term = Term { stop: stop.clone(), over: Stop::new(), fence: fence.clone() };
            self.metrics.leads.set(1);
            self.metrics.terms.inc();
            tracing::info!(lease = %seat.title(), identity = self.identity, "leading");
            let ended = {
                let mut work = std::pin::pin!(work(term.clone()));
                tokio::select! {
                    ended = &mut work => Some(ended),
                    () = seat.hold(&fence) => {
                        fence.close();
                        tracing::warn!(lease = %seat.title(), holder = seat.election.holder(), "leadership lost: reconcilers are dropped");
                        term.over.cancel();
                        work.await?;
                        None
                    }
                }
            };
            fence.close();
            self.metrics.leads.set(0);
            if let Some(ended) = ended {
                seat.release().await;
                return ended;
            }
        }
    }
}

/// The edge between the election and the API.
struct Seat<'a> {
    candidate: &'a Candidate,
    api: Api<Lease>,
    election: Election,
    /// The last failure that was logged: the same again is not.
    complaint: Option<String>,
}

impl<'a> Seat<'a> {
    fn new(candidate: &'a Candidate) -> Self {
        let api = Api::namespaced(candidate.client.clone(), &candidate.namespace);
        let election = Election::new(&candidate.identity, candidate.timing);
        Self { candidate, api, election, complaint: None }
    }

    fn title(&self) -> String {
        format!("{}/{}", self.candidate.namespace, self.candidate.lease)
    }

    /// Until we lead.
    async fn compete(&mut self, known: &mut Option<Guard>) {
        while self.election.leads_until().is_none() {
            self.step().await;
            if self.election.holder().is_some_and(|holder| !holder.is_empty()) {
                drop(known.take());
            }
        }
    }

    /// Until we do not lead any more.
    async fn hold(&mut self, fence: &Fence) {
        while self.election.leads_until().is_some() {
            self.step().await;
            self.extend(fence);
        }
    }

    fn extend(&self, fence: &Fence) {
        if let Some(until) = self.election.leads_until() {
            fence.extend(until);
        }
    }

    async fn step(&mut self) {
        match self.election.next(clock::now(), wall()) {
            Step::Wait(until) => clock::sleep_until(until).await,
            Step::Read => {
                let answer = bounded(self.left(), self.api.get_opt(&self.candidate.lease)).await;
                match answer {
                    Ok(lease) => {
                        self.complaint = None;
                        self.election.read(lease.map(stored), clock::now());
                    }
                    Err(error) => {
                        self.complain("read", &error);
                        self.election.unread(clock::now());
                    }
                }
            }
            Step::Write(version, record) => {
                let outcome = self.write(version, &record).await;
                self.election.written(outcome, clock::now());
            }
        }
    }

    /// How long an answer may take: a term does not outlast its end because a request hangs.
    fn left(&self) -> Duration {
        let left = self.election.leads_until().map_or(ANSWER, |until| until.saturating_sub(clock::now()));
        left.min(ANSWER)
    }

    async fn write(&mut self, version: Option<Version>, record: &Record) -> Outcome {
        let creates = version.is_none();
        let lease = lease(&self.candidate.lease, version, record);
        let params = PostParams::default();
        let answer = if creates {
            bounded(self.left(), self.api.create(&params, &lease)).await
        } else {
            bounded(self.left(), self.api.replace(&self.candidate.lease, &params, &lease)).await
        };
        match answer {
            Ok(lease) => {
                self.complaint = None;
                Outcome::Stored(stored(lease))
            }
            Err(Error::Api(kube::Error::Api(status))) if status.code == 409 => Outcome::Conflict,
            // It is gone: reading says so.
            Err(Error::Api(kube::Error::Api(status))) if status.code == 404 && !creates => Outcome::Conflict,
            Err(error) => {
                self.complain("write", &error);
                Outcome::Unknown
            }
        }
    }

    /// Gives the Lease back, so that somebody else leads at once. A renewal may have been under way when the work ended: if
    /// the Lease is not what is known, it is read, and given back if it is still ours.
    async fn release(&mut self) {
        for _ in 0..3 {
            let Some((version, record)) = self.election.release(wall()) else { return };
            let lease = lease(&self.candidate.lease, Some(version), &record);
            let params = PostParams::default();
            match bounded(ANSWER, self.api.replace(&self.candidate.lease, &params, &lease)).await {
                Ok(_) => return tracing::info!(lease = %self.title(), "leadership given back"),
                Err(Error::Api(kube::Error::Api(status))) if status.code == 409 => {
                    match bounded(ANSWER, self.api.get_opt(&self.candidate.lease)).await {
                        Ok(found) => self.election.read(found.map(stored), clock::now()),
                        Err(error) => return self.complain("read", &error),
                    }
                }
                Err(error) => return self.complain("give back", &error),
            }
        }
    }

    fn complain(&mut self, step: &str, error: &Error) {
        let text = Explained(error).to_string();
        if self.complaint.as_ref() != Some(&text) {
            tracing::warn!(lease = %self.title(), error = text, "cannot {step} the Lease of the leader");
            self.complaint = Some(text);
        }
    }
}

async fn bounded<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(limit, request).await??)
}

/// The time, as precise as a Lease keeps it.
fn wall() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

fn stored(lease: Lease) -> Stored {
    let version = Version {
        uid: lease.uid().unwrap_or_default(),
        resource_version: lease.resource_version().unwrap_or_default(),
    };
    let spec = lease.spec.unwrap_or_default();
    let seconds = |seconds: i32| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let record = Record {
        holder: spec.holder_identity,
        duration: spec.lease_duration_seconds.map(seconds),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    Stored { version, record }
}

fn lease(name: &str, version: Option<Version>, record: &Record) -> Lease {
    let (uid, resource_version) = version.map(|version| (version.uid, version.resource_version)).unzip();
    Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), uid, resource_version, ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: record.holder.clone(),
            lease_duration_seconds: record.duration.and_then(|duration| i32::try_from(duration.as_secs()).ok()),
            acquire_time: record.acquired.map(MicroTime),
            renew_time: record.renewed.map(MicroTime),
            lease_transitions: Some(record.transitions),
            ..LeaseSpec::default()
        }),
    }
}
