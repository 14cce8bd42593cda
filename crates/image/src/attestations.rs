//! Manifests beside an image's own in its index that say how it was built: in-toto statements as layers.
//!
//! Spec: BuildKit, "Image attestation storage".

use crate::{Error, Images, Lease};
use oci::image::{Manifest, media_type};
use oci::{Descriptor, Digest, Platform};
use serde_json::json;
use std::collections::BTreeMap;

/// Media type of a statement.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// Annotations of such a manifest in the index: what it is, and of which manifest.
const KIND: &str = "vnd.docker.reference.type";
const OF: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";

/// One statement: the type of what it says, and all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub predicate_type: String,
    pub bytes: Vec<u8>,
}

impl Images {
    /// Puts `statements` about the manifest `subject` into the content store, where the lease keeps them. What comes back
    /// goes into the index beside the manifest.
    pub fn compose_attestations(
        &self,
        subject: &Digest,
        statements: &[Statement],
        lease: &Lease,
    ) -> Result<Descriptor, Error> {
        let mut layers = Vec::new();
        for statement in statements {
            let digest = self.keep(&statement.bytes, lease)?;
            let mut layer = Descriptor::new(STATEMENT, digest, statement.bytes.len() as u64);
            layer.annotations.insert("in-toto.io/predicate-type".into(), statement.predicate_type.clone());
            layers.push(layer);
        }
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, self.keep(&config, lease)?, config.len() as u64),
            layers,
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).expect("plain strings and numbers");
        let mut out =
            Descriptor::new(media_type::OCI_MANIFEST, self.keep(&bytes, lease)?, bytes.len() as u64);
        let unknown = || "unknown".to_string();
        out.platform =
            Some(Platform { architecture: unknown(), os: unknown(), os_version: None, variant: None });
        out.annotations.insert(KIND.into(), ATTESTATION.into());
        out.annotations.insert(OF.into(), subject.to_string());
        Ok(out)
    }
}
