//! Which files of a context the layers below have already by another name.
//!
//! Overlay shows the inode of the layer's file. One that two layers of an image had would be one file with two names there:
//! `cp` of one to the other says that they are the same, `cp -a` of both makes a link. So a layer gets no file that a layer
//! below has.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files looked at in the layers below; of larger images nothing is shared twice.
const MAX_LOOKED_AT: usize = 2_000_000;

/// Inodes that have more than one name and lie in the layers below; found out when first asked for.
#[derive(Debug)]
pub(super) struct Below<'a> {
    layers: &'a [PathBuf],
    /// None inside: they cannot be told, so each of them may be there.
    found: Option<Option<HashSet<u64>>>,
}

impl<'a> Below<'a> {
    /// `layers` are their directories, as [`snapshot::Layers`] has them.
    pub(super) fn new(layers: &'a [PathBuf]) -> Below<'a> {
        Below { layers, found: None }
    }

    /// Whether a file of the file system `device`, which has `names` names by now, may be in a layer below.
    pub(super) fn may_have(&mut self, device: u64, inode: u64, names: u64) -> bool {
        // The one is the context's own.
        if names <= 1 {
            return false;
        }
        let layers = self.layers;
        let found = self.found.get_or_insert_with(|| look(layers, device).ok());
        found.as_ref().is_none_or(|found| found.contains(&inode))
    }
}

fn look(layers: &[PathBuf], device: u64) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    let mut left = MAX_LOOKED_AT;
    for layer in layers {
        // An image that is mounted has inodes of its own.
        if layer.symlink_metadata()?.dev() == device {
            look_in(layer, &mut found, &mut left)?;
        }
    }
    Ok(found)
}

fn look_in(layer: &Path, found: &mut HashSet<u64>, left: &mut usize) -> io::Result<()> {
    let mut directories = vec![layer.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            *left = left.checked_sub(1).ok_or(io::ErrorKind::FileTooLarge)?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                let metadata = entry.metadata()?;
                if metadata.nlink() > 1 {
                    found.insert(metadata.ino());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_several_names_below() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layers = ["one", "two"].map(|name| dir.path().join(name));
        for layer in &layers {
            std::fs::create_dir_all(layer.join("a/b")).expect("new directories");
        }
        let context = dir.path().join("file");
        std::fs::write(&context, "text").expect("a new file");
        let ids = || {
            let found = context.metadata().expect("it is there");
            (found.dev(), found.ino(), found.nlink())
        };
        let may_have = |layers: &[PathBuf]| {
            let (device, inode, names) = ids();
            Below::new(layers).may_have(device, inode, names)
        };
        assert!(!may_have(&layers));
        std::fs::hard_link(&context, layers[1].join("a/b/x")).expect("the same file system");
        assert!(may_have(&layers));
        assert!(!may_have(&layers[..1]), "a name in a layer of another image");
        assert!(may_have(&[dir.path().join("gone")]), "what cannot be read may have it");
        // Of another file system.
        assert!(!Below::new(&layers).may_have(0, ids().1, 2));
    }
}
