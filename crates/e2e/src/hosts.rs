//! Hosts made of network namespaces, and the network and the store that they share.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

const STORE: &str = "10.99.0.254:2379";

/// The network between the hosts, and the store.
#[derive(Debug)]
pub struct Underlay {
    directory: tempfile::TempDir,
    etcd: Option<Child>,
}

impl Underlay {
    /// None where the test cannot run.
    pub fn new() -> Option<Underlay> {
        if !testkit::is_root() {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("brig-overlay-").tempdir().unwrap();
        let mut underlay = Underlay { directory, etcd: None };
        network::create_sandbox(&underlay.namespace(0)).unwrap();
        underlay.ip(0, "link add ub type bridge");
        underlay.ip(0, "addr add 10.99.0.254/24 dev ub");
        underlay.ip(0, "link set ub up");
        underlay.start_store();
        Some(underlay)
    }

    /// Host 0 is the one in the middle.
    pub fn namespace(&self, host: u32) -> PathBuf {
        self.directory.path().join(format!("host{host}"))
    }

    #[track_caller]
    pub fn ip(&self, host: u32, args: &str) {
        let mut command = inside(&self.namespace(host), "ip");
        assert!(command.args(args.split(' ')).status().unwrap().success(), "ip {args}");
    }

    pub fn start_store(&mut self) {
        let url = format!("http://{STORE}");
        let mut command = inside(&self.namespace(0), "etcd");
        command.arg("--data-dir").arg(self.directory.path().join("etcd"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        let log = std::fs::File::create(self.directory.path().join("etcd.log")).unwrap();
        self.etcd = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        wait_until("the store answers", || self.with_store(|store| store.range("/").is_ok()));
    }

    pub fn kill_store(&mut self) {
        if let Some(mut etcd) = self.etcd.take() {
            etcd.kill().unwrap();
            etcd.wait().unwrap();
        }
    }

    /// A host with a daemon that shares networks.
    #[track_caller]
    pub fn host(&self, number: u32, ttl: &str) -> Daemon {
        let path = self.namespace(number);
        network::create_sandbox(&path).unwrap();
        self.ip(0, &format!("link add p{number} type veth peer name under netns {}", path.display()));
        self.ip(0, &format!("link set p{number} master ub up"));
        self.ip(number, &format!("addr add 10.99.0.{number}/24 dev under"));
        self.ip(number, "link set under up");
        let store = format!("etcd://{STORE}/test");
        let flags = ["--cluster-store", &store, "--cluster-advertise", "under", "--cluster-ttl", ttl];
        let daemon = Daemon::start(Options {
            flags: flags.map(str::to_string).to_vec(),
            netns: Some(path),
            ..Options::default()
        });
        daemon.load_busybox("busybox");
        daemon
    }

    /// The keys below a part of the store, asked from where it is.
    pub fn keys(&self, part: &str) -> Vec<etcd::KeyValue> {
        self.with_store(|store| store.range(&format!("/test/{part}")).unwrap().1)
    }

    pub fn with_store<T: Send>(&self, work: impl FnOnce(&etcd::Client) -> T + Send) -> T {
        let namespace = std::fs::File::open(self.namespace(0)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
                    .unwrap();
                work(&etcd::Client::new(&[STORE], etcd::Tls::default()).unwrap())
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Underlay {
    fn drop(&mut self) {
        self.kill_store();
        for number in 0..4 {
            drop(network::remove_sandbox(&self.namespace(number)));
        }
    }
}

/// A program in a network namespace, not started yet.
pub fn inside(namespace: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--").arg(program).stdin(Stdio::null());
    command
}
