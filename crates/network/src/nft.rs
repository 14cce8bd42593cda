//! nftables batches: tables, chains, rules, maps and their elements, in the kernel's words. What a batch says is
//! done as a whole or not at all.
//!
//! Kernel: `include/uapi/linux/netfilter/nf_tables.h`; [nft(8)](https://man7.org/linux/man-pages/man8/nft.8.html) for
//! what the expressions mean.

mod ownership;

use crate::netlink::{Attributes, Failure, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Request, Socket, read_text};
use crate::{Error, Result, Subnet};
use ownership::{is_lost, own_again};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_NETDEV: u8 = 5;
const NFPROTO_IPV6: u8 = 10;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;
const NLM_F_APPEND: u16 = 0x800;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_OWNER: u32 = 0x2;
const NFT_TABLE_F_PERSIST: u32 = 0x4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NF_NETDEV_INGRESS: u32 = 0;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFT_SET_MAP: u32 = 0x8;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_REG32_01: u32 = 9;
const NFT_REG32_02: u32 = 10;
const NFT_REG32_04: u32 = 12;
const NFT_REG32_05: u32 = 13;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// -3 in two's complement.
const NFT_JUMP: u32 = 0xffff_fffd;

const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_META_PROTOCOL: u32 = 1;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_META_IIFGROUP: u32 = 21;
const NFT_META_OIFGROUP: u32 = 22;
const NFT_PAYLOAD_LL_HEADER: u32 = 0;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NFT_NAT_DNAT: u32 = 1;

/// `ct state`: `NF_CT_STATE_BIT` of established and related.
pub(crate) const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// `ct status dnat`.
pub(crate) const IPS_DST_NAT: u32 = 0x20;

/// Longest list of elements in one message: an attribute has 16 bits for its length, an element under 100 bytes.
const MAX_ELEMENTS: usize = 500;

/// nft's numbers for data types, which only `nft list` reads.
const TYPE_IPADDR: u32 = 7;
const TYPE_IP6ADDR: u32 = 8;
const TYPE_INET_PROTOCOL: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;
const TYPE_BITS: u32 = 6;

/// What a set's or a map's keys are, or a map's values.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Ifname,
    /// `inet_proto . inet_service`
    ProtoPort,
    /// `ipv4_addr . inet_proto . inet_service`
    AddressProtoPort,
    /// `ipv4_addr . inet_service`
    AddressPort,
    /// `ipv6_addr . inet_proto . inet_service`
    Address6ProtoPort,
    /// `ipv6_addr . inet_service`
    Address6Port,
    Verdict,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Type::Ifname => TYPE_IFNAME,
            Type::ProtoPort => (TYPE_INET_PROTOCOL << TYPE_BITS) | TYPE_INET_SERVICE,
            Type::AddressProtoPort => {
                (TYPE_IPADDR << (2 * TYPE_BITS)) | (TYPE_INET_PROTOCOL << TYPE_BITS) | TYPE_INET_SERVICE
            }
            Type::AddressPort => (TYPE_IPADDR << TYPE_BITS) | TYPE_INET_SERVICE,
            Type::Address6ProtoPort => {
                (TYPE_IP6ADDR << (2 * TYPE_BITS)) | (TYPE_INET_PROTOCOL << TYPE_BITS) | TYPE_INET_SERVICE
            }
            Type::Address6Port => (TYPE_IP6ADDR << TYPE_BITS) | TYPE_INET_SERVICE,
            Type::Verdict => NFT_DATA_VERDICT,
        }
    }

    fn length(self) -> u32 {
        match self {
            Type::Ifname => 16,
            Type::ProtoPort | Type::AddressPort => 8,
            Type::AddressProtoPort => 12,
            Type::Address6ProtoPort => 24,
            Type::Address6Port => 20,
            Type::Verdict => 0,
        }
    }
}

/// What happens to a packet, or where it goes on.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Jump(String),
}

