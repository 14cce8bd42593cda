//! Volumes: made, used, shared, mounted by their driver, moved and removed, by `brig` and by the docker CLI.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, Client, shared};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

const BOTH: [Client; 2] = [Client::Brig, Client::Docker];

fn content(daemon: &Daemon, volume: &str) -> PathBuf {
    daemon.data_root.join("volumes").join(volume).join("_data")
}

/// Runs the command and gives back what it printed.
#[track_caller]
fn ok(client: Client, daemon: &Daemon, args: &[&str]) -> String {
    client.run(daemon, args).success().trim_end().to_string()
}

#[track_caller]
fn refused(client: Client, daemon: &Daemon, args: &[&str], why: &str) {
    let done = client.run(daemon, args);
    assert_ne!(done.code, Some(0), "{args:?} succeeded: {}", done.stdout);
    assert!(done.stderr.contains(why), "{args:?}: {}", done.stderr);
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn is_mounted(path: &Path) -> bool {
    mounts().contains(path.to_str().unwrap())
}

#[test]
fn a_volume_lives_from_create_to_remove() {
    let Some(shared) = shared() else { return };
    for client in BOTH {
        let (name, user) = (client.name("life"), client.name("life-user"));
        assert_eq!(ok(client, &shared.daemon, &["volume", "create", "--label", "a=b", &name]), name);
        // As Docker does, a second create finds the first.
        assert_eq!(ok(client, &shared.daemon, &["volume", "create", &name]), name);
        let shown: Value =
            serde_json::from_str(&ok(client, &shared.daemon, &["volume", "inspect", &name])).unwrap();
        assert_eq!(shown[0]["Labels"], json!({"a": "b"}));
        assert_eq!(shown[0]["Mountpoint"], json!(content(&shared.daemon, &name)));
        let listed = ok(
            client,
            &shared.daemon,
            &["volume", "ls", "-q", "--filter", "label=a=b", "--filter", &format!("name={name}")],
        );
        assert_eq!(listed, name);
        let mount = format!("{name}:/data");
        ok(
            client,
            &shared.daemon,
            &["create", "--name", &user, "-v", &mount, BUSYBOX, "sh", "-c", "echo hi > /data/f"],
        );
        refused(client, &shared.daemon, &["volume", "rm", &name], "volume is in use");
        ok(client, &shared.daemon, &["start", "-a", &user]);
        assert_eq!(std::fs::read_to_string(content(&shared.daemon, &name).join("f")).unwrap(), "hi\n");
        ok(client, &shared.daemon, &["rm", &user]);
        ok(client, &shared.daemon, &["volume", "rm", &name]);
        assert!(!content(&shared.daemon, &name).exists());
        refused(client, &shared.daemon, &["volume", "rm", &name], "no such volume");
        refused(client, &shared.daemon, &["volume", "inspect", &name], "no such volume");
    }
}

#[test]
fn names_drivers_and_options_that_cannot_be_are_refused() {
    let Some(shared) = shared() else { return };
    let check = |body: Value, status: u16, why: &str| {
        let answer = shared.daemon.request("POST", "/volumes/create", &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(answer.message().contains(why), "{body}: {}", answer.text());
    };
    check(json!({"Name": "a/b"}), 400, "includes invalid characters for a local volume name");
    check(json!({"Name": "../../x"}), 400, "includes invalid characters");
    check(json!({"Name": "x"}), 400, "volume name is too short");
    check(json!({"Name": "good", "Driver": "nowhere"}), 404, "plugin \"nowhere\" not found");
    check(json!({"Name": "good", "DriverOpts": {"colour": "red"}}), 400, "invalid option");
    check(json!({"Name": "good", "DriverOpts": {"type": "tmpfs"}}), 400, "missing required option");
    check(json!({"Name": "good", "DriverOpts": {"size": "1g"}}), 400, "quota");
    check(json!({"Name": "good", "ClusterVolumeSpec": {"Group": "g"}}), 503, "not a swarm manager");
}

#[test]
fn prune_takes_what_nobody_has() {
    if !testkit::is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    let shared = |args: &[&str]| ok(Client::Docker, &daemon, args);
    shared(&["volume", "create", "named"]);
    shared(&["volume", "create", "--label", "keep", "kept"]);
    shared(&["volume", "create", "used"]);
    let anonymous = shared(&["volume", "create"]);
    shared(&["create", "--name", "user", "-v", "used:/x", BUSYBOX, "true"]);
    assert!(shared(&["volume", "prune", "-f"]).contains(&anonymous));
    assert_eq!(shared(&["volume", "ls", "-q"]), "kept\nnamed\nused");
    let pruned = shared(&["volume", "prune", "-f", "-a", "--filter", "label!=keep"]);
    assert!(pruned.contains("named"), "{pruned}");
    assert_eq!(shared(&["volume", "ls", "-q"]), "kept\nused");
    assert_eq!(shared(&["volume", "ls", "-q", "--filter", "dangling=true"]), "kept");
}

#[test]
fn a_driver_mounts_for_the_first_user_and_unmounts_after_the_last() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    let client = Client::Docker;
    let name = client.name("tmpfs");
    let options = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=7"];
    ok(client, &daemon, &[&["volume", "create"], &options[..], &[&name]].concat());
    let place = content(&daemon, &name);
    let mount = format!("{name}:/d");
    let owner = ok(
        client,
        &daemon,
        &["run", "--rm", "-v", &mount, BUSYBOX, "sh", "-c", "stat -c %u /d; df -k /d | tail -1"],
    );
    assert!(owner.starts_with("7\n") && owner.contains("1024"), "{owner}");
    wait_until("it is unmounted", || !is_mounted(&place));
    let (one, two) = (client.name("tmpfs-1"), client.name("tmpfs-2"));
    for user in [&one, &two] {
        ok(client, &daemon, &["run", "-d", "--name", user, "-v", &mount, BUSYBOX, "sleep", "100"]);
    }
    ok(client, &daemon, &["exec", &one, "touch", "/d/seen"]);
    ok(client, &daemon, &["rm", "-f", &one]);
    assert_eq!(ok(client, &daemon, &["exec", &two, "ls", "/d"]), "seen");
    // A daemon that comes anew knows who uses it.
    daemon.kill9();
    daemon.spawn();
    assert_eq!(ok(client, &daemon, &["exec", &two, "ls", "/d"]), "seen");
    ok(client, &daemon, &["rm", "-f", &two]);
    wait_until("it is unmounted", || !is_mounted(&place));
    ok(client, &daemon, &["volume", "rm", &name]);
}

/// What is mounted inside a volume is not the volume's: neither removal nor prune goes through it.
#[test]
fn removal_never_reaches_through_a_mount() {
    let Some(shared) = shared() else { return };
    let client = Client::Docker;
    let precious = tempfile::tempdir().unwrap();
    std::fs::write(precious.path().join("file"), "x").unwrap();
    // Bound by the driver: removed with the volume still mounted, the directory behind it stays.
    let name = client.name("bound");
    let device = format!("device={}", precious.path().display());
    ok(
        client,
        &shared.daemon,
        &["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, &name],
    );
    let mount = format!("{name}:/d");
    let user = client.name("bound-user");
    ok(client, &shared.daemon, &["run", "-d", "--name", &user, "-v", &mount, BUSYBOX, "sleep", "100"]);
    assert_eq!(ok(client, &shared.daemon, &["exec", &user, "ls", "/d"]), "file");
    ok(client, &shared.daemon, &["rm", "-f", &user]);
    ok(client, &shared.daemon, &["volume", "rm", &name]);
    assert!(precious.path().join("file").exists());
    // Mounted by somebody else: refused until it is gone.
    let name = client.name("foreign");
    ok(client, &shared.daemon, &["volume", "create", &name]);
    let inside = content(&shared.daemon, &name).join("inside");
    std::fs::create_dir(&inside).unwrap();
    rustix::mount::mount_bind(precious.path(), &inside).unwrap();
    refused(client, &shared.daemon, &["volume", "rm", &name], "inside the volume");
    assert!(precious.path().join("file").exists());
    rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::empty()).unwrap();
    ok(client, &shared.daemon, &["volume", "rm", &name]);
    assert!(precious.path().join("file").exists());
}

#[test]
fn volumes_from_takes_the_mounts_of_others() {
    let Some(shared) = shared() else { return };
    for client in BOTH {
        let (base, borrower, volume) =
            (client.name("vf-base"), client.name("vf-borrower"), client.name("vf-vol"));
        let bind = tempfile::tempdir().unwrap();
        let (named, bound) = (format!("{volume}:/named"), format!("{}:/bound:ro", bind.path().display()));
        ok(
            client,
            &shared.daemon,
            &["create", "--name", &base, "-v", &named, "-v", &bound, "-v", "/anonymous", BUSYBOX, "true"],
        );
        let script = "echo x > /named/f && echo y > /anonymous/f && ! touch /bound/f 2>/dev/null";
        ok(client, &shared.daemon, &["run", "--rm", "--volumes-from", &base, BUSYBOX, "sh", "-c", script]);
        // --rm took none of what it borrowed.
        let read = ["run", "--rm", "--volumes-from", &format!("{base}:ro"), BUSYBOX, "sh", "-c"];
        let script = "cat /named/f /anonymous/f; touch /named/g 2>/dev/null || echo ro";
        assert_eq!(ok(client, &shared.daemon, &[&read[..], &[script]].concat()), "x\ny\nro");
        // An own mount at the same place comes first.
        let own = ["run", "--rm", "--name", &borrower, "--volumes-from", &base, "--tmpfs", "/named", BUSYBOX];
        assert_eq!(ok(client, &shared.daemon, &[&own[..], &["ls", "/named"]].concat()), "");
        refused(
            client,
            &shared.daemon,
            &["run", "--rm", "--volumes-from", "nobody", BUSYBOX, "true"],
            "No such container",
        );
        refused(
            client,
            &shared.daemon,
            &["run", "--rm", "--volumes-from", &format!("{base}:what"), BUSYBOX, "true"],
            "invalid mode",
        );
        ok(client, &shared.daemon, &["rm", "-v", &base]);
        ok(client, &shared.daemon, &["volume", "rm", &volume]);
    }
}

#[test]
fn a_subpath_shows_part_of_a_volume_and_nothing_outside() {
    let Some(shared) = shared() else { return };
    let client = Client::Docker;
    let name = client.name("sub");
    ok(client, &shared.daemon, &["volume", "create", &name]);
    let place = content(&shared.daemon, &name);
    std::fs::create_dir_all(place.join("a/b")).unwrap();
    std::fs::write(place.join("a/b/f"), "inside").unwrap();
    std::fs::write(place.join("file"), "alone").unwrap();
    std::os::unix::fs::symlink("/etc", place.join("out")).unwrap();
    let mount = |part: &str| format!("type=volume,src={name},dst=/d,volume-subpath={part}");
    let run = ["run", "--rm", "--mount"];
    assert_eq!(
        ok(client, &shared.daemon, &[&run[..], &[&mount("a/b"), BUSYBOX, "cat", "/d/f"]].concat()),
        "inside"
    );
    assert_eq!(
        ok(client, &shared.daemon, &[&run[..], &[&mount("file"), BUSYBOX, "cat", "/d"]].concat()),
        "alone"
    );
    // A link out of the volume is resolved inside of it, where there is no such place.
    refused(
        client,
        &shared.daemon,
        &[&run[..], &[&mount("out"), BUSYBOX, "ls", "/d"]].concat(),
        "cannot access path out",
    );
    refused(
        client,
        &shared.daemon,
        &[&run[..], &[&mount("../x"), BUSYBOX, "ls", "/d"]].concat(),
        "relative path within the volume",
    );
    let staged = shared.daemon.exec_root.join("mounts");
    wait_until("nothing of it stays mounted", || std::fs::read_dir(&staged).unwrap().next().is_none());
    ok(client, &shared.daemon, &["volume", "rm", &name]);
}

#[test]
fn an_image_is_mounted_read_only_and_kept_while_it_is() {
    let Some(shared) = shared() else { return };
    let client = Client::Docker;
    let user = client.name("image-mount");
    let body = json!({"Image": BUSYBOX, "Cmd": ["sleep", "100"], "HostConfig": {"Mounts": [
        {"Type": "image", "Source": BUSYBOX, "Target": "/whole"},
        {"Type": "image", "Source": BUSYBOX, "Target": "/part", "ImageOptions": {"Subpath": "bin"}},
    ]}});
    let create = format!("/containers/create?name={user}");
    let answer = shared.daemon.request("POST", &create, &body).expect(201);
    let id = answer.json()["Id"].as_str().unwrap().to_string();
    ok(client, &shared.daemon, &["start", &user]);
    ok(client, &shared.daemon, &["exec", &user, "test", "-e", "/whole/bin/busybox"]);
    ok(client, &shared.daemon, &["exec", &user, "test", "-e", "/part/busybox"]);
    refused(client, &shared.daemon, &["exec", &user, "touch", "/whole/x"], "Read-only");
    let shown = shared.daemon.request("GET", &format!("/containers/{id}/json"), &Value::Null).expect(200);
    assert_eq!(shown.json()["Mounts"][0]["Type"], "image");
    ok(client, &shared.daemon, &["rm", "-f", &user]);
    let staged = shared.daemon.exec_root.join("mounts").join(&id);
    wait_until("nothing of it stays mounted", || !staged.exists());
    let missing = json!({"Image": BUSYBOX, "HostConfig": {"Mounts": [
        {"Type": "image", "Source": "no/such:image", "Target": "/x"}]}});
    let answer = shared.daemon.request("POST", "/containers/create", &missing);
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[test]
fn a_volume_is_exported_and_imported() {
    let Some(shared) = shared() else { return };
    let client = Client::Brig;
    let (from, to) = (client.name("exp"), client.name("imp"));
    ok(client, &shared.daemon, &["volume", "create", &from]);
    let place = content(&shared.daemon, &from);
    std::fs::create_dir(place.join("d")).unwrap();
    std::fs::write(place.join("d/f"), vec![7u8; 300_000]).unwrap();
    std::os::unix::fs::chown(place.join("d/f"), Some(12), Some(34)).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let archive = file.path().to_str().unwrap();
    ok(client, &shared.daemon, &["volume", "export", "-o", archive, &from]);
    ok(client, &shared.daemon, &["volume", "import", &to, archive]);
    let copied = content(&shared.daemon, &to).join("d/f");
    assert_eq!(std::fs::read(&copied).unwrap(), vec![7u8; 300_000]);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&copied).unwrap());
    assert_eq!(owner, 12);
    refused(client, &shared.daemon, &["volume", "export", "-o", archive, "nothing-here"], "no such volume");
    ok(client, &shared.daemon, &["volume", "rm", &from, &to]);
}

