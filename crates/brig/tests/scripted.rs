//! `brig` against a scripted daemon: what it asks, in which order, and what it makes of the answers.

#![expect(clippy::unwrap_used, reason = "a test that fails to set itself up fails")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// A daemon that answers by `METHOD path` (without query) with a whole HTTP answer, and then closes the connection.
struct Daemon {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn start(answers: &[(&str, &str)]) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers: HashMap<String, String> =
            answers.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        let (log, answers) = (Arc::clone(&asked), Arc::new(answers));
        // Ends with the test's process; each connection gets a thread, as attach and wait overlap.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
                std::thread::spawn(move || serve(stream, &log, &answers));
            }
        });
        Daemon { _directory: directory, socket, asked }
    }

    fn brig(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_brig"))
            .args(arguments)
            .env("BRIG_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", "/nonexistent")
            .env_remove("DOCKER_API_VERSION")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: UnixStream, log: &Mutex<Vec<String>>, answers: &HashMap<String, String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let path = target.split('?').next().unwrap();
    let key = format!("{method} {path}");
    log.lock().unwrap().push(key.clone());
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 24\r\nConnection: close\r\n\r\n{\"message\":\"no script\"}".to_string();
    let answer = answers.get(&key).unwrap_or(&missing);
    stream.write_all(answer.as_bytes()).unwrap();
}

fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

const RAW: &str = "Content-Type: application/vnd.docker.raw-stream\r\n";
const FRAMES: &str = "\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n";

fn check_run(attach_head: &str) {
    let attach = format!("{attach_head}{RAW}\r\n{FRAMES}");
    let daemon = Daemon::start(&[
        ("POST /v1.47/containers/create", &json("201 Created", r#"{"Id":"c1","Warnings":["careful"]}"#)),
        ("POST /v1.47/containers/c1/attach", &attach),
        ("POST /v1.47/containers/c1/wait", &json("200 OK", r#"{"StatusCode":7}"#)),
        ("POST /v1.47/containers/c1/start", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    ]);
    let output = daemon.brig(&["run", "--rm", "busybox", "true"], "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "WARNING: careful\nerr\n");
    assert_eq!(output.status.code(), Some(7));
    let asked = daemon.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[0].ends_with("/create") && asked[3].ends_with("/start"), "{asked:?}");
}

#[test]
fn run_takes_four_requests_and_attaches_and_waits_before_the_start() {
    check_run("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n");
}

#[test]
fn the_old_reply_to_attach_is_understood() {
    check_run("HTTP/1.1 200 OK\r\n");
}

#[test]
fn an_older_daemon_is_asked_again_under_its_version() {
    let refusal = r#"{"message":"client version 1.47 is too new. Maximum supported API version is 1.41"}"#;
    let refused =
        json("400 Bad Request", refusal).replace("\r\nContent-Type", "\r\nApi-Version: 1.41\r\nContent-Type");
    let daemon = Daemon::start(&[
        ("GET /v1.47/containers/json", &refused),
        ("GET /v1.41/containers/json", &json("200 OK", "[]")),
    ]);
    let output = daemon.brig(&["ps"], "");
    assert!(output.status.success(), "{output:?}");
    let heading = "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), heading);
}

#[test]
fn a_missing_image_is_pulled_and_then_used() {
    let daemon = Daemon::start(&[
        ("POST /v1.47/containers/create", &json("404 Not Found", r#"{"message":"No such image: x:latest"}"#)),
        (
            "POST /v1.47/images/create",
            &json("200 OK", "{\"errorDetail\":{\"message\":\"no such host\"},\"error\":\"no such host\"}\n"),
        ),
    ]);
    let output = daemon.brig(&["run", "x"], "");
    let expected = "Unable to find image 'x:latest' locally\nbrig: no such host\n\nRun 'brig run --help' for more information\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn a_failed_start_gives_dockers_exit_code() {
    let daemon = Daemon::start(&[
        ("POST /v1.47/containers/create", &json("201 Created", r#"{"Id":"c1"}"#)),
        (
            "POST /v1.47/containers/c1/start",
            &json("400 Bad Request", r#"{"message":"exec: \"x\": executable file not found in $PATH"}"#),
        ),
    ]);
    let output = daemon.brig(&["run", "-d", "busybox", "x"], "");
    assert_eq!(output.status.code(), Some(127));
}
