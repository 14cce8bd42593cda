//! Volumes: directories that outlive containers, and whatever a driver's options mount there.
//!
//! A volume is the directory `volumes/<name>/_data` below the data root and a record in the database; the record is
//! written last and removed first, so that a directory without a record is garbage and nothing else.
//!
//! A volume with options (`type`, `device`, `o`) is mounted on `_data` when the first container that uses it starts,
//! and unmounted when the last one ends ([`local`]). Subpaths and images are mounted apart for each container
//! ([`staged`]). Nothing here removes a directory before it has seen that nothing is mounted below it: what is mounted
//! there is somebody else's.

mod doomed;
mod fill;
mod local;
mod plugin;
mod points;
mod propagation;
mod quota;
mod shown;
mod staged;

pub(crate) use fill::copy_up;
pub(crate) use propagation::of_root as root_propagation;
pub use shown::ShownVolume;
pub(crate) use staged::owner_of_snapshot;

use crate::error::{During, Error, IoDuring, blocking};
use crate::model::{Config, HostConfig};
use crate::record::{ContainerId, MountKind, MountPoint, now, random_hex};
use crate::{Engine, Record, names};
use metadata::RecordKind;
use plugin::Plugin;
use points::Planned;
use rootdir::RootDir;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The driver that is part of the engine.
pub(crate) const LOCAL: &str = "local";
/// Docker's label of volumes that were given no name.
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
/// What directories of removed volumes are called; no volume can have such a name.
const REMOVING: &str = ".removing-";

/// One volume as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub created: String,
    #[serde(default = "local", skip_serializing_if = "is_local")]
    pub driver: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Options of the driver, as given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    pub anonymous: bool,
    /// The container that an anonymous volume goes with. None when its container left it behind, or it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

fn local() -> String {
    LOCAL.into()
}

fn is_local(driver: &str) -> bool {
    driver == LOCAL
}

impl Volume {
    /// Whether something is mounted on its directory while it is used.
    fn is_mounted_when_used(&self) -> bool {
        self.options.keys().any(|key| key != quota::SIZE) || !is_local(&self.driver)
    }

    /// Whether nobody else has what is in it: no directory of the host's, no other machine, no plugin.
    fn is_own(&self) -> bool {
        !self.is_mounted_when_used()
            || is_local(&self.driver) && self.options.get("type").is_some_and(|t| t == "tmpfs")
    }
}

/// A volume that a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Empty for one that gets a random name.
    pub name: String,
    /// Empty for `local`.
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// What pruning removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    pub names: Vec<String>,
    pub bytes: u64,
}

/// What is known of volumes in memory only.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// Volumes of containers that are being created, by container; they are in use though no record says so.
    claims: Mutex<HashMap<ContainerId, Vec<String>>>,
    /// Containers with a task, by the volume with options that they use.
    mounted: Mutex<HashMap<String, Arc<Mutex<HashSet<ContainerId>>>>>,
    /// Held by the thread that asks plugins to remove what is doomed.
    dooming: Arc<Mutex<()>>,
    /// Of the file system of the data root.
    quotas: snapshot::Quotas,
}

impl Volumes {
    fn claims(&self) -> MutexGuard<'_, HashMap<ContainerId, Vec<String>>> {
        self.claims.lock().expect("no holder panics")
    }

    /// The containers that have `volume` mounted. Whoever mounts or unmounts it holds the set.
    fn users(&self, volume: &str) -> Arc<Mutex<HashSet<ContainerId>>> {
        self.mounted.lock().expect("no holder panics").entry(volume.into()).or_default().clone()
    }
}

impl Engine {
    /// Where the content of volume `name` is.
    pub fn volume_path(&self, name: &str) -> PathBuf {
        self.config.data_root.join("volumes").join(name).join("_data")
    }

    /// All volumes by name.
    pub async fn list_volumes(self: &Arc<Self>) -> Result<Vec<Volume>, Error> {
        let engine = self.clone();
        blocking(move || engine.volume_records()).await
    }

    /// The volume `name`.
    pub async fn volume(self: &Arc<Self>, name: &str) -> Result<Volume, Error> {
        let (engine, name) = (self.clone(), name.to_string());
        blocking(move || engine.volume_record(&name)).await
    }

