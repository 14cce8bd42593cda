//! Through proxies: by tunnel for TLS, by whole URL without.

use crate::server::{Image, Response, Server};
use crate::tls::{Authority, HOST};
use errors::{HasKind as _, Kind};
use oci::Reference;
use registry_client::{Auth, Client, Config, ProxyConfig};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Makes tunnels; remembers what it was asked.
async fn tunnels() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let log = log.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_string();
                log.lock().unwrap().push(head);
                let mut server = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n").await.unwrap();
                // Ends when either side has had enough.
                let _gone = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (format!("http://us%3Aer:pw@{address}"), seen)
}

fn client(proxy: ProxyConfig, certs: Option<&std::path::Path>, insecure: &str) -> Client {
    let certs_dirs = certs.map(std::path::Path::to_path_buf).into_iter().collect();
    let insecure = vec![insecure.to_string()];
    Client::new(Config { proxy, certs_dirs, insecure, max_retries: 0, ..Config::default() }).unwrap()
}

#[tokio::test]
async fn tls_goes_through_a_tunnel() {
    let authority = Authority::new();
    let image = Image::new(&[b"x"]);
    let server =
        Server::start_at(HOST, Some(authority.acceptor(HOST, false, None)), move |r| image.answer(r)).await;
    let certs = tempfile::tempdir().unwrap();
    let dir = certs.path().join(&server.address);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("ca.crt"), &authority.pem).unwrap();
    let (proxy, seen) = tunnels().await;
    let config = ProxyConfig { https: proxy.clone(), ..ProxyConfig::default() };
    let through = client(config.clone(), Some(certs.path()), "other.example");
    through.resolve(&server.reference("r:1"), &Auth::Anonymous).await.unwrap();
    let head = seen.lock().unwrap()[0].clone();
    assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", server.address)), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXM6ZXI6cHc=\r\n"), "{head}");
    assert_eq!(server.seen()[0].header("proxy-authorization"), None);

    // Not what is to be reached directly.
    let direct = ProxyConfig { no_proxy: "0.0.0.0/8".into(), ..config };
    let direct = client(direct, Some(certs.path()), "other.example");
    direct.resolve(&server.reference("r:1"), &Auth::Anonymous).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn plain_requests_name_the_whole_url() {
    let image = Image::new(&[b"x"]);
    let proxy = Server::start(move |request| match request.method.as_str() {
        "CONNECT" => Response::new(403),
        _ => image.answer(request),
    })
    .await;
    let url = format!("http://u:p@{}", proxy.address);
    let config = ProxyConfig { http: url.clone(), https: url, ..ProxyConfig::default() };
    let client = client(config, None, "registry.example:5000");
    // Nobody looks this name up here.
    let reference: Reference = "registry.example:5000/r:1".parse().unwrap();
    client.resolve(&reference, &Auth::Anonymous).await.unwrap();
    let seen = proxy.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.path, "http://registry.example:5000/v2/r/manifests/1");
    assert_eq!(last.header("proxy-authorization"), Some("Basic dTpw"));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let proxy = Server::start(|_| Response::new(403)).await;
    let config =
        ProxyConfig { https: format!("http://u:s3cret@{}", proxy.address), ..ProxyConfig::default() };
    let client = client(config, None, "other.example");
    let reference: Reference = "registry.example/r:1".parse().unwrap();
    let error = client.resolve(&reference, &Auth::Anonymous).await.unwrap_err();
    let chain = errors::chain(&error);
    assert_eq!(error.kind(), Kind::Unavailable, "{chain}");
    assert!(chain.contains(&proxy.address) && chain.contains("403") && !chain.contains("s3cret"), "{chain}");
}
