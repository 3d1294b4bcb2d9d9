//! Defects that upstream's chart has, each with the test that it is not here.

use serde_json::{Value, json};

use crate::helm::{
    Rendered, container, containers, env, file, pod, render, root, texts, try_container, try_render_for,
};

fn volume<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    pod(object)["volumes"].as_array()?.iter().find(|volume| volume["name"] == name)
}

fn mount<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    container["volumeMounts"].as_array()?.iter().find(|mount| mount["name"] == name)
}

#[test]
#[ignore = "helm"]
fn the_surplus_of_automatic_pools_has_the_key_that_is_read() {
    assert_eq!(render("{}").conf()["clusterSubnetAutoPoolDefaultRedundantIPNumber"], json!(0));
}

#[test]
#[ignore = "helm"]
fn extra_volumes_and_mounts_are_where_they_belong() {
    let extra = "extraVolumes: [{name: v, emptyDir: {}}], extraVolumeMounts: [{name: v, mountPath: /v}]";
    let all = render(&format!(
        "{{spiderpoolAgent: {{{extra}}}, spiderpoolController: {{{extra}}}, multus: {{multusCNI: {{{}}}}}}}",
        extra.replace("name: v", "name: w")
    ));
    for (object, main) in [(all.agent(), "spiderpool-agent"), (all.controller(), "spiderpool-controller")] {
        assert_eq!(volume(object, "v"), Some(&json!({"name": "v", "emptyDir": {}})));
        assert_eq!(mount(container(object, main), "v"), Some(&json!({"name": "v", "mountPath": "/v"})));
    }
    assert!(volume(all.agent(), "w").is_some());
    assert!(mount(container(all.agent(), "multus-cni"), "w").is_some());
}

#[test]
#[ignore = "helm"]
fn security_contexts_arguments_and_names_are_rendered() {
    let more = "extraArgs: [--a, --b], securityContext: {runAsUser: 7}";
    let all = render(&format!(
        "{{spiderpoolAgent: {{{more}}}, spiderpoolInit: {{{more}}}, spiderpoolController: {{{more}, tls: {{method: certmanager, \
         certmanager: {{issuerName: i, extraDnsNames: [a.b], extraIPAddresses: [10.0.0.1]}}}}}}}}"
    ));
    for (object, main) in [
        (all.agent(), "spiderpool-agent"),
        (all.controller(), "spiderpool-controller"),
        (all.init(), "spiderpool-init"),
    ] {
        let container = container(object, main);
        assert_eq!(container["securityContext"]["runAsUser"], json!(7), "{main}");
        assert!(texts(&container["args"]).ends_with(&["--a", "--b"]), "{main}");
    }
    let certificate = all.get("Certificate", "spiderpool-controller-server-certs");
    assert!(texts(&certificate["spec"]["dnsNames"]).contains(&"a.b"));
    assert_eq!(certificate["spec"]["ipAddresses"], json!(["10.0.0.1"]));
}

#[test]
#[ignore = "helm"]
fn variables_and_logs_of_init_and_multus_are_rendered() {
    let all = render(
        "{spiderpoolInit: {extraEnv: [{name: X, value: why}]}, multus: {multusCNI: {extraEnv: [{name: X, value: why}], \
         securityContext: {privileged: true}, log: {logLevel: error, logFile: /var/log/m.log}}}}",
    );
    assert_eq!(env(container(all.init(), "spiderpool-init"), "X"), Some("why"));
    let multus = container(all.agent(), "multus-cni");
    assert_eq!(env(multus, "X"), Some("why"));
    assert_eq!(multus["securityContext"]["privileged"], json!(true));
    let args = texts(&multus["args"]);
    assert!(args.contains(&"--log-level=error") && args.contains(&"--log-file=/var/log/m.log"), "{args:?}");
}

#[test]
#[ignore = "helm"]
fn a_variable_of_the_user_replaces_ours_and_is_not_doubled() {
    let all = render("spiderpoolAgent: {extraEnv: [{name: SPIDERPOOL_LOG_LEVEL, value: debug}]}");
    let agent = container(all.agent(), "spiderpool-agent");
    let named = agent["env"].as_array().unwrap().iter().filter(|one| one["name"] == "SPIDERPOOL_LOG_LEVEL");
    assert_eq!(named.map(|one| one["value"].as_str().unwrap()).collect::<Vec<_>>(), ["debug"]);
}

