//! The build checks: what is allowed and better written otherwise. Names and rules are Docker's.

use crate::expand::Expander;
use crate::file::{Dockerfile, Stage};
use crate::ignore::{Ignore, Verdict};
use crate::instruction::{Command, Instruction, Kind};
use crate::line::Checks;
use crate::suggest::suggest;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A rule by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub rule: Rule,
    /// What is the matter here.
    pub detail: String,
    /// First and last line.
    pub lines: (u32, u32),
}

impl Rule {
    /// What the rule wants.
    pub fn description(self) -> &'static str {
        match self {
            Rule::StageNameCasing => "Stage names should be lowercase",
            Rule::FromAsCasing => "The 'as' keyword should match the case of the 'from' keyword",
            Rule::NoEmptyContinuation => "Empty continuation lines will become errors in a future release",
            Rule::ConsistentInstructionCasing => {
                "All commands within the Dockerfile should use the same casing (either upper or lower)"
            }
            Rule::DuplicateStageName => "Stage names should be unique",
            Rule::ReservedStageName => "Reserved words should not be used as stage names",
            Rule::JSONArgsRecommended => {
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
            }
            Rule::MaintainerDeprecated => {
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
            }
            Rule::UndefinedArgInFrom => "FROM command must use declared ARGs",
            Rule::WorkdirRelativePath => {
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if \
                 the base image changes"
            }
            Rule::UndefinedVar => "Variables should be defined before their use",
            Rule::MultipleInstructionsDisallowed => {
                "Multiple instructions of the same type should not be used in the same stage"
            }
            Rule::LegacyKeyValueFormat => {
                "Legacy key/value format with whitespace separator should not be used"
            }
            Rule::InvalidBaseImagePlatform => "Base image platform does not match expected target platform",
            Rule::RedundantTargetPlatform => {
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
            }
            Rule::SecretsUsedInArgOrEnv => "Sensitive data should not be used in the ARG or ENV commands",
            Rule::InvalidDefaultArgInFrom => {
                "Default value for global ARG results in an empty or invalid base image name"
            }
            Rule::FromPlatformFlagConstDisallowed => "FROM --platform flag should not use a constant value",
            Rule::CopyIgnoredFile => "Attempting to Copy file that is excluded by .dockerignore",
            Rule::InvalidDefinitionDescription => {
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If \
                 this is not intended to be a description comment, add an empty line or comment between the \
                 instruction and the comment."
            }
            Rule::ExposeProtoCasing => "Protocol in EXPOSE instruction should be lowercase",
            Rule::ExposeInvalidFormat => {
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error \
                 in a future release"
            }
        }
    }

    /// Docker's name of the rule.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// Where Docker explains it; empty where no page exists.
    pub fn url(self) -> String {
        if self == Rule::InvalidBaseImagePlatform {
            return String::new();
        }
        let mut page = String::new();
        let name = self.name().replace("JSON", "Json");
        for c in name.chars() {
            if c.is_ascii_uppercase() && !page.is_empty() {
                page.push('-');
            }
            page.push(c.to_ascii_lowercase());
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{page}/")
    }

    fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }
}

/// What is known to every stage without being declared.
const PREDEFINED: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What FROM knows without being declared.
const PLATFORM_ARGS: &[&str] = &[
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETSTAGE",
];

/// Names that shells set by themselves, and the one that every image gets.
const SHELL_VARIABLES: &[&str] = &["PATH"];

/// Checks what can be seen in the file alone, in the order of its lines.
pub fn check(file: &Dockerfile) -> Vec<Warning> {
    let mut checker = Checker { file, out: Vec::new(), declared: BTreeSet::new(), envs: HashMap::new() };
    checker.whole_file();
    checker.globals();
    for index in 0..file.stages.len() {
        checker.stage(index);
    }
    let mut out = checker.out;
    keep_wanted(file, &mut out);
    out.sort_by_key(|w| w.lines);
    out
}

