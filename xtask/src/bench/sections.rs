//! The page of results: one part per bench, each under a heading of its own.

use crate::run::{Doing, Result};
use crate::workspace::root;

/// Puts a part in the place of what the page has under its heading, or at the end.
pub(super) fn put(heading: &str, text: &str) -> Result<()> {
    let path = root().join("bench/RESULTS.md");
    std::fs::create_dir_all(root().join("bench")).doing(|| "create bench".into())?;
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, replaced(&page, heading, text)).doing(|| format!("write {}", path.display()))?;
    println!("written: bench/RESULTS.md");
    Ok(())
}

fn replaced(page: &str, heading: &str, text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for line in page.lines() {
        if line.starts_with("# ") || parts.is_empty() {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let own = parts.iter_mut().find(|part| part.lines().next() == Some(heading));
    match own {
        Some(part) => *part = text.to_owned(),
        None => parts.push(text.to_owned()),
    }
    let parts: Vec<&str> = parts.iter().map(|part| part.trim_end()).collect();
    parts.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_put_in_its_place() {
        let page = "# A\n\nold a\n\n# B\n\nold b\n";
        assert_eq!(replaced(page, "# A", "# A\n\nnew\n"), "# A\n\nnew\n\n# B\n\nold b\n");
        assert_eq!(replaced(page, "# C", "# C\n\nnew\n"), "# A\n\nold a\n\n# B\n\nold b\n\n# C\n\nnew\n");
        assert_eq!(replaced("", "# C", "# C\n"), "# C\n");
    }
}
