//! The manifests of an image, one by one: those for platforms, those about them, and how much of each is here.

use crate::document::{parse_any_manifest, parse_index};
use crate::{Error, Image, ImageId, Images};
use oci::image::{MAX_MANIFEST, Manifest, media_type};
use oci::{Descriptor, Digest, Platform};

/// Indexes within indexes that are looked into.
const MAX_DEPTH: usize = 4;

/// One manifest of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestSummary {
    pub descriptor: Descriptor,
    /// All that it names is here.
    pub available: bool,
    /// Sizes of those of its blobs that are here, its own included.
    pub content_bytes: u64,
    pub kind: ManifestKind,
}

/// What a manifest is of.
#[derive(Debug, Clone, PartialEq)]
pub enum ManifestKind {
    Image {
        platform: Platform,
        /// The image, where it is here, and the size of the files of its layers.
        here: Option<(ImageId, u64)>,
    },
    /// It says something about this manifest.
    Attestation {
        about: Digest,
    },
    Unknown,
}

impl Images {
    /// The manifests of what was imported as `image`, in the order of its index.
    pub fn manifests(&self, image: &Image) -> Result<Vec<ManifestSummary>, Error> {
        let mut out = Vec::new();
        self.summarise(&image.target, None, MAX_DEPTH, &mut out)?;
        Ok(out)
    }

    fn summarise(
        &self,
        descriptor: &Descriptor,
        about: Option<Digest>,
        depth: usize,
        out: &mut Vec<ManifestSummary>,
    ) -> Result<(), Error> {
        let bytes = match self.content.read_bounded(&descriptor.digest, MAX_MANIFEST as u64) {
            Ok(bytes) => Some(bytes),
            Err(content::Error::NotFound { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        if media_type::is_index(&descriptor.media_type) {
            let Some(bytes) = bytes.filter(|_| depth > 0) else { return Ok(()) };
            let index = parse_index(&bytes, &descriptor.digest, &descriptor.media_type)?;
            for entry in &index.manifests {
                let subject =
                    index.manifests.iter().find(|s| index.about(&s.digest).any(|said| said == entry));
                self.summarise(entry, subject.map(|subject| subject.digest), depth - 1, out)?;
            }
            return Ok(());
        }
        let manifest = bytes.and_then(|bytes| parse_any_manifest(&bytes, &descriptor.digest).ok());
        let (available, content_bytes) = self.weigh(descriptor, manifest.as_ref())?;
        let platform = || descriptor.platform.clone().filter(|platform| platform.os != "unknown");
        let kind = match (about, &manifest) {
            (Some(about), _) => ManifestKind::Attestation { about },
            (None, Some(manifest)) if manifest.is_image() => {
                let id = ImageId(manifest.config.digest);
                let here = self.image(&id).ok().map(|image| (id, image.size_bytes));
                let own = || self.config(&id).ok().map(|config| config.platform());
                platform()
                    .or_else(own)
                    .map_or(ManifestKind::Unknown, |platform| ManifestKind::Image { platform, here })
            }
            (None, None) => platform()
                .map_or(ManifestKind::Unknown, |platform| ManifestKind::Image { platform, here: None }),
            (None, Some(_)) => ManifestKind::Unknown,
        };
        out.push(ManifestSummary { descriptor: descriptor.clone(), available, content_bytes, kind });
        Ok(())
    }

    fn weigh(&self, descriptor: &Descriptor, manifest: Option<&Manifest>) -> Result<(bool, u64), Error> {
        let Some(manifest) = manifest else { return Ok((false, 0)) };
        let unwritten = self.unwritten(manifest)?;
        let (mut available, mut bytes) = (true, descriptor.size);
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            match self.content.size(&blob.digest) {
                Ok(size) => bytes += size,
                // Packed when it is needed: so many then, and until then none.
                Err(_) if unwritten.contains_key(&blob.digest) => {}
                // Bytes that stay with their vendor.
                Err(_) if !blob.urls.is_empty() => {}
                Err(_) => available = false,
            }
        }
        Ok((available, bytes))
    }
}
