//! Daemons behind ssh: the ssh program runs `brig system dial-stdio` there, and its standard streams are the connection.

use crate::error::{Error, Result};
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// `ssh://[USER@]HOST[:PORT][/SOCKET]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// The daemon's socket on the other machine, where it is not that machine's default.
    pub(crate) socket: Option<String>,
}

impl Address {
    /// Reads what follows `ssh://`.
    pub(crate) fn parse(text: &str) -> Result<Address> {
        let bad = |why: &str| Error::Usage(format!("invalid ssh connection helper `ssh://{text}`: {why}"));
        if text.contains(['?', '#']) {
            return Err(bad("query and fragment mean nothing here"));
        }
        let (authority, path) = text.split_once('/').unwrap_or((text, ""));
        let (user, rest) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(bad("plain-text password is not supported")),
            Some((user, rest)) => (Some(user.to_string()), rest),
            None => (None, authority),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| bad("the port is no number"))?))
            }
            _ => (rest, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // Neither may pass for an option of ssh.
        if host.is_empty()
            || host.starts_with('-')
            || user.as_ref().is_some_and(|u| u.is_empty() || u.starts_with('-'))
        {
            return Err(bad("no host specified"));
        }
        let socket = (!path.is_empty()).then(|| format!("/{path}"));
        Ok(Address { user, host: host.to_string(), port, socket })
    }

    /// The arguments of ssh.
    fn arguments(&self) -> Vec<String> {
        let mut out: Vec<String> = ["-o", "ConnectTimeout=30", "-T"].map(String::from).into();
        if let Some(user) = &self.user {
            out.extend(["-l".to_string(), user.clone()]);
        }
        if let Some(port) = self.port {
            out.extend(["-p".to_string(), port.to_string()]);
        }
        out.extend(["--".to_string(), self.host.clone(), "brig".to_string()]);
        if let Some(socket) = &self.socket {
            out.push(format!("--host=unix://{}", quoted(socket)));
        }
        out.extend(["system", "dial-stdio"].map(String::from));
        out
    }
}

/// For the shell at the other end.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text.to_string() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
}

/// Starts ssh. What it complains of goes to our standard error.
pub(crate) fn connect(address: &Address) -> io::Result<Connection> {
    let mut command = std::process::Command::new("ssh");
    command.args(address.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped());
    // Not ours to interrupt: an attached `run` passes Ctrl-C on to the container.
    sys::session::new_session(&mut command);
    let mut child = Command::from(command).kill_on_drop(true).spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take().expect("stdout is a pipe"));
    Ok(Connection { input, output, _child: child })
}

/// The streams of a running ssh, which ends with them.
#[derive(Debug)]
pub(crate) struct Connection {
    input: Option<ChildStdin>,
    output: ChildStdout,
    _child: Child,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Closes the pipe: a pipe has no other way to say that nothing follows.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_arguments() {
        let check = |text: &str, want: &[&str]| {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.arguments()[3..], *want, "{text}");
            assert_eq!(address.to_string(), format!("ssh://{text}"));
        };
        check("h", &["--", "h", "brig", "system", "dial-stdio"]);
        check("me@h:22", &["-l", "me", "-p", "22", "--", "h", "brig", "system", "dial-stdio"]);
        check("[::1]:22", &["-p", "22", "--", "::1", "brig", "system", "dial-stdio"]);
        check("h/run/b.sock", &["--", "h", "brig", "--host=unix:///run/b.sock", "system", "dial-stdio"]);
        check("h/a b", &["--", "h", "brig", "--host=unix://'/a b'", "system", "dial-stdio"]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "me@", "me:secret@h", "h:x", "-oProxyCommand=x", "-l@h", "h?x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
