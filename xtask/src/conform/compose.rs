//! `conform compose`: a project of three services brought up, asked, scaled and taken down by Debian's docker-compose, which is
//! the old one, and a larger one by Compose of today where that is: named, or fetched from a newer Debian.

use super::daemons::{Daemon, Registry, wait};
use super::{compose2, images};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, output, run, take_flag, take_value};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROJECT: &str = r#"version: "3.7"
services:
  web:
    build: .
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    expose: ["80"]
    volumes: ["data:/data"]
    networks: [front]
    healthcheck: {test: ["CMD", "wget", "-qO", "/dev/null", "http://127.0.0.1/index.html"], interval: 1s}
  client:
    image: busybox:latest
    depends_on: [web]
    command: ["sh", "-c", "for i in 1 2 3 4 5; do wget -qO- http://web/index.html && exit 0; sleep 1; done; exit 1"]
    networks: [front]
  worker:
    image: alpine:latest
    command: ["sh", "-c", "echo at work; exec sleep 1000"]
    init: true
    environment: [COLOUR=red]
    networks: {back: {aliases: [helper]}}
volumes: {data: {}}
networks: {front: {}, back: {internal: true}}
"#;
/// Where the newer Debian has it.
const IN_PACKAGE: &str = "usr/libexec/docker/cli-plugins/docker-compose";
const DOCKERFILE: &str =
    "FROM busybox:latest\nRUN mkdir /www && echo hello of compose > /www/index.html\nEXPOSE 80\n";

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let named = take_value(&mut args, "--compose")?.map(PathBuf::from);
    let fetches = take_flag(&mut args, "--fetch-compose");
    no_more(&args)?;
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::CONFORM)?;
    let work = std::env::temp_dir().join(format!("brig-compose-{}", std::process::id()));
    std::fs::create_dir(&work).doing(|| format!("create {}", work.display()))?;
    let today = match named {
        None if fetches => Some(crate::trixie::fetch(&["docker-compose"])?.join(IN_PACKAGE)),
        named => named,
    };
    if today.is_none() {
        println!(
            "only the old Compose: --compose PROGRAM names one of today, --fetch-compose takes Debian's"
        );
    }
    let done = test(&work, today.as_deref());
    drop(std::fs::remove_dir_all(&work));
    done
}

fn test(work: &Path, today: Option<&Path>) -> Result<()> {
    let archive = images::make(work)?;
    let registry = Registry::start(work)?;
    let daemon = Daemon::brig(work, &registry)?;
    let project = work.join("project");
    std::fs::create_dir(&project).doing(|| "create the project".into())?;
    for (name, text) in [("docker-compose.yml", PROJECT), ("Dockerfile", DOCKERFILE)] {
        std::fs::write(project.join(name), text).doing(|| format!("write {name}"))?;
    }
    let with = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(&project).env("DOCKER_HOST", &daemon.host).args(args);
        command
    };
    let compose = |args: &[&str]| output(&mut with("docker-compose", args));
    let expect = |what: &str, got: &str, part: &str| {
        println!("{what}: {}", got.trim());
        if got.contains(part) {
            Ok(())
        } else {
            Err(Error::new(format!("{what}: {part:?} is not in {got:?}")))
        }
    };
    run(&mut with("docker", &["load", "-q", "-i", &archive.to_string_lossy()]))?;
    compose(&["up", "-d"])?;
    wait("the client", || compose(&["ps", "client"]).is_ok_and(|ps| ps.contains("Exit")))?;
    expect("a name leads to a service", &compose(&["logs", "--no-color", "client"])?, "hello of compose")?;
    expect("exec", &compose(&["exec", "-T", "worker", "sh", "-c", "echo $COLOUR"])?, "red")?;
    wait("the health check", || compose(&["ps", "web"]).is_ok_and(|ps| ps.contains("healthy")))?;
    compose(&["up", "-d", "--scale", "worker=3"])?;
    expect("scaled", &compose(&["ps", "-q", "worker"])?.lines().count().to_string(), "3")?;
    // Networks that share nobody cannot reach each other.
    if compose(&["exec", "-T", "worker", "wget", "-T", "2", "-qO-", "http://web/index.html"]).is_ok() {
        return Err(Error::new("a service of another network was reached"));
    }
    compose(&["restart", "-t", "1", "web"])?;
    compose(&["down", "-v", "--rmi", "local", "-t", "1"])?;
    for (what, args) in [
        ("containers", &["ps", "-aq"][..]),
        ("networks", &["network", "ls", "-q", "--filter", "type=custom"]),
        ("volumes", &["volume", "ls", "-q"]),
    ] {
        let left = output(&mut with("docker", args))?;
        if !left.trim().is_empty() {
            return Err(Error::new(format!("{what} left behind: {left}")));
        }
    }
    println!("nothing is left behind");
    today.map_or(Ok(()), |program| compose2::test(program, &daemon.host, work))
}
