//! The commands that are typed most, parsed by themselves: the tree of all commands has some thousand flags, and building it
//! takes longer than all else that a short command does. What this cannot read, help and mistakes included, is left to the
//! tree, which reads the same lines in the same way.

use super::{Command, ContainerCommand, ImageShort, Line, SystemShort};
use crate::host;
use clap::Args;
use std::ffi::OsString;

/// A line without flags before its command, where that is one of these.
pub(crate) fn parse(arguments: &[OsString]) -> Option<Line> {
    let [_, name, rest @ ..] = arguments else { return None };
    let command = match name.to_str()? {
        "run" => Command::Container(ContainerCommand::Run(one("run", true, rest)?)),
        "create" => Command::Container(ContainerCommand::Create(one("create", true, rest)?)),
        "exec" => Command::Container(ContainerCommand::Exec(one("exec", false, rest)?)),
        "start" => Command::Container(ContainerCommand::Start(one("start", false, rest)?)),
        "logs" => Command::Container(ContainerCommand::Logs(one("logs", false, rest)?)),
        "commit" => Command::Container(ContainerCommand::Commit(one("commit", false, rest)?)),
        "pull" => Command::Image(ImageShort::Pull(one("pull", false, rest)?)),
        "push" => Command::Image(ImageShort::Push(one("push", false, rest)?)),
        "images" => Command::Image(ImageShort::Images(one("images", false, rest)?)),
        "rmi" => Command::Image(ImageShort::Rmi(one("rmi", false, rest)?)),
        "tag" => Command::Image(ImageShort::Tag(one("tag", false, rest)?)),
        "load" => Command::Image(ImageShort::Load(one("load", false, rest)?)),
        "save" => Command::Image(ImageShort::Save(one("save", false, rest)?)),
        "ps" => Command::System(SystemShort::Ps(one("ps", false, rest)?)),
        _ => return None,
    };
    Some(Line {
        host: host::Flags::default(),
        config: None,
        version: None,
        debug: false,
        log_level: "info".into(),
        command,
    })
}

fn one<T: Args>(name: &'static str, has_own_help: bool, words: &[OsString]) -> Option<T> {
    let command = clap::Command::new(name).no_binary_name(true).args_override_self(true);
    let command = T::augment_args(command.disable_help_flag(has_own_help));
    let mut matches = command.try_get_matches_from(words).ok()?;
    T::from_arg_matches_mut(&mut matches).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("brig").chain(line.split(' ')).map(OsString::from).collect()
    }

    #[test]
    fn lines_are_read_as_by_the_tree() {
        let check = |line: &str| {
            let words = words(line);
            let mut matches = super::super::command().try_get_matches_from(&words).unwrap();
            let whole = Line::from_arg_matches_mut(&mut matches).unwrap();
            let quick = parse(&words).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(format!("{quick:?}"), format!("{whole:?}"));
        };
        for line in [
            "run --rm -it -h name -e A=1 -e B=2 --name x -p 80:80 busybox sh -c -h",
            "run --name a --name b busybox",
            "create -v /x:/y busybox",
            "exec -it -u 0 x sh -c echo",
            "start -a x",
            "logs -f --tail 10 x",
            "commit -a me x y:1",
            "pull -q --platform linux/amd64 x",
            "push -a x",
            "images -a --format json x",
            "rmi -f x y",
            "tag a b",
            "load -q -i file",
            "save -o file a b",
            "ps -a -q --filter a=b",
        ] {
            check(line);
        }
    }

    #[test]
    fn the_rest_is_for_the_tree() {
        for line in
            ["pull", "pull --help", "pull --wrong x", "-H unix:///x pull y", "version", "tag a", "rmi"]
        {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
