//! Which stages a target needs, and what each takes from where.

use crate::error::Error;
use crate::event::StepInfo;
use crate::request::Request;
use dockerfile::{Dockerfile, Expander, Instruction, Kind, Mount, Stage};
use oci::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// Before the name of a result of another build; no image is named so.
pub(crate) const RESULT: char = '\0';

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Scratch,
    Stage(usize),
    Image {
        name: String,
        platform: Option<String>,
    },
    /// A named context.
    Context(String),
}

/// A stage that is needed.
#[derive(Debug, Clone)]
pub(crate) struct StagePlan {
    pub(crate) base: Source,
    pub(crate) platform: Platform,
    /// Triggers of the base, then the stage's own instructions with their places in the plan.
    pub(crate) triggers: Vec<Instruction>,
    pub(crate) head: usize,
    pub(crate) steps: Vec<(usize, Instruction)>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) file: Dockerfile,
    pub(crate) target: usize,
    /// Values that FROM sees.
    pub(crate) global: BTreeMap<String, String>,
    /// Needed stages by number.
    pub(crate) stages: BTreeMap<usize, StagePlan>,
    pub(crate) infos: Vec<StepInfo>,
}

/// Automatic arguments for the two platforms.
pub(crate) fn platform_args(build: &Platform, target: &Platform, stage: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        out.insert(format!("{prefix}PLATFORM"), platform.to_string());
        out.insert(format!("{prefix}OS"), platform.os.clone());
        out.insert(format!("{prefix}OSVERSION"), platform.os_version.clone().unwrap_or_default());
        out.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        out.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
    }
    out.insert("TARGETSTAGE".into(), if stage.is_empty() { "default".into() } else { stage.to_string() });
    out
}

/// The values of the ARGs before the first FROM, and the automatic ones.
pub(crate) fn global_args(
    file: &Dockerfile,
    request: &Request,
    automatic: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut known = automatic.clone();
    for instruction in &file.global {
        let Kind::Arg(args) = &instruction.kind else { continue };
        for arg in args {
            let value = match (request.build_arg(&arg.name), &arg.default) {
                (Some(given), _) => Some(given.to_string()),
                (None, Some(default)) => {
                    let lookup = |name: &str| known.get(name).cloned();
                    let expanded = Expander::new(file.directives.escape, &lookup).text(default);
                    Some(expanded.map_err(|m| at(file, instruction, default, m))?)
                }
                (None, None) => known.get(&arg.name).cloned(),
            };
            if let Some(value) = value {
                known.insert(arg.name.clone(), value);
            }
        }
    }
    Ok(known)
}

/// A mistake in an instruction.
pub(crate) fn at(
    file: &Dockerfile,
    instruction: &Instruction,
    token: &str,
    message: impl Into<String>,
) -> Error {
    Error::Dockerfile {
        error: dockerfile::Error::at(instruction.lines, token, message),
        name: "Dockerfile".into(),
        source_text: file.source.clone(),
    }
}

/// Where the stage `index` starts.
pub(crate) fn base_of(
    file: &Dockerfile,
    request: &Request,
    global: &BTreeMap<String, String>,
    index: usize,
) -> Result<(Source, Option<String>), Error> {
    let stage = &file.stages[index];
    let lookup = |name: &str| global.get(name).cloned();
    let expander = Expander::new(file.directives.escape, &lookup);
    let expand = |word: &str| expander.text(word).map_err(|m| at(file, &stage.head, word, m));
    let image = expand(&stage.from.image)?;
    if image.is_empty() {
        let message = format!("base name ({}) should not be blank", stage.from.image);
        return Err(at(file, &stage.head, &stage.from.image, message));
    }
    let platform = stage.from.platform.as_deref().map(expand).transpose()?.filter(|p| !p.is_empty());
    Ok((named(file, request, index, &image, platform.clone()), platform))
}

/// What `name` means for the stage `index`: a named context, an earlier stage, or an image.
pub(crate) fn named(
    file: &Dockerfile,
    request: &Request,
    index: usize,
    name: &str,
    platform: Option<String>,
) -> Source {
    let lower = name.to_lowercase();
    if request.contexts.contains_key(&lower) {
        return Source::Context(lower);
    }
    if request.context_results.contains_key(&lower) {
        return Source::Image { name: format!("{RESULT}{lower}"), platform };
    }
    if let Some(image) = request.context_images.get(&lower) {
        return Source::Image { name: image.clone(), platform };
    }
    if let Some(stage) = file.stage_before(index, name) {
        return Source::Stage(stage);
    }
    if lower == "scratch" {
        return Source::Scratch;
    }
    Source::Image { name: name.to_string(), platform }
}

