//! What the image bench compares with: the same bytes moved by a program that decides, checks and records nothing.
//!
//! ```text
//! floor pull HOST:PORT REPOSITORY DIR sha256:DIGEST...   fetch, hash, decompress, hash and write each layer as one file
//! floor push HOST:PORT REPOSITORY sha256:DIGEST=FILE... send each file as a blob, as the kernel does it fastest
//! floor copy FROM TO                                     a plain copy
//! floor inflate FROM TO                                  what is inside a compressed file
//! floor deflate FROM TO                                  gzip, at the level that saves use
//! ```
//!
//! `push` sends all files at once, each with one request that begins and one that ends, from the page cache to the socket
//! without a copy; what time is left is the registry's own.
//!
//! `pull` takes all layers at once, each with one thread that fetches and decompresses and one that hashes and writes; so
//! both cores have something to do for as long as there is something. It syncs nothing. Built as an example of the crate
//! whose codecs it uses.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a measuring stick: a panic is its report")]

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::sync_channel;

/// Bytes moved at once, and pieces between two threads.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pull", host, repository, dir, digests @ ..] => std::thread::scope(|scope| {
            for digest in digests {
                scope.spawn(move || layer(host, repository, dir, digest));
            }
        }),
        ["push", host, repository, files @ ..] => std::thread::scope(|scope| {
            for file in files {
                scope.spawn(move || blob(host, repository, file));
            }
        }),
        ["copy", from, to] => write(&mut File::open(from).unwrap(), &mut File::create(to).unwrap()),
        ["inflate", from, to] => {
            write(
                &mut archive::decompress(File::open(from).unwrap()).unwrap(),
                &mut File::create(to).unwrap(),
            );
        }
        ["deflate", from, to] => {
            let mut out = archive::compress(File::create(to).unwrap(), archive::Compression::Gzip).unwrap();
            write(&mut File::open(from).unwrap(), &mut out);
            out.finish().unwrap();
        }
        _ => panic!("see the head of this program"),
    }
}

fn write(from: &mut impl Read, to: &mut impl Write) {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).unwrap() {
            0 => return,
            n => to.write_all(&piece[..n]).unwrap(),
        }
    }
}

/// One layer, from the registry to a file.
fn layer(host: &str, repository: &str, dir: &str, digest: &str) {
    let (body, length) = get(host, &format!("/v2/{repository}/blobs/{digest}"));
    let mut plain = archive::decompress(Hashing { inner: body.take(length), hasher: Sha256::new() }).unwrap();
    let mut file = File::create(format!("{dir}/{}", digest.replace(':', "-"))).unwrap();
    let (sender, receiver) = sync_channel::<Vec<u8>>(PIECES);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut hasher = Sha256::new();
            for piece in receiver {
                hasher.update(&piece);
                file.write_all(&piece).unwrap();
            }
            std::hint::black_box(hasher.finalize());
        });
        loop {
            let mut piece = vec![0; PIECE];
            let mut filled = 0;
            while filled < PIECE {
                match plain.read(&mut piece[filled..]).unwrap() {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                break;
            }
            piece.truncate(filled);
            sender.send(piece).unwrap();
        }
        drop(sender);
    });
    let hex = plain.into_inner().hasher.finalize().iter().fold(String::from("sha256:"), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    assert_eq!(hex, digest, "the registry sent something else");
}

/// One blob, from a file to the registry.
fn blob(host: &str, repository: &str, named: &str) {
    let (digest, path) = named.split_once('=').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "POST /v2/{repository}/blobs/uploads/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
    let (status, location) = answer(&stream);
    assert!(status.starts_with("HTTP/1.1 202"), "{status}");
    let location = location.strip_prefix(&format!("http://{host}")).unwrap();
    let joint = if location.contains('?') { '&' } else { '?' };
    let mut file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    write!(
        stream,
        "PUT {location}{joint}digest={digest} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {length}\r\n\r\n"
    )
    .unwrap();
    // By sendfile(2).
    std::io::copy(&mut file, &mut stream).unwrap();
    let (status, _) = answer(&stream);
    assert!(status.starts_with("HTTP/1.1 201"), "{status}");
}

/// The status line of an answer without a body, and its location.
fn answer(stream: &TcpStream) -> (String, String) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let status = lines.next().unwrap();
    let headers = lines.take_while(|line| !line.is_empty());
    let location = headers.filter(|line| line.to_ascii_lowercase().starts_with("location:")).last();
    (status, location.map(|line| line["location:".len()..].trim().to_owned()).unwrap_or_default())
}

/// The body of an answer, and its length.
fn get(host: &str, path: &str) -> (impl Read + Send + use<>, u64) {
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut stream = BufReader::with_capacity(PIECE, stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
    let mut length = 0;
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    (stream, length)
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
