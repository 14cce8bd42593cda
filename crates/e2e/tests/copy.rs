//! `cp` both ways, by both clients and by the plain API, from and to containers that run and that do not.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use testkit::daemon::{Daemon, finish};
use testkit::raw::{self, Response};
use testkit::tar::{self, Entry};

fn put(daemon: &Daemon, container: &str, query: &str, body: &[u8]) -> Response {
    let path = format!("/containers/{container}/archive?{query}");
    raw::send(&daemon.socket, "PUT", &path, "application/x-tar", body).unwrap()
}

/// Names and texts of an archive, as GNU tar reads it.
fn entries(bytes: &[u8]) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, bytes).unwrap();
    let list = std::process::Command::new("tar").args(["-P", "-tf"]).arg(&path).output().unwrap();
    assert!(list.status.success(), "{list:?}");
    let names = String::from_utf8(list.stdout).unwrap();
    let read = |name: &str| {
        let out =
            std::process::Command::new("tar").args(["-P", "-xOf"]).arg(&path).arg(name).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    names.lines().map(|n| (n.to_string(), if n.ends_with('/') { String::new() } else { read(n) })).collect()
}

const TREE: &str = "mkdir -p /bar/quux; echo -n hello > /foo; echo -n world > /bar/quux/baz; ln -s notexist /bar/notarget; \
                    ln -s quux/baz /bar/filesymlink; ln -s quux /bar/dirsymlink; ln -s / /bar/root";

#[test]
fn archives_have_dockers_names() {
    let Some(daemon) = own() else { return };
    daemon.brig(&["run", "--name", "tree", BUSYBOX, "sh", "-c", TREE]).success();
    let get = |path: &str| {
        let response = daemon.request("GET", &format!("/containers/tree/archive?path={path}"), &Value::Null);
        entries(&response.expect(200).body)
    };
    let check = |path: &str, names: &[&str], text: Option<(&str, &str)>| {
        let found = get(path);
        for name in names {
            assert!(found.contains_key(*name), "{path}: {name} is not in {found:?}");
        }
        if let Some((name, text)) = text {
            assert_eq!(found[name], text, "{path}");
        }
        found.len()
    };
    check("/", &["/", "/foo", "/bar/quux/baz", "/bar/filesymlink"], Some(("/foo", "hello")));
    for dot in [".", "/.", "./", "/./", "/bar/root/."] {
        check(dot, &["./", "./foo", "./bar/quux/baz"], Some(("./foo", "hello")));
    }
    assert_eq!(check("/bar/root", &["root"], None), 1);
    check("/bar/root/", &["root/", "root/foo", "root/bar/quux/baz"], None);
    for path in ["bar/quux", "bar/quux/", "/bar/dirsymlink/../quux"] {
        assert_eq!(check(path, &["quux/", "quux/baz"], Some(("quux/baz", "world"))), 2, "{path}");
    }
    assert_eq!(check("bar/quux/.", &["./", "./baz"], None), 2);
    assert_eq!(check("bar/quux/baz", &["baz"], Some(("baz", "world"))), 1);
    assert_eq!(check("bar/dirsymlink", &["dirsymlink"], None), 1);
    assert_eq!(check("bar/dirsymlink/", &["dirsymlink/", "dirsymlink/baz"], None), 2);
    assert_eq!(check("bar/notarget", &["notarget"], None), 1);

    let stat = |path: &str| {
        let answer = daemon
            .request("HEAD", &format!("/containers/tree/archive?path={path}"), &Value::Null)
            .expect(200);
        let coded = answer.header("x-docker-container-path-stat").unwrap().to_string();
        let mut command = std::process::Command::new("base64");
        command.arg("-d");
        let decoded = finish(command, coded.as_bytes());
        serde_json::from_str::<Value>(&decoded.success()).unwrap()
    };
    let link = stat("/bar/filesymlink");
    assert_eq!((&link["name"], &link["linkTarget"]), (&json!("filesymlink"), &json!("/bar/quux/baz")));
    assert_eq!(link["mode"], json!(0o777u32 | 1 << 27));
    assert_eq!(stat("/bar/notarget")["linkTarget"], "/bar/notexist");
    assert_eq!(stat("/tmp/")["mode"], json!(0o777u32 | 1 << 31 | 1 << 20));
    assert_eq!((&stat("/foo")["size"], &stat("/.")["name"]), (&json!(5), &json!(".")));

    let missing = daemon.request("GET", "/containers/tree/archive?path=/dne", &Value::Null).expect(404);
    assert_eq!(missing.message(), "Could not find the file /dne in container tree");
    let file = daemon.request("GET", "/containers/tree/archive?path=/foo/", &Value::Null).expect(400);
    assert!(file.message().contains("not a directory"), "{}", file.message());
    daemon.request("GET", "/containers/tree/archive", &Value::Null).expect(400);
    daemon.request("GET", "/containers/none/archive?path=/", &Value::Null).expect(404);
}