#[test]
fn labels_and_driver_of_a_mount_make_the_volume() {
    let Some(shared) = shared() else { return };
    let client = Client::Docker;
    let name = client.name("labelled");
    let mount =
        format!("type=volume,src={name},dst=/d,volume-label=x=y,volume-opt=type=tmpfs,volume-opt=device=t");
    let out = ok(
        client,
        &shared.daemon,
        &["run", "--rm", "--mount", &mount, BUSYBOX, "sh", "-c", "grep -c ' /d tmpfs ' /proc/mounts"],
    );
    assert_eq!(out, "1");
    let shown: Value =
        serde_json::from_str(&ok(client, &shared.daemon, &["volume", "inspect", &name])).unwrap();
    assert_eq!(shown[0]["Labels"], json!({"x": "y"}));
    assert_eq!(shown[0]["Options"]["type"], "tmpfs");
    refused(
        client,
        &shared.daemon,
        &["run", "--rm", "--volume-driver", "nowhere", "-v", "vol:/d", BUSYBOX, "true"],
        "plugin \"nowhere\" not found",
    );
    ok(client, &shared.daemon, &["volume", "rm", &name]);
}

#[test]
fn a_read_only_bind_is_read_only_all_the_way_down() {
    let Some(shared) = shared() else { return };
    let client = Client::Docker;
    let source = tempfile::tempdir().unwrap();
    let below = source.path().join("below");
    std::fs::create_dir(&below).unwrap();
    rustix::mount::mount("t", &below, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let path = source.path().display();
    let check = |args: &[&str], want: &str| {
        let script = "touch /d/f 2>/dev/null && echo top; touch /d/below/f 2>/dev/null && echo below; true";
        let out =
            ok(client, &shared.daemon, &[&["run", "--rm"], args, &[BUSYBOX, "sh", "-c", script]].concat());
        assert_eq!(out, want, "{args:?}");
    };
    check(&["-v", &format!("{path}:/d:ro")], "");
    check(&["--mount", &format!("type=bind,src={path},dst=/d,ro")], "");
    check(
        &[
            "--mount",
            &format!("type=bind,src={path},dst=/d,ro,bind-recursive=readonly,bind-propagation=rprivate"),
        ],
        "",
    );
    check(&["--mount", &format!("type=bind,src={path},dst=/d,ro,bind-recursive=writable")], "below");
    check(&["-v", &format!("{path}:/d")], "top\nbelow");
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
}
