//! Checkpoint and restore: what criu is asked for, by a script in its place that writes down its arguments; and the real
//! one where the kernel and it agree.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use support::{Bundle, bundle, copy_program};

/// Notes its arguments, one a line. `restore` leaves a process behind as criu would.
const CRIU: &str = r#"#!/bin/sh
printf '%s\n' "$@" > "$(dirname "$0")/arguments"
[ "$1" = restore ] || exit 0
while [ "$1" != --pidfile ]; do
    [ "$1" = --root ] && cat "$2/etc/seen" > "$(dirname "$0")/seen"
    shift
done
sleep 1000 </dev/null >/dev/null 2>&1 &
echo $! > "$2"
"#;

fn script(bundle: &Bundle, text: &str) -> PathBuf {
    let path = bundle.path().join("criu");
    let text_path = bundle.path().join("criu.sh");
    std::fs::write(&text_path, text).unwrap();
    copy_program(&text_path, &path);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn arguments(bundle: &Bundle) -> Vec<String> {
    let text = std::fs::read_to_string(bundle.path().join("arguments")).unwrap();
    text.lines().map(String::from).collect()
}

#[track_caller]
fn has(arguments: &[String], words: &[&str]) {
    assert!(arguments.windows(words.len()).any(|window| window == words), "no {words:?} in {arguments:?}");
}

#[test]
fn a_checkpoint_ends_the_container() {
    let Some(mut bundle) = bundle("dump") else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.spec["mounts"].as_array_mut().unwrap().push(
        serde_json::json!({"destination": "/tmp/../data", "source": "/etc", "options": ["rbind", "ro"]}),
    );
    let criu = script(&bundle, CRIU);
    let criu = criu.to_str().unwrap();
    let id = bundle.id.clone();
    bundle.ok(&["run", "-d", &id]);
    let pid = bundle.state()["pid"].to_string();

    let flags = ["--image-path", "img", "--work-path", "work", "--tcp-established", "--shell-job"];
    bundle.ok(&[&["--criu", criu, "checkpoint", "--leave-running"], &flags[..], &[&id]].concat());
    let dump = arguments(&bundle);
    let images = bundle.path().join("img");
    assert_eq!(dump[0], "dump");
    for words in [
        &["--tree", &pid][..],
        &["--images-dir", images.to_str().unwrap()],
        &["--manage-cgroups=soft"],
        &["--leave-running"],
        &["--tcp-established"],
        &["--shell-job"],
        &["--external", "mnt[/data]:/data"],
        &["--external", "mnt[/proc/kcore]:/dev/null"],
        &["--log-file", "dump.log"],
    ] {
        if words[1..] != ["mnt[/proc/kcore]:/dev/null"] || std::path::Path::new("/proc/kcore").exists() {
            has(&dump, words);
        }
    }
    let links: Vec<String> =
        serde_json::from_slice(&std::fs::read(images.join("descriptors.json")).unwrap()).unwrap();
    assert_eq!(links[0], "/dev/null");
    bundle.wait_status("running");

    bundle.ok(&["--criu", criu, "checkpoint", "--pre-dump", "--image-path", "pre", &id]);
    let pre = arguments(&bundle);
    assert_eq!(pre[0], "pre-dump");
    has(&pre, &["--track-mem"]);
    let with_parent = ["--parent-path", "../pre", "--page-server", "127.0.0.1:27", "--empty-ns", "network"];
    bundle.ok(&[&["--criu", criu, "checkpoint", "--image-path", "img"], &with_parent[..], &[&id]].concat());
    let dump = arguments(&bundle);
    for words in [
        &["--prev-images-dir", "../pre"][..],
        &["--page-server"],
        &["--address", "127.0.0.1"],
        &["--port", "27"],
        &["--empty-ns", "net"],
    ] {
        has(&dump, words);
    }
    assert_eq!(bundle.ok(&["list", "-q"]), "", "it is gone");
}

#[test]
fn pages_that_stay_until_they_are_asked_for() {
    let Some(mut bundle) = bundle("lazy") else { return };
    bundle.args(&["sleep", "1000"]);
    let criu = script(&bundle, CRIU);
    let id = bundle.id.clone();
    bundle.ok(&["run", "-d", &id]);
    let output = bundle
        .command(&[
            "--criu",
            criu.to_str().unwrap(),
            "checkpoint",
            "--lazy-pages",
            "--page-server",
            "[::1]:27",
            "--status-fd",
            "0",
            &id,
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dump = arguments(&bundle);
    has(&dump, &["--address", "::1"]);
    has(&dump, &["--port", "27"]);
    has(&dump, &["--lazy-pages"]);
    assert!(
        dump.contains(&"--status-fd".to_owned()) && !dump.contains(&"--page-server".to_owned()),
        "{dump:?}"
    );
    bundle.ok(&["--criu", criu.to_str().unwrap(), "restore", "-d", "--lazy-pages", &id]);
    has(&arguments(&bundle), &["--lazy-pages"]);
}

#[test]
fn a_failure_names_the_cause_and_keeps_the_container() {
    let Some(mut bundle) = bundle("dumpfail") else { return };
    bundle.args(&["sleep", "1000"]);
    let criu = script(&bundle, "#!/bin/sh\necho 'Error (criu/cr-dump.c:1): no such thing' >&2\nexit 3\n");
    let id = bundle.id.clone();
    bundle.ok(&["run", "-d", &id]);
    let refused = |args: &[&str], want: &str| {
        let output = bundle.call(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(want), "want {want:?}: {text}");
    };
    let criu = criu.to_str().unwrap();
    refused(
        &["--criu", criu, "checkpoint", &id],
        "criu dump: exit status: 3: Error (criu/cr-dump.c:1): no such thing",
    );
    refused(&["--criu", "/no/criu", "checkpoint", &id], "run /no/criu: it is not installed");
    refused(
        &["checkpoint", "--page-server", "host", &id],
        "Use --page-server ADDRESS:PORT to specify page server",
    );
    refused(&["checkpoint", "--page-server", "host:x", &id], "Invalid port number");
    refused(&["checkpoint", "--empty-ns", "uts", &id], "namespace \"uts\" is not supported");
    refused(&["checkpoint", "--manage-cgroups-mode", "x", &id], "manage-cgroups-mode");
    refused(&["checkpoint", "--parent-path", "/abs", &id], "--parent-path must be relative");
    bundle.wait_status("running");
    bundle.ok(&["delete", "--force", &id]);
    refused(&["checkpoint", &id], "container does not exist");
    std::fs::create_dir(bundle.path().join("images")).unwrap();
    std::fs::write(bundle.path().join("images/descriptors.json"), "[]").unwrap();
    refused(&["--criu", criu, "restore", "--image-path", "images", &id], "criu restore: exit status: 3");
    assert_eq!(bundle.ok(&["list", "-q"]), "", "a restore that failed leaves nothing");
    assert!(!std::path::Path::new("/sys/fs/cgroup/pids/brigtest").join(&id).exists(), "the cgroup stayed");
}

#[test]
fn a_restore_makes_a_container() {
    let Some(mut bundle) = bundle("restore") else { return };
    bundle.args(&["sleep", "1000"]);
    let source = bundle.path().join("source");
    std::fs::write(&source, "x").unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().extend([
        serde_json::json!({"destination": "/deep/file", "source": source, "options": ["bind"]}),
        serde_json::json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}),
        serde_json::json!({"destination": "/tmp/inner", "source": "/etc", "options": ["rbind"]}),
    ]);
    std::fs::write(bundle.rootfs().join("etc/seen"), "the root is there").unwrap();
    let images = bundle.path().join("img");
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("descriptors.json"), r#"["/dev/null","pipe:[77]","/dev/null"]"#).unwrap();
    let criu = script(&bundle, CRIU);
    let id = bundle.id.clone();
    let pid_file = bundle.path().join("pid");
    let call =
        ["--criu", criu.to_str().unwrap(), "restore", "--image-path", "img", "-d", "--pid-file", "pid"];
    bundle.ok(&[&call[..], &["--lsm-profile", "apparmor:x", &id]].concat());
    let state = bundle.state();
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(pid_file).unwrap());
    let restore = arguments(&bundle);
    assert_eq!(restore[0], "restore");
    let file = format!("mnt[/deep/file]:{}", source.display());
    for words in [
        &["--restore-detached", "--restore-sibling", "--root", bundle.rootfs().to_str().unwrap()][..],
        &["--external", &file],
        &["--external", "mnt[/tmp/inner]:/etc"],
        &["--cgroup-root", &format!("/brigtest/{id}")],
        &["--lsm-profile", "apparmor:x"],
    ] {
        has(&restore, words);
    }
    let pipe = restore.iter().find(|word| word.ends_with(":pipe:[77]")).expect("the pipe is handed over");
    assert!(pipe.starts_with("fd["), "{pipe}");
    assert!(bundle.rootfs().join("deep/file").is_file(), "the place is made");
    assert!(!bundle.rootfs().join("tmp/inner").exists(), "what is in a tmpfs is criu's");
    assert_eq!(std::fs::read_to_string(bundle.path().join("seen")).unwrap(), "the root is there");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bundle.rootfs().to_str().unwrap()), "no mount stays on the host");
    bundle.ok(&["delete", "--force", &id]);
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}

