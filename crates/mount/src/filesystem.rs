//! File systems named by type, device and options, as in fstab(5): what a volume with driver options is.

use crate::Error;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::ffi::CString;
use std::path::Path;

/// A file system to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem<'a> {
    /// Type, for example `nfs`; ignored for a bind.
    pub kind: &'a str,
    /// Device, export or directory.
    pub device: &'a str,
    /// Options between commas, those of mount(8) and those of the file system mixed.
    pub options: &'a str,
}

/// Options of mount(8) that are flags of the mount: name, flag, whether the name sets it or clears it.
const FLAGS: &[(&str, MountFlags, bool)] = &[
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("bind", MountFlags::BIND, true),
    ("rbind", MountFlags::BIND.union(MountFlags::REC), true),
];

/// What the options of mount(8) come to.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    /// For the file system itself.
    data: String,
}

fn parse(options: &str) -> Parsed {
    let mut out = Parsed { flags: MountFlags::empty(), propagation: None, data: String::new() };
    for option in options.split(',').filter(|o| !o.is_empty() && *o != "defaults") {
        let rec = MountPropagationFlags::REC;
        let propagation = match option {
            "private" => Some(MountPropagationFlags::PRIVATE),
            "rprivate" => Some(MountPropagationFlags::PRIVATE | rec),
            "shared" => Some(MountPropagationFlags::SHARED),
            "rshared" => Some(MountPropagationFlags::SHARED | rec),
            "slave" => Some(MountPropagationFlags::DOWNSTREAM),
            "rslave" => Some(MountPropagationFlags::DOWNSTREAM | rec),
            "unbindable" => Some(MountPropagationFlags::UNBINDABLE),
            "runbindable" => Some(MountPropagationFlags::UNBINDABLE | rec),
            _ => None,
        };
        if propagation.is_some() {
            out.propagation = propagation;
        } else if let Some((_, flag, sets)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            out.flags.set(*flag, *sets);
        } else {
            if !out.data.is_empty() {
                out.data.push(',');
            }
            out.data.push_str(option);
        }
    }
    out
}

/// Mounts `fs` on the directory `target`.
///
/// Kernel: [mount(2)](https://man7.org/linux/man-pages/man2/mount.2.html), which alone takes the options of every
/// file system as one text.
pub fn mount_file_system(fs: &FileSystem<'_>, target: &Path) -> Result<(), Error> {
    let failed = |e: Errno| Error::FileSystem {
        kind: fs.kind.into(),
        device: fs.device.into(),
        target: target.into(),
        source: e.into(),
    };
    let parsed = parse(fs.options);
    let data = CString::new(parsed.data).map_err(|_| failed(Errno::INVAL))?;
    rustix::mount::mount(fs.device, target, fs.kind, parsed.flags, Some(data.as_c_str())).map_err(failed)?;
    let rest = || -> Result<(), Errno> {
        // A bind takes the flags of what it shows; its own need a second call.
        let own = parsed.flags - MountFlags::BIND - MountFlags::REC;
        if parsed.flags.contains(MountFlags::BIND) && !own.is_empty() {
            rustix::mount::mount_remount(target, own | MountFlags::BIND, c"")?;
        }
        parsed.propagation.map_or(Ok(()), |p| rustix::mount::mount_change(target, p))
    };
    rest().map_err(|e| {
        drop(crate::detach(target));
        failed(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_apart() {
        let check = |text: &str, flags, propagation, data: &str| {
            assert_eq!(parse(text), Parsed { flags, propagation, data: data.into() }, "{text}");
        };
        check("", MountFlags::empty(), None, "");
        check("defaults,ro,size=1m,uid=5", MountFlags::RDONLY, None, "size=1m,uid=5");
        check("ro,rw,noexec", MountFlags::NOEXEC, None, "");
        check("addr=1.2.3.4,rbind", MountFlags::BIND | MountFlags::REC, None, "addr=1.2.3.4");
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        check("rslave", MountFlags::empty(), Some(slave), "");
    }
}
