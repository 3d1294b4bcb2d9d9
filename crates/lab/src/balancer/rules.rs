//! The L4 half as an nftables ruleset, made anew at every change and loaded in one transaction. Connections under way keep
//! their node: the kernel remembers the translation, not the rule.

use super::model::{Mode, Protocol, View};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The ruleset for these Services. A listener without a healthy node has no rule: the address is local, so the kernel
/// refuses the connection at once.
pub fn ruleset<'a>(services: impl Iterator<Item = &'a View>) -> String {
    let mut rules = String::new();
    for view in services.filter(|view| view.service.mode == Mode::L4 && !view.healthy.is_empty()) {
        for listener in &view.service.listeners {
            let protocol = match listener.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            };
            let target = target(view.healthy.iter(), listener.node_port);
            writeln!(rules, "    ip daddr {} {protocol} dport {} dnat ip {target}", view.address, listener.port)
                .expect("writing to a string");
        }
    }
    format!(
        "table ip balancer\ndelete table ip balancer\ntable ip balancer {{\n  \
         chain prerouting {{\n    type nat hook prerouting priority dstnat;\n{rules}  }}\n  \
         chain forward {{\n    type filter hook forward priority filter; policy drop;\n    ct status dnat accept\n  }}\n}}\n"
    )
}

fn target<'a>(nodes: impl ExactSizeIterator<Item = &'a Ipv4Addr>, port: u16) -> String {
    let count = nodes.len();
    let entries: Vec<_> = nodes.enumerate().map(|(index, node)| format!("{index} : {node} . {port}")).collect();
    format!("addr . port to numgen random mod {count} map {{ {} }}", entries.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(mode: &str, healthy: &[&str]) -> View {
        let service = format!(
            r#"{{"mode":"{mode}","listeners":[{{"port":999,"protocol":"TCP","nodePort":30999}}],"backends":["172.31.199.183","172.31.199.184"]}}"#
        );
        View {
            name: "default/tcp-service".into(),
            address: "203.0.113.20".parse().unwrap(),
            service: serde_json::from_str(&service).unwrap(),
            healthy: healthy.iter().map(|node| node.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn only_healthy_nodes_of_l4_services_get_connections() {
        let text = ruleset([view("l4", &["172.31.199.184"]), view("l7", &["172.31.199.183"])].iter());
        let rule = "ip daddr 203.0.113.20 tcp dport 999 dnat ip addr . port to numgen random mod 1 map { 0 : 172.31.199.184 . 30999 }";
        assert!(text.contains(rule), "{text}");
        assert!(!text.contains("172.31.199.183"), "{text}");
        assert!(!ruleset([view("l4", &[])].iter()).contains("dnat ip"));
    }
}
