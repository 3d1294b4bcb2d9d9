//! Readiness as guards, and the probe endpoints `/v1/runtime/{startup,readiness,liveness}`.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

/// What the process still waits for. It is ready when nothing is held.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// A step of the start that is not done. Dropping it is doing it.
#[derive(Debug)]
#[must_use = "the step counts as done when this is dropped"]
pub struct Guard {
    readiness: Readiness,
    step: &'static str,
}

impl Readiness {
    /// Not ready until the returned guard is dropped.
    pub fn hold(&self, step: &'static str) -> Guard {
        *self.lock().entry(step).or_default() += 1;
        Guard { readiness: self.clone(), step }
    }

    /// The steps that are not done.
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    /// An error text while something is pending.
    pub fn check(&self) -> Result<(), String> {
        let pending = self.pending();
        if pending.is_empty() { Ok(()) } else { Err(format!("waiting for {}", pending.join(", "))) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.readiness.lock();
        if let Some(count) = held.get_mut(self.step) {
            *count -= 1;
            if *count == 0 {
                held.remove(self.step);
            }
        }
    }
}

/// The three probe endpoints: 200 with an empty body, or 500 with the reason as JSON string.
///
/// `startup` asks `readiness`; the other two ask `alive`, `readiness` also the guards.
pub fn router<F, Fut>(readiness: Readiness, alive: F) -> Router
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    let (started, ready) = (readiness.clone(), readiness);
    let also_alive = alive.clone();
    Router::new()
        .route("/v1/runtime/startup", get(move || std::future::ready(answer(started.check()))))
        .route("/v1/runtime/readiness", get(move || probe(ready.check(), also_alive())))
        .route("/v1/runtime/liveness", get(move || probe(Ok(()), alive())))
}

async fn probe(first: Result<(), String>, second: impl Future<Output = Result<(), String>>) -> Response {
    match first {
        Ok(()) => answer(second.await),
        failed => answer(failed),
    }
}

fn answer(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => StatusCode::OK.into_response(),
        Err(reason) => (StatusCode::INTERNAL_SERVER_ERROR, Json(reason)).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_is_dropped() {
        let readiness = Readiness::default();
        let (caches, again, socket) = (readiness.hold("caches"), readiness.hold("caches"), readiness.hold("socket"));
        assert_eq!(readiness.check(), Err("waiting for caches, socket".to_owned()));
        drop(caches);
        drop(socket);
        assert_eq!(readiness.pending(), ["caches"]);
        drop(again);
        assert_eq!(readiness.check(), Ok(()));
    }
}
