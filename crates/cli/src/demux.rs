//! Standard output and error on one connection: frames with an 8-byte head, `[kind, 0, 0, 0, length]`, the length
//! big-endian. Kind 1 is output, 2 error, 0 input (shown as output), 3 an error of the daemon.
//!
//! Spec: Docker Engine API, `ContainerAttach`, "Stream format".

/// Bytes of a frame's head.
const HEAD: usize = 8;
/// Longest error text of the daemon within a stream.
const MAX_SYSTEM_ERROR: usize = 64 << 10;

/// Where bytes belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Why a stream could not be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// A frame's head that no daemon sends.
    #[error("unrecognized stream kind {0}; was the container made with a terminal?")]
    Kind(u8),
    /// The daemon gave up and says why.
    #[error("error from daemon in stream: {0}")]
    System(String),
}

/// Takes a stream apart as its bytes arrive, however they are cut. Payload is passed on as it comes, so a frame that
/// claims four gigabytes needs no memory.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    /// What has come of a frame's head.
    head: [u8; HEAD],
    head_length: usize,
    /// Kind and bytes left of the frame under way.
    frame: Option<(u8, usize)>,
    system: Vec<u8>,
}

impl Demux {
    /// Takes the next bytes and gives each piece of payload to `sink`.
    pub(crate) fn feed(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(Stream, &[u8]),
    ) -> Result<(), Error> {
        while !input.is_empty() {
            let Some((kind, left)) = self.frame else {
                let (more, rest) = input.split_at((HEAD - self.head_length).min(input.len()));
                self.head[self.head_length..][..more.len()].copy_from_slice(more);
                self.head_length += more.len();
                input = rest;
                if self.head_length == HEAD {
                    self.head_length = 0;
                    let [kind, _, _, _, length @ ..] = self.head;
                    let length = u32::from_be_bytes(length) as usize;
                    if kind > 3 {
                        return Err(Error::Kind(kind));
                    }
                    self.frame = (length > 0).then_some((kind, length));
                }
                continue;
            };
            let (piece, rest) = input.split_at(left.min(input.len()));
            input = rest;
            let left = left - piece.len();
            self.frame = (left > 0).then_some((kind, left));
            match kind {
                2 => sink(Stream::Stderr, piece),
                3 => {
                    let room = MAX_SYSTEM_ERROR.saturating_sub(self.system.len());
                    self.system.extend_from_slice(&piece[..piece.len().min(room)]);
                    if left == 0 {
                        return Err(Error::System(String::from_utf8_lossy(&self.system).trim().to_string()));
                    }
                }
                _ => sink(Stream::Stdout, piece),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 0, 0][..], &length, payload].concat()
    }

    fn run(chunks: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut demux = Demux::default();
        for chunk in chunks {
            demux.feed(chunk, |stream, bytes| match stream {
                Stream::Stdout => out.extend_from_slice(bytes),
                Stream::Stderr => err.extend_from_slice(bytes),
            })?;
        }
        Ok((out, err))
    }

    #[test]
    fn whole_and_cut_to_single_bytes() {
        let input = [frame(1, b"out"), frame(2, b"err"), frame(1, b""), frame(0, b"in")].concat();
        let expected = (b"outin".to_vec(), b"err".to_vec());
        assert_eq!(run(&[&input]).unwrap(), expected);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(run(&bytes).unwrap(), expected);
    }

    #[test]
    fn errors() {
        assert_eq!(run(&[&frame(3, b"disk full\n")]), Err(Error::System("disk full".into())));
        assert_eq!(run(&[b"plain text"]), Err(Error::Kind(b'p')));
        // A frame of four gigabytes of which three bytes come.
        assert_eq!(run(&[&[1, 0, 0, 0, 255, 255, 255, 255, 1, 2, 3]]).unwrap().0, vec![1, 2, 3]);
    }
}
