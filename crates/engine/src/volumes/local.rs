//! Options of the local driver: `type`, `device` and `o` as of mount(8), mounted on the volume's directory while a
//! container uses it.

use super::plugin::Plugin;
use super::quota::{self, SIZE};
use crate::error::{During, Error, IoDuring};
use crate::record::{ContainerId, MountKind, Record};
use crate::{Engine, Volume};
use mount::FileSystem;
use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::Path;

/// Refuses options that the driver does not have, and halves of a mount, in Docker's words.
fn check(options: &BTreeMap<String, String>) -> Result<(), Error> {
    if let Some(unknown) = options.keys().find(|k| !matches!(k.as_str(), "type" | "device" | "o" | SIZE)) {
        return Err(Error::invalid(format!("invalid option: {unknown:?}")));
    }
    let of = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    if of("type") == "cifs" && has_port(of("device")) {
        return Err(Error::invalid("port not allowed in CIFS device URL, include 'port' in 'o='"));
    }
    let is_mount = options.keys().any(|key| key != SIZE);
    if let Some(missing) = ["device", "type"].iter().find(|key| is_mount && of(key).is_empty()) {
        return Err(Error::invalid(format!("missing required option: {missing:?}")));
    }
    if is_mount && quota::wanted(options)?.is_some() {
        return Err(Error::invalid(
            "conflicting options: size limits a directory of this host, not a device",
        ));
    }
    if options.values().any(|v| v.contains('\0')) {
        return Err(Error::invalid("a NUL byte in a volume's options"));
    }
    Ok(())
}

/// Whether a share (`//server/share`) names a port.
fn has_port(device: &str) -> bool {
    let host = device.split_once("//").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    let port = host.and_then(|h| h.rsplit_once(':')).map(|(_, port)| port);
    port.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

impl Engine {
    /// Refuses options of a new volume that its driver does not have; those of plugins are theirs to judge. Blocking.
    pub(super) fn check_options(
        &self,
        driver: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        if !super::is_local(driver) {
            return Ok(());
        }
        check(options)?;
        self.check_quota(options)
    }

    /// Mounts what the record's volumes need before its task is made. Blocking.
    pub(super) fn mount_volumes(&self, record: &Record) -> Result<(), Error> {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            self.mount_volume(&self.volume_record(&point.name)?, &record.id)?;
        }
        Ok(())
    }

    /// Mounts a volume with options for `user`, unless it is mounted already.
    pub(super) fn mount_volume(&self, volume: &Volume, user: &ContainerId) -> Result<(), Error> {
        if !volume.is_mounted_when_used() {
            return Ok(());
        }
        let users = self.volumes.users(&volume.name);
        let mut users = users.lock().expect("no holder panics");
        let target = self.volume_path(&volume.name);
        let doing =
            || format!("error while mounting volume '{}': failed to mount local volume", target.display());
        if !mount::is_mounted(&target).during(doing)? {
            if super::is_local(&volume.driver) {
                mount_on(volume, &target).during(doing)?;
            } else {
                self.mount_by_plugin(volume, &target).during(doing)?;
            }
        }
        users.insert(user.clone());
        Ok(())
    }

    /// Unmounts the volumes that the record's task was the last to use. Blocking.
    pub(super) fn unmount_volumes(&self, record: &Record) {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            self.unmount_volume(&point.name, &record.id);
        }
    }

    /// `user` needs the volume no more; after the last one it is unmounted.
    pub(super) fn unmount_volume(&self, name: &str, user: &ContainerId) {
        let Ok(volume) = self.volume_record(name) else { return };
        if !volume.is_mounted_when_used() {
            return;
        }
        let users = self.volumes.users(name);
        let mut users = users.lock().expect("no holder panics");
        users.remove(user);
        let directory = self.config.data_root.join("volumes").join(name);
        if users.is_empty()
            && let Err(e) = self.release_volume(&volume, &directory)
        {
            tracing::warn!(volume = name, error = %errors::chain(&e), "volume not unmounted");
        }
    }

    /// Has a plugin mount its volume, and binds that on `target`.
    fn mount_by_plugin(&self, volume: &Volume, target: &Path) -> Result<(), Error> {
        let plugin = Plugin::find(&volume.driver)?;
        let source = plugin.mount(&volume.name, &self.id)?;
        let doing = || format!("bind {}", source.display());
        mount::bind(&source, target).during(doing).inspect_err(|_| {
            drop(plugin.unmount(&volume.name, &self.id));
        })
    }

    /// As [`release`]; a plugin is told that its volume is not used any more, if it was.
    pub(super) fn release_volume(&self, volume: &Volume, directory: &Path) -> Result<(), Error> {
        let was_mounted = mount::is_mounted(&directory.join("_data")).unwrap_or(false);
        release(directory)?;
        if super::is_local(&volume.driver) || !was_mounted {
            return Ok(());
        }
        Plugin::find(&volume.driver)?.unmount(&volume.name, &self.id)
    }

    /// Has the volume's driver make it, where that is a plugin. To be called with nothing held.
    pub(super) fn make_with_driver(&self, volume: &Volume) -> Result<(), Error> {
        if super::is_local(&volume.driver) || self.volume_record(&volume.name).is_ok() {
            return Ok(());
        }
        self.spare_volume(&volume.name)?;
        let doing = || format!("create {}", volume.name);
        let plugin = Plugin::find(&volume.driver)?;
        // As Docker: one that the driver has already is taken as it is.
        if plugin.get(&volume.name).is_ok() {
            return Ok(());
        }
        plugin.create(&volume.name, &volume.options).during(doing)
    }

    /// Remembers which volumes a task uses that an earlier daemon started.
    pub(crate) fn adopt_volumes(&self, record: &Record) {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            let users = self.volumes.users(&point.name);
            users.lock().expect("no holder panics").insert(record.id.clone());
        }
    }
}

