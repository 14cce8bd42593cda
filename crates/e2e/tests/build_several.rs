//! `brig build` for several platforms, with annotations, and lists of packages of stages and contexts.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::{Value, json};
use std::path::Path;
use testkit::daemon::{Daemon, Finished};
use testkit::registry::Registry;

fn build(daemon: &Daemon, dir: &Path, text: &str, flags: &[&str]) -> Finished {
    std::fs::write(dir.join("Dockerfile"), text.replace("BASE", BUSYBOX)).unwrap();
    daemon.brig(&[&["build", "--progress=plain"], flags, &[dir.to_str().unwrap()]].concat())
}

fn document(registry: &Registry, name: &str) -> Value {
    serde_json::from_slice(&registry.manifest("app", name).unwrap()).unwrap()
}

#[test]
fn several_platforms_are_one_index() {
    let Some(daemon) = own() else { return };
    let registry = Registry::start();
    let dir = tempfile::tempdir().unwrap();
    let reference = registry.reference("app", "1");
    // Nothing of the other platform is run: the stage that runs is of this machine.
    let text = "FROM --platform=$BUILDPLATFORM BASE AS tools\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
                FROM scratch\nCOPY --from=tools /arch /arch\n";
    let metadata = dir.path().join("metadata");
    let flags = [
        "-t",
        &reference,
        "--platform",
        "linux/amd64,linux/arm64",
        "--annotation",
        "all=1",
        "--annotation",
        "manifest[linux/arm64]:one=2",
        "--annotation",
        "index,manifest-descriptor:both=3",
        "--metadata-file",
        metadata.to_str().unwrap(),
    ];
    let built = build(&daemon, dir.path(), text, &flags);
    built.success();
    for platform in ["amd64", "arm64"] {
        assert!(built.stderr.contains(&format!("[linux/{platform} tools 2/3]")), "{built:?}");
    }
    daemon.brig(&["push", &reference]).success();
    let index = document(&registry, "1");
    assert_eq!(index["annotations"], json!({"both": "3"}));
    let manifests = index["manifests"].as_array().unwrap();
    let told: Vec<(&str, &str)> = manifests
        .iter()
        .map(|m| {
            (m["platform"]["architecture"].as_str().unwrap(), m["annotations"]["both"].as_str().unwrap())
        })
        .collect();
    assert_eq!(told, [("amd64", "3"), ("arm64", "3")]);
    let of =
        |at: usize| document(&registry, manifests[at]["digest"].as_str().unwrap())["annotations"].clone();
    assert_eq!((of(0), of(1)), (json!({"all": "1"}), json!({"all": "1", "one": "2"})));
    let said: Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(
        said["containerimage.digest"],
        daemon.get(&format!("/images/{reference}/json"))["RepoDigests"][0]
            .as_str()
            .unwrap()
            .rsplit_once('@')
            .unwrap()
            .1
    );
    // The host's own is what the name means.
    let out = dir.path().join("arch");
    daemon.brig(&["create", "--name", "holder", &reference, "x"]).success();
    daemon.brig(&["cp", "holder:/arch", out.to_str().unwrap()]).success();
    assert_eq!(std::fs::read_to_string(&out).unwrap().trim(), oci::Platform::host().architecture);
    daemon.brig(&["rm", "holder"]).success();
    // Again, all of it is known.
    let again = build(&daemon, dir.path(), text, &flags);
    assert_eq!(again.stderr.matches("CACHED").count(), 6, "{again:?}");

    let refused =
        build(&daemon, dir.path(), text, &["--platform", "linux/amd64,linux/arm64", "-o", "type=tar,dest=x"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("several platforms"), "{refused:?}");
    let twice = build(&daemon, dir.path(), text, &["--platform", "linux/amd64,linux/amd64"]);
    assert!(twice.code != Some(0) && twice.stderr.contains("named again"), "{twice:?}");
    let none = build(&daemon, dir.path(), text, &["--annotation", "index:a=b"]);
    assert!(none.code != Some(0) && none.stderr.contains("index annotations not supported"), "{none:?}");
    daemon.assert_no_leaks();
}

#[test]
fn packages_of_stages_and_contexts_are_listed_on_request() {
    let Some(daemon) = own() else { return };
    let registry = Registry::start();
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("lib/apk/db");
    std::fs::create_dir_all(&list).unwrap();
    std::fs::write(list.join("installed"), "P:ofcontext\nV:1\nA:x86_64\n\n").unwrap();
    let apk =
        |name: &str| format!("mkdir -p /lib/apk/db && printf 'P:{name}\\nV:2\\n\\n' > /lib/apk/db/installed");
    let text = format!(
        "FROM BASE AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN {}\n\
         FROM BASE AS quiet\nRUN {}\nFROM BASE\nARG BUILDKIT_SBOM_SCAN_CONTEXT=1\n\
         COPY --from=tools /bin/sh /x\nCOPY --from=quiet /bin/sh /y\nRUN {}\n",
        apk("oftools"),
        apk("ofquiet"),
        apk("ofresult")
    );
    let names = |tag: &str, flags: &[&str]| {
        let reference = registry.reference("app", tag);
        build(&daemon, dir.path(), &text, &[&["-t", &reference, "--sbom"], flags].concat()).success();
        daemon.brig(&["push", &reference]).success();
        let index = document(&registry, tag);
        let said = document(&registry, index["manifests"][1]["digest"].as_str().unwrap());
        let layers = said["layers"].as_array().unwrap().iter();
        let mut out: Vec<String> = layers
            .map(|layer| {
                let digest: oci::Digest = layer["digest"].as_str().unwrap().parse().unwrap();
                let bytes = std::fs::read(registry.blob_path(&digest)).unwrap();
                let statement: Value = serde_json::from_slice(&bytes).unwrap();
                let predicate = &statement["predicate"];
                format!("{} {}", predicate["name"].as_str().unwrap(), predicate["packages"][0]["name"])
            })
            .collect();
        out.sort();
        out
    };
    assert_eq!(
        names("1", &[]),
        ["sbom \"ofresult\"", "sbom-context \"ofcontext\"", "sbom-tools \"oftools\""]
    );
    let off =
        ["--build-arg", "BUILDKIT_SBOM_SCAN_STAGE=quiet", "--build-arg", "BUILDKIT_SBOM_SCAN_CONTEXT=false"];
    assert_eq!(names("2", &off), ["sbom \"ofresult\""], "it is declared in another stage");
    daemon.assert_no_leaks();
}

/// What a step says to the agent reaches it, and its answer the step, by the client that asks for it.
/// A program that ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn steps_talk_to_an_agent() {
    let Some(daemon) = own() else { return };
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let run = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "of the test", "-f"])
        .arg(&key));
    let socket = dir.path().join("agent");
    let agent = std::process::Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let agent = Killed(agent);
    // It is there before it is listened on.
    testkit::wait_until("the agent", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    run(std::process::Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket));
    // The program and its libraries, where they are here.
    let context = tempfile::tempdir().unwrap();
    let libraries = run(std::process::Command::new("ldd").arg("/usr/bin/ssh-add"));
    for file in libraries.split_whitespace().filter(|word| word.starts_with('/')).chain(["/usr/bin/ssh-add"])
    {
        let to = context.path().join("root").join(file.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    let text = "FROM BASE\nCOPY root /\nRUN --mount=type=ssh ssh-add -l > /keys && test -S $SSH_AUTH_SOCK\n\
                RUN test ! -e /run/buildkit/ssh_agent.0\n";
    let flag = format!("default={}", socket.display());
    let built = build(&daemon, context.path(), text, &["-t", "app", "--ssh", &flag]);
    drop(agent);
    built.success();
    let keys = daemon.brig(&["run", "--rm", "app", "cat", "/keys"]).success();
    assert!(keys.contains("of the test") && keys.contains("ED25519"), "{keys}");
    daemon.assert_no_leaks();
}

#[test]
fn files_of_several_platforms_have_a_directory_each() {
    let Some(daemon) = own() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let text = "FROM --platform=$BUILDPLATFORM BASE AS tools\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
                FROM scratch\nCOPY --from=tools /arch /arch\n";
    let output = format!("type=local,dest={}", out.display());
    build(&daemon, dir.path(), text, &["--platform", "linux/amd64,linux/arm64", "-o", &output]).success();
    for architecture in ["amd64", "arm64"] {
        let text = std::fs::read_to_string(out.join(format!("linux_{architecture}/arch"))).unwrap();
        assert_eq!(text.trim(), architecture);
    }
    daemon.brig(&["rmi", BUSYBOX]).success();
    assert_eq!(daemon.get("/images/json?all=1"), json!([]), "no image without a name stays");
    daemon.assert_no_leaks();
}

/// What is not there is refused, and said to be what is not there.
#[test]
fn what_is_not_there_is_refused_by_name() {
    let Some(daemon) = own() else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = "FROM BASE\nLABEL a=b\n";
    for (text, flags, words) in [
        (plain, &["--cache-to", "type=gha"][..], "the cache exporter \"gha\" is not supported"),
        (plain, &["--cache-to", "type=s3,region=x,bucket=y"], "the cache exporter \"s3\" is not supported"),
        (plain, &["--cache-to", "type=azblob,name=x"], "the cache exporter \"azblob\" is not supported"),
        (plain, &["--cache-from", "type=s3,region=x"], "the cache importer \"s3\" is not supported"),
        (plain, &["--sbom=generator=some/scanner"], "some/scanner"),
        (plain, &["--build-arg", "BUILDKIT_SYNTAX=foo/bar"], "the frontend \"foo/bar\""),
        ("# syntax=foo/bar:1\nFROM BASE\n", &[], "the frontend \"foo/bar:1\""),
        (plain, &["-o", "type=registry"], "--output type=registry"),
    ] {
        let refused = build(&daemon, dir.path(), text, flags);
        assert_ne!(refused.code, Some(0), "{flags:?}: {refused:?}");
        assert!(refused.stderr.contains(words), "{flags:?}: {refused:?}");
    }
    // The built-in frontend by its names, and for those who say so.
    for (text, flags) in [
        ("# syntax=docker/dockerfile:1.7-labs\nFROM BASE\n", &[][..]),
        ("# syntax=mirror.example.org/docker/dockerfile:1\nFROM BASE\n", &[]),
        ("# syntax=foo/bar:1\nFROM BASE\n", &["--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1"]),
    ] {
        build(&daemon, dir.path(), text, flags).success();
    }
    daemon.assert_no_leaks();
}
