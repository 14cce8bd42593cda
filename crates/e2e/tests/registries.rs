//! Who is let in at registries, and what registries are asked besides images: logins, credential helpers, tokens,
//! manifests looked at, repositories searched.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::Client;
use oci::Platform;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::daemon::{Daemon, Options, finish};
use testkit::http::{Answer, Server};
use testkit::images;
use testkit::registry::{PASSWORD, Registry, USER};

/// A credential helper that keeps each server in a file of a directory.
const HELPER: &str = r#"#!/bin/sh
cd "$(dirname "$0")/kept" || exit 2
case "$1" in
store) input=$(cat); server=$(printf %s "$input" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' | tr '/:' '__'); printf %s "$input" > "$server" ;;
get) server=$(tr '/:' '__'); [ -f "$server" ] && cat "$server" || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) server=$(tr '/:' '__'); rm -f "$server" ;;
esac
"#;

fn client_config(daemon: &Daemon) -> PathBuf {
    daemon.scratch().join("client/config.json")
}

/// Installs the helper as `docker-credential-test`; the directory for `PATH`.
fn install_helper(daemon: &Daemon) -> PathBuf {
    let directory = daemon.scratch().join("helper");
    std::fs::create_dir_all(directory.join("kept")).unwrap();
    let program = directory.join("docker-credential-test");
    std::fs::write(&program, HELPER).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn with_path(mut command: Command, directory: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", directory.display()));
    command
}

#[test]
fn logins_are_tried_kept_and_forgotten() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Registry::start_with_login();
    let pushed = images::push_busybox(&registry, "busybox", "1");
    let reference = registry.reference("busybox", "1");
    for client in [Client::Brig, Client::Docker] {
        let said = client.run(&daemon, &["pull", &reference]).expect(1).stderr;
        assert!(said.contains("no basic auth credentials"), "{said}");
        let wrong = client.run(&daemon, &["login", "-u", USER, "-p", "wrong", &registry.address]).expect(1);
        assert!(wrong.stderr.contains("unauthorized"), "{}", wrong.stderr);
        assert!(
            !std::fs::read_to_string(client_config(&daemon)).unwrap_or_default().contains(&registry.address)
        );
        let mut login =
            client.command(&daemon, &["login", "-u", USER, "--password-stdin", &registry.address]);
        login.stdin(std::process::Stdio::piped());
        let said = finish(login, PASSWORD.as_bytes()).success();
        assert!(said.contains("Login Succeeded"), "{said}");
        let config: Value = serde_json::from_slice(&std::fs::read(client_config(&daemon)).unwrap()).unwrap();
        assert!(config["auths"][&registry.address]["auth"].is_string(), "{config}");
        // Once more, without a word about who.
        let again = client.run(&daemon, &["login", &registry.address]);
        assert!(again.stderr.contains("existing credentials"), "{again:?}");
        assert!(again.success().contains("Login Succeeded"));
        client.run(&daemon, &["pull", &reference]).success();
        let inspected =
            client.run(&daemon, &["image", "inspect", "-f", "{{index .RepoDigests 0}}", &reference]);
        let digest = format!("{}/busybox@{}", registry.address, pushed.descriptor.digest);
        assert_eq!(inspected.success(), digest);
        client.run(&daemon, &["rmi", &reference]).success();
        client.run(&daemon, &["logout", &registry.address]).success();
        client.run(&daemon, &["pull", &reference]).expect(1);
    }
    // The API itself.
    let login = |password: &str| {
        let body = json!({"username": USER, "password": password, "serveraddress": registry.address});
        daemon.request("POST", "/auth", &body)
    };
    assert_eq!(login(PASSWORD).expect(200).json()["Status"], "Login Succeeded");
    login("wrong").expect(401);
    let nobody = json!({"serveraddress": registry.address});
    daemon.request("POST", "/auth", &nobody).expect(401);
    daemon.request("POST", "/auth", &json!([])).expect(400);
}

