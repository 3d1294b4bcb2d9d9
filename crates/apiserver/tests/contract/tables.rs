//! The table form.

use crate::engine::{Api, config_map, widget};
use serde_json::{Value, json};

fn names(table: &Value) -> Vec<&str> {
    table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
}

fn cells<'a>(table: &'a Value, name: &str) -> &'a Value {
    let rows = table["rows"].as_array().unwrap();
    &rows.iter().find(|row| row["cells"][0] == name).unwrap_or_else(|| panic!("no row {name}: {table}"))["cells"]
}

#[tokio::test]
async fn custom_columns_are_computed_by_the_server() {
    let api = Api::new().await;
    let columns = json!([
        {"name": "SUBNET", "type": "string", "jsonPath": ".spec.subnet"},
        {"name": "COUNT", "type": "integer", "jsonPath": ".spec.count"},
        {"name": "NODES", "type": "string", "jsonPath": ".spec.nodes", "priority": 10},
        {"name": "APP", "type": "string", "jsonPath": ".metadata.labels['example\\.org\\/app\\-name']"},
        {"name": "FIRST", "type": "string", "jsonPath": ".spec.nodes[0]"},
        {"name": "SINCE", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let group = api
        .define("Namespaced", json!({"schema": {"openAPIV3Schema": schema}, "additionalPrinterColumns": columns}))
        .await;
    let mut body = widget(&group, "a", json!({"subnet": "10.0.0.0/8", "count": 3, "nodes": ["x", "y"]}));
    body["metadata"]["labels"] = json!({"example.org/app-name": "web"});
    api.post(&api.widgets(&group), &body).await.ok();
    let table = api.table(&api.widgets(&group)).await;
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(names(&table), ["Name", "SUBNET", "COUNT", "NODES", "APP", "FIRST", "SINCE"]);
    assert_eq!(table["columnDefinitions"][3]["priority"], 10);
    let row = cells(&table, "a");
    assert_eq!(
        row.as_array().unwrap()[..6],
        [json!("a"), json!("10.0.0.0/8"), json!(3), json!("[\"x\",\"y\"]"), json!("web"), json!("x")]
    );
    assert!(row[6].as_str().is_some_and(|age| age.ends_with('s')), "{row}");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
    let whole = api.table(&format!("{}?includeObject=Object", api.widgets(&group))).await;
    assert_eq!(whole["rows"][0]["object"]["spec"]["count"], 3);
    let none = api.table(&format!("{}?includeObject=None", api.widgets(&group))).await;
    assert_eq!(none["rows"][0]["object"], Value::Null);
    let one = api.table(&format!("{}/a", api.widgets(&group))).await;
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn built_in_columns_are_those_of_kubectl() {
    let api = Api::new().await;
    api.post(&api.core("configmaps"), &config_map("a")).await.ok();
    let table = api.table(&api.core("configmaps")).await;
    assert_eq!(names(&table), ["Name", "Data", "Age"]);
    assert_eq!(cells(&table, "a")[1], 1);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}});
    let made = api.post(&api.core("services"), &service).await.ok();
    let table = api.table(&api.core("services")).await;
    assert_eq!(names(&table), ["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"]);
    let ports = format!("80:{}/TCP", made["spec"]["ports"][0]["nodePort"]);
    let row = cells(&table, "s");
    assert_eq!(
        row.as_array().unwrap()[..5],
        [json!("s"), json!("NodePort"), made["spec"]["clusterIP"].clone(), json!("<none>"), json!(ports)]
    );
    assert_eq!(row[6], "a=b");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
    api.post(&api.core("pods"), &pod).await.ok();
    let table = api.table(&api.core("pods")).await;
    assert_eq!(
        names(&table),
        ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"]
    );
    assert_eq!(cells(&table, "p").as_array().unwrap()[..4], [json!("p"), json!("0/1"), json!("Pending"), json!("0")]);
}

#[tokio::test]
async fn a_definition_without_columns_shows_age() {
    let api = Api::new().await;
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let group = api.define("Namespaced", json!({"schema": {"openAPIV3Schema": schema}})).await;
    api.post(&api.widgets(&group), &widget(&group, "a", json!({}))).await.ok();
    assert_eq!(names(&api.table(&api.widgets(&group)).await), ["Name", "Age"]);
    let table = api
        .table(&format!(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?fieldSelector=metadata.name%3Dwidgets.{group}"
        ))
        .await;
    assert_eq!(names(&table), ["Name", "Created At"]);
    assert!(table["rows"][0]["cells"][1].as_str().unwrap().ends_with('Z'));
}
