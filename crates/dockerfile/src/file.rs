//! A whole Dockerfile: global ARGs and stages.

use crate::error::Error;
use crate::instruction::{self, Arg, Instruction, Kind};
use crate::line::{self, Directives};
use crate::suggest::suggest;

/// A Dockerfile as a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Directives,
    /// The ARG instructions before the first FROM.
    pub global: Vec<Instruction>,
    /// In the order of the file; at least one.
    pub stages: Vec<Stage>,
    /// The text it was read from.
    pub source: String,
}

/// A FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Lower case.
    pub name: Option<String>,
    pub from: From,
    /// The FROM itself.
    pub head: Instruction,
    pub instructions: Vec<Instruction>,
}

/// What a stage starts from, variables not expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    pub image: String,
    pub platform: Option<String>,
    /// The name as written, and the word `as` before it.
    pub alias: Option<(String, String)>,
}

/// No stage has the name of the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target stage {target:?} could not be found{hint}")]
pub struct TargetError {
    pub target: String,
    /// "(did you mean ...?)", or empty.
    pub hint: String,
}

impl Dockerfile {
    /// Reads `source`. `name` is for the message of an empty file.
    ///
    /// # Errors
    ///
    /// The first mistake, with its place.
    pub fn parse(name: &str, source: &str) -> Result<Dockerfile, Error> {
        if source.is_empty() {
            return Err(Error::whole(format!("the Dockerfile ({name}) cannot be empty")));
        }
        let (directives, lines) = line::read(source)?;
        if lines.is_empty() {
            return Err(Error::whole("file with no instructions"));
        }
        let mut global = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for line in &lines {
            let instruction = instruction::parse(line, directives.escape)?;
            match (&instruction.kind, stages.last_mut()) {
                (Kind::From { image, platform, alias, alias_word }, _) => {
                    let from = From {
                        image: image.clone(),
                        platform: platform.clone(),
                        alias: alias.clone().zip(alias_word.clone()),
                    };
                    let name = alias.as_ref().map(|a| a.to_lowercase());
                    stages.push(Stage { name, from, head: instruction, instructions: Vec::new() });
                }
                (_, Some(stage)) => stage.instructions.push(instruction),
                (Kind::Arg(_), None) => global.push(instruction),
                (_, None) => {
                    let message =
                        "no build stage in current context: only ARG may stand before the first FROM";
                    return Err(Error::at(instruction.lines, instruction.name, message));
                }
            }
        }
        if stages.is_empty() {
            return Err(Error::whole("no build stage in current context: there is no FROM"));
        }
        Ok(Dockerfile { directives, global, stages, source: source.to_string() })
    }

    /// The stage to build: the last for an empty name.
    ///
    /// # Errors
    ///
    /// [`TargetError`], which proposes what is there.
    pub fn target(&self, name: &str) -> Result<usize, TargetError> {
        if name.is_empty() {
            return Ok(self.stages.len() - 1);
        }
        self.stage_before(self.stages.len(), name).ok_or_else(|| {
            let names = self.stages.iter().filter_map(|s| s.name.as_deref());
            let hint = suggest(name, names).map(|s| format!(" (did you mean {s}?)")).unwrap_or_default();
            TargetError { target: name.into(), hint }
        })
    }

    /// The stage that `name` (or a number) means where only the first `end` stages are known: the last one so called.
    pub fn stage_before(&self, end: usize, name: &str) -> Option<usize> {
        let lower = name.to_lowercase();
        let named = self.stages[..end].iter().rposition(|s| s.name.as_deref() == Some(lower.as_str()));
        named.or_else(|| name.parse().ok().filter(|index| *index < end))
    }

    /// All global ARGs, in order.
    pub fn global_args(&self) -> impl Iterator<Item = &Arg> {
        self.global.iter().flat_map(|i| match &i.kind {
            Kind::Arg(args) => args.as_slice(),
            _ => &[],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stages_and_targets() {
        let file = Dockerfile::parse("D", "ARG v=1\nFROM a:$v AS One\nRUN x\nFROM One\nFROM b AS one\n")
            .expect("good");
        assert_eq!((file.global_args().count(), file.stages.len()), (1, 3));
        assert_eq!(file.target(""), Ok(2));
        assert_eq!(file.target("ONE"), Ok(2));
        assert_eq!(file.stage_before(1, "one"), Some(0));
        assert_eq!(file.target("1"), Ok(1));
        assert_eq!(
            file.target("3").map_err(|e| e.to_string()),
            Err("target stage \"3\" could not be found".into())
        );
        let error = file.target("onr").expect_err("none").to_string();
        assert_eq!(error, "target stage \"onr\" could not be found (did you mean one?)");
    }

    #[test]
    fn three_kinds_of_nothing() {
        let check = |source: &str, want: &str| {
            let error = Dockerfile::parse("D", source).expect_err(source).to_string();
            assert!(error.contains(want), "{source:?}: {error}");
        };
        check("", "the Dockerfile (D) cannot be empty");
        check("# x\n\n", "file with no instructions");
        check("ARG x", "no build stage in current context");
        check("RUN x\nFROM y", "dockerfile parse error on line 1: no build stage in current context");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics(text in "\\PC*") {
            drop(Dockerfile::parse("D", &text));
        }

        #[test]
        fn no_text_of_its_own_characters_panics(
            lines in proptest::collection::vec("(FROM|RUN|COPY|ADD|ENV|ARG|ONBUILD|HEALTHCHECK|# escape=`|# check=) ?[-$'\"\\\\`<>{}\\[\\],=:/a-e \\t\\r\n]*", 0..8)
        ) {
            let text = lines.join("\n");
            if let Ok(file) = Dockerfile::parse("D", &text) {
                drop(crate::check(&file));
            }
            let lookup = |name: &str| name.len().is_multiple_of(2).then(|| name.repeat(2));
            drop(crate::Expander::new('\\', &lookup).expand(&text));
            drop(crate::Expander::new('`', &lookup).heredoc(&text));
            drop(crate::Mount::parse(&text, &|word| Ok(word.to_string())));
            if let Ok(ignore) = crate::Ignore::parse(&text) {
                ignore.is_ignored(&text);
                ignore.judge("a/b/c", true);
            }
        }
    }
}
