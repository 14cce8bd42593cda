//! The API over TCP and TLS, and the numbers for Prometheus.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::BUSYBOX;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use testkit::daemon::{Daemon, Finished, Options, finish, program};
use testkit::is_root;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An authority with a server's and a client's certificate, as files that Docker's clients look for.
fn certificates(dir: &Path) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    write("ca.pem", authority.pem());
    let issuer = Issuer::from_params(&params, &authority_key);
    for (name, usage, file) in [
        ("localhost", ExtendedKeyUsagePurpose::ServerAuth, "server-"),
        ("client", ExtendedKeyUsagePurpose::ClientAuth, ""),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write(&format!("{file}cert.pem"), certificate.pem());
        write(&format!("{file}key.pem"), key.serialize_pem());
    }
}

/// The docker CLI with these flags first, and nobody's configuration.
fn docker(home: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new("docker");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home).args(args);
    finish(command, &[])
}

fn http(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn tls_with_client_certificates() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let port = free_port();
    let host = format!("tcp://127.0.0.1:{port}");
    let flags = [
        "-H",
        &host,
        "--tlsverify",
        "--tlscacert",
        &file("ca.pem"),
        "--tlscert",
        &file("server-cert.pem"),
        "--tlskey",
        &file("server-key.pem"),
    ]
    .map(String::from)
    .to_vec();
    let daemon = Daemon::start(Options { flags, ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    let address = format!("tcp://localhost:{port}");
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let tls = ["-H", &address, "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    let run = |args: &[&str]| docker(dir.path(), &[&tls[..], args].concat());
    assert_eq!(run(&["run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2"]).success(), "out");
    // A stream both ways, with an end.
    let mut command = Command::new("docker");
    command.env("HOME", dir.path()).args(tls).args(["run", "--rm", "-i", BUSYBOX, "wc", "-c"]);
    assert_eq!(finish(command, &vec![b'x'; 300_000]).success(), "300000");
    // Without a certificate, or without TLS, nobody gets in.
    let nobody = docker(dir.path(), &["-H", &address, "--tls", "--tlscacert", &ca, "ps"]).expect(1);
    assert!(nobody.stderr.contains("certificate"), "{nobody:?}");
    docker(dir.path(), &["-H", &address, "ps"]).expect(1);
    daemon.assert_empties();
}

#[test]
fn plain_tcp_stays_on_the_loopback() {
    if !is_root() {
        return;
    }
    let (port, metrics) = (free_port(), free_port());
    let host = format!("tcp://127.0.0.1:{port}");
    let flags = vec!["-H".into(), host.clone(), "--metrics-addr".into(), format!("127.0.0.1:{metrics}")];
    let daemon = Daemon::start(Options { flags, ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    let home = tempfile::tempdir().unwrap();
    assert_eq!(docker(home.path(), &["-H", &host, "run", "--rm", BUSYBOX, "echo", "hi"]).success(), "hi");
    daemon.brig(&["run", "-d", "--name", "seen", BUSYBOX, "sleep", "300"]).success();
    let text = http(metrics, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; version=0.0.4"), "{text}");
    for line in [
        "engine_daemon_container_states_containers{state=\"running\"} 1",
        "# TYPE engine_daemon_events_total counter",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert!(http(metrics, "/").starts_with("HTTP/1.1 404"));

    let refused = |flags: &[&str], words: &str| {
        let root = home.path().display().to_string();
        let mut command = Command::new(program("brigd"));
        command.args([
            "--config-file",
            "/dev/null",
            "--data-root",
            &format!("{root}/d"),
            "--exec-root",
            &format!("{root}/e"),
        ]);
        let done = finish(
            {
                command.args(flags);
                command
            },
            &[],
        )
        .expect(1);
        assert!(done.stderr.contains(words) || done.stdout.contains(words), "{done:?}");
    };
    refused(&["-H", "tcp://0.0.0.0:0"], "whoever reaches 0.0.0.0:0 would be root");
    refused(
        &["-H", "tcp://0.0.0.0:0", "--tls", "--tlscert", "/no", "--tlskey", "/no"],
        "read the certificate /no",
    );
    refused(&["-H", "tcp://127.0.0.1:x"], "is no port");
    daemon.assert_empties();
}
