//! What users mistype, what registries get wrong, what attackers send: a status, a cause, and nothing half-done.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, Client, Shared, push, shared};
use serde_json::{Value, json};
use std::io::Write as _;
use testkit::daemon::Daemon;
use testkit::raw::{self, Response};
use testkit::tar::{Entry, archive, gzip};
use testkit::{images, leaks, tar, wait_until};

/// The daemon is there and works.
#[track_caller]
fn assert_healthy(daemon: &Daemon) {
    assert_eq!(Client::Brig.run(daemon, &["run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");
}

#[track_caller]
fn post(daemon: &Daemon, path: &str, body: &Value) -> Response {
    daemon.request("POST", path, body)
}

/// Pulls; the status, and what is said, wherever in the answer that is.
#[track_caller]
fn pull(daemon: &Daemon, reference: &str) -> (u16, String) {
    let split = reference.split_once('@').or_else(|| reference.rsplit_once(':'));
    let (name, tag) = split.unwrap();
    let answer = post(daemon, &format!("/images/create?fromImage={name}&tag={tag}"), &Value::Null);
    (answer.status, answer.text())
}

/// Pulls by the API and by both clients: each says `cause`, and no image comes of it.
#[track_caller]
fn pull_fails(shared: &Shared, reference: &str, cause: &str) -> u16 {
    let daemon = &shared.daemon;
    let (status, text) = pull(daemon, reference);
    assert!(text.contains(cause), "{status} {text}");
    assert!(status >= 400 || text.contains("errorDetail"), "{status} {text}");
    for client in [Client::Brig, Client::Docker] {
        let failed = client.run(daemon, &["pull", reference]).expect(1);
        assert!(failed.stderr.contains(cause), "{failed:?}");
    }
    let answer = daemon.request("GET", &format!("/images/{reference}/json"), &Value::Null);
    assert_eq!(answer.status, 404, "{}", answer.text());
    status
}

#[test]
fn unknown_things_are_404() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let check = |method: &str, path: &str, message: &str| {
        let answer = daemon.request(method, path, &Value::Null).expect(404);
        assert!(answer.message().contains(message), "{method} {path}: {}", answer.message());
    };
    for (method, path) in [
        ("GET", "/containers/nobody/json"),
        ("POST", "/containers/nobody/start"),
        ("POST", "/containers/nobody/stop"),
        ("POST", "/containers/nobody/kill"),
        ("POST", "/containers/nobody/wait"),
        ("POST", "/containers/nobody/attach?stream=1&stdout=1"),
        ("GET", "/containers/nobody/logs?stdout=1"),
        ("DELETE", "/containers/nobody"),
    ] {
        check(method, path, "No such container: nobody");
    }
    check("GET", "/images/nothing:1/json", "No such image: nothing:1");
    check("DELETE", "/images/nothing:1", "No such image: nothing:1");
    check("POST", "/images/nothing:1/tag?repo=x", "No such image: nothing:1");
    check("GET", "/networks/nowhere", "nowhere");
    check("GET", "/exec/none/json", "none");
    check("GET", "/no/such/path", "page not found");
    let create = post(daemon, "/containers/create", &json!({"Image": "nothing:1"})).expect(404);
    assert!(create.message().contains("No such image: nothing:1"), "{}", create.message());
}

#[test]
fn names_that_lead_elsewhere() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    for name in ["..%2f..%2fetc", "..", "%2e%2e", "%00", "a%2fb", "%ff"] {
        for path in
            [format!("/containers/{name}/json"), format!("/images/{name}/json"), format!("/exec/{name}/json")]
        {
            let status = daemon.request("GET", &path, &Value::Null).status;
            assert!(matches!(status, 400 | 404), "{path}: {status}");
        }
    }
    for name in ["../x", "a/b", "", "-x", "a b", ".."] {
        let encoded: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
        let body = json!({"Image": BUSYBOX, "Cmd": ["true"]});
        let answer = post(daemon, &format!("/containers/create?name={encoded}"), &body);
        if name.is_empty() {
            // Docker gives a name of its own choice.
            let id = answer.expect(201).json()["Id"].as_str().unwrap().to_string();
            daemon.request("DELETE", &format!("/containers/{id}"), &Value::Null).expect(204);
        } else {
            assert_eq!(answer.status, 400, "{name:?}: {}", answer.text());
        }
    }
}

