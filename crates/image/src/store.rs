//! The image store: opening it, finding images, naming them, what is known of them.

use crate::document::{chain_ids, parse_config};
use crate::import::{label, point};
use crate::lease::Leases;
use crate::unpack::Turns;
use crate::{DiskUsage, Error, HistoryEntry, Image, ImageId, Lease, Sizes};
use content::ContentStore;
use metadata::{Database, ImageRow, ReadTx, ReferenceRow};
use oci::image::{ImageConfig, MAX_CONFIG};
use oci::{Digest, Platform, Reference};
use snapshot::{Others, Snapshotter};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Configs kept in memory. A config is a few KiB; more images than this are rare on one machine.
const CACHED_CONFIGS: usize = 256;

/// All images of one data root.
#[derive(Debug)]
pub struct Images {
    pub(crate) db: Arc<Database>,
    pub(crate) content: ContentStore,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    /// Layers under drivers that were used before.
    pub(crate) others: Others,
    pub(crate) leases: Arc<Leases>,
    pub(crate) turns: Turns,
    configs: Mutex<HashMap<ImageId, Arc<ImageConfig>>>,
}

impl Images {
    /// Opens the image store of `data_root`, where it keeps a directory `tmp`. Call [`Images::reconcile`] next.
    pub fn open(
        data_root: &Path,
        db: Arc<Database>,
        content: ContentStore,
        snapshotter: Arc<dyn Snapshotter>,
    ) -> Result<Images, Error> {
        let tmp = data_root.join("tmp");
        snapshot::remove_tree(&tmp)?;
        make_dir(&tmp)?;
        Ok(Images {
            others: Others::new(data_root, db.clone()),
            db,
            content,
            snapshotter,
            leases: Arc::default(),
            turns: Turns::default(),
            configs: Mutex::default(),
        })
    }

    /// What other storage drivers have below the same data root.
    pub fn other_drivers(&self) -> &Others {
        &self.others
    }

    /// Begins work whose blobs and layers must not be collected.
    pub fn lease(&self) -> Lease {
        self.leases.open()
    }

