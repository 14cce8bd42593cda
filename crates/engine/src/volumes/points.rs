//! What the client and the image want mounted, read into mount points: pure.

use super::{LOCAL, check_name};
use crate::error::Error;
use crate::model::{Config, HostConfig, MountRequest};
use crate::record::{MountKind, MountPoint};
use std::collections::BTreeMap;

/// A mount point, and what the volume behind it is made with when it does not exist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) point: MountPoint,
    pub(super) options: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl From<MountPoint> for Planned {
    fn from(point: MountPoint) -> Planned {
        Planned { point, options: BTreeMap::new(), labels: BTreeMap::new() }
    }
}

/// All mount points by destination. `inherited` are those of other containers (`--volumes-from`), which anything else
/// at the same place replaces.
pub(super) fn plan(
    config: &Config,
    host: &HostConfig,
    inherited: Vec<MountPoint>,
) -> Result<Vec<Planned>, Error> {
    let mut own: BTreeMap<String, Planned> = BTreeMap::new();
    for bind in &host.binds {
        let mut planned = Planned::from(parse_bind(bind)?);
        if planned.point.kind == MountKind::Volume && !host.volume_driver.is_empty() {
            planned.point.driver.clone_from(&host.volume_driver);
        }
        if own.insert(planned.point.destination.clone(), planned).is_some() {
            return Err(Error::invalid(format!("Duplicate mount point: {bind}")));
        }
    }
    for request in &host.mounts {
        let planned = from_request(request)?;
        let destination = planned.point.destination.clone();
        if own.insert(destination.clone(), planned).is_some() {
            return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
        }
    }
    for destination in host.tmpfs.keys() {
        if own.contains_key(&clean(destination)?) {
            return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
        }
    }
    for point in inherited {
        if !host.tmpfs.contains_key(&point.destination) {
            own.entry(point.destination.clone()).or_insert_with(|| point.into());
        }
    }
    for destination in config.volumes.iter().flatten().map(|(d, _)| d) {
        let destination = clean(destination)?;
        if !own.contains_key(&destination) && !host.tmpfs.contains_key(&destination) {
            let mut point = volume_point("", &destination, "");
            point.driver.clone_from(&host.volume_driver);
            own.insert(destination, point.into());
        }
    }
    Ok(own.into_values().collect())
}

