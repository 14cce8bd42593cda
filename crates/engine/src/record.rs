//! What the database keeps of a container. The daemon holds nothing that this and the shim cannot give back.

use crate::model::{Config, EndpointSettings, HostConfig};
use oci::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the record's JSON; see `docs/formats/database.md`.
pub(crate) const RECORD_VERSION: u32 = 1;

/// Docker's "never": what a time that has not come prints as.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(String);

impl ContainerId {
    /// A new random id. Never all decimal in its first 12 digits: the short form is a host name, and a wholly
    /// numeric one is read as an address by some resolvers.
    pub fn random() -> ContainerId {
        loop {
            let id = random_hex();
            if !id.bytes().take(12).all(|b| b.is_ascii_digit()) {
                return ContainerId(id);
            }
        }
    }

    /// Takes `text` when it has the form of an id.
    pub fn parse(text: &str) -> Option<ContainerId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 64 && text.bytes().all(hex)).then(|| ContainerId(text.to_string()))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// 32 random bytes as 64 hexadecimal digits.
pub(crate) fn random_hex() -> String {
    let bytes: [u8; 32] = rand::random();
    Digest::from_sha256(bytes).hex()
}

/// The present as Docker writes it: RFC 3339, nanoseconds, UTC.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl Status {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Removing => "removing",
            Status::Exited => "exited",
            Status::Dead => "dead",
        }
    }

    /// Whether a task exists.
    pub fn is_alive(self) -> bool {
        matches!(self, Status::Running | Status::Paused)
    }
}

/// The changing part of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub status: Status,
    /// 0 when no task exists.
    pub pid: i32,
    pub exit_code: i32,
    /// Why the last start failed, or empty.
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub oom_killed: bool,
    pub started_at: String,
    pub finished_at: String,
    #[serde(default)]
    pub restart_count: u32,
    /// A user asked for the stop; `unless-stopped` then stays stopped over daemon restarts.
    #[serde(default)]
    pub manually_stopped: bool,
    /// None for a container without a health check, and before its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<crate::health::Health>,
}

impl Default for State {
    fn default() -> State {
        State {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: NEVER.into(),
            finished_at: NEVER.into(),
            restart_count: 0,
            manually_stopped: false,
            health: None,
        }
    }
}

/// A place of the host shown inside, resolved once when the container is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub kind: MountKind,
    /// Volume name, empty for others.
    #[serde(default)]
    pub name: String,
    /// On the host; empty for tmpfs.
    pub source: String,
    pub destination: String,
    pub read_write: bool,
    pub propagation: String,
    /// Mode text as given (`z`, `ro`, `nocopy`, ...), or tmpfs options.
    #[serde(default)]
    pub mode: String,
    /// Content of the image at `destination` is to be copied into the volume when that is empty.
    #[serde(default)]
    pub copy_up: bool,
    /// The bind is not recursive.
    #[serde(default)]
    pub non_recursive: bool,
    /// This volume was made for this container without a name, and goes with it under `rm -v` and `--rm`.
    #[serde(default)]
    pub anonymous: bool,
    /// Of a read-only bind, what is mounted below it stays writable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only_top: bool,
    /// Driver of the volume.
    #[serde(default)]
    pub driver: String,
    /// What is shown of the volume or image, below its root; empty for all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    /// The image shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
}

/// What a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
    Image,
}

impl MountKind {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Image => "image",
        }
    }
}

/// One container as the database keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub id: ContainerId,
    /// Without the slash that Docker's API puts before it.
    pub name: String,
    pub created: String,
    /// Config digest of the image.
    pub image_id: Digest,
    /// Top layer of the image, or None for an image without layers.
    pub chain_id: Option<Digest>,
    pub config: Config,
    pub host_config: HostConfig,
    /// Resolved once: entrypoint and command, entrypoint first.
    pub args: Vec<String>,
    #[serde(default)]
    pub mounts: Vec<MountPoint>,
    /// Networks by name, with the addresses while running.
    #[serde(default)]
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Hardware addresses that were asked for, by network.
    #[serde(default)]
    pub wanted_macs: BTreeMap<String, String>,
    /// Published ports, while running.
    #[serde(default)]
    pub ports: Vec<crate::ports::PublishedPort>,
    pub state: State,
}

impl Record {
    /// Whether the container was made from this image or shows it in a mount.
    pub(crate) fn uses_image(&self, id: &Digest) -> bool {
        self.image_id == *id || self.mounts.iter().any(|m| m.image.as_ref() == Some(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_form_and_no_other() {
        let id = ContainerId::random();
        assert_eq!(ContainerId::parse(id.as_str()), Some(id.clone()));
        assert!(id.short().bytes().any(|b| b.is_ascii_alphabetic()));
        for text in ["", "../../etc", "A", &"g".repeat(64), &"a".repeat(63)] {
            assert_eq!(ContainerId::parse(text), None);
        }
    }
}
