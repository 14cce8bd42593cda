//! Log drivers: which there are, which options each takes, and what the shim is told.
//!
//! | driver | kept | read by `logs` |
//! |---|---|---|
//! | `json-file` | Docker's format | yes |
//! | `local` | our format, 20 MiB x 5, compressed | yes |
//! | `journald`, `syslog` | with whom they are sent to, and in our format besides (`cache-disabled` keeps nothing) | yes |
//! | `none` | nothing | no |

use crate::config::Config;
use crate::error::{During, Error};
use crate::model::LogConfig;
use crate::record::Record;
use errors::{Kind, Report};
use gotemplate::{Template, Value};
use regex_lite::{Regex, RegexBuilder};
use shim_api::{Log, LogFile, RemoteLog, SyslogAddress, SyslogFormat};
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::rc::Rc;

/// The drivers, as `info` lists them.
pub const DRIVERS: [&str; 5] = ["journald", "json-file", "local", "none", "syslog"];

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_SOCKET: &str = "/dev/log";
const SYSLOG_PORT: u16 = 514;
/// Docker's limits for `local` and for the copy that is kept beside what is sent.
const LOCAL_SIZE: u64 = 20 << 20;
const LOCAL_FILES: u32 = 5;
/// Bytes that a regular expression may take when it is compiled: people write lines, not programs.
const MAX_PATTERN: usize = 256 << 10;

const FILE_OPTIONS: &[&str] = &["max-size", "max-file", "compress"];
const ATTRIBUTE_OPTIONS: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const CACHE_OPTIONS: &[&str] = &["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
const SYSLOG_OPTIONS: &[&str] = &[
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];
const MODE_OPTIONS: &[&str] = &["mode", "max-buffer-size"];

/// RFC 5424's facilities by number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// Checks what a daemon is told for containers that say nothing.
///
/// # Errors
///
/// InvalidArgument and Unsupported, as for a container.
pub fn check_default(driver: &str, options: &BTreeMap<String, String>) -> Result<(), Error> {
    check(&LogConfig { kind: driver.into(), config: options.clone() })
}

/// Checks driver and options before a container is made of them.
pub(crate) fn check(log: &LogConfig) -> Result<(), Error> {
    let options = &log.config;
    let driver = log.kind.as_str();
    let groups: &[&[&str]] = match driver {
        "json-file" => &[FILE_OPTIONS, ATTRIBUTE_OPTIONS, MODE_OPTIONS],
        "local" => &[FILE_OPTIONS, MODE_OPTIONS],
        "journald" => &[ATTRIBUTE_OPTIONS, CACHE_OPTIONS, MODE_OPTIONS],
        "syslog" => &[ATTRIBUTE_OPTIONS, SYSLOG_OPTIONS, CACHE_OPTIONS, MODE_OPTIONS],
        "none" => return Ok(()),
        other => {
            return Err(Error::invalid(format!("logger: no log driver named '{other}' is registered")));
        }
    };
    if let Some(unknown) = options.keys().find(|k| !groups.iter().any(|g| g.contains(&k.as_str()))) {
        return Err(Error::invalid(format!("unknown log opt '{unknown}' for {driver} log driver")));
    }
    for name in ["labels-regex", "env-regex"] {
        pattern(options, name)?;
    }
    match options.get("mode").map(String::as_str) {
        None | Some("blocking" | "non-blocking") => {}
        Some(other) => return Err(Error::invalid(format!("logger: logging mode not supported: {other}"))),
    }
    if options.contains_key("max-buffer-size")
        && options.get("mode").map(String::as_str) != Some("non-blocking")
    {
        return Err(Error::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ));
    }
    size(options, "max-buffer-size", 0)?;
    if let Some(tag) = options.get("tag") {
        parse_tag(tag)?;
    }
    match driver {
        "json-file" => {
            let file = file(PathBuf::new(), options, ("max-size", "max-file", "compress"), (0, 1, false))?;
            if file.compress && (file.max_files < 2 || file.max_size_bytes == 0) {
                return Err(Error::invalid(
                    "compress cannot be true when max-file is less than 2 or max-size is not set",
                ));
            }
        }
        "local" => drop(local(PathBuf::new(), options)?),
        _ => drop(cache(PathBuf::new(), options)?),
    }
    if driver == "syslog" {
        facility(options)?;
        format(options)?;
        parse_address(options)?;
    }
    Ok(())
}

