//! The HTTP API: which path is which operation, on which server, and how bodies and errors look (`wire::agent` has the rules).

mod body;

use crate::agent::Agent;
use crate::{add, multinet, release, views};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use tracing::Instrument;
use wire::agent::{FrameworkError, STATUS_CONFLICT_RELEASE_DISABLED, STATUS_STATEFUL_POD, path};

/// An answer that is not what was asked for; boxed, as answers are large.
type Refusal = Box<Response>;

/// Which server a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Socket,
    Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Healthy,
    Add,
    Release,
    AddBatch,
    ReleaseBatch,
    Endpoint,
    Coordinator,
    Networks,
    Status,
    /// Served by `daemon` on the health port.
    Probe,
}

impl Operation {
    fn server(self) -> Server {
        if self == Self::Probe { Server::Health } else { Server::Socket }
    }
}

const ROUTES: [(&str, &[(Method, Operation)]); 10] = [
    (path::HEALTHY, &[(Method::GET, Operation::Healthy)]),
    (path::IP, &[(Method::POST, Operation::Add), (Method::DELETE, Operation::Release)]),
    (path::IPS, &[(Method::POST, Operation::AddBatch), (Method::DELETE, Operation::ReleaseBatch)]),
    (path::WORKLOAD_ENDPOINT, &[(Method::GET, Operation::Endpoint)]),
    (path::COORDINATOR_CONFIG, &[(Method::GET, Operation::Coordinator)]),
    (path::MULTINET_NETWORKS, &[(Method::POST, Operation::Networks)]),
    (path::MULTINET_STATUS, &[(Method::POST, Operation::Status)]),
    (path::STARTUP, &[(Method::GET, Operation::Probe)]),
    (path::READINESS, &[(Method::GET, Operation::Probe)]),
    (path::LIVENESS, &[(Method::GET, Operation::Probe)]),
];

/// What the Unix socket serves.
pub fn socket(agent: Arc<Agent>) -> Router {
    Router::new().fallback(serve).with_state(agent)
}

/// What the health port answers beyond the probes: that these operations are elsewhere.
pub fn elsewhere(router: Router) -> Router {
    let refused = |request: Request| {
        std::future::ready(match route(request.method(), request.uri(), Server::Health) {
            Ok(operation) => not_implemented(operation),
            Err(response) => *response,
        })
    };
    router.fallback(refused).method_not_allowed_fallback(refused)
}

fn route(method: &Method, uri: &Uri, server: Server) -> Result<Operation, Refusal> {
    let path = uri.path();
    let Some((_, methods)) = ROUTES.iter().find(|(one, _)| *one == path) else {
        return Err(framework(StatusCode::NOT_FOUND, 404, format!("path {path} was not found")).into());
    };
    match methods.iter().find(|(one, _)| one == method) {
        Some((_, operation)) if operation.server() == server => Ok(*operation),
        Some((_, operation)) => Err(not_implemented(*operation).into()),
        None => {
            let allowed: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
            let allowed = allowed.join(",");
            let text = format!("method {method} is not allowed, but [{allowed}] are");
            let mut response = framework(StatusCode::METHOD_NOT_ALLOWED, 405, text);
            if let Ok(value) = HeaderValue::from_str(&allowed) {
                response.headers_mut().insert(ALLOW, value);
            }
            Err(response.into())
        }
    }
}

async fn serve(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    let operation = match route(request.method(), request.uri(), Server::Socket) {
        Ok(operation) => operation,
        Err(response) => return *response,
    };
    match dispatch(agent, operation, request).await {
        Ok(response) => response,
        Err(response) => *response,
    }
}

async fn dispatch(agent: Arc<Agent>, operation: Operation, request: Request) -> Result<Response, Refusal> {
    match operation {
        Operation::Healthy | Operation::AddBatch => Ok(StatusCode::OK.into_response()),
        Operation::Probe => Err(not_implemented(operation).into()),
        Operation::Endpoint => endpoint(&agent, request.uri().query().unwrap_or_default()).await,
        Operation::Add => {
            let args: wire::agent::AddArgs = body::read(request).await?;
            let span = tracing::info_span!(
                target: "IPAM", "ADD", CNICommand = "ADD", ContainerID = %args.container_id, IfName = %args.if_name,
                NetNamespace = %args.net_namespace, PodNamespace = %args.pod_namespace, PodName = %args.pod_name, PodUID = %args.pod_uid
            );
            reply(add::add(&agent, args).instrument(span).await)
        }
        Operation::Release => {
            let args: wire::agent::ReleaseArgs = body::read(request).await?;
            let span = tracing::info_span!(
                target: "IPAM", "DEL", CNICommand = "DEL", ContainerID = %args.container_id, IfName = %args.if_name,
                PodNamespace = %args.pod_namespace, PodName = %args.pod_name, PodUID = %args.pod_uid
            );
            nothing(release::release(&agent, args).instrument(span).await)
        }
        Operation::ReleaseBatch => {
            let args: wire::agent::BatchReleaseArgs = body::read(request).await?;
            let span = tracing::info_span!(
                target: "IPAM", "Release IPs", Operation = "Release IPs", ContainerID = %args.container_id,
                PodNamespace = %args.pod_namespace, PodName = %args.pod_name, PodUID = %args.pod_uid
            );
            batch(release::release_batch(&agent, args).instrument(span).await)
        }
        Operation::Coordinator => reply(views::coordinator(&agent, body::read(request).await?).await),
        Operation::Networks => reply(multinet::networks(&agent, body::read(request).await?).await),
        Operation::Status => nothing(multinet::status(&agent, body::read(request).await?).await),
    }
}

