//! COPY and ADD as steps.

use crate::adopt::Later;
use crate::attest::Material;
use crate::cache::Outcome;
use crate::chmod::Chmod;
use crate::context::Context;
use crate::copy::{Inline, Target, destination, is_tar};
use crate::error::{During, Error};
use crate::git::{GitAccess, Repository, Resolved};
use crate::git_url::{self, GitUrl, redact};
use crate::plan::{self, Source};
use crate::remote::{self, RemoteFile};
use crate::request::{Answer, Secret};
use crate::select::{Filter, Pick, pick};
use crate::solve::Shared;
use crate::stage::{Place, StageState, Work, base_key, layer_time, step};
use dockerfile::{Copy, Glob, Ignore};
use engine::Workspace;
use engine::blocking;
use oci::Digest;
use rootdir::RootDir;
use rustix::fs::FileType;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// A COPY or ADD with everything expanded.
#[derive(Debug)]
struct Job {
    sources: Vec<String>,
    /// Files from URLs.
    remote: Vec<RemoteFile>,
    /// Repositories that the key knows and nobody has fetched yet.
    git: Mutex<Vec<Tree>>,
    inline: Vec<Inline>,
    destination: String,
    is_directory: bool,
    chown: Option<String>,
    chmod: Option<Chmod>,
    link: bool,
    parents: bool,
    exclude: Vec<String>,
    /// What the key says of `remote`.
    digests: Vec<Value>,
    unpacks_remote: bool,
    /// ADD, which unpacks archives unless it is told otherwise.
    unpacks: bool,
    /// Files of a context belong to root; those of a stage keep their owners.
    from: From,
}

/// A tree of a repository that is added.
struct Tree {
    repository: Repository,
    resolved: Resolved,
    url: GitUrl,
    keep_git_dir: bool,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("url", &self.url.remote).finish_non_exhaustive()
    }
}

impl Tree {
    /// The commit says what the files are, so that nothing is fetched where the result is known.
    fn key(&self) -> Value {
        let GitUrl { remote, subdir, submodules, commit_times, .. } = &self.url;
        json!(["git", remote, self.resolved.commit, subdir, submodules, commit_times, self.keep_git_dir])
    }
}

/// Finds the commit that ADD of a repository means.
async fn open_repository(
    place: &Place,
    text: &str,
    copy: &Copy,
    checksum: Option<&str>,
) -> Result<Tree, Error> {
    let wrong = |message: String| place.wrong(text, message);
    let url = GitUrl::parse(text).map_err(wrong)?;
    let keep_git_dir = match (copy.keep_git_dir, url.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(wrong("keep-git-dir conflicts with the query of the URL".into()));
        }
        (flag, query) => flag.or(query).unwrap_or(false),
    };
    let checksum = checksum.map(git_url::checksum).transpose().map_err(|m| place.wrong("--checksum", m))?;
    let mut access = GitAccess::of(&place.shared.request);
    if let Some(client) = &place.shared.request.client {
        access = access.asked(client.as_ref(), text).await?;
    }
    let repository = Repository::open(&place.shared.engine, &url, &access).await?;
    let resolved = repository.resolve(checksum.as_deref()).await.map_err(|e| in_words(place, e))?;
    Ok(Tree { repository, resolved, url, keep_git_dir })
}

/// Finds the file that ADD of a URL means.
async fn find_file(place: &Place, url: &str) -> Result<RemoteFile, Error> {
    let request = &place.shared.request;
    let find = |id: String| -> Answer<'_, Option<Secret>> {
        Box::pin(async move {
            match (request.secrets.get(&id), &request.client) {
                (Some(secret), _) => Ok(Some(secret.clone())),
                (None, Some(client)) => client.secret(&id).await,
                (None, None) => Ok(None),
            }
        })
    };
    let authorization = remote::authorization(url, find).await?;
    remote::find(&place.shared.engine, url, authorization, place.uses_cache).await
}

/// What was fetched from elsewhere for a step.
struct Brought {
    /// Files: the tree that holds each, and its name.
    files: Vec<(Arc<Context>, String)>,
    /// Of repositories.
    trees: Vec<Context>,
}

#[derive(Debug, Clone)]
enum From {
    Context(Arc<Context>),
    Layers(Option<Digest>),
}

