//! What the instructions that touch no file do to an image's config: for the builder, and for the changes of `commit` and
//! `import`.

use crate::error::Error;
use crate::expand::Expander;
use crate::health::HealthCheck;
use crate::ignore::clean;
use crate::instruction::{self, Command, Instruction, Kind, Pair};
use crate::line;
use crate::words::split_first;
use oci::image::{Empty, RunConfig};
use serde_json::{Value, json};

/// What `commit` and `import` take.
const CHANGES: &[&str] = &[
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

/// Reads the text of a `--change`: one or several instructions of those that `commit` and `import` take.
///
/// # Errors
///
/// For any other instruction, and as for a whole file.
pub fn parse_changes(text: &str) -> Result<Vec<Instruction>, Error> {
    let (directives, lines) = line::read(text)?;
    let one = |line: &line::Line| {
        let (name, _) = split_first(&line.text);
        if !CHANGES.contains(&name.to_uppercase().as_str()) {
            return Err(Error::at(line.lines, name, format!("{name} is not a valid change command")));
        }
        instruction::parse(line, directives.escape)
    };
    lines.iter().map(one).collect()
}

/// One change of a config, all words expanded. [`std::fmt::Display`] is what history says of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<(String, String)>),
    /// Ports with their protocol, `80/tcp`.
    Expose(Vec<String>),
    HealthCheck {
        /// As configs have it.
        document: Value,
        /// The instruction as written.
        text: String,
    },
    Label(Vec<(String, String)>),
    OnBuild {
        trigger: String,
        /// With its here-documents, for the config.
        whole: String,
    },
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    /// Absolute and clean.
    Workdir(String),
}

/// Why an instruction cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The word that is at fault; empty for the whole instruction.
    pub token: String,
    pub message: String,
}

impl Wrong {
    fn at(token: &str, message: impl Into<String>) -> Wrong {
        Wrong { token: token.into(), message: message.into() }
    }
}

impl Change {
    /// What `instruction` does to `config`; None if it is one that makes files or only steers the build. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Wrong`], in Docker's words.
    pub fn of(
        instruction: &Instruction,
        config: &RunConfig,
        expander: &Expander<'_>,
    ) -> Result<Option<Change>, Wrong> {
        let text = |word: &String| expander.text(word).map_err(|m| Wrong::at(word, m));
        Ok(Some(match &instruction.kind {
            Kind::Cmd(command) => Change::Cmd(command_words(config, command)),
            Kind::Entrypoint(command) => Change::Entrypoint(command_words(config, command)),
            Kind::Env(pairs) => Change::Env(expand_pairs(pairs, expander, false)?),
            Kind::Label(pairs) => Change::Label(expand_pairs(pairs, expander, true)?),
            Kind::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    for range in expander.expand(word).map_err(|m| Wrong::at(word, m))?.words {
                        ports.extend(expose(&range).map_err(|m| Wrong::at(word, m))?);
                    }
                }
                ports.sort();
                Change::Expose(ports)
            }
            Kind::Volume(words) => {
                let paths = words.iter().map(text).collect::<Result<Vec<_>, _>>()?;
                if paths.iter().any(|p| p.trim().is_empty()) {
                    return Err(Wrong::at("", "VOLUME specified can not be an empty string"));
                }
                Change::Volume(paths)
            }
            Kind::User(word) => Change::User(text(word)?),
            Kind::Workdir(word) => Change::Workdir(join(&config.working_dir, &text(word)?)),
            Kind::StopSignal(word) => {
                let signal = text(word)?;
                if oci::signal::number(&signal).is_none() {
                    return Err(Wrong::at(word, format!("invalid signal: {signal}")));
                }
                Change::StopSignal(signal)
            }
            Kind::Shell(words) => Change::Shell(words.clone()),
            Kind::HealthCheck(health) => {
                Change::HealthCheck { document: health_document(health), text: instruction.text.clone() }
            }
            Kind::OnBuild { trigger, heredocs } => {
                let mut whole = trigger.clone();
                for heredoc in heredocs {
                    whole.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
                }
                Change::OnBuild { trigger: trigger.clone(), whole }
            }
            Kind::From { .. }
            | Kind::Run(_)
            | Kind::Copy(_)
            | Kind::Add(_)
            | Kind::Arg(_)
            | Kind::Maintainer(_) => return Ok(None),
        }))
    }

    /// Carries the change out. `has_cmd`: a CMD was said since the base, so that an ENTRYPOINT leaves it.
    pub fn apply(self, config: &mut RunConfig, has_cmd: &mut bool) {
        match self {
            Change::Cmd(words) => {
                config.args_escaped = false;
                config.cmd = Some(words);
                *has_cmd = true;
            }
            Change::Entrypoint(words) => {
                if !*has_cmd {
                    config.cmd = None;
                }
                config.entrypoint = Some(words);
            }
            Change::Env(pairs) => {
                let env = config.env.get_or_insert_default();
                for (key, value) in pairs {
                    let entry = format!("{key}={value}");
                    match env.iter_mut().find(|e| e.split('=').next() == Some(key.as_str())) {
                        Some(old) => *old = entry,
                        None => env.push(entry),
                    }
                }
            }
            Change::Expose(ports) => {
                config.exposed_ports.get_or_insert_default().extend(ports.into_iter().map(|p| (p, Empty {})));
            }
            Change::HealthCheck { document, .. } => config.healthcheck = Some(document),
            Change::Label(pairs) => config.labels.get_or_insert_default().extend(pairs),
            Change::OnBuild { whole, .. } => config.on_build.get_or_insert_default().push(whole),
            Change::Shell(words) => config.shell = Some(words),
            Change::StopSignal(signal) => config.stop_signal = Some(signal),
            Change::User(user) => config.user = user,
            Change::Volume(paths) => {
                config.volumes.get_or_insert_default().extend(paths.into_iter().map(|p| (p, Empty {})));
            }
            Change::Workdir(path) => config.working_dir = path,
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = |pairs: &[(String, String)]| {
            pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        match self {
            Change::Cmd(words) => write!(f, "CMD {}", go_strings(words)),
            Change::Entrypoint(words) => write!(f, "ENTRYPOINT {}", go_strings(words)),
            Change::Env(env) => write!(f, "ENV {}", pairs(env)),
            Change::Expose(ports) => {
                let shown: Vec<String> = ports.iter().map(|p| format!("{p}:{{}}")).collect();
                write!(f, "EXPOSE map[{}]", shown.join(" "))
            }
            Change::HealthCheck { text, .. } => f.write_str(text),
            Change::Label(labels) => write!(f, "LABEL {}", pairs(labels)),
            Change::OnBuild { trigger, .. } => write!(f, "ONBUILD {trigger}"),
            Change::Shell(words) => write!(f, "SHELL [{}]", words.join(" ")),
            Change::StopSignal(signal) => write!(f, "STOPSIGNAL {signal}"),
            Change::User(user) => write!(f, "USER {user}"),
            Change::Volume(paths) => write!(f, "VOLUME [{}]", paths.join(" ")),
            Change::Workdir(path) => write!(f, "WORKDIR {path}"),
        }
    }
}

/// The words that a command becomes: those of the exec form, or the shell's with the text.
pub fn command_words(config: &RunConfig, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell { text, .. } => {
            let mut words = shell(config);
            words.push(text.clone());
            words
        }
    }
}

