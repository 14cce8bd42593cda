//! `login` and `logout`.

use super::Context;
use crate::config::{self, Credentials};
use crate::error::{Error, Result};
use crate::http::Path;
use crate::terminal;
use gotemplate::Value;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Read};

/// Longest password on standard input. Access tokens of clouds have a few KiB.
const MAX_PASSWORD: u64 = 1 << 20;

/// Authenticate to a registry
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Login {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long, value_name = "string")]
    password: Option<String>,
    /// Take the password from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long, value_name = "string")]
    username: Option<String>,
    /// The registry; Docker Hub where none is named
    server: Option<String>,
}

pub(crate) async fn login(context: &mut Context, flags: &Login) -> Result<u8> {
    let server = config::server_key(&bare(flags.server.as_deref())).to_string();
    if flags.password.is_some() && flags.password_stdin {
        return Err(Error::Usage(
            "conflicting options: cannot specify both --password and --password-stdin".into(),
        ));
    }
    if flags.password_stdin && flags.username.is_none() {
        return Err(Error::Usage("the --password-stdin option requires --username to be set".into()));
    }
    if flags.password.is_some() {
        terminal::warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if flags.username.is_none()
        && flags.password.is_none()
        && let Some(known) = context.config.credentials(&server).await?
    {
        terminal::warn("Authenticating with existing credentials...");
        match check(context, &server, known).await {
            Ok(status) => {
                terminal::print_line(&status)?;
                return Ok(0);
            }
            // The user may know better ones.
            Err(Error::Api { status: 401, message }) if std::io::stdin().is_terminal() => {
                terminal::warn(&format!("Login did not succeed, error: {message}"));
            }
            Err(error) => return Err(error),
        }
    }
    let user = match &flags.username {
        Some(user) => user.clone(),
        None => ask("Username: ", true)?,
    };
    let password = match (&flags.password, flags.password_stdin) {
        (Some(password), _) => password.clone(),
        (None, true) => {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(MAX_PASSWORD).read_to_string(&mut text);
            read.map_err(|source| Error::Stream { doing: "read the password", source })?;
            text.trim_end_matches(['\n', '\r']).to_string()
        }
        (None, false) => ask("Password: ", false)?,
    };
    if user.is_empty() {
        return Err(Error::Usage("username is empty".into()));
    }
    if password.is_empty() {
        return Err(Error::Usage("password is empty".into()));
    }
    let status =
        check(context, &server, Credentials { user, password, identity_token: String::new() }).await?;
    terminal::print_line(&status)?;
    Ok(0)
}

/// Has the daemon try credentials at the registry, and keeps them, or the token that stands for them.
async fn check(context: &mut Context, server: &str, mut credentials: Credentials) -> Result<String> {
    let mut body = json!({"username": credentials.user, "serveraddress": server});
    if credentials.identity_token.is_empty() {
        body["password"] = credentials.password.as_str().into();
    } else {
        body["identitytoken"] = credentials.identity_token.as_str().into();
    }
    let answer: Value = context.client.post_json(&Path::new(&["auth"]), &body).await?;
    let token = answer.text_at(&["IdentityToken"]);
    if !token.is_empty() {
        credentials.identity_token = token.to_string();
        credentials.password.clear();
    }
    if context.config.store(server, &credentials).await? {
        let path = context.config.path().display().to_string();
        terminal::warn(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{path}'.\nConfigure a credential helper to remove this warning."
        ));
    }
    let status = answer.text_at(&["Status"]);
    Ok(if status.is_empty() { "Login Succeeded".into() } else { status.to_string() })
}

pub(crate) async fn logout(context: &mut Context, server: Option<&str>) -> Result<u8> {
    let server = config::server_key(&bare(server)).to_string();
    if context.config.erase(&server).await? {
        terminal::print_line(&format!("Removing login credentials for {server}"))?;
    } else {
        terminal::print_line(&format!("Not logged in to {server}"))?;
    }
    Ok(0)
}

/// The host of a registry that people write as a URL. Docker Hub's own address stays what it is.
fn bare(server: Option<&str>) -> String {
    let server = server.unwrap_or_default();
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    rest.split('/').next().unwrap_or_default().to_string()
}

fn ask(prompt: &str, echo: bool) -> Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::Usage("Error: Cannot perform an interactive login from a non TTY device".into()));
    }
    terminal::print(prompt)?;
    let hidden = if echo { None } else { Some(terminal::NoEcho::enter()?) };
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    drop(hidden);
    read.map_err(|source| Error::Stream { doing: "read the answer", source })?;
    if !echo {
        terminal::print("\n")?;
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_by_host() {
        let check = |text: &str, expected: &str| {
            assert_eq!(config::server_key(&bare(Some(text))), expected, "{text}");
        };
        check("", config::HUB);
        check("docker.io", config::HUB);
        check(config::HUB, config::HUB);
        check("https://r.example:5000/v2/", "r.example:5000");
        check("localhost:5000", "localhost:5000");
    }
}