/// The file in which a container's output is, for `logs`; None where none is kept.
pub(crate) fn readable(config: &Config, record: &Record) -> Option<(PathBuf, logs::Format)> {
    let id = record.id.as_str();
    let log = &record.host_config.log_config;
    match log.kind.as_str() {
        "json-file" => Some((config.log_path(id), logs::Format::JsonFile)),
        "local" => Some((local_path(config, id), logs::Format::Local)),
        "none" => None,
        _ => flag(&log.config, "cache-disabled")
            .is_ok_and(|off| !off)
            .then(|| (local_path(config, id), logs::Format::Local)),
    }
}

/// What the shim does with output. Blocking: resolves the names of syslog servers.
pub(crate) fn of(config: &Config, record: &Record) -> Result<Log, Error> {
    let log = &record.host_config.log_config;
    let options = &log.config;
    let id = record.id.as_str();
    let to = match log.kind.as_str() {
        "none" => return Ok(Log::None),
        "json-file" => {
            let defaults = (0, 1, false);
            let file = file(config.log_path(id), options, ("max-size", "max-file", "compress"), defaults)?;
            let mut attrs = attributes(record, options)?;
            if options.get("tag").is_some_and(|tag| !tag.is_empty()) {
                attrs.insert("tag".into(), tag_of(record, options)?);
            }
            return Ok(Log::JsonFile { file, attrs });
        }
        "local" => return Ok(Log::Local { file: local(local_path(config, id), options)? }),
        "journald" => {
            RemoteLog::Journald { socket: JOURNAL_SOCKET.into(), fields: journal_fields(record, options)? }
        }
        "syslog" => RemoteLog::Syslog {
            address: resolve(options)?,
            format: format(options)?,
            facility: facility(options)?,
            tag: tag_of(record, options)?,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        },
        other => return Err(Error::invalid(format!("logger: no log driver named '{other}' is registered"))),
    };
    let cache = cache(local_path(config, id), options)?;
    let non_blocking = options.get("mode").is_some_and(|m| m == "non-blocking");
    let buffer_bytes = usize::try_from(size(options, "max-buffer-size", 0)?).unwrap_or(usize::MAX);
    Ok(Log::Remote { to, cache, non_blocking, buffer_bytes })
}

/// The version of the format is part of the name.
fn local_path(config: &Config, id: &str) -> PathBuf {
    config.container_dir(id).join("local1.log")
}

fn local(path: PathBuf, options: &BTreeMap<String, String>) -> Result<LogFile, Error> {
    file(path, options, ("max-size", "max-file", "compress"), (LOCAL_SIZE, LOCAL_FILES, true))
}

fn cache(path: PathBuf, options: &BTreeMap<String, String>) -> Result<Option<LogFile>, Error> {
    let names = ("cache-max-size", "cache-max-file", "cache-compress");
    let file = file(path, options, names, (LOCAL_SIZE, LOCAL_FILES, true))?;
    Ok((!flag(options, "cache-disabled")?).then_some(file))
}

fn file(
    path: PathBuf,
    options: &BTreeMap<String, String>,
    names: (&str, &str, &str),
    defaults: (u64, u32, bool),
) -> Result<LogFile, Error> {
    let (max_size, max_file, compress) = names;
    let max_files = match options.get(max_file) {
        None => defaults.1,
        Some(text) => {
            let number: i64 =
                text.parse().map_err(|_| Error::invalid(format!("invalid {max_file}: {text}")))?;
            u32::try_from(number)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| Error::invalid(format!("{max_file} cannot be less than 1")))?
        }
    };
    let compress =
        if options.contains_key(compress) { flag(options, compress)? } else { defaults.2 && max_files > 1 };
    Ok(LogFile { path, max_size_bytes: size(options, max_size, defaults.0)?, max_files, compress })
}

/// A size in bytes; -1 is none.
fn size(options: &BTreeMap<String, String>, name: &str, default: u64) -> Result<u64, Error> {
    match options.get(name).map(String::as_str) {
        None => Ok(default),
        Some("-1") => Ok(0),
        Some(text) => parse_size(text).ok_or_else(|| Error::invalid(format!("invalid {name}: {text}"))),
    }
}

