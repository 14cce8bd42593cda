//! Names of git repositories as Dockerfiles and command lines have them: `https://host/x.git#ref:dir`, `git@host:x`,
//! and the newer form with a query. Pure: nothing is asked of anybody.
//!
//! A name comes from a stranger. What could be read as an option of a program, another transport or a path of this
//! machine is refused here; that git never sees a name on its command line is up to [`crate::git`].

/// Hexadecimal digits of a whole commit: SHA-1 and SHA-256.
const COMMIT_LENGTHS: [usize; 2] = [40, 64];
/// Fewest digits of a checksum that says anything.
const MIN_CHECKSUM: usize = 7;

/// Which files of which repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitUrl {
    /// What git is to fetch from, without a password.
    pub(crate) remote: String,
    /// `user:password` of a name that begins with http.
    pub(crate) login: Option<String>,
    pub(crate) wanted: Wanted,
    /// Clean, from the top of the repository; empty for all of it.
    pub(crate) subdir: String,
    /// The beginning of the commit, or all of it.
    pub(crate) checksum: Option<String>,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) submodules: bool,
    /// Files get the commit's time instead of that of their checkout.
    pub(crate) commit_times: bool,
}

/// What of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// What the remote's HEAD is.
    Head,
    /// A branch, a tag or a whole name of a ref.
    Ref(String),
    Branch(String),
    Tag(String),
    Commit(String),
}

/// Whether git is needed to read what a source names.
pub(crate) fn is_git(source: &str) -> bool {
    let path = source.split(['#', '?']).next().unwrap_or(source);
    match source.split_once("://") {
        Some(("http" | "https", _)) => path.ends_with(".git"),
        Some(("git" | "ssh", _)) => true,
        Some(_) => false,
        None => is_short(source),
    }
}

/// `user@host:path`.
fn is_short(source: &str) -> bool {
    let Some((user, rest)) = source.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let plain = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    plain(user) && plain(host) && !path.is_empty()
}

impl GitUrl {
    /// Reads a name.
    ///
    /// # Errors
    ///
    /// A sentence for a person.
    pub(crate) fn parse(text: &str) -> Result<GitUrl, String> {
        let wrong = |why: &str| Err(format!("invalid git URL {:?}: {why}", redact(text)));
        if text.bytes().any(|b| b.is_ascii_control()) {
            return wrong("it has a control character");
        }
        let (rest, fragment) = text.split_once('#').map_or((text, ""), |(url, fragment)| (url, fragment));
        let (remote, query) = match rest.split_once('?') {
            Some((url, query)) if text.contains("://") => (url, query),
            _ => (rest, ""),
        };
        if !is_git(remote) {
            return wrong("it names no repository for git over http, https, ssh or git");
        }
        if let Some((_, rest)) = remote.split_once("://") {
            let authority = rest.split('/').next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
            if host.is_empty()
                || authority.starts_with('-')
                || host.starts_with('-')
                || !host.bytes().all(is_plain)
            {
                return wrong("its host is none");
            }
        } else if remote.split_once(':').is_some_and(|(_, path)| path.starts_with('-')) {
            return wrong("its path begins like an option");
        }
        let (remote, login) = parted(remote)
            .ok_or_else(|| format!("invalid git URL {:?}: its login is not encoded well", redact(text)))?;
        let mut url = GitUrl {
            remote,
            login,
            wanted: Wanted::Head,
            subdir: String::new(),
            checksum: None,
            keep_git_dir: None,
            submodules: true,
            commit_times: false,
        };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut subdir = subdir.to_string();
        if is_commit(reference) {
            url.wanted = Wanted::Commit(reference.to_lowercase());
        } else if !reference.is_empty() {
            url.wanted = Wanted::Ref(reference.to_string());
        }
        if !query.is_empty() && !fragment.is_empty() {
            return wrong("it has a query and a fragment");
        }
        for field in query.split('&').filter(|f| !f.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            let value = percent(value)
                .ok_or_else(|| format!("invalid git URL {:?}: {field} is not encoded well", redact(text)))?;
            let want = |url: &mut GitUrl, wanted: Wanted| match url.wanted {
                Wanted::Head => {
                    url.wanted = wanted;
                    Ok(())
                }
                _ => {
                    Err(format!("invalid git URL {:?}: ref, branch and tag exclude each other", redact(text)))
                }
            };
            match key {
                "ref" if is_commit(&value) => want(&mut url, Wanted::Commit(value.to_lowercase()))?,
                "ref" => want(&mut url, Wanted::Ref(value))?,
                "branch" => want(&mut url, Wanted::Branch(value))?,
                "tag" => want(&mut url, Wanted::Tag(value))?,
                "commit" | "checksum" => url.checksum = Some(checksum(&value)?),
                "subdir" => subdir = value,
                "keep-git-dir" => url.keep_git_dir = Some(boolean(key, &value)?),
                "submodules" => url.submodules = boolean(key, &value)?,
                "fetch-by-commit" if !boolean(key, &value)? => {}
                "fetch-by-commit" if url.checksum.as_deref().is_some_and(is_commit) => {
                    url.wanted = Wanted::Commit(url.checksum.clone().unwrap_or_default());
                }
                "fetch-by-commit" => return wrong("fetch-by-commit needs a whole commit before it"),
                "mtime" => {
                    url.commit_times = match value.as_str() {
                        "commit" => true,
                        "checkout" => false,
                        _ => return wrong("mtime is checkout or commit"),
                    }
                }
                _ => return wrong(&format!("unexpected query {key:?}")),
            }
        }
        // A commit alone says what is fetched.
        if let (Wanted::Head, Some(commit)) = (&url.wanted, url.checksum.as_deref().filter(|c| is_commit(c)))
        {
            url.wanted = Wanted::Commit(commit.to_string());
        }
        if let Wanted::Ref(name) | Wanted::Branch(name) | Wanted::Tag(name) = &url.wanted
            && !is_ref(name)
        {
            return Err(format!("invalid git reference {name:?}"));
        }
        if subdir.split('/').any(|part| part == "..") {
            return Err(format!("invalid subdir {subdir:?} of a git repository: it climbs out"));
        }
        url.subdir = crate::select::clean(&subdir);
        Ok(url)
    }

