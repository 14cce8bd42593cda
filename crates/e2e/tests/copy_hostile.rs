//! `cp` against a container that wants out: tests T-CP-1 and T-CP-2 of the project's list of regressions of other engines.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use testkit::daemon::Daemon;
use testkit::raw::{self, Response};
use testkit::tar::{self, Entry};

/// Rounds of the race; each does one of everything.
const ROUNDS: usize = 60;

/// A directory of the host that nothing may touch or tell.
struct Canary {
    dir: tempfile::TempDir,
    before: Vec<(PathBuf, u32, i64, i64)>,
}

const SECRET: &str = "the canary's secret";

impl Canary {
    fn new() -> Canary {
        let dir = tempfile::Builder::new().prefix("canary-").tempdir_in("/var/tmp").unwrap();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut canary = Canary { dir, before: Vec::new() };
        canary.before = canary.look();
        canary
    }

    fn look(&self) -> Vec<(PathBuf, u32, i64, i64)> {
        let mut paths = vec![self.dir.path().to_path_buf()];
        paths.extend(std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().path()));
        paths.sort();
        let look = |p: PathBuf| {
            let m = std::fs::symlink_metadata(&p).unwrap();
            (p, m.mode(), m.ctime(), m.ctime_nsec())
        };
        paths.into_iter().map(look).collect()
    }

    fn assert_untouched(&self) {
        assert_eq!(self.look(), self.before);
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn archive(daemon: &Daemon, method: &str, path: &str, body: &[u8]) -> Response {
    let path = format!("/containers/one/archive?path={path}");
    raw::send(&daemon.socket, method, &path, "application/x-tar", body).unwrap()
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes())
}

#[test]
fn t_cp_1_a_container_that_swaps_symlinks_gets_nothing_of_the_host() {
    let Some(daemon) = own() else { return };
    let canary = Canary::new();
    let up = "../".repeat(20);
    let racer = format!(
        "mkdir -p /r/d/v; cd /r; echo own > d/secret; while :; do mv d e; ln -s {0} d; rm d; ln -s {up}{1} d; rm d; mv e d; done",
        canary.path().display(),
        &canary.path().display().to_string()[1..],
    );
    // A volume below the path, whose place to mount on is raced as well.
    daemon.brig(&["run", "-d", "--name", "one", "-v", "/r/d/v", BUSYBOX, "sh", "-c", &racer]).success();
    testkit::wait_until("the race", || {
        daemon.brig(&["exec", "one", "test", "-e", "/r/d/secret"]).code == Some(0)
    });
    let evil = tar::archive(&[
        Entry::directory("./", 0o700),
        Entry::file("secret", 0o600, "overwritten"),
        Entry::file("planted", 0o600, "x"),
        Entry::directory("v2/", 0o700),
    ]);
    let mut reached = 0;
    for _ in 0..ROUNDS {
        for path in ["/r/d", "/r/d/", "/r/d/.", "/r/d/secret"] {
            let query = format!("/containers/one/archive?path={path}");
            // What vanishes while it is packed cuts the answer off.
            let Ok(got) = raw::send(&daemon.socket, "GET", &query, "application/x-tar", b"") else {
                continue;
            };
            assert!(!has_secret(&got.body), "GET {path} tells the host's secret");
            reached += usize::from(got.status == 200);
        }
        archive(&daemon, "HEAD", "/r/d/secret", b"");
        archive(&daemon, "PUT", "/r/d", &evil);
        archive(&daemon, "PUT", "/r/d/v", &evil);
    }
    assert!(reached > 0, "the race was never lost by anyone");
    canary.assert_untouched();
    daemon.brig(&["rm", "-f", "-v", "one"]).success();
    canary.assert_untouched();
    daemon.assert_no_leaks();
}

