//! `check`: every blob against its digest, every layer against the blob that it was unpacked from or is
//! packed to, records and disk both ways.
//!
//! Runs beside other work. What is found wrong is told; with a repair, what nobody needs is removed, layers are unpacked again
//! from their blobs, and blobs that are damaged are removed, for the caller to fetch again ([`Images::missing_blobs`]).

use crate::document::{chain_ids, parse_any_manifest, parse_index};
use crate::{Error, Image, ImageId, Images, ignore};
use oci::image::MAX_MANIFEST;
use oci::{Descriptor, Digest};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// A directory without a record that stays so for this long is nobody's.
const SETTLE: Duration = Duration::from_millis(200);

/// What a fault is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Blob(Digest),
    /// By chain ID.
    Layer(Digest),
    Image(ImageId),
    /// A writable snapshot, by its key.
    Snapshot(String),
    /// A directory of the snapshotter, by its number.
    Directory(u64),
}

/// What became of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// No repair was asked for.
    NotAsked,
    Done(&'static str),
    /// Why not.
    Impossible(String),
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub object: Object,
    pub what: String,
    /// The images that it concerns.
    pub images: Vec<ImageId>,
    pub repair: Repair,
}

/// What a check looked at and found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    pub images: usize,
    pub blobs: usize,
    pub blob_bytes: u64,
    /// Bytes of blobs that are arriving, or whose beginnings wait for who goes on with them.
    pub partial_bytes: u64,
    pub layers: usize,
    /// Layers that no blob tells the content of, or that the driver keeps in another form: not compared.
    pub layers_not_compared: usize,
    pub snapshots: usize,
    pub faults: Vec<Fault>,
}

impl Images {
    /// Checks everything; with `repair` repairs what can be without asking anyone else. Blocks, and reads all that is stored.
    ///
    /// # Errors
    ///
    /// When records or directories cannot be read at all; what is wrong with single things is in the result.
    pub fn check(&self, repair: bool) -> Result<Checked, Error> {
        let mut checked = Checked { partial_bytes: self.content.partial_bytes()?, ..Checked::default() };
        self.check_blobs(repair, &mut checked)?;
        let packed = self.check_images(&mut checked)?;
        self.check_disk(repair, &mut checked)?;
        self.compare_layers(repair, &packed, &mut checked)?;
        Ok(checked)
    }

    fn check_blobs(&self, repair: bool, checked: &mut Checked) -> Result<(), Error> {
        for digest in self.content.list()? {
            checked.blobs += 1;
            checked.blob_bytes += self.content.size(&digest).unwrap_or(0);
            let what = match self.content.verify(&digest) {
                // Removed since it was listed.
                Ok(()) | Err(content::Error::NotFound { .. }) => continue,
                Err(e) => errors::chain(&e),
            };
            let images = self.images_with(&digest)?;
            let removal = if repair { self.content.remove(&digest).map(|_| ()) } else { Ok(()) };
            let repair = match (repair, removal) {
                (false, _) => Repair::NotAsked,
                (true, Ok(())) => Repair::Done("removed"),
                (true, Err(e)) => Repair::Impossible(errors::chain(&e)),
            };
            for image in &images {
                self.forget_config(image);
            }
            checked.faults.push(Fault { object: Object::Blob(digest), what, images, repair });
        }
        Ok(())
    }

    /// The layers that were found to be what they are described as, without a blob.
    fn check_images(&self, checked: &mut Checked) -> Result<HashSet<Digest>, Error> {
        let mut packed = HashSet::new();
        let damaged: HashSet<Digest> = checked
            .faults
            .iter()
            .filter_map(|f| if let Object::Blob(digest) = &f.object { Some(*digest) } else { None })
            .collect();
        for image in self.list()? {
            checked.images += 1;
            let unwritten = match self.manifest(&image.id) {
                Ok(manifest) => self.unwritten(&manifest)?,
                // That is said below.
                Err(_) => HashMap::new(),
            };
            for digest in self.db.read(|tx| tx.blobs_of(&image.id.0))? {
                let mut what = format!("blob {digest} is missing");
                if let Some(chain_id) = unwritten.get(&digest) {
                    let packs =
                        if packed.contains(chain_id) { Ok(true) } else { self.packs_to(chain_id, &digest) };
                    match packs {
                        Ok(true) => {
                            packed.insert(*chain_id);
                            continue;
                        }
                        Ok(false) => {}
                        Err(e) => what = format!("{what}: {}", errors::chain(&e)),
                    }
                }
                if !self.content.contains(&digest) && !damaged.contains(&digest) {
                    checked.faults.push(Fault {
                        object: Object::Blob(digest),
                        what,
                        images: vec![image.id],
                        repair: Repair::NotAsked,
                    });
                }
            }
            // After a change of storage driver an image is unpacked when a container needs it. Without its config that
            // cannot be told, and is said above.
            let is_unpacked = self.had_layers(&image.id, &[]).unwrap_or(true);
            let mut next = image.chain_id.filter(|_| is_unpacked);
            while let Some(chain_id) = next {
                let Some(row) = self.snapshotter.layer(&chain_id)? else {
                    checked.faults.push(Fault {
                        object: Object::Layer(chain_id),
                        what: format!("layer {chain_id} has no record"),
                        images: vec![image.id],
                        repair: Repair::NotAsked,
                    });
                    break;
                };
                next = row.parent;
            }
        }
        Ok(packed)
    }

