//! Values that cannot work are refused, and the text names key and value.

use serde_json::json;

use crate::helm::{Cluster, refusal, render, try_render_for};

#[test]
#[ignore = "helm"]
fn what_cannot_work_is_refused_by_name() {
    let provided = "spiderpoolController: {tls: {method: provided";
    let rows: &[(&str, &str)] = &[
        ("foo: 1", "at '': additional properties 'foo' not allowed"),
        ("ipam: {enableIPV4: true}", "at '/ipam': additional properties 'enableIPV4' not allowed"),
        ("ipam: {gc: {gcAll: {interval: 3}}}", "at '/ipam/gc/gcAll': additional properties 'interval' not allowed"),
        (
            "spiderpoolAgent: {image: {name: x}}",
            "at '/spiderpoolAgent/image': additional properties 'name' not allowed",
        ),
        ("ipam: {enableIPv4: \"yes\"}", "at '/ipam/enableIPv4': got string, want boolean"),
        ("spiderpoolAgent: {httpPort: many}", "at '/spiderpoolAgent/httpPort': got string, want integer"),
        ("spiderpoolAgent: {httpPort: 70000}", "at '/spiderpoolAgent/httpPort': maximum: got 70,000, want 65,535"),
        (
            "coordinator: {mode: fast}",
            "at '/coordinator/mode': value must be one of 'auto', 'underlay', 'overlay', 'disabled'",
        ),
        ("coordinator: {mode: overlay}", "coordinator.mode: overlay is not supported by this version; set auto, and"),
        ("coordinator: {podCIDRType: all}", "at '/coordinator/podCIDRType': value must be one of 'auto', 'cluster'"),
        ("multus: {implementation: thick}", "at '/multus/implementation': value must be one of 'multus', 'multinet'"),
        (
            "spiderpoolController: {debug: {logLevel: loud}}",
            "at '/spiderpoolController/debug/logLevel': value must be one of",
        ),
        (
            "spiderpoolController: {tls: {method: self}}",
            "at '/spiderpoolController/tls/method': value must be one of 'auto'",
        ),
        ("global: {cniBinHostPath: opt/cni}", "at '/global/cniBinHostPath': 'opt/cni' does not match pattern"),
        ("global: {ciliumConfigMap: cilium}", "at '/global/ciliumConfigMap': 'cilium' does not match pattern"),
        (
            &format!("spiderpoolController: {{name: {}}}", "c".repeat(48)),
            "at '/spiderpoolController/name': 'cccccccccccccccccccccccccccccccccccccccccccccccc' does not match pattern",
        ),
        (
            "global: {ipamUNIXSocketHostPath: /var/lib/spidernet/spiderpool.sock}",
            "global.ipamUNIXSocketHostPath: /var/lib/spidernet/spiderpool.sock is in /var/lib/spidernet, where the agent",
        ),
        (
            "global: {ipamUNIXSocketHostPath: /var/lib/x/..//cni/s}",
            "global.ipamUNIXSocketHostPath: /var/lib/x/..//cni/s is in /var/lib/cni, where the agent",
        ),
        (
            "clusterDefaultPool: {ipv4IPRanges: [10.0.0.0/24]}",
            "at '/clusterDefaultPool/ipv4IPRanges/0': '10.0.0.0/24' does not",
        ),
        (
            "ipam: {enableIPv4: false, enableIPv6: false}",
            "ipam.enableIPv4: false and ipam.enableIPv6: false: no pod could get",
        ),
        (
            "ipam: {enableIPConflictDetection: true}",
            "ipam.enableIPConflictDetection: true is not supported by this version: the plugins",
        ),
        ("ipam: {enableGatewayDetection: true}", "ipam.enableGatewayDetection: true is not supported by this version"),
        ("ipam: {spiderSubnet: {enable: true}}", "ipam.spiderSubnet.enable: true is not supported by this version"),
        (
            "spiderpoolAgent: {networkResourcePlugin: {enabled: true}}",
            "spiderpoolAgent.networkResourcePlugin.enabled: true is not supported by this version",
        ),
        (
            "spiderpoolAgent: {prometheus: {enabledRdmaMetric: true}}",
            "spiderpoolAgent.prometheus.enabledRdmaMetric: true is not supported by this version",
        ),
        (
            "rdma: {rdmaSharedDevicePlugin: {install: true}}",
            "rdma.rdmaSharedDevicePlugin.install: true is not supported",
        ),
        (
            "sriov: {install: true}",
            "sriov.install: true is not supported by this version: install the SR-IOV network operator",
        ),
        ("iaasNetworkProvider: {serverUrl: \"http://x\"}", "iaasNetworkProvider.serverUrl: http://x is not supported"),
        (
            "iaasNetworkProvider: {httpRequestTimeout: 2m}",
            "iaasNetworkProvider.httpRequestTimeout: \"2m\" is not a time like 50s",
        ),
        (
            "iaasNetworkProvider: {httpRequestTimeout: 100s}",
            "iaasNetworkProvider.httpRequestTimeout: \"100s\" is not a time like 50s",
        ),
        (
            "iaasNetworkProvider: {httpRequestTimeout: 0s}",
            "iaasNetworkProvider.httpRequestTimeout: \"0s\" is not a time like 50s",
        ),
        (
            "iaasNetworkProvider: {httpRequestTimeout: \"50\"}",
            "iaasNetworkProvider.httpRequestTimeout: \"50\" is not a time like 50s",
        ),
        (
            "{ipam: {enableIPv6: false}, clusterDefaultPool: {installIPv6IPPool: true, ipv6Subnet: \"fd00::/64\"}}",
            "clusterDefaultPool.installIPv6IPPool: true needs ipam.enableIPv6: true",
        ),
        (
            "clusterDefaultPool: {installIPv4IPPool: true}",
            "clusterDefaultPool.ipv4Subnet: \"\" is not an IPv4 subnet like 172.18.40.0/24",
        ),
        (
            "clusterDefaultPool: {installIPv4IPPool: true, ipv4Subnet: \"fd00::/64\"}",
            "clusterDefaultPool.ipv4Subnet: \"fd00::/64\" is not an IPv4 subnet",
        ),
        (
            "clusterDefaultPool: {installIPv4IPPool: true, ipv4Subnet: 10.0.0.0/24, ipv4IPPoolName: p, installIPv6IPPool: true, ipv6Subnet: \"fd00::/64\", ipv6IPPoolName: p}",
            "clusterDefaultPool.ipv4IPPoolName and clusterDefaultPool.ipv6IPPoolName are both \"p\"",
        ),
        (
            "spiderpoolController: {podDisruptionBudget: {enabled: true}}",
            "spiderpoolController.podDisruptionBudget.minAvailable: 1 with spiderpoolController.replicas: 1",
        ),
        (
            &format!("{provided}}}}}"),
            "spiderpoolController.tls.provided.tlsCert: empty. Method provided needs tlsCert, tlsKey and tlsCa",
        ),
        (
            &format!("{provided}, provided: {{tlsCert: abc, tlsKey: abc, tlsCa: abc}}}}}}"),
            "spiderpoolController.tls.provided.tlsCert is not PEM in base64",
        ),
        (
            "spiderpoolController: {tls: {method: certmanager}}",
            "spiderpoolController.tls.certmanager.issuerName: empty",
        ),
        (
            "spiderpoolController: {tls: {auto: {caExpiration: 10, certExpiration: \"20\"}}}",
            "spiderpoolController.tls.auto.certExpiration: 20 is more than caExpiration: 10",
        ),
        (
            "spiderpoolAgent: {httpPort: 5720}",
            "spiderpoolController.httpPort and spiderpoolAgent.httpPort are both 5720",
        ),
        (
            "spiderpoolController: {webhookPort: 5720}",
            "spiderpoolController.httpPort and spiderpoolController.webhookPort are both",
        ),
    ];
    for (values, expected) in rows {
        let text = refusal(values);
        assert!(text.contains(expected), "{values}\nexpected: {expected}\ngot: {text}");
    }
}