/// One step of a rule. A match that fails ends the rule.
#[derive(Debug, Clone)]
pub(crate) enum Expr<'a> {
    IsIpv4,
    IsIpv6,
    /// `iifgroup n`
    Iifgroup(u32),
    /// `oifgroup n`
    Oifgroup(u32),
    Iifname(&'a str),
    NotOifname(&'a str),
    IifnameIn(&'a str),
    OifnameIn(&'a str),
    /// `iifname vmap @…`
    IifnameVmap(&'a str),
    /// `oifname vmap @…`
    OifnameVmap(&'a str),
    /// `ip saddr a/n` or `ip6 saddr a/n`; only behind `IsIpv4` or `IsIpv6`.
    Saddr(Subnet),
    /// `ip daddr a/n` or `ip6 daddr a/n`; only behind `IsIpv4` or `IsIpv6`.
    Daddr(Subnet),
    /// Any of the bits of `ct state`.
    CtState(u32),
    /// Any of the bits of `ct status`.
    CtStatus(u32),
    /// `fib daddr type local`: the packet is for this host.
    ForThisHost,
    /// `dnat ip to ip daddr . meta l4proto . th dport map @…`
    DnatByAddress(&'a str),
    /// `dnat ip to meta l4proto . th dport map @…`
    DnatByPort(&'a str),
    /// `dnat ip6 to ip6 daddr . meta l4proto . th dport map @…`
    DnatByAddress6(&'a str),
    /// `dnat ip6 to meta l4proto . th dport map @…`
    DnatByPort6(&'a str),
    /// `ip daddr . meta l4proto . th dport @…`
    IsOpen(&'a str),
    /// `ip6 daddr . meta l4proto . th dport @…`
    IsOpen6(&'a str),
    /// `meta l4proto n`
    L4Proto(u8),
    /// `th dport n`; only behind `L4Proto`.
    Dport(u16),
    /// `th sport n`; only behind `L4Proto`.
    Sport(u16),
    /// `th dport set n`, no state kept; only behind `L4Proto`, which it is given again for the checksum.
    SetDport(u8, u16),
    /// `th sport set n`, likewise.
    SetSport(u8, u16),
    Masquerade,
    /// `meta protocol n`, an EtherType.
    EtherType(u16),
    /// These bytes are (or with `false` are not) at the offset in a header.
    Bytes(Header, u32, &'a [u8], bool),
    /// The address at the offset in the network header is of the subnet.
    AddressAt(u32, Subnet),
    /// As [`Expr::AddressAt`], in the transport header.
    TargetAt(u32, Subnet),
    Verdict(Verdict),
}

/// Where a header begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Header {
    Link,
    Network,
    Transport,
}

impl Header {
    fn number(self) -> u32 {
        match self {
            Header::Link => NFT_PAYLOAD_LL_HEADER,
            Header::Network => NFT_PAYLOAD_NETWORK_HEADER,
            Header::Transport => NFT_PAYLOAD_TRANSPORT_HEADER,
        }
    }
}

/// The value of a map's element.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// The element of a set.
    None,
    Verdict(Verdict),
    Bytes(Vec<u8>),
}

/// Whether the kernel lets a table belong to a socket and outlive it: Linux 6.9.
static CAN_OWN: AtomicBool = AtomicBool::new(true);

/// Changes to the table `inet <table>`, or to `netdev <table>`.
#[derive(Debug)]
pub(crate) struct Batch {
    request: Request,
    family: u8,
    table: &'static str,
}

impl Batch {
    pub(crate) fn new(table: &'static str) -> Batch {
        Batch::of_family(NFPROTO_INET, table)
    }

    /// Of the table whose chains are interfaces' own.
    pub(crate) fn of_devices(table: &'static str) -> Batch {
        Batch::of_family(NFPROTO_NETDEV, table)
    }

    fn of_family(family: u8, table: &'static str) -> Batch {
        let mut request = Request::default();
        request.message(NFNL_MSG_BATCH_BEGIN, 0, &batch_header(), |_| {});
        Batch { request, family, table }
    }

    /// Makes the table unless it exists, and makes it ours alone where the kernel can: nobody else then changes or
    /// flushes it while this process lives, and it stays when the process ends.
    pub(crate) fn table(&mut self) {
        self.table_with(if can_own() { NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST } else { 0 });
    }

    /// Makes the table unless it exists; anybody may change it.
    pub(crate) fn open_table(&mut self) {
        self.table_with(0);
    }

    fn table_with(&mut self, flags: u32) {
        let table = self.table;
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |r| {
            r.text(NFTA_TABLE_NAME, table);
            if flags != 0 {
                r.be32(NFTA_TABLE_FLAGS, flags);
            }
        });
    }

    /// Deletes the table and all in it. It must exist.
    pub(crate) fn delete_table(&mut self) {
        let table = self.table;
        self.message(NFT_MSG_DELTABLE, 0, |r| r.text(NFTA_TABLE_NAME, table));
    }

    /// Makes a chain that packets enter at `hook`, unless it exists. `kind` is `filter` or `nat`.
    pub(crate) fn base_chain(&mut self, name: &str, kind: &str, hook: u32, priority: i32) {
        let table = self.table;
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |r| {
            r.text(NFTA_CHAIN_TABLE, table);
            r.text(NFTA_CHAIN_NAME, name);
            r.nest(NFTA_CHAIN_HOOK, |r| {
                r.be32(NFTA_HOOK_HOOKNUM, hook);
                r.attribute(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
            });
            r.be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
            r.text(NFTA_CHAIN_TYPE, kind);
        });
    }

    /// Makes a chain that packets enter as they come in by `device`, unless it exists. It goes with the device.
    pub(crate) fn device_chain(&mut self, name: &str, device: &str) {
        let table = self.table;
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |r| {
            r.text(NFTA_CHAIN_TABLE, table);
            r.text(NFTA_CHAIN_NAME, name);
            r.nest(NFTA_CHAIN_HOOK, |r| {
                r.be32(NFTA_HOOK_HOOKNUM, NF_NETDEV_INGRESS);
                r.be32(NFTA_HOOK_PRIORITY, 0);
                r.text(NFTA_HOOK_DEV, device);
            });
            r.be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
            r.text(NFTA_CHAIN_TYPE, "filter");
        });
    }

    /// Makes a chain to jump to, unless it exists.
    pub(crate) fn chain(&mut self, name: &str) {
        let table = self.table;
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |r| {
            r.text(NFTA_CHAIN_TABLE, table);
            r.text(NFTA_CHAIN_NAME, name);
        });
    }

    /// Deletes a chain that has no rules and that nothing jumps to.
    pub(crate) fn delete_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(NFT_MSG_DELCHAIN, 0, |r| {
            r.text(NFTA_CHAIN_TABLE, table);
            r.text(NFTA_CHAIN_NAME, name);
        });
    }

    /// Deletes every rule of a chain.
    pub(crate) fn flush_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(NFT_MSG_DELRULE, 0, |r| {
            r.text(NFTA_RULE_TABLE, table);
            r.text(NFTA_RULE_CHAIN, name);
        });
    }

    /// Appends a rule to a chain.
    pub(crate) fn rule(&mut self, chain: &str, expressions: &[Expr<'_>]) {
        let table = self.table;
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |r| {
            r.text(NFTA_RULE_TABLE, table);
            r.text(NFTA_RULE_CHAIN, chain);
            r.nest(NFTA_RULE_EXPRESSIONS, |r| expressions.iter().for_each(|e| put_expr(r, e)));
        });
    }

    /// Makes a set, or with `value` a map, unless it exists. `id` is unique in the batch.
    pub(crate) fn set(&mut self, id: u32, name: &str, key: Type, value: Option<Type>) {
        let table = self.table;
        self.message(NFT_MSG_NEWSET, NLM_F_CREATE, |r| {
            r.text(NFTA_SET_TABLE, table);
            r.text(NFTA_SET_NAME, name);
            r.be32(NFTA_SET_FLAGS, if value.is_some() { NFT_SET_MAP } else { 0 });
            r.be32(NFTA_SET_KEY_TYPE, key.number());
            r.be32(NFTA_SET_KEY_LEN, key.length());
            if let Some(value) = value {
                r.be32(NFTA_SET_DATA_TYPE, value.number());
                r.be32(NFTA_SET_DATA_LEN, value.length());
            }
            r.be32(NFTA_SET_ID, id);
            if matches!(key, Type::Ifname) {
                // NFTNL_UDATA_SET_KEYBYTEORDER, 4 bytes, BYTEORDER_HOST_ENDIAN: without it `nft list` shows names
                // backwards.
                let [a, b, c, d] = 1u32.to_ne_bytes();
                r.attribute(NFTA_SET_USERDATA, &[0, 4, a, b, c, d]);
            }
        });
    }

    /// Adds elements to a set or map. One that is there with the same value is fine, with another it is an error.
    pub(crate) fn add_elements(&mut self, set: &str, elements: &[(Vec<u8>, Value)]) {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements);
    }

    /// Deletes elements, which must be there.
    pub(crate) fn delete_elements(&mut self, set: &str, elements: &[(Vec<u8>, Value)]) {
        self.elements(NFT_MSG_DELSETELEM, 0, set, elements);
    }

    /// Carries the batch out. `operation` says what it is for.
    pub(crate) fn commit(mut self, operation: &str) -> Result<()> {
        self.end();
        let done = with_kept(true, |socket| socket.transact(&self.request));
        if done.as_ref().is_err_and(is_lost) {
            own_again(self.table);
        }
        done.map_err(|f| self.failed(operation, f))
    }

    fn end(&mut self) {
        self.request.message(NFNL_MSG_BATCH_END, 0, &batch_header(), |_| {});
    }

    fn failed(&self, operation: &str, failure: Failure) -> Error {
        let operation = format!("{operation}, message {} of {}", failure.message, self.request.len());
        Error::Firewall { operation, source: failure.source }
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[(Vec<u8>, Value)]) {
        let table = self.table;
        for some in elements.chunks(MAX_ELEMENTS) {
            self.message(kind, flags, |r| {
                r.text(NFTA_SET_ELEM_LIST_TABLE, table);
                r.text(NFTA_SET_ELEM_LIST_SET, set);
                r.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |r| {
                    some.iter().for_each(|(key, value)| put_element(r, key, value))
                });
            });
        }
    }

    /// Every message is acknowledged: kernels before 6.10 do not acknowledge the end of a batch.
    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Request)) {
        let kind = (u16::from(NFNL_SUBSYS_NFTABLES) << 8) | kind;
        self.request.message(kind, flags | NLM_F_ACK, &[self.family, 0, 0, 0], fill);
    }
}

/// A socket that is kept, and what for.
struct Kept {
    /// The inode of the network namespace it is in.
    namespace: u64,
    /// For batches; else for questions.
    batches: bool,
    socket: Socket,
}

/// The sockets of batches and questions so far, one of each for a namespace.
///
/// Closing a socket waits until the kernel has freed what batches deleted, about 10 ms, and holds up every other batch
/// in the namespace meanwhile. A batch itself takes some 50 µs. The open socket keeps its namespace, so the inode
/// cannot come to mean another one. The socket of batches also owns the table: closing it would give that up.
static SOCKETS: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Calls `work` with the socket for questions that is kept for the calling thread's network namespace.
pub(crate) fn with_socket<T>(
    work: impl FnOnce(&Socket) -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    with_kept(false, work)
}

fn with_kept<T>(
    batches: bool,
    work: impl FnOnce(&Socket) -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    let failure = |source| Failure { message: 0, source };
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_err(failure)?.ino();
    let mut sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    let index = match sockets.iter().position(|k| k.namespace == namespace && k.batches == batches) {
        Some(index) => index,
        None => {
            sockets.push(Kept { namespace, batches, socket: Socket::netfilter().map_err(failure)? });
            sockets.len() - 1
        }
    };
    let done = work(&sockets[index].socket);
    if let Err(f) = &done {
        // A question that failed may have left answers to read. A batch has read all of them, unless they did not fit.
        if !batches || is_lost(f) {
            sockets.swap_remove(index);
        }
    }
    done
}

/// Carries `batch` out on a socket of its own, in the calling thread's namespace.
pub(crate) fn commit_apart(mut batch: Batch, operation: &str) -> Result<()> {
    batch.end();
    let done = Socket::netfilter().map_err(|source| Failure { message: 0, source });
    done.and_then(|socket| socket.transact(&batch.request)).map_err(|f| batch.failed(operation, f))
}

/// The keys and values of the elements of `set` in the table `inet <table>`; none if there is no such set. Elements of
/// plain sets, and verdicts, have an empty value.
pub(crate) fn list_elements(table: &str, set: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut request = Request::default();
    let kind = (u16::from(NFNL_SUBSYS_NFTABLES) << 8) | NFT_MSG_GETSETELEM;
    request.message(kind, NLM_F_DUMP, &[NFPROTO_INET, 0, 0, 0], |r| {
        r.text(NFTA_SET_ELEM_LIST_TABLE, table);
        r.text(NFTA_SET_ELEM_LIST_SET, set);
    });
    // A socket of its own: a dump that ends in an error leaves nothing behind on the one that batches share.
    let dump = match Socket::netfilter().and_then(|socket| socket.dump(&request)) {
        Ok(dump) => dump,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Firewall { operation: format!("list {set}"), source }),
    };
    let nested =
        |bytes: &[u8], kind: u16| Attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v.to_vec());
    let mut out = Vec::new();
    for (_, body) in &dump {
        // Behind the family, the version and the resource's number.
        let list = nested(body.get(4..).unwrap_or_default(), NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
        for (_, element) in Attributes(&list).filter(|(kind, _)| *kind == NFTA_LIST_ELEM) {
            let data = |kind| nested(element, kind).and_then(|data| nested(&data, NFTA_DATA_VALUE));
            if let Some(key) = data(NFTA_SET_ELEM_KEY) {
                out.push((key, data(NFTA_SET_ELEM_DATA).unwrap_or_default()));
            }
        }
    }
    Ok(out)
}