    /// Records without directories, directories and blobs without records.
    fn check_disk(&self, repair: bool, checked: &mut Checked) -> Result<(), Error> {
        let first = self.snapshotter.audit()?;
        checked.snapshots = self.snapshotter.list()?.len();
        let audit = if first == snapshot::Audit::default() {
            first
        } else {
            std::thread::sleep(SETTLE);
            let second = self.snapshotter.audit()?;
            snapshot::Audit {
                lost_layers: first
                    .lost_layers
                    .into_iter()
                    .filter(|l| second.lost_layers.contains(l))
                    .collect(),
                lost_snapshots: first
                    .lost_snapshots
                    .into_iter()
                    .filter(|s| second.lost_snapshots.contains(s))
                    .collect(),
                orphans: first.orphans.into_iter().filter(|o| second.orphans.contains(o)).collect(),
            }
        };
        let not_now = |what: &str| match repair {
            true => Repair::Impossible(what.into()),
            false => Repair::NotAsked,
        };
        for chain_id in audit.lost_layers {
            let images = self.images_on(&chain_id)?;
            let what = format!("the directory of layer {chain_id} is gone");
            checked.faults.push(Fault {
                object: Object::Layer(chain_id),
                what,
                images,
                repair: Repair::NotAsked,
            });
        }
        for key in audit.lost_snapshots {
            let what = format!("the file system of {key} is gone");
            let repair = not_now("what was written in it is lost; remove the container");
            checked.faults.push(Fault { object: Object::Snapshot(key), what, images: Vec::new(), repair });
        }
        // Work in progress has directories and blobs that no record names yet.
        if self.leases.lock().blobs().is_empty() && self.leases.lock().layers().is_empty() {
            for number in audit.orphans {
                let what = "a directory without a record".to_string();
                let repair = not_now("the next start of the daemon removes it");
                checked.faults.push(Fault {
                    object: Object::Directory(number),
                    what,
                    images: Vec::new(),
                    repair,
                });
            }
            let kept: BTreeSet<Digest> = self.db.read(|tx| tx.list_image_blobs())?.into_iter().collect();
            let orphans: Vec<Digest> =
                self.content.list()?.into_iter().filter(|digest| !kept.contains(digest)).collect();
            let collected = if repair && !orphans.is_empty() { Some(self.collect_garbage()?) } else { None };
            for digest in orphans {
                let gone = collected.as_ref().map(|c| c.blobs.contains(&digest));
                checked.faults.push(Fault {
                    object: Object::Blob(digest),
                    what: format!("no image needs blob {digest}"),
                    images: Vec::new(),
                    repair: match gone {
                        None => Repair::NotAsked,
                        Some(true) => Repair::Done("removed"),
                        Some(false) => Repair::Impossible("it is needed now".into()),
                    },
                });
            }
        }
        Ok(())
    }

    fn compare_layers(
        &self,
        repair: bool,
        packed: &HashSet<Digest>,
        checked: &mut Checked,
    ) -> Result<(), Error> {
        // Each layer with the blob that some image has it from.
        let mut blobs: BTreeMap<Digest, (Descriptor, Digest, Option<Digest>)> = BTreeMap::new();
        for image in self.list()? {
            let (Ok(manifest), Ok(config)) = (self.manifest(&image.id), self.config(&image.id)) else {
                continue;
            };
            let chain = chain_ids(&config);
            for (at, (layer, chain_id)) in manifest.layers.iter().zip(&chain).enumerate() {
                let below = at.checked_sub(1).and_then(|below| chain.get(below)).copied();
                let Some(diff_id) = config.rootfs.diff_ids.get(at) else { continue };
                let is_damaged = checked.faults.iter().any(|f| f.object == Object::Blob(layer.digest));
                if !is_damaged && self.content.contains(&layer.digest) {
                    blobs.entry(*chain_id).or_insert((layer.clone(), *diff_id, below));
                }
            }
        }
        let rows = self.db.read(|tx| tx.list_layers())?;
        checked.layers = rows.len();
        let lost: HashSet<Digest> = checked
            .faults
            .iter()
            .filter_map(|f| if let Object::Layer(chain_id) = &f.object { Some(*chain_id) } else { None })
            .collect();
        for row in rows
            .iter()
            .filter(|row| !blobs.contains_key(&row.chain_id) || !self.snapshotter.is_overlay_form())
        {
            let is_known = lost.contains(&row.chain_id) || packed.contains(&row.chain_id);
            checked.layers_not_compared += usize::from(!is_known);
        }
        for (chain_id, (layer, diff_id, below)) in &blobs {
            let known = checked.faults.iter().position(|f| f.object == Object::Layer(*chain_id));
            let what = match known {
                Some(_) => String::new(),
                None if !self.snapshotter.is_overlay_form() => continue,
                None => match self.compare(chain_id, layer) {
                    Ok(None) => continue,
                    Ok(Some(what)) => what,
                    Err(e) => errors::chain(&e),
                },
            };
            let at = known.unwrap_or_else(|| {
                let images = self.images_on(chain_id).unwrap_or_default();
                let object = Object::Layer(*chain_id);
                checked.faults.push(Fault { object, what, images, repair: Repair::NotAsked });
                checked.faults.len() - 1
            });
            if repair {
                let done = self.make_again(chain_id, layer, diff_id, below.as_ref());
                if let Some(fault) = checked.faults.get_mut(at) {
                    fault.repair = match done {
                        Ok(true) => Repair::Done("unpacked again"),
                        Ok(false) => Repair::Impossible(
                            "it is in use; stop the containers on it and check again".into(),
                        ),
                        Err(e) => Repair::Impossible(errors::chain(&e)),
                    };
                }
            }
        }
        Ok(())
    }

