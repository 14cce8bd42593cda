//! Volume drivers of others: a scripted plugin, and one that never answers.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use testkit::daemon::Daemon;
use testkit::wait_until;

/// A plugin with volumes that are directories.
struct Plugin {
    name: String,
    socket: PathBuf,
    root: tempfile::TempDir,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Plugin {
    fn start(kind: &str) -> Plugin {
        let name = format!("brigtest{kind}{}", std::process::id());
        std::fs::create_dir_all("/run/docker/plugins").unwrap();
        let socket = PathBuf::from(format!("/run/docker/plugins/{name}.sock"));
        drop(std::fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let plugin = Plugin { name, socket, root: tempfile::tempdir().unwrap(), calls: Arc::default() };
        let (root, calls) = (plugin.root.path().to_path_buf(), plugin.calls.clone());
        std::thread::spawn(move || {
            let mut volumes = BTreeSet::new();
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let Some((method, body)) = read(&stream) else { continue };
                let volume = body["Name"].as_str().unwrap_or_default().to_string();
                calls.lock().unwrap().push(format!("{method} {volume}").trim().to_string());
                let path = root.join(&volume);
                let known = volumes.contains(&volume);
                let answer = match method.as_str() {
                    "Plugin.Activate" => json!({ "Implements": ["VolumeDriver"] }),
                    "VolumeDriver.Create" if body["Opts"]["refuse"].is_string() => {
                        json!({ "Err": "no room" })
                    }
                    "VolumeDriver.Create" => {
                        std::fs::create_dir_all(&path).unwrap();
                        volumes.insert(volume);
                        json!({ "Err": "" })
                    }
                    "VolumeDriver.Get" if known => {
                        // Without a place: that is asked for apart.
                        json!({ "Volume": { "Name": volume, "CreatedAt": "2020-01-02T03:04:05Z", "Status": { "blocks": 7 } }, "Err": "" })
                    }
                    "VolumeDriver.Path" if known => json!({ "Mountpoint": path, "Err": "" }),
                    "VolumeDriver.List" => {
                        let one = |name: &String| json!({ "Name": name, "Mountpoint": root.join(name) });
                        json!({ "Volumes": volumes.iter().map(one).collect::<Vec<_>>(), "Err": "" })
                    }
                    "VolumeDriver.Capabilities" => json!({ "Capabilities": { "Scope": "global" } }),
                    "VolumeDriver.Mount" if known => json!({ "Mountpoint": path, "Err": "" }),
                    "VolumeDriver.Unmount" if known => json!({ "Err": "" }),
                    "VolumeDriver.Remove" if known => {
                        volumes.remove(&volume);
                        json!({ "Err": "" })
                    }
                    _ => json!({ "Err": "no such volume" }),
                };
                reply(&stream, &answer);
            }
        });
        plugin
    }

    fn calls(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        // What is only asked changes nothing.
        let asks = [
            "Plugin.",
            "VolumeDriver.Get",
            "VolumeDriver.Path",
            "VolumeDriver.List",
            "VolumeDriver.Capabilities",
        ];
        calls.iter().filter(|c| !asks.iter().any(|a| c.starts_with(a))).cloned().collect()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.socket));
    }
}

fn read(stream: &UnixStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let method = line.split(' ').nth(1)?.trim_start_matches('/').to_string();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim().to_ascii_lowercase().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, serde_json::from_slice(&body).unwrap_or_default()))
}

fn reply(mut stream: &UnixStream, answer: &Value) {
    let text = answer.to_string();
    drop(write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
}

fn stage() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(Default::default());
    daemon.load_busybox("busybox");
    Some(daemon)
}

