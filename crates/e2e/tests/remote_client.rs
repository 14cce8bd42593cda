//! `brig` as the client of a daemon elsewhere: TLS with certificates, ssh, contexts that docker reads too.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::daemon::{Daemon, Finished, Options, finish, program};
use testkit::is_root;

/// An authority with a server's and a client's certificate, under the names that clients look for.
fn certificates(server: &Path, client: &Path) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::from_params(&params, &authority_key);
    for (name, usage, dir) in [
        ("localhost", ExtendedKeyUsagePurpose::ServerAuth, server),
        ("client", ExtendedKeyUsagePurpose::ClientAuth, client),
    ] {
        let write = |file: &str, text: String| std::fs::write(dir.join(file), text).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write("ca.pem", authority.pem());
        write("cert.pem", certificate.pem());
        write("key.pem", key.serialize_pem());
    }
}

/// A user with a home of its own.
struct User {
    home: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl User {
    fn new() -> User {
        User { home: tempfile::tempdir().unwrap(), environment: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, of: &Path, args: &[&str]) -> Command {
        let path = std::env::var_os("PATH").unwrap();
        let mut command = Command::new(of);
        command.env_clear().env("PATH", path).env("HOME", self.home.path()).args(args);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    fn brig(&self, args: &[&str]) -> Finished {
        finish(self.command(&program("brig"), args), &[])
    }

    fn docker(&self, args: &[&str]) -> Finished {
        finish(self.command(Path::new("docker"), args), &[])
    }
}

#[test]
fn tls_by_environment_flags_and_contexts() {
    if !is_root() {
        return;
    }
    let mut user = User::new();
    let server = tempfile::tempdir().unwrap();
    std::fs::create_dir(user.path(".docker")).unwrap();
    certificates(server.path(), &user.path(".docker"));
    let file = |name: &str| server.path().join(name).display().to_string();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let host = format!("tcp://127.0.0.1:{port}");
    let flags = ["-H", &host, "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key]
        .map(String::from);
    let daemon = Daemon::start(Options { flags: flags.to_vec(), ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    let address = format!("tcp://localhost:{port}");

    // Certificates in ~/.docker.
    let run = ["run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3"];
    let done = user.brig(&[&["-H", &address, "--tlsverify"][..], &run].concat()).expect(3);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    // Elsewhere, by the environment; a stream both ways, with an end.
    std::fs::rename(user.path(".docker"), user.path("certs")).unwrap();
    user.environment = vec![
        ("DOCKER_HOST", address.clone()),
        ("DOCKER_TLS_VERIFY", "1".into()),
        ("DOCKER_CERT_PATH", user.path("certs").display().to_string()),
    ];
    let command = user.command(&program("brig"), &["run", "--rm", "-i", BUSYBOX, "wc", "-c"]);
    assert_eq!(finish(command, &vec![b'x'; 300_000]).success(), "300000");
    // The certificate is for localhost.
    let other = user.brig(&["-H", &host, "ps"]).expect(1);
    assert!(other.stderr.contains("certificate"), "{other:?}");
    user.environment.clear();
    let certs = |name: &str| user.path("certs").join(name).display().to_string();
    let (ca, cert, key) = (certs("ca.pem"), certs("cert.pem"), certs("key.pem"));
    // Whoever answers is believed, but shows that it has the key of its certificate.
    user.brig(&["-H", &host, "--tls", "--tlscert", &cert, "--tlskey", &key, "ps"]).success();
    // The daemon wants a certificate too, and TLS.
    user.brig(&["-H", &address, "--tlsverify", "--tlscacert", &ca, "ps"]).expect(1);
    user.brig(&["-H", &address, "ps"]).expect(1);

    // A context of brig's, used by docker, and the other way round.
    let settings = format!("host={address},ca={ca},cert={cert},key={key}");
    user.brig(&["context", "create", "lab", "--description", "the lab", "--docker", &settings]).success();
    user.brig(&["context", "create", "lab", "--docker", &settings]).expect(1);
    std::fs::remove_dir_all(user.path("certs")).unwrap();
    user.brig(&["--context", "lab", "ps"]).success();
    user.docker(&["--context", "lab", "ps"]).success();
    assert_eq!(user.brig(&["context", "show"]).success(), "default");
    user.brig(&["context", "use", "lab"]).success();
    assert_eq!(user.docker(&["context", "show"]).success(), "lab");
    assert_eq!(user.brig(&["run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");
    for of in ["lab", "default"] {
        assert_eq!(
            user.brig(&[
                "context",
                "inspect",
                of,
                "--format",
                "{{.Name}} {{json .Endpoints}} {{json .TLSMaterial}}"
            ])
            .success(),
            user.docker(&[
                "context",
                "inspect",
                of,
                "--format",
                "{{.Name}} {{json .Endpoints}} {{json .TLSMaterial}}"
            ])
            .success()
            .replace("/var/run/docker.sock", "/run/brig/brig.sock"),
        );
    }
    let listed = user.brig(&["context", "ls"]).success();
    assert!(listed.starts_with("NAME      DESCRIPTION") && listed.contains("lab *     the lab"), "{listed}");
    user.docker(&["context", "export", "lab", &user.path("lab.tar").display().to_string()]).success();
    user.brig(&["context", "import", "again", &user.path("lab.tar").display().to_string()]).success();
    user.brig(&["-c", "again", "ps"]).success();
    user.brig(&["context", "export", "again", &user.path("again.tar").display().to_string()]).success();
    user.docker(&["context", "import", "third", &user.path("again.tar").display().to_string()]).success();
    user.docker(&["-c", "third", "ps"]).success();
    assert_eq!(user.brig(&["context", "ls", "-q"]).success(), "again\ndefault\nlab\nthird");
    let used = user.brig(&["context", "rm", "lab"]).expect(1);
    assert!(used.stderr.contains("is in use, set -f flag to force remove"), "{used:?}");
    user.brig(&["context", "rm", "-f", "lab", "again", "third"]).success();
    assert_eq!(user.docker(&["context", "ls", "-q"]).success(), "default");
    let nothing = user.brig(&["--context", "lab", "ps"]).expect(1);
    assert!(nothing.stderr.contains("context \"lab\": context not found"), "{nothing:?}");
    daemon.assert_empties();
}

#[test]
fn a_daemon_behind_ssh() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    let mut user = User::new();
    // What an ssh server does with a command: a shell of the other machine's user, with that machine's brig.
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {log}\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nunset DOCKER_HOST\n\
         PATH={programs}:$PATH exec sh -c \"$*\"\n",
        log = user.path("log").display(),
        programs = program("brig").parent().unwrap().display(),
    );
    let ssh = user.path("bin/ssh");
    std::fs::create_dir(user.path("bin")).unwrap();
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", user.path("bin").display(), std::env::var("PATH").unwrap());
    let address = format!("ssh://me@there:2222{}", daemon.socket.display());
    user.environment = vec![("DOCKER_HOST", address.clone()), ("PATH", path)];
    let done = user.brig(&["run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3"]).expect(3);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    let command = user.command(&program("brig"), &["run", "--rm", "-i", BUSYBOX, "wc", "-c"]);
    assert_eq!(finish(command, &vec![b'x'; 1_000_000]).success(), "1000000");
    user.brig(&["context", "create", "there", "--docker", &format!("host={address}")]).success();
    user.environment.remove(0);
    assert_eq!(user.brig(&["-c", "there", "ps", "-q"]).success(), "");
    let asked = std::fs::read_to_string(user.path("log")).unwrap();
    let expected = format!(
        "-o ConnectTimeout=30 -T -l me -p 2222 -- there brig --host=unix://{} system dial-stdio",
        daemon.socket.display()
    );
    assert!(asked.lines().all(|line| line == expected), "{asked}");
    // The other end's complaint is shown.
    std::fs::write(&ssh, "#!/bin/sh\necho 'me@there: Permission denied (publickey).' >&2\nexit 255\n")
        .unwrap();
    let refused = user.brig(&["-c", "there", "ps"]).expect(1);
    assert!(refused.stderr.contains("Permission denied (publickey)."), "{refused:?}");
    daemon.assert_empties();
}