#[test]
fn wrong_json() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let send = |body: &str| {
        raw::send(&daemon.socket, "POST", "/containers/create", "application/json", body.as_bytes()).unwrap()
    };
    for body in
        ["", "{", "[]", "null", "{\"Image\":5}", "\u{1}", "{\"Image\":\"x\"} trailing", "{\"Env\":\"A=1\"}"]
    {
        let answer = send(body);
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
        assert!(!answer.message().is_empty());
    }
    let with = |host: Value| json!({"Image": BUSYBOX, "HostConfig": host}).to_string();
    for host in [
        json!("text"),
        json!({"Memory": "much"}),
        json!({"Memory": 1.5}),
        json!({"Memory": -5}),
        json!({"Memory": 4096}),
        json!({"Binds": "one"}),
        json!({"Binds": ["./relative:/x"]}),
        json!({"Binds": ["/x:relative"]}),
        json!({"Binds": ["/x:/../..:zz"]}),
        json!({"RestartPolicy": {"Name": "sometimes"}}),
        json!({"CapAdd": ["NO_SUCH_CAP"]}),
        json!({"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}),
    ] {
        let answer = send(&with(host.clone()));
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
    }
    // Deep, and large.
    assert_eq!(send(&"[".repeat(100_000)).status, 400);
    let large = raw::send(
        &daemon.socket,
        "POST",
        "/containers/create",
        "application/json",
        format!("{{\"Image\":\"{}\"}}", "x".repeat(64 << 20)).as_bytes(),
    );
    assert!(large.is_ok_and(|r| matches!(r.status, 400 | 413)));
    // A field that nobody knows harms nobody.
    let id = send(&json!({"Image": BUSYBOX, "NoSuchField": {"a": [1]}}).to_string()).expect(201).json()["Id"]
        .clone();
    daemon.request("DELETE", &format!("/containers/{}", id.as_str().unwrap()), &Value::Null).expect(204);
    assert_healthy(daemon);
}

#[test]
fn states_and_parameters() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let body = json!({"Image": BUSYBOX, "Cmd": ["sleep", "300"]});
    post(daemon, "/containers/create?name=states", &body).expect(201);
    post(daemon, "/containers/create?name=states", &body).expect(409);
    let ask =
        |method: &str, path: &str| daemon.request(method, &format!("/containers/states{path}"), &Value::Null);
    post(daemon, "/containers/states/exec", &json!({"Cmd": ["true"]})).expect(409);
    ask("POST", "/kill").expect(409);
    ask("POST", "/stop").expect(304);
    ask("POST", "/start").expect(204);
    ask("POST", "/start").expect(304);
    ask("DELETE", "").expect(409);
    ask("POST", "/kill?signal=NOSUCH").expect(400);
    ask("POST", "/wait?condition=never").expect(400);
    ask("POST", "/rename?name=").expect(400);
    ask("GET", "/logs").expect(400);
    post(daemon, "/containers/states/exec", &json!({"Cmd": []})).expect(400);
    daemon.request("GET", "/containers/json?filters=%7B", &Value::Null).expect(400);
    daemon
        .request("GET", "/containers/json?filters=%7B%22nothing%22:%5B%22x%22%5D%7D", &Value::Null)
        .expect(400);
    daemon.request("GET", "/containers/json?limit=many", &Value::Null).expect(400);
    ask("DELETE", "?force=1").expect(204);
    // An image that a container needs stays.
    post(daemon, "/containers/create?name=holds", &body).expect(201);
    let held = daemon.request("DELETE", &format!("/images/{BUSYBOX}"), &Value::Null).expect(409);
    assert!(held.message().contains("holds") || held.message().contains("container"), "{}", held.message());
    daemon.request("DELETE", "/containers/holds", &Value::Null).expect(204);
}

#[test]
fn versions() {
    let Some(shared) = shared() else { return };
    let get = |path: &str| shared.daemon.request("GET", path, &Value::Null);
    get("/v1.24/_ping").expect(200);
    assert!(get("/v1.23/version").expect(400).message().contains("too old"));
    assert!(get("/v9.99/version").expect(400).message().contains("too new"));
    assert!(get("/_ping").expect(200).header("api-version").is_some());
}

#[test]
fn what_is_no_http() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let headers = format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(100_000));
    for bytes in
        [&b"\x16\x03\x01\x02\x00"[..], b"\r\n\r\n", b"GET\r\n\r\n", long.as_bytes(), headers.as_bytes()]
    {
        // An error or a closed connection; never a hang, never an end.
        let mut stream = raw::connect(&daemon.socket).unwrap();
        drop(stream.write_all(bytes));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(std::io::Read::read_to_end(&mut stream, &mut answer));
        if let Ok(answer) = raw::parse(&answer) {
            assert!(answer.status >= 400, "{answer:?}");
        }
    }
    // Half a body, then gone.
    for path in ["/containers/create", "/images/load"] {
        let mut stream = raw::connect(&daemon.socket).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"{\"Image\":").unwrap();
    }
    assert_healthy(daemon);
}

