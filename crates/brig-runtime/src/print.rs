//! Tables, as runc prints them.

use std::ffi::OsString;
use std::process::Command;

/// The rows of `list`.
pub(crate) fn list(rows: &[runtime::Listed], json: bool, quiet: bool) -> Result<(), String> {
    if quiet {
        rows.iter().for_each(|row| println!("{}", row.id));
    } else if json {
        // Go writes a list of none so.
        let text = if rows.is_empty() { Ok("null".into()) } else { serde_json::to_string(rows) };
        println!("{}", text.map_err(|e| e.to_string())?);
    } else {
        let titles = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
        let cells = rows.iter().map(|row| {
            let bundle = row.bundle.display().to_string();
            [
                row.id.clone(),
                row.pid.to_string(),
                row.status.into(),
                bundle,
                row.created.clone(),
                row.owner.clone(),
            ]
        });
        table(&std::iter::once(titles).chain(cells).collect::<Vec<_>>());
    }
    Ok(())
}

/// Columns of at least 12, three blanks between them, the last one as it is.
fn table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (longest + 3).max(12)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let (last, others) = row.split_last().expect("a table has columns");
        let line: String =
            others.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{line}{last}");
    }
}

/// Those lines of ps(1), with its `options`, that are of `pids`.
pub(crate) fn processes(pids: &[i32], options: &[OsString]) -> Result<(), String> {
    let mut ps = Command::new("ps");
    if options.is_empty() {
        ps.arg("-ef");
    }
    let output = ps.args(options).output().map_err(|e| format!("run ps: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!(
            "{}: {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ));
    }
    let mut lines = text.lines();
    let titles = lines.next().unwrap_or_default();
    let column = titles.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or("couldn't find PID field in ps output")?;
    println!("{titles}");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        if pids.contains(&pid.ok_or("unable to parse pid")?) {
            println!("{line}");
        }
    }
    Ok(())
}