#[test]
#[ignore = "helm"]
fn the_side_container_follows_the_name_of_the_config_map() {
    let all = render("global: {configName: other}");
    all.get("ConfigMap", "other");
    let multus = container(all.agent(), "multus-cni");
    let variable =
        multus["env"].as_array().unwrap().iter().find(|one| one["name"] == "MULTUS_CLUSTER_NETWORK").unwrap();
    assert_eq!(variable["valueFrom"]["configMapKeyRef"]["name"], "other");
    assert_eq!(volume(all.agent(), "config").unwrap()["configMap"]["name"], "other");
}

#[test]
#[ignore = "helm"]
fn what_removes_files_has_mounted_where_they_are() {
    assert!(try_container(render("{}").agent(), "uninstall").is_none());
    let all = render("{multus: {multusCNI: {uninstall: true}}, plugins: {uninstall: true}}");
    let uninstall = container(all.agent(), "uninstall");
    for (flag, volume) in [("--plugins-dir=", "cni-bin"), ("--cni-dir=", "cni-conf")] {
        let args = texts(&uninstall["args"]);
        let path = args.iter().find_map(|arg| arg.strip_prefix(flag)).unwrap_or_else(|| panic!("{flag}: {args:?}"));
        assert_eq!(mount(uninstall, volume).unwrap()["mountPath"], path);
    }
    assert!(
        containers(all.agent()).iter().all(|container| container["lifecycle"].is_null()),
        "restarts would run it too"
    );
}

#[test]
#[ignore = "helm"]
fn plugins_are_installed_where_the_runtime_looks() {
    assert!(try_container(render("{}").agent(), "install-plugins").is_none());
    let all = render("{global: {cniBinHostPath: /usr/libexec/cni}, plugins: {installCNI: true}}");
    assert_eq!(volume(all.agent(), "cni-bin").unwrap()["hostPath"]["path"], "/usr/libexec/cni");
    for name in ["install", "install-plugins", "install-multus"] {
        assert_eq!(mount(container(all.agent(), name), "cni-bin").unwrap()["mountPath"], "/host/opt/cni/bin", "{name}");
    }
    assert!(texts(&container(all.agent(), "multus-cni")["args"]).contains(&"--host-bin-dir=/usr/libexec/cni"));
}

/// Host of the probes: `null` means the pod's own address.
fn probed(object: &Value, name: &str) -> Vec<Value> {
    ["startupProbe", "livenessProbe", "readinessProbe"]
        .map(|probe| {
            let get = &container(object, name)[probe]["httpGet"];
            assert!(get["path"].as_str().unwrap().starts_with("/v1/runtime/"), "{name} {probe}");
            get["host"].clone()
        })
        .to_vec()
}

#[test]
#[ignore = "helm"]
fn who_only_waits_is_not_restarted() {
    // What `startup` and `liveness` mean is the processes' own: `daemon::health`. Readiness restarts nothing.
    for values in ["{}", "{spiderpoolController: {hostnetwork: false}}"] {
        let all = render(values);
        for (object, name) in [(all.agent(), "spiderpool-agent"), (all.controller(), "spiderpool-controller")] {
            for kind in ["startup", "liveness", "readiness"] {
                let probe = &container(object, name)[format!("{kind}Probe")];
                assert_eq!(probe["httpGet"]["path"], format!("/v1/runtime/{kind}"), "{name}: {probe}");
            }
        }
    }
}

#[test]
#[ignore = "helm"]
fn probes_ask_where_the_process_listens() {
    let on_node = render("{}");
    assert_eq!(
        probed(on_node.controller(), "spiderpool-controller"),
        [json!("127.0.0.1"), json!("127.0.0.1"), json!("127.0.0.1")]
    );
    let in_pod = render("spiderpoolController: {hostnetwork: false}");
    assert!(probed(in_pod.controller(), "spiderpool-controller").iter().all(Value::is_null));
    assert!(pod(in_pod.controller())["hostNetwork"].is_null());
    let six = render("ipam: {enableIPv4: false}");
    assert_eq!(probed(six.agent(), "spiderpool-agent")[0], json!("::1"));
}

