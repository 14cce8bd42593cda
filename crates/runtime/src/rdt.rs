//! Cache and memory bandwidth: groups of the kernel's resctrl file system.
//!
//! Spec: runtime-spec config-linux.md, "IntelRdt".

use crate::Error;
use crate::procfs::Proc;
use oci::runtime::IntelRdt;
use std::io;
use std::path::{Path, PathBuf};

/// Where resctrl is mounted.
pub(crate) fn root(proc: &Proc) -> Result<PathBuf, Error> {
    let at = |e: rustix::io::Errno| Error::io("read /proc/self/mounts", e);
    find_root(&proc.read("self/mounts").map_err(at)?).ok_or_else(|| {
        match std::fs::exists("/sys/fs/resctrl") {
            Ok(true) => {
                Error::unsupported("linux.intelRdt", "no resctrl file system is mounted on this host")
            }
            _ => Error::missing("linux.intelRdt", "resctrl file system on this processor"),
        }
    })
}

fn find_root(mounts: &str) -> Option<PathBuf> {
    let mut lines = mounts.lines().map(|line| line.split(' '));
    lines.find_map(|mut fields| {
        let directory = fields.nth(1)?;
        (fields.next()? == "resctrl").then(|| PathBuf::from(directory))
    })
}

/// Refuses what could reach beyond a group or a line.
pub(crate) fn check(rdt: &IntelRdt) -> Result<(), Error> {
    let refuse = |field: &str, reason: &str| Err(Error::invalid(format!("linux.intelRdt.{field}"), reason));
    if rdt
        .clos_id
        .as_deref()
        .is_some_and(|id| id != "/" && (id.is_empty() || id.contains('/') || id.starts_with('.')))
    {
        return refuse("closID", "is not one name");
    }
    if rdt.mem_bw_schema.as_deref().is_some_and(|line| !line.starts_with("MB:") || line.contains('\n')) {
        return refuse("memBwSchema", "does not start with MB:, or has several lines");
    }
    if rdt.l3_cache_schema.as_deref().is_some_and(|line| line.contains('\n')) {
        return refuse("l3CacheSchema", "has several lines");
    }
    if rdt.schemata.iter().any(|line| line.contains('\n')) {
        return refuse("schemata", "has a line with several lines");
    }
    Ok(())
}

/// The directories that [`enter`] will make for container `id` and that go with it, first to last. Written down before they
/// are made, so that a killed runtime leaves nothing that nobody knows of.
pub(crate) fn will_make(root: &Path, rdt: &IntelRdt, id: &str) -> Vec<PathBuf> {
    let group = group(root, rdt, id);
    let own = (rdt.clos_id.is_none() && !group.exists()).then(|| group.clone());
    let monitor = Some(group.join("mon_groups").join(id)).filter(|m| rdt.enable_monitoring && !m.exists());
    own.into_iter().chain(monitor).collect()
}

fn group(root: &Path, rdt: &IntelRdt, id: &str) -> PathBuf {
    match rdt.clos_id.as_deref() {
        Some("/") => root.to_path_buf(),
        name => root.join(name.unwrap_or(id)),
    }
}

/// Puts process `pid` of container `id` into its group below the resctrl directory `root`.
pub(crate) fn enter(root: &Path, rdt: &IntelRdt, id: &str, pid: i32) -> Result<(), Error> {
    let lines: Vec<&str> = [&rdt.l3_cache_schema, &rdt.mem_bw_schema]
        .into_iter()
        .filter_map(|line| line.as_deref())
        .chain(rdt.schemata.iter().map(String::as_str))
        .filter(|line| !line.is_empty())
        .collect();
    let directory = group(root, rdt, id);
    let there = directory.is_dir();
    let named = rdt.clos_id.is_some();
    if named && !there && lines.is_empty() {
        return Err(Error::invalid("linux.intelRdt.closID", format!("no group {}", directory.display())));
    }
    if !there {
        make(&directory)?;
    }
    if named && there && !lines.is_empty() {
        compare(&directory, &lines)?;
    } else {
        lines.iter().try_for_each(|line| write(&directory.join("schemata"), line))?;
    }
    write(&directory.join("tasks"), &pid.to_string())?;
    if rdt.enable_monitoring {
        let monitor = directory.join("mon_groups").join(id);
        make(&monitor)?;
        write(&monitor.join("tasks"), &pid.to_string())?;
    }
    Ok(())
}

