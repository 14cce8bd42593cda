//! `tidy`: the project's own rules, which no other tool knows. Each rule is a function from text to complaints.

mod layers;
mod source;

use crate::run::{Doing, Error, Result, no_more};
use crate::workspace::{files, root};
use std::path::Path;

pub(crate) fn command(args: &[String]) -> Result<()> {
    no_more(args)?;
    tidy()?;
    println!("tidy: clean");
    Ok(())
}

/// Checks the whole repository and prints all complaints.
pub(crate) fn tidy() -> Result<()> {
    let mut complaints = layers::check_workspace(&root())?;
    for file in files()? {
        complaints.extend(source::check_name(&file));
        let path = root().join(&file);
        let bytes = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        // Binary files have no lines.
        if let Ok(text) = String::from_utf8(bytes) {
            complaints.extend(source::check_text(&file, &text));
        }
    }
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        n => Err(Error::new(format!("tidy: {n} complaints"))),
    }
}

/// `path:line: what`.
fn at(path: &Path, line: usize, what: &str) -> String {
    format!("{}:{}: {what}", path.display(), line + 1)
}
