//! Pulls from CNCF distribution (package `docker-registry`) and from a server that misbehaves on purpose.

#![expect(clippy::unwrap_used, reason = "tests, whose helpers clippy does not know as such")]

mod credentials;
mod distribution;

mod hostile;
mod hosts;
mod proxy;
mod push;
mod server;
mod store;
mod tls;