    /// How a layer differs from its blob, if it does.
    fn compare(&self, chain_id: &Digest, layer: &Descriptor) -> Result<Option<String>, Error> {
        let failed = |source| Error::Unpack { layer: layer.digest, source };
        let layers = match self.snapshotter.layers(chain_id) {
            Ok(layers) => layers,
            // Removed since it was listed.
            Err(snapshot::Error::LayerNotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let Some(path) = layers.paths.first() else { return Ok(None) };
        let root = rootdir::RootDir::open(path).map_err(|e| Error::Snapshot(e.into()))?;
        let blob = match self.content.open_blob(&layer.digest) {
            Ok(blob) => blob,
            Err(content::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let tar = archive::decompress(blob).map_err(failed)?;
        let differences = archive::verify(tar, &root).map_err(failed)?;
        let what = || format!("layer {chain_id} differs from its blob: {}", differences.join("; "));
        Ok((!differences.is_empty()).then(what))
    }

    /// Unpacks a layer anew in place of what is there. `false` where it is in use.
    fn make_again(
        &self,
        chain_id: &Digest,
        layer: &Descriptor,
        diff_id: &Digest,
        below: Option<&Digest>,
    ) -> Result<bool, Error> {
        let lease = self.lease();
        lease.keep_layer(chain_id);
        if !self.snapshotter.forget_layer(chain_id)? {
            return Ok(false);
        }
        self.unpack_layer(&lease, layer, diff_id, below, &ignore)?;
        self.snapshotter.sync()?;
        self.db.write_durable(|tx| tx.set_layer_durable(chain_id))?;
        Ok(true)
    }

    /// The blobs of an image that are not there, for a caller who can fetch them.
    pub fn missing_blobs(&self, image: &Image) -> Result<Vec<Descriptor>, Error> {
        let mut missing = Vec::new();
        let mut manifests = vec![image.manifest.clone()];
        // What the index says about the manifest was kept with it.
        if let Ok(bytes) = self.content.read_bounded(&image.target.digest, MAX_MANIFEST as u64)
            && let Ok(index) = parse_index(&bytes, &image.target.digest, &image.target.media_type)
        {
            manifests.extend(index.about(&image.manifest.digest).cloned());
        }
        let mut wanted = vec![image.target.clone()];
        for descriptor in manifests {
            if let Ok(bytes) = self.content.read_bounded(&descriptor.digest, MAX_MANIFEST as u64)
                && let Ok(manifest) = parse_any_manifest(&bytes, &descriptor.digest)
            {
                // What the layer's own files are packed to is not missing.
                let unwritten = self.unwritten(&manifest)?;
                let is_here = |layer: &&Descriptor| {
                    let chain_id = unwritten.get(&layer.digest);
                    chain_id.is_some_and(|id| self.packs_to(id, &layer.digest).unwrap_or(false))
                };
                wanted.extend(manifest.layers.iter().filter(|layer| !is_here(layer)).cloned());
                wanted.push(manifest.config);
            }
            wanted.push(descriptor);
        }
        for descriptor in wanted {
            if !self.content.contains(&descriptor.digest) && !missing.contains(&descriptor) {
                missing.push(descriptor);
            }
        }
        Ok(missing)
    }

    fn images_with(&self, blob: &Digest) -> Result<Vec<ImageId>, Error> {
        let mut images = Vec::new();
        for row in self.db.read(|tx| tx.list_images())? {
            if self.db.read(|tx| tx.blobs_of(&row.id))?.contains(blob) {
                images.push(ImageId(row.id));
            }
        }
        Ok(images)
    }

    fn images_on(&self, layer: &Digest) -> Result<Vec<ImageId>, Error> {
        let mut images = Vec::new();
        for image in self.list()? {
            if self.config(&image.id).is_ok_and(|config| chain_ids(&config).contains(layer)) {
                images.push(image.id);
            }
        }
        Ok(images)
    }
}
