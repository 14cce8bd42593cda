//! `system check`: the store of images and containers against itself, and with a repair what can be brought in order again.

use crate::Engine;
use crate::error::{During, Error, blocking};
use image::{Checked, Fault, Image, Object, Repair};
use oci::{Descriptor, Reference};
use registry_client::Auth;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Engine {
    /// Checks blobs, layers, snapshots and records; see [`image::Images::check`]. With `repair`, blobs that are damaged or
    /// missing are fetched again from where their image came from, without credentials.
    pub async fn check(self: &Arc<Self>, repair: bool) -> Result<Checked, Error> {
        let doing = || "check the store".to_string();
        let engine = self.clone();
        let mut checked = blocking(move || engine.images.check(repair)).await.during(doing)?;
        self.check_containers(&mut checked).during(doing)?;
        if repair {
            self.fetch_again(&mut checked).await?;
            self.tidy_later();
        }
        if !checked.faults.is_empty() {
            tracing::warn!(faults = checked.faults.len(), repair, "the store is not as it should be");
        }
        Ok(checked)
    }

    /// Containers and writable snapshots are made together: one without the other is a fault.
    fn check_containers(&self, checked: &mut Checked) -> Result<(), snapshot::Error> {
        let keys: BTreeSet<String> = self.snapshots.list()?.into_iter().map(|row| row.key).collect();
        // Those of another driver are where they were, and are missed only when it is back.
        let elsewhere = self.images.other_drivers().snapshots()?;
        for container in self.list_containers() {
            let id = container.id().to_string();
            if !keys.contains(&id) && !elsewhere.contains(&id) && !container.life.borrow().removed {
                checked.faults.push(Fault {
                    what: format!("container {} has no file system", container.lock().name),
                    object: Object::Snapshot(id),
                    images: Vec::new(),
                    repair: Repair::Impossible("what was written in it is lost; remove the container".into()),
                });
            }
        }
        Ok(())
    }

    async fn fetch_again(self: &Arc<Self>, checked: &mut Checked) -> Result<(), Error> {
        let images = self.images.clone();
        let list = blocking(move || images.list()).await.during(|| "list images".into())?;
        for image in list {
            // The manifest first: it says what else is missing.
            for _ in 0..2 {
                let (images, looked) = (self.images.clone(), image.clone());
                let missing = blocking(move || images.missing_blobs(&looked))
                    .await
                    .during(|| "look for blobs".into())?;
                for blob in missing {
                    let outcome = self.fetch_blob(&image, &blob).await;
                    let concerns = |f: &&mut Fault| f.object == Object::Blob(blob.digest);
                    if let Some(fault) = checked.faults.iter_mut().find(concerns) {
                        fault.repair = match outcome {
                            Ok(()) => Repair::Done("fetched again"),
                            Err(why) => Repair::Impossible(why),
                        };
                    }
                }
            }
        }
        Ok(())
    }

    async fn fetch_blob(&self, image: &Image, blob: &Descriptor) -> Result<(), String> {
        let known: Vec<&Reference> = image.digests.iter().collect();
        if known.is_empty() {
            return Err("it did not come from a registry: load or pull the image again".into());
        }
        let lease = self.images.lease();
        lease.keep_blob(&blob.digest);
        let mut failure = String::new();
        for reference in known {
            match self.fetch_from(reference, blob).await {
                Ok(()) => return Ok(()),
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }

    async fn fetch_from(&self, reference: &Reference, blob: &Descriptor) -> Result<(), String> {
        let is_document = oci::image::media_type::is_manifest(&blob.media_type)
            || oci::image::media_type::is_index(&blob.media_type);
        if is_document {
            let got = self.registry.manifest(reference, blob, &Auth::Anonymous).await;
            let bytes = got.map_err(|e| errors::chain(&e))?;
            let content = self.content.clone();
            return blocking(move || content.put(&bytes)).await.map(drop).map_err(|e| errors::chain(&e));
        }
        let mut stream =
            self.registry.blob(reference, blob, 0, &Auth::Anonymous).await.map_err(|e| errors::chain(&e))?;
        let mut ingest =
            self.content.ingest(Some(blob.digest), Some(blob.size)).map_err(|e| errors::chain(&e))?;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|e| errors::chain(&e))?;
            ingest = blocking(move || {
                std::io::Write::write_all(&mut ingest, &piece).map(|()| ingest).map_err(|e| e.to_string())
            })
            .await?;
        }
        blocking(move || ingest.commit()).await.map(drop).map_err(|e| errors::chain(&e))
    }
}
