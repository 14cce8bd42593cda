//! The images that are moved: Debian with Python and a compiler, in three layers of which one is large, once in gzip and
//! once in zstd; the same with one small layer more; and one of a hundred layers. Made once, kept in the target directory,
//! in the form in which a registry stores them.

use crate::run::{Doing, Error, Result, output, run};
use crate::workspace::target;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Raised when what is made changes, so that nobody measures what was made before.
const VERSION: &str = "1";
const PACKAGES: &str = "python3,python3-pip,g++";
/// Layers of the image of many.
const MANY: usize = 100;

/// What there is.
#[derive(Debug)]
pub(super) struct Material {
    /// Storage of a registry that has all of it.
    pub(super) registry: PathBuf,
    /// The large image as a plain archive of `docker save`, and the same through gzip.
    pub(super) archive: PathBuf,
    pub(super) archive_gzip: PathBuf,
    /// Digests of the large image's blobs, by the name of its repository.
    pub(super) layers: BTreeMap<String, Vec<String>>,
    /// Bytes of its layers, unpacked.
    pub(super) bytes: u64,
}

/// A compression, as a program and as a media type.
#[derive(Debug, Clone, Copy)]
struct Codec {
    name: &'static str,
    program: &'static [&'static str],
}

const CODECS: &[Codec] =
    &[Codec { name: "gzip", program: &["gzip", "-nc"] }, Codec { name: "zstd", program: &["zstd", "-qc"] }];

#[derive(Debug, Clone)]
struct Blob {
    digest: String,
    size: u64,
}

/// Makes what is missing.
pub(super) fn ensure() -> Result<Material> {
    let dir = target().join("bench-images");
    let registry = dir.join("registry");
    let done = dir.join("done");
    if std::fs::read_to_string(&done).is_ok_and(|text| text.lines().next() == Some(VERSION)) {
        return read(&dir);
    }
    drop(std::fs::remove_dir_all(&registry));
    std::fs::create_dir_all(&registry).doing(|| format!("create {}", registry.display()))?;
    let tars = layers(&dir)?;
    let mut list = format!("{VERSION}\n");
    let mut bytes = 0;
    for tar in &tars[..3] {
        bytes += size(tar)?;
    }
    writeln!(list, "bytes {bytes}").expect("writing to a String");
    let diff_ids = tars.iter().map(|tar| digest(tar)).collect::<Result<Vec<_>>>()?;
    for codec in CODECS {
        let blobs = tars.iter().map(|tar| compress(tar, *codec, &registry)).collect::<Result<Vec<_>>>()?;
        let repository = format!("bench/{}", codec.name);
        for (tag, count) in [("1", 3), ("2", 4)] {
            image(&registry, &repository, tag, codec.name, &blobs[..count], &diff_ids[..count])?;
        }
        let digests: Vec<&str> = blobs[..3].iter().map(|blob| blob.digest.as_str()).collect();
        writeln!(list, "{repository} {}", digests.join(" ")).expect("writing to a String");
    }
    many(&dir, &registry)?;
    archive(&dir, &tars[..3], &diff_ids[..3])?;
    for tar in tars {
        std::fs::remove_file(&tar).doing(|| format!("remove {}", tar.display()))?;
    }
    drop(std::fs::remove_dir_all(dir.join("root")));
    std::fs::write(&done, list).doing(|| format!("write {}", done.display()))?;
    read(&dir)
}

fn read(dir: &Path) -> Result<Material> {
    let text = std::fs::read_to_string(dir.join("done")).doing(|| "read what was made".into())?;
    let mut layers = BTreeMap::new();
    let mut bytes = 0;
    for line in text.lines().skip(1) {
        let mut words = line.split(' ').map(String::from);
        match words.next().as_deref() {
            Some("bytes") => bytes = words.next().and_then(|n| n.parse().ok()).unwrap_or_default(),
            Some(repository) => drop(layers.insert(repository.to_string(), words.collect())),
            None => {}
        }
    }
    let at = |name: &str| dir.join(name);
    Ok(Material {
        registry: at("registry"),
        archive: at("image.tar"),
        archive_gzip: at("image.tar.gz"),
        layers,
        bytes,
    })
}

