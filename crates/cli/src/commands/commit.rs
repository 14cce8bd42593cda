//! `commit`.

use super::Context;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::terminal;
use gotemplate::Value;
use hyper::Method;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Commit {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    message: String,
    /// Pause container during commit
    #[arg(short, long, value_name = "bool", default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pause: bool,
    container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

pub(crate) async fn commit(context: &Context, flags: &Commit) -> Result<u8> {
    let mut path = Path::new(&["commit"])
        .query("container", &flags.container)
        .query_some("comment", &flags.message)
        .query_some("author", &flags.author)
        .query("pause", if flags.pause { "1" } else { "0" });
    for change in &flags.change {
        path = path.query("changes", change);
    }
    if let Some(text) = &flags.reference {
        let reference = super::pull::parse(text)?;
        if reference.digest().is_some() {
            return Err(Error::Usage("cannot commit to digest reference".into()));
        }
        path =
            path.query("repo", &reference.familiar_name()).query_some("tag", reference.tag().unwrap_or(""));
    }
    let response = context.client.request(Method::POST, &path, Extra::default()).await?;
    let answer: Value = context.client.json(&path, response).await?;
    terminal::print_line(answer.text_at(&["Id"]))?;
    Ok(0)
}
