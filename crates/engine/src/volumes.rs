//! Mount requests resolved to mount points, and the local volumes behind them.
//!
//! A volume is the directory `volumes/<name>/_data` below the data root and a record in the database; the record is
//! written last and removed first, so that a directory without a record is garbage and nothing else.

use crate::error::{During, Error, IoDuring, blocking};
use crate::model::{Config, HostConfig};
use crate::record::{ContainerId, MountKind, MountPoint, now, random_hex};
use crate::{Engine, Record, names};
use metadata::RecordKind;
use rootdir::RootDir;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One volume as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub created: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub anonymous: bool,
    /// The container that an anonymous volume goes with. None when its container left it behind, or it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Engine {
    /// Where the content of volume `name` is.
    pub fn volume_path(&self, name: &str) -> PathBuf {
        self.config.data_root.join("volumes").join(name).join("_data")
    }

    /// All volumes by name.
    pub async fn list_volumes(self: &Arc<Self>) -> Result<Vec<Volume>, Error> {
        let db = self.db.clone();
        let records =
            blocking(move || db.list_records(RecordKind::Volume)).await.during(|| "list volumes".into())?;
        Ok(records.iter().filter_map(|r| serde_json::from_str(&r.body).ok()).collect())
    }

    /// Bytes in volume `name`; -1 when they cannot be counted.
    pub async fn volume_size(self: &Arc<Self>, name: &str) -> i64 {
        fn below(dir: &Path) -> std::io::Result<u64> {
            let mut total = 0;
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                total += if kind.is_dir() { below(&entry.path())? } else { entry.metadata()?.len() };
            }
            Ok(total)
        }
        let path = self.volume_path(name);
        blocking(move || below(&path)).await.ok().and_then(|n| i64::try_from(n).ok()).unwrap_or(-1)
    }

    /// Resolves what the client and the image want mounted, and makes the volumes that do not exist.
    pub(crate) async fn plan_mounts(
        self: &Arc<Self>,
        id: &ContainerId,
        config: &Config,
        host: &HostConfig,
    ) -> Result<Vec<MountPoint>, Error> {
        let mut points: BTreeMap<String, MountPoint> = BTreeMap::new();
        for bind in &host.binds {
            let point = parse_bind(bind)?;
            if points.insert(point.destination.clone(), point).is_some() {
                return Err(Error::invalid(format!("Duplicate mount point: {bind}")));
            }
        }
        for request in &host.mounts {
            let point = from_request(request)?;
            if points.contains_key(&point.destination) {
                return Err(Error::invalid(format!("Duplicate mount point: {}", point.destination)));
            }
            points.insert(point.destination.clone(), point);
        }
        for destination in host.tmpfs.keys() {
            if points.contains_key(&clean(destination)?) {
                return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
            }
        }
        for destination in config.volumes.iter().flatten().map(|(d, _)| d) {
            let destination = clean(destination)?;
            if !points.contains_key(&destination) && !host.tmpfs.contains_key(&destination) {
                points.insert(destination.clone(), volume_point("", &destination, ""));
            }
        }
        let engine = self.clone();
        let owner = id.to_string();
        blocking(move || {
            let mut out: Vec<MountPoint> = points.into_values().collect();
            for point in &mut out {
                engine.realise(point, &owner)?;
            }
            Ok(out)
        })
        .await
    }

    /// Makes the volume of a volume mount; checks the source of a bind mount.
    fn realise(&self, point: &mut MountPoint, owner: &str) -> Result<(), Error> {
        match point.kind {
            MountKind::Tmpfs => Ok(()),
            MountKind::Bind => {
                let path = Path::new(&point.source);
                if path.exists() {
                    return Ok(());
                }
                if !point.mode.split(',').any(|m| m == "create") {
                    return Err(Error::invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {}",
                        point.source
                    )));
                }
                std::fs::create_dir_all(path).io_during(|| format!("create bind source {}", path.display()))
            }
            MountKind::Volume => {
                point.anonymous = point.name.is_empty();
                if point.anonymous {
                    point.name = random_hex();
                }
                let created = self.ensure_volume(&point.name, point.anonymous, owner)?;
                point.copy_up = created && !point.mode.split(',').any(|m| m == "nocopy");
                point.source = self.volume_path(&point.name).to_string_lossy().into_owned();
                Ok(())
            }
        }
    }

    /// Makes a volume that does not exist; whether it was made or is still empty.
    fn ensure_volume(&self, name: &str, anonymous: bool, owner: &str) -> Result<bool, Error> {
        let doing = || format!("create volume {name}");
        let data = self.volume_path(name);
        if self.db.get_record(RecordKind::Volume, name).during(doing)?.is_some() {
            return Ok(std::fs::read_dir(&data).io_during(doing)?.next().is_none());
        }
        if let Some(dir) = data.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o701).create(dir).io_during(doing)?;
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&data).io_during(doing)?;
        let owner_id = anonymous.then(|| owner.to_string());
        let volume =
            Volume { name: name.into(), created: now(), labels: BTreeMap::new(), anonymous, owner: owner_id };
        self.put_volume(&volume).during(doing)?;
        self.events.publish("volume", "create", name, [("container".to_string(), owner.to_string())].into());
        Ok(true)
    }

    fn put_volume(&self, volume: &Volume) -> Result<(), Error> {
        let doing = || format!("save volume {}", volume.name);
        let body = serde_json::to_string(volume).map_err(std::io::Error::from).io_during(doing)?;
        self.db.put_record(RecordKind::Volume, &volume.name, &volume.name, &body).during(doing)
    }

    /// Removes the anonymous volumes of containers that never came to be. Blocking.
    pub(crate) fn remove_volumes_of(&self, is_gone: impl Fn(&str) -> bool) -> Result<(), Error> {
        for row in self.db.list_records(RecordKind::Volume).during(|| "list volumes".into())? {
            let Ok(volume) = serde_json::from_str::<Volume>(&row.body) else { continue };
            if volume.owner.as_deref().is_some_and(&is_gone) {
                tracing::info!(volume = volume.name, "removing a volume whose container never came to be");
                self.erase_volume(&volume.name)?;
            }
        }
        Ok(())
    }

    /// Takes the anonymous volumes of a container that is about to be removed as things of their own: they stay.
    pub(crate) fn leave_anonymous_volumes(&self, record: &Record) -> Result<(), Error> {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume && m.anonymous) {
            let doing = || format!("keep volume {}", point.name);
            let Some(row) = self.db.get_record(RecordKind::Volume, &point.name).during(doing)? else {
                continue;
            };
            let Ok(volume) = serde_json::from_str::<Volume>(&row.body) else { continue };
            if volume.owner.is_some() {
                self.put_volume(&Volume { owner: None, ..volume })?;
            }
        }
        Ok(())
    }

    /// Removes the volumes that were made for this container only.
    pub(crate) fn remove_anonymous_volumes(&self, record: &Record) {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume && m.anonymous) {
            let shared = self
                .list_containers()
                .iter()
                .any(|c| *c.id() != record.id && c.lock().mounts.iter().any(|m| m.name == point.name));
            if !shared && let Err(e) = self.erase_volume(&point.name) {
                tracing::warn!(volume = point.name, error = %errors::chain(&e), "volume not removed");
            }
        }
    }

    /// Removes a volume whatever it holds.
    pub(crate) fn erase_volume(&self, name: &str) -> Result<(), Error> {
        let doing = || format!("remove volume {name}");
        if !self.db.delete_record(RecordKind::Volume, name).during(doing)? {
            return Err(Error::NoSuchVolume { name: name.into() });
        }
        std::fs::remove_dir_all(self.config.data_root.join("volumes").join(name)).io_during(doing)?;
        self.events.publish("volume", "destroy", name, BTreeMap::new());
        Ok(())
    }
}

