//! How the lists of the built-in kinds are merged: `patchStrategy` and `patchMergeKey` of the Go types.
//!
//! k8s-openapi leaves these out of its schemas, so they are kept here, for strategic merge patches and for the
//! OpenAPI documents by which `kubectl apply` computes such patches.

/// How a field is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strategy {
    /// Whether list items are merged; otherwise the list is replaced.
    pub merge: bool,
    /// Whether `$retainKeys` is meant for it.
    pub retain_keys: bool,
    /// The field that identifies an item; empty for lists of scalars.
    pub key: &'static str,
}

impl Strategy {
    /// The strategy as the OpenAPI extension writes it.
    pub fn text(self) -> &'static str {
        match (self.merge, self.retain_keys) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            _ => "retainKeys",
        }
    }
}

/// type, field, merge, retainKeys, key.
type Row = (&'static str, &'static str, bool, bool, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("Container", "env", true, false, "name"),
    ("Container", "ports", true, false, "containerPort"),
    ("Container", "volumeDevices", true, false, "devicePath"),
    ("Container", "volumeMounts", true, false, "mountPath"),
    ("ContainerStatus", "allocatedResourcesStatus", true, false, "name"),
    ("ContainerStatus", "volumeMounts", true, false, "mountPath"),
    ("DaemonSetStatus", "conditions", true, false, "type"),
    ("DeploymentSpec", "strategy", false, true, ""),
    ("DeploymentStatus", "conditions", true, false, "type"),
    ("EphemeralContainer", "env", true, false, "name"),
    ("EphemeralContainer", "ports", true, false, "containerPort"),
    ("EphemeralContainer", "volumeDevices", true, false, "devicePath"),
    ("EphemeralContainer", "volumeMounts", true, false, "mountPath"),
    ("JobStatus", "conditions", true, false, "type"),
    ("MutatingWebhook", "matchConditions", true, false, "name"),
    ("MutatingWebhookConfiguration", "webhooks", true, false, "name"),
    ("NamespaceStatus", "conditions", true, false, "type"),
    ("NodeSpec", "podCIDRs", true, false, ""),
    ("NodeStatus", "addresses", true, false, "type"),
    ("NodeStatus", "conditions", true, false, "type"),
    ("ObjectMeta", "finalizers", true, false, ""),
    ("ObjectMeta", "ownerReferences", true, false, "uid"),
    ("PersistentVolumeClaimStatus", "conditions", true, false, "type"),
    ("PodSpec", "containers", true, false, "name"),
    ("PodSpec", "ephemeralContainers", true, false, "name"),
    ("PodSpec", "hostAliases", true, false, "ip"),
    ("PodSpec", "imagePullSecrets", true, false, "name"),
    ("PodSpec", "initContainers", true, false, "name"),
    ("PodSpec", "resourceClaims", true, true, "name"),
    ("PodSpec", "schedulingGates", true, false, "name"),
    ("PodSpec", "topologySpreadConstraints", true, false, "topologyKey"),
    ("PodSpec", "volumes", true, true, "name"),
    ("PodStatus", "conditions", true, false, "type"),
    ("PodStatus", "hostIPs", true, false, "ip"),
    ("PodStatus", "podIPs", true, false, "ip"),
    ("PodStatus", "resourceClaimStatuses", true, true, "name"),
    ("ReplicaSetStatus", "conditions", true, false, "type"),
    ("ServiceAccount", "secrets", true, false, "name"),
    ("ServiceSpec", "ports", true, false, "port"),
    ("ServiceStatus", "conditions", true, false, "type"),
    ("StatefulSetStatus", "conditions", true, false, "type"),
    ("ValidatingWebhook", "matchConditions", true, false, "name"),
    ("ValidatingWebhookConfiguration", "webhooks", true, false, "name"),
];

/// The strategy of a field of a definition (`io.k8s.api.core.v1.PodSpec`, `containers`).
pub(crate) fn strategy(definition: &str, field: &str) -> Option<Strategy> {
    let type_ = super::types::short_name(definition);
    let row = ROWS.iter().find(|row| row.0 == type_ && row.1 == field)?;
    Some(Strategy { merge: row.2, retain_keys: row.3, key: row.4 })
}

#[cfg(test)]
mod tests {
    use super::super::types;
    use super::*;

    #[test]
    fn every_row_names_a_field_that_exists() {
        for (type_, field, _, _, key) in ROWS {
            let found = types::SCHEMAS.iter().filter(|(name, _)| types::short_name(name) == *type_);
            let fields: Vec<_> =
                found.map(|(_, schema)| schema["properties"][field].clone()).filter(|f| !f.is_null()).collect();
            assert!(!fields.is_empty(), "{type_}.{field}");
            assert!(key.is_empty() || fields[0]["type"] == "array", "{type_}.{field}");
        }
        assert_eq!(strategy("io.k8s.api.core.v1.PodSpec", "volumes").unwrap().text(), "merge,retainKeys");
        assert_eq!(strategy("io.k8s.api.core.v1.PodSpec", "tolerations"), None);
    }
}
