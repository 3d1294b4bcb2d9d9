//! Built-in kinds: their published types, defaults and checks.

use crate::schema::cause::Cause;
use crate::schema::meta::{self, NameForm};
use serde_json::Value;

mod defaults;
pub(crate) mod merge_keys;
pub(crate) mod types;
mod validate;

/// One built-in kind.
#[derive(Debug)]
pub(crate) struct Builtin {
    group: &'static str,
    kind: &'static str,
    /// Name of its type among the definitions, `io.k8s.api.core.v1.Pod`.
    definition: String,
    namespaced: bool,
    names: NameForm,
}

/// group, package of the type, kind, namespaced, form of names.
type Row = (&'static str, &'static str, &'static str, bool, NameForm);

#[rustfmt::skip]
const KINDS: &[Row] = &[
    ("", "io.k8s.api.core.v1", "Namespace", false, NameForm::Label),
    ("", "io.k8s.api.core.v1", "Node", false, NameForm::Subdomain),
    ("", "io.k8s.api.core.v1", "Pod", true, NameForm::Subdomain),
    ("", "io.k8s.api.core.v1", "Service", true, NameForm::Label),
    ("", "io.k8s.api.core.v1", "Endpoints", true, NameForm::Subdomain),
    ("", "io.k8s.api.core.v1", "ConfigMap", true, NameForm::Subdomain),
    ("", "io.k8s.api.core.v1", "Secret", true, NameForm::Subdomain),
    ("", "io.k8s.api.core.v1", "ServiceAccount", true, NameForm::Subdomain),
    ("", "io.k8s.api.core.v1", "Event", true, NameForm::Subdomain),
    ("apps", "io.k8s.api.apps.v1", "DaemonSet", true, NameForm::Subdomain),
    ("apps", "io.k8s.api.apps.v1", "Deployment", true, NameForm::Subdomain),
    ("apps", "io.k8s.api.apps.v1", "ReplicaSet", true, NameForm::Subdomain),
    ("apps", "io.k8s.api.apps.v1", "StatefulSet", true, NameForm::Subdomain),
    ("batch", "io.k8s.api.batch.v1", "Job", true, NameForm::Subdomain),
    ("coordination.k8s.io", "io.k8s.api.coordination.v1", "Lease", true, NameForm::Subdomain),
    ("discovery.k8s.io", "io.k8s.api.discovery.v1", "EndpointSlice", true, NameForm::Subdomain),
    ("events.k8s.io", "io.k8s.api.events.v1", "Event", true, NameForm::Subdomain),
    ("admissionregistration.k8s.io", "io.k8s.api.admissionregistration.v1", "MutatingWebhookConfiguration", false, NameForm::Subdomain),
    ("admissionregistration.k8s.io", "io.k8s.api.admissionregistration.v1", "ValidatingWebhookConfiguration", false, NameForm::Subdomain),
    ("apiextensions.k8s.io", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1", "CustomResourceDefinition", false, NameForm::Subdomain),
];

/// The name of a built-in kind's type among the definitions.
pub(crate) fn definition(group: &str, kind: &str) -> Option<String> {
    KINDS.iter().find(|row| row.0 == group && row.2 == kind).map(|row| format!("{}.{}", row.1, row.2))
}

impl Builtin {
    /// The kind, if it is served.
    pub fn find(group: &str, version: &str, kind: &str) -> Option<Self> {
        let row = KINDS.iter().find(|row| version == "v1" && row.0 == group && row.2 == kind)?;
        Some(Self {
            group: row.0,
            kind: row.2,
            definition: format!("{}.{}", row.1, row.2),
            namespaced: row.3,
            names: row.4,
        })
    }

    /// Whether the body decodes into the kind's type.
    pub fn check_types(&self, object: &Value) -> Result<(), String> {
        types::check(&self.definition, object)
    }

    /// Drops what the type does not have.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        types::prune(&self.definition, object)
    }

    /// Fills in the kind's defaults.
    pub fn default(&self, object: &mut Value) {
        defaults::apply(self.group, self.kind, object);
    }

    /// Checks a new object or an update.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        match old {
            None => meta::on_create(&new["metadata"], self.namespaced, self.names, &mut causes),
            Some(old) => meta::on_update(&new["metadata"], &old["metadata"], !self.unconditional_update(), &mut causes),
        }
        validate::object(self.group, self.kind, new, old, &mut causes);
        causes
    }

    /// Checks a write to the status subresource.
    pub fn validate_status(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        meta::on_update(&new["metadata"], &old["metadata"], false, &mut causes);
        let ingress = &new["status"]["loadBalancer"]["ingress"];
        if self.kind == "Service"
            && new["spec"]["type"] != "LoadBalancer"
            && ingress.as_array().is_some_and(|l| !l.is_empty())
        {
            let detail = "may only be used when `spec.type` is 'LoadBalancer'";
            causes.push(Cause::forbidden("status.loadBalancer.ingress", detail));
        }
        causes
    }

    /// Leases, definitions and webhook configurations demand a resourceVersion.
    pub fn unconditional_update(&self) -> bool {
        !matches!(
            self.kind,
            "Lease" | "CustomResourceDefinition" | "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration"
        )
    }
}
