//! A client of an etcd cluster, version 3.4 or later, by its JSON gateway (`/v3/…` over HTTP): ranges, transactions,
//! leases and watches, which is what hosts that share networks need. Blocking; every call has a deadline.
//!
//! The gateway is part of every etcd server and listens where gRPC does. Keys and values are bytes in base64, numbers are
//! text.
//!
//! A revision counts all changes of the store. A range is read at one revision, and a watch from the next on misses
//! nothing. A lease is a time to live that keys share: they go when nobody renewed it.

mod error;
mod http;
mod tls;
mod watch;

pub use error::Error;
pub use tls::Tls;
pub use watch::{Event, Watch};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Endpoint;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tls::Trust;

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A cluster. Cheap: a connection is made for each call.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<Endpoint>,
    /// Which answered last.
    current: AtomicUsize,
}

/// A key and its value as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
    /// Which change wrote it.
    pub mod_revision: i64,
    /// 0 for none.
    pub lease: i64,
}

/// What must hold for a transaction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    Exists(String),
    Absent(String),
    /// No key begins so.
    NoneBelow(String),
    /// The key was last written by this change; 0 when it must not exist.
    ModRevision(String, i64),
    Value(String, String),
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: String,
        /// 0 for none.
        lease: i64,
    },
    Delete(String),
    DeleteBelow(String),
}

impl Client {
    /// A client of the servers at these addresses, each `host:port`, `http://host:port` or `https://host:port`; `tls` is
    /// for the last. Its calls block, and so must not be made where tasks run.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] for one that is not, or none at all.
    pub fn new(addresses: &[&str], tls: Tls) -> Result<Client> {
        let trust = Arc::new(Trust::new(tls));
        let endpoints = addresses.iter().map(|a| Endpoint::parse(a, &trust)).collect::<Result<Vec<_>>>()?;
        if endpoints.is_empty() {
            return Err(Error::Address { address: String::new() });
        }
        Ok(Client { endpoints, current: AtomicUsize::new(0) })
    }

    /// The keys that begin with `prefix`, sorted, and the revision at which that is so.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when no server answers; [`Error::Refused`], [`Error::Answer`].
    pub fn range(&self, prefix: &str) -> Result<(i64, Vec<KeyValue>)> {
        let answer = self.call("/v3/kv/range", &below(prefix))?;
        let revision = number(&answer["header"]["revision"]);
        let list = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok((revision, list.iter().map(key_value).collect::<Result<_>>()?))
    }

    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// As [`Client::range`].
    pub fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        let answer = self.call("/v3/kv/range", &json!({ "key": encode(key) }))?;
        answer["kvs"].get(0).map(key_value).transpose()
    }

    /// Carries out all of `ops` if all of `compares` hold, as one change. Whether it did.
    ///
    /// # Errors
    ///
    /// As [`Client::range`]; after [`Error::Unavailable`] it may have been carried out.
    pub fn transact(&self, compares: &[Compare], ops: &[Op]) -> Result<bool> {
        let body = json!({
            "compare": compares.iter().map(compare).collect::<Vec<_>>(),
            "success": ops.iter().map(op).collect::<Vec<_>>(),
        });
        Ok(self.call("/v3/kv/txn", &body)?["succeeded"] == true)
    }

    /// A new lease of `seconds`. Its id.
    ///
    /// # Errors
    ///
    /// As [`Client::range`].
    pub fn grant(&self, seconds: u32) -> Result<i64> {
        let answer = self.call("/v3/lease/grant", &json!({ "TTL": seconds.to_string() }))?;
        match number(&answer["ID"]) {
            0 => Err(Error::Answer { what: "a lease".into() }),
            id => Ok(id),
        }
    }

    /// Renews a lease. Whether there still is one.
    ///
    /// # Errors
    ///
    /// As [`Client::range`].
    pub fn keep_alive(&self, lease: i64) -> Result<bool> {
        let answer = self.call("/v3/lease/keepalive", &json!({ "ID": lease.to_string() }))?;
        Ok(number(&answer["result"]["TTL"]) > 0)
    }

    /// Begins to listen to the keys that begin with `prefix`, from the change `revision` on.
    ///
    /// # Errors
    ///
    /// As [`Client::range`].
    pub fn watch(&self, prefix: &str, revision: i64) -> Result<Watch> {
        let mut create = below(prefix);
        create["start_revision"] = revision.to_string().into();
        self.each(|endpoint| {
            let stream = endpoint.post("/v3/watch", &json!({ "create_request": create }).to_string())?;
            Ok(Watch::begin(stream))
        })
    }

    fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let text = body.to_string();
        self.each(|endpoint| {
            let answer = endpoint.post(path, &text)?.read_to_end()?;
            serde_json::from_slice(&answer).map_err(|_| Error::Answer { what: path.into() })
        })
    }

    /// Asks one server after the other until one can be spoken to, the last good one first.
    fn each<T>(&self, ask: impl Fn(&Endpoint) -> Result<T>) -> Result<T> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for n in 0..self.endpoints.len() {
            let at = (first + n) % self.endpoints.len();
            match ask(&self.endpoints[at]) {
                Err(e @ Error::Unavailable { .. }) => last = Some(e),
                done => {
                    self.current.store(at, Ordering::Relaxed);
                    return done;
                }
            }
        }
        Err(last.expect("there is at least one server"))
    }
}

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

