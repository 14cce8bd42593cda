//! `build`: a layer has the context's own files where they are large enough, and nobody can tell but by counting links.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::btrfs::Btrfs;
use e2e::{BUSYBOX, own};
use serde_json::json;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use testkit::daemon::{Daemon, Finished, Options};

/// More files than are sent whole.
const FILES: usize = 130;
/// Of a file that is large enough.
const LARGE: usize = 20_000;

const DOCKERFILE: &str = "FROM BASE
WORKDIR /app
RUN ln -s /app /link
COPY . .
COPY --chown=7:8 dir /owned
COPY --chmod=600 dir /modes
COPY dir more /link/both/
COPY dir /again
RUN cp /app/dir/0/large3 /again/0/large3 && test $(stat -c %i /app/dir/1/large4) != $(stat -c %i /again/1/large4)
";

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "Dockerfile", &DOCKERFILE.replace("BASE", BUSYBOX));
    write(dir.path(), "top", &"t".repeat(LARGE));
    for n in 0..FILES {
        write(dir.path(), &format!("dir/{}/large{n}", n % 3), &format!("{n}").repeat(LARGE));
    }
    write(dir.path(), "dir/small", "small\n");
    write(dir.path(), "more/0/other", &"o".repeat(LARGE));
    std::fs::hard_link(dir.path().join("dir/0/large0"), dir.path().join("dir/1/also0")).unwrap();
    dir
}

fn build(daemon: &Daemon, dir: &Path, flags: &[&str]) -> Finished {
    daemon.brig(&[&["build", "-t", "app", "--progress=plain"], flags, &[dir.to_str().unwrap()]].concat())
}

fn run(daemon: &Daemon, script: &str) -> String {
    daemon.brig(&["run", "--rm", "app", "sh", "-c", script]).success()
}

/// All files of this name in layers.
fn in_layers(daemon: &Daemon, name: &str) -> Vec<PathBuf> {
    let layers = std::fs::read_dir(daemon.data_root.join("snapshots")).unwrap();
    let paths = layers.map(|layer| layer.unwrap().path().join("fs").join(name));
    paths.filter(|path| path.exists()).collect()
}