/// The tars of the layers: the base, Python, the compiler, and a small change.
fn layers(dir: &Path) -> Result<Vec<PathBuf>> {
    let root = dir.join("root");
    if !root.join("var/lib/dpkg/status").exists() || !root.join("usr/bin/g++").exists() {
        drop(std::fs::remove_dir_all(&root));
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]).arg(&root);
        run(command.stdout(std::process::Stdio::null()))?;
    }
    let mut find = Command::new("find");
    find.arg(&root).args(["-mindepth", "1", "-printf", "%P\\n"]);
    let kept = |path: &&str| {
        !path.starts_with("var/cache/apt/")
            && !path.starts_with("var/lib/apt/lists/")
            && !path.starts_with("proc/")
    };
    let all = output(&mut find)?;
    let all: Vec<&str> = all.lines().filter(kept).collect();
    let (python, optional) = owned(&root)?;
    let python: Vec<&str> = all.iter().copied().filter(|path| python.contains(*path)).collect();
    let compiler: Vec<&str> =
        all.iter().copied().filter(|path| optional.contains(*path) && !python.contains(path)).collect();
    let above: BTreeSet<&str> = python.iter().chain(&compiler).copied().collect();
    let base: Vec<&str> = all.iter().copied().filter(|path| !above.contains(path)).collect();
    let change: Vec<&str> =
        all.iter().copied().filter(|path| path.starts_with("usr/lib/python3/")).take(300).collect();
    let mut tars = Vec::new();
    for (name, paths) in [("base", base), ("python", python), ("compiler", compiler), ("change", change)] {
        let list = dir.join(format!("{name}.list"));
        std::fs::write(&list, paths.join("\n") + "\n").doing(|| format!("write {}", list.display()))?;
        let tar = dir.join(format!("{name}.tar"));
        let mut command = Command::new("tar");
        command.arg("-C").arg(&root).args([
            "--numeric-owner",
            "--no-recursion",
            "--sort=none",
            "--verbatim-files-from",
        ]);
        run(command.arg("-T").arg(&list).arg("-cf").arg(&tar))?;
        std::fs::remove_file(&list).doing(|| format!("remove {}", list.display()))?;
        tars.push(tar);
    }
    Ok(tars)
}

/// The files of Python's packages, and those of the other packages that the base does not need.
fn owned(root: &Path) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let mut query = Command::new("dpkg-query");
    query.arg(format!("--admindir={}", root.join("var/lib/dpkg").display()));
    let packages = output(query.args(["-W", "-f", "${Priority} ${binary:Package}\\n"]))?;
    let (mut python, mut optional) = (BTreeSet::new(), BTreeSet::new());
    for line in packages.lines() {
        let Some(("optional", package)) = line.split_once(' ') else { continue };
        let list = root.join("var/lib/dpkg/info").join(format!("{package}.list"));
        let list = std::fs::read_to_string(&list).doing(|| format!("read {}", list.display()))?;
        let set = if package.contains("python") { &mut python } else { &mut optional };
        set.extend(list.lines().map(|path| path.trim_start_matches('/').to_string()));
    }
    Ok((python, optional))
}

fn compress(tar: &Path, codec: Codec, registry: &Path) -> Result<Blob> {
    let made = tar.with_extension(codec.name);
    let file = std::fs::File::create(&made).doing(|| format!("create {}", made.display()))?;
    let mut command = Command::new(codec.program[0]);
    let status = command.args(&codec.program[1..]).arg(tar).stdout(file).status();
    if !status.doing(|| format!("start {}", codec.name))?.success() {
        return Err(Error::new(format!("{} of {} failed", codec.name, tar.display())));
    }
    store(registry, &made)
}

/// An image in the registry's storage.
fn image(
    registry: &Path,
    repository: &str,
    tag: &str,
    codec: &str,
    layers: &[Blob],
    diff_ids: &[String],
) -> Result<()> {
    let dir = registry.parent().unwrap_or(registry);
    let config = dir.join("config.json");
    std::fs::write(&config, self::config(diff_ids)).doing(|| "write a config".into())?;
    let config = store(registry, &config)?;
    let descriptor = |kind: &str, blob: &Blob| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
            blob.digest, blob.size
        )
    };
    let kind = format!("layer.v1.tar+{codec}");
    let listed: Vec<String> = layers.iter().map(|blob| descriptor(&kind, blob)).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        descriptor("config.v1+json", &config),
        listed.join(",")
    );
    let path = dir.join("manifest.json");
    std::fs::write(&path, manifest).doing(|| "write a manifest".into())?;
    let manifest = store(registry, &path)?;
    let home = registry.join("docker/registry/v2/repositories").join(repository);
    for blob in layers.iter().chain([&config]) {
        link(&home.join("_layers/sha256").join(hex(blob)), blob)?;
    }
    link(&home.join("_manifests/revisions/sha256").join(hex(&manifest)), &manifest)?;
    link(&home.join("_manifests/tags").join(tag).join("current"), &manifest)?;
    link(&home.join("_manifests/tags").join(tag).join("index/sha256").join(hex(&manifest)), &manifest)
}

