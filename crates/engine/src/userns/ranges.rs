//! `--userns-remap`, and the ranges of subuid(5) and subgid(5) that it means.

use crate::error::Error;
use oci::IdMap;
use oci::runtime::IdMapping;
use std::path::Path;

/// Whose ranges `default` means, as in Docker.
const DEFAULT_USER: &str = "dockremap";
/// The kernel takes 340 lines (`UID_GID_MAP_MAX_EXTENTS`) in less than a page, see user_namespaces(7).
const MAX_RANGES: usize = 340;
const MAX_TEXT: usize = 4095;
/// What is proposed to who has no range: as many ids as useradd(8) gives, from where it begins.
const USUAL_SIZE: u32 = 65_536;
const USUAL_START: u32 = 100_000;

/// The texts of the files that are looked at.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) passwd: String,
    pub(super) group: String,
    pub(super) subuid: String,
    pub(super) subgid: String,
}

impl Files {
    /// Those of this machine, empty where there is none.
    pub(super) fn read(etc: &Path) -> Files {
        let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap_or_default();
        Files { passwd: read("passwd"), group: read("group"), subuid: read("subuid"), subgid: read("subgid") }
    }
}

/// The mapping that `text` means: `default`, `USER[:GROUP]`, by names or numbers.
pub(super) fn resolve(text: &str, files: &Files) -> Result<IdMap, Error> {
    let (user, group) = match text {
        "default" => (DEFAULT_USER, None),
        _ => match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        },
    };
    if user.is_empty() || group == Some("") || group.is_some_and(|g| g.contains(':')) {
        return Err(Error::invalid(format!("--userns-remap {text}: want default or USER[:GROUP]")));
    }
    let is_default = text == "default";
    let owner = names("user", user, &files.passwd, is_default)?;
    let group_owner = match group {
        Some(group) => names("group", group, &files.group, false)?,
        // Ranges of groups are listed by users.
        None => owner.clone(),
    };
    let map = IdMap {
        uids: ranges("/etc/subuid", &owner, &files.subuid)?,
        gids: ranges("/etc/subgid", &group_owner, &files.subgid)?,
    };
    for (what, file, mapped) in [("user", &files.passwd, &map.uids), ("group", &files.group, &map.gids)] {
        if let Some(name) = somebody(file, mapped) {
            tracing::warn!("--userns-remap {text}: containers have the id of {what} {name} of this machine");
        }
    }
    Ok(map)
}

/// A user or group of the machine whose id is mapped.
fn somebody<'a>(file: &'a str, mapped: &[IdMapping]) -> Option<&'a str> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
        mapped.iter().any(|m| id.checked_sub(m.host_id).is_some_and(|n| n < m.size)).then_some(name)
    })
}

/// Name and number of a user or group, either of which a range may be listed by.
fn names(what: &str, given: &str, file: &str, may_be_missing: bool) -> Result<Vec<String>, Error> {
    for line in file.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next(), fields.nth(1))
            && (name == given || number == given)
        {
            return Ok(vec![name.into(), number.into()]);
        }
    }
    match may_be_missing {
        true => Ok(vec![given.into()]),
        false => Err(Error::invalid(format!("--userns-remap: no {what} {given} on this machine"))),
    }
}

