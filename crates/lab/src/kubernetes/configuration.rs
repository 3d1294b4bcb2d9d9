//! The components' configuration files and command lines.

use std::path::Path;

use super::addresses::{Network, pods};
use super::state::State;
use super::supervisor::Program;

/// Where containerd listens on a node, as everywhere.
pub const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The sandboxes' image.
pub const PAUSE: &str = "spiderpool.test/pause:latest";
/// Where a node keeps the files below.
pub const NODE_FILES: &str = "/etc/kubernetes";

/// The control plane but for what needs a running API server.
pub fn storage_and_api(state: &State) -> [Program; 2] {
    let bin = &state.options.kubernetes_dir;
    let pki = state.dir().join("pki");
    let network = state.options.network;
    let etcd = Program::new("etcd", bin.join("etcd"))
        .args(["--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"]);
    let etcd = if state.options.durable {
        etcd.path("--data-dir", &state.etcd_dir())
    } else {
        // The disk is memory.
        etcd.args(["--data-dir=/run/etcd", "--unsafe-no-fsync"])
    };
    let api = Program::new("kube-apiserver", bin.join("kube-apiserver"))
        .args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--secure-port=6443".into(),
            format!("--bind-address={}", network.control_plane()),
            format!("--service-cluster-ip-range={}", network.service_cidr()),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            // Webhooks are called at their endpoints: there is no kube-proxy here.
            "--enable-aggregator-routing".into(),
        ])
        .path("--cert-dir", &pki)
        .path("--tls-cert-file", &pki.join("apiserver.crt"))
        .path("--tls-private-key-file", &pki.join("apiserver.key"))
        .path("--service-account-signing-key-file", &pki.join("sa.key"))
        .path("--service-account-key-file", &pki.join("sa.pub"))
        .path("--token-auth-file", &pki.join("tokens.csv"));
    [etcd, api]
}

/// The rest of the control plane.
pub fn controllers(state: &State) -> [Program; 2] {
    let bin = &state.options.kubernetes_dir;
    let pki = state.dir().join("pki");
    let network = state.options.network;
    let manager = Program::new("kube-controller-manager", bin.join("kube-controller-manager"))
        .args(["--leader-elect=false", "--use-service-account-credentials", "--bind-address=127.0.0.1"])
        // Several hundred pods in a test are not to wait for the default of 20 requests a second.
        .args(["--kube-api-qps=200", "--kube-api-burst=400", "--allocate-node-cidrs=false"])
        .args([format!("--cluster-cidr={}", network.pod_cidr())])
        .args([format!("--service-cluster-ip-range={}", network.service_cidr())])
        .path("--kubeconfig", &state.kubeconfig("controller-manager"))
        .path("--service-account-private-key-file", &pki.join("sa.key"))
        .path("--root-ca-file", &pki.join("ca.crt"));
    let scheduler = Program::new("kube-scheduler", bin.join("kube-scheduler"))
        .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
        .path("--kubeconfig", &state.kubeconfig("scheduler"));
    [manager, scheduler]
}

/// What kubeadm leaves for others to read.
pub fn kubeadm(network: Network, version: &str) -> String {
    let (control_plane, pods, services) = (network.control_plane(), network.pod_cidr(), network.service_cidr());
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: kubeadm-config\n  namespace: kube-system\ndata:\n  ClusterConfiguration: |\n    \
         apiVersion: kubeadm.k8s.io/v1beta4\n    kind: ClusterConfiguration\n    clusterName: kubernetes\n    \
         controlPlaneEndpoint: {control_plane}:6443\n    kubernetesVersion: {version}\n    networking:\n      \
         dnsDomain: cluster.local\n      podSubnet: {pods}\n      serviceSubnet: {services}\n"
    )
}

/// A node's programs.
pub fn node_programs(state: &State, name: &str, at: usize) -> [Program; 3] {
    let bin = &state.options.kubernetes_dir;
    // containerd looks for its shim and for runc there.
    let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let files = Path::new(NODE_FILES);
    let containerd = Program::new("containerd", bin.join("containerd"))
        .path("--config", &files.join("containerd.toml"))
        .env("PATH", &path);
    let kubelet = Program::new("kubelet", bin.join("kubelet"))
        .path("--kubeconfig", &state.kubeconfig(&format!("kubelet-{name}")))
        .path("--config", &files.join("kubelet.yaml"))
        .args([
            format!("--hostname-override={name}"),
            format!("--node-ip={}", state.options.network.node(at)),
            "--v=2".into(),
        ])
        .env("PATH", &path);
    let proxy = Program::new("kube-proxy", bin.join("kube-proxy"))
        .path("--config", &files.join("kube-proxy.yaml"))
        .env("PATH", &path);
    [containerd, kubelet, proxy]
}

/// `containerd.toml`: container runtime 2.
pub fn containerd() -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
"#
    )
}

/// `kubelet.yaml`. Eviction limits are as low as the kubelet permits: the machine's memory and disk are no business of the tests.
pub fn kubelet(cgroup: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         containerRuntimeEndpoint: unix://{CONTAINERD}\n\
         cgroupDriver: cgroupfs\ncgroupRoot: /{cgroup}\nfailCgroupV1: false\nfailSwapOn: false\nenforceNodeAllocatable: []\n\
         evictionHard: {{memory.available: 1Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}\n\
         imageGCHighThresholdPercent: 100\nlocalStorageCapacityIsolation: false\n\
         authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}\nauthorization: {{mode: AlwaysAllow}}\n\
         nodeStatusUpdateFrequency: 2s\nsyncFrequency: 5s\nresolvConf: \"\"\nshutdownGracePeriod: 0s\nmaxPods: 250\n\
         serializeImagePulls: false\nregistryPullQPS: 0\nkubeAPIQPS: 200\nkubeAPIBurst: 400\n"
    )
}

/// `kube-proxy.yaml`.
pub fn kube_proxy(state: &State, name: &str, mode: &str) -> String {
    let network = state.options.network;
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\nclusterCIDR: {}\n\
         hostnameOverride: {name}\nclientConnection: {{kubeconfig: {}}}\n\
         conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}\nnodePortAddresses: [{}]\n",
        network.pod_cidr(),
        state.kubeconfig("proxy").display(),
        network.node_cidr()
    )
}

/// The cluster's own network on bridges: one more on every node, and routes between them.
pub fn cluster_network(at: usize) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "cluster",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pods(at)}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

/// `/etc/hosts` of a node.
pub fn hosts(network: Network, nodes: &[String]) -> String {
    let lines = nodes.iter().enumerate().map(|(at, name)| format!("{} {name}\n", network.node(at)));
    format!("127.0.0.1 localhost\n::1 localhost\n{}", lines.collect::<String>())
}
