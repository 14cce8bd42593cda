//! Devices by the Container Device Interface: a vendor's files below `/etc/cdi` and `/var/run/cdi` say what a container
//! that asks for `vendor.com/class=name` gets: device nodes, mounts, variables, groups, hooks.
//!
//! The files are read anew for each start, so that a device that comes or goes needs no restart of the daemon. They belong
//! to the host's administrator and are trusted as such; a mistake in one is a failure that names the file.
//!
//! Spec: <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>, up to 0.8; JSON only.

use crate::error::{Error, IoDuring};
use crate::model::HostConfig;
use oci::runtime as spec;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where device specs are where nobody says otherwise, the later directory before the earlier one.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Largest spec file. One of a machine with many GPUs has some hundred KiB.
const MAX_FILE: u64 = 8 << 20;
/// Most files in a directory.
const MAX_FILES: usize = 1024;
/// The kind that `--gpus` means.
const GPU_KIND: &str = "nvidia.com/gpu";

/// What a container gets for its devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edits {
    pub(crate) env: Vec<String>,
    /// Nodes with their access.
    pub(crate) devices: Vec<(spec::Device, String)>,
    pub(crate) mounts: Vec<spec::Mount>,
    pub(crate) hooks: spec::Hooks,
    pub(crate) gids: Vec<u32>,
}

/// One entry of `DeviceRequests`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Request {
    driver: Option<String>,
    count: Option<i64>,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<Vec<String>>,
    capabilities: Option<Vec<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    additional_gids: Vec<u32>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hook {
    hook_name: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<u32>,
}

/// The names, `vendor.com/class=name`, that the requests of a container mean.
///
/// # Errors
///
/// InvalidArgument for a request that no CDI device can answer, in Docker's words.
pub(crate) fn names(host: &HostConfig) -> Result<Vec<String>, Error> {
    let mut out = Vec::new();
    for value in host.device_requests.iter().flatten() {
        let request: Request = serde_json::from_value(value.clone())
            .map_err(|e| Error::invalid(format!("invalid device request: {e}")))?;
        let ids = request.device_ids.unwrap_or_default();
        let driver = request.driver.unwrap_or_default();
        let capabilities = request.capabilities.unwrap_or_default();
        let is_gpu = capabilities.iter().any(|all| all.iter().any(|c| c == "gpu"));
        match driver.as_str() {
            "cdi" => {
                for id in &ids {
                    split(id).ok_or_else(|| Error::invalid(format!("invalid CDI device name {id:?}")))?;
                }
                out.extend(ids);
            }
            "" | "nvidia" if is_gpu => match (ids.as_slice(), request.count.unwrap_or(0)) {
                ([], -1) => out.push(format!("{GPU_KIND}=all")),
                ([], count) => out.extend((0..count).map(|n| format!("{GPU_KIND}={n}"))),
                (ids, _) => out.extend(ids.iter().map(|id| format!("{GPU_KIND}={id}"))),
            },
            driver => {
                let words: Vec<String> =
                    capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
                return Err(Error::invalid(format!(
                    "could not select device driver {driver:?} with capabilities: [{}]",
                    words.join(" ")
                )));
            }
        }
    }
    Ok(out)
}

/// `vendor.com/class` and the device's name.
fn split(name: &str) -> Option<(&str, &str)> {
    let (kind, device) = name.split_once('=')?;
    let (vendor, class) = kind.split_once('/')?;
    let word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
    };
    (word(vendor) && word(class) && word(device)).then_some((kind, device))
}

/// What the devices of a container bring, from the specs in `directories`. Blocking.
///
/// # Errors
///
/// Docker's sentence for a device that no spec has; a spec that cannot be read, when a device is not found without it.
pub(crate) fn resolve(host: &HostConfig, directories: &[PathBuf]) -> Result<Edits, Error> {
    let names = names(host)?;
    if names.is_empty() {
        return Ok(Edits::default());
    }
    let (files, mistakes) = read(directories);
    let mut edits = Edits::default();
    let mut of_files: Vec<&Path> = Vec::new();
    let mut missing = Vec::new();
    for name in &names {
        let (kind, device) = split(name).unwrap_or((name, ""));
        // Directories are in rising order of precedence.
        let found = files.iter().rev().find_map(|(path, file)| {
            let device = file.devices.iter().find(|d| d.name == device)?;
            (file.kind == kind).then_some((path, file, device))
        });
        let Some((path, file, device)) = found else {
            missing.push(name.as_str());
            continue;
        };
        let in_file = |e: Error| Error::invalid(format!("CDI spec {}: {e}", path.display()));
        add(&mut edits, &device.container_edits).map_err(in_file)?;
        if !of_files.contains(&path.as_path()) {
            of_files.push(path);
            add(&mut edits, &file.container_edits).map_err(in_file)?;
        }
    }
    if missing.is_empty() {
        return Ok(edits);
    }
    let mut message = format!("CDI device injection failed: unresolvable CDI devices {}", missing.join(", "));
    for mistake in mistakes {
        message = format!("{message}; {mistake}");
    }
    Err(Error::invalid(message))
}

