//! Whether a controller is at work: somebody holds its Lease, and renews it.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};

use crate::failure::{Failure, bounded, optional};

/// Whether the Lease of the namespace is held now. Judged by the clock of this machine: an answer for which nobody is harmed if it is wrong.
pub async fn is_at_work(client: &Client, namespace: &str) -> Result<bool, Failure> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = optional(bounded(api.get(k8s_api::access::LEASE)).await)?;
    Ok(lease.and_then(|lease| lease.spec).is_some_and(|spec| is_held(&spec, Timestamp::now())))
}

fn is_held(lease: &LeaseSpec, now: Timestamp) -> bool {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let duration = SignedDuration::from_secs(lease.lease_duration_seconds.unwrap_or(0).into());
    let until = lease.renew_time.as_ref().and_then(|renewed| renewed.0.checked_add(duration).ok());
    !holder.is_empty() && until.is_some_and(|until| now < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_by_who_renews_it() {
        let now: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        for (lease, expected) in [
            (serde_json::json!({}), false),
            (serde_json::json!({"holderIdentity": "a"}), false),
            (serde_json::json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:19.000000Z"}), false),
            (
                serde_json::json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:06.000000Z", "leaseDurationSeconds": 15}),
                true,
            ),
            (
                serde_json::json!({"holderIdentity": "", "renewTime": "2026-01-01T00:00:06.000000Z", "leaseDurationSeconds": 15}),
                false,
            ),
            (
                serde_json::json!({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:05.000000Z", "leaseDurationSeconds": 15}),
                false,
            ),
        ] {
            let spec: LeaseSpec = serde_json::from_value(lease.clone()).unwrap();
            assert_eq!(is_held(&spec, now), expected, "{lease}");
        }
    }
}