    /// All images, dangling ones included, by the time they were created, the newest first.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let mut images = self.db.read(|tx| -> Result<_, Error> {
            let mut references: HashMap<Digest, Vec<ReferenceRow>> = HashMap::new();
            for row in tx.list_references()? {
                references.entry(row.image_id).or_default().push(row);
            }
            let mut beside: HashMap<Digest, Vec<ReferenceRow>> = HashMap::new();
            for row in tx.list_platform_references()? {
                beside.entry(row.image_id).or_default().push(row);
            }
            let rows = tx.list_images()?.into_iter();
            let join = |row: ImageRow| {
                let references = references.remove(&row.id).unwrap_or_default();
                image(references, beside.remove(&row.id).unwrap_or_default(), row)
            };
            rows.map(join).collect::<Result<Vec<_>, _>>()
        })?;
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// Finds an image by reference (`latest` where neither tag nor digest is named), by id or by a prefix of its id.
    ///
    /// A reference goes before a prefix that reads the same.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchImage`], [`Error::Ambiguous`], [`Error::Reference`] for what can be neither.
    pub fn get(&self, name: &str) -> Result<Image, Error> {
        self.db.read(|tx| load(tx, &find(tx, name)?))
    }

    /// As [`Images::get`], for `platform`: of what a reference leads to, the image that runs there.
    ///
    /// # Errors
    ///
    /// Those of [`Images::get`]; [`Error::OtherPlatform`] when there is the image, but not for `platform`.
    pub fn get_for(&self, name: &str, platform: &Platform) -> Result<Image, Error> {
        let image = self.get(name)?;
        if image.is_artifact() || self.config(&image.id)?.platform().satisfies(platform) {
            return Ok(image);
        }
        let other = || Error::OtherPlatform { name: name.into(), platform: Box::new(platform.clone()) };
        let Ok(reference) = name.parse::<Reference>().map(Reference::with_default_tag) else {
            return Err(other());
        };
        self.db.read(|tx| {
            let known = tx.platforms_of_reference(&reference.name(), &label(&reference)?)?;
            let fits = |text: &str| text.parse::<Platform>().is_ok_and(|p| p.satisfies(platform));
            match known.iter().find(|(text, _)| fits(text)) {
                Some((_, id)) => load(tx, id),
                None => Err(other()),
            }
        })
    }

    /// The image with this id.
    pub fn image(&self, id: &ImageId) -> Result<Image, Error> {
        self.db.read(|tx| load(tx, &id.0))
    }

    /// Whether all blobs of an image are in the store. What they hold is not looked at.
    pub fn is_whole(&self, id: &ImageId) -> Result<bool, Error> {
        let blobs = self.db.read(|tx| tx.blobs_of(&id.0))?;
        Ok(blobs.iter().all(|digest| self.content.contains(digest)))
    }

    /// Points `reference` (`latest` where it has no tag) at the image named `source`, away from another if need be.
    /// On disk when it returns.
    pub fn tag(&self, source: &str, reference: &Reference) -> Result<(), Error> {
        if reference.digest().is_some() {
            return Err(Error::TagWithDigest);
        }
        let reference = reference.clone().with_default_tag();
        self.db.write_durable(|tx| {
            let id = find(tx, source)?;
            point(tx, id, std::slice::from_ref(&reference))?;
            // A second name means all that the first does.
            let Ok(source) = source.parse::<Reference>().map(Reference::with_default_tag) else {
                return Ok(());
            };
            let (repository, label_of) = (source.name(), label(&source)?);
            if tx.reference(&repository, &label_of)? != Some(id) {
                return Ok(());
            }
            for (platform, image_id) in tx.platforms_of_reference(&repository, &label_of)? {
                let row = ReferenceRow { repository: reference.name(), label: label(&reference)?, image_id };
                tx.put_platform(&row, &platform)?;
            }
            Ok(())
        })
    }

    /// What the image's config says. An artifact that is no image has one that says nothing.
    pub fn config(&self, id: &ImageId) -> Result<Arc<ImageConfig>, Error> {
        let configs = || self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs().get(id) {
            return Ok(Arc::clone(config));
        }
        let damaged = |e: Error| Error::Damaged { id: *id, source: Box::new(e) };
        if self.image(id)?.is_artifact() {
            return Ok(Arc::new(crate::artifact::config()));
        }
        let bytes = self.content.read_bounded(&id.0, MAX_CONFIG as u64).map_err(|e| damaged(e.into()))?;
        let config = Arc::new(parse_config(&bytes, &id.0).map_err(damaged)?);
        let mut configs = configs();
        if configs.len() >= CACHED_CONFIGS {
            configs.clear();
        }
        configs.insert(*id, Arc::clone(&config));
        Ok(config)
    }

    pub(crate) fn forget_config(&self, id: &ImageId) {
        self.configs.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// How the image was made, the newest step first.
    pub fn history(&self, id: &ImageId) -> Result<Vec<HistoryEntry>, Error> {
        let image = self.image(id)?;
        let config = self.config(id)?;
        let mut sizes = Vec::new();
        for chain_id in chain_ids(&config) {
            sizes.push(self.snapshotter.layer(&chain_id)?.map_or(0, |layer| layer.size_bytes));
        }
        let mut sizes = sizes.into_iter();
        let mut entries: Vec<HistoryEntry> = config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: None,
                created: step.created.clone().unwrap_or_default(),
                created_by: step.created_by.clone().unwrap_or_default(),
                comment: step.comment.clone().unwrap_or_default(),
                size_bytes: if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
                tags: Vec::new(),
            })
            .collect();
        // Layers that the history does not speak of.
        entries.extend(sizes.map(|size_bytes| HistoryEntry {
            id: None,
            created: image.created.clone(),
            created_by: String::new(),
            comment: String::new(),
            size_bytes,
            tags: Vec::new(),
        }));
        entries.reverse();
        // The steps made here are images of their own.
        let parents = self.parents()?;
        let mut next = Some((*id, image.tags));
        for entry in &mut entries {
            let Some((id, tags)) = next.take() else { break };
            (entry.id, entry.tags) = (Some(id), tags);
            next = parents.get(&id).and_then(|parent| Some((*parent, self.image(parent).ok()?.tags)));
        }
        Ok(entries)
    }

    /// Sizes of all images.
    pub fn sizes(&self) -> Result<HashMap<ImageId, Sizes>, Error> {
        self.db.read(|tx| {
            let layers: HashMap<Digest, _> = tx.list_layers()?.into_iter().map(|l| (l.chain_id, l)).collect();
            let images = tx.list_images()?;
            let chain = |top: Option<Digest>| {
                std::iter::successors(top.and_then(|t| layers.get(&t)), |l| layers.get(l.parent.as_ref()?))
            };
            let mut users: HashMap<Digest, usize> = HashMap::new();
            for layer in images.iter().flat_map(|image| chain(image.chain_id)) {
                *users.entry(layer.chain_id).or_default() += 1;
            }
            let sizes = |row: &ImageRow| Sizes {
                size_bytes: chain(row.chain_id).map(|l| l.size_bytes).sum(),
                shared_bytes: chain(row.chain_id)
                    .filter(|l| users.get(&l.chain_id).is_some_and(|n| *n > 1))
                    .map(|l| l.size_bytes)
                    .sum(),
            };
            Ok(images.iter().map(|row| (ImageId(row.id), sizes(row))).collect())
        })
    }

    /// The image that each image was made from here, where that is one and still there.
    pub fn parents(&self) -> Result<HashMap<ImageId, ImageId>, Error> {
        self.db.read(|tx| {
            let there: std::collections::HashSet<Digest> =
                tx.list_images()?.into_iter().map(|row| row.id).collect();
            let known = tx.list_image_parents()?.into_iter().filter(|(_, parent)| there.contains(parent));
            Ok(known.map(|(id, parent)| (ImageId(id), ImageId(parent))).collect())
        })
    }

    /// What the store takes on disk.
    pub fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let (images, layers_bytes) = self.db.read(|tx| -> Result<_, Error> {
            let layers = tx.list_layers()?.into_iter().map(|layer| layer.size_bytes);
            Ok((tx.list_images()?.len(), layers.sum()))
        })?;
        // A blob removed meanwhile counts nothing.
        let blobs = self.content.list()?;
        let blobs_bytes = blobs.iter().filter_map(|digest| self.content.size(digest).ok()).sum();
        Ok(DiskUsage { images, layers_bytes, blobs_bytes })
    }
}

