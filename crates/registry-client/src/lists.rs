//! Indexes made of manifests that are at the registry already, in the same repository or in others.

use crate::document::{self, Document};
use crate::push::{Outgoing, PushProgress, Shipment, Source, push};
use crate::{Auth, Client, Error};
use bytes::Bytes;
use errors::{Kind, Report};
use oci::{Descriptor, Digest, Reference};
use std::io::Read;
use std::sync::Arc;

/// Puts the index `list` under the name `target`. The manifests that it names are `entries`, each with a digest; those of
/// other repositories of the registry are put into the repository of `target` too, with blobs that the registry takes over.
///
/// # Errors
///
/// [`Error::Malformed`] for entries of another registry; [`Error::Source`] where the registry does not take a blob over; and
/// those of [`push`].
///
/// Spec: distribution-spec, "Mounting a blob from another repository".
pub async fn push_list(
    client: &Client,
    target: &Reference,
    entries: &[Reference],
    list: (Descriptor, Bytes),
    auth: &Auth,
) -> Result<(), Error> {
    let mut shipment = Shipment::default();
    for entry in entries.iter().filter(|entry| entry.name() != target.name()) {
        if entry.host() != target.host() {
            let reason = format!(
                "cannot use source images from a different registry than the target image: {} != {}",
                entry.host(),
                target.host()
            );
            return Err(Error::Malformed { what: format!("manifest list {}", target.familiar()), reason });
        }
        let (descriptor, body) = client.resolve(entry, auth).await?;
        let read = document::read(&descriptor.media_type, &body);
        match read.map_err(|refusal| refusal.about(&entry.familiar()))? {
            Document::Manifest(manifest) => {
                let blobs = manifest.layers.into_iter().chain([manifest.config]);
                // Bytes that stay with their vendor need not be there.
                for blob in blobs.filter(|blob| blob.urls.is_empty()) {
                    if shipment.blobs.iter().all(|known| known.descriptor.digest != blob.digest) {
                        let sources = vec![entry.repository().to_string()];
                        shipment.blobs.push(Outgoing { descriptor: blob, visible: false, sources });
                    }
                }
            }
            Document::Index(_) => {
                let reason = "it is a manifest list itself".to_string();
                return Err(Error::Malformed { what: format!("manifest {}", entry.familiar()), reason });
            }
        }
        shipment.documents.push((descriptor, body));
    }
    shipment.documents.push(list);
    push(client, target, auth, &shipment, Arc::new(Nowhere)).await
}

/// There are no bytes here: the registry has them.
struct Nowhere;

impl Source for Nowhere {
    fn open(&self, digest: &Digest, _: u64) -> Result<Box<dyn Read + Send>, Report> {
        let text = format!("the registry does not take {digest} over from its other repository");
        Err(Report::new(Kind::Unsupported, text))
    }

    fn progress(&self, _: PushProgress) {}
}
