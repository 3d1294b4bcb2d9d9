//! Bounds of the history, and what a write expects of its definition.

use serde_json::json;

use super::*;

fn store() -> (Store, mpsc::UnboundedReceiver<Arc<Event>>) {
    let (follow, events) = mpsc::unbounded_channel();
    (Store::open(None, |_| Vec::new(), HISTORY, follow).unwrap(), events)
}

fn write(store: &str, key: &str, expect: Expect, text: &str) -> Write {
    let value = json!({"metadata": {"name": key, "uid": format!("{store}/{key}")}, "text": text});
    Write { store: store.into(), key: key.into(), expect, value, remove: false, namespace: None, definition: None }
}

#[tokio::test]
async fn the_history_of_large_objects_is_short() {
    let (store, mut events) = store();
    let big = "x".repeat(1 << 20);
    let mut version = store.write(write("/configmaps", "a", Expect::Absent, &big)).await.unwrap().version;
    store.write(write("/secrets", "small", Expect::Absent, "x")).await.unwrap();
    for _ in 0..150 {
        version = store.write(write("/configmaps", "a", Expect::Version(version), &big)).await.unwrap().version;
        while events.try_recv().is_ok() {}
    }
    let state = store.read();
    let shard = state.shard("/configmaps").unwrap();
    let states: HashMap<_, _> = shard
        .history
        .iter()
        .flat_map(|event| event.old.iter().chain([&event.new]))
        .map(|object| (object.version, object.json.len()))
        .collect();
    let bytes: usize = states.values().sum();
    assert!(bytes <= HISTORY_BYTES + 2 * big.len(), "{bytes} bytes");
    assert!(shard.history.len() > 60, "{} events", shard.history.len());
    assert_eq!(shard.compacted + 1, shard.history[0].version);
    assert_eq!(shard.held, shard.history.iter().map(|event| event.held()).sum::<usize>());
    assert_eq!(state.shard("/secrets").unwrap().compacted, 0, "the others keep theirs");
}

#[tokio::test]
async fn a_creation_that_comes_after_the_deletion_of_its_definition_is_refused() {
    let (store, _events) = store();
    let name = "widgets.example.org";
    let made = async |expect: Expect, key: &str| {
        let guarded = Write { definition: Some(name.into()), ..write("example.org/widgets", key, expect, "x") };
        store.write(guarded).await
    };
    assert_eq!(made(Expect::Absent, "a").await.unwrap_err(), Refused::NoDefinition);
    let definition = store.write(write(DEFINITIONS, name, Expect::Absent, "x")).await.unwrap();
    let widget = made(Expect::Absent, "a").await.unwrap();
    // Both are queued before either is decided.
    let mut marked = write(DEFINITIONS, name, Expect::Version(definition.version), "x");
    marked.value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let (marked, refused) = tokio::join!(store.write(marked), made(Expect::Absent, "b"));
    assert_eq!((marked.unwrap().deleting, refused.unwrap_err()), (true, Refused::DefinitionTerminating));
    let update = write("example.org/widgets", "a", Expect::Version(widget.version), "y");
    store.write(update).await.expect("what is there may still be changed");
}
