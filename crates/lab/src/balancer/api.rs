//! The control socket's routes; see [`super`].

use super::model::{Refusal, Service, View};
use super::plane::Plane;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use std::sync::Arc;

/// The routes.
pub fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/services", get(list))
        .route("/services/{namespace}/{name}", put(set).delete(delete))
        .with_state(plane)
}

async fn list(State(plane): State<Arc<Plane>>) -> Json<Vec<View>> {
    Json(plane.views())
}

async fn set(
    State(plane): State<Arc<Plane>>,
    Path((namespace, name)): Path<(String, String)>,
    Json(service): Json<Service>,
) -> Response {
    respond(plane.put(&format!("{namespace}/{name}"), service).await)
}

async fn delete(State(plane): State<Arc<Plane>>, Path((namespace, name)): Path<(String, String)>) -> Response {
    respond(plane.delete(&format!("{namespace}/{name}")).await)
}

fn respond(outcome: anyhow::Result<View>) -> Response {
    let error = match outcome {
        Ok(view) => return Json(view).into_response(),
        Err(error) => error,
    };
    let status = match error.downcast_ref::<Refusal>() {
        Some(Refusal::NotFound(_)) => StatusCode::NOT_FOUND,
        Some(Refusal::NoAddress(_)) => StatusCode::CONFLICT,
        Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
        None => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error:#}")).into_response()
}
