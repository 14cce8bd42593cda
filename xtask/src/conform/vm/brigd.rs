//! The daemon as a service: its units, its socket, its containers' lives and limits, the journal.

use super::inside::{Check, Inside, Outcome, same};
use crate::run::{Doing, Error, Result};
use std::time::Duration;

pub(super) const CHECKS: &[Check] = &[
    Check { name: "brigd: the first client starts it", run: socket },
    Check { name: "brigd: run, exit codes, exec, logs", run: containers },
    Check { name: "brigd: limits and update in the files of v2", run: limits },
    Check { name: "brigd: out of memory, out of processes", run: exhausted },
    Check { name: "brigd: stats, top, pause", run: stats },
    Check { name: "brigd: containers outlive restart, stop and kill of the service", run: restart },
    Check { name: "brigd: a published port", run: port },
    Check { name: "brigd: the journal has the logs", run: journal },
    Check { name: "brigd: sizes limited by project quotas of ext4", run: quotas_ext4 },
    Check { name: "brigd: sizes limited by project quotas of XFS", run: quotas_xfs },
];

pub(super) const IMAGE: &str = "busy:1";

pub(super) fn brig(inside: &Inside, line: &str) -> Result<String> {
    inside.ok(&format!("/brig/bin/brig {line}"))
}

/// The service and an image, made by the first check that needs them.
pub(super) fn ensure(inside: &Inside) -> Result<()> {
    if inside.call(&["systemctl", "is-active", "brig.socket"], Duration::from_secs(60))?.1 != "active" {
        inside.ok("cp /brig/units/brig.socket /brig/units/brig.service /run/systemd/system")?;
        inside.ok("systemctl daemon-reload")?;
        inside.ok("systemctl start brig.socket")?;
    }
    if brig(inside, "images --quiet")?.is_empty() {
        let layer = inside.home.join("layer");
        let bin = layer.join("bin");
        std::fs::create_dir_all(&bin).doing(|| format!("create {}", bin.display()))?;
        inside.ok(&format!("cp /bin/busybox {}", bin.display()))?;
        for applet in ["sh", "true", "cat", "sleep", "echo", "httpd", "tail", "wget", "mkdir"] {
            drop(std::os::unix::fs::symlink("busybox", bin.join(applet)));
        }
        let tar = inside.home.join("layer.tar").display().to_string();
        inside.ok(&format!("tar -C {} -cf {tar} .", layer.display()))?;
        brig(inside, &format!("import {tar} {IMAGE}"))?;
    }
    Ok(())
}

fn pid(inside: &Inside, name: &str) -> Result<String> {
    brig(inside, &format!("inspect --format {{{{.State.Pid}}}} {name}"))
}

/// The directory of a container's cgroup.
fn cgroup(inside: &Inside, name: &str) -> Result<String> {
    let text = inside.file(&format!("/proc/{}/cgroup", pid(inside, name)?))?;
    let path = text.strip_prefix("0::").ok_or_else(|| Error::new(format!("not on v2 alone: {text}")))?;
    Ok(format!("/sys/fs/cgroup{path}"))
}