/// Checks what needs the context's ignore patterns too: files that are named and not sent.
pub fn check_ignored(file: &Dockerfile, ignore: &Ignore) -> Vec<Warning> {
    let mut out = Vec::new();
    if ignore.is_empty() {
        return out;
    }
    for instruction in file.stages.iter().flat_map(|s| &s.instructions) {
        let (copy, word) = match &instruction.kind {
            Kind::Copy(copy) => (copy, "Copy"),
            Kind::Add(copy) => (copy, "Add"),
            _ => continue,
        };
        // What a variable or a pattern comes to is not known here, and what is elsewhere is nobody's to ignore.
        let is_plain = |s: &&String| !s.contains(['$', '*', '?', '[', ':']);
        for source in copy.sources.iter().filter(is_plain).filter(|_| copy.from.is_none()) {
            let path = source.trim_start_matches("./").trim_matches('/');
            if !path.is_empty() && ignore.judge(path, false) == Verdict::Ignored {
                let detail =
                    format!("Attempting to {word} file {source:?} that is excluded by .dockerignore");
                out.push(Warning { rule: Rule::CopyIgnoredFile, detail, lines: instruction.lines });
            }
        }
    }
    keep_wanted(file, &mut out);
    out
}

/// Checks one stage's base image against the platform that is built for.
pub fn check_base_platform(
    file: &Dockerfile,
    stage: &Stage,
    image: &str,
    found: &str,
    expected: &str,
) -> Option<Warning> {
    let detail = format!(
        "Base image {image} was pulled with platform {found:?}, expected {expected:?} for current build"
    );
    let mut out = vec![Warning { rule: Rule::InvalidBaseImagePlatform, detail, lines: stage.head.lines }];
    keep_wanted(file, &mut out);
    out.pop()
}

/// Leaves what the file's directives, and those in the comments above an instruction, want to be told of.
fn keep_wanted(file: &Dockerfile, warnings: &mut Vec<Warning>) {
    let own = own_checks(file);
    warnings.retain(|warning| match own.get(&warning.lines) {
        Some(own) => is_wanted(&file.directives.checks.merged(own), warning.rule),
        None => is_wanted(&file.directives.checks, warning.rule),
    });
}

fn is_wanted(checks: &Checks, rule: Rule) -> bool {
    let named = |names: &[String]| names.iter().any(|n| n.eq_ignore_ascii_case(&rule.name()));
    if rule.is_experimental() && !checks.experimental_all && !named(&checks.experimental) {
        return false;
    }
    !checks.skip_all && !named(&checks.skip)
}

/// What `# check=...` directly above instructions says, by their lines. What is not understood there is a comment.
fn own_checks(file: &Dockerfile) -> HashMap<(u32, u32), Checks> {
    let stages = file.stages.iter().flat_map(|s| std::iter::once(&s.head).chain(&s.instructions));
    let mut out: HashMap<(u32, u32), Checks> = HashMap::new();
    for instruction in file.global.iter().chain(stages) {
        for comment in &instruction.comments {
            let Some((key, value)) = comment.split_once('=') else { continue };
            if key.trim().eq_ignore_ascii_case("check")
                && let Ok(checks) = Checks::parse(value)
            {
                let known = out.entry(instruction.lines).or_default();
                *known = known.merged(&checks);
            }
        }
    }
    out
}

struct Checker<'a> {
    file: &'a Dockerfile,
    out: Vec<Warning>,
    /// Global ARGs.
    declared: BTreeSet<String>,
    /// What each stage knows at its end, for the stages that start from it. `None`: an image whose variables are not
    /// known here.
    envs: HashMap<usize, Known>,
}

/// Variables known in a stage.
#[derive(Clone, Default)]
struct Known {
    names: BTreeSet<String>,
    has_absolute_workdir: bool,
    /// A shell was chosen: who does that means the shell form.
    has_shell: bool,
}