/// What instructions of the stage `index` take from elsewhere.
pub(crate) fn needs(
    file: &Dockerfile,
    request: &Request,
    index: usize,
    instructions: &[&Instruction],
) -> BTreeSet<Source> {
    let mut out = BTreeSet::new();
    for instruction in instructions {
        match &instruction.kind {
            Kind::Copy(copy) => {
                if let Some(from) = &copy.from {
                    out.insert(named(file, request, index, from, None));
                }
            }
            Kind::Run(run) => {
                // `from` has no variables, so other values do not matter here.
                let mounts = run.mounts.iter().filter_map(|m| Mount::parse(m, &|w| Ok(w.to_string())).ok());
                for from in mounts.filter_map(|m| m.from) {
                    out.insert(named(file, request, index, &from, None));
                }
            }
            _ => {}
        }
    }
    out
}

/// What the needed stages take from the context: nothing, these paths, or (empty) all of it.
pub(crate) fn context_paths(plan: &Plan) -> Option<Vec<String>> {
    let mut paths = BTreeSet::new();
    let mut is_needed = false;
    let mut is_whole = false;
    // The value of a variable is not known before the stage is built.
    let mut add = |path: &str| match crate::select::clean(path) {
        path if path.is_empty() || path.contains('$') => is_whole = true,
        path => drop(paths.insert(path)),
    };
    for stage in plan.stages.values() {
        let own = stage.steps.iter().map(|(_, instruction)| instruction);
        for instruction in stage.triggers.iter().chain(own) {
            match &instruction.kind {
                Kind::Copy(copy) | Kind::Add(copy) if copy.from.is_none() => {
                    for source in copy.sources.iter().filter(|s| !crate::remote::is_remote(s)) {
                        is_needed = true;
                        add(source);
                    }
                }
                Kind::Run(run) => {
                    for text in &run.mounts {
                        let Ok(mount) = Mount::parse(text, &|w| Ok(w.to_string())) else { continue };
                        if mount.from.is_none() && mount.kind == dockerfile::MountKind::Bind {
                            is_needed = true;
                            add(mount.source.as_deref().unwrap_or_default());
                        }
                    }
                }
                _ => {}
            }
        }
    }
    is_needed.then(|| if is_whole { Vec::new() } else { paths.into_iter().collect() })
}

/// Describes the steps of the needed stages, in the order of the file.
pub(crate) fn describe(
    file: &Dockerfile,
    needed: &BTreeSet<usize>,
) -> (Vec<StepInfo>, BTreeMap<usize, usize>) {
    let mut infos = Vec::new();
    let mut heads = BTreeMap::new();
    let info = |instruction: &Instruction, stage: &str, place| StepInfo {
        index: 0,
        text: instruction.text.clone(),
        stage: stage.to_string(),
        place,
        is_run: matches!(instruction.kind, Kind::Run(_)),
        lines: instruction.lines,
    };
    for instruction in &file.global {
        infos.push(info(instruction, "", (1, 1)));
    }
    for index in needed {
        let stage: &Stage = &file.stages[*index];
        let name = stage.name.clone().unwrap_or_else(|| format!("stage-{index}"));
        let count = stage.instructions.len() + 1;
        heads.insert(*index, infos.len());
        for (place, instruction) in (1..).zip(std::iter::once(&stage.head).chain(&stage.instructions)) {
            infos.push(info(instruction, &name, (place, count)));
        }
    }
    for (index, info) in infos.iter_mut().enumerate() {
        info.index = index;
    }
    (infos, heads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_the_nearest_stage_before() {
        let file = Dockerfile::parse(
            "D",
            "FROM a AS x\nFROM x AS a\nFROM a\nCOPY --from=x / /\nCOPY --from=9 / /\n",
        )
        .expect("good");
        assert_eq!(file.stage_before(2, "a"), Some(1));
        assert_eq!(file.stage_before(0, "a"), None);
        let (infos, heads) = describe(&file, &[0, 2].into());
        assert_eq!(infos.len(), 4);
        assert_eq!(heads[&2], 1);
        assert_eq!(infos[3].place, (3, 3));
    }
}