fn files(inside: &Inside, directory: &str, want: &[(&str, &str)]) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, value) in want {
        let got = inside.file(&format!("{directory}/{name}"))?;
        if got != *value {
            wrong.push(format!("{name} is {got:?}, not {value:?}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::new(wrong.join("; "))) }
}

fn socket(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    inside.says("systemctl is-active brig.service", "active")?;
    inside.says("systemctl show --property NRestarts --value brig.service", "0")?;
    inside.says("stat --format=%a /run/brig/brig.sock", "660")?;
    let driver = brig(inside, "info --format {{.CgroupVersion}}|{{.Driver}}")?;
    same("cgroup version and driver", &driver, "2|overlay2")?;
    Ok(().into())
}

fn containers(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    same("its output", &brig(inside, &format!("run --rm {IMAGE} echo inside"))?, "inside")?;
    let words = ["/brig/bin/brig", "run", "--rm", IMAGE, "sh", "-c", "exit 9"];
    let (code, text) = inside.call(&words, Duration::from_secs(60))?;
    same("its exit", &format!("{code:?} {text}"), "Some(9) ")?;
    inside.words(&[
        "/brig/bin/brig",
        "run",
        "-d",
        "--name",
        "one",
        IMAGE,
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    ])?;
    inside.until("/brig/bin/brig logs one", "up")?;
    same("exec", &brig(inside, "exec one cat /proc/self/cgroup")?, "0::/")?;
    brig(inside, "rm -f one")?;
    Ok(().into())
}

fn limits(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    brig(
        inside,
        &format!(
            "run -d --name limits -m 64m --memory-reservation 32m --memory-swap 96m --cpus 0.5 --cpu-shares 512 --cpuset-cpus 1 --pids-limit 20 \
             --device-write-bps /dev/nvme0n1:1mb --device-read-iops /dev/nvme0n1:100 {IMAGE} sleep 1000"
        ),
    )?;
    let directory = cgroup(inside, "limits")?;
    files(
        inside,
        &directory,
        &[
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.swap.max", "33554432"),
            ("cpu.max", "50000 100000"),
            // Of 512 shares, by the newer of the two formulas.
            ("cpu.weight", "59"),
            ("cpuset.cpus", "1"),
            ("pids.max", "20"),
        ],
    )?;
    let io = inside.file(&format!("{directory}/io.max"))?;
    for part in ["wbps=1048576", "riops=100"] {
        same(&format!("io.max {io:?} has {part}"), &io.contains(part).to_string(), "true")?;
    }
    brig(inside, "update -m 128m --memory-swap -1 --pids-limit 33 --cpus 1.5 --cpuset-cpus 0-1 limits")?;
    files(
        inside,
        &directory,
        &[
            ("memory.max", "134217728"),
            ("memory.swap.max", "max"),
            ("pids.max", "33"),
            ("cpu.max", "150000 100000"),
            ("cpuset.cpus", "0-1"),
        ],
    )?;
    // systemd, when it goes over its units, leaves them.
    inside.ok("systemctl daemon-reload")?;
    files(inside, &directory, &[("memory.max", "134217728"), ("pids.max", "33")])?;
    brig(inside, "rm -f limits")?;
    same("its cgroup is there", &std::path::Path::new(&directory).exists().to_string(), "false")?;
    Ok(().into())
}

fn exhausted(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    let words = [
        "/brig/bin/brig",
        "run",
        "--name",
        "eats",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        IMAGE,
        "tail",
        "/dev/zero",
    ];
    let (code, text) = inside.call(&words, Duration::from_secs(100))?;
    same(&format!("exit of one without memory ({text})"), &format!("{code:?}"), "Some(137)")?;
    same("OOMKilled", &brig(inside, "inspect --format {{.State.OOMKilled}} eats")?, "true")?;
    brig(inside, "rm eats")?;
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo all";
    let (code, text) = inside.call(
        &["/brig/bin/brig", "run", "--rm", "--pids-limit", "4", IMAGE, "sh", "-c", script],
        Duration::from_secs(60),
    )?;
    same(
        "one without processes",
        &format!("{} {}", code == Some(0), text.contains("can't fork")),
        "false true",
    )?;
    Ok(().into())
}

fn stats(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    brig(inside, &format!("run -d --name stats -m 32m --pids-limit 9 {IMAGE} sleep 1000"))?;
    let line = brig(inside, "stats --no-stream --format {{.MemUsage}}|{{.PIDs}} stats")?;
    same(&format!("stats {line}"), &(line.contains("/ 32MiB|1")).to_string(), "true")?;
    let top = brig(inside, "top stats")?;
    same("top", &top.contains("sleep 1000").to_string(), "true")?;
    brig(inside, "pause stats")?;
    let directory = cgroup(inside, "stats")?;
    files(inside, &directory, &[("cgroup.freeze", "1")])?;
    brig(inside, "unpause stats")?;
    files(inside, &directory, &[("cgroup.freeze", "0")])?;
    brig(inside, "rm -f stats")?;
    Ok(().into())
}

fn restart(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 1; done";
    inside.words(&["/brig/bin/brig", "run", "-d", "--name", "lives", IMAGE, "sh", "-c", script])?;
    let before = pid(inside, "lives")?;
    let daemon = || inside.ok("systemctl show --property MainPID --value brig.service");
    let mut last = daemon()?;
    for action in
        ["restart brig.service", "stop brig.service", "kill --kill-whom=main --signal KILL brig.service"]
    {
        inside.ok(&format!("systemctl {action}"))?;
        // The socket is systemd's all the time: a client waits, and is served.
        same(&format!("its process after {action}"), &pid(inside, "lives")?, &before)?;
        same("its state", &brig(inside, "inspect --format {{.State.Status}} lives")?, "running")?;
        same("exec", &brig(inside, "exec lives echo there")?, "there")?;
        let now = daemon()?;
        same(&format!("another daemon after {action}"), &(now != last).to_string(), "true")?;
        last = now;
    }
    let count = || Ok::<_, Error>(brig(inside, "logs lives")?.lines().count());
    let first = count()?;
    inside.ok("sleep 3")?;
    same("it goes on logging", &(count()? > first).to_string(), "true")?;
    brig(inside, "rm -f lives")?;
    Ok(().into())
}

fn port(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    let script = "mkdir -p /www && echo served > /www/index.html && exec httpd -f -p 80 -h /www";
    inside.words(&[
        "/brig/bin/brig",
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        IMAGE,
        "sh",
        "-c",
        script,
    ])?;
    inside.until("busybox wget -q -O - http://127.0.0.1:8080/", "served")?;
    let address = brig(inside, "inspect --format {{.NetworkSettings.IPAddress}} web")?;
    let text = brig(inside, &format!("run --rm {IMAGE} wget -q -O - http://{address}/"))?;
    same("from another container", &text, "served")?;
    brig(inside, "rm -f web")?;
    Ok(().into())
}

fn journal(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    let script = "echo first; echo second >&2";
    let words = [
        "run",
        "--name",
        "journal",
        "--log-driver",
        "journald",
        "--log-opt",
        "tag=tagged",
        IMAGE,
        "sh",
        "-c",
        script,
    ];
    inside.words(&[&["/brig/bin/brig"], &words[..]].concat())?;
    inside.until("journalctl --quiet --output cat CONTAINER_NAME=journal", "first\nsecond")?;
    inside.says("journalctl --quiet --output cat CONTAINER_TAG=tagged PRIORITY=3", "second")?;
    inside.says("journalctl --quiet --output cat SYSLOG_IDENTIFIER=tagged PRIORITY=6", "first")?;
    let both = inside.ok("/brig/bin/brig logs journal")?;
    same("logs", &(both.contains("first") && both.contains("second")).to_string(), "true")?;
    brig(inside, "rm journal")?;
    Ok(().into())
}

fn quotas_ext4(inside: &Inside) -> Result<Outcome> {
    quotas(inside, "ext4", "mkfs.ext4 -q -O quota,project -E quotatype=prjquota")
}

fn quotas_xfs(inside: &Inside) -> Result<Outcome> {
    quotas(inside, "xfs", "mkfs.xfs -q")
}

/// A daemon of its own on a file system that limits what projects take; and on the same without that.
fn quotas(inside: &Inside, kind: &str, mkfs: &str) -> Result<Outcome> {
    ensure(inside)?;
    let home = inside.home.join(format!("quota-{kind}"));
    let root = home.join("fs");
    std::fs::create_dir_all(&root).doing(|| format!("create {}", root.display()))?;
    let (image, root, home) =
        (home.join("image").display().to_string(), root.display().to_string(), home.display().to_string());
    let tar = inside.home.join("layer.tar").display().to_string();
    inside.ok(&format!("truncate -s 600M {image}"))?;
    inside.ok(&format!("{mkfs} {image}"))?;
    let client = |line: &str| format!("/brig/bin/brig -H unix://{home}/s {line}");
    for (enforced, driver) in [(true, "overlay"), (true, "vfs"), (false, "overlay"), (false, "vfs")] {
        let unit = format!("quota-{kind}-{driver}-{enforced}");
        let options = if enforced { "loop,prjquota" } else { "loop" };
        inside.ok(&format!("mount -t {kind} -o {options} {image} {root}"))?;
        let daemon = [
            "systemd-run",
            "--unit",
            &unit,
            "-p",
            "KillMode=process",
            "/brig/bin/brigd",
            "-H",
            &format!("unix://{home}/s"),
            "--data-root",
            &format!("{root}/data"),
            "--exec-root",
            &format!("{home}/exec"),
            "--cgroup-parent",
            "/quota",
            "--bridge",
            "quota0",
            "--config-file",
            "/dev/null",
            "--storage-driver",
            driver,
        ]
        .map(str::to_owned);
        inside.words(&daemon.each_ref().map(String::as_str))?;
        inside.until(&client("version --format {{.Server.Os}}"), "linux")?;
        if enforced {
            inside.ok(&client(&format!("import {tar} {IMAGE}")))?;
            // More than the limit does not fit, and what is deleted makes room again; a container without a limit takes more.
            let script = "b=/bin/busybox; $b dd if=/dev/zero of=/much bs=1M count=16; test $? != 0 || exit 3; $b rm /much; \
                          $b dd if=/dev/zero of=/less bs=1M count=4 && echo fits";
            let words = ["--storage-opt", "size=8m", IMAGE, "busybox", "sh", "-c", script];
            let run = |more: &[&str]| {
                let client = client("run --network none --name one");
                let line: Vec<&str> = client.split(' ').chain(more.iter().copied()).collect();
                inside.words(&line)
            };
            let said = run(&words)?;
            same("what it says", &said.ends_with("fits").to_string(), "true")?;
            inside.ok(&client("rm one"))?;
            run(&[IMAGE, "busybox", "dd", "if=/dev/zero", "of=/much", "bs=1M", "count=16"])?;
            inside.ok(&client("rm one"))?;
            // A volume likewise, whichever container fills it.
            inside.ok(&client("volume create -o size=8m sized"))?;
            let script = "b=/bin/busybox; $b dd if=/dev/zero of=/v/much bs=1M count=16; test $? != 0 || exit 3; $b rm /v/much; \
                          $b dd if=/dev/zero of=/v/less bs=1M count=4 && echo fits";
            for _ in 0..2 {
                let said = run(&["-v", "sized:/v", IMAGE, "busybox", "sh", "-c", script])?;
                same("what the volume's user says", &said.ends_with("fits").to_string(), "true")?;
                inside.ok(&client("rm one"))?;
            }
            inside.ok(&client("volume rm sized"))?;
        } else {
            let line = client(&format!("run --rm --storage-opt size=8m {IMAGE} true"));
            let words: Vec<&str> = line.split(' ').collect();
            let (code, text) = inside.call(&words, Duration::from_secs(60))?;
            let refused = text.contains("cannot limit the size");
            same("a mount without limits", &format!("{code:?} {refused}"), "Some(125) true")?;
            let line = client("volume create -o size=8m sized");
            let (code, text) = inside.call(&line.split(' ').collect::<Vec<_>>(), Duration::from_secs(60))?;
            let refused = text.contains("quota size requested but no quota support");
            same("a volume there", &format!("{code:?} {refused}"), "Some(1) true")?;
        }
        inside.ok(&format!("systemctl stop {unit}"))?;
        inside.ok(&format!("umount -R {root}"))?;
    }
    Ok(().into())
}