/// COPY and ADD.
pub(crate) async fn copy(
    place: &Place,
    state: &mut StageState,
    copy: &Copy,
    is_add: bool,
) -> Result<bool, Error> {
    let job = Arc::new(expand(place, state, copy, is_add).await?);
    let mut key = base_key(place, state, "copy");
    key["destination"] = json!([job.destination, job.is_directory]);
    key["chown"] = json!(job.chown);
    key["chmod"] = json!(copy.chmod.as_ref().map(|c| state.expand(c).unwrap_or_default()));
    key["flags"] = json!([job.link, job.parents, job.unpacks, job.exclude]);
    key["inline"] = json!(job.inline.iter().map(|i| [&i.name, &i.content]).collect::<Vec<_>>());
    key["sources"] = sources_key(place, &job).await?;
    key["remote"] = json!([job.digests, job.unpacks_remote]);
    let name = if is_add { "ADD" } else { "COPY" };
    let shown: Vec<&str> =
        copy.sources.iter().map(String::as_str).chain(job.inline.iter().map(|i| i.name.as_str())).collect();
    let created_by = redact(&format!("{name} {} {} # buildkit", shown.join(" "), copy.destination));
    let (place_, parent) = (place.clone(), state.chain_id);
    let work = move || -> Work {
        Box::pin(async move {
            if let From::Layers(chain_id) = &job.from {
                let shared = &place_.shared;
                shared.lent.fetch(&shared.engine, &shared.lease, *chain_id).await?;
            }
            let trees = std::mem::take(&mut *job.git.lock().unwrap_or_else(PoisonError::into_inner));
            let mut fetched = Vec::new();
            for tree in trees {
                fetched.push(tree.repository.check_out(&tree.resolved, tree.keep_git_dir).await?);
            }
            let mut files = Vec::new();
            for file in &job.remote {
                files.push((file.context(&place_.shared.engine).await?, file.known.name.clone()));
            }
            blocking(move || perform(&place_, &job, &Brought { files, trees: fetched }, parent)).await
        })
    };
    step(place, state, &key, created_by, work).await
}

