//! Docker's own description of its API against the daemon: every endpoint is there or refused by name, and every member
//! that it says an answer has is in the answer.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use testkit::daemon::Daemon;
use testkit::raw;

const SURFACE: &str = include_str!("api_surface.txt");

/// Members that are not in our answers, and why.
const ABSENT: &[(&str, &str)] = &[
    ("SystemInfo.DefaultAddressPools", "of those who configured some"),
    ("SystemInfo.NRI", "there is none"),
    ("SystemInfo.Containerd", "there is none"),
    ("SystemVersion.Experimental", "where it is on"),
    ("ContainerSummary.ImageManifestDescriptor", "of a store of containerd's"),
    ("ContainerInspectResponse.ImageManifestDescriptor", "of a store of containerd's"),
    ("ContainerInspectResponse.SizeRw", "where it was asked for"),
    ("ContainerInspectResponse.SizeRootFs", "where it was asked for"),
    ("NetworkInspect.Peers", "of a swarm"),
    ("NetworkInspect.Services", "of a swarm"),
    ("NetworkInspect.Status", "not yet"),
    ("Volume.Status", "of plugins that tell one"),
    ("Volume.ClusterVolume", "of a swarm"),
    ("Volume.UsageData", "in system df only, as Docker's"),
    ("ImageInspect.Manifests", "where it was asked for"),
    ("ImageInspect.Identity", "where it was asked for"),
    ("ImageInspect.Variant", "of images that have one"),
    ("ImageInspect.OsVersion", "of images that have one"),
    ("ImageSummary.Manifests", "where it was asked for"),
    ("ImageSummary.Descriptor", "of a store of containerd's"),
];

fn lines(kind: &str) -> impl Iterator<Item = &'static str> {
    SURFACE.lines().filter_map(move |line| line.strip_prefix(kind)?.strip_prefix(' '))
}

#[test]
#[ignore = "by its own: cargo xtask conform api"]
fn every_endpoint_answers() {
    let Some(daemon) = own() else { return };
    let mut count = 0;
    for line in lines("endpoint") {
        let (method, path) = line.split_once(' ').unwrap();
        // A stream without an end, and a connection that stays open.
        let is_stream = matches!(path, "/events" | "/session");
        // These ask a registry.
        if is_stream || matches!(path, "/auth" | "/images/search" | "/distribution/{name}/json") {
            continue;
        }
        let path = path.replace("{id}", "nobody").replace("{name}", "nobody");
        let answer =
            raw::send(&daemon.socket, method, &format!("/v1.55{path}"), "application/json", b"{}").unwrap();
        let text = answer.text();
        assert!(!text.contains("page not found"), "{method} {path}: {} {text}", answer.status);
        assert!(answer.status != 500 || text.contains("message"), "{method} {path}: {text}");
        if answer.status == 501 {
            assert!(
                text.contains("not supported by this version") || text.contains("experimental"),
                "{method} {path}: {text}"
            );
        }
        count += 1;
    }
    assert!(count > 100, "only {count} endpoints were asked");
    // And what does not exist does not.
    let answer = daemon.request("GET", "/v1.55/nothing/of/the/kind", &Value::Null).expect(404);
    assert!(answer.text().contains("page not found"));
}

/// One answer of each kind, from a daemon in which there is one of everything.
fn answers(daemon: &Daemon) -> Vec<(&'static str, Value)> {
    daemon.brig(&["network", "create", "surface-net"]).success();
    daemon.brig(&["volume", "create", "surface-vol"]).success();
    let args = [
        "run",
        "-d",
        "--name",
        "surface",
        "--network",
        "surface-net",
        "-p",
        "127.0.0.1::80",
        "-v",
        "surface-vol:/v",
        "--health-cmd",
        "true",
        "--init",
        BUSYBOX,
        "sleep",
        "300",
    ];
    daemon.brig(&args).success();
    let exec =
        daemon.request("POST", "/containers/surface/exec", &json!({ "Cmd": ["true"] })).expect(201).json();
    let get = |path: &str| daemon.get(path);
    let inspected = get("/containers/surface/json?size=1");
    let settings = inspected["NetworkSettings"].clone();
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let path = format!("/events?since=1&until={until}&filters=%7B%22event%22:%5B%22start%22%5D%7D");
    let event = daemon.request("GET", &path, &Value::Null).expect(200).text();
    vec![
        ("SystemInfo", get("/info")),
        ("SystemVersion", get("/version")),
        ("ContainerSummary", get("/containers/json?size=1")[0].clone()),
        ("ContainerState", inspected["State"].clone()),
        ("MountPoint", inspected["Mounts"][0].clone()),
        ("EndpointSettings", settings["Networks"]["surface-net"].clone()),
        ("NetworkSettings", settings),
        ("ContainerInspectResponse", inspected),
        ("NetworkInspect", get("/networks/surface-net")),
        ("Volume", get("/volumes/surface-vol")),
        ("ImageInspect", get("/images/busybox:latest/json")),
        ("ImageSummary", get("/images/json?shared-size=1")[0].clone()),
        ("ContainerStatsResponse", get("/containers/surface/stats?stream=0")),
        ("ContainerTopResponse", get("/containers/surface/top")),
        ("EventMessage", serde_json::from_str(event.lines().next().unwrap()).unwrap()),
        ("ExecInspect", get(&format!("/exec/{}/json", exec["Id"].as_str().unwrap()))),
    ]
}

#[test]
#[ignore = "by its own: cargo xtask conform api"]
fn every_member_of_an_answer_is_there() {
    let Some(daemon) = own() else { return };
    let answers = answers(&daemon);
    let mut mistakes = Vec::new();
    for line in lines("answer") {
        let (name, members) = line.split_once(": ").unwrap();
        let answer = answers.iter().find(|(n, _)| *n == name).map(|(_, answer)| answer);
        let answer = answer.unwrap_or_else(|| panic!("nobody asked for {name}"));
        for member in members.split(' ') {
            let is_listed = ABSENT.iter().any(|(m, _)| *m == format!("{name}.{member}"));
            if answer.get(member).is_none() && !is_listed {
                mistakes.push(format!("{name}.{member} is missing"));
            }
        }
    }
    assert!(mistakes.is_empty(), "{mistakes:#?}");
}
