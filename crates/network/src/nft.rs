//! nftables batches: tables, chains, rules, maps and their elements, in the kernel's words. What a batch says is
//! done as a whole or not at all.
//!
//! Kernel: `include/uapi/linux/netfilter/nf_tables.h`; [nft(8)](https://man7.org/linux/man-pages/man8/nft.8.html) for
//! what the expressions mean.

use crate::netlink::{Attributes, Failure, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Request, Socket};
use crate::{Error, Result};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
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
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
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

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// -3 in two's complement.
const NFT_JUMP: u32 = 0xffff_fffd;

const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
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
            Type::Verdict => NFT_DATA_VERDICT,
        }
    }

    fn length(self) -> u32 {
        match self {
            Type::Ifname => 16,
            Type::ProtoPort | Type::AddressPort => 8,
            Type::AddressProtoPort => 12,
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
    Iifname(&'a str),
    NotOifname(&'a str),
    IifnameIn(&'a str),
    OifnameIn(&'a str),
    /// `iifname vmap @…`
    IifnameVmap(&'a str),
    /// `oifname vmap @…`
    OifnameVmap(&'a str),
    /// `ip saddr a/n`; only behind `IsIpv4`.
    Saddr(Ipv4Addr, Ipv4Addr),
    /// `ip daddr a/n`; only behind `IsIpv4`.
    Daddr(Ipv4Addr, Ipv4Addr),
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
    Masquerade,
    Verdict(Verdict),
}

/// The value of a map's element.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// The element of a set.
    None,
    Verdict(Verdict),
    Bytes(Vec<u8>),
}

/// Changes to the table `inet <table>`.
#[derive(Debug)]
pub(crate) struct Batch {
    request: Request,
    table: &'static str,
}

impl Batch {
    pub(crate) fn new(table: &'static str) -> Batch {
        let mut request = Request::default();
        request.message(NFNL_MSG_BATCH_BEGIN, 0, &batch_header(), |_| {});
        Batch { request, table }
    }

    /// Makes the table unless it exists.
    pub(crate) fn table(&mut self) {
        let table = self.table;
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |r| r.text(NFTA_TABLE_NAME, table));
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
        self.request.message(NFNL_MSG_BATCH_END, 0, &batch_header(), |_| {});
        let result = with_socket(|socket| socket.transact(&self.request));
        result.map_err(|f| {
            let operation = format!("{operation}, message {} of {}", f.message, self.request.len());
            Error::Firewall { operation, source: f.source }
        })
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
        self.request.message(kind, flags | NLM_F_ACK, &[NFPROTO_INET, 0, 0, 0], fill);
    }
}

/// The socket of the last batch, and the inode of the namespace it is in.
///
/// Closing a socket waits until the kernel has freed what batches deleted, about 10 ms, and holds up every other batch
/// in the namespace meanwhile. A batch itself takes some 50 µs. The open socket keeps its namespace, so the inode
/// cannot come to mean another one.
static SOCKET: Mutex<Option<(u64, Socket)>> = Mutex::new(None);

/// Calls `work` with the socket that is kept for the calling thread's network namespace.
pub(crate) fn with_socket<T>(
    work: impl FnOnce(&Socket) -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    let failure = |source| Failure { message: 0, source };
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_err(failure)?.ino();
    let mut slot = SOCKET.lock().unwrap_or_else(PoisonError::into_inner);
    // Out of the slot while in use: one that fails may have answers left to read, and is not used again.
    let socket = match slot.take() {
        Some((inode, socket)) if inode == namespace => socket,
        _ => Socket::netfilter().map_err(failure)?,
    };
    let done = work(&socket)?;
    *slot = Some((namespace, socket));
    Ok(done)
}

/// The keys and values of the elements of `set` in the table `inet <table>`; none if there is no such set.
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
            if let (Some(key), Some(value)) = (data(NFTA_SET_ELEM_KEY), data(NFTA_SET_ELEM_DATA)) {
                out.push((key, value));
            }
        }
    }
    Ok(out)
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
        Expr::Iifname(name) => interface(r, NFT_META_IIFNAME, NFT_CMP_EQ, name),
        Expr::NotOifname(name) => interface(r, NFT_META_OIFNAME, NFT_CMP_NEQ, name),
        Expr::IifnameIn(set) => interface_in(r, NFT_META_IIFNAME, set, None),
        Expr::OifnameIn(set) => interface_in(r, NFT_META_OIFNAME, set, None),
        Expr::IifnameVmap(map) => interface_in(r, NFT_META_IIFNAME, map, Some(NFT_REG_VERDICT)),
        Expr::OifnameVmap(map) => interface_in(r, NFT_META_OIFNAME, map, Some(NFT_REG_VERDICT)),
        Expr::Saddr(address, mask) => masked_address(r, 12, *address, *mask),
        Expr::Daddr(address, mask) => masked_address(r, 16, *address, *mask),
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
            payload(r, NFT_PAYLOAD_NETWORK_HEADER, 16, 4, NFT_REG_1);
            meta(r, NFT_META_L4PROTO, NFT_REG32_01);
            payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, NFT_REG32_02);
            dnat(r, map);
        }
        Expr::DnatByPort(map) => {
            meta(r, NFT_META_L4PROTO, NFT_REG_1);
            payload(r, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, NFT_REG32_01);
            dnat(r, map);
        }
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

/// `NFTA_BITWISE_SREG`, `_DREG`, `_LEN`, `_MASK`, `_XOR`.
fn bitwise(r: &mut Request, mask: [u8; 4]) {
    expr(r, "bitwise", |r| {
        r.be32(1, NFT_REG_1);
        r.be32(2, NFT_REG_1);
        r.be32(3, 4);
        r.nest(4, |r| r.attribute(NFTA_DATA_VALUE, &mask));
        r.nest(5, |r| r.attribute(NFTA_DATA_VALUE, &[0; 4]));
    });
}

fn masked_address(r: &mut Request, offset: u32, address: Ipv4Addr, mask: Ipv4Addr) {
    payload(r, NFT_PAYLOAD_NETWORK_HEADER, offset, 4, NFT_REG_1);
    bitwise(r, mask.octets());
    cmp(r, NFT_CMP_EQ, &address.octets());
}

/// `NFTA_CT_DREG`, `NFTA_CT_KEY`; the bits are in host byte order.
fn ct_bits(r: &mut Request, key: u32, bits: u32) {
    expr(r, "ct", |r| {
        r.be32(1, NFT_REG_1);
        r.be32(2, key);
    });
    bitwise(r, bits.to_ne_bytes());
    cmp(r, NFT_CMP_NEQ, &[0; 4]);
}

/// Looks the key in register 1 up, and sends the packet to the address and port found: `NFTA_NAT_TYPE`, `_FAMILY`,
/// `_REG_ADDR_MIN`, `_REG_PROTO_MIN`.
fn dnat(r: &mut Request, map: &str) {
    lookup(r, map, Some(NFT_REG_1));
    expr(r, "nat", |r| {
        r.be32(1, NFT_NAT_DNAT);
        r.be32(2, u32::from(NFPROTO_IPV4));
        r.be32(3, NFT_REG_1);
        r.be32(5, NFT_REG32_01);
    });
}
