//! `brig build` of a large directory: what has changed is sent, and nothing else.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::Value;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use testkit::daemon::{Daemon, Finished};

const FILES: usize = 150;

/// A context that is too large to be sent whole.
fn context(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "Dockerfile", &dockerfile.replace("BASE", BUSYBOX));
    for n in 0..FILES {
        write(dir.path(), &format!("part{}/file{n}", n % 3), &format!("{n}\n"));
    }
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn build(daemon: &Daemon, dir: &Path, flags: &[&str]) -> Finished {
    daemon.brig(&[&["build", "-t", "app", "--progress=plain"], flags, &[dir.to_str().unwrap()]].concat())
}

/// How many files were sent, of how many.
fn sent(built: &Finished) -> (usize, usize) {
    built.success();
    let line = built.stderr.lines().find_map(|l| l.strip_prefix("transferring context: "));
    let mut numbers =
        line.unwrap_or_else(|| panic!("{built:?}")).split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn run(daemon: &Daemon, script: &str) -> String {
    daemon.brig(&["run", "--rm", "app", "sh", "-c", script]).success()
}

#[test]
fn only_what_changed_is_sent() {
    let Some(mut daemon) = own() else { return };
    let dir = context("FROM BASE\nCOPY part0 /w/part0\nCOPY part1 /w/part1\nCOPY more /w/more\n");
    write(dir.path(), "more/kept", "kept\n");
    std::os::unix::fs::symlink("kept", dir.path().join("more/link")).unwrap();
    // Dockerfile, files, three parts and `more` with its two.
    let all = 1 + FILES + 3 + 3;
    assert_eq!(sent(&build(&daemon, dir.path(), &[])), (FILES + 2, all));
    assert_eq!(run(&daemon, "cat /w/part1/file1 /w/more/link"), "1\nkept");
    // Nothing.
    let again = build(&daemon, dir.path(), &[]);
    assert_eq!(sent(&again), (0, all));
    assert_eq!(again.stderr.matches("CACHED").count(), 3, "{again:?}");
    // One file: of the layers only that with it is made anew.
    write(dir.path(), "part1/file1", "other\n");
    let changed = build(&daemon, dir.path(), &[]);
    assert_eq!(sent(&changed), (1, all));
    assert_eq!(changed.stderr.matches("CACHED").count(), 1, "{changed:?}");
    assert_eq!(run(&daemon, "cat /w/part1/file1"), "other");
    // Same size and another time, and a mode; a file that goes, one that becomes a directory, a link that leads elsewhere.
    write(dir.path(), "part1/file1", "again\n");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path().join("part1/file4"), mode).unwrap();
    std::fs::remove_file(dir.path().join("part0/file0")).unwrap();
    std::fs::remove_file(dir.path().join("part0/file3")).unwrap();
    write(dir.path(), "part0/file3/inner", "inner\n");
    std::fs::remove_file(dir.path().join("more/link")).unwrap();
    std::os::unix::fs::symlink("../part1/file1", dir.path().join("more/link")).unwrap();
    assert_eq!(sent(&build(&daemon, dir.path(), &[])), (3, all));
    assert_eq!(
        run(
            &daemon,
            "cd /w; cat more/link part0/file3/inner; stat -c %a part1/file4; ls part0/file0 2>&1 | grep -c such"
        ),
        "again\ninner\n755\n1"
    );
    // A directory that loses its last file.
    write(dir.path(), "more/sub/only", "only\n");
    assert_eq!(sent(&build(&daemon, dir.path(), &[])), (1, all + 2));
    std::fs::remove_file(dir.path().join("more/sub/only")).unwrap();
    assert_eq!(sent(&build(&daemon, dir.path(), &[])), (0, all + 1));
    assert_eq!(run(&daemon, "ls -A /w/more/sub"), "");
    std::fs::remove_dir(dir.path().join("more/sub")).unwrap();
    // What is ignored is not told.
    write(dir.path(), ".dockerignore", "part2\n");
    assert_eq!(sent(&build(&daemon, dir.path(), &[])), (1, all + 1 - FILES / 3 - 1));
    // A daemon that was killed knows it still.
    daemon.kill9();
    daemon.spawn();
    let again = build(&daemon, dir.path(), &[]);
    assert_eq!(sent(&again).0, 0);
    assert_eq!(again.stderr.matches("CACHED").count(), 3, "{again:?}");
    daemon.brig(&["builder", "prune", "-af"]).success();
    assert_eq!(sent(&build(&daemon, dir.path(), &[])).0, FILES * 2 / 3 + 2);
    daemon.assert_no_leaks();
}

/// The way of an archive and this one make the same of the same files.
#[test]
fn keys_are_those_of_an_archive() {
    let Some(daemon) = own() else { return };
    let dir = context("FROM BASE\nCOPY . /w\n");
    std::os::unix::fs::symlink("file0", dir.path().join("part0/link")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o4711);
    std::fs::set_permissions(dir.path().join("part0/file0"), mode).unwrap();
    build(&daemon, dir.path(), &[]).success();
    let first = daemon.get("/images/app/json")["Id"].clone();
    let mut classic = daemon.docker_command(&["build", "-t", "app", dir.path().to_str().unwrap()]);
    classic.env("DOCKER_BUILDKIT", "0");
    let classic = testkit::daemon::finish(classic, &[]).success();
    assert!(classic.contains("Using cache"), "{classic}");
    assert_eq!(daemon.get("/images/app/json")["Id"], first);
}

