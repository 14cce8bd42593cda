//! `dockerfile.v0`: from options to results.

use crate::board::Task;
use crate::client::{BuildClient, Local, fresh, load};
use crate::job::{Job, Origin, Output, named_by};
use crate::options::{CacheEntry, Options};
use crate::posted::Sent;
use crate::progress::{Drawing, Source};
use crate::rpc::Reply;
use crate::server::Server;
use crate::wire::{Definition, FrontendResult, Ref, RefMap, Refs};
use crate::{requests, status};
use build::{Attests, Context, Entitlements, Event, GitAccess, Request};
use dockerfile::Dockerfile;
use oci::Platform;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Code, Status};

/// Events kept for drawing; then the build waits.
const EVENTS: usize = 256;
/// Largest ignore file.
const MAX_TEXT: usize = 8 << 20;

/// A Dockerfile, and what belongs to it.
struct Loaded {
    source: Source,
    /// Patterns of the ignore file.
    ignore: Vec<String>,
    /// The context, where it does not come from a directory of the client's.
    context: Option<Arc<Context>>,
}

/// Does what the options ask.
pub(crate) async fn solve(
    server: &Server,
    job: &Arc<Job>,
    options: &BTreeMap<String, String>,
    inputs: &BTreeMap<String, Definition>,
    cache_imports: Vec<CacheEntry>,
) -> Reply<FrontendResult> {
    let mut asked = Options::parse(options)?;
    asked.cache_imports.extend(cache_imports);
    if asked.request == "frontend.subrequests.describe" {
        return Ok(requests::describe());
    }
    let attests = Attests::parse(&asked.attestations).map_err(|e| status::failed(&e, "", "", None))?;
    let loaded = load_dockerfile(server, job, &asked).await?;
    let (name, text) = (loaded.source.name.clone(), loaded.source.text.clone());
    let parsed = Dockerfile::parse(&name, &text);
    let file = match (parsed, asked.request.as_str()) {
        (Ok(file), _) => file,
        (Err(e), "frontend.lint") => return Ok(requests::lint_error(&e, &name, &text)),
        (Err(e), _) => {
            let place = Some(e.lines).filter(|l| l.0 > 0);
            return Err(status::at(Code::Unknown, e.to_string(), &name, &text, place));
        }
    };
    match asked.request.as_str() {
        "" => {}
        "frontend.lint" => return requests::lint(&file, &name, &asked),
        "frontend.targets" => return Ok(requests::targets(&file)),
        "frontend.outline" => return requests::outline(&file, &asked),
        other => return Err(Status::unimplemented(format!("unsupported request {other}"))),
    }
    let origin = Arc::new(Origin { is_multi: asked.is_multi, attests });
    let mut request = request(server, job, &asked, inputs, &loaded).await?;
    request.origin_args.clone_from(options);
    let platforms: Vec<Option<Platform>> = if asked.platforms.is_empty() {
        vec![None]
    } else {
        asked.platforms.iter().cloned().map(Some).collect()
    };
    let mut refs = BTreeMap::new();
    let mut known = Vec::new();
    // Side by side; a step that several of them have is done once.
    let solving = platforms.into_iter().map(|platform| {
        let request = Request { platform: platform.clone(), ..request.clone() };
        let shown = platform.as_ref().filter(|_| asked.is_multi).map(ToString::to_string);
        let (file, source) = (&file, &loaded.source);
        async move { Ok::<_, Status>((platform, run(server, job, &request, file, source, shown).await?)) }
    });
    for (platform, solved) in futures_util::future::try_join_all(solving).await? {
        let platform = platform.unwrap_or_else(Platform::host);
        let key = platform.to_string();
        known.push(json!({ "ID": key, "Platform": {
            "architecture": platform.architecture, "os": platform.os, "variant": platform.variant,
        } }));
        refs.insert(key, job.keep(Output { solved, platform, origin: origin.clone() }));
    }
    let mut metadata = BTreeMap::new();
    let refs = if asked.is_multi {
        metadata.insert("refs.platforms".to_string(), json!({ "Platforms": known }).to_string().into_bytes());
        Refs::Map(RefMap { refs })
    } else {
        Refs::One(refs.into_values().next().unwrap_or_default())
    };
    for (key, reference) in each(&refs) {
        let output = job.output(&reference.id)?;
        let config = serde_json::to_vec(&output.solved.config).unwrap_or_default();
        let name = "containerimage.config";
        let key = if asked.is_multi { format!("{name}/{key}") } else { name.to_string() };
        metadata.insert(key, config);
    }
    Ok(FrontendResult { refs: Some(refs), metadata, attestations: BTreeMap::new() })
}