#[test]
fn a_plugin_makes_mounts_and_removes_volumes() {
    let Some(mut daemon) = stage() else { return };
    let plugin = Plugin::start("a");
    daemon.docker(&["volume", "create", "-d", &plugin.name, "-o", "k=v", "vol"]).success();
    let seen = daemon.get("/volumes/vol");
    assert_eq!((&seen["Driver"], &seen["Options"]), (&json!(plugin.name), &json!({"k": "v"})));
    let path = plugin.root.path().join("vol");
    assert_eq!((&seen["Mountpoint"], &seen["Scope"]), (&json!(path), &json!("global")));
    assert_eq!(
        (&seen["CreatedAt"], &seen["Status"]),
        (&json!("2020-01-02T03:04:05Z"), &json!({ "blocks": 7 }))
    );
    daemon.docker(&["run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", "echo hi > /v/f"]).success();
    assert_eq!(std::fs::read_to_string(plugin.root.path().join("vol/f")).unwrap().trim(), "hi");
    wait_until("it is given back", || plugin.calls().last().is_some_and(|c| c == "VolumeDriver.Unmount vol"));
    assert_eq!(
        plugin.calls(),
        ["VolumeDriver.Create vol", "VolumeDriver.Mount vol", "VolumeDriver.Unmount vol"]
    );

    // Two users, one mount; given back by the daemon that sees the last one go.
    for name in ["one", "two"] {
        daemon.docker(&["run", "-d", "--name", name, "-v", "vol:/v", "busybox", "sleep", "600"]).success();
    }
    daemon.kill9();
    daemon.spawn();
    let mounts =
        |plugin: &Plugin| plugin.calls().iter().filter(|c| c.starts_with("VolumeDriver.Mount")).count();
    assert_eq!(mounts(&plugin), 2);
    let refused = daemon.docker(&["volume", "rm", "vol"]).expect(1);
    assert!(refused.stderr.contains("volume is in use"), "{}", refused.stderr);
    daemon.remove_all();
    wait_until("it is given back", || plugin.calls().last().is_some_and(|c| c == "VolumeDriver.Unmount vol"));

    // One that its driver made for somebody else is listed, found, and taken as it is.
    let name = plugin.name.clone();
    std::fs::create_dir(plugin.root.path().join("theirs")).unwrap();
    testkit::raw::send(
        &plugin.socket,
        "POST",
        "/VolumeDriver.Create",
        "application/json",
        json!({ "Name": "theirs" }).to_string().as_bytes(),
    )
    .unwrap();
    let listed = daemon.docker(&["volume", "ls", "-q"]).success();
    assert_eq!(listed, "theirs\nvol");
    assert_eq!(daemon.get("/volumes/theirs")["Driver"], json!(name));
    daemon
        .docker(&["run", "--rm", "--volume-driver", &name, "-v", "theirs:/v", "busybox", "touch", "/v/f"])
        .success();
    assert!(plugin.root.path().join("theirs/f").exists());
    let made = plugin.calls().iter().filter(|c| *c == "VolumeDriver.Create theirs").count();
    assert_eq!(made, 1, "by whoever it was, not again");
    daemon.docker(&["volume", "rm", "theirs"]).success();

    // At create, with a driver that `run` names.
    daemon
        .docker(&["run", "--rm", "--volume-driver", &plugin.name, "-v", "other:/v", "busybox", "true"])
        .success();
    assert_eq!(daemon.get("/volumes/other")["Driver"], json!(plugin.name));
    for name in ["vol", "other"] {
        daemon.docker(&["volume", "rm", name]).success();
    }
    assert_eq!(plugin.calls().last().unwrap(), "VolumeDriver.Remove other");
    assert_eq!(daemon.get("/volumes")["Volumes"], json!([]));

    let refused =
        daemon.docker(&["volume", "create", "-d", &plugin.name, "-o", "refuse=1", "full"]).expect(1);
    assert!(refused.stderr.contains("VolumeDriver.Create: no room"), "{}", refused.stderr);
    let update = daemon.docker(&["volume", "update", "--availability", "pause", "vol"]);
    assert!(update.code != Some(0), "{update:?}");
    let update = daemon.request("PUT", "/volumes/vol?version=1", &json!({ "Spec": {} }));
    assert_eq!(update.status, 503);
    let cluster = json!({ "Name": "cc", "ClusterVolumeSpec": { "Group": "g" } });
    let refused = daemon.request("POST", "/volumes/create", &cluster);
    assert!(refused.status == 503 && String::from_utf8_lossy(&refused.body).contains("not a swarm manager"));
    let missing = daemon.docker(&["volume", "create", "-d", "brigtestnowhere", "xx"]).expect(1);
    assert!(missing.stderr.contains("plugin \"brigtestnowhere\" not found"), "{}", missing.stderr);
    daemon.assert_no_leaks();
}

#[test]
fn a_plugin_that_does_not_answer_holds_up_nobody_else() {
    let Some(daemon) = stage() else { return };
    std::fs::create_dir_all("/run/docker/plugins").unwrap();
    let name = format!("brigtestdead{}", std::process::id());
    let socket = PathBuf::from(format!("/run/docker/plugins/{name}.sock"));
    drop(std::fs::remove_file(&socket));
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| daemon.docker(&["volume", "create", "-d", &name, "never"]));
        // It has asked, and waits.
        let (stream, _) = listener.accept().unwrap();
        daemon.docker(&["volume", "create", "mine"]).success();
        daemon.docker(&["run", "--rm", "-v", "mine:/v", "-v", "/anonymous", "busybox", "true"]).success();
        daemon.docker(&["volume", "rm", "mine"]).success();
        assert!(!waiting.is_finished(), "it still waits");
        drop(stream);
        let done = waiting.join().unwrap();
        assert!(done.code == Some(1) && done.stderr.contains(&format!("volume plugin {name}")), "{done:?}");
    });
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(daemon.get("/volumes")["Volumes"], json!([]));
}

#[test]
fn a_volume_that_its_container_took_along_is_removed_by_its_plugin_at_last() {
    let Some(mut daemon) = stage() else { return };
    let plugin = Plugin::start("d");
    let run =
        ["run", "-d", "--name", "cc", "--volume-driver", &plugin.name, "-v", "/v", "busybox", "sleep", "600"];
    daemon.docker(&run).success();
    let name = daemon.get("/containers/cc/json")["Mounts"][0]["Name"].as_str().unwrap().to_string();
    assert_eq!(daemon.get("/containers/cc/json")["Mounts"][0]["Driver"], json!(plugin.name));
    daemon.docker(&["kill", "cc"]).success();
    wait_until("it is given back", || plugin.calls().last().is_some_and(|c| c.contains("Unmount")));
    // The plugin is down, and the daemon is killed: neither has the container wait, nor the volume forgotten.
    let aside = plugin.socket.with_extension("aside");
    std::fs::rename(&plugin.socket, &aside).unwrap();
    daemon.docker(&["rm", "-v", "cc"]).success();
    assert_eq!(daemon.get("/volumes")["Volumes"], json!([]));
    daemon.kill9();
    std::fs::rename(&aside, &plugin.socket).unwrap();
    daemon.spawn();
    let removed = format!("VolumeDriver.Remove {name}");
    wait_until("the plugin has removed it", || plugin.calls().contains(&removed));
    daemon.assert_no_leaks();
}
