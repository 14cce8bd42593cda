//! PAX extended headers: records `LENGTH KEY=VALUE\n`.

use super::{MAX_PATH, Timestamp, Xattr};
use base64::Engine as _;

/// Longest extended header read; 64 KiB is the kernel's limit for one extended attribute, and Go reads 1 MiB too.
pub(super) const MAX_PAX: u64 = 1 << 20;

/// Most segments of one sparse file: a map is held in memory.
pub(super) const MAX_SEGMENTS: usize = 65_536;

/// What an extended header says. `None`: it says nothing about that.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Sparse,
}

/// The `GNU.sparse.` keys, versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) version: (Option<u64>, Option<u64>),
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) blocks: Option<u64>,
    /// 0.0 and 0.1: offset and length by turns.
    pub(super) map: Option<Vec<u64>>,
}

impl Sparse {
    /// Whether any key was there.
    pub(super) fn is_present(&self) -> bool {
        *self != Sparse::default()
    }
}

/// Reads the content of an extended header. What is not known is skipped; what is malformed is not.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Pax, String> {
    let mut pax = Pax::default();
    let mut base64_xattrs = Vec::new();
    while !bytes.is_empty() {
        let (Record { key, value }, rest) = record(bytes)?;
        bytes = rest;
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            base64_xattrs.push(libarchive_xattr(name, value)?);
        } else {
            pax.set(key, value)?;
        }
    }
    // libarchive writes both forms; the plain one needs no decoding.
    for (name, value) in base64_xattrs {
        if !pax.xattrs.iter().any(|(known, _)| *known == name) {
            pax.xattrs.push((name, value));
        }
    }
    Ok(pax)
}

impl Pax {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        // An empty value takes a global record back; globals of these keys are not taken in the first place.
        match key {
            b"path" => self.path = path("path", value)?,
            b"linkpath" => self.link = path("linkpath", value)?,
            b"size" => self.size = decimal("size", value)?,
            b"uid" => self.uid = id("uid", value)?,
            b"gid" => self.gid = id("gid", value)?,
            b"mtime" => self.mtime = time(value)?,
            b"GNU.sparse.major" => self.sparse.version.0 = decimal("sparse version", value)?,
            b"GNU.sparse.minor" => self.sparse.version.1 = decimal("sparse version", value)?,
            b"GNU.sparse.name" => self.sparse.name = path("sparse name", value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = decimal("sparse size", value)?;
            }
            b"GNU.sparse.numblocks" => self.sparse.blocks = decimal("sparse blocks", value)?,
            b"GNU.sparse.map" => self.sparse.map = Some(sparse_map(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse_turn(key, value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    /// Version 0.0 repeats two keys by turns.
    fn sparse_turn(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let map = self.sparse.map.get_or_insert_default();
        let expects_offset = map.len().is_multiple_of(2);
        if expects_offset != (key == b"GNU.sparse.offset") {
            return Err("sparse map is out of order".into());
        }
        if map.len() >= 2 * MAX_SEGMENTS {
            return Err(format!("sparse map has more than {MAX_SEGMENTS} segments"));
        }
        map.push(decimal("sparse map", value)?.ok_or("sparse map has an empty number")?);
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        if name.is_empty() || name.contains(&0) {
            return Err("extended attribute has no proper name".into());
        }
        match self.xattrs.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_vec(),
            None => self.xattrs.push((name.to_vec(), value.to_vec())),
        }
        if self.xattrs.len() > MAX_XATTRS {
            return Err(format!("more than {MAX_XATTRS} extended attributes"));
        }
        Ok(())
    }
}

/// Extended attributes of one entry. ext4 holds a few dozen; looking them up is quadratic here.
const MAX_XATTRS: usize = 1024;

/// One `KEY=VALUE`.
struct Record<'b> {
    key: &'b [u8],
    value: &'b [u8],
}

/// Splits the first record off.
fn record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), String> {
    let broken = || "extended header record is malformed".to_string();
    let space = bytes.iter().take(12).position(|&byte| byte == b' ').ok_or_else(broken)?;
    let (digits, _) = bytes.split_at(space);
    let length = decimal("record length", digits)?.ok_or_else(broken)?;
    let length = usize::try_from(length).map_err(|_| broken())?;
    if length <= space + 1 || length > bytes.len() {
        return Err(broken());
    }
    let (record, rest) = bytes.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(broken)?;
    let equals = body.iter().position(|&byte| byte == b'=').ok_or_else(broken)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(broken());
    }
    Ok((Record { key, value }, rest))
}

