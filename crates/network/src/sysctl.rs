//! Kernel settings of the calling thread's network namespace, below `/proc/sys/net`.

use crate::{Error, Result};
use std::path::Path;

/// Sets the value unless it is set already: some settings, `ip_forward` above all, have effects when written.
///
/// With `optional`, a kernel that lacks the setting (one without IPv6) is fine. Names come from this crate, with
/// interface names that were checked.
pub(crate) fn set(name: &str, value: &str, optional: bool) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    let result = std::fs::read(&path).and_then(|now| {
        if now.trim_ascii() == value.as_bytes() { Ok(()) } else { std::fs::write(&path, value) }
    });
    match result {
        Err(source) if optional && source.kind() == std::io::ErrorKind::NotFound => {
            drop(source);
            Ok(())
        }
        Err(source) => Err(Error::Sysctl { path, value: value.into(), source }),
        Ok(()) => Ok(()),
    }
}

/// Whether the setting can be read and has the value.
pub(crate) fn is(name: &str, value: &str) -> bool {
    std::fs::read(Path::new("/proc/sys/net").join(name)).is_ok_and(|now| now.trim_ascii() == value.as_bytes())
}
