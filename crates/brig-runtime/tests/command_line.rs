//! The command line against runc's manual: each command takes each flag of it, and what is no command line is told in runc's
//! words and with its exit codes. No test here makes a container, so none needs root.
#![expect(clippy::unwrap_used, reason = "a test says why it fails or is skipped")]

#[path = "support/program.rs"]
mod program;

use program::runtime_program;
use std::process::{Command, Output};

/// Of each command: what follows its name so that it is complete, its flags without value, and those with one.
struct Row {
    command: &'static str,
    after: &'static [&'static str],
    switches: &'static [&'static str],
    values: &'static [(&'static str, &'static str)],
}

const TABLE: &[Row] = &[
    Row {
        command: "checkpoint",
        after: &["nobody"],
        switches: &[
            "--leave-running",
            "--tcp-established",
            "--tcp-skip-in-flight",
            "--link-remap",
            "--ext-unix-sk",
            "--shell-job",
            "--lazy-pages",
            "--file-locks",
            "--pre-dump",
            "--auto-dedup",
        ],
        values: &[
            ("--image-path", "x"),
            ("--work-path", "x"),
            ("--parent-path", "x"),
            ("--status-fd", "5"),
            ("--page-server", "127.0.0.1:5"),
            ("--manage-cgroups-mode", "ignore"),
            ("--empty-ns", "network"),
        ],
    },
    Row { command: "delete", after: &["nobody"], switches: &[], values: &[] },
    Row { command: "events", after: &["nobody"], switches: &["--stats"], values: &[("--interval", "5s")] },
    Row {
        command: "exec",
        after: &["nobody", "true"],
        switches: &["--tty", "-t", "--detach", "-d", "--no-new-privs", "--ignore-paused"],
        values: &[
            ("--console-socket", "x"),
            ("--pidfd-socket", "x"),
            ("--cwd", "/"),
            ("--env", "A=b"),
            ("-e", "A=b"),
            ("--user", "1:2"),
            ("-u", "1"),
            ("--additional-gids", "5"),
            ("-g", "5"),
            ("--pid-file", "x"),
            ("--process-label", "x"),
            ("--apparmor", "x"),
            ("--cap", "CAP_CHOWN"),
            ("-c", "CAP_CHOWN"),
            ("--preserve-fds", "0"),
            ("--cgroup", "cpu,cpuacct:x"),
        ],
    },
    Row { command: "kill", after: &["nobody", "TERM"], switches: &["--all", "-a"], values: &[] },
    Row { command: "pause", after: &["nobody"], switches: &[], values: &[] },
    Row {
        command: "ps",
        after: &["nobody", "-ef"],
        switches: &[],
        values: &[("--format", "json"), ("-f", "table")],
    },
    Row { command: "resume", after: &["nobody"], switches: &[], values: &[] },
    Row { command: "start", after: &["nobody"], switches: &[], values: &[] },
    Row { command: "state", after: &["nobody"], switches: &[], values: &[] },
    Row {
        command: "update",
        after: &["nobody"],
        switches: &[],
        values: &[
            ("--resources", "/dev/stdin"),
            ("-r", "-"),
            ("--blkio-weight", "10"),
            ("--cpu-period", "1000"),
            ("--cpu-quota", "1000"),
            ("--cpu-burst", "1000"),
            ("--cpu-share", "10"),
            ("--cpu-rt-period", "1000"),
            ("--cpu-rt-runtime", "1000"),
            ("--cpu-idle", "1"),
            ("--cpuset-cpus", "0"),
            ("--cpuset-mems", "0"),
            ("--kernel-memory", "1g"),
            ("--kernel-memory-tcp", "1g"),
            ("--memory", "1g"),
            ("--memory-reservation", "1g"),
            ("--memory-swap", "-1"),
            ("--pids-limit", "5"),
            ("--l3-cache-schema", "L3:0=f"),
            ("--mem-bw-schema", "MB:0=20"),
        ],
    },
];

/// Of `create` and `run`.
const MAKING: &[(&str, &str)] = &[
    ("--bundle", "."),
    ("-b", "."),
    ("--console-socket", "x"),
    ("--pidfd-socket", "x"),
    ("--pid-file", "x"),
    ("--preserve-fds", "0"),
];

/// Those that begin with a bundle, and find none here.
const WITH_BUNDLE: &[Row] = &[
    Row {
        command: "create",
        after: &["nobody"],
        switches: &["--no-pivot", "--no-new-keyring"],
        values: MAKING,
    },
    Row {
        command: "run",
        after: &["nobody"],
        switches: &["--no-pivot", "--no-new-keyring", "--detach", "-d", "--keep", "--no-subreaper"],
        values: MAKING,
    },
    Row {
        command: "restore",
        after: &["nobody"],
        switches: &[
            "--tcp-established",
            "--ext-unix-sk",
            "--shell-job",
            "--file-locks",
            "--detach",
            "-d",
            "--no-subreaper",
            "--auto-dedup",
            "--lazy-pages",
        ],
        values: &[
            ("--image-path", "x"),
            ("--work-path", "x"),
            ("--manage-cgroups-mode", "soft"),
            ("--bundle", "."),
            ("-b", "."),
            ("--console-socket", "x"),
            ("--pid-file", "x"),
            ("--empty-ns", "network"),
            ("--lsm-profile", "apparmor:x"),
            ("--lsm-mount-context", "x"),
        ],
    },
];

