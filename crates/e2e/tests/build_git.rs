//! Builds from git repositories, as contexts and by ADD: over git's own smart HTTP from a server of the test's own.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::daemon::{Daemon, Finished, Options};
use testkit::http::{Answer, Request, Server};

/// Repositories below a directory, and who serves them.
struct Hub {
    root: tempfile::TempDir,
    server: Server,
}

/// A program that does not read the machine's configuration.
fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for name in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{name}_NAME"), "T").env(format!("GIT_{name}_EMAIL"), "t@example.com");
        command.env(format!("GIT_{name}_DATE"), "2023-11-14T22:13:20Z");
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap().trim().to_string()
}

impl Hub {
    /// `login` is what an `Authorization` header must have.
    fn start(login: Option<&'static str>) -> Hub {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_path_buf();
        let server = Server::start(move |request, _| match login {
            Some(wanted) if request.header("authorization") != Some(wanted) => {
                Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"t\"")
            }
            _ => backend(&path, request),
        });
        Hub { root, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(format!("{name}.git"))
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}.git", self.server.address)
    }

    /// Commits files (a name that ends in `@` is a symlink, in `*` a program), and gives the commit.
    fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        let dir = self.path(name);
        if !dir.exists() {
            std::fs::create_dir(&dir).unwrap();
            git(&dir, &["init", "-q", "-b", "main"]);
        }
        for (file, text) in files {
            let path = dir.join(file.trim_end_matches(['@', '*']));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            if file.ends_with('@') {
                std::os::unix::fs::symlink(text, &path).unwrap();
                continue;
            }
            std::fs::write(&path, text.replace("BASE", BUSYBOX)).unwrap();
            if file.ends_with('*') {
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
        git(&dir, &["add", "-A"]);
        git(&dir, &["commit", "-q", "-m", "m"]);
        git(&dir, &["rev-parse", "HEAD"])
    }

    /// How often files were asked for, beside the names of refs.
    fn fetches(&self) -> usize {
        let asks = |r: &Request| r.body.windows(13).any(|w| w == b"command=fetch");
        self.server.seen().iter().filter(|r| asks(r)).count()
    }
}

/// git-http-backend(1), asked by its CGI variables.
fn backend(root: &Path, request: &Request) -> Answer {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A backend that refuses does not read.
    drop(stdin.write_all(&request.body));
    drop(stdin);
    let out = child.wait_with_output().unwrap().stdout;
    let at = out.windows(4).position(|w| w == b"\r\n\r\n").map_or(out.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&out[..at]).into_owned();
    let mut answer = Answer::new(200, &out[at..]);
    for (name, value) in head.lines().filter_map(|l| l.split_once(": ")) {
        if name == "Status" {
            answer.status = value.split(' ').next().unwrap().parse().unwrap();
        } else {
            answer = answer.with(name, value);
        }
    }
    answer
}

fn own() -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

/// Builds a Dockerfile of these lines on the base; the image is `app`.
fn build(daemon: &Daemon, lines: &str, flags: &[&str]) -> Finished {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), format!("FROM {BUSYBOX}\n{lines}\n")).unwrap();
    let args = [&["build", "-t", "app", "--progress=plain"], flags, &[dir.path().to_str().unwrap()]].concat();
    daemon.brig(&args)
}

fn run(daemon: &Daemon, script: &str) -> String {
    daemon.brig(&["run", "--rm", "app", "sh", "-c", script]).success()
}

#[test]
fn repositories_are_contexts() {
    let Some(daemon) = own() else { return };
    let hub = Hub::start(None);
    let dockerfile = "FROM BASE\nCOPY . /w\n";
    let first = hub.commit(
        "app",
        &[("Dockerfile", dockerfile), ("v", "1"), ("sub/Dockerfile", dockerfile), ("sub/s", "s")],
    );
    git(&hub.path("app"), &["tag", "-a", "-m", "t", "v1"]);
    hub.commit("app", &[("v", "2"), (".dockerignore", "sub\n")]);
    git(&hub.path("app"), &["branch", "other/one"]);
    hub.commit("app", &[("v", "3")]);
    let url = hub.url("app");
    for (fragment, file, want) in [
        ("", "v", "3"),
        ("#v1", "v", "1"),
        ("#refs/tags/v1", "v", "1"),
        ("#other/one", "v", "2"),
        (&format!("#{first}"), "v", "1"),
        ("#:sub", "s", "s"),
        ("#v1:sub/", "s", "s"),
        ("?tag=v1&subdir=sub", "s", "s"),
        ("?branch=other%2Fone", "v", "2"),
        (&format!("?commit={first}"), "v", "1"),
    ] {
        daemon.brig(&["build", "-t", "app", &format!("{url}{fragment}")]).success();
        assert_eq!(run(&daemon, &format!("ls -d /w/.git 2>&-; cat /w/{file}")), want, "{fragment}");
    }
    let keep = ["build", "-t", "app", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &url];
    daemon.brig(&keep).success();
    assert_eq!(run(&daemon, "ls -d /w/.git; test -e /w/sub || echo ignored"), "/w/.git\nignored");
    // By the classic endpoint, with a Dockerfile of another name.
    hub.commit("app", &[("build/D", "FROM BASE\nRUN echo classic > /c\n")]);
    let path = format!("/build?remote={}&dockerfile=build/D&t=app", url.replace('/', "%2F"));
    let answer = daemon.request("POST", &path, &serde_json::Value::Null).expect(200).text();
    assert!(answer.contains("Successfully tagged app:latest"), "{answer}");
    assert_eq!(run(&daemon, "cat /c"), "classic");
    for (fragment, want) in [
        ("#nope", "does not contain ref nope"),
        ("#:none", "no directory none"),
        ("#:v", "no directory v"),
        ("#:../x", "climbs out"),
        ("?commit=1234567", "expected checksum to match 1234567"),
        (&format!("#{}", "0".repeat(40)), "git fetch of"),
        ("#--upload-pack=x", "invalid git reference"),
    ] {
        let failed = daemon.brig(&["build", &format!("{url}{fragment}")]);
        assert!(failed.code != Some(0) && failed.stderr.contains(want), "{fragment}: {failed:?}");
    }
    daemon.assert_no_leaks();
}

