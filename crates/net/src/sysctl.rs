//! `net.*` settings of the calling thread's network namespace.

use std::fs;
use std::path::PathBuf;

use crate::Error;

/// Keys are paths below `/proc/sys/net`, such as `ipv4/conf/all/rp_filter`: with dots, interface names would be
/// ambiguous.
fn file(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

/// Reads a setting; `None` if the kernel or the interface does not have it.
pub fn read(key: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(file(key)) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("reading net/{key}"), error)),
    }
}

/// Writes a setting.
pub fn write(key: &str, value: &str) -> Result<(), Error> {
    fs::write(file(key), value).map_err(|error| Error::io(format!("setting net/{key} to {value}"), error))
}
