//! The history of builds in `moby.buildkit.v1.Control`, and `containerd.services.content.v1.Content` as far as its blobs are read.

use super::{Exporter, RpcStatus, Timestamp};
use prost::Message;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct HistoryRequest {
    #[prost(bool, tag = "1")]
    pub(crate) active_only: bool,
    #[prost(string, tag = "2")]
    pub(crate) reference: String,
    #[prost(bool, tag = "3")]
    pub(crate) early_exit: bool,
    #[prost(string, repeated, tag = "4")]
    pub(crate) filter: Vec<String>,
    #[prost(int32, tag = "5")]
    pub(crate) limit: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct HistoryEvent {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) record: Option<HistoryRecord>,
}

impl HistoryEvent {
    pub(crate) const STARTED: i32 = 0;
    pub(crate) const COMPLETE: i32 = 1;
    pub(crate) const DELETED: i32 = 2;
}

/// Also what is kept on disk.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct HistoryRecord {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) frontend_attrs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) exporters: Vec<Exporter>,
    #[prost(message, optional, tag = "5")]
    pub(crate) error: Option<RpcStatus>,
    #[prost(message, optional, tag = "6")]
    pub(crate) created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub(crate) completed_at: Option<Timestamp>,
    #[prost(message, optional, tag = "8")]
    pub(crate) logs: Option<BlobDescriptor>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(crate) exporter_response: BTreeMap<String, String>,
    /// Of a build without platforms.
    #[prost(message, optional, tag = "10")]
    pub(crate) result: Option<HistoryResult>,
    #[prost(btree_map = "string, message", tag = "11")]
    pub(crate) results: BTreeMap<String, HistoryResult>,
    /// Counts its changes.
    #[prost(int32, tag = "12")]
    pub(crate) generation: i32,
    #[prost(bool, tag = "14")]
    pub(crate) pinned: bool,
    #[prost(int32, tag = "15")]
    pub(crate) cached_steps: i32,
    #[prost(int32, tag = "16")]
    pub(crate) total_steps: i32,
    #[prost(int32, tag = "17")]
    pub(crate) completed_steps: i32,
    #[prost(int32, tag = "19")]
    pub(crate) warnings: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct HistoryResult {
    #[prost(message, repeated, tag = "2")]
    pub(crate) attestations: Vec<BlobDescriptor>,
    /// By the number of the output.
    #[prost(btree_map = "int64, message", tag = "3")]
    pub(crate) results: BTreeMap<i64, BlobDescriptor>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct BlobDescriptor {
    #[prost(string, tag = "1")]
    pub(crate) media_type: String,
    #[prost(string, tag = "2")]
    pub(crate) digest: String,
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct UpdateHistoryRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(bool, tag = "2")]
    pub(crate) pinned: bool,
    #[prost(bool, tag = "3")]
    pub(crate) delete: bool,
    #[prost(bool, tag = "4")]
    pub(crate) finalize: bool,
}

/// `containerd.services.content.v1.InfoResponse`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct BlobInfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) info: Option<BlobInfo>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct BlobInfo {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) size: i64,
    #[prost(message, optional, tag = "3")]
    pub(crate) created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "4")]
    pub(crate) updated_at: Option<Timestamp>,
}
