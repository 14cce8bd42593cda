//! Docker's buildx, where `BRIG_TEST_BUILDX` names its program (`cargo xtask conform build`): what it can ask of BuildKit's
//! API beside the corpus.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::daemon::{Daemon, Finished, Options};
use testkit::registry::Registry;

struct Buildx {
    daemon: Daemon,
    program: PathBuf,
    work: tempfile::TempDir,
}

impl Buildx {
    fn new(options: Options) -> Option<Buildx> {
        let program = std::env::var_os("BRIG_TEST_BUILDX").filter(|_| testkit::is_root())?;
        let daemon = Daemon::start(options);
        daemon.load_busybox(BUSYBOX);
        Some(Buildx { daemon, program: program.into(), work: tempfile::tempdir().unwrap() })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.daemon.client(Path::new(&self.program), args);
        command.current_dir(self.work.path());
        command
    }

    fn run(&self, args: &[&str]) -> Finished {
        testkit::daemon::finish(self.command(args), &[])
    }

    /// Builds, and returns what was said of it.
    fn build(&self, args: &[&str]) -> String {
        let done = self.run(&[&["build", "--progress", "plain"], args, &["."]].concat());
        assert_eq!(done.code, Some(0), "{done:?}");
        done.stderr
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.work.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content.replace("BASE", BUSYBOX)).unwrap();
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.work.path().join(name)).unwrap()
    }
}

#[test]
#[ignore = "needs docker's buildx: cargo xtask conform build"]
fn results_go_where_they_are_wanted() {
    let Some(buildx) = Buildx::new(Options::default()) else { return };
    buildx.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH/\nCOPY dir /dir\n");
    buildx.write("a/file", "hello\n");
    buildx.write("dir/sub/x", "x\n");
    buildx.build(&["-t", "app", "--iidfile", "iid", "--metadata-file", "metadata"]);
    let metadata: serde_json::Value = serde_json::from_str(&buildx.text("metadata")).unwrap();
    let image = buildx.daemon.get("/images/app/json");
    assert_eq!(buildx.daemon.get(&format!("/images/{}/json", buildx.text("iid")))["Id"], image["Id"]);
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    assert_eq!(buildx.daemon.get(&format!("/images/{digest}/json"))["Id"], image["Id"]);
    buildx.build(&["--output", "type=local,dest=local", "--output", "type=tar,dest=out.tar"]);
    assert_eq!(
        (buildx.text("local/amd64/file"), buildx.text("local/dir/sub/x")),
        ("hello\n".into(), "x\n".into())
    );
    let list = Command::new("tar").current_dir(buildx.work.path()).args(["tf", "out.tar"]).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("dir/sub/x"), "{list:?}");
    // Archives come in again.
    for kind in ["oci", "docker"] {
        let output = format!("type={kind},dest={kind}.tar,annotation.k=v");
        buildx.build(&["-t", &format!("again:{kind}"), "--output", &output]);
        let archive = buildx.work.path().join(format!("{kind}.tar"));
        let loaded = buildx.daemon.brig(&["load", "-i", archive.to_str().unwrap()]).success();
        assert!(loaded.contains(&format!("again:{kind}")), "{loaded}");
    }
    // Several platforms: an index here, and a directory for each.
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    buildx.build(&[&platforms[..], &["-t", "multi"]].concat());
    buildx.build(&[&platforms[..], &["--output", "type=local,dest=multi"]].concat());
    assert_eq!(buildx.text("multi/linux_arm64/arm64/file"), "hello\n");
    // What cannot be is said.
    let refused = buildx.run(&["build", "--output", "type=tar,dest=x.tar,compression=zstd", "."]);
    assert!(refused.code != Some(0) && refused.stderr.contains("compression=zstd"), "{refused:?}");
    buildx.daemon.assert_no_leaks();
}

#[test]
#[ignore = "needs docker's buildx: cargo xtask conform build"]
fn layouts_are_contexts() {
    let Some(buildx) = Buildx::new(Options::default()) else { return };
    buildx.write("Dockerfile", "FROM BASE\nRUN echo laid > /laid\nENV laid=out\n");
    buildx.build(&["-t", "laid:1", "--output", "type=oci,dest=laid.tar"]);
    std::fs::create_dir(buildx.work.path().join("layout")).unwrap();
    let tar = Command::new("tar")
        .current_dir(buildx.work.path())
        .args(["xf", "laid.tar", "-C", "layout"])
        .status()
        .unwrap();
    assert!(tar.success());
    buildx.daemon.brig(&["builder", "prune", "-af"]).success();
    buildx.write("Dockerfile", "FROM base\nCOPY --from=base /laid /copied\nRUN echo $laid >> /laid\n");
    buildx.build(&["-t", "app", "--build-context", "base=oci-layout://layout:1"]);
    assert_eq!(
        buildx.daemon.brig(&["run", "--rm", "app", "cat", "/laid", "/copied"]).success(),
        "laid\nout\nlaid"
    );
    buildx.daemon.assert_no_leaks();
}

