//! Importing a root file system: a tar becomes the one layer of an image.

use crate::commit::{Assemble, NewLayer, layer_type, push_layer};
use crate::{Error, Image, Images, Lease, OnProgress};
use archive::{Compression, Hashing, Packed};
use oci::image::{History, ImageConfig, RootFs, RunConfig};
use oci::{Descriptor, Platform, Reference};
use std::io::{self, Read, Write};

/// Bytes that tell how a stream is compressed.
const HEAD: u64 = 8;

/// An image to make of a tar.
#[expect(missing_debug_implementations, reason = "holds a callback")]
#[derive(Clone, Copy)]
pub struct ImportRoot<'a> {
    pub platform: &'a Platform,
    pub config: &'a RunConfig,
    pub comment: &'a str,
    /// RFC 3339.
    pub created: &'a str,
    /// Names to point at it, each with a tag; may be empty.
    pub references: &'a [Reference],
    pub progress: OnProgress<'a>,
}

/// Bytes written to a blob at a time.
const PIECE: usize = 256 << 10;

impl Images {
    /// Makes an image whose one layer is the root file system that `tar` brings, plain or compressed; the bytes are kept as
    /// they come.
    ///
    /// # Errors
    ///
    /// [`Error::ReadArchive`] for bytes that do not decompress; [`Error::Unpack`] for what is no tar.
    pub fn import_root<R: Read + Send>(&self, tar: R, import: &ImportRoot<'_>) -> Result<Image, Error> {
        let lease = self.lease();
        let made = self.import_root_leased(tar, import, &lease);
        drop(lease);
        if made.is_err() {
            self.clear_leftovers();
        }
        made
    }

    fn import_root_leased<R: Read + Send>(
        &self,
        tar: R,
        import: &ImportRoot<'_>,
        lease: &Lease,
    ) -> Result<Image, Error> {
        let read = |source| Error::ReadArchive { source };
        let io = |source| read(archive::Error::Read { source });
        let mut head = Vec::new();
        let mut tar = tar;
        tar.by_ref().take(HEAD).read_to_end(&mut head).map_err(io)?;
        let compression = Compression::of(&head).map_err(read)?;
        let tar = io::Cursor::new(head).chain(tar);
        let mut ingest = self.content.ingest(None, None)?;
        let (compression, diff_id, tar_bytes) = match compression {
            // No registry's clients read these in a layer: it is kept as a plain one.
            Compression::Xz | Compression::Bzip2 => {
                let mut hashing = Hashing::new(archive::decompress(tar).map_err(read)?);
                ingest.fill(&mut hashing).map_err(io)?;
                let (diff_id, tar_bytes) = hashing.finish();
                (Compression::None, diff_id, tar_bytes)
            }
            compression => {
                let copying = io::BufReader::with_capacity(PIECE, Copying { from: tar, to: &mut ingest });
                let mut plain = archive::decompress(copying).map_err(read)?;
                let mut hashing = Hashing::new(&mut plain);
                io::copy(&mut hashing, &mut io::sink()).map_err(io)?;
                let (diff_id, tar_bytes) = hashing.finish();
                // What comes behind the compressed stream belongs to the blob too.
                io::copy(&mut plain.into_inner(), &mut io::sink()).map_err(io)?;
                (compression, diff_id, tar_bytes)
            }
        };
        let (digest, size) = ingest.commit_kept(|digest| lease.keep_blob(digest))?;
        let layer = NewLayer {
            descriptor: Descriptor::new(layer_type(compression), digest, size),
            diff_id,
            packed: Packed { tar_bytes, ..Packed::default() },
        };
        let mut config = ImageConfig {
            created: Some(import.created.into()),
            author: None,
            architecture: import.platform.architecture.clone(),
            os: import.platform.os.clone(),
            os_version: import.platform.os_version.clone(),
            variant: import.platform.variant.clone(),
            config: Some(import.config.clone()),
            container: None,
            container_config: None,
            rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
            history: Vec::new(),
            build_cache: None,
        };
        let history = History {
            created: Some(import.created.into()),
            comment: Some(import.comment.into()),
            ..History::default()
        };
        push_layer(&mut config, Some(&layer), history)?;
        self.assemble(&Assemble {
            config: &config,
            layers: &[layer.descriptor],
            references: import.references,
            parent: None,
            lease,
            progress: import.progress,
        })
    }
}

/// A reader that writes what it reads somewhere else too.
struct Copying<'a, R, W> {
    from: R,
    to: &'a mut W,
}

impl<R: Read, W: Write> Read for Copying<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.to.write_all(&buffer[..n])?;
        Ok(n)
    }
}
