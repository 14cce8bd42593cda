//! `config.json` of a bundle, read, checked and planned.

pub(crate) fn run(data: &[u8]) {
    match runtime::examine(data) {
        Ok(steps) => assert!(steps > 0),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}
