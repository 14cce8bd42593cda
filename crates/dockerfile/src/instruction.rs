//! One logical line to one typed instruction.

use crate::error::Error;
use crate::flags::{self, Flags};
use crate::health::{self, HealthCheck};
use crate::heredoc::Heredoc;
use crate::line::Line;
use crate::suggest::suggest;
use crate::words::{json_strings, raw_words, split_first};

/// All instructions, as they are best written.
pub(crate) const NAMES: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub kind: Kind,
    /// The name as it was written.
    pub name: String,
    /// The whole line, continuations joined.
    pub text: String,
    /// First and last line, from 1.
    pub lines: (u32, u32),
    /// Comments directly above.
    pub comments: Vec<String>,
    pub(crate) has_empty_continuation: bool,
}

/// What an instruction says. Texts are words as written: quotes and variables are the [`Expander`](crate::Expander)'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    From {
        image: String,
        platform: Option<String>,
        alias: Option<String>,
        alias_word: Option<String>,
    },
    Run(Run),
    Copy(Copy),
    Add(Copy),
    Arg(Vec<Arg>),
    Env(Vec<Pair>),
    Label(Vec<Pair>),
    Maintainer(String),
    Cmd(Command),
    Entrypoint(Command),
    Expose(Vec<String>),
    Volume(Vec<String>),
    User(String),
    Workdir(String),
    Shell(Vec<String>),
    StopSignal(String),
    HealthCheck(HealthCheck),
    /// The trigger, with the here-documents of its lines.
    OnBuild {
        trigger: String,
        heredocs: Vec<Heredoc>,
    },
}

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For a shell.
    Shell { text: String, heredocs: Vec<Heredoc> },
    /// Words as they are.
    Exec(Vec<String>),
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    /// Values of `--mount`, for [`Mount::parse`](crate::Mount::parse).
    pub mounts: Vec<String>,
    pub network: Option<String>,
    pub security: Option<String>,
    pub devices: Vec<String>,
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    pub sources: Vec<String>,
    /// Files whose content stands in the Dockerfile.
    pub heredocs: Vec<Heredoc>,
    pub destination: String,
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    pub checksum: Option<String>,
    pub keep_git_dir: Option<bool>,
    pub unpack: Option<bool>,
}

/// One name of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    pub name: String,
    pub default: Option<String>,
}

/// One pair of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: String,
    /// Written as `key value`.
    pub is_legacy: bool,
}

impl Instruction {
    /// Reads one instruction from the text of an ONBUILD trigger.
    ///
    /// # Errors
    ///
    /// As for a whole file.
    pub fn parse_trigger(text: &str, heredocs: &[Heredoc], escape: char) -> Result<Instruction, Error> {
        let line = Line {
            text: text.trim().to_string(),
            lines: (0, 0),
            heredocs: heredocs.to_vec(),
            comments: Vec::new(),
            has_empty_continuation: false,
        };
        parse(&line, escape)
    }
}

/// What a line is read with.
struct Source<'a> {
    name: &'a str,
    upper: String,
    rest: &'a str,
    flags: Flags,
    line: &'a Line,
    escape: char,
}

impl Source<'_> {
    fn fail(&self, message: impl Into<String>) -> Error {
        Error::at(self.line.lines, self.name, message)
    }

    fn at_least_one(&self) -> Error {
        self.fail(format!("{} requires at least one argument", self.upper))
    }

    fn no_flags(&self) -> Result<(), Error> {
        self.flags.only(&self.upper, &[])
    }

    /// All that follows, as one argument.
    fn whole(&self) -> Result<String, Error> {
        if self.rest.is_empty() {
            return Err(self.fail(format!("{} requires exactly one argument", self.upper)));
        }
        Ok(self.rest.to_string())
    }

    /// JSON, or words between blanks.
    fn list(&self) -> Vec<String> {
        json_strings(self.rest).unwrap_or_else(|| self.rest.split_whitespace().map(str::to_string).collect())
    }

    fn command(&self) -> Result<Command, Error> {
        match json_strings(self.rest) {
            Some(words) => Ok(Command::Exec(words)),
            None if self.rest.is_empty() => Err(self.at_least_one()),
            None => Ok(Command::Shell { text: self.rest.to_string(), heredocs: self.line.heredocs.clone() }),
        }
    }

    fn pairs(&self) -> Result<Vec<Pair>, Error> {
        let words = raw_words(self.rest, self.escape);
        let first = words.first().ok_or_else(|| self.at_least_one())?;
        if !first.contains('=') {
            let (key, value) = split_first(self.rest);
            if value.is_empty() {
                return Err(self.fail(format!("{} must have two arguments", self.upper)));
            }
            return Ok(vec![Pair { key: key.to_string(), value: value.to_string(), is_legacy: true }]);
        }
        words.iter().map(|word| self.pair(word)).collect()
    }

    fn pair(&self, word: &str) -> Result<Pair, Error> {
        let Some((key, value)) = word.split_once('=') else {
            let message = format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value");
            return Err(Error::at(self.line.lines, word, message));
        };
        if key.is_empty() {
            return Err(Error::at(self.line.lines, word, format!("{} names can not be blank", self.upper)));
        }
        Ok(Pair { key: key.to_string(), value: value.to_string(), is_legacy: false })
    }
}

