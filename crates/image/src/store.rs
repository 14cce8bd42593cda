//! The image store: opening it, finding images, naming them.

use crate::lease::Leases;
use crate::{
    Collected, DiskUsage, Error, HistoryEntry, Image, ImageId, Import, Lease, Loaded, OnProgress, Reconciled,
    Remove, Removed, Sizes,
};
use content::ContentStore;
use metadata::Database;
use oci::image::ImageConfig;
use oci::{Descriptor, Digest, Platform, Reference};
use snapshot::Snapshotter;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All images of one data root.
#[derive(Debug)]
pub struct Images {
    pub(crate) tmp: PathBuf,
    pub(crate) db: Arc<Database>,
    pub(crate) content: ContentStore,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) leases: Arc<Leases>,
}

#[expect(
    unused_variables,
    clippy::unimplemented,
    clippy::missing_panics_doc,
    reason = "interface only; bodies follow"
)]
impl Images {
    /// Opens the image store of `data_root`. Call [`Images::reconcile`] next.
    pub fn open(
        data_root: &Path,
        db: Arc<Database>,
        content: ContentStore,
        snapshotter: Arc<dyn Snapshotter>,
    ) -> Result<Images, Error> {
        unimplemented!()
    }

    /// Begins work whose blobs and layers must not be collected.
    pub fn lease(&self) -> Lease {
        self.leases.open()
    }

    /// Unpacks one layer whose blob is in the content store, unless it is there already. Returns its chain ID.
    ///
    /// May be called for several layers at once and in any order; `parent` is the chain ID of the layer below.
    pub fn unpack_layer(
        &self,
        lease: &Lease,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: Option<&Digest>,
        progress: OnProgress<'_>,
    ) -> Result<Digest, Error> {
        unimplemented!()
    }

    /// Makes an image of blobs in the content store; unpacks what is not unpacked yet.
    pub fn import(&self, import: &Import<'_>) -> Result<Image, Error> {
        unimplemented!()
    }

    /// All images, dangling ones included, the newest first.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        unimplemented!()
    }

    /// Finds an image by reference (`latest` where neither tag nor digest is named), by id or by a prefix of its id.
    pub fn get(&self, name: &str) -> Result<Image, Error> {
        unimplemented!()
    }

    /// Points `reference` at the image named `source`, away from another if need be. On disk when it returns.
    pub fn tag(&self, source: &str, reference: &Reference) -> Result<(), Error> {
        unimplemented!()
    }

    /// Removes a reference, and the image with its last one, by Docker's rules.
    pub fn remove(&self, name: &str, how: &Remove<'_>) -> Result<Vec<Removed>, Error> {
        unimplemented!()
    }

    /// What the image's config says.
    pub fn config(&self, id: &ImageId) -> Result<Arc<ImageConfig>, Error> {
        unimplemented!()
    }

    /// How the image was made, the newest step first.
    pub fn history(&self, id: &ImageId) -> Result<Vec<HistoryEntry>, Error> {
        unimplemented!()
    }

    /// Sizes of all images.
    pub fn sizes(&self) -> Result<HashMap<ImageId, Sizes>, Error> {
        unimplemented!()
    }

    /// Loads the images in an archive of `docker save`, or in a tar of an OCI layout, plain or compressed.
    pub fn load<R: Read + Send>(
        &self,
        tar: R,
        platform: &Platform,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Loaded>, Error> {
        unimplemented!()
    }

    /// Loads the images in an OCI layout directory or an unpacked archive of `docker save`.
    pub fn load_layout(
        &self,
        dir: &Path,
        platform: &Platform,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Loaded>, Error> {
        unimplemented!()
    }

    /// Removes blobs and layers that no image, no container and no lease needs.
    pub fn collect_garbage(&self) -> Result<Collected, Error> {
        unimplemented!()
    }

    /// Brings disk and record together. For start-up, before anything else.
    pub fn reconcile(&self) -> Result<Reconciled, Error> {
        unimplemented!()
    }

    /// What the store takes on disk.
    pub fn disk_usage(&self) -> Result<DiskUsage, Error> {
        unimplemented!()
    }
}
