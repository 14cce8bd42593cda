//! DNS messages, as far as a server of addresses needs them: one question in, a few records out. Everything read comes
//! from a container or from a name server far away, so nothing is believed: lengths are bounded, a question with
//! compressed names is refused, answers of others are passed on without being taken apart.
//!
//! Spec: RFC 1035; RFC 6891 (EDNS).

use std::net::IpAddr;

pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_PTR: u16 = 12;
pub(crate) const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
const HEADER_LEN: usize = 12;
/// Longest name, RFC 1035 section 2.3.4, with its last zero.
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
/// What a client without EDNS takes.
const MIN_UDP: u16 = 512;
/// What we send by UDP at most, and say that we take.
const MAX_UDP: u16 = 4096;
/// Seconds that an answer may be kept, as Docker's.
const TTL: u32 = 600;

pub(crate) const FORMAT_ERROR: u8 = 1;
pub(crate) const SERVER_FAILURE: u8 = 2;
pub(crate) const NAME_ERROR: u8 = 3;
pub(crate) const NOT_IMPLEMENTED: u8 = 4;
pub(crate) const REFUSED: u8 = 5;

/// A question, as it stands in a message: nothing of it is kept elsewhere, so that an answer costs no memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question<'a> {
    pub(crate) id: u16,
    pub(crate) name: Name,
    pub(crate) kind: u16,
    /// The question as it came, name, type and class.
    section: &'a [u8],
    recursion_desired: bool,
    /// What the client takes by UDP.
    pub(crate) max_udp: u16,
    /// It speaks EDNS; with the DO bit.
    edns: Option<bool>,
}

/// Lower case, labels with dots between, no dot at the end; the root is empty. ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }
}

/// Why a message is not a question that can be answered from names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No message, or an answer: not worth a word.
    Ignore,
    Code(u8),
}

/// Reads a question.
pub(crate) fn parse(message: &[u8]) -> Result<Question<'_>, Refusal> {
    let header: &[u8; HEADER_LEN] = message.first_chunk().ok_or(Refusal::Ignore)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if header[2] & 0x80 != 0 {
        return Err(Refusal::Ignore);
    }
    if header[2] & 0x78 != 0 {
        return Err(Refusal::Code(NOT_IMPLEMENTED));
    }
    let malformed = Refusal::Code(FORMAT_ERROR);
    if word(4) != 1 || word(6) != 0 || word(8) != 0 {
        return Err(malformed);
    }
    let (name, end) = read_name(message, HEADER_LEN).ok_or(malformed)?;
    let fixed: &[u8; 4] = message.get(end..).and_then(<[u8]>::first_chunk).ok_or(malformed)?;
    let (kind, class) = (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
    if class != CLASS_IN {
        return Err(Refusal::Code(REFUSED));
    }
    let (mut max_udp, mut edns) = (MIN_UDP, None);
    // Name (the root), type, class, and of the flags the DO bit.
    if let (1.., Some([0, t0, t1, s0, s1, _, _, d, _, ..])) = (word(10), message.get(end + 4..))
        && u16::from_be_bytes([*t0, *t1]) == TYPE_OPT
    {
        max_udp = u16::from_be_bytes([*s0, *s1]).clamp(MIN_UDP, MAX_UDP);
        edns = Some(d & 0x80 != 0);
    }
    Ok(Question {
        id: word(0),
        name,
        kind,
        section: &message[HEADER_LEN..end + 4],
        recursion_desired: header[2] & 1 != 0,
        max_udp,
        edns,
    })
}

/// The name at `at`, and where it ends.
fn read_name(message: &[u8], at: usize) -> Option<(Name, usize)> {
    let mut name = Name { bytes: [0; MAX_NAME], length: 0 };
    let mut position = at;
    loop {
        let length = *message.get(position)?;
        position += 1;
        match length {
            0 => break,
            // A pointer: nothing stands before a question that it could point to.
            l if l > MAX_LABEL => return None,
            l => {
                let label = message.get(position..position + usize::from(l))?;
                position += usize::from(l);
                if position - at > MAX_NAME {
                    return None;
                }
                if name.length > 0 {
                    name.push(b'.');
                }
                // Bytes that are no letters match no name of ours; what is forwarded is the message as it came.
                for byte in label {
                    name.push(match byte {
                        b'.' | b'\\' | 0..=32 | 127.. => b'?',
                        byte => byte.to_ascii_lowercase(),
                    });
                }
            }
        }
    }
    Some((name, position))
}

