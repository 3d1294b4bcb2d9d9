//! Every rule of admission (upstream's contract: ipam, §10; controller, §8.3, §8.4, §9.2, §10.1), through the API server and over TLS: code,
//! reason, field and the key words of the text. Each table has one row per rule or variant of it.

#![allow(clippy::unwrap_used)] // tests

mod configuration;
mod coordinators;
mod networks;
mod pools;
mod reserved;
mod size;
mod updates;
#[path = "../world/mod.rs"]
mod world;

use kube::core::Status;
use serde_json::{Value, json};

/// The refusal in an outcome.
fn refusal<T: std::fmt::Debug>(what: &str, outcome: kube::Result<T>) -> Box<Status> {
    match outcome {
        Err(kube::Error::Api(status)) => status,
        other => panic!("{what}: expected a refusal, got {other:?}"),
    }
}

/// Asserts a 422 whose only cause names `field`, with `words` in its text and in the message.
fn assert_invalid(what: &str, status: &Status, kind: &str, field: &str, words: &str) {
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{what}: {status:?}");
    // Beside a cause of the schema the API server says that it did not go on to the rules.
    let causes = status.details.as_ref().unwrap().causes.iter().filter(|cause| cause.field != "<nil>");
    let causes: Vec<_> = causes.collect();
    assert_eq!(causes.len(), 1, "{what}: {causes:?}");
    assert_eq!((causes[0].reason.as_str(), causes[0].field.as_str()), (kind, field), "{what}: {causes:?}");
    assert!(causes[0].message.contains(words), "{what}: {:?} lacks {words:?}", causes[0].message);
    assert!(status.message.contains(words) && status.message.contains(field), "{what}: {}", status.message);
}

/// Asserts a refusal as a whole.
fn assert_refused(what: &str, status: &Status, (code, reason): (u16, &str), words: &str) {
    assert_eq!((status.code, status.reason.as_str()), (code, reason), "{what}: {status:?}");
    assert!(status.message.contains(words), "{what}: {:?} lacks {words:?}", status.message);
}

fn pool(changes: Value) -> Value {
    let mut spec = json!({"subnet": "10.9.0.0/24", "ips": ["10.9.0.10-10.9.0.20"], "gateway": "10.9.0.1"});
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"spec": spec})
}

const INVALID: &str = "FieldValueInvalid";
const FORBIDDEN: &str = "FieldValueForbidden";
const REQUIRED: &str = "FieldValueRequired";
const UNSUPPORTED: &str = "FieldValueNotSupported";