#[test]
fn repositories_are_added() {
    let Some(daemon) = own() else { return };
    let hub = Hub::start(None);
    hub.commit("lib", &[("l", "lib")]);
    hub.commit("app", &[("a", "1"), ("bin/run*", "#!/bin/sh\necho ran\n"), ("link@", "bin/run")]);
    let module = hub.url("lib");
    git(
        &hub.path("app"),
        &["-c", "protocol.allow=always", "submodule", "--quiet", "add", "-b", "main", &module, "mod"],
    );
    git(&hub.path("app"), &["config", "-f", ".gitmodules", "submodule.mod.url", "../lib.git"]);
    let commit = hub.commit("app", &[]);
    let url = hub.url("app");
    build(&daemon, &format!("ADD {url} /w"), &[]).success();
    let script = "cd /w; cat a mod/l; /w/link; stat -c %a . bin bin/run a; find / -xdev -name .git";
    assert_eq!(run(&daemon, script), "1libran\n755\n755\n755\n644");
    // The commit is the key: another name for it fetches nothing, and a build that knows it does nothing.
    let before = hub.fetches();
    assert!(before > 0);
    let again = build(&daemon, &format!("ADD {url}#main /w"), &[]);
    assert!(again.success().is_empty() && again.stderr.contains("CACHED"), "{again:?}");
    build(&daemon, &format!("ADD --checksum={commit} {url} /w"), &[]).success();
    assert_eq!(hub.fetches(), before);
    build(&daemon, &format!("ADD --keep-git-dir=true --chown=5:6 --exclude=bin {url} /w/"), &[]).success();
    let script = "cd /w; ls; cat .git/HEAD; stat -c %u:%g a; grep url .git/config | head -n1";
    assert_eq!(run(&daemon, script), format!("a\nlink\nmod\n{commit}\n5:6\n\turl = \"{url}\""));
    build(&daemon, &format!("ADD {url}?submodules=0&mtime=commit&subdir=/bin /b"), &[]).success();
    assert_eq!(run(&daemon, "cd /b; ls; stat -c %Y run"), "run\n1700000000");
    for (line, want) in [
        (format!("ADD --checksum={} {url} /w", "1".repeat(40)), "expected checksum to match"),
        (format!("ADD --checksum=sha256:{} {url} /w", "1".repeat(64)), "invalid checksum"),
        (format!("ADD --keep-git-dir=true {url}?keep-git-dir=0 /w"), "conflicts"),
        (format!("ADD {url}#none /w"), "does not contain ref none"),
        ("ADD --keep-git-dir=true a /w".into(), "only be specified for git"),
        (format!("ADD {url} {url} /w"), "must be a directory"),
    ] {
        let failed = build(&daemon, &line, &[]);
        assert!(failed.code != Some(0) && failed.stderr.contains(want), "{line}: {failed:?}");
    }
    daemon.assert_no_leaks();
}

