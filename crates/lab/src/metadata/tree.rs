//! The keys below `meta-data/` of one machine, as Alibaba Cloud's help page "Instance metadata items" lists them.

use crate::vpc::addresses::Addresses;
use crate::vpc::config::{Config, Instance, Nic};
use crate::vpc::fabric::NicView;
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The NIC that an address is registered for.
pub fn owner(nics: &[NicView], address: IpAddr) -> Option<&NicView> {
    let owns = |addresses: &Addresses| {
        let (first, last) = addresses.ends();
        first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
    };
    nics.iter().find(|nic| nic.addresses.iter().any(owns))
}

/// Full keys and their values.
#[derive(Debug)]
pub struct Tree {
    values: BTreeMap<String, String>,
}

impl Tree {
    /// The keys of a machine, with the addresses registered now.
    pub fn new(config: &Config, instance: &Instance, nics: &[NicView]) -> Self {
        let mut tree = Self { values: BTreeMap::new() };
        tree.put("instance-id", &instance.id);
        tree.put("instance/instance-type", &instance.instance_type);
        tree.put("region-id", &instance.region);
        tree.put("zone-id", &instance.zone);
        tree.put("vpc-id", &config.vpc.id);
        tree.put("vpc-cidr-block", config.vpc.ipv4);
        if let Some(primary) = instance.nics.first() {
            let mac = primary.mac;
            tree.put("mac", mac);
            tree.put("vswitch-id", &primary.vswitch);
            tree.put("private-ipv4", v4(&primary.primary).next().map(|own| own.to_string()).unwrap_or_default());
            if let Some(vswitch) = config.vswitch(&primary.vswitch) {
                tree.put("vswitch-cidr-block", vswitch.ipv4);
            }
            let registered = registered(nics, primary);
            let secondary: Vec<_> =
                v4(&registered.single).filter(|address| !primary.primary.contains(address)).collect();
            tree.put_list("sub-private-ipv4-list", &secondary, quoted);
        }
        for nic in &instance.nics {
            tree.put_nic(config, nic, &registered(nics, nic));
        }
        tree
    }

    fn put_nic(&mut self, config: &Config, nic: &Nic, registered: &Registered) {
        let at = |key: &str| format!("network/interfaces/macs/{}/{key}", nic.mac);
        self.put(&at("network-interface-id"), &nic.id);
        self.put(&at("vswitch-id"), &nic.vswitch);
        self.put(&at("vpc-id"), &config.vpc.id);
        self.put(&at("vpc-cidr-block"), config.vpc.ipv4);
        if let Some(own) = v4(&nic.primary).next() {
            self.put(&at("primary-ip-address"), own);
        }
        self.put_list(&at("private-ipv4s"), &v4(&registered.single).collect::<Vec<_>>(), quoted);
        let prefixes: Vec<_> = registered.prefixes.iter().filter(|prefix| matches!(prefix, IpNet::V4(_))).collect();
        self.put_list(&at("ipv4-prefixes"), &prefixes, quoted);
        // As the real service writes it: without quotes.
        let ipv6: Vec<_> = registered.single.iter().filter(|address| address.is_ipv6()).collect();
        self.put_list(&at("ipv6s"), &ipv6, |address| address.to_string());
        let Some(vswitch) = config.vswitch(&nic.vswitch) else { return };
        self.put(&at("netmask"), vswitch.ipv4.netmask());
        self.put(&at("gateway"), vswitch.ipv4_gateway);
        self.put(&at("vswitch-cidr-block"), vswitch.ipv4);
        if let (Some(prefix), Some(gateway)) = (vswitch.ipv6, vswitch.ipv6_gateway) {
            self.put(&at("vswitch-ipv6-cidr-block"), prefix);
            self.put(&at("ipv6-gateway"), gateway);
            self.put_list(&at("vpc-ipv6-cidr-blocks"), &config.vpc.ipv6, |block| block.to_string());
        }
    }

    fn put(&mut self, key: &str, value: impl ToString) {
        self.values.insert(key.to_owned(), value.to_string());
    }

    /// An empty list is an absent key.
    fn put_list<T>(&mut self, key: &str, items: &[T], show: impl Fn(&T) -> String) {
        if !items.is_empty() {
            let shown: Vec<_> = items.iter().map(show).collect();
            self.put(key, format!("[{}]", shown.join(",")));
        }
    }

    /// The value of a key, or what lies below it: one name per line, with a slash if there is more below.
    pub fn lookup(&self, key: &str) -> Option<String> {
        if key == "all" {
            return Some(Value::Object(self.nested("")).to_string());
        }
        if let Some(value) = self.values.get(key) {
            return Some(value.clone());
        }
        let head = if key.is_empty() { String::new() } else { format!("{key}/") };
        let below: BTreeSet<_> = self.below(&head).collect();
        (!below.is_empty()).then(|| below.into_iter().collect::<Vec<_>>().join("\n"))
    }