/// `source:destination[:options]`, or `destination` alone for an anonymous volume.
fn parse_bind(text: &str) -> Result<MountPoint, Error> {
    let error = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        [destination] => ("", destination, ""),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(error()),
    };
    let destination = clean(destination)?;
    let mut point = if source.starts_with('/') {
        MountPoint { kind: MountKind::Bind, source: source.into(), ..volume_point("", &destination, mode) }
    } else if source.is_empty() || names::is_valid(source) {
        volume_point(source, &destination, mode)
    } else {
        return Err(Error::invalid(format!(
            "create {source}: \"{source}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    };
    let options: Vec<&str> = mode.split(',').filter(|o| !o.is_empty()).collect();
    if options.contains(&"ro") && options.contains(&"rw") {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    for option in options {
        match option {
            "ro" => point.read_write = false,
            "rw" | "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent" => {}
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                point.propagation = option.into()
            }
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    // `-v` makes a missing source directory, `--mount` does not.
    if point.kind == MountKind::Bind {
        point.mode = if mode.is_empty() { "create".into() } else { format!("{mode},create") };
    }
    Ok(point)
}

fn from_request(request: &crate::model::MountRequest) -> Result<MountPoint, Error> {
    let destination = clean(&request.target)?;
    let mut point = volume_point(&request.source, &destination, "");
    point.read_write = !request.read_only;
    match request.kind.as_str() {
        "bind" => {
            if !request.source.starts_with('/') {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
                    request.source
                )));
            }
            point.kind = MountKind::Bind;
            point.name.clear();
            point.source.clone_from(&request.source);
            if let Some(options) = &request.bind_options {
                if !matches!(
                    options.propagation.as_str(),
                    "" | "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
                ) {
                    return Err(Error::invalid(format!(
                        "invalid mount config for type \"bind\": invalid propagation mode: {:?}",
                        options.propagation
                    )));
                }
                point.propagation.clone_from(&options.propagation);
                point.non_recursive = options.non_recursive;
                if options.read_only_force_recursive {
                    return Err(Error::unsupported("a bind mount that is read-only with all below it"));
                }
                if options.create_mountpoint {
                    point.mode = "create".into();
                }
            }
        }
        "volume" => {
            if !request.source.is_empty() && !names::is_valid(&request.source) {
                return Err(Error::invalid(format!("invalid volume name: {}", request.source)));
            }
            let options = request.volume_options.as_ref();
            let has = |key: &str| {
                options.and_then(|o| o.get(key)).is_some_and(|v| !v.is_null() && *v != serde_json::json!({}))
            };
            if has("DriverConfig")
                || options
                    .and_then(|o| o.get("Subpath"))
                    .and_then(|s| s.as_str())
                    .is_some_and(|s| !s.is_empty())
            {
                return Err(Error::unsupported("a volume driver or subpath in --mount"));
            }
            if options.and_then(|o| o.get("NoCopy")).and_then(serde_json::Value::as_bool) == Some(true) {
                point.mode = "nocopy".into();
            }
        }
        "tmpfs" => {
            point.kind = MountKind::Tmpfs;
            point.name.clear();
            let mut options = Vec::new();
            if let Some(tmpfs) = &request.tmpfs_options {
                if tmpfs.size_bytes > 0 {
                    options.push(format!("size={}", tmpfs.size_bytes));
                }
                if tmpfs.mode > 0 {
                    options.push(format!("mode={:o}", tmpfs.mode));
                }
            }
            if request.read_only {
                options.push("ro".into());
            }
            point.mode = options.join(",");
        }
        other => return Err(Error::unsupported(format!("the mount type {other:?}"))),
    }
    Ok(point)
}

fn volume_point(name: &str, destination: &str, mode: &str) -> MountPoint {
    MountPoint {
        kind: MountKind::Volume,
        name: name.into(),
        source: String::new(),
        destination: destination.into(),
        read_write: true,
        propagation: String::new(),
        mode: mode.into(),
        copy_up: false,
        non_recursive: false,
        anonymous: false,
    }
}

/// An absolute destination without `.`, `..` and doubled slashes; never the root itself.
fn clean(destination: &str) -> Result<String, Error> {
    let error = |why: &str| Error::invalid(format!("invalid mount target '{destination}': {why}"));
    if !destination.starts_with('/') {
        return Err(error("must be an absolute path"));
    }
    if destination.contains('\0') {
        return Err(error("holds a NUL byte"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in destination.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(error("the root file system cannot be a mount target"));
    }
    // procfs and sysfs guard the container; covering them would take the guards away (CVE-2019-16884).
    if parts[0] == "proc" {
        return Err(error("nothing may be mounted on /proc or below"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Stands beside `_data` while a volume is being filled: what is there then is not all of it.
const FILLING: &str = "filling";

/// Copies what the image has at the volume's place into the volume, once.
pub(crate) fn copy_up(root: &RootDir, point: &MountPoint) -> Result<(), Error> {
    let doing = || format!("copy image content of {} into volume {}", point.destination, point.name);
    let target = Path::new(&point.source);
    let marker = target.with_file_name(FILLING);
    let unfinished = marker.exists();
    if !unfinished && std::fs::read_dir(target).io_during(doing)?.next().is_some() {
        return Ok(());
    }
    // Of two containers that start at once the second waits for the first, and then finds the volume filled.
    let file = match std::fs::File::options().write(true).create(!unfinished).truncate(false).open(&marker) {
        Ok(file) => file,
        Err(e) if unfinished && e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).io_during(doing),
    };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).io_during(doing)?;
    if !marker.exists() {
        return Ok(());
    }
    // A copy that was cut off is done again over what it left.
    fill(root, point, target)?;
    std::fs::remove_file(&marker).io_during(doing)
}

fn fill(root: &RootDir, point: &MountPoint, target: &Path) -> Result<(), Error> {
    let doing = || format!("copy image content of {} into volume {}", point.destination, point.name);
    let source = match root.subroot(Path::new(&point.destination)) {
        Ok(source) => source,
        Err(e) if matches!(errors::HasKind::kind(&e), errors::Kind::NotFound) => return Ok(()),
        Err(e) => return Err(e).during(doing),
    };
    let handle = RootDir::open(target).during(doing)?;
    copy_tree(&source, &handle).during(doing)?;
    let stat = rustix::fs::fstat(&source).io_during(doing)?;
    let own = std::fs::metadata(target).io_during(doing)?;
    if own.uid() != stat.st_uid || own.gid() != stat.st_gid {
        std::os::unix::fs::chown(target, Some(stat.st_uid), Some(stat.st_gid)).io_during(doing)?;
    }
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(stat.st_mode & 0o7777)).io_during(doing)
}

/// Copies all below `source` into `target`, owners, modes, times and links kept: packed on one thread, applied on another.
fn copy_tree(source: &RootDir, target: &RootDir) -> Result<(), archive::Error> {
    let (reader, writer) = std::io::pipe().map_err(|source| archive::Error::Read { source })?;
    std::thread::scope(|scope| {
        let packer = scope
            .spawn(move || archive::pack(writer, source, Path::new("."), &archive::PackOptions::default()));
        let options =
            archive::Options { whiteouts: archive::Whiteouts::Remove, ..archive::Options::default() };
        let applied = archive::apply(reader, target, &options);
        // A packer that failed leaves a truncated stream: its error is the cause, the other only the consequence.
        match packer.join() {
            Ok(packed) => packed.map(drop)?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        applied.map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let check = |text: &str, want: Option<(MountKind, &str, &str, bool)>| {
            let got = parse_bind(text).ok();
            let got = got.as_ref().map(|p| {
                (
                    p.kind,
                    if p.kind == MountKind::Bind { p.source.as_str() } else { &p.name },
                    p.destination.as_str(),
                    p.read_write,
                )
            });
            assert_eq!(got, want, "{text}");
        };
        check("/a:/b", Some((MountKind::Bind, "/a", "/b", true)));
        check("/a:/b/../c/:ro", Some((MountKind::Bind, "/a", "/c", false)));
        check("data:/b:rw,nocopy", Some((MountKind::Volume, "data", "/b", true)));
        check("/b", Some((MountKind::Volume, "", "/b", true)));
        for bad in ["a/b:/c", "x:/", "x:y", "/a:/b:bogus", "x:/proc", "x:/proc/self", "a:b:c:d", "x:/a/../.."]
        {
            check(bad, None);
        }
    }
}
