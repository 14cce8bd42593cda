//! A compressed stream, unpacked to at most 16 MiB.

use std::io::Read as _;

pub(crate) fn run(data: &[u8]) {
    if let Ok(stream) = archive::decompress(data) {
        let mut out = Vec::new();
        let _broken = stream.take(16 << 20).read_to_end(&mut out);
    }
}
