//! Admission webhooks: order, effect, refusal, failure policy.

use crate::engine::{Api, config_map, unique};
use serde_json::{Value, json};

fn hook(name: &str, api: &Api, policy: &str) -> Value {
    // Nobody listens on port 1 of the loopback: the call itself fails.
    json!({"name": format!("{name}.example.org"), "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": policy, "timeoutSeconds": 2,
        "clientConfig": {"url": "https://127.0.0.1:1/hook"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": api.namespace}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

async fn configure(api: &Api, hook: Value) -> String {
    let name = format!("contract-{}", unique());
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": name}, "webhooks": [hook]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let made = api.post(path, &body).await.ok();
    assert_eq!(made["webhooks"][0]["matchPolicy"], "Equivalent");
    format!("{path}/{name}")
}

#[tokio::test]
async fn a_webhook_that_cannot_be_called_fails_the_request_or_is_ignored() {
    let api = Api::new().await;
    let failing = configure(&api, hook("fail", &api, "Fail")).await;
    // A real server takes a moment to learn of the configuration.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut i = 0;
    let refused = loop {
        i += 1;
        let answer = api.post(&api.core("configmaps"), &config_map(&format!("a{i}"))).await;
        if answer.code != 201 {
            break answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "the webhook takes effect");
    };
    assert_eq!((refused.code, refused.refusal().1), (500, "InternalError"));
    assert!(
        refused.refusal().2.starts_with("Internal error occurred: failed calling webhook \"fail.example.org\": failed to call webhook: Post \"https://127.0.0.1:1/hook?timeout=2s\""),
        "{refused:?}"
    );
    api.delete(&failing).await.ok();
    let ignoring = configure(&api, hook("ignore", &api, "Ignore")).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while api.post(&api.core("configmaps"), &config_map("b")).await.code != 201 {
        assert!(tokio::time::Instant::now() < deadline, "the request passes a webhook whose failure is ignored");
    }
    api.delete(&ignoring).await.ok();
}

#[tokio::test]
async fn a_wrong_configuration_is_refused() {
    let api = Api::new().await;
    let mut bad = hook("bad", &api, "Fail");
    bad["clientConfig"] = json!({"url": "http://127.0.0.1:1"});
    bad["sideEffects"] = "Some".into();
    let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": format!("c-{}", unique())}, "webhooks": [bad]});
    let answer = api.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &body).await;
    let mut causes = answer.causes();
    causes.sort_unstable();
    assert_eq!(
        causes,
        [
            (
                "webhooks[0].clientConfig.url",
                "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"
            ),
            ("webhooks[0].sideEffects", "Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""),
        ]
    );
}