#[test]
fn registries_that_do_not_have_it() {
    let Some(shared) = shared() else { return };
    let reference = push(&shared, "bad/known");
    let name = reference.rsplit_once(':').unwrap().0.to_string();
    assert_eq!(pull_fails(&shared, &format!("{name}:unknown"), "not found"), 404);
    assert_eq!(pull_fails(&shared, &format!("{name}-unknown:1"), "not found"), 404);
    let digest = format!("sha256:{}", "0".repeat(64));
    pull_fails(&shared, &format!("{name}@{digest}"), "not found");
    // Port 1 of loopback: nobody listens there.
    let status = pull_fails(&shared, "127.0.0.1:1/x:1", "onnection refused");
    assert!((500..600).contains(&status), "{status}");
    let run = Client::Brig.run(&shared.daemon, &["run", "--rm", "127.0.0.1:1/x:1"]).expect(125);
    assert!(run.stderr.contains("onnection refused"), "{run:?}");
    for text in ["upper/CASE:1", "a b:1", "name:t@g:1", "x:@"] {
        let encoded: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
        let answer = post(&shared.daemon, &format!("/images/create?fromImage={encoded}"), &Value::Null);
        assert_eq!(answer.status, 400, "{text:?}: {}", answer.text());
    }
}

/// Bytes that differ for each name: blobs of one test are not blobs of another.
fn layer_of(name: &str) -> Vec<u8> {
    gzip(&archive(&[Entry::file(name, 0o644, name.repeat(1000))]))
}

/// Nothing of `digest` in the store.
#[track_caller]
fn assert_not_stored(daemon: &Daemon, digest: &oci::Digest) {
    let hex = digest.to_string();
    let hex = hex.trim_start_matches("sha256:");
    assert!(!daemon.data_root.join("content/blobs/sha256").join(hex).exists(), "{digest} was kept");
}

#[test]
fn registries_that_lie() {
    let Some(shared) = shared() else { return };
    let image = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let layers = [layer_of(name)];
        let pushed = shared.registry.push_image(name, "1", &layers, images::busybox_config());
        let path = shared.registry.blob_path(&pushed.manifest.layers[0].digest);
        std::fs::write(&path, change(tar::read(&path))).unwrap();
        (shared.registry.reference(name, "1"), pushed.manifest.layers[0].digest)
    };
    let changed = |mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    let (reference, digest) = image("lie-changed", &changed);
    pull_fails(&shared, &reference, &digest.to_string());
    assert_not_stored(&shared.daemon, &digest);

    let truncated = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let (reference, digest) = image("lie-truncated", &truncated);
    let (status, text) = pull(&shared.daemon, &reference);
    assert!(status >= 400 || text.contains("errorDetail"), "{status} {text}");
    assert_not_stored(&shared.daemon, &digest);
    assert_healthy(&shared.daemon);
}

/// Archives whose one layer is this. Loading says an error or works, but writes nothing outside of the image.
#[test]
fn hostile_layers() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    // Outside of every image, inside of the test's directory.
    let outside = daemon.scratch().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    let canary = outside.join("canary");
    std::fs::write(&canary, "alive").unwrap();
    let absolute = canary.to_string_lossy().into_owned();
    let up = format!("{}{}", "../".repeat(12), absolute.trim_start_matches('/'));
    let dead = |name: &str| Entry::file(name, 0o644, "dead");
    let layers = [
        ("up", vec![dead(&up)]),
        ("up-inside", vec![Entry::directory("a/", 0o755), dead(&format!("a/{up}"))]),
        ("absolute", vec![dead(&absolute)]),
        ("link-then-child", vec![Entry::symlink("a", outside.to_str().unwrap()), dead("a/canary")]),
        ("relative-link", vec![Entry::symlink("a", &format!("../{up}/..")), dead("a/canary")]),
        ("link-then-file", vec![Entry::symlink("a", &absolute), dead("a")]),
        ("hardlink", vec![Entry::hardlink("a", &up), dead("a")]),
        ("hardlink-absolute", vec![Entry::hardlink("a", &absolute), dead("a")]),
        (
            "hardlink-by-link",
            vec![Entry::symlink("a", outside.to_str().unwrap()), Entry::hardlink("b", "a/canary"), dead("b")],
        ),
        ("whiteout-up", vec![dead(&format!("{}/.wh.canary", up.trim_end_matches("/canary")))]),
        ("whiteout-by-link", vec![Entry::symlink("a", outside.to_str().unwrap()), dead("a/.wh.canary")]),
        ("whiteout-of-all", vec![dead(".wh..")]),
    ];
    for (name, entries) in layers {
        let layer = archive(&entries);
        let bytes = images::docker_archive(&format!("hostile:{name}"), &[&layer], &images::busybox_config());
        let answer = daemon.load(&bytes);
        assert!(answer.status < 500 || !answer.message().is_empty(), "{name}: {answer:?}");
        assert_eq!(
            std::fs::read_to_string(&canary).ok().as_deref(),
            Some("alive"),
            "{name} reached the host"
        );
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "{name} reached the host");
        drop(daemon.request("DELETE", &format!("/images/hostile:{name}?force=1"), &Value::Null));
    }
    assert_healthy(daemon);
}