/// Reads one line.
pub(crate) fn parse(line: &Line, escape: char) -> Result<Instruction, Error> {
    let (name, args) = split_first(&line.text);
    let upper = name.to_uppercase();
    if !NAMES.contains(&upper.as_str()) {
        let hint = suggest(&upper, NAMES.iter().copied())
            .map(|s| format!(" (did you mean {s}?)"))
            .unwrap_or_default();
        return Err(Error::at(line.lines, name, format!("unknown instruction: {upper}{hint}")));
    }
    let (flags, rest) = flags::split(args, line.lines, escape);
    let source = Source { name, upper, rest, flags, line, escape };
    let kind = kind(&source)?;
    Ok(Instruction {
        kind,
        name: name.to_string(),
        text: line.text.clone(),
        lines: line.lines,
        comments: line.comments.clone(),
        has_empty_continuation: line.has_empty_continuation,
    })
}

fn kind(s: &Source<'_>) -> Result<Kind, Error> {
    match s.upper.as_str() {
        "RUN" => run(s).map(Kind::Run),
        "COPY" => copy(s, COPY_FLAGS).map(Kind::Copy),
        "ADD" => copy(s, ADD_FLAGS).map(Kind::Add),
        "FROM" => from(s),
        "HEALTHCHECK" => health::parse(&s.flags, s.rest, s.line.lines).map(Kind::HealthCheck),
        other => {
            s.no_flags()?;
            match other {
                "ARG" => arg(s),
                "ENV" => s.pairs().map(Kind::Env),
                "LABEL" => s.pairs().map(Kind::Label),
                "MAINTAINER" => s.whole().map(Kind::Maintainer),
                "CMD" => s.command().map(Kind::Cmd),
                "ENTRYPOINT" => s.command().map(Kind::Entrypoint),
                "EXPOSE" => {
                    not_empty(s, s.rest.split_whitespace().map(str::to_string).collect()).map(Kind::Expose)
                }
                "VOLUME" => volume(s),
                "USER" => s.whole().map(Kind::User),
                "WORKDIR" => s.whole().map(Kind::Workdir),
                "STOPSIGNAL" => s.whole().map(Kind::StopSignal),
                "SHELL" => shell(s),
                "ONBUILD" => on_build(s),
                _ => unreachable!("every name of NAMES is above"),
            }
        }
    }
}

fn not_empty(s: &Source<'_>, words: Vec<String>) -> Result<Vec<String>, Error> {
    if words.is_empty() { Err(s.at_least_one()) } else { Ok(words) }
}

fn from(s: &Source<'_>) -> Result<Kind, Error> {
    s.flags.only("FROM", &["platform"])?;
    let words: Vec<&str> = s.rest.split_whitespace().collect();
    let (image, alias, alias_word) = match words.as_slice() {
        [image] => (*image, None, None),
        [image, word, alias] if word.eq_ignore_ascii_case("as") => {
            (*image, Some(*alias), Some(word.to_string()))
        }
        _ => return Err(s.fail("FROM requires either one or three arguments")),
    };
    if let Some(alias) = alias {
        let lower = alias.to_lowercase();
        let good = lower.starts_with(|c: char| c.is_ascii_lowercase())
            && lower.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
        if !good {
            let message = format!(
                "invalid name for build stage: {alias:?}, name can't start with a number or contain symbols"
            );
            return Err(Error::at(s.line.lines, alias, message));
        }
    }
    let platform = s.flags.one("platform")?;
    Ok(Kind::From { image: image.to_string(), platform, alias: alias.map(str::to_string), alias_word })
}

