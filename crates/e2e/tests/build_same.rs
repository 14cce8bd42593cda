//! The same input gives the same bytes: two daemons, two times, files made in another order, at other times, under another
//! umask.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use testkit::daemon::{Daemon, Options};

const EPOCH: &str = "SOURCE_DATE_EPOCH=1700000000";
const DOCKERFILE: &str = "FROM BASE AS other
RUN mkdir /o && echo o > /o/x && ln /o/x /o/y
FROM BASE
WORKDIR /w/x
COPY . .
COPY --link dir /linked/
COPY --from=other --chown=3:4 /o /o
ADD archive.tar /unpacked/
RUN <<E
mkdir d e
for n in z y x; do echo $n > d/$n; done
ln -s d/z l
mkfifo p
touch -d '2035-01-01 00:00:00' later
touch -d '2001-01-01 00:00:00' earlier
rm /etc/group
E
USER 5
WORKDIR mine
ENV a=b
";

/// The same context, made by another hand.
fn context(reversed: bool, age_s: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<(String, String)> =
        (0..120).map(|n| (format!("dir/{}/f{n}", n % 4), format!("{n}\n"))).collect();
    files.push(("Dockerfile".into(), DOCKERFILE.replace("BASE", BUSYBOX)));
    files.push(("top".into(), "top\n".into()));
    let mut archive = vec![0; 512];
    archive[..4].copy_from_slice(b"name");
    archive[100..107].copy_from_slice(b"0000644");
    archive[124..135].copy_from_slice(b"00000000000");
    archive[136..147].copy_from_slice(b"16000000000");
    archive[156] = b'0';
    archive[257..265].copy_from_slice(b"ustar\x0000");
    archive[148..156].copy_from_slice(b"        ");
    let sum: u32 = archive.iter().map(|b| u32::from(*b)).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend([0; 1024]);
    if reversed {
        files.reverse();
    }
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::fs::write(dir.path().join("archive.tar"), archive).unwrap();
    let time = SystemTime::now() - Duration::from_secs(age_s);
    for path in below(dir.path()) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
    dir
}

/// Everything below a directory, the deepest first.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            out.extend(below(&entry.path()));
        }
        out.push(entry.path());
    }
    out
}

/// Names with kinds, modes, owners and times.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, i64, u64)> {
    let of = |path: PathBuf| {
        let meta = path.symlink_metadata().unwrap();
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let told = (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), size);
        (path.strip_prefix(dir).unwrap().to_path_buf(), told)
    };
    below(dir).into_iter().map(of).collect()
}

struct Made {
    image: String,
    manifest: String,
    files: Vec<Vec<u8>>,
    local: BTreeMap<PathBuf, (u32, u32, u32, i64, u64)>,
}

fn make(daemon: &Daemon, context: &Path) -> Made {
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).display().to_string();
    let mut args = vec!["build".to_string(), "-q".into(), "-t".into(), "same".into()];
    args.extend(["--build-arg".into(), EPOCH.into(), "--metadata-file".into(), at("metadata")]);
    args.extend(["-o".into(), "type=docker".into()]);
    for kind in ["tar", "oci", "docker", "local"] {
        args.extend(["-o".into(), format!("type={kind},dest={}", at(kind))]);
    }
    args.push(context.display().to_string());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let image = daemon.brig(&args).success();
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.path().join("metadata")).unwrap()).unwrap();
    let files = ["tar", "oci", "docker"].map(|kind| std::fs::read(out.path().join(kind)).unwrap()).to_vec();
    let manifest = metadata["containerimage.digest"].as_str().unwrap().to_string();
    Made { image, manifest, files, local: listing(&out.path().join("local")) }
}

#[test]
fn two_daemons_make_the_same_of_the_same() {
    if !testkit::is_root() {
        return;
    }
    let one = Daemon::start(Options::default());
    let two = Daemon::start(Options { first: Some("umask 0077"), ..Options::default() });
    for daemon in [&one, &two] {
        daemon.load_busybox(BUSYBOX);
    }
    let (here, there) = (context(false, 0), context(true, 86_400));
    let (first, second) = (make(&one, here.path()), make(&two, there.path()));
    assert_eq!(first.local, second.local);
    assert_eq!((&first.image, &first.manifest), (&second.image, &second.manifest));
    for (n, (a, b)) in first.files.iter().zip(&second.files).enumerate() {
        assert!(a == b, "archive {n} differs: {} and {} bytes", a.len(), b.len());
    }
    // No time passes the second, and none before it is lost.
    let late = first.local.iter().filter(|(_, told)| told.3 > 1_700_000_000).collect::<Vec<_>>();
    assert!(late.is_empty(), "{late:?}");
    assert_eq!(first.local[Path::new("w/x/earlier")].3, 978_307_200);
    assert_eq!(first.local[Path::new("w/x/later")].3, 1_700_000_000);
    // The classic client's archive, and nothing from the cache.
    let mut classic = two.docker_command(&[
        "build",
        "--no-cache",
        "-q",
        "--build-arg",
        EPOCH,
        here.path().to_str().unwrap(),
    ]);
    classic.env("DOCKER_BUILDKIT", "0");
    assert_eq!(testkit::daemon::finish(classic, &[]).success(), first.image);
    // Said by the environment, and by the Dockerfile.
    let mut by_environment = one.brig_command(&["build", "-q", "--no-cache", there.path().to_str().unwrap()]);
    by_environment.env("SOURCE_DATE_EPOCH", "1700000000");
    assert_eq!(testkit::daemon::finish(by_environment, &[]).success(), first.image);
    let text = format!("ARG {EPOCH}\n{}", DOCKERFILE.replace("BASE", BUSYBOX));
    std::fs::write(there.path().join("Dockerfile"), text).unwrap();
    let by_file = two.brig(&["build", "-q", there.path().to_str().unwrap()]).success();
    assert_eq!(two.get(&format!("/images/{by_file}/json"))["Created"], "2023-11-14T22:13:20Z");
    for daemon in [&one, &two] {
        daemon.assert_no_leaks();
    }
}

/// The same through BuildKit's door, where its client is: archives and images by `buildx`.
#[test]
fn buildx_makes_the_same_of_the_same() {
    let Some(buildx) = std::env::var_os("BRIG_TEST_BUILDX") else {
        println!("skipped: BRIG_TEST_BUILDX names no program");
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let mut made: Vec<Vec<u8>> = Vec::new();
    for n in 0..2u64 {
        let daemon = Daemon::start(Options::default());
        daemon.load_busybox(BUSYBOX);
        let context = context(n == 1, n * 86_400);
        for kind in ["tar", "oci", "docker"] {
            let dest = out.path().join(format!("{kind}{n}"));
            let output = match kind {
                "tar" => format!("type=tar,dest={}", dest.display()),
                kind => format!("type={kind},rewrite-timestamp=true,dest={}", dest.display()),
            };
            // What is said of a build says when it was.
            let context = context.path().to_str().unwrap();
            let args = ["build", "--provenance=false", "--build-arg", EPOCH, "-o", &output, context];
            testkit::daemon::finish(daemon.client(Path::new(&buildx), &args), &[]).success();
            made.push(std::fs::read(dest).unwrap());
        }
        daemon.assert_no_leaks();
    }
    for n in 0..3 {
        assert!(made[n] == made[n + 3], "archive {n} differs");
    }
}
