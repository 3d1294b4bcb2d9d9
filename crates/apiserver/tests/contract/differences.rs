//! Where the engines differ on purpose. ARCHITECTURE.md has the same table for people; a row that no longer differs fails here.

use crate::engine::{Api, CRDS, Engine, config_map, engine};
use crate::kubectl::Kubectl;
use serde_json::json;
use std::path::Path;

/// A request that only kube-apiserver serves, or that only it refuses.
struct Difference {
    /// What it is about, as ARCHITECTURE.md has it.
    what: &'static str,
    method: &'static str,
    path: String,
    headers: &'static [(&'static str, &'static str)],
    body: String,
    /// What kube-apiserver answers.
    served: u16,
    /// What the embedded server answers: status and reason, none where there is no `Status` of a failure.
    refused: (u16, &'static str),
}

fn differences(api: &Api) -> Vec<Difference> {
    let row = |what, method, path: &str, headers, served, refused| Difference {
        what,
        method,
        path: path.to_owned(),
        headers,
        body: config_map("applied").to_string(),
        served,
        refused,
    };
    let applied = api.core("configmaps/applied?fieldManager=contract");
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let mut reviews = row("authorization", "POST", review, &[("content-type", "application/json")], 201, (404, ""));
    let asked = json!({"resourceAttributes": {"verb": "get", "resource": "pods"}});
    reviews.body =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": asked}).to_string();
    let definitions = format!("{CRDS}?dryRun=All");
    let mut costly = row(
        "a limit of what a CEL rule may cost",
        "POST",
        &definitions,
        &[("content-type", "application/json")],
        422,
        (201, ""),
    );
    let rule = json!({"rule": "self.all(a, self.all(b, a == b))"});
    let list = json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [rule]});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"list": list}}}});
    costly.body = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.costly.example.org"},
        "spec": {"group": "costly.example.org", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version]}})
    .to_string();
    vec![
        row(
            "server-side apply",
            "PATCH",
            &applied,
            &[("content-type", "application/apply-patch+yaml")],
            201,
            (415, "UnsupportedMediaType"),
        ),
        row(
            "answers in protobuf",
            "GET",
            &api.core("configmaps"),
            &[("accept", "application/vnd.kubernetes.protobuf")],
            200,
            (406, "NotAcceptable"),
        ),
        row("OpenAPI 2", "GET", "/openapi/v2", &[], 200, (404, "")),
        reviews,
        costly,
    ]
}

#[tokio::test]
async fn the_embedded_server_refuses_with_a_status_what_it_does_not_serve() {
    let api = Api::new().await;
    for difference in differences(&api) {
        let Difference { what, method, path, headers, body, served, refused } = difference;
        let body = if method == "GET" { Vec::new() } else { body.into_bytes() };
        let answer = api.call(method, &path, headers, body).await;
        match engine() {
            Engine::KubeApiserver => assert_eq!(answer.code, served, "{what}: {answer:?}"),
            Engine::Embedded if refused.1.is_empty() => assert_eq!(answer.code, refused.0, "{what}: {answer:?}"),
            Engine::Embedded => assert_eq!((answer.code, answer.refusal().1), refused, "{what}"),
        }
    }
}

#[tokio::test]
async fn a_body_of_a_type_that_is_not_served_is_refused_with_the_same_status() {
    let api = Api::new().await;
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let group = api.define("Namespaced", json!({"schema": schema})).await;
    let unknown = |accepted: &str| {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "UnsupportedMediaType", "code": 415, "message": message})
    };
    let mut patch = unknown("");
    json_patch::merge(&mut patch, &json!({"message": "415: Unsupported Media Type", "details": {}}));
    let both = "application/json-patch+json, application/merge-patch+json";
    let all = format!("{both}, application/strategic-merge-patch+json");
    let read = unknown("application/json, application/yaml, application/vnd.kubernetes.protobuf");
    let (map, maps, widgets) = (api.core("configmaps/a"), api.core("configmaps"), api.widgets(&group));
    let widget = format!("{widgets}/none");
    let (csv, strategic, apply) =
        ("text/csv", "application/strategic-merge-patch+json", "application/apply-patch+yaml");
    let mut rows = vec![
        ("POST", csv, &maps, read.clone()),
        ("PUT", csv, &map, read.clone()),
        ("DELETE", csv, &map, read.clone()),
        ("POST", csv, &widgets, read),
        ("PATCH", csv, &map, patch),
        ("PATCH", csv, &widget, unknown(both)),
        ("PATCH", strategic, &widget, unknown(both)),
    ];
    if engine() == Engine::Embedded {
        rows.extend([("PATCH", apply, &map, unknown(&all)), ("PATCH", apply, &widget, unknown(both))]);
    }
    for (method, media_type, path, status) in rows {
        let answer = api.call(method, path, &[("content-type", media_type)], b"{}".to_vec()).await;
        // kube-apiserver names one type more.
        let text = answer.body.to_string().replace(", application/apply-patch+yaml", "");
        assert_eq!((answer.code, text), (415, status.to_string()), "{method} {media_type} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "kubectl"]
async fn kubectl_says_where_server_side_apply_is_not_served() {
    let api = Api::new().await;
    let kubectl = Kubectl::new(&api);
    let yaml = config_map("a").to_string();
    let ran = kubectl.run(&["apply", "--server-side", "-f", "-"], &yaml).await;
    match engine() {
        Engine::KubeApiserver => {
            assert_eq!((ran.ok, ran.out.as_str()), (true, "configmap/a serverside-applied\n"), "{}", ran.err)
        }
        Engine::Embedded => {
            let begin = "error: Server-side apply not available on the server: (the body of the request was in an unknown format";
            assert!(!ran.ok && ran.err.starts_with(begin), "{}{}", ran.out, ran.err);
            assert_eq!(
                kubectl.ok(&["apply", "-f", "-"], &yaml).await,
                "configmap/a created\n",
                "without it kubectl applies"
            );
        }
    }
}

#[tokio::test]
async fn the_architecture_names_the_differences() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md");
    let (_, table) =
        text.split_once("| only kube-apiserver | the embedded server |\n| --- | --- |\n").expect("the table");
    let rows = table.lines().take_while(|line| line.starts_with("| "));
    let told: Vec<&str> = rows.map(|line| line.split('|').nth(1).unwrap_or_default().trim()).collect();
    let known: Vec<&str> = differences(&Api::new().await).iter().map(|difference| difference.what).collect();
    assert_eq!(told, known);
}
