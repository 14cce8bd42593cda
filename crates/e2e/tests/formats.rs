//! `--format` and `-f`: what brig prints is what the docker CLI prints, template by template, on the same daemon.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use e2e::{BUSYBOX, own};
use serde_json::Value;
use testkit::daemon::Daemon;

/// Templates of lists and of single objects, on the command that takes them.
const CASES: &[(&[&str], &[&str])] = &[
    (
        &["ps", "-a", "--format"],
        &[
            "{{.ID}} {{.Names}} {{.Image}} {{.Command}} {{.Ports}} {{.State}} {{.Mounts}} {{.Networks}}",
            "{{.CreatedAt}} {{.LocalVolumes}} {{.Label \"tier\"}} {{.Label \"none\"}}",
            "table {{.Names}}\t{{.Image}}\t{{.State}}",
            "table {{.ID}}\\t{{.Label \"tier\"}}\\t{{.Command}}",
            "table {{json .Names}} {{upper .Image}}",
            "{{json .Names}} {{json .State}}",
            "{{upper .Names}} {{lower \"ABC\"}} {{title .State}}",
            "{{if eq .State \"running\"}}up{{else if eq .State \"exited\"}}down{{else}}?{{end}}",
            "{{with .Label \"tier\"}}tier {{.}}{{else}}no tier{{end}}",
            "{{printf \"%-10s|%5.2s|%q\" .Names .State .Image}}",
            "{{len .Names}} {{truncate .ID 5}} {{pad .Names 2 3}}|",
            "{{join (split .Names \"-\") \"+\"}} {{index (split .Image \":\") 0}}",
            "{{range $i, $n := split .Names \"-\"}}{{$i}}={{$n}};{{end}}",
            "{{and .ID .Names}} {{or \"\" .State}} {{not .Names}} {{lt (len .ID) 20}} {{ne .State \"x\"}} {{ge 2 2}}",
            "{{println .Names .State}}",
            "{{.Names | printf \"%s!\" | upper}}",
            "{{- .Names -}} x",
            "{{$x := .Names}}{{$x}}{{/* nothing */}}",
            "{{print 1 2 .Names}} {{html \"<b>\"}} {{urlquery \"a b\"}}",
            "{{.Nope}}",
            "{{nope .ID}}",
            "{{.ID",
            "plain",
        ],
    ),
    (&["ps", "-a", "--no-trunc", "--format"], &["{{.ID}} {{.Command}} {{.Mounts}}", "table {{.ID}}"]),
    (&["ps", "-a", "--size", "--format"], &["{{.Names}} {{.Size}}", "table {{.Size}}"]),
    (
        &["inspect", "-f"],
        &[
            "{{.Id}} {{.Name}} {{.Created}} {{.Path}} {{.Args}} {{.RestartCount}} {{.Driver}}",
            "{{.ID}}",
            "{{.State.Status}} {{.State.Running}} {{.State.Pid}} {{.State.ExitCode}} {{.State.StartedAt}}",
            "{{.Config.Image}} {{.Config.Env}} {{.Config.Tty}} {{.Config.Hostname}} {{len .Config.Labels}}",
            "{{range .Config.Env}}{{println .}}{{end}}",
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
            "{{join .Config.Cmd \" \"}}",
            "{{json .Config.Cmd}} {{json .Config.Labels}} {{json .Name}} {{json .HostConfig.Binds}}",
            "{{(index .Mounts 0).Destination}} {{range .Mounts}}{{.Type}}:{{.Name}}:{{.RW}} {{end}}",
            "{{.NetworkSettings.Networks.bridge.IPAddress}} {{.NetworkSettings.Networks.bridge.MacAddress}}",
            "{{range $n, $c := .NetworkSettings.Networks}}{{$n}}={{$c.Gateway}}/{{$c.IPPrefixLen}} {{end}}",
            "{{range $p, $c := .NetworkSettings.Ports}}{{$p}} {{(index $c 0).HostPort}} {{(index $c 0).HostIp}}{{end}}",
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}} {{.HostConfig.NanoCpus}}",
            "{{.HostConfig.LogConfig.Type}} {{.HostConfig.Privileged}} {{.HostConfig.PidsLimit}} {{.HostConfig.ShmSize}}",
            "{{if .State.Running}}yes{{end}} {{if .State.Paused}}paused{{else}}not{{end}}",
            "{{index .Config.Labels \"tier\"}} {{index .Config.Labels \"none\"}}",
            "{{with .State}}{{.Status}} {{$.Name}}{{end}}",
            "{{.Config.Labels.tier}}",
            "{{.State.Health}}",
            "{{.Nope}}",
            "{{.State.Nope}}",
            "{{index .Mounts 9}}",
        ],
    ),
    (
        &["image", "inspect", "busybox:latest", "-f"],
        &[
            "{{.Id}} {{.RepoTags}} {{.Os}}/{{.Architecture}} {{.Size}} {{.Created}}",
            "{{.ID}} {{index .RepoTags 0}} {{len .RootFS.Layers}} {{.RootFS.Type}}",
            "{{json .Config.Cmd}} {{json .RepoTags}}",
        ],
    ),
    (
        &["images", "--format"],
        &[
            "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.CreatedAt}} {{.CreatedSince}}",
            "table {{.Repository}}\t{{.Tag}}\t{{.Size}}",
            "{{json .Repository}} {{.Digest}}",
        ],
    ),
    (
        &["network", "ls", "--format"],
        &[
            "{{.ID}} {{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}} {{.Labels}} {{.Label \"a\"}}",
            "table {{.Name}}\t{{.Driver}}",
            "{{json .Name}} {{.CreatedAt}}",
        ],
    ),
    (
        &["network", "inspect", "bridge", "-f"],
        &[
            "{{.Name}} {{.ID}} {{.Driver}} {{.Scope}} {{.Internal}} {{.EnableIPv6}}",
            "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}} {{(index .IPAM.Config 0).Subnet}}",
            "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}",
            "{{range $id, $c := .Containers}}{{$id}} {{$c.MacAddress}}{{end}}",
            "{{index .Options \"com.docker.network.bridge.name\"}}",
        ],
    ),
    (
        &["volume", "ls", "--format"],
        &[
            "{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}} {{.Labels}} {{.Label \"a\"}} {{.Links}} {{.Size}}",
            "table {{.Driver}}\t{{.Name}}",
        ],
    ),
    (
        &["volume", "inspect", "data", "-f"],
        &["{{.Name}} {{.Driver}} {{.Mountpoint}} {{.Scope}} {{.CreatedAt}} {{json .Labels}}"],
    ),
    (
        &["stats", "--no-stream", "--format"],
        &["{{.Name}} {{.ID}} {{.Container}} {{.PIDs}}", "table {{.Name}}\t{{.PIDs}}", "{{json .Name}}"],
    ),
    (
        &["info", "-f"],
        &[
            "{{.Driver}} {{.NCPU}} {{.MemTotal}} {{.ServerVersion}} {{.ID}} {{.Name}} {{.OSType}}/{{.Architecture}}",
            "{{json .Plugins.Log}} {{json .Plugins.Network}} {{json .Plugins.Volume}} {{len .Runtimes}}",
            "{{range .SecurityOptions}}{{.}} {{end}}{{.Swarm.LocalNodeState}} {{.CgroupDriver}} {{.CgroupVersion}}",
            "{{.Containers}} {{.ContainersRunning}} {{.Images}} {{.LoggingDriver}} {{.DockerRootDir}} {{.DefaultRuntime}}",
            "{{range .DriverStatus}}{{index . 0}}={{index . 1}} {{end}}{{json .RegistryConfig.Mirrors}}",
            "{{.OperatingSystem}} {{.KernelVersion}} {{.LiveRestoreEnabled}} {{.ExperimentalBuild}} {{json .Labels}}",
        ],
    ),
    (
        &["version", "-f"],
        &[
            "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}/{{.Server.Arch}}",
            "{{json .Server.KernelVersion}} {{range .Server.Components}}{{.Name}} {{.Version}}{{end}}",
        ],
    ),
    (
        &["system", "df", "--format"],
        &["{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}", "table {{.Type}}\t{{.Size}}"],
    ),
    (&["context", "ls", "--format"], &["{{.Name}} {{.Current}} {{.DockerEndpoint}}", "{{json .Name}}"]),
    (
        &["history", "busybox:latest", "--format"],
        &[
            "{{.ID}} {{.CreatedSince}} {{.CreatedAt}} {{.CreatedBy}} {{.Size}} {{.Comment}}",
            "table {{.ID}}\t{{.Size}}",
        ],
    ),
    (
        &["events", "--since", "1h", "--until", "UNTIL", "--format"],
        &[
            "{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}",
            "{{.Time}} {{.TimeNano}} {{.Scope}}",
            "{{json .Actor.Attributes}}",
            "{{if eq .Type \"container\"}}{{.Status}} {{.ID}} {{.From}}{{end}}",
        ],
    ),
];

