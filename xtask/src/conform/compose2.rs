//! A project by Compose of today: what it reads of the API while it brings up, watches, scales and takes down.

use super::daemons::wait;
use crate::run::{Doing, Error, Result, output};
use std::path::Path;
use std::process::Command;

const PROJECT: &str = r#"name: second
services:
  web:
    build: {context: ., args: {WORD: second}, labels: {of: compose}}
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    ports: ["127.0.0.1::80"]
    volumes: ["data:/data", {type: tmpfs, target: /scratch, tmpfs: {size: 1048576}}]
    networks: {front: {aliases: [shop]}}
    environment: {COLOUR: red}
    env_file: [settings.env]
    labels: {tier: front}
    configs: [{source: page, target: /www/page.html}]
    secrets: [token]
    healthcheck: {test: ["CMD", "wget", "-qO", "/dev/null", "http://127.0.0.1/index.html"], interval: 200ms, retries: 50}
    deploy: {resources: {limits: {cpus: "0.5", memory: 64M, pids: 50}}}
    ulimits: {nofile: {soft: 512, hard: 1024}}
    logging: {driver: json-file, options: {max-size: 1m, labels: tier}}
    extra_hosts: ["elsewhere:10.1.2.3"]
    sysctls: {net.ipv4.ip_unprivileged_port_start: 0}
    stop_grace_period: 1s
  client:
    image: busybox:latest
    depends_on: {web: {condition: service_healthy}}
    command: ["sh", "-c", "wget -qO- http://shop/index.html && cat /etc/hosts"]
    networks: [front]
  after:
    image: busybox:latest
    depends_on: {client: {condition: service_completed_successfully}}
    command: ["sleep", "1000"]
    init: true
    stop_signal: SIGKILL
    networks: [front, back]
  helper:
    profiles: [tools]
    image: busybox:latest
    networks: [back]
volumes: {data: {labels: {kept: "no"}}}
networks:
  front: {ipam: {config: [{subnet: 10.213.7.0/24}]}}
  back: {internal: true}
configs: {page: {file: ./page.html}}
secrets: {token: {file: ./token}}
"#;
const DOCKERFILE: &str =
    "FROM busybox:latest\nARG WORD\nRUN mkdir /www && echo hello of $WORD > /www/index.html\nEXPOSE 80\n";

