//! What is in an image, by brig's own scanner: the packages that dpkg and apk say are installed, as SPDX 2.3.
//!
//! The document is the same for the same image: its name comes from its content, its time from the newest layer.

use super::packages::{self, Package};
use super::{Predicate, escaped};
use crate::context::Context;
use crate::error::{During, Error};
use crate::solve::Solved;
use oci::Digest;
use rootdir::RootDir;
use rustix::io::Errno;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Largest list of packages that is read.
const MAX_LIST: usize = 64 << 20;
/// Files of packages that distroless images have one by one.
const STATUS_D: &str = "var/lib/dpkg/status.d";
/// Places of rpm's database, which is not read.
const RPM: &[&str] = &["var/lib/rpm", "usr/lib/sysimage/rpm"];

/// What was found.
#[derive(Debug, Default)]
struct Found {
    packages: Vec<(&'static str, Package)>,
    system: (String, String),
    has_rpm: bool,
}

/// Something to look into besides the result: a stage, or the context.
#[derive(Debug)]
pub(crate) enum Beside {
    Stage { name: String, chain_id: Option<Digest> },
    Context(Arc<Context>),
}

/// The argument that has stages looked into: a boolean, or names of stages.
pub(crate) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
/// The argument that has the context looked into, likewise by the stages that declare it.
pub(crate) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";

/// Whether a value of one of these means the stage `name`.
pub(crate) fn is_meant(value: &str, name: &str) -> bool {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        names => names.split(',').any(|wanted| wanted.trim().eq_ignore_ascii_case(name)),
    }
}

/// Looks into the files of a result, and of what is beside it. Blocking.
pub(crate) fn predicates(solved: &Solved) -> Result<Vec<Predicate>, Error> {
    let doing = || "look for packages".to_string();
    let created = solved.config.created.clone().unwrap_or_else(|| "1970-01-01T00:00:00Z".into());
    let told = |found: &Found, name: &str| {
        let (file_name, name) = match name {
            "" => ("sbom.spdx.json".to_string(), "sbom".to_string()),
            // Stages have names of letters, digits and `-_.`.
            name => (format!("sbom-{name}.spdx.json"), format!("sbom-{name}")),
        };
        Predicate {
            predicate_type: "https://spdx.dev/Document",
            file_name,
            inline_only: false,
            body: document(found, &name, &created),
        }
    };
    let layers = |chain_id: Option<&Digest>| {
        let workspace = solved.engine.open_workspace(chain_id).during(doing)?;
        look(workspace.root())
    };
    let mut out = vec![told(&layers(solved.chain_id.as_ref())?, "")];
    for beside in solved.beside.iter() {
        out.push(match beside {
            Beside::Stage { name, chain_id } => told(&layers(chain_id.as_ref())?, name),
            Beside::Context(context) => told(&look(&context.root)?, "context"),
        });
    }
    Ok(out)
}

/// A file's text, if there is one.
fn text(root: &RootDir, path: &str) -> Result<Option<String>, Error> {
    use errors::HasKind;
    match root.read_bounded(Path::new(path), MAX_LIST) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        // An image may have anything under these names: what is no file is no list.
        Err(e) if matches!(e.kind(), errors::Kind::NotFound | errors::Kind::InvalidArgument) => Ok(None),
        Err(e) if e.is_errno(Errno::LOOP) || e.is_errno(Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e).during(|| format!("read /{path} of the image")),
    }
}

fn look(root: &RootDir) -> Result<Found, Error> {
    let mut found = Found::default();
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Some(text) = text(root, path)? {
            found.system = packages::os_release(&text);
            break;
        }
    }
    let mut lists = vec![("deb", "var/lib/dpkg/status".to_string())];
    for name in root.list(Path::new(STATUS_D)).unwrap_or_default() {
        let name = name.to_string_lossy();
        // Beside each stands a list of its files.
        if !name.ends_with(".md5sums") && !name.ends_with(".preinst") && lists.len() < packages::MAX_PACKAGES
        {
            lists.push(("deb", format!("{STATUS_D}/{name}")));
        }
    }
    lists.extend(["lib/apk/db/installed", "usr/lib/apk/db/installed"].map(|p| ("apk", p.to_string())));
    for (kind, path) in lists {
        let Some(text) = text(root, &path)? else { continue };
        let read = if kind == "deb" { packages::dpkg(&text) } else { packages::apk(&text) };
        found.packages.extend(read.into_iter().map(|package| (kind, package)));
    }
    found.packages.sort();
    found.packages.dedup();
    found.packages.truncate(packages::MAX_PACKAGES);
    found.has_rpm = RPM.iter().any(|path| root.list(Path::new(path)).is_ok_and(|names| !names.is_empty()));
    Ok(found)
}

