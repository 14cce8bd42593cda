//! Networks on a kernel that has more kinds of interfaces than others, and whose tables belong to nobody (before Linux 6.9).

use super::brigd::{IMAGE, brig, ensure};
use super::inside::{Check, Inside, Outcome, same};
use crate::run::{Error, Result};
use std::time::{Duration, Instant};

pub(super) const CHECKS: &[Check] = &[
    Check { name: "networks: ipvlan in its modes", run: ipvlan },
    Check { name: "networks: macvlan and ipvlan that lead nowhere", run: nowhere },
    Check { name: "networks: rules come back after another program flushed them", run: flush },
];

fn sleeper(inside: &Inside, name: &str, network: &str) -> Result<String> {
    brig(inside, &format!("run -d --name {name} --network {network} {IMAGE} sleep 1000"))
}

fn ipvlan(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    inside.ok("ip link add ivp type veth peer name ivq")?;
    inside.ok("ip link set ivp up")?;
    inside.ok("ip link set ivq up")?;
    for (n, mode) in ["l2", "l3", "l3s"].iter().enumerate() {
        let create = format!(
            "network create -d ipvlan --subnet 10.223.{n}.0/24 -o parent=ivp -o ipvlan_mode={mode} iv"
        );
        brig(inside, &create)?;
        sleeper(inside, "one", "iv")?;
        sleeper(inside, "two", "iv")?;
        brig(inside, "exec one busybox ping -c 1 -W 20 two")?;
        brig(inside, "exec two busybox ping -c 1 -W 20 one")?;
        let kind = brig(inside, "exec one busybox ip route show default")?;
        same(
            &format!("a gateway in mode {mode} ({kind})"),
            &kind.contains("via").to_string(),
            &(*mode == "l2").to_string(),
        )?;
        brig(inside, "network disconnect iv two")?;
        let links = brig(inside, "exec two busybox ip addr")?;
        same("an interface after disconnect", &links.contains("eth0").to_string(), "false")?;
        brig(inside, "network connect iv two")?;
        brig(inside, "exec one busybox ping -c 1 -W 20 two")?;
        brig(inside, "rm -f one two")?;
        brig(inside, "network rm iv")?;
    }
    inside.ok("ip link delete ivp")?;
    Ok(().into())
}

/// Without a parent: a dummy interface is made, and goes with the network.
fn nowhere(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    for driver in ["macvlan", "ipvlan"] {
        brig(inside, &format!("network create -d {driver} --subnet 10.224.0.0/24 alone"))?;
        same("dummies", &inside.ok("ip -o link show type dummy")?.lines().count().to_string(), "1")?;
        sleeper(inside, "one", "alone")?;
        sleeper(inside, "two", "alone")?;
        brig(inside, "exec one busybox ping -c 1 -W 20 two")?;
        brig(inside, "rm -f one two")?;
        brig(inside, "network rm alone")?;
        inside.until("ip -o link show type dummy", "")?;
    }
    Ok(().into())
}

fn flush(inside: &Inside) -> Result<Outcome> {
    ensure(inside)?;
    let script = "mkdir -p /www && echo served > /www/index.html && exec httpd -f -p 80 -h /www";
    let words = ["run", "-d", "--name", "flushed", "-p", "8081:80", IMAGE, "sh", "-c", script];
    inside.words(&[&["/brig/bin/brig"], &words[..]].concat())?;
    inside.until("busybox wget -q -O - http://127.0.0.1:8081/", "served")?;
    let rules = || inside.ok("nft list ruleset");
    let is_there =
        |text: &str| text.contains("map ports_any") && text.contains("8081") && text.contains("netdev");
    if !is_there(&rules()?) {
        return Err(Error::new(format!("not the rules that were expected: {}", rules()?)));
    }
    let (code, text) = inside.call(&["nft", "flush", "ruleset"], Duration::from_secs(60))?;
    let begin = Instant::now();
    if code != Some(0) {
        return Err(Error::new(format!("nft flush ruleset: {text}")));
    }
    while !is_there(&rules()?) {
        if begin.elapsed() > Duration::from_secs(60) {
            return Err(Error::new("the rules do not come back"));
        }
    }
    let took = begin.elapsed();
    inside.until("busybox wget -q -O - http://127.0.0.1:8081/", "served")?;
    brig(inside, "rm -f flushed")?;
    Ok(Outcome::Said(format!("seen after {} ms, on a machine ten times slower", took.as_millis())))
}
