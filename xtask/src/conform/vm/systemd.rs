//! The systemd driver, against systemd: what is asked for is there as a unit's property and in the cgroup's files, as Debian's
//! runc leaves it; and systemd takes nothing of it back.

use super::inside::{Check, Inside, Outcome, same};
use crate::run::{Doing, Result};
use std::path::Path;

pub(super) const CHECKS: &[Check] = &[
    Check { name: "systemd: limits are properties, as runc's", run: limits_are_properties },
    Check { name: "systemd: update, as runc's", run: updates },
    Check { name: "systemd: keys of `unified`, as runc's", run: unified },
    Check { name: "systemd: a reload takes nothing back", run: reload },
    Check { name: "systemd: slices, and names that are one", run: slices },
    Check { name: "systemd: a container that ends, and delete", run: ends },
    Check { name: "systemd: stopped by systemctl", run: stopped },
    Check { name: "systemd: pause, exec, ps, kill", run: verbs },
    Check { name: "systemd: a user's own scope", run: users_own },
];

const OURS: &str = "/brig/bin/brig-runtime";
const RUNC: &str = "/usr/sbin/runc";

/// What a runtime decides of a unit. Not the weight, for which Debian's runc has the first of two formulas for shares.
const PROPERTIES: &str = "MemoryMax,MemoryLow,MemoryMin,MemoryHigh,MemorySwapMax,CPUQuotaPerSecUSec,CPUQuotaPeriodUSec,TasksMax,AllowedCPUs,\
     AllowedMemoryNodes,Delegate,DefaultDependencies,Slice,MemoryAccounting,CPUAccounting,TasksAccounting,IOAccounting";
/// And of its cgroup.
const FILES: &[&str] = &[
    "memory.max",
    "memory.low",
    "memory.high",
    "memory.min",
    "memory.swap.max",
    "cpu.max",
    "pids.max",
    "cpuset.cpus",
    "cpuset.mems",
];

const LIMITS: &str = r#"{"memory":{"limit":67108864,"reservation":33554432,"swap":134217728},
    "cpu":{"shares":512,"quota":50000,"period":200000,"cpus":"0","mems":"0"},"pids":{"limit":55}}"#;

/// A bundle; `args` is JSON.
fn bundle(inside: &Inside, name: &str, path: &str, args: &str, resources: &str) -> Result<String> {
    let directory = inside.home.join(name);
    let bin = directory.join("rootfs/bin");
    std::fs::create_dir_all(&bin).doing(|| format!("create {}", bin.display()))?;
    std::fs::copy("/bin/busybox", bin.join("busybox")).doing(|| "copy busybox".to_owned())?;
    for applet in ["sh", "sleep", "cat", "true", "id"] {
        // There from the last time.
        drop(std::os::unix::fs::symlink("busybox", bin.join(applet)));
    }
    let text = format!(
        r#"{{"ociVersion":"1.0.2","process":{{"user":{{"uid":0,"gid":0}},"args":{args},"env":["PATH=/bin"],"cwd":"/"}},
        "root":{{"path":"rootfs"}},"mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},
        {{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup"}}],
        "linux":{{"cgroupsPath":"{path}","resources":{resources},
        "namespaces":[{{"type":"pid"}},{{"type":"mount"}},{{"type":"ipc"}},{{"type":"cgroup"}}]}}}}"#
    );
    let config = directory.join("config.json");
    std::fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
    Ok(directory.display().to_string())
}

/// A container that sleeps, in `UNIT.scope` of `brigvm.slice`.
struct Sleeper<'a> {
    inside: &'a Inside,
    runtime: &'static str,
    id: String,
    unit: String,
}