/// The references of a result with their platforms; of one without platforms the name is empty.
pub(crate) fn each(refs: &Refs) -> Vec<(String, Ref)> {
    let of_id = |id: &String| Ref { id: id.clone(), definition: None };
    match refs {
        Refs::One(one) => vec![(String::new(), one.clone())],
        Refs::OldOne(id) => vec![(String::new(), of_id(id))],
        Refs::Map(map) => map.refs.iter().map(|(k, r)| (k.clone(), r.clone())).collect(),
        Refs::OldMap(map) => map.refs.iter().map(|(k, id)| (k.clone(), of_id(id))).collect(),
    }
}

/// Builds for one platform, and draws it.
async fn run(
    server: &Server,
    job: &Arc<Job>,
    request: &Request,
    file: &Dockerfile,
    source: &Source,
    platform: Option<String>,
) -> Reply<build::Solved> {
    let salt = fresh();
    let (events, mut receiver) = mpsc::channel::<Event>(EVENTS);
    let mut drawing = Drawing::new(job.board.clone(), salt, platform, source.clone());
    let draw = async {
        while let Some(event) = receiver.recv().await {
            drawing.event(event).await;
        }
    };
    let building = build::solve(server.engine.clone(), request.clone(), file.clone(), events);
    let (built, ()) = tokio::join!(building, draw);
    built.map_err(|e| {
        let place = drawing.failed(&status::text(&e));
        status::failed(&e, &source.name, &source.text, place)
    })
}

async fn request(
    server: &Server,
    job: &Arc<Job>,
    asked: &Options,
    inputs: &BTreeMap<String, Definition>,
    loaded: &Loaded,
) -> Reply<Request> {
    let engine = server.engine.clone();
    let local = Local {
        name: asked.context_dir.clone(),
        exclude: loaded.ignore.clone(),
        key: asked.shared_keys.get(&asked.context_dir).cloned().unwrap_or_default(),
    };
    let local = loaded.context.is_none().then_some(local);
    let locals = local.iter().map(|local| local.name.clone()).collect();
    let context = match &loaded.context {
        Some(context) => context.clone(),
        None => Arc::new(
            blocking_build({
                let engine = engine.clone();
                move || Context::empty(&engine)
            })
            .await?,
        ),
    };
    let mut request = Request::new(context);
    request.dockerfile.clone_from(&loaded.source.name);
    request.target.clone_from(&asked.target);
    request.build_args.clone_from(&asked.build_args);
    request.labels.clone_from(&asked.labels);
    request.no_cache = asked.no_cache;
    request.no_cache_stages.clone_from(&asked.no_cache_stages);
    request.pull = asked.pull;
    request.network_mode.clone_from(&asked.network);
    request.host_config = asked.host_config.clone();
    request.hostname.clone_from(&asked.hostname);
    request.locals = locals;
    request.cache_from = crate::caches::imports(job, &asked.cache_imports)?;
    request.inline_cache = job.cache_exports.iter().any(|to| to.place.is_none());
    request.entitlements = entitlements(&job.entitlements)?;
    if asked.network == "host" && !request.entitlements.network_host {
        return Err(Status::permission_denied("network.host is not allowed"));
    }
    request.client = Some(Arc::new(BuildClient::new(engine, job.session.clone(), job.board.clone(), local)));
    named_contexts(server, job, asked, inputs, &mut request).await?;
    Ok(request)
}

fn entitlements(names: &[String]) -> Reply<Entitlements> {
    let mut out = Entitlements::default();
    for name in names {
        match name.as_str() {
            "network.host" => out.network_host = true,
            "security.insecure" => out.security_insecure = true,
            other => return Err(Status::invalid_argument(format!("unknown entitlement {other:?}"))),
        }
    }
    Ok(out)
}

