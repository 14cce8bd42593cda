//! `-e`, `--env-file`, `-l` and `--label-file`.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

/// Largest file of variables or labels; Docker's lines end at 64 KiB.
const MAX_FILE: u64 = 16 << 20;

/// The API's `Env`: first those of the files, then those of the flags. A name without `=` takes the client's value,
/// and in a file is left out where the client has none.
pub(crate) fn variables(
    files: &[String],
    flags: &[String],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for file in files {
        for line in lines(file)? {
            let (name, value) = line.split_once('=').map_or((line.as_str(), None), |(n, v)| (n, Some(v)));
            if name.is_empty() {
                return Err(Error::Usage(format!("no variable name on line '{line}'")));
            }
            if name.contains([' ', '\t']) {
                return Err(Error::Usage(format!("variable '{name}' contains whitespaces")));
            }
            match value {
                Some(value) => out.push(format!("{name}={value}")),
                None => out.extend(lookup(name).map(|value| format!("{name}={value}"))),
            }
        }
    }
    for flag in flags {
        match flag.split_once('=') {
            _ if flag.is_empty() => return Err(Error::Usage("invalid environment variable: ".into())),
            Some(("", _)) => return Err(Error::Usage(format!("invalid environment variable: {flag}"))),
            Some(_) => out.push(flag.clone()),
            // Without a value anywhere the name alone takes a variable of the image away.
            None => out.push(lookup(flag).map_or_else(|| flag.clone(), |value| format!("{flag}={value}"))),
        }
    }
    Ok(out)
}

/// The API's `Labels`.
pub(crate) fn labels(files: &[String], flags: &[String]) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    let mut all = Vec::new();
    for file in files {
        all.extend(lines(file)?);
    }
    all.extend(flags.iter().cloned());
    for label in all {
        let (key, value) = label.split_once('=').unwrap_or((&label, ""));
        out.insert(key.to_string(), json!(value));
    }
    Ok(out)
}

/// The lines of a file that are neither empty nor comments, without the space before them.
fn lines(file: &str) -> Result<Vec<String>> {
    let failed = |source| Error::File { doing: "read", path: file.into(), source };
    let length = std::fs::metadata(file).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(Error::Usage(format!("{file}: larger than {MAX_FILE} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(failed)?;
    Ok(parse_lines(&text))
}

fn parse_lines(text: &str) -> Vec<String> {
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(|line| line.trim_start().to_string())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_flags_files_and_the_client() {
        let lookup = |name: &str| (name == "HERE").then(|| "yes".to_string());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# comment\n\n  A=1 \nHERE\nNOWHERE\n").unwrap();
        let flags = ["B=x=y", "HERE", "GONE", "E="].map(String::from);
        let files = [file.path().to_str().unwrap().to_string()];
        let expected = ["A=1 ", "HERE=yes", "B=x=y", "HERE=yes", "GONE", "E="];
        assert_eq!(variables(&files, &flags, lookup).unwrap(), expected);
        assert!(variables(&[], &["=x".into()], lookup).is_err());
        assert!(variables(&["/nonexistent".into()], &[], lookup).is_err());
    }

    #[test]
    fn labels_may_lack_a_value() {
        let labels = labels(&[], &["a=b=c".into(), "d".into()]).unwrap();
        assert_eq!(Value::Object(labels), json!({"a": "b=c", "d": ""}));
    }
}