fn document(found: &Found, name: &str, created: &str) -> Value {
    let mut list = Vec::new();
    let mut relationships = Vec::new();
    for (at, (kind, package)) in found.packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{kind}-{at}");
        let or_none = |text: &str| if text.is_empty() { "NOASSERTION".to_string() } else { text.to_string() };
        let mut entry = json!({
            "name": package.name,
            "SPDXID": id,
            "versionInfo": package.version,
            "supplier": "NOASSERTION",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": url(kind, package, &found.system),
            }],
        });
        if !package.license.is_empty() {
            // As the distribution writes it, which need not be an expression of SPDX.
            entry["comment"] = json!(format!("license: {}", or_none(&package.license)));
        }
        if package.homepage.starts_with("http") {
            entry["homepage"] = json!(package.homepage);
        }
        if !package.source.is_empty() {
            entry["sourceInfo"] = json!(format!("built from {}", package.source));
        }
        list.push(entry);
        relationships.push(json!({
            "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": id,
        }));
    }
    let tool = format!("Tool: brig-{}", env!("CARGO_PKG_VERSION"));
    let mut info = json!({ "created": created, "creators": ["Organization: brig", tool] });
    let covers = "packages that dpkg and apk say are installed; nothing is looked for in files";
    info["comment"] = json!(match found.has_rpm {
        true => format!("{covers}; there is a database of rpm, which was not read"),
        false => covers.to_string(),
    });
    let mut out = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "creationInfo": info,
        "packages": list,
        "relationships": relationships,
    });
    let digest = Digest::of(out.to_string().as_bytes());
    out["documentNamespace"] = json!(format!("urn:brig:sbom:{}", digest.hex()));
    out
}

/// A package URL.
fn url(kind: &str, package: &Package, (system, version): &(String, String)) -> String {
    let space = match (kind, system.as_str()) {
        (_, known) if !known.is_empty() => known,
        ("apk", _) => "alpine",
        _ => "debian",
    };
    let (name, own) = (escaped(&package.name), escaped(&package.version));
    let mut out = format!("pkg:{kind}/{}/{name}@{own}", escaped(space));
    let mut mark = '?';
    let distro = if version.is_empty() { String::new() } else { format!("{space}-{version}") };
    let parts = [("arch", package.architecture.as_str()), ("distro", &distro), ("upstream", &package.source)];
    for (key, value) in parts.into_iter().filter(|(_, value)| !value.is_empty()) {
        out.push_str(&format!("{mark}{key}={}", escaped(value)));
        mark = '&';
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_mean_stages() {
        for (value, name, want) in [
            ("true", "x", true),
            ("1", "", true),
            ("", "x", false),
            ("false", "false", false),
            ("a, B", "b", true),
            ("a,b", "c", false),
        ] {
            assert_eq!(is_meant(value, name), want, "{value} {name}");
        }
    }

    #[test]
    fn what_is_installed_becomes_a_document() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("directory");
            std::fs::write(path, text).expect("write");
        };
        write("etc/os-release", "ID=debian\nVERSION_ID=12\n");
        write(
            "var/lib/dpkg/status",
            "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1+2\n",
        );
        write("var/lib/dpkg/status.d/tz", "Package: tzdata\nVersion: 2024a\nArchitecture: all\n");
        write("var/lib/dpkg/status.d/tz.md5sums", "Package: no\nVersion: 1\n");
        std::os::unix::fs::symlink("/lib/apk/db/installed", dir.path().join("lib")).expect("symlink");
        write("var/lib/rpm/rpmdb.sqlite", "x");
        let root = RootDir::open(dir.path()).expect("open");
        let found = look(&root).expect("read");
        let document = document(&found, "sbom", "2026-01-01T00:00:00Z");
        let urls: Vec<&str> = document["packages"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|p| p["externalRefs"][0]["referenceLocator"].as_str())
            .collect();
        assert_eq!(
            urls,
            [
                "pkg:deb/debian/bash@1%2B2?arch=amd64&distro=debian-12",
                "pkg:deb/debian/tzdata@2024a?arch=all&distro=debian-12"
            ]
        );
        assert!(document["creationInfo"]["comment"].as_str().is_some_and(|c| c.contains("rpm")));
        assert_eq!(super::document(&found, "sbom", "2026-01-01T00:00:00Z"), document);
    }
}
