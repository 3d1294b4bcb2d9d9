//! Whether a pod lives (upstream's contract: ipam, §3.4).

/// What liveness depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodPhase {
    /// Whether `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase`.
    pub phase: String,
    /// `status.reason`.
    pub reason: String,
    /// `spec.restartPolicy`; empty counts as the API's default `Always`.
    pub restart_policy: String,
}

/// Whether the pod lives: it exists, is not terminating, and has not come to an end.
///
/// Not alive: no object; terminating; `Succeeded` unless restarted always; `Failed` when never restarted or evicted.
pub fn is_alive(pod: Option<&PodPhase>) -> bool {
    let Some(pod) = pod.filter(|pod| !pod.terminating) else { return false };
    match pod.phase.as_str() {
        "Succeeded" => matches!(pod.restart_policy.as_str(), "Always" | ""),
        "Failed" => pod.restart_policy != "Never" && pod.reason != "Evicted",
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liveness_follows_the_table() {
        let rows = [
            (false, "Running", "", "Always", true),
            (false, "Pending", "", "Never", true),
            (false, "Unknown", "", "Never", true),
            (true, "Running", "", "Always", false),
            (false, "Succeeded", "", "Always", true),
            (false, "Succeeded", "", "", true),
            (false, "Succeeded", "", "OnFailure", false),
            (false, "Succeeded", "", "Never", false),
            (false, "Failed", "", "Always", true),
            (false, "Failed", "", "OnFailure", true),
            (false, "Failed", "", "Never", false),
            (false, "Failed", "Evicted", "Always", false),
        ];
        assert!(!is_alive(None));
        for (terminating, phase, reason, restart_policy, alive) in rows {
            let pod = PodPhase {
                terminating,
                phase: phase.into(),
                reason: reason.into(),
                restart_policy: restart_policy.into(),
            };
            assert_eq!(is_alive(Some(&pod)), alive, "{pod:?}");
        }
    }
}
