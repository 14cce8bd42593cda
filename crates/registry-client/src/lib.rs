//! The client side of the OCI distribution API: finds what a reference names, fetches and uploads manifests and blobs,
//! answers authentication challenges, drives a whole pull into a [`Sink`] and a whole push out of a [`Source`].
//!
//! The crate speaks HTTP/1.1 on its own small connector rather than through a general client, because what it must
//! be sure of is exactly what general clients decide for themselves: which host sees which credentials, what a
//! redirect may do, and which TLS rules hold for which registry.
//!
//! - [`Client`] is one registry operation at a time: [`Client::resolve`], [`Client::manifest`], [`Client::blob`].
//! - [`pull`] is a whole image: it chooses the platform, fetches config and layers side by side, resumes what
//!   breaks, and hands bytes to the caller's [`Sink`] on a blocking thread.
//! - [`push`] is the other way: what the registry lacks, from the caller's [`Source`].
//!
//! What a registry sends is hostile until its digest is checked: everything read has a maximum, and errors say what
//! was promised and what came.
//!
//! Spec: distribution-spec, "Pull" and "Push"; distribution docs, "Token Authentication Specification".

mod answer;
mod auth;
mod blob;
mod challenge;
mod client;
mod config;
mod connect;
mod document;
mod error;
mod fetch;
mod flight;
mod hosts;
mod inspect;
mod lists;
mod policy;
mod proxy;
mod pull;
mod push;
mod referrers;
mod send;
mod sink;
mod tags;
mod tls;
mod token;
mod transport;
mod upload;
mod url;
mod writer;

pub use auth::{Auth, InvalidAuth, Login};
pub use blob::BlobStream;
pub use client::{Client, LoginStatus};
pub use config::{Config, Timeouts};
pub use error::{Answer, Error, Received};
pub use fetch::{FileStream, Terms};
pub use inspect::Found;
pub use lists::push_list;
pub use proxy::ProxyConfig;
pub use pull::{Pulled, is_current, pull};
pub use push::{Outgoing, PushProgress, Shipment, Source, push};
pub use sink::{Blob, Progress, Sink};
