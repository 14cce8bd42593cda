//! `ps`, `container ls`.

use super::Context;
use crate::error::Result;
use crate::http::Path;
use crate::listing::{self, Listing, Row};
use crate::terminal;
use crate::{clock, units};
use gotemplate::Value;

/// List containers
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag of the command line")]
pub(crate) struct Ps {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int", default_value_t = -1, allow_negative_numbers = true)]
    last: i64,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

pub(crate) async fn ps(context: &Context, flags: &Ps) -> Result<u8> {
    let mut default =
        "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}".to_string();
    if flags.size {
        default.push_str("\t{{.Size}}");
    }
    let configured = context.config.text("psFormat").filter(|_| !flags.quiet);
    let form =
        Listing { default, headers: HEADERS }.form(flags.format.as_deref().or(configured.as_deref()))?;
    let last = if flags.latest { 1 } else { flags.last };
    let size = flags.size || (flags.format.is_some() && form.mentions("Size") && !flags.quiet);
    let path = Path::new(&["containers", "json"])
        .flag("all", flags.all)
        .query_some("limit", &if last > 0 { last.to_string() } else { String::new() })
        .flag("size", size)
        .query_some("filters", &listing::filters(&flags.filter)?);
    let containers: Vec<Value> = context.client.get(&path).await?;
    if flags.quiet && flags.format.is_none() {
        let ids: String = containers.iter().map(|c| format!("{}\n", id(c, flags.no_trunc))).collect();
        terminal::print(&ids)?;
        return Ok(0);
    }
    let rows = containers.iter().map(|c| row(c, flags.no_trunc)).collect();
    terminal::print(&form.render(rows)?)?;
    Ok(0)
}

fn id(container: &Value, whole: bool) -> String {
    let id = container.text_at(&["Id"]);
    if whole { id.to_string() } else { units::short_id(id) }
}

fn row(container: &Value, whole: bool) -> Row {
    let at = |path: &[&str]| container.text_at(path).to_string();
    let created = container.get("Created").map_or(0, Value::int);
    let empty = Value::Nil;
    let labels = container.get("Labels").unwrap_or(&empty);
    let mounts = container.get("Mounts").unwrap_or(&empty).items();
    let networks = container.at(&["NetworkSettings", "Networks"]).unwrap_or(&empty);
    let local = mounts.iter().filter(|m| m.text_at(&["Driver"]) == "local").count();
    let mut networks: Vec<&str> = networks.members().iter().map(|(name, _)| name.as_str()).collect();
    networks.sort_unstable();
    listing::row([
        ("Command", Value::Str(command(&at(&["Command"]), whole))),
        ("CreatedAt", Value::Str(clock::local(created))),
        ("ID", Value::Str(id(container, whole))),
        ("Image", Value::Str(image(container, whole))),
        ("Label", listing::label_method(labels)),
        ("Labels", Value::Str(listing::labels_text(labels))),
        ("LocalVolumes", Value::Str(local.to_string())),
        ("Mounts", Value::Str(mount_names(mounts, whole))),
        ("Names", Value::Str(names(container, whole))),
        ("Networks", Value::Str(networks.join(","))),
        ("Platform", Value::Nil),
        ("Ports", Value::Str(ports(container.get("Ports").unwrap_or(&empty).items()))),
        ("RunningFor", Value::Str(clock::ago(created))),
        ("Size", Value::Str(size(container))),
        ("State", Value::Str(at(&["State"]))),
        ("Status", Value::Str(at(&["Status"]))),
    ])
}

fn command(command: &str, whole: bool) -> String {
    gotemplate::quote(&if whole { command.to_string() } else { units::ellipsis(command, 20) })
}

fn image(container: &Value, whole: bool) -> String {
    let (name, id) = (container.text_at(&["Image"]), container.text_at(&["ImageID"]));
    if name.is_empty() {
        return "<no image>".into();
    }
    if whole {
        return name.to_string();
    }
    if units::short_id(id) == units::short_id(name) {
        return units::short_id(id);
    }
    // A tag says enough; the digest beside it is long.
    match name.split_once('@') {
        Some((tagged, _)) if tagged.rsplit('/').next().is_some_and(|last| last.contains(':')) => {
            tagged.to_string()
        }
        _ => name.to_string(),
    }
}

/// Without the slash; names under other containers (links) only where asked for.
fn names(container: &Value, whole: bool) -> String {
    let all = container.get("Names").map_or(&[][..], Value::items);
    let names = all.iter().map(|n| n.text().trim_start_matches('/'));
    let names: Vec<&str> = names.filter(|n| whole || !n.contains('/')).collect();
    names.join(",")
}

fn mount_names(mounts: &[Value], whole: bool) -> String {
    let name = |mount: &Value| {
        let name = mount.text_at(&["Name"]);
        let name = if name.is_empty() { mount.text_at(&["Source"]) } else { name };
        if whole { name.to_string() } else { units::ellipsis(name, 15) }
    };
    mounts.iter().map(name).collect::<Vec<_>>().join(",")
}

/// `2B (virtual 1.98MB)`.
fn size(container: &Value) -> String {
    let number = |name| container.get(name).map_or(0.0, |v| v.int() as f64);
    let writable = units::human_size(number("SizeRw"), 3);
    let virtual_size = units::human_size(number("SizeRootFs"), 3);
    if number("SizeRootFs") > 0.0 { format!("{writable} (virtual {virtual_size})") } else { writable }
}

/// Ports in ranges: `0.0.0.0:80-81->80-81/tcp, 53/udp`.
fn ports(list: &[Value]) -> String {
    struct Group {
        ip: String,
        protocol: String,
        first: i64,
        last: i64,
    }
    let show = |group: &Group| {
        let range = match group.first == group.last {
            true => group.first.to_string(),
            false => format!("{}-{}", group.first, group.last),
        };
        match group.ip.is_empty() {
            true => format!("{range}/{}", group.protocol),
            false => format!("{}->{range}/{}", host_port(&group.ip, &range), group.protocol),
        }
    };
    let mut sorted: Vec<(i64, &str, i64, &str)> = list
        .iter()
        .map(|port| {
            let number = |name| port.get(name).map_or(0, Value::int);
            (number("PrivatePort"), port.text_at(&["IP"]), number("PublicPort"), port.text_at(&["Type"]))
        })
        .collect();
    sorted.sort_unstable();
    let (mut done, mut open, mut mapped) = (Vec::new(), Vec::<Group>::new(), Vec::new());
    for (private, ip, public, protocol) in sorted {
        if !ip.is_empty() && public != private {
            mapped.push(format!("{}->{private}/{protocol}", host_port(ip, &public.to_string())));
            continue;
        }
        match open.iter_mut().find(|g| g.ip == ip && g.protocol == protocol) {
            Some(group) if group.last + 1 == private => group.last = private,
            Some(group) => {
                done.push(show(group));
                (group.first, group.last) = (private, private);
            }
            None => {
                open.push(Group { ip: ip.into(), protocol: protocol.into(), first: private, last: private })
            }
        }
    }
    done.extend(open.iter().map(show));
    done.extend(mapped);
    done.join(", ")
}

/// `IP:PORT`, with brackets where the address has colons.
pub(crate) fn host_port(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_grouped() {
        let check = |json: &str, expected: &str| {
            let list: Value = serde_json::from_str(json).unwrap();
            assert_eq!(ports(list.items()), expected);
        };
        check("[]", "");
        check(r#"[{"PrivatePort":80,"Type":"tcp"}]"#, "80/tcp");
        check(
            r#"[{"PrivatePort":80,"Type":"tcp"},{"PrivatePort":82,"Type":"tcp"},{"PrivatePort":81,"Type":"tcp"}]"#,
            "80-82/tcp",
        );
        check(
            r#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}]"#,
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
        );
        check(
            r#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":80,"Type":"tcp"},{"IP":"0.0.0.0","PrivatePort":81,"PublicPort":81,"Type":"tcp"}]"#,
            "0.0.0.0:80-81->80-81/tcp",
        );
    }

    #[test]
    fn fields_are_dockers() {
        let container: Value = serde_json::from_str(
            r#"{"Id":"0123456789abcdef","Names":["/web","/other/alias"],"Image":"busybox:1@sha256:aa",
                "Command":"sh -c 'while true; do x; done'"}"#,
        )
        .unwrap();
        assert_eq!(id(&container, false), "0123456789ab");
        assert_eq!(names(&container, false), "web");
        assert_eq!(names(&container, true), "web,other/alias");
        assert_eq!(image(&container, false), "busybox:1");
        assert_eq!(command(container.text_at(&["Command"]), false), "\"sh -c 'while true; …\"");
    }
}
