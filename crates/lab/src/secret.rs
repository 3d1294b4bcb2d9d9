//! Files and directories for their owner alone: whoever reads a kubeconfig of the lab is the administrator of its cluster.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file in one step, whatever was there before; at no time can anybody else read it.
pub fn write(file: &Path, text: &str) -> Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    put(&part, text).and_then(|()| fs::rename(&part, file)).with_context(|| format!("cannot write {}", file.display()))
}

fn put(part: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(0o600).open(part)?.write_all(text.as_bytes())
}

/// Makes a directory, and those above it; one that is there already is closed to others as well.
pub fn make_dir(dir: &Path) -> Result<()> {
    let made = || {
        if let Some(above) = dir.parent() {
            fs::create_dir_all(above)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::set_permissions(dir, Permissions::from_mode(0o700)),
        }
    };
    made().with_context(|| format!("cannot make {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_secret_is_its_owners_even_where_others_could_read_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kubeconfig");
        for old in [&file, &dir.path().join("kubeconfig.part")] {
            fs::write(old, "old").unwrap();
            fs::set_permissions(old, Permissions::from_mode(0o644)).unwrap();
        }
        let reader = File::open(&file).unwrap();
        write(&file, "token").unwrap();
        assert_eq!((mode(&file), fs::read_to_string(&file).unwrap().as_str()), (0o600, "token"));
        assert_eq!(io::read_to_string(reader).unwrap(), "old", "who opened the file before sees no token");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_of_secrets_is_closed_also_if_it_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let (new, open) = (dir.path().join("a/new"), dir.path().join("open"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        for dir in [&new, &open] {
            make_dir(dir).unwrap();
            assert_eq!(mode(dir), 0o700, "{}", dir.display());
        }
    }
}