/// Ctrl-C and a client that is killed end what they began.
#[test]
#[ignore = "needs docker's buildx: cargo xtask conform build"]
fn a_client_that_goes_ends_its_build() {
    let Some(buildx) = Buildx::new(Options::default()) else { return };
    buildx.write("Dockerfile", "FROM BASE\nRUN sleep 1000\n");
    let runtime = buildx.daemon.exec_root.join("runtime");
    let steps = || {
        let entries = std::fs::read_dir(&runtime).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().len() == 64).count()
    };
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let client = testkit::daemon::Running::start(buildx.command(&["build", "--progress", "plain", "."]));
        testkit::wait_until("the step", || steps() == 1);
        let pid = rustix::process::Pid::from_raw(i32::try_from(client.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert_ne!(client.finish().code, Some(0));
        testkit::wait_until("the end of the step", || steps() == 0);
        testkit::wait_until("the end of its traces", || buildx.daemon.leaks().is_empty());
    }
}

#[test]
#[ignore = "needs docker's buildx: cargo xtask conform build"]
fn only_what_changed_is_sent() {
    let Some(buildx) = Buildx::new(Options::default()) else { return };
    buildx.write("Dockerfile", "FROM BASE\nCOPY dir /dir\nRUN cat /dir/1 /dir/2\n");
    buildx.write(".dockerignore", "dir/ignored\n");
    for (name, content) in [("1", "one\n"), ("2", "two\n"), ("ignored", "no\n")] {
        buildx.write(&format!("dir/{name}"), content);
    }
    buildx.write("other", "not asked for\n");
    buildx.build(&["-t", "app"]);
    let again = buildx.build(&["-t", "app"]);
    assert!(again.contains("transferring context: done"), "nothing is sent: {again}");
    assert_eq!(again.matches("CACHED").count(), 2, "{again}");
    buildx.write("dir/2", "changed\n");
    std::fs::remove_file(buildx.work.path().join("dir/1")).unwrap();
    buildx.write("dir/1", "one\n");
    let changed = buildx.build(&["-t", "app"]);
    assert!(changed.contains("changed") && !changed.contains("CACHED"), "{changed}");
    assert_eq!(buildx.daemon.brig(&["run", "--rm", "app", "ls", "/dir"]).success(), "1\n2");
    let usage = buildx.run(&["du", "--verbose"]).success();
    assert!(usage.contains("source.local"), "{usage}");
    buildx.run(&["prune", "-af"]).success();
    assert!(!buildx.run(&["du", "--verbose"]).success().contains("source.local"));
    // And then all of it again.
    buildx.build(&["-t", "app"]);
    buildx.daemon.assert_no_leaks();
}

#[test]
#[ignore = "needs docker's buildx: cargo xtask conform build"]
fn secrets_checks_targets_and_failures() {
    let Some(buildx) = Buildx::new(Options::default()) else { return };
    buildx.write("key", "sesame");
    buildx.write(
        "Dockerfile",
        "FROM BASE AS one\nRUN --mount=type=secret,id=key cat /run/secrets/key | wc -c\nFROM one AS two\nRUN exit 9\n",
    );
    let built = buildx.build(&["--target", "one", "--secret", "id=key,src=key"]);
    assert!(built.contains(" 6\n") && !built.contains("sesame"), "{built}");
    let failed = buildx.run(&["build", "--secret", "id=key,src=key", "."]);
    assert!(failed.code != Some(0) && failed.stderr.contains("exit code: 9"), "{failed:?}");
    assert!(failed.stderr.contains(">>> RUN exit 9"), "the place is shown: {failed:?}");
    buildx.write("docker-bake.hcl", "target \"default\" {\n  dockerfile-inline = \"FROM base\\nRUN cat /made\\n\"\n  contexts = { base = \"target:base\" }\n  tags = [\"baked\"]\n}\ntarget \"base\" { dockerfile-inline = \"FROM busybox:latest\\nRUN echo made > /made\\n\" }\n");
    let baked = buildx.run(&["bake", "--progress", "plain"]);
    assert_eq!(baked.code, Some(0), "{baked:?}");
    assert_eq!(buildx.daemon.brig(&["run", "--rm", "baked", "cat", "/made"]).success(), "made");
    buildx.daemon.assert_no_leaks();
}

#[test]
#[ignore = "needs docker's buildx: cargo xtask conform build"]
fn what_is_pushed_is_at_the_registry() {
    if !testkit::is_root() || std::env::var_os("BRIG_TEST_BUILDX").is_none() {
        return;
    }
    let registry = Registry::start();
    let Some(buildx) = Buildx::new(Options::default()) else { return };
    buildx.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let name = registry.reference("x/pushed", "1");
    buildx.build(&["-t", &name, "--push", "--metadata-file", "metadata"]);
    let metadata: serde_json::Value = serde_json::from_str(&buildx.text("metadata")).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    buildx.daemon.brig(&["rmi", &name]).success();
    let pulled = buildx.daemon.brig(&["pull", &name]).success();
    assert!(pulled.contains(digest), "{pulled}");
    buildx.daemon.assert_no_leaks();
}
