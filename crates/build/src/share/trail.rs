//! The steps that a build went through, for who shares them.

use super::format::{Layer, Record};
use crate::cache::Outcome;
use oci::Digest;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Records by stage; those of one stage in their order.
#[derive(Debug, Default)]
pub(crate) struct Trail(Mutex<Gone>);

#[derive(Debug, Default)]
struct Gone {
    records: Vec<(usize, Record)>,
    /// Layers by the digest of their blob.
    chains: HashMap<Digest, Digest>,
}

/// What a build went through.
#[derive(Debug, Default)]
pub(crate) struct Trodden {
    /// Stage after stage.
    pub(crate) records: Vec<Record>,
    /// Of the layers in them: chain IDs by the digests of their blobs.
    pub(crate) chains: HashMap<Digest, Digest>,
}

impl Trail {
    /// A step of `stage` came to this.
    pub(crate) fn note(
        &self,
        stage: usize,
        key: Digest,
        before: Option<Digest>,
        outcome: &Outcome,
        text: &str,
    ) {
        let layer = outcome.layer.as_ref();
        let layer = layer.map(|(blob, diff_id)| Layer {
            diff_id: *diff_id,
            blob: Some(blob.clone()),
            plain_bytes: None,
        });
        let record = Record { key, before, created: outcome.created.clone(), layer, text: text.to_string() };
        let mut gone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some((blob, _)), Some(chain_id)) = (&outcome.layer, outcome.chain_id) {
            gone.chains.insert(blob.digest, chain_id);
        }
        gone.records.push((stage, record));
    }

    /// All of them.
    pub(crate) fn take(&self) -> Trodden {
        let Gone { mut records, chains } =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        records.sort_by_key(|(stage, _)| *stage);
        Trodden { records: records.into_iter().map(|(_, record)| record).collect(), chains }
    }
}
