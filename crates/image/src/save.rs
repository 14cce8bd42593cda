//! Saving images: one tar that is an OCI layout and, by `manifest.json`, what `docker load` of any age reads.
//!
//! ```text
//! oci-layout        version of the layout
//! index.json        what was imported, for each image and name: `io.containerd.image.name`, `org.opencontainers.image.ref.name`
//! manifest.json     config, names and layers of each image, as paths
//! repositories      names to topmost layers, for the oldest readers
//! blobs/sha256/...  each blob once, byte for byte as it came in
//! ```
//!
//! An image that was chosen from an index is saved with that index as it is, with the other platforms and the attestations
//! that are here, so that its digest is the same after a load; one platform alone where it is asked for. Artifacts that are
//! no images are in the layout only.
//!
//! The same images give the same bytes. Blobs are held by a lease while they are written, so that a removal meanwhile takes
//! nothing away.

use crate::{Error, Image, Images, Lease, Outgoing, layout};
use archive::Files;
use oci::image::{Manifest, media_type};
use oci::{Descriptor, Platform, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Images about to be saved.
#[derive(Debug)]
pub struct Saving {
    /// In the order in which they were first named.
    images: Vec<Saved>,
    _lease: Lease,
}

/// An image about to be saved.
#[derive(Debug)]
struct Saved {
    image: Image,
    /// None for an artifact that is no image.
    manifest: Option<Manifest>,
    /// What the layout names: the index or the manifest.
    root: Descriptor,
    whole: Outgoing,
    references: BTreeSet<Reference>,
}

impl Saving {
    /// The images.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.images.iter().map(|saved| &saved.image)
    }
}

impl Images {
    /// Finds what `names` mean and holds it: a reference with a tag names the image with that name, one without all tags of
    /// its repository, an id the image without a name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchImage`] for the first that is none; [`Error::OtherPlatform`] when there is none for `platform`;
    /// [`Error::BlobLost`] when a blob of it is missing.
    pub fn plan_save(&self, names: &[String], platform: Option<&Platform>) -> Result<Saving, Error> {
        let lease = self.lease();
        let mut images: Vec<Saved> = Vec::new();
        for name in names {
            for (image, reference) in self.named(name)? {
                let image = match platform {
                    None => image,
                    Some(platform) => {
                        let own = reference.as_ref().map_or_else(|| name.clone(), Reference::to_string);
                        self.get_for(&own, platform)?
                    }
                };
                let at = match images.iter().position(|known| known.image.id == image.id) {
                    Some(at) => at,
                    None => {
                        images.push(self.plan_one(image, platform.is_none(), &lease)?);
                        images.len() - 1
                    }
                };
                images[at].references.extend(reference);
            }
        }
        Ok(Saving { images, _lease: lease })
    }

    /// What belongs to an image: all of its index that is here, or its own manifest alone.
    fn plan_one(&self, image: Image, with_index: bool, lease: &Lease) -> Result<Saved, Error> {
        let mut root = if with_index { image.target.clone() } else { image.manifest.clone() };
        root.annotations.clear();
        let whole = self.outgoing(&root, lease)?;
        // Looked up again now that nothing can take it away.
        self.image(&image.id)?;
        let own = image.manifest.digest;
        if !whole.documents.iter().any(|(document, _)| document.digest == own) {
            // The index does not lead to it by itself, or not all of it is here: the error names what is not.
            drop(self.outgoing(&image.manifest, lease)?);
            return Err(content::Error::NotFound { digest: own }.into());
        }
        if image.is_artifact() {
            return Ok(Saved { image, manifest: None, root, whole, references: BTreeSet::new() });
        }
        let manifest = self.manifest(&image.id)?;
        if !media_type::is_index(&root.media_type) {
            let config = self.config(&image.id)?;
            root.platform = Some(config.platform());
        }
        Ok(Saved { image, manifest: Some(manifest), root, whole, references: BTreeSet::new() })
    }

    fn named(&self, name: &str) -> Result<Vec<(Image, Option<Reference>)>, Error> {
        let found = self.get(name);
        let Ok(reference) = name.parse::<Reference>() else { return Ok(vec![(found?, None)]) };
        if let Ok(image) = &found {
            let is_id = image.id.to_string().starts_with(name) || image.id.0.hex().starts_with(name);
            let tagged = reference.clone().with_default_tag();
            if is_id && !image.tags.contains(&tagged) {
                return Ok(vec![(found?, None)]);
            }
            if reference.digest().is_some() {
                return Ok(vec![(found?, None)]);
            }
        }
        if reference.tag().is_some() {
            return Ok(vec![(found?, Some(reference))]);
        }
        let mut all = Vec::new();
        for image in self.list()? {
            for tag in image.tags.iter().filter(|tag| tag.name() == reference.name()) {
                all.push((image.clone(), Some(tag.clone())));
            }
        }
        all.sort_by(|a, b| a.1.cmp(&b.1));
        if all.is_empty() { Ok(vec![(found?, None)]) } else { Ok(all) }
    }

    /// Writes the archive. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::WriteArchive`] when `out` refuses bytes or a blob is damaged in its length; [`Error::Content`].
    pub fn save<W: Write>(&self, saving: &Saving, out: W) -> Result<(), Error> {
        let failed = |source| Error::WriteArchive { source };
        let mut files = Files::new(out);
        let manifests = saving.images.iter().flat_map(|saved| layout::named(&saved.root, &saved.references));
        let documents = [
            ("manifest.json", layout::bytes(&docker_manifest(saving))),
            ("repositories", layout::bytes(&repositories(saving))),
        ];
        layout::begin(&mut files, manifests.collect(), &documents).map_err(failed)?;
        let mut written = BTreeSet::new();
        for Saved { whole, .. } in &saving.images {
            for (document, text) in &whole.documents {
                if written.insert(document.digest) {
                    files.bytes(&layout::path(&document.digest), text).map_err(failed)?;
                }
            }
            // Configs first: who reads an archive as it comes knows then what the layers are to become.
            let blobs = whole.blobs.iter().filter(|blob| !blob.is_layer);
            for blob in blobs.chain(whole.blobs.iter().filter(|blob| blob.is_layer)) {
                let blob = &blob.descriptor;
                if written.insert(blob.digest) {
                    let mut file = self.content.open_blob(&blob.digest)?;
                    files.file(&layout::path(&blob.digest), blob.size, &mut file).map_err(failed)?;
                }
            }
        }
        files.finish().map(drop).map_err(failed)
    }
}

fn docker_manifest(saving: &Saving) -> serde_json::Value {
    let entry = |saved: &Saved| Some(layout::docker_entry(saved.manifest.as_ref()?, &saved.references));
    saving.images.iter().filter_map(entry).collect()
}

fn repositories(saving: &Saving) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut out: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for Saved { manifest, references, .. } in &saving.images {
        let Some(top) = manifest.as_ref().and_then(|manifest| manifest.layers.last()) else { continue };
        for reference in references {
            let tag = reference.tag().unwrap_or_default().to_string();
            out.entry(reference.familiar_name()).or_default().insert(tag, top.digest.hex());
        }
    }
    out
}
