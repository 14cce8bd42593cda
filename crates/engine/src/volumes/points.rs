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
        let destination = planned.point.destination.clone();
        if own.insert(destination.clone(), planned).is_some() {
            return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
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
    if text.is_empty() {
        return Err(Error::invalid("volumes-from specification cannot be an empty string"));
    }
    let (name, mode) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Error::invalid(format!("invalid volumes-from specification: '{text}'")));
    }
    // Theirs is the propagation, and what was copied.
    match BindMode::parse(mode) {
        Some(parsed) if parsed.propagation.is_empty() && !parsed.no_copy => Ok((name, !parsed.read_only)),
        _ => Err(Error::invalid(format!("invalid mode: {mode}"))),
    }
}

/// The third part of `-v`.
#[derive(Debug, Default, PartialEq, Eq)]
struct BindMode<'a> {
    read_only: bool,
    no_copy: bool,
    propagation: &'a str,
}

impl BindMode<'_> {
    /// None for what is no mode, or holds two of one kind.
    fn parse(text: &str) -> Option<BindMode<'_>> {
        let mut mode = BindMode::default();
        let mut seen = Vec::new();
        for option in text.split(',').filter(|_| !text.is_empty()) {
            let kind = match option {
                "ro" | "rw" => "access",
                "z" | "Z" => "label",
                "nocopy" => "copy",
                "consistent" | "cached" | "delegated" => "consistency",
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => "propagation",
                _ => return None,
            };
            if seen.contains(&kind) {
                return None;
            }
            seen.push(kind);
            mode.read_only |= option == "ro";
            mode.no_copy |= option == "nocopy";
            if kind == "propagation" {
                mode.propagation = option;
            }
        }
        Some(mode)
    }
}

/// `source:destination[:mode]`, or `destination` alone for an anonymous volume.
fn parse_bind(text: &str) -> Result<MountPoint, Error> {
    let error = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        ["", ..] => return Err(error()),
        [destination] => ("", destination, ""),
        // A volume without a source has no mode either.
        [_, mode] if BindMode::parse(mode).is_some() => return Err(error()),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(error()),
    };
    let parsed = BindMode::parse(mode).ok_or_else(|| Error::invalid(format!("invalid mode: {mode}")))?;
    let is_bind = source.starts_with('/');
    let kind = if is_bind { "bind" } else { "volume" };
    let bad = |why: &str| {
        Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {why}"
        ))
    };
    if is_bind && parsed.no_copy {
        return Err(bad("field VolumeOptions must not be specified"));
    }
    if !is_bind && !parsed.propagation.is_empty() {
        return Err(bad("field BindOptions must not be specified"));
    }
    let destination = clean(destination).map_err(|e| bad(&e.to_string()))?;
    let mut point = volume_point(source, &destination, mode);
    point.read_write = !parsed.read_only;
    point.propagation = parsed.propagation.into();
    if is_bind {
        point.kind = MountKind::Bind;
        point.name.clear();
        point.source = source.into();
        // `-v` makes a missing source directory, `--mount` does not.
        point.mode = if mode.is_empty() { "create".into() } else { format!("{mode},create") };
    } else if !source.is_empty() {
        check_name(source)?;
    }
    Ok(point)
}

