//! Checkpoints of containers.

use super::Context;
use crate::error::Result;
use crate::http::{Extra, Path};
use crate::table;
use crate::terminal;
use gotemplate::Value;
use hyper::Method;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Checkpoint {
    /// Create a checkpoint from a running container
    Create {
        /// Use a custom checkpoint storage directory
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        checkpoint_dir: String,
        /// Leave the container running after checkpoint
        #[arg(long)]
        leave_running: bool,
        container: String,
        checkpoint: String,
    },
    /// List checkpoints for a container
    #[command(name = "ls", alias = "list")]
    List {
        /// Use a custom checkpoint storage directory
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        checkpoint_dir: String,
        container: String,
    },
    /// Remove a checkpoint
    #[command(name = "rm", alias = "remove")]
    Remove {
        /// Use a custom checkpoint storage directory
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        checkpoint_dir: String,
        container: String,
        checkpoint: String,
    },
}

pub(crate) async fn checkpoint(context: &Context, command: &Checkpoint) -> Result<u8> {
    let client = &context.client;
    let of = |container: &str, more: &[&str]| {
        Path::new(&[&["containers", container, "checkpoints"], more].concat())
    };
    match command {
        Checkpoint::Create { checkpoint_dir, leave_running, container, checkpoint } => {
            let body = json!({ "CheckpointID": checkpoint, "CheckpointDir": checkpoint_dir,
                "Exit": !leave_running });
            let extra = Extra::json(&body);
            let response = client.request(Method::POST, &of(container, &[]), extra).await?;
            client.read_all(response).await?;
            terminal::print_line(checkpoint)?;
        }
        Checkpoint::List { checkpoint_dir, container } => {
            let path = of(container, &[]).query_some("dir", checkpoint_dir);
            let answer: Value = client.get(&path).await?;
            let names: String =
                answer.items().iter().map(|one| format!("{}\n", one.text_at(&["Name"]))).collect();
            terminal::print(&table::align(&format!("CHECKPOINT NAME\n{names}")))?;
        }
        Checkpoint::Remove { checkpoint_dir, container, checkpoint } => {
            client.delete(&of(container, &[checkpoint]).query_some("dir", checkpoint_dir)).await?;
        }
    }
    Ok(0)
}