fn run(s: &Source<'_>) -> Result<Run, Error> {
    s.flags.only("RUN", &["mount", "network", "security", "device"])?;
    let command = s.command()?;
    if command == Command::Exec(Vec::new()) {
        return Err(s.at_least_one());
    }
    let network = s.flags.one("network")?;
    if let Some(other) = network.as_deref().filter(|n| !["default", "none", "host"].contains(n)) {
        let message = format!("unsupported network mode: {other:?}: want default, none or host");
        return Err(Error::at(s.line.lines, "--network", message));
    }
    let security = s.flags.one("security")?;
    if let Some(other) = security.as_deref().filter(|n| !["sandbox", "insecure"].contains(n)) {
        let message = format!("security {other:?} is not valid: want sandbox or insecure");
        return Err(Error::at(s.line.lines, "--security", message));
    }
    let mounts = s.flags.all("mount")?;
    for mount in &mounts {
        // What has variables can be judged only when they have values.
        if !mount.contains('$') {
            crate::mount::Mount::parse(mount, &|word| Ok(word.to_string()))
                .map_err(|message| Error::at(s.line.lines, mount.as_str(), message))?;
        }
    }
    Ok(Run { command, mounts, network, security, devices: s.flags.all("device")? })
}

const COPY_FLAGS: &[&str] = &["from", "chown", "chmod", "link", "parents", "exclude"];
const ADD_FLAGS: &[&str] = &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"];

fn copy(s: &Source<'_>, flags: &[&str]) -> Result<Copy, Error> {
    s.flags.only(&s.upper, flags)?;
    let mut words = s.list();
    let Some(destination) = words.pop() else { return Err(s.at_least_one()) };
    if words.is_empty() {
        let message = format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined",
            s.upper
        );
        return Err(s.fail(message));
    }
    let mut heredocs = Vec::new();
    if !s.line.heredocs.is_empty() {
        if Heredoc::parse(&destination).is_some() {
            let message = format!("{} cannot accept a heredoc as a destination", s.upper);
            return Err(Error::at(s.line.lines, destination, message));
        }
        words.retain(|word| Heredoc::parse(word).is_none());
        heredocs.clone_from(&s.line.heredocs);
    }
    let from = s.flags.one("from")?;
    if let Some(from) = from.as_deref().filter(|f| f.contains('$')) {
        let message =
            format!("--from={from}: variables are not expanded here; name a stage with FROM {from} AS name");
        return Err(Error::at(s.line.lines, "--from", message));
    }
    let checksum = s.flags.one("checksum")?;
    if checksum.is_some() && words.len() + heredocs.len() > 1 {
        return Err(Error::at(
            s.line.lines,
            "--checksum",
            "checksum can't be specified for multiple sources",
        ));
    }
    Ok(Copy {
        sources: words,
        heredocs,
        destination,
        from,
        chown: s.flags.one("chown")?,
        chmod: s.flags.one("chmod")?,
        link: s.flags.boolean("link")?.unwrap_or(false),
        parents: s.flags.boolean("parents")?.unwrap_or(false),
        exclude: s.flags.all("exclude")?,
        checksum,
        keep_git_dir: s.flags.boolean("keep-git-dir")?,
        unpack: s.flags.boolean("unpack")?,
    })
}

fn arg(s: &Source<'_>) -> Result<Kind, Error> {
    let words = not_empty(s, raw_words(s.rest, s.escape))?;
    let args = words.iter().map(|word| {
        let (name, default) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (word.as_str(), None),
        };
        if name.is_empty() {
            return Err(Error::at(s.line.lines, word.as_str(), "ARG names can not be blank"));
        }
        Ok(Arg { name: name.to_string(), default })
    });
    args.collect::<Result<_, _>>().map(Kind::Arg)
}

fn volume(s: &Source<'_>) -> Result<Kind, Error> {
    let places = not_empty(s, s.list())?;
    if places.iter().any(|p| p.trim().is_empty()) {
        return Err(s.fail("VOLUME specified can not be an empty string"));
    }
    Ok(Kind::Volume(places))
}

fn shell(s: &Source<'_>) -> Result<Kind, Error> {
    match json_strings(s.rest) {
        Some(words) if !words.is_empty() => Ok(Kind::Shell(words)),
        Some(_) => Err(s.at_least_one()),
        None => Err(s.fail("SHELL requires the arguments to be in JSON form")),
    }
}