#[test]
fn named_contexts_are_sent_so_too() {
    let Some(daemon) = own() else { return };
    let (main, other) = (tempfile::tempdir().unwrap(), context("not read"));
    write(main.path(), "Dockerfile", &format!("FROM {BUSYBOX}\nCOPY --from=other part2 /w\n"));
    let named = format!("other={}", other.path().display());
    build(&daemon, main.path(), &["--build-context", &named]).success();
    assert_eq!(run(&daemon, "cat /w/file2"), "2");
    write(other.path(), "part2/file2", "two\n");
    let changed = build(&daemon, main.path(), &["--build-context", &named]);
    assert!(!changed.stderr.contains("CACHED"), "{changed:?}");
    assert_eq!(run(&daemon, "cat /w/file2"), "two");
    assert!(build(&daemon, main.path(), &["--build-context", &named]).stderr.contains("CACHED"));
    // Two that differ only by name are two.
    let kept = daemon.get("/system/df")["BuildCache"].as_array().cloned().unwrap_or_default();
    assert_eq!(kept.iter().filter(|entry| entry["Type"] == "source.local").count(), 1, "{kept:?}");
    daemon.assert_no_leaks();
}

/// What cannot be told is sent as an archive.
#[test]
fn names_that_are_no_text_arrive() {
    let Some(daemon) = own() else { return };
    let dir = context("FROM BASE\nCOPY . /w\n");
    let name = std::ffi::OsStr::from_bytes(b"strange\xff");
    std::fs::write(dir.path().join(name), "s\n").unwrap();
    build(&daemon, dir.path(), &[]).success();
    assert_eq!(run(&daemon, "cat /w/strange*; cat /w/part0/file0"), "s\n0");
}

#[test]
fn hostile_lists_are_refused() {
    let Some(daemon) = own() else { return };
    let entry = |path: &str, mode: u32| {
        let mut out = u16::try_from(path.len()).unwrap().to_be_bytes().to_vec();
        out.extend(path.as_bytes());
        out.extend(mode.to_be_bytes());
        out.extend([0; 8 + 8 + 2 + 1]);
        out
    };
    let send = |path: &str, body: &[u8]| {
        testkit::raw::send(&daemon.socket, "POST", path, "application/vnd.brig.context", body).unwrap()
    };
    let list = |entries: &[Vec<u8>]| [entries.concat(), vec![0, 0]].concat();
    for hostile in ["../x", "/etc/passwd", "a/../../x", ".", "a//b", "nowhere/x"] {
        let answer = send("/brig/context?key=k", &list(&[entry(hostile, 0o100_644)]));
        assert_eq!(answer.status, 400, "{hostile}: {answer:?}");
    }
    // A device; names out of order; a list that is cut.
    assert_eq!(send("/brig/context?key=k", &list(&[entry("d", 0o020_666)])).status, 400);
    let wrong_order = list(&[entry("b", 0o100_644), entry("a", 0o100_644)]);
    assert_eq!(send("/brig/context?key=k", &wrong_order).status, 400);
    assert_eq!(send("/brig/context?key=k", &entry("a", 0o100_644)).status, 400);
    assert_eq!(send("/brig/context", &list(&[])).status, 400);
    // Content that nobody asked for, too little of it, and a token that is none.
    let token = || {
        let answer = send("/brig/context?key=k", &list(&[entry("Dockerfile", 0o100_644)]));
        let answer: Value = answer.json();
        assert_eq!(answer["wanted"], serde_json::json!([[0, 1]]), "{answer}");
        answer["token"].as_str().unwrap().to_string()
    };
    let body = |token: &str, content: &[&[u8]]| {
        let document = serde_json::json!({ "kept": { "": token } }).to_string();
        let mut out = (document.len() as u64).to_be_bytes().to_vec();
        out.extend(document.as_bytes());
        out.extend(content.concat());
        out
    };
    let build = |body: &[u8]| {
        testkit::raw::send(&daemon.socket, "POST", "/build", "application/vnd.brig.build", body).unwrap()
    };
    const END: &[u8] = &[0xff; 4];
    for content in [&[&[0, 0, 0, 7, 0, 0, 0, 0][..], END][..], &[END], &[], &[&[0, 0, 0, 0, 0xff, 0, 0, 0]]] {
        let answer = build(&body(&token(), content));
        assert_eq!(answer.status, 400, "{content:?}: {answer:?}");
    }
    let answer = build(&body("none", &[END]));
    assert_eq!(answer.status, 400);
    assert!(answer.json()["message"].as_str().unwrap().contains("too long ago"));
    daemon.assert_no_leaks();
}
