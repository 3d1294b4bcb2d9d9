//! What the values mean, where it is more than a text handed on.

use serde_json::{Value, json};

use crate::helm::{Rendered, container, containers, env, pod, render, texts, try_container};

/// The command of the public-cloud guide.
const GUIDE: &str = "{ipam: {enableStatefulSet: false}, multus: {multusCNI: {defaultCniCRName: ipvlan-eth0}}}";

#[test]
#[ignore = "helm"]
fn the_guides_command_gives_what_the_guide_needs() {
    let all = render(GUIDE);
    assert_eq!(all.conf()["enableStatefulSet"], json!(false));
    assert_eq!(all.conf()["enableSpiderSubnet"], json!(false));
    assert_eq!(all.get("ConfigMap", "spiderpool-conf")["data"]["clusterNetwork"], "ipvlan-eth0");
    let agent = container(all.agent(), "spiderpool-agent");
    assert_eq!(env(agent, "MULTUS_CLUSTER_NETWORK"), Some("kube-system/ipvlan-eth0"));
    let init = container(all.init(), "spiderpool-init");
    assert_eq!(env(init, "SPIDERPOOL_INIT_DEFAULT_CNI_NAME"), Some("ipvlan-eth0"));
    assert_eq!(env(init, "SPIDERPOOL_INIT_DEFAULT_CNI_DIR"), None);
    assert!(pod(all.init())["volumes"].is_null(), "no need to look at the node");
    let controller = container(all.controller(), "spiderpool-controller");
    let not_ready = "SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED";
    assert_eq!(env(controller, not_ready), Some("false"));
}

#[test]
#[ignore = "helm"]
fn images_follow_registry_digest_and_version() {
    let image =
        |values: &str| container(render(values).agent(), "spiderpool-agent")["image"].as_str().unwrap().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(image("{}"), format!("ghcr.io/spidernet-io/spiderpool/spiderpool-agent:v{version}"));
    assert_eq!(image("spiderpoolAgent: {image: {tag: x}}"), "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:x");
    assert_eq!(
        image("spiderpoolAgent: {image: {tag: x, digest: \"sha256:ab\"}}"),
        "ghcr.io/spidernet-io/spiderpool/spiderpool-agent@sha256:ab"
    );
    let all = render("{global: {imageRegistryOverride: mirror.local}, plugins: {installCNI: true}}");
    for object in [all.agent(), all.controller(), all.init()] {
        for container in containers(object) {
            assert!(container["image"].as_str().unwrap().starts_with("mirror.local/"), "{container}");
        }
    }
}

#[test]
#[ignore = "helm"]
fn multinet_needs_neither_multus_image_nor_its_rights() {
    let all = render("multus: {implementation: multinet}");
    assert!(try_container(all.agent(), "install-multus").is_none());
    let args = texts(&container(all.agent(), "multus-cni")["args"]);
    assert!(args.contains(&"--implementation=multinet"), "{args:?}");
    let rights = |implementation: &str| {
        let all = render(&format!("multus: {{implementation: {implementation}}}"));
        all.get("ClusterRole", "spiderpool-multus")["rules"].to_string()
    };
    assert!(rights("multus").contains("events") && !rights("multinet").contains("events"));
    assert!(!rights("multinet").contains("\"pods\""), "the status is enough");
    let none = render("multus: {multusCNI: {install: false}}");
    assert!(
        try_container(none.agent(), "multus-cni").is_none() && none.find("ClusterRole", "spiderpool-multus").is_none()
    );
}

/// A container that runs without any right on the machine, but for these capabilities.
fn is_confined_but(added: &Value, container: &Value) -> bool {
    let context = &container["securityContext"];
    context["privileged"] != json!(true)
        && context["allowPrivilegeEscalation"] == json!(false)
        && context["readOnlyRootFilesystem"] == json!(true)
        && context["capabilities"]["drop"] == json!(["ALL"])
        && context["capabilities"]["add"] == *added
}

/// A container that runs without any right on the machine.
fn is_confined(container: &Value) -> bool {
    is_confined_but(&Value::Null, container)
}

#[test]
#[ignore = "helm"]
fn only_what_sets_kernel_parameters_is_privileged() {
    let all = render("plugins: {installCNI: true}");
    for object in [all.controller(), all.init(), all.get("Job", "spiderpool-controller-crds")] {
        for container in containers(object) {
            assert!(is_confined(container), "{container}");
        }
    }
    assert_eq!(container(all.agent(), "spiderpool-agent")["securityContext"]["privileged"], json!(true));
    let agent = render("spiderpoolAgent: {tuneSysctlConfig: false}");
    assert!(is_confined(container(agent.agent(), "spiderpool-agent")));
    let controller = render("coordinator: {enabled: false}");
    assert_eq!(
        container(controller.controller(), "spiderpool-controller")["securityContext"]["runAsNonRoot"],
        json!(true)
    );
}

