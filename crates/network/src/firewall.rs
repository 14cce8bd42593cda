//! The rules: one nftables table of this daemon's, `inet brig`, and nothing outside it.
//!
//! ```text
//! set bridges        { ifname }                                       our bridges
//! map to, from, post, back { ifname : verdict }                       bridge -> jump to-NAME, from-NAME, …
//! map ports_at       { address . proto . port : address . port }      published on one address
//! map ports_any      { proto . port : address . port }                published on every address
//! map ports6_at, ports6_any                                           the same for IPv6
//! set direct, direct6 { address . proto . port }                      published at the container's own address
//!
//! chain guard       prerouting, raw      from a bridge to 127.0.0.0/8: drop
//! chain publish     prerouting, dstnat   for this host: dnat by ports_at, then ports_any
//! chain publish-out output, dstnat       the same, for what this host sends itself
//! chain forward     forward, filter      established, related: accept; oifname vmap @to; iifname vmap @from
//! chain masquerade  postrouting, srcnat  from 127.0.0.0/8 to a bridge: masquerade; iifname vmap @post; oifname vmap @back
//!
//! chain strangers   forward, filter + 10, only if this host forwarded nothing before: to or from any daemon's bridge
//!                   (interface group "brig"): accept; drop
//!
//! chain to-NAME     published: accept; from NAME: accept or, without icc, drop; drop
//!                   routed: what is in direct, and ICMP: accept; nat-unprotected: accept
//!                   from a trusted interface: what is in direct: accept
//! chain from-NAME   accept; drop if internal
//! chain post-NAME   from a subnet that is not routed, leaving by another interface: masquerade
//! chain back-NAME   from such a subnet to a published port of NAME: masquerade
//! ```
//!
//! The last is for a container that uses its own published port: its kernel would not take a packet from itself.
//! With br_netfilter such a packet is bridged, and has no `iifname` any more where it leaves.
//!
//! So what reaches a container from elsewhere, other bridges included, came through a published port or answers the
//! container. Every change is one batch, which the kernel does whole or not at all, so there is no moment with half
//! the rules. A change also puts the fixed chains in order, which repairs a table that someone emptied.
//!
//! Since Linux 6.9 the table belongs to this process's socket (`owner`, `persist`): `nft flush ruleset`, a firewall's
//! reload and other daemons pass it by, so that nothing is open for a moment and nothing needs to be restored. It stays
//! when the process ends, and the next one takes it over. Older kernels let others flush it; [`watch`](crate::watch)
//! tells of that.
//!
//! An accept here ends only our own table's say: rules of others still apply, as they should.

use crate::guard;
use crate::nft::{self, Batch, ESTABLISHED_OR_RELATED, Expr, IPS_DST_NAT, Type, Value, Verdict};
use crate::{BridgeConfig, BridgeSubnet, Error, GatewayMode, Result, Subnet, name};
use std::collections::HashSet;
use std::sync::OnceLock;

/// The table's name unless another was chosen.
const DEFAULT_TABLE: &str = "brig";
/// `IFLA_GROUP` of our bridges, whichever daemon made them: "brig" in ASCII.
pub(crate) const GROUP: u32 = u32::from_be_bytes(*b"brig");
const STRANGERS: &str = "strangers";
const BRIDGES: &str = "bridges";
pub(crate) const PORTS_AT: &str = "ports_at";
pub(crate) const PORTS_ANY: &str = "ports_any";
pub(crate) const PORTS6_AT: &str = "ports6_at";
pub(crate) const PORTS6_ANY: &str = "ports6_any";
pub(crate) const DIRECT: &str = "direct";
pub(crate) const DIRECT6: &str = "direct6";

const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_FORWARD: u32 = 2;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_INET_POST_ROUTING: u32 = 4;
const NF_IP_PRI_RAW: i32 = -300;
const NF_IP_PRI_NAT_DST: i32 = -100;
const NF_IP_PRI_FILTER: i32 = 0;
const NF_IP_PRI_NAT_SRC: i32 = 100;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;

const ACCEPT: Expr<'_> = Expr::Verdict(Verdict::Accept);
const DROP: Expr<'_> = Expr::Verdict(Verdict::Drop);

static TABLE: OnceLock<&'static str> = OnceLock::new();

/// The name of this process's table.
pub(crate) fn table() -> &'static str {
    TABLE.get_or_init(|| DEFAULT_TABLE)
}

/// The name of the table of a daemon whose default bridge is `bridge`: `brig` for `brig0`.
pub fn table_of(bridge: &str) -> String {
    if bridge == "brig0" { DEFAULT_TABLE.into() } else { format!("{DEFAULT_TABLE}-{bridge}") }
}