/// Calls the action script at the moments of a restore as criu does, then notes its mounts and restores as above.
const CRIU_WITH_SCRIPTS: &str = r#"#!/bin/sh
here=$(dirname "$0")
for word in "$@"; do
    [ "$last" = --action-script ] && action=$word
    [ "$last" = --pidfile ] && pidfile=$word
    last=$word
done
cat /proc/self/mountinfo > "$here/mountinfo"
pwd > "$here/pwd"
for moment in pre-restore setup-namespaces post-setup-namespaces; do
    echo "$moment" >> "$here/moments"
    [ -z "$action" ] || CRTOOLS_SCRIPT_ACTION=$moment CRTOOLS_INIT_PID=$$ sh -c "$action" || exit 7
done
sleep 1000 </dev/null >/dev/null 2>&1 &
echo $! > "$pidfile"
"#;

#[test]
fn early_hooks_run_when_the_namespaces_are_there() {
    let Some(mut bundle) = bundle("restorehook") else { return };
    let images = bundle.path().join("checkpoint");
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("descriptors.json"), r#"["","",""]"#).unwrap();
    let criu = script(&bundle, CRIU_WITH_SCRIPTS);
    let criu = criu.to_str().unwrap();
    let noted = bundle.path().join("moments");
    let namespaces = bundle.path().join("namespaces");
    let hook = |word: &str, code: i32| {
        let line = format!("{{ echo {word}; cat; echo; }} >> {}; exit {code}", noted.display());
        let line = format!("readlink /proc/self/ns/mnt >> {}; {line}", namespaces.display());
        serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", line]})
    };
    bundle.spec["hooks"] = serde_json::json!({
        "prestart": [hook("prestart", 0)], "createRuntime": [hook("createRuntime", 0)],
        "createContainer": [hook("createContainer", 0)], "poststart": [hook("poststart", 0)],
    });
    let id = bundle.id.clone();
    let said = bundle.ok(&["--criu", criu, "restore", "-d", &id]);
    assert!(said.contains("createContainer hooks are not run on restore"), "{said}");
    let text = std::fs::read_to_string(&noted).unwrap();
    let words: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(
        words,
        [
            "pre-restore",
            "setup-namespaces",
            "prestart",
            "createRuntime",
            "post-setup-namespaces",
            "poststart"
        ]
    );
    // What they mount is there for all: they are not in the namespace that criu works in.
    let ours = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let theirs = std::fs::read_to_string(&namespaces).unwrap();
    assert_eq!(theirs.lines().collect::<Vec<_>>(), [ours.to_str().unwrap(); 3]);
    let states: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!((&states[0]["status"], &states[0]["id"]), (&"creating".into(), &id.clone().into()));
    assert!(states[0]["pid"].as_i64().unwrap() > 0 && states[0]["pid"] == states[1]["pid"], "{text}");
    bundle.ok(&["delete", "--force", &id]);

    // The container of a failed poststart hook is ended, and there to be deleted.
    bundle.spec["hooks"] = serde_json::json!({"poststart": [hook("poststart", 3)]});
    let output = bundle.call(&["--criu", criu, "restore", "-d", &id]);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bundle.wait_status("stopped");
    bundle.ok(&["delete", &id]);

    // An early one that fails ends it, in its own words.
    bundle.spec["hooks"] = serde_json::json!({"createRuntime": [hook("createRuntime", 3)]});
    let output = bundle.call(&["--criu", criu, "restore", "-d", &id]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("error running createRuntime hook #0: /bin/sh"),
        "{text}"
    );
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}