#[test]
fn archives_that_are_none() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let good = images::docker_archive("bad-archive:1", &[&layer_tar()], &images::busybox_config());
    let manifest = |config: &str, layer: &str| {
        let text = json!([{"Config": config, "RepoTags": ["bad-archive:1"], "Layers": [layer]}]).to_string();
        archive(&[
            Entry::file("manifest.json", 0o644, text),
            Entry::symlink("link", "/etc/passwd"),
            Entry::file("config.json", 0o644, "{}"),
        ])
    };
    let cases = [
        ("nothing", Vec::new()),
        ("text", b"this is not a tar".to_vec()),
        ("zeroes", vec![0; 10240]),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("empty tar", archive(&[])),
        ("bad list", archive(&[Entry::file("manifest.json", 0o644, "{")])),
        ("list of numbers", archive(&[Entry::file("manifest.json", 0o644, "[1]")])),
        ("config elsewhere", manifest("../../../../etc/passwd", "config.json")),
        ("config by a link", manifest("link", "config.json")),
        ("layer by a link", manifest("config.json", "link")),
        ("no layer", manifest("config.json", "nothing.tar")),
    ];
    for (name, bytes) in cases {
        let answer = daemon.load(&bytes);
        let said = answer.status >= 400 || answer.text().contains("errorDetail");
        assert!(said, "{name}: {answer:?}");
        assert!(!answer.text().contains("root:x:0"), "{name} shows a file of the host");
        daemon.request("GET", "/images/bad-archive:1/json", &Value::Null).expect(404);
    }
    assert_healthy(daemon);
}

fn layer_tar() -> Vec<u8> {
    archive(&[Entry::file("file", 0o644, vec![7; 100_000])])
}

/// `passwd` of an image, as large as it likes and of whatever bytes.
#[test]
fn users_of_a_hostile_image() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let cases = [
        ("passwd-link", Entry::symlink("etc/passwd", "/proc/self/environ")),
        ("passwd-directory", Entry::directory("etc/passwd/", 0o755)),
        ("passwd-bytes", Entry::file("etc/passwd", 0o644, [b'a', 0xff, b':', 0, b'\n'].repeat(10_000))),
        ("passwd-large", Entry::file("etc/passwd", 0o644, b"x:x:0:0\n".repeat(1_000_000))),
    ];
    for (name, entry) in cases {
        let replaced = archive(&[Entry::file("etc/.wh.passwd", 0o644, ""), Entry::directory("etc/", 0o755)]);
        let layers = [images::busybox_layer(), &replaced, &archive(&[entry])];
        let reference = format!("hostile-user:{name}");
        daemon.load(&images::docker_archive(&reference, &layers, &images::busybox_config())).expect(200);
        let by_number = Client::Brig.run(daemon, &["run", "--rm", "-u", "5", &reference, "id", "-u"]);
        assert!(by_number.code.is_some_and(|c| c == 0 || c >= 125), "{name}: {by_number:?}");
        let by_name = Client::Brig.run(daemon, &["run", "--rm", "-u", "no-such-user", &reference, "true"]);
        assert!(by_name.code.is_some_and(|c| c >= 125), "{name}: {by_name:?}");
        daemon.request("DELETE", &format!("/images/{reference}?force=1"), &Value::Null).expect(200);
    }
    assert_healthy(daemon);
}

#[test]
fn nothing_is_left_of_containers_that_never_ran() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let body = json!({"Image": BUSYBOX, "Cmd": ["/no/such/program"]});
    let id = post(daemon, "/containers/create?name=never-ran", &body).expect(201).json()["Id"].clone();
    let id = id.as_str().unwrap();
    let start = post(daemon, &format!("/containers/{id}/start"), &Value::Null);
    assert!(start.status >= 400 && start.message().contains("/no/such/program"), "{start:?}");
    // Taken down behind the caller's back.
    let left = || ["shims", "rootfs", "netns", "runtime"].map(|d| daemon.exec_root.join(d).join(id).exists());
    wait_until("nothing is left", || left() == [false; 4]);
    assert_eq!(leaks::processes_of(&daemon.exec_root.join("shims").join(id), None), []);
    daemon.request("DELETE", "/containers/never-ran", &Value::Null).expect(204);
}