fn decode(value: &Value) -> Result<String> {
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).ok();
    bytes
        .and_then(|b| String::from_utf8(b).ok())
        .ok_or_else(|| Error::Answer { what: "a key or a value".into() })
}

/// Numbers of 64 bits are text in JSON, and absent when they are 0.
fn number(value: &Value) -> i64 {
    value.as_str().and_then(|t| t.parse().ok()).or_else(|| value.as_i64()).unwrap_or_default()
}

/// The fields that name every key that begins with `prefix`.
fn below(prefix: &str) -> Value {
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes are text that ends in a slash.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    json!({ "key": encode(prefix), "range_end": STANDARD.encode(end) })
}

fn key_value(value: &Value) -> Result<KeyValue> {
    Ok(KeyValue {
        key: decode(&value["key"])?,
        value: decode(&value["value"])?,
        mod_revision: number(&value["mod_revision"]),
        lease: number(&value["lease"]),
    })
}

fn compare(compare: &Compare) -> Value {
    let create = |key: &str, result: &str| json!({ "key": encode(key), "target": "CREATE", "result": result, "create_revision": "0" });
    match compare {
        Compare::Exists(key) => create(key, "GREATER"),
        Compare::Absent(key) => create(key, "EQUAL"),
        Compare::NoneBelow(prefix) => {
            let mut out = below(prefix);
            for (name, value) in [("target", "CREATE"), ("result", "EQUAL"), ("create_revision", "0")] {
                out[name] = value.into();
            }
            out
        }
        Compare::ModRevision(key, revision) => {
            json!({ "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() })
        }
        Compare::Value(key, value) => {
            json!({ "key": encode(key), "target": "VALUE", "result": "EQUAL", "value": encode(value) })
        }
    }
}

fn op(op: &Op) -> Value {
    match op {
        Op::Put { key, value, lease } => {
            json!({ "request_put": { "key": encode(key), "value": encode(value), "lease": lease.to_string() } })
        }
        Op::Delete(key) => json!({ "request_delete_range": { "key": encode(key) } }),
        Op::DeleteBelow(prefix) => json!({ "request_delete_range": below(prefix) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_numbers() {
        assert_eq!(below("/a/"), json!({ "key": "L2Ev", "range_end": "L2Ew" }));
        assert_eq!((number(&json!("7")), number(&json!(7)), number(&Value::Null)), (7, 7, 0));
        assert!(
            Client::new(&[], Tls::default()).is_err() && Client::new(&["nowhere"], Tls::default()).is_err()
        );
        assert!(Client::new(&["a:1", "[::1]:2"], Tls::default()).is_ok());
    }

    #[test]
    fn nobody_there_is_told() {
        // Bound and closed again: nobody else has it in this moment.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = Client::new(&[&address], Tls::default()).unwrap();
        assert!(matches!(client.range("/"), Err(Error::Unavailable { .. })));
    }
}