/// Chooses the table of this process after the daemon's default bridge: two daemons on one host have one each. To be
/// called once, before any other call that touches rules.
///
/// # Errors
///
/// [`Error::InvalidInterface`]; [`Error::InterfaceTaken`] if the table is chosen already, and is another.
pub fn use_table_of(bridge: &str) -> Result<()> {
    name::check_interface(bridge)?;
    let wanted = table_of(bridge);
    let chosen = TABLE.get_or_init(|| String::leak(wanted.clone()));
    if *chosen == wanted {
        return Ok(());
    }
    Err(Error::InterfaceTaken { name: bridge.into(), owner: format!("table {chosen} of this process") })
}

/// Deletes the table of the daemon whose default bridge is `bridge`, which must not run. Harmless if there is none.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn remove_table_of(bridge: &str) -> Result<()> {
    // A few bytes for each such daemon, of which a test has dozens and a host one.
    let table: &'static str = String::leak(table_of(bridge));
    delete_tables(table, Batch::open_table)
}

/// Deletes the tables of this name, which `make` makes first, so that it is harmless if there are none.
fn delete_tables(table: &'static str, make: impl Fn(&mut Batch)) -> Result<()> {
    let delete = |mut batch: Batch| {
        make(&mut batch);
        batch.delete_table();
        batch.commit("delete the table")
    };
    match delete(Batch::of_devices(table)) {
        Err(e) if !guard::is_without(&e) => return Err(e),
        _ => {}
    }
    delete(Batch::new(table))
}

/// Makes the table, ours alone where the kernel can. Whether it can: nobody else then deletes or empties it, and nobody needs
/// to [`watch`](crate::watch()) it, which would have the kernel tell of each of our own changes.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn claim() -> Result<bool> {
    owned(|| {
        let mut batch = Batch::new(table());
        batch.table();
        batch.commit("make the table")
    })?;
    Ok(nft::can_own())
}

fn loopback() -> Subnet {
    Subnet::new(std::net::Ipv4Addr::new(127, 0, 0, 0).into(), 8).expect("8 is at most 32")
}

/// Deletes our table, and with it every rule of ours. Harmless if there is none.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn remove_all() -> Result<()> {
    delete_tables(table(), Batch::table)
}

