//! Images from an archive: an OCI layout, or what `docker save` writes, in a tar or in a directory.
//!
//! A tar is read once, by the strict reader; `source.rs` says where its files go. Names that the documents give are looked
//! up among the names that came, or resolved below the directory, where no symlink leads out. What is taken becomes an
//! image by the same [`Images::import`] as anything that was pulled.
//!
//! Spec: image-spec, image-layout.md; Docker image specification v1.2 for `manifest.json`.

mod source;

use crate::document::{parse_any_manifest, parse_config, parse_index};
use crate::layout::{self, DOCKER_NAME, MAX_INDEX_DEPTH, OCI_NAME};
use crate::{Error, Image, Images, Import, Lease, OnProgress};
use errors::HasKind as _;
use oci::image::{Index, MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST, media_type};
use oci::{Descriptor, Digest, Platform, Reference};
use rootdir::RootDir;
use serde::Deserialize;
use source::Source;
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most images in one archive.
const MAX_IMAGES: usize = 1000;
/// Most bytes of `manifest.json` and `index.json`, and of `oci-layout`.
const MAX_LIST: usize = MAX_MANIFEST;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub image: Image,
    /// The names that the archive gave it; none for an image known by its id only.
    pub references: Vec<Reference>,
}

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<PathBuf>>,
}

