//! Files of git repositories, for ADD and for contexts: read by git(1), which is the one program that a build starts
//! besides its own.
//!
//! ```text
//! resolve ─ git ls-remote ─> commit          (nothing where the name is a commit)
//! fetch   ─ git init, fetch --depth=1 COMMIT, checkout, submodule update ─> a tree in a directory of the build
//! ```
//!
//! What a stranger can say is a URL, a ref, a directory and all that the repository holds. None of it reaches a command
//! line but names of refs that [`GitUrl`] let through: the URL stands in the repository's config, credentials in a file
//! of the build with mode 0600. git has no environment but ours, no config of the machine, no hooks, no filters, no
//! credential helpers, no terminal, and four protocols. It never clones from a path. The directory is resolved below the
//! tree by descriptor, and what is taken from the tree is taken as from any other context.

use crate::context::Context;
use crate::error::{During, Error, IoDuring};
use crate::git_url::{GitUrl, Wanted, redact};
use engine::{Engine, blocking};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Where git and what it starts are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of git's answers and complaints that are read; what is beyond is thrown away.
const MAX_ANSWER: u64 = 1 << 20;
/// Deepest directory of a repository.
const MAX_DEPTH: usize = 400;
/// What git is told besides its command line. Submodules see it too.
const CONFIG: &str = "[core]
\thooksPath = /dev/null
\tattributesFile = /dev/null
\tfsmonitor = false
\tsymlinks = true
[credential]
\thelper =
[init]
\tdefaultBranch = main
[gc]
\tauto = 0
[maintenance]
\tauto = false
[advice]
\tdetachedHead = false
[http]
\tlowSpeedLimit = 1
\tlowSpeedTime = 120
[submodule]
\tfetchJobs = 2
";

/// With what repositories and files behind URLs are read.
#[derive(Clone, Default)]
pub struct GitAccess {
    /// Secrets by id, of which these are used: `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER`, also with `.HOST` behind, and
    /// `HTTP_AUTH_HEADER_HOST`, `HTTP_AUTH_TOKEN_HOST`.
    secrets: BTreeMap<String, crate::Secret>,
    /// What the client says for a URL that is none of a repository.
    http: Option<String>,
    /// The socket of an ssh agent.
    agent: Option<PathBuf>,
    /// One that the client serves for as long as this lives.
    served: Option<Arc<crate::Agent>>,
    /// `http_proxy` and the like.
    proxies: Vec<String>,
    /// The directory `.git` of a context stays.
    pub(crate) keep_git_dir: bool,
}

impl std::fmt::Debug for GitAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitAccess").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl GitAccess {
    /// What a request brought.
    pub fn of(request: &crate::Request) -> GitAccess {
        let agent = request.ssh.get("default").cloned();
        GitAccess::new(request.secrets.clone(), agent, &request.build_args)
    }

    /// Secrets by id, the socket of an agent, and what is among the build arguments.
    pub fn new(
        secrets: BTreeMap<String, crate::Secret>,
        agent: Option<PathBuf>,
        build_args: &BTreeMap<String, Option<String>>,
    ) -> GitAccess {
        let keep = build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").and_then(Option::as_deref);
        GitAccess {
            secrets,
            http: None,
            agent,
            served: None,
            proxies: crate::stage::proxies(build_args),
            keep_git_dir: matches!(keep, Some("1" | "true")),
        }
    }

    /// What the client has for `url` besides, asked now.
    pub async fn asked(mut self, client: &dyn crate::Client, url: &str) -> Result<GitAccess, Error> {
        let Ok(url) = GitUrl::parse(url) else {
            let find = |id: String| -> crate::Answer<'_, Option<crate::Secret>> {
                Box::pin(async move { client.secret(&id).await })
            };
            self.http = crate::remote::authorization(url, find).await?;
            return Ok(self);
        };
        for name in ["GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"] {
            for id in [format!("{name}.{}", url.host()), name.to_string()] {
                if let Some(secret) = client.secret(&id).await.map_err(Error::invalid)? {
                    self.secrets.insert(id, secret);
                }
            }
        }
        let is_ssh = url.remote.starts_with("ssh://") || !url.remote.contains("://");
        if is_ssh && self.agent.is_none() {
            let agent = client.agent("default").await.map_err(Error::invalid)?;
            self.agent = agent.as_ref().map(|agent| agent.socket.clone());
            self.served = agent.map(Arc::new);
        }
        Ok(self)
    }

    /// What says who asks for a file behind `url`.
    pub(crate) async fn authorization(&self, url: &str) -> Result<Option<String>, Error> {
        if self.http.is_some() {
            return Ok(self.http.clone());
        }
        let find = |id: String| -> crate::Answer<'_, Option<crate::Secret>> {
            Box::pin(std::future::ready(Ok(self.secrets.get(&id).cloned())))
        };
        crate::remote::authorization(url, find).await
    }

    /// The line that says who asks, for one host.
    fn header(&self, url: &GitUrl) -> Result<Option<String>, Error> {
        let text = |id: &str| -> Result<Option<String>, Error> {
            let names = [format!("{id}.{}", url.host()), id.to_string()];
            let Some(secret) = names.iter().find_map(|name| self.secrets.get(name)) else { return Ok(None) };
            let text = String::from_utf8(secret.0.clone()).ok().map(|t| t.trim().to_string());
            match text.filter(|t| !t.bytes().any(|b| b.is_ascii_control())) {
                Some(text) => Ok(Some(text)),
                None => Err(Error::invalid(format!("the secret {id} is no line of text"))),
            }
        };
        if let Some(header) = text("GIT_AUTH_HEADER")? {
            return Ok(Some(header));
        }
        let token = text("GIT_AUTH_TOKEN")?.map(|token| format!("x-access-token:{token}"));
        Ok(token.or(url.login.clone()).map(|login| format!("basic {}", base64(login.as_bytes()))))
    }
}

