//! Pods out of templates, and selectors.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

/// A short name for a template: the same for the same content. (FNV-1a over its JSON; the letters are those that Kubernetes uses.)
pub fn hash(template: &PodTemplateSpec) -> String {
    let text = serde_json::to_vec(template).expect("a template is plain data");
    let mut value = text
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let letters = b"bcdfghjklmnpqrstvwxz2456789";
    (0..10)
        .map(|_| {
            let letter = letters[(value % letters.len() as u64) as usize];
            value /= letters.len() as u64;
            char::from(letter)
        })
        .collect()
}

/// A pod out of the owner's template.
pub fn pod<K: Resource<DynamicType = ()> + ResourceExt>(
    owner: &K,
    template: &PodTemplateSpec,
    suffix: &str,
    extra: &[(&str, &str)],
) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    labels.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{}-{suffix}", owner.name_any())),
            generate_name: Some(format!("{}-", owner.name_any())),
            namespace: owner.namespace(),
            labels: Some(labels),
            annotations: metadata.annotations,
            owner_references: Some(vec![owned_by(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The reference of what `owner` controls.
pub fn owned_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    owner.controller_owner_ref(&()).expect("an object out of the API has name and UID")
}

/// The UID of the controlling owner.
pub fn controller_uid(metadata: &ObjectMeta) -> Option<&str> {
    metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.as_str())
}

/// Whether a selector's plain labels and expressions choose these labels.
pub fn selects(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let plain = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let values = expression.values.as_deref().unwrap_or_default();
        let value = label(&expression.key);
        match expression.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    plain && expressions
}

/// Five letters that no other pod is likely to have, for names.
pub fn suffix() -> String {
    let mut bytes = [0; 5];
    // Without random bytes the names collide, the API server says so, and the next plan tries again.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    let letters = b"bcdfghjklmnpqrstvwxz2456789";
    bytes.iter().map(|byte| char::from(letters[usize::from(*byte) % letters.len()])).collect()
}