/// New lines for a container that lives. Empty: as it is.
#[derive(Debug, Clone, Default)]
pub struct Schemas {
    pub l3_cache: String,
    pub mem_bw: String,
}

impl Schemas {
    /// Lays them over what the document says.
    ///
    /// # Errors
    ///
    /// In runc's words where `root`, the resctrl directory, has no such resource.
    pub(crate) fn lay_over(&self, rdt: &mut IntelRdt, root: Option<&Path>) -> Result<(), Error> {
        let has = |names: &[&str]| {
            names.iter().any(|name| root.is_some_and(|root| root.join("info").join(name).is_dir()))
        };
        if !self.l3_cache.is_empty() {
            if !has(&["L3", "L3CODE"]) {
                return Err(Error::argument("Intel RDT/CAT: l3 cache schema is not enabled"));
            }
            rdt.l3_cache_schema = Some(self.l3_cache.clone());
        }
        if !self.mem_bw.is_empty() {
            if !has(&["MB"]) {
                return Err(Error::argument("Intel RDT/MBA: memory bandwidth schema is not enabled"));
            }
            rdt.mem_bw_schema = Some(self.mem_bw.clone());
        }
        check(rdt)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.l3_cache.is_empty() && self.mem_bw.is_empty()
    }

    /// Writes them into the group of container `id`, whose processes are put there if the group is made only now.
    pub(crate) fn write(&self, root: &Path, rdt: &IntelRdt, id: &str, pids: &[i32]) -> Result<(), Error> {
        let directory = group(root, rdt, id);
        let new = !directory.is_dir();
        if new {
            make(&directory)?;
        }
        for line in [&self.l3_cache, &self.mem_bw].into_iter().filter(|line| !line.is_empty()) {
            write(&directory.join("schemata"), line)?;
        }
        if new {
            pids.iter().try_for_each(|pid| write(&directory.join("tasks"), &pid.to_string()))?;
        }
        Ok(())
    }
}

/// Removes what was made, last first.
pub(crate) fn leave(made: &[PathBuf]) -> Result<(), Error> {
    made.iter().rev().try_for_each(|directory| match std::fs::remove_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", directory.display()), e))
        }
        _ => Ok(()),
    })
}

fn make(directory: &Path) -> Result<(), Error> {
    std::fs::create_dir(directory)
        .map_err(|e| Error::io(format!("make resctrl group {}", directory.display()), e))
}

fn write(file: &Path, line: &str) -> Result<(), Error> {
    let doing = |e| Error::io(format!("write {line:?} to {}", file.display()), e);
    let mut file = std::fs::OpenOptions::new().write(true).open(file).map_err(doing)?;
    io::Write::write_all(&mut file, format!("{line}\n").as_bytes()).map_err(doing)
}

