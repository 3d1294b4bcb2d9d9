//! `apply-crds`: definitions of an older version, missing ones, foreign ones.

#![allow(clippy::unwrap_used)] // tests

mod world;

use controller::definitions::{Outcome, apply};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, api::PostParams};

const POOLS: &str = "spiderippools.spiderpool.spidernet.io";
const ATTACHMENTS: &str = "network-attachment-definitions.k8s.cni.cncf.io";

#[tokio::test]
async fn definitions_are_brought_to_this_version() {
    let (client, _server) = world::api_server().await;
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let outcomes = apply(&client).await.unwrap();
    assert!(
        outcomes.iter().all(|(name, outcome)| {
            *outcome == if name == ATTACHMENTS { Outcome::LeftAlone } else { Outcome::Unchanged }
        }),
        "{outcomes:?}"
    );
    // An older version's: a column that we gave up, and fields that it did not know.
    for name in [POOLS, ATTACHMENTS] {
        let mut old = api.get(name).await.unwrap();
        let version = &mut old.spec.versions[0];
        version.additional_printer_columns = serde_json::from_value(serde_json::json!([
            {"name": "OLD", "type": "string", "jsonPath": ".spec.old"}
        ]))
        .unwrap();
        api.replace(name, &PostParams::default(), &old).await.unwrap();
    }
    let outcomes = apply(&client).await.unwrap();
    let of = |name: &str| outcomes.iter().find(|(one, _)| one == name).unwrap().1;
    assert_eq!((of(POOLS), of(ATTACHMENTS)), (Outcome::Replaced, Outcome::LeftAlone));
    let columns = |definition: CustomResourceDefinition| {
        definition.spec.versions[0]
            .additional_printer_columns
            .clone()
            .unwrap()
            .into_iter()
            .map(|one| one.name)
            .collect::<Vec<_>>()
    };
    let pools = columns(api.get(POOLS).await.unwrap());
    assert!(pools.contains(&"ALLOCATED-IP-COUNT".to_owned()) && !pools.contains(&"OLD".to_owned()), "{pools:?}");
    assert_eq!(columns(api.get(ATTACHMENTS).await.unwrap()), ["OLD"]);
}

#[tokio::test]
async fn missing_definitions_are_made() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = apiserver::Server::open(apiserver::Options::default()).await.unwrap();
    let client = kube::Client::new(server.router(), "default");
    let outcomes = apply(&client).await.unwrap();
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Created), "{outcomes:?}");
    assert_eq!(outcomes.len(), k8s_api::all_crds().len());
}
