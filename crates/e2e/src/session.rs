//! What a person types, from pull to rmi. Each function is one test, for whichever client; they differ in no word.

use crate::{BUSYBOX, Client, push, shared};
use std::process::Command;
use testkit::daemon::{Daemon, Running, finish};
use testkit::wait_until;

/// Makes a test of each function named, for one client.
#[macro_export]
macro_rules! session_tests {
    ($client:expr; $($name:ident)*) => {$(
        #[test]
        fn $name() {
            $crate::session::$name($client);
        }
    )*};
}

/// `sleep` that ends at SIGTERM also as process 1.
const NAP: &[&str] = &["sh", "-c", "trap 'exit 0' TERM; sleep 300 & wait"];

fn run_detached(client: Client, daemon: &Daemon, name: &str, more: &[&str], command: &[&str]) -> String {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend_from_slice(more);
    args.push(BUSYBOX);
    args.extend_from_slice(command);
    client.run(daemon, &args).success()
}

/// Pulls, again, by digest; lists, inspects, tags, removes.
pub fn images(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let repository = client.name("images");
    let reference = push(&shared, &repository);
    let run = |args: &[&str]| client.run(daemon, args).success();

    let first = run(&["pull", &reference]);
    assert!(first.contains(&format!("Status: Downloaded newer image for {reference}")), "{first}");
    assert!(first.contains("Digest: sha256:"), "{first}");
    let second = run(&["pull", &reference]);
    assert!(second.contains(&format!("Status: Image is up to date for {reference}")), "{second}");
    let digest = first.lines().find_map(|l| l.strip_prefix("Digest: ")).unwrap().to_string();
    let name = reference.strip_suffix(":1").unwrap();
    run(&["pull", "-q", &format!("{name}@{digest}")]);

    let list = run(&["images"]);
    let header: Vec<&str> = list.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]);
    assert!(list.lines().any(|l| l.starts_with(name) && l.split_whitespace().nth(1) == Some("1")), "{list}");
    assert_eq!(run(&["images", "--format", "{{.Repository}}:{{.Tag}}", &reference]), reference);
    let id = run(&["images", "-q", "--no-trunc", &reference]);
    assert_eq!(run(&["inspect", "--format", "{{.Id}}", &reference]), id);
    assert!(run(&["history", &reference]).contains("testkit"));

    let other = format!("{name}:other");
    run(&["tag", &reference, &other]);
    let untagged = run(&["rmi", &other]);
    assert!(untagged.contains(&format!("Untagged: {other}")) && !untagged.contains("Deleted:"), "{untagged}");
    let removed = run(&["rmi", &reference]);
    assert!(removed.contains(&format!("Untagged: {reference}")), "{removed}");
    assert_eq!(run(&["images", "-q", &reference]), "");
    let gone = client.run(daemon, &["rmi", &reference]).expect(1);
    assert!(gone.stderr.contains("No such image"), "{gone:?}");
}

/// An image that is not here is pulled by `run`.
pub fn run_pulls(client: Client) {
    let Some(shared) = shared() else { return };
    let reference = push(&shared, &client.name("run-pulls"));
    let done = client.run(&shared.daemon, &["run", "--rm", &reference, "echo", "hi"]);
    assert_eq!(done.success(), "hi");
    assert!(done.stderr.contains(&format!("Unable to find image '{reference}' locally")), "{done:?}");
    let never = client.run(&shared.daemon, &["run", "--rm", "--pull", "never", "no-such:1"]).expect(125);
    assert!(never.stderr.contains("No such image"), "{never:?}");
}

/// Streams stay apart, input arrives, and nothing is left.
pub fn run_rm(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = client.name("run-rm");
    let script = "echo out; echo err >&2";
    let done = client.run(daemon, &["run", "--rm", "--name", &name, BUSYBOX, "sh", "-c", script]).expect(0);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(client.run(daemon, &["ps", "-aq", "--filter", &format!("name={name}")]).success(), "");

    let big = vec![b'x'; 300_000];
    let echoed = finish(client.command(daemon, &["run", "--rm", "-i", BUSYBOX, "cat"]), &big).expect(0);
    assert_eq!(echoed.stdout.len(), big.len());
    let much = client.run(daemon, &["run", "--rm", BUSYBOX, "seq", "100000"]).expect(0);
    assert!(much.stdout.lines().count() == 100_000 && much.stdout.ends_with("\n100000\n"));
}