/// `NAME[:ro|rw[,z]]` of `--volumes-from`: the container, and whether its mounts stay writable.
pub(super) fn parse_volumes_from(text: &str) -> Result<(&str, bool), Error> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    let error = || Error::invalid(format!("invalid volumes-from specification: '{text}'"));
    if name.is_empty() {
        return Err(error());
    }
    let mut writable = true;
    for option in mode.split(',') {
        match option {
            "rw" | "z" | "Z" => {}
            "ro" => writable = false,
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    Ok((name, writable))
}

/// `source:destination[:options]`, or `destination` alone for an anonymous volume.
fn parse_bind(text: &str) -> Result<MountPoint, Error> {
    let error = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        [destination] => ("", destination, ""),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(error()),
    };
    let destination = clean(destination)?;
    let mut point = if source.starts_with('/') {
        MountPoint { kind: MountKind::Bind, source: source.into(), ..volume_point("", &destination, mode) }
    } else {
        if !source.is_empty() {
            check_name(source)?;
        }
        volume_point(source, &destination, mode)
    };
    let options: Vec<&str> = mode.split(',').filter(|o| !o.is_empty()).collect();
    if options.contains(&"ro") && options.contains(&"rw") {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    for option in options {
        match option {
            "ro" => point.read_write = false,
            "rw" | "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent" => {}
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                point.propagation = option.into()
            }
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    if point.kind == MountKind::Volume && !point.propagation.is_empty() {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    // `-v` makes a missing source directory, `--mount` does not.
    if point.kind == MountKind::Bind {
        point.mode = if mode.is_empty() { "create".into() } else { format!("{mode},create") };
    }
    Ok(point)
}

fn from_request(request: &MountRequest) -> Result<Planned, Error> {
    let bad =
        |why: String| Error::invalid(format!("invalid mount config for type \"{}\": {why}", request.kind));
    let destination = clean(&request.target)?;
    let mut point = volume_point(&request.source, &destination, "");
    point.read_write = !request.read_only;
    for (given, kind, name) in [
        (request.bind_options.is_some(), "bind", "BindOptions"),
        (request.volume_options.is_some(), "volume", "VolumeOptions"),
        (request.tmpfs_options.is_some(), "tmpfs", "TmpfsOptions"),
        (request.image_options.is_some(), "image", "ImageOptions"),
    ] {
        if given && request.kind != kind {
            return Err(bad(format!("field {name} must not be specified")));
        }
    }
    let mut planned = match request.kind.as_str() {
        "bind" => {
            if request.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            if !request.source.starts_with('/') {
                return Err(bad(format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    request.source
                )));
            }
            point.kind = MountKind::Bind;
            point.name.clear();
            point.source.clone_from(&request.source);
            if let Some(options) = &request.bind_options {
                if !matches!(
                    options.propagation.as_str(),
                    "" | "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
                ) {
                    return Err(bad(format!("invalid propagation mode: {:?}", options.propagation)));
                }
                point.propagation.clone_from(&options.propagation);
                point.non_recursive = options.non_recursive;
                point.read_only_top = options.read_only_non_recursive;
                if options.read_only_force_recursive {
                    let contradicts = options.read_only_non_recursive || options.non_recursive;
                    if !request.read_only || contradicts {
                        return Err(bad(
                            "ReadOnlyForceRecursive must not be used with a writable, non-recursive or \
                                        ReadOnlyNonRecursive mount"
                                .into(),
                        ));
                    }
                    if !matches!(options.propagation.as_str(), "" | "rprivate") {
                        return Err(bad("ReadOnlyForceRecursive requires Propagation to be rprivate".into()));
                    }
                }
                if options.create_mountpoint {
                    point.mode = "create".into();
                }
            }
            return Ok(point.into());
        }
        "volume" => {
            if !request.source.is_empty() {
                check_name(&request.source)?;
            }
            Planned::from(point)
        }
        "tmpfs" => {
            if !request.source.is_empty() {
                return Err(bad("field Source must not be specified".into()));
            }
            point.kind = MountKind::Tmpfs;
            point.mode = tmpfs_mode(request);
            return Ok(point.into());
        }
        "image" => {
            if request.source.is_empty() {
                return Err(bad("field Source must not be empty".into()));
            }
            point.kind = MountKind::Image;
            // Nobody may write into an image; what this container wrote there would be lost without a word.
            point.read_write = false;
            if let Some(options) = &request.image_options {
                point.subpath = subpath(&options.subpath).map_err(bad)?;
            }
            return Ok(point.into());
        }
        "npipe" | "cluster" => return Err(Error::unsupported(format!("the mount type {:?}", request.kind))),
        other => return Err(Error::invalid(format!("mount type unknown: {other:?}"))),
    };
    if let Some(options) = &request.volume_options {
        if options.no_copy {
            planned.point.mode = "nocopy".into();
        }
        planned.point.subpath = subpath(&options.subpath).map_err(bad)?;
        planned.labels.clone_from(&options.labels);
        if let Some(driver) = &options.driver_config {
            planned.point.driver.clone_from(&driver.name);
            planned.options.clone_from(&driver.options);
        }
    }
    Ok(planned)
}

/// A subpath is relative and stays below the volume; links on the way are resolved when it is mounted.
fn subpath(text: &str) -> Result<String, String> {
    if text.starts_with('/') || text.split('/').any(|part| part == "..") || text.contains('\0') {
        return Err("subpath must be a relative path within the volume".into());
    }
    Ok(text.trim_end_matches('/').to_string())
}

fn tmpfs_mode(request: &MountRequest) -> String {
    let mut options = Vec::new();
    if let Some(tmpfs) = &request.tmpfs_options {
        if tmpfs.size_bytes > 0 {
            options.push(format!("size={}", tmpfs.size_bytes));
        }
        if tmpfs.mode > 0 {
            options.push(format!("mode={:o}", tmpfs.mode));
        }
        options.extend(tmpfs.options.iter().map(|pair| pair.join("=")));
    }
    if request.read_only {
        options.push("ro".into());
    }
    options.join(",")
}

fn volume_point(name: &str, destination: &str, mode: &str) -> MountPoint {
    MountPoint {
        kind: MountKind::Volume,
        name: name.into(),
        source: String::new(),
        destination: destination.into(),
        read_write: true,
        propagation: String::new(),
        mode: mode.into(),
        copy_up: false,
        non_recursive: false,
        anonymous: false,
        read_only_top: false,
        driver: LOCAL.into(),
        subpath: String::new(),
        image: None,
    }
}

/// An absolute destination without `.`, `..` and doubled slashes; never the root itself.
pub(super) fn clean(destination: &str) -> Result<String, Error> {
    let error = |why: &str| Error::invalid(format!("invalid mount target '{destination}': {why}"));
    if destination.is_empty() {
        return Err(Error::invalid("invalid mount config: field Target must not be empty"));
    }
    if !destination.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        )));
    }
    if destination.contains('\0') {
        return Err(error("holds a NUL byte"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in destination.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(Error::invalid(format!(
            "invalid specification: destination can't be '/': {destination}"
        )));
    }
    // procfs and sysfs guard the container; covering them would take the guards away (CVE-2019-16884).
    if parts[0] == "proc" {
        return Err(error("nothing may be mounted on /proc or below"));
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn binds() {
        let check = |text: &str, want: Option<(MountKind, &str, &str, bool)>| {
            let got = parse_bind(text).ok();
            let got = got.as_ref().map(|p| {
                (
                    p.kind,
                    if p.kind == MountKind::Bind { p.source.as_str() } else { &p.name },
                    p.destination.as_str(),
                    p.read_write,
                )
            });
            assert_eq!(got, want, "{text}");
        };
        check("/a:/b", Some((MountKind::Bind, "/a", "/b", true)));
        check("/a:/b/../c/:ro", Some((MountKind::Bind, "/a", "/c", false)));
        check("data:/b:rw,nocopy", Some((MountKind::Volume, "data", "/b", true)));
        check("/b", Some((MountKind::Volume, "", "/b", true)));
        for bad in [
            "a/b:/c",
            "x:/",
            "x:y",
            "/a:/b:bogus",
            "xx:/proc",
            "xx:/proc/self",
            "a:b:c:d",
            "xx:/a/../..",
            "xx:/a:rshared",
            "x:/a",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn requests() {
        let check = |request: serde_json::Value, want: Result<(MountKind, &str, &str, &str), &str>| {
            let text = request.to_string();
            let got = from_request(&serde_json::from_value(request).unwrap());
            match (got, want) {
                (Ok(p), Ok(want)) => {
                    let p = p.point;
                    assert_eq!(
                        (p.kind, p.name.as_str(), p.driver.as_str(), p.subpath.as_str()),
                        want,
                        "{text}"
                    );
                }
                (Err(e), Err(want)) => assert!(e.to_string().contains(want), "{text}: {e}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        };
        let volume =
            |options| json!({"Type": "volume", "Source": "data", "Target": "/d", "VolumeOptions": options});
        check(volume(json!({})), Ok((MountKind::Volume, "data", "local", "")));
        check(volume(json!({"Subpath": "a/b/"})), Ok((MountKind::Volume, "data", "local", "a/b")));
        check(volume(json!({"DriverConfig": {"Name": "x"}})), Ok((MountKind::Volume, "data", "x", "")));
        check(volume(json!({"Subpath": "../b"})), Err("subpath"));
        check(volume(json!({"Subpath": "/b"})), Err("subpath"));
        check(
            json!({"Type": "image", "Source": "busybox", "Target": "/i"}),
            Ok((MountKind::Image, "busybox", "local", "")),
        );
        check(json!({"Type": "image", "Target": "/i"}), Err("Source must not be empty"));
        check(json!({"Type": "bind", "Source": "a", "Target": "/i"}), Err("must be absolute"));
        check(json!({"Type": "tmpfs", "Source": "a", "Target": "/i"}), Err("Source must not be specified"));
        check(json!({"Type": "tmpfs", "Target": "/i", "BindOptions": {}}), Err("BindOptions must not"));
        check(json!({"Type": "what", "Target": "/i"}), Err("mount type unknown"));
        check(json!({"Type": "tmpfs", "Target": ""}), Err("Target must not be empty"));
    }

    #[test]
    fn volumes_from() {
        let check = |text: &str, want| assert_eq!(parse_volumes_from(text).ok(), want, "{text}");
        check("a", Some(("a", true)));
        check("a:ro", Some(("a", false)));
        check("a:ro,z", Some(("a", false)));
        check("a:x", None);
        check(":ro", None);
    }
}
