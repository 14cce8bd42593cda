//! Saving images: one tar that is an OCI layout and, by `manifest.json`, what `docker load` of any age reads.
//!
//! ```text
//! oci-layout        version of the layout
//! index.json        a manifest for each image and name: `io.containerd.image.name`, `org.opencontainers.image.ref.name`
//! manifest.json     config, names and layers of each image, as paths
//! repositories      names to topmost layers, for the oldest readers
//! blobs/sha256/...  each blob once, byte for byte as it came in
//! ```
//!
//! The same images give the same bytes. Blobs are held by a lease while they are written, so that a removal meanwhile takes
//! nothing away.

use crate::{Error, Image, Images, Lease};
use archive::Files;
use oci::image::{Index, Manifest, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

const DOCKER_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// Images about to be saved.
#[derive(Debug)]
pub struct Saving {
    /// In the order in which they were first named.
    images: Vec<(Image, Manifest, Platform, BTreeSet<Reference>)>,
    _lease: Lease,
}

impl Saving {
    /// The images.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.images.iter().map(|(image, ..)| image)
    }
}

impl Images {
    /// Finds what `names` mean and holds it: a reference with a tag names the image with that name, one without all tags of
    /// its repository, an id the image without a name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchImage`] for the first that is none; [`Error::NoPlatform`] when an image is for another than `platform`.
    pub fn plan_save(&self, names: &[String], platform: Option<&Platform>) -> Result<Saving, Error> {
        let lease = self.lease();
        let mut images: Vec<(Image, Manifest, Platform, BTreeSet<Reference>)> = Vec::new();
        for name in names {
            for (image, reference) in self.named(name)? {
                let at = match images.iter().position(|(known, ..)| known.id == image.id) {
                    Some(at) => at,
                    None => {
                        let manifest = self.manifest(&image.id)?;
                        for blob in [&image.manifest, &manifest.config].into_iter().chain(&manifest.layers) {
                            lease.keep_blob(&blob.digest);
                        }
                        // Looked up again now that nothing can take it away.
                        self.image(&image.id)?;
                        let own = platform_of(&*self.config(&image.id)?);
                        if let Some(wanted) = platform.filter(|wanted| !own.satisfies(wanted)) {
                            return Err(Error::NoPlatform { platform: wanted.clone() });
                        }
                        images.push((image, manifest, own, BTreeSet::new()));
                        images.len() - 1
                    }
                };
                images[at].3.extend(reference);
            }
        }
        Ok(Saving { images, _lease: lease })
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
        files.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed)?;
        files.bytes("index.json", &bytes(&index(saving))).map_err(failed)?;
        files.bytes("manifest.json", &bytes(&docker_manifest(saving))).map_err(failed)?;
        files.bytes("repositories", &bytes(&repositories(saving))).map_err(failed)?;
        files.directory("blobs").map_err(failed)?;
        files.directory("blobs/sha256").map_err(failed)?;
        let mut written = BTreeSet::new();
        for (image, manifest, ..) in &saving.images {
            for blob in [&image.manifest, &manifest.config].into_iter().chain(&manifest.layers) {
                if !written.insert(blob.digest) {
                    continue;
                }
                let mut file = self.content.open_blob(&blob.digest)?;
                files.file(&path(&blob.digest), blob.size, &mut file).map_err(failed)?;
            }
        }
        files.finish().map(drop).map_err(failed)
    }
}

fn bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain strings and numbers")
}

pub(crate) fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn platform_of(config: &oci::image::ImageConfig) -> Platform {
    Platform {
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        variant: config.variant.clone(),
    }
}

fn index(saving: &Saving) -> Index {
    let mut manifests = Vec::new();
    for (image, _, platform, references) in &saving.images {
        let plain = Descriptor {
            platform: Some(platform.clone()),
            annotations: BTreeMap::new(),
            ..image.manifest.clone()
        };
        for reference in references {
            let mut named = plain.clone();
            named.annotations.insert(DOCKER_NAME.into(), reference.to_string());
            named.annotations.insert(OCI_NAME.into(), reference.tag().unwrap_or_default().into());
            manifests.push(named);
        }
        if references.is_empty() {
            manifests.push(plain);
        }
    }
    Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.into()),
        manifests,
        annotations: BTreeMap::new(),
    }
}

fn docker_manifest(saving: &Saving) -> serde_json::Value {
    let entry = |(image, manifest, _, references): &(Image, Manifest, Platform, BTreeSet<Reference>)| {
        let tags: Vec<String> = references.iter().map(Reference::familiar).collect();
        let layers: Vec<String> = manifest.layers.iter().map(|layer| path(&layer.digest)).collect();
        json!({
            "Config": path(&image.id.0),
            "RepoTags": if tags.is_empty() { serde_json::Value::Null } else { json!(tags) },
            "Layers": layers,
        })
    };
    saving.images.iter().map(entry).collect()
}

fn repositories(saving: &Saving) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut out: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (_, manifest, _, references) in &saving.images {
        let Some(top) = manifest.layers.last() else { continue };
        for reference in references {
            let tag = reference.tag().unwrap_or_default().to_string();
            out.entry(reference.familiar_name()).or_default().insert(tag, top.digest.hex());
        }
    }
    out
}
