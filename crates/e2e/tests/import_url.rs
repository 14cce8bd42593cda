//! `import` of what the daemon fetches from a URL, through both clients.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use testkit::daemon::{Daemon, Options};
use testkit::http::{Answer, Server};
use testkit::{images, raw, tar, wait_until};

/// What a program of the host makes of `bytes`.
fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    })
}

/// A server of one root file system in every form, and of what can go wrong.
fn server() -> Server {
    let plain = images::busybox_layer().to_vec();
    let gzip = tar::gzip(&plain);
    let (xz, bzip2) = (packed("xz", &plain), packed("bzip2", &plain));
    Server::start(move |request, own| match request.path.as_str() {
        "/root.tar" => Answer::new(200, plain.clone()),
        "/root.tar.gz" => Answer::new(200, gzip.clone()),
        "/root.tar.xz" => Answer::new(200, xz.clone()),
        "/root.tar.bz2" => Answer::new(200, bzip2.clone()),
        "/elsewhere" => Answer::new(302, "").with("Location", format!("http://{own}/root.tar.gz")),
        "/text" => Answer::new(200, "this is no tar"),
        // A head that promises all of it, half of it, and then nothing.
        "/stalled" => Answer { stall: Some(gzip.len() / 2), ..Answer::new(200, gzip.clone()) },
        _ => Answer::new(404, "nothing of that name"),
    })
}

#[test]
fn a_root_file_system_comes_from_a_url() {
    if !testkit::is_root() {
        return;
    }
    let (daemon, server) = (Daemon::start(Options::default()), server());
    let url = |path: &str| format!("http://{}{path}", server.address);
    let mut layers = Vec::new();
    for (n, path) in
        ["/root.tar", "/root.tar.gz", "/root.tar.xz", "/root.tar.bz2", "/elsewhere"].iter().enumerate()
    {
        let name = format!("new:{n}");
        let (url, flags) = (url(path), ["import", "-c", "CMD [\"echo\", \"here\"]", "-m", "why"]);
        let args: Vec<&str> = flags.iter().copied().chain([url.as_str(), name.as_str()]).collect();
        let said = if n % 2 == 0 { daemon.brig(&args).success() } else { daemon.docker(&args).success() };
        let image = daemon.get(&format!("/images/{name}/json"));
        assert_eq!(said.lines().last(), image["Id"].as_str(), "{said}");
        assert!(said.contains(&format!("Downloading from {url}")), "{said}");
        assert_eq!(image["Comment"], "why");
        layers.push(image["RootFS"]["Layers"].clone());
        assert_eq!(daemon.brig(&["run", "--rm", "--network", "none", &name]).success(), "here");
    }
    assert!(layers.windows(2).all(|pair| pair[0] == pair[1]), "{layers:?}");

    // Without a scheme it is http; the comment says where it came from; the platform is the one that was named.
    let bare = format!("{}/root.tar", server.address);
    let path = format!("/images/create?fromSrc={bare}&repo=bare&platform=linux/arm64");
    let said = daemon.request("POST", &path, &Value::Null).expect(200).text();
    assert!(said.contains(&format!("Downloading from http://{bare}")), "{said}");
    let image = daemon.get("/images/bare/json");
    assert_eq!(image["Architecture"], "arm64");
    assert_eq!(image["Comment"], json!(format!("Imported from {bare}")));
    daemon.brig(&["rmi", "new:0", "new:1", "new:2", "new:3", "new:4", "bare"]).success();
    daemon.assert_empties();
}

#[test]
fn what_cannot_be_fetched_or_is_no_root_leaves_nothing() {
    if !testkit::is_root() {
        return;
    }
    let (daemon, server) = (Daemon::start(Options::default()), server());
    let import = |url: &str| {
        let path = format!("/images/create?fromSrc={url}&repo=x");
        daemon.request("POST", &path, &Value::Null)
    };
    let missing = import(&format!("http://{}/missing", server.address)).expect(500).text();
    assert!(missing.contains("404") && missing.contains("/missing"), "{missing}");
    import("http://127.0.0.1:1/x").expect(500);
    import("ftp://127.0.0.1/x").expect(400);
    let text = import(&format!("http://{}/text", server.address)).expect(200).text();
    assert!(text.contains("errorDetail"), "{text}");
    let said = daemon.brig(&["import", &format!("http://{}/text", server.address)]);
    assert_eq!(said.code, Some(1), "{said:?}");

    // A client that leaves while the server says nothing ends it; so does the end of the daemon.
    let stalled = format!("/images/create?fromSrc=http://{}/stalled&repo=x", server.address);
    let ingests = daemon.data_root.join("content/ingest");
    let count = || std::fs::read_dir(&ingests).map_or(0, Iterator::count);
    let mut client = raw::connect(&daemon.socket).unwrap();
    write!(client, "POST {stalled} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    wait_until("the import has begun", || count() == 1);
    drop(client);
    wait_until("nothing is left of it", || count() == 0);
    assert_eq!(daemon.get("/images/json"), json!([]));
    daemon.assert_empties();
}