#[test]
fn hostile_repositories_reach_nothing() {
    let Some(daemon) = own() else { return };
    let hub = Hub::start(None);
    let outside = daemon.scratch().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("Dockerfile"), format!("FROM {BUSYBOX}\nRUN echo escaped\n")).unwrap();
    let mark = daemon.scratch().join("mark");
    let touch = format!("touch {}", mark.display());
    hub.commit(
        "bad",
        &[
            ("Dockerfile", "FROM BASE\nCOPY . /w\n"),
            ("abs@", outside.to_str().unwrap()),
            ("up@", &format!("../../../../../../../..{}", outside.display())),
            ("in@", "real"),
            ("real/Dockerfile", "FROM BASE\nRUN echo inside > /i\n"),
            (".gitattributes", "* filter=evil\n"),
            (".gitconfig", &format!("[filter \"evil\"]\n\tsmudge = {touch}\n")),
            ("hooks/post-checkout*", &format!("#!/bin/sh\n{touch}\n")),
        ],
    );
    let hook = hub.path("bad").join(".git/hooks/post-checkout");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\n{touch}\n")).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let url = hub.url("bad");
    // Symlinks are resolved inside the tree.
    for subdir in ["abs", "up"] {
        let failed = daemon.brig(&["build", &format!("{url}#:{subdir}")]);
        assert!(failed.code != Some(0) && failed.stderr.contains("no directory"), "{subdir}: {failed:?}");
    }
    daemon.brig(&["build", "-t", "app", &format!("{url}#:in")]).success();
    assert_eq!(run(&daemon, "cat /i"), "inside");
    daemon.brig(&["build", "-t", "app", &url]).success();
    build(&daemon, &format!("ADD {url} /w"), &[]).success();
    // Names that would be options, programs or files of this machine.
    let local = hub.path("bad");
    for bad in [
        format!("ext::{touch}"),
        format!("file://{}", local.display()),
        "ssh://-oProxyCommand=x/y.git".into(),
        "git@-oProxyCommand=x:y".into(),
        format!("{url}#-x"),
        format!("{url}#--upload-pack={}", mark.display()),
        format!("{url}#main:real/../../x"),
    ] {
        let query = bad.replace('%', "%25").replace('#', "%23").replace('&', "%26").replace(' ', "%20");
        let answer = daemon.request("POST", &format!("/build?remote={query}"), &serde_json::Value::Null);
        assert!(answer.status >= 400, "{bad}: {}", answer.text());
        let failed = build(&daemon, &format!("ADD {bad} /w"), &[]);
        assert_ne!(failed.code, Some(0), "{bad}: {failed:?}");
    }
    // A submodule may come from a server, not from a path.
    for (name, module) in
        [("file", format!("file://{}", local.display())), ("path", local.display().to_string())]
    {
        hub.commit(name, &[("a", "1")]);
        let dir = hub.path(name);
        git(
            &dir,
            &[
                "-c",
                "protocol.file.allow=always",
                "submodule",
                "--quiet",
                "add",
                local.to_str().unwrap(),
                "m",
            ],
        );
        git(&dir, &["config", "-f", ".gitmodules", "submodule.m.url", &module]);
        hub.commit(name, &[]);
        let failed = build(&daemon, &format!("ADD {} /w", hub.url(name)), &[]);
        assert!(failed.code != Some(0) && failed.stderr.contains("not allowed"), "{name}: {failed:?}");
    }
    assert!(!mark.exists());
    daemon.assert_no_leaks();
}

#[test]
fn credentials_open_repositories_and_stay_nowhere() {
    let Some(daemon) = own() else { return };
    // x-access-token:hunter2-hunter2 and u:hunter2-hunter2.
    let hub = Hub::start(Some("basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMi1odW50ZXIy"));
    hub.commit("app", &[("Dockerfile", "FROM BASE\nCOPY a /a\n"), ("a", "1")]);
    let url = hub.url("app");
    let failed = daemon.brig(&["build", &url]);
    assert!(failed.code != Some(0) && failed.stderr.contains("git ls-remote"), "{failed:?}");
    let token = daemon.scratch().join("token");
    std::fs::write(&token, "hunter2-hunter2\n").unwrap();
    let secret = format!("id=GIT_AUTH_TOKEN,src={}", token.display());
    daemon.brig(&["build", "-t", "app", "--secret", &secret, &url]).success();
    assert_eq!(run(&daemon, "cat /a"), "1");
    build(&daemon, &format!("ADD --keep-git-dir=true {url} /w"), &["--secret", &secret]).success();
    let login = url.replace("://", "://x-access-token:hunter2-hunter2@");
    build(&daemon, &format!("ADD --keep-git-dir=true {login} /x"), &[]).success();
    assert_eq!(run(&daemon, "cat /x/a"), "1");
    let history = daemon.brig(&["history", "--no-trunc", "app"]).success();
    assert!(history.contains("xxxxx@") && !history.contains("hunter2"), "{history}");
    let failed = build(&daemon, &format!("ADD {login}#none /x"), &[]);
    assert!(!failed.stderr.contains("repository does not contain ref none: http://x-access"), "{failed:?}");
    std::fs::remove_file(&token).unwrap();
    assert!(!daemon.log().contains("hunter2"));
    // As text, and as it stands in the header.
    for needle in ["hunter2-hunter2", "aHVudGVyMi1odW50ZXIy"] {
        let found = Command::new("grep").args(["-rlaF", needle]).arg(&daemon.data_root).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{needle}");
    }
    daemon.assert_no_leaks();
}
