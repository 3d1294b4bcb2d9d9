//! Rates of the hot paths; prints, asserts nothing about time.
//! `cargo test -p apiserver --release --test load -- --ignored --nocapture`
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use apiserver::{Options, Server};
use futures::StreamExt as _;
use futures::stream;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::json;

fn rate(what: &str, count: usize, took: Duration) {
    println!("{what}: {count} in {:.0} ms, {:.0}/s", took.as_secs_f64() * 1e3, count as f64 / took.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn measure_creates_lists_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::open(Options { data_dir: Some(dir.path().into()), ..Options::default() }).await.unwrap();
    let client = Client::new(server.router(), "default");
    let kind =
        |group: &str, version: &str, kind: &str| ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let crds: Api<DynamicObject> =
        Api::all_with(client.clone(), &kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition"));
    let (_, definition) = k8s_api::all_crds().into_iter().find(|(_, c)| c.spec.names.kind == "SpiderIP").unwrap();
    let definition: DynamicObject = serde_json::from_value(serde_json::to_value(definition).unwrap()).unwrap();
    let definition = DynamicObject {
        types: Some(kube::core::TypeMeta {
            api_version: "apiextensions.k8s.io/v1".into(),
            kind: "CustomResourceDefinition".into(),
        }),
        ..definition
    };
    crds.create(&PostParams::default(), &definition).await.unwrap();
    let ips: Api<DynamicObject> = Api::all_with(client, &kind("spiderpool.spidernet.io", "v2beta1", "SpiderIP"));
    let object = |i: usize| -> DynamicObject {
        let address = format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255);
        serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIP",
            "metadata": {"name": address, "labels": {"ipam.spidernet.io/ippool": "a", "ipam.spidernet.io/node": "n1"}},
            "spec": {"address": address, "pool": "a", "state": "Allocated", "since": "2026-01-01T00:00:00Z",
                "pod": {"namespace": "default", "name": format!("p{i}"), "uid": format!("00000000-0000-0000-0000-{i:012}"), "interface": "eth0", "node": "n1"}},
        }))
        .unwrap()
    };
    let count = 5000;
    let objects: Vec<_> = (0..count).map(object).collect();
    for flight in [1, 100] {
        let part = if flight == 1 { &objects[..200] } else { &objects[200..] };
        let start = Instant::now();
        let (params, api) = (PostParams::default(), &ips);
        stream::iter(part)
            .map(|o| api.create(&params, o))
            .buffer_unordered(flight)
            .for_each(|r| async { drop(r.unwrap()) })
            .await;
        rate(&format!("creates, {flight} in flight"), part.len(), start.elapsed());
    }
    let start = Instant::now();
    let list = ips.list(&ListParams::default().labels("ipam.spidernet.io/ippool=a")).await.unwrap();
    rate("list by label", list.items.len(), start.elapsed());
    let start = Instant::now();
    for _ in 0..100 {
        ips.list_metadata(&ListParams::default().labels("ipam.spidernet.io/ippool=none")).await.unwrap();
    }
    rate("empty lists by label", 100, start.elapsed());
    let start = Instant::now();
    let (params, api) = (&DeleteParams::default(), &ips);
    let names = objects.iter().map(|o| o.metadata.name.clone().unwrap());
    stream::iter(names)
        .map(|n| async move { api.delete(&n, params).await })
        .buffer_unordered(100)
        .for_each(|r| async { drop(r.unwrap()) })
        .await;
    rate("deletes, 100 in flight", count, start.elapsed());
}
