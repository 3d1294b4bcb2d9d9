//! The guides' own commands, read from their text: what operators are told is what is run.

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
        let kinds: Vec<&str> = scripts.iter().map(|script| script.kind.as_str()).collect();
        // `node` after the language: to be run on every node.
        let expected = ["sh", "sh", "sh", "sh", "sh node", "sh"];
        ensure!(kinds == expected, "its blocks of commands are {kinds:?}, expected {expected:?}");
        let mut scripts = scripts.into_iter().map(|script| script.text);
        let mut next = || scripts.next().unwrap_or_default();
        Ok(Self { install: next(), apply: next(), look: next(), try_out: next(), provider: next(), balancers: next() })
    }
}

/// The scripts of one page of `docs/`.
#[derive(Debug)]
pub struct Page {
    name: String,
    scripts: Vec<Script>,
}

impl Page {
    /// A page of the repository, such as `upgrade.md`.
    pub fn read(repository: &Path, name: &str) -> Result<Self> {
        let path = repository.join("docs").join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name: name.to_owned(), scripts: scripts(&text) })
    }

    /// The script below a heading, counted from 0.
    pub fn script(&self, heading: &str, at: usize) -> Result<&str> {
        let mut below = self.scripts.iter().filter(|script| script.heading == heading);
        let script = below.nth(at).map(|script| script.text.as_str());
        script.with_context(|| format!("docs/{} has no block of commands {at} below \"{heading}\"", self.name))
    }
}

/// A fenced block of shell commands.
#[derive(Debug, PartialEq, Eq)]
struct Script {
    /// The heading that it stands below.
    heading: String,
    /// What stands behind the fence: `sh`, or `sh node`.
    kind: String,
    text: String,
}

fn scripts(text: &str) -> Vec<Script> {
    let mut found: Vec<Script> = Vec::new();
    let (mut heading, mut open) = (String::new(), None::<String>);
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(info.to_owned());
                if is_shell(info) {
                    let (heading, kind) = (heading.clone(), info.to_owned());
                    found.push(Script { heading, kind, text: String::new() });
                }
            }
            (Some(_), Some(_)) => open = None,
            (None, Some(info)) if is_shell(info) => {
                if let Some(script) = found.last_mut() {
                    script.text.push_str(line);
                    script.text.push('\n');
                }
            }
            (None, None) if line.starts_with('#') => heading = line.trim_start_matches('#').trim().to_owned(),
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
        for name in ["alicloud", "install", "upgrade", "uninstall", "upgrade-from-upstream"] {
            let commands = |file: &str| -> Vec<(String, String)> {
                let page = Page::read(repository(), file).unwrap();
                page.scripts.into_iter().map(|script| (script.kind, script.text)).collect()
            };
            let english = commands(&format!("{name}.md"));
            assert!(!english.is_empty(), "{name}.md has no commands");
            assert_eq!(commands(&format!("{name}-zh_CN.md")), english, "{name}");
        }
    }

    #[test]
    fn the_install_guide_installs_the_same() {
        let install = Page::read(repository(), "install.md").unwrap();
        let guide = Guide::read(repository()).unwrap();
        assert!(install.script("Install", 0).unwrap().contains(&guide.install));
    }

    #[test]
    fn other_blocks_are_no_commands() {
        let text = "# A\n```yaml\n# a: b\n```\n```sh\nx\n# y\n```\n## B\n   ```sh node\n   z\n   ```\n";
        let script = |heading: &str, kind: &str, text: &str| {
            let [heading, kind, text] = [heading, kind, text].map(str::to_owned);
            Script { heading, kind, text }
        };
        assert_eq!(scripts(text), [script("A", "sh", "x\n# y\n"), script("B", "sh node", "   z\n")]);
    }
}
