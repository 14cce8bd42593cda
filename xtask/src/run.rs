//! Starting programs. Their output goes where ours goes; what they were is said before, and again when they fail.

use std::fmt;
use std::process::{Command, ExitStatus};

/// Why a command of ours ended. One line for people, no more structure than that.
#[derive(Debug)]
pub(crate) struct Error(String);

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Error {
        Error(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error(format!("{}: {e}", what())))
    }
}

/// Runs a program to its end; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", line(command));
    let status = status(command)?;
    if status.success() { Ok(()) } else { Err(Error(format!("`{}` ended with {status}", line(command)))) }
}

/// Runs a program to its end.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().doing(|| format!("start `{}`", line(command)))
}

/// What a program prints, without the line's end. Its stderr is shown when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().doing(|| format!("start `{}`", line(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error(format!("`{}` ended with {}: {}", line(command), output.status, stderr.trim_end())))
}

/// The command as one would type it, without its environment.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Takes `--name VALUE` or `--name=VALUE` out of `args`.
pub(crate) fn take_value(args: &mut Vec<String>, name: &str) -> Result<Option<String>> {
    let prefix = format!("{name}=");
    let Some(at) = args.iter().position(|a| a == name || a.starts_with(&prefix)) else { return Ok(None) };
    let arg = args.remove(at);
    if let Some(value) = arg.strip_prefix(&prefix) {
        return Ok(Some(value.to_string()));
    }
    if at < args.len() { Ok(Some(args.remove(at))) } else { Err(Error(format!("{name} wants a value"))) }
}

/// Takes `--name` out of `args`; whether it was there.
pub(crate) fn take_flag(args: &mut Vec<String>, name: &str) -> bool {
    let at = args.iter().position(|a| a == name);
    at.map(|at| args.remove(at)).is_some()
}

/// Refuses what no one took.
pub(crate) fn no_more(args: &[String]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => Err(Error(format!("`{arg}` means nothing here; see `cargo xtask help`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let mut args: Vec<String> = ["--a", "1", "--b=2", "--c", "rest"].map(String::from).to_vec();
        assert_eq!(take_value(&mut args, "--a").unwrap().as_deref(), Some("1"));
        assert_eq!(take_value(&mut args, "--b").unwrap().as_deref(), Some("2"));
        assert_eq!(take_value(&mut args, "--d").unwrap(), None);
        assert!(take_flag(&mut args, "--c"));
        assert!(!take_flag(&mut args, "--c"));
        assert!(no_more(&args).is_err());
        assert!(take_value(&mut vec!["--a".into()], "--a").is_err());
    }

    #[test]
    fn failures_name_the_command() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(
            error.starts_with("`sh -c") && error.contains("exit status: 3") && error.ends_with("why"),
            "{error}"
        );
    }
}