#[test]
#[ignore = "helm"]
fn labels_of_monitors_rules_and_dashboard_are_their_own() {
    let on = |labels: &str| {
        format!(
            "prometheus: {{enabled: true, serviceMonitor: {{install: true, labels: {{l: {labels}m}}}}, prometheusRule: {{install: true, labels: {{l: {labels}r}}}}}}"
        )
    };
    let all = render(&format!(
        "{{grafanaDashboard: {{install: true, labels: {{l: g}}, allowCrossNamespaceImport: false}}, spiderpoolAgent: {{{}}}, spiderpoolController: {{{}}}}}",
        on("a"),
        on("c")
    ));
    let label = |kind: &str, name: &str| all.get(kind, name)["metadata"]["labels"]["l"].clone();
    assert_eq!(label("ServiceMonitor", "spiderpool-agent"), "am");
    assert_eq!(label("ServiceMonitor", "spiderpool-controller"), "cm");
    assert_eq!(label("PrometheusRule", "spiderpool-agent"), "ar");
    assert_eq!(label("PrometheusRule", "spiderpool-controller"), "cr");
    assert_eq!(label("GrafanaDashboard", "spiderpool-ipam"), "g");
    let dashboard = all.get("GrafanaDashboard", "spiderpool-ipam");
    assert_eq!(dashboard["spec"]["allowCrossNamespaceImport"], json!(false));
    serde_json::from_str::<Value>(dashboard["spec"]["json"].as_str().unwrap()).unwrap();
}

#[test]
#[ignore = "helm"]
fn init_may_do_what_it_does_whatever_is_on() {
    for values in [
        "{}",
        "{ipam: {enableIPv6: false}, coordinator: {enabled: false}, clusterDefaultPool: {installIPv4IPPool: false}}",
    ] {
        let all = render(values);
        all.get("ServiceAccount", "spiderpool-init");
        all.get("ClusterRoleBinding", "spiderpool-init");
        let role = all.get("Role", "spiderpool-init");
        assert!(role["rules"].to_string().contains("spidermultusconfigs"), "{values}");
    }
}

#[test]
#[ignore = "helm"]
fn nothing_changes_from_one_rendering_to_the_next_and_no_authority_is_made_by_helm() {
    let Rendered(first) = render("{}");
    let Rendered(second) = render("{}");
    assert_eq!(first, second);
    assert!(first.iter().all(|object| object["kind"] != "Secret"));
    assert!(!serde_json::to_string(&first).unwrap().contains("caBundle"), "the field is the controller's");
}

#[test]
#[ignore = "helm"]
fn a_change_of_the_configuration_rolls_the_pods_and_nothing_else_does() {
    let checksum = |values: &str| {
        let all = render(values);
        [all.agent(), all.controller()].map(|object| {
            object["spec"]["template"]["metadata"]["annotations"]["checksum/config"].as_str().unwrap().to_owned()
        })
    };
    let before = checksum("{}");
    assert_eq!(before, checksum("clusterDefaultPool: {ipv4IPPoolName: other}"));
    let after = checksum("ipam: {enableIPv6: false}");
    assert!(before[0] != after[0] && before[1] != after[1]);
}

#[test]
#[ignore = "helm"]
fn agents_know_the_refusal_of_a_pool_that_is_taken_over() {
    let all = render("{}");
    let policy = all.get("ValidatingAdmissionPolicy", "spiderpool-agent-pool-status");
    let known = std::fs::read_to_string(root().join("crates/k8s-api/src/pool.rs")).unwrap();
    let told = policy["spec"]["validations"][0]["message"].as_str().unwrap();
    assert!(known.contains(&format!("\"{told}\"")), "store::upstream waits for another text: {told}");
}

#[test]
#[ignore = "helm"]
fn agents_whose_tokens_name_no_node_are_replaced_when_the_policy_comes() {
    let of = |kubernetes: &str| {
        let all = try_render_for(kubernetes, "{}").unwrap();
        (all.agent()["spec"]["template"].clone(), !all.all("ValidatingAdmissionPolicy").is_empty())
    };
    let (before, after) = (of("1.29.9"), of("1.30.0"));
    assert_eq!((before.1, after.1), (false, true));
    assert_ne!(before.0, after.0, "the same template starts no agent anew, and tokens live on");
    assert_eq!(after, of("1.36.0"), "a later upgrade of the cluster concerns no agent");
}