#[test]
#[ignore = "helm"]
fn a_secret_that_is_not_the_releases_is_not_replaced() {
    let provided = |name: &str| {
        let pem = "LS0tLS1CRUdJTiBY";
        format!(
            "spiderpoolController: {{tls: {{method: provided, secretName: {name}, provided: {{tlsCert: {pem}, tlsKey: {pem}, tlsCa: {pem}}}}}}}"
        )
    };
    let of = |release: &str| json!({"Secret/s": {"metadata": {"annotations": {"meta.helm.sh/release-name": release}}}});
    for objects in [json!({"Secret/s": {"metadata": {}}}), of("other")] {
        let cluster = Cluster::with(&objects);
        let text = cluster.try_render(&provided("s")).err().unwrap();
        assert!(text.contains("Set another secretName together with method provided"), "{text}");
        cluster.render(&provided("another"));
        cluster.render("spiderpoolController: {tls: {method: auto, secretName: s}}");
    }
    Cluster::with(&of("sp")).render(&provided("s"));
}

#[test]
#[ignore = "helm"]
fn a_second_release_is_refused_whatever_its_objects_are_called() {
    // A DaemonSet `net/agents` with these labels, its pods' labels, and the release it belongs to.
    let set = |labels: serde_json::Value, of_pods: serde_json::Value, release: &[&str]| {
        let mut annotations = json!({"deprecated.daemonset.template.generation": "1"});
        for (key, value) in ["name", "namespace"].iter().zip(release) {
            annotations[format!("meta.helm.sh/release-{key}")] = json!(value);
        }
        json!({
            "metadata": {"name": "agents", "namespace": "net", "labels": labels, "annotations": annotations},
            "spec": {"template": {"metadata": {"labels": of_pods}}},
        })
    };
    let ours = || json!({"ipam.spidernet.io/source": "SpiderIP"});
    let named = || json!({"app.kubernetes.io/name": "spiderpool"});
    let charted = |version: &str| json!({"helm.sh/chart": format!("spiderpool-{version}")});
    let other = json!({"metadata": {"name": "kube-proxy", "namespace": "kube-system"}, "spec": {"template": {"metadata": {"creationTimestamp": null}}}});
    let cluster = |set: serde_json::Value| Cluster::with(&json!({"DaemonSet/": {"items": [other, set]}}));
    let values = "{spiderpoolAgent: {name: a}, spiderpoolController: {name: c}, spiderpoolInit: {name: i}}";
    for (labels, of_pods) in [
        (json!({"a": "b"}), ours()),
        (named(), json!(null)),
        (charted("0.1.0"), json!({})),
        (charted("v1.2.0"), json!({})),
    ] {
        for release in [["first", "net"], ["first", "kube-system"], ["sp", "net"]] {
            let text = cluster(set(labels.clone(), of_pods.clone(), &release)).try_render(values).err().unwrap();
            let [name, namespace] = release;
            let told = format!(
                "Spiderpool is installed already: release \"{name}\" in namespace {namespace} (DaemonSet net/agents). A cluster has one"
            );
            assert!(text.contains(&told), "{labels} {of_pods} {release:?}: {text}");
        }
        cluster(set(labels, of_pods, &["sp", "kube-system"])).render(values);
    }
    for (labels, of_pods, release) in [
        (charted("exporter-1.0.0"), json!({}), &["first", "net"][..]), // another chart
        (json!(null), json!({"app": "web"}), &["first", "net"]),
        (named(), ours(), &[]), // nobody's release: applied by hand
    ] {
        cluster(set(labels, of_pods, release)).render(values);
    }
}

