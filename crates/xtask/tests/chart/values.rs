//! values.yaml, its schema and the templates say the same: no value without a schema, none without an effect that is not listed so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use serde_json::{Map, Value, json};

use crate::helm::{Rendered, file, render, try_render, yaml};

/// Everything that can be switched on together, so that each value finds what depends on it.
const EVERYTHING: &str = include_str!("everything.yaml");

/// A value that `values.yaml` does not name: upstream's set-ups pass it.
const UNNAMED: &str = "global.tuneSysctlConfig";

/// Values whose effect needs other values than [`EVERYTHING`].
const CONDITIONS: &[(&str, &str)] = &[
    ("ipam.enableIPv4", "clusterDefaultPool: {installIPv4IPPool: false}"),
    ("ipam.enableIPv6", "clusterDefaultPool: {installIPv6IPPool: false}"),
    ("spiderpoolController.tls.auto", "spiderpoolController: {tls: {method: auto}}"),
    (
        "spiderpoolController.tls.provided",
        "spiderpoolController: {tls: {method: provided, provided: {tlsCert: LS0tLS1CRUdJTiBY, tlsKey: LS0tLS1CRUdJTiBY, tlsCa: LS0tLS1CRUdJTiBY}}}",
    ),
];

/// Other values than the rules of [`other`] would take.
fn special(path: &str) -> Option<Value> {
    Some(match path {
        "multus.implementation" => json!("multinet"),
        "multus.multusCNI.log.logLevel" => json!("error"),
        "coordinator.mode" => json!("underlay"),
        "coordinator.podCIDRType" => json!("none"),
        "coordinator.hijackCIDR" => json!(["10.9.0.0/16"]),
        "coordinator.policyRoutes" => json!([{"dst": "10.8.0.0/16", "gw": "10.0.0.1"}]),
        "coordinator.vethLinkAddress" => json!("169.254.1.1"),
        "spiderpoolController.tls.method" => json!("auto"),
        "spiderpoolController.podDisruptionBudget.minAvailable" => json!("10%"),
        "spiderpoolController.tls.auto.caExpiration" => json!("73001"),
        "spiderpoolController.tls.auto.certExpiration" => json!("72999"),
        "clusterDefaultPool.ipv4Subnet" => json!("10.7.0.0/24"),
        "clusterDefaultPool.ipv6Subnet" => json!("fd07::/64"),
        "clusterDefaultPool.ipv4IPRanges" => json!(["10.7.0.9"]),
        "clusterDefaultPool.ipv6IPRanges" => json!(["fd07::9"]),
        "clusterDefaultPool.ipv4Gateway" => json!("10.7.0.1"),
        "clusterDefaultPool.ipv6Gateway" => json!("fd07::1"),
        path if path.ends_with(".httpPort") || path.ends_with(".prometheus.port") => json!(7000),
        "iaasNetworkProvider.httpRequestTimeout" => json!("40s"),
        "global.ciliumConfigMap" => json!("x/y"),
        path if path.starts_with("spiderpoolController.tls.provided.") => json!("LS0tLS1CRUdJTiBZ"),
        path if path.ends_with(".pullPolicy") => json!("Always"),
        path if path.ends_with(".digest") => json!("sha256:00"),
        path if path.ends_with(".logLevel") => json!("debug"),
        path if path.ends_with(".service.type") => json!("NodePort"),
        path if path.ends_with(".interval") => json!("7s"),
        path if path.ends_with(".extraVolumes") => json!([{"name": "v", "emptyDir": {}}]),
        path if path.ends_with(".extraVolumeMounts") => json!([{"name": "v", "mountPath": "/v"}]),
        path if path.ends_with(".extraEnv") => json!([{"name": "X", "value": "y"}]),
        path if path.ends_with(".imagePullSecrets") => json!([{"name": "pull"}]),
        path if path.ends_with(".tolerations") => json!([{"key": "k", "operator": "Exists"}]),
        _ => return None,
    })
}

/// Another value of the same type.
fn other(path: &str, value: &Value) -> Value {
    if let Some(special) = special(path) {
        return special;
    }
    match value {
        Value::Bool(flag) => json!(!flag),
        Value::Number(number) => json!(number.as_i64().unwrap() + 1),
        Value::String(text) if text.starts_with('/') => json!(format!("{text}x")),
        Value::String(_) => json!("other"),
        Value::Array(_) => json!(["other"]),
        Value::Object(_) => json!({"other": "x"}),
        Value::Null => panic!("{path} is null"),
    }
}

/// Whether an object is a value itself, and not a group of values.
fn is_leaf(path: &str) -> bool {
    const WHOLE: [&str; 7] = [
        "resources",
        "updateStrategy",
        "nodeSelector",
        "devicePluginAffinity",
        "resourceAdvertisement",
        "deviceConfig",
        "image",
    ];
    let last = path.rsplit('.').next().unwrap_or(path);
    // The image of what is not installed is one value.
    WHOLE.contains(&last) && (last != "image" || path.starts_with("rdma."))
}