/// The names of the chains of the table `netdev <table>`; none if there is no such table.
pub(crate) fn list_device_chains(table: &str) -> Result<Vec<String>> {
    let mut request = Request::default();
    let kind = (u16::from(NFNL_SUBSYS_NFTABLES) << 8) | NFT_MSG_GETCHAIN;
    request.message(kind, NLM_F_DUMP, &[NFPROTO_NETDEV, 0, 0, 0], |_| {});
    let dump = match Socket::netfilter().and_then(|socket| socket.dump(&request)) {
        Ok(dump) => dump,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Firewall { operation: "list chains".into(), source }),
    };
    let text = |body: &[u8], wanted: u16| {
        let mut attributes = Attributes(body.get(4..).unwrap_or_default());
        attributes.find(|(kind, _)| *kind == wanted).map(|(_, value)| read_text(value))
    };
    let ours = dump.iter().filter(|(_, body)| text(body, NFTA_CHAIN_TABLE).as_deref() == Some(table));
    Ok(ours.filter_map(|(_, body)| text(body, NFTA_CHAIN_NAME)).collect())
}

/// Whether there is a table `inet <table>`.
pub(crate) fn has_table(table: &str) -> Result<bool> {
    let mut request = Request::default();
    let kind = (u16::from(NFNL_SUBSYS_NFTABLES) << 8) | NFT_MSG_GETTABLE;
    request.message(kind, 0, &[NFPROTO_INET, 0, 0, 0], |r| r.text(NFTA_TABLE_NAME, table));
    match Socket::netfilter().and_then(|socket| socket.get(&request)) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Firewall { operation: format!("look for table {table}"), source }),
    }
}