async fn expand(place: &Place, state: &StageState, copy: &Copy, is_add: bool) -> Result<Job, Error> {
    let wrong = |word: &str, message: String| place.wrong(word, message);
    let word = |word: &String| state.expand(word).map_err(|m| wrong(word, m));
    let all = copy.sources.iter().map(word).collect::<Result<Vec<_>, _>>()?;
    let (urls, sources): (Vec<String>, Vec<String>) =
        all.into_iter().partition(|source| is_add && remote::is_remote(source));
    let (repositories, urls): (Vec<String>, Vec<String>) =
        urls.into_iter().partition(|url| git_url::is_git(url));
    if copy.checksum.is_some() && urls.is_empty() && repositories.is_empty() {
        return Err(wrong("--checksum", "checksum can't be specified for non-HTTP(S) sources".into()));
    }
    if copy.keep_git_dir.is_some() && repositories.is_empty() {
        return Err(wrong("--keep-git-dir", "keep-git-dir can only be specified for git sources".into()));
    }
    let inline = copy
        .heredocs
        .iter()
        .map(|h| {
            let content = state.expand_heredoc(h).map_err(|m| wrong(&h.name, m))?;
            Ok(Inline { name: h.name.clone(), content })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let text = word(&copy.destination)?;
    let (destination, is_directory) = destination(state.working_dir(), &text);
    let several = sources.len() + urls.len() + repositories.len() + inline.len() > 1;
    if several && !is_directory {
        let name = if is_add { "ADD" } else { "COPY" };
        let message = format!(
            "When using {name} with more than one source file, the destination must be a directory and end with a /"
        );
        return Err(wrong(&copy.destination, message));
    }
    let chmod = match &copy.chmod {
        Some(text) => Some(Chmod::parse(&word(text)?).map_err(|m| wrong(text, m))?),
        None => None,
    };
    let from = match &copy.from {
        None => From::Context(place.shared.request.context.clone()),
        Some(name) => {
            let shared = &place.shared;
            let source = plan::named(&shared.plan.file, &shared.request, place.stage, name, None);
            match &source {
                Source::Scratch => From::Layers(None),
                Source::Stage(index) => From::Layers(shared.stage(*index).await?.chain_id),
                Source::Image { .. } => match shared.bases.get(&source) {
                    Some(base) => From::Layers(base.chain_id),
                    None => return Err(wrong(name, format!("image {name} is missing"))),
                },
                Source::Context(other) => match shared.request.contexts.get(other) {
                    Some(context) => From::Context(context.clone()),
                    None => return Err(wrong(name, format!("context {other} is missing"))),
                },
            }
        }
    };
    let checksum = copy.checksum.as_ref().map(word).transpose()?;
    let mut remote = Vec::new();
    let mut digests = Vec::new();
    for url in &urls {
        if is_directory && remote::file_name(url).is_empty() {
            return Err(wrong(url, format!("cannot determine filename for source {url}")));
        }
        let file = find_file(place, url).await?;
        let remote::Known { name, digest, modified_s, .. } = &file.known;
        if let Some(wanted) = checksum.as_ref().filter(|c| **c != digest.to_string()) {
            return Err(wrong("--checksum", format!("digest mismatch {digest}: {wanted} was expected")));
        }
        place.shared.capture.material(Material::Http { url: redact(url), digest: *digest });
        digests.push(json!([name, digest.to_string(), modified_s]));
        remote.push(file);
    }
    let mut git = Vec::new();
    for text in &repositories {
        let one = open_repository(place, text, copy, checksum.as_deref()).await?;
        let (url, commit) = (one.url.remote.clone(), one.resolved.commit.clone());
        place.shared.capture.material(Material::Git { url, commit });
        digests.push(one.key());
        git.push(one);
    }
    Ok(Job {
        sources,
        remote,
        git: Mutex::new(git),
        digests,
        unpacks_remote: copy.unpack == Some(true),
        inline,
        destination,
        is_directory,
        chown: copy.chown.as_ref().map(word).transpose()?.filter(|c| !c.is_empty()),
        chmod,
        link: copy.link,
        parents: copy.parents,
        exclude: copy.exclude.iter().map(word).collect::<Result<_, _>>()?,
        unpacks: copy.unpack.unwrap_or(is_add),
        from,
    })
}

/// The content of all sources; for a stage its layers, because what it holds is known by them.
async fn sources_key(place: &Place, job: &Arc<Job>) -> Result<Value, Error> {
    match &job.from {
        From::Layers(chain_id) => {
            Ok(json!({ "layers": chain_id.map(|d| d.to_string()), "paths": job.sources }))
        }
        From::Context(context) => {
            let (context, job_) = (context.clone(), job.clone());
            let hashed = blocking(move || {
                let choice = choice(&context, &job_);
                let known = context.picks.as_ref().and_then(|picks| picks.get(&choice));
                if let Some(known) = known.and_then(|text| serde_json::from_str(&text).ok()) {
                    return Ok(known);
                }
                let exclude = excludes(&job_)?;
                let filter = Filter { ignore: &context.ignore, exclude: &exclude };
                let mut out = Vec::new();
                for source in &job_.sources {
                    for one in pick_all(&context.root, &context.ignore, &job_, source)? {
                        let name =
                            if one.is_dir() && !job_.parents { String::new() } else { one.path.clone() };
                        out.push(json!([
                            source,
                            name,
                            crate::hash::of_pick(&one, filter, context.known.as_deref())?.to_string()
                        ]));
                    }
                }
                let out = json!(out);
                if let Some(picks) = &context.picks {
                    picks.put(choice, out.to_string());
                }
                Ok::<_, Error>(out)
            })
            .await;
            hashed.map_err(|e| in_words(place, e))
        }
    }
}

/// The words that Docker's clients know.
fn in_words(place: &Place, error: Error) -> Error {
    match error {
        Error::Invalid { message } => {
            let name = place.instruction.name.to_uppercase();
            Error::invalid(format!("{name} failed: {message}"))
        }
        other => other,
    }
}

fn excludes(job: &Job) -> Result<Ignore, Error> {
    Ignore::new(job.exclude.iter().map(String::as_str)).map_err(|m| Error::invalid(format!("--exclude: {m}")))
}

fn pick_all(root: &RootDir, ignore: &Ignore, job: &Job, source: &str) -> Result<Vec<Pick>, Error> {
    let mut picks = pick(root, ignore, &source.replace("/./", "/"), job.parents)?;
    // A file is left out by its name.
    if !job.exclude.is_empty() {
        let exclude = excludes(job)?;
        picks.retain(|one| one.is_dir() || !exclude.is_ignored(one.name()));
    }
    Ok(picks)
}

/// All that says which files of a context are meant.
fn choice(context: &Context, job: &Job) -> Digest {
    let text = json!([1, job.sources, job.exclude, job.parents, format!("{:?}", context.ignore)]);
    crate::hash::of_json(&text)
}

/// Copies in a workspace and makes a layer of it. Blocking.
fn perform(
    place: &Place,
    job: &Job,
    brought: &Brought,
    parent: Option<Digest>,
) -> Result<(Outcome, u64), Error> {
    let shared = &place.shared;
    let doing = || format!("do {}", place.instruction.text);
    // An independent layer begins on nothing, and is put on whatever is below.
    let below = if job.link { None } else { parent };
    let mut workspace = shared.engine.open_workspace(below.as_ref()).during(doing)?;
    let owner = match &job.chown {
        None => None,
        Some(text) if job.link && !is_numeric(text) => {
            let names = shared.engine.open_workspace(parent.as_ref()).during(doing)?;
            Some(owner(&names, text)?)
        }
        Some(text) => Some(owner(&workspace, text)?),
    };
    let copied = match &job.from {
        From::Context(context) => {
            copy_context(shared, job, brought, context, &mut workspace, owner, below.as_ref())
        }
        From::Layers(chain_id) => {
            let source = shared.engine.open_workspace(chain_id.as_ref()).during(doing)?;
            let nothing = Ignore::default();
            let filter = (&nothing, &excludes(job)?);
            put_all(shared, job, brought, source.root(), filter, &target(job, workspace.root(), owner), None)
                .map(drop)
        }
    };
    copied.map_err(|e| in_words(place, e))?;
    let made = workspace.commit(&shared.lease, parent.as_ref(), shared.epoch).during(doing)?;
    let size = made.as_ref().map_or(0, |m| m.layer.packed.bytes);
    Ok((Outcome::new(parent, made, layer_time(shared)), size))
}

/// Where the files of a step go.
fn target<'a>(job: &Job, root: &'a RootDir, owner: Option<(u32, u32)>) -> Target<'a> {
    Target {
        root,
        path: job.destination.clone(),
        is_directory: job.is_directory,
        owner,
        chmod: job.chmod.clone(),
    }
}