impl Checker<'_> {
    fn warn(&mut self, rule: Rule, lines: (u32, u32), detail: String) {
        self.out.push(Warning { rule, detail, lines });
    }

    fn whole_file(&mut self) {
        let stages = self.file.stages.iter();
        let all: Vec<&Instruction> = self
            .file
            .global
            .iter()
            .chain(stages.flat_map(|s| std::iter::once(&s.head).chain(&s.instructions)))
            .collect();
        let is_lower = |i: &Instruction| i.name == i.name.to_lowercase();
        let is_upper = |i: &Instruction| i.name == i.name.to_uppercase();
        let lower = all.iter().filter(|i| is_lower(i)).count();
        let upper = all.iter().filter(|i| is_upper(i)).count();
        let want_lower = lower > upper;
        for instruction in all {
            let lines = instruction.lines;
            if instruction.has_empty_continuation {
                let detail = format!("Empty continuation line found in: {}", instruction.text);
                self.warn(Rule::NoEmptyContinuation, lines, detail);
            }
            let good = if want_lower { is_lower(instruction) } else { is_upper(instruction) };
            if !good {
                let majority = if want_lower { "lowercase" } else { "uppercase" };
                let name = &instruction.name;
                let detail =
                    format!("Command '{name}' should match the case of the command majority ({majority})");
                self.warn(Rule::ConsistentInstructionCasing, lines, detail);
            }
        }
    }

    fn globals(&mut self) {
        for instruction in &self.file.global {
            let Kind::Arg(args) = &instruction.kind else { continue };
            for arg in args {
                self.secret("ARG", &arg.name, instruction.lines);
                self.declared.insert(arg.name.clone());
            }
            self.description(instruction, args.first().map_or("", |a| &a.name), "ARG");
        }
    }

    fn description(&mut self, instruction: &Instruction, name: &str, what: &str) {
        let Some(comment) = instruction.comments.last() else { return };
        let is_directive = ["syntax", "escape", "check"]
            .iter()
            .any(|d| comment.split_once('=').is_some_and(|(k, _)| k.trim().eq_ignore_ascii_case(d)));
        if name.is_empty() || is_directive || comment.split_whitespace().next() == Some(name) {
            return;
        }
        let detail = format!("Comment for {what} should follow the format: `# {name} <description>`");
        self.warn(Rule::InvalidDefinitionDescription, instruction.lines, detail);
    }

    fn stage(&mut self, index: usize) {
        let stage = &self.file.stages[index];
        self.head(index, stage);
        let parent = self.file.stage_before(index, &stage.from.image);
        let mut known = parent.and_then(|p| self.envs.get(&p).cloned()).unwrap_or_default();
        known.names.extend(PREDEFINED.iter().chain(SHELL_VARIABLES).map(ToString::to_string));
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        for instruction in &stage.instructions {
            self.instruction(instruction, &mut known);
            let name = match &instruction.kind {
                Kind::Cmd(_) => "CMD",
                Kind::Entrypoint(_) => "ENTRYPOINT",
                Kind::HealthCheck(_) => "HEALTHCHECK",
                _ => continue,
            };
            *seen.entry(name).or_default() += 1;
        }
        for instruction in &stage.instructions {
            let name = match &instruction.kind {
                Kind::Cmd(_) => "CMD",
                Kind::Entrypoint(_) => "ENTRYPOINT",
                Kind::HealthCheck(_) => "HEALTHCHECK",
                _ => continue,
            };
            // All but the last.
            if let Some(count) = seen.get_mut(name).filter(|c| **c > 1) {
                *count -= 1;
                let detail = format!(
                    "Multiple {name} instructions should not be used in the same stage because only the last one will be \
                     used"
                );
                self.warn(Rule::MultipleInstructionsDisallowed, instruction.lines, detail);
            }
        }
        self.envs.insert(index, known);
    }

    fn head(&mut self, index: usize, stage: &Stage) {
        let lines = stage.head.lines;
        if let Some((alias, word)) = &stage.from.alias {
            if *alias != alias.to_lowercase() {
                self.warn(Rule::StageNameCasing, lines, format!("Stage name '{alias}' should be lowercase"));
            }
            let cases = |text: &str| (text == text.to_lowercase(), text == text.to_uppercase());
            if cases(word) != cases(&stage.head.name) {
                let detail = format!("'{word}' and '{}' keywords' casing do not match", stage.head.name);
                self.warn(Rule::FromAsCasing, lines, detail);
            }
            let lower = alias.to_lowercase();
            if ["context", "scratch"].contains(&lower.as_str()) {
                let detail = format!("Stage name should not use the same name as reserved stage {lower:?}");
                self.warn(Rule::ReservedStageName, lines, detail);
            }
            if self.file.stages[..index].iter().any(|s| s.name.as_deref() == Some(lower.as_str())) {
                let detail = format!("Duplicate stage name {lower:?}, stage names should be unique");
                self.warn(Rule::DuplicateStageName, lines, detail);
            }
            self.description(&stage.head, alias, "FROM");
        }
        if let Some(platform) = &stage.from.platform {
            let name = platform.trim_start_matches('$').trim_matches(['{', '}']);
            if !platform.contains('$') {
                let detail = format!("FROM --platform flag should not use constant value {platform:?}");
                self.warn(Rule::FromPlatformFlagConstDisallowed, lines, detail);
            } else if name == "TARGETPLATFORM" {
                let detail = format!(
                    "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
                );
                self.warn(Rule::RedundantTargetPlatform, lines, detail);
            }
        }
        self.arguments_of_from(stage);
    }

    fn arguments_of_from(&mut self, stage: &Stage) {
        let lines = stage.head.lines;
        let escape = self.file.directives.escape;
        let known: BTreeMap<String, Option<String>> =
            self.file.global_args().map(|a| (a.name.clone(), a.default.clone())).collect();
        let words = [Some(&stage.from.image), stage.from.platform.as_ref()];
        for word in words.into_iter().flatten() {
            let lookup = |name: &str| {
                (known.contains_key(name) || PLATFORM_ARGS.contains(&name)).then(|| "x".to_string())
            };
            for name in Expander::new(escape, &lookup).expand(word).map(|e| e.missing).unwrap_or_default() {
                let candidates = known.keys().map(String::as_str).chain(PLATFORM_ARGS.iter().copied());
                let hint =
                    suggest(&name, candidates).map(|s| format!(" (did you mean {s}?)")).unwrap_or_default();
                let detail = format!("FROM argument '{name}' is not declared{hint}");
                self.warn(Rule::UndefinedArgInFrom, lines, detail);
            }
        }
        if stage.from.image.contains('$') {
            let defaults = |name: &str| {
                let default = known.get(name)?.clone()?;
                Some(default.trim_matches(['"', '\'']).to_string())
            };
            let platform = |name: &str| PLATFORM_ARGS.contains(&name).then(|| "x".to_string());
            let lookup = |name: &str| defaults(name).or_else(|| platform(name));
            let image = Expander::new(escape, &lookup).text(&stage.from.image).unwrap_or_default();
            let is_bad =
                image.is_empty() || image.ends_with([':', '/', '@']) || image.starts_with([':', '/']);
            if is_bad || image.contains("//") || image.contains(char::is_whitespace) {
                let detail = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.from.image
                );
                self.warn(Rule::InvalidDefaultArgInFrom, lines, detail);
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction, known: &mut Known) {
        let lines = instruction.lines;
        self.undefined(instruction, known);
        match &instruction.kind {
            Kind::Shell(_) => known.has_shell = true,
            Kind::Cmd(Command::Shell { .. }) if !known.has_shell => self.json_recommended("CMD", lines),
            Kind::Entrypoint(Command::Shell { .. }) if !known.has_shell => {
                self.json_recommended("ENTRYPOINT", lines);
            }
            Kind::Maintainer(_) => {
                let detail = "Maintainer instruction is deprecated in favor of using label".to_string();
                self.warn(Rule::MaintainerDeprecated, lines, detail);
            }
            Kind::Workdir(path) if path.starts_with(['/', '$']) => known.has_absolute_workdir = true,
            Kind::Workdir(path) if !known.has_absolute_workdir => {
                let detail = format!(
                    "Relative workdir {path:?} can have unexpected results if the base image changes"
                );
                self.warn(Rule::WorkdirRelativePath, lines, detail);
            }
            Kind::Arg(args) => {
                for arg in args {
                    self.secret("ARG", &arg.name, lines);
                    known.names.insert(arg.name.clone());
                }
            }
            Kind::Env(pairs) => {
                for pair in pairs {
                    self.legacy("ENV", pair.is_legacy, lines);
                    self.secret("ENV", &pair.key, lines);
                    known.names.insert(pair.key.clone());
                }
            }
            Kind::Label(pairs) => pairs.iter().for_each(|p| self.legacy("LABEL", p.is_legacy, lines)),
            Kind::Expose(ports) => ports.iter().for_each(|p| self.port(p, lines)),
            _ => {}
        }
    }

    fn json_recommended(&mut self, name: &str, lines: (u32, u32)) {
        let detail = format!(
            "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
        );
        self.warn(Rule::JSONArgsRecommended, lines, detail);
    }

    fn legacy(&mut self, name: &str, is_legacy: bool, lines: (u32, u32)) {
        if is_legacy {
            let detail =
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
            self.warn(Rule::LegacyKeyValueFormat, lines, detail);
        }
    }

    fn port(&mut self, port: &str, lines: (u32, u32)) {
        if port.contains('$') {
            return;
        }
        let (address, protocol) = port.split_once('/').unwrap_or((port, ""));
        if protocol != protocol.to_lowercase() {
            let detail = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            self.warn(Rule::ExposeProtoCasing, lines, detail);
        }
        if address.contains(':') {
            let detail = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            );
            self.warn(Rule::ExposeInvalidFormat, lines, detail);
        }
    }

    fn undefined(&mut self, instruction: &Instruction, known: &Known) {
        let words: Vec<&str> = match &instruction.kind {
            Kind::Env(pairs) => pairs.iter().map(|p| p.value.as_str()).collect(),
            Kind::Label(pairs) => pairs.iter().flat_map(|p| [p.key.as_str(), p.value.as_str()]).collect(),
            Kind::Arg(args) => args.iter().filter_map(|a| a.default.as_deref()).collect(),
            Kind::Copy(copy) | Kind::Add(copy) => {
                let flags = [&copy.chown, &copy.chmod].into_iter().flatten();
                copy.sources.iter().chain([&copy.destination]).chain(flags).map(String::as_str).collect()
            }
            Kind::Expose(words) | Kind::Volume(words) => words.iter().map(String::as_str).collect(),
            Kind::User(word) | Kind::Workdir(word) | Kind::StopSignal(word) => vec![word],
            _ => return,
        };
        let escape = self.file.directives.escape;
        let lookup = |name: &str| known.names.contains(name).then(String::new);
        let mut missing = BTreeSet::new();
        for word in words {
            missing
                .extend(Expander::new(escape, &lookup).expand(word).map(|e| e.missing).unwrap_or_default());
        }
        for name in missing {
            // `ENV x=$x:y` speaks of the base image's, which is not known here.
            if matches!(&instruction.kind, Kind::Env(pairs) if pairs.iter().any(|p| p.key == name)) {
                continue;
            }
            let hint = suggest(&name, known.names.iter().map(String::as_str));
            let hint = hint.map(|s| format!(" (did you mean ${s}?)")).unwrap_or_default();
            let detail = format!("Usage of undefined variable '${name}'{hint}");
            self.warn(Rule::UndefinedVar, instruction.lines, detail);
        }
    }

    fn secret(&mut self, what: &str, name: &str, lines: (u32, u32)) {
        if looks_secret(name) {
            let detail = format!("Do not use ARG or ENV instructions for sensitive data ({what} {name:?})");
            self.warn(Rule::SecretsUsedInArgOrEnv, lines, detail);
        }
    }
}

