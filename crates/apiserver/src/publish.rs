//! The Service `kubernetes` in namespace `default`, by which pods find this server.
use std::net::SocketAddr;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::server::Server;

/// Creates or updates Service, Endpoints and EndpointSlice for an address that is not loopback.
pub async fn publish(server: &Server, address: SocketAddr) {
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        return; // no endpoint could have it
    }
    let (ip, port) = (address.ip().to_string(), address.port());
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": server.first_cluster_ip(), "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    let mirror = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default", "labels": mirror},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    for (path, object) in [
        ("/api/v1/namespaces/default/services", service),
        ("/api/v1/namespaces/default/endpoints", endpoints),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice),
    ] {
        let replaced = send(server, Method::PUT, &format!("{path}/kubernetes"), &object).await;
        let status =
            if replaced == StatusCode::NOT_FOUND { send(server, Method::POST, path, &object).await } else { replaced };
        if !status.is_success() {
            tracing::warn!(path, %status, "service kubernetes is not published");
        }
    }
}

async fn send(server: &Server, method: Method, path: &str, object: &Value) -> StatusCode {
    let request = Request::builder().method(method).uri(path).body(Body::from(object.to_string()));
    let request = request.expect("method and path are constants of this file");
    let answered = server.router().oneshot(request).await;
    answered.unwrap_or_else(|never| match never {}).status()
}
