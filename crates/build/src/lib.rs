//! Builds images from Dockerfiles, on the engine.
//!
//! ```text
//! request ─ plan ─> the stages that the target needs, their base images, what each takes from which
//!         ─ solve ─> each stage on a task of its own, as soon as what it needs is there
//!         ─ stage ─> one instruction after the other: config, or a step with a key
//!                    key known  -> its layer, nothing is done
//!                    else       -> workspace (engine), RUN or COPY in it, its changes become a layer where they are
//!         ─> config and layers, bottom first -> image
//! ```
//!
//! A **key** is the digest of everything that a step's result depends on: the chain ID of what is below, the command and
//! its environment, the content of files copied or bound. Never names or times of files' change, and never secrets. What
//! a key leads to is kept in the database (`build_cache`), survives the daemon, and keeps its layer until it is pruned.
//!
//! Paths of contexts, stages and images are resolved by `rootdir` below a handle: `..`, absolute paths and symlinks stay
//! inside, whoever made them.

mod adopt;
mod annotations;
mod attest;
mod cache;
mod chmod;
mod context;
mod copy;
mod error;
mod event;
mod flight;
mod git;
mod git_url;
mod hash;
mod kept;
mod layout;
mod mirror;
mod plan;
mod prune;
mod remote;
mod request;
mod run;
mod select;
mod several;
mod share;
mod solve;
mod stage;
mod syntax;

pub use annotations::Annotations;
pub use attest::{Attests, Predicate, Subject, attest_files};
pub use context::Context;
pub use error::Error;
pub use event::{Event, StepInfo, StepResult};
pub use git::GitAccess;
pub use git_url::redact;
pub use kept::Kept;
pub use layout::bring_image;
pub use mirror::{FileStat, Mirror, Received};
pub use prune::{CacheEntry, Prune, Pruned, list_cache, prune};
pub use remote::{fetch_context, file_name, read_context};
pub use request::{Agent, Answer, Client, Entitlements, Request, Secret};
pub use several::{Documents, Outcome, build_for};
pub use share::{
    Arriving, BlobStore, CacheFrom, CachePlace, CacheSettings, CacheTarget, CacheTo, Exported, export_cache,
    receive_blob,
};
pub use solve::{Built, INLINE_CACHE, Solved, build, inline_cache, solve};
pub use syntax::is_own_frontend;
