//! Images: what makes blobs and layers into something with a name that a container can start from.
//!
//! # Terms
//!
//! An **image** is a config, its id the config's digest (as Docker's classic store shows it), reached through a
//! **manifest** that lists the layers' blobs. What was asked for, the **target**, is the manifest or an index that it
//! was chosen from by platform. **References** (`repository:tag`, `repository@digest`) point at images; an image that
//! has none is dangling and stays until it is removed. The layers of an image are unpacked when it comes in. Other OCI
//! **artifacts** are kept beside images, under the digest of their manifest, and so is what an index says about the
//! manifest that was chosen from it (attestations).
//!
//! # Life cycle
//!
//! ```text
//! lease ─> blobs into the content store ─> unpack_layer, each as its blob arrives ─> import ─> image, references
//! remove, or a tag that moves ─> collect_garbage ─> blobs and layers gone
//! ```
//!
//! A [`Lease`] keeps what work in progress looks at or brings in from being collected. It lives in memory, because the
//! work it protects ends with the process; what a dead process left is collected at the next [`Images::reconcile`].
//! [`Images::import`] is the only step that makes an image: it syncs the layers once and then writes all records in
//! one durable transaction, so an image is there completely or not at all.
//!
//! # Invariants
//!
//! (M1) An image's blobs and layers exist for as long as its record; of a layer that was
//! made here perhaps only the files, of which its blob is packed when it is needed (module `unwritten`). (M2) An image, tag or removal that was acknowledged
//! survives a power loss. (M3) After [`Images::reconcile`] no blob and no layer is without an owner. (M4) A second
//! `reconcile` changes nothing. Those of the parts are in crates `content` (C1 to C3) and `snapshot` (S1 to S3).

mod artifact;
mod attestations;
mod check;
mod commit;
mod compose;
mod document;
mod error;
mod import;
mod import_root;
mod layout;
mod lease;
mod load;
mod manifests;
mod model;
mod outgoing;
mod remove;
mod repack;
mod save;
mod store;
mod sweep;
mod unpack;
mod unwritten;

pub use attestations::Statement;
pub use check::{Checked, Fault, Object, Repair};
pub use commit::{Assemble, NewLayer, layer_type, push_layer};
pub use compose::{Composed, Root};
pub use document::{chain_ids, choose, parse_config, parse_index, parse_manifest};
pub use error::Error;
pub use import::Import;
pub use import_root::ImportRoot;
pub use lease::Lease;
pub use load::Loaded;
pub use manifests::{ManifestKind, ManifestSummary};
pub use model::{
    Collected, DiskUsage, HistoryEntry, Image, ImageId, OnProgress, Progress, Reconciled, Sizes, State,
    ignore,
};
pub use outgoing::{Outgoing, OutgoingBlob};
pub use remove::{Remove, Removed, User};
pub use save::Saving;
pub use store::Images;