/// All devices of the specs that can be read, sorted. Blocking.
pub(crate) fn devices(directories: &[PathBuf]) -> Vec<String> {
    let (files, _) = read(directories);
    let of = |file: File| {
        let kind = file.kind;
        file.devices.into_iter().map(move |device| format!("{kind}={}", device.name)).collect::<Vec<_>>()
    };
    let all: std::collections::BTreeSet<String> = files.into_iter().flat_map(|(_, file)| of(file)).collect();
    all.into_iter().collect()
}

/// The specs that could be read, and why others could not.
fn read(directories: &[PathBuf]) -> (Vec<(PathBuf, File)>, Vec<String>) {
    let (mut files, mut mistakes) = (Vec::new(), Vec::new());
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).take(MAX_FILES).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => match read_file(&path) {
                    Ok(file) => files.push((path, file)),
                    Err(e) => mistakes.push(format!("{}: {}", path.display(), errors::chain(&e))),
                },
                Some("yaml" | "yml") => mistakes.push(format!(
                    "{} is YAML, which brig does not read: let the vendor's tool write JSON (`--format=json`)",
                    path.display()
                )),
                _ => {}
            }
        }
    }
    (files, mistakes)
}

fn read_file(path: &Path) -> Result<File, Error> {
    use std::io::Read as _;
    let doing = || format!("read {}", path.display());
    let mut text = Vec::new();
    std::fs::File::open(path).io_during(doing)?.take(MAX_FILE).read_to_end(&mut text).io_during(doing)?;
    let file: File = serde_json::from_slice(&text).map_err(|e| Error::invalid(e.to_string()))?;
    match file.cdi_version.split('.').take(2).collect::<Vec<_>>().as_slice() {
        ["0", minor] if minor.parse::<u32>().is_ok_and(|n| (2..=8).contains(&n)) => Ok(file),
        ["1", "0" | "1"] => Ok(file),
        _ => Err(Error::unsupported(format!("CDI version {}", file.cdi_version))),
    }
}

