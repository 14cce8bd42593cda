//! Documents in which empty lists and maps are written `null`, as Go's encoder does: such a member means what its absence
//! means.

use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::ops::Range;

/// Reads a document; `null` stands for an absent member everywhere.
///
/// A document without such members costs nothing more than serde_json's reading.
///
/// # Errors
///
/// serde_json's, with lines and columns of `bytes`.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut text = Cow::Borrowed(bytes);
    loop {
        match serde_json::from_slice(&text) {
            Err(e) if e.is_data() && matches!(text, Cow::Borrowed(_)) => match without_nulls(bytes) {
                Some(blanked) => text = Cow::Owned(blanked),
                None => return Err(e),
            },
            other => return other,
        }
    }
}

/// `bytes` with blanks in place of the members of objects that are `null`; `None` if there is none. What is no JSON stays
/// none: a member goes with the one comma that belongs to it.
fn without_nulls(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    let mut open = Vec::new();
    let (mut changed, mut at) = (false, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => open.push(byte),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let key = string(bytes, at);
                at = key.end;
                if open.last() == Some(&b'{')
                    && let Some(range) = member(&out, key)
                {
                    at = range.end;
                    out[range].fill(b' ');
                    changed = true;
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    changed.then_some(out)
}

/// What is to be blanked if the string `key` begins a member that is `null`.
fn member(text: &[u8], key: Range<usize>) -> Option<Range<usize>> {
    let before = |end: usize| text[..end].iter().rposition(|b| !b.is_ascii_whitespace());
    let separator = before(key.start).filter(|&at| matches!(text[at], b'{' | b','))?;
    let colon = blank(text, key.end);
    let value = blank(text, colon + 1);
    if text.get(colon) != Some(&b':') || !text.get(value..)?.starts_with(b"null") {
        return None;
    }
    let after = blank(text, value + 4);
    match text.get(after)? {
        b',' => (text.get(blank(text, after + 1)) == Some(&b'"')).then_some(key.start..after + 1),
        b'}' if text[separator] == b'{' => Some(key.start..after),
        b'}' => before(separator).filter(|&at| !b"{[,:".contains(&text[at])).map(|_| separator..after),
        _ => None,
    }
}

/// The string that begins at `start`, with its quotes.
fn string(bytes: &[u8], start: usize) -> Range<usize> {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return start..at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    start..bytes.len()
}

/// Where the blanks from `at` on end.
fn blank(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|b| b.is_ascii_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Spec, State};
    use serde_json::Value;

    #[test]
    fn members_that_are_null_are_absent() {
        let check = |text: &str, want: &str| {
            let out = without_nulls(text.as_bytes()).map(|out| String::from_utf8(out).unwrap());
            let out: Value = serde_json::from_str(&out.unwrap_or_else(|| text.into())).unwrap();
            assert_eq!(out, serde_json::from_str::<Value>(want).unwrap(), "{text}");
        };
        check(r#"{"a":null}"#, "{}");
        check(r#"{"a":null,"b":null}"#, "{}");
        check("{ \"a\" :\tnull ,\n\"b\" : 1 }", r#"{"b":1}"#);
        check(r#"{"b":1,"a":null}"#, r#"{"b":1}"#);
        check(r#"{"b":1,"a":null,"c":null}"#, r#"{"b":1}"#);
        check(r#"{"b":[{"x":null}],"a":{"y":2,"z":null}}"#, r#"{"b":[{}],"a":{"y":2}}"#);
        check(
            r#"{"a\"b":"null","c":"\\","d":[null],"e:null":"x\":null,"}"#,
            r#"{"a\"b":"null","c":"\\","d":[null],"e:null":"x\":null,"}"#,
        );
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in [
            r#"{"a":null "b":1}"#,
            r#"{"a":null,,"b":1}"#,
            r#"{,"a":null}"#,
            r#"{"a":nullx}"#,
            r#"{"a":null"#,
            r#"{"a":null]"#,
            r#"{"a":null,}"#,
            r#"["a":null,1]"#,
            r#"["x","a":null,"b"]"#,
            r#"{"k":"a":null,"b":1}"#,
            r#"{"b":1,,"a":null}"#,
            r#"{"a"#,
            r#"{"a\"#,
        ] {
            let out = without_nulls(text.as_bytes()).unwrap_or_else(|| text.into());
            let out = serde_json::from_slice::<Value>(&out);
            assert!(out.is_err() && from_json::<Spec>(text.as_bytes()).is_err(), "{text} became {out:?}");
        }
    }

    #[test]
    fn every_member_may_be_null() {
        let text = r#"{"ociVersion":"1.0.0","root":null,"mounts":[{"destination":"/x","type":null,"source":null,"options":null,
            "uidMappings":null}],"process":{"user":null,"args":null,"env":null,"cwd":"/","capabilities":{"bounding":null,
            "ambient":null},"rlimits":null,"noNewPrivileges":null,"terminal":null,"oomScoreAdj":null},"hostname":null,
            "hooks":{"prestart":null,"poststop":[{"path":"/x","args":null,"env":null,"timeout":null}]},"annotations":null,
            "linux":{"namespaces":null,"devices":null,"sysctl":null,"timeOffsets":null,"maskedPaths":null,"netDevices":null,
            "seccomp":{"defaultAction":"SCMP_ACT_ALLOW","architectures":null,"flags":null,"syscalls":[{"names":["a"],
            "action":"SCMP_ACT_ERRNO","args":null,"errnoRet":null}]},"resources":{"devices":null,"unified":null,"rdma":null,
            "hugepageLimits":null,"blockIO":{"weightDevice":null}},"intelRdt":{"schemata":null,"enableMonitoring":null}}}"#;
        let spec: Spec = from_json(text.as_bytes()).unwrap();
        assert_eq!(spec.mounts.len(), 1);
        let again = serde_json::to_string(&spec).unwrap();
        assert!(!again.contains("null"), "{again}");
        assert_eq!(from_json::<Spec>(again.as_bytes()).unwrap(), spec);
        let error = from_json::<State>(b"{\"id\":null,\n\"pid\":\"x\"}").unwrap_err();
        assert_eq!(error.line(), 2, "{error}");
    }
}
