//! Compressed streams, whole and broken.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

use archive::{Compression, compress, decompress};
use errors::{HasKind, Kind};
use std::io::{Read, Write};

fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut writer = compress(Vec::new(), compression).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn unpacked(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(bytes).unwrap().read_to_end(&mut out)?;
    Ok(out)
}

fn text() -> Vec<u8> {
    (0..20_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect()
}

#[test]
fn what_goes_in_comes_out() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for bytes in [&b""[..], b"x", &text()] {
            let packed = packed(compression, bytes);
            assert_eq!(
                decompress(&packed[..]).unwrap().compression(),
                if packed.is_empty() { Compression::None } else { compression }
            );
            assert_eq!(unpacked(&packed).unwrap(), bytes, "{compression:?}");
        }
    }
}

#[test]
fn several_members_are_one_stream() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let bytes = [packed(compression, b"one "), packed(compression, b"two")].concat();
        assert_eq!(unpacked(&bytes).unwrap(), b"one two");
    }
    let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd";
    let bytes =
        [&skippable[..], &packed(Compression::Zstd, b"one "), skippable, &packed(Compression::Zstd, b"two")];
    assert_eq!(unpacked(&bytes.concat()).unwrap(), b"one two");
}

#[test]
fn broken_streams_are_errors() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let whole = packed(compression, &text());
        for cut in (6..whole.len()).step_by(whole.len() / 50) {
            assert!(unpacked(&whole[..cut]).is_err(), "{compression:?} {cut}");
        }
        for at in (6..whole.len()).step_by(whole.len() / 200) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            // zstd writes no checksum by default: then the bytes differ, which the digest tells.
            assert!(unpacked(&bytes).map_or(true, |out| compression == Compression::Zstd || out == text()));
        }
        let garbage = [&whole[..], b"garbage"].concat();
        assert!(unpacked(&garbage).is_err(), "{compression:?}");
    }
}

#[test]
fn zstd_windows_have_a_limit() {
    // A frame header that asks for a window of 2^31 bytes, and an empty raw block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    assert!(unpacked(&frame).is_err());
    let modest = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
    assert_eq!(unpacked(&modest).unwrap(), b"");
}

#[test]
fn unknown_compressions_are_named() {
    let error = decompress(&b"\x04\x22\x4d\x18xx"[..]).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("lz4"), "{error}");
}

#[test]
fn the_rest_of_the_input_can_be_had() {
    let bytes = packed(Compression::Gzip, b"abc");
    let mut hashing = archive::Hashing::new(&bytes[..]);
    let mut reader = decompress(&mut hashing).unwrap();
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    std::io::copy(reader.into_inner(), &mut std::io::sink()).unwrap();
    assert_eq!(hashing.finish(), (oci::Digest::of(&bytes), bytes.len() as u64));
}
