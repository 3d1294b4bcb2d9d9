//! DaemonSet, Deployment, ReplicaSet, StatefulSet, Job.

use super::{Cause, Value, choice, immutable, meta, not_negative, pods, selectors, text};

/// Checks a workload.
pub(super) fn workload(kind: &str, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "parallelism", "completions", "backoffLimit"] {
        not_negative(format!("spec.{field}"), &spec[field], causes);
    }
    if kind == "Job" {
        job(new, old, causes);
        return;
    }
    selector(kind, spec, causes);
    template(kind, &spec["template"], causes);
    match kind {
        "Deployment" => deployment_strategy(&spec["strategy"], causes),
        "DaemonSet" => daemon_set_strategy(&spec["updateStrategy"], causes),
        "StatefulSet" => stateful_set(spec, causes),
        _ => {}
    }
    if let Some(old) = old {
        if kind == "StatefulSet" {
            stateful_set_update(spec, &old["spec"], causes);
        } else {
            immutable("spec.selector", &spec["selector"], &old["spec"]["selector"], causes);
        }
    }
}

fn selector(kind: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let selector = &spec["selector"];
    let mismatch = || {
        let labels = &spec["template"]["metadata"]["labels"];
        let detail = "`selector` does not match template `labels`";
        Cause::invalid("spec.template.metadata.labels", labels, detail)
    };
    if selector.is_null() {
        if kind != "DaemonSet" {
            causes.push(Cause::required("spec.selector", ""));
        }
        causes.push(mismatch());
        return;
    }
    selectors::check("spec.selector", selector, causes);
    if selectors::is_empty(selector) {
        causes.push(Cause::invalid(
            "spec.selector",
            selector,
            format!("empty selector is invalid for {}", kind.to_lowercase()),
        ));
    } else if !selectors::selects(selector, &spec["template"]["metadata"]["labels"]) {
        causes.push(mismatch());
    }
}

fn template(kind: &str, template: &Value, causes: &mut Vec<Cause>) {
    meta::labels("spec.template.labels", template["metadata"]["labels"].as_object(), causes);
    pods::spec("spec.template.spec", &template["spec"], causes);
    let policy = &template["spec"]["restartPolicy"];
    if ["OnFailure", "Never"].contains(&policy.as_str().unwrap_or_default()) {
        causes.push(Cause::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let set = if kind == "Deployment" { "ReplicaSet" } else { kind };
        let detail = format!("activeDeadlineSeconds in {set} is not Supported");
        causes.push(Cause::forbidden("spec.template.spec.activeDeadlineSeconds", detail));
    }
}

/// Whether an int-or-percent is zero.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.strip_suffix('%').and_then(|n| n.parse::<u64>().ok()) == Some(0),
        other => other.as_i64().unwrap_or(0) == 0,
    }
}

fn int_or_percent(path: &str, value: &Value, causes: &mut Vec<Cause>) {
    let percent =
        |text: &str| text.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match value {
        Value::String(text) if !percent(text) => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            causes.push(Cause::invalid_text(path, text, detail));
        }
        other => not_negative(path.to_owned(), other, causes),
    }
}

fn deployment_strategy(strategy: &Value, causes: &mut Vec<Cause>) {
    let rolling = &strategy["rollingUpdate"];
    match text(strategy, "type") {
        "Recreate" if rolling.is_object() => {
            causes.push(Cause::forbidden(
                "spec.strategy.rollingUpdate",
                "may not be specified when strategy `type` is 'Recreate'",
            ));
        }
        "RollingUpdate" if rolling.is_null() => {
            let detail = "this should be defaulted and never be nil";
            causes.push(Cause::required("spec.strategy.rollingUpdate", detail));
        }
        "RollingUpdate" => {
            let path = "spec.strategy.rollingUpdate";
            int_or_percent(&format!("{path}.maxUnavailable"), &rolling["maxUnavailable"], causes);
            int_or_percent(&format!("{path}.maxSurge"), &rolling["maxSurge"], causes);
            if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
                let detail = "may not be 0 when `maxSurge` is 0";
                causes.push(Cause::invalid(format!("{path}.maxUnavailable"), &rolling["maxUnavailable"], detail));
            }
        }
        _ => choice("spec.strategy.type".into(), &strategy["type"], &["Recreate", "RollingUpdate"], causes),
    }
}

