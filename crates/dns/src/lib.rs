//! The name server of containers on networks of one's own: one process with one thread for all containers of a daemon
//! (program `brig-dns`), which goes on while the daemon is away.
//!
//! ```text
//! brigd  -- writes -->  DIR/networks/<id>, DIR/sandboxes/<id>   (module `table`: their format)
//!        -- says  -->   DIR/control.sock: "these changed"       (module `server`)
//! container -- 127.0.0.11:53 -->  sockets in its namespace  -->  names of its networks, else forwarded (module `forward`)
//! ```
//!
//! The process keeps nothing that is not in the files: started again it serves what they say. It leaves when no sandbox
//! is left.

mod forward;
mod message;
mod server;
pub mod table;

pub use server::{CONTROL_SOCKET, Error, LOCK_FILE, serve};
