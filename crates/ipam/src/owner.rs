//! The top controller of a pod (upstream's contract: ipam, §3.3).

/// A controller ownerReference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerRef {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `name`.
    pub name: String,
    /// `uid`.
    pub uid: String,
}

impl OwnerRef {
    /// A reference.
    pub fn new(api_version: &str, kind: &str, name: &str, uid: &str) -> Self {
        Self { api_version: api_version.into(), kind: kind.into(), name: name.into(), uid: uid.into() }
    }

    /// API group, `""` for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// API version without the group.
    pub fn version(&self) -> &str {
        self.api_version.split_once('/').map_or(self.api_version.as_str(), |(_, version)| version)
    }
}

/// The controller at the top of a pod's ownership, with the namespace of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopController {
    /// The object.
    pub owner: OwnerRef,
    /// Namespace of pod and controller.
    pub namespace: String,
}

/// The next step of the walk from a pod to its top controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This is the top.
    Top(OwnerRef),
    /// Look at the controller ownerReference of this object, then call [`above`] with it. A missing object is an error.
    Fetch(OwnerRef),
}

/// First step: from a pod with its controller ownerReference, if it has one.
///
/// A pod without controller is its own top. Owners outside `v1`, `apps/v1` and `batch/v1` are third party and the
/// top as they are; so is every kind of these groups that is not listed in the table of the specification.
pub fn first(pod: OwnerRef, controller: Option<OwnerRef>) -> Step {
    let Some(owner) = controller else { return Step::Top(pod) };
    match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("apps/v1", "ReplicaSet" | "DaemonSet" | "StatefulSet") | ("batch/v1", "Job") => Step::Fetch(owner),
        _ => Step::Top(owner),
    }
}

/// Second step: `object` was fetched and this is its controller ownerReference.
///
/// A ReplicaSet yields its Deployment, a Job its CronJob; anything else is the top itself.
pub fn above(object: OwnerRef, controller: Option<OwnerRef>) -> OwnerRef {
    let passes = |upper: &OwnerRef| match object.kind.as_str() {
        "ReplicaSet" => upper.api_version == "apps/v1" && upper.kind == "Deployment",
        "Job" => upper.api_version == "batch/v1" && upper.kind == "CronJob",
        _ => false,
    };
    match controller.filter(passes) {
        Some(upper) => upper,
        None => object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(api: &str, kind: &str) -> OwnerRef {
        OwnerRef::new(api, kind, "n", "u")
    }

    #[test]
    fn the_top_controller_follows_the_table() {
        let pod = owner("v1", "Pod");
        let rows = [
            (None, Step::Top(pod.clone())),
            (Some(owner("apps.kruise.io/v1", "StatefulSet")), Step::Top(owner("apps.kruise.io/v1", "StatefulSet"))),
            (
                Some(owner("kubevirt.io/v1", "VirtualMachineInstance")),
                Step::Top(owner("kubevirt.io/v1", "VirtualMachineInstance")),
            ),
            (Some(owner("v1", "Node")), Step::Top(owner("v1", "Node"))),
            (Some(owner("apps/v1", "Deployment")), Step::Top(owner("apps/v1", "Deployment"))),
            (Some(owner("apps/v1", "ReplicaSet")), Step::Fetch(owner("apps/v1", "ReplicaSet"))),
            (Some(owner("apps/v1", "DaemonSet")), Step::Fetch(owner("apps/v1", "DaemonSet"))),
            (Some(owner("apps/v1", "StatefulSet")), Step::Fetch(owner("apps/v1", "StatefulSet"))),
            (Some(owner("batch/v1", "Job")), Step::Fetch(owner("batch/v1", "Job"))),
        ];
        for (controller, expected) in rows {
            assert_eq!(first(pod.clone(), controller.clone()), expected, "{controller:?}");
        }
    }

    #[test]
    fn only_a_native_owner_stands_above_replica_set_and_job() {
        let rows = [
            ("apps/v1", "ReplicaSet", Some(owner("apps/v1", "Deployment")), "Deployment"),
            ("apps/v1", "ReplicaSet", Some(owner("argoproj.io/v1alpha1", "Rollout")), "ReplicaSet"),
            ("apps/v1", "ReplicaSet", None, "ReplicaSet"),
            ("batch/v1", "Job", Some(owner("batch/v1", "CronJob")), "CronJob"),
            ("batch/v1", "Job", Some(owner("batch/v1beta1", "CronJob")), "Job"),
            ("apps/v1", "StatefulSet", Some(owner("x/v1", "Y")), "StatefulSet"),
        ];
        for (api, kind, controller, expected) in rows {
            assert_eq!(above(owner(api, kind), controller.clone()).kind, expected, "{kind} under {controller:?}");
        }
    }

    #[test]
    fn group_and_version_are_split() {
        assert_eq!((owner("apps/v1", "X").group(), owner("apps/v1", "X").version()), ("apps", "v1"));
        assert_eq!((owner("v1", "X").group(), owner("v1", "X").version()), ("", "v1"));
    }
}