#[test]
#[ignore = "helm"]
fn what_writes_cni_files_may_do_so_in_directories_of_another_user() {
    let all = render("{plugins: {installCNI: true, uninstall: true}, multus: {multusCNI: {uninstall: true}}}");
    let names: Vec<_> = containers(all.agent()).iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    let writers = ["install", "install-plugins", "install-multus", "multus-cni", "uninstall"];
    assert!(writers.iter().all(|writer| names.iter().any(|name| name == writer)), "{names:?}");
    for container in containers(all.agent()).into_iter().filter(|one| one["name"] != "spiderpool-agent") {
        assert!(is_confined_but(&json!(["DAC_OVERRIDE"]), container), "{container}");
        assert_eq!(container["securityContext"]["runAsUser"], json!(0), "{container}");
    }
}

#[test]
#[ignore = "helm"]
fn a_roll_out_of_controllers_cannot_wait_for_ports_that_it_holds_itself() {
    let strategy = |values: &str| render(values).controller()["spec"]["strategy"]["rollingUpdate"].clone();
    assert_eq!(strategy("spiderpoolController: {replicas: 3}"), json!({"maxSurge": 0, "maxUnavailable": 1}));
    assert_eq!(strategy("spiderpoolController: {hostnetwork: false}"), json!({"maxSurge": 1, "maxUnavailable": 0}));
}

#[test]
#[ignore = "helm"]
fn certificates_come_from_where_the_method_says() {
    let method = |values: &str| render(&format!("spiderpoolController: {{tls: {{{values}}}}}"));
    let own = method(
        "method: auto, secretName: s, auto: {caExpiration: 400, certExpiration: 300, extraDnsNames: [a, b], extraIpAddresses: [10.0.0.1]}",
    );
    let controller = container(own.controller(), "spiderpool-controller");
    for (name, value) in [
        ("SPIDERPOOL_TLS_SECRET_NAME", "s"),
        ("SPIDERPOOL_TLS_CA_DAYS", "400"),
        ("SPIDERPOOL_TLS_CERT_DAYS", "300"),
        ("SPIDERPOOL_TLS_EXTRA_DNS_NAMES", "a,b"),
        ("SPIDERPOOL_TLS_EXTRA_IP_ADDRESSES", "10.0.0.1"),
        ("SPIDERPOOL_CLUSTER_DNS_DOMAIN", "cluster.local"),
    ] {
        assert_eq!(env(controller, name), Some(value), "{name}");
    }
    assert!(!texts(&controller["args"]).iter().any(|arg| arg.starts_with("--tls")));
    let secrets = |all: &Rendered| {
        let all = all.all("Role").into_iter().chain(all.all("ClusterRole"));
        let of_controller =
            all.filter(|role| role["metadata"]["labels"]["app.kubernetes.io/component"] == "spiderpool-controller");
        of_controller.filter(|role| role["rules"].to_string().contains("secrets")).count()
    };
    assert_eq!(secrets(&own), 1);
    let given = method(
        "method: provided, provided: {tlsCert: LS0tLS1CRUdJTiBX, tlsKey: LS0tLS1CRUdJTiBY, tlsCa: LS0tLS1CRUdJTiBZ}",
    );
    let secret = given.get("Secret", "spiderpool-controller-server-certs");
    assert_eq!(
        secret["data"],
        json!({"ca.crt": "LS0tLS1CRUdJTiBZ", "tls.crt": "LS0tLS1CRUdJTiBX", "tls.key": "LS0tLS1CRUdJTiBY"})
    );
    let controller = container(given.controller(), "spiderpool-controller");
    assert!(
        texts(&controller["args"])
            .ends_with(&["--tls-server-cert=/etc/tls/tls.crt", "--tls-server-key=/etc/tls/tls.key"])
    );
    assert!(env(controller, "SPIDERPOOL_TLS_SECRET_NAME").is_none());
    let cert_manager = method("method: certmanager, certmanager: {issuerName: i}");
    assert_eq!([secrets(&given), secrets(&cert_manager)], [0, 0], "the controller reads files");
}

