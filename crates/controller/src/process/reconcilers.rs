//! What runs on the leader alone: started anew in each term, dropped where it is when the lease is lost.
//!
//! Tasks of a term write with the term's client, which lets nothing through once the term is over. They get the term's stop
//! and end soon after it is requested. One that ends by itself ends the process.

use std::{convert::Infallible, sync::Arc, time::Duration};

use daemon::{Readiness, Stop, Tasks, tasks::TaskError};
use kube::Client;

use super::Shared;
use crate::{
    coordinator, events::Events, gc, leader::Term, multus, nodes, pools, settings::Settings, subnets, upstream,
};

/// Time for a task to finish what is under way when the process is to end; then it is dropped, which loses nothing: every
/// write stands for itself.
const FINISH: Duration = Duration::from_secs(3);
/// Time for all of them; then the lease is given back.
const GRACE: Duration = Duration::from_secs(5);

/// What every term needs.
pub struct Leading {
    /// Settings.
    pub settings: Settings,
    /// The API.
    pub client: Client,
    /// Whether the process is ready.
    pub readiness: Readiness,
    /// What tasks tell each other.
    pub shared: Shared,
}

impl Leading {
    /// One term, from its start to its end.
    pub async fn term(&self, term: Term) -> Result<(), TaskError> {
        let mut tasks = Tasks::new(term.stop.child_token());
        self.start(&mut tasks, &term.fence.guard(&self.client));
        let outcome = tasks.run_unless(&term.over, GRACE).await;
        self.shared.pools.clear();
        self.shared.collected.queued.set(0);
        outcome
    }

    /// The tasks of a term. `client` is the term's.
    fn start(&self, tasks: &mut Tasks, client: &Client) {
        let (settings, shared) = (&self.settings, &self.shared);
        let stop = tasks.stop();
        let events = Arc::new(Events::new(client.clone(), &settings.pod));
        let (tell_phase, phase) = tokio::sync::watch::channel(upstream::Phase::Unknown);
        let watch = upstream::watch(client.clone(), settings.agent.clone(), tell_phase, stop.clone());
        self.spawn(tasks, "agents of upstream", watch);
        let pools = pools::keeper::Context {
            client: client.clone(),
            events: Arc::clone(&events),
            max_allocated_ips: settings.max_allocated_ips,
            nodes: Arc::clone(&shared.nodes),
            metrics: shared.pools.clone(),
            phase,
            sources: upstream::sources::Sources::new(client.clone()),
        };
        let synced = self.readiness.hold("pool views");
        self.spawn(tasks, "pool views", pools::keeper::run(pools, stop.clone(), synced));
        self.spawn(tasks, "subnets", subnets::run(client.clone(), stop.clone()));
        match settings.garbage_collection {
            Some(settings) => {
                let gc = gc::Context {
                    client: client.clone(),
                    settings,
                    events: Arc::clone(&events),
                    nodes: Arc::clone(&shared.nodes),
                    metrics: shared.collected.clone(),
                };
                self.spawn(tasks, "garbage collection", gc::run(gc, stop.clone()));
            }
            None => {
                self.spawn(tasks, "nodes", nodes::count(client.clone(), Arc::clone(&shared.nodes), stop.clone()));
            }
        }
        if let Some(resync) = settings.multus_resync {
            let multus = multus::reconcile::Context { client: client.clone(), events: Arc::clone(&events), resync };
            self.spawn(tasks, "networks", multus::reconcile::run(multus, stop.clone()));
        }
        if let Some(settings) = settings.coordinator.clone() {
            let coordinator = coordinator::reconcile::Context::new(client.clone(), events, settings);
            self.spawn(tasks, "coordinator", coordinator::reconcile::run(coordinator, stop));
        }
    }

    /// Starts `work` once what it writes is admitted.
    fn spawn<W>(&self, tasks: &mut Tasks, task: &'static str, work: W)
    where
        W: Future<Output = Result<(), Infallible>> + Send + 'static,
    {
        let (gate, stop): (Stop, Stop) = (self.shared.admitting.clone(), tasks.stop());
        tasks.spawn(task, async move {
            if stop.run_until_cancelled(gate.cancelled()).await.is_none() {
                return Ok(());
            }
            let late = async {
                stop.cancelled().await;
                tokio::time::sleep(FINISH).await;
            };
            tokio::select! {
                outcome = work => outcome,
                // It waits for an API server that does not answer, say.
                () = late => {
                    tracing::warn!(task, "dropped where it was: it did not finish within {FINISH:?}");
                    Ok(())
                }
            }
        });
    }
}
