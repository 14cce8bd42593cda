//! A Dockerfile: parsed, checked, its words expanded.

use dockerfile::{Dockerfile, Expander, check};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Dockerfile::parse("Dockerfile", text) {
        Ok(file) => {
            assert!(!file.stages.is_empty());
            drop(check(&file));
            drop(file.target("0"));
        }
        Err(e) => assert!(!e.report("Dockerfile", text).is_empty()),
    }
    let lookup = |name: &str| name.len().is_multiple_of(2).then(|| name.to_string());
    for escape in ['\\', '`'] {
        let expander = Expander::new(escape, &lookup);
        for line in text.lines().take(200) {
            drop(expander.expand(line));
            drop(expander.heredoc(line));
        }
    }
}