    /// Makes a volume, or finds the one that has this name already, as Docker does.
    pub async fn create_volume(self: &Arc<Self>, new: NewVolume) -> Result<Volume, Error> {
        let anonymous = new.name.is_empty();
        if !anonymous {
            check_name(&new.name)?;
        }
        let is_driver_asked = !new.driver.is_empty();
        let driver = if is_driver_asked { new.driver } else { local() };
        let name = if anonymous { random_hex() } else { new.name };
        let (labels, options) = (new.labels, new.options);
        let volume = Volume { name, created: now(), driver, labels, options, anonymous, owner: None };
        let engine = self.clone();
        blocking(move || {
            engine.check_options(&volume.driver, &volume.options)?;
            engine.make_with_driver(&volume)?;
            let _claims = engine.volumes.claims();
            let asked = volume.driver.clone();
            let found = engine.ensure_volume(volume)?.0;
            if is_driver_asked { check_driver(&asked, found) } else { Ok(found) }
        })
        .await
    }

    /// Removes a volume that no container has. With `force`, one that does not exist is no error.
    pub async fn remove_volume(self: &Arc<Self>, name: &str, force: bool) -> Result<(), Error> {
        let (engine, name) = (self.clone(), name.to_string());
        blocking(move || {
            if let Ok(volume) = engine.volume_record(&name) {
                let users = engine.volume_users(&engine.volumes.claims(), &name);
                if users.is_empty() {
                    // Before it is forgotten here, so that a driver that refuses is heard; with nothing held.
                    match remove_with_driver(&volume) {
                        Err(e) if force => {
                            tracing::warn!(volume = name, error = %errors::chain(&e), "its driver keeps it");
                        }
                        other => other?,
                    }
                }
            }
            let claims = engine.volumes.claims();
            match engine.volume_record(&name) {
                Err(Error::NoSuchVolume { .. }) if force => return Ok(()),
                other => other?,
            };
            let users = engine.volume_users(&claims, &name);
            if !users.is_empty() {
                let users = users.join(", ");
                return Err(Error::conflict(format!("remove {name}: volume is in use - [{users}]")));
            }
            engine.erase_volume(&name, false)
        })
        .await
    }

    /// Removes the volumes that no container has and `wanted` picks.
    pub async fn prune_volumes(
        self: &Arc<Self>,
        wanted: impl Fn(&Volume) -> bool + Send + 'static,
    ) -> Result<PrunedVolumes, Error> {
        let engine = self.clone();
        blocking(move || {
            let mut pruned = PrunedVolumes::default();
            for volume in engine.volume_records()?.into_iter().filter(|v| wanted(v)) {
                if !is_local(&volume.driver) {
                    // As Docker: what others keep is not pruned.
                    continue;
                }
                let bytes = size_of(&engine.volume_path(&volume.name)).unwrap_or(0);
                let claims = engine.volumes.claims();
                if !engine.volume_users(&claims, &volume.name).is_empty() {
                    continue;
                }
                // One that cannot be removed must not keep the others.
                if let Err(e) = engine.erase_volume(&volume.name, false) {
                    tracing::warn!(volume = volume.name, error = %errors::chain(&e), "volume not removed");
                    continue;
                }
                pruned.bytes += bytes;
                pruned.names.push(volume.name);
            }
            let attributes = [("reclaimed".to_string(), pruned.bytes.to_string())].into();
            engine.events.publish("volume", "prune", "", attributes);
            Ok(pruned)
        })
        .await
    }

    /// Bytes in volume `name`; -1 when they cannot be counted.
    pub async fn volume_size(self: &Arc<Self>, name: &str) -> i64 {
        let path = self.volume_path(name);
        blocking(move || size_of(&path)).await.ok().and_then(|n| i64::try_from(n).ok()).unwrap_or(-1)
    }