fn call(program: &str, args: &[&str]) -> Output {
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(args).current_dir(empty.path()).env("XDG_RUNTIME_DIR", empty.path());
    command.stdin(std::process::Stdio::null()).output().unwrap()
}

fn ours(args: &[&str]) -> (Option<i32>, String, String) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    let output = call(&runtime_program(), &[&["--root", root], args].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Every flag once: what comes is said of the container, or of the bundle, that is not there, and not of the flag.
fn check(rows: &[Row], want: &str) {
    for row in rows {
        let mut calls: Vec<Vec<&str>> = vec![[&[row.command], row.after].concat()];
        calls.extend(row.switches.iter().map(|flag| [&[row.command, flag], row.after].concat()));
        calls
            .extend(row.values.iter().map(|(flag, value)| [&[row.command, flag, value], row.after].concat()));
        for args in calls {
            let (code, said, error) = ours(&args);
            let failed = if row.command == "exec" { 255 } else { 1 };
            // The resources come from an empty standard input.
            let want = if args.contains(&"-r") || args.contains(&"--resources") { "EOF" } else { want };
            assert!(
                code == Some(failed) && said.is_empty() && error.contains(want),
                "{args:?}: {code:?} {said} {error}"
            );
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

#[test]
fn every_flag_is_known() {
    check(TABLE, "container does not exist");
    check(WITH_BUNDLE, "JSON specification file");
    for args in [
        &["delete", "--force", "nobody"][..],
        &["delete", "-f", "nobody"],
        &["list", "-q"],
        &["list", "--quiet"],
    ] {
        assert_eq!(ours(args), (Some(0), String::new(), String::new()), "{args:?}");
    }
    for args in
        [&["list", "--format", "json"][..], &["list", "-f", "table"], &["features"], &["--version"], &["-v"]]
    {
        assert_eq!(ours(args).0, Some(0), "{args:?}");
    }
    for global in [
        &["--debug"][..],
        &["--log", "l"],
        &["--log-format", "json"],
        &["--log-format", "text"],
        &["--rootless", "true"],
        &["--rootless", "false"],
        &["--rootless", "auto"],
        &["--rootless=1"],
        &["--criu", "x"],
    ] {
        assert_eq!(ours(&[global, &["list", "-q"]].concat()).0, Some(0), "{global:?}");
    }
}

#[test]
fn bad_usage() {
    let exactly = |command: &str, count: &str| format!("{command:?} requires {count} argument(s)");
    let mut table: Vec<(Vec<&str>, i32, String)> = vec![
        (vec!["bogus"], 3, "No help topic for 'bogus'".into()),
        (vec!["--bogus", "list"], 1, "flag provided but not defined: -bogus".into()),
        (vec!["start", "--bogus", "x"], 1, "flag provided but not defined: -bogus".into()),
        (vec!["update", "--bogus", "1", "x"], 1, "flag provided but not defined: -bogus".into()),
        (vec!["checkpoint", "--bogus", "x"], 1, "flag provided but not defined: -bogus".into()),
        (vec!["run", "--preserve-fds", "x", "y"], 1, "invalid value \"x\": parse error".into()),
        (vec!["run", "--bundle"], 1, "flag needs an argument: -bundle".into()),
        (vec!["--log-format", "bad", "list"], 1, "invalid log-format: bad".into()),
        (vec!["list", "-f", "yaml"], 1, "invalid format option".into()),
        (vec!["exec", "x"], 255, "exec failed: container does not exist: x".into()),
        (vec!["state", ""], 1, "container id cannot be empty".into()),
        (vec!["kill"], 1, exactly("kill", "a minimum of 1")),
        (vec!["kill", "a", "9", "b"], 1, exactly("kill", "a maximum of 2")),
        (vec!["exec"], 1, exactly("exec", "a minimum of 1")),
        (vec!["ps"], 1, exactly("ps", "a minimum of 1")),
        (vec!["list", "x"], 1, exactly("list", "exactly 0")),
        (vec!["spec", "x"], 1, exactly("spec", "exactly 0")),
        (vec!["features", "x"], 1, exactly("features", "exactly 0")),
    ];
    for command in [
        "start",
        "state",
        "pause",
        "resume",
        "delete",
        "events",
        "update",
        "create",
        "run",
        "checkpoint",
        "restore",
    ] {
        table.push((vec![command], 1, exactly(command, "exactly 1")));
        table.push((vec![command, "a", "b"], 1, exactly(command, "exactly 1")));
    }
    for (args, code, want) in table {
        let (got, said, error) = ours(&args);
        assert_eq!(
            (got, error.as_str()),
            (Some(code), format!("brig-runtime: {want}\n").as_str()),
            "{args:?}"
        );
        // Where the command line is at fault, and not what it names, its use is shown.
        let usage =
            want.contains("argument") || want.starts_with("flag") || want.starts_with("invalid value");
        assert_eq!(said.starts_with("Incorrect Usage"), usage, "{args:?}: {said}");
        if let Some(command) = args.first().filter(|name| usage && !name.starts_with('-')) {
            assert!(said.contains(&format!("brig-runtime {command}")), "{args:?}: {said}");
        }
    }
}

/// The same exit code and the same words as the runc that is installed, for what is no command line.
#[test]
fn bad_usage_is_runcs() {
    if Command::new("runc").arg("--version").output().is_err() {
        eprintln!("skipped: no runc");
        return;
    }
    for args in [
        &["bogus"][..],
        &["--bogus", "list"],
        &["start", "--bogus", "x"],
        &["start"],
        &["start", "a", "b"],
        &["kill"],
        &["kill", "a", "9", "b"],
        &["ps"],
        &["exec"],
        &["list", "x"],
        &["list", "-f", "yaml"],
        &["spec", "x"],
        &["features", "x"],
        &["--log-format", "bad", "list"],
        &["state", ""],
        &["update"],
        &["events"],
        &["delete", "nobody"],
        &["delete", "--force", "nobody"],
        &["exec", "nobody", "true"],
        &["state", "nobody"],
        &["pause", "nobody"],
        &["kill", "nobody"],
    ] {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().to_str().unwrap();
        let args = [&["--root", root], args].concat();
        let theirs = call("runc", &args);
        let ours = call(&runtime_program(), &args);
        assert_eq!(ours.status.code(), theirs.status.code(), "{args:?}");
        let words = String::from_utf8_lossy(&theirs.stderr).into_owned();
        let message =
            words.rsplit_once("msg=\"").map_or("", |(_, text)| text.trim_end().trim_end_matches('"'));
        let message = message.replace("\\\"", "\"").replace("\\n", "");
        let message = message.strip_prefix("runc: ").unwrap_or(&message);
        let said = String::from_utf8_lossy(&ours.stderr).into_owned();
        assert!(said.contains(message), "{args:?}: runc says {message:?}, ours {said:?}");
    }
}

#[test]
fn help_of_every_command() {
    let (code, said, _) = ours(&["--help"]);
    assert!(
        code == Some(0) && said.starts_with("NAME:\n   brig-runtime - Open Container Initiative runtime\n")
    );
    let names = said.split("COMMANDS:\n").nth(1).unwrap().lines();
    let names: Vec<_> =
        names.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names.len(), 17, "{names:?}");
    for row in TABLE.iter().chain(WITH_BUNDLE) {
        assert!(names.contains(&row.command), "{}", row.command);
        for args in [[row.command, "--help"], [row.command, "-h"], ["help", row.command]] {
            let (code, said, error) = ours(&args);
            assert!(code == Some(0) && error.is_empty(), "{args:?}: {error}");
            assert!(
                said.starts_with(&format!("NAME:\n   brig-runtime {} - ", row.command)),
                "{args:?}: {said}"
            );
        }
        let (_, said, _) = ours(&[row.command, "--help"]);
        let flags = row.switches.iter().chain(row.values.iter().map(|(flag, _)| flag));
        let obsolete = |flag: &str| flag.starts_with("--kernel-memory");
        for flag in flags.filter(|flag| flag.starts_with("--") && row.command != "run" && !obsolete(flag)) {
            assert!(said.contains(flag), "{flag} is not in the help of {}", row.command);
        }
    }
}

#[test]
fn debug_lines() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let log = log.to_str().unwrap();
    let (_, _, error) = ours(&["--debug", "state", "nobody"]);
    assert!(error.contains("level=debug msg=\"brig-runtime "), "{error}");
    let (_, _, error) = ours(&["--debug", "--log", log, "state", "nobody"]);
    assert!(!error.contains("level=debug") && error.contains("container does not exist"), "{error}");
    let text = std::fs::read_to_string(log).unwrap();
    assert!(
        text.contains("level=debug") && text.contains("level=error") && text.contains("ends with 1"),
        "{text}"
    );
    std::fs::remove_file(log).unwrap();
    ours(&["--debug", "--log", log, "--log-format", "json", "state", "nobody"]);
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"] == "debug" || line["level"] == "error", "{line}");
    }
    // A log that cannot be is no log: as runc, nothing is done.
    for bad in ["/no/such/directory/log", "/", "/etc/passwd/log"] {
        let (code, _, error) = ours(&["--log", bad, "list"]);
        assert!(code == Some(1) && error.contains(&format!("open log {bad}: ")), "{code:?} {error}");
    }
    // Also what is no command line is in the log.
    std::fs::remove_file(log).unwrap();
    let (_, _, error) = ours(&["--log", log, "start"]);
    assert!(
        error.contains("requires exactly 1")
            && std::fs::read_to_string(log).unwrap().contains("requires exactly 1")
    );
}