/// An answer with a code and nothing else; also for messages that could not be read, whose id is kept.
pub(crate) fn refuse(message: &[u8], code: u8, out: &mut Vec<u8>) {
    let id = message.get(..2).unwrap_or(&[0, 0]);
    let flags = message.get(2).map_or(0, |b| b & 0x79);
    out.extend_from_slice(&[id[0], id[1], 0x80 | flags, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// The refusal of a question of which this is only the beginning, behind what is in `out`; false for what is no question.
pub(crate) fn too_long(beginning: &[u8], out: &mut Vec<u8>) -> bool {
    let is_question = beginning.len() >= HEADER_LEN && beginning[2] & 0x80 == 0;
    if is_question {
        refuse(beginning, FORMAT_ERROR, out);
    }
    is_question
}

/// What answers are written to: behind what is there already.
impl Question<'_> {
    /// An answer with a code and no record.
    pub(crate) fn empty(&self, code: u8, out: &mut Vec<u8>) {
        self.begin(code, out);
        self.end(out);
    }

    /// The addresses, as many as fit into `limit` bytes; says when some did not.
    pub(crate) fn addresses(&self, all: impl Iterator<Item = IpAddr>, limit: usize, out: &mut Vec<u8>) {
        self.fitting(all, limit, out, |out, address| match address {
            IpAddr::V4(a) => record(TYPE_A, &a.octets(), out),
            IpAddr::V6(a) => record(TYPE_AAAA, &a.octets(), out),
        });
    }

    /// The name that an address has.
    pub(crate) fn pointer(&self, name: &str, limit: usize, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(name.len() + 2);
        for label in name.split('.').filter(|l| !l.is_empty()) {
            let label = &label.as_bytes()[..label.len().min(usize::from(MAX_LABEL))];
            data.push(u8::try_from(label.len()).unwrap_or(MAX_LABEL));
            data.extend_from_slice(label);
        }
        data.push(0);
        self.fitting(std::iter::once(data), limit, out, |out, data| record(TYPE_PTR, &data, out));
    }

    fn fitting<T>(
        &self,
        items: impl Iterator<Item = T>,
        limit: usize,
        out: &mut Vec<u8>,
        write: impl Fn(&mut Vec<u8>, T),
    ) {
        let begin = out.len();
        self.begin(0, out);
        let (mut count, mut truncated) = (0u16, false);
        for item in items {
            let end = out.len();
            write(out, item);
            if out.len() - begin + OPT_LEN > limit || count == u16::MAX {
                out.truncate(end);
                truncated = true;
                break;
            }
            count += 1;
        }
        if let Some(header) = out.get_mut(begin..).and_then(|message| message.first_chunk_mut::<HEADER_LEN>())
        {
            header[2] |= u8::from(truncated) << 1;
            [header[6], header[7]] = count.to_be_bytes();
        }
        self.end(out);
    }

    /// Header and question, for no record as yet.
    fn begin(&self, code: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        // An answer, by one who also asks others.
        out.extend_from_slice(&[0x80 | u8::from(self.recursion_desired), 0x80 | code, 0, 1]);
        out.extend_from_slice(&[0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        out.extend_from_slice(self.section);
    }

    /// What stands behind the records.
    fn end(&self, out: &mut Vec<u8>) {
        let Some(secure) = self.edns else { return };
        out.push(0);
        out.extend_from_slice(&TYPE_OPT.to_be_bytes());
        out.extend_from_slice(&MAX_UDP.to_be_bytes());
        out.extend_from_slice(&[0, 0, if secure { 0x80 } else { 0 }, 0, 0, 0]);
    }

    /// Whether the address is of the kind asked for.
    pub(crate) fn asks_for(&self, address: IpAddr) -> bool {
        match self.kind {
            TYPE_A => address.is_ipv4(),
            TYPE_AAAA => address.is_ipv6(),
            _ => false,
        }
    }

    /// Whether `answer` answers this question under the number `id`, as far as that can be seen without following
    /// names: the question it repeats must be ours.
    pub(crate) fn is_answered_by(&self, id: u16, answer: &[u8]) -> bool {
        let Some(header) = answer.first_chunk::<HEADER_LEN>() else { return false };
        let same = answer
            .get(HEADER_LEN..HEADER_LEN + self.section.len())
            .is_some_and(|section| section.eq_ignore_ascii_case(self.section));
        header[..2] == id.to_be_bytes() && header[2] & 0x80 != 0 && header[4..6] == [0, 1] && same
    }

    /// The address that a question for a name by address asks about.
    pub(crate) fn reverse(&self) -> Option<IpAddr> {
        let name = self.name.as_str();
        if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
            let mut octets = [0u8; 4];
            let mut parts = rest.split('.').rev();
            for octet in &mut octets {
                *octet = parts.next()?.parse().ok()?;
            }
            return parts.next().is_none().then(|| IpAddr::from(octets));
        }
        let rest = name.strip_suffix(".ip6.arpa")?;
        let (mut bits, mut count) = (0u128, 0);
        for digit in rest.split('.').rev() {
            let [digit] = digit.as_bytes() else { return None };
            bits = (bits << 4) | u128::from(char::from(*digit).to_digit(16)?);
            count += 1;
        }
        (count == 32).then(|| IpAddr::from(bits.to_be_bytes()))
    }
}

/// Root, type, size, flags, no data.
const OPT_LEN: usize = 11;

/// A record about the name of the question, which stands behind the header.
fn record(kind: u16, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0x0c]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&TTL.to_be_bytes());
    out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(data);
}

/// The code of an answer.
pub(crate) fn code(answer: &[u8]) -> Option<u8> {
    answer.get(3).map(|b| b & 0xf)
}

/// An answer of another server for a client that takes no more than `limit` bytes: as it is, or header and question
/// with the remark that there is more.
pub(crate) fn passed_on(question: &Question<'_>, mut answer: Vec<u8>, limit: usize) -> Vec<u8> {
    if answer.len() > limit {
        let mut short = Vec::new();
        question.empty(code(&answer).unwrap_or(0), &mut short);
        short[2] |= 2;
        return short;
    }
    if let Some(id) = answer.get_mut(..2) {
        id.copy_from_slice(&question.id.to_be_bytes());
    }
    answer
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A question without EDNS.
    pub(crate) fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|l| !l.is_empty()) {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
        out.extend_from_slice(&[0, u8::try_from(kind).unwrap(), 0, 1]);
        out
    }

    #[test]
    fn questions_are_read() {
        let message = question("Web.Example", TYPE_A);
        let asked = parse(&message).unwrap();
        assert_eq!(
            (asked.name.as_str(), asked.kind, asked.id, asked.max_udp),
            ("web.example", 1, 0xabcd, 512)
        );
        let mut with_edns = question("a", TYPE_AAAA);
        with_edns[11] = 1;
        with_edns.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
        let asked = parse(&with_edns).unwrap();
        assert_eq!((asked.max_udp, asked.edns), (4096, Some(true)));
        assert_eq!(parse(&question("", TYPE_A)).unwrap().name.as_str(), "");
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let check = |change: fn(&mut Vec<u8>), expected: Refusal| {
            let mut message = question("a", TYPE_A);
            change(&mut message);
            assert_eq!(parse(&message), Err(expected));
        };
        check(|m| m.truncate(11), Refusal::Ignore);
        check(|m| m[2] |= 0x80, Refusal::Ignore);
        check(|m| m[2] |= 0x10, Refusal::Code(NOT_IMPLEMENTED));
        check(|m| m[5] = 2, Refusal::Code(FORMAT_ERROR));
        check(|m| m[12] = 0xc0, Refusal::Code(FORMAT_ERROR));
        check(|m| m.truncate(16), Refusal::Code(FORMAT_ERROR));
        check(|m| *m.last_mut().unwrap() = 3, Refusal::Code(REFUSED));
        let long = format!("{}.", "a".repeat(60)).repeat(5);
        assert_eq!(parse(&question(&long, TYPE_A)), Err(Refusal::Code(FORMAT_ERROR)));
    }

    #[test]
    fn answers_fit() {
        let message = question("a", TYPE_A);
        let asked = parse(&message).unwrap();
        let all = vec![IpAddr::from([10, 0, 0, 1]); 100];
        let addresses = |limit: usize| {
            let mut out = b"before".to_vec();
            asked.addresses(all.iter().copied(), limit, &mut out);
            out.split_off(6)
        };
        let answer = addresses(512);
        assert!(answer.len() <= 512 && answer[2] & 2 != 0, "truncated");
        let answer = addresses(65535);
        assert_eq!((answer[2] & 2, u16::from_be_bytes([answer[6], answer[7]])), (0, 100));
        assert!(asked.is_answered_by(0xabcd, &answer) && !asked.is_answered_by(1, &answer));
        assert_eq!(passed_on(&asked, answer, 512)[2] & 2, 2);
    }

    #[test]
    fn addresses_backwards() {
        let check = |name: &str, expected: Option<&str>| {
            let message = question(name, TYPE_PTR);
            let asked = parse(&message).unwrap();
            assert_eq!(asked.reverse(), expected.map(|t| t.parse().unwrap()), "{name}");
        };
        check("2.0.18.172.in-addr.arpa", Some("172.18.0.2"));
        check("2.0.18.in-addr.arpa", None);
        check("1.2.0.18.172.in-addr.arpa", None);
        check("300.0.18.172.in-addr.arpa", None);
        check(&format!("1.{}d.f.ip6.arpa", "0.".repeat(29)), Some("fd00::1"));
        check("1.0.ip6.arpa", None);
    }

    proptest! {
        /// T-DNS-1: nothing that a container or a server sends brings us down or makes a larger answer than allowed.
        #[test]
        fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..600), limit in 0usize..2000) {
            refuse(&bytes, REFUSED, &mut Vec::new());
            if let Ok(question) = parse(&bytes) {
                question.reverse();
                question.is_answered_by(1, &bytes);
                let floor = HEADER_LEN + question.section.len() + OPT_LEN;
                let mut answer = Vec::new();
                question.addresses([IpAddr::from([1, 2, 3, 4]); 9].into_iter(), limit, &mut answer);
                prop_assert!(answer.len() <= limit.max(floor));
                passed_on(&question, bytes.clone(), limit);
            }
        }
    }
}