/// The file of this name in the context that is kept.
fn kept(daemon: &Daemon, name: &str) -> PathBuf {
    let all = std::fs::read_dir(daemon.data_root.join("build-cache")).unwrap();
    let mut paths = all.map(|one| one.unwrap().path().join("files").join(name)).filter(|path| path.exists());
    paths.next().unwrap()
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

fn diff_ids(daemon: &Daemon) -> serde_json::Value {
    daemon.get("/images/app/json")["RootFS"]["Layers"].clone()
}

#[test]
fn large_files_are_the_contexts_own() {
    let Some(daemon) = own() else { return };
    let dir = context();
    build(&daemon, dir.path(), &[]).success();
    let only = |name: &str| {
        let found = in_layers(&daemon, name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0].clone()
    };
    assert_eq!(inode(&only("app/dir/0/large3")), inode(&kept(&daemon, "dir/0/large3")));
    // What lies in a directory that was there, is small, or belongs to another, or has another mode.
    for (name, of) in [
        ("app/top", "top"),
        ("app/dir/small", "dir/small"),
        ("owned/0/large3", "dir/0/large3"),
        ("modes/0/large3", "dir/0/large3"),
    ] {
        assert_ne!(inode(&only(name)), inode(&kept(&daemon, of)), "{name}");
    }
    // The last source goes into directories that the one before has made.
    assert_ne!(inode(&only("app/both/0/other")), inode(&kept(&daemon, "more/0/other")));
    // A second name of a file is another file, as it is where nothing is shared.
    assert_ne!(inode(&only("app/dir/1/also0")), inode(&only("app/dir/0/large0")));
    assert_eq!(
        run(
            &daemon,
            "stat -c '%a %u:%g' /owned/0/large3 /modes/0/large3; cat dir/small; head -c 3 dir/1/also0; \
             head -c 3 both/0/other; ls both"
        ),
        "644 7:8\n600 0:0\nsmall\n000ooo0\n1\n2\nsmall"
    );
    assert_eq!(daemon.get("/brig/check")["Faults"], json!([]));

    // A container that writes writes to a copy of its own.
    run(&daemon, "echo mine > dir/0/large3; chmod 600 dir/0/large6; chown 5 dir/0/large9");
    assert_eq!(
        run(&daemon, "head -c 6 dir/0/large3; stat -c %a%u dir/0/large6 dir/0/large9"),
        "3333336440\n6440"
    );

    // Another file of that name, and neither the image before it nor the files beside it are others.
    daemon.brig(&["tag", "app", "before"]).success();
    let before = diff_ids(&daemon);
    write(dir.path(), "dir/0/large3", &"new".repeat(LARGE));
    let again = build(&daemon, dir.path(), &[]);
    assert!(again.stderr.contains("transferring context: 1 of"), "{again:?}");
    assert_ne!(diff_ids(&daemon), before);
    assert_eq!(run(&daemon, "head -c 4 dir/0/large3"), "newn");
    let head =
        |image: &str| daemon.brig(&["run", "--rm", image, "head", "-c", "4", "dir/0/large3"]).success();
    assert_eq!((head("before"), head("app")), ("3333".into(), "newn".into()));
    let two = in_layers(&daemon, "app/dir/0/large6");
    assert_eq!((two.len(), inode(&two[0])), (2, inode(&two[1])));

    // Whoever goes takes a name with it and no more.
    daemon.brig(&["rmi", "before"]).success();
    daemon.brig(&["builder", "prune", "-af"]).success();
    assert_eq!(
        run(&daemon, "tr -d 6 < dir/0/large6 | wc -c; cat dir/0/large6 dir/0/large3 | wc -c"),
        format!("0\n{}", 4 * LARGE)
    );
    assert_eq!(daemon.get("/brig/check")["Faults"], json!([]));
}

/// A context that came as an archive, and one that is there no longer.
#[test]
fn files_of_an_archive_stay_when_it_is_gone() {
    let Some(daemon) = own() else { return };
    let dir = context();
    let mut classic = daemon.docker_command(&["build", "-q", "-t", "app", dir.path().to_str().unwrap()]);
    classic.env("DOCKER_BUILDKIT", "0");
    testkit::daemon::finish(classic, &[]).success();
    assert_eq!(
        run(&daemon, "head -c 4 dir/0/large6; ls dir/0 | wc -l"),
        format!("6666{}", FILES.div_ceil(3))
    );
    assert_eq!(daemon.get("/brig/check")["Faults"], json!([]));
}

/// The same layers, whether files are shared by name, by reference, or copied.
#[test]
fn layers_are_the_same_however_files_come() {
    let Some(by_name) = own() else { return };
    let file_system = Btrfs::new();
    let on = |driver: &str| {
        let options = Options {
            data_root: Some(file_system.root().join(driver)),
            flags: vec!["--storage-driver".into(), driver.into()],
            ..Options::default()
        };
        let daemon = Daemon::start(options);
        daemon.load_busybox(BUSYBOX);
        daemon
    };
    let dir = context();
    // A file that is later than the second that the layer tells is copied; those before are not.
    let time = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let set = |path: &Path, seconds: u64| {
        std::fs::File::open(path).unwrap().set_modified(time(seconds)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    for n in 0..FILES {
        set(&dir.path().join(format!("dir/{}/large{n}", n % 3)), 1_600_000_000 + n as u64);
    }
    set(&dir.path().join("dir/0/large6"), 1_800_000_000);
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    build(&by_name, dir.path(), &epoch).success();
    let wanted = diff_ids(&by_name);
    let layer = &in_layers(&by_name, "app/dir/0/large6")[0];
    assert_eq!(layer.metadata().unwrap().mtime(), 1_700_000_000);
    assert_eq!(kept(&by_name, "dir/0/large6").metadata().unwrap().mtime(), 1_800_000_000);
    let other = &in_layers(&by_name, "app/dir/0/large9")[0];
    assert_eq!(inode(other), inode(&kept(&by_name, "dir/0/large9")));
    for driver in ["overlay2", "vfs", "btrfs"] {
        let daemon = on(driver);
        build(&daemon, dir.path(), &epoch).success();
        assert_eq!(diff_ids(&daemon), wanted, "{driver}");
        if driver == "overlay2" {
            // By reference: a file of its own.
            let layer = &in_layers(&daemon, "app/dir/0/large9")[0];
            assert_eq!(layer.metadata().unwrap().nlink(), 1);
        }
        daemon.assert_no_leaks();
    }
}
