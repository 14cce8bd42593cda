//! Programs that keep credentials: `docker-credential-NAME get`, `store`, `erase`. Each reads one document from its
//! standard input and answers on its standard output.

use crate::config::Credentials;
use crate::error::{Error, Result};
use crate::text::printable;
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

/// The user under which a helper keeps an identity token.
const TOKEN: &str = "<token>";
/// How helpers say that they know nothing.
const UNKNOWN: [&str; 2] = ["credentials not found in native keychain", "no credentials server URL"];

/// What the helper knows of `server`.
pub(crate) async fn get(name: &str, server: &str) -> Result<Option<Credentials>> {
    let Some(answer) = run(name, "get", server).await? else { return Ok(None) };
    let answer: Value = serde_json::from_str(&answer).map_err(|source| Error::Decode {
        what: format!("the answer of docker-credential-{name}"),
        source,
    })?;
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let (user, secret) = (text("Username"), text("Secret"));
    Ok(Some(match user.as_str() {
        TOKEN => Credentials { identity_token: secret, ..Credentials::default() },
        _ => Credentials { user, password: secret, ..Credentials::default() },
    }))
}

/// Has the helper keep credentials.
pub(crate) async fn store(name: &str, server: &str, credentials: &Credentials) -> Result<()> {
    let (user, secret) = match credentials.identity_token.as_str() {
        "" => (credentials.user.as_str(), credentials.password.as_str()),
        token => (TOKEN, token),
    };
    let document = json!({"ServerURL": server, "Username": user, "Secret": secret});
    run(name, "store", &document.to_string()).await.map(drop)
}

/// Has the helper forget credentials. Says whether it knew any.
pub(crate) async fn erase(name: &str, server: &str) -> Result<bool> {
    if get(name, server).await?.is_none() {
        return Ok(false);
    }
    Ok(run(name, "erase", server).await?.is_some())
}

/// What the helper prints; none where it says that it knows nothing.
async fn run(name: &str, action: &str, input: &str) -> Result<Option<String>> {
    if name.contains('/') {
        return Err(Error::Usage(format!("credential helper {name:?} is not a plain name")));
    }
    let program = format!("docker-credential-{name}");
    let failed =
        |source| Error::File { doing: "run the credential helper", path: program.clone().into(), source };
    let mut command = tokio::process::Command::new(&program);
    command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that has ended says why below.
        let _gone = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
    if output.status.success() {
        return Ok(Some(said));
    }
    if UNKNOWN.iter().any(|words| said.contains(words)) {
        return Ok(None);
    }
    let errors = String::from_utf8_lossy(&output.stderr).trim().to_string();
    let text = if said.is_empty() { errors } else { said };
    Err(Error::Reported(format!("{program} {action}: {}: {}", output.status, printable(&text))))
}
