//! The Dockerfile instructions that `commit` and `import` take as changes, applied to an image's config.
//!
//! Spec: Dockerfile reference; of it CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and
//! WORKDIR, one or several lines in each text.

use crate::error::Error;
use crate::life::Signal;
use oci::image::{Empty, RunConfig};
use serde_json::{Value, json};

/// Applies `changes` in order.
///
/// # Errors
///
/// InvalidArgument in Docker's words for other instructions and for arguments that cannot be.
pub(crate) fn apply(config: &mut RunConfig, changes: &[String]) -> Result<(), Error> {
    let mut command_set = false;
    for line in changes.iter().flat_map(|text| lines(text)) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        one(config, &word.to_ascii_uppercase(), word, rest.trim(), &mut command_set)?;
    }
    Ok(())
}

fn one(
    config: &mut RunConfig,
    name: &str,
    word: &str,
    rest: &str,
    command_set: &mut bool,
) -> Result<(), Error> {
    const KNOWN: &[&str] = &[
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    if !KNOWN.contains(&name) {
        return Err(Error::invalid(format!("{word} is not a valid change command")));
    }
    if rest.is_empty() && !matches!(name, "CMD" | "ENTRYPOINT") {
        return Err(Error::invalid(format!("{name} requires at least one argument")));
    }
    let env = config.env.clone().unwrap_or_default();
    let expanded = |text: &str| expand(text, &env);
    let single = |text: &str| match expand_words(text, &env)?.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(Error::invalid(format!("{name} requires exactly one argument"))),
    };
    match name {
        "CMD" => {
            config.cmd = command(rest, config.shell.as_ref());
            *command_set = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = command(rest, config.shell.as_ref());
            // The command was meant for the entrypoint before.
            if !*command_set {
                config.cmd = None;
            }
        }
        "ENV" => {
            let list = config.env.get_or_insert_default();
            for (key, value) in pairs(name, rest)? {
                let entry = format!("{}={}", expanded(&key)?, expanded(&value)?);
                let prefix = format!("{}=", expanded(&key)?);
                match list.iter_mut().find(|e| e.starts_with(&prefix)) {
                    Some(old) => *old = entry,
                    None => list.push(entry),
                }
            }
        }
        "LABEL" => {
            let labels = config.labels.get_or_insert_default();
            for (key, value) in pairs(name, rest)? {
                labels.insert(expanded(&key)?, expanded(&value)?);
            }
        }
        "EXPOSE" => {
            for port in expand_words(rest, &env)? {
                for port in ports(&port)? {
                    config.exposed_ports.get_or_insert_default().insert(port, Empty {});
                }
            }
        }
        "VOLUME" => {
            let paths = match words_of_json(rest) {
                Some(paths) => paths.iter().map(|path| expanded(path)).collect::<Result<_, _>>()?,
                None => expand_words(rest, &env)?,
            };
            for path in paths {
                if path.is_empty() {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                config.volumes.get_or_insert_default().insert(path, Empty {});
            }
        }
        "USER" => config.user = single(rest)?,
        "WORKDIR" => config.working_dir = join(&config.working_dir, &expanded(rest)?),
        "STOPSIGNAL" => {
            let signal = single(rest)?;
            Signal::parse(&signal)?;
            config.stop_signal = Some(signal);
        }
        "ONBUILD" => {
            let inner = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match inner.as_str() {
                "ONBUILD" => {
                    return Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
                }
                "MAINTAINER" | "FROM" => {
                    return Err(Error::invalid(format!("{inner} isn't allowed as an ONBUILD trigger")));
                }
                _ => config.on_build.get_or_insert_default().push(rest.to_string()),
            }
        }
        _ => config.healthcheck = Some(healthcheck(rest, config.shell.as_ref())?),
    }
    Ok(())
}

/// The lines of a text: comments and empty lines left out, a backslash at the end continues.
fn lines(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => current.push_str(part),
            None => {
                current.push_str(line);
                out.push(std::mem::take(&mut current));
            }
        }
    }
    if !current.is_empty() {
        out.push(current);
    }
    out
}