/// A group that others made is not changed: it must be what the document asks for.
fn compare(directory: &Path, lines: &[&str]) -> Result<(), Error> {
    let file = directory.join("schemata");
    let text =
        std::fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    let parts = |line: &str| -> Vec<(String, String)> {
        let Some((resource, domains)) = line.split_once(':') else { return Vec::new() };
        let domain = |part: &str| {
            let (domain, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_start_matches('0').to_owned();
            (format!("{}:{}", resource.trim(), domain.trim()), value)
        };
        domains.split(';').map(domain).collect()
    };
    let present: Vec<_> = text.lines().flat_map(parts).collect();
    match lines.iter().find(|line| parts(line).iter().any(|part| !present.contains(part))) {
        None => Ok(()),
        Some(line) => Err(Error::invalid(
            "linux.intelRdt",
            format!("group {} exists, and its schemata differ from {line:?}", directory.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that stands in for resctrl; it lacks only the files that the kernel makes in a new group.
    fn resctrl() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for group in [".", "gold"] {
            std::fs::create_dir_all(root.path().join(group).join("mon_groups")).unwrap();
            std::fs::write(root.path().join(group).join("tasks"), "").unwrap();
            std::fs::write(root.path().join(group).join("schemata"), "    L3:0=00f;1=7ff\n    MB:0=100\n")
                .unwrap();
        }
        root
    }

    #[test]
    fn groups() {
        let root = resctrl();
        let rdt = |clos: Option<&str>, l3: Option<&str>| IntelRdt {
            clos_id: clos.map(Into::into),
            l3_cache_schema: l3.map(Into::into),
            ..IntelRdt::default()
        };
        let enter = |rdt: &IntelRdt| enter(root.path(), rdt, "id", 7);
        assert!(enter(&rdt(Some("gold"), None)).is_ok());
        assert!(will_make(root.path(), &rdt(Some("gold"), None), "id").is_empty());
        assert_eq!(std::fs::read_to_string(root.path().join("gold/tasks")).unwrap(), "7\n");
        assert!(enter(&rdt(Some("gold"), Some("L3:0=f"))).is_ok());
        assert!(enter(&rdt(Some("gold"), Some("L3:0=ff"))).unwrap_err().to_string().contains("differ"));
        assert!(enter(&rdt(Some("none"), None)).unwrap_err().to_string().contains("no group"));
        assert!(enter(&rdt(Some("/"), None)).is_ok());
        let mut own = rdt(None, None);
        own.enable_monitoring = true;
        let made = will_make(root.path(), &own, "id");
        assert_eq!(made, [root.path().join("id"), root.path().join("id/mon_groups/id")]);
        // A new group has no files here, so filling it fails; it goes again.
        assert!(enter(&own).is_err());
        assert!(root.path().join("id").exists());
        leave(&made).unwrap();
        assert!(!root.path().join("id").exists());
    }

    #[test]
    fn new_schemas() {
        let root = resctrl();
        let schemas = Schemas { l3_cache: "L3:0=f".into(), mem_bw: "MB:0=20".into() };
        let mut rdt = IntelRdt::default();
        let why =
            |root: Option<&Path>, rdt: &mut IntelRdt| schemas.lay_over(rdt, root).unwrap_err().to_string();
        assert_eq!(why(None, &mut rdt), "Intel RDT/CAT: l3 cache schema is not enabled");
        std::fs::create_dir_all(root.path().join("info/L3")).unwrap();
        assert_eq!(why(Some(root.path()), &mut rdt), "Intel RDT/MBA: memory bandwidth schema is not enabled");
        std::fs::create_dir_all(root.path().join("info/MB")).unwrap();
        schemas.lay_over(&mut rdt, Some(root.path())).unwrap();
        assert_eq!(rdt.l3_cache_schema.as_deref(), Some("L3:0=f"));
        let two = Schemas { mem_bw: "MB:0=20\nL3:0=f".into(), ..Schemas::default() };
        assert!(two.lay_over(&mut rdt.clone(), Some(root.path())).is_err());
        // A group that is there keeps its tasks.
        rdt.clos_id = Some("gold".into());
        schemas.write(root.path(), &rdt, "id", &[7]).unwrap();
        let read = |file: &str| std::fs::read_to_string(root.path().join(file)).unwrap();
        assert!(read("gold/schemata").starts_with("MB:0=20\n"), "{}", read("gold/schemata"));
        assert_eq!(read("gold/tasks"), "");
        // A new one lacks its files here.
        rdt.clos_id = None;
        let error = schemas.write(root.path(), &rdt, "id", &[7]).unwrap_err().to_string();
        assert!(error.contains("id/schemata") && root.path().join("id").is_dir(), "{error}");
    }

    #[test]
    fn names_and_mounts() {
        for bad in ["", "a/b", "..", "../x"] {
            assert!(
                check(&IntelRdt { clos_id: Some(bad.into()), ..IntelRdt::default() }).is_err(),
                "{bad:?}"
            );
        }
        assert!(check(&IntelRdt { mem_bw_schema: Some("L3:0=f".into()), ..IntelRdt::default() }).is_err());
        assert_eq!(find_root("a /b tmpfs rw 0 0\nresctrl /r resctrl rw 0 0\n"), Some("/r".into()));
        assert_eq!(find_root("resctrl /r tmpfs rw 0 0\n"), None);
    }
}