/// 0, the command's own, 125, 126, 127, and 128 + signal.
pub fn exit_codes(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let run = |args: &[&str], code: i32| {
        let args: Vec<&str> = ["run", "--rm"].iter().chain(args).copied().collect();
        client.run(daemon, &args).expect(code)
    };
    run(&[BUSYBOX, "true"], 0);
    run(&[BUSYBOX, "sh", "-c", "exit 3"], 3);
    run(&[BUSYBOX, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137);
    let unknown = run(&["--no-such-flag", BUSYBOX], 125);
    assert!(unknown.stderr.contains("--no-such-flag"), "{unknown:?}");
    run(&[BUSYBOX, "/etc/not-a-program"], 126);
    run(&[BUSYBOX, "/etc"], 126);
    let missing = run(&[BUSYBOX, "no-such-program"], 127);
    assert!(missing.stderr.contains("no-such-program"), "{missing:?}");
    run(&[BUSYBOX, "/no/such/program"], 127);
    // What could not start is not there either.
    let left =
        client.run(daemon, &["ps", "-a", "--filter", "status=created", "--format", "{{.Command}}"]).success();
    assert!(!left.contains("no-such-program") && !left.contains("not-a-program"), "{left}");
}

/// From `run -d` to `rm`.
pub fn life(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = client.name("life");
    let filter = format!("name={name}");
    let run = |args: &[&str]| client.run(daemon, args).success();
    let id = run_detached(client, daemon, &name, &[], NAP);
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let list = run(&["ps", "--filter", &filter]);
    assert!(list.starts_with("CONTAINER ID") && list.contains(&id[..12]) && list.contains("Up "), "{list}");
    assert_eq!(run(&["inspect", "-f", "{{.State.Running}} {{.Name}}", &name]), format!("true /{name}"));

    let taken = client.run(daemon, &["run", "-d", "--name", &name, BUSYBOX]).expect(125);
    assert!(taken.stderr.contains("is already in use"), "{taken:?}");
    let running = client.run(daemon, &["rm", &name]).expect(1);
    assert!(running.stderr.contains("running"), "{running:?}");

    assert!(run(&["top", &name]).contains("sleep 300"));
    let new_name = client.name("life-renamed");
    run(&["rename", &name, &new_name]);
    assert_eq!(run(&["stop", &new_name]), new_name);
    assert_eq!(run(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", &id[..12]]), "exited 0");
    assert_eq!(run(&["ps", "-q", "--filter", &filter]), "");
    assert!(run(&["ps", "-a", "--filter", &filter]).contains("Exited (0)"));

    assert_eq!(run(&["start", &new_name]), new_name);
    daemon.wait_status(&id, "running");
    run(&["restart", "-t", "2", &new_name]);
    daemon.wait_status(&id, "running");
    run(&["kill", "-s", "KILL", &new_name]);
    assert_eq!(run(&["wait", &new_name]), "137");
    assert_eq!(run(&["rm", &new_name]), new_name);
    let gone = client.run(daemon, &["inspect", &new_name]).expect(1);
    assert!(gone.stderr.to_lowercase().contains("no such object"), "{gone:?}");

    let forced = run_detached(client, daemon, &name, &[], &["sleep", "300"]);
    assert_eq!(run(&["rm", "-f", &forced]), forced);
}

/// `logs`: all of it, its tail, followed to the end, with times; and after the container ended.
pub fn logs(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = client.name("logs");
    let script = "echo one; echo two >&2; while [ ! -e /go ]; do sleep 0.1; done; echo three; exit 7";
    let id = run_detached(client, daemon, &name, &[], &["sh", "-c", script]);
    let follow = client.start(daemon, &["logs", "-f", &name]);
    follow.wait_stdout("one\n");
    wait_until("both lines are in the log", || {
        let logged = client.run(daemon, &["logs", &name]).expect(0);
        logged.stdout == "one\n" && logged.stderr == "two\n"
    });
    let tail = client.run(daemon, &["logs", "--tail", "1", &name]).expect(0);
    assert_eq!((tail.stdout.as_str(), tail.stderr.as_str()), ("", "two\n"));
    client.run(daemon, &["exec", &name, "touch", "/go"]).success();
    let followed = follow.finish().expect(0);
    assert_eq!((followed.stdout.as_str(), followed.stderr.as_str()), ("one\nthree\n", "two\n"));
    assert_eq!(client.run(daemon, &["wait", &name]).success(), "7");

    let stamped = client.run(daemon, &["logs", "-t", &name]).expect(0);
    let (time, text) = stamped.stdout.lines().next().unwrap().split_once(' ').unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z') && text == "one", "{stamped:?}");
    let since = client.run(daemon, &["logs", "--since", time, &name]).expect(0);
    assert!(since.stdout.contains("three"), "{since:?}");
    let after = client.run(daemon, &["logs", "--since", "2099-01-01T00:00:00Z", &name]).expect(0);
    assert_eq!(after.stdout, "");
    client.run(daemon, &["rm", &id]).success();
}

/// `exec`: output, input, exit codes, directory, environment, user.
pub fn exec(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = client.name("exec");
    let id = run_detached(client, daemon, &name, &["-e", "OUTER=1"], NAP);
    let exec = |args: &[&str]| {
        let args: Vec<&str> = ["exec"].iter().chain(args).copied().collect();
        client.run(daemon, &args)
    };
    assert_eq!(exec(&[&name, "echo", "hi"]).success(), "hi");
    let both = exec(&[&name, "sh", "-c", "echo out; echo err >&2; exit 5"]).expect(5);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(exec(&["-w", "/tmp", &name, "pwd"]).success(), "/tmp");
    assert_eq!(exec(&["-e", "INNER=2", &name, "sh", "-c", "echo $OUTER$INNER"]).success(), "12");
    assert_eq!(
        exec(&["-u", "app", &name, "id"]).success().split(" groups").next(),
        Some("uid=1000(app) gid=1001(app)")
    );
    let piped = finish(client.command(daemon, &["exec", "-i", &name, "cat"]), b"in\n").expect(0);
    assert_eq!(piped.stdout, "in\n");
    exec(&["-d", &name, "touch", "/detached"]).success();
    wait_until("the detached exec did its work", || {
        exec(&[&name, "test", "-e", "/detached"]).code == Some(0)
    });
    exec(&[&name, "no-such-program"]).expect(127);
    exec(&[&name, "/etc/not-a-program"]).expect(126);
    exec(&[&name, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).expect(137);
    let terminal = exec(&["-t", &name, "tty"]).expect(0);
    assert!(terminal.stdout.starts_with("/dev/pts/") && terminal.stdout.ends_with("\r\n"), "{terminal:?}");

    client.run(daemon, &["stop", &name]).success();
    let stopped = exec(&[&name, "true"]).expect(1);
    assert!(stopped.stderr.contains("is not running"), "{stopped:?}");
    client.run(daemon, &["rm", &id]).success();
    let gone = exec(&[&name, "true"]).expect(1);
    assert!(gone.stderr.contains("No such container"), "{gone:?}");
}

/// The client on a terminal of its own, as a person has it.
fn on_terminal(client: Client, daemon: &Daemon, args: &[&str]) -> Running {
    let inner = client.command(daemon, args);
    let quoted = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|w| format!("'{}'", w.to_string_lossy().replace('\'', r"'\''")))
        .collect::<Vec<_>>();
    let mut command = Command::new("script");
    // -e: the client's exit code; -f: flush after each write.
    command.args(["-q", "-e", "-f", "-c", &quoted.join(" "), "/dev/null"]);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Running::start(command)
}

fn type_keys(terminal: &mut Running, keys: &str) {
    use std::io::Write as _;
    terminal.stdin().write_all(keys.as_bytes()).unwrap();
}

/// `run -it`, `exec -it`, `attach`, and the keys that detach.
pub fn terminal(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let without = client.run(daemon, &["run", "--rm", "-t", BUSYBOX, "tty"]).expect(0);
    assert!(without.stdout.starts_with("/dev/pts/") && without.stdout.ends_with("\r\n"), "{without:?}");

    let mut shell = on_terminal(client, daemon, &["run", "--rm", "-it", BUSYBOX, "sh"]);
    shell.wait_stdout("# ");
    type_keys(&mut shell, "echo is $((6*7)); exit 4\n");
    shell.wait_stdout("is 42");
    let done = shell.finish().expect(4);
    assert!(done.stdout.contains("is 42\r\n"), "{done:?}");

    let name = client.name("terminal");
    let mut shell = on_terminal(client, daemon, &["run", "-it", "--name", &name, BUSYBOX, "sh"]);
    shell.wait_stdout("# ");
    type_keys(&mut shell, "\x10\x11");
    shell.finish().expect(0);
    assert_eq!(daemon.state(&name)["Status"], "running");
    let mut exec = on_terminal(client, daemon, &["exec", "-it", &name, "sh"]);
    exec.wait_stdout("# ");
    type_keys(&mut exec, "exit 6\n");
    exec.finish().expect(6);
    let mut attached = on_terminal(client, daemon, &["attach", &name]);
    type_keys(&mut attached, "\n");
    attached.wait_stdout("# ");
    type_keys(&mut attached, "exit 9\n");
    attached.finish().expect(9);
    client.run(daemon, &["rm", &name]).success();
}

/// `create`, then `start -a`; `attach` to what runs.
pub fn attach(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = client.name("attach");
    client.run(daemon, &["create", "--name", &name, "-i", BUSYBOX, "sh", "-c", "cat; exit 8"]).success();
    let done = finish(client.command(daemon, &["start", "-a", "-i", &name]), b"typed\n").expect(8);
    assert_eq!(done.stdout, "typed\n");
    client.run(daemon, &["rm", &name]).success();

    let script = "while [ ! -e /go ]; do sleep 0.1; done; echo late; exit 2";
    run_detached(client, daemon, &name, &[], &["sh", "-c", script]);
    let attached = client.start(daemon, &["attach", "--no-stdin", &name]);
    // There is no state to wait for from outside; what is printed before it is attached would be missed.
    std::thread::sleep(std::time::Duration::from_millis(500));
    client.run(daemon, &["exec", &name, "touch", "/go"]).success();
    let done = attached.finish().expect(2);
    assert_eq!(done.stdout, "late\n");
    client.run(daemon, &["rm", &name]).success();
}

/// The four kinds of network, and the files that go with them.
pub fn networks(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let run = |network: &str, script: &str| {
        let done = client.run(daemon, &["run", "--rm", "--network", network, BUSYBOX, "sh", "-c", script]);
        done.success()
    };
    let interfaces = "ls /sys/class/net | tr '\\n' ' '; readlink /proc/self/ns/net";
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let own = own.to_string_lossy();
    // The machine may have interfaces that every new namespace gets (tunl0, sit0).
    assert!(!run("none", interfaces).contains("eth0"));
    assert!(run("host", interfaces).contains(&*own));
    let bridge = run("bridge", interfaces);
    assert!(bridge.contains("eth0") && !bridge.contains(&*own), "{bridge}");
    let gateway = "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'";
    run("bridge", &format!("ping -c 1 -W 5 $({gateway})"));

    let name = client.name("networks");
    let id = run_detached(client, daemon, &name, &["--hostname", "given"], NAP);
    let address = client.run(daemon, &["exec", &name, "hostname", "-i"]).success();
    assert_eq!(client.run(daemon, &["exec", &name, "hostname"]).success(), "given");
    assert!(run(&format!("container:{name}"), "ip -4 addr show eth0").contains(&address));
    run("bridge", &format!("ping -c 1 -W 5 {address}"));
    client.run(daemon, &["rm", "-f", &id]).success();

    let hostname =
        client.run(daemon, &["run", "-d", "--name", &name, BUSYBOX, "sh", "-c", "hostname; cat /etc/hosts"]);
    let id = hostname.success();
    client.run(daemon, &["wait", &name]).success();
    let said = client.run(daemon, &["logs", &name]).success();
    assert!(said.starts_with(&id[..12]), "{said}");
    assert!(said.lines().any(|l| l.starts_with("127.0.0.1") && l.contains("localhost")), "{said}");
    assert!(said.lines().skip(1).any(|l| l.ends_with(&id[..12])), "{said}");
    client.run(daemon, &["rm", &name]).success();
    let unknown = client.run(daemon, &["run", "--rm", "--network", "no-such", BUSYBOX]).expect(125);
    assert!(unknown.stderr.contains("no-such"), "{unknown:?}");
}

/// User, directory, environment, entry point, mounts, limits, capabilities.
pub fn settings(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let run = |args: &[&str]| {
        let args: Vec<&str> = ["run", "--rm"].iter().chain(args).copied().collect();
        client.run(daemon, &args)
    };
    assert_eq!(run(&["-u", "app", BUSYBOX, "id", "-u"]).success(), "1000");
    assert_eq!(run(&["-u", "12:34", BUSYBOX, "id", "-g"]).success(), "34");
    assert_eq!(run(&["-w", "/var", BUSYBOX, "pwd"]).success(), "/var");
    assert_eq!(run(&["-e", "A=b c", BUSYBOX, "sh", "-c", "echo $A"]).success(), "b c");
    assert_eq!(run(&["--entrypoint", "echo", BUSYBOX, "x"]).success(), "x");
    run(&["--read-only", BUSYBOX, "touch", "/x"]).expect(1);
    run(&["--tmpfs", "/x", "--read-only", BUSYBOX, "touch", "/x/y"]).expect(0);
    let shared_dir = daemon.scratch().join(client.name("bind"));
    std::fs::create_dir(&shared_dir).unwrap();
    let bind = format!("{}:/data", shared_dir.display());
    run(&["-v", &bind, BUSYBOX, "sh", "-c", "echo kept > /data/file"]).success();
    assert_eq!(std::fs::read_to_string(shared_dir.join("file")).unwrap(), "kept\n");
    run(&["-v", &format!("{bind}:ro"), BUSYBOX, "touch", "/data/other"]).expect(1);
    let capabilities = |more: &[&str]| {
        let mut args = more.to_vec();
        args.extend([BUSYBOX, "sed", "-n", "s/^CapEff:.//p", "/proc/self/status"]);
        u64::from_str_radix(&run(&args).success(), 16).unwrap()
    };
    let usual = capabilities(&[]);
    // Docker's fourteen.
    assert_eq!(usual, 0xa804_25fb & usual, "{usual:x}");
    assert_eq!(capabilities(&["--cap-drop", "ALL"]), 0);
    assert_eq!(capabilities(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]), 1);
    assert_eq!(run(&[BUSYBOX, "sed", "-n", "s/^Seccomp:.//p", "/proc/self/status"]).success(), "2");
    let limited = run(&["--memory", "64m", "--pids-limit", "50", BUSYBOX, "true"]).expect(0);
    assert_eq!(limited.stdout, "");
    let memory = ["-m", "32m", BUSYBOX, "sh", "-c", "head -c 200m /dev/zero | tail | wc -c"];
    let killed = run(&memory);
    assert_ne!(killed.stdout.trim(), "209715200", "{killed:?}");
}

/// `load` from a file and from standard input, `version`, `info`.
pub fn load_and_system(client: Client) {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = format!("{}:1", client.name("loaded"));
    let archive = testkit::images::oci_archive(
        &format!("docker.io/library/{name}"),
        &[testkit::images::busybox_layer()],
        &testkit::images::busybox_config(),
    );
    let path = daemon.scratch().join(client.name("archive.tar"));
    std::fs::write(&path, &archive).unwrap();
    let from_file = client.run(daemon, &["load", "-i", path.to_str().unwrap()]).success();
    assert!(from_file.contains(&format!("Loaded image: {name}")), "{from_file}");
    let from_stdin = finish(client.command(daemon, &["load"]), &archive).success();
    assert!(from_stdin.contains(&format!("Loaded image: {name}")), "{from_stdin}");
    assert_eq!(client.run(daemon, &["run", "--rm", &name, "echo", "hi"]).success(), "hi");
    client.run(daemon, &["rmi", &name]).success();

    let version = client.run(daemon, &["version"]).success();
    assert!(version.contains("Client:") && version.contains("Server:"), "{version}");
    let info = client.run(daemon, &["info"]).success().to_string();
    assert!(["erofs", "overlay2"].iter().any(|d| info.contains(&format!("Storage Driver: {d}\n"))), "{info}");
}