/// Whether tables can be owned, as far as that is known.
pub(crate) fn can_own() -> bool {
    CAN_OWN.load(Ordering::Relaxed)
}

/// Finds out whether tables can be owned; called when making one was refused. Whether that is news.
pub(crate) fn cannot_own() -> bool {
    CAN_OWN.swap(false, Ordering::Relaxed)
}

/// An interface name as a key.
pub(crate) fn ifname(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// `struct nfgenmsg`, with the subsystem in network byte order.
fn batch_header() -> [u8; 4] {
    [NFPROTO_UNSPEC, 0, 0, NFNL_SUBSYS_NFTABLES]
}

fn put_element(r: &mut Request, key: &[u8], value: &Value) {
    r.nest(NFTA_LIST_ELEM, |r| {
        r.nest(NFTA_SET_ELEM_KEY, |r| r.attribute(NFTA_DATA_VALUE, key));
        match value {
            Value::None => {}
            Value::Verdict(verdict) => r.nest(NFTA_SET_ELEM_DATA, |r| put_verdict(r, verdict)),
            Value::Bytes(bytes) => r.nest(NFTA_SET_ELEM_DATA, |r| r.attribute(NFTA_DATA_VALUE, bytes)),
        }
    });
}

fn put_verdict(r: &mut Request, verdict: &Verdict) {
    r.nest(NFTA_DATA_VERDICT, |r| match verdict {
        Verdict::Accept => r.be32(NFTA_VERDICT_CODE, NF_ACCEPT),
        Verdict::Drop => r.be32(NFTA_VERDICT_CODE, NF_DROP),
        Verdict::Jump(chain) => {
            r.be32(NFTA_VERDICT_CODE, NFT_JUMP);
            r.text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// Every expression loads into register 1, or into its parts where a key has several.
fn put_expr(r: &mut Request, expression: &Expr<'_>) {
    match expression {
        Expr::IsIpv4 => {
            meta(r, NFT_META_NFPROTO, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &[NFPROTO_IPV4]);
        }
        Expr::IsIpv6 => {
            meta(r, NFT_META_NFPROTO, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &[NFPROTO_IPV6]);
        }
        Expr::Iifgroup(group) => {
            meta(r, NFT_META_IIFGROUP, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &group.to_ne_bytes());
        }
        Expr::Oifgroup(group) => {
            meta(r, NFT_META_OIFGROUP, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &group.to_ne_bytes());
        }
        Expr::Iifname(name) => interface(r, NFT_META_IIFNAME, NFT_CMP_EQ, name),
        Expr::NotOifname(name) => interface(r, NFT_META_OIFNAME, NFT_CMP_NEQ, name),
        Expr::IifnameIn(set) => interface_in(r, NFT_META_IIFNAME, set, None),
        Expr::OifnameIn(set) => interface_in(r, NFT_META_OIFNAME, set, None),
        Expr::IifnameVmap(map) => interface_in(r, NFT_META_IIFNAME, map, Some(NFT_REG_VERDICT)),
        Expr::OifnameVmap(map) => interface_in(r, NFT_META_OIFNAME, map, Some(NFT_REG_VERDICT)),
        // Where the address is in an IPv4 and in an IPv6 header.
        Expr::Saddr(subnet) => {
            masked_address(r, Header::Network, if subnet.is_ipv6() { 8 } else { 12 }, *subnet);
        }
        Expr::Daddr(subnet) => {
            masked_address(r, Header::Network, if subnet.is_ipv6() { 24 } else { 16 }, *subnet);
        }
        Expr::AddressAt(offset, subnet) => masked_address(r, Header::Network, *offset, *subnet),
        Expr::TargetAt(offset, subnet) => masked_address(r, Header::Transport, *offset, *subnet),
        Expr::EtherType(number) => {
            meta(r, NFT_META_PROTOCOL, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &number.to_be_bytes());
        }
        Expr::Bytes(header, offset, bytes, equal) => {
            let length = u32::try_from(bytes.len()).expect("at most an address");
            payload(r, header.number(), *offset, length, NFT_REG_1);
            cmp(r, if *equal { NFT_CMP_EQ } else { NFT_CMP_NEQ }, bytes);
        }
        Expr::CtState(bits) => ct_bits(r, NFT_CT_STATE, *bits),
        Expr::CtStatus(bits) => ct_bits(r, NFT_CT_STATUS, *bits),
        Expr::ForThisHost => {
            expr(r, "fib", |r| {
                r.be32(1, NFT_REG_1);
                r.be32(2, NFT_FIB_RESULT_ADDRTYPE);
                r.be32(3, NFTA_FIB_F_DADDR);
            });
            cmp(r, NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes());
        }
        Expr::DnatByAddress(map) => {
            destination(r, false);
            dnat(r, map, NFPROTO_IPV4);
        }
        Expr::IsOpen(set) => {
            destination(r, false);
            lookup(r, set, None);
        }
        Expr::IsOpen6(set) => {
            destination(r, true);
            lookup(r, set, None);
        }
        Expr::DnatByPort(map) => {
            meta(r, NFT_META_L4PROTO, NFT_REG_1);
            payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, NFT_REG32_01);
            dnat(r, map, NFPROTO_IPV4);
        }
        Expr::DnatByAddress6(map) => {
            destination(r, true);
            dnat(r, map, NFPROTO_IPV6);
        }
        Expr::DnatByPort6(map) => {
            meta(r, NFT_META_L4PROTO, NFT_REG_1);
            payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, NFT_REG32_01);
            dnat(r, map, NFPROTO_IPV6);
        }
        Expr::L4Proto(protocol) => {
            meta(r, NFT_META_L4PROTO, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &[*protocol]);
        }
        Expr::Sport(port) => {
            payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &port.to_be_bytes());
        }
        Expr::Dport(port) => {
            payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, NFT_REG_1);
            cmp(r, NFT_CMP_EQ, &port.to_be_bytes());
        }
        Expr::SetSport(protocol, port) => set_port(r, 0, *protocol, *port),
        Expr::SetDport(protocol, port) => set_port(r, 2, *protocol, *port),
        Expr::Masquerade => expr(r, "masq", |_| {}),
        Expr::Verdict(verdict) => expr(r, "immediate", |r| {
            r.be32(1, NFT_REG_VERDICT);
            r.nest(2, |r| put_verdict(r, verdict));
        }),
    }
}

fn expr(r: &mut Request, name: &str, fill: impl FnOnce(&mut Request)) {
    r.nest(NFTA_LIST_ELEM, |r| {
        r.text(NFTA_EXPR_NAME, name);
        r.nest(NFTA_EXPR_DATA, fill);
    });
}

/// `NFTA_META_DREG`, `NFTA_META_KEY`.
fn meta(r: &mut Request, key: u32, register: u32) {
    expr(r, "meta", |r| {
        r.be32(1, register);
        r.be32(2, key);
    });
}

/// `NFTA_CMP_SREG`, `NFTA_CMP_OP`, `NFTA_CMP_DATA`.
fn cmp(r: &mut Request, operation: u32, data: &[u8]) {
    expr(r, "cmp", |r| {
        r.be32(1, NFT_REG_1);
        r.be32(2, operation);
        r.nest(3, |r| r.attribute(NFTA_DATA_VALUE, data));
    });
}

fn interface(r: &mut Request, key: u32, operation: u32, name: &str) {
    meta(r, key, NFT_REG_1);
    cmp(r, operation, &ifname(name));
}

fn interface_in(r: &mut Request, key: u32, set: &str, result: Option<u32>) {
    meta(r, key, NFT_REG_1);
    lookup(r, set, result);
}

/// `NFTA_LOOKUP_SET`, `NFTA_LOOKUP_SREG`, `NFTA_LOOKUP_DREG`.
fn lookup(r: &mut Request, set: &str, result: Option<u32>) {
    expr(r, "lookup", |r| {
        r.text(1, set);
        r.be32(2, NFT_REG_1);
        if let Some(register) = result {
            r.be32(3, register);
        }
    });
}

/// `NFTA_PAYLOAD_DREG`, `_BASE`, `_OFFSET`, `_LEN`.
fn payload(r: &mut Request, base: u32, offset: u32, length: u32, register: u32) {
    expr(r, "payload", |r| {
        r.be32(1, register);
        r.be32(2, base);
        r.be32(3, offset);
        r.be32(4, length);
    });
}

/// Loads address, protocol and port of the destination, as a key.
fn destination(r: &mut Request, is_ipv6: bool) {
    let (offset, length, protocol, port) =
        if is_ipv6 { (24, 16, NFT_REG32_04, NFT_REG32_05) } else { (16, 4, NFT_REG32_01, NFT_REG32_02) };
    payload(r, NFT_PAYLOAD_NETWORK_HEADER, offset, length, NFT_REG_1);
    meta(r, NFT_META_L4PROTO, protocol);
    payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, port);
}