#[test]
#[ignore = "helm"]
fn what_looks_alike_and_works_is_taken() {
    for values in [
        // What upstream's own set-ups pass.
        "{global: {tuneSysctlConfig: false}, coordinator: {detectGateway: true, detectIPConflict: true}}",
        "{ipam: {enableStatefulSet: false}, multus: {multusCNI: {defaultCniCRName: ipvlan-eth0}}}",
        "spiderpoolController: {replicas: 2, podDisruptionBudget: {enabled: true}}",
        "spiderpoolController: {podDisruptionBudget: {enabled: true, minAvailable: 50%}}",
        "spiderpoolController: {hostnetwork: false, httpPort: 5710}",
        "global: {ipamUNIXSocketHostPath: /var/lib/spidernet/socket/spiderpool.sock}",
        "global: {ipamUNIXSocketHostPath: /var/lib/cni-socket/spiderpool.sock}",
        "clusterDefaultPool: {installIPv4IPPool: true, ipv4Subnet: 10.0.0.0/24, ipv4IPRanges: [10.0.0.5-10.0.0.9, 10.0.0.20]}",
        "ipam: {enableIPv4: false}",
        "grafanaDashboard: {instanceSelector: {matchLabels: null}}",
        "spiderpoolAgent: {debug: {gopsPort: \"\"}}",
        "iaasNetworkProvider: {httpRequestTimeout: 1m}",
        "iaasNetworkProvider: {httpRequestTimeout: 1500ms}",
        "iaasNetworkProvider: {httpRequestTimeout: 1m39.5s}",
        "global: {commonLabels: null, commonAnnotations: null}",
    ] {
        render(values);
    }
}

#[test]
#[ignore = "helm"]
fn what_the_cluster_cannot_do_is_refused() {
    let text = try_render_for("1.24.0", "{}").err().unwrap();
    assert!(text.contains("kubeVersion: >=1.25.0-0"), "{text}");
    let old = try_render_for("1.29.0", "{}").unwrap();
    assert!(old.all("ValidatingAdmissionPolicy").is_empty(), "tokens name no node there");
}
