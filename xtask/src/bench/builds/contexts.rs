//! What is built from.

use crate::bench::image;
use crate::run::{Doing, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Writes a file, and makes the directories above it.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).doing(|| format!("create {}", dir.display()))?;
    }
    std::fs::write(path, text).doing(|| format!("write {}", path.display()))
}

/// Three files and some steps of every kind.
pub(super) fn small(dir: &Path) -> Result<PathBuf> {
    let dockerfile = format!(
        "FROM {}\nWORKDIR /app\nCOPY a.txt b.txt ./\nRUN /bin/busybox cat a.txt b.txt > c.txt\nENV ONE=1\nARG TWO=2\n\
         RUN echo $TWO > d.txt\nEXPOSE 80\nLABEL three=3\nCMD [\"true\"]\n",
        image::NAME
    );
    for (name, text) in [("Dockerfile", dockerfile.as_str()), ("a.txt", "a\n"), ("b.txt", "b\n")] {
        write(&dir.join(name), text)?;
    }
    Ok(dir.to_path_buf())
}

/// A context of many files: `part0` to `part9`, directories below each, the files in them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Large {
    directories: u32,
    files: u32,
    /// Of one file, in bytes.
    size: u32,
}

const PARTS: u32 = 10;

impl Large {
    /// 50,000 files, 1 GiB.
    pub(super) const WHOLE: Large = Large { directories: 50, files: 100, size: 21_475 };
    pub(super) const SMALL: Large = Large { directories: 2, files: 20, size: 21_475 };

    pub(super) fn files(self) -> u32 {
        PARTS * self.directories * self.files
    }

    pub(super) fn bytes(self) -> u64 {
        u64::from(self.files()) * u64::from(self.size)
    }

    /// Makes it, with a Dockerfile that copies part by part, and one that copies all at once.
    pub(super) fn make(self, dir: &Path) -> Result<()> {
        let mut state = 1;
        for part in 0..PARTS {
            for directory in 0..self.directories {
                let below = dir.join(format!("part{part}/dir{directory}"));
                std::fs::create_dir_all(&below).doing(|| format!("create {}", below.display()))?;
                for file in 0..self.files {
                    let path = below.join(format!("file{file}"));
                    std::fs::write(&path, text(self.size, &mut state))
                        .doing(|| format!("write {}", path.display()))?;
                }
            }
        }
        let parts = (0..PARTS).fold(String::new(), |mut text, part| {
            writeln!(text, "COPY part{part} /src/part{part}").expect("writing to a String");
            text
        });
        write(&dir.join("Dockerfile"), &format!("FROM {}\n{parts}", image::NAME))?;
        write(&dir.join("Dockerfile.whole"), &format!("FROM {}\nCOPY . /src\n", image::NAME))
    }

    /// Changes one file, of the part that is copied last.
    pub(super) fn change(self, dir: &Path, count: u32) -> Result<()> {
        let path = dir.join(format!("part{}/dir{}/file{}", PARTS - 1, self.directories / 2, self.files / 2));
        let doing = || format!("write {}", path.display());
        let mut file = std::fs::File::options().append(true).open(&path).doing(doing)?;
        file.write_all(format!("changed {count}\n").as_bytes()).doing(doing)
    }
}

/// Text that compresses to about half, other text each time.
fn text(size: u32, state: &mut u64) -> Vec<u8> {
    const LETTERS: &[u8; 16] = b"etaoinshrdlu \n.,";
    let size = size as usize;
    let mut out = Vec::with_capacity(size + 16);
    while out.len() < size {
        // xorshift64
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        out.extend(
            state
                .to_le_bytes()
                .iter()
                .flat_map(|byte| [LETTERS[usize::from(byte & 15)], LETTERS[usize::from(byte >> 4)]]),
        );
    }
    out.truncate(size);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_context_has_its_size_and_one_file_changes() {
        assert_eq!((Large::WHOLE.files(), Large::WHOLE.bytes() >> 20), (50_000, 1024));
        let dir = tempfile::tempdir().unwrap();
        let large = Large { directories: 1, files: 2, size: 100 };
        large.make(dir.path()).unwrap();
        let file = dir.path().join("part9/dir0/file1");
        let before = std::fs::read(&file).unwrap();
        large.change(dir.path(), 1).unwrap();
        assert_eq!(before.len(), 100);
        assert_eq!(std::fs::read(&file).unwrap(), [before.as_slice(), b"changed 1\n"].concat());
        assert_ne!(before, std::fs::read(dir.path().join("part9/dir0/file0")).unwrap());
    }
}