#[test]
#[ignore = "helm"]
fn no_webhook_is_on_the_way_of_pods() {
    let webhooks =
        |all: &Rendered, kind: &str| all.get(kind, "spiderpool-controller")["webhooks"].as_array().unwrap().clone();
    let plain = render("{}");
    let all: Vec<Value> = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
        .iter()
        .flat_map(|kind| webhooks(&plain, kind))
        .collect();
    for webhook in &all {
        assert_eq!(webhook["rules"][0]["apiGroups"], json!(["spiderpool.spidernet.io"]));
        assert!(webhook["timeoutSeconds"].as_u64().unwrap() <= 10);
        let resources = webhook["rules"][0]["resources"].to_string();
        assert!(!resources.contains("spiderips") && !resources.contains("spiderendpoints"), "agents write these");
    }
}

#[test]
#[ignore = "helm"]
fn webhooks_of_features_that_are_off_are_not_there() {
    let of = |kind: &str, values: &str| {
        let all = render(values);
        let webhooks = all.get(kind, "spiderpool-controller")["webhooks"].clone();
        webhooks
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().split('.').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // A SpiderSubnet is refused by name: nobody would make pools of it.
    let (validating, mutating) = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration");
    assert_eq!(
        of(validating, "{}"),
        ["spiderippool", "spiderreservedip", "spidersubnet", "spidercoordinator", "spidermultusconfig"]
    );
    assert_eq!(of(mutating, "{}"), ["spiderippool", "spiderreservedip", "spidercoordinator", "spidermultusconfig"]);
    let off = "{coordinator: {enabled: false}, multus: {enableMultusConfig: false}}";
    assert_eq!(of(validating, off), ["spiderippool", "spiderreservedip", "spidersubnet"]);
    assert_eq!(of(mutating, off), ["spiderippool", "spiderreservedip"]);
    let guarded = render("spiderpoolController: {enableValidatingResourcesDeletedWebhook: true}");
    let with_deletion = |all: &Rendered| {
        let webhooks = all.get(validating, "spiderpool-controller")["webhooks"].as_array().unwrap().clone();
        let is_asked = |webhook: &Value| webhook["rules"][0]["operations"] == json!(["CREATE", "UPDATE", "DELETE"]);
        let name = |webhook: &Value| webhook["name"].as_str().unwrap().split('.').next().unwrap().to_owned();
        webhooks.iter().filter(|webhook| is_asked(webhook)).map(name).collect::<Vec<_>>()
    };
    assert_eq!(with_deletion(&guarded), ["spiderippool", "spidersubnet"]);
    assert!(with_deletion(&render("{}")).is_empty());
}

#[test]
#[ignore = "helm"]
fn the_cleaning_job_can_run_anywhere_and_says_each_thing_once() {
    let all =
        render("spiderpoolController: {image: {imagePullSecrets: [{name: pull}]}, tolerations: [{operator: Exists}]}");
    let job = all.get("Job", "spiderpool-controller-hook-pre-delete");
    assert_eq!(pod(job)["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod(job)["imagePullSecrets"], json!([{"name": "pull"}]));
    let container = container(job, "spiderpool-controller-hook-pre-delete");
    let mut names: Vec<_> =
        container["env"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(
        render("spiderpoolController: {cleanup: {enable: false}}")
            .find("Job", "spiderpool-controller-hook-pre-delete")
            .is_none()
    );
}

#[test]
fn rules_and_dashboard_ask_for_series_that_exist() {
    let sources = ["crates/agent/src", "crates/controller/src"].map(crate::names::source).concat();
    let texts = file("templates/monitoring/prometheusrule.yaml") + &file("files/dashboards/ipam.json");
    let series = crate::names::words(&texts, "spiderpool_");
    assert!(series.len() > 10, "{series:?}");
    for name in series {
        let plain = ["_total", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(&name);
        // The agent puts the names of both kinds of request together.
        let generic = plain.replacen("spiderpool_ipam_allocation_", "{kind}_", 1).replacen(
            "spiderpool_ipam_release_",
            "{kind}_",
            1,
        );
        let own = plain.replacen("spiderpool_ipam_", "", 1);
        let gauge = generic.replace("max_", "{statistic}_{limit}").replace("{kind}_duration", "{kind}_{limit}duration");
        let known = [plain, &own, &generic, &gauge].iter().any(|form| sources.contains(&format!("{form}\"")));
        assert!(known, "no process has a series {name} (looked for {plain}, {own}, {generic}, {gauge})");
    }
}
