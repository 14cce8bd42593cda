//! Documents changed at random: whatever is in them, reading, checking and planning end with an answer, never a panic.

use crate::examine::plan_of as answer;
use crate::procfs::Proc;
use oci::runtime::Spec;
use serde_json::{Value, json};

/// A sequence of numbers that is the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// A document that uses every part of the specification.
fn rich() -> Value {
    let mut spec = serde_json::to_value(crate::default_spec()).unwrap();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let process = &mut spec["process"];
    process["user"] = json!({"uid": 5, "gid": 6, "umask": 18, "additionalGids": [7]});
    process["consoleSize"] = json!({"height": 1, "width": 2});
    process["oomScoreAdj"] = 5.into();
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
    process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    process["execCPUAffinity"] = json!({"initial": "0-1", "final": "0"});
    process["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({"destination": "/a", "type": "bind", "source": "/", "options": ["rbind", "rro", "rprivate"]}),
    );
    mounts.push(json!({"destination": "/b", "type": "tmpfs", "options": ["tmpcopyup", "size=1k"]}));
    mounts.push(json!({"destination": "/c", "source": "/etc", "options": ["bind", "ridmap"], "uidMappings": map, "gidMappings": map}));
    mounts.push(json!({"destination": "/d", "options": ["remount", "bind", "ro"]}));
    let linux = &mut spec["linux"];
    linux["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "5"});
    linux["devices"] =
        json!([{"type": "c", "path": "/dev/x", "major": 1, "minor": 5, "fileMode": 438, "uid": 0, "gid": 0}]);
    linux["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/x", "listenerMetadata": "y",
        "syscalls": [{"names": ["read", "kill"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]});
    linux["rootfsPropagation"] = "slave".into();
    linux["personality"] = json!({"domain": "LINUX32"});
    linux["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]});
    linux["netDevices"] = json!({"eth0": {"name": "x%d"}});
    linux["intelRdt"] = json!({"closID": "x", "l3CacheSchema": "L3:0=f", "schemata": ["MB:0=1"]});
    linux["timeOffsets"] = json!({"boottime": {"secs": -5, "nanosecs": 7}});
    linux["resources"] = json!({"devices": [{"allow": true, "type": "c", "major": 1, "minor": -1, "access": "rwm"}],
        "memory": {"limit": -1}, "cpu": {"shares": 2, "cpus": "0"}, "pids": {"limit": 0}, "unified": {"memory.max": "1"}});
    spec["hooks"] =
        json!({"createRuntime": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}]});
    spec["annotations"] = json!({"a": "b"});
    spec
}

fn any_value(random: &mut Random) -> Value {
    let values = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(4_294_967_296u64),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1.5),
        json!(""),
        json!("/"),
        json!(".."),
        json!("a\u{0}b"),
        json!("a\nb"),
        json!("0-99999999"),
        json!("9".repeat(40)),
        json!("x".repeat(70_000)),
        json!("٣"),
        json!("="),
        json!(","),
        json!("%d%d%s"),
        json!("../../.."),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!({"": ""}),
    ];
    values[random.below(values.len())].clone()
}

/// Changes one place, found by walking down at random.
fn change(value: &mut Value, random: &mut Random) {
    let deeper = random.below(5) != 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).unwrap().clone();
            match random.below(12) {
                0 => drop(map.remove(&key)),
                1 => {
                    let moved = map.remove(&key).unwrap();
                    map.insert(["", "\u{0}", "type", "path"][random.below(4)].into(), moved);
                }
                _ => change(&mut map[&key], random),
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let index = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(index)),
                1 => {
                    let again = list[index].clone();
                    list.extend(std::iter::repeat_n(again, 1 + random.below(400)));
                }
                _ => change(&mut list[index], random),
            }
        }
        Value::String(text) if deeper => {
            let end = (0..=text.len())
                .rev()
                .filter(|&at| text.is_char_boundary(at))
                .nth(random.below(text.len() + 1));
            match random.below(4) {
                0 => text.truncate(end.unwrap_or(0)),
                1 => text.push_str(["\n", "\u{0}", "/..", ",x=y", "٣", "+1", "-"][random.below(7)]),
                2 => *text = text.to_uppercase(),
                _ => text.insert(0, 'r'),
            }
        }
        _ => *value = any_value(random),
    }
}

#[test]
fn no_document_makes_it_panic() {
    let proc = Proc::open().unwrap();
    let rich = rich();
    // As it is it is refused for one reason only; without that it is a plan.
    let mut plan = rich.clone();
    plan["linux"].as_object_mut().unwrap().remove("timeOffsets");
    plan["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "cgroup" && m["destination"] != "/c");
    let spec: Spec = serde_json::from_value(plan.clone()).unwrap();
    assert!(answer(&spec, &proc).unwrap() > 30);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut parsed, mut planned) = (0, 0);
    for round in 0..4000 {
        let mut value = if round % 4 == 0 { rich.clone() } else { plan.clone() };
        (0..=random.below(4)).for_each(|_| change(&mut value, &mut random));
        let Ok(spec) = serde_json::from_value::<Spec>(value) else { continue };
        parsed += 1;
        match answer(&spec, &proc) {
            Ok(_) => planned += 1,
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
    // It would prove nothing if all were stopped at the door.
    assert!(parsed > 1000 && planned > 150, "{parsed} parsed, {planned} planned");
}

#[test]
fn no_bytes_make_it_panic() {
    let text = rich().to_string().into_bytes();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..4000 {
        let mut bytes = text.clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"[]{}\",:\\0-e\0"[random.below(12)]),
            }
        }
        drop(serde_json::from_slice::<Spec>(&bytes));
    }
}
