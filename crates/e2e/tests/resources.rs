//! What containers use and may use: `stats` and `update`, by both clients and by the API alone.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::{BUSYBOX, Client, shared};
use serde_json::{Value, json};

const BUSY: &str = "dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null; while :; do :; done";

#[test]
fn stats_once_and_as_a_stream() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = "stats";
    daemon
        .brig(&["run", "-d", "--name", name, "-m", "64m", "--pids-limit", "20", BUSYBOX, "sh", "-c", BUSY])
        .success();
    let one = daemon.get(&format!("/containers/{name}/stats?stream=false&one-shot=true"));
    assert_eq!(one["precpu_stats"]["cpu_usage"]["total_usage"], 0, "{one}");
    assert_eq!(one["memory_stats"]["limit"], 64 << 20);
    assert_eq!(one["pids_stats"]["limit"], 20);
    assert!(one["networks"]["eth0"]["rx_bytes"].is_u64(), "{one}");
    assert_eq!(one["name"], "/stats");

    let two = daemon.get(&format!("/containers/{name}/stats?stream=false"));
    let total = |of: &str| two[of]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert!(total("cpu_stats") > total("precpu_stats") && total("precpu_stats") > 0, "{two}");
    let machine = |of: &str| two[of]["system_cpu_usage"].as_u64().unwrap();
    assert!(machine("cpu_stats") > machine("precpu_stats"), "{two}");
    assert!(two["memory_stats"]["usage"].as_u64().unwrap() >= 8 << 20, "{two}");

    for client in [Client::Brig, Client::Docker] {
        let format = "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}";
        let line = client.run(daemon, &["stats", "--no-stream", "--format", format, name]).success();
        let fields: Vec<&str> = line.split('|').collect();
        let cpu: f64 = fields[1].trim_end_matches('%').parse().unwrap();
        assert!(fields[0] == name && cpu > 1.0 && fields[2].ends_with(" / 64MiB"), "{line}");
        assert_eq!(fields[3], "1", "{line}");
        let table = client.run(daemon, &["stats", "--no-stream"]).success();
        assert!(table.contains("MEM USAGE / LIMIT") && table.contains(name), "{table}");
    }
    daemon.brig(&["rm", "-f", name]).success();

    daemon.brig(&["create", "--name", name, BUSYBOX]).success();
    let none = daemon.get(&format!("/containers/{name}/stats?stream=false"));
    assert_eq!(none["read"], "0001-01-01T00:00:00Z", "{none}");
    let both = daemon.request("GET", &format!("/containers/{name}/stats?stream=1&one-shot=1"), &Value::Null);
    assert_eq!(both.status, 400);
    daemon.brig(&["rm", name]).success();
    let gone = daemon.brig(&["stats", "--no-stream", name]).expect(1);
    assert!(gone.stderr.contains("No such container"), "{gone:?}");
}

#[test]
fn update_changes_what_runs() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = "update";
    let run = |args: &[&str]| daemon.brig(args).success();
    run(&["run", "-d", "--name", name, "-m", "64m", "--cpu-shares", "512", BUSYBOX, "sleep", "300"]);
    let stats = || daemon.get(&format!("/containers/{name}/stats?stream=false&one-shot=true"));
    let host = || daemon.get(&format!("/containers/{name}/json"))["HostConfig"].clone();
    assert_eq!(host()["MemorySwap"], 128 << 20);

    let refused = daemon.docker(&["update", "-m", "256m", name]).expect(1);
    assert!(refused.stderr.contains("update the memoryswap at the same time"), "{refused:?}");
    assert_eq!(
        (stats()["memory_stats"]["limit"].clone(), host()["Memory"].clone()),
        (json!(64 << 20), json!(64 << 20))
    );

    assert_eq!(
        daemon
            .docker(&["update", "-m", "256m", "--memory-swap", "512m", "--pids-limit", "9", name])
            .success(),
        name
    );
    assert_eq!(stats()["memory_stats"]["limit"], 256 << 20);
    assert_eq!(stats()["pids_stats"]["limit"], 9);
    assert_eq!(
        run(&[
            "update",
            "--cpus",
            "0.5",
            "--restart",
            "on-failure:2",
            "-m",
            "32m",
            "--memory-swap",
            "-1",
            name
        ]),
        name
    );
    let now = host();
    assert_eq!((now["Memory"].clone(), now["MemorySwap"].clone()), (json!(32 << 20), json!(-1)));
    assert_eq!((now["NanoCpus"].clone(), now["CpuShares"].clone()), (json!(500_000_000), json!(512)));
    assert_eq!(now["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 2}));
    assert_eq!(stats()["memory_stats"]["limit"], 32 << 20);

    let inside = run(&[
        "exec",
        name,
        "sh",
        "-c",
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true",
    ]);
    assert!(inside.contains("50000"), "{inside}");
    let nano = daemon.brig(&["update", "--cpu-quota", "5000", name]).expect(1);
    assert!(nano.stderr.contains("NanoCPUs has already been set"), "{nano:?}");
    daemon.brig(&["update", "--cpuset-cpus", "4000", name]).expect(1);
    let nothing = daemon.brig(&["update", name]).expect(1);
    assert!(nothing.stderr.contains("one or more flags"), "{nothing:?}");

    // What holds is what the next start gives too.
    run(&["restart", "-t", "0", name]);
    assert_eq!(stats()["memory_stats"]["limit"], 32 << 20);
    run(&["rm", "-f", name]);
    daemon.brig(&["update", "-m", "64m", name]).expect(1);
}

#[test]
fn an_update_looks_at_what_it_names() {
    let Some(shared) = shared() else { return };
    let daemon = &shared.daemon;
    let name = "reserved";
    let flags = ["-m", "64m", "--memory-reservation", "32m"];
    daemon.brig(&[&["create", "--name", name][..], &flags, &[BUSYBOX]].concat()).success();
    let update = |body: Value| daemon.request("POST", &format!("/containers/{name}/update"), &body);
    // The reservation stays above the limit, as the kernel lets it.
    update(json!({"Memory": 16 << 20})).expect(200);
    let host = daemon.get(&format!("/containers/{name}/json"))["HostConfig"].clone();
    assert_eq!((&host["Memory"], &host["MemoryReservation"]), (&json!(16 << 20), &json!(32 << 20)));
    let both = update(json!({"Memory": 16 << 20, "MemoryReservation": 32 << 20}));
    assert_eq!(both.status, 400, "{}", both.text());
    daemon.brig(&["rm", name]).success();
}

#[test]
fn a_runtime_is_named_in_two_places() {
    let Some(shared) = shared() else { return };
    let create = |body: Value| shared.daemon.request("POST", "/containers/create?name=runtime", &body);
    let strange = create(json!({"Image": BUSYBOX, "Runtime": "strange"}));
    assert_eq!(
        (strange.status, strange.message().as_str()),
        (400, "unknown or invalid runtime name: strange")
    );
    create(json!({"Image": BUSYBOX, "Runtime": "strange", "HostConfig": {"Runtime": "brig"}})).expect(201);
    shared.daemon.brig(&["rm", "runtime"]).success();
}