/// What `inspect` is asked about.
const INSPECTED: &str = "web-1";

fn set_up(daemon: &Daemon) {
    daemon.brig(&["volume", "create", "--label", "a=1", "data"]).success();
    let web = [
        "run",
        "-d",
        "--name",
        INSPECTED,
        "-p",
        "127.0.0.1::80",
        "--label",
        "tier=front",
        "--label",
        "b.c=d",
        "-e",
        "A=b c",
        "-v",
        "data:/data",
        "-m",
        "64m",
        "--restart",
        "unless-stopped",
        BUSYBOX,
        "sh",
        "-c",
        "sleep 300",
    ];
    daemon.brig(&web).success();
    daemon.brig(&["run", "--name", "done-2", "--network", "none", BUSYBOX, "sh", "-c", "exit 3"]).expect(3);
}

/// What is compared of two outputs: the whole of it, and JSON as JSON, as its members have no order.
fn comparable(text: &str) -> Vec<Result<Value, String>> {
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).map_err(|_| line.trim_end().to_string()))
        .collect()
}

#[test]
#[ignore = "by its own: cargo xtask conform api"]
fn templates_print_what_dockers_print() {
    let Some(daemon) = own() else { return };
    set_up(&daemon);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    let mut mistakes = Vec::new();
    let mut count = 0;
    for (command, templates) in CASES {
        for template in *templates {
            let mut args: Vec<&str> =
                command.iter().map(|w| if *w == "UNTIL" { &*now } else { *w }).collect();
            args.push(template);
            if command[0] == "inspect" {
                args.push(INSPECTED);
            }
            let (ours, dockers) = (daemon.brig(&args), daemon.docker(&args));
            count += 1;
            // The words of a mistake are each one's own; that it is one is not.
            let same = match (ours.code, dockers.code) {
                (Some(0), Some(0)) => comparable(&ours.stdout) == comparable(&dockers.stdout),
                (ours, dockers) => ours != Some(0) && dockers != Some(0),
            };
            if !same {
                mistakes.push(format!(
                    "{args:?}\n  docker {:?} {:?} {:?}\n  brig   {:?} {:?} {:?}",
                    dockers.code, dockers.stdout, dockers.stderr, ours.code, ours.stdout, ours.stderr
                ));
            }
        }
    }
    assert!(mistakes.is_empty(), "{} of {count}:\n{}", mistakes.len(), mistakes.join("\n"));
}