/// The id of the image that `name` means.
pub(crate) fn find(tx: &ReadTx<'_>, name: &str) -> Result<Digest, Error> {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex =
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let no_such = |name: &str| Err(Error::NoSuchImage { name: name.into() });
    if is_hex && digits.len() == 64 {
        if let Some(id) = tx.image_ids_by_prefix(digits)?.first() {
            return Ok(*id);
        }
        // Clients of builders know an image by its manifest or its index. What an index means here is what its names do.
        let is_it = |digest: &Digest| digest.hex() == digits;
        let rows = tx.list_images()?;
        let mut found: Vec<_> =
            rows.iter().filter(|row| is_it(&row.manifest.digest) || is_it(&row.target.digest)).collect();
        found.sort_by_key(|row| !is_it(&row.manifest.digest));
        return match found.as_slice() {
            [] => no_such(name),
            [only] => Ok(only.id),
            several => {
                let named =
                    several.iter().find(|row| tx.references_of(&row.id).is_ok_and(|names| !names.is_empty()));
                Ok(named.unwrap_or(&several[0]).id)
            }
        };
    }
    let reference = name.parse::<Reference>().map(Reference::with_default_tag);
    if let Ok(reference) = &reference
        && let Some(id) = tx.reference(&reference.name(), &label(reference)?)?
    {
        return Ok(id);
    }
    if is_hex && digits.len() < 64 {
        match tx.image_ids_by_prefix(digits)?.as_slice() {
            [] => {}
            [id] => return Ok(*id),
            _ => return Err(Error::Ambiguous { prefix: digits.into() }),
        }
    }
    no_such(&reference?.familiar())
}

pub(crate) fn load(tx: &ReadTx<'_>, id: &Digest) -> Result<Image, Error> {
    let row = tx.image(id)?.ok_or_else(|| Error::NoSuchImage { name: id.to_string() })?;
    image(tx.references_of(id)?, tx.platform_references_of(id)?, row)
}

fn image(references: Vec<ReferenceRow>, beside: Vec<ReferenceRow>, row: ImageRow) -> Result<Image, Error> {
    let parse = |row: &ReferenceRow| format!("{}{}", row.repository, row.label).parse::<Reference>();
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    let platform_of = beside.iter().map(parse).collect::<Result<_, _>>()?;
    for row in references {
        let reference = parse(&row)?;
        if reference.digest().is_some() { digests.push(reference) } else { tags.push(reference) }
    }
    Ok(Image {
        id: ImageId(row.id),
        target: row.target,
        manifest: row.manifest,
        chain_id: row.chain_id,
        created: row.created,
        added_ms: row.added_ms,
        tagged_ms: row.tagged_ms,
        size_bytes: row.size_bytes,
        tags,
        digests,
        platform_of,
    })
}

pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::File {
        what: "create directory",
        path: path.into(),
        source,
    })
}
