//! The steps that a build went through, for who shares them.

use super::format::{Layer, Record};
use crate::cache::Outcome;
use oci::Digest;
use std::sync::{Mutex, PoisonError};

/// Records by stage; those of one stage in their order.
#[derive(Debug, Default)]
pub(crate) struct Trail(Mutex<Vec<(usize, Record)>>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((stage, record));
    }

    /// All of them, stage after stage.
    pub(crate) fn take(&self) -> Vec<Record> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(|(stage, _)| *stage);
        all.into_iter().map(|(_, record)| record).collect()
    }
}