async fn named_contexts(
    server: &Server,
    job: &Arc<Job>,
    asked: &Options,
    inputs: &BTreeMap<String, Definition>,
    request: &mut Request,
) -> Reply<()> {
    for (name, value) in &asked.contexts {
        let lower = name.to_lowercase();
        let (kind, rest) = value.split_once(':').unwrap_or((value, ""));
        match kind {
            "docker-image" => {
                let image = rest.trim_start_matches("//").to_string();
                request.context_images.insert(lower, image);
            }
            "local" => {
                let ignore = read_ignore(server, job, rest, ".dockerignore").await?;
                let local = Local {
                    name: rest.into(),
                    exclude: ignore,
                    key: asked.shared_keys.get(rest).cloned().unwrap_or_default(),
                };
                let task = Task::begin(&job.board, fresh(), format!("[context {name}] load from client"));
                let loaded = load(&server.engine, &job.session, &local, &[], &task).await;
                let context = task.of(loaded).map_err(Status::unknown)?;
                request.contexts.insert(lower, Arc::new(context));
            }
            "input" => {
                let missing = || Status::invalid_argument(format!("invalid input {rest} for context {name}"));
                let id = inputs.get(rest).and_then(named_by).ok_or_else(missing)?;
                let output = server.jobs.output(&id)?;
                request.context_results.insert(lower, output.solved.clone());
            }
            "oci-layout" => {
                let solved = of_layout(server, job, asked, name, rest).await?;
                request.context_results.insert(lower, solved);
            }
            "http" | "https" | "git" | "ssh" => {
                let access = git_access(server, job, asked, value).await?;
                let (context, text) = build::fetch_context(&server.engine, value, &access)
                    .await
                    .map_err(|e| status::failed(&e, "", "", None))?;
                if text.is_some() {
                    return Err(Status::invalid_argument(format!("context {name}: {value} is no archive")));
                }
                request.contexts.insert(lower, Arc::new(context));
            }
            _ => {
                return Err(Status::unimplemented(format!(
                    "the context {name}={value} is not supported by this version of brig"
                )));
            }
        }
    }
    Ok(())
}

/// What `//STORE[:TAG]@DIGEST` means: an image in a layout of the client's.
async fn of_layout(
    server: &Server,
    job: &Arc<Job>,
    asked: &Options,
    name: &str,
    place: &str,
) -> Reply<build::Solved> {
    let wrong = || Status::invalid_argument(format!("could not parse oci-layout reference {place:?}"));
    let (store, digest) = place.trim_start_matches("//").split_once('@').ok_or_else(wrong)?;
    let digest = digest.parse().map_err(|_| wrong())?;
    let store = crate::caches::layout(&job.session, store.split(':').next().unwrap_or(store));
    let platform = match asked.platforms.as_slice() {
        [] => Platform::host(),
        [only] => only.clone(),
        _ => {
            let text = format!(
                "the layout {name} as a context of several platforms is not supported by this version of brig"
            );
            return Err(Status::unimplemented(text));
        }
    };
    let task = Task::begin(&job.board, fresh(), format!("[context {name}] load from client"));
    let brought = build::bring_image(&server.engine, &store, digest, &platform).await;
    task.of(brought.map_err(|e| status::failed(&e, "", "", None)))
}

/// Runs on a thread that may block.
async fn blocking_build<T, F>(work: F) -> Reply<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, build::Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| status::failed(&e, "", "", None)),
        Err(e) => Err(Status::internal(e.to_string())),
    }
}

/// Reads the Dockerfile and its ignore file: from the client's directory, or from the context behind a URL.
async fn load_dockerfile(server: &Server, job: &Arc<Job>, asked: &Options) -> Reply<Loaded> {
    let mut context = None;
    let mut text = None;
    if !asked.context_url.is_empty() {
        let (fetched, found) = remote_context(server, job, asked).await?;
        (context, text) = (Some(fetched), found);
    }
    let digest = fresh();
    let task = Task::begin(
        &job.board,
        digest.clone(),
        format!("[internal] load build definition from {}", asked.filename),
    );
    let lower = lower_case(&asked.filename);
    let found = match (&text, &context) {
        (Some(text), _) if !asked.has_dockerfile_dir => Ok((asked.filename.clone(), text.clone(), None)),
        (_, Some(context)) if !asked.has_dockerfile_dir => from_context(context, &asked.filename),
        _ => {
            let ignore = format!("{}.dockerignore", asked.filename);
            let mut names = vec![asked.filename.clone(), ignore.clone()];
            names.extend(lower.clone());
            let files = read_files(server, job, &asked.dockerfile_dir, &names, &task).await;
            files.and_then(|mut files| {
                let own = files.remove(&asked.filename).map(|text| (asked.filename.clone(), text));
                let found = own.or_else(|| {
                    let lower = lower.as_ref()?;
                    files.remove(lower).map(|text| (lower.clone(), text))
                });
                match found {
                    Some((name, text)) => Ok((name, text, files.remove(&ignore))),
                    None => Err(Status::unknown(format!(
                        "failed to read dockerfile: open {}: no such file or directory",
                        asked.filename
                    ))),
                }
            })
        }
    };
    let (name, text, ignore) = task.of(found)?;
    let ignore = match (ignore, &context) {
        (Some(text), _) => patterns(&text),
        (None, Some(_)) => Vec::new(),
        (None, None) => read_ignore(server, job, &asked.context_dir, ".dockerignore").await?,
    };
    // A context behind a URL was unpacked before its ignore file was known.
    let context = match context {
        Some(mut context) => {
            blocking_build({
                let name = name.clone();
                move || {
                    context.take_ignore(&name)?;
                    Ok(Some(Arc::new(context)))
                }
            })
            .await?
        }
        None => None,
    };
    Ok(Loaded { source: Source { name, text, vertex: digest }, ignore, context })
}