fn daemon_set_strategy(strategy: &Value, causes: &mut Vec<Cause>) {
    let (path, rolling) = ("spec.updateStrategy.rollingUpdate", &strategy["rollingUpdate"]);
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => causes.push(Cause::required(path, "")),
        "RollingUpdate" => {
            int_or_percent(&format!("{path}.maxUnavailable"), &rolling["maxUnavailable"], causes);
            int_or_percent(&format!("{path}.maxSurge"), &rolling["maxSurge"], causes);
            match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
                (true, true) => {
                    causes.push(Cause::required(format!("{path}.maxUnavailable"), "cannot be 0 when maxSurge is 0"))
                }
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    causes.push(Cause::invalid(format!("{path}.maxSurge"), &rolling["maxSurge"], detail));
                }
                _ => {}
            }
        }
        _ => choice("spec.updateStrategy.type".into(), &strategy["type"], &["RollingUpdate", "OnDelete"], causes),
    }
}

fn stateful_set(spec: &Value, causes: &mut Vec<Cause>) {
    let policy = text(spec, "podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy) {
        causes.push(Cause::invalid_text("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'"));
    }
    let strategy = &spec["updateStrategy"];
    match text(strategy, "type") {
        "RollingUpdate" => {
            not_negative(
                "spec.updateStrategy.rollingUpdate.partition".into(),
                &strategy["rollingUpdate"]["partition"],
                causes,
            );
        }
        "OnDelete" if strategy["rollingUpdate"].is_object() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            causes.push(Cause::invalid("spec.updateStrategy.rollingUpdate", &strategy["rollingUpdate"], detail));
        }
        "OnDelete" => {}
        _ => causes.push(Cause::invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

fn stateful_set_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |spec: &Value| {
        let mut map = spec.as_object().cloned().unwrap_or_default();
        map.retain(|key, _| !FREE.contains(&key.as_str()));
        map
    };
    if fixed(new) != fixed(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                      'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        causes.push(Cause::forbidden("spec", detail));
    }
}

fn job(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    pods::spec("spec.template.spec", &spec["template"]["spec"], causes);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    match policy.as_str().unwrap_or_default() {
        "OnFailure" | "Never" => {}
        "Always" | "" => {
            causes.push(Cause::required("spec.template.spec.restartPolicy", "valid values: \"OnFailure\", \"Never\""))
        }
        _ => causes.push(Cause::not_supported("spec.template.spec.restartPolicy", policy, &["OnFailure", "Never"])),
    }
    if spec["selector"].is_object() {
        selectors::check("spec.selector", &spec["selector"], causes);
    }
    if let Some(old) = old {
        for field in ["completions", "selector", "completionMode"] {
            immutable(&format!("spec.{field}"), &spec[field], &old["spec"][field], causes);
        }
        if old["spec"]["suspend"] != true {
            immutable("spec.template", &spec["template"], &old["spec"]["template"], causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(kind: &str, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        change(&mut object);
        super::super::super::defaults::apply("apps", kind, &mut object);
        let mut causes = Vec::new();
        workload(kind, &object, None, &mut causes);
        causes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn selectors_must_match_the_template() {
        for kind in ["DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"] {
            assert_eq!(texts(kind, |_| {}), [""; 0], "{kind}");
            assert_eq!(
                texts(kind, |o| o["spec"]["template"]["metadata"]["labels"] = json!({"a": "c"})),
                [
                    "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
                ]
            );
            let empty = texts(kind, |o| o["spec"]["selector"] = json!({}));
            assert_eq!(
                empty,
                [format!("spec.selector: Invalid value: {{}}: empty selector is invalid for {}", kind.to_lowercase())]
            );
        }
        assert_eq!(
            texts("DaemonSet", |o| o["spec"]["template"]["spec"]["restartPolicy"] = json!("Never")),
            ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
        );
    }

    #[test]
    fn strategies_must_leave_room_to_move() {
        let zero = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}});
        assert_eq!(
            texts("Deployment", |o| o["spec"]["strategy"] = zero.clone()),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
        );
        assert_eq!(
            texts("DaemonSet", |o| o["spec"]["updateStrategy"] = zero),
            ["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]
        );
        assert_eq!(
            texts("Deployment", |o| o["spec"]["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}})),
            ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]
        );
    }
}
