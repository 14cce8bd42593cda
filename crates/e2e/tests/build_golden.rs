//! An image whose digest is known: the same on every machine, on every day, by every driver and every door. A change of
//! what is written into layers, configs or manifests shows here, and is a change that users see: everything that was
//! built before is built anew.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::btrfs::Btrfs;
use e2e::grpc::{self, Connection, bytes, entry};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use testkit::daemon::{Daemon, Options, finish};
use testkit::http::{Answer, Server};
use testkit::tar::{self, Entry};

const IMAGE: &str = "sha256:e19d00a5703ae964122ded96ce3f41d7c4301c71c5d4cf81d63cafaff032e448";
const MANIFEST: &str = "sha256:9c22bd3bc277f5c191f4011752f000737c2ad29269a40e4a1f839660b7d5707b";

const EPOCH: &str = "1700000000";
/// Before and after it.
const EARLY: u64 = 1_600_000_000;
const LATE: u64 = 1_750_000_000;

const DOCKERFILE: &str = r#"# syntax=docker/dockerfile:1
ARG NAME=file
FROM scratch AS other
COPY dir /of/other
COPY --chmod=4711 dir/small /of/special

FROM scratch
ARG NAME
ARG more="a b"
LABEL one=1 two="2 and ${more}"
ENV PATH=/bin:/usr/bin A=$NAME B="with \"quotes\""
WORKDIR /app/deep
COPY . .
COPY --chown=7:8 --chmod=u=rwX,go=rX dir /owned/
COPY --link dir/large /linked/${NAME}
COPY --parents dir/./sub/* /parents/
COPY --exclude=*.txt dir /excluded
COPY --from=other /of /from
COPY --from=other --chown=1000 /of/special /from/
ADD archive.tar.gz /unpacked/
ADD --unpack=false archive.tar.gz /packed/
COPY <<ONE <<"TWO" /here/
name is $NAME
ONE
name is $NAME
TWO
USER 7:8
WORKDIR mine
EXPOSE 80 53/udp
VOLUME /data /more
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --retries=2 CMD ["check", "all"]
SHELL ["/bin/ash", "-c"]
ONBUILD COPY . /onbuild
MAINTAINER nobody <nobody@example.org>
ENTRYPOINT ["/entry", "point"]
CMD run it
"#;

fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    put("Dockerfile", DOCKERFILE.as_bytes());
    put(".dockerignore", b"*.log\n!kept.log\n");
    put("gone.log", b"gone\n");
    put("kept.log", b"kept\n");
    put("dir/small", b"small\n");
    put("dir/empty", b"");
    put("dir/notes.txt", b"notes\n");
    put("dir/large", &b"0123456789abcdef".repeat(4096));
    // Shared with the context, where layers can.
    for n in 0..120u8 {
        put(&format!("dir/sub/{n}"), &[b'a' + n % 26].repeat(9000 + usize::from(n)));
    }
    put("dir/sub/grüße €", b"text\n");
    put(&format!("dir/{}/{}", "d".repeat(120), "f".repeat(200)), b"long\n");
    std::os::unix::fs::symlink("../dir/small", dir.path().join("dir/link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.path().join("dir/dangling")).unwrap();
    std::fs::hard_link(dir.path().join("dir/large"), dir.path().join("dir/second")).unwrap();
    let archive = tar::archive(&[
        Entry::directory("d/", 0o2750),
        Entry::file("d/f", 0o640, "in the archive\n"),
        Entry::hardlink("d/g", "d/f"),
        Entry::symlink("d/s", "f"),
        Entry::character_device("d/null", 1, 3),
    ]);
    put("archive.tar.gz", &tar::gzip(&archive));
    settle(dir.path());
    dir
}

/// Modes by kind, times by name.
fn settle(path: &Path) {
    let meta = path.symlink_metadata().unwrap();
    if meta.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| settle(&entry.unwrap().path()));
    }
    let name = path.file_name().unwrap().to_str().unwrap();
    let seconds = if name.len().is_multiple_of(2) { EARLY + name.len() as u64 } else { LATE };
    if meta.is_symlink() {
        let time = rustix::fs::Timespec { tv_sec: i64::try_from(seconds).unwrap(), tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        return;
    }
    let mode = if meta.is_dir() || name == "small" { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

const ARGS: &[&str] = &["--platform", "linux/amd64", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];

/// By `brig build`: id and digest of the manifest.
fn brig(daemon: &Daemon, context: &Path, flags: &[&str]) -> (String, String) {
    let metadata = daemon.scratch().join("metadata");
    let own = ["build", "-q", "-t", "golden", "--metadata-file", metadata.to_str().unwrap()];
    let image = daemon.brig(&[&own[..], ARGS, flags, &[context.to_str().unwrap()]].concat()).success();
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    (image, metadata["containerimage.digest"].as_str().unwrap().to_string())
}

/// By the docker CLI, to the classic endpoint.
fn docker(daemon: &Daemon, context: &Path) -> String {
    let args = [&["build", "-q", "--no-cache"], ARGS, &[context.to_str().unwrap()]].concat();
    let mut command = daemon.docker_command(&args);
    command.env("DOCKER_BUILDKIT", "0");
    finish(command, &[]).success()
}

/// By BuildKit's API, from an archive behind a URL.
fn solve(daemon: &Daemon, context: &Path) -> String {
    let packed = std::process::Command::new("tar").args(["-c", "-C"]).arg(context).arg(".").output().unwrap();
    let server = Server::start(move |_, _| Answer::new(200, packed.stdout.clone()));
    let _session = grpc::session(&daemon.socket, "s");
    let asked = [
        bytes(1, "golden"),
        bytes(5, "s"),
        bytes(6, "dockerfile.v0"),
        entry(7, "context", &format!("http://{}/context.tar", server.address)),
        entry(7, "platform", "linux/amd64"),
        entry(7, "build-arg:SOURCE_DATE_EPOCH", EPOCH),
        entry(7, "no-cache", ""),
        bytes(13, [bytes(1, "image"), entry(2, "name", "docker.io/library/asked:latest")].concat()),
    ];
    let mut client = Connection::open(&daemon.socket);
    let answer = client.call("/moby.buildkit.v1.Control/Solve", &asked.concat());
    assert_eq!(answer.len(), 1, "{}", client.trailers());
    daemon.get("/images/asked/json")["Id"].as_str().unwrap().to_string()
}

fn start(driver: &str, data_root: Option<PathBuf>) -> Daemon {
    let flags = vec!["--storage-driver".into(), driver.into()];
    Daemon::start(Options { flags, data_root, ..Options::default() })
}

#[test]
fn the_image_is_the_one_it_always_was() {
    if !testkit::is_root() {
        return;
    }
    let file_system = Btrfs::new();
    let context = context();
    let first = start("overlay2", None);
    assert_eq!(docker(&first, context.path()), IMAGE, "the classic endpoint");
    assert_eq!(solve(&first, context.path()), IMAGE, "BuildKit's API");
    for driver in ["overlay2", "erofs", "vfs", "btrfs"] {
        let data_root = (driver == "btrfs").then(|| file_system.root().join("data"));
        let daemon = start(driver, data_root);
        let made = brig(&daemon, context.path(), &[]);
        assert_eq!((made.0.as_str(), made.1.as_str()), (IMAGE, MANIFEST), "{driver}");
        // What is given away is what was described.
        let saved = daemon.request("GET", "/images/get?names=golden", &Value::Null).expect(200).body;
        let loaded = first.load(&saved);
        assert_eq!(loaded.status, 200, "{driver}: {}", loaded.text());
        daemon.assert_no_leaks();
    }
    assert_eq!(first.get("/images/golden/json")["Id"], IMAGE, "saved and loaded");
    first.assert_no_leaks();
}