/// Decimal digits only; empty is `None`.
pub(super) fn decimal(what: &str, value: &[u8]) -> Result<Option<u64>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    value
        .iter()
        .try_fold(0u64, |sum, &digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            sum.checked_mul(10)?.checked_add(digit)
        })
        .map(Some)
        .ok_or_else(|| format!("{what} is not a number"))
}

fn id(what: &str, value: &[u8]) -> Result<Option<u32>, String> {
    decimal(what, value)?
        .map(|id| u32::try_from(id).map_err(|_| format!("{what} {id} is out of range")))
        .transpose()
}

fn path(what: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if value.contains(&0) {
        return Err(format!("{what} has a NUL"));
    }
    if value.len() > MAX_PATH {
        return Err(format!("{what} is longer than {MAX_PATH} bytes"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// Seconds since 1970 with an optional sign and fraction; digits past the nanosecond are cut.
fn time(value: &[u8]) -> Result<Option<Timestamp>, String> {
    let broken = || "mtime is not a time".to_string();
    if value.is_empty() {
        return Ok(None);
    }
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let whole = decimal("mtime", whole)?.ok_or_else(broken)?;
    let seconds = i64::try_from(whole).map_err(|_| broken())?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(broken());
    }
    let nanoseconds =
        (0..9).fold(0u32, |sum, at| sum * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')));
    Ok(Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    }))
}

fn sparse_map(value: &[u8]) -> Result<Vec<u64>, String> {
    let mut map = Vec::new();
    for number in value.split(|&byte| byte == b',').filter(|_| !value.is_empty()) {
        if map.len() >= 2 * MAX_SEGMENTS {
            return Err(format!("sparse map has more than {MAX_SEGMENTS} segments"));
        }
        map.push(decimal("sparse map", number)?.ok_or("sparse map has an empty number")?);
    }
    Ok(map)
}

/// Name (percent-encoded) and value (base64, padding optional) as libarchive writes them.
fn libarchive_xattr(name: &[u8], value: &[u8]) -> Result<Xattr, String> {
    let broken = || "LIBARCHIVE.xattr record is malformed".to_string();
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(broken)?;
        let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let high = hex(digits[0]).ok_or_else(broken)?;
        decoded.push(high << 4 | hex(digits[1]).ok_or_else(broken)?);
        rest = after;
    }
    if decoded.is_empty() || decoded.contains(&0) {
        return Err(broken());
    }
    let unpadded: Vec<u8> = value.iter().copied().filter(|&byte| byte != b'=').collect();
    let value = base64::engine::general_purpose::STANDARD_NO_PAD.decode(unpadded).map_err(|_| broken())?;
    Ok((decoded, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let pax = parse(b"12 path=a/b\n22 mtime=1234.5678901\n9 uid=70\n16 atime=1.2345\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.uid, Some(70));
        assert_eq!(pax.mtime, Some(Timestamp { seconds: 1234, nanoseconds: 567_890_100 }));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"12 path=a/b"[..],
            b"11 path=a/b\n",
            b"99 path=a/b\n",
            b"0 path=a/b\n",
            b"3 \n",
            b"path=a/b\n",
            b"10 path:ab\n",
            b"6 =ab\n",
            b"-2 path=a\n",
            b"99999999999999999999 path=a\n",
            b"12 path=a\0b\n",
            b"10 size=-1\n",
            b"11 uid=0x10\n",
            b"18 uid=4294967296\n",
            b"12 mtime=1,5\n",
            b"12 path=a/b\n\0\0",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn times() {
        let check = |text: &[u8], seconds, nanoseconds| {
            assert_eq!(time(text).unwrap(), Some(Timestamp { seconds, nanoseconds }), "{text:?}");
        };
        check(b"0", 0, 0);
        check(b"1.000000001", 1, 1);
        check(b"1.9999999999", 1, 999_999_999);
        check(b"-1", -1, 0);
        check(b"-1.25", -2, 750_000_000);
        assert!(time(b"1.-5").is_err());
        assert!(time(b"99999999999999999999").is_err());
    }

    #[test]
    fn xattrs_in_both_forms() {
        let both = b"29 SCHILY.xattr.user.a=plain\n36 LIBARCHIVE.xattr.user.a=cGxhaW4K\n";
        assert_eq!(parse(both).unwrap().xattrs, [(b"user.a".to_vec(), b"plain".to_vec())]);
        let (name, value) = libarchive_xattr(b"user.%61b", b"AAE=").unwrap();
        assert_eq!((name, value), (b"user.ab".to_vec(), vec![0, 1]));
        assert!(libarchive_xattr(b"user.%6", b"AAE=").is_err());
        assert!(libarchive_xattr(b"user.a", b"!!").is_err());
    }
}
