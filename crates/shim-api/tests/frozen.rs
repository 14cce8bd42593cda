//! Version 1 of the protocol as it was written down. Daemons and shims of other builds say exactly this, so none of these texts is
//! ever changed: what no longer fits them is version 2, and version 2 comes with code that still speaks version 1.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shim_api::{Config, Exit, FrameKind, Request, Response};

const REQUESTS: &[&str] = &[
    r#"{"hello":{"version":1}}"#,
    r#""start""#,
    r#"{"attach":{"streams":{"stdin":true,"stdout":true,"stderr":false}}}"#,
    r#"{"exec":{"exec_id":"e","process":{"terminal":true,"cwd":"/","args":["sh"],"env":["A=1"],"user":{"uid":0,"gid":0}},"streams":{"stdin":false,"stdout":true,"stderr":true}}}"#,
    r#"{"kill":{"exec_id":null,"signal":15}}"#,
    r#"{"kill":{"exec_id":"e","signal":9}}"#,
    r#"{"resize":{"exec_id":null,"height":24,"width":80}}"#,
    r#""pause""#,
    r#""resume""#,
    r#""state""#,
    r#""subscribe""#,
    r#""shutdown""#,
];

const RESPONSES: &[&str] = &[
    r#"{"hello":{"version":1,"container_id":"c"}}"#,
    r#""ok""#,
    r#"{"started":{"pid":7}}"#,
    r#"{"state":{"status":"running","pid":7,"exit":null,"execs":[{"exec_id":"e","pid":8,"exit":{"pid":8,"code":1,"at":"2026-01-02T03:04:05.000000006Z"}}]}}"#,
    r#"{"event":{"exited":{"exec_id":null,"exit":{"pid":7,"code":137,"at":"2026-01-02T03:04:05.000000006Z"}}}}"#,
    r#"{"event":{"exited":{"exec_id":"e","exit":{"pid":8,"code":0,"at":"2026-01-02T03:04:05.000000006Z","oom_killed":true}}}}"#,
];

const CONFIGS: &[&str] = &[
    r#"{"version":1,"container_id":"c","bundle":"/b","runtime":"/r","runtime_root":"/rr","tty":false,"open_stdin":true,"stdin_once":false,"log":{"driver":"json-file","path":"/l","max_size_bytes":0,"max_files":1}}"#,
    r#"{"version":1,"container_id":"c","bundle":"/b","runtime":"/r","runtime_root":"/rr","tty":true,"open_stdin":false,"stdin_once":true,"log":{"driver":"none"}}"#,
];

/// Whether `new` says everything that `old` says, and may say more.
fn says_all(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            old.iter().all(|(key, value)| match new.get(key) {
                Some(other) => says_all(value, other),
                // Left out where it says nothing.
                None => value.is_null(),
            })
        }
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| says_all(old, new))
        }
        _ => old == new,
    }
}

fn check<T: Serialize + DeserializeOwned>(texts: &[&str]) {
    for text in texts {
        let read: T = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text} is not understood: {e}"));
        let written = serde_json::to_value(&read).unwrap();
        let old: Value = serde_json::from_str(text).unwrap();
        assert!(says_all(&old, &written), "{text} is said as {written} now");
        // A later build of the same version may add members.
        if let Value::Object(mut members) = old {
            match members.values_mut().next() {
                // What happened is one of several things, by its name.
                Some(Value::Object(inner)) if inner.keys().next().is_some_and(|k| k == "exited") => {}
                Some(Value::Object(inner)) => drop(inner.insert("of a later build".into(), 1.into())),
                _ => drop(members.insert("of a later build".into(), 1.into())),
            }
            let more = Value::Object(members).to_string();
            assert!(serde_json::from_str::<T>(&more).is_ok(), "{more} is not understood");
        }
    }
}

#[test]
fn requests_of_version_1() {
    check::<Request>(REQUESTS);
}

#[test]
fn responses_of_version_1() {
    check::<Response>(RESPONSES);
}

#[test]
fn files_of_version_1() {
    check::<Config>(CONFIGS);
    check::<Exit>(&[r#"{"pid":7,"code":0,"at":"2026-01-02T03:04:05.000000006Z"}"#]);
}

#[test]
fn frames_of_version_1() {
    let kinds =
        [FrameKind::Control, FrameKind::Stdin, FrameKind::Stdout, FrameKind::Stderr, FrameKind::CloseStdin];
    for (byte, kind) in (0..).zip(kinds) {
        assert_eq!((kind as u8, FrameKind::from_byte(byte)), (byte, Some(kind)));
    }
}

#[test]
fn every_request_is_written_down() {
    // A new one breaks this match: it wants a version of its own, and a line above once that is released.
    for text in REQUESTS {
        match serde_json::from_str(text).unwrap() {
            Request::Hello { .. }
            | Request::Start
            | Request::Attach { .. }
            | Request::Exec { .. }
            | Request::Kill { .. }
            | Request::Resize { .. }
            | Request::Pause
            | Request::Resume
            | Request::State
            | Request::Subscribe
            | Request::Shutdown => {}
        }
    }
}