/// Whether a part of the name, between `_`, says that it holds a secret.
fn looks_secret(name: &str) -> bool {
    const SECRET: &[&str] = &[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: &[&str] = &["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(SECRET) && !has(HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_rules(source: &str, want: &[Rule]) {
        let file = Dockerfile::parse("D", source).expect("good");
        let got: Vec<Rule> = check(&file).into_iter().map(|w| w.rule).collect();
        assert_eq!(got, want, "{source}");
    }

    #[test]
    fn every_rule_finds_its_case_and_no_other() {
        use Rule::*;
        check_rules("FROM a AS b\nRUN x", &[]);
        check_rules("FROM a AS Base", &[StageNameCasing]);
        check_rules("FROM a as b", &[FromAsCasing]);
        check_rules("FROM a\nRUN x \\\n\n y", &[NoEmptyContinuation]);
        check_rules("FROM a\nrun x\nCMD [\"y\"]", &[ConsistentInstructionCasing]);
        check_rules("from a\nrun x\nCMD [\"y\"]", &[ConsistentInstructionCasing]);
        check_rules("FROM a AS b\nFROM a AS b", &[DuplicateStageName]);
        check_rules("FROM a AS scratch", &[ReservedStageName]);
        check_rules("FROM a\nCMD x", &[JSONArgsRecommended]);
        check_rules("FROM a\nENTRYPOINT x", &[JSONArgsRecommended]);
        check_rules("FROM a\nMAINTAINER x", &[MaintainerDeprecated]);
        check_rules("FROM a:${x:-1}$y", &[UndefinedArgInFrom]);
        check_rules("FROM a\nWORKDIR b", &[WorkdirRelativePath]);
        check_rules("FROM a\nWORKDIR /b\nWORKDIR c", &[]);
        check_rules("FROM a\nENV y=$x", &[UndefinedVar]);
        check_rules("FROM a\nARG x\nCOPY $x $y", &[UndefinedVar]);
        check_rules("FROM a\nENV PATH=/x:$PATH LD=$LD", &[]);
        // Not that of the same instruction.
        check_rules("FROM a\nENV x=1\nENV y=$x", &[]);
        check_rules("FROM a\nCMD [\"x\"]\nCMD [\"y\"]", &[MultipleInstructionsDisallowed]);
        check_rules("FROM a\nENV x y", &[LegacyKeyValueFormat]);
        check_rules("FROM a\nLABEL x y", &[LegacyKeyValueFormat]);
        check_rules("FROM --platform=$TARGETPLATFORM a", &[RedundantTargetPlatform]);
        check_rules("FROM --platform=linux/amd64 a", &[FromPlatformFlagConstDisallowed]);
        check_rules("FROM --platform=$BUILDPLATFORM a", &[]);
        check_rules("FROM a\nARG API_TOKEN", &[SecretsUsedInArgOrEnv]);
        check_rules("FROM a\nENV PUBLIC_KEY=1 TOKEN_FILE=2 MONKEY=3", &[]);
        check_rules("ARG v\nFROM a:$v", &[InvalidDefaultArgInFrom]);
        check_rules("ARG v=1\nFROM a:$v", &[]);
        check_rules("FROM a\nEXPOSE 80/TCP", &[ExposeProtoCasing]);
        check_rules("FROM a\nEXPOSE 127.0.0.1:80:80", &[ExposeInvalidFormat]);
        check_rules("# check=experimental=all\n# x\nFROM a AS b", &[InvalidDefinitionDescription]);
        check_rules("# x\nFROM a AS b", &[]);
    }

    /// What is next to a finding and none.
    #[test]
    fn every_rule_leaves_what_is_right() {
        for good in [
            "FROM a AS base-1",
            "from a as b\nrun x",
            "FROM a\nRUN x \\\n# comment\n y",
            "FROM a\nRUN x\nCMD [\"y\"]",
            "FROM a AS b\nFROM a AS c",
            "FROM a AS scratchy",
            "FROM a\nCMD [\"x\"]\nENTRYPOINT [\"y\"]",
            "FROM a\nSHELL [\"/bin/bash\", \"-c\"]\nCMD x",
            "FROM a AS s\nSHELL [\"/bin/bash\", \"-c\"]\nFROM s\nENTRYPOINT x",
            "FROM a\nLABEL maintainer=x",
            "ARG x=1\nFROM a:$x",
            "FROM a\nWORKDIR /b\nFROM a\nWORKDIR $x/c\nARG x",
            "FROM a\nARG x=1\nENV y=$x z=${u:-1}",
            "FROM a\nCMD [\"x\"]\nFROM a\nCMD [\"y\"]",
            "FROM a\nENV x=y\nLABEL x=y",
            "FROM --platform=$BUILDPLATFORM a",
            "ARG p\nFROM --platform=$p a",
            "FROM a\nARG KEYBOARD\nENV TOKENS=1 SECRET_VERSION=2",
            "ARG v=latest\nFROM a:${v}",
            "FROM a\nEXPOSE 80/tcp 90-91/udp",
            "# check=experimental=all\n# b is it\nFROM a AS b",
        ] {
            let found: Vec<Warning> = check(&Dockerfile::parse("D", good).expect("good"));
            let known = found.iter().filter(|w| w.rule != Rule::UndefinedVar || !good.contains("$x/c"));
            assert_eq!(known.collect::<Vec<_>>(), Vec::<&Warning>::new(), "{good}");
        }
    }

    #[test]
    fn directives_above_an_instruction_are_its_own() {
        use Rule::*;
        check_rules("FROM a\n# check=skip=JSONArgsRecommended\nCMD x", &[]);
        check_rules("FROM a\n# check=skip=all\nCMD x\nFROM b\nCMD x", &[JSONArgsRecommended]);
        check_rules("FROM a\n# check=skip=StageNameCasing\nCMD x", &[JSONArgsRecommended]);
        check_rules("FROM a\n# check=strange\nCMD x", &[JSONArgsRecommended]);
    }

    #[test]
    fn directives_turn_rules_off() {
        check_rules("# check=skip=JSONArgsRecommended\nFROM a\nCMD x", &[]);
        check_rules("# check=skip=all\nFROM a AS B\nCMD x", &[]);
    }

    #[test]
    fn pages_of_rules() {
        assert!(Rule::StageNameCasing.url().ends_with("/stage-name-casing/"));
        assert!(Rule::JSONArgsRecommended.url().ends_with("/json-args-recommended/"));
    }
}
