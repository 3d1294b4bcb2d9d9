//! The guide's own commands, read from its text: what operators are told is what is run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The public-cloud guide.
pub const FILE: &str = "docs/alicloud.md";

/// The scripts of the guide, in its order.
#[derive(Debug, PartialEq, Eq)]
pub struct Guide {
    /// Puts the product into the cluster.
    pub install: String,
    /// Brings networks, pools, applications and Services.
    pub apply: String,
    /// Looks at what came of it.
    pub look: String,
    /// Tries the network.
    pub try_out: String,
    /// Tells the API an instance's id; runs on each instance.
    pub provider: String,
    /// Looks at the balancers.
    pub balancers: String,
}

impl Guide {
    /// That of the repository.
    pub fn read(repository: &Path) -> Result<Self> {
        let path = repository.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::of(&text).with_context(|| format!("{FILE} is not the guide as the walk-through knows it"))
    }

    fn of(text: &str) -> Result<Self> {
        let scripts = scripts(text);
        let kinds: Vec<&str> = scripts.iter().map(|(kind, _)| kind.as_str()).collect();
        // `node` after the language: to be run on every node.
        let expected = ["sh", "sh", "sh", "sh", "sh node", "sh"];
        ensure!(kinds == expected, "its blocks of commands are {kinds:?}, expected {expected:?}");
        let mut scripts = scripts.into_iter().map(|(_, script)| script);
        let mut next = || scripts.next().unwrap_or_default();
        Ok(Self { install: next(), apply: next(), look: next(), try_out: next(), provider: next(), balancers: next() })
    }
}

/// The fenced blocks of shell commands, with what stands behind the fence.
fn scripts(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = None::<String>;
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(info.to_owned());
                if is_shell(info) {
                    found.push((info.to_owned(), String::new()));
                }
            }
            (Some(_), Some(_)) => open = None,
            (None, Some(info)) if is_shell(info) => {
                if let Some((_, script)) = found.last_mut() {
                    script.push_str(line);
                    script.push('\n');
                }
            }
            _ => {}
        }
    }
    found
}

fn is_shell(info: &str) -> bool {
    info.split(' ').next() == Some("sh")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
    }

    #[test]
    fn the_guide_has_the_commands_of_the_walk_through() {
        let guide = Guide::read(repository()).unwrap();
        assert!(guide.install.starts_with("helm install spiderpool charts/spiderpool --namespace kube-system"));
        assert!(guide.apply.starts_with("kubectl apply -f scenarios/alicloud/\n"));
        assert!(guide.provider.contains("/latest/meta-data/instance-id"));
    }

    #[test]
    fn both_languages_have_the_same_commands() {
        let chinese = fs::read_to_string(repository().join("docs/alicloud-zh_CN.md")).unwrap();
        assert_eq!(Guide::of(&chinese).unwrap(), Guide::read(repository()).unwrap());
    }

    #[test]
    fn the_install_guide_installs_the_same() {
        let install = fs::read_to_string(repository().join("docs/install.md")).unwrap();
        assert!(install.contains(&Guide::read(repository()).unwrap().install));
    }

    #[test]
    fn other_blocks_are_no_commands() {
        let text = "```yaml\na: b\n```\n```sh\nx\ny\n```\n   ```sh node\n   z\n   ```\n";
        let expected = [("sh", "x\ny\n"), ("sh node", "   z\n")];
        assert_eq!(scripts(text), expected.map(|(info, script)| (info.to_owned(), script.to_owned())));
    }
}