/// Writes a port into the transport header and corrects its checksum: `NFTA_IMMEDIATE_DREG`, `_DATA`, then
/// `NFTA_PAYLOAD_SREG`, `_BASE`, `_OFFSET`, `_LEN`, `_CSUM_TYPE` (`NFT_PAYLOAD_CSUM_INET`), `_CSUM_OFFSET`.
fn set_port(r: &mut Request, offset: u32, protocol: u8, port: u16) {
    expr(r, "immediate", |r| {
        r.be32(1, NFT_REG_1);
        r.nest(2, |r| r.attribute(NFTA_DATA_VALUE, &port.to_be_bytes()));
    });
    expr(r, "payload", |r| {
        r.be32(5, NFT_REG_1);
        r.be32(2, NFT_PAYLOAD_TRANSPORT_HEADER);
        r.be32(3, offset);
        r.be32(4, 2);
        r.be32(6, 1);
        // TCP's checksum is at 16, UDP's at 6.
        r.be32(7, if protocol == 6 { 16 } else { 6 });
    });
}

/// `NFTA_BITWISE_SREG`, `_DREG`, `_LEN`, `_MASK`, `_XOR`.
fn bitwise(r: &mut Request, mask: &[u8]) {
    let length = u32::try_from(mask.len()).expect("a mask is an address or four bytes");
    expr(r, "bitwise", |r| {
        r.be32(1, NFT_REG_1);
        r.be32(2, NFT_REG_1);
        r.be32(3, length);
        r.nest(4, |r| r.attribute(NFTA_DATA_VALUE, mask));
        r.nest(5, |r| r.attribute(NFTA_DATA_VALUE, &vec![0; mask.len()]));
    });
}

