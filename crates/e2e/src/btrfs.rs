//! A file system that has subvolumes and limits.

use std::path::PathBuf;
use std::process::Command;

/// A Btrfs in a file, mounted for as long as this lives.
#[derive(Debug)]
pub struct Btrfs {
    dir: tempfile::TempDir,
}

impl Btrfs {
    /// Needs `mkfs.btrfs`.
    pub fn new() -> Btrfs {
        let dir = tempfile::tempdir().unwrap();
        let (image, root) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        std::fs::create_dir(&root).unwrap();
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        run(Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).arg(&image).arg(&root));
        Btrfs { dir }
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Default for Btrfs {
    fn default() -> Btrfs {
        Btrfs::new()
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        run(Command::new("umount").args(["-R", "-l"]).arg(self.root()));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