/// `10m`, `1g`, `512k`, `100`; powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let trimmed = lower.trim_end_matches('b');
    let (digits, factor) = match trimmed.chars().last()? {
        'k' => (&trimmed[..trimmed.len() - 1], 1 << 10),
        'm' => (&trimmed[..trimmed.len() - 1], 1 << 20),
        'g' => (&trimmed[..trimmed.len() - 1], 1 << 30),
        _ => (trimmed, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn flag(options: &BTreeMap<String, String>, name: &str) -> Result<bool, Error> {
    match options.get(name).map(String::as_str) {
        None => Ok(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Error::invalid(format!("invalid value for log option {name}: {other}"))),
    }
}

/// The regular expression of an option, if it is given.
fn pattern(options: &BTreeMap<String, String>, name: &str) -> Result<Option<Regex>, Error> {
    let Some(text) = options.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let compiled = RegexBuilder::new(text).size_limit(MAX_PATTERN).build();
    compiled.map(Some).map_err(|e| Error::invalid(format!("invalid {name} {text:?}: {e}")))
}

/// The labels and variables that the options name, or describe.
fn attributes(
    record: &Record,
    options: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    let labels = record.config.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let env = record.config.env.iter().filter_map(|e| e.split_once('='));
    let mut out = BTreeMap::new();
    for (names, regex, all) in
        [("labels", "labels-regex", labels.collect::<Vec<_>>()), ("env", "env-regex", env.collect())]
    {
        let names: Vec<&str> = options.get(names).map(|v| v.split(',').collect()).unwrap_or_default();
        let regex = pattern(options, regex)?;
        for (name, value) in all {
            if names.contains(&name) || regex.as_ref().is_some_and(|r| r.is_match(name)) {
                out.insert(name.to_string(), value.to_string());
            }
        }
    }
    Ok(out)
}

/// Checks a tag as far as that can be without a container.
fn parse_tag(tag: &str) -> Result<Template, Error> {
    Template::parse(tag).map_err(|e| Error::invalid(format!("invalid log tag {tag:?}: {e}")))
}

/// The tag of a container, a template on what Docker tells its drivers; its short id where none is given.
fn tag_of(record: &Record, options: &BTreeMap<String, String>) -> Result<String, Error> {
    let tag = options.get("tag").map(String::as_str).filter(|tag| !tag.is_empty()).unwrap_or("{{.ID}}");
    let image = record.image_id.hex();
    let (program, arguments) = record.args.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let list = |words: &[String]| Value::List(words.iter().map(|w| w.as_str().into()).collect());
    let map = |pairs: &BTreeMap<String, String>| {
        Value::Map(pairs.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect())
    };
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let extra = map(&attributes(record, options)?);
    let data = [
        ("ID", record.id.short().into()),
        ("FullID", record.id.as_str().into()),
        ("Name", record.name.as_str().into()),
        ("ImageID", image[..12].into()),
        ("ImageFullID", record.image_id.to_string().into()),
        ("ImageName", record.config.image.as_str().into()),
        ("Command", record.args.join(" ").into()),
        ("Hostname", hostname.into()),
        ("DaemonName", "brig".into()),
        ("Config", map(options)),
        ("ContainerID", record.id.as_str().into()),
        ("ContainerName", format!("/{}", record.name).into()),
        ("ContainerEntrypoint", program.into()),
        ("ContainerArgs", list(arguments)),
        ("ContainerImageID", record.image_id.to_string().into()),
        ("ContainerImageName", record.config.image.as_str().into()),
        ("ContainerCreated", record.created.as_str().into()),
        ("ContainerEnv", list(&record.config.env)),
        ("ContainerLabels", map(&record.config.labels)),
        // Its argument changes names, and templates have no functions to give.
        ("ExtraAttributes", Value::Method(Rc::new(move |_: &[Value]| Ok(extra.clone())))),
    ];
    let data =
        Value::Map(data.into_iter().map(|(name, value): (&str, Value)| (name.into(), value)).collect());
    parse_tag(tag)?.execute(&data).map_err(|e| Error::invalid(format!("invalid log tag {tag:?}: {e}")))
}

/// The fields that go with each entry of the journal, as Docker names them.
fn journal_fields(
    record: &Record,
    options: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, Error> {
    let tag = tag_of(record, options)?;
    let mut fields: Vec<(String, String)> = [
        ("CONTAINER_ID", record.id.short().to_string()),
        ("CONTAINER_ID_FULL", record.id.to_string()),
        ("CONTAINER_NAME", record.name.clone()),
        ("CONTAINER_TAG", tag.clone()),
        ("IMAGE_NAME", record.config.image.clone()),
        ("SYSLOG_IDENTIFIER", tag),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec();
    for (name, value) in attributes(record, options)? {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = name.chars().map(plain).collect();
        // journald takes no field that begins with an underscore from a client.
        fields.push((name.trim_start_matches('_').to_string(), value));
    }
    fields.retain(|(name, _)| !name.is_empty());
    Ok(fields)
}

fn facility(options: &BTreeMap<String, String>) -> Result<u8, Error> {
    let Some(text) = options.get("syslog-facility") else { return Ok(3) };
    let number = text.parse::<usize>().ok().or_else(|| FACILITIES.iter().position(|f| f == text));
    number
        .filter(|n| *n < FACILITIES.len())
        .and_then(|n| u8::try_from(n).ok())
        .ok_or_else(|| Error::invalid("invalid syslog facility"))
}

fn format(options: &BTreeMap<String, String>) -> Result<SyslogFormat, Error> {
    match options.get("syslog-format").map_or("", String::as_str) {
        "" => Ok(SyslogFormat::Local),
        "rfc3164" => Ok(SyslogFormat::Rfc3164),
        "rfc5424" => Ok(SyslogFormat::Rfc5424),
        "rfc5424micro" => Ok(SyslogFormat::Rfc5424Micro),
        _ => Err(Error::invalid("Invalid syslog format")),
    }
}

/// An address before its name is resolved.
enum Unresolved {
    Known(SyslogAddress),
    Udp(String, u16),
    Tcp(String, u16),
}

fn parse_address(options: &BTreeMap<String, String>) -> Result<Unresolved, Error> {
    if options.keys().any(|k| k.starts_with("syslog-tls-")) {
        return Err(Error::unsupported("syslog over TLS"));
    }
    let Some(text) = options.get("syslog-address").filter(|t| !t.is_empty()) else {
        return Ok(Unresolved::Known(SyslogAddress::UnixDatagram(SYSLOG_SOCKET.into())));
    };
    let bad = || Error::invalid(format!("syslog-address should be in form proto://address, got {text}"));
    let (protocol, rest) = text.split_once("://").ok_or_else(bad)?;
    let path = || if rest.starts_with('/') { Ok(PathBuf::from(rest)) } else { Err(bad()) };
    let host = || {
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().map_err(|_| bad())?),
            _ => (rest, SYSLOG_PORT),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() { Err(bad()) } else { Ok((name.to_string(), port)) }
    };
    Ok(match protocol {
        // Docker's `unix` is whichever of the two the socket is; the socket says.
        "unix" => {
            let path = path()?;
            match std::os::unix::net::UnixStream::connect(&path) {
                Ok(_) => Unresolved::Known(SyslogAddress::UnixStream(path)),
                Err(_) => Unresolved::Known(SyslogAddress::UnixDatagram(path)),
            }
        }
        "unixgram" => Unresolved::Known(SyslogAddress::UnixDatagram(path()?)),
        "udp" => host().map(|(name, port)| Unresolved::Udp(name, port))?,
        "tcp" => host().map(|(name, port)| Unresolved::Tcp(name, port))?,
        "tcp+tls" => return Err(Error::unsupported("syslog over TLS")),
        _ => return Err(Error::invalid(format!("unsupported scheme: '{protocol}'"))),
    })
}

fn resolve(options: &BTreeMap<String, String>) -> Result<SyslogAddress, Error> {
    let look_up = |name: &str, port: u16| -> Result<SocketAddr, Error> {
        let nobody = || Report::new(Kind::Unavailable, "no such host");
        (name, port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next())
            .ok_or_else(nobody)
            .during(|| format!("failed to initialize logging driver: look up {name}"))
    };
    Ok(match parse_address(options)? {
        Unresolved::Known(address) => address,
        Unresolved::Udp(name, port) => SyslogAddress::Udp(look_up(&name, port)?),
        Unresolved::Tcp(name, port) => SyslogAddress::Tcp(look_up(&name, port)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Config as ContainerConfig, HostConfig};

    fn config(kind: &str, options: &[(&str, &str)]) -> LogConfig {
        let config = options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        LogConfig { kind: kind.into(), config }
    }

    #[test]
    fn sizes() {
        let check = |t: &str, want| assert_eq!(parse_size(t), want, "{t}");
        check("10m", Some(10 << 20));
        check("1GB", Some(1 << 30));
        check("7", Some(7));
        check("", None);
        check("m", None);
        check("-1k", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn options_by_driver() {
        let good = |kind: &str, options: &[(&str, &str)]| check(&config(kind, options)).unwrap();
        good(
            "json-file",
            &[("max-size", "1m"), ("max-file", "3"), ("compress", "true"), ("tag", "{{.Name}}-x")],
        );
        good("local", &[("max-size", "1m"), ("mode", "non-blocking"), ("max-buffer-size", "4m")]);
        good("journald", &[("tag", "{{ .ID }}"), ("labels", "a,b"), ("cache-disabled", "true")]);
        good(
            "syslog",
            &[
                ("syslog-address", "udp://[::1]:514"),
                ("syslog-facility", "local0"),
                ("syslog-format", "rfc5424"),
            ],
        );
        good("none", &[]);
        let bad = |kind: &str, options: &[(&str, &str)], words: &str| {
            let message = check(&config(kind, options)).unwrap_err().to_string();
            assert!(message.contains(words), "{kind} {options:?}: {message}");
        };
        bad("fluentd", &[], "no log driver named 'fluentd' is registered");
        bad("json-file", &[("max-sise", "1")], "unknown log opt 'max-sise' for json-file log driver");
        bad("local", &[("tag", "x")], "unknown log opt 'tag' for local log driver");
        bad("json-file", &[("max-file", "0")], "max-file cannot be less than 1");
        bad("json-file", &[("compress", "true")], "compress cannot be true when max-file is less than 2");
        bad("json-file", &[("mode", "hasty")], "logging mode not supported");
        bad("json-file", &[("max-buffer-size", "1m")], "only supported with 'mode=non-blocking'");
        bad("json-file", &[("tag", "{{.ID")], "invalid log tag");
        bad("json-file", &[("tag", "{{nope .ID}}")], "function \"nope\" not defined");
        bad("syslog", &[("syslog-address", "x")], "proto://address");
        bad("syslog", &[("syslog-address", "http://x")], "unsupported scheme");
        bad("syslog", &[("syslog-address", "tcp+tls://x:1")], "TLS");
        bad("syslog", &[("syslog-facility", "none")], "invalid syslog facility");
        bad("syslog", &[("syslog-format", "rfc1")], "Invalid syslog format");
        good("journald", &[("env-regex", "^(A|B_)"), ("labels-regex", "^com\\.example\\.")]);
        bad("journald", &[("env-regex", "(")], "invalid env-regex \"(\"");
        bad("json-file", &[("labels-regex", "((a{1000}){1000}){1000}")], "invalid labels-regex");
        bad("local", &[("env-regex", "x")], "unknown log opt 'env-regex' for local log driver");
    }

    #[test]
    fn tags_and_fields() {
        let container = ContainerConfig {
            image: "web:1".into(),
            labels: [("a.b".to_string(), "1".to_string())].into(),
            env: vec!["V=2".into()],
            ..ContainerConfig::default()
        };
        let record = crate::bundle::tests::record(HostConfig::default(), container);
        let tag = |tag: &str| {
            tag_of(&record, &config("syslog", &[("tag", tag), ("labels", "a.b"), ("env", "V")]).config)
        };
        let check = |text: &str, want: String| assert_eq!(tag(text).unwrap(), want, "{text}");
        check("", record.id.short().into());
        check("{{.ImageName}}/{{.Name}}!", "web:1/x!".into());
        check("{{upper .Name}} {{index .ContainerLabels \"a.b\"}} {{.DaemonName}}", "X 1 brig".into());
        check("{{(.ExtraAttributes nil).V}}{{with .ContainerArgs}}{{end}}", "2".into());
        assert!(tag("{{.Nope}}").unwrap_err().to_string().contains("no entry for key \"Nope\""));
        let regex = config("json-file", &[("labels-regex", r"^a\.[b-d]$"), ("env-regex", "^(v|w)$")]).config;
        assert_eq!(attributes(&record, &regex).unwrap(), [("a.b".to_string(), "1".to_string())].into());
        let options = config("journald", &[("labels", "a.b"), ("env", "V")]).config;
        let fields = journal_fields(&record, &options).unwrap();
        assert!(
            fields.contains(&("A_B".into(), "1".into())) && fields.contains(&("V".into(), "2".into())),
            "{fields:?}"
        );
    }
}
