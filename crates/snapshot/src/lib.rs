//! Snapshots: file system states made of layers.
//!
//! # Terms
//!
//! A **layer** is the change that one tar of an image makes, kept in the driver's form (a directory, or one file that is a
//! file system image) and named by its *chain ID*, the digest of itself on everything below. It is committed once and never changes. Layers do not need
//! each other: each is unpacked into a directory of its own, in parallel and in any order; only the record knows which
//! layer lies below which.
//!
//! A **writable snapshot** is a place for changes on top of a layer (or of nothing), named by a *key* that its owner
//! chooses, for a container the container's id. It is mounted to be used, and outlives its mounts.
//!
//! # Life cycle
//!
//! ```text
//! prepare_layer ──> LayerDir ──commit_layer──> layer, not durable ──sync, then the record──> layer
//!                      └─drop─> gone
//! prepare(key, parent) ──> writable ──mount, unmount, ... ──remove(key)──> gone
//! ```
//!
//! A layer that is committed but not durable is lost at the next [`Snapshotter::reconcile`]: the work it belonged to
//! did not finish. Removing moves directories to a trash that [`Snapshotter::empty_trash`] deletes, so that nobody
//! waits for the deletion of a large tree, and nothing is forgotten when the process dies.
//!
//! # Example
//!
//! An image of two layers *a* and *b* on it, and a container `c1`:
//!
//! ```text
//! prepare_layer, apply a's tar, commit_layer(chain A, parent none)      snapshots/1/layer.erofs
//! prepare_layer, apply b's tar, commit_layer(chain B, parent A)         snapshots/2/layer.erofs
//! prepare("c1", B)                                                      snapshots/3/{fs,work}
//! mount("c1", target)         images 1 and 2 on <mounts>/1 and <mounts>/2, where they are not yet;
//!                             overlay on target: lower <mounts>/2 over <mounts>/1, upper 3/fs
//! unmount(target), remove("c1")
//! ```
//!
//! # Invariants
//!
//! (S1) After `reconcile` every record's directory exists and every directory has its record. (S2) A layer's directory
//! is complete: its record is made after it was filled. (S3) A second `reconcile` changes nothing.

mod chains;
mod copy;
mod error;
mod home;
mod layer_mounts;
mod others;
mod overlay;
mod quota;
mod records;
mod root;
mod snapshotter;
mod tree;
mod trees;

pub use error::Error;
pub use metadata::{LayerRow, SnapshotRow};
pub use others::Others;
pub use overlay::{LayerForm, Overlay};
pub use quota::Quotas;
pub use snapshotter::{
    Audit, Delta, DeltaForm, Guard, LayerDir, Layers, MountOptions, NewLayer, Reconciled, Snapshotter, Usage,
};
pub use tree::{measure_tree, remove_tree};
pub use trees::{TreeForm, Trees};
