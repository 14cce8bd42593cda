//! `system check`, `system prune`, and the long form of `system df`.

use super::{Context, images};
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::listing;
use crate::table;
use crate::terminal;
use crate::units;
use crate::{clock, commands::objects};
use gotemplate::Value;
use hyper::Method;
use std::fmt::Write as _;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Check {
    /// Remove, unpack again or fetch again what is damaged, where that is possible
    #[arg(long)]
    repair: bool,
    /// Format output: 'json' or a Go template
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    format: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Prune {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

/// Exits with 1 when something is wrong and was not repaired.
pub(crate) async fn check(context: &Context, flags: &Check) -> Result<u8> {
    let path = Path::new(&["brig", "check"]).flag("repair", flags.repair);
    let method = if flags.repair { Method::POST } else { Method::GET };
    let response = context.client.request(method, &path, Extra::default()).await?;
    let report: Value = context.client.json(&path, response).await?;
    let empty = Value::Nil;
    let faults = report.get("Faults").unwrap_or(&empty).items();
    let repaired = |fault: &&Value| fault.get("Repaired").is_some_and(Value::is_true);
    let left = faults.len() - faults.iter().filter(repaired).count();
    match super::system::formatted(&flags.format, &report)? {
        Some(text) => terminal::print(&text)?,
        None => {
            let mut out = String::new();
            for fault in faults {
                let repair = match (repaired(&fault), fault.text_at(&["Repair"])) {
                    (true, how) => format!(" - {how}"),
                    (false, "") => String::new(),
                    (false, why) => format!(" - not repaired: {why}"),
                };
                let _ = writeln!(
                    out,
                    "{} {}: {}{repair}",
                    fault.text_at(&["Kind"]),
                    fault.text_at(&["Object"]),
                    fault.text_at(&["Fault"])
                );
                let concerned = fault.get("Images").unwrap_or(&empty).items();
                for image in concerned {
                    let _ = writeln!(out, "  image {}", image.text());
                }
            }
            let number = |name| report.get(name).map_or(0, Value::int);
            let _ = writeln!(
                out,
                "checked {} images, {} blobs ({}), {} of blobs on their way, {} layers ({} not compared), {} snapshots: {}",
                number("Images"),
                number("Blobs"),
                units::human_size(number("BlobBytes") as f64, 4),
                units::human_size(number("PartialBytes") as f64, 4),
                number("Layers"),
                number("LayersNotCompared"),
                number("Snapshots"),
                match faults.len() {
                    0 => "no faults".to_string(),
                    n => format!("{n} faults, {left} left"),
                }
            );
            terminal::print(&out)?;
        }
    }
    Ok(u8::from(left > 0))
}

pub(crate) async fn prune(context: &Context, flags: &Prune) -> Result<u8> {
    let mut warning = String::from(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if flags.volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(match flags.all {
        true => "  - all images without at least one container associated to them\n",
        false => "  - all dangling images\n",
    });
    warning.push_str("  - unused build cache\n");
    if !flags.filter.is_empty() {
        let _ = write!(warning, "\n  Items to be pruned will be filtered with:\n");
        for filter in &flags.filter {
            let _ = writeln!(warning, "  - {filter}");
        }
    }
    if !flags.force && !objects::confirmed(&warning)? {
        return Err(Error::Exit { code: 1, message: None });
    }
    let mut reclaimed = 0;
    let parts: &[(&str, &str)] = &[
        ("containers", "Deleted Containers:"),
        ("networks", "Deleted Networks:"),
        ("volumes", "Deleted Volumes:"),
        ("images", "Deleted Images:"),
        ("build", "Deleted build cache objects:"),
    ];
    for (what, heading) in parts {
        if *what == "volumes" && !flags.volumes {
            continue;
        }
        let mut filter = flags.filter.clone();
        if *what == "images" {
            filter.push(format!("dangling={}", !flags.all));
        }
        let mut path = Path::new(&[what, "prune"]).query_some("filters", &listing::filters(&filter)?);
        if *what == "build" {
            path = path.flag("all", flags.all);
        }
        let answer: Value = match context.client.request(Method::POST, &path, Extra::default()).await {
            Ok(response) => context.client.json(&path, response).await?,
            // A daemon without that part has nothing of it to remove.
            Err(Error::Api { status: 501 | 404, .. }) => continue,
            Err(e) => return Err(e),
        };
        reclaimed += answer.get("SpaceReclaimed").map_or(0, Value::int);
        let empty = Value::Nil;
        let lists =
            ["ContainersDeleted", "NetworksDeleted", "VolumesDeleted", "ImagesDeleted", "CachesDeleted"];
        let deleted = lists.iter().find_map(|list| answer.get(list)).unwrap_or(&empty).items();
        if deleted.is_empty() {
            continue;
        }
        let mut out = format!("{heading}\n");
        for item in deleted {
            let line = match (item, item.text_at(&["Deleted"])) {
                (Value::Str(name), _) => name.clone(),
                (_, "") => format!("untagged: {}", item.text_at(&["Untagged"])),
                (_, id) => format!("deleted: {id}"),
            };
            let _ = writeln!(out, "{line}");
        }
        terminal::print(&format!("{out}\n"))?;
    }
    terminal::print(&format!("Total reclaimed space: {}\n", units::human_size(reclaimed as f64, 4)))?;
    Ok(0)
}

/// Everything that takes room, thing by thing, and what the file system says of the data root.
pub(crate) async fn df_verbose(context: &Context, usage: &Value) -> Result<u8> {
    let empty = Value::Nil;
    let list = |name| usage.get(name).unwrap_or(&empty).items();
    let number = |item: &Value, path: &[&str]| item.at(path).map_or(0, Value::int);
    let human = |bytes: i64| if bytes < 0 { "N/A".to_string() } else { units::human_size(bytes as f64, 4) };
    let mut out = String::from("Images space usage:\n\n");
    let mut table_text =
        String::from("REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS\n");
    for image in list("Images") {
        let (size, shared) = (number(image, &["Size"]), number(image, &["SharedSize"]).max(0));
        for (repository, tag) in images::names_of(image) {
            let _ = writeln!(
                table_text,
                "{repository}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}",
                units::short_id(image.text_at(&["Id"])),
                clock::ago(number(image, &["Created"])),
                human(size),
                human(shared),
                human(size - shared),
                number(image, &["Containers"]).max(0),
            );
        }
    }
    out.push_str(&table::align(&table_text));
    out.push_str("\nContainers space usage:\n\n");
    let mut table_text =
        String::from("CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES\n");
    for container in list("Containers") {
        let mounts = container.get("Mounts").unwrap_or(&empty).items();
        let volumes = mounts.iter().filter(|m| m.text_at(&["Type"]) == "volume").count();
        let names = container.get("Names").unwrap_or(&empty).items();
        let names: Vec<&str> = names.iter().map(|n| n.text().trim_start_matches('/')).collect();
        let _ = writeln!(
            table_text,
            "{}\t{}\t{}\t{volumes}\t{}\t{}\t{}\t{}",
            units::short_id(container.text_at(&["Id"])),
            container.text_at(&["Image"]),
            units::ellipsis(&format!("{:?}", container.text_at(&["Command"])), 20),
            human(number(container, &["SizeRw"])),
            clock::ago(number(container, &["Created"])),
            container.text_at(&["Status"]),
            names.join(","),
        );
    }
    out.push_str(&table::align(&table_text));
    out.push_str("\nLocal Volumes space usage:\n\n");
    let mut table_text = String::from("VOLUME NAME\tLINKS\tSIZE\n");
    for volume in list("Volumes") {
        let links = number(volume, &["UsageData", "RefCount"]);
        let size = number(volume, &["UsageData", "Size"]);
        let _ = writeln!(table_text, "{}\t{links}\t{}", volume.text_at(&["Name"]), human(size));
    }
    out.push_str(&table::align(&table_text));
    let report: Value = match context.client.get(&Path::new(&["brig", "df"])).await {
        Ok(report) => report,
        // Another daemon than ours.
        Err(Error::Api { status: 404 | 501, .. }) => {
            terminal::print(&out)?;
            return Ok(0);
        }
        Err(e) => return Err(e),
    };
    let _ = write!(
        out,
        "\nOn disk, in {}: {} of {} used on its file system\n\n",
        report.text_at(&["Root"]),
        human(number(&report, &["Total"])),
        human(number(&report, &["FileSystem", "Used"])),
    );
    let mut table_text = String::from("PART\tFILES\tSIZE\n");
    for (name, what) in [("Parts", ""), ("Unaccounted", "unaccounted: ")] {
        for part in report.get(name).unwrap_or(&empty).items() {
            let files = number(part, &["Files"]);
            let _ = writeln!(
                table_text,
                "{what}{}\t{files}\t{}",
                part.text_at(&["Name"]),
                human(number(part, &["Bytes"]))
            );
        }
    }
    out.push_str(&table::align(&table_text));
    terminal::print(&out)?;
    Ok(0)
}