    /// Writes what volume `name` holds to `out` as a tar, and gives `out` back.
    pub async fn export_volume<W: std::io::Write + Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        out: W,
    ) -> Result<W, Error> {
        let (engine, name) = (self.clone(), name.to_string());
        blocking(move || {
            let doing = || format!("export volume {name}");
            engine.with_volume(&name, |root| {
                let mut out = out;
                let options = archive::PackOptions { is_live: true, ..archive::PackOptions::default() };
                let packed = archive::pack(&mut out, root, Path::new("."), &options).during(doing)?;
                if packed.cut > 0 {
                    tracing::warn!(
                        volume = name,
                        files = packed.cut,
                        "became shorter while they were exported"
                    );
                }
                Ok(out)
            })
        })
        .await
    }

    /// Unpacks a tar, compressed or not, into volume `name`, which is made when it does not exist.
    pub async fn import_volume<R: std::io::Read + Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        input: R,
    ) -> Result<(), Error> {
        self.create_volume(NewVolume { name: name.into(), ..NewVolume::default() }).await?;
        let (engine, name) = (self.clone(), name.to_string());
        blocking(move || {
            let doing = || format!("import volume {name}");
            engine.with_volume(&name, |root| {
                let tar = archive::decompress(input).during(doing)?;
                let options =
                    archive::Options { whiteouts: archive::Whiteouts::Keep, ..archive::Options::default() };
                archive::apply(tar, root, &options).during(doing).map(drop)
            })
        })
        .await
    }

    /// Works on the content of volume `name`, mounted if its driver mounts it.
    fn with_volume<T>(
        &self,
        name: &str,
        work: impl FnOnce(&RootDir) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let volume = self.volume_record(name)?;
        // Stands for a container among those that use the volume: nobody unmounts or removes it meanwhile.
        let user = ContainerId::random();
        self.volumes.claims().insert(user.clone(), vec![name.to_string()]);
        let result = self.mount_volume(&volume, &user).and_then(|()| {
            let path = self.volume_path(name);
            work(&RootDir::open(&path).during(|| format!("open volume {name}"))?)
        });
        self.unmount_volume(name, &user);
        self.drop_claims(&user);
        result
    }

    fn volume_records(&self) -> Result<Vec<Volume>, Error> {
        let rows = self.db.list_records(RecordKind::Volume).during(|| "list volumes".into())?;
        Ok(rows.iter().filter_map(|r| serde_json::from_str(&r.body).ok()).collect())
    }

    /// Whether owners of what `point` shows are shown to a container with a user namespace as they are inside. Those of what
    /// others have are not, as in Docker: root of the container would be root to them.
    pub(crate) fn maps_owners(&self, point: &MountPoint) -> bool {
        point.kind == MountKind::Volume && self.volume_record(&point.name).is_ok_and(|v| v.is_own())
    }

    fn volume_record(&self, name: &str) -> Result<Volume, Error> {
        let doing = || format!("get volume {name}");
        let row = self.db.get_record(RecordKind::Volume, name).during(doing)?;
        row.and_then(|r| serde_json::from_str(&r.body).ok())
            .ok_or_else(|| Error::NoSuchVolume { name: name.into() })
    }

    /// Ids of the containers that have the volume, running or not, and of those being created with it.
    fn volume_users(&self, claims: &HashMap<ContainerId, Vec<String>>, name: &str) -> Vec<String> {
        let has = |c: &&Arc<crate::Container>| {
            c.lock().mounts.iter().any(|m| m.kind == MountKind::Volume && m.name == name)
        };
        let mut out: Vec<String> =
            self.list_containers().iter().filter(has).map(|c| c.id().to_string()).collect();
        let claimed = claims.iter().filter(|(_, names)| names.iter().any(|n| n == name));
        out.extend(claimed.map(|(id, _)| id.to_string()).filter(|id| !out.contains(id)).collect::<Vec<_>>());
        out
    }

    /// Resolves what the client and the image want mounted, and makes the volumes that do not exist. They count as in
    /// use until [`Engine::drop_claims`].
    pub(crate) async fn plan_mounts(
        self: &Arc<Self>,
        id: &ContainerId,
        config: &Config,
        host: &HostConfig,
    ) -> Result<Vec<MountPoint>, Error> {
        let planned = points::plan(config, host, self.inherited(&host.volumes_from)?)?;
        let (engine, id) = (self.clone(), id.clone());
        blocking(move || {
            let mut out: Vec<MountPoint> = Vec::with_capacity(planned.len());
            for (at, one) in planned.into_iter().enumerate() {
                out.push(engine.realise(one, &id, at)?);
            }
            Ok(out)
        })
        .await
    }

    /// Ends the claims of a container that has its record now, or never will.
    /// The drivers of others that volumes are of.
    pub(crate) fn volume_plugins(&self) -> Result<std::collections::BTreeSet<String>, Error> {
        let drivers = self.volume_records()?.into_iter().map(|volume| volume.driver);
        Ok(drivers.filter(|driver| !is_local(driver)).collect())
    }

    pub(crate) fn drop_claims(&self, id: &ContainerId) {
        self.volumes.claims().remove(id);
    }

    /// The mounts of the containers in `--volumes-from`; of two at one place the later counts.
    fn inherited(&self, from: &[String]) -> Result<Vec<MountPoint>, Error> {
        let mut out: BTreeMap<String, MountPoint> = BTreeMap::new();
        for text in from {
            let (name, writable) = points::parse_volumes_from(text)?;
            // Not "not found": clients would take that for the image and pull it.
            let other = self.container(name).map_err(|e| Error::invalid(e.to_string()))?;
            for mut point in other.record().mounts {
                // An image mount belongs to the one container it was made for.
                if point.kind == MountKind::Image {
                    continue;
                }
                point.read_write &= writable;
                point.copy_up = false;
                out.insert(point.destination.clone(), point);
            }
        }
        Ok(out.into_values().collect())
    }

    /// Makes what a mount point needs: the volume, the directory of `-v`, the snapshot of an image.
    fn realise(&self, planned: Planned, owner: &ContainerId, at: usize) -> Result<MountPoint, Error> {
        let Planned { mut point, options, labels } = planned;
        match point.kind {
            MountKind::Tmpfs => {}
            MountKind::Bind => {
                let path = Path::new(&point.source);
                if !path.exists() {
                    if !point.mode.split(',').any(|m| m == "create") {
                        return Err(Error::invalid(format!(
                            "invalid mount config for type \"bind\": bind source path does not exist: {}",
                            point.source
                        )));
                    }
                    std::fs::create_dir_all(path)
                        .io_during(|| format!("create bind source {}", path.display()))?;
                }
                propagation::beside_the_daemon(&self.config, &mut point)?;
            }
            MountKind::Volume => {
                if point.driver.is_empty() {
                    point.driver = local();
                }
                self.check_options(&point.driver, &options)?;
                // Taken over from another container, it has its name and stays as anonymous as it is.
                if point.name.is_empty() {
                    point.anonymous = true;
                    point.name = random_hex();
                }
                let volume = Volume {
                    name: point.name.clone(),
                    created: now(),
                    driver: point.driver.clone(),
                    labels,
                    options,
                    anonymous: point.anonymous,
                    owner: point.anonymous.then(|| owner.to_string()),
                };
                if self.volume_record(&volume.name).is_err() {
                    // Not found would make clients pull the image.
                    self.make_with_driver(&volume).map_err(|e| match e {
                        Error::NoSuchPlugin { .. } => Error::invalid(e.to_string()),
                        other => other,
                    })?;
                }
                let mut claims = self.volumes.claims();
                claims.entry(owner.clone()).or_default().push(point.name.clone());
                let (found, is_empty) = self.ensure_volume(volume)?;
                drop(claims);
                // A volume that is there has its driver, where none was asked for.
                point.driver = match is_local(&point.driver) {
                    true => found.driver,
                    false => check_driver(&point.driver, found)?.driver,
                };
                let wanted = !point.mode.split(',').any(|m| m == "nocopy") && point.subpath.is_empty();
                point.copy_up = is_empty && wanted;
                let whole = point.subpath.is_empty();
                let path = if whole {
                    self.volume_path(&point.name)
                } else {
                    self.config.staged(owner.as_str(), at)
                };
                point.source = path.to_string_lossy().into_owned();
            }
            MountKind::Image => self.realise_image(&mut point, owner, at)?,
        }
        Ok(point)
    }

    /// Makes a volume that does not exist. The volume as it is, and whether it is (or may be) empty. The caller holds
    /// the claims.
    fn ensure_volume(&self, volume: Volume) -> Result<(Volume, bool), Error> {
        // Volumes of plugins were made by these before.
        let doing = || format!("create volume {}", volume.name);
        let data = self.volume_path(&volume.name);
        match self.volume_record(&volume.name) {
            Ok(found) => {
                // What a driver mounts is seen only once it is mounted.
                let is_empty = found.is_mounted_when_used()
                    || std::fs::read_dir(&data).io_during(doing)?.next().is_none();
                return Ok((found, is_empty));
            }
            Err(Error::NoSuchVolume { .. }) => {}
            Err(e) => return Err(e),
        }
        if let Some(dir) = data.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o701).create(dir).io_during(doing)?;
        }
        let mut volume = volume;
        if volume.anonymous {
            volume.labels.insert(ANONYMOUS_LABEL.into(), String::new());
        }
        let directory = self.config.data_root.join("volumes").join(&volume.name);
        if let Err(e) = self.make_data(&volume, &directory).and_then(|()| self.put_volume(&volume)) {
            // Another one of this name must not come into what this one would have had.
            self.release_quota(&directory);
            drop(snapshot::remove_tree(&directory));
            return Err(e);
        }
        self.volume_event("create", &volume.name, &volume.driver, &[]);
        Ok((volume, true))
    }

    fn put_volume(&self, volume: &Volume) -> Result<(), Error> {
        let doing = || format!("save volume {}", volume.name);
        let body = serde_json::to_string(volume).map_err(std::io::Error::from).io_during(doing)?;
        self.db.put_record(RecordKind::Volume, &volume.name, &volume.name, &body).during(doing)
    }

    fn volume_event(&self, action: &str, name: &str, driver: &str, more: &[(&str, String)]) {
        let mut attributes = BTreeMap::from([("driver".to_string(), driver.to_string())]);
        attributes.extend(more.iter().map(|(k, v)| (k.to_string(), v.clone())));
        self.events.publish("volume", action, name, attributes);
    }

    /// Tells of the volumes that the container's task begins or ends to use.
    pub(crate) fn publish_mounts(&self, record: &Record, action: &str) {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            let more = [
                ("container", record.id.to_string()),
                ("destination", point.destination.clone()),
                ("propagation", point.propagation.clone()),
                ("read/write", point.read_write.to_string()),
            ];
            self.volume_event(
                action,
                &point.name,
                &point.driver,
                if action == "mount" { &more } else { &more[..1] },
            );
        }
    }

    /// Removes the anonymous volumes of containers that never came to be. Blocking.
    pub(crate) fn remove_volumes_of(&self, is_gone: impl Fn(&str) -> bool) -> Result<(), Error> {
        let mut is_doomed = false;
        for volume in self.volume_records()? {
            if volume.owner.as_deref().is_some_and(&is_gone) {
                tracing::info!(volume = volume.name, "removing a volume whose container never came to be");
                self.erase_volume(&volume.name, true)?;
                is_doomed |= !is_local(&volume.driver);
            }
        }
        if is_doomed {
            self.remove_doomed_volumes();
        }
        Ok(())
    }

    /// Takes the anonymous volumes of a container that is about to be removed as things of their own: they stay.
    pub(crate) fn leave_anonymous_volumes(&self, record: &Record) -> Result<(), Error> {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume && m.anonymous) {
            let volume = match self.volume_record(&point.name) {
                Err(Error::NoSuchVolume { .. }) => continue,
                other => other?,
            };
            if volume.owner.is_some() {
                self.put_volume(&Volume { owner: None, ..volume })?;
            }
        }
        Ok(())
    }

    /// Removes the volumes that were made for this container only.
    pub(crate) fn remove_anonymous_volumes(&self, record: &Record) {
        for point in record.mounts.iter().filter(|m| m.kind == MountKind::Volume && m.anonymous) {
            let claims = self.volumes.claims();
            let users = self.volume_users(&claims, &point.name);
            if users.iter().any(|id| id != record.id.as_str()) {
                continue;
            }
            if let Err(e) = self.erase_volume(&point.name, true) {
                tracing::warn!(volume = point.name, error = %errors::chain(&e), "volume not removed");
            }
        }
        if record.mounts.iter().any(|m| m.kind == MountKind::Volume && !is_local(&m.driver)) {
            self.remove_doomed_volumes();
        }
    }

    /// Removes a volume whatever it holds, but never what is mounted in it. With `doomed` its driver is yet to be asked
    /// ([`Engine::remove_doomed_volumes`]).
    fn erase_volume(&self, name: &str, doomed: bool) -> Result<(), Error> {
        let doing = || format!("remove volume {name}");
        let volume = self.volume_record(name)?;
        let directory = self.config.data_root.join("volumes").join(name);
        local::release(&directory).during(doing)?;
        if !self.delete_volume_record(&volume, doomed)? {
            return Err(Error::NoSuchVolume { name: name.into() });
        }
        let driver = volume.driver;
        // Callers hold the claims: whatever it weighs, nobody waits for more than a rename. A daemon killed before the
        // thread is done leaves a directory without a record, which the next one removes.
        let doomed = directory.with_file_name(format!("{REMOVING}{}", random_hex()));
        self.release_quota(&directory);
        std::fs::rename(&directory, &doomed).io_during(doing)?;
        remove_behind(doomed);
        self.volume_event("destroy", name, &driver, &[]);
        Ok(())
    }

    /// Removes directories without a record, and unmounts what no running container uses. Blocking; for start-up.
    pub(crate) fn sweep_volumes(&self) -> Result<(), Error> {
        let known: HashMap<String, Volume> =
            self.volume_records()?.into_iter().map(|v| (v.name.clone(), v)).collect();
        for name in crate::recover::names_in(&self.config.data_root.join("volumes")) {
            let directory = self.config.data_root.join("volumes").join(&name);
            match known.get(&name) {
                Some(volume) if !volume.is_mounted_when_used() => {}
                Some(volume) => {
                    let users = self.volumes.users(&name);
                    let users = users.lock().expect("no holder panics");
                    if users.is_empty()
                        && let Err(e) = self.release_volume(volume, &directory)
                    {
                        tracing::warn!(volume = name, error = %errors::chain(&e), "volume not unmounted");
                    }
                }
                None => {
                    tracing::info!(volume = name, "removing a volume directory without a record");
                    match local::release(&directory) {
                        Ok(()) => {
                            self.release_quota(&directory);
                            remove_behind(directory);
                        }
                        Err(e) => tracing::warn!(volume = name, error = %errors::chain(&e), "not removed"),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Refuses a volume of another driver than the one asked for, with Docker's words.
fn check_driver(asked: &str, found: Volume) -> Result<Volume, Error> {
    if found.driver == asked {
        return Ok(found);
    }
    let Volume { name, driver, .. } = found;
    Err(Error::conflict(format!(
        "create {name}: driver '{driver}' already has volume '{name}': volume name must be unique"
    )))
}

/// Has the volume's driver remove it, where that is a plugin. To be called with nothing held.
fn remove_with_driver(volume: &Volume) -> Result<(), Error> {
    if is_local(&volume.driver) {
        return Ok(());
    }
    Plugin::find(&volume.driver)?.remove(&volume.name).during(|| format!("remove {}", volume.name))
}

/// Removes a directory that nobody finds any more, on a thread of its own. What containers made in it may be deeper than any
/// stack.
fn remove_behind(directory: PathBuf) {
    let name = directory.clone();
    let remove = move || {
        if let Err(e) = snapshot::remove_tree(&directory) {
            tracing::warn!(error = %errors::chain(&e), "what is left of a volume");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("remove-volume".into()).spawn(remove) {
        tracing::warn!(path = %name.display(), %error, "removed at the next start");
    }
}

/// Refuses a name that could be a path, with Docker's words.
fn check_name(name: &str) -> Result<(), Error> {
    if names::is_valid(name) {
        return Ok(());
    }
    if name.len() == 1 {
        return Err(Error::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    Err(Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// The bytes of the files in the directory.
fn size_of(directory: &Path) -> Result<u64, snapshot::Error> {
    snapshot::measure_tree(directory).map(|usage| usage.size_bytes)
}