/// A repository in a directory of the build.
pub(crate) struct Repository {
    context: Context,
    /// Removed with the context.
    home: PathBuf,
    env: Vec<(String, String)>,
    url: GitUrl,
    /// Serves the agent's socket.
    _agent: Option<Arc<crate::Agent>>,
}

/// A tree that was asked for, and by which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) commit: String,
    /// The ref that leads there; none where the commit was named.
    reference: Option<String>,
}

impl Repository {
    /// Makes an empty one that knows its origin.
    pub(crate) async fn open(engine: &Engine, url: &GitUrl, access: &GitAccess) -> Result<Repository, Error> {
        let doing = || format!("prepare to read {}", url.remote);
        let (context, home) = Context::with_room(engine)?;
        let mut config = CONFIG.to_string();
        if let Some(header) = access.header(url)?
            && let Some((scheme, _)) =
                url.remote.split_once("://").filter(|(scheme, _)| scheme.starts_with("http"))
        {
            let site = format!("{scheme}://{}/", url.host());
            config += &format!(
                "[http {}]\n\textraHeader = {}\n",
                quoted(&site),
                quoted(&format!("Authorization: {header}"))
            );
        }
        write_private(&home.join("gitconfig"), &config).io_during(doing)?;
        std::fs::create_dir(home.join("home")).io_during(doing)?;
        let known = "-o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts";
        let mut env: Vec<(String, String)> = [
            ("PATH", PATH),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("GIT_TEMPLATE_DIR", ""),
            ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
        ]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .into();
        let add =
            |env: &mut Vec<(String, String)>, name: &str, value: String| env.push((name.to_string(), value));
        add(&mut env, "GIT_CONFIG_GLOBAL", home.join("gitconfig").display().to_string());
        add(&mut env, "HOME", home.join("home").display().to_string());
        add(&mut env, "GIT_SSH_COMMAND", format!("ssh -F /dev/null -o BatchMode=yes {known}"));
        if let Some(agent) = &access.agent {
            add(&mut env, "SSH_AUTH_SOCK", agent.display().to_string());
        }
        env.extend(
            access.proxies.iter().filter_map(|p| p.split_once('=')).map(|(n, v)| (n.into(), v.into())),
        );
        let repository = Repository { context, home, env, url: url.clone(), _agent: access.served.clone() };
        repository.git(&["init", "--quiet"]).await?;
        let origin = format!(
            "[remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
            quoted(&url.remote)
        );
        let path = repository.work_tree().join(".git/config");
        let mut text = std::fs::read_to_string(&path).io_during(doing)?;
        text += &origin;
        std::fs::write(&path, text).io_during(doing)?;
        Ok(repository)
    }

    fn work_tree(&self) -> PathBuf {
        self.home.join("context")
    }

