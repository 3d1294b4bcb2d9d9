//! Requests as they are on the wire: negotiation, refusals, persistence.
#![allow(clippy::unwrap_used)]

use apiserver::{Options, Server};
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt as _;

struct Answer {
    code: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

async fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server.router().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (code, headers) = (response.status(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
    Answer { code, headers, body }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string()
}

#[tokio::test]
async fn what_is_not_served_is_refused_with_the_right_status() {
    let server = Server::open(Options::default()).await.unwrap();
    ask(&server, Method::POST, MAPS, &[JSON], map("x")).await;
    let big = vec![b' '; (3 << 20) + 1];
    let one = format!("{MAPS}/x");
    for (method, path, header, body, code, reason) in [
        (Method::GET, "/apis/nope.io/v1/things", JSON, Body::empty(), 404, ""),
        (Method::GET, "/api/v1/namespaces/default/pods/x/log", JSON, Body::empty(), 404, "NotFound"),
        (Method::GET, "/openapi/v2", JSON, Body::empty(), 404, ""),
        (Method::POST, one.as_str(), JSON, map("x").into(), 405, "MethodNotAllowed"),
        (
            Method::GET,
            one.as_str(),
            ("accept", "application/vnd.kubernetes.protobuf"),
            Body::empty(),
            406,
            "NotAcceptable",
        ),
        (Method::POST, MAPS, ("content-type", "text/csv"), map("y").into(), 415, "UnsupportedMediaType"),
        (
            Method::PATCH,
            one.as_str(),
            ("content-type", "application/apply-patch+yaml"),
            Body::from("{}"),
            415,
            "UnsupportedMediaType",
        ),
        (Method::POST, MAPS, JSON, big.into(), 413, "RequestEntityTooLarge"),
        (Method::POST, MAPS, JSON, Body::from("{"), 400, "BadRequest"),
        (Method::POST, MAPS, JSON, Body::from("[]"), 400, "BadRequest"),
        (Method::POST, "/api/v1/configmaps", JSON, map("y").into(), 400, "BadRequest"),
    ] {
        let answer = ask(&server, method.clone(), path, &[header], body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.body);
        if !reason.is_empty() {
            assert_eq!(
                (&answer.body["kind"], &answer.body["reason"]),
                (&json!("Status"), &json!(reason)),
                "{method} {path}"
            );
        }
    }
}

/// The table of docs/standalone.md.
#[tokio::test]
async fn what_the_guide_calls_not_served_is_not_found() {
    let server = Server::open(Options::default()).await.unwrap();
    let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let account = json!({"metadata": {"name": "x"}});
    for (kind, object) in [("pods", pod), ("serviceaccounts", account)] {
        let path = format!("/api/v1/namespaces/default/{kind}");
        assert_eq!(ask(&server, Method::POST, &path, &[JSON], object.to_string()).await.code, 201, "{kind}");
    }
    for (method, path) in [
        (Method::GET, "/api/v1/namespaces/default/pods/x/log"),
        (Method::POST, "/api/v1/namespaces/default/pods/x/exec"),
        (Method::POST, "/api/v1/namespaces/default/pods/x/attach"),
        (Method::POST, "/api/v1/namespaces/default/pods/x/portforward"),
        (Method::POST, "/api/v1/namespaces/default/pods/x/eviction"),
        (Method::PATCH, "/api/v1/namespaces/default/pods/x/ephemeralcontainers"),
        (Method::POST, "/api/v1/namespaces/default/serviceaccounts/x/token"),
        (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews"),
        (Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
        (Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        (Method::GET, "/apis/apps/v1/controllerrevisions"),
        (Method::GET, "/apis/autoscaling/v2/horizontalpodautoscalers"),
        (Method::GET, "/apis/policy/v1/poddisruptionbudgets"),
        (Method::GET, "/apis/batch/v1/cronjobs"),
        (Method::GET, "/apis/networking.k8s.io/v1/ingresses"),
        (Method::GET, "/apis/networking.k8s.io/v1/networkpolicies"),
        (Method::GET, "/api/v1/persistentvolumes"),
        (Method::GET, "/api/v1/resourcequotas"),
        (Method::GET, "/apis/scheduling.k8s.io/v1/priorityclasses"),
        (Method::GET, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"),
        (Method::GET, "/apis/apiregistration.k8s.io/v1/apiservices"),
        (Method::GET, "/apis/metrics.k8s.io/v1beta1/pods"),
        (Method::GET, "/openapi/v2"),
    ] {
        let answer = ask(&server, method, path, &[JSON], "{}").await;
        assert_eq!(answer.code, 404, "{path}: {}", answer.body);
        let built_in = ["/api/", "/apis/apps/", "/apis/batch/", "/apis/admission"].iter().any(|p| path.starts_with(p));
        assert_eq!(answer.body["kind"] == "Status", built_in, "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_reported_or_ignored_as_asked() {
    let server = Server::open(Options::default()).await.unwrap();
    let body = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "dada": {}}).to_string()
    };
    let strict = ask(&server, Method::POST, &format!("{MAPS}?fieldValidation=Strict"), &[JSON], body("a")).await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.body["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dada\""
    );
    let warned = ask(&server, Method::POST, MAPS, &[JSON], body("b")).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dada\\\"\"");
    assert!(warned.body["dada"].is_null());
    let ignored = ask(&server, Method::POST, &format!("{MAPS}?fieldValidation=Ignore"), &[JSON], body("c")).await;
    assert_eq!((ignored.code, ignored.headers.get("warning")), (StatusCode::CREATED, None));
}

#[tokio::test]
async fn tables_and_metadata_are_served_to_who_asks() {
    let server = Server::open(Options::default()).await.unwrap();
    ask(
        &server,
        Method::POST,
        MAPS,
        &[("content-type", "application/yaml")],
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b}}",
    )
    .await;
    let table = ask(
        &server,
        Method::GET,
        MAPS,
        &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")],
        "",
    )
    .await;
    assert_eq!(table.body["kind"], "Table");
    assert_eq!(table.body["rows"][0]["cells"][0], "x");
    assert_eq!(table.body["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = ask(
        &server,
        Method::GET,
        MAPS,
        &[("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")],
        "",
    )
    .await;
    assert_eq!(
        (&partial.body["kind"], &partial.body["items"][0]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("x"))
    );
    assert!(partial.body["items"][0]["data"].is_null());
    let groups = ask(
        &server,
        Method::GET,
        "/apis",
        &[("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")],
        "",
    )
    .await;
    assert_eq!(groups.body["kind"], "APIGroupDiscoveryList");
}

#[tokio::test]
async fn events_are_one_store_with_two_faces() {
    let server = Server::open(Options::default()).await.unwrap();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello", "reason": "R", "type": "Normal", "action": "A",
        "reportingController": "c.io/x", "reportingInstance": "i",
    });
    let made =
        ask(&server, Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events", &[JSON], event.to_string())
            .await;
    assert_eq!(made.code, 201, "{}", made.body);
    let core =
        ask(&server, Method::GET, "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp", &[], "")
            .await;
    let seen = &core.body["items"][0];
    assert_eq!(
        (&seen["apiVersion"], &seen["message"], &seen["reportingComponent"]),
        (&json!("v1"), &json!("hello"), &json!("c.io/x"))
    );
    let back = ask(&server, Method::GET, "/apis/events.k8s.io/v1/namespaces/default/events/e", &[], "").await;
    assert_eq!((&back.body["apiVersion"], &back.body["note"]), (&json!("events.k8s.io/v1"), &json!("hello")));
}

#[tokio::test]
async fn scale_shows_and_sets_replicas() {
    let server = Server::open(Options::default()).await.unwrap();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let made = ask(&server, Method::POST, path, &[JSON], deployment.to_string()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let scale = ask(&server, Method::GET, &format!("{path}/d/scale"), &[], "").await;
    assert_eq!((&scale.body["spec"]["replicas"], &scale.body["status"]["selector"]), (&json!(2), &json!("a=b")));
    let merge = [("content-type", "application/merge-patch+json")];
    let scaled = ask(&server, Method::PATCH, &format!("{path}/d/scale"), &merge, r#"{"spec":{"replicas":5}}"#).await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (StatusCode::OK, &json!(5)));
    let deployment = ask(&server, Method::GET, &format!("{path}/d"), &[], "").await;
    assert_eq!(
        (&deployment.body["spec"]["replicas"], &deployment.body["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
}

fn definition(storage: &str) -> Value {
    let version = |name: &str| json!({"name": name, "served": true, "storage": name == storage, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [version("v1"), version("v2")]},
    })
}

#[tokio::test]
async fn objects_survive_a_restart_and_a_change_of_the_storage_version() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { data_dir: Some(dir.path().into()), ..Options::default() };
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let server = Server::open(options.clone()).await.unwrap();
    let made = ask(&server, Method::POST, definitions, &[JSON], definition("v1").to_string()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"a": 1}});
    let made = ask(&server, Method::POST, "/apis/example.com/v1/widgets", &[JSON], widget.to_string()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let merge = [("content-type", "application/merge-patch+json")];
    let spec = json!({"spec": definition("v2")["spec"]}).to_string();
    let changed = ask(&server, Method::PATCH, &format!("{definitions}/widgets.example.com"), &merge, spec).await;
    assert_eq!(
        (changed.code, &changed.body["status"]["storedVersions"]),
        (StatusCode::OK, &json!(["v1", "v2"])),
        "{}",
        changed.body
    );
    server.close().await;

    let server = Server::open(options).await.unwrap();
    for version in ["v1", "v2"] {
        let list = ask(&server, Method::GET, &format!("/apis/example.com/{version}/widgets"), &[], "").await;
        assert_eq!(list.body["items"][0]["apiVersion"], format!("example.com/{version}"));
        assert_eq!(list.body["items"][0]["metadata"]["uid"], made.body["metadata"]["uid"]);
    }
    let old = ask(&server, Method::GET, &format!("{MAPS}?watch=1&resourceVersion=1"), &[], "").await;
    assert_eq!(
        (&old.body["type"], &old.body["object"]["code"]),
        (&json!("ERROR"), &json!(410)),
        "events before the restart are forgotten"
    );
}

#[tokio::test]
async fn a_watch_outlives_many_versions_of_a_large_object_and_an_old_version_is_gone() {
    let server = Server::open(Options::default()).await.unwrap();
    let made = ask(&server, Method::POST, MAPS, &[JSON], map("large")).await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let first = version(&made.body);
    let follow = Request::builder().uri(format!("{MAPS}?watch=1&resourceVersion={first}")).body(Body::empty()).unwrap();
    let mut following = server.router().oneshot(follow).await.unwrap().into_body();
    let (path, merge) = (format!("{MAPS}/large"), [("content-type", "application/merge-patch+json")]);
    let mut last = first.clone();
    for round in 0..90 {
        let text = format!("{round:09}").repeat(100_000);
        let patched = ask(&server, Method::PATCH, &path, &merge, json!({"data": {"text": text}}).to_string()).await;
        assert_eq!(patched.code, 200, "{round}");
        last = version(&patched.body);
        let frame = following.frame().await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!((&event["type"], version(&event["object"])), (&json!("MODIFIED"), last.clone()), "{round}");
    }
    let old =
        ask(&server, Method::GET, &format!("{MAPS}?watch=1&resourceVersion={first}&timeoutSeconds=1"), &[], "").await;
    assert_eq!((&old.body["type"], &old.body["object"]["code"]), (&json!("ERROR"), &json!(410)));
    let now = format!("{MAPS}?watch=1&resourceVersion={last}&timeoutSeconds=1");
    assert_eq!(ask(&server, Method::GET, &now, &[], "").await.body, "", "nothing is missed");
}

#[tokio::test]
async fn dependents_go_with_owners_whose_kind_goes() {
    let server = Server::open(Options::default()).await.unwrap();
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    ask(&server, Method::POST, definitions, &[JSON], definition("v1").to_string()).await;
    let names: Vec<_> = (0..40).map(|i| format!("w{i}")).collect();
    for name in &names {
        let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}}).to_string();
        let owner = ask(&server, Method::POST, "/apis/example.com/v1/widgets", &[JSON], widget).await.body;
        let reference =
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": name, "uid": owner["metadata"]["uid"]});
        let dependent = json!({"metadata": {"name": name, "ownerReferences": [reference]}}).to_string();
        assert_eq!(ask(&server, Method::POST, MAPS, &[JSON], dependent).await.code, 201);
    }
    ask(&server, Method::DELETE, &format!("{definitions}/widgets.example.com"), &[], "").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let left = ask(&server, Method::GET, MAPS, &[], "").await.body["items"].as_array().unwrap().len();
        if left == 0 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{left} dependents are left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn events_go_when_nobody_has_written_them_for_long() {
    const TTL: Duration = Duration::from_secs(2);
    let dir = tempfile::tempdir().unwrap();
    let options = |ttl| Options { data_dir: Some(dir.path().into()), event_ttl: ttl, ..Options::default() };
    let events = "/api/v1/namespaces/default/events";
    let event = |name: &str| {
        json!({"metadata": {"name": name, "finalizers": ["example.org/held"]}, "reason": "Tested", "type": "Normal",
            "lastTimestamp": "2026-01-01T00:00:00Z", "involvedObject": {"kind": "ConfigMap", "namespace": "default", "name": "a"}})
        .to_string()
    };
    let merge = [("content-type", "application/merge-patch+json")];
    let server = Server::open(options(TTL)).await.unwrap();
    assert_eq!(ask(&server, Method::POST, MAPS, &[JSON], map("stays")).await.code, 201);
    for name in ["old", "renewed"] {
        assert_eq!(ask(&server, Method::POST, events, &[JSON], event(name)).await.code, 201, "{name}");
    }
    let watch = format!("{events}?watch=1&resourceVersion=1&timeoutSeconds=5&fieldSelector=metadata.name%3Dold");
    let watching = ask(&server, Method::GET, &watch, &[], "");
    let renewing = async {
        let begun = std::time::Instant::now();
        for count in 1.. {
            let path = format!("{events}/renewed");
            let code = ask(&server, Method::PATCH, &path, &merge, json!({"count": count}).to_string()).await.code;
            assert_eq!(code, 200, "it is written all the time");
            if begun.elapsed() > 2 * TTL {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (seen, ()) = tokio::join!(watching, renewing);
    let seen = seen.body.as_str().unwrap().to_owned();
    let kinds: Vec<Value> =
        seen.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone()).collect();
    assert_eq!(kinds, ["ADDED", "DELETED"]);
    assert_eq!(ask(&server, Method::GET, &format!("{MAPS}/stays"), &[], "").await.code, 200);
    server.close().await;

    // For ever, and what was written before a start is as old as it says.
    let server = Server::open(options(Duration::ZERO)).await.unwrap();
    ask(&server, Method::POST, events, &[JSON], event("another")).await;
    tokio::time::sleep(TTL + Duration::from_millis(500)).await;
    assert_eq!(ask(&server, Method::GET, &format!("{events}/another"), &[], "").await.code, 200);
    server.close().await;
    let server = Server::open(options(TTL)).await.unwrap();
    let deadline = std::time::Instant::now() + TTL;
    while ask(&server, Method::GET, &format!("{events}/another"), &[], "").await.code == 200 {
        assert!(std::time::Instant::now() < deadline, "it is as old as if it had been written at the start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.close().await;
}