/// `["a", "b"]`; None for anything else, which Docker then takes as a line for the shell.
fn words_of_json(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// A command line in either form; none for nothing at all.
fn command(text: &str, shell: Option<&Vec<String>>) -> Option<Vec<String>> {
    if let Some(words) = words_of_json(text) {
        return (!words.is_empty()).then_some(words);
    }
    if text.is_empty() {
        return None;
    }
    let mut line = shell.cloned().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
    line.push(text.into());
    Some(line)
}

/// `a=b c="d e"`, or the older `a b c` for one pair. Values are not expanded yet.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, Error> {
    let words = split_words(text);
    let first = words.first().map_or("", String::as_str);
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{name} must have two arguments")))?;
        return Ok(vec![(key.into(), value.trim().into())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Error::invalid(format!("{name} names can not be blank"))),
        Some((key, value)) => Ok((key.to_string(), value.to_string())),
        None => Err(Error::invalid(format!(
            "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
        ))),
    };
    words.iter().map(pair).collect()
}

/// Splits at white space that is neither quoted nor escaped; quotes and escapes stay.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn expand_words(text: &str, env: &[String]) -> Result<Vec<String>, Error> {
    split_words(text).iter().map(|word| expand(word, env)).collect()
}

/// Takes quotes off and puts `$NAME`, `${NAME}`, `${NAME:-word}`, `${NAME:+word}` in.
fn expand(text: &str, env: &[String]) -> Result<String, Error> {
    let value = |name: &str| {
        let found = env.iter().rev().filter_map(|e| e.split_once('=')).find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value).to_string()
    };
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'', None) | ('"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (c, Some('\'')) => out.push(c),
            ('\\', _) => match chars.next() {
                Some(next) if quote.is_none() || matches!(next, '"' | '$' | '\\') => out.push(next),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            ('$', _) if chars.peek() == Some(&'{') => {
                chars.next();
                let inside: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let end =
                    inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
                let (name, rest) = inside.split_at(end);
                let now = value(name);
                match rest {
                    "" => out.push_str(&now),
                    rest if rest.starts_with(":-") => {
                        if now.is_empty() {
                            out.push_str(&expand(&rest[2..], env)?)
                        } else {
                            out.push_str(&now)
                        }
                    }
                    rest if rest.starts_with(":+") => {
                        if !now.is_empty() {
                            out.push_str(&expand(&rest[2..], env)?);
                        }
                    }
                    _ => {
                        return Err(Error::invalid(format!(
                            "unsupported modifier in substitution: ${{{inside}}}"
                        )));
                    }
                }
            }
            ('$', _) => {
                let mut name = String::new();
                while let Some(c) = chars.peek().filter(|c| c.is_ascii_alphanumeric() || **c == '_') {
                    name.push(*c);
                    chars.next();
                }
                if name.is_empty() { out.push('$') } else { out.push_str(&value(&name)) }
            }
            (c, _) => out.push(c),
        }
    }
    match quote {
        Some(open) => {
            Err(Error::invalid(format!("unexpected end of statement while looking for matching {open}")))
        }
        None => Ok(out),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>, Error> {
    /// As many ports as there are.
    const MAX: u32 = 65535;
    let invalid = || Error::invalid(format!("invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("invalid proto: {protocol}")));
    }
    let number = |t: &str| t.parse::<u32>().ok().filter(|n| (1..=MAX).contains(n)).ok_or_else(invalid);
    let (from, to) = match range.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(range)?, number(range)?),
    };
    if from > to {
        return Err(invalid());
    }
    Ok((from..=to).map(|n| format!("{n}/{protocol}")).collect())
}

/// A path that may be relative to the directory before it, without `.` and `..`.
fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_string() } else { format!("{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `NONE`, or `[--interval=..] [--timeout=..] [--start-period=..] [--start-interval=..] [--retries=N] CMD command`.
fn healthcheck(text: &str, shell: Option<&Vec<String>>) -> Result<Value, Error> {
    let mut out = serde_json::Map::new();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) =
            flag.split_once('=').ok_or_else(|| Error::invalid(format!("Missing a value on flag: {flag}")))?;
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => {
                let retries: u32 =
                    value.parse().map_err(|_| Error::invalid(format!("invalid --retries: {value}")))?;
                out.insert("Retries".into(), json!(retries));
                continue;
            }
            _ => return Err(Error::invalid(format!("Unknown flag: {name}"))),
        };
        let nanos = duration(value)
            .ok_or_else(|| Error::invalid(format!("invalid duration {value:?} of --{name}")))?;
        out.insert(key.into(), json!(nanos));
    }
    let (kind, command_text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command_text.trim().is_empty() => vec!["NONE".to_string()],
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" => match words_of_json(command_text.trim()) {
            Some(words) if !words.is_empty() => std::iter::once("CMD".to_string()).chain(words).collect(),
            _ if command_text.trim().is_empty() => {
                return Err(Error::invalid("Missing command after HEALTHCHECK CMD"));
            }
            // A shell of the image's own is put in front, as the check runs without it otherwise.
            _ => match shell {
                Some(shell) => std::iter::once("CMD".to_string())
                    .chain(shell.iter().cloned())
                    .chain([command_text.trim().to_string()])
                    .collect(),
                None => vec!["CMD-SHELL".to_string(), command_text.trim().to_string()],
            },
        },
        other => {
            return Err(Error::invalid(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")));
        }
    };
    out.insert("Test".into(), json!(test));
    Ok(Value::Object(out))
}