/// Copies from a context, whose files the layer shares where it can.
fn copy_context(
    shared: &Shared,
    job: &Job,
    brought: &Brought,
    context: &Context,
    workspace: &mut Workspace,
    owner: Option<(u32, u32)>,
    below: Option<&Digest>,
) -> Result<(), Error> {
    let exclude = excludes(job)?;
    let filter = (&context.ignore, &exclude);
    let snapshots = shared.engine.snapshots();
    // Layers that are whole trees are on file systems that copy by reference, or have to be copied. What an independent
    // layer is put on, now and later, is not known here.
    let is_shared = snapshots.is_overlay_form() && !job.link;
    let mut later = is_shared.then(|| Later::new(shared.epoch));
    let to = target(job, workspace.root(), owner);
    let last = put_all(shared, job, brought, &context.root, filter, &to, later.as_mut())?;
    let (Some(later), Some(pick)) = (later.filter(|later| !later.is_empty()), last) else { return Ok(()) };
    let changes = workspace.open_changes().during(|| "put files into a layer".into())?;
    let filter = Filter { ignore: &context.ignore, exclude: &exclude };
    let layers = below.map(|chain_id| snapshots.layers(chain_id)).transpose();
    let layers = layers.during(|| "look into the layers below".into())?;
    let below = layers.as_ref().map_or(&[][..], |layers| &layers.paths);
    later.finish(&target(job, &changes, owner), &pick, filter, context.known.as_deref(), below)
}

