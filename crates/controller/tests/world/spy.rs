//! Between a client and the API server: sees requests, refuses some, hides a pod, and lets things happen just before a request passes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, Uri},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Json, Response},
};
use futures::future::BoxFuture;
use kube::Client;
use serde_json::json;

/// Requests of this method whose path contains this.
type Which = (Method, &'static str);

#[derive(Default)]
pub struct Spy {
    counts: Mutex<HashMap<String, usize>>,
    failing: Mutex<Option<(Which, u16)>>,
    hidden: Mutex<Option<&'static str>>,
    before: Mutex<Option<(Which, BoxFuture<'static, ()>)>>,
}

impl Spy {
    /// A client of this server, and who sees what it asks for.
    pub fn on(server: &apiserver::Server) -> (Client, Arc<Self>) {
        let spy = Arc::new(Self::default());
        let between =
            |State(spy): State<Arc<Self>>, request: Request, next: Next| async move { spy.pass(request, next).await };
        let router = server.router().layer(from_fn_with_state(Arc::clone(&spy), between));
        (Client::new(router, "default"), spy)
    }

    /// How many requests have come: `METHOD path`.
    pub fn count(&self, request: &str) -> usize {
        self.counts.lock().unwrap().get(request).copied().unwrap_or_default()
    }

    /// From now on such requests are answered with this status, and not carried out.
    pub fn fail(&self, method: Method, part: &'static str, code: u16) {
        *self.failing.lock().unwrap() = Some(((method, part), code));
    }

    /// All requests are carried out again.
    pub fn recover(&self) {
        *self.failing.lock().unwrap() = None;
    }

    /// Watches and lists do not show this pod.
    pub fn hide(&self, pod: &'static str) {
        *self.hidden.lock().unwrap() = Some(pod);
    }

    /// The next such request waits until `work` is done.
    pub fn before(&self, method: Method, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        *self.before.lock().unwrap() = Some(((method, part), Box::pin(work)));
    }

    /// Whether the request has come that something was to be done before.
    pub fn has_come(&self) -> bool {
        self.before.lock().unwrap().is_none()
    }

    async fn pass(&self, mut request: Request, next: Next) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let is = |which: &Which| method == which.0 && path.contains(which.1);
        *self.counts.lock().unwrap().entry(format!("{method} {path}")).or_default() += 1;
        let work = self.before.lock().unwrap().take_if(|(which, _)| is(which));
        if let Some((_, work)) = work {
            work.await;
        }
        let failing = self.failing.lock().unwrap().as_ref().filter(|(which, _)| is(which)).map(|(_, code)| *code);
        if let Some(code) = failing {
            let message = format!("{path} is forbidden: User \"controller\" may not {method}, or the server is down");
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "", "code": code, "message": message});
            return (StatusCode::from_u16(code).unwrap(), Json(status)).into_response();
        }
        let hidden = *self.hidden.lock().unwrap();
        if let Some(name) = hidden.filter(|_| path == "/api/v1/pods") {
            let query = request.uri().query().unwrap_or_default();
            let not = format!("fieldSelector=metadata.name!%3D{name}");
            let query = match query.contains("fieldSelector=") {
                true => query.replace("fieldSelector=", &format!("{not},")),
                false => format!("{query}&{not}"),
            };
            *request.uri_mut() = Uri::try_from(format!("{path}?{query}")).unwrap();
        }
        next.run(request).await
    }
}