#[test]
fn archives_go_in_by_dockers_rules() {
    let Some(daemon) = own() else { return };
    daemon
        .brig(&["run", "-d", "--name", "one", "-v", "/data", "--user", "app", BUSYBOX, "sleep", "1000"])
        .success();
    let archive = tar::archive(&[
        Entry::directory("./", 0o700),
        Entry::directory("d/", 0o750),
        Entry::file("d/f", 0o640, "text"),
        Entry::symlink("s", "/etc"),
        Entry::file("s2", 0o644, "x"),
    ]);
    put(&daemon, "one", "path=/srv", &archive).expect(404);
    put(&daemon, "one", "path=/etc/passwd", &archive).expect(400);
    let slash = put(&daemon, "one", "path=/etc/passwd/", &archive).expect(400);
    assert!(slash.message().contains("not a directory"));
    let before = daemon.docker(&["exec", "one", "stat", "-c", "%a", "/data"]).success();
    put(&daemon, "one", "path=/data", &archive).expect(200);
    let look =
        |path: &str| daemon.docker(&["exec", "-u", "0", "one", "stat", "-c", "%a %u:%g", path]).success();
    assert_eq!(look("/data/d/f"), "640 0:0");
    assert_eq!(
        daemon.docker(&["exec", "one", "stat", "-c", "%a", "/data"]).success(),
        before,
        "./ is left alone"
    );
    // Into the volume, through a symlink of the archive's own, and compressed.
    put(&daemon, "one", "path=/data/s", &tar::gzip(&tar::archive(&[Entry::file("deep", 0o600, "1")])))
        .expect(200);
    assert_eq!(daemon.docker(&["exec", "-u", "0", "one", "cat", "/etc/deep"]).success(), "1");
    // An owner of the container's, where asked for.
    put(&daemon, "one", "path=/tmp&copyUIDGID=true", &archive).expect(200);
    assert_eq!(look("/tmp/d/f"), "640 1000:1001");
    // Kinds are kept where asked for.
    let clash = tar::archive(&[Entry::file("d", 0o644, "")]);
    let refused = put(&daemon, "one", "path=/tmp&noOverwriteDirNonDir=true", &clash).expect(400).message();
    assert!(refused.contains("cannot overwrite directory"), "{refused}");
    let clash = tar::archive(&[Entry::directory("d/f/", 0o755)]);
    let refused = put(&daemon, "one", "path=/tmp&noOverwriteDirNonDir=1", &clash).expect(400).message();
    assert!(refused.contains("cannot overwrite non-directory"), "{refused}");
    put(&daemon, "one", "path=/tmp", &clash).expect(200);
    put(&daemon, "one", "path=/tmp", b"").expect(200);
    put(&daemon, "one", "path=/tmp", b"no tar").expect(400);
    daemon.brig(&["rm", "-f", "-v", "one"]).success();
    daemon.assert_no_leaks();
}

#[test]
fn what_is_read_only_stays_so() {
    let Some(daemon) = own() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("own"), "mine").unwrap();
    let bind = format!("{}:/ro:ro", dir.path().display());
    daemon
        .brig(&["create", "--name", "one", "--read-only", "-v", "/rw", "-v", &bind, BUSYBOX, "true"])
        .success();
    let archive = tar::archive(&[Entry::file("x", 0o644, "")]);
    let refused = |path: &str| put(&daemon, "one", &format!("path={path}"), &archive).expect(400).message();
    assert_eq!(refused("/etc"), "container rootfs is marked read-only");
    assert_eq!(refused("/ro"), "mounted volume is marked read-only");
    put(&daemon, "one", "path=/rw", &archive).expect(200);
    // Not by a detour either.
    let detour = tar::archive(&[Entry::symlink("out", "/ro"), Entry::file("out/x", 0o644, "")]);
    put(&daemon, "one", "path=/rw", &detour);
    assert!(!dir.path().join("x").exists());
    assert_eq!(std::fs::read(dir.path().join("own")).unwrap(), b"mine");
    let target = dir.path().join("copied");
    daemon.docker(&["cp", "one:/ro/own", target.to_str().unwrap()]).success();
    assert_eq!(std::fs::read(target).unwrap(), b"mine");
    daemon.brig(&["rm", "-v", "one"]).success();
    daemon.assert_no_leaks();
}

/// One copy by a client, in a directory of its own.
fn by_both(test: impl Fn(&Daemon, &dyn Fn(&[&str]) -> testkit::daemon::Finished, &Path)) {
    let Some(daemon) = own() else { return };
    for client in ["brig", "docker"] {
        let dir = tempfile::tempdir().unwrap();
        let run = |args: &[&str]| {
            let mut command =
                if client == "brig" { daemon.brig_command(args) } else { daemon.docker_command(args) };
            command.current_dir(dir.path());
            finish(command, b"")
        };
        test(&daemon, &run, dir.path());
        daemon.remove_all();
    }
    daemon.assert_no_leaks();
}

