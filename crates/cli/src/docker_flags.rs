//! Whether every command of docker, and each of its flags, is one of ours.

use crate::commands::command;
use clap::{ArgAction, Command};
use std::collections::BTreeSet;

const DOCKERS: &str = include_str!("docker_flags.txt");

/// What is left out, and why. Each is refused by name when it is typed.
const NOT_OURS: &[(&str, &str)] = &[
    ("--cpu-count", "for Windows"),
    ("--cpu-percent", "for Windows"),
    ("--io-maxbandwidth", "for Windows"),
    ("--io-maxiops", "for Windows"),
    (
        "--use-api-socket",
        "hands the engine, and so the machine, to the container; -v does it for those who mean it",
    ),
    ("build", "of BuildKit's kind, whose flags are buildx's; docker's list is the classic builder's"),
    ("builder build", "the same"),
    ("network inspect --verbose", "shows the services of a swarm"),
    ("volume create --availability", "for volumes of a cluster"),
    ("volume create --group", "for volumes of a cluster"),
    ("volume create --limit-bytes", "for volumes of a cluster"),
    ("volume create --required-bytes", "for volumes of a cluster"),
    ("volume create --scope", "for volumes of a cluster"),
    ("volume create --secret", "for volumes of a cluster"),
    ("volume create --sharing", "for volumes of a cluster"),
    ("volume create --topology-preferred", "for volumes of a cluster"),
    ("volume create --topology-required", "for volumes of a cluster"),
    ("volume create --type", "for volumes of a cluster"),
    ("volume ls --cluster", "for volumes of a cluster"),
];

/// The entry that leaves this flag out.
fn left_out(command: &str, flag: &str) -> Option<&'static str> {
    let whole = format!("{command} {flag}");
    NOT_OURS.iter().map(|(name, _)| *name).find(|name| *name == command || *name == flag || *name == whole)
}

fn find<'a>(root: &'a Command, path: &str) -> Option<&'a Command> {
    path.split(' ')
        .filter(|word| !word.is_empty())
        .try_fold(root, |command, word| command.find_subcommand(word))
}

/// What is wrong with our flag for one of docker's, `-q/--quiet` or `--format=`.
fn mistake(command: &Command, flag: &str) -> Option<String> {
    let takes_value = flag.ends_with('=');
    let names = flag.trim_end_matches('=');
    let (short, long) = names.split_once('/').map_or((None, names), |(short, long)| (Some(short), long));
    let long = long.trim_start_matches('-');
    let Some(ours) = command.get_arguments().find(|arg| {
        arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long))
    }) else {
        // Those that clap brings itself.
        return (!matches!(long, "help" | "version")).then(|| "is missing".into());
    };
    let ours_takes = matches!(ours.get_action(), ArgAction::Set | ArgAction::Append)
        && ours.get_num_args().is_none_or(|range| range.min_values() > 0);
    if ours_takes != takes_value {
        return Some(format!("takes a value: {takes_value} for docker, {ours_takes} for us"));
    }
    let letter = short.and_then(|s| s.chars().nth(1));
    let has = |letter: char| {
        ours.get_short() == Some(letter) || ours.get_all_short_aliases().is_some_and(|a| a.contains(&letter))
    };
    letter.filter(|letter| !has(*letter)).map(|letter| format!("has no -{letter}"))
}

/// What is said to be left out and is there.
#[test]
fn nothing_is_left_out_that_is_ours() {
    let mut root = command();
    root.build();
    let has_flag = |command: &Command, flag: &str| {
        command
            .get_arguments()
            .any(|arg| arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long)))
    };
    let stale = |name: &str| match name.rsplit_once(' ') {
        Some((path, flag)) if flag.starts_with("--") => find(&root, path).is_some_and(|c| has_flag(c, flag)),
        None if name.starts_with("--") => false,
        _ => find(&root, name).is_some(),
    };
    // Commands of the same name with flags of their own.
    let others = ["build", "builder build"];
    let found: Vec<&str> =
        NOT_OURS.iter().map(|(name, _)| *name).filter(|name| !others.contains(name) && stale(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn every_flag_of_docker_is_ours() {
    let mut root = command();
    root.build();
    let mut mistakes = Vec::new();
    let mut needed = BTreeSet::new();
    let mut checked = 0;
    for line in DOCKERS.lines().filter(|l| !l.starts_with('#')) {
        let (path, flags) = line.split_once(':').expect("COMMAND: FLAGS");
        let Some(command) = find(&root, path) else {
            match left_out(path, "") {
                Some(entry) => drop(needed.insert(entry)),
                None => mistakes.push(format!("docker {path}: there is no such command")),
            }
            continue;
        };
        for flag in flags.split_whitespace() {
            let bare = flag.trim_end_matches('=').rsplit('/').next().unwrap_or(flag);
            match (mistake(command, flag), left_out(path, bare)) {
                (None, _) => {}
                (Some(_), Some(entry)) => drop(needed.insert(entry)),
                (Some(text), None) => mistakes.push(format!("docker {path} {flag}: {text}")),
            }
            checked += 1;
        }
    }
    let stale = NOT_OURS.iter().filter(|(name, _)| !needed.contains(name));
    mistakes.extend(stale.map(|(name, _)| format!("{name}: left out, and there")));
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    assert!(checked > 400, "only {checked} flags were looked at");
}
