//! `USER` of an image or `--user` of a client, resolved against the container's own passwd and group files.
//!
//! A number is never looked up as a name: an image may hold a user *named* 1000 with uid 0 (CVE-2016-3697).

use crate::error::Error;

/// Largest uid and gid: `(uid_t)-1` means "no change" to the kernel.
const MAX_ID: u32 = u32::MAX - 1;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `user` (`name|uid[:group|gid]`, empty is root) and `group_add` with the texts of the container's
/// `/etc/passwd` and `/etc/group`, empty where a file is missing.
pub(crate) fn resolve(
    user: &str,
    group_add: &[String],
    passwd: &str,
    group: &str,
) -> Result<Credentials, Error> {
    let (user_part, group_part) = match user.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (user, None),
    };
    if group_part.is_some_and(|g| g.is_empty() || g.contains(':')) {
        return Err(Error::invalid(format!("invalid user {user:?}: want user[:group]")));
    }
    let entry = match parse_id(user_part)? {
        Some(uid) => passwd_entries(passwd).find(|e| e.uid == uid).or(Some(Passwd {
            name: "",
            uid,
            gid: 0,
            home: "/",
        })),
        None if user_part.is_empty() => passwd_entries(passwd).find(|e| e.uid == 0).or(Some(Passwd {
            name: "root",
            uid: 0,
            gid: 0,
            home: "/root",
        })),
        None => passwd_entries(passwd).find(|e| e.name == user_part),
    };
    let Some(entry) = entry else {
        return Err(Error::invalid(format!(
            "unable to find user {user_part}: no matching entries in passwd file"
        )));
    };
    let gid = match group_part {
        None => entry.gid,
        Some(name) => group_id(name, group)?,
    };
    // Supplementary groups come from the group file only when no group was named, as Docker does.
    let mut additional: Vec<u32> = Vec::new();
    if group_part.is_none() && !entry.name.is_empty() {
        additional.extend(
            group_entries(group).filter(|g| g.members.split(',').any(|m| m == entry.name)).map(|g| g.gid),
        );
    }
    for name in group_add {
        additional.push(group_id(name, group)?);
    }
    additional.sort_unstable();
    additional.dedup();
    let home = if entry.home.starts_with('/') { entry.home } else { "/" };
    Ok(Credentials { uid: entry.uid, gid, additional_gids: additional, home: home.to_string() })
}

fn group_id(name: &str, group: &str) -> Result<u32, Error> {
    if let Some(gid) = parse_id(name)? {
        return Ok(gid);
    }
    group_entries(group).find(|g| g.name == name && !name.is_empty()).map(|g| g.gid).ok_or_else(|| {
        Error::invalid(format!("unable to find group {name}: no matching entries in group file"))
    })
}

/// Some(id) for a decimal number in range, None for a name, an error for a number out of range.
fn parse_id(text: &str) -> Result<Option<u32>, Error> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(Error::invalid(format!("uids and gids must be in range 0-{MAX_ID}: {text}"))),
    }
}

fn passwd_entries(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid, _, home) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next(), fields.next());
        Some(Passwd { name, uid: strict(uid)?, gid: strict(gid)?, home: home.unwrap_or("/") })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next());
        Some(Group { name, gid: strict(gid)?, members: members.unwrap_or("") })
    })
}

/// Decimal digits only: `+1000`, `0x0` and ` 1000` are not ids, and a line with one is not an entry.
fn strict(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/:/bin/sh\nwww:x:33:34:w:/var/www:/x\n\
                          odd:x:+7:0::/:/x\nbad\nann:x:1000:100::/home/ann:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nvideo:x:44:www,ann\nusers:x:100:\n";

    fn check(user: &str, want: Option<(u32, u32, &[u32], &str)>) {
        let got = resolve(user, &[], PASSWD, GROUP).ok();
        let want = want.map(|(uid, gid, groups, home)| Credentials {
            uid,
            gid,
            additional_gids: groups.to_vec(),
            home: home.into(),
        });
        assert_eq!(got, want, "{user:?}");
    }

    #[test]
    fn names_and_numbers() {
        check("", Some((0, 0, &[], "/root")));
        check("www", Some((33, 34, &[44], "/var/www")));
        check("www:users", Some((33, 100, &[], "/var/www")));
        check("1000", Some((1000, 100, &[44], "/home/ann")));
        check("1000:1000", Some((1000, 1000, &[], "/home/ann")));
        check("4242", Some((4242, 0, &[], "/")));
        check("0:7", Some((0, 7, &[], "/root")));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for user in [
            "nobody",
            "odd",
            "-1",
            "4294967295",
            "4294967296",
            "99999999999999999999",
            "1:",
            "1:2:3",
            "www:none",
            "\u{0661}",
            "+5",
            "0x0",
            " 1",
            "1 ",
        ] {
            check(user, None);
        }
        check(":1", Some((0, 1, &[], "/root")));
    }

    #[test]
    fn added_groups_are_resolved_and_unique() {
        let got = resolve("www", &["users".into(), "44".into(), "9".into()], PASSWD, GROUP).unwrap();
        assert_eq!(got.additional_gids, [9, 44, 100]);
    }
}