    fn below<'a>(&'a self, head: &'a str) -> impl Iterator<Item = &'a str> {
        let rest = self.values.keys().filter_map(move |key| key.strip_prefix(head));
        rest.map(|rest| rest.find('/').map_or(rest, |slash| &rest[..=slash]))
    }

    fn nested(&self, head: &str) -> Map<String, Value> {
        let entry = |name: &str| match name.strip_suffix('/') {
            Some(name) => (name.to_owned(), Value::Object(self.nested(&format!("{head}{name}/")))),
            None => (name.to_owned(), Value::String(self.values[&format!("{head}{name}")].clone())),
        };
        self.below(head).collect::<BTreeSet<_>>().into_iter().map(entry).collect()
    }
}

/// What the switch has registered for a NIC.
struct Registered {
    single: Vec<IpAddr>,
    prefixes: Vec<IpNet>,
}

fn registered(nics: &[NicView], nic: &Nic) -> Registered {
    let mut found = Registered { single: Vec::new(), prefixes: Vec::new() };
    for addresses in nics.iter().filter(|view| view.id == nic.id).flat_map(|view| &view.addresses) {
        match addresses.single() {
            Ok(single) => found.single.extend(single),
            Err(prefix) => found.prefixes.push(prefix),
        }
    }
    found
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(IpAddr::is_ipv4)
}

fn quoted(value: &impl ToString) -> String {
    format!("\"{}\"", value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpc::fabric::Fabric;
    use crate::vpc::reference;

    fn tree(change: impl FnOnce(&mut Fabric)) -> Tree {
        let config = reference::config("x-", "/x".into());
        let mut fabric = Fabric::new(&config).unwrap();
        change(&mut fabric);
        Tree::new(&config, config.instance("worker").unwrap(), &fabric.nics())
    }

    #[test]
    fn identity_and_nics_are_there() {
        let tree = tree(|_| {});
        for (key, value) in [
            ("region-id", "cn-hangzhou"),
            ("instance-id", "i-bp1spiderlab0000worker"),
            ("mac", "00:16:3e:00:01:b8"),
            ("private-ipv4", "172.31.199.184"),
            ("network/interfaces/macs", "00:16:3e:00:01:b8/\n00:16:3e:00:02:9b/"),
            ("network/interfaces/macs/00:16:3e:00:02:9b/primary-ip-address", "192.168.0.155"),
            ("network/interfaces/macs/00:16:3e:00:02:9b/gateway", "192.168.0.253"),
            ("network/interfaces/macs/00:16:3e:00:02:9b/netmask", "255.255.255.0"),
            ("network/interfaces/macs/00:16:3e:00:02:9b/ipv6-gateway", "fd00:192:168::fd"),
            (
                "network/interfaces/macs/00:16:3e:00:02:9b/private-ipv4s",
                r#"["192.168.0.155","192.168.0.161","192.168.0.162","192.168.0.163","192.168.0.164","192.168.0.165"]"#,
            ),
            ("network", "interfaces/"),
        ] {
            assert_eq!(tree.lookup(key).as_deref(), Some(value), "{key}");
        }
        let v6 = tree.lookup("network/interfaces/macs/00:16:3e:00:01:b8/ipv6s").unwrap();
        assert!(v6.starts_with("[fd00:172:31::184,fd00:172:31::190,fd00:172:31::191,"), "{v6}");
    }

    #[test]
    fn absent_and_empty_keys_are_not_found() {
        let tree = tree(|_| {});
        for key in [
            "nothing",
            "network/interfaces/macs/00:16:3e:00:01:b7",
            "network/interfaces/macs/00:16:3e:00:01:b8/ipv4-prefixes",
        ] {
            assert_eq!(tree.lookup(key), None, "{key}");
        }
    }

    #[test]
    fn what_is_assigned_later_is_shown() {
        let tree = tree(|fabric| {
            for text in ["172.31.200.1-172.31.200.2", "172.31.201.0/28"] {
                fabric.register("eni-bp1spiderlab0worker0", &text.parse().unwrap()).unwrap();
            }
        });
        let single = tree.lookup("network/interfaces/macs/00:16:3e:00:01:b8/private-ipv4s").unwrap();
        assert!(single.ends_with(r#","172.31.200.1","172.31.200.2"]"#), "{single}");
        let prefixes = tree.lookup("network/interfaces/macs/00:16:3e:00:01:b8/ipv4-prefixes").unwrap();
        assert_eq!(prefixes, r#"["172.31.201.0/28"]"#);
    }

    #[test]
    fn the_whole_tree_is_one_json_object() {
        let all: Value = serde_json::from_str(&tree(|_| {}).lookup("all").unwrap()).unwrap();
        assert_eq!(all["region-id"], "cn-hangzhou");
        assert_eq!(all["network"]["interfaces"]["macs"]["00:16:3e:00:01:b8"]["gateway"], "172.31.207.253");
    }
}
