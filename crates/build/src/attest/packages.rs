//! Lists of installed packages as Debian's and Alpine's package managers keep them. Pure: text to packages.

/// A package as its manager knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    /// The source that it was built from, where that has another name.
    pub(crate) source: String,
    pub(crate) license: String,
    pub(crate) homepage: String,
}

/// Packages of one image that are listed.
pub(crate) const MAX_PACKAGES: usize = 100_000;

fn clean(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(1000).collect()
}

/// dpkg's `status`, or one file of `status.d`: what is installed.
pub(crate) fn dpkg(text: &str) -> Vec<Package> {
    let mut out = Vec::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            let found = paragraph.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| clean(value))
            });
            found.unwrap_or_default()
        };
        let (name, version) = (field("Package"), field("Version"));
        let status = field("Status");
        // Files of distroless images have no status; what is removed or half there has another.
        let is_installed = status.is_empty() || status.split(' ').nth(2) == Some("installed");
        if name.is_empty() || version.is_empty() || !is_installed || out.len() >= MAX_PACKAGES {
            continue;
        }
        let source = field("Source");
        let source = source.split(" (").next().unwrap_or_default().to_string();
        out.push(Package {
            name,
            version,
            architecture: field("Architecture"),
            source,
            license: String::new(),
            homepage: field("Homepage"),
        });
    }
    out
}

/// apk's `installed`.
pub(crate) fn apk(text: &str) -> Vec<Package> {
    let mut out = Vec::new();
    for paragraph in text.split("\n\n") {
        let field = |name: char| {
            let found = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            clean(found.unwrap_or_default())
        };
        let (name, version) = (field('P'), field('V'));
        if name.is_empty() || version.is_empty() || out.len() >= MAX_PACKAGES {
            continue;
        }
        let (architecture, source) = (field('A'), field('o'));
        let (license, homepage) = (field('L'), field('U'));
        out.push(Package { name, version, architecture, source, license, homepage });
    }
    out
}

/// `ID` and `VERSION_ID` of `os-release`.
pub(crate) fn os_release(text: &str) -> (String, String) {
    let field = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        clean(found.unwrap_or_default().trim_matches(['"', '\'']))
    };
    (field("ID"), field("VERSION_ID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_debian() {
        let text = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2.15-2+b7\n\
            Source: bash (5.2.15-2)\nHomepage: http://x\nDescription: shell\n with: colon\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: no-version\n\n\
            package: distroless\nversion: 2\n";
        let packages = dpkg(text);
        let names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["bash", "distroless"]);
        assert_eq!((packages[0].source.as_str(), packages[0].version.as_str()), ("bash", "5.2.15-2+b7"));
        for strange in ["", "\n\n\n", "\0", ":", "Package:\nVersion:", &":\n".repeat(1000)] {
            assert!(dpkg(strange).is_empty(), "{strange:?}");
        }
    }

    #[test]
    fn packages_of_alpine() {
        let text =
            "C:Q1x\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nU:https://musl\no:musl\nF:lib\nR:ld\n\nP:only\n\n";
        let packages = apk(text);
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].license.as_str(), packages[0].architecture.as_str()), ("MIT", "x86_64"));
        assert!(apk("\0\n\nP\nV").is_empty());
    }

    #[test]
    fn names_of_systems() {
        let text = "PRETTY_NAME=\"x\"\nID=debian\nVERSION_ID=\"12\"\nID_LIKE=y\n";
        assert_eq!(os_release(text), ("debian".into(), "12".into()));
        assert_eq!(os_release(""), (String::new(), String::new()));
    }
}
