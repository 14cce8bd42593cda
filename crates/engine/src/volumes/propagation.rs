//! Which mounts made later, on the host or in the container, are seen on the other side of a bind.
//!
//! A bind can only pass on what its source's mount takes part in, and what the container's root does not cut off: the root is
//! made to take part as far as one of the binds asks for.

use crate::error::{During, Error};
use crate::record::{MountKind, MountPoint, Record};
use crate::{Config, Engine};
use std::path::Path;

/// The propagation of a container's root that these need; None for the runtime's own.
pub(crate) fn of_root(mounts: &[MountPoint]) -> Option<String> {
    let any = |words: [&str; 2]| mounts.iter().any(|m| words.contains(&m.propagation.as_str()));
    match (any(["shared", "rshared"]), any(["slave", "rslave"])) {
        (true, _) => Some("shared".into()),
        (false, true) => Some("rslave".into()),
        (false, false) => None,
    }
}

/// The propagation of a bind whose source holds the daemon's own directories, or is in them, with Docker's rules: what is
/// mounted there comes and goes with containers, and must not be kept by a copy.
pub(super) fn beside_the_daemon(config: &Config, point: &mut MountPoint) -> Result<(), Error> {
    let source = Path::new(&point.source);
    let root = &config.data_root;
    let meets = |own: &Path| own.starts_with(source) || source.starts_with(own);
    match point.propagation.as_str() {
        "" if (meets(root) || meets(&config.exec_root)) && takes_part(source)? != Part::None => {
            point.propagation = "rslave".into();
        }
        "" | "rslave" | "rshared" => {}
        other if meets(root) => {
            return Err(Error::invalid(format!(
                "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount source is \
                 within the daemon root, daemon root: {:?}, bind mount source: {:?}, propagation: {other:?}",
                root.display().to_string(),
                point.source,
            )));
        }
        _ => {}
    }
    Ok(())
}

impl Engine {
    /// Refuses binds that pass on what their source's mount does not take part in. Blocking.
    pub(crate) fn check_propagation(&self, record: &Record) -> Result<(), Error> {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Bind) {
            let (wanted, what) = match point.propagation.as_str() {
                "shared" | "rshared" => (Part::Shared, "a shared mount"),
                "slave" | "rslave" => (Part::Slave, "a shared or slave mount"),
                _ => continue,
            };
            let source = Path::new(&point.source);
            if takes_part(source)? < wanted {
                let at = mount_of(source)?.map(|m| m.target.display().to_string()).unwrap_or_default();
                return Err(Error::invalid(format!(
                    "path {} is mounted on {at} but it is not {what}",
                    point.source
                )));
            }
        }
        Ok(())
    }
}

/// How a mount takes part in what happens elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    None,
    /// It is told.
    Slave,
    /// It is told, and tells.
    Shared,
}

fn takes_part(path: &Path) -> Result<Part, Error> {
    Ok(match mount_of(path)? {
        Some(mount) if mount.is_shared => Part::Shared,
        Some(mount) if mount.is_slave => Part::Slave,
        _ => Part::None,
    })
}

/// The mount that the path is on.
#[expect(
    clippy::disallowed_methods,
    reason = "a path of the host's own, compared with its mounts and not opened"
)]
fn mount_of(path: &Path) -> Result<Option<mount::Mount>, Error> {
    let doing = || format!("look for the mount of {}", path.display());
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mounts = mount::list().during(doing)?;
    // Of several at one place the last covers the others.
    Ok(mounts
        .into_iter()
        .filter(|m| real.starts_with(&m.target))
        .max_by_key(|m| m.target.components().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_follows_its_binds() {
        let point = |propagation: &str| {
            let text = format!(
                r#"{{"kind":"bind","name":"","source":"/","destination":"/d","read_write":true,"propagation":"{propagation}","mode":"","copy_up":false,"anonymous":false}}"#
            );
            serde_json::from_str::<MountPoint>(&text).unwrap()
        };
        let check = |words: &[&str], expected: Option<&str>| {
            let mounts: Vec<MountPoint> = words.iter().map(|w| point(w)).collect();
            assert_eq!(of_root(&mounts).as_deref(), expected, "{words:?}");
        };
        check(&[], None);
        check(&["", "rprivate", "private"], None);
        check(&["", "rslave"], Some("rslave"));
        check(&["slave", "private"], Some("rslave"));
        check(&["slave", "rshared"], Some("shared"));
        check(&["shared"], Some("shared"));
    }
}