/// What reads commands that are one text: SHELL's words, or `/bin/sh -c`.
pub fn shell(config: &RunConfig) -> Vec<String> {
    match &config.shell {
        Some(words) if !words.is_empty() => words.clone(),
        _ => vec!["/bin/sh".into(), "-c".into()],
    }
}

fn expand_pairs(
    pairs: &[Pair],
    expander: &Expander<'_>,
    keys_too: bool,
) -> Result<Vec<(String, String)>, Wrong> {
    let expand = |word: &str| expander.text(word).map_err(|m| Wrong::at(word, m));
    let one = |pair: &Pair| {
        let has_more = keys_too || pair.key.contains(['"', '\'', '$']);
        let key = if has_more { expand(&pair.key)? } else { pair.key.clone() };
        if key.is_empty() {
            return Err(Wrong::at(&pair.key, "names can not be blank"));
        }
        Ok((key, expand(&pair.value)?))
    };
    pairs.iter().map(one).collect()
}

/// A path that may be relative to the directory before it.
fn join(base: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("/{base}/{path}")) }
}

/// Go's `%q` of a list of strings.
fn go_strings(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| Value::String(w.clone()).to_string()).collect();
    format!("[{}]", quoted.join(" "))
}

/// A shell of the image's own is the container's to put in front, when the check runs.
fn health_document(health: &HealthCheck) -> Value {
    let test = match &health.command {
        None => vec!["NONE".to_string()],
        Some(Command::Shell { text, .. }) => vec!["CMD-SHELL".into(), text.clone()],
        Some(Command::Exec(words)) => {
            std::iter::once("CMD".to_string()).chain(words.iter().cloned()).collect()
        }
    };
    let mut out = json!({ "Test": test });
    for (name, value) in [
        ("Interval", health.interval_ns),
        ("Timeout", health.timeout_ns),
        ("StartPeriod", health.start_period_ns),
        ("StartInterval", health.start_interval_ns),
        ("Retries", health.retries),
    ] {
        if value != 0 {
            out[name] = json!(value);
        }
    }
    out
}

/// `80`, `80-82/udp`, `127.0.0.1:8080:80`: the ports inside, with their protocol.
fn expose(text: &str) -> Result<Vec<String>, String> {
    let invalid = || format!("invalid containerPort: {text}");
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    let ports = address.rsplit(':').next().unwrap_or_default();
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(invalid);
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let check = |text: &str, want: Option<&[&str]>| {
            let want = want.map(|w| w.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(expose(text).ok(), want, "{text}");
        };
        check("80", Some(&["80/tcp"]));
        check("80-81/UDP", Some(&["80/udp", "81/udp"]));
        check("127.0.0.1:8080:80", Some(&["80/tcp"]));
        for bad in ["", "x", "80/x", "2-1", "65536", "0"] {
            check(bad, None);
        }
    }

    #[test]
    fn directories_are_joined() {
        let check = |base: &str, path: &str, want: &str| assert_eq!(join(base, path), want, "{base} {path}");
        check("", "a", "/a");
        check("/a", "b/../c", "/a/c");
        check("/a", "/b", "/b");
        check("/a", "../../..", "/");
        check("a", "b", "/a/b");
    }
}
