//! A root to apply archives in, and a canary beside it that no archive may touch.

use archive::{Applied, Error, Options, apply};
use rootdir::RootDir;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

pub(crate) struct Arena {
    dir: tempfile::TempDir,
    canary: Vec<(PathBuf, Look)>,
}

/// Everything that tells whether someone was at a file.
type Look = (u64, u32, u32, u32, u64, (i64, i64), (i64, i64), Vec<u8>);

impl Arena {
    pub(crate) fn new() -> Arena {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("canary")).unwrap();
        std::fs::write(dir.path().join("canary/secret"), "tweet").unwrap();
        std::os::unix::fs::symlink("secret", dir.path().join("canary/link")).unwrap();
        let mut arena = Arena { dir, canary: Vec::new() };
        arena.canary = arena.look_at_canary();
        arena
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    pub(crate) fn root(&self) -> RootDir {
        RootDir::open(&self.path()).unwrap()
    }

    pub(crate) fn apply(&self, tar: &[u8], options: &Options) -> Result<Applied, Error> {
        let applied = apply(tar, &self.root(), options);
        assert_eq!(self.look_at_canary(), self.canary, "the canary was touched");
        applied
    }

    fn look_at_canary(&self) -> Vec<(PathBuf, Look)> {
        let base = self.canary();
        let mut all = vec![base.clone(), self.dir.path().to_owned()];
        all.extend(std::fs::read_dir(&base).unwrap().map(|entry| entry.unwrap().path()));
        all.sort();
        all.into_iter()
            .map(|path| {
                let seen = std::fs::symlink_metadata(&path).unwrap();
                let content = if seen.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
                let times = ((seen.mtime(), seen.mtime_nsec()), (seen.ctime(), seen.ctime_nsec()));
                let look = (
                    seen.ino(),
                    seen.mode(),
                    seen.uid(),
                    seen.gid(),
                    seen.nlink(),
                    times.0,
                    times.1,
                    content,
                );
                (path, look)
            })
            .collect()
    }

    /// The tree as text: one line per entry, sorted; `path kind mode[ content or target]`.
    pub(crate) fn tree(&self) -> String {
        let mut lines = Vec::new();
        walk(&self.path(), Path::new(""), &mut lines);
        lines.sort();
        lines.join("\n")
    }
}

fn walk(base: &Path, below: &Path, lines: &mut Vec<String>) {
    for entry in std::fs::read_dir(base.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let full = base.join(&path);
        let seen = std::fs::symlink_metadata(&full).unwrap();
        let mode = seen.mode();
        let rest = match mode & 0o170000 {
            0o040000 => {
                walk(base, &path, lines);
                let opaque = xattr(&full, "trusted.overlay.opaque").map_or("", |_| " opaque");
                format!("dir {:o}{opaque}", mode & 0o7777)
            }
            0o100000 => {
                format!(
                    "file {:o} {}",
                    mode & 0o7777,
                    String::from_utf8_lossy(&std::fs::read(&full).unwrap())
                )
            }
            0o120000 => format!("link {}", std::fs::read_link(&full).unwrap().display()),
            0o020000 => format!("char {}:{}", rustix::fs::major(seen.rdev()), rustix::fs::minor(seen.rdev())),
            0o060000 => {
                format!("block {}:{}", rustix::fs::major(seen.rdev()), rustix::fs::minor(seen.rdev()))
            }
            0o010000 => format!("fifo {:o}", mode & 0o7777),
            _ => "other".into(),
        };
        lines.push(format!("{} {rest}", path.display()));
    }
}

pub(crate) fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65536];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}
