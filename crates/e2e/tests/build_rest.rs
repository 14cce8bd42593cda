//! `build`: archives that ADD unpacks, images of layouts on disk, what history says, errors with the line and a caret.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use std::path::Path;
use std::process::Command;
use testkit::daemon::{Daemon, Finished};

fn context(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile.replace("BASE", BUSYBOX)).unwrap();
    dir
}

fn build(daemon: &Daemon, dir: &Path, flags: &[&str]) -> Finished {
    daemon.brig(&[&["build", "-t", "app", "--progress=plain"], flags, &[dir.to_str().unwrap()]].concat())
}

fn run(daemon: &Daemon, script: &str) -> String {
    daemon.brig(&["run", "--rm", "app", "sh", "-c", script]).success()
}

fn tar(dir: &Path, args: &[&str]) {
    let output = Command::new("tar").current_dir(dir).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
}

#[test]
fn archives_are_unpacked_whatever_packed_them() {
    let Some(daemon) = own() else { return };
    let dir = context(
        "FROM BASE\nADD plain gzip bzip2 xz /w/\nADD --chown=5:6 xz /c/\nADD --chmod=0711 gzip /m/\n\
         ADD --chown=7 --chmod=700 bzip2 /b/\nADD --unpack=false gzip /n/\nADD --exclude=*p gzip xz /e/\nADD none /none/\n",
    );
    for (name, flag) in [("plain", "-c"), ("gzip", "-cz"), ("bzip2", "-cj"), ("xz", "-cJ")] {
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d").join(format!("of-{name}")), name).unwrap();
        let all = ["--owner=9", "--group=9", "--numeric-owner", "--mode=0640", "-f", name, "d"];
        tar(dir.path(), &[&[flag], &all[..]].concat());
        std::fs::remove_dir_all(dir.path().join("d")).unwrap();
    }
    // Compressed, and no archive.
    std::fs::write(dir.path().join("none"), [0x1f, 0x8b, 8, 0, 1, 2, 3]).unwrap();
    build(&daemon, dir.path(), &[]).success();
    assert_eq!(
        run(&daemon, "cd /w/d; cat of-plain of-gzip of-bzip2 of-xz; echo; stat -c '%u %g %a' of-xz"),
        "plaingzipbzip2xz\n9 9 640"
    );
    assert_eq!(
        run(&daemon, "stat -c '%u %g %a' /c/d/of-xz /m/d/of-gzip /b/d/of-bzip2; ls /n /e/d /none"),
        "5 6 640\n9 9 711\n7 7 700\n/e/d:\nof-xz\n\n/n:\ngzip\n\n/none:\nnone"
    );
    daemon.assert_no_leaks();
}

#[test]
fn layouts_on_disk_are_contexts() {
    let Some(daemon) = own() else { return };
    let dir = context("FROM BASE\nRUN echo laid > /laid\nENV laid=out\n");
    build(&daemon, dir.path(), &[]).success();
    let id = daemon.get("/images/app/json")["Id"].as_str().unwrap().to_string();
    let saved = dir.path().join("saved.tar");
    daemon.brig(&["save", "-o", saved.to_str().unwrap(), "app"]).success();
    daemon.brig(&["rmi", "app"]).success();
    daemon.brig(&["builder", "prune", "-af"]).success();
    let layout = dir.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    tar(&layout, &["-xf", "../saved.tar"]);
    let text = "FROM other\nRUN cat /laid > /f && echo $laid >> /f\nFROM BASE\nCOPY --from=other /laid /l\nCOPY --from=0 /f /f\n";
    let user = context(text);
    let named = format!("other=oci-layout://{}", layout.display());
    build(&daemon, user.path(), &["--build-context", &named]).success();
    assert_eq!(run(&daemon, "cat /f /l"), "laid\nout\nlaid");
    // It was there for the build alone.
    let images = daemon.get("/images/json?all=1");
    assert!(images.as_array().unwrap().iter().all(|image| image["Id"] != *id), "{images}");
    let missing = format!("other=oci-layout://{}:none", layout.display());
    let failed = build(&daemon, user.path(), &["--build-context", &missing]);
    assert!(failed.code != Some(0) && failed.stderr.contains("has no image \"none\""), "{failed:?}");
    daemon.assert_no_leaks();
}

#[test]
fn history_says_what_was_done() {
    let Some(daemon) = own() else { return };
    let dir = context(
        "FROM BASE\nARG v=1 w\nRUN true\nRUN echo x > /x\nCOPY f /f\nADD --chown=1 f /g\nENV a=b\nLABEL c=d\nEXPOSE 80\nUSER 5\nWORKDIR /w\nVOLUME /v\nCMD [\"x\"]\n",
    );
    std::fs::write(dir.path().join("f"), "f").unwrap();
    build(&daemon, dir.path(), &["--build-arg", "w=2"]).success();
    let history = daemon.get("/images/app/history");
    let entries = history.as_array().unwrap();
    let own: Vec<&str> = entries
        .iter()
        .take_while(|entry| entry["Comment"] == "buildkit.dockerfile.v0")
        .map(|entry| entry["CreatedBy"].as_str().unwrap())
        .collect();
    assert_eq!(
        own,
        [
            "CMD [\"x\"]",
            "VOLUME [/v]",
            "WORKDIR /w",
            "USER 5",
            "EXPOSE map[80/tcp:{}]",
            "LABEL c=d",
            "ENV a=b",
            "ADD f /g # buildkit",
            "COPY f /f # buildkit",
            "RUN |2 v=1 w=2 /bin/sh -c echo x > /x # buildkit",
            "RUN |2 v=1 w=2 /bin/sh -c true # buildkit",
            "ARG w=2",
            "ARG v=1"
        ],
        "{history}"
    );
    daemon.assert_no_leaks();
}

#[test]
fn what_is_wrong_is_underlined() {
    let Some(daemon) = own() else { return };
    for (text, wanted) in [
        ("FROM BASE\nRUN true\nCOPPY a b\n", ["3 |", "COPPY a b", "^^^^^", "did you mean COPY?"]),
        ("FROM BASE\nCOPY --chwn=1 a b\n", ["2 |", "COPY --chwn=1 a b", "^", "unknown flag: --chwn"]),
        ("FROM BASE\nENV a=${b:?told}\n", ["2 |", "ENV a=${b:?told}", "^", "told"]),
        (
            "FROM BASE\nUSER $x\nRUN --mount=type=nothing true\n",
            ["3 |", "RUN --mount=type=nothing", "^", "nothing"],
        ),
    ] {
        let dir = context(text);
        std::fs::write(dir.path().join("a"), "").unwrap();
        let failed = build(&daemon, dir.path(), &[]);
        assert_ne!(failed.code, Some(0));
        for piece in wanted {
            assert!(failed.stderr.contains(piece), "{piece:?} for {text:?}: {}", failed.stderr);
        }
    }
    daemon.assert_no_leaks();
}