/// Every value by its path.
pub fn leaves(value: &Value, path: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() && !is_leaf(path) => {
            for (key, member) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(member, &path, into);
            }
        }
        _ => drop(into.insert(path.to_owned(), value.clone())),
    }
}

fn defaults() -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    leaves(&yaml(&file("values.yaml")), "", &mut all);
    all
}

fn set(values: &mut Value, path: &str, value: Value) {
    let mut at = values;
    for key in path.split('.') {
        if !at[key].is_object() && !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}

fn at<'a>(values: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(values, |at, key| at.get(key))
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Paths below which nothing has an effect.
fn without_effect() -> Vec<String> {
    let listed: Map<String, Value> = serde_json::from_value(yaml(&file("files/without-effect.yaml"))).unwrap();
    listed.into_iter().map(|(path, _)| path).collect()
}

fn is_below(path: &str, above: &str) -> bool {
    path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('.'))
}

/// Values that only refuse when switched on: `refusals` tests them.
const REFUSED: [&str; 9] = [
    "spiderpoolController.podResourceInject.enabled",
    "ipam.enableIPConflictDetection",
    "ipam.enableGatewayDetection",
    "ipam.spiderSubnet.enable",
    "spiderpoolAgent.networkResourcePlugin.enabled",
    "spiderpoolAgent.prometheus.enabledRdmaMetric",
    "rdma.rdmaSharedDevicePlugin.install",
    "sriov.install",
    "iaasNetworkProvider.serverUrl",
];

/// What the values that a change starts from lead to; `condition` is one of [`CONDITIONS`].
struct Base {
    condition: &'static str,
    values: Value,
    objects: Vec<Value>,
}

fn bases() -> Vec<Base> {
    let conditions = std::iter::once("{}").chain(CONDITIONS.iter().map(|(_, condition)| *condition));
    conditions
        .map(|condition| {
            let mut values = yaml(EVERYTHING);
            merge(&mut values, &yaml(condition));
            let Rendered(objects) = render(&values.to_string());
            Base { condition, values, objects }
        })
        .collect()
}

/// What a change of one value does, where it does not what is said of it.
fn fault(path: &str, value: &Value, bases: &[Base], listed: &[String]) -> Option<String> {
    let condition = CONDITIONS.iter().find(|(above, _)| is_below(path, above)).map_or("{}", |(_, condition)| condition);
    let Base { values: base, objects: before, .. } = bases.iter().find(|base| base.condition == condition)?;
    let mut changed = base.clone();
    let now = at(base, path).unwrap_or(value);
    let then = other(path, now);
    if now == &then {
        return Some(format!("{path}: the test has no other value for {now}"));
    }
    set(&mut changed, path, then.clone());
    let after = match try_render(&changed.to_string()) {
        Ok(Rendered(after)) => after,
        Err(error) => return Some(format!("{path}: {then} is refused: {error}")),
    };
    let is_listed = listed.iter().any(|above| is_below(path, above));
    match (*before == after, is_listed) {
        (true, false) => {
            Some(format!("{path}: {now} -> {then} changes nothing, and is not in files/without-effect.yaml"))
        }
        (false, true) => Some(format!("{path}: {now} -> {then} has an effect, and is in files/without-effect.yaml")),
        _ => None,
    }
}

#[test]
#[ignore = "helm"]
fn every_value_has_an_effect_or_is_listed_as_without() {
    let mut all = defaults();
    all.insert(UNNAMED.to_owned(), json!(false));
    all.retain(|path, _| !REFUSED.contains(&path.as_str()));
    let (listed, bases) = (without_effect(), bases());
    let (rest, faults) = (Mutex::new(all.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((path, value)) = rest.lock().unwrap().next() else { return };
                    faults.lock().unwrap().extend(fault(&path, &value, &bases, &listed));
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_list_of_values_without_effect_names_values() {
    let all = defaults();
    for path in without_effect() {
        assert!(path == UNNAMED || all.keys().any(|value| is_below(value, &path)), "{path} is no value");
    }
}

/// Paths that the schema knows; those of free objects end with the object.
fn known(schema: &Value, root: &Value, path: &str, into: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(pointer) => root.pointer(pointer.trim_start_matches('#')).unwrap_or_else(|| panic!("{pointer}")),
        None => schema,
    };
    match schema["properties"].as_object() {
        Some(properties) => {
            assert_eq!(schema["additionalProperties"], json!(false), "{path:?}: unknown keys would pass");
            for (key, member) in properties {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                known(member, root, &path, into);
            }
        }
        None => drop(into.insert(path.to_owned())),
    }
}

#[test]
fn the_schema_knows_the_values_and_no_others() {
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let mut paths = BTreeSet::new();
    known(&schema, &schema, "", &mut paths);
    let values = yaml(&file("values.yaml"));
    for path in &paths {
        // An annotation of init's service account has no `create` beside it: the schema knows that.
        assert!(path == UNNAMED || at(&values, path).is_some(), "the schema knows {path}, values.yaml does not");
    }
    for path in defaults().keys() {
        assert!(paths.iter().any(|known| is_below(path, known)), "values.yaml has {path}, the schema does not");
    }
}
