//! Images to archives and from root file systems, and the removal of those that nobody uses.

use crate::error::{During, Error, blocking};
use crate::record::now;
use crate::{Engine, instructions};
use image::{Image, ImageId, ImportRoot, Remove, Removed, Saving};
use oci::image::RunConfig;
use oci::{Platform, Reference};
use std::io::{Read, Write};
use std::sync::Arc;

/// A root file system to make an image of.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    pub reference: Option<Reference>,
    pub platform: Platform,
    pub message: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
}

/// What a removal of unused images came to.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    pub removed: Vec<Removed>,
    /// Bytes of layers and blobs that are gone.
    pub bytes: u64,
}

/// Images held until they are written.
#[derive(Debug)]
pub struct SavedImages {
    engine: Arc<Engine>,
    saving: Saving,
}

impl SavedImages {
    /// Writes the archive. Blocks.
    pub fn write(self, out: impl Write) -> Result<(), Error> {
        self.engine.images.save(&self.saving, out).during(|| "save images".into())?;
        for image in self.saving.images() {
            self.engine.image_event("save", &image.id.to_string(), &image.id);
        }
        Ok(())
    }
}

impl Engine {
    /// Prepares an archive of images.
    pub async fn save_images(
        self: &Arc<Self>,
        names: Vec<String>,
        platform: Option<Platform>,
    ) -> Result<SavedImages, Error> {
        let images = self.images.clone();
        let saving = blocking(move || images.plan_save(&names, platform.as_ref()))
            .await
            .during(|| "find image".into())?;
        Ok(SavedImages { engine: self.clone(), saving })
    }

    /// Makes an image of the root file system that `input` brings as a tar, plain or compressed.
    pub async fn import_image<R: Read + Send + 'static>(
        self: &Arc<Self>,
        request: ImportRequest,
        input: R,
    ) -> Result<ImageId, Error> {
        let mut config = RunConfig::default();
        instructions::apply(&mut config, &request.changes)?;
        let images = self.images.clone();
        let references: Vec<Reference> = request.reference.iter().cloned().collect();
        let image = blocking(move || {
            images.import_root(
                input,
                &ImportRoot {
                    platform: &request.platform,
                    config: &config,
                    comment: &request.message,
                    created: &now(),
                    references: &references,
                    progress: &image::ignore,
                },
            )
        })
        .await
        .during(|| "import image".into())?;
        let name = request.reference.as_ref().map_or_else(|| image.id.to_string(), Reference::familiar);
        self.image_event("import", &name, &image.id);
        Ok(image.id)
    }

    /// Removes images that no container was made from: those without a name, with `all` also those with one. `wanted` may
    /// keep some.
    pub async fn prune_images(
        self: &Arc<Self>,
        all: bool,
        wanted: impl Fn(&Image, &RunConfig) -> bool + Send + 'static,
    ) -> Result<Pruned, Error> {
        let engine = self.clone();
        let pruned = blocking(move || engine.prune_images_blocking(all, &wanted)).await?;
        self.events.publish(
            "image",
            "prune",
            String::new(),
            [("reclaimed".to_string(), pruned.bytes.to_string())].into(),
        );
        Ok(pruned)
    }

    fn prune_images_blocking(
        &self,
        all: bool,
        wanted: &dyn Fn(&Image, &RunConfig) -> bool,
    ) -> Result<Pruned, Error> {
        let doing = || "prune images".to_string();
        let before = self.images.disk_usage().during(doing)?;
        let mut removed = Vec::new();
        // A parent can go once its last child has: so again, as long as something goes.
        loop {
            let mut went = false;
            let parents = self.images.parents().during(doing)?;
            for image in self.images.list().during(doing)? {
                let dangling =
                    image.tags.is_empty() && image.digests.is_empty() && image.platform_of.is_empty();
                let has_children = parents.values().any(|parent| *parent == image.id);
                if (!all && !dangling) || has_children || !self.users_of(&image.id).is_empty() {
                    continue;
                }
                let config =
                    self.images.config(&image.id).ok().and_then(|c| c.config.clone()).unwrap_or_default();
                if !wanted(&image, &config) {
                    continue;
                }
                let users = |id: &ImageId| self.users_of(id);
                let how = Remove { force: true, no_prune: true, users: &users };
                match self.images.remove(&image.id.to_string(), &how) {
                    Ok(gone) => {
                        for one in &gone {
                            let (action, what) = match one {
                                Removed::Untagged(name) => ("untag", name),
                                Removed::Deleted(id) => ("delete", id),
                            };
                            self.image_event(action, what, &image.id);
                        }
                        removed.extend(gone);
                        went = true;
                    }
                    // Used or removed by someone since it was looked at.
                    Err(image::Error::Conflict { .. } | image::Error::NoSuchImage { .. }) => {}
                    Err(e) => return Err(e).during(doing),
                }
            }
            if !went {
                break;
            }
        }
        let after = self.images.disk_usage().during(doing)?;
        let total = |usage: &image::DiskUsage| usage.layers_bytes + usage.blobs_bytes;
        self.tidy_later();
        Ok(Pruned { removed, bytes: total(&before).saturating_sub(total(&after)) })
    }
}