/// Where the host's root is an initial ramdisk: criu gets another root, in the same directory as ever.
#[test]
fn a_restore_without_pivot() {
    let Some(bundle) = bundle("restorepivot") else { return };
    let images = bundle.path().join("checkpoint");
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("descriptors.json"), r#"["","",""]"#).unwrap();
    let criu = script(&bundle, CRIU_WITH_SCRIPTS);
    let id = bundle.id.clone();
    bundle.ok(&["--criu", criu.to_str().unwrap(), "restore", "-d", "--no-pivot", &id]);
    let read = |name: &str| std::fs::read_to_string(bundle.path().join(name)).unwrap();
    assert_eq!(read("pwd").trim(), bundle.path().to_str().unwrap());
    assert!(read("mountinfo").contains(bundle.rootfs().to_str().unwrap()), "the rootfs is a mount");
    bundle.wait_status("running");
}

#[test]
fn what_cannot_be_restored_is_refused() {
    let Some(mut bundle) = bundle("restoreno") else { return };
    let id = bundle.id.clone();
    std::fs::create_dir(bundle.path().join("checkpoint")).unwrap();
    let refused = |bundle: &Bundle, args: &[&str], want: &str| {
        let output = bundle.call(&[args, &[&id]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(want), "want {want:?}: {text}");
        assert_eq!(bundle.ok(&["list", "-q"]), "");
    };
    refused(&bundle, &["restore", "--console-socket", "x"], "is false, but --console-socket is given");
    refused(&bundle, &["restore", "--image-path", "none"], "none is not a directory");
    bundle.spec["process"]["terminal"] = true.into();
    refused(&bundle, &["restore", "--detach"], "needs --console-socket");
    std::fs::write(
        bundle.path().join("checkpoint/descriptors.json"),
        r#"["/dev/null","/dev/null","/dev/null"]"#,
    )
    .unwrap();
    refused(&bundle, &["restore"], "the images are of a container without a terminal");
}

/// The terminal is not in the images: criu is told whose it is, and given a new one.
#[test]
fn a_terminal_is_left_out_and_made_anew() {
    let Some(mut bundle) = bundle("crtty") else { return };
    bundle.spec["process"]["terminal"] = true.into();
    bundle.args(&["sleep", "1000"]);
    let criu = script(&bundle, CRIU);
    let criu = criu.to_str().unwrap();
    let id = bundle.id.clone();
    let path = bundle.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let path = path.to_str().unwrap();
    bundle.ok(&["run", "-d", "--console-socket", path, &id]);
    drop(support::receive_fd(&listener.accept().unwrap().0));
    bundle.ok(&["--criu", criu, "checkpoint", "--image-path", "img", &id]);
    let dump = arguments(&bundle);
    has(&dump, &["--external", "mnt[/dev/console]:/dev/console"]);
    let tty = dump.iter().find(|word| word.starts_with("tty[88")).expect("the terminal is named").clone();
    let links = std::fs::read_to_string(bundle.path().join("img/descriptors.json")).unwrap();
    assert_eq!(links.matches(&tty).count(), 3, "{links}");

    bundle.ok(&["--criu", criu, "restore", "--image-path", "img", "-d", "--console-socket", path, &id]);
    let (name, master) = support::receive_with_text(&listener.accept().unwrap().0);
    assert_eq!(name, "/dev/ptmx");
    assert!(rustix::pty::ptsname(&master, Vec::new()).unwrap().to_str().unwrap().starts_with("/dev/pts/"));
    let restore = arguments(&bundle);
    let inherited: Vec<_> = restore.iter().filter(|word| word.ends_with(&format!(":{tty}"))).collect();
    assert!(inherited.len() == 1 && inherited[0].starts_with("fd["), "{restore:?}");
    assert!(restore.iter().any(|word| word.starts_with("mnt[/dev/console]:/dev/pts/")), "{restore:?}");
    bundle.ok(&["delete", "--force", &id]);
}

/// The real program, where `criu check` says that it works here.
#[test]
fn a_real_one_counts_on() {
    let Some(mut bundle) = bundle("criu") else { return };
    match Command::new("criu").arg("check").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("skipped: criu check: {}", text.lines().next().unwrap_or("failed"));
            return;
        }
        Err(e) => {
            eprintln!("skipped: criu: {e}");
            return;
        }
    }
    bundle.script("i=0; while :; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done");
    bundle.spec["root"]["readonly"] = false.into();
    let number = bundle.rootfs().join("tmp/n");
    let count = || std::fs::read_to_string(&number).ok().and_then(|t| t.trim().parse::<u32>().ok());
    let wait_past = |least: u32| {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while count().is_none_or(|n| n <= least) {
            assert!(std::time::Instant::now() < until, "it does not count past {least}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    let id = bundle.id.clone();
    let status = bundle.command(&["run", "-d", &id]);
    let mut run = status;
    assert!(
        run.stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    wait_past(5);
    bundle.ok(&["checkpoint", "--image-path", "img", &id]);
    let at = count().unwrap();
    bundle.ok(&["restore", "-d", "--image-path", "img", &id]);
    wait_past(at + 3);
    bundle.wait_status("running");
}