async fn endpoint(agent: &Agent, query: &str) -> Result<Response, Refusal> {
    let required = |name: &str| -> Result<String, Refusal> {
        body::query(query, name).ok_or_else(|| {
            framework(StatusCode::UNPROCESSABLE_ENTITY, 602, format!("{name} in query is required")).into()
        })
    };
    let (name, namespace) = (required("podName")?, required("podNamespace")?);
    match views::endpoint(agent, &namespace, &name).await {
        Ok(Some(view)) => Ok(json(StatusCode::OK, &view)),
        Ok(None) => Err(json(StatusCode::NOT_FOUND, &format!("SpiderEndpoint {namespace}/{name} not found")).into()),
        Err(failure) => Err(error(&failure).into()),
    }
}

fn reply<T: Serialize, E: std::error::Error + 'static>(outcome: Result<T, E>) -> Result<Response, Refusal> {
    outcome.map(|value| json(StatusCode::OK, &value)).map_err(|failure| error(&failure).into())
}

fn nothing<E: std::error::Error + 'static>(outcome: Result<(), E>) -> Result<Response, Refusal> {
    outcome.map(|()| StatusCode::OK.into_response()).map_err(|failure| error(&failure).into())
}

fn batch(outcome: Result<(), release::BatchFailure>) -> Result<Response, Refusal> {
    let status = |code| StatusCode::from_u16(code).expect("521 and 522 are in the range of status codes");
    match outcome {
        Ok(()) => Ok(StatusCode::OK.into_response()),
        Err(failure @ release::BatchFailure::Disabled) => {
            Err(json(status(STATUS_CONFLICT_RELEASE_DISABLED), &failure.to_string()).into())
        }
        Err(failure @ release::BatchFailure::Stateful) => {
            Err(json(status(STATUS_STATEFUL_POD), &failure.to_string()).into())
        }
        Err(failure) => Err(error(&failure).into()),
    }
}

/// A handler's error: 500 and a JSON string with the whole chain.
fn error(failure: &(dyn std::error::Error + 'static)) -> Response {
    json(StatusCode::INTERNAL_SERVER_ERROR, &daemon::Chain(failure).to_string())
}

fn not_implemented(operation: Operation) -> Response {
    json(StatusCode::NOT_IMPLEMENTED, &format!("operation {operation:?} is not implemented on this server"))
}

fn framework(status: StatusCode, code: i64, message: String) -> Response {
    json(status, &FrameworkError { code, message })
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => (status, [(CONTENT_TYPE, "application/json")], Body::from(text)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_methods_and_servers_are_told_apart() {
        for (method, path, server, expected) in [
            (Method::GET, "/v1/ipam/healthy", Server::Socket, Ok(Operation::Healthy)),
            (Method::DELETE, "/v1/ipam/ips", Server::Socket, Ok(Operation::ReleaseBatch)),
            (Method::GET, "/v1/workloadendpoint?podName=a", Server::Socket, Ok(Operation::Endpoint)),
            (Method::GET, "/v1/runtime/startup", Server::Health, Ok(Operation::Probe)),
            (Method::GET, "/v1/runtime/startup", Server::Socket, Err(501)),
            (Method::POST, "/v1/ipam/ip", Server::Health, Err(501)),
            (Method::PUT, "/v1/ipam/ip", Server::Socket, Err(405)),
            (Method::GET, "/v2/ipam/ip", Server::Socket, Err(404)),
            (Method::GET, "/v1/ipam/ip/", Server::Socket, Err(404)),
        ] {
            let uri: Uri = path.parse().unwrap();
            let found = route(&method, &uri, server).map_err(|response| response.status().as_u16());
            assert_eq!(found, expected, "{method} {path} {server:?}");
        }
    }
}
