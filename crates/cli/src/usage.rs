//! Parsing the command line, and saying what is wrong with it the way Docker does.

use crate::commands::Line;
use crate::terminal;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command, FromArgMatches};
use std::ffi::OsString;
use std::process::ExitCode;

/// Commands of docker that are known and not there: missing, not mistyped.
const NOT_YET: &[&str] = &["buildx", "compose", "plugin", "swarm", "trust"];

/// Parses `arguments`; prints help or the mistake and gives back the exit code where there is nothing to run.
pub(crate) fn parse(command: Command, arguments: Vec<OsString>) -> Result<Line, ExitCode> {
    // `--rm=false` is rare; only then every flag is made to take a value, which would clutter the help.
    let valued = arguments.iter().any(|a| a.to_str().is_some_and(is_valued_boolean));
    let mut command = if valued { with_boolean_values(command) } else { command };
    let parsed = command
        .try_get_matches_from_mut(&arguments)
        .and_then(|mut matches| Line::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| {
        // The mistake may be before the command whose usage is shown.
        command.build();
        report(&command, &arguments, &error)
    })
}

fn is_valued_boolean(argument: &str) -> bool {
    let value = argument.strip_prefix('-').and_then(|a| a.split_once('=')).map(|(_, value)| value);
    value.is_some_and(|value| crate::run::mounts::parse_bool(value).is_some())
}

/// Lets every flag without a value take `=true` and `=false`, as Docker's do.
fn with_boolean_values(mut command: Command) -> Command {
    // A command's flags are there once it is built, which otherwise happens when it is named.
    command.build();
    take_boolean_values(command)
}

fn take_boolean_values(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_value("false")
                .default_missing_value("true")
                .value_parser(go_boolean),
            _ => arg,
        })
        .mut_subcommands(take_boolean_values)
}

fn go_boolean(text: &str) -> Result<bool, String> {
    crate::run::mounts::parse_bool(text).ok_or_else(|| "want true or false".to_string())
}

fn report(root: &Command, arguments: &[OsString], error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        drop(terminal::print(&error.to_string()));
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        drop(terminal::print(&error.to_string()));
        return ExitCode::SUCCESS;
    }
    let (name, named) = named_command(root, arguments);
    let (message, code) = message(error, &name, named);
    let hint = match named.has_subcommands() {
        true => String::new(),
        false => format!("Usage:  {}\n\n", usage_line(named, &name)),
    };
    terminal::warn(&format!("{message}\n\n{hint}Run '{name} --help' for more information"));
    ExitCode::from(code)
}

/// `brig rm [OPTIONS] CONTAINER [CONTAINER...]`, Docker's way of writing it.
fn usage_line(command: &Command, name: &str) -> String {
    let usage = command.clone().bin_name(name).render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let words = usage.split(' ').map(|word| match word.strip_suffix("...") {
        Some(many) if many.starts_with('<') => {
            let bare = many.trim_matches(['<', '>']);
            format!("{bare} [{bare}...]")
        }
        _ => word.replace(['<', '>'], ""),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// How many arguments a command takes, in Docker's words.
fn arity(command: &Command) -> String {
    let (mut least, mut more) = (0, false);
    for positional in command.get_positionals() {
        let range = positional.get_num_args().unwrap_or_else(|| 1.into());
        least += if positional.is_required_set() { range.min_values().max(1) } else { 0 };
        let many =
            range.max_values() > range.min_values() || matches!(positional.get_action(), ArgAction::Append);
        more |= many || !positional.is_required_set();
    }
    let plural = if least == 1 { "" } else { "s" };
    match (least, more) {
        (0, false) => "accepts no arguments".into(),
        (0, true) => "takes fewer arguments".into(),
        (_, true) => format!("requires at least {least} argument{plural}"),
        (_, false) => format!("requires {least} argument{plural}"),
    }
}

/// The subcommand that `arguments` name.
fn named_command<'a>(root: &'a Command, arguments: &[OsString]) -> (String, &'a Command) {
    let mut name = "brig".to_string();
    let mut command = root;
    for argument in arguments.iter().skip(1).filter_map(|a| a.to_str()).filter(|a| !a.starts_with('-')) {
        let Some(inner) = command.find_subcommand(argument) else { break };
        name.push(' ');
        name.push_str(inner.get_name());
        command = inner;
    }
    (name, command)
}

fn message(error: &clap::Error, name: &str, command: &Command) -> (String, u8) {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(list)) => list.join(", "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with("--") => {
            (format!("unknown flag: {argument}"), 125)
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let letter = argument.chars().nth(1).unwrap_or('-');
            (format!("unknown shorthand flag: '{letter}' in {argument}"), 125)
        }
        ErrorKind::UnknownArgument => (format!("brig: '{name}' {}", arity(command)), 1),
        ErrorKind::InvalidSubcommand => {
            let command = context(ContextKind::InvalidSubcommand);
            match NOT_YET.contains(&command.as_str()) {
                true => (format!("brig: {command} is not supported by this version of brig"), 1),
                false => (format!("brig: unknown command: {name} {command}"), 1),
            }
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            (format!("brig: '{name}' {}", arity(command)), 1)
        }
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            (format!("flag needs an argument: {argument}"), 125)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = context(ContextKind::InvalidValue);
            let reason = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
            (format!("invalid argument \"{value}\" for \"{argument}\" flag{reason}"), 125)
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            (first.trim_start_matches("error: ").to_string(), 125)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> (String, u8) {
        let mut command = crate::command();
        let error = command.try_get_matches_from_mut(line.split(' ')).unwrap_err();
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let (name, named) = named_command(&command, &arguments);
        message(&error, &name, named)
    }

    #[test]
    fn mistakes_are_worded_as_docker_words_them() {
        assert_eq!(error("brig run --foo"), ("unknown flag: --foo".into(), 125));
        assert_eq!(error("brig ps -z"), ("unknown shorthand flag: 'z' in -z".into(), 125));
        assert_eq!(error("brig nosuch"), ("brig: unknown command: brig nosuch".into(), 1));
        assert_eq!(error("brig rm"), ("brig: 'brig rm' requires at least 1 argument".into(), 1));
        assert_eq!(error("brig exec x").0, "brig: 'brig exec' requires at least 2 arguments");
        assert_eq!(error("brig rename x").0, "brig: 'brig rename' requires 2 arguments");
        assert_eq!(error("brig ps x").0, "brig: 'brig ps' accepts no arguments");
        assert_eq!(error("brig ps -n x").1, 125);
    }

    #[test]
    fn the_whole_command_is_sound() {
        crate::command().debug_assert();
        with_boolean_values(crate::command()).debug_assert();
    }

    #[test]
    fn flags_take_boolean_values_too() {
        let line = |text: &str| parse(crate::command(), text.split(' ').map(OsString::from).collect());
        assert!(line("brig run --rm=true -it=false busybox true").is_ok());
        assert!(line("brig run --rm -it --sig-proxy=false busybox --rm=x").is_ok());
        assert!(is_valued_boolean("--rm=1") && !is_valued_boolean("--name=x"));
    }
}