/// Copies all; of the last pick, if nothing comes after it, not what `later` wants to be left. That pick.
fn put_all(
    shared: &Shared,
    job: &Job,
    brought: &Brought,
    root: &RootDir,
    (ignore, exclude): (&Ignore, &Ignore),
    target: &Target<'_>,
    mut later: Option<&mut Later>,
) -> Result<Option<Pick>, Error> {
    let filter = Filter { ignore, exclude };
    let is_all = brought.files.is_empty() && brought.trees.is_empty() && job.inline.is_empty();
    let mut last = None;
    for (n, source) in job.sources.iter().enumerate() {
        let mut picks = pick_all(root, ignore, job, source)?;
        if picks.len() > 1 && !job.is_directory && Glob::is_pattern(source) {
            return Err(Error::invalid(
                "when using wildcards that match several files, the destination must be a directory and end with a /",
            ));
        }
        let below = |one: &Pick| if job.parents { below_pivot(source, one) } else { String::new() };
        if is_all && n + 1 == job.sources.len() {
            last = picks.pop_if(|one| one.is_dir());
        }
        for one in picks {
            if job.unpacks && !one.is_dir() && unpack(shared, &one, target)? {
                continue;
            }
            target.put(&one, filter, &below(&one))?;
        }
        if let Some(one) = &last {
            target.put_most(one, filter, &below(one), later.take())?;
        }
    }
    let nothing = Ignore::default();
    for (context, name) in &brought.files {
        for one in pick(&context.root, &nothing, &Glob::escape(name), false)? {
            if !(job.unpacks_remote && unpack(shared, &one, target)?) {
                target.put(&one, Filter { ignore: &nothing, exclude: &nothing }, "")?;
            }
        }
    }
    for tree in &brought.trees {
        for one in pick(&tree.root, &nothing, "", false)? {
            target.put(&one, Filter { ignore: &nothing, exclude }, "")?;
        }
    }
    for inline in &job.inline {
        target.put_inline(inline)?;
    }
    Ok(last)
}

/// The directories of a source that `--parents` keeps: those behind `/./`, or all. Of a directory its own name too.
fn below_pivot(source: &str, one: &Pick) -> String {
    let pivot = source.split_once("/./").map(|(before, _)| crate::select::clean(before)).unwrap_or_default();
    let path = one.path.strip_prefix(&pivot).unwrap_or(&one.path).trim_start_matches('/');
    if one.is_dir() {
        return path.to_string();
    }
    // `.` says that a directory is meant although nothing is named.
    path.rsplit_once('/').map_or_else(|| ".".to_string(), |(dir, _)| dir.to_string())
}

/// Unpacks a picked file into the target if it is an archive. Whether it was.
///
/// Owners are given on the way. Other modes are given by a copy of what was unpacked apart: only that knows what was there
/// before. `--exclude` is about the sources, and does not reach into them.
fn unpack(shared: &Shared, one: &Pick, target: &Target<'_>) -> Result<bool, Error> {
    if !FileType::from_raw_mode(one.stat.st_mode).is_file() {
        return Ok(false);
    }
    let mut file = one.open().map_err(|e| Error::invalid(format!("open {}: {e}", one.path)))?;
    if !is_tar(&mut file, &one.path)? {
        return Ok(false);
    }
    if target.chmod.is_none() {
        target.unpack(file, &one.path)?;
        return Ok(true);
    }
    let apart = Context::empty(&shared.engine)?;
    let aside = Target {
        root: &apart.root,
        path: String::new(),
        is_directory: true,
        owner: target.owner,
        chmod: None,
    };
    aside.unpack(file, &one.path)?;
    let nothing = Ignore::default();
    for whole in pick(&apart.root, &nothing, "", false)? {
        target.put(&whole, Filter { ignore: &nothing, exclude: &nothing }, "")?;
    }
    Ok(true)
}

fn is_numeric(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b == b':')
}

/// `user[:group]`: numbers as they are (one number stands for both), names from the root's own files.
fn owner(names: &Workspace, text: &str) -> Result<(u32, u32), Error> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let doing = || format!("look up --chown={text}");
    let uid_and_gid = match user.parse::<u32>() {
        Ok(id) => (id, id),
        Err(_) => names.lookup_user(user).during(doing)?,
    };
    let gid = match group {
        None => uid_and_gid.1,
        Some(group) => match group.parse::<u32>() {
            Ok(id) => id,
            Err(_) => names.lookup_group(group).during(doing)?,
        },
    };
    Ok((uid_and_gid.0, gid))
}