fn from_request(request: &MountRequest) -> Result<Planned, Error> {
    let bad =
        |why: String| Error::invalid(format!("invalid mount config for type \"{}\": {why}", request.kind));
    if request.target.is_empty() {
        return Err(bad("field Target must not be empty".into()));
    }
    let destination = clean(&request.target).map_err(|e| bad(e.to_string()))?;
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
                    return Err(bad(format!("invalid propagation mode: {}", options.propagation)));
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
            } else if request.read_only {
                return Err(bad("must not set ReadOnly mode when using anonymous volumes".into()));
            } else if request.volume_options.as_ref().is_some_and(|o| !o.subpath.is_empty()) {
                return Err(bad("must not set Subpath when using anonymous volumes".into()));
            }
            Planned::from(point)
        }
        "tmpfs" => {
            if !request.source.is_empty() {
                return Err(bad("field Source must not be specified".into()));
            }
            point.kind = MountKind::Tmpfs;
            point.mode = tmpfs_mode(request).map_err(bad)?;
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

fn tmpfs_mode(request: &MountRequest) -> Result<String, String> {
    let mut options = Vec::new();
    if let Some(tmpfs) = &request.tmpfs_options {
        if tmpfs.size_bytes > 0 {
            options.push(format!("size={}", tmpfs.size_bytes));
        }
        if tmpfs.mode > 0 {
            options.push(format!("mode={:o}", tmpfs.mode));
        }
        for pair in &tmpfs.options {
            match pair.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                [] | [_, _, _, ..] => return Err("invalid option array length".into()),
                ["exec" | "noexec"] => options.push(pair.join("=")),
                [other, ..] => return Err(format!("invalid option: {other}")),
            }
        }
    }
    if request.read_only {
        options.push("ro".into());
    }
    Ok(options.join(","))
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
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
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
        let check = |text: &str, want: (MountKind, &str, &str, bool, &str)| {
            let got = parse_bind(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let of = if got.kind == MountKind::Bind { &got.source } else { &got.name };
            let seen =
                (got.kind, of.as_str(), got.destination.as_str(), got.read_write, got.propagation.as_str());
            assert_eq!(seen, want, "{text}");
        };
        let (bind, volume) = (MountKind::Bind, MountKind::Volume);
        check("/a:/b", (bind, "/a", "/b", true, ""));
        check("/a:/b/../c/:ro", (bind, "/a", "/c", false, ""));
        check("/a:/b:rw,rslave,Z,cached", (bind, "/a", "/b", true, "rslave"));
        check("/a:/b:z", (bind, "/a", "/b", true, ""));
        for mode in ["private", "rprivate", "shared", "rshared", "slave", "rslave"] {
            check(&format!("/a:/b:ro,{mode}"), (bind, "/a", "/b", false, mode));
        }
        check("data:/b:rw,nocopy", (volume, "data", "/b", true, ""));
        check("data:/b:nocopy,z,delegated,ro", (volume, "data", "/b", false, ""));
        check("/b", (volume, "", "/b", true, ""));
        let refused = |text: &str, part: &str| {
            let message = parse_bind(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        };
        let spec =
            |text: &str, why: &str| refused(text, &format!("invalid volume specification: '{text}'{why}"));
        spec("", "");
        spec(":/b", "");
        spec("::", "");
        spec("/b:ro", "");
        spec("/b:rslave", "");
        spec("/a:/b:/c:ro", "");
        spec(
            "/a:/",
            ": invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
        );
        spec("/a:/x/..", ": invalid mount config for type \"bind\": invalid specification");
        spec(
            "xx:/",
            ": invalid mount config for type \"volume\": invalid specification: destination can't be '/'",
        );
        spec(
            "xx:y",
            ": invalid mount config for type \"volume\": invalid mount path: 'y' mount path must be absolute",
        );
        spec(
            "/a:/b:nocopy",
            ": invalid mount config for type \"bind\": field VolumeOptions must not be specified",
        );
        spec(
            "xx:/b:rshared",
            ": invalid mount config for type \"volume\": field BindOptions must not be specified",
        );
        spec("xx:/proc", ": invalid mount config for type \"volume\": invalid mount target '/proc'");
        for mode in
            ["bogus", "ro,rw", "ro,ro", "z,Z", "slave,shared", "cached,delegated", "ro,,z", "ro,bogus"]
        {
            refused(&format!("/a:/b:{mode}"), &format!("invalid mode: {mode}"));
        }
        refused("a/b:/c", "includes invalid characters for a local volume name");
        refused("x:/a", "volume name is too short");
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
        check(json!({"Type": "tmpfs", "Target": ""}), Err("type \"tmpfs\": field Target must not be empty"));
        check(json!({"Type": "tmpfs", "Target": "x"}), Err("type \"tmpfs\": invalid mount path: 'x'"));
        let bind = |options| json!({"Type": "bind", "Source": "/s", "Target": "/d", "BindOptions": options});
        check(bind(json!({"Propagation": "odd"})), Err("invalid propagation mode: odd"));
        check(bind(json!({"ReadOnlyForceRecursive": true})), Err("ReadOnlyForceRecursive must not be used"));
        check(json!({"Type": "bind", "Target": "/d"}), Err("type \"bind\": field Source must not be empty"));
        check(
            json!({"Type": "bind", "Source": "/s", "Target": "/d", "VolumeOptions": {}}),
            Err("field VolumeOptions must not be specified"),
        );
        let anonymous = |more: &str| {
            let text = format!(r#"{{"Type":"volume","Target":"/d",{more}}}"#);
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        check(
            anonymous(r#""ReadOnly":true"#),
            Err("must not set ReadOnly mode when using anonymous volumes"),
        );
        check(
            anonymous(r#""VolumeOptions":{"Subpath":"a"}"#),
            Err("must not set Subpath when using anonymous volumes"),
        );
        let tmpfs = |options| json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": options}});
        check(tmpfs(json!([["exec"], ["noexec"]])), Ok((MountKind::Tmpfs, "", "local", "")));
        check(tmpfs(json!([["suid"]])), Err("invalid option: suid"));
        check(tmpfs(json!([["exec", "a", "b"]])), Err("invalid option array length"));
    }

    #[test]
    fn volumes_from() {
        let check = |text: &str, want| assert_eq!(parse_volumes_from(text).ok(), want, "{text}");
        check("a", Some(("a", true)));
        check("a:ro", Some(("a", false)));
        check("a:ro,z", Some(("a", false)));
        check("a:rw", Some(("a", true)));
        check("a:", Some(("a", true)));
        for bad in ["a:x", ":ro", "", "a:rslave", "a:nocopy", "a:ro,rw"] {
            check(bad, None);
        }
    }
}