impl Images {
    /// Loads the images in an archive of `docker save`, or in a tar of an OCI layout, plain or compressed: those for
    /// `platform`, or for every platform that the archive has, one for this machine first.
    ///
    /// # Errors
    ///
    /// [`Error::ReadArchive`] for what is no tar or a hostile one, [`Error::Archive`] for one without images; those
    /// of [`Images::import`]. Images loaded before the failure stay.
    pub fn load<R: Read + Send>(
        &self,
        tar: R,
        platform: Option<&Platform>,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Loaded>, Error> {
        let lease = self.lease();
        let loaded = source::receive(self, &lease, tar)
            .and_then(|source| self.load_source(&source, &lease, platform, progress));
        self.loaded(lease, loaded)
    }

    /// Loads the images in an OCI layout directory or an unpacked archive of `docker save`.
    pub fn load_layout(
        &self,
        dir: &Path,
        platform: Option<&Platform>,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Loaded>, Error> {
        let opened = RootDir::open(dir);
        let root = opened.map_err(|e| Error::File {
            what: "open",
            path: dir.into(),
            source: io::Error::other(e),
        })?;
        let lease = self.lease();
        let loaded = self.load_source(&Source::Directory(&root), &lease, platform, progress);
        self.loaded(lease, loaded)
    }

    fn load_source(
        &self,
        source: &Source<'_>,
        lease: &Lease,
        platform: Option<&Platform>,
        progress: OnProgress<'_>,
    ) -> Result<Vec<Loaded>, Error> {
        Loading { images: self, source, platform, progress, lease }.run()
    }

    /// Removes what came and is of no image: all of an image that failed, and what the archive had besides.
    fn loaded(&self, lease: Lease, loaded: Result<Vec<Loaded>, Error>) -> Result<Vec<Loaded>, Error> {
        drop(lease);
        match &loaded {
            Ok(_) => {
                if let Err(e) = self.collect_garbage() {
                    let error = errors::chain(&e);
                    tracing::warn!(error, "leftovers of a load stay until the next collection");
                }
            }
            Err(_) => self.clear_leftovers(),
        }
        loaded
    }
}

/// An archive being loaded.
struct Loading<'a> {
    images: &'a Images,
    source: &'a Source<'a>,
    platform: Option<&'a Platform>,
    progress: OnProgress<'a>,
    lease: &'a Lease,
}

impl Loading<'_> {
    fn run(&self) -> Result<Vec<Loaded>, Error> {
        let docker = self.read_if_there(Path::new("manifest.json"), MAX_LIST)?;
        let docker: Vec<DockerImage> = match docker {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::Archive { reason: format!("manifest.json: {e}") })?,
            None => Vec::new(),
        };
        if docker.len() > MAX_IMAGES {
            return Err(Error::Archive { reason: format!("it has more than {MAX_IMAGES} images") });
        }
        if let Some(layout) = self.read_if_there(Path::new("oci-layout"), MAX_LIST)? {
            return self.load_layout(&layout, &docker);
        }
        if docker.is_empty() {
            let reason = "it has neither an oci-layout nor a manifest.json that names an image";
            return Err(Error::Archive { reason: reason.into() });
        }
        docker.iter().map(|image| self.load_docker(image)).collect()
    }

    fn load_layout(&self, layout: &[u8], docker: &[DockerImage]) -> Result<Vec<Loaded>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Layout {
            image_layout_version: String,
        }
        let bad = |what: &str, why: String| Error::Archive { reason: format!("{what}: {why}") };
        let layout: Layout = serde_json::from_slice(layout).map_err(|e| bad("oci-layout", e.to_string()))?;
        if !layout.image_layout_version.starts_with("1.") {
            return Err(bad("oci-layout", format!("version {:?} is not known", layout.image_layout_version)));
        }
        let bytes = self.read(Path::new("index.json"), MAX_LIST)?;
        let index = parse_index(&bytes, &Digest::of(&bytes), media_type::OCI_INDEX)?;
        if index.manifests.len() > MAX_IMAGES {
            return Err(bad("index.json", format!("it has more than {MAX_IMAGES} entries")));
        }
        let docker_names = docker_names(docker);
        let mut loaded = Vec::new();
        for entry in self.wanted(&index)? {
            loaded.extend(self.load_entry(entry, &docker_names)?);
        }
        Ok(loaded)
    }

    /// The entries of the top index that are images for the platform; those that do not say count as such.
    fn wanted<'i>(&self, index: &'i Index) -> Result<Vec<&'i Descriptor>, Error> {
        let readable =
            |e: &&Descriptor| media_type::is_manifest(&e.media_type) || media_type::is_index(&e.media_type);
        let fits = |e: &&Descriptor| match (&e.platform, self.platform) {
            (Some(own), Some(wanted)) => own.satisfies(wanted),
            _ => true,
        };
        let wanted: Vec<&Descriptor> = index.manifests.iter().filter(readable).filter(fits).collect();
        match (wanted.is_empty(), index.manifests.is_empty()) {
            (false, _) => Ok(wanted),
            (true, true) => Err(Error::Archive { reason: "index.json names no image".into() }),
            (true, false) => Err(Error::NoPlatform { platform: self.platform_or_host() }),
        }
    }

    fn load_entry(
        &self,
        entry: &Descriptor,
        docker_names: &HashMap<PathBuf, Vec<Reference>>,
    ) -> Result<Vec<Loaded>, Error> {
        let target = Descriptor { annotations: Default::default(), ..entry.clone() };
        let bytes = self.copy_document(&target)?;
        let mut found = Vec::new();
        if media_type::is_index(&target.media_type) {
            self.take_index(&bytes, &target, MAX_INDEX_DEPTH, &mut found)?;
        } else {
            let manifest = parse_any_manifest(&bytes, &target.digest)?;
            for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                self.copy_blob(blob)?;
            }
            found.push((self.platform_or_host(), manifest.config.digest));
        }
        // The one for this machine is the one that the names mean.
        found.sort_by_key(|(platform, _)| !platform.satisfies(&Platform::host()));
        let mut loaded = Vec::new();
        for (platform, config) in found {
            let mut references = layout_name(entry).into_iter().collect::<Vec<_>>();
            for name in docker_names.get(&blob_path(&config)).into_iter().flatten() {
                if !references.contains(name) {
                    references.push(name.clone());
                }
            }
            loaded.push(self.import(&target, &platform, references)?);
        }
        Ok(loaded)
    }

    /// Takes what the archive has of an index: one platform where one is asked for, else all; and what the index says about
    /// these. Adds the platforms with the configs of their manifests to `found`.
    fn take_index(
        &self,
        bytes: &[u8],
        descriptor: &Descriptor,
        depth: usize,
        found: &mut Vec<(Platform, Digest)>,
    ) -> Result<(), Error> {
        let digest = descriptor.digest;
        if depth == 0 {
            return Err(layout::too_deep(digest));
        }
        let index = parse_index(bytes, &digest, &descriptor.media_type)?;
        if index.is_collection() {
            for entry in &index.manifests {
                self.take_if_whole(entry)?;
            }
            found.push((self.platform_or_host(), digest));
            return Ok(());
        }
        let chosen = self.platform.map(|platform| crate::choose(&index, platform)).transpose()?;
        let before = found.len();
        for entry in &index.manifests {
            let is_about = |other: &Descriptor| index.about(&other.digest).any(|said| said == entry);
            match chosen {
                Some(one) if one == entry => {}
                Some(one) if is_about(one) => drop(self.take_if_whole(entry)?),
                Some(_) => continue,
                None => {}
            }
            if media_type::is_index(&entry.media_type) {
                if chosen.is_some() || self.has(entry) {
                    let bytes = self.copy_document(entry)?;
                    self.take_index(&bytes, entry, depth - 1, found)?;
                }
                continue;
            }
            let config = if chosen == Some(entry) {
                Some(self.take_manifest(entry)?)
            } else {
                self.take_if_whole(entry)?
            };
            // What is said about an image has the platform `unknown` and is no image of its own.
            let platform = entry.platform.clone().filter(|platform| platform.os != "unknown");
            let platform = platform.or_else(|| (index.manifests.len() == 1).then(|| self.platform_or_host()));
            found.extend(platform.zip(config));
        }
        match found.len() == before {
            true if depth == MAX_INDEX_DEPTH => Err(Error::NoPlatform { platform: self.platform_or_host() }),
            _ => Ok(()),
        }
    }

    /// Takes a manifest with all that it names. Returns the digest of its config.
    fn take_manifest(&self, entry: &Descriptor) -> Result<Digest, Error> {
        let manifest = parse_any_manifest(&self.copy_document(entry)?, &entry.digest)?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            self.copy_blob(blob)?;
        }
        Ok(manifest.config.digest)
    }

    /// As [`Loading::take_manifest`] where the archive, or the store, has all of it.
    fn take_if_whole(&self, entry: &Descriptor) -> Result<Option<Digest>, Error> {
        if !media_type::is_manifest(&entry.media_type) || !self.has(entry) {
            return Ok(None);
        }
        let manifest = parse_any_manifest(&self.copy_document(entry)?, &entry.digest)?;
        let is_whole = std::iter::once(&manifest.config).chain(&manifest.layers).all(|blob| self.has(blob));
        if is_whole { self.take_manifest(entry).map(Some) } else { Ok(None) }
    }

    fn has(&self, descriptor: &Descriptor) -> bool {
        self.lease.keep_blob(&descriptor.digest);
        self.images.content.contains(&descriptor.digest) || self.source.has(&blob_path(&descriptor.digest))
    }

    fn platform_or_host(&self) -> Platform {
        self.platform.cloned().unwrap_or_else(Platform::host)
    }

    fn load_docker(&self, image: &DockerImage) -> Result<Loaded, Error> {
        let bytes = self.read(&image.config, MAX_CONFIG)?;
        let config_digest = Digest::of(&bytes);
        let config = parse_config(&bytes, &config_digest)?;
        let paths = image.layers.as_deref().unwrap_or_default();
        let diff_ids = config.rootfs.diff_ids.len();
        if paths.len() != diff_ids || paths.len() > MAX_LAYERS {
            let reason = format!("manifest.json names {} layers, the config has {diff_ids}", paths.len());
            return Err(Error::Archive { reason });
        }
        let references = tags(image.repo_tags.as_deref().unwrap_or_default())?;
        self.lease.keep_blob(&config_digest);
        self.images.content.put(&bytes)?;
        let layers = paths.iter().map(|path| self.copy_layer(path)).collect::<Result<Vec<_>, _>>()?;
        let target = self.write_manifest(config_digest, bytes.len(), layers)?;
        self.import(&target, &self.platform_or_host(), references)
    }

    /// Writes the manifest that an archive of `docker save` does not have.
    fn write_manifest(
        &self,
        config_digest: Digest,
        config_size: usize,
        layers: Vec<Descriptor>,
    ) -> Result<Descriptor, Error> {
        let bytes = crate::commit::manifest_of(config_digest, config_size as u64, layers);
        let digest = Digest::of(&bytes);
        self.lease.keep_blob(&digest);
        self.images.content.put(&bytes)?;
        Ok(Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64))
    }

    fn import(
        &self,
        target: &Descriptor,
        platform: &Platform,
        references: Vec<Reference>,
    ) -> Result<Loaded, Error> {
        let image = self.images.import(&Import {
            target,
            platform,
            references: &references,
            lease: Some(self.lease),
            progress: self.progress,
        })?;
        Ok(Loaded { image, references })
    }

    /// Copies a manifest or index from `blobs/` and returns it.
    fn copy_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > MAX_MANIFEST as u64 {
            let (size, max) = (descriptor.size, MAX_MANIFEST as u64);
            return Err(content::Error::TooLarge { digest: descriptor.digest, size, max }.into());
        }
        self.copy_blob(descriptor)?;
        Ok(self.images.content.read_bounded(&descriptor.digest, MAX_MANIFEST as u64)?)
    }

    /// Copies a blob from `blobs/`, unless it is there already.
    fn copy_blob(&self, descriptor: &Descriptor) -> Result<(), Error> {
        self.lease.keep_blob(&descriptor.digest);
        if self.images.content.size(&descriptor.digest).is_ok_and(|size| size == descriptor.size) {
            return Ok(());
        }
        let path = blob_path(&descriptor.digest);
        let expected = Some((descriptor.digest, descriptor.size));
        self.source.take(self.images, self.lease, &path, expected).map(drop)
    }

    /// Copies a layer of a docker archive and describes it.
    fn copy_layer(&self, path: &Path) -> Result<Descriptor, Error> {
        let (digest, size, compression) = self.source.take(self.images, self.lease, path, None)?;
        Ok(Descriptor::new(crate::layer_type(compression), digest, size))
    }

    fn read_if_there(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, Error> {
        match self.read(path, max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == errors::Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn read(&self, path: &Path, max: usize) -> Result<Vec<u8>, Error> {
        self.source.read(self.images, path, max)
    }
}

/// The tags of the images in `manifest.json`, by the path of their config.
fn docker_names(images: &[DockerImage]) -> HashMap<PathBuf, Vec<Reference>> {
    // In an OCI layout these names come second; one that is not a name is left out.
    images
        .iter()
        .map(|image| {
            let tags = image.repo_tags.iter().flatten().filter_map(|tag| tag.parse::<Reference>().ok());
            (
                image.config.clone(),
                tags.filter(|tag| tag.digest().is_none()).map(Reference::with_default_tag).collect(),
            )
        })
        .collect()
}

fn tags(texts: &[String]) -> Result<Vec<Reference>, Error> {
    let parse = |text: &String| {
        let reference = text.parse::<Reference>()?;
        match reference.digest() {
            Some(_) => Err(Error::TagWithDigest),
            None => Ok(reference.with_default_tag()),
        }
    };
    texts.iter().map(parse).collect()
}

/// The name that an entry of the top index gives. A bare tag or word is no name: nobody said which repository.
fn layout_name(entry: &Descriptor) -> Option<Reference> {
    let docker = entry.annotations.get(DOCKER_NAME);
    let oci = entry.annotations.get(OCI_NAME).filter(|name| name.contains([':', '/']));
    let reference = docker.or(oci)?.parse::<Reference>().ok()?;
    reference.digest().is_none().then(|| reference.with_default_tag())
}

fn blob_path(digest: &Digest) -> PathBuf {
    layout::path(digest).into()
}
