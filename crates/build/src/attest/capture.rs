//! What went into a build, noted while it goes on.

use oci::{Digest, Platform, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that came from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Material {
    Image { reference: Reference, platform: String, digest: Digest },
    Git { url: String, commit: String },
    Http { url: String, digest: Digest },
}

/// Notes of one build.
#[derive(Debug, Default)]
pub(crate) struct Capture(Mutex<Captured>);

/// What was noted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captured {
    pub(crate) materials: BTreeSet<Material>,
    /// Ids, and whether each may be missing.
    pub(crate) secrets: BTreeMap<String, bool>,
    pub(crate) agents: BTreeMap<String, bool>,
    /// A command could reach the network.
    pub(crate) had_network: bool,
}

impl Capture {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn material(&self, material: Material) {
        self.lock().materials.insert(material);
    }

    pub(crate) fn image(&self, name: &str, platform: &Platform, digest: Digest) {
        let Ok(reference) = name.parse::<Reference>() else { return };
        let platform = platform.to_string();
        self.material(Material::Image { reference, platform, digest });
    }

    pub(crate) fn secret(&self, id: &str, optional: bool) {
        *self.lock().secrets.entry(id.into()).or_insert(true) &= optional;
    }

    pub(crate) fn agent(&self, id: &str, optional: bool) {
        *self.lock().agents.entry(id.into()).or_insert(true) &= optional;
    }

    pub(crate) fn network(&self, mode: &str) {
        self.lock().had_network |= mode != "none";
    }

    pub(crate) fn all(&self) -> Captured {
        self.lock().clone()
    }
}