impl<'a> Sleeper<'a> {
    fn start(inside: &'a Inside, runtime: &'static str, name: &str, resources: &str) -> Result<Sleeper<'a>> {
        let id = format!("{name}-{}", Path::new(runtime).file_name().unwrap_or_default().display());
        let path = format!("brigvm.slice:check:{id}");
        let bundle = bundle(inside, &id, &path, r#"["sleep","100000"]"#, resources)?;
        let sleeper = Sleeper { inside, runtime, unit: format!("check-{id}.scope"), id };
        inside.ok(&format!("{runtime} --systemd-cgroup run --detach --bundle {bundle} {}", sleeper.id))?;
        Ok(sleeper)
    }

    fn directory(&self) -> String {
        format!("/sys/fs/cgroup/brigvm.slice/{}", self.unit)
    }

    fn verb(&self, verb: &str, args: &str) -> Result<String> {
        let line = format!("{} --systemd-cgroup {verb} {args}", self.runtime);
        self.inside.ok(format!("{} {}", line.trim_end(), self.id).as_str())
    }

    /// Properties of the unit and what the files say.
    fn seen(&self) -> Result<String> {
        let mut text = self.inside.ok(&format!("systemctl show --property {PROPERTIES} {}", self.unit))?;
        for name in FILES {
            let value = self.inside.file(&format!("{}/{name}", self.directory()))?;
            text += &format!("\n{name} {value}");
        }
        Ok(text)
    }

    fn delete(self) -> Result<()> {
        let directory = self.directory();
        self.verb("delete", "--force")?;
        same("its cgroup is there", &Path::new(&directory).exists().to_string(), "false")?;
        self.inside.until(&format!("systemctl show --property LoadState --value {}", self.unit), "not-found")
    }
}

/// Lines of one that the other has not.
fn compare(ours: &str, theirs: &str) -> Result<()> {
    let only = |a: &str, b: &str| {
        a.lines()
            .filter(|line| !b.lines().any(|l| l == *line))
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join(", ")
    };
    same("ours against runc's", &only(ours, theirs), &only(theirs, ours))
}

fn limits_are_properties(inside: &Inside) -> Result<Outcome> {
    let ours = Sleeper::start(inside, OURS, "limits", LIMITS)?;
    let theirs = Sleeper::start(inside, RUNC, "limits", LIMITS)?;
    compare(&ours.seen()?, &theirs.seen()?)?;
    // 512 of 262144 shares, as runc 1.4 and crun 1.22 count them.
    same("cpu.weight", &inside.file(&format!("{}/cpu.weight", ours.directory()))?, "59")?;
    same("memory.max", &inside.file(&format!("{}/memory.max", ours.directory()))?, "67108864")?;
    ours.delete()?;
    theirs.delete()?;
    Ok(().into())
}

fn updates(inside: &Inside) -> Result<Outcome> {
    let flags = "--memory 128m --memory-swap 256m --memory-reservation 64m --cpu-share 2048 --cpu-quota 70000 --cpu-period 100000 \
                 --pids-limit 77 --cpuset-cpus 1";
    let ours = Sleeper::start(inside, OURS, "update", LIMITS)?;
    let theirs = Sleeper::start(inside, RUNC, "update", LIMITS)?;
    ours.verb("update", flags)?;
    theirs.verb("update", flags)?;
    compare(&ours.seen()?, &theirs.seen()?)?;
    // No limit at all.
    for one in [&ours, &theirs] {
        one.verb("update", "--memory -1 --memory-swap -1 --cpu-quota -1 --pids-limit -1")?;
    }
    compare(&ours.seen()?, &theirs.seen()?)?;
    ours.delete()?;
    theirs.delete()?;
    Ok(().into())
}

fn unified(inside: &Inside) -> Result<Outcome> {
    let limits = r#"{"unified":{"memory.high":"50331648","memory.max":"67108864","memory.min":"4194304","memory.low":"8388608",
        "pids.max":"44","cpu.weight":"33","cpu.max":"30000 100000","cpuset.cpus":"1","cpuset.mems":"0"}}"#;
    let ours = Sleeper::start(inside, OURS, "unified", limits)?;
    let theirs = Sleeper::start(inside, RUNC, "unified", limits)?;
    compare(&ours.seen()?, &theirs.seen()?)?;
    ours.delete()?;
    theirs.delete()?;
    Ok(().into())
}

