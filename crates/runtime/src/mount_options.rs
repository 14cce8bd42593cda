//! Mount options of the runtime specification taken apart.
//!
//! Spec: runtime-spec config.md, "Linux mount options".

use sys::mount_attr as attr;
use sys::mount_attr::Attributes;

/// What the options of one mount mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) attributes: Attributes,
    /// For the mount and everything below it.
    pub(crate) recursive: Attributes,
    /// In order: propagation bit, recursive.
    pub(crate) propagation: Vec<(u64, bool)>,
    pub(crate) bind: Option<Bind>,
    pub(crate) idmap: Option<Idmap>,
    /// The tmpfs begins with what it covers.
    pub(crate) copy_up: bool,
    /// Changes a mount that is there.
    pub(crate) remount: bool,
    /// Superblock flags and data of the file system, `key` or `key=value`.
    pub(crate) data: Vec<String>,
}

/// `bind` or `rbind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    One,
    Recursive,
}

/// `idmap` or `ridmap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idmap {
    One,
    Recursive,
}

/// Attribute options: name, bits set, bits cleared. Each also exists with an `r` before it, for the whole tree.
const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("noatime", attr::NOATIME, attr::ATIME_MASK),
    ("atime", 0, attr::ATIME_MASK),
    ("relatime", 0, attr::ATIME_MASK),
    ("norelatime", attr::STRICTATIME, attr::ATIME_MASK),
    ("strictatime", attr::STRICTATIME, attr::ATIME_MASK),
    ("nostrictatime", 0, attr::ATIME_MASK),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

const PROPAGATION: &[(&str, u64)] = &[
    ("private", attr::PRIVATE),
    ("slave", attr::SLAVE),
    ("shared", attr::SHARED),
    ("unbindable", attr::UNBINDABLE),
];

/// Says nothing, or what new mounts do anyway.
const NOTHING: &[&str] = &[
    "defaults",
    "async",
    "noiversion",
    "nolazytime",
    "loud",
    "nomand",
    "silent",
    "acl",
    "noacl",
    "mand",
    "iversion",
];

/// Options that have a meaning of their own.
const OTHERS: &[&str] =
    &["bind", "rbind", "idmap", "ridmap", "tmpcopyup", "remount", "sync", "dirsync", "lazytime"];

/// Every option that is known here, sorted.
pub(crate) fn names() -> Vec<String> {
    let twice = ATTRIBUTES.iter().map(|a| a.0).chain(PROPAGATION.iter().map(|p| p.0));
    let twice = twice.flat_map(|name| [name.to_owned(), format!("r{name}")]);
    let mut names: Vec<_> = twice.chain([NOTHING, OTHERS].concat().iter().map(|n| (*n).to_owned())).collect();
    names.sort();
    names
}

/// Takes the options apart.
///
/// # Errors
///
/// Why an option cannot be taken.
pub(crate) fn parse(list: &[String]) -> Result<Options, &'static str> {
    let mut out = Options::default();
    for option in list {
        let option = option.as_str();
        let recursive = option.strip_prefix('r').filter(|rest| ATTRIBUTES.iter().any(|a| a.0 == *rest));
        if let Some(&(_, set, clear)) = ATTRIBUTES.iter().find(|a| a.0 == option) {
            change(&mut out.attributes, set, clear);
        } else if let Some(&(_, set, clear)) =
            recursive.and_then(|rest| ATTRIBUTES.iter().find(|a| a.0 == rest))
        {
            change(&mut out.recursive, set, clear);
        } else if let Some(propagation) = propagation(option) {
            out.propagation.push(propagation);
        } else {
            match option {
                "bind" => out.bind = out.bind.or(Some(Bind::One)),
                "rbind" => out.bind = Some(Bind::Recursive),
                "idmap" => out.idmap = out.idmap.or(Some(Idmap::One)),
                "ridmap" => out.idmap = Some(Idmap::Recursive),
                "tmpcopyup" => out.copy_up = true,
                "remount" => out.remount = true,
                "" => {}
                nothing if NOTHING.contains(&nothing) => {}
                nul if nul.contains('\0') => return Err("an option has a NUL byte"),
                other => out.data.extend(other.split(',').map(str::to_owned)),
            }
        }
    }
    Ok(out)
}

/// `private` or `rprivate` and so on: the bit, and whether for the whole tree.
pub(crate) fn propagation(option: &str) -> Option<(u64, bool)> {
    let find = |name: &str| PROPAGATION.iter().find(|p| p.0 == name).map(|p| p.1);
    find(option).map(|bit| (bit, false)).or_else(|| find(option.strip_prefix('r')?).map(|bit| (bit, true)))
}

/// The later option wins, as with mount(8).
fn change(attributes: &mut Attributes, set: u64, clear: u64) {
    attributes.set = attributes.set & !clear | set;
    attributes.clear = attributes.clear & !(set & !attr::ATIME_MASK) | clear;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[&str]) -> Options {
        parse(&options.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn options_are_taken_apart() {
        let o = check(&["nosuid", "noexec", "newinstance", "mode=0620,gid=5", "ro", "rw"]);
        assert_eq!(o.attributes, Attributes::new(attr::NOSUID | attr::NOEXEC, attr::RDONLY));
        assert_eq!(o.data, ["newinstance", "mode=0620", "gid=5"]);
        let o = check(&["rbind", "rro", "rslave", "bind"]);
        assert_eq!(o.bind, Some(Bind::Recursive));
        assert_eq!(o.recursive, Attributes::new(attr::RDONLY, 0));
        assert_eq!(o.propagation, [(attr::SLAVE, true)]);
        assert_eq!(check(&["relatime"]).attributes, Attributes::new(0, attr::ATIME_MASK));
        assert_eq!(check(&["rrelatime"]).recursive, Attributes::new(0, attr::ATIME_MASK));
    }

    #[test]
    fn names_are_known_and_once() {
        let names = names();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
        for name in &names {
            let data = check(&[name]).data;
            assert!(data.is_empty() || OTHERS.contains(&name.as_str()), "{name}: {data:?}");
        }
    }

    #[test]
    fn what_is_no_flag() {
        let o = check(&["idmap", "ridmap", "idmap", "remount", "tmpcopyup", "unknown=1"]);
        assert_eq!((o.idmap, o.remount, o.copy_up), (Some(Idmap::Recursive), true, true));
        assert_eq!(o.data, ["unknown=1"]);
        assert!(parse(&["a\0b".into()]).is_err());
    }
}
