//! BuildKit's gRPC API on the builder, so that its clients (`docker buildx`, Compose) build here.
//!
//! ```text
//! client                                   here
//!   POST /session, upgraded      ─>          session: calls go from here to the client (files, secrets, credentials)
//!   POST /grpc, upgraded         ─>          server: calls come from the client
//!     Control.Solve                            control: a job begins; waits for the result
//!     Control.Status                           board: its news
//!     Control.ListenBuildHistory               history: what became of builds, by the account of each
//!     LLBBridge.Solve (dockerfile.v0)          frontend: options -> build::Request -> build::solve, drawn by progress
//!     LLBBridge.Return                         the result goes to Solve, which exports it
//!   POST /build?version=2        ─>          posted: the same as Solve and Status, by one request of older clients
//! ```
//!
//! There is one frontend, `dockerfile.v0`, which is crate `build`; graphs of other frontends are refused. A **reference** is
//! a result of it, known by a name for as long as its job goes on.
//!
//! What clients send is hostile: paths of files that they announce are resolved below a handle without following
//! anything, sizes have maxima, and unknown options are refused by name.

mod account;
mod board;
mod caches;
mod client;
mod control;
mod export;
mod frontend;
mod gateway;
mod history;
mod job;
mod options;
mod posted;
mod progress;
mod receive;
mod requests;
mod rpc;
mod server;
mod session;
mod status;
mod tree;
mod upload;
mod usage;
mod wire;

pub use posted::{Failed, News, Posted, Sent, Upload};
pub use server::Server;
pub use session::SessionInfo;
