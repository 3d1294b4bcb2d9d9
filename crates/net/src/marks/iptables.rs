//! The marks by `iptables`, for kernels without nftables. `iptables-legacy` comes first: where nftables is missing,
//! an `iptables` that is built upon it is of no use.

use std::process::Command;

use super::MARK;
use crate::Family;

const PROGRAMS: [[&str; 2]; 2] = [["iptables-legacy", "iptables"], ["ip6tables-legacy", "ip6tables"]];

/// The rules, each as chain and specification.
fn rules(interface: &str) -> [(&'static str, String); 2] {
    [
        (
            "PREROUTING",
            format!("-i {interface} -m conntrack --ctstate NEW -j CONNMARK --set-xmark {MARK:#x}/{MARK:#x}"),
        ),
        (
            "OUTPUT",
            format!(
                "-m conntrack --ctdir REPLY -m connmark --mark {MARK:#x}/{MARK:#x} -j MARK --set-xmark {MARK:#x}/{MARK:#x}"
            ),
        ),
    ]
}

/// Whether the thread's namespace has tables of `iptables-legacy` at all, which costs no process to find out. A kernel
/// may list nftables rules and still not be able to make ours.
pub(super) fn in_use() -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|name| name == "mangle"))
}

pub(super) fn installed(interface: &str, families: &[Family]) -> bool {
    let there = |family: &Family, (chain, rule): &(&str, String)| run(*family, "-C", chain, rule).is_ok();
    families.iter().all(|family| rules(interface).iter().all(|rule| there(family, rule)))
}

pub(super) fn install(interface: &str, families: &[Family]) -> Result<(), String> {
    for family in families {
        for (chain, rule) in rules(interface) {
            if run(*family, "-C", chain, &rule).is_err() {
                run(*family, "-A", chain, &rule)?;
            }
        }
    }
    Ok(())
}

pub(super) fn remove(interface: &str, families: &[Family]) {
    for family in families {
        for (chain, rule) in rules(interface) {
            // Absent rules are no error.
            let _ = run(*family, "-D", chain, &rule);
        }
    }
}

/// Runs the first program of the family that is there. A child inherits the namespace of the thread.
fn run(family: Family, action: &str, chain: &str, rule: &str) -> Result<(), String> {
    let programs = &PROGRAMS[usize::from(family == Family::V6)];
    let mut absent = String::new();
    for program in programs {
        let arguments = ["-w", "5", "-t", "mangle", action, chain].into_iter().chain(rule.split(' '));
        match Command::new(program).args(arguments).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{program} -t mangle {action} {chain} {rule}: {}", said.trim()));
            }
            Err(error) => absent = format!("{program}: {error}"),
        }
    }
    Err(absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Netns;

    struct Namespace(String);

    impl Namespace {
        fn new() -> Self {
            let name = format!("spiderpool-{}-iptables", std::process::id());
            assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
            Self(name)
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    #[test]
    #[ignore = "netns"]
    fn the_rules_are_made_once_seen_and_removed() {
        let namespace = Namespace::new();
        let seen = || {
            let listed = Command::new("iptables-legacy").args(["-t", "mangle", "-S"]).output().unwrap();
            let text = String::from_utf8(listed.stdout).unwrap();
            text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect::<Vec<_>>()
        };
        let job = || {
            assert!(!in_use() && !installed("veth0", &Family::BOTH));
            install("veth0", &Family::BOTH).unwrap();
            assert!(in_use() && installed("veth0", &Family::BOTH));
            install("veth0", &Family::BOTH).unwrap();
            let made = seen();
            remove("veth0", &Family::BOTH);
            (made, seen(), installed("veth0", &[Family::V6]))
        };
        let (made, rest, six) = Netns::named(&namespace.0).unwrap().run(job).unwrap();
        let expected = [
            "-A PREROUTING -i veth0 -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x1/0x1",
            "-A OUTPUT -m conntrack --ctdir REPLY -m connmark --mark 0x1/0x1 -j MARK --set-xmark 0x1/0x1",
        ];
        assert_eq!(made, expected);
        assert!(rest.is_empty() && !six, "{rest:?}");
    }
}
