//! Which ids outside a user namespace those inside stand for.
//!
//! Kernel: [user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html).

use crate::runtime::IdMapping;

/// What shows instead of an id that has none inside.
pub const OVERFLOW_ID: u32 = 65_534;

/// The mappings of one user namespace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IdMap {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

impl IdMap {
    /// The user id outside that `uid` inside stands for.
    pub fn outside_uid(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// The group id outside that `gid` inside stands for.
    pub fn outside_gid(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }

    /// The user id inside that stands for `uid` outside.
    pub fn inside_uid(&self, uid: u32) -> Option<u32> {
        inside(&self.uids, uid)
    }

    /// The group id inside that stands for `gid` outside.
    pub fn inside_gid(&self, gid: u32) -> Option<u32> {
        inside(&self.gids, gid)
    }

    /// Who root inside is outside: user and group.
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((self.outside_uid(0)?, self.outside_gid(0)?))
    }

    /// Reads the texts of `/proc/<pid>/uid_map` and `gid_map`.
    pub fn parse(uids: &str, gids: &str) -> Option<IdMap> {
        Some(IdMap { uids: parse(uids)?, gids: parse(gids)? })
    }
}

/// The text that the kernel takes for `uid_map` or `gid_map`.
pub fn to_text(mappings: &[IdMapping]) -> String {
    mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
}

fn parse(text: &str) -> Option<Vec<IdMapping>> {
    text.lines()
        .map(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u32>().ok());
            let mut next = || numbers.next().flatten();
            Some(IdMapping { container_id: next()?, host_id: next()?, size: next()? })
        })
        .collect()
}

fn outside(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|m| {
        let offset = id.checked_sub(m.container_id).filter(|offset| *offset < m.size)?;
        m.host_id.checked_add(offset)
    })
}

fn inside(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|m| {
        let offset = id.checked_sub(m.host_id).filter(|offset| *offset < m.size)?;
        m.container_id.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways() {
        let map = IdMap::parse("         0     100000      65536\n 65536 5 1\n", "0 200000 10\n").unwrap();
        assert_eq!(map.root(), Some((100_000, 200_000)));
        for (inside, outside) in [(0, 100_000), (65_535, 165_535), (65_536, 5)] {
            assert_eq!(map.outside_uid(inside), Some(outside));
            assert_eq!(map.inside_uid(outside), Some(inside));
        }
        assert_eq!((map.outside_uid(65_537), map.outside_gid(10)), (None, None));
        assert_eq!((map.inside_uid(0), map.inside_uid(165_536), map.inside_gid(199_999)), (None, None, None));
        assert_eq!(to_text(&map.uids), "0 100000 65536\n65536 5 1\n");
        assert_eq!(IdMap::parse("0 0 4294967295\n", "x\n"), None);
    }
}
