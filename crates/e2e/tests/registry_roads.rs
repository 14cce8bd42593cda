//! The roads from a daemon to a registry: mirrors of Docker Hub and of any other, and the proxies of the daemon's environment.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use testkit::daemon::{Daemon, Options};
use testkit::http::{Answer, Request, Served, Server};
use testkit::{images, tar};

fn busybox() -> Served {
    Served::image("1", &[tar::gzip(images::busybox_layer())], &images::busybox_config())
}

fn paths(server: &Server) -> Vec<String> {
    server.seen().into_iter().map(|request| request.path).collect()
}

#[test]
fn mirrors_deliver_what_is_named_elsewhere() {
    if !testkit::is_root() {
        return;
    }
    let image = busybox();
    let served = image.clone();
    let cache = Server::start(move |request, _| {
        let path = request.path.split('?').next().unwrap_or_default().to_string();
        served.answer(&Request { path, ..request.clone() })
    });
    // One that has nothing goes before it.
    let broken = Server::start(|_, _| Answer::new(503, ""));
    let certs = tempfile::tempdir().unwrap();
    let flags = [
        "--registry-mirror".to_string(),
        format!("http://{}", broken.address),
        "--registry-mirror".to_string(),
        format!("http://{}", cache.address),
        "--certs-dir".to_string(),
        certs.path().display().to_string(),
    ];
    let daemon = Daemon::start(Options { flags: flags.to_vec(), ..Options::default() });
    // Docker Hub, which no test reaches.
    daemon.brig(&["pull", "busybox:1"]).success();
    assert_eq!(
        daemon.brig(&["run", "--rm", "--network", "none", "busybox:1", "echo", "hub"]).success(),
        "hub"
    );
    assert!(paths(&cache).iter().all(|path| path.starts_with("/v2/library/busybox/")), "{:?}", paths(&cache));
    assert!(!broken.seen().is_empty());
    // Another registry, where nobody listens. The file counts from when it is there.
    let name = "127.0.0.2:1/team/thing:1";
    daemon.brig(&["pull", name]).expect(1);
    let directory = certs.path().join("127.0.0.2:1");
    std::fs::create_dir(&directory).unwrap();
    let hosts = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", cache.address);
    std::fs::write(directory.join("hosts.toml"), hosts).unwrap();
    daemon.brig(&["pull", name]).success();
    let asked = paths(&cache);
    assert!(
        asked.iter().any(|path| path.starts_with("/v2/team/thing/manifests/1?ns=127.0.0.2")),
        "{asked:?}"
    );
    let digests = daemon.get(&format!("/images/{name}/json"))["RepoDigests"].to_string();
    assert!(digests.contains("127.0.0.2:1/team/thing@sha256:"), "{digests}");
    daemon.assert_no_leaks();
}

#[test]
fn proxies_of_the_environment_are_used_but_not_for_this_machine() {
    if !testkit::is_root() {
        return;
    }
    let image = busybox();
    let served = image.clone();
    // A proxy that makes no tunnels, as many do for other ports than 443.
    let proxy = Server::start(move |request, _| match request.method.as_str() {
        "CONNECT" => Answer::new(403, ""),
        _ => served.answer(request),
    });
    let direct = Server::start(move |request, _| image.answer(request));
    let address = format!("http://{}", proxy.address);
    let daemon = Daemon::start(Options {
        flags: vec!["--insecure-registry".into(), "registry.invalid".into()],
        environment: vec![
            ("HTTP_PROXY", address.clone()),
            ("https_proxy", address),
            ("HTTPS_PROXY", String::new()),
            ("NO_PROXY", "elsewhere.invalid".into()),
        ],
        ..Options::default()
    });
    daemon.brig(&["pull", "registry.invalid/thing:1"]).success();
    let asked = paths(&proxy);
    assert!(asked.contains(&"registry.invalid:443".to_string()), "a tunnel first: {asked:?}");
    assert!(asked.contains(&"http://registry.invalid/v2/thing/manifests/1".to_string()), "{asked:?}");
    let before = asked.len();
    daemon.brig(&["pull", &format!("{}/thing:1", direct.address)]).success();
    assert!(!direct.seen().is_empty());
    assert_eq!(paths(&proxy).len(), before, "loopback needs none");
    daemon.assert_no_leaks();
}