fn ranges(file: &str, owner: &[String], text: &str) -> Result<Vec<IdMapping>, Error> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    let mut end = USUAL_START;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(':').collect();
        let numbers = match fields[..] {
            [_, start, size] => start.parse::<u32>().ok().zip(size.parse::<u32>().ok()),
            _ => None,
        };
        let is_own = fields.first().is_some_and(|name| owner.iter().any(|own| own == name));
        match numbers.and_then(|(start, size)| Some((start, size, start.checked_add(size)?))) {
            Some((start, size, until)) => {
                end = end.max(until);
                if is_own && size > 0 {
                    found.push((start, size));
                }
            }
            None if is_own => return Err(Error::invalid(format!("{file}: malformed line {line:?}"))),
            None => {}
        }
    }
    let name = owner.first().map_or("", String::as_str);
    if found.is_empty() {
        return Err(Error::invalid(format!(
            "--userns-remap: {file} has no range for {name}; add a line such as {name}:{end}:{USUAL_SIZE}"
        )));
    }
    found.sort_unstable();
    if found.len() > MAX_RANGES {
        return Err(Error::invalid(format!("{file}: more than {MAX_RANGES} ranges for {name}")));
    }
    if found.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        return Err(Error::invalid(format!("{file}: the ranges of {name} overlap")));
    }
    if found.iter().any(|(start, _)| *start == 0) {
        return Err(Error::invalid(format!("{file}: a range of {name} begins with root's own id")));
    }
    let mut inside: u32 = 0;
    let mut out = Vec::with_capacity(found.len());
    for (host_id, size) in found {
        out.push(IdMapping { container_id: inside, host_id, size });
        inside = inside.saturating_add(size);
    }
    let text = |m: &IdMapping| format!("{} {} {}\n", m.container_id, m.host_id, m.size).len();
    if out.iter().map(text).sum::<usize>() > MAX_TEXT {
        return Err(Error::invalid(format!("{file}: more ranges for {name} than the kernel takes")));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n".into(),
            group: "root:x:0:\nann:x:1000:\nusers:x:100:ann\n".into(),
            subuid: "# who\nann:100000:65536\nbob:200000:10\n1001:300000:5\nodd:x:y\n".into(),
            subgid: "ann:100000:65536\nbob:165536:65536\nusers:500000:7\n".into(),
        }
    }

    #[test]
    fn ranges_of_users_and_groups() {
        type Ranges<'a> = &'a [(u32, u32, u32)];
        let check = |text: &str, want: Result<(Ranges<'_>, Ranges<'_>), &str>| {
            let got = resolve(text, &files());
            match (got, want) {
                (Ok(map), Ok((uids, gids))) => {
                    let plain = |list: &[IdMapping]| {
                        list.iter().map(|m| (m.container_id, m.host_id, m.size)).collect::<Vec<_>>()
                    };
                    assert_eq!((&plain(&map.uids)[..], &plain(&map.gids)[..]), (uids, gids), "{text}");
                }
                (Err(e), Err(words)) => assert!(e.to_string().contains(words), "{text}: {e}"),
                (got, want) => panic!("{text}: {got:?}, want {want:?}"),
            }
        };
        let ann = [(0, 100_000, 65_536)];
        check("ann", Ok((&ann, &ann)));
        check("1000", Ok((&ann, &ann)));
        check("ann:users", Ok((&ann, &[(0, 500_000, 7)])));
        check("1000:100", Ok((&ann, &[(0, 500_000, 7)])));
        // By name and by number, one after the other.
        check("bob", Ok((&[(0, 200_000, 10), (10, 300_000, 5)], &[(0, 165_536, 65_536)])));
        check(
            "default",
            Err("/etc/subuid has no range for dockremap; add a line such as dockremap:300005:65536"),
        );
        check("root", Err("/etc/subuid has no range for root"));
        check("eve", Err("no user eve"));
        check("ann:eve", Err("no group eve"));
        for text in ["", ":", "ann:", ":ann", "a:b:c"] {
            check(text, Err("want default or USER[:GROUP]"));
        }
    }

    #[test]
    fn ranges_that_cannot_be() {
        let check = |subuid: &str, words: &str| {
            let files = Files { subuid: subuid.into(), ..files() };
            let error = resolve("ann", &files).unwrap_err().to_string();
            assert!(error.contains(words), "{subuid}: {error}");
        };
        check("ann:1:10\nann:5:1\n", "overlap");
        check("ann:0:10\n", "root's own id");
        check("ann:4294967290:10\n", "malformed line");
        check("ann:x:10\n", "malformed line");
        check("ann:10\n", "malformed line");
        check("ann:10:0\n", "no range");
        let many =
            |count: u32| (0..count).map(|n| format!("ann:{}:1\n", 1_000_000_000 + n)).collect::<String>();
        check(&many(341), "more than 340");
        check(&many(300), "more ranges for ann than the kernel takes");
    }

    #[test]
    fn ids_of_the_machine_in_a_range() {
        let mapped = |host_id, size| [IdMapping { container_id: 0, host_id, size }];
        let passwd = files().passwd;
        assert_eq!(somebody(&passwd, &mapped(1001, 1)), Some("bob"));
        assert_eq!(somebody(&passwd, &mapped(1, 65_536)), Some("ann"));
        assert_eq!(somebody(&passwd, &mapped(1002, 65_536)), None);
        assert_eq!(somebody("odd\nodd:x\nodd:x:y\n", &mapped(1, 10)), None);
    }
}