/// Go's durations (`1m30s`, `500ms`) in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut total = 0f64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        total += number
            * match &rest[digits..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                "" if number == 0.0 => 0.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
    (total < 9e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(changes: &[&str], expected: Result<Value, &str>) {
        let mut config = RunConfig {
            env: Some(vec!["A=1".into(), "P=/x".into()]),
            cmd: Some(vec!["old".into()]),
            ..RunConfig::default()
        };
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        match (apply(&mut config, &changes), expected) {
            (Ok(()), Ok(expected)) => {
                let got = serde_json::to_value(&config).unwrap();
                for (key, value) in expected.as_object().unwrap() {
                    assert_eq!(got.get(key).unwrap_or(&Value::Null), value, "{changes:?} {key}");
                }
            }
            (Err(e), Err(text)) => assert!(e.to_string().contains(text), "{e}"),
            (got, expected) => panic!("{changes:?}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn each_instruction_changes_its_field() {
        check(&[r#"CMD ["a", "b"]"#], Ok(json!({"Cmd": ["a", "b"]})));
        check(&["cmd echo hi"], Ok(json!({"Cmd": ["/bin/sh", "-c", "echo hi"]})));
        check(&["ENTRYPOINT [\"e\"]"], Ok(json!({"Entrypoint": ["e"], "Cmd": null})));
        check(&["CMD [\"c\"]", "ENTRYPOINT [\"e\"]"], Ok(json!({"Cmd": ["c"], "Entrypoint": ["e"]})));
        check(
            &["ENV A=2 B=\"x y\" C='$A' D=$A"],
            Ok(json!({"Env": ["A=2", "P=/x", "B=x y", "C=$A", "D=1"]})),
        );
        check(&["ENV B some words"], Ok(json!({"Env": ["A=1", "P=/x", "B=some words"]})));
        check(&["LABEL a=b \"c d\"=e"], Ok(json!({"Labels": {"a": "b", "c d": "e"}})));
        check(
            &["EXPOSE 80 53/udp 1-2/TCP"],
            Ok(json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "1/tcp": {}, "2/tcp": {}}})),
        );
        check(
            &["VOLUME /a ${P}/b", "VOLUME [\"/c d\"]"],
            Ok(json!({"Volumes": {"/a": {}, "/x/b": {}, "/c d": {}}})),
        );
        check(&["USER 1:2"], Ok(json!({"User": "1:2"})));
        check(&["WORKDIR /a", "WORKDIR b/../c"], Ok(json!({"WorkingDir": "/a/c"})));
        check(&["STOPSIGNAL SIGKILL"], Ok(json!({"StopSignal": "SIGKILL"})));
        check(&["ONBUILD RUN x"], Ok(json!({"OnBuild": ["RUN x"]})));
        check(
            &["HEALTHCHECK --interval=1m30s --retries=3 CMD curl x"],
            Ok(
                json!({"Healthcheck": {"Interval": 90_000_000_000i64, "Retries": 3, "Test": ["CMD-SHELL", "curl x"]}}),
            ),
        );
        check(&["HEALTHCHECK NONE"], Ok(json!({"Healthcheck": {"Test": ["NONE"]}})));
        check(&["USER a\n# note\nENV X=\\\ny"], Ok(json!({"User": "a", "Env": ["A=1", "P=/x", "X=y"]})));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        check(&["RUN x"], Err("RUN is not a valid change command"));
        check(&["from x"], Err("from is not a valid change command"));
        check(&["ENV"], Err("requires at least one argument"));
        check(&["ENV A=1 B"], Err("can't find = in \"B\""));
        check(&["EXPOSE 70000"], Err("invalid containerPort"));
        check(&["EXPOSE 1/icmp"], Err("invalid proto"));
        check(&["STOPSIGNAL NOPE"], Err("invalid signal"));
        check(&["ONBUILD FROM x"], Err("isn't allowed as an ONBUILD trigger"));
        check(&["LABEL a='b"], Err("looking for matching"));
        check(&["HEALTHCHECK --x=1 CMD a"], Err("Unknown flag"));
    }
}