#[test]
fn helpers_keep_credentials() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Registry::start_with_login();
    images::push_busybox(&registry, "busybox", "1");
    let reference = registry.reference("busybox", "1");
    let helper = install_helper(&daemon);
    let kept = helper.join("kept").join(registry.address.replace(':', "_"));
    for config in [json!({"credsStore": "test"}), json!({"credHelpers": {(&registry.address): "test"}})] {
        for client in [Client::Brig, Client::Docker] {
            std::fs::create_dir_all(client_config(&daemon).parent().unwrap()).unwrap();
            std::fs::write(client_config(&daemon), config.to_string()).unwrap();
            let run = |args: &[&str]| finish(with_path(client.command(&daemon, args), &helper), &[]);
            run(&["login", "-u", USER, "-p", PASSWORD, &registry.address]).success();
            assert!(std::fs::read_to_string(&kept).unwrap().contains(PASSWORD));
            let text = std::fs::read_to_string(client_config(&daemon)).unwrap();
            assert!(!text.contains("\"auth\""), "no password in the file: {text}");
            run(&["pull", &reference]).success();
            run(&["rmi", &reference]).success();
            run(&["logout", &registry.address]).success();
            assert!(!kept.exists());
            run(&["pull", &reference]).expect(1);
        }
    }
    // One that cannot be asked is named.
    std::fs::write(client_config(&daemon), json!({"credsStore": "missing"}).to_string()).unwrap();
    let said = Client::Brig.run(&daemon, &["pull", &reference]).expect(1).stderr;
    assert!(said.contains("docker-credential-missing"), "{said}");
}

