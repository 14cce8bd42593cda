//! Pulls from CNCF distribution (package `docker-registry`) and from a server that misbehaves on purpose.

mod credentials;
mod distribution;
mod hostile;
mod server;
mod store;