    /// Finds the commit that is meant, without fetching it.
    pub(crate) async fn resolve(&self, checksum: Option<&str>) -> Result<Resolved, Error> {
        let of = |name: &String, kinds: &[&str]| -> Vec<String> {
            if name.starts_with("refs/") {
                return vec![format!("{name}^{{}}"), name.clone()];
            }
            let each = kinds
                .iter()
                .flat_map(|kind| [format!("refs/{kind}/{name}^{{}}"), format!("refs/{kind}/{name}")]);
            each.collect()
        };
        let candidates = match &self.url.wanted {
            Wanted::Commit(commit) => {
                verify(commit, self.url.checksum.as_deref())?;
                verify(commit, checksum)?;
                return Ok(Resolved { commit: commit.clone(), reference: None });
            }
            Wanted::Head => vec!["HEAD".to_string()],
            Wanted::Ref(name) => of(name, &["heads", "tags"]),
            Wanted::Branch(name) => of(name, &["heads"]),
            Wanted::Tag(name) => of(name, &["tags"]),
        };
        let mut args = vec!["ls-remote", "--quiet", "origin"];
        args.extend(candidates.iter().map(String::as_str));
        let answer = self.git(&args).await?;
        let listed: BTreeMap<&str, &str> = answer
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(commit, name)| (name, commit))
            .collect();
        let found = candidates.iter().find_map(|name| Some((name, *listed.get(name.as_str())?)));
        let Some((name, commit)) = found.filter(|(_, commit)| crate::git_url::is_commit(commit)) else {
            let named = match &self.url.wanted {
                Wanted::Ref(name) | Wanted::Branch(name) | Wanted::Tag(name) => name.as_str(),
                Wanted::Head | Wanted::Commit(_) => "HEAD",
            };
            return Err(Error::invalid(format!(
                "repository does not contain ref {named}: {}",
                self.url.remote
            )));
        };
        verify(commit, self.url.checksum.as_deref())?;
        verify(commit, checksum)?;
        Ok(Resolved { commit: commit.to_string(), reference: Some(name.trim_end_matches("^{}").to_string()) })
    }

    /// Fetches the commit, and leaves its files as a context.
    pub(crate) async fn check_out(self, resolved: &Resolved, keep_git_dir: bool) -> Result<Context, Error> {
        self.fetch(resolved).await?;
        self.git(&["checkout", "--quiet", "--force", "--detach", &resolved.commit]).await?;
        if self.url.submodules && self.context.root.exists(Path::new(".gitmodules")).unwrap_or(false) {
            self.git(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"]).await?;
        }
        let time = match self.url.commit_times {
            true => {
                self.git(&["log", "-1", "--format=%ct", &resolved.commit]).await?.trim().parse::<i64>().ok()
            }
            false => None,
        };
        let Repository { mut context, home, url, .. } = self;
        blocking(move || {
            let doing = || format!("take the files of {}", url.remote);
            let git_dir = home.join("context/.git");
            for name in ["FETCH_HEAD", "ORIG_HEAD"] {
                match std::fs::remove_file(git_dir.join(name)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).io_during(doing),
                    _ => {}
                }
            }
            // Credentials are gone before anything is taken.
            std::fs::remove_file(home.join("gitconfig")).io_during(doing)?;
            if !keep_git_dir {
                context.root.remove_all(Path::new(".git")).during(doing)?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let top = context.root.open_file(Path::new("."), flags, Mode::empty()).during(doing)?;
            settle(top.as_fd(), keep_git_dir, time, 0).io_during(doing)?;
            if !url.subdir.is_empty() {
                let inside = context.root.subroot(Path::new(&url.subdir));
                context.root = inside
                    .map_err(|_| Error::invalid(format!("no directory {} in {}", url.subdir, url.remote)))?;
            }
            Ok(context)
        })
        .await
    }

    async fn fetch(&self, resolved: &Resolved) -> Result<(), Error> {
        let has =
            async || self.git(&["cat-file", "-e", &format!("{}^{{commit}}", resolved.commit)]).await.is_ok();
        let shallow = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--depth=1", "origin"];
        let by_commit = self.git(&[&shallow[..], &[&resolved.commit]].concat()).await;
        if by_commit.is_ok() && has().await {
            return Ok(());
        }
        // Servers may refuse to serve what no ref leads to, and some cannot cut histories.
        if let Some(name) = &resolved.reference {
            let spec = format!("+{name}:refs/brig/wanted");
            if self.git(&[&shallow[..], &[&spec]].concat()).await.is_ok() && has().await {
                return Ok(());
            }
        }
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        let whole = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "origin"];
        self.git(&[&whole[..], &all].concat()).await?;
        if has().await {
            return Ok(());
        }
        Err(by_commit.err().unwrap_or_else(|| {
            Error::invalid(format!(
                "repository does not contain commit {}: {}",
                resolved.commit, self.url.remote
            ))
        }))
    }

    /// Runs git in the repository and gives what it printed.
    async fn git(&self, args: &[&str]) -> Result<String, Error> {
        let verb = args.first().copied().unwrap_or_default();
        let doing = || format!("run git {verb} for {}", self.url.remote);
        let mut command = Command::new("git");
        command
            .args(args)
            .current_dir(self.work_tree())
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::invalid(
                    "reading a repository needs git(1) on the daemon's machine, and there is none",
                ));
            }
            other => other.io_during(doing)?,
        };
        let group = Group(child.id());
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (out, err, status) = tokio::join!(read(out), read(err), child.wait());
        let status = status.io_during(doing)?;
        group.has_ended();
        if status.success() {
            return Ok(out);
        }
        let lines: Vec<&str> = err.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let said = redact(&lines[lines.len().saturating_sub(5)..].join("; "));
        Err(Error::invalid(format!("git {verb} of {} failed: {said}", self.url.remote)))
    }
}

