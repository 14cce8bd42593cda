//! Artifacts that are about another manifest, at registries that do not look for them by themselves: an index under a tag
//! that the subject's digest makes lists them.
//!
//! Spec: distribution-spec, "Pushing Manifests with Subject", "Referrers Tag Schema".

use crate::push::Push;
use crate::{Error, document};
use bytes::Bytes;
use http::HeaderMap;
use oci::image::{Index, media_type};
use oci::{Descriptor, Digest};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Says that the registry has seen the subject.
const SEEN: &str = "oci-subject";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Push<'_> {
    /// Lists a manifest that was just put, where it has a subject and the registry did not say that it has seen that.
    pub(crate) async fn note_referrer(
        &self,
        descriptor: &Descriptor,
        body: &Bytes,
        answer: &HeaderMap,
    ) -> Result<(), Error> {
        let Ok(Outline { subject: Some(subject), artifact_type, config, annotations }) =
            serde_json::from_slice(body)
        else {
            return Ok(());
        };
        if answer.contains_key(SEEN) {
            return Ok(());
        }
        let tag = tag_of(&subject.digest);
        let mut index = self.referrers(&tag).await?;
        if index.manifests.iter().any(|known| known.digest == descriptor.digest) {
            return Ok(());
        }
        let mut entry = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
        entry.artifact_type = artifact_type.or(config.map(|config| config.media_type));
        entry.annotations = annotations;
        index.manifests.push(entry);
        let bytes = Bytes::from(serde_json::to_vec(&index).expect("an index is plain strings and numbers"));
        let list = Descriptor::new(media_type::OCI_INDEX, Digest::of(&bytes), bytes.len() as u64);
        self.put(&tag, &list, &bytes).await.map(drop)
    }

    /// What the tag lists by now.
    async fn referrers(&self, tag: &str) -> Result<Index, Error> {
        let malformed = |reason: String| Error::Malformed {
            what: format!("referrers {tag} of {}", self.reference.familiar_name()),
            reason,
        };
        let reference = self.reference.with_tag(tag).map_err(|e| malformed(e.to_string()))?;
        match self.client.resolve_at(&self.endpoint, &reference, self.auth).await {
            Ok((descriptor, body)) => match document::read(&descriptor.media_type, &body) {
                Ok(document::Document::Index(index)) => Ok(index),
                Ok(document::Document::Manifest(_)) => Err(malformed("it is no index".into())),
                Err(refusal) => Err(refusal.about(&reference.familiar())),
            },
            Err(Error::ManifestUnknown { .. } | Error::RepositoryUnknown { .. }) => Ok(Index {
                schema_version: 2,
                media_type: Some(media_type::OCI_INDEX.into()),
                manifests: Vec::new(),
                annotations: BTreeMap::new(),
            }),
            Err(error) => Err(error),
        }
    }
}

fn tag_of(subject: &Digest) -> String {
    subject.to_string().replacen(':', "-", 1)
}
