//! What the data root takes on disk, by what it is for, so that the parts add up to what the file system reports.
//!
//! Each file is counted once, in blocks taken, under the part that it belongs to by its place; what belongs to nothing that
//! is recorded is named.

use crate::Engine;
use crate::error::{Error, IoDuring, blocking};
use metadata::RecordKind;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One use of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskPart {
    pub name: String,
    /// Blocks taken.
    pub bytes: u64,
    /// Files and directories.
    pub files: u64,
}

/// The data root, part by part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskReport {
    pub root: PathBuf,
    /// All below the data root; the parts and what is unaccounted add up to it.
    pub total_bytes: u64,
    pub parts: Vec<DiskPart>,
    /// Paths below the data root that belong to nothing recorded.
    pub unaccounted: Vec<DiskPart>,
    /// Size of the file system that the data root is on.
    pub file_system_bytes: u64,
    /// Of it used, by whomever.
    pub used_bytes: u64,
}

impl Engine {
    /// Measures the data root. Reads all of its directories.
    pub async fn disk_report(self: &Arc<Self>) -> Result<DiskReport, Error> {
        let engine = self.clone();
        blocking(move || engine.measure_disk()).await
    }

    fn measure_disk(&self) -> Result<DiskReport, Error> {
        let root = &self.config.data_root;
        let doing = || format!("measure {}", root.display());
        let known = Known::of(self)?;
        let mut walk =
            Walk { known, seen: HashSet::new(), parts: BTreeMap::new(), unaccounted: BTreeMap::new() };
        let device = std::fs::symlink_metadata(root).io_during(doing)?.dev();
        walk.directory(root, Path::new(""), device);
        let stat = rustix::fs::statvfs(root).io_during(doing)?;
        let sum = |parts: &BTreeMap<String, DiskPart>| parts.values().map(|p| p.bytes).sum::<u64>();
        Ok(DiskReport {
            root: root.clone(),
            total_bytes: sum(&walk.parts) + sum(&walk.unaccounted),
            parts: walk.parts.into_values().collect(),
            unaccounted: walk.unaccounted.into_values().collect(),
            file_system_bytes: stat.f_blocks * stat.f_frsize,
            used_bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        })
    }
}

/// What is recorded, by the names that it has on disk.
struct Known {
    blobs: BTreeSet<String>,
    /// Of the storage driver in use first.
    families: Vec<Family>,
    containers: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

/// What a family of storage drivers has.
struct Family {
    name: &'static str,
    /// Its directory below the data root.
    home: &'static Path,
    layers: BTreeSet<String>,
    snapshots: BTreeSet<String>,
}

impl Family {
    /// The part that a path below the driver's directory belongs to.
    fn part(&self, below: &Path, is_own: bool) -> Option<String> {
        let mut names = below.iter().filter_map(|name| name.to_str());
        let of = |what: &str| match is_own {
            true => Some(what.to_string()),
            false => Some(format!("{what}, storage driver {}", self.name)),
        };
        match (names.next(), names.next()) {
            (Some("snapshots"), None) => of("layers"),
            (Some("snapshots"), Some(number)) if self.layers.contains(number) => of("layers"),
            (Some("snapshots"), Some(number)) if self.snapshots.contains(number) => of("containers' changes"),
            (Some("empty" | "mounts") | None, _) => of("layers"),
            (Some("trash"), _) => Some("removed, not deleted yet".into()),
            _ => None,
        }
    }
}

impl Known {
    fn of(engine: &Engine) -> Result<Known, Error> {
        let failed = |e: metadata::Error| Error::Failed {
            doing: "list what is recorded".into(),
            kind: errors::HasKind::kind(&e),
            source: Box::new(e),
        };
        let blobs = engine.db.read(|tx| tx.list_image_blobs()).map_err(failed)?;
        let mut families = Vec::new();
        for (name, home) in engine.images.other_drivers().all_families() {
            let rows = engine.db.read_of(name, |tx| Ok((tx.list_layers()?, tx.list_snapshots()?)));
            let (layers, snapshots) = rows.map_err(failed)?;
            families.push(Family {
                name,
                home: Path::new(home),
                layers: layers.iter().map(|row| row.number.to_string()).collect(),
                snapshots: snapshots.iter().map(|row| row.number.to_string()).collect(),
            });
        }
        let ids = |kind| -> Result<BTreeSet<String>, Error> {
            Ok(engine.db.list_records(kind).map_err(failed)?.into_iter().map(|row| row.id).collect())
        };
        Ok(Known {
            blobs: blobs.iter().map(oci::Digest::hex).collect(),
            families,
            containers: ids(RecordKind::Container)?,
            volumes: ids(RecordKind::Volume)?,
        })
    }

