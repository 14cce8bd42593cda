//! Compressed streams: which one it is, and the bytes inside.

use crate::Error;
use std::io::{BufReader, Read, Write};

/// How the bytes of a layer are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    /// Read, never written.
    Xz,
    /// Read, never written.
    Bzip2,
}

/// The longest signature that [`Compression::of`] looks at.
const MAGIC_LEN: usize = 6;

/// Compressed bytes are asked for in pieces of this size.
const INPUT_BUFFER: usize = 128 * 1024;

/// zstd frames may ask for a window of up to 2^27 bytes (128 MiB), the limit that RFC 8878 recommends readers to
/// support and the zstd programs default to. More would let a few bytes allocate gigabytes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What an xz stream may make its reader allocate. The highest preset needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 128 << 20;

impl Compression {
    /// Tells the compression of a stream that starts with `head`. Bytes without a known signature are taken as plain.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for lz4, which would otherwise look like a broken tar.
    pub fn of(head: &[u8]) -> Result<Compression, Error> {
        let unsupported = |name: &str| Err(Error::Unsupported { what: format!("{name} compression") });
        match head {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            // A skippable frame may stand before the first zstd frame (RFC 8878, 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Compression::Xz),
            // A digit for the size of blocks, then the mark of a block or of the end.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Ok(Compression::Bzip2),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            _ => Ok(Compression::None),
        }
    }
}

/// What [`decompress`] puts back in front of a stream that it looked at.
type Sniffed<R> = BufReader<std::io::Chain<std::io::Cursor<Vec<u8>>, R>>;

/// The plain bytes of a stream, whatever its compression.
pub struct Decompressor<R: Read> {
    compression: Compression,
    inner: Inner<R>,
}

enum Inner<R: Read> {
    None(Sniffed<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Sniffed<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Sniffed<R>>>),
    Xz(Box<liblzma::bufread::XzDecoder<Sniffed<R>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<Sniffed<R>>>),
}

/// Looks at the first bytes of `input` and returns a reader of what is inside.
///
/// Several gzip members, zstd frames, xz or bzip2 streams are read as one stream, as their formats ask. Broken or cut compressed
/// bytes come out of `read` as `InvalidData` or `UnexpectedEof`.
///
/// # Errors
///
/// [`Error::Read`] when `input` fails, [`Error::Unsupported`] for a compression that this build does not know.
pub fn decompress<R: Read + Send>(mut input: R) -> Result<Decompressor<R>, Error> {
    let mut head = Vec::with_capacity(MAGIC_LEN);
    let wanted = u64::try_from(MAGIC_LEN).expect("a small constant");
    input.by_ref().take(wanted).read_to_end(&mut head).map_err(|source| Error::Read { source })?;
    let compression = Compression::of(&head)?;
    let whole = BufReader::with_capacity(INPUT_BUFFER, std::io::Cursor::new(head).chain(input));
    let inner = match compression {
        Compression::None => Inner::None(whole),
        Compression::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
        Compression::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(whole).map_err(|source| Error::Read { source })?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|source| Error::Read { source })?;
            Inner::Zstd(Box::new(decoder))
        }
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, flags)
                .map_err(|e| Error::Read { source: e.into() })?;
            Inner::Xz(Box::new(liblzma::bufread::XzDecoder::new_stream(whole, stream)))
        }
        Compression::Bzip2 => Inner::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(whole))),
    };
    Ok(Decompressor { compression, inner })
}

impl<R: Read> Decompressor<R> {
    /// The compression that was found.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Gives back the compressed stream, to read what is left in it (a hashing reader wants every byte).
    ///
    /// Bytes that are already buffered are lost: read to the end first.
    pub fn into_inner(self) -> R {
        let sniffed = match self.inner {
            Inner::None(reader) => reader,
            Inner::Gzip(decoder) => decoder.into_inner(),
            Inner::Zstd(decoder) => decoder.finish(),
            Inner::Xz(decoder) => decoder.into_inner(),
            Inner::Bzip2(decoder) => decoder.into_inner(),
        };
        sniffed.into_inner().into_inner().1
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.inner {
            Inner::None(reader) => reader.read(buf),
            Inner::Gzip(decoder) => decoder.read(buf),
            Inner::Zstd(decoder) => decoder.read(buf),
            Inner::Xz(decoder) => decoder.read(buf),
            Inner::Bzip2(decoder) => decoder.read(buf),
        }
    }
}

impl<R: Read> std::fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("compression", &self.compression).finish_non_exhaustive()
    }
}

/// A writer that compresses what passes. [`Compressor::finish`] writes the trailer; without it the stream is cut.
pub struct Compressor<W: Write> {
    inner: Outer<W>,
}

enum Outer<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

/// Compresses into `out`, at the default level of the format. The same bytes give the same bytes: no time, no name.
///
/// # Errors
///
/// [`Error::Write`] when zstd cannot start; [`Error::Unsupported`] for what is only read.
pub fn compress<W: Write>(out: W, compression: Compression) -> Result<Compressor<W>, Error> {
    let inner = match compression {
        Compression::None => Outer::None(out),
        Compression::Gzip => Outer::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::default())),
        Compression::Zstd => Outer::Zstd(
            zstd::stream::write::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)
                .map_err(|source| Error::Write { source })?,
        ),
        Compression::Xz | Compression::Bzip2 => {
            return Err(Error::Unsupported { what: "writing xz or bzip2".into() });
        }
    };
    Ok(Compressor { inner })
}

impl<W: Write> Compressor<W> {
    /// Ends the stream and gives the writer back.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when the writer refuses the last bytes.
    pub fn finish(self) -> Result<W, Error> {
        match self.inner {
            Outer::None(out) => Ok(out),
            Outer::Gzip(encoder) => encoder.finish(),
            Outer::Zstd(encoder) => encoder.finish(),
        }
        .map_err(|source| Error::Write { source })
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match &mut self.inner {
            Outer::None(out) => out.write(buf),
            Outer::Gzip(encoder) => encoder.write(buf),
            Outer::Zstd(encoder) => encoder.write(buf),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.inner {
            Outer::None(out) => out.flush(),
            Outer::Gzip(encoder) => encoder.flush(),
            Outer::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}
