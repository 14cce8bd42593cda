//! The image that everyone runs: busybox, as an archive of `docker save`.

use crate::run::{Doing, Error, Result, output};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whole, so that nobody looks for it in a registry.
pub(super) const NAME: &str = "docker.io/library/busybox:bench";

/// The archive that [`make`] leaves.
pub(super) fn archive(work: &Path) -> PathBuf {
    work.join("busybox.tar")
}

/// Makes the archive in `work`.
pub(super) fn make(work: &Path) -> Result<()> {
    let (root, image) = (work.join("image-root"), work.join("image"));
    for directory in [root.join("bin"), root.join("tmp"), root.join("etc"), image.clone()] {
        std::fs::create_dir_all(&directory).doing(|| format!("create {}", directory.display()))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).doing(|| "copy /bin/busybox".into())?;
    for applet in ["sh", "true", "sleep"] {
        let link = root.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", &link).doing(|| format!("link {}", link.display()))?;
    }
    let layer = image.join("layer.tar");
    tar(&layer, &root)?;
    let sum = output(Command::new("sha256sum").arg(&layer))?;
    let digest = sum.split(' ').next().filter(|d| d.len() == 64);
    let digest = digest.ok_or_else(|| Error::new("sha256sum printed no digest"))?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["sh"],"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[{{"created_by":"bench"}}]}}"#
    );
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{NAME}"],"Layers":["layer.tar"]}}]"#);
    for (name, text) in [("config.json", config), ("manifest.json", manifest)] {
        std::fs::write(image.join(name), text).doing(|| format!("write {name}"))?;
    }
    tar(&archive(work), &image)
}

fn tar(archive: &Path, directory: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--numeric-owner")
        .arg("--owner=0")
        .arg("--group=0")
        .arg("-C")
        .arg(directory)
        .arg("-cf")
        .arg(archive);
    let entries = std::fs::read_dir(directory).doing(|| format!("read {}", directory.display()))?;
    tar.args(entries.flatten().map(|e| e.file_name()));
    output(&mut tar).map(drop)
}