/// `Dockerfile` may also be written small.
fn lower_case(filename: &str) -> Option<String> {
    let (dir, name) = filename.rsplit_once('/').map_or(("", filename), |(d, n)| (d, n));
    let lower = if dir.is_empty() { "dockerfile".to_string() } else { format!("{dir}/dockerfile") };
    (name == "Dockerfile").then_some(lower)
}

type Found = (String, String, Option<String>);

fn from_context(context: &Context, filename: &str) -> Reply<Found> {
    let read = |name: &str| context.text(name).map_err(|e| status::failed(&e, "", "", None));
    for name in std::iter::once(filename.to_string()).chain(lower_case(filename)) {
        if let Some(text) = read(&name)? {
            return Ok((name, text, None));
        }
    }
    Err(Status::unknown(format!("failed to read dockerfile: open {filename}: no such file or directory")))
}

/// A context that is not a directory of the client's. A Dockerfile alone comes back as its text.
async fn remote_context(
    server: &Server,
    job: &Arc<Job>,
    asked: &Options,
) -> Reply<(Context, Option<String>)> {
    let url = &asked.context_url;
    let task = Task::begin(&job.board, fresh(), format!("[internal] load remote build context {url}"));
    let loaded = match crate::upload::host_and_path(url) {
        _ if url == crate::posted::URL => {
            let missing = || Status::invalid_argument("no context came with the request");
            job.take_sent().map(|Sent { context, text }| (context, text)).ok_or_else(missing)
        }
        Some((host, path)) => crate::upload::pull(&server.engine, &job.session, &host, &path).await,
        None => {
            let access = git_access(server, job, asked, url).await?;
            build::fetch_context(&server.engine, url, &access)
                .await
                .map_err(|e| status::failed(&e, "", "", None))
        }
    };
    task.of(loaded)
}

/// With what repositories are read: what the client has for the URL.
async fn git_access(server: &Server, job: &Arc<Job>, asked: &Options, url: &str) -> Reply<GitAccess> {
    let client = BuildClient::new(server.engine.clone(), job.session.clone(), job.board.clone(), None);
    let access = GitAccess::new(BTreeMap::new(), None, &asked.build_args);
    access.asked(&client, url).await.map_err(|e| status::failed(&e, "", "", None))
}

async fn read_ignore(server: &Server, job: &Arc<Job>, dir: &str, name: &str) -> Reply<Vec<String>> {
    let task = Task::begin(&job.board, fresh(), "[internal] load .dockerignore");
    let files = read_files(server, job, dir, &[name.to_string()], &task).await;
    let mut files = task.of(files)?;
    Ok(files.remove(name).map(|text| patterns(&text)).unwrap_or_default())
}

/// The lines of an ignore file that mean something.
fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (mark, path) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            let clean: Vec<&str> = path.split('/').filter(|p| !matches!(*p, "" | ".")).collect();
            let clean = if clean.is_empty() { ".".to_string() } else { clean.join("/") };
            format!("{mark}{clean}")
        })
        .collect()
}

/// Texts of some files of a directory of the client's; those that are not there are left out.
async fn read_files(
    server: &Server,
    job: &Arc<Job>,
    dir: &str,
    names: &[String],
    task: &Task,
) -> Reply<BTreeMap<String, String>> {
    let scratch = server.engine.make_scratch().map_err(|e| status::of(&e))?;
    let wanted = crate::receive::Wanted { name: dir.into(), exclude: Vec::new(), follow: names.to_vec() };
    let received = crate::receive::receive(&job.session, &wanted, scratch.path(), |_| {}).await?;
    task.progress(&format!("transferring {dir}:"), received.sent_bytes, 0, true);
    let names = names.to_vec();
    let read = move || {
        let root = rootdir::RootDir::open(scratch.path()).map_err(|e| status::of(&e))?;
        let mut out = BTreeMap::new();
        for name in names {
            use errors::HasKind;
            match root.read_bounded(std::path::Path::new(&name), MAX_TEXT) {
                Ok(bytes) => {
                    let text = String::from_utf8(bytes)
                        .map_err(|_| Status::invalid_argument(format!("{name} is not UTF-8 text")))?;
                    out.insert(name, text);
                }
                Err(e) if e.kind() == errors::Kind::NotFound => {}
                Err(e) => return Err(status::of(&e)),
            }
        }
        Ok(out)
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))
}
