//! The switch's control API, HTTP over a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /counters` | [`Report`](super::counters::Report) |
//! | `GET /nics` | list of [`NicView`] |
//! | `POST /nics/{id}/addresses` with `{"addresses": ["172.31.200.1-172.31.200.32"]}` | the NIC afterwards; all or nothing |
//! | `DELETE /nics/{id}/addresses/{addresses}` | the NIC afterwards (a prefix is written with `%2F`) |
//! | `GET /flows` | list of [`FlowView`] |

use super::addresses::Addresses;
use super::fabric::{Fabric, NicView, RegistryError};
use super::switch::Handle;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// A balanced flow, seen from its client; the JSON of `GET /flows`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    pub protocol: u8,
    pub client: SocketAddr,
    pub node: SocketAddr,
    pub balancer: String,
    pub requests: u64,
    pub replies: u64,
}

/// The body of a registration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    pub addresses: Vec<Addresses>,
}

/// The routes.
pub fn router(switch: Handle) -> Router {
    Router::new()
        .route("/counters", get(counters))
        .route("/nics", get(nics))
        .route("/nics/{id}/addresses", post(register))
        .route("/nics/{id}/addresses/{addresses}", delete(unregister))
        .route("/flows", get(flows))
        .with_state(switch)
}

async fn counters(State(switch): State<Handle>) -> Response {
    ask(switch, |fabric, _| fabric.report()).await
}

async fn nics(State(switch): State<Handle>) -> Response {
    ask(switch, |fabric, _| fabric.nics()).await
}

async fn flows(State(switch): State<Handle>) -> Response {
    ask(switch, |fabric, now| {
        let view = |(key, flow, balancer): (&super::frame::FlowKey, &super::flows::Flow, &str)| FlowView {
            protocol: key.protocol,
            client: key.destination.into(),
            node: key.source.into(),
            balancer: balancer.to_owned(),
            requests: flow.requests,
            replies: flow.replies,
        };
        fabric.flows(now).map(view).collect::<Vec<_>>()
    })
    .await
}

async fn register(State(switch): State<Handle>, Path(nic): Path<String>, Json(body): Json<Registration>) -> Response {
    change(switch, nic, move |fabric, nic| {
        for (done, addresses) in body.addresses.iter().enumerate() {
            if let Err(error) = fabric.register(nic, addresses) {
                for registered in &body.addresses[..done] {
                    fabric.unregister(nic, registered).expect("registered a moment ago");
                }
                return Err(error);
            }
        }
        Ok(())
    })
    .await
}

async fn unregister(State(switch): State<Handle>, Path((nic, addresses)): Path<(String, String)>) -> Response {
    match addresses.parse::<Addresses>() {
        Ok(addresses) => change(switch, nic, move |fabric, nic| fabric.unregister(nic, &addresses)).await,
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// Runs a read on the switch.
async fn ask<T>(switch: Handle, job: impl FnOnce(&mut Fabric, Duration) -> T + Send + 'static) -> Response
where
    T: Serialize + Send + 'static,
{
    match tokio::task::spawn_blocking(move || switch.with(job)).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Runs a change of one NIC's registration and shows the NIC.
async fn change(
    switch: Handle,
    nic: String,
    job: impl FnOnce(&mut Fabric, &str) -> Result<(), RegistryError> + Send + 'static,
) -> Response {
    let whole = move |fabric: &mut Fabric, _| {
        job(fabric, &nic)?;
        Ok(fabric.nics().into_iter().find(|view| view.id == nic).expect("changed a moment ago"))
    };
    let outcome: Result<anyhow::Result<Result<NicView, RegistryError>>, _> =
        tokio::task::spawn_blocking(move || switch.with(whole)).await;
    match outcome {
        Ok(Ok(Ok(view))) => Json(view).into_response(),
        Ok(Ok(Err(error @ RegistryError::NoSuchNic(_)))) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
        Ok(Ok(Err(error))) => (StatusCode::CONFLICT, error.to_string()).into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