/// Kills git and what it started when the build goes away.
struct Group(Option<u32>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Who has ended already needs no killing.
            let _ended = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn read(mut from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    drop((&mut from).take(MAX_ANSWER).read_to_end(&mut bytes).await);
    drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn verify(commit: &str, checksum: Option<&str>) -> Result<(), Error> {
    match checksum {
        Some(wanted) if !commit.starts_with(wanted) => {
            Err(Error::invalid(format!("expected checksum to match {wanted}, got {commit}")))
        }
        _ => Ok(()),
    }
}

/// Gives files the modes that a checkout has anywhere, the time of the commit if that is asked for, and removes what
/// submodules have of git.
fn settle(dir: BorrowedFd<'_>, keep_git_dir: bool, time: Option<i64>, depth: usize) -> std::io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(std::io::Error::other(format!("directories are nested deeper than {MAX_DEPTH}")));
    }
    let times = time.map(|seconds| {
        let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
        Timestamps { last_access: at, last_modification: at }
    });
    for name in rootdir::list_at(dir)? {
        if name == ".git" {
            if !keep_git_dir {
                rootdir::remove_all_at(dir, &name)?;
            }
            continue;
        }
        let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let child: OwnedFd = rustix::fs::openat(dir, &name, flags, Mode::empty())?;
                rustix::fs::fchmod(&child, Mode::from_raw_mode(0o755))?;
                settle(child.as_fd(), keep_git_dir, time, depth + 1)?;
            }
            FileType::RegularFile => {
                let mode = if stat.st_mode & 0o100 == 0 { 0o644 } else { 0o755 };
                rustix::fs::chmodat(dir, &name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            }
            _ => {}
        }
        if let Some(times) = &times {
            rustix::fs::utimensat(dir, &name, times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// A value or a section's name for git's config.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_become_headers() {
        let mut access = GitAccess::default();
        let url = GitUrl::parse("https://u:p@h:1/x.git").expect("good");
        assert_eq!(access.header(&url).expect("good").as_deref(), Some("basic dTpw"));
        access.secrets.insert("GIT_AUTH_TOKEN".into(), crate::Secret(b"t\n".to_vec()));
        let basic = format!("basic {}", base64(b"x-access-token:t"));
        assert_eq!(access.header(&url).expect("good"), Some(basic));
        access.secrets.insert("GIT_AUTH_HEADER.h:1".into(), crate::Secret(b"bearer z".to_vec()));
        assert_eq!(access.header(&url).expect("good").as_deref(), Some("bearer z"));
        access.secrets.insert("GIT_AUTH_HEADER.h:1".into(), crate::Secret(b"a\nb".to_vec()));
        assert!(access.header(&url).is_err());
        assert!(!format!("{access:?}").contains('z'));
        assert_eq!(quoted("a\"b\\"), "\"a\\\"b\\\\\"");
    }
}