    /// The host that the remote is at, with its port.
    pub(crate) fn host(&self) -> &str {
        let authority = match self.remote.split_once("://") {
            Some((_, rest)) => rest.split('/').next().unwrap_or_default(),
            None => self.remote.split(':').next().unwrap_or_default(),
        };
        authority.rsplit('@').next().unwrap_or_default()
    }
}

/// A remote without what nobody may see in a file or a list of processes, and `user:password` of one over http.
fn parted(remote: &str) -> Option<(String, Option<String>)> {
    let Some((scheme, rest)) = remote.split_once("://") else { return Some((remote.to_string(), None)) };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((login, host)) = authority.rsplit_once('@') else { return Some((remote.to_string(), None)) };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    if scheme.starts_with("http") {
        let login = format!("{}:{}", percent(user)?, percent(password)?);
        return Some((format!("{scheme}://{host}{path}"), Some(login)));
    }
    Some((format!("{scheme}://{user}@{host}{path}"), None))
}

/// Reads `--checksum` for a repository, and the query of the same name.
pub(crate) fn checksum(text: &str) -> Result<String, String> {
    let is_good = (MIN_CHECKSUM..=COMMIT_LENGTHS[1]).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_good {
        Ok(text.to_lowercase())
    } else {
        Err(format!("invalid checksum {text:?}: expected a git commit"))
    }
}

pub(crate) fn is_commit(text: &str) -> bool {
    COMMIT_LENGTHS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// git-check-ref-format(1), as far as it keeps harm away.
fn is_ref(name: &str) -> bool {
    let bad = |b: u8| b <= b' ' || b == 0x7f || b"~^:?*[\\".contains(&b);
    !name.is_empty()
        && name.len() < 1024
        && !name.starts_with(['-', '/', '+'])
        && !name.ends_with(['/', '.'])
        && !name.bytes().any(bad)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains("//")
}

fn boolean(key: &str, text: &str) -> Result<bool, String> {
    match text {
        "" | "1" | "t" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!("invalid {key} {text:?} of a git URL")),
    }
}

/// Undoes percent encoding.
fn percent(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok().filter(|t| !t.bytes().any(|b| b.is_ascii_control()))
}

/// A text without what stands between `://` and `@`.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = behind
            .find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"')
            .unwrap_or(behind.len());
        let (authority, behind) = behind.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("xxxxx@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> GitUrl {
        GitUrl::parse(text).expect(text)
    }

    #[test]
    fn forms() {
        let url = good("https://u:p@example.com/a/b.git#v1:sub/dir/");
        assert_eq!((url.remote.as_str(), url.login.as_deref()), ("https://example.com/a/b.git", Some("u:p")));
        assert_eq!((url.wanted.clone(), url.subdir.as_str()), (Wanted::Ref("v1".into()), "sub/dir"));
        assert_eq!(url.host(), "example.com");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(good(&format!("git://h/x#{commit}")).wanted, Wanted::Commit(commit.into()));
        assert_eq!(good("git@github.com:a/b#:d").subdir, "d");
        assert_eq!(good("git@github.com:a/b").host(), "github.com");
        assert_eq!(good("ssh://git:secret@h:22/x").remote, "ssh://git@h:22/x");
        assert_eq!(good("ssh://git@h:22/x").host(), "h:22");
        let url = good(
            "https://h/x.git?branch=a%2Fb&subdir=d&keep-git-dir=1&submodules=false&mtime=commit&commit=abcdef0",
        );
        assert_eq!(url.wanted, Wanted::Branch("a/b".into()));
        assert_eq!((url.keep_git_dir, url.submodules, url.commit_times), (Some(true), false, true));
        assert_eq!(url.checksum.as_deref(), Some("abcdef0"));
        assert_eq!(good(&format!("https://h/x.git?commit={commit}")).wanted, Wanted::Commit(commit.into()));
    }

    #[test]
    fn what_is_no_repository_or_an_attack_is_refused() {
        for bad in [
            "ext::sh -c touch% /tmp/x",
            "file:///etc/x.git",
            "/etc/x.git",
            "--upload-pack=x",
            "ssh://-oProxyCommand=x/y.git",
            "ssh://u@-oProxyCommand=x/y.git",
            "git@-oProxyCommand=x:y",
            "git@h:-x",
            "-u@h:x",
            "https://h/x.git#-x",
            "https://h/x.git#--upload-pack=x",
            "https://h/x.git#a..b",
            "https://h/x.git#+a",
            "https://h/x.git#v1:../x",
            "https://h/x.git?subdir=a/../../x",
            "https://h/x.git?subdir=%2e%2e/x",
            "https://h/x.git?ref=a&branch=b",
            "https://h/x.git?ref=a#b",
            "https://h/x.git?nope=1",
            "https://h/x.git?commit=xyz",
            "https://h/x.git?mtime=now",
            "https:///x.git",
            "https://h/x.git\n",
            "https://h/x.tar",
        ] {
            assert!(GitUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_are_taken_out() {
        assert_eq!(
            redact("clone 'https://a:b@h/x' and ssh://c@h"),
            "clone 'https://xxxxx@h/x' and ssh://xxxxx@h"
        );
        assert_eq!(redact("ADD https://h/a@b /x"), "ADD https://h/a@b /x");
    }
}
