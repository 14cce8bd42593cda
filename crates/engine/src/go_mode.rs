//! Modes as Go's `os.FileMode` has them, which Docker's and BuildKit's messages carry.

use rustix::fs::FileType;

const DEVICE: u32 = 1 << 26;
const CHARACTER: u32 = 1 << 21;
const IRREGULAR: u32 = 1 << 19;
/// Kinds of files that are not regular.
const KINDS: [(FileType, u32); 6] = [
    (FileType::Directory, 1 << 31),
    (FileType::Symlink, 1 << 27),
    (FileType::BlockDevice, DEVICE),
    (FileType::CharacterDevice, DEVICE | CHARACTER),
    (FileType::Fifo, 1 << 25),
    (FileType::Socket, 1 << 24),
];
/// Set-user-ID, set-group-ID, sticky.
const FLAGS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

/// The kernel's mode as Go's.
pub fn go_mode(mode: u32) -> u32 {
    let kind = FileType::from_raw_mode(mode);
    let kind = KINDS.iter().find(|(own, _)| *own == kind).map_or(0, |(_, go)| *go);
    let flags = FLAGS.iter().filter(|(own, _)| mode & own != 0);
    flags.fold(mode & 0o777 | kind, |sum, (_, go)| sum | go)
}

/// Go's mode as the kernel's; none for a kind that the kernel does not have.
pub fn unix_mode(go: u32) -> Option<u32> {
    let kinds = KINDS.iter().fold(IRREGULAR, |sum, (_, go)| sum | go);
    let kind = match go & kinds {
        0 => FileType::RegularFile,
        kind => KINDS.iter().find(|(_, own)| *own == kind)?.0,
    };
    let flags = FLAGS.iter().filter(|(_, own)| go & own != 0);
    Some(flags.fold(kind.as_raw_mode() | go & 0o777, |sum, (unix, _)| sum | unix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos_and_back() {
        for (unix, go) in [
            (0o100_644, 0o644),
            (0o041_777, (1 << 31) | (1 << 20) | 0o777),
            (0o120_777, (1 << 27) | 0o777),
            (0o104_755, (1 << 23) | 0o755),
            (0o020_666, (1 << 26) | (1 << 21) | 0o666),
            (0o060_660, (1 << 26) | 0o660),
        ] {
            assert_eq!((go_mode(unix), unix_mode(go)), (go, Some(unix)), "{unix:o}");
        }
        assert_eq!(unix_mode(1 << 19), None);
        assert_eq!(unix_mode(1 << 31 | 1 << 27), None);
    }
}
