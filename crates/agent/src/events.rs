//! Kubernetes Events, written off the critical path. Losing one is no harm, waiting for one would be.

use store::events::{Events, PodEvent};
use tokio::sync::mpsc;

/// Events that may wait.
const WAITING: usize = 256;

/// Where requests leave events.
#[derive(Clone, Debug)]
pub struct EventQueue(mpsc::Sender<PodEvent>);

/// Writes what was left.
#[derive(Debug)]
pub struct EventWriter(mpsc::Receiver<PodEvent>);

/// A queue and its writer.
pub fn queue() -> (EventQueue, EventWriter) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (EventQueue(sender), EventWriter(receiver))
}

impl EventQueue {
    /// Leaves an event; when too many wait it is dropped.
    pub fn leave(&self, event: PodEvent) {
        if let Err(error) = self.0.try_send(event) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

impl EventWriter {
    /// Writes events until stopped, and then those that wait.
    pub async fn run(mut self, events: Events, stop: daemon::Stop) {
        loop {
            let event = tokio::select! {
                event = self.0.recv() => event,
                () = stop.cancelled() => self.0.try_recv().ok(),
            };
            let Some(event) = event else { return };
            if let Err(error) = events.record(&event).await {
                tracing::warn!(pod = %format_args!("{}/{}", event.namespace, event.name), %error, "event is not written");
            }
        }
    }
}
