//! Makes a module and an entry of the table for each file of `src/targets`, so that a new target is one new file.

use std::fmt::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::var("CARGO_MANIFEST_DIR")?;
    let directory = Path::new(&root).join("src/targets");
    println!("cargo::rerun-if-changed={}", directory.display());
    let mut files: Vec<_> =
        std::fs::read_dir(&directory)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    files.sort();
    let (mut modules, mut table) = (String::new(), String::new());
    for file in files {
        let name = file.file_stem().ok_or("a file without a name")?.to_string_lossy().into_owned();
        writeln!(modules, "#[path = {:?}]\nmod {name};", file.display().to_string())?;
        writeln!(table, "    Target {{ name: {name:?}, run: {name}::run }},")?;
    }
    let text =
        format!("{modules}\n/// All targets, by name.\npub const TARGETS: &[Target] = &[\n{table}];\n");
    Ok(std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("targets.rs"), text)?)
}
