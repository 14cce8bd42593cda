//! The command line that the benches of parts have in common: of whoever types it, and of one stage to the next.

use crate::run::{Doing, Result, take_flag, take_value};
use std::path::{Path, PathBuf};

/// What was said.
#[derive(Debug, Clone)]
pub(super) struct Args {
    /// A stage of `stages.rs`; none where a person began it.
    pub(super) stage: Option<String>,
    /// The directory that stages share.
    pub(super) work: Option<PathBuf>,
    pub(super) no_build: bool,
    /// Only to see that it works.
    pub(super) smoke: bool,
    pub(super) runs: usize,
    /// Peers that are left out.
    pub(super) without: Vec<String>,
}

impl Args {
    /// Takes what is common out of `args`. Without `--runs` there are as many as `runs`, and one for a smoke test.
    pub(super) fn take(args: &mut Vec<String>, runs: usize) -> Result<Args> {
        let stage = take_value(args, "--stage")?;
        let work = take_value(args, "--work")?.map(PathBuf::from);
        let no_build = take_flag(args, "--no-build");
        let smoke = take_flag(args, "--smoke");
        let runs = number(args, "--runs", if smoke { 1 } else { runs })?.max(1);
        let mut without = Vec::new();
        while let Some(name) = take_value(args, "--without")? {
            without.push(name);
        }
        Ok(Args { stage, work, no_build, smoke, runs, without })
    }

    /// The words that begin this program again as stage `stage` of `bench NAME`, with the same wishes.
    pub(super) fn words(&self, name: &str, stage: &str, work: &Path) -> Result<Vec<String>> {
        let own = std::env::current_exe().doing(|| "find our own program".into())?;
        let mut words = vec![own.to_string_lossy().into_owned(), "bench".into(), name.into()];
        words.extend([format!("--stage={stage}"), format!("--work={}", work.display())]);
        words.push(format!("--runs={}", self.runs));
        words.extend(self.without.iter().map(|name| format!("--without={name}")));
        words.extend(self.smoke.then(|| "--smoke".to_string()));
        Ok(words)
    }

    /// Whether the peer of this name takes part.
    pub(super) fn has(&self, name: &str) -> bool {
        !self.without.iter().any(|without| without == name)
    }
}

/// Takes `--name NUMBER` out of `args`.
pub(super) fn number<T>(args: &mut Vec<String>, name: &str, default: T) -> Result<T>
where
    T: std::str::FromStr<Err = std::num::ParseIntError>,
{
    match take_value(args, name)? {
        None => Ok(default),
        Some(text) => text.parse().doing(|| format!("{name} {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_hears_what_was_said() {
        let said = ["--runs", "3", "--without=a", "--no-build", "--without", "b", "--rest"];
        let mut said = said.map(String::from).to_vec();
        let args = Args::take(&mut said, 5).unwrap();
        assert_eq!(said, ["--rest"]);
        assert!(args.no_build && !args.has("a") && !args.has("b") && args.has("c"));
        let words = args.words("x", "inside", Path::new("/w")).unwrap();
        assert_eq!(words[1..3], ["bench", "x"]);
        let mut words = words[3..].to_vec();
        let again = Args::take(&mut words, 5).unwrap();
        assert!(words.is_empty());
        assert_eq!((again.stage.as_deref(), again.work.as_deref()), (Some("inside"), Some(Path::new("/w"))));
        assert_eq!((again.runs, again.without), (3, vec!["a".to_string(), "b".into()]));
        assert_eq!(Args::take(&mut vec!["--smoke".into()], 5).unwrap().runs, 1);
        assert!(Args::take(&mut vec!["--runs=x".into()], 5).is_err());
    }
}
