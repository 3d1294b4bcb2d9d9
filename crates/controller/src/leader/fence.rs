//! A client that only writes while its term lasts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{Method, Request};
use kube::{Client, client::Body};
use tower::BoxError;

use super::clock::{self, Moment};

/// The longest wait for the answer to anything but a watch: an API server that is slower is tried again.
const LIMIT: Duration = Duration::from_secs(30);

/// Until when a term lasts. A fence that is closed stays closed: the next term has one of its own.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<AtomicU64>);

/// Why a write was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The term is over.
    #[error("this process is not the leader any more")]
    Deposed,
    /// No answer in time.
    #[error("no answer from the API server within {0:?}")]
    TimedOut(Duration),
}

const CLOSED: u64 = u64::MAX;

impl Fence {
    /// Writes may be sent until `moment`, unless the fence was closed.
    pub fn extend(&self, moment: Moment) {
        let millis = u64::try_from(moment.as_millis()).unwrap_or(CLOSED - 1);
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |until| (until != CLOSED).then_some(millis));
    }

    /// Nothing may be sent any more.
    pub fn close(&self) {
        self.0.store(CLOSED, Ordering::SeqCst);
    }

    /// May a write be sent at `now`?
    pub fn check(&self, now: Moment) -> Result<(), Unsent> {
        let until = self.0.load(Ordering::SeqCst);
        if until != CLOSED && now.as_millis() < u128::from(until) { Ok(()) } else { Err(Unsent::Deposed) }
    }

    /// `client`, whose writes are sent only while the term lasts. The clock is read for every request.
    pub fn guard(&self, client: &Client) -> Client {
        self.guard_within(LIMIT, client)
    }

    fn guard_within(&self, limit: Duration, client: &Client) -> Client {
        let (inner, fence) = (client.clone(), self.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, fence) = (inner.clone(), fence.clone());
            async move {
                let reads = matches!(*request.method(), Method::GET | Method::HEAD);
                if reads && is_watch(&request) {
                    return inner.send(request).await.map_err(BoxError::from);
                }
                if !reads {
                    fence.check(clock::now())?;
                }
                match tokio::time::timeout(limit, inner.send(request)).await {
                    Ok(answer) => answer.map_err(BoxError::from),
                    Err(_) => Err(Unsent::TimedOut(limit).into()),
                }
            }
        });
        Client::new(service, client.default_namespace())
    }
}

fn is_watch(request: &Request<Body>) -> bool {
    let asks = |pair: &str| matches!(pair, "watch=true" | "watch=1");
    request.uri().query().is_some_and(|query| query.split('&').any(asks))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use axum::http::Response;
    use daemon::Chain;

    use super::*;

    /// The watch is sent first, so that a limit on it would be over first.
    #[tokio::test]
    async fn what_is_not_answered_is_given_up_and_a_watch_may_be_silent() {
        let silent = tower::service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
        let fence = Fence::default();
        fence.extend(clock::now() + Duration::from_secs(3600));
        let client = fence.guard_within(Duration::from_millis(50), &Client::new(silent, "default"));
        let send =
            async |request: axum::http::request::Builder| client.send(request.body(Body::empty()).unwrap()).await;
        let mut watch = std::pin::pin!(send(Request::get("/api/v1/pods?watch=true")));
        for request in [Request::get("/api/v1/pods"), Request::post("/api/v1/pods"), Request::delete("/api/v1/pods/a")]
        {
            tokio::select! {
                biased;
                ended = &mut watch => panic!("{ended:?}"),
                answer = send(request) => {
                    let error = Chain(&answer.unwrap_err()).to_string();
                    assert!(error.contains("no answer from the API server within 50ms"), "{error}");
                }
            }
        }
    }

    #[test]
    fn only_a_watch_may_last() {
        let request = |uri: &str| Request::get(uri).body(Body::empty()).unwrap();
        assert!(is_watch(&request("/api/v1/pods?labelSelector=a%3Db&watch=true&timeoutSeconds=290")));
        assert!(!is_watch(&request("/api/v1/pods?labelSelector=watch%3Dtrue&limit=500")));
        assert!(!is_watch(&request("/api/v1/namespaces/watch/pods")));
    }

    #[test]
    fn a_fence_opens_until_a_moment_and_closes_for_good() {
        let fence = Fence::default();
        let second = Duration::from_secs;
        assert_eq!(fence.check(second(0)), Err(Unsent::Deposed), "before the first extension");
        fence.extend(second(10));
        assert_eq!((fence.check(second(9)), fence.check(second(10))), (Ok(()), Err(Unsent::Deposed)));
        fence.extend(second(20));
        assert_eq!(fence.check(second(19)), Ok(()));
        fence.close();
        fence.extend(second(30));
        assert_eq!(fence.check(second(5)), Err(Unsent::Deposed), "closed");
    }
}
