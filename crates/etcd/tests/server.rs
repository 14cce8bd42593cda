//! Against Debian's etcd server, plain and over TLS with client certificates.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use etcd::{Client, Compare, Event, Op, Tls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn start(dir: &Path, scheme: &str, flags: &[&str]) -> Server {
        let (client, peer) = (free_port(), free_port());
        let address = format!("{scheme}://127.0.0.1:{client}");
        let child = Command::new("etcd")
            .args([
                "--data-dir",
                dir.join("data").to_str().unwrap(),
                "--logger",
                "zap",
                "--log-level",
                "error",
            ])
            .args(["--listen-client-urls", &address, "--advertise-client-urls", &address])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(flags)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Server { child, address }
    }
}

fn what_hosts_need(client: &Client) {
    testkit::wait_until("etcd answers", || client.range("/").is_ok());
    let (revision, none) = client.range("/t/").unwrap();
    assert_eq!(none, []);
    let mut watch = client.watch("/t/", revision + 1).unwrap();
    let lease = client.grant(30).unwrap();
    let put = |key: &str, lease| Op::Put { key: key.into(), value: "v".into(), lease };
    let first = [Compare::Absent("/t/a".into())];
    assert!(client.transact(&first, &[put("/t/a", lease), put("/t/b", 0)]).unwrap());
    assert!(!client.transact(&first, &[put("/t/a", 0)]).unwrap());
    assert!(client.keep_alive(lease).unwrap());
    let (_, both) = client.range("/t/").unwrap();
    assert_eq!(
        both.iter().map(|kv| (kv.key.as_str(), kv.lease)).collect::<Vec<_>>(),
        [("/t/a", lease), ("/t/b", 0)]
    );
    assert!(client.transact(&[], &[Op::DeleteBelow("/t/".into())]).unwrap());
    assert_eq!(client.get("/t/a").unwrap(), None);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(watch.changes().unwrap());
    }
    assert!(matches!(&seen[0], Event::Put(kv) if kv.key == "/t/a" && kv.value == "v"));
    assert_eq!(seen[2..], [Event::Deleted("/t/a".into()), Event::Deleted("/t/b".into())]);
}

#[test]
fn over_plain_http() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "http", &[]);
    // A server that is not there is passed over.
    let nobody = format!("127.0.0.1:{}", free_port());
    what_hosts_need(&Client::new(&[&nobody, &server.address], Tls::default()).unwrap());
}

#[test]
fn over_tls_with_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = write("ca.pem", &params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    let issue = |name: &str| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        // The server's gateway is a client of the server, by the same certificate.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (
            write(&format!("{name}.pem"), &certificate.pem()),
            write(&format!("{name}.key"), &key.serialize_pem()),
        )
    };
    let (certificate, key) = issue("server");
    let flags = [
        "--client-cert-auth",
        "--trusted-ca-file",
        ca.to_str().unwrap(),
        "--cert-file",
        certificate.to_str().unwrap(),
        "--key-file",
        key.to_str().unwrap(),
    ];
    let server = Server::start(dir.path(), "https", &flags);
    let addresses = [server.address.as_str()];
    let tls = Tls { authorities: Some(ca.clone()), identity: Some(issue("client")) };
    what_hosts_need(&Client::new(&addresses, tls).unwrap());
    // Who shows no certificate, or does not know the authority, gets nothing.
    let nameless = Tls { authorities: Some(ca), identity: None };
    assert!(Client::new(&addresses, nameless).unwrap().range("/").is_err());
    assert!(Client::new(&addresses, Tls::default()).unwrap().range("/").is_err());
}
