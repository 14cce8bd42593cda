//! Images in place of those that suites expect from Docker Hub, made of busybox: the names and the files that tests look
//! for are the same, the programs are not.

use crate::run::{Doing, Error, Result, output};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names, the command, and a text that makes each image's layer its own.
const IMAGES: &[(&[&str], &str, &str)] = &[
    (&["alpine:3.10"], r#"["/bin/sh"]"#, "3.10.9"),
    (&["alpine:latest"], r#"["/bin/sh"]"#, "3.22.0"),
    (&["busybox:latest", "busybox:buildroot-2014.02"], r#"["sh"]"#, "busybox"),
    (&["hello-world:latest"], r#"["echo","Hello from Docker!"]"#, "hello"),
    (&["ubuntu:latest"], r#"["/bin/bash"]"#, "ubuntu"),
];

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    IMAGES.iter().flat_map(|(names, ..)| names.iter().copied())
}

/// Makes an archive of `docker save` with all images in `work`; its path.
pub(super) fn make(work: &Path) -> Result<PathBuf> {
    let image = work.join("images");
    let mut manifest = Vec::new();
    for (number, (names, command, mark)) in IMAGES.iter().enumerate() {
        let root = work.join(format!("root-{number}"));
        fill(&root, mark)?;
        let (layer, config) = (format!("{number}.tar"), format!("{number}.json"));
        std::fs::create_dir_all(&image).doing(|| format!("create {}", image.display()))?;
        tar(&image.join(&layer), &root)?;
        let sum = output(Command::new("sha256sum").arg(image.join(&layer)))?;
        let digest = sum.split(' ').next().filter(|d| d.len() == 64);
        let digest = digest.ok_or_else(|| Error::new("sha256sum printed no digest"))?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let text = format!(
            r#"{{"architecture":"{architecture}","os":"linux","created":"2021-01-01T00:00:00Z","config":{{"Cmd":{command},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[{{"created":"2021-01-01T00:00:00Z","created_by":"ADD file in /"}}]}}"#
        );
        std::fs::write(image.join(&config), text).doing(|| format!("write {config}"))?;
        let tags: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
        let tags = tags.join(",");
        manifest.push(format!(r#"{{"Config":"{config}","RepoTags":[{tags}],"Layers":["{layer}"]}}"#));
    }
    let text = format!("[{}]", manifest.join(","));
    std::fs::write(image.join("manifest.json"), text).doing(|| "write manifest.json".into())?;
    let archive = work.join("images.tar");
    tar(&archive, &image)?;
    Ok(archive)
}

fn fill(root: &Path, mark: &str) -> Result<()> {
    for directory in [
        "bin", "dev", "etc", "home", "lib", "mnt", "opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp",
        "usr/bin", "usr/sbin", "var/log", "var/opt",
    ] {
        std::fs::create_dir_all(root.join(directory)).doing(|| format!("create {directory}"))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).doing(|| "copy /bin/busybox".into())?;
    for applet in output(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|a| *a != "busybox") {
        let link = root.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", &link).doing(|| format!("link {}", link.display()))?;
    }
    // Of those who look for more than busybox has: a bash, and an uptime that counts users.
    for (name, text) in [
        ("bash", "#!/bin/sh\nexec /bin/busybox sh \"$@\"\n"),
        (
            "uptime",
            "#!/bin/sh\necho ' 12:00:00 up 1 day,  1:00,  0 users,  load average: 0.00, 0.00, 0.00'\n",
        ),
    ] {
        let path = root.join("bin").join(name);
        // An applet's link would be written through.
        drop(std::fs::remove_file(&path));
        std::fs::write(&path, text).doing(|| format!("write {name}"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .doing(|| format!("chmod {name}"))?;
    }
    for (name, text) in [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/var:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        ),
        ("group", "root:x:0:\npostgres:x:70:\nnogroup:x:65533:\nnobody:x:65534:\n"),
        ("hostname", "localhost\n"),
        ("alpine-release", mark),
    ] {
        std::fs::write(root.join("etc").join(name), text).doing(|| format!("write {name}"))?;
    }
    Ok(())
}

fn tar(archive: &Path, directory: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--owner=0", "--group=0", "-C"]).arg(directory).arg("-cf").arg(archive);
    let entries = std::fs::read_dir(directory).doing(|| format!("read {}", directory.display()))?;
    tar.args(entries.flatten().map(|e| e.file_name()));
    output(&mut tar).map(drop)
}
