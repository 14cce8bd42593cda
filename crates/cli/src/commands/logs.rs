//! `logs`.

use super::Context;
use crate::clock;
use crate::demux::Demux;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::streams;
use gotemplate::Value;
use http_body_util::BodyExt;
use hyper::Method;
use jiff::Timestamp;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Logs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    since: String,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "string", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    until: String,
    container: String,
}

pub(crate) async fn logs(context: &Context, flags: &Logs) -> Result<u8> {
    let now = Timestamp::now();
    let client = &context.client;
    let path = Path::new(&["containers", &flags.container, "logs"])
        .query("stdout", "1")
        .query("stderr", "1")
        .flag("follow", flags.follow)
        .flag("timestamps", flags.timestamps)
        .flag("details", flags.details)
        .query_some("since", &clock::api_timestamp(&flags.since, now)?)
        .query_some("until", &clock::api_timestamp(&flags.until, now)?)
        .query("tail", &flags.tail);
    // Both at once: the answer to the first says how to read that to the second.
    let inspect_path = Path::new(&["containers", &flags.container, "json"]);
    let inspecting = client.get::<Value>(&inspect_path);
    let asking = client.request(Method::GET, &path, Extra::default());
    let (container, response) = tokio::try_join!(inspecting, asking)?;
    let tty = container.at(&["Config", "Tty"]).is_some_and(Value::is_true);
    let mut demux = Demux::default();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::transport("read the log", e))?;
        if let Ok(bytes) = frame.into_data() {
            streams::show(&mut demux, bytes, tty).await?;
        }
    }
    Ok(0)
}
