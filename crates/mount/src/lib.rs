//! Attaching and detaching file systems, and the list of what is mounted.
//!
//! Mounts are made detached with the new mount API (`fsopen`, `fsmount`, `open_tree`) and moved into place whole, so
//! a failure half-way leaves nothing behind. Only where an older kernel lacks a piece, `mount(2)` is used.
//!
//! Targets are paths that the caller trusts (below its data root or exec root); what lies inside a container's root
//! goes through `rootdir` instead.

mod error;
mod filesystem;
mod image;
mod mapped;
mod mountinfo;
mod overlay;
mod place;
mod view;

pub use error::Error;
pub use filesystem::{FileSystem, mount_file_system};
pub use image::{mount_erofs, open_erofs};
pub use mapped::{Mapping, bind_mapped_root, mount_mapped_overlay, mount_mapped_overlay_attached};
pub use mountinfo::{Mount, MountedOverlay, list, list_below, list_overlays, parse};
pub use overlay::{Overlay, mount_overlay, mount_overlay_in_one_call};
pub use place::{bind, bind_open, bind_root, detach, is_mounted, unmount, unmount_unused};
pub use view::{Attach, attach_at, private_view};
