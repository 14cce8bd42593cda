//! Which storage driver it is.

use crate::error::{During, Error};
use crate::record::Record;
use crate::{Config, Engine};
use image::ImageId;
use metadata::Database;
use snapshot::{LayerForm, Overlay, Snapshotter, TreeForm, Trees};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The names that [`Config::storage_driver`] may have.
pub const STORAGE_DRIVERS: &[&str] = &["erofs", "overlay", "overlay2", "btrfs", "vfs"];

/// Opens the driver that was asked for, or the best that the kernel can.
///
/// # Errors
///
/// When the one that was asked for does not work here. Nothing else is taken in its place then.
pub(crate) fn open(config: &Config, db: &Arc<Database>) -> Result<Arc<dyn Snapshotter>, Error> {
    let doing = || format!("open the store in {}", config.data_root.display());
    let images = || Overlay::can_mount_images(&config.data_root.join("tmp"));
    if let Some((name, form)) = tree_form(config) {
        let trees = Trees::open(&config.data_root.join(name), form, db.clone()).during(doing)?;
        return Ok(Arc::new(trees));
    }
    let mut without_images = false;
    let form = match config.storage_driver.as_deref() {
        Some("overlay" | "overlay2") => {
            without_images = images().is_err();
            LayerForm::Directory
        }
        Some("erofs") => {
            images().during(|| "storage driver erofs: try it on this kernel and file system".into())?;
            LayerForm::Image
        }
        Some(other) => return Err(Error::unsupported(format!("storage driver {other}, which"))),
        None => match images() {
            Ok(()) => LayerForm::Image,
            Err(e) => {
                tracing::info!(
                    reason = errors::chain(&e),
                    "storage driver overlay, since erofs does not work"
                );
                LayerForm::Directory
            }
        },
    };
    let mounts = config.exec_root.join("layers");
    let overlay = Overlay::open_with(&config.data_root, &mounts, form, db.clone()).during(doing)?;
    Ok(Arc::new(if without_images { overlay.without_images() } else { overlay }))
}

fn tree_form(config: &Config) -> Option<(&'static str, TreeForm)> {
    match config.storage_driver.as_deref() {
        Some("btrfs") => Some(("btrfs", TreeForm::Btrfs)),
        Some("vfs") => Some(("vfs", TreeForm::Vfs)),
        _ => None,
    }
}

/// What `--storage-opt` asks for: the bytes that the changes of a container may take.
///
/// # Errors
///
/// For an option that is not known and a size that is none.
pub(crate) fn size_limit(options: &BTreeMap<String, String>) -> Result<Option<u64>, Error> {
    let mut limit = None;
    for (key, value) in options {
        if key != "size" {
            return Err(Error::invalid(format!("unknown storage option {key}: there is size")));
        }
        let invalid = || Error::invalid(format!("invalid size: '{value}'"));
        limit = Some(parse_size(value).filter(|bytes| *bytes > 0).ok_or_else(invalid)?);
    }
    Ok(limit)
}

/// `20G`, `512k`, `1024`, `3MiB`: bytes; powers of 1024.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Engine {
    /// Makes the writable snapshot of a new container, of the size that it asks for. An image that is not unpacked
    /// under this driver is unpacked first. Blocking.
    pub(crate) fn prepare_snapshot(&self, record: &Record) -> Result<(), Error> {
        let key = record.id.as_str();
        let doing = || format!("prepare snapshot for container {}", record.name);
        let prepare = || self.snapshots.prepare(key, record.chain_id.as_ref());
        match prepare() {
            Err(snapshot::Error::LayerNotFound { .. }) => {
                self.images.ensure_unpacked(&ImageId(record.image_id)).during(doing)?;
                prepare().during(doing)?;
            }
            other => other.during(doing)?,
        }
        match size_limit(&record.host_config.storage_opt)? {
            Some(bytes) => self.snapshots.limit(key, bytes).during(|| "--storage-opt size".into()),
            None => Ok(()),
        }
    }

    /// Name of the storage driver.
    pub fn storage_driver(&self) -> &'static str {
        self.snapshots.driver()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |value: &str, expected: Option<u64>| {
            let options = BTreeMap::from([("size".to_string(), value.to_string())]);
            assert_eq!(size_limit(&options).ok().flatten(), expected, "{value}");
        };
        check("10", Some(10));
        check("1k", Some(1024));
        check("20G", Some(20 << 30));
        check("3MB", Some(3 << 20));
        check("0", None);
        check("", None);
        check("-1", None);
        check("1q", None);
        check("99999999999999T", None);
        assert!(size_limit(&BTreeMap::from([("inodes".into(), "3".into())])).is_err());
        assert_eq!(size_limit(&BTreeMap::new()).unwrap(), None);
    }
}