/// Changes elements of maps of the table, which costs little. If the table is not as it should be (the kernel finds
/// no such map), it is put in order first, in the same batch.
pub(crate) fn change_elements(operation: &str, change: impl Fn(&mut Batch)) -> Result<()> {
    let mut batch = Batch::new(table());
    change(&mut batch);
    match batch.commit(operation) {
        Err(Error::Firewall { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            commit(operation, change)
        }
        done => done,
    }
}

/// Puts the table in order and does `change`, all in one batch.
fn commit(operation: &str, change: impl Fn(&mut Batch)) -> Result<()> {
    owned(|| {
        let mut batch = begin();
        change(&mut batch);
        batch.commit(operation)
    })
}

/// Makes the table of interfaces' own chains and does `change`, all in one batch. Whether it can be owned is known by now:
/// a network has its rules before anybody is on it.
pub(crate) fn commit_devices(operation: &str, change: impl Fn(&mut Batch)) -> Result<()> {
    let attempt = || {
        let mut batch = Batch::of_devices(table());
        batch.table();
        change(&mut batch);
        batch.commit(operation)
    };
    match attempt() {
        // The table is one that a daemon before this has left. The kernel takes no chain with a hook in the batch in which a
        // table changes hands, and says so with this.
        Err(Error::Firewall { source, .. })
            if source.raw_os_error().map(rustix::io::Errno::from_raw_os_error)
                == Some(rustix::io::Errno::INVAL) =>
        {
            let mut alone = Batch::of_devices(table());
            alone.table();
            alone.commit(operation)?;
            attempt()
        }
        done => done,
    }
}

/// Tries again without ownership where the kernel does not know it.
fn owned(attempt: impl Fn() -> Result<()>) -> Result<()> {
    match attempt() {
        // Linux before 6.9 knows no table that belongs to a socket and outlives it.
        Err(Error::Firewall { source, .. })
            if matches!(
                source.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
                Some(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP)
            ) && nft::cannot_own() =>
        {
            attempt()
        }
        done => done,
    }
}

/// Removes the rules of bridges that are not in `keep`: what daemons that were killed left. How many there were.
///
/// # Errors
///
/// [`Error::Firewall`].
pub fn retain(keep: &[&str]) -> Result<usize> {
    let keep: HashSet<Vec<u8>> = keep.iter().map(|name| nft::ifname(name)).collect();
    let mut removed = 0;
    for (key, _) in nft::list_elements(table(), BRIDGES)? {
        if !keep.contains(&key) {
            let end = key.iter().position(|b| *b == 0).unwrap_or(key.len());
            remove_network(&String::from_utf8_lossy(&key[..end]))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A batch that first makes the table, its sets and its fixed chains be as they should.
fn begin() -> Batch {
    let mut batch = Batch::new(table());
    batch.table();
    batch.set(1, BRIDGES, Type::Ifname, None);
    batch.set(2, "to", Type::Ifname, Some(Type::Verdict));
    batch.set(3, "from", Type::Ifname, Some(Type::Verdict));
    batch.set(4, "post", Type::Ifname, Some(Type::Verdict));
    batch.set(5, "back", Type::Ifname, Some(Type::Verdict));
    batch.set(6, PORTS_AT, Type::AddressProtoPort, Some(Type::AddressPort));
    batch.set(7, PORTS_ANY, Type::ProtoPort, Some(Type::AddressPort));
    batch.set(8, PORTS6_AT, Type::Address6ProtoPort, Some(Type::Address6Port));
    batch.set(9, PORTS6_ANY, Type::ProtoPort, Some(Type::Address6Port));
    batch.set(10, DIRECT, Type::AddressProtoPort, None);
    batch.set(11, DIRECT6, Type::Address6ProtoPort, None);
    let chains = [
        ("guard", "filter", NF_INET_PRE_ROUTING, NF_IP_PRI_RAW),
        ("publish", "nat", NF_INET_PRE_ROUTING, NF_IP_PRI_NAT_DST),
        ("publish-out", "nat", NF_INET_LOCAL_OUT, NF_IP_PRI_NAT_DST),
        ("forward", "filter", NF_INET_FORWARD, NF_IP_PRI_FILTER),
        ("masquerade", "nat", NF_INET_POST_ROUTING, NF_IP_PRI_NAT_SRC),
    ];
    for (name, kind, hook, priority) in chains {
        batch.base_chain(name, kind, hook, priority);
        batch.flush_chain(name);
    }
    // A bridge takes packets for 127.0.0.0/8 once a port is published there, so that answers come back. What a
    // container itself sends there comes before the translation of answers, and is dropped.
    // The destination first: it ends the rule for nearly every packet, and costs less than a look into a set.
    batch.rule("guard", &[Expr::IsIpv4, Expr::Daddr(loopback()), Expr::IifnameIn(BRIDGES), DROP]);
    for chain in ["publish", "publish-out"] {
        // Only what is addressed to this host: CVE-2025-67499 is a rule without this.
        batch.rule(chain, &[Expr::IsIpv4, Expr::ForThisHost, Expr::DnatByAddress(PORTS_AT)]);
        batch.rule(chain, &[Expr::IsIpv4, Expr::ForThisHost, Expr::DnatByPort(PORTS_ANY)]);
        batch.rule(chain, &[Expr::IsIpv6, Expr::ForThisHost, Expr::DnatByAddress6(PORTS6_AT)]);
        batch.rule(chain, &[Expr::IsIpv6, Expr::ForThisHost, Expr::DnatByPort6(PORTS6_ANY)]);
    }
    batch.rule("forward", &[Expr::CtState(ESTABLISHED_OR_RELATED), ACCEPT]);
    batch.rule("forward", &[Expr::OifnameVmap("to")]);
    batch.rule("forward", &[Expr::IifnameVmap("from")]);
    batch.rule(
        "masquerade",
        &[Expr::IsIpv4, Expr::Saddr(loopback()), Expr::OifnameIn(BRIDGES), Expr::Masquerade],
    );
    batch.rule("masquerade", &[Expr::IifnameVmap("post")]);
    batch.rule("masquerade", &[Expr::OifnameVmap("back")]);
    batch
}

/// Drops what is forwarded neither for nor from a container. For a host that forwarded nothing until now: containers
/// need `ip_forward`, which would open the way between all its interfaces. dockerd does the same with a policy.
///
/// It stays until the table goes, because nobody can tell later whether the host would forward without us.
pub(crate) fn close_to_strangers() -> Result<()> {
    commit("close forwarding to others", |batch| {
        batch.base_chain(STRANGERS, "filter", NF_INET_FORWARD, NF_IP_PRI_FILTER + 10);
        batch.flush_chain(STRANGERS);
        batch.rule(STRANGERS, &[Expr::Iifgroup(GROUP), ACCEPT]);
        batch.rule(STRANGERS, &[Expr::Oifgroup(GROUP), ACCEPT]);
        batch.rule(STRANGERS, &[DROP]);
    })
}

/// Makes the rules of a network be as `config` says.
pub(crate) fn ensure_network(config: &BridgeConfig) -> Result<()> {
    let name = config.name.as_str();
    let chains = Chains::of(name);
    commit(&format!("install the rules of {name}"), |batch| {
        chains.make_empty(batch);
        if !config.internal {
            batch.rule(&chains.to, &[Expr::CtStatus(IPS_DST_NAT), ACCEPT]);
        }
        if config.icc {
            batch.rule(&chains.to, &[Expr::Iifname(name), ACCEPT]);
        }
        if !config.internal {
            [false, true].into_iter().for_each(|is_ipv6| let_in_directly(batch, &chains.to, config, is_ipv6));
        }
        batch.rule(&chains.to, &[DROP]);
        batch.rule(&chains.from, &[if config.internal { DROP } else { ACCEPT }]);
        let hidden = config.subnets.iter().filter(|s| !config.internal && s.mode != GatewayMode::Routed);
        for BridgeSubnet { subnet, .. } in hidden {
            let family = if subnet.is_ipv6() { Expr::IsIpv6 } else { Expr::IsIpv4 };
            let source = Expr::Saddr(*subnet);
            batch.rule(
                &chains.back,
                &[Expr::CtStatus(IPS_DST_NAT), family.clone(), source.clone(), Expr::Masquerade],
            );
            if config.masquerade {
                batch.rule(&chains.post, &[family, source, Expr::NotOifname(name), Expr::Masquerade]);
            }
        }
        chains.add_elements(batch, name);
    })
}

/// Lets in what is addressed to containers themselves, as far as the mode of the family allows.
fn let_in_directly(batch: &mut Batch, to: &str, config: &BridgeConfig, is_ipv6: bool) {
    let Some(mode) = config.family(is_ipv6).map(|s| s.mode).next() else { return };
    let (family, icmp, open) = if is_ipv6 {
        (Expr::IsIpv6, IPPROTO_ICMPV6, Expr::IsOpen6(DIRECT6))
    } else {
        (Expr::IsIpv4, IPPROTO_ICMP, Expr::IsOpen(DIRECT))
    };
    match mode {
        GatewayMode::Nat => {
            for interface in &config.trusted {
                batch.rule(to, &[Expr::Iifname(interface), family.clone(), open.clone(), ACCEPT]);
            }
        }
        GatewayMode::NatUnprotected => batch.rule(to, &[family, ACCEPT]),
        GatewayMode::Routed => {
            batch.rule(to, &[family.clone(), Expr::L4Proto(icmp), ACCEPT]);
            batch.rule(to, &[family, open, ACCEPT]);
        }
    }
}

/// Removes the rules of a network. Harmless if there are none: the batch makes what it then deletes.
pub(crate) fn remove_network(name: &str) -> Result<()> {
    let chains = Chains::of(name);
    commit(&format!("remove the rules of {name}"), |batch| {
        chains.make_empty(batch);
        chains.add_elements(batch, name);
        for (set, value) in chains.elements() {
            batch.delete_elements(set, &[(nft::ifname(name), value)]);
        }
        for chain in chains.names() {
            batch.delete_chain(chain);
        }
    })
}

/// The chains of one network.
struct Chains {
    to: String,
    from: String,
    post: String,
    back: String,
}

impl Chains {
    fn of(bridge: &str) -> Chains {
        let chain = |what: &str| format!("{what}-{bridge}");
        Chains { to: chain("to"), from: chain("from"), post: chain("post"), back: chain("back") }
    }

    fn names(&self) -> [&str; 4] {
        [&self.to, &self.from, &self.post, &self.back]
    }

    fn make_empty(&self, batch: &mut Batch) {
        for chain in self.names() {
            batch.chain(chain);
            batch.flush_chain(chain);
        }
    }

    fn elements(&self) -> [(&'static str, Value); 5] {
        let jump = |chain: &String| Value::Verdict(Verdict::Jump(chain.clone()));
        [
            ("to", jump(&self.to)),
            ("from", jump(&self.from)),
            ("post", jump(&self.post)),
            ("back", jump(&self.back)),
            (BRIDGES, Value::None),
        ]
    }

    fn add_elements(&self, batch: &mut Batch, bridge: &str) {
        for (set, value) in self.elements() {
            batch.add_elements(set, &[(nft::ifname(bridge), value)]);
        }
    }
}
