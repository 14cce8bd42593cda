//! Volumes.

use super::inspect::{self, Kind};
use super::objects::{Inspect, List, Prune, pairs, prune};
use super::{Context, each};
use crate::body;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::listing::{self, Listing};
use crate::terminal::{self, Out};
use crate::units;
use gotemplate::Value;
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::json;
use std::io::{IsTerminal, Write as _};

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Volume {
    /// List volumes
    #[command(name = "ls", alias = "list")]
    List(List),
    /// Display detailed information on one or more volumes
    Inspect(Inspect),
    /// Create a volume
    Create {
        /// Specify volume driver name
        #[arg(short, long, value_name = "string", default_value = "local")]
        driver: String,
        /// Set metadata for a volume
        #[arg(long, value_name = "list")]
        label: Vec<String>,
        /// Set driver specific options
        #[arg(short, long, value_name = "map")]
        opt: Vec<String>,
        #[arg(value_name = "VOLUME")]
        name: Option<String>,
    },
    /// Remove one or more volumes
    #[command(name = "rm", alias = "remove")]
    Remove {
        /// Force the removal of one or more volumes
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
    /// Update a volume (cluster volumes only)
    Update {
        /// Cluster Volume availability
        #[arg(long, value_name = "string", default_value = "active")]
        availability: String,
        #[arg(value_name = "VOLUME")]
        name: String,
    },
    /// Remove unused local volumes
    Prune(Prune),
    /// Write the content of a volume as a tar archive
    Export {
        /// Write to a file, instead of STDOUT
        #[arg(short, long, value_name = "string")]
        output: Option<std::path::PathBuf>,
        #[arg(value_name = "VOLUME")]
        name: String,
    },
    /// Unpack a tar archive into a volume, which is created if it does not exist
    Import {
        #[arg(value_name = "VOLUME")]
        name: String,
        /// Read from a file; '-' or nothing is STDIN
        #[arg(value_name = "FILE")]
        input: Option<std::path::PathBuf>,
    },
}

pub(crate) async fn volume(context: &Context, command: Volume) -> Result<u8> {
    let client = &context.client;
    match command {
        Volume::List(flags) => volume_list(context, &flags).await,
        Volume::Inspect(flags) => {
            inspect::show(context, &flags.names, &[Kind::Volume], &flags.format, false).await
        }
        Volume::Create { driver, label, opt, name } => {
            let body = json!({"Name": name.unwrap_or_default(), "Driver": driver,
                "DriverOpts": pairs(&opt), "Labels": pairs(&label)});
            let answer: Value = client.post_json(&Path::new(&["volumes", "create"]), &body).await?;
            terminal::print_line(answer.text_at(&["Name"]))?;
            Ok(0)
        }
        Volume::Remove { force, names } => {
            each(&names, async |name| {
                let path = Path::new(&["volumes", &name]).flag("force", force);
                client.delete(&path).await.map(|_| Some(name))
            })
            .await
        }
        Volume::Update { availability, name } => {
            let path = Path::new(&["volumes", &name]).query("version", "0");
            let body = Extra::json(&json!({"Spec": {"Availability": availability}}));
            let response = client.request(Method::PUT, &path, body).await?;
            client.read_all(response).await?;
            Ok(0)
        }
        Volume::Prune(flags) => prune(context, "volumes", &flags).await,
        Volume::Export { output, name } => export(context, &name, output.as_deref()).await,
        Volume::Import { name, input } => import(context, &name, input.as_deref()).await,
    }
}

async fn volume_list(context: &Context, flags: &List) -> Result<u8> {
    const HEADERS: &[(&str, &str)] = &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
    ];
    let default = "{{.Driver}}\t{{.Name}}".to_string();
    let form = Listing { default, headers: HEADERS }.form(flags.format.as_deref())?;
    let path = Path::new(&["volumes"]).query_some("filters", &listing::filters(&flags.filter)?);
    let answer: Value = context.client.get(&path).await?;
    let empty = Value::Nil;
    let mut volumes: Vec<&Value> = answer.get("Volumes").unwrap_or(&empty).items().iter().collect();
    volumes.sort_by(|a, b| a.text_at(&["Name"]).cmp(b.text_at(&["Name"])));
    if flags.quiet && flags.format.is_none() {
        let names: String = volumes.iter().map(|v| format!("{}\n", v.text_at(&["Name"]))).collect();
        terminal::print(&names)?;
        return Ok(0);
    }
    let row = |volume: &&Value| {
        let labels = volume.get("Labels").cloned().unwrap_or_default();
        let usage = |field| volume.at(&["UsageData", field]).map(Value::int);
        listing::row([
            ("Driver", Value::from(volume.text_at(&["Driver"]))),
            ("Label", listing::label_method(&labels)),
            ("Labels", Value::Str(listing::labels_text(&labels))),
            ("Links", Value::Str(usage("RefCount").map_or("N/A".into(), |n| n.to_string()))),
            ("Mountpoint", Value::from(volume.text_at(&["Mountpoint"]))),
            ("Name", Value::from(volume.text_at(&["Name"]))),
            ("Scope", Value::from(volume.text_at(&["Scope"]))),
            ("Size", Value::Str(usage("Size").map_or("N/A".into(), |n| units::human_size(n as f64, 4)))),
        ])
    };
    terminal::print(&form.render(volumes.iter().map(row).collect())?)?;
    Ok(0)
}

async fn export(context: &Context, name: &str, output: Option<&std::path::Path>) -> Result<u8> {
    if output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::Usage(
            "cowardly refusing to write an archive to a terminal; use -o or redirect".into(),
        ));
    }
    let failed = |source| Error::Stream { doing: "write the archive", source };
    let path = Path::new(&["brig", "volumes", name, "archive"]);
    let response = context.client.request(Method::GET, &path, Extra::default()).await?;
    let mut file = output.map(std::fs::File::create).transpose().map_err(failed)?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::transport("read the archive", e))?;
        if let Ok(bytes) = frame.into_data() {
            match &mut file {
                Some(file) => file.write_all(&bytes).map_err(failed)?,
                None => Out::Stdout.write_all(&bytes).await.map_err(failed)?,
            }
        }
    }
    Ok(0)
}

async fn import(context: &Context, name: &str, input: Option<&std::path::Path>) -> Result<u8> {
    let input = input.filter(|p| p.as_os_str() != "-");
    let failed = |source| Error::Stream { doing: "read the archive", source };
    let path = Path::new(&["brig", "volumes", name, "archive"]);
    let chunks = match input {
        Some(file) => body::file_chunks(tokio::fs::File::open(file).await.map_err(failed)?),
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Usage("requested import from stdin, but stdin is empty".into()));
        }
        None => terminal::stdin_chunks(),
    };
    let body = body::streamed(chunks);
    let response = context.client.request_stream(Method::PUT, &path, "application/x-tar", body).await?;
    context.client.read_all(response).await?;
    terminal::print_line(name)?;
    Ok(0)
}