fn masked_address(r: &mut Request, header: Header, offset: u32, subnet: Subnet) {
    let (address, ones) = match subnet.address() {
        IpAddr::V4(address) => (address.octets().to_vec(), u128::MAX << 96),
        IpAddr::V6(address) => (address.octets().to_vec(), u128::MAX),
    };
    let width = 8 * u32::try_from(address.len()).expect("4 or 16");
    let host_bits = width - u32::from(subnet.prefix());
    let mask = ones & (u128::MAX << (128 - width)).checked_shl(host_bits).unwrap_or(0);
    let mask = mask.to_be_bytes();
    payload(r, header.number(), offset, width / 8, NFT_REG_1);
    bitwise(r, &mask[..address.len()]);
    cmp(r, NFT_CMP_EQ, &address);
}

/// `NFTA_CT_DREG`, `NFTA_CT_KEY`; the bits are in host byte order.
fn ct_bits(r: &mut Request, key: u32, bits: u32) {
    expr(r, "ct", |r| {
        r.be32(1, NFT_REG_1);
        r.be32(2, key);
    });
    bitwise(r, &bits.to_ne_bytes());
    cmp(r, NFT_CMP_NEQ, &[0; 4]);
}

/// Looks the key in register 1 up, and sends the packet to the address and port found: `NFTA_NAT_TYPE`, `_FAMILY`,
/// `_REG_ADDR_MIN`, `_REG_PROTO_MIN`.
fn dnat(r: &mut Request, map: &str, family: u8) {
    lookup(r, map, Some(NFT_REG_1));
    expr(r, "nat", |r| {
        r.be32(1, NFT_NAT_DNAT);
        r.be32(2, u32::from(family));
        r.be32(3, NFT_REG_1);
        r.be32(5, if family == NFPROTO_IPV6 { NFT_REG32_04 } else { NFT_REG32_01 });
    });
}
