//! Changing an input: bytes, numbers, words of the target's own language, and parts of other inputs.

/// Words that many formats stumble over.
const AWKWARD: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\"",
    b"\\",
    b"/",
    b"..",
    b"../",
    b"//",
    b"-1",
    b"0",
    b"1e999",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"18446744073709551616",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"4294967296",
    b"\xff\xff",
    b"\xc3\x28",
    "\u{663}".as_bytes(),
    "\u{fffd}".as_bytes(),
    "\u{130}".as_bytes(),
    b"%00",
    b"%",
    b"${",
    b"$",
    b"*",
    b"**",
    b"[",
    b"!",
    b"#",
    b"@",
    b":",
];
/// Longer inputs find nothing that shorter ones do not.
const MAX_LENGTH: usize = 64 << 10;
/// Words kept of the seeds.
const MAX_WORDS: usize = 4096;

/// A sequence of numbers that is the same for the same seed (xorshift).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Any seed but 0, which would give only zeros, gives a sequence of its own.
    pub fn new(seed: u64) -> Random {
        Random(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed })
    }

    /// The next number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap_or(u64::MAX)).unwrap_or_default()
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> Option<&'a T> {
        list.get(self.below(list.len())).copied()
    }

    /// A number that is mostly small.
    fn small(&mut self, end: usize) -> usize {
        let bits = self.below(usize::BITS as usize - end.leading_zeros() as usize + 1);
        self.below(end.min(1 << bits.min(62)))
    }
}

/// Changes inputs of one target.
#[derive(Debug)]
pub struct Mutator {
    words: Vec<Vec<u8>>,
}

impl Mutator {
    /// With the words of these inputs: runs of letters and digits, and quoted texts.
    pub fn new<'a>(inputs: impl IntoIterator<Item = &'a [u8]>) -> Mutator {
        let mut words = std::collections::BTreeSet::new();
        for input in inputs {
            let plain = input.split(|b| !b.is_ascii_alphanumeric() && !b"_-.".contains(b));
            let quoted = input.split(|b| *b == b'"');
            let fits = |w: &&[u8]| (2..=40).contains(&w.len());
            words.extend(plain.chain(quoted).filter(fits).map(<[u8]>::to_vec).take(MAX_WORDS));
        }
        Mutator { words: words.into_iter().take(MAX_WORDS).collect() }
    }

    /// `input` with some changes; `other` is one to take parts from.
    pub fn change(&self, input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
        let mut out = input.to_vec();
        let many = if random.below(4) == 0 { 16 } else { 3 };
        for _ in 0..=random.below(many) {
            self.step(&mut out, other, random);
        }
        out.truncate(MAX_LENGTH);
        out
    }

    fn step(&self, out: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        let at = random.below(out.len() + 1);
        let span = random.small(out.len() - at + 1);
        let end = at + span.min(out.len() - at);
        match random.below(12) {
            0 => drop(out.drain(at..end)),
            1 => {
                let copy = out[at..end].to_vec();
                let to = random.below(out.len() + 1);
                let times = if random.below(8) == 0 { 1 + random.below(300) } else { 1 };
                for _ in 0..times {
                    if out.len() > MAX_LENGTH {
                        break;
                    }
                    out.splice(to..to, copy.iter().copied());
                }
            }
            2 => out.truncate(at),
            3 | 4 if at < out.len() => out[at] ^= 1 << random.below(8),
            5 if at < out.len() => out[at] = random.below(256).to_le_bytes()[0],
            6 => number(out, at, random),
            7 => {
                if let Some(word) = random.pick(AWKWARD) {
                    let end = if random.below(2) == 0 { at } else { (at + word.len()).min(out.len()) };
                    out.splice(at..end, word.iter().copied());
                }
            }
            8 | 9 => {
                let word = self.words.get(random.below(self.words.len()));
                // In place of the word that stands there, or between.
                let (start, end) = if random.below(3) == 0 { (at, at) } else { word_around(out, at) };
                out.splice(start..end, word.into_iter().flatten().copied());
            }
            _ => {
                let from = random.below(other.len() + 1);
                let length = random.small(other.len() - from + 1).min(other.len() - from);
                let end = if random.below(2) == 0 { at } else { end };
                out.splice(at..end, other[from..from + length].iter().copied());
            }
        }
    }
}

/// The word at `at`.
fn word_around(text: &[u8], at: usize) -> (usize, usize) {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let start = text[..at].iter().rposition(|b| !is_word(b)).map_or(0, |i| i + 1);
    let end = text[at..].iter().position(|b| !is_word(b)).map_or(text.len(), |i| at + i);
    (start, end)
}

/// Another number in place of the digits at or after `at`.
fn number(out: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = out[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let end = out[start..].iter().position(|b| !b.is_ascii_digit()).map_or(out.len(), |i| start + i);
    let old: u64 = std::str::from_utf8(&out[start..end]).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let new = match random.below(7) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old.wrapping_mul(2),
        3 => 1 << random.below(64),
        4 => (1u64 << random.below(64)).wrapping_sub(1),
        5 => old.wrapping_neg(),
        _ => random.below(1000) as u64,
    };
    // A field of fixed width, as tar has, keeps its width every other time.
    let text =
        if random.below(2) == 0 { new.to_string() } else { format!("{new:0width$o}", width = end - start) };
    out.splice(start..end, text.into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stay_in_bounds_and_repeat() {
        let inputs: [&[u8]; 3] = [b"", b"{\"a\":12,\"bcd\":\"e f\"}", &[0xff; 600]];
        let mutator = Mutator::new(inputs);
        assert!(mutator.words.contains(&b"bcd".to_vec()) && mutator.words.contains(&b"e f".to_vec()));
        let run = || {
            let mut random = Random::new(7);
            let mut out = Vec::new();
            for round in 0..3000 {
                let changed = mutator.change(inputs[round % 3], inputs[(round + 1) % 3], &mut random);
                assert!(changed.len() <= MAX_LENGTH);
                out.push(changed);
            }
            out
        };
        let all = run();
        assert_eq!(all, run());
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert!(different.len() > 1500, "{}", different.len());
    }
}
