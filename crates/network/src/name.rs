//! Names that come from a configuration: checked once, before they reach an alias or a rule.

use crate::{Error, Result};

/// `IFNAMSIZ` without the terminating zero.
const MAX_INTERFACE: usize = 15;

/// Longest owner: `IFALIASZ` is 256, with room for our prefix.
const MAX_OWNER: usize = 200;

/// Refuses what the kernel refuses (`/`, `:`, blanks, dots alone, too long) and anything that is not plain ASCII.
pub(crate) fn check_interface(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good =
        (1..=MAX_INTERFACE).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != "..";
    // These are directories beside the interfaces' own in /proc/sys/net/*/conf: settings would hit every interface.
    if good && !matches!(name, "all" | "default") {
        Ok(())
    } else {
        Err(Error::InvalidInterface { name: name.into() })
    }
}

/// Refuses an owner that would not fit an interface's alias.
pub(crate) fn check_owner(owner: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if (1..=MAX_OWNER).contains(&owner.len()) && owner.bytes().all(plain) {
        Ok(())
    } else {
        Err(Error::InvalidOwner { owner: owner.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces() {
        for good in ["brig0", "br-0123456789ab", "veth1a2b3c4", "a.b"] {
            assert!(check_interface(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "../all", "all", "default", "a b", "a\n", "br-0123456789abc", "é"]
        {
            assert!(check_interface(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn owners() {
        assert!(check_owner("0af1").is_ok());
        assert!(check_owner("").is_err());
        assert!(check_owner("a\nb").is_err());
        assert!(check_owner(&"a".repeat(201)).is_err());
    }
}
