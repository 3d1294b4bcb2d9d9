//! The marks as one nftables transaction.

use std::collections::BTreeSet;
use std::ffi::CStr;

use netlink_bindings::nftables::{
    CmpOps, CtDirection, CtKeys, MetaKeys, PushChainAttrs, PushExprListAttrs, PushRuleAttrs, PushTableAttrs, Registers,
};

use super::MARK;
use crate::Error;
use crate::socket::Socket;

const TABLE: &CStr = c"spiderpool";
const PREROUTING: &CStr = c"prerouting";
const OUTPUT: &CStr = c"output";
const RULES: usize = 2;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`, as the resource of a batch.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and its end.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE`, and so on.
const NEW_TABLE: u16 = 0x0a00;
const DELETE_TABLE: u16 = 0x0a02;
const NEW_CHAIN: u16 = 0x0a03;
const NEW_RULE: u16 = 0x0a06;
const GET_RULE: u16 = 0x0a07;
const REQUEST: u16 = 0x1;
const REQUEST_ACK: u16 = 0x5;
const REQUEST_DUMP: u16 = 0x301;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const RULE_TABLE: u16 = 1;
/// `NF_IP_PRI_MANGLE`
const PRIORITY_MANGLE: i32 = -150;
const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`
const STATE_NEW: u32 = 1 << 3;
const REG: u32 = Registers::Reg1 as u32;

pub(super) fn installed() -> Result<bool, Error> {
    let mut socket = open()?;
    let rules = socket.dump("listing nftables rules", rules_request, |message| {
        let attributes = message.payload.get(4..).unwrap_or_default();
        let mut attributes = netlink_packet_core::NlasIterator::new(attributes).flatten();
        let ours = attributes
            .any(|attribute| attribute.kind() == RULE_TABLE && attribute.value() == TABLE.to_bytes_with_nul());
        Ok(ours.then_some(()))
    });
    match rules {
        Ok(rules) => Ok(rules.len() == RULES),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn rules_request(sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    message(&mut bytes, GET_RULE, REQUEST_DUMP, sequence, [INET, 0, 0, 0], |_| ());
    bytes
}

/// Appends a message: header, `nfgenmsg`, attributes.
fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    general: [u8; 4],
    attributes: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(general);
    attributes(bytes);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let length = u32::try_from(bytes.len() - start).expect("a rule has some hundred bytes");
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Replaces the table by a complete one.
pub(super) fn install(interface: &str) -> Result<(), Error> {
    let mut batch = Batch::begin("installing the nftables table spiderpool");
    batch.new_table();
    batch.delete_table(); // an older one, with whatever is in it
    batch.new_table();
    batch.new_chain(PREROUTING, c"filter", HOOK_PREROUTING);
    batch.new_chain(OUTPUT, c"route", HOOK_OUTPUT);
    batch.new_rule(PREROUTING, |list| {
        let list = iifname_is(list, interface);
        let list = load_ct(list, CtKeys::State);
        let list = and_xor(list, STATE_NEW, 0);
        let list = compare(list, CmpOps::Neq, &0_u32.to_ne_bytes());
        let list = load_ct(list, CtKeys::Mark);
        let list = and_xor(list, !MARK, MARK);
        store_ct_mark(list)
    });
    batch.new_rule(OUTPUT, |list| {
        let list = load_ct(list, CtKeys::Direction);
        let list = compare(list, CmpOps::Eq, &[CtDirection::Reply as u8]);
        let list = load_ct(list, CtKeys::Mark);
        let list = and_xor(list, MARK, 0);
        let list = compare(list, CmpOps::Eq, &MARK.to_ne_bytes());
        let list = load_meta_mark(list);
        let list = and_xor(list, !MARK, MARK);
        store_meta_mark(list)
    });
    batch.commit()
}

pub(super) fn remove() -> Result<(), Error> {
    let mut batch = Batch::begin("removing the nftables table spiderpool");
    batch.new_table(); // so that deleting an absent one is no error
    batch.delete_table();
    batch.commit()
}

fn open() -> Result<Socket, Error> {
    Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)
}

/// Messages that take effect together or not at all.
struct Batch {
    bytes: Vec<u8>,
    next: u32,
    doing: &'static str,
}

impl Batch {
    fn begin(doing: &'static str) -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(2048), next: 0, doing };
        batch.bound(BATCH_BEGIN);
        batch
    }

    fn bound(&mut self, kind: u16) {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        message(&mut self.bytes, kind, REQUEST, self.next, [0, 0, high, low], |_| ());
        self.next += 1;
    }

    fn add(&mut self, kind: u16, flags: u16, attributes: impl FnOnce(&mut Vec<u8>)) {
        message(&mut self.bytes, kind, REQUEST_ACK | flags, self.next, [INET, 0, 0, 0], attributes);
        self.next += 1;
    }

    fn new_table(&mut self) {
        self.add(NEW_TABLE, CREATE, |bytes| drop(PushTableAttrs::new(bytes).push_name(TABLE)));
    }

    fn delete_table(&mut self) {
        self.add(DELETE_TABLE, 0, |bytes| drop(PushTableAttrs::new(bytes).push_name(TABLE)));
    }

    fn new_chain(&mut self, name: &CStr, kind: &CStr, hook: u32) {
        self.add(NEW_CHAIN, CREATE, |bytes| {
            let chain = PushChainAttrs::new(bytes).push_table(TABLE).push_name(name).push_type(kind);
            chain.nested_hook().push_num(hook).push_priority(PRIORITY_MANGLE).end_nested();
        });
    }

    fn new_rule(&mut self, chain: &CStr, expressions: impl FnOnce(Expressions<'_>) -> Expressions<'_>) {
        self.add(NEW_RULE, CREATE | APPEND, |bytes| {
            let rule = PushRuleAttrs::new(bytes).push_table(TABLE).push_chain(chain);
            expressions(rule.nested_expressions()).end_nested();
        });
    }

    /// Sends everything and waits for every verdict. Only the messages between the bounds are acknowledged: kernels
    /// before 6.10 do not acknowledge the bounds.
    fn commit(mut self) -> Result<(), Error> {
        let mut waiting: BTreeSet<u32> = (1..self.next).collect();
        self.bound(BATCH_END);
        let mut socket = open()?;
        socket.send(self.doing, &self.bytes)?;
        while !waiting.is_empty() {
            socket.receive(self.doing, |message| {
                let Some(verdict) = message.verdict() else { return Ok(()) };
                verdict.map_err(|(errno, said)| Error::Refused { doing: self.doing.to_owned(), errno, said })?;
                waiting.remove(&message.sequence);
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The expressions of a rule that is being written.
type Expressions<'a> = PushExprListAttrs<PushRuleAttrs<&'a mut Vec<u8>>>;

fn iifname_is<'a>(list: Expressions<'a>, interface: &str) -> Expressions<'a> {
    let load = list.nested_elem().nested_data_meta().push_dreg(REG).push_key(MetaKeys::Iifname as u32);
    let mut name = [0; 16];
    let length = interface.len().min(15);
    name[..length].copy_from_slice(&interface.as_bytes()[..length]);
    compare(load.end_nested().end_nested(), CmpOps::Eq, &name)
}

fn load_ct(list: Expressions<'_>, key: CtKeys) -> Expressions<'_> {
    list.nested_elem().nested_data_ct().push_dreg(REG).push_key(key as u32).end_nested().end_nested()
}

fn store_ct_mark(list: Expressions<'_>) -> Expressions<'_> {
    list.nested_elem().nested_data_ct().push_key(CtKeys::Mark as u32).push_sreg(REG).end_nested().end_nested()
}

fn load_meta_mark(list: Expressions<'_>) -> Expressions<'_> {
    list.nested_elem().nested_data_meta().push_dreg(REG).push_key(MetaKeys::Mark as u32).end_nested().end_nested()
}

fn store_meta_mark(list: Expressions<'_>) -> Expressions<'_> {
    list.nested_elem().nested_data_meta().push_key(MetaKeys::Mark as u32).push_sreg(REG).end_nested().end_nested()
}

/// `register = (register & mask) ^ xor`; with the bits of `xor` cleared in `mask` this is an or.
fn and_xor(list: Expressions<'_>, mask: u32, xor: u32) -> Expressions<'_> {
    let bitwise = list.nested_elem().nested_data_bitwise().push_sreg(REG).push_dreg(REG).push_len(4);
    let bitwise = bitwise.nested_mask().push_value(&mask.to_ne_bytes()).end_nested();
    bitwise.nested_xor().push_value(&xor.to_ne_bytes()).end_nested().end_nested().end_nested()
}

fn compare<'a>(list: Expressions<'a>, how: CmpOps, with: &[u8]) -> Expressions<'a> {
    let compare = list.nested_elem().nested_data_cmp().push_sreg(REG).push_op(how as u32);
    compare.nested_data().push_value(with).end_nested().end_nested().end_nested()
}
