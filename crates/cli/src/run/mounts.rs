//! `-v`, `--mount` and `--tmpfs`.

use crate::error::{Error, Result};
use crate::units;
use serde_json::{Map, Value, json};

/// What one `-v` means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// `/path`: an anonymous volume.
    Anonymous(String),
    /// `source:target[:options]` as the API's `Binds` take it, with an absolute source or a volume's name.
    Bind(String),
}

/// Reads one `-v`. `absolute` makes a path of the client absolute.
pub(crate) fn volume(text: &str, absolute: impl Fn(&str) -> String) -> Result<Volume> {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [] | ["", ..] => Err(Error::Usage(format!("invalid empty volume spec: {text:?}"))),
        [target] => Ok(Volume::Anonymous((*target).to_string())),
        [source, rest @ ..] => {
            let source = match source.starts_with(['.', '~']) || source.contains('/') {
                true if !source.starts_with('/') => absolute(source),
                _ => (*source).to_string(),
            };
            Ok(Volume::Bind(format!("{source}:{}", rest.join(":"))))
        }
    }
}

/// Reads one `--mount` into the API's `Mount`.
pub(crate) fn mount(text: &str, absolute: impl Fn(&str) -> String) -> Result<Value> {
    let mut mount = Map::new();
    let mut options: [(&str, Map<String, Value>); 4] = [
        ("BindOptions", Map::new()),
        ("VolumeOptions", Map::new()),
        ("TmpfsOptions", Map::new()),
        ("ImageOptions", Map::new()),
    ];
    let mut kind = "volume".to_string();
    for field in split_csv(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None if BARE.contains(&field.to_ascii_lowercase().as_str()) => {
                (field.to_ascii_lowercase(), "true")
            }
            None => {
                return Err(Error::Usage(format!("invalid field '{field}' must be a key=value pair")));
            }
        };
        let [bind, volume, tmpfs, image] = &mut options;
        let bad = || Error::Usage(format!("invalid value for {key}: {value}"));
        let boolean = || parse_bool(value).ok_or_else(bad);
        match key.as_str() {
            "type" if value.is_empty() => return Err(Error::Usage("type is required".into())),
            "type" => kind = value.to_ascii_lowercase(),
            "source" | "src" => drop(mount.insert("Source".into(), json!(value))),
            "target" | "dst" | "destination" => drop(mount.insert("Target".into(), json!(value))),
            "readonly" | "ro" => drop(mount.insert("ReadOnly".into(), json!(boolean()?))),
            "consistency" => drop(mount.insert("Consistency".into(), json!(value.to_ascii_lowercase()))),
            "bind-propagation" => {
                drop(bind.1.insert("Propagation".into(), json!(value.to_ascii_lowercase())))
            }
            "bind-nonrecursive" => drop(bind.1.insert("NonRecursive".into(), json!(boolean()?))),
            "bind-create-mountpoint" | "bind-create-src" => {
                bind.1.insert("CreateMountpoint".into(), json!(boolean()?));
            }
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => drop(bind.1.insert("NonRecursive".into(), json!(true))),
                "writable" => drop(bind.1.insert("ReadOnlyNonRecursive".into(), json!(true))),
                "readonly" => drop(bind.1.insert("ReadOnlyForceRecursive".into(), json!(true))),
                _ => {
                    return Err(Error::Usage(format!(
                        "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    )));
                }
            },
            "volume-nocopy" => drop(volume.1.insert("NoCopy".into(), json!(boolean()?))),
            "volume-subpath" => drop(volume.1.insert("Subpath".into(), json!(value))),
            "image-subpath" => drop(image.1.insert("Subpath".into(), json!(value))),
            "volume-label" => insert_pair(&mut volume.1, &["Labels"], value),
            "volume-driver" => set(&mut volume.1, &["DriverConfig", "Name"], json!(value)),
            "volume-opt" => insert_pair(&mut volume.1, &["DriverConfig", "Options"], value),
            "tmpfs-size" => {
                let bytes = units::parse_bytes(value).map_err(|_| bad())?;
                tmpfs.1.insert("SizeBytes".into(), json!(bytes));
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| bad())?;
                tmpfs.1.insert("Mode".into(), json!(mode));
            }
            _ => return Err(Error::Usage(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    let own = match kind.as_str() {
        "bind" => "BindOptions",
        "volume" | "cluster" => "VolumeOptions",
        "tmpfs" => "TmpfsOptions",
        "image" => "ImageOptions",
        "npipe" => "",
        _ => return Err(Error::Usage(format!("invalid mount type: {kind}"))),
    };
    if !mount.contains_key("Target") {
        return Err(Error::Usage("target is required".into()));
    }
    if kind == "bind"
        && let Some(Value::String(source)) = mount.get_mut("Source")
        && !source.starts_with('/')
    {
        *source = absolute(source);
    }
    check_recursion(&mount, &options[0].1)?;
    for (name, fields) in options.into_iter().filter(|(_, fields)| !fields.is_empty()) {
        if name != own {
            let what = name.trim_end_matches("Options").to_ascii_lowercase();
            return Err(Error::Usage(format!("cannot mix '{what}-*' options with mount type '{kind}'")));
        }
        mount.insert(name.into(), Value::Object(fields));
    }
    mount.insert("Type".into(), json!(kind));
    Ok(Value::Object(mount))
}

/// Keys that mean `true` without a value.
const BARE: &[&str] =
    &["readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-mountpoint", "bind-create-src"];

/// What must stand beside `bind-recursive`.
fn check_recursion(mount: &Map<String, Value>, bind: &Map<String, Value>) -> Result<()> {
    let is = |field: &str| bind.get(field) == Some(&Value::Bool(true));
    let needs = |value: &str, other: &str| {
        Err(Error::Usage(format!(
            "option 'bind-recursive={value}' requires '{other}' to be specified in conjunction"
        )))
    };
    let is_read_only = mount.get("ReadOnly") == Some(&Value::Bool(true));
    match (is("ReadOnlyNonRecursive"), is("ReadOnlyForceRecursive")) {
        (true, _) if !is_read_only => needs("writable", "readonly"),
        (_, true) if !is_read_only => needs("readonly", "readonly"),
        (_, true) if bind.get("Propagation") != Some(&json!("rprivate")) => {
            needs("readonly", "bind-propagation=rprivate")
        }
        _ => Ok(()),
    }
}

/// Reads one `--tmpfs PATH[:OPTIONS]`.
pub(crate) fn tmpfs(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.to_string(), options.to_string())
}

/// Fields between commas; a field in double quotes may contain commas, a doubled quote in it means one.
fn split_csv(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => fields[last].push('"'),
            '"' if quoted || fields[last].is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields[last].push(c),
        }
    }
    fields
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn set(map: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => drop(map.insert((*last).to_string(), value)),
        [first, rest @ ..] => {
            let inner = map.entry(*first).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

fn insert_pair(map: &mut Map<String, Value>, path: &[&str], text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let mut whole = path.to_vec();
    whole.push(key);
    set(map, &whole, json!(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(path: &str) -> String {
        format!("/cwd/{}", path.trim_start_matches("./"))
    }

    #[test]
    fn volumes() {
        let bind = |text: &str| Volume::Bind(text.into());
        let check = |text: &str, expected: Volume| assert_eq!(volume(text, absolute).unwrap(), expected);
        check("/data", Volume::Anonymous("/data".into()));
        check("/a:/b", bind("/a:/b"));
        check("./a:/b:ro", bind("/cwd/a:/b:ro"));
        check("sub/a:/b", bind("/cwd/sub/a:/b"));
        check("name:/b:z,rw", bind("name:/b:z,rw"));
        assert!(volume("", absolute).is_err());
        assert!(volume(":/b", absolute).is_err());
    }

    #[test]
    fn mounts() {
        let check = |text: &str, expected: Value| {
            assert_eq!(mount(text, absolute).unwrap_or_else(|e| panic!("{text}: {e}")), expected);
        };
        check(
            "type=bind,src=/a,dst=/b,ro,bind-propagation=rslave",
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
                   "BindOptions": {"Propagation": "rslave"}}),
        );
        check("source=v,target=/b", json!({"Type": "volume", "Source": "v", "Target": "/b"}));
        check(
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777",
            json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 0o1777}}),
        );
        check(
            "type=volume,dst=/v,volume-driver=local,\"volume-opt=o=a,b\",volume-label=x=y",
            json!({"Type": "volume", "Target": "/v", "VolumeOptions": {
                "DriverConfig": {"Name": "local", "Options": {"o": "a,b"}}, "Labels": {"x": "y"}}}),
        );
        check(
            "type=volume,src=v,dst=/v,volume-nocopy,volume-subpath=a/b,readonly=false",
            json!({"Type": "volume", "Source": "v", "Target": "/v", "ReadOnly": false,
                   "VolumeOptions": {"NoCopy": true, "Subpath": "a/b"}}),
        );
        check(
            "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly,bind-propagation=rprivate",
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
                   "BindOptions": {"Propagation": "rprivate", "ReadOnlyForceRecursive": true}}),
        );
        check(
            "type=bind,src=/a,dst=/b,bind-recursive=disabled,consistency=Cached",
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "Consistency": "cached",
                   "BindOptions": {"NonRecursive": true}}),
        );
        check(
            "type=image,src=a,dst=/i,image-subpath=x",
            json!({"Type": "image", "Source": "a", "Target": "/i", "ImageOptions": {"Subpath": "x"}}),
        );
        check("type=bind,src=x,dst=/b", json!({"Type": "bind", "Source": "/cwd/x", "Target": "/b"}));
    }

    #[test]
    fn mount_mistakes() {
        let check = |text: &str, expected: &str| {
            assert_eq!(mount(text, absolute).unwrap_err().to_string(), expected);
        };
        check("type=bind,src=/a", "target is required");
        check("foo,target=/x", "invalid field 'foo' must be a key=value pair");
        check("foo=1,target=/x", "unexpected key 'foo' in 'foo=1'");
        check("type=x,target=/x", "invalid mount type: x");
        check(
            "type=bind,src=/a,target=/x,tmpfs-size=1",
            "cannot mix 'tmpfs-*' options with mount type 'bind'",
        );
        check("target=/x,readonly=maybe", "invalid value for readonly: maybe");
        for key in ["src", "type", "target", "volume-label", "volume-opt", "bind-recursive", "tmpfs-size", ""]
        {
            check(&format!("target=/x,{key}"), &format!("invalid field '{key}' must be a key=value pair"));
        }
        check("type=,target=/x", "type is required");
        check("type=tmpfs,target=/x,tmpfs-size=x", "invalid value for tmpfs-size: x");
        check("type=tmpfs,target=/x,tmpfs-mode=9", "invalid value for tmpfs-mode: 9");
        check(" target=/x", "unexpected key ' target' in ' target=/x'");
        let bind = |more: &str| format!("type=bind,src=/,target=/x,{more}");
        check(
            &bind("bind-recursive=x"),
            "invalid value for bind-recursive: x (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
        );
        check(
            &bind("bind-recursive=readonly"),
            "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction",
        );
        check(
            &bind("bind-recursive=writable"),
            "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction",
        );
        check(
            &bind("bind-recursive=readonly,ro"),
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction",
        );
        check(
            "type=image,src=a,target=/x,volume-subpath=x",
            "cannot mix 'volume-*' options with mount type 'image'",
        );
    }
}