fn on_build(s: &Source<'_>) -> Result<Kind, Error> {
    if s.rest.is_empty() {
        return Err(s.at_least_one());
    }
    let (name, _) = split_first(s.rest);
    match name.to_uppercase().as_str() {
        "ONBUILD" => return Err(s.fail("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        other @ ("MAINTAINER" | "FROM") => {
            return Err(Error::at(
                s.line.lines,
                name,
                format!("{other} isn't allowed as an ONBUILD trigger"),
            ));
        }
        _ => {}
    }
    let trigger = s.rest.to_string();
    // A trigger that cannot be read is better found here than in the child.
    Instruction::parse_trigger(&trigger, &s.line.heredocs, s.escape)
        .map_err(|e| Error::at(s.line.lines, e.token, e.message))?;
    Ok(Kind::OnBuild { trigger, heredocs: s.line.heredocs.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line;

    fn parse_text(text: &str) -> Result<Kind, String> {
        let (directives, lines) = line::read(text).map_err(|e| e.message)?;
        let line = lines.first().ok_or("no line")?;
        parse(line, directives.escape).map(|i| i.kind).map_err(|e| e.message)
    }

    fn check(text: &str, want: Kind) {
        assert_eq!(parse_text(text), Ok(want), "{text}");
    }

    fn refused(text: &str, want: &str) {
        let error = parse_text(text).expect_err(text);
        assert!(error.contains(want), "{text}: {error}");
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn shell(text: &str) -> Command {
        Command::Shell { text: text.into(), heredocs: vec![] }
    }

    #[test]
    fn from_and_arg() {
        let from =
            |image: &str, platform: Option<&str>, alias: Option<&str>, word: Option<&str>| Kind::From {
                image: image.into(),
                platform: platform.map(Into::into),
                alias: alias.map(Into::into),
                alias_word: word.map(Into::into),
            };
        check("FROM a:b", from("a:b", None, None, None));
        check("from --platform=$P a as B-1.x", from("a", Some("$P"), Some("B-1.x"), Some("as")));
        refused("FROM", "either one or three");
        refused("FROM a b c", "either one or three");
        refused("FROM a AS 1x", "invalid name for build stage");
        refused("FROM --plat=x a", "unknown flag: --plat");
        let arg =
            |name: &str, default: Option<&str>| Arg { name: name.into(), default: default.map(Into::into) };
        check(
            "ARG a b=\"c d\" e=",
            Kind::Arg(vec![arg("a", None), arg("b", Some("\"c d\"")), arg("e", Some(""))]),
        );
        refused("ARG", "at least one argument");
        refused("ARG =x", "can not be blank");
    }

    #[test]
    fn commands() {
        check("CMD a b", Kind::Cmd(shell("a b")));
        check("CMD [\"a\", \"b\"]", Kind::Cmd(Command::Exec(strings(&["a", "b"]))));
        check("CMD []", Kind::Cmd(Command::Exec(vec![])));
        check("ENTRYPOINT ['a']", Kind::Entrypoint(shell("['a']")));
        refused("CMD", "CMD requires at least one argument");
        refused("RUN", "RUN requires at least one argument");
        refused("RUN []", "RUN requires at least one argument");
        check("SHELL [\"a\", \"-c\"]", Kind::Shell(strings(&["a", "-c"])));
        refused("SHELL a", "JSON form");
        refused("SHELL []", "at least one");
    }

    #[test]
    fn run_has_flags_and_heredocs() {
        let Ok(Kind::Run(run)) =
            parse_text("RUN --mount=type=tmpfs,target=/t --network=none --security=insecure a b")
        else {
            panic!("no RUN")
        };
        assert_eq!(
            (run.mounts.len(), run.network.as_deref(), run.security.as_deref()),
            (1, Some("none"), Some("insecure"))
        );
        assert_eq!(run.command, shell("a b"));
        let Ok(Kind::Run(run)) = parse_text("RUN <<EOF\na\nEOF") else { panic!("no RUN") };
        let Command::Shell { text, heredocs } = run.command else { panic!("no shell") };
        assert_eq!((text.as_str(), heredocs[0].content.as_str()), ("<<EOF", "a\n"));
        refused("RUN --network=x a", "unsupported network mode");
        refused("RUN --security=x a", "not valid");
        refused("RUN --mount=type=x,target=/a b", "unsupported mount type");
        refused("RUN --mnt=a b", "did you mean mount");
        assert!(parse_text("RUN --mount=type=$x b").is_ok());
    }

    #[test]
    fn copy_and_add() {
        let Ok(Kind::Copy(copy)) = parse_text(
            "COPY --from=a --chown=1:2 --chmod=u=rwX --link --parents=false --exclude=*.o --exclude=b x y/ z",
        ) else {
            panic!("no COPY")
        };
        assert_eq!((copy.sources, copy.destination.as_str()), (strings(&["x", "y/"]), "z"));
        assert_eq!((copy.from.as_deref(), copy.link, copy.parents), (Some("a"), true, false));
        assert_eq!((copy.chmod.as_deref(), copy.exclude), (Some("u=rwX"), strings(&["*.o", "b"])));
        let Ok(Kind::Copy(copy)) = parse_text("COPY [\"a b\", \"c d\"]") else { panic!("no COPY") };
        assert_eq!((copy.sources, copy.destination.as_str()), (strings(&["a b"]), "c d"));
        let Ok(Kind::Add(add)) = parse_text("ADD --checksum=sha256:a --unpack --keep-git-dir=true u /")
        else {
            panic!("no ADD")
        };
        assert_eq!(
            (add.checksum.as_deref(), add.unpack, add.keep_git_dir),
            (Some("sha256:a"), Some(true), Some(true))
        );
        let Ok(Kind::Copy(copy)) = parse_text("COPY a <<b <<'c' /d/\nx\nb\ny\nc") else { panic!("no COPY") };
        assert_eq!((copy.sources, copy.heredocs.len()), (strings(&["a"]), 2));
        refused("COPY a", "only one was provided");
        refused("COPY", "at least one");
        refused("COPY --from=$x a b", "variables are not expanded");
        refused("COPY --checksum=x a b", "unknown flag");
        refused("ADD --from=x a b", "unknown flag");
        refused("ADD --checksum=sha256:x a b /", "multiple sources");
        refused("COPY a <<b\nb", "heredoc as a destination");
    }

    #[test]
    fn pairs() {
        let pair =
            |key: &str, value: &str, is_legacy| Pair { key: key.into(), value: value.into(), is_legacy };
        check("ENV a=b c=\"d e\"", Kind::Env(vec![pair("a", "b", false), pair("c", "\"d e\"", false)]));
        check("ENV a b  c", Kind::Env(vec![pair("a", "b  c", true)]));
        check("LABEL \"a b\"=c", Kind::Label(vec![pair("\"a b\"", "c", false)]));
        refused("ENV a=b c", "can't find =");
        refused("ENV a", "must have two arguments");
        refused("ENV =b", "names can not be blank");
        refused("ENV", "at least one");
        refused("ENV --x=y a=b", "unknown flag: --x");
    }

    #[test]
    fn the_rest() {
        check("EXPOSE 80 90/udp $x", Kind::Expose(strings(&["80", "90/udp", "$x"])));
        check("VOLUME [\"/a b\"]", Kind::Volume(strings(&["/a b"])));
        check("VOLUME /a /b", Kind::Volume(strings(&["/a", "/b"])));
        check("USER a:b", Kind::User("a:b".into()));
        check("WORKDIR a b", Kind::Workdir("a b".into()));
        check("STOPSIGNAL SIGTERM", Kind::StopSignal("SIGTERM".into()));
        check("MAINTAINER a b <c>", Kind::Maintainer("a b <c>".into()));
        check("ONBUILD RUN a", Kind::OnBuild { trigger: "RUN a".into(), heredocs: vec![] });
        refused("ONBUILD ONBUILD RUN a", "Chaining");
        refused("ONBUILD from a", "FROM isn't allowed");
        refused("ONBUILD NONSENSE a", "unknown instruction");
        refused("VOLUME [\"\"]", "empty string");
        refused("USER", "exactly one argument");
        refused("FRM a", "unknown instruction: FRM (did you mean FROM?)");
    }

    #[test]
    fn health_checks() {
        let Ok(Kind::HealthCheck(health)) = parse_text(
            "HEALTHCHECK --interval=1m --timeout=3s --start-period=1s --start-interval=5s --retries=3 CMD a b",
        ) else {
            panic!("no HEALTHCHECK")
        };
        assert_eq!((health.interval_ns, health.retries), (60_000_000_000, 3));
        assert_eq!(health.command, Some(shell("a b")));
        let Ok(Kind::HealthCheck(health)) = parse_text("HEALTHCHECK none") else { panic!("no HEALTHCHECK") };
        assert_eq!(health.command, None);
        refused("HEALTHCHECK CMD", "Missing command");
        refused("HEALTHCHECK NONE x", "takes no arguments");
        refused("HEALTHCHECK x", "try CMD");
        refused("HEALTHCHECK --interval=1us CMD a", "less than 1ms");
        refused("HEALTHCHECK --retries=-1 CMD a", "negative");
        refused("HEALTHCHECK --interval=x CMD a", "invalid duration");
    }
}
