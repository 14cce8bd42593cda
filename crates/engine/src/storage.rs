//! Which storage driver it is.

use crate::error::{During, Error};
use crate::{Config, Engine};
use metadata::Database;
use snapshot::{LayerForm, Overlay, Snapshotter};
use std::sync::Arc;

/// The names that [`Config::storage_driver`] may have.
pub const STORAGE_DRIVERS: &[&str] = &["erofs", "overlay", "overlay2"];

/// Opens the driver that was asked for, or the best that the kernel can.
///
/// # Errors
///
/// When the one that was asked for does not work here. Nothing else is taken in its place then.
pub(crate) fn open(config: &Config, db: &Arc<Database>) -> Result<Arc<dyn Snapshotter>, Error> {
    let doing = || format!("open the store in {}", config.data_root.display());
    let images = || Overlay::can_mount_images(&config.data_root.join("tmp"));
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

impl Engine {
    /// Name of the storage driver.
    pub fn storage_driver(&self) -> &'static str {
        self.snapshots.driver()
    }
}
