use super::*;
use daemon::Chain;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;

/// An image's folders and a node's folder.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["usr/bin", "sets/cni", "sets/vlan", "bin"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("usr/bin/spiderpool"), "version 1").unwrap();
        fs::write(dir.path().join("sets/cni/vlan"), "standard").unwrap();
        fs::write(dir.path().join("sets/cni/bridge"), "standard").unwrap();
        fs::write(dir.path().join("sets/vlan/vlan"), "better").unwrap();
        Self { dir }
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.bin().join(name)).unwrap()
    }

    fn own(&self) -> Result<Outcome, String> {
        let args = Args { to: self.bin(), from: self.dir.path().join("usr/bin"), sets: false };
        run(&args, &Env::default()).map_err(|error| Chain(&error).to_string())
    }

    fn sets(&self, env: &[(&str, &str)]) -> Result<Outcome, String> {
        let args = Args { to: self.bin(), from: self.dir.path().join("sets"), sets: true };
        run(&args, &env.iter().copied().collect()).map_err(|error| Chain(&error).to_string())
    }
}

#[test]
fn every_name_is_an_executable_file_of_its_own() {
    let node = Node::new();
    assert_eq!(node.own().unwrap().installed, ["coordinator", "multinet", "spiderpool"]);
    let found: Vec<fs::Metadata> =
        wire::PLUGIN_NAMES.iter().map(|name| fs::symlink_metadata(node.bin().join(name)).unwrap()).collect();
    assert!(found.iter().all(|file| file.is_file() && file.nlink() == 1 && file.permissions().mode() & 0o777 == 0o755));
    assert_eq!(node.text("multinet"), "version 1");
}

#[test]
fn only_what_changed_is_replaced() {
    let node = Node::new();
    node.own().unwrap();
    let before = fs::metadata(node.bin().join("spiderpool")).unwrap().ino();
    let again = node.own().unwrap();
    assert_eq!((again.installed.len(), again.unchanged.len()), (0, 3));
    assert_eq!(fs::metadata(node.bin().join("spiderpool")).unwrap().ino(), before);
    fs::write(node.bin().join("coordinator"), "version 0").unwrap();
    assert_eq!(node.own().unwrap().installed, ["coordinator"]);
}

#[test]
fn who_has_the_old_file_open_keeps_it() {
    let node = Node::new();
    node.own().unwrap();
    let mut old = File::open(node.bin().join("spiderpool")).unwrap();
    fs::write(node.dir.path().join("usr/bin/spiderpool"), "version 2").unwrap();
    node.own().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut old, &mut text).unwrap();
    assert_eq!((text.as_str(), node.text("spiderpool").as_str()), ("version 1", "version 2"));
}

#[test]
fn a_file_that_cannot_be_replaced_leaves_the_others_as_they_were() {
    let node = Node::new();
    node.own().unwrap();
    fs::write(node.dir.path().join("usr/bin/spiderpool"), "version 2").unwrap();
    let obstacle = node.bin().join("spiderpool");
    fs::remove_file(&obstacle).unwrap();
    fs::create_dir(&obstacle).unwrap();
    let error = node.own().unwrap_err();
    assert!(error.starts_with(&format!("cannot replace {}: ", obstacle.display())), "{error}");
    assert!(!node.bin().join(".spiderpool-multinet.tmp").exists());
    for name in ["coordinator", "multinet"] {
        assert_eq!(node.text(name), "version 1");
    }
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let node = Node::new();
    fs::write(node.bin().join(".spiderpool-spiderpool.tmp"), "ver").unwrap();
    node.own().unwrap();
    assert!(!node.bin().join(".spiderpool-spiderpool.tmp").exists());
}

#[test]
fn sets_are_chosen_by_upstreams_variables_and_later_ones_win() {
    let node = Node::new();
    assert_eq!(node.sets(&[("INSTALL_CNI_PLUGINS", "false")]).unwrap(), Outcome::default());
    node.sets(&[("INSTALL_CNI_PLUGINS", "true"), ("INSTALL_VLAN_PLUGIN", "true")]).unwrap();
    assert_eq!((node.text("bridge").as_str(), node.text("vlan").as_str()), ("standard", "better"));
    let error = node.sets(&[("INSTALL_OVS_PLUGIN", "true")]).unwrap_err();
    assert!(error.starts_with("environment variable INSTALL_OVS_PLUGIN: true, but this image has no such"), "{error}");
    let error = node.sets(&[("INSTALL_CNI_PLUGINS", "perhaps")]).unwrap_err();
    assert!(error.starts_with("environment variable INSTALL_CNI_PLUGINS: \"perhaps\" is not"), "{error}");
}

#[test]
fn files_of_others_are_replaced_but_not_listed_as_ours() {
    let node = Node::new();
    fs::write(node.bin().join("bridge"), "distribution's").unwrap();
    node.sets(&[("INSTALL_CNI_PLUGINS", "true")]).unwrap();
    assert_eq!(node.text("bridge"), "standard");
    let ledger = Ledger::read(&node.bin()).unwrap();
    assert_eq!(ledger.names().collect::<Vec<_>>(), ["vlan"]);
    node.sets(&[("INSTALL_CNI_PLUGINS", "true")]).unwrap();
    assert_eq!(Ledger::read(&node.bin()).unwrap(), ledger, "the second run does not adopt it");
}

#[test]
fn missing_folders_and_files_are_named() {
    let node = Node::new();
    fs::remove_file(node.dir.path().join("usr/bin/spiderpool")).unwrap();
    assert!(node.own().unwrap_err().starts_with(&format!("cannot read {}", node.dir.path().display())));
    let nowhere = node.dir.path().join("nowhere");
    let error = install(&nowhere, &BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(error, format!("--to {}: no such folder; mount the node's CNI folder there", nowhere.display()));
}

#[test]
fn installers_take_turns() {
    let node = Node::new();
    let lock = lock(&node.bin()).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| node.own());
        std::thread::sleep(Duration::from_millis(150));
        assert!(!second.is_finished() && !node.bin().join("spiderpool").exists());
        drop(lock);
        second.join().unwrap().unwrap();
    });
}