fn add(edits: &mut Edits, from: &ContainerEdits) -> Result<(), Error> {
    if from.intel_rdt.is_some() || !from.net_devices.is_empty() {
        return Err(Error::unsupported("intelRdt and netDevices of CDI"));
    }
    if let Some(bad) = from.env.iter().find(|e| !e.contains('=') || e.starts_with('=') || e.contains('\0')) {
        return Err(Error::invalid(format!("invalid environment variable {bad:?}")));
    }
    edits.env.extend(from.env.iter().cloned());
    edits.gids.extend(from.additional_gids.iter().filter(|gid| **gid != 0));
    for wanted in &from.device_nodes {
        edits.devices.push(node(wanted)?);
    }
    for mount in &from.mounts {
        if !mount.container_path.starts_with('/') || mount.host_path.is_empty() {
            return Err(Error::invalid(format!("invalid mount at {:?}", mount.container_path)));
        }
        let mut options = mount.options.clone();
        let is_bind = mount.kind.is_empty() || mount.kind == "bind";
        if is_bind && !options.iter().any(|o| o == "bind" || o == "rbind") {
            options.push("rbind".into());
        }
        edits.mounts.push(spec::Mount {
            destination: mount.container_path.clone(),
            kind: Some(if mount.kind.is_empty() { "bind".into() } else { mount.kind.clone() }),
            source: Some(mount.host_path.clone()),
            options,
            ..spec::Mount::default()
        });
    }
    for hook in &from.hooks {
        let list = match hook.hook_name.as_str() {
            "prestart" => &mut edits.hooks.prestart,
            "createRuntime" => &mut edits.hooks.create_runtime,
            "createContainer" => &mut edits.hooks.create_container,
            "startContainer" => &mut edits.hooks.start_container,
            "poststart" => &mut edits.hooks.poststart,
            "poststop" => &mut edits.hooks.poststop,
            other => return Err(Error::invalid(format!("unknown hook {other:?}"))),
        };
        list.push(spec::Hook {
            path: hook.path.clone(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout,
        });
    }
    Ok(())
}

/// A node as the spec has it; what it does not say is looked up on the host.
fn node(wanted: &Node) -> Result<(spec::Device, String), Error> {
    let access = if wanted.permissions.is_empty() { "rwm" } else { &wanted.permissions };
    if !wanted.path.starts_with('/') || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(Error::invalid(format!("invalid device node {:?}", wanted.path)));
    }
    let device = match (wanted.kind.as_str(), wanted.major) {
        ("b" | "c" | "u", Some(major)) => spec::Device {
            kind: wanted.kind.clone(),
            path: wanted.path.clone(),
            major,
            minor: wanted.minor.unwrap_or(0),
            file_mode: wanted.file_mode,
            uid: wanted.uid,
            gid: wanted.gid,
        },
        _ => {
            let path = if wanted.host_path.is_empty() { &wanted.path } else { &wanted.host_path };
            let found = crate::devices::node_at(path, &wanted.path)?;
            spec::Device {
                file_mode: wanted.file_mode.or(found.file_mode),
                uid: wanted.uid.or(found.uid),
                gid: wanted.gid.or(found.gid),
                ..found
            }
        }
    };
    Ok((device, access.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn host(requests: serde_json::Value) -> HostConfig {
        serde_json::from_value(json!({ "DeviceRequests": requests })).unwrap()
    }

    #[test]
    fn requests_become_names() {
        let check = |requests, want: &[&str]| assert_eq!(names(&host(requests)).unwrap(), want);
        check(json!(null), &[]);
        check(
            json!([{"Driver": "cdi", "DeviceIDs": ["a.com/b=c", "a.com/b=d"]}]),
            &["a.com/b=c", "a.com/b=d"],
        );
        check(json!([{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]), &["nvidia.com/gpu=all"]);
        check(json!([{"Count": 2, "Capabilities": [["gpu"]]}]), &["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        check(json!([{"DeviceIDs": ["3"], "Capabilities": [["gpu", "x"]]}]), &["nvidia.com/gpu=3"]);
        for bad in [
            json!([{"Driver": "cdi", "DeviceIDs": ["nonsense"]}]),
            json!([{"Driver": "cdi", "DeviceIDs": ["../x/y=z"]}]),
            json!([{"Driver": "other", "Count": 1}]),
        ] {
            assert!(names(&host(bad.clone())).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_later_directory_wins_and_a_files_own_edits_come_once() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spec = |value: &str| {
            json!({"cdiVersion": "0.6.0", "kind": "a.com/b",
                "containerEdits": {"env": [format!("ALL={value}")]},
                "devices": [
                    {"name": "one", "containerEdits": {"env": ["ONE=1"], "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/null"}]}},
                    {"name": "two", "containerEdits": {"mounts": [{"hostPath": "/h", "containerPath": "/c", "options": ["ro"]}]}}]})
            .to_string()
        };
        std::fs::write(a.path().join("x.json"), spec("a")).unwrap();
        std::fs::write(b.path().join("x.json"), spec("b")).unwrap();
        std::fs::write(b.path().join("y.yaml"), "kind: c.com/d").unwrap();
        let directories = [a.path().to_owned(), b.path().to_owned()];
        let both = host(json!([{"Driver": "cdi", "DeviceIDs": ["a.com/b=one", "a.com/b=two"]}]));
        let edits = resolve(&both, &directories).unwrap();
        assert_eq!(edits.env, ["ONE=1", "ALL=b"]);
        assert_eq!(edits.mounts[0].options, ["ro", "rbind"]);
        let (device, access) = &edits.devices[0];
        assert_eq!(
            (device.path.as_str(), device.major, device.minor, access.as_str()),
            ("/dev/x", 1, 3, "rwm")
        );
        let gone = host(json!([{"Driver": "cdi", "DeviceIDs": ["c.com/d=e"]}]));
        let message = resolve(&gone, &directories).unwrap_err().to_string();
        assert!(
            message.contains("unresolvable CDI devices c.com/d=e") && message.contains("is YAML"),
            "{message}"
        );
    }
}
