//! Docker's Engine API: HTTP requests become calls of the engine, its answers become Docker's JSON. Nothing here knows
//! how a container is made.
//!
//! `serve` takes connections; `route` finds the handler of a path; a module for each kind of object has the handlers;
//! `hijack` turns a connection into a stream; `render` has the JSON documents.
//!
//! What this version does not have is answered 501 with a text that says so, never with an empty success.
//!
//! Spec: Docker Engine API 1.55, moby `api/swagger.yaml`.

#![recursion_limit = "256"]

mod archives;
mod body;
mod brig;
mod build;
mod buildkit;
mod checkpoints;
mod commit;
mod containers;
mod detach;
mod disk;
mod examine;
mod execs;
mod filters;
mod hijack;
mod image_archives;
mod images;
mod import_url;
mod info;
mod manifests;
mod metrics;
mod networks;
mod peer;
mod progress;
mod push;
mod registry;
mod render;
mod reply;
mod request;
mod route;
mod serve;
mod stats;
mod system;
mod units;
mod update;
mod volumes;
mod websocket;
mod wire;

pub use build::exchange::Exchanges;
pub use examine::examine;
pub use metrics::serve_metrics;
pub use serve::{Api, serve};
pub use wire::Listener;

/// Newest API version that is spoken.
pub const API_VERSION: &str = "1.55";
/// Oldest API version that is spoken.
pub const MIN_API_VERSION: &str = "1.24";