#[test]
fn files_and_directories_go_both_ways() {
    by_both(|daemon, run, dir| {
        run(&["run", "-d", "--name", "one", BUSYBOX, "sh", "-c", &format!("{TREE}; sleep 1000")]).success();
        testkit::wait_until("the tree", || run(&["exec", "one", "test", "-L", "/bar/root"]).code == Some(0));
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        run(&["cp", "one:/foo", "."]).success();
        run(&["cp", "one:/foo", "renamed"]).success();
        assert_eq!((read("foo"), read("renamed")), ("hello".into(), "hello".into()));
        run(&["cp", "one:/bar/quux", "new"]).success();
        run(&["cp", "one:/bar/quux", "new"]).success();
        run(&["cp", "one:/bar/quux/.", "flat"]).success();
        assert_eq!(
            (read("new/baz"), read("new/quux/baz"), read("flat/baz")),
            ("world".into(), "world".into(), "world".into())
        );
        run(&["cp", "one:/bar/filesymlink", "link"]).success();
        assert_eq!(std::fs::read_link(dir.join("link")).unwrap(), Path::new("quux/baz"));
        std::fs::remove_file(dir.join("link")).unwrap();
        run(&["cp", "-L", "one:/bar/filesymlink", "."]).success();
        assert_eq!(read("filesymlink"), "world");
        assert_ne!(run(&["cp", "one:/foo", "missing/"]).code, Some(0));
        assert_ne!(run(&["cp", "one:/bar/quux", "foo"]).code, Some(0));
        assert_ne!(run(&["cp", "one:/dne", "."]).code, Some(0));
        std::fs::create_dir(dir.join("taken")).unwrap();
        std::fs::create_dir(dir.join("taken/foo")).unwrap();
        assert_ne!(run(&["cp", "one:/foo", "taken"]).code, Some(0), "a directory is not replaced by a file");

        // And in: running, then stopped.
        std::fs::create_dir_all(dir.join("src/sub")).unwrap();
        std::fs::write(dir.join("src/sub/file"), "local").unwrap();
        std::os::unix::fs::symlink("sub/file", dir.join("src/ln")).unwrap();
        std::os::unix::fs::symlink("src/sub", dir.join("dirlink")).unwrap();
        let cat = |path: &str| run(&["exec", "one", "cat", path]).success();
        run(&["cp", "src", "one:/tmp"]).success();
        run(&["cp", "src/.", "one:/tmp/flat"]).success();
        run(&["cp", "src", "one:/named"]).success();
        run(&["cp", "src/sub/file", "one:/tmp/file2"]).success();
        run(&["cp", "src/sub/file", "one:/bar/dirsymlink"]).success();
        run(&["cp", "-L", "src/ln", "one:/tmp/followed"]).success();
        run(&["cp", "dirlink/", "one:/tmp/through"]).success();
        for path in [
            "/tmp/src/sub/file",
            "/tmp/flat/sub/file",
            "/named/sub/file",
            "/tmp/file2",
            "/bar/quux/file",
            "/tmp/followed",
            "/tmp/through/file",
        ] {
            assert_eq!(cat(path), "local", "{path}");
        }
        assert_eq!(run(&["exec", "one", "readlink", "/tmp/src/ln"]).success(), "sub/file");
        assert_ne!(run(&["cp", "src", "one:/foo"]).code, Some(0), "a file is not replaced by a directory");
        assert_ne!(run(&["cp", "src/sub/file", "one:/nowhere/"]).code, Some(0));
        assert_ne!(run(&["cp", "one:/foo", "one:/bar"]).code, Some(0));
        run(&["stop", "-t", "0", "one"]).success();
        run(&["cp", "src/sub/file", "one:/tmp/stopped"]).success();
        run(&["cp", "one:/tmp/stopped", "back"]).success();
        assert_eq!(read("back"), "local");
        assert_eq!(std::fs::metadata(dir.join("back")).unwrap().uid(), 0);
        run(&["start", "one"]).success();
        assert_eq!(cat("/tmp/stopped"), "local");
        // Streams.
        let tar = tar::archive(&[Entry::file("streamed", 0o644, "in")]);
        let command = |args: &[&str]| daemon.brig_command(args);
        finish(command(&["cp", "-", "one:/tmp"]), &tar).success();
        assert_eq!(cat("/tmp/streamed"), "in");
    });
}

#[test]
fn export_is_the_root_without_mounts() {
    let Some(daemon) = own() else { return };
    daemon
        .brig(&["run", "--name", "one", "-v", "/data", BUSYBOX, "sh", "-c", "echo a > /data/a; echo b > /b"])
        .success();
    let names = entries(&daemon.request("GET", "/containers/one/export", &Value::Null).expect(200).body);
    assert_eq!(names["b"], "b\n");
    assert!(
        names.contains_key("bin/busybox") && names.contains_key("data/") && !names.contains_key("data/a")
    );
    let dir = tempfile::tempdir().unwrap();
    for (client, file) in [("brig", "1.tar"), ("docker", "2.tar")] {
        let path = dir.path().join(file);
        let args = ["export", "-o", path.to_str().unwrap(), "one"];
        if client == "brig" {
            daemon.brig(&args).success()
        } else {
            daemon.docker(&args).success()
        };
    }
    assert_eq!(
        std::fs::read(dir.path().join("1.tar")).unwrap(),
        std::fs::read(dir.path().join("2.tar")).unwrap()
    );
}
