//! Extended attributes, stored behind their inode.

use crate::Error;

/// What stands before the attributes of an inode.
const HEADER: usize = 12;
/// What stands before each.
const ENTRY: usize = 4;
/// Most bytes of attributes that an inode's count can tell of, and that we keep in memory.
const MAX: usize = 64 * 1024;

/// Names are stored by the number of their prefix and the rest. A longer prefix goes before a shorter.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The extended attributes of one inode, encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs(Vec<u8>);

impl Xattrs {
    /// Whether the format has a place for an attribute of this name.
    pub fn is_storable(name: &[u8]) -> bool {
        split(name).is_some_and(|(_, rest)| rest.len() <= usize::from(u8::MAX))
    }

    /// Adds an attribute. Of two of one name the kernel sees the first: add each once.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] for a name that is not storable, and for more than 64 KiB in all.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let too_large = Error::TooLarge { what: "an extended attribute" };
        let Some((index, rest)) = split(name) else { return Err(too_large) };
        let (Ok(name_len), Ok(value_len)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return Err(too_large);
        };
        if self.0.is_empty() {
            self.0.resize(HEADER, 0);
        }
        if self.0.len() + ENTRY + rest.len() + value.len() > MAX {
            return Err(too_large);
        }
        self.0.push(name_len);
        self.0.push(index);
        self.0.extend_from_slice(&value_len.to_le_bytes());
        self.0.extend_from_slice(rest);
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `i_xattr_icount`: 0 for none, else one more than the units of four bytes behind the header.
    pub(crate) fn count(&self) -> u16 {
        match self.0.len().checked_sub(HEADER) {
            None => 0,
            Some(n) => u16::try_from(n / 4 + 1).expect("limited by MAX"),
        }
    }
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (prefix, index) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))?;
    let rest = &name[prefix.len()..];
    // The ACLs are whole names, the others need something behind the prefix.
    (prefix.ends_with(b".") != rest.is_empty()).then_some((*index, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split() {
        assert!(Xattrs::is_storable(b"user.a"));
        assert!(Xattrs::is_storable(b"system.posix_acl_access"));
        assert!(!Xattrs::is_storable(b"system.posix_acl_access2"));
        assert!(!Xattrs::is_storable(b"system.nfs4_acl"));
        assert!(!Xattrs::is_storable(b"user."));
        assert!(!Xattrs::is_storable(&[b"user.".as_slice(), &[b'x'; 256]].concat()));
    }

    #[test]
    fn sizes_are_counted() {
        let mut xattrs = Xattrs::default();
        assert_eq!(xattrs.count(), 0);
        xattrs.push(b"user.a", b"12345").unwrap();
        // 4 + 1 + 5, rounded up.
        assert_eq!(xattrs.bytes().len(), HEADER + 12);
        assert_eq!(xattrs.count(), 4);
        assert!(xattrs.push(b"user.b", &vec![0; MAX]).is_err());
    }
}