#[test]
fn t_cp_1_links_of_containers_and_archives_stay_inside() {
    let Some(daemon) = own() else { return };
    let canary = Canary::new();
    let place = canary.path().display();
    let links = format!(
        "ln -s {place} /abs; ln -s ../../../../../..{place} /rel; ln -s /proc/1/root{place} /magic; ln -s loop /loop"
    );
    daemon.brig(&["run", "--name", "one", BUSYBOX, "sh", "-c", &links]).success();
    let file = tar::archive(&[Entry::file("planted", 0o600, "x")]);
    for link in ["/abs", "/rel", "/magic", "/loop"] {
        for end in ["", "/", "/.", "/secret", "/../secret"] {
            let got = archive(&daemon, "GET", &format!("{link}{end}"), b"");
            assert!(!has_secret(&got.body), "{link}{end}");
            archive(&daemon, "PUT", &format!("{link}{end}"), &file);
        }
    }
    let evil: Vec<Vec<Entry>> = vec![
        vec![Entry::file("../planted", 0o600, "x")],
        vec![Entry::file("a/../../../../../../../../../../var/tmp/planted", 0o600, "x")],
        vec![Entry::file(&format!("{place}/planted"), 0o600, "x")],
        vec![Entry::symlink("l", &place.to_string()), Entry::file("l/planted", 0o600, "x")],
        vec![Entry::symlink("l", &place.to_string()), Entry::directory("l/", 0o777)],
        vec![Entry::hardlink("h", &format!("{place}/secret")), Entry::file("h", 0o600, "x")],
        vec![Entry::hardlink("h2", &format!("../../../../../../../..{place}/secret"))],
        vec![Entry::symlink(".", &place.to_string()), Entry::file("planted", 0o600, "x")],
    ];
    for entries in &evil {
        archive(&daemon, "PUT", "/tmp", &tar::archive(entries));
    }
    assert!(!Path::new("/var/tmp/planted").exists());
    canary.assert_untouched();

    // What a container sends stays below where the client wants it.
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(canary.path(), dir.path().join("way")).unwrap();
    daemon
        .brig(&["run", "--name", "two", BUSYBOX, "sh", "-c", "mkdir -p /out/way; echo x > /out/way/planted"])
        .success();
    let target = dir.path().to_str().unwrap();
    let copied = daemon.brig(&["cp", "two:/out/.", target]);
    assert_ne!(copied.code, Some(0), "a symlink of the destination is no directory to go through");
    canary.assert_untouched();
    daemon.remove_all();
    daemon.assert_no_leaks();
}

#[test]
fn t_cp_2_no_program_of_the_image_is_run_to_unpack() {
    let Some(daemon) = own() else { return };
    let traps = ["xz", "gzip", "gunzip", "unpigz", "zstd", "bzip2", "tar"];
    let set: String = traps
        .iter()
        .map(|t| format!("for d in /bin /usr/bin; do rm -f $d/{t}; printf '#!/bin/sh\\ntouch /ran\\n' > $d/{t}; chmod 755 $d/{t}; done; "))
        .collect();
    let set = format!("{set} echo 'passwd: evil' > /etc/nsswitch.conf");
    daemon.brig(&["run", "--name", "one", "--user", "app", BUSYBOX, "true"]).success();
    daemon.brig(&["rm", "one"]).success();
    daemon.brig(&["run", "--name", "one", BUSYBOX, "sh", "-c", &set]).success();
    let plain = tar::archive(&[Entry::file("f", 0o644, "x")]);
    archive(&daemon, "PUT", "/tmp&copyUIDGID=1", &tar::gzip(&plain)).expect(200);
    for program in ["xz", "bzip2", "zstd"] {
        let Ok(output) = std::process::Command::new(program).arg("--version").output() else { continue };
        if output.status.success() {
            let mut command = std::process::Command::new(program);
            command.arg("-c").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), &plain).unwrap();
            archive(&daemon, "PUT", "/tmp", &child.wait_with_output().unwrap().stdout);
        }
    }
    archive(&daemon, "GET", "/tmp", b"").expect(200);
    daemon.request("GET", "/containers/one/archive?path=/ran", &Value::Null).expect(404);
    assert!(!Path::new("/ran").exists());
    daemon.remove_all();
}

#[test]
fn an_archive_that_is_a_bomb_or_breaks_off_is_an_error_and_nothing_else_suffers() {
    let Some(daemon) = own() else { return };
    daemon.brig(&["create", "--name", "one", BUSYBOX, "cat", "/etc/passwd"]).success();
    let mut cut = tar::archive(&[Entry::file("large", 0o644, vec![7; 300_000])]);
    cut.truncate(100_000);
    archive(&daemon, "PUT", "/tmp", &cut).expect(400);
    // A sparse file that claims to be enormous is refused by its size or costs nothing.
    let mut header = tar::archive(&[Entry::file("huge", 0o644, "")]);
    header[124..136].copy_from_slice(b"77777777777\0");
    let sum = |h: &mut [u8]| {
        h[148..156].fill(b' ');
        let total: u32 = h[..512].iter().map(|b| u32::from(*b)).sum();
        h[148..155].copy_from_slice(format!("{total:06o}\0").as_bytes());
    };
    sum(&mut header);
    archive(&daemon, "PUT", "/tmp", &header[..512]).expect(400);
    daemon.brig(&["start", "-a", "one"]).success();
    daemon.remove_all();
    daemon.assert_no_leaks();
}