fn mount_on(volume: &Volume, target: &Path) -> Result<(), Error> {
    let option = |key: &str| volume.options.get(key).map(String::as_str).unwrap_or_default();
    let (kind, mut device) = (option("type"), option("device").to_string());
    let mut options = option("o").to_string();
    if matches!(kind, "nfs" | "nfs4" | "cifs") {
        options = with_address(&options)?;
    }
    if kind == "cifs" {
        device = with_host(&device)?;
    }
    mount::mount_file_system(&FileSystem { kind, device: &device, options: &options }, target)
        .during(|| format!("volume {}", volume.name))
}

/// The kernel wants numbers where people write names: `addr=server` becomes `addr=192.0.2.1`.
fn with_address(options: &str) -> Result<String, Error> {
    let numbers = |option: &str| match option.strip_prefix("addr=") {
        Some(host) => Ok(format!("addr={}", resolve(host)?)),
        None => Ok(option.to_string()),
    };
    Ok(options.split(',').map(numbers).collect::<Result<Vec<_>, Error>>()?.join(","))
}

/// Likewise `//server/share`.
fn with_host(device: &str) -> Result<String, Error> {
    let Some((host, share)) = device.strip_prefix("//").and_then(|rest| rest.split_once('/')) else {
        return Ok(device.into());
    };
    Ok(format!("//{}/{share}", resolve(host)?))
}

fn resolve(host: &str) -> Result<String, Error> {
    if host.is_empty() || host.parse::<std::net::IpAddr>().is_ok() {
        return Ok(host.into());
    }
    let doing = || format!("error resolving passed in network volume address: lookup {host}");
    let found: Vec<_> = (host, 0).to_socket_addrs().io_during(doing)?.collect();
    let none = || Error::invalid(format!("{}: no such host", doing()));
    let best = found.iter().find(|a| a.is_ipv4()).or(found.first()).ok_or_else(none)?;
    Ok(best.ip().to_string())
}

/// Takes what the driver mounted on `_data` of the volume in `directory` away, and makes sure that nothing is mounted
/// below: whoever removes the directory next removes only what is the volume's own.
///
/// # Errors
///
/// Conflict when something else is mounted there.
pub(super) fn release(directory: &Path) -> Result<(), Error> {
    let doing = || format!("look at mounts below {}", directory.display());
    let data = directory.join("_data");
    // The options of one volume can be mounted more than once, by a daemon that was killed and its successor.
    for _ in 0..8 {
        let below = mount::list_below(directory).during(doing)?;
        let Some(one) = below.first() else { return Ok(()) };
        if let Some(foreign) = below.iter().find(|m| m.target != data) {
            return Err(Error::conflict(format!(
                "something is mounted on {}, inside the volume",
                foreign.target.display()
            )));
        }
        if mount::unmount(&one.target).is_err() {
            mount::detach(&one.target).during(|| format!("unmount {}", one.target.display()))?;
        }
    }
    Err(Error::conflict(format!("{} is mounted again and again", data.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let check = |options: &[(&str, &str)], want: Option<&str>| {
            let map = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let got = super::check(&map).err().map(|e| e.to_string());
            match (&got, want) {
                (Some(got), Some(want)) => assert!(got.contains(want), "{options:?}: {got}"),
                _ => assert_eq!(got.is_some(), want.is_some(), "{options:?}: {got:?}"),
            }
        };
        check(&[], None);
        check(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")], None);
        check(&[("type", "tmpfs"), ("o", "size=1m")], Some("\"device\""));
        check(&[("device", "x")], Some("\"type\""));
        check(&[("o", "x"), ("foo", "bar")], Some("invalid option: \"foo\""));
        check(&[("o", "x")], Some("\"device\""));
        check(&[("size", "1g")], None);
        check(&[("size", "0")], None);
        check(&[("size", "1g"), ("type", "ext4"), ("device", "/dev/x")], Some("conflicting options"));
        check(&[("type", "cifs"), ("device", "//host:1445/share")], Some("port not allowed in CIFS"));
        check(&[("type", "cifs"), ("device", "//host/share:1")], None);
    }

    #[test]
    fn addresses_stay_numbers() {
        assert_eq!(with_address("addr=192.0.2.1,rw").unwrap(), "addr=192.0.2.1,rw");
        assert!(with_address("rw,addr=127.0.0.1").unwrap().ends_with("addr=127.0.0.1"));
        assert_eq!(with_address("rw,addr=localhost,soft").unwrap(), "rw,addr=127.0.0.1,soft");
        assert_eq!(with_host("//localhost/a b").unwrap(), "//127.0.0.1/a b");
        assert_eq!(with_host("//192.0.2.1/x").unwrap(), "//192.0.2.1/x");
    }
}
