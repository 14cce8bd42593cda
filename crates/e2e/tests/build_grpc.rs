//! BuildKit's API without one of its clients: the history of builds, and clients that go in the middle.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::grpc::{self, Connection, all, bytes, entry, number, text, value};
use e2e::{BUSYBOX, own};
use testkit::daemon::Daemon;
use testkit::http::{Answer, Server};

const CONTROL: &str = "/moby.buildkit.v1.Control";
const CONTENT: &str = "/containerd.services.content.v1.Content";

/// Serves Dockerfiles at the names of builds.
fn server() -> Server {
    Server::start(|request, _| {
        let lines = match request.path.as_str() {
            "/good" => "RUN echo said && cat /proc/sys/kernel/random/uuid > /f\nCMD [\"true\"]",
            "/bad" => "RUN echo before && exit 7",
            "/long" => "RUN echo begun; sleep 1000",
            _ => return Answer::new(404, ""),
        };
        Answer::new(200, format!("FROM {BUSYBOX}\n{lines}\n"))
    })
}

/// The request for a build whose Dockerfile is at a URL.
fn solve(server: &Server, reference: &str, name: &str) -> Vec<u8> {
    [
        bytes(1, reference),
        bytes(5, "s"),
        bytes(6, "dockerfile.v0"),
        entry(7, "context", &format!("http://{}/{name}", server.address)),
        entry(7, "label:a", "b"),
        entry(7, "label:from", "https://user:secret@host/x"),
        bytes(13, [bytes(1, "image"), entry(2, "name", "docker.io/library/app:latest")].concat()),
    ]
    .concat()
}

/// The records that there are: kinds of events, and records.
fn history(daemon: &Daemon, request: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let asked = [request, &number(3, 1)].concat();
    let events = Connection::open(&daemon.socket).call(&format!("{CONTROL}/ListenBuildHistory"), &asked);
    events.iter().map(|event| (value(event, 1), all(event, 2).pop().unwrap())).collect()
}

fn runtime_states(daemon: &Daemon) -> usize {
    let entries = std::fs::read_dir(daemon.exec_root.join("runtime")).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().len() == 64).count()
}

