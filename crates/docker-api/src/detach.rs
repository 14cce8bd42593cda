//! The key sequence that ends an attachment without ending the process.

/// Docker's default.
const DEFAULT: &[u8] = &[0x10, 0x11];

/// Watches a client's input for the sequence.
#[derive(Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`, `ctrl-@`, `a,b`; empty is Docker's default.
    pub(crate) fn parse(text: &str) -> Option<DetachKeys> {
        if text.is_empty() {
            return Some(DetachKeys { keys: DEFAULT.to_vec(), matched: 0 });
        }
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        Some(DetachKeys { keys: keys?, matched: 0 })
    }

    /// What of `input` goes to the process, and whether the sequence is complete. Keys of a sequence that has begun
    /// are held back until it is clear that it is none.
    pub(crate) fn feed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] && self.keys.len() > 1 {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

fn key(text: &str) -> Option<u8> {
    match (text.strip_prefix("ctrl-"), text.as_bytes()) {
        (Some(name), _) => match name.as_bytes() {
            [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
            [c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(c - b'@'),
            _ => None,
        },
        (None, [byte]) => Some(*byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_across_reads() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.feed(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.feed(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.feed(b"\x11rest"), (b"".to_vec(), true));
    }

    #[test]
    fn spellings() {
        assert_eq!(DetachKeys::parse("ctrl-a,ctrl-[,z").unwrap().keys, [1, 27, b'z']);
        assert!(DetachKeys::parse("ctrl-1").is_none());
        assert!(DetachKeys::parse("ab").is_none());
        assert!(DetachKeys::parse("a,,b").is_none());
    }
}
