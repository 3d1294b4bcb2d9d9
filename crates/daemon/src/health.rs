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

/// The three probe endpoints: 200 with an empty body, or 500 with the reason as JSON string. The first two get a process killed that does not pass
/// them; what a process waits for (an API server, a definition, a role, a certificate) comes no sooner when it is started anew.
///
/// * `startup`: 200. Whoever answers has valid settings and its ports.
/// * `liveness`: `alive`. While something is held it is enough to answer: what `alive` looks at may be what is waited for.
/// * `readiness`: nothing is held, and `alive`.
pub fn router<F, Fut>(readiness: Readiness, alive: F) -> Router
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    let waiting = readiness.clone();
    let also_alive = alive.clone();
    let liveness = move || {
        let alive = waiting.check().is_ok().then(&alive);
        async move {
            match alive {
                Some(alive) => answer(alive.await),
                None => answer(Ok(())),
            }
        }
    };
    Router::new()
        .route("/v1/runtime/startup", get(|| std::future::ready(answer(Ok(())))))
        .route("/v1/runtime/readiness", get(move || probe(readiness.check(), also_alive())))
        .route("/v1/runtime/liveness", get(liveness))
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
    use crate::probe::{self, Probe, ProbeError};
    use std::time::Duration;

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

    /// Which probes pass while `readiness` says what it says.
    async fn passed(readiness: &Readiness, alive: Result<(), String>) -> Vec<&'static str> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = router(readiness.clone(), move || std::future::ready(alive.clone()));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let mut passed = Vec::new();
        for (name, probe) in
            [("startup", Probe::Startup), ("liveness", Probe::Liveness), ("readiness", Probe::Readiness)]
        {
            let asked = tokio::task::spawn_blocking(move || probe::ask(port, probe, Duration::from_secs(30)));
            match asked.await.unwrap() {
                Ok(()) => passed.push(name),
                Err(ProbeError::Unhealthy { .. }) => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
        server.abort();
        passed
    }

    #[tokio::test]
    async fn a_process_that_only_waits_is_not_ready_and_is_not_killed() {
        let readiness = Readiness::default();
        let waiting = readiness.hold("API server");
        let nobody = Err("no socket yet".to_owned());
        assert_eq!(passed(&readiness, nobody).await, ["startup", "liveness"]);
        drop(waiting);
        assert_eq!(passed(&readiness, Ok(())).await, ["startup", "liveness", "readiness"]);
    }

    #[tokio::test]
    async fn a_process_that_has_started_and_hangs_is_killed() {
        let hangs = Err("no answer".to_owned());
        assert_eq!(passed(&Readiness::default(), hangs).await, ["startup"]);
    }
}
