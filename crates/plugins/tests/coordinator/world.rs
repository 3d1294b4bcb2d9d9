//! Two nodes on a network of their own, pods by macvlan, a router with a client behind it; all in namespaces that go
//! away with the world. Judged by iproute2, ping, nft and conntrack, and by TCP connections.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use net::Netns;
use serde_json::{Value, json};

static WORLDS: AtomicU32 = AtomicU32::new(0);
const DEADLINE: Duration = Duration::from_secs(10);

pub struct World {
    prefix: String,
    namespaces: Vec<String>,
    folder: tempfile::TempDir,
}

/// A pod with its container ID.
pub struct Pod {
    pub name: &'static str,
    pub container: String,
}

pub const CONFIG: &str = r#"{"mode":"auto","overlayPodCIDR":["10.233.64.0/18"],"serviceCIDR":["10.233.0.0/18","fd00:10:233::/116"],
    "hijackCIDR":["169.254.0.0/16"],"tunePodRoutes":true,"hostRuleTable":500,"podRPFilter":0,"vethMTU":1500}"#;

impl World {
    /// Nodes n1 and n2 on networks 10.6.0.0/16 (eth0) and 172.200.0.0/16 (eth1), router, external client.
    pub fn new() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("spiderpool-{}-{number}", std::process::id());
        let mut world = Self { prefix, namespaces: Vec::new(), folder: tempfile::tempdir().unwrap() };
        for name in ["fabric", "n1", "n2", "ext"] {
            world.add_namespace(name);
        }
        world.run("fabric", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for bridge in ["br0", "br1"] {
            world.run("fabric", &format!("ip link add {bridge} type bridge; ip link set {bridge} up"));
        }
        world.run("fabric", "ip addr add 10.6.0.1/16 dev br0; ip addr add 172.200.0.1/16 dev br1");
        world.run("fabric", "ip addr add fd00:10:6::fe/64 dev br0 nodad; ip addr add fd00:200::fe/64 dev br1 nodad");
        for (node, host) in [("n1", 1), ("n2", 2)] {
            world.run(node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
            world.plug(node, "eth0", "br0", &[&format!("10.6.1.{host}/16"), &format!("fd00:10:6::1:{host}/64")]);
            world.plug(node, "eth1", "br1", &[&format!("172.200.1.{host}/16"), &format!("fd00:200::1:{host}/64")]);
            world.run(node, "ip route add default via 10.6.0.1; ip -6 route add default via fd00:10:6::fe");
        }
        let ext = world.full("ext");
        world.run("fabric", &format!("ip link add ext type veth peer name eth0 netns {ext}; ip link set ext up"));
        world.run("fabric", "ip addr add 192.168.9.1/24 dev ext; ip addr add fd00:9::1/64 dev ext nodad");
        world.run(
            "ext",
            "ip link set eth0 up; ip addr add 192.168.9.2/24 dev eth0; ip addr add fd00:9::2/64 dev eth0 nodad",
        );
        world.run("ext", "ip route add default via 192.168.9.1; ip -6 route add default via fd00:9::1");
        world
    }

    fn add_namespace(&mut self, name: &str) {
        let full = self.full(name);
        self.namespaces.push(full.clone());
        sh(&format!("ip netns add {full}")).unwrap();
        self.run(
            name,
            "ip link set lo up; sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
        );
    }

    fn plug(&self, node: &str, nic: &str, bridge: &str, addresses: &[&str]) {
        let (port, full) = (format!("{node}-{nic}"), self.full(node));
        self.run(
            "fabric",
            &format!(
                "ip link add {port} type veth peer name {nic} netns {full}; ip link set {port} master {bridge} up"
            ),
        );
        self.run(node, &format!("ip link set {nic} up"));
        for address in addresses {
            self.run(node, &format!("ip addr add {address} dev {nic} $(echo {address} | grep -q : && echo nodad)"));
        }
    }

    pub fn full(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub fn netns(&self, name: &str) -> Netns {
        Netns::named(&self.full(name)).unwrap()
    }

    pub fn netns_path(&self, name: &str) -> PathBuf {
        Path::new("/run/netns").join(self.full(name))
    }

    /// Runs a shell script in a namespace; it must succeed.
    pub fn run(&self, name: &str, script: &str) -> String {
        self.attempt(name, script).unwrap_or_else(|error| panic!("{name}: {script}: {error}"))
    }

    /// Runs a shell script in a namespace.
    pub fn attempt(&self, name: &str, script: &str) -> Result<String, String> {
        sh(&format!("ip netns exec {} sh -ec '{script}'", self.full(name)))
    }

    /// What `ip -j` says.
    pub fn ip(&self, name: &str, arguments: &str) -> Vec<Value> {
        let text = self.run(name, &format!("ip -j {arguments}"));
        if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
    }

    /// A pod of n1 with a macvlan over the node's eth0.
    pub fn pod(&mut self, name: &'static str, addresses: &[&str]) -> Pod {
        self.add_namespace(name);
        self.attach(name, "eth0", "eth0", addresses);
        for address in addresses {
            let gateway = if address.contains(':') { "fd00:10:6::fe" } else { "10.6.0.1" };
            self.run(name, &format!("ip route add default via {gateway} dev eth0"));
        }
        let number = u64::from(WORLDS.load(Ordering::Relaxed)) << 32 | u64::from(std::process::id());
        let mut container = format!("{:02x}{number:016x}", name.as_bytes()[name.len() - 1]);
        container.push_str("fedcba9876543210");
        Pod { name, container }
    }

    /// What a main plugin does: a macvlan over the node's NIC with addresses.
    pub fn attach(&self, pod: &str, nic: &str, parent: &str, addresses: &[&str]) {
        let full = self.full(pod);
        self.run("n1", &format!("ip link add link {parent} name {nic} netns {full} type macvlan mode bridge"));
        self.run(pod, &format!("ip link set {nic} up"));
        for address in addresses {
            self.run(pod, &format!("ip addr add {address} dev {nic}"));
        }
    }

    /// A second NIC on the other network, with its default routes in front as a main plugin leaves them.
    pub fn attach_net1(&self, pod: &str, addresses: &[&str]) {
        self.attach(pod, "net1", "eth1", addresses);
        for address in addresses {
            if address.contains(':') {
                self.run(pod, "ip -6 route append default via fd00:200::fe dev net1");
            } else {
                self.run(pod, "ip route prepend default via 172.200.0.1 dev net1");
            }
        }
    }

    /// Calls the coordinator on n1, with an agent that answers `config`; without one the agent is down.
    pub fn call(
        &self,
        command: &str,
        pod: &Pod,
        nic: &str,
        config: Option<&str>,
        extra: &Value,
    ) -> Result<Value, Value> {
        let socket = self.folder.path().join("agent.sock");
        let agent = config.map(|config| Agent::start(&socket, config));
        let plugin = self.folder.path().join("coordinator");
        if !plugin.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_spiderpool"), &plugin).unwrap();
        }
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "underlay", "type": "coordinator", "ipam_unix_socket_path": socket,
            "prevResult": {"cniVersion": "1.1.0", "ips": [], "interfaces": [{"name": nic}]},
        });
        for (key, value) in extra.as_object().unwrap() {
            if !["netns", "nodeWithoutIPv6"].contains(&key.as_str()) {
                conf[key] = value.clone();
            }
        }
        let netns =
            extra.get("netns").map_or_else(|| self.netns_path(pod.name), |path| PathBuf::from(path.as_str().unwrap()));
        // A kernel without IPv6 has none of its settings; here they are hidden, from the node's side alone.
        let hide = if extra.get("nodeWithoutIPv6").is_some() { "mount -t tmpfs none /proc/sys/net/ipv6; " } else { "" };
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.full("n1"), "sh", "-ec", &format!("{hide}exec \"$0\"")])
            .arg(&plugin)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", nic)
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web-0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        let Output { status, stdout, .. } = child.wait_with_output().unwrap();
        drop(agent);
        let reply = if stdout.is_empty() { Value::Null } else { serde_json::from_slice(&stdout).unwrap() };
        if status.success() { Ok(reply) } else { Err(reply) }
    }

    /// ADD with the ordinary configuration; it must succeed.
    pub fn add(&self, pod: &Pod, nic: &str, extra: &Value) {
        self.call("ADD", pod, nic, Some(CONFIG), extra).unwrap_or_else(|error| panic!("ADD {nic}: {error}"));
    }

    pub fn check(&self, pod: &Pod, nic: &str, extra: &Value) {
        self.call("CHECK", pod, nic, Some(CONFIG), extra).unwrap_or_else(|error| panic!("CHECK {nic}: {error}"));
    }

    /// DEL without an agent, which it must not need.
    pub fn del(&self, pod: &Pod, nic: &str, extra: &Value) {
        self.call("DEL", pod, nic, None, extra).unwrap_or_else(|error| panic!("DEL {nic}: {error}"));
    }

    /// Pings until an answer comes, or the deadline passes.
    pub fn pings(&self, from: &str, to: &str) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.attempt(from, &format!("ping -n -c1 -W1 {to}")).is_ok() {
                return true;
            }
        }
        false
    }

    /// A server in a namespace that tells every client the address by which it is seen.
    pub fn serve(&self, name: &str, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let listener = self.netns(name).run(|| TcpListener::bind(address)).unwrap().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let mut request = [0; 4];
                let _ = stream.read_exact(&mut request);
                let _ = write!(stream, "{}", peer.ip());
            }
        });
    }

    /// Connects, sends and reads: the address by which the server sees the client.
    pub fn ask(&self, from: &str, to: &str) -> Result<IpAddr, String> {
        let to: SocketAddr = to.parse().unwrap();
        let job = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"who?")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let answer = self.netns(from).run(job).unwrap().map_err(|error| error.to_string())?;
        answer.parse().map_err(|error| format!("{answer}: {error}"))
    }

    /// What kube-proxy does for a node port with the policy Local, with its rule against invalid packets.
    pub fn node_port(&self, port: u16, to: &str) {
        let family = if to.starts_with('[') { "ip6" } else { "ip" };
        let rules = format!(
            "table {family} port{port} {{ chain pre {{ type nat hook prerouting priority dstnat; tcp dport {port} dnat to {to}\n }}\n\
             chain forward {{ type filter hook forward priority filter; ct state invalid drop\n }}\n }}"
        );
        let file = self.folder.path().join(format!("port{port}.nft"));
        std::fs::write(&file, rules).unwrap();
        self.run("n1", &format!("nft -f {}", file.display()));
    }

    /// Everything that the coordinator may have touched in a namespace, as iproute2 and nft show it.
    pub fn state(&self, name: &str) -> Vec<String> {
        let commands = [
            "ip -br link",
            "ip -o addr",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule",
            "ip -6 rule",
            "ip neigh show nud permanent",
            "ip -6 neigh show nud permanent",
            "nft list ruleset",
            "sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.default.rp_filter",
        ];
        // Local, broadcast and multicast entries of veth0 come and go with it; counters and expiry times move.
        commands.map(|command| format!("# {command}\n{}", self.run(name, command))).into()
    }

    pub fn veth(pod: &Pod) -> String {
        format!("veth{}", &pod.container[..11])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = sh(&format!("ip netns del {name}"));
        }
    }
}

/// An agent that knows one answer.
struct Agent {
    socket: PathBuf,
}

impl Agent {
    fn start(socket: &Path, config: &str) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let body = config.to_owned();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = Vec::new();
                let mut chunk = [0; 1024];
                while !request.ends_with(b"}") {
                    match stream.read(&mut chunk) {
                        Ok(count) if count > 0 => request.extend(&chunk[..count]),
                        _ => break,
                    }
                }
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { socket: socket.to_owned() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn sh(script: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}
