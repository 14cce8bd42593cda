//! What changes, as it changes.

use crate::http::Body;
use crate::{Error, KeyValue, Result, decode, key_value, number};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

/// How long [`Watch::changes`] waits at most, so that a server that was unplugged is noticed by who asks it for something
/// else meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest message: what one transaction changes.
const MAX_MESSAGE: u64 = 16 << 20;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(KeyValue),
    Deleted(String),
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch {
    address: String,
    stream: BufReader<Body>,
}

impl Watch {
    pub(crate) fn begin(mut body: Body) -> Watch {
        body.set_patience(PATIENCE);
        Watch { address: body.address.clone(), stream: BufReader::new(body) }
    }

    /// The next changes, all of one transaction together. Blocks; empty when nothing happened for a while.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] at the end of the connection; [`Error::Compacted`].
    pub fn changes(&mut self) -> Result<Vec<Event>> {
        let mut line = Vec::new();
        match self.stream.by_ref().take(MAX_MESSAGE).read_until(b'\n', &mut line) {
            Ok(0) => return Err(self.unavailable(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            // Half a line would be lost: only silence between two is harmless.
            Err(e) if line.is_empty() && e.kind() == io::ErrorKind::TimedOut => {
                return Ok(Vec::new());
            }
            Err(e) => return Err(self.unavailable(e)),
        }
        parse(&line).map_err(|e| match e {
            Error::Refused { message, .. } => Error::Refused { address: self.address.clone(), message },
            other => other,
        })
    }

    fn unavailable(&self, source: io::Error) -> Error {
        Error::Unavailable { address: self.address.clone(), source }
    }
}

fn parse(line: &[u8]) -> Result<Vec<Event>> {
    let value: Value =
        serde_json::from_slice(line).map_err(|_| Error::Answer { what: "message of a watch".into() })?;
    if let Some(message) = value["error"]["message"].as_str() {
        return Err(Error::Refused { address: String::new(), message: message.into() });
    }
    let result = &value["result"];
    if number(&result["compact_revision"]) != 0 {
        return Err(Error::Compacted);
    }
    if result["canceled"] == true {
        let message = result["cancel_reason"].as_str().unwrap_or("the watch was cancelled").to_string();
        return Err(Error::Refused { address: String::new(), message });
    }
    let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .map(|event| match event["type"].as_str() {
            Some("DELETE") => Ok(Event::Deleted(decode(&event["kv"]["key"])?)),
            _ => Ok(Event::Put(key_value(&event["kv"])?)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let line = br#"{"result":{"header":{},"events":[{"kv":{"key":"L2E=","value":"aGV5","mod_revision":"2"}},{"type":"DELETE","kv":{"key":"L2I="}}]}}"#;
        let events = parse(line).unwrap();
        assert_eq!(events[1], Event::Deleted("/b".into()));
        assert!(
            matches!(&events[0], Event::Put(kv) if kv.key == "/a" && kv.value == "hey" && kv.mod_revision == 2)
        );
        assert_eq!(parse(br#"{"result":{"created":true}}"#).unwrap(), []);
        assert!(matches!(
            parse(br#"{"result":{"compact_revision":"9","canceled":true}}"#),
            Err(Error::Compacted)
        ));
        assert!(matches!(parse(br#"{"error":{"message":"x"}}"#), Err(Error::Refused { .. })));
        assert!(parse(b"nonsense").is_err());
    }
}