    /// The part that a path belongs to; none where nothing recorded has it.
    fn part(&self, path: &Path) -> Option<String> {
        let mut names = path.iter().filter_map(|name| name.to_str());
        let (first, second, third) = (names.next(), names.next(), names.next());
        let part = match (first?, second, third) {
            ("content", Some("blobs"), Some("sha256")) => match names.next() {
                Some(hex) if !self.blobs.contains(hex) => return None,
                _ => "blobs",
            },
            ("content", Some("trash"), _) => "removed, not deleted yet",
            ("content", Some("ingest" | "partial"), _) => "downloads under way",
            ("content", ..) => "blobs",
            ("containers", None, _) => "containers' logs and files",
            ("containers", Some(id), _) if self.containers.contains(id) => "containers' logs and files",
            ("volumes", None, _) => "volumes",
            ("volumes", Some(name), _) if self.volumes.contains(name) => "volumes",
            ("tmp", ..) => "temporary files",
            ("build-cache", ..) => "cache mounts and contexts of builds",
            ("build-history", ..) => "history of builds",
            (name, ..) if name.starts_with("brig.db") || matches!(name, "lock" | "reserve" | "engine-id") => {
                "database"
            }
            _ => return self.part_of_family(path),
        };
        Some(part.into())
    }

    fn part_of_family(&self, path: &Path) -> Option<String> {
        let (at, family) = self.family(path)?;
        family.part(path.strip_prefix(family.home).unwrap_or(path), at == 0)
    }

    /// Whose directory a path is in. All have one of their own but one, which has the rest.
    fn family(&self, path: &Path) -> Option<(usize, &Family)> {
        let has = |(_, family): &(usize, &Family)| path.starts_with(family.home);
        let rest = |(_, family): &(usize, &Family)| family.home == Path::new("");
        let all = || self.families.iter().enumerate();
        all().filter(|f| !rest(f)).find(has).or_else(|| all().find(rest))
    }
}

struct Walk {
    known: Known,
    /// Files with several names that were counted.
    seen: HashSet<(u64, u64)>,
    parts: BTreeMap<String, DiskPart>,
    unaccounted: BTreeMap<String, DiskPart>,
}

impl Walk {
    /// Counts a directory and all below it on the same file system; what vanishes meanwhile counts nothing.
    fn directory(&mut self, path: &Path, relative: &Path, device: u64) {
        let Ok(own) = std::fs::symlink_metadata(path) else { return };
        if own.dev() != device {
            return;
        }
        self.count(relative, own.blocks() * 512);
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            let below = relative.join(entry.file_name());
            // The metadata of the entry itself: a symlink is counted, not followed.
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                self.directory(&entry.path(), &below, device);
            } else if found.nlink() < 2 || self.seen.insert((found.dev(), found.ino())) {
                self.count(&below, found.blocks() * 512);
            }
        }
    }

    fn count(&mut self, relative: &Path, bytes: u64) {
        let known =
            if relative.as_os_str().is_empty() { Some("database".into()) } else { self.known.part(relative) };
        let (map, name) = match known {
            Some(name) => (&mut self.parts, name),
            None => {
                // By the directory that nobody knows, not file by file.
                let depth = match relative.iter().next().and_then(|n| n.to_str()) {
                    Some("content") => 4,
                    Some("snapshots" | "containers" | "volumes") => 2,
                    _ => 1,
                };
                let name: PathBuf = relative.iter().take(depth).collect();
                (&mut self.unaccounted, name.display().to_string())
            }
        };
        let part = map.entry(name.clone()).or_insert(DiskPart { name, ..DiskPart::default() });
        part.bytes += bytes;
        part.files += 1;
    }
}
