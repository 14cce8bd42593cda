//! Streams that others' programs compressed, and what they must not make us do.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use archive::{Compression, decompress};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// What a program makes of `bytes`; none where it is not there.
fn filter(program: &str, args: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    let child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else {
        // `cargo xtask test` sees to it that it is there.
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output.status.success().then_some(output.stdout)
}

fn read(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(bytes).unwrap().read_to_end(&mut out).map(|_| out)
}

#[test]
fn xz_and_bzip2_are_read_also_several_in_a_row() {
    let plain: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    for (program, args, expected) in [
        ("xz", &["-c"][..], Compression::Xz),
        ("xz", &["-9ec"], Compression::Xz),
        ("bzip2", &["-c"], Compression::Bzip2),
    ] {
        let Some(packed) = filter(program, args, &plain) else { continue };
        assert_eq!(Compression::of(&packed).unwrap(), expected);
        assert!(read(&packed).unwrap() == plain);
        let twice = [&packed[..], &packed[..]].concat();
        assert!(read(&twice).unwrap() == [&plain[..], &plain[..]].concat());
        // Cut or broken, it is an error and not an end.
        assert!(read(&packed[..packed.len() / 2]).is_err());
        let mut broken = packed.clone();
        let middle = broken.len() / 2;
        broken[middle] ^= 0x55;
        assert!(read(&broken).is_err());
        let empty = filter(program, args, b"").unwrap();
        assert!(read(&empty).unwrap().is_empty());
    }
}

/// A few bytes may not ask for more memory than a stream of the highest preset does.
#[test]
fn an_xz_stream_that_wants_a_gigabyte_is_refused() {
    let plain = vec![7; 1000];
    let Some(packed) = filter("xz", &["-c", "--lzma2=dict=1GiB"], &plain) else { return };
    assert!(read(&packed).is_err());
}