fn reload(inside: &Inside) -> Result<Outcome> {
    let ours = Sleeper::start(inside, OURS, "reload", LIMITS)?;
    let before = ours.seen()?;
    inside.ok("systemctl daemon-reload")?;
    // A neighbour makes systemd write the slice's cgroups anew.
    let other = Sleeper::start(inside, OURS, "neighbour", "{}")?;
    same("after a reload", &ours.seen()?, &before)?;
    ours.verb("exec", "").map_or(Ok(()), |text| same("exec without a command", &text, "an error"))?;
    other.delete()?;
    ours.delete()?;
    Ok(().into())
}

fn slices(inside: &Inside) -> Result<Outcome> {
    for (path, want) in [
        ("a-b.slice:p:x", "0::/a.slice/a-b.slice/p-x.scope"),
        (":p:x", "0::/system.slice/p-x.scope"),
        ("brigvm.slice::x", "0::/brigvm.slice/x.scope"),
    ] {
        // Seen from the host, since the container's own view begins at its cgroup.
        let bundle = bundle(inside, "slices", path, r#"["sleep","100000"]"#, "{}")?;
        inside.ok(&format!("{OURS} --systemd-cgroup run -d -b {bundle} slices"))?;
        let state = inside.ok(&format!("{OURS} state slices"))?;
        let pid = state.lines().find_map(|l| l.trim().strip_prefix("\"pid\": ")).unwrap_or_default();
        same(path, &inside.file(&format!("/proc/{}/cgroup", pid.trim_end_matches(',')))?, want)?;
        inside.ok(&format!("{OURS} delete --force slices"))?;
    }
    Ok(().into())
}

fn ends(inside: &Inside) -> Result<Outcome> {
    let path = "brigvm.slice:check:ends";
    let directory = bundle(inside, "ends", path, r#"["sh","-c","cat /proc/self/cgroup; exit 7"]"#, LIMITS)?;
    let command = format!("{OURS} --systemd-cgroup run --bundle {directory} ends");
    let words: Vec<&str> = command.split(' ').collect();
    let (code, text) = inside.call(&words, std::time::Duration::from_secs(60))?;
    same("run", &format!("{code:?} {text}"), "Some(7) 0::/")?;
    let unit = "check-ends.scope";
    inside.until(&format!("systemctl show --property LoadState --value {unit}"), "not-found")?;
    same(
        "its cgroup is there",
        &Path::new("/sys/fs/cgroup/brigvm.slice/check-ends.scope").exists().to_string(),
        "false",
    )?;
    // The name is free again.
    let again = inside.call(&words, std::time::Duration::from_secs(60))?;
    same("run again", &format!("{:?} {}", again.0, again.1), "Some(7) 0::/")?;
    Ok(().into())
}

fn stopped(inside: &Inside) -> Result<Outcome> {
    let ours = Sleeper::start(inside, OURS, "stopped", "{}")?;
    inside.ok(&format!("systemctl kill --signal KILL {}", ours.unit))?;
    inside.until(&format!("systemctl is-active {}", ours.unit), "inactive")?;
    let state = ours.verb("state", "")?;
    same("its state", &state.contains(r#""status": "stopped""#).to_string(), "true")?;
    ours.delete()?;
    Ok(().into())
}

fn verbs(inside: &Inside) -> Result<Outcome> {
    let ours = Sleeper::start(inside, OURS, "verbs", LIMITS)?;
    ours.verb("pause", "")?;
    inside.says(&format!("cat {}/cgroup.freeze", ours.directory()), "1")?;
    ours.verb("resume", "")?;
    inside.says(&format!("cat {}/cgroup.freeze", ours.directory()), "0")?;
    inside.says(&format!("{OURS} exec {} cat /proc/self/cgroup", ours.id), "0::/")?;
    let list = ours.verb("ps", "--format json")?;
    same("processes", &list.split(',').count().to_string(), "1")?;
    let events = ours.verb("events", "--stats")?;
    same("events", &events.contains(r#""limit":67108864"#).to_string(), "true")?;
    ours.verb("kill", "--all").map(drop)?;
    ours.delete()?;
    Ok(().into())
}

/// Without privilege, by the user's own systemd: in its cgroup, with limits, and an exec beside it.
fn users_own(inside: &Inside) -> Result<Outcome> {
    const HOME: &str = "/run/user/1000";
    inside.ok("loginctl enable-linger someone")?;
    inside.until(&format!("stat --format=%F {HOME}/bus"), "socket")?;
    let resources = r#"{"memory":{"limit":67108864},"pids":{"limit":55}}"#;
    let path = bundle(inside, "users-own", "user.slice:check:users-own", r#"["sleep","100000"]"#, resources)?;
    let config = Path::new(&path).join("config.json");
    let text = inside.file(&config.display().to_string())?;
    let one = r#"[{"containerID":0,"hostID":1000,"size":1}]"#;
    let text = text.replacen(r#"{"type":"pid"},"#, r#"{"type":"pid"},{"type":"user"},"#, 1);
    let text =
        text.replacen(r#""linux":{"#, &format!(r#""linux":{{"uidMappings":{one},"gidMappings":{one},"#), 1);
    std::fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
    // What is mounted on is made by the user.
    inside.ok(&format!("chown -R 1000:1000 {path}"))?;
    let environment = format!("XDG_RUNTIME_DIR={HOME}");
    let user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", &environment];
    let root = format!("{HOME}/brig");
    let call = |args: &[&str]| {
        inside.words(&[&user[..], &[OURS, "--root", &root, "--systemd-cgroup"], args].concat())
    };
    call(&["run", "--detach", "--bundle", &path, "users-own"])?;
    let unit = "check-users-own.scope";
    let show = |property: &str| {
        let property = format!("--property={property}");
        inside.words(&[&user[..], &["systemctl", "--user", "show", "--value", &property, unit]].concat())
    };
    let group = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/{unit}");
    same("ControlGroup", &show("ControlGroup")?, &group)?;
    same("TasksMax", &show("TasksMax")?, "55")?;
    let file = |name: &str| inside.file(&format!("/sys/fs/cgroup{group}/{name}"));
    same("pids.max", &file("pids.max")?, "55")?;
    same("memory.max", &file("memory.max")?, "67108864")?;
    let pids = call(&["ps", "--format", "json", "users-own"])?;
    same("one process", &pids.matches(',').count().to_string(), "0")?;
    // It sees its own cgroup as the root, and so does who joins it.
    same("exec", &call(&["exec", "users-own", "cat", "/proc/self/cgroup"])?, "0::/")?;
    call(&["exec", "--detach", "users-own", "sleep", "100000"])?;
    same("two processes", &file("cgroup.procs")?.lines().count().to_string(), "2")?;
    call(&["update", "--pids-limit", "44", "users-own"])?;
    same("pids.max", &file("pids.max")?, "44")?;
    same("TasksMax", &show("TasksMax")?, "44")?;
    call(&["pause", "users-own"])?;
    same("cgroup.freeze", &file("cgroup.freeze")?, "1")?;
    call(&["resume", "users-own"])?;
    call(&["delete", "--force", "users-own"])?;
    same("the unit is gone", &show("LoadState")?, "not-found")?;
    match Path::new(&format!("/sys/fs/cgroup{group}")).exists() {
        true => Err(crate::run::Error::new(format!("{group} is left"))),
        false => Ok(Outcome::Passed),
    }
}