fn config(diff_ids: &[String]) -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ids: Vec<String> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
    let history = vec![r#"{"created":"2024-01-01T00:00:00Z","created_by":"bench"}"#; ids.len()];
    format!(
        r#"{{"created":"2024-01-01T00:00:00Z","architecture":"{architecture}","os":"linux","config":{{"Cmd":["sh"],"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":[{}]}}"#,
        ids.join(","),
        history.join(",")
    )
}

/// The image of many layers.
fn many(dir: &Path, registry: &Path) -> Result<()> {
    let scratch = dir.join("many");
    std::fs::create_dir_all(&scratch).doing(|| format!("create {}", scratch.display()))?;
    let (mut blobs, mut diff_ids) = (Vec::new(), Vec::new());
    for n in 0..MANY {
        let tar = scratch.join("layer.tar");
        std::fs::write(scratch.join(format!("file{n}")), format!("{n}\n")).doing(|| "write a file".into())?;
        let mut command = Command::new("tar");
        command.arg("-C").arg(&scratch).args(["--owner=0", "--group=0", "--numeric-owner", "-cf"]).arg(&tar);
        output(command.arg(format!("file{n}")))?;
        diff_ids.push(digest(&tar)?);
        blobs.push(compress(&tar, CODECS[0], registry)?);
    }
    drop(std::fs::remove_dir_all(&scratch));
    image(registry, "bench/many", "1", "gzip", &blobs, &diff_ids)
}

/// The large image as `docker save` writes it.
fn archive(dir: &Path, tars: &[PathBuf], diff_ids: &[String]) -> Result<()> {
    let config = dir.join("config.json");
    std::fs::write(&config, self::config(diff_ids)).doing(|| "write a config".into())?;
    let names: Vec<String> =
        tars.iter().filter_map(|tar| Some(format!("{:?}", tar.file_name()?.to_str()?))).collect();
    let manifest = format!(
        r#"[{{"Config":"config.json","RepoTags":["localhost/bench/archive:1"],"Layers":[{}]}}]"#,
        names.join(",")
    );
    std::fs::write(dir.join("manifest.json"), manifest).doing(|| "write a manifest".into())?;
    let mut command = Command::new("tar");
    command.arg("-C").arg(dir).arg("-cf").arg(dir.join("image.tar"));
    command.args(tars.iter().filter_map(|tar| tar.file_name()));
    run(command.args(["config.json", "manifest.json"]))?;
    let gzip = dir.join("image.tar.gz");
    let file = std::fs::File::create(&gzip).doing(|| format!("create {}", gzip.display()))?;
    run(Command::new("gzip").arg("-nc").arg(dir.join("image.tar")).stdout(file))
}

/// Moves a file to where the registry keeps blobs.
fn store(registry: &Path, file: &Path) -> Result<Blob> {
    let blob = Blob { digest: digest(file)?, size: size(file)? };
    let home = registry.join("docker/registry/v2/blobs/sha256").join(&hex(&blob)[..2]).join(hex(&blob));
    std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
    std::fs::rename(file, home.join("data")).doing(|| format!("move {}", file.display()))?;
    Ok(blob)
}

fn link(dir: &Path, blob: &Blob) -> Result<()> {
    std::fs::create_dir_all(dir).doing(|| format!("create {}", dir.display()))?;
    std::fs::write(dir.join("link"), &blob.digest).doing(|| format!("write below {}", dir.display()))
}

fn hex(blob: &Blob) -> &str {
    blob.digest.trim_start_matches("sha256:")
}

fn size(file: &Path) -> Result<u64> {
    Ok(std::fs::metadata(file).doing(|| format!("look at {}", file.display()))?.len())
}

fn digest(file: &Path) -> Result<String> {
    let sum = output(Command::new("sha256sum").arg(file))?;
    match sum.split(' ').next().filter(|digest| digest.len() == 64) {
        Some(digest) => Ok(format!("sha256:{digest}")),
        None => Err(Error::new("sha256sum printed no digest")),
    }
}
