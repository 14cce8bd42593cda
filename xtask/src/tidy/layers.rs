//! Which crate may use which: `xtask/layers.toml` against the manifests.
//!
//! A crate uses lower layers freely and siblings as listed. Tests may use anything: dev-dependencies are not looked at.

use crate::run::{Doing, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml::{Table, Value};

/// What `layers.toml` says.
#[derive(Debug, Default)]
struct Layers {
    /// Number of the layer of each crate.
    of: BTreeMap<String, usize>,
    /// Permitted edges within a layer.
    siblings: BTreeMap<String, BTreeSet<String>>,
    /// Crates that only dev-dependencies may name.
    beside: BTreeSet<String>,
}

/// A manifest, reduced to what the rules look at.
#[derive(Debug)]
struct Manifest {
    folder: String,
    name: String,
    inherits_lints: bool,
    dependencies: BTreeSet<String>,
}

/// Complaints about the manifests of the workspace at `root`.
pub(super) fn check_workspace(root: &Path) -> Result<Vec<String>> {
    let layers = parse_layers(&read(&root.join("xtask/layers.toml"))?)?;
    let mut manifests = Vec::new();
    let crates = root.join("crates");
    for entry in std::fs::read_dir(&crates).doing(|| format!("read {}", crates.display()))?.flatten() {
        let path = entry.path().join("Cargo.toml");
        if path.is_file() {
            let folder = entry.file_name().to_string_lossy().into_owned();
            manifests.push(parse_manifest(&folder, &read(&path)?)?);
        }
    }
    manifests.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(check(&layers, &manifests))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).doing(|| format!("read {}", path.display()))
}

fn check(layers: &Layers, manifests: &[Manifest]) -> Vec<String> {
    let mut out = Vec::new();
    let names: BTreeSet<&String> = manifests.iter().map(|m| &m.name).collect();
    for manifest in manifests {
        let name = &manifest.name;
        if *name != manifest.folder {
            out.push(format!("crates/{}: the crate is called {name}", manifest.folder));
        }
        if !manifest.inherits_lints {
            out.push(format!("crates/{name}: `[lints] workspace = true` is missing"));
        }
        if layers.beside.contains(name) {
            continue;
        }
        let Some(own) = layers.of.get(name) else {
            out.push(format!("crates/{name}: not in xtask/layers.toml"));
            continue;
        };
        let siblings = layers.siblings.get(name);
        for used in manifest.dependencies.iter().filter(|d| names.contains(d)) {
            let permitted = match layers.of.get(used) {
                Some(layer) if layer < own => true,
                Some(layer) if layer == own => siblings.is_some_and(|s| s.contains(used)),
                Some(_) => false,
                None if layers.beside.contains(used) => false,
                // Complained about by itself.
                None => true,
            };
            if !permitted {
                out.push(format!("crates/{name}: may not use {used} (xtask/layers.toml)"));
            }
        }
        for listed in siblings.into_iter().flatten().filter(|s| !manifest.dependencies.contains(*s)) {
            out.push(format!("xtask/layers.toml: {name} does not use its sibling {listed} any more"));
        }
    }
    out
}

fn parse_layers(text: &str) -> Result<Layers> {
    let doing = || "parse xtask/layers.toml".to_string();
    let table: Table = text.parse().doing(doing)?;
    let mut layers = Layers::default();
    for (number, layer) in table.get("layer").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let crates =
            layer.get("crates").ok_or_else(|| Error::new("xtask/layers.toml: a layer without `crates`"))?;
        for name in strings(crates) {
            if layers.of.insert(name.clone(), number).is_some() {
                return Err(Error::new(format!("xtask/layers.toml: {name} is in two layers")));
            }
        }
    }
    layers.beside = table.get("beside").map(strings).into_iter().flatten().collect();
    for (name, siblings) in table.get("siblings").and_then(Value::as_table).into_iter().flatten() {
        layers.siblings.insert(name.clone(), strings(siblings).into_iter().collect());
    }
    Ok(layers)
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect()
}

fn parse_manifest(folder: &str, text: &str) -> Result<Manifest> {
    let table: Table = text.parse().doing(|| format!("parse crates/{folder}/Cargo.toml"))?;
    let get = |outer: &str, inner: &str| table.get(outer)?.get(inner).cloned();
    let dependencies = ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| table.get(*section)?.as_table())
        .flat_map(|section| section.keys().cloned())
        .collect();
    Ok(Manifest {
        folder: folder.into(),
        name: get("package", "name").and_then(|v| v.as_str().map(String::from)).unwrap_or_default(),
        inherits_lints: get("lints", "workspace") == Some(Value::Boolean(true)),
        dependencies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: &str = r#"
        beside = ["testkit"]
        [[layer]]
        crates = ["errors", "oci"]
        [[layer]]
        crates = ["sys", "mount"]
        [siblings]
        oci = ["errors"]
    "#;

    fn manifest(name: &str, dependencies: &[&str]) -> Manifest {
        let lines: String = dependencies.iter().map(|d| format!("{d}.workspace = true\n")).collect();
        let text =
            format!("[package]\nname = \"{name}\"\n[dependencies]\n{lines}[lints]\nworkspace = true\n");
        parse_manifest(name, &text).unwrap()
    }

    #[track_caller]
    fn check_one(name: &str, dependencies: &[&str], expected: &[&str]) {
        let mut all: Vec<Manifest> = ["errors", "sys", "mount", "testkit"]
            .iter()
            .filter(|n| **n != name)
            .map(|n| manifest(n, &[]))
            .collect();
        if name != "oci" {
            all.push(manifest("oci", &["errors"]));
        }
        all.push(manifest(name, dependencies));
        assert_eq!(check(&parse_layers(LAYERS).unwrap(), &all), expected);
    }

    #[test]
    fn edges() {
        check_one("sys", &["errors", "oci", "libc"], &[]);
        check_one("oci", &["errors"], &[]);
        check_one("mount", &["sys"], &["crates/mount: may not use sys (xtask/layers.toml)"]);
        check_one("oci", &["errors", "sys"], &["crates/oci: may not use sys (xtask/layers.toml)"]);
        check_one("oci", &[], &["xtask/layers.toml: oci does not use its sibling errors any more"]);
        check_one("sys", &["testkit"], &["crates/sys: may not use testkit (xtask/layers.toml)"]);
        check_one("new", &[], &["crates/new: not in xtask/layers.toml"]);
    }

    #[test]
    fn one_layer_each() {
        assert!(parse_layers("[[layer]]\ncrates = [\"a\"]\n[[layer]]\ncrates = [\"a\"]").is_err());
    }
}
