//! `ADD` of URLs: who asks for a file, and that one which has not changed is not sent again.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use std::path::Path;
use std::sync::{Arc, Mutex};
use testkit::daemon::{Daemon, Finished};
use testkit::http::{Answer, Server};

fn build(daemon: &Daemon, dir: &Path, lines: &str, flags: &[&str]) -> Finished {
    std::fs::write(dir.join("Dockerfile"), format!("FROM {BUSYBOX}\n{lines}\n")).unwrap();
    daemon.brig(&[&["build", "-t", "far", "--progress=plain"], flags, &[dir.to_str().unwrap()]].concat())
}

fn cat(daemon: &Daemon) -> String {
    daemon.brig(&["run", "--rm", "far", "cat", "/f"]).success()
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let Some(daemon) = own() else { return };
    let content = Arc::new(Mutex::new(("1", "one\n")));
    let served = content.clone();
    let server = Server::start(move |request, _| {
        let (version, text) = *served.lock().unwrap();
        let tag = match request.path.as_str() {
            "/weak" => format!("W/\"{version}\""),
            _ => format!("\"{version}\""),
        };
        if request.header("if-none-match") == Some(&tag) {
            return Answer::new(304, "").with("ETag", tag);
        }
        Answer::new(200, text).with("ETag", tag)
    });
    let statuses = |path: &str| {
        let seen = server.seen();
        seen.iter()
            .filter(|r| r.path == path)
            .map(|r| r.header("if-none-match").is_some())
            .collect::<Vec<_>>()
    };
    let dir = tempfile::tempdir().unwrap();
    let add = format!("ADD http://{}/file /f", server.address);
    build(&daemon, dir.path(), &add, &[]).success();
    let again = build(&daemon, dir.path(), &add, &[]);
    assert!(again.stderr.contains("CACHED"), "{again:?}");
    assert_eq!((cat(&daemon), statuses("/file")), ("one".into(), vec![false, true]));
    // Another step needs the file itself, which is read again then.
    build(&daemon, dir.path(), &format!("RUN true\n{add}\nRUN cat /f"), &[]).success();
    build(&daemon, dir.path(), &format!("RUN : > /x\n{add}"), &[]).success();
    assert_eq!(cat(&daemon), "one");
    // One that has changed, is asked for anew, or may stand for several contents is sent.
    *content.lock().unwrap() = ("2", "two\n");
    build(&daemon, dir.path(), &add, &[]).success();
    assert_eq!(cat(&daemon), "two");
    build(&daemon, dir.path(), &add, &["--no-cache"]).success();
    assert_eq!(statuses("/file").last(), Some(&false));
    for _ in 0..2 {
        build(&daemon, dir.path(), &format!("ADD http://{}/weak /f", server.address), &[]).success();
    }
    assert_eq!(statuses("/weak"), [false, false]);
    // It is in the list of the cache, and goes with that.
    let listed = daemon.get("/system/df")["BuildCache"].to_string();
    assert!(listed.contains("source.http"), "{listed}");
    daemon.brig(&["builder", "prune", "-af"]).success();
    assert!(!daemon.get("/system/df")["BuildCache"].to_string().contains("source.http"));
    build(&daemon, dir.path(), &add, &[]).success();
    assert_eq!(statuses("/file").last(), Some(&false));
    daemon.assert_no_leaks();
}

#[test]
fn secrets_open_files_of_their_hosts_and_stay_nowhere() {
    let Some(daemon) = own() else { return };
    const TOKEN: &str = "t0p-53cr3t";
    let other = Server::start(|request, _| match request.header("authorization") {
        None => Answer::new(200, "elsewhere\n"),
        Some(_) => Answer::new(400, "a login of another host"),
    });
    let elsewhere = format!("http://{}/x", other.address);
    let server =
        Server::start(move |request, _| match (request.path.as_str(), request.header("authorization")) {
            ("/token", Some("Bearer t0p-53cr3t")) | ("/header", Some("Basic t0p-53cr3t")) => {
                Answer::new(200, "mine\n")
            }
            ("/away", Some(_)) => Answer::new(302, "").with("Location", elsewhere.clone()),
            ("/Dockerfile", Some("Bearer t0p-53cr3t")) => {
                Answer::new(200, format!("FROM {BUSYBOX}\nRUN echo ctx > /f\n"))
            }
            _ => Answer::new(401, "who are you?"),
        });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let secret = |id: &str, value: &str| {
        std::fs::write(&file, value).unwrap();
        format!("id={id},src={}", file.display())
    };
    let (host, _) = server.address.rsplit_once(':').unwrap();
    let add = |path: &str| format!("ADD http://{}{path} /f", server.address);

    let refused = build(&daemon, dir.path(), &add("/token"), &[]);
    assert!(refused.code != Some(0) && refused.stderr.contains("who are you?"), "{refused:?}");
    let token = secret(&format!("HTTP_AUTH_TOKEN_{host}"), &format!("{TOKEN}\n"));
    build(&daemon, dir.path(), &add("/token"), &["--secret", &token]).success();
    assert_eq!(cat(&daemon), "mine");
    build(&daemon, dir.path(), &add("/away"), &["--secret", &token]).success();
    assert_eq!(cat(&daemon), "elsewhere");
    let url = format!("http://{}/Dockerfile", server.address);
    daemon.brig(&["build", "-t", "far", "--secret", &token, &url]).success();
    assert_eq!(cat(&daemon), "ctx");
    let header = secret(&format!("HTTP_AUTH_HEADER_{}", server.address), &format!("Basic {TOKEN}"));
    build(&daemon, dir.path(), &add("/header"), &["--secret", &header]).success();
    // Of another host, or no line of text.
    let strange = secret("HTTP_AUTH_TOKEN_x.example", TOKEN);
    assert_ne!(build(&daemon, dir.path(), &add("/token?2"), &["--secret", &strange]).code, Some(0));
    let bad = secret(&format!("HTTP_AUTH_TOKEN_{host}"), "a\nX-Evil: b");
    let bad = build(&daemon, dir.path(), &add("/token?3"), &["--secret", &bad]);
    assert!(bad.code != Some(0) && bad.stderr.contains("no line of text"), "{bad:?}");

    // Neither in image, history, cache nor log.
    let shown = daemon.get("/images/far/json").to_string() + &daemon.get("/images/far/history").to_string();
    let kept = daemon.get("/system/df").to_string() + &daemon.whole_log();
    assert!(!shown.contains(TOKEN) && !kept.contains(TOKEN));
    let database = std::fs::read(daemon.data_root.join("brig.db")).unwrap();
    assert!(!database.windows(TOKEN.len()).any(|w| w == TOKEN.as_bytes()));
    daemon.assert_no_leaks();
}