#[test]
fn the_history_of_builds() {
    let Some(mut daemon) = own() else { return };
    let server = server();
    let session = grpc::session(&daemon.socket, "s");
    let mut client = Connection::open(&daemon.socket);
    let listening = client.send(&format!("{CONTROL}/ListenBuildHistory"), &[]);
    let mut other = Connection::open(&daemon.socket);
    let answer = other.call(&format!("{CONTROL}/Solve"), &solve(&server, "first", "good"));
    assert_eq!(answer.len(), 1, "{}", other.trailers());
    assert!(other.call(&format!("{CONTROL}/Solve"), &solve(&server, "second", "bad")).is_empty());

    let records = history(&daemon, &[]);
    let known: Vec<(u64, String)> = records.iter().map(|(kind, record)| (*kind, text(record, 1))).collect();
    assert_eq!(known, [(1, "first".into()), (1, "second".into())]);
    let (good, bad) = (&records[0].1, &records[1].1);
    let attrs: Vec<(String, String)> = all(good, 3).iter().map(|e| (text(e, 1), text(e, 2))).collect();
    assert!(attrs.contains(&("label:a".into(), "b".into())), "{attrs:?}");
    assert!(!format!("{attrs:?}").contains("secret"), "{attrs:?}");
    // Times, steps, results.
    assert!(value(&all(good, 6)[0], 1) > 1_600_000_000 && !all(good, 7).is_empty());
    assert!(value(good, 16) >= 3 && value(good, 16) == value(good, 17), "{}", value(good, 16));
    assert!(all(good, 5).is_empty());
    let error = all(bad, 5).pop().unwrap();
    assert!(text(&error, 2).contains("exit code: 7"), "{}", text(&error, 2));
    let response: Vec<String> = all(good, 9).iter().map(|e| text(e, 1)).collect();
    assert!(response.contains(&"containerimage.digest".to_string()), "{response:?}");

    // What was said of the result can be read.
    let result = all(good, 10).pop().unwrap();
    let said = all(&result, 2).pop().unwrap();
    assert_eq!(text(&said, 1), "application/vnd.in-toto+json");
    let digest = text(&said, 2);
    let info = other.call(&format!("{CONTENT}/Info"), &bytes(1, &digest));
    let size = value(&all(&info[0], 1)[0], 2);
    assert_eq!(size, value(&said, 3));
    let read = other.call(&format!("{CONTENT}/Read"), &bytes(1, &digest));
    let bytes_read: Vec<u8> = read.iter().flat_map(|piece| all(piece, 2).concat()).collect();
    assert_eq!(u64::try_from(bytes_read.len()).unwrap(), size);
    assert!(String::from_utf8(bytes_read).unwrap().contains("buildDefinition"));
    // The result's own manifest stays with the record, as `buildx history export` wants it.
    let manifest = text(&all(&all(&result, 3)[0], 2)[0], 2);
    daemon.brig(&["rmi", "app"]).success();
    daemon.brig(&["builder", "prune", "-af"]).success();
    assert_eq!(other.call(&format!("{CONTENT}/Info"), &bytes(1, &manifest)).len(), 1, "{}", other.trailers());
    let read = other.call(&format!("{CONTENT}/Read"), &bytes(1, &manifest));
    let read: Vec<u8> = read.iter().flat_map(|piece| all(piece, 2).concat()).collect();
    assert_eq!(oci::Digest::of(&read).to_string(), manifest);
    let strange = format!("sha256:{}", "0".repeat(64));
    assert!(other.call(&format!("{CONTENT}/Info"), &bytes(1, strange)).is_empty());

    // What their clients saw can be seen again, also by the next daemon.
    let saw = |daemon: &Daemon, reference: &str| {
        let news = Connection::open(&daemon.socket).call(&format!("{CONTROL}/Status"), &bytes(1, reference));
        news.iter().flat_map(|n| all(n, 3)).map(|log| text(&log, 4)).collect::<String>()
    };
    assert_eq!((saw(&daemon, "first"), saw(&daemon, "second")), ("said\n".into(), "before\n".into()));
    drop((session, client));
    daemon.restart();
    assert_eq!(history(&daemon, &[]), records);
    assert_eq!(saw(&daemon, "first"), "said\n");
    assert_eq!(history(&daemon, &bytes(2, "second")).len(), 1);
    assert_eq!(history(&daemon, &bytes(4, "status==error")), [records[1].clone()]);
    assert_eq!(text(&history(&daemon, &number(5, 1))[0].1, 1), "second", "the newest");
    let mut client = Connection::open(&daemon.socket);
    assert!(client.call(&format!("{CONTROL}/ListenBuildHistory"), &bytes(4, "nonsense")).is_empty());

    // Pinned, forgotten.
    let update = format!("{CONTROL}/UpdateBuildHistory");
    assert_eq!(client.call(&update, &[bytes(1, "first"), number(2, 1)].concat()).len(), 1);
    assert_eq!(value(&history(&daemon, &bytes(2, "first"))[0].1, 14), 1);
    assert_eq!(client.call(&update, &[bytes(1, "first"), number(3, 1)].concat()).len(), 1);
    assert!(client.call(&update, &[bytes(1, "first"), number(3, 1)].concat()).is_empty());
    assert_eq!(history(&daemon, &[]).len(), 1);
    let _unread = listening;
    daemon.assert_no_leaks();
}

#[test]
fn a_client_that_goes_ends_its_build() {
    let Some(daemon) = own() else { return };
    let server = server();
    let session = grpc::session(&daemon.socket, "s");
    let mut client = Connection::open(&daemon.socket);
    client.send(&format!("{CONTROL}/Solve"), &solve(&server, "gone", "long"));
    testkit::wait_until("the step", || runtime_states(&daemon) == 1);
    let going = history(&daemon, &[]);
    assert_eq!((going[0].0, text(&going[0].1, 1)), (0, "gone".into()));
    drop((client, session));
    testkit::wait_until("the end of the step", || runtime_states(&daemon) == 0);
    testkit::wait_until("the end of its traces", || daemon.leaks().is_empty());
    // It is told as what it was.
    let record =
        testkit::wait_for("the record", || history(&daemon, &[]).pop().filter(|(kind, _)| *kind == 1));
    assert_eq!(text(&all(&record.1, 5)[0], 2), "context canceled");

    // By the classic door too.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), format!("FROM {BUSYBOX}\nRUN sleep 1000\n")).unwrap();
    let tar = std::process::Command::new("tar").args(["-c", "-C"]).arg(dir.path()).arg(".").output().unwrap();
    let mut stream = testkit::raw::connect(&daemon.socket).unwrap();
    let head = format!(
        "POST /build?t=x HTTP/1.1\r\nHost: brig\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        tar.stdout.len()
    );
    std::io::Write::write_all(&mut stream, &[head.as_bytes(), &tar.stdout].concat()).unwrap();
    testkit::wait_until("the step", || runtime_states(&daemon) == 1);
    drop(stream);
    testkit::wait_until("the end of the step", || runtime_states(&daemon) == 0);
    testkit::wait_until("the end of its traces", || daemon.leaks().is_empty());
    daemon.assert_no_leaks();
}