/// A registry with one manifest behind a token server that gives refresh tokens, and takes only those.
fn token_registry(manifest: Vec<u8>) -> Server {
    Server::start(move |request, own| match request.path.split('?').next().unwrap_or_default() {
        "/token" => {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let by_password = request.header("authorization") == Some("Basic dTpw");
            let by_token = request.method == "POST" && body.contains("refresh_token=keep-me");
            match (by_password, by_token) {
                (true, _) => Answer::new(200, r#"{"token":"good","refresh_token":"keep-me"}"#),
                (_, true) => Answer::new(200, r#"{"access_token":"good"}"#),
                _ => Answer::new(401, r#"{"details":"incorrect username or password"}"#),
            }
        }
        _ if request.header("authorization") != Some("Bearer good") => Answer::new(401, "")
            .with("WWW-Authenticate", format!(r#"Bearer realm="http://{own}/token",service="reg""#)),
        "/v2/" => Answer::new(200, "{}"),
        _ => {
            Answer::new(200, manifest.clone()).with("Content-Type", "application/vnd.oci.image.index.v1+json")
        }
    })
}

#[test]
fn identity_tokens_stand_for_passwords() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
    for client in [Client::Brig, Client::Docker] {
        let registry = token_registry(index.clone().into_bytes());
        let address = registry.address.as_str();
        let said = client.run(&daemon, &["login", "-u", "u", "-p", "x", address]).expect(1).stderr;
        assert!(said.contains("incorrect username or password"), "{said}");
        client.run(&daemon, &["login", "-u", "u", "-p", "p", address]).success();
        let config: Value = serde_json::from_slice(&std::fs::read(client_config(&daemon)).unwrap()).unwrap();
        assert_eq!(config["auths"][address]["identitytoken"], "keep-me", "{config}");
        // `u:` and nothing behind.
        assert_eq!(config["auths"][address]["auth"], "dTo=");
        // No manifest is for this platform; to hear that, one has to be let in.
        let said = client.run(&daemon, &["pull", &format!("{address}/x")]).expect(1).stderr;
        assert!(said.contains("no matching manifest"), "{said}");
        let posts: Vec<_> = registry.seen().into_iter().filter(|r| r.method == "POST").collect();
        assert!(!posts.is_empty());
        assert!(posts.iter().all(|r| r.header("authorization").is_none()));
    }
}

#[test]
fn images_are_looked_at_without_a_pull() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Registry::start();
    let one = images::push_busybox(&registry, "multi", "own");
    let other: Platform = "linux/arm64/v8".parse().unwrap();
    let layer = testkit::tar::gzip(images::busybox_layer());
    let two = registry.push_image_for(&other, "multi", "arm", &[layer], images::busybox_config());
    let index = registry.push_index("multi", "all", &[one.descriptor.clone(), two.descriptor.clone()]);
    let ask = |name: &str| daemon.get(&format!("/distribution/{}/{name}/json", registry.address));
    let all = ask("multi:all");
    assert_eq!(all["Descriptor"]["digest"], index.digest.to_string());
    assert_eq!(all["Descriptor"]["size"], index.size);
    let own = Platform::host();
    assert_eq!(
        all["Platforms"],
        json!([
            {"architecture": own.architecture, "os": "linux"},
            {"architecture": "arm64", "os": "linux", "variant": "v8"}
        ])
    );
    let arm = ask("multi:arm");
    assert_eq!(arm["Descriptor"]["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(arm["Platforms"], json!([{"architecture": "arm64", "os": "linux", "variant": "v8"}]));
    let missing = format!("/distribution/{}/multi:none/json", registry.address);
    daemon.request("GET", &missing, &Value::Null).expect(404);
    daemon.request("GET", "/distribution/A:B:C/json", &Value::Null).expect(400);
    assert_eq!(daemon.get("/images/json"), json!([]), "nothing was pulled");

    let inspect = |client: Client, args: &[&str]| -> Value {
        let mut command = vec!["manifest", "inspect"];
        command.extend(args);
        serde_json::from_str(&client.run(&daemon, &command).success()).unwrap()
    };
    let (all, arm) = (registry.reference("multi", "all"), registry.reference("multi", "arm"));
    let theirs = inspect(Client::Docker, &["--insecure", &all]);
    let ours = inspect(Client::Brig, &[&all]);
    assert_eq!(ours["manifests"][1]["digest"], two.descriptor.digest.to_string());
    assert_eq!(theirs["manifests"][1]["digest"], ours["manifests"][1]["digest"]);
    let ours = inspect(Client::Brig, &[&arm]);
    assert_eq!(ours, serde_json::from_slice::<Value>(&two.bytes).unwrap());
    let ours = inspect(Client::Brig, &["-v", &all]);
    assert_eq!(ours[1]["Descriptor"]["digest"], two.descriptor.digest.to_string());
    assert_eq!(ours[1]["Descriptor"]["platform"]["architecture"], "arm64");
    assert_eq!(ours[1]["OCIManifest"]["layers"].as_array().unwrap().len(), 1);
}

#[test]
fn repositories_are_searched_at_the_registry_named() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    let registry = Server::start(|request, _| {
        if !request.path.starts_with("/v1/search?") {
            return Answer::new(404, "");
        }
        let results = json!({"num_results": 3, "query": "bus", "results": [
            {"name": "busybox", "description": "small\u{1b}[2J", "star_count": 3000, "is_official": true},
            {"name": "user/busy", "description": "x".repeat(80), "star_count": 4, "is_automated": false},
            {"name": "user/none", "star_count": 0}
        ]});
        Answer::new(200, results.to_string())
    });
    let term = format!("{}/bus", registry.address);
    for client in [Client::Brig, Client::Docker] {
        let said = client.run(&daemon, &["search", &term]).success();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        assert!(lines[0].starts_with("NAME") && lines[1].contains("[OK]"), "{said}");
        assert!(!said.contains('\u{1b}'));
        let args = [
            "search",
            "--filter",
            "stars=3",
            "--filter",
            "is-official=false",
            "--format",
            "{{.Name}}",
            &term,
        ];
        assert_eq!(client.run(&daemon, &args).success(), "user/busy");
        assert_eq!(
            client.run(&daemon, &["search", "--limit", "1", "--format", "{{.Name}}", &term]).success(),
            "busybox"
        );
    }
    let ask = |query: &str| daemon.request("GET", &format!("/images/search?{query}"), &Value::Null);
    assert_eq!(
        ask(&format!("term={term}&limit=101")).expect(400).message(),
        "limit 101 is outside the range of [1, 100]"
    );
    ask("term=").expect(400);
    ask(&format!("term={term}&filters=%7B%22x%22%3A%7B%22y%22%3Atrue%7D%7D")).expect(400);
    // A registry that has no search says so, and the text names it.
    let plain = Registry::start();
    let said = ask(&format!("term={}/x", plain.address)).expect(404).message();
    assert!(said.contains(&plain.address), "{said}");
    assert!(registry.seen()[0].path.contains("q=bus&n=25"), "{:?}", registry.seen()[0]);
}