#[test]
#[ignore = "helm"]
fn cert_manager_makes_the_certificate_and_injects_its_authority() {
    let all = render(
        "spiderpoolController: {tls: {method: certmanager, secretName: s, certmanager: {issuerName: i, certValidityDuration: 90, \
         extraDnsNames: [a.example], extraIPAddresses: [10.0.0.1]}}}",
    );
    let name = "spiderpool-controller-server-certs";
    assert_eq!(
        all.get("Certificate", name)["spec"],
        json!({
            "secretName": "s", "commonName": "spiderpool-controller.kube-system.svc", "duration": "2160h",
            "issuerRef": {"kind": "Issuer", "name": "i"},
            "usages": ["digital signature", "key encipherment", "server auth"],
            "dnsNames": ["spiderpool-controller.kube-system", "spiderpool-controller.kube-system.svc",
                "spiderpool-controller.kube-system.svc.cluster.local", "a.example"],
            "ipAddresses": ["10.0.0.1"],
        })
    );
    assert!(all.all("Issuer").is_empty(), "the operator's");
    assert!(all.find("Secret", "s").is_none(), "cert-manager's");
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        let configuration = all.get(kind, "spiderpool-controller");
        let annotation = &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
        assert_eq!(annotation, &format!("kube-system/{name}"), "{kind}");
        for webhook in configuration["webhooks"].as_array().unwrap() {
            assert!(webhook["clientConfig"]["caBundle"].is_null(), "an upgrade would take the injected one away");
        }
    }
    let controller = container(all.controller(), "spiderpool-controller");
    assert_eq!(env(controller, "SPIDERPOOL_WEBHOOK_CA_INJECTED"), Some("true"));
    assert!(env(controller, "SPIDERPOOL_TLS_SECRET_NAME").is_none(), "none of its own");
    let args = texts(&controller["args"]);
    assert!(args.ends_with(&["--tls-server-cert=/etc/tls/tls.crt", "--tls-server-key=/etc/tls/tls.key"]), "{args:?}");
    let mounts = controller["volumeMounts"].as_array().unwrap();
    let mounted = mounts.iter().find(|mount| mount["mountPath"] == "/etc/tls").unwrap();
    assert!(mounted["subPath"].is_null(), "files of a subPath are never renewed");
    let volumes = pod(all.controller())["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == mounted["name"]).unwrap();
    assert!(volume.to_string().contains("\"s\""), "{volume}");

    // With every other method nobody injects.
    for values in ["{}", "{spiderpoolController: {tls: {method: auto}}}"] {
        let all = render(values);
        assert!(all.all("Certificate").is_empty());
        let annotations =
            &all.get("ValidatingWebhookConfiguration", "spiderpool-controller")["metadata"]["annotations"];
        assert!(annotations["cert-manager.io/inject-ca-from"].is_null());
    }
}

#[test]
#[ignore = "helm"]
fn hooks_run_when_they_should_and_leave_nothing() {
    let all = render("{}");
    for (name, hook) in [
        ("spiderpool-init", "post-install,post-upgrade"),
        ("spiderpool-controller-crds", "pre-upgrade"),
        ("spiderpool-controller-hook-pre-delete", "pre-delete"),
    ] {
        let annotations = &all.get("Job", name)["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], hook);
        assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded");
    }
    // What a hook that failed leaves is found by its release.
    for object in all.0.iter().filter(|object| !object["metadata"]["annotations"]["helm.sh/hook"].is_null()) {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/instance"], "sp", "{object}");
    }
}

#[test]
#[ignore = "helm"]
fn default_pools_are_told_to_the_job_only_when_they_are_asked_for() {
    let variables = |values: &str| {
        let all = render(values);
        let list = container(all.init(), "spiderpool-init")["env"].as_array().unwrap().clone();
        let of_pools = list.into_iter().filter(|one| one["name"].as_str().unwrap().contains("IPPOOL"));
        of_pools
            .map(|one| (one["name"].as_str().unwrap().to_owned(), one["value"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    assert!(variables("{}").is_empty());
    let pool = "clusterDefaultPool: {installIPv4IPPool: true, ipv4Subnet: 10.0.0.0/24, ipv4IPRanges: [10.0.0.5-10.0.0.9, 10.0.0.20], ipv4Gateway: 10.0.0.1}";
    let expected = [
        ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME", "default-v4-ippool"),
        ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET", "10.0.0.0/24"),
        ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES", "10.0.0.5-10.0.0.9,10.0.0.20"),
        ("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY", "10.0.0.1"),
    ];
    assert_eq!(variables(pool), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}
