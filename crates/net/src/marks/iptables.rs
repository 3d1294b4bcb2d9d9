//! The marks by `iptables`, for kernels without nftables. `iptables-legacy` comes first: where nftables is missing,
//! an `iptables` that is built upon it is of no use.

use std::process::Command;

use super::MARK;
use crate::Family;

const PROGRAMS: [[&str; 2]; 2] = [["iptables-legacy", "iptables"], ["ip6tables-legacy", "ip6tables"]];

/// The rules, each as chain and specification.
fn rules(interface: &str) -> [(&'static str, String); 2] {
    [
        ("PREROUTING", format!("-i {interface} -m conntrack --ctstate NEW -j CONNMARK --set-xmark {MARK:#x}/{MARK:#x}")),
        ("OUTPUT", format!("-m conntrack --ctdir REPLY -m connmark --mark {MARK:#x}/{MARK:#x} -j MARK --set-xmark {MARK:#x}/{MARK:#x}")),
    ]
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
