//! `containerd.services.content.v1.Content`, as far as clients serve it for caches in their directories.

use prost::Message;

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ContentInfoRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
}

/// Of which only matters that it comes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct ContentInfoResponse {}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ReadContentRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) offset: i64,
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ReadContentResponse {
    #[prost(int64, tag = "1")]
    pub(crate) offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) data: bytes::Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct WriteContentRequest {
    #[prost(int32, tag = "1")]
    pub(crate) action: i32,
    #[prost(string, tag = "2")]
    pub(crate) reference: String,
    #[prost(int64, tag = "3")]
    pub(crate) total: i64,
    #[prost(string, tag = "4")]
    pub(crate) expected: String,
    #[prost(int64, tag = "5")]
    pub(crate) offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) data: bytes::Bytes,
}

impl WriteContentRequest {
    /// Action 0 asks how far a write is.
    pub(crate) const WRITE: i32 = 1;
    pub(crate) const COMMIT: i32 = 2;
}

/// How far a write is, which the sender knows.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct WriteContentResponse {
    #[prost(int64, tag = "4")]
    pub(crate) offset: i64,
}
