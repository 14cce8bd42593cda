//! Debian's dbus-daemon (package dbus-daemon) on a socket of its own, and a systemd on it that does as it is told.

use cgroup::dbus::{Body, CALL, Connection, RETURN, SIGNAL, Target};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// A bus of our own.
pub(crate) struct Bus {
    daemon: Child,
    pub(crate) socket: String,
    _directory: tempfile::TempDir,
}

impl Bus {
    pub(crate) fn start() -> Option<Bus> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus").display().to_string();
        let config = directory.path().join("bus.conf");
        let text = format!(
            r#"<busconfig><type>custom</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>"#
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = Command::new("dbus-daemon");
        daemon.arg(format!("--config-file={}", config.display())).args(["--nofork", "--print-address"]);
        let Ok(mut daemon) = daemon.stdout(Stdio::piped()).spawn() else {
            println!("skipped: needs dbus-daemon");
            return None;
        };
        // It prints when it listens.
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("unix:"), "{line}");
        Some(Bus { daemon, socket, _directory: directory })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// Answers as systemd would, with jobs that end as `result`, and tells the members called and the strings in the first
/// argument.
pub(crate) fn systemd(bus: &Bus, result: &'static str, calls: usize) -> mpsc::Receiver<(String, String)> {
    let mut connection = Connection::open(&bus.socket).unwrap();
    let mut name = Body::default();
    name.string("org.freedesktop.systemd1").u32(0);
    let dbus = Target {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
    };
    connection.call(dbus, "RequestName", "su", &name).unwrap();
    let (send, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..calls {
            let message = loop {
                let message = connection.receive().unwrap();
                if message.kind == CALL {
                    break message;
                }
            };
            let unit = message.reader().string().unwrap_or_default();
            send.send((message.member.clone(), unit.clone())).unwrap();
            let to = [(6u8, "s", message.sender.as_str())];
            let (serial, job) = (Some(message.serial), "/org/freedesktop/systemd1/job/7");
            match message.member.as_str() {
                "StartTransientUnit" | "StopUnit" => {
                    // The end of the job may come before the reply; a careless client would miss it.
                    let fields = [
                        (1u8, "o", "/org/freedesktop/systemd1"),
                        (2, "s", "org.freedesktop.systemd1.Manager"),
                        (3, "s", "JobRemoved"),
                    ];
                    for unit in ["another.scope", &unit] {
                        let mut body = Body::default();
                        body.u32(7).string(job).string(unit).string(result);
                        connection.send(SIGNAL, &fields, None, "uoss", &body).unwrap();
                    }
                    connection.send(RETURN, &to, serial, "o", Body::default().string(job)).unwrap();
                }
                "Get" => {
                    let mut body = Body::default();
                    body.signature("s").string("/user.slice/user@7.service");
                    connection.send(RETURN, &to, serial, "v", &body).unwrap();
                }
                _ => drop(connection.send(RETURN, &to, serial, "", &Body::default()).unwrap()),
            }
        }
    });
    heard
}