/// Runs `compose` against the engine at `host`, with a project below `work`.
pub(super) fn test(compose: &Path, host: &str, work: &Path) -> Result<()> {
    let project = work.join("second");
    std::fs::create_dir(&project).doing(|| "create the project".into())?;
    for (name, text) in [
        ("compose.yaml", PROJECT),
        ("Dockerfile", DOCKERFILE),
        ("settings.env", "SIZE=large\n"),
        ("page.html", "a page\n"),
        ("token", "not told"),
    ] {
        std::fs::write(project.join(name), text).doing(|| format!("write {name}"))?;
    }
    let with = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        // Its configuration is nobody's.
        command.current_dir(&project).env("DOCKER_HOST", host).env("HOME", work).args(args);
        output(&mut command)
    };
    let compose = |args: &[&str]| with(compose, args);
    let docker = |args: &[&str]| with(Path::new("docker"), args);
    let expect = |what: &str, got: &str, part: &str| {
        println!("{what}: {}", got.trim());
        if got.contains(part) {
            Ok(())
        } else {
            Err(Error::new(format!("{what}: {part:?} is not in {got:?}")))
        }
    };
    compose(&["config", "-q"])?;
    compose(&["build", "-q"])?;
    compose(&["up", "-d", "--wait", "web"])?;
    compose(&["up", "-d"])?;
    let logs = compose(&["logs", "--no-color", "--no-log-prefix", "client"])?;
    expect("an alias leads to a service that is healthy", &logs, "hello of second")?;
    expect(
        "ps knows health and ports",
        &compose(&["ps", "--format", "json", "web"])?,
        "\"Health\":\"healthy\"",
    )?;
    expect(
        "ps -a knows who has ended",
        &compose(&["ps", "-a", "--format", "{{.State}}", "client"])?,
        "exited",
    )?;
    let said = compose(&[
        "exec",
        "-T",
        "web",
        "sh",
        "-c",
        "echo $COLOUR $SIZE; cat /www/page.html /run/secrets/token; ulimit -n; df /scratch | tail -1; cat /etc/hosts",
    ])?;
    for part in ["red large", "a page", "not told", "512", "1024", "10.1.2.3"] {
        expect("environment, configs, secrets, limits and hosts", &said, part)?;
    }
    let inspected = docker(&[
        "inspect",
        "second-web-1",
        "-f",
        "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.LogConfig.Config}}",
    ])?;
    expect("limits", &inspected, "67108864 500000000 50 map[labels:tier max-size:1m]")?;
    let port = compose(&["port", "web", "80"])?;
    expect(
        "a port",
        &docker(&[
            "run",
            "--rm",
            "--network",
            "host",
            "busybox:latest",
            "wget",
            "-qO-",
            &format!("http://{port}/index.html"),
        ])?,
        "hello of second",
    )?;
    // The second time there is nothing to do.
    let before = docker(&["ps", "-q", "--no-trunc"])?;
    compose(&["up", "-d"])?;
    expect("nothing is made anew", &docker(&["ps", "-q", "--no-trunc"])?, &before)?;
    compose(&["up", "-d", "--no-recreate", "--scale", "after=3", "after"])?;
    expect("scaled", &compose(&["ps", "-q", "after"])?.lines().count().to_string(), "3")?;
    expect("a one-off", &compose(&["run", "--rm", "-T", "helper", "echo", "once"])?, "once")?;
    expect("top", &compose(&["top", "after"])?, "sleep 1000")?;
    std::fs::write(project.join("given"), "copied").doing(|| "write given".into())?;
    compose(&["cp", "given", "web:/data/given"])?;
    compose(&["cp", "web:/data/given", "back"])?;
    expect("cp", &std::fs::read_to_string(project.join("back")).doing(|| "read back".into())?, "copied")?;
    compose(&["pause", "after"])?;
    expect("paused", &compose(&["ps", "--format", "{{.State}}", "after"])?, "paused")?;
    compose(&["unpause", "after"])?;
    compose(&["restart", "-t", "1", "web"])?;
    compose(&["kill", "-s", "KILL", "after"])?;
    wait("those that were killed", || {
        compose(&["ps", "-q", "after"]).is_ok_and(|ids| ids.trim().is_empty())
    })?;
    compose(&["stop", "-t", "1"])?;
    compose(&["start"])?;
    compose(&["rm", "-fs", "after"])?;
    expect("images", &compose(&["images", "--format", "json"])?, "second-web")?;
    expect("ls", &compose(&["ls", "--format", "json"])?, "\"Name\":\"second\"")?;
    // A change of the environment makes the one container anew.
    let old = docker(&["ps", "-q", "-f", "name=second-web-1"])?;
    std::fs::write(project.join("settings.env"), "SIZE=small\n").doing(|| "write settings.env".into())?;
    compose(&["up", "-d", "--wait", "web"])?;
    if docker(&["ps", "-q", "-f", "name=^second-web-1$"])? == old {
        return Err(Error::new("a changed service was not made anew"));
    }
    expect(
        "its environment is the new one",
        &compose(&["exec", "-T", "web", "sh", "-c", "echo $SIZE"])?,
        "small",
    )?;
    compose(&["--profile", "*", "down", "-v", "--rmi", "local", "-t", "1", "--remove-orphans"])?;
    for (what, args) in [
        ("containers", &["ps", "-aq"][..]),
        ("networks", &["network", "ls", "-q", "--filter", "type=custom"]),
        ("volumes", &["volume", "ls", "-q"]),
    ] {
        let left = docker(args)?;
        if !left.trim().is_empty() {
            return Err(Error::new(format!("{what} left behind: {left}")));
        }
    }
    println!("nothing is left behind");
    Ok(())
}
