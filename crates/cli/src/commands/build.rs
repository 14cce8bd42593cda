//! `build`: packs the context, sends it with what the build needs besides, and shows what happens.

mod caches;
mod layout;
mod listed;
mod named;
mod outcome;
mod show;

use super::Context;
use crate::blocking::upload;
use crate::body;
use crate::error::{Error, Result};
use crate::http::Path;
use crate::progress::JsonLines;
use crate::terminal;
use base64::Engine as _;
use caches::Caches;
use dockerfile::{Ignore, Verdict};
use named::Named;
use outcome::Output;
use rootdir::RootDir;
use serde_json::{Map, Value, json};
use show::Show;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

/// The type of a body in brig's own form.
const OWN_TYPE: &str = "application/vnd.brig.build";
/// Largest Dockerfile, ignore file or secret.
const MAX_TEXT: u64 = 8 << 20;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Build {
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long, value_name = "strings")]
    add_host: Vec<String>,
    /// Allow extra privileged entitlement (network.host, security.insecure, device)
    #[arg(long, value_name = "stringArray")]
    allow: Vec<String>,
    /// Add annotation to the image
    #[arg(long, value_name = "stringArray")]
    annotation: Vec<String>,
    /// Attestation parameters (format: "type=sbom", "type=provenance,mode=max")
    #[arg(long, value_name = "stringArray")]
    attest: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "stringArray")]
    build_arg: Vec<String>,
    /// Additional build contexts (name=path, name=URL, name=docker-image://image)
    #[arg(long, value_name = "stringArray")]
    build_context: Vec<String>,
    /// External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")
    #[arg(long, value_name = "stringArray")]
    cache_from: Vec<String>,
    /// Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")
    #[arg(long, value_name = "stringArray")]
    cache_to: Vec<String>,
    /// Set the parent cgroup for the RUN instructions during build
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cgroup_parent: String,
    /// Check the Dockerfile and build nothing
    #[arg(long)]
    check: bool,
    /// Limit the CPU CFS (Completely Fair Scheduler) period of the RUN instructions
    #[arg(long, value_name = "int")]
    cpu_period: Option<i64>,
    /// Limit the CPU CFS (Completely Fair Scheduler) quota of the RUN instructions
    #[arg(long, value_name = "int")]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight) of the RUN instructions
    #[arg(short, long, value_name = "int")]
    cpu_shares: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cpuset_mems: String,
    /// Name of the Dockerfile (default: "PATH/Dockerfile")
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    file: String,
    /// Write the image ID to a file
    #[arg(long, value_name = "string")]
    iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long, value_name = "stringArray")]
    label: Vec<String>,
    /// Memory limit of the RUN instructions
    #[arg(short, long, value_name = "bytes", value_parser = crate::units::parse_bytes)]
    memory: Option<i64>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = crate::units::parse_bytes_or_unlimited, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Write build result metadata to a file
    #[arg(long, value_name = "string")]
    metadata_file: Option<PathBuf>,
    /// Set the networking mode for the RUN instructions during build
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    network: String,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_name = "stringArray", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Output destination (format: "type=local,dest=path"; types: docker, image, local, tar, oci)
    #[arg(short, long, value_name = "stringArray")]
    output: Vec<String>,
    /// Set target platforms for build (several make an index)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    /// Set type of progress output (auto, plain, tty, rawjson, quiet)
    #[arg(long, value_name = "string", default_value = "auto")]
    progress: String,
    /// Shorthand for "--attest=type=provenance"
    #[arg(long, value_name = "string", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pull: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Shorthand for "--attest=type=sbom"
    #[arg(long, value_name = "string", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret]" or "id=mysecret,env=VARIABLE")
    #[arg(long, value_name = "stringArray")]
    secret: Vec<String>,
    /// Shared memory size for build containers
    #[arg(long, value_name = "bytes", value_parser = crate::units::parse_bytes)]
    shm_size: Option<i64>,
    /// SSH agent socket to expose to the build (format: "default|<id>[=<socket>]")
    #[arg(long, value_name = "stringArray")]
    ssh: Vec<String>,
    /// Name and optionally a tag (format: "name:tag")
    #[arg(short, long, value_name = "stringArray")]
    tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    target: String,
    /// Ulimit options of the RUN instructions
    #[arg(long, value_name = "ulimit")]
    ulimit: Vec<String>,
    /// PATH, URL of a git repository, an archive or a Dockerfile, or '-' for either on standard input
    #[arg(value_name = "PATH | URL | -")]
    context: String,
}

/// Where the files come from.
enum Source {
    Directory(PathBuf),
    /// A tar archive that was read from standard input as far as this.
    Stream(Vec<u8>),
    /// Nothing: the Dockerfile is all.
    Empty,
}

pub(crate) async fn build(context: &Context, flags: &Build) -> Result<u8> {
    let flags = &with_epoch(flags.clone());
    let mut lent = Vec::new();
    let done = build_with(context, flags, &mut lent).await;
    for image in lent {
        image.give_back(&context.client).await;
    }
    done
}

async fn build_with(context: &Context, flags: &Build, lent: &mut Vec<layout::Lent>) -> Result<u8> {
    let outputs = flags.output.iter().map(|o| Output::parse(o)).collect::<Result<Vec<_>>>()?;
    if flags.platform.contains(',') && outputs.iter().any(|output| matches!(output, Output::Tar(_))) {
        return Err(Error::Unsupported("--output type=tar for several platforms is not supported".into()));
    }
    let caches = Caches::read(&flags.cache_from, &flags.cache_to)?;
    let mut document = document(flags, &caches)?;
    let (source, dockerfile) = source(flags, &mut document)?;
    let path = query(flags, &dockerfile)?;
    let auth = context.config.registry_config().await?;
    let keep = keep(ignore_of(&source, &dockerfile)?, &dockerfile);
    let mut named = Named::read(&flags.build_context)?;
    let mut kept = named.tell(&context.client).await?;
    for (name, text) in &named.layouts {
        let image = layout::lend(&context.client, name, text).await?;
        document["context_images"][name] = json!(image.id);
        lent.push(image);
    }
    let mut listed = None;
    if let Source::Directory(root) = &source {
        listed = listed::tell(&context.client, root, keep.clone()).await?;
        kept.extend(listed.iter().map(|listed| (String::new(), listed.token.clone())));
    }
    if !kept.is_empty() {
        document["kept"] = json!(kept);
    }
    let bytes = document.to_string().into_bytes();
    let shown = listed.as_ref().map(listed::Listed::shown);
    let body = body::streamed(upload(move |out| {
        out.write_all(&(bytes.len() as u64).to_be_bytes())
            .and_then(|()| out.write_all(&bytes))
            .map_err(|e| e.to_string())?;
        named.send(out)?;
        match listed {
            Some(listed) => listed.send(out),
            None => send(out, source, &*keep),
        }
    }));
    let response = context.client.request_build(&path, OWN_TYPE, auth.as_deref(), body).await?;
    if flags.check {
        let answer: Value = context.client.json(&path, response).await?;
        return show::checks(&answer);
    }
    let mut show = Show::new(if flags.quiet { "quiet" } else { &flags.progress })?;
    if let Some(text) = shown {
        show.note(&text)?;
    }
    let mut lines = JsonLines::new(response.into_body());
    let mut built = None;
    while let Some(line) = lines.next::<Value>().await? {
        if let Some(error) = line.get("error") {
            let detail = line.get("errorDetail").unwrap_or(error);
            show.failed()?;
            let message = detail.get("message").or(Some(error)).and_then(Value::as_str).unwrap_or_default();
            let code =
                detail.get("code").and_then(Value::as_u64).and_then(|c| u8::try_from(c).ok()).unwrap_or(1);
            let text = format!(
                "ERROR: {}",
                message.lines().map(crate::text::printable).collect::<Vec<_>>().join("\n")
            );
            return Err(Error::Exit { code: code.max(1), message: Some(text) });
        }
        if caches.answer(context, &line["brig"]).await? {
            continue;
        }
        if line["brig"]["event"] == "built" {
            built = Some(line["brig"].clone());
        }
        show.line(&line)?;
    }
    let built = built.ok_or_else(|| Error::Reported("the build ended without a result".into()))?;
    show.done()?;
    let (ids, metadata) = (flags.iidfile.as_deref(), flags.metadata_file.as_deref());
    outcome::finish(context, &built, &outputs, ids, metadata, &epoch(flags)).await?;
    if flags.quiet {
        terminal::print_line(built["image"].as_str().unwrap_or_default())?;
    }
    Ok(0)
}

/// The build argument that bounds times.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Has the variable of the environment as the argument, unless there is one.
fn with_epoch(mut flags: Build) -> Build {
    let is_given = flags.build_arg.iter().any(|arg| arg.split('=').next() == Some(EPOCH));
    if !is_given && let Ok(value) = std::env::var(EPOCH) {
        flags.build_arg.push(format!("{EPOCH}={value}"));
    }
    flags
}

/// The value of that argument; empty for none.
fn epoch(flags: &Build) -> String {
    let given = flags.build_arg.iter().rev().find_map(|arg| match arg.split_once('=') {
        Some((EPOCH, value)) => Some(value.to_string()),
        None if arg == EPOCH => std::env::var(EPOCH).ok(),
        _ => None,
    });
    given.unwrap_or_default()
}

/// The query, as Docker's classic endpoint has it.
fn query(flags: &Build, dockerfile: &str) -> Result<Path> {
    let object = |list: &[String], from_environment: bool| {
        let mut map = Map::new();
        for text in list {
            match text.split_once('=') {
                Some((key, value)) => map.insert(key.into(), json!(value)),
                None if from_environment => map.insert(text.clone(), json!(std::env::var(text).ok())),
                None => map.insert(text.clone(), json!("")),
            };
        }
        Value::Object(map)
    };
    let mut path = Path::new(&["build"])
        .query_some("dockerfile", dockerfile)
        .query_some("target", &flags.target)
        .query_some("platform", &flags.platform)
        .query_some("networkmode", &flags.network)
        .query_some("cgroupparent", &flags.cgroup_parent)
        .query_some("cpusetcpus", &flags.cpuset_cpus)
        .query_some("cpusetmems", &flags.cpuset_mems)
        .flag("nocache", flags.no_cache)
        .flag("pull", flags.pull)
        .flag("rm", true);
    if is_url(&flags.context) {
        path = path.query("remote", &flags.context);
    }
    for tag in &flags.tag {
        super::pull::parse(tag)?;
        path = path.query("t", tag);
    }
    if !flags.build_arg.is_empty() {
        path = path.query("buildargs", &object(&flags.build_arg, true).to_string());
    }
    if !flags.label.is_empty() {
        path = path.query("labels", &object(&flags.label, false).to_string());
    }
    if !flags.add_host.is_empty() {
        path = path.query("extrahosts", &json!(flags.add_host).to_string());
    }
    if !flags.ulimit.is_empty() {
        let limits = flags.ulimit.iter().map(|u| crate::run::spec::ulimit(u)).collect::<Result<Vec<_>>>()?;
        path = path.query("ulimits", &Value::Array(limits).to_string());
    }
    for (name, value) in [
        ("memory", flags.memory),
        ("memswap", flags.memory_swap),
        ("shmsize", flags.shm_size),
        ("cpuperiod", flags.cpu_period),
        ("cpuquota", flags.cpu_quota),
        ("cpushares", flags.cpu_shares),
    ] {
        if let Some(value) = value {
            path = path.query(name, &value.to_string());
        }
    }
    Ok(path)
}

/// The document that goes before the tar.
fn document(flags: &Build, caches: &Caches) -> Result<Value> {
    let mut secrets = BTreeMap::new();
    for text in &flags.secret {
        let (id, bytes) = secret(text)?;
        secrets.insert(id, base64::engine::general_purpose::STANDARD.encode(bytes));
    }
    let mut ssh = BTreeMap::new();
    for text in &flags.ssh {
        let (id, socket) =
            text.split_once('=').map_or((text.as_str(), None), |(id, socket)| (id, Some(socket)));
        let socket = match socket {
            Some(path) => path.to_string(),
            None => std::env::var("SSH_AUTH_SOCK").map_err(|_| {
                Error::Usage("--ssh: SSH_AUTH_SOCK is not set; name a socket with ID=PATH".into())
            })?,
        };
        let is_socket = {
            use std::os::unix::fs::FileTypeExt;
            std::fs::metadata(&socket).is_ok_and(|m| m.file_type().is_socket())
        };
        if !is_socket {
            return Err(Error::Usage(format!("--ssh {id}: {socket:?} is not the socket of an agent")));
        }
        ssh.insert(id.to_string(), socket);
    }
    let named = Named::read(&flags.build_context)?;
    Ok(json!({
        "check": flags.check,
        "secrets": secrets,
        "ssh": ssh,
        "allow": flags.allow,
        "context_images": named.images,
        "context_urls": named.urls,
        "contexts": named.directories.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "no_cache_stages": flags.no_cache_filter,
        "attests": attests(flags)?,
        "annotations": flags.annotation,
        "cache_from": caches.from,
        "cache_to": caches.to,
    }))
}

/// What is to be said of the image, by kind, as the frontend's clients write it.
fn attests(flags: &Build) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for text in &flags.attest {
        let (mut kind, mut rest) = (String::new(), Vec::new());
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = value.to_string(),
                _ => rest.push(field),
            }
        }
        if kind.is_empty() {
            return Err(Error::Usage(format!("attestation type not specified in --attest {text:?}")));
        }
        if out.insert(kind.clone(), rest.join(",")).is_some() {
            return Err(Error::Usage(format!("duplicate attestation type {kind}")));
        }
    }
    for (kind, flag) in [("provenance", &flags.provenance), ("sbom", &flags.sbom)] {
        let Some(text) = flag else { continue };
        let attributes = match text.as_str() {
            "true" | "1" => String::new(),
            "false" | "0" => "disabled=true".into(),
            other => other.to_string(),
        };
        out.insert(kind.to_string(), attributes);
    }
    Ok(out)
}

/// `id=x,src=FILE`, `id=x,env=NAME`, `id=x` (the variable of that name, else the file).
fn secret(text: &str) -> Result<(String, Vec<u8>)> {
    let (mut id, mut file, mut variable) = (None, None, None);
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("invalid field '{field}' in --secret")))?;
        match key {
            "id" => id = Some(value.to_string()),
            "src" | "source" => file = Some(value.to_string()),
            "env" => variable = Some(value.to_string()),
            "type" if matches!(value, "file" | "env") => {}
            other => return Err(Error::Usage(format!("unexpected key '{other}' in --secret"))),
        }
    }
    let id = id.ok_or_else(|| Error::Usage("--secret needs an id".into()))?;
    if let Some(name) = variable.clone().or(file.is_none().then(|| id.clone()))
        && let Some(value) = std::env::var_os(&name)
    {
        return Ok((id, value.into_encoded_bytes()));
    }
    let path = match (variable, file) {
        (Some(name), _) => {
            return Err(Error::Usage(format!("--secret {id}: the variable {name} is not set")));
        }
        (None, file) => PathBuf::from(file.unwrap_or_else(|| id.clone())),
    };
    Ok((id, read(&path)?))
}

fn read(path: &FilePath) -> Result<Vec<u8>> {
    let failed = |source| Error::File { doing: "read", path: path.into(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(Error::Usage(format!("{} is larger than {MAX_TEXT} bytes", path.display())));
    }
    Ok(bytes)
}

/// Finds the files and the Dockerfile's name among them; a Dockerfile from elsewhere goes into the document.
fn source(flags: &Build, document: &mut Value) -> Result<(Source, String)> {
    let put = |document: &mut Value, bytes: Vec<u8>| {
        let text =
            String::from_utf8(bytes).map_err(|_| Error::Usage("the Dockerfile is not UTF-8 text".into()))?;
        document["dockerfile"] = json!(text);
        Ok::<_, Error>(())
    };
    if flags.context == "-" {
        if flags.file == "-" {
            return Err(Error::Usage(
                "invalid argument: can't use stdin for both build context and dockerfile".into(),
            ));
        }
        let mut head = Vec::new();
        let failed = |source| Error::Stream { doing: "read standard input", source };
        std::io::stdin().take(512).read_to_end(&mut head).map_err(failed)?;
        if is_archive(&head) {
            return Ok((Source::Stream(head), flags.file.clone()));
        }
        std::io::stdin().take(MAX_TEXT).read_to_end(&mut head).map_err(failed)?;
        put(document, head)?;
        return Ok((Source::Empty, String::new()));
    }
    if is_url(&flags.context) {
        if flags.file == "-" {
            let mut bytes = Vec::new();
            let failed = |source| Error::Stream { doing: "read standard input", source };
            std::io::stdin().take(MAX_TEXT).read_to_end(&mut bytes).map_err(failed)?;
            put(document, bytes)?;
            return Ok((Source::Empty, String::new()));
        }
        return Ok((Source::Empty, flags.file.clone()));
    }
    let root = PathBuf::from(&flags.context);
    let failed = |source| Error::File { doing: "open build context", path: root.clone(), source };
    if !std::fs::metadata(&root).map_err(failed)?.is_dir() {
        return Err(Error::Usage(format!("unable to prepare context: {root:?} is not a directory")));
    }
    if flags.file == "-" {
        let mut bytes = Vec::new();
        let failed = |source| Error::Stream { doing: "read standard input", source };
        std::io::stdin().take(MAX_TEXT).read_to_end(&mut bytes).map_err(failed)?;
        put(document, bytes)?;
        return Ok((Source::Directory(root), String::new()));
    }
    let name = match flags.file.as_str() {
        "" if !root.join("Dockerfile").exists() && root.join("dockerfile").exists() => {
            "dockerfile".to_string()
        }
        "" => "Dockerfile".to_string(),
        named => {
            let path = PathBuf::from(named);
            let inside = std::path::absolute(&path).ok().zip(std::path::absolute(&root).ok());
            match inside.and_then(|(file, root)| file.strip_prefix(root).ok().map(FilePath::to_path_buf)) {
                Some(inside) if !inside.components().any(|c| c == std::path::Component::ParentDir) => {
                    inside.to_string_lossy().into_owned()
                }
                _ => {
                    put(document, read(&path)?)?;
                    return Ok((Source::Directory(root), String::new()));
                }
            }
        }
    };
    if !root.join(&name).exists() {
        return Err(Error::Usage(format!(
            "failed to read dockerfile: open {name}: no such file or directory"
        )));
    }
    Ok((Source::Directory(root), name))
}

/// Whether the daemon reads the context itself.
fn is_url(context: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ssh://"].iter().any(|s| context.starts_with(s))
}

fn is_archive(head: &[u8]) -> bool {
    let compressed = [&[0x1f, 0x8b][..], &[0x28, 0xb5, 0x2f, 0xfd], &[0xfd, b'7', b'z', b'X', b'Z'], b"BZh"];
    compressed.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}

/// What need not be sent.
fn ignore_of(source: &Source, dockerfile: &str) -> Result<Ignore> {
    let Source::Directory(root) = source else { return Ok(Ignore::default()) };
    for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_string()] {
        let path = root.join(&name);
        if path.is_file() {
            let text = String::from_utf8(read(&path)?)
                .map_err(|_| Error::Usage(format!("{name} is not UTF-8 text")))?;
            return Ignore::parse(&text).map_err(|m| Error::Usage(format!("{name}: {m}")));
        }
    }
    Ok(Ignore::default())
}

/// What of a directory is sent.
fn keep(ignore: Ignore, dockerfile: &str) -> Arc<listed::Keep> {
    // The builder reads these also where they are ignored.
    let needed = [dockerfile.to_string(), format!("{dockerfile}.dockerignore"), ".dockerignore".to_string()];
    Arc::new(move |path: &FilePath, is_dir: bool| {
        let text = path.to_string_lossy();
        let on_the_way = |n: &String| *n == *text || (is_dir && n.starts_with(&format!("{text}/")));
        ignore.judge(&text, is_dir) != Verdict::Ignored || needed.iter().any(on_the_way)
    })
}

fn send(out: &mut dyn Write, source: Source, keep: &listed::Keep) -> std::result::Result<(), String> {
    let failed = |e: std::io::Error| e.to_string();
    match source {
        Source::Empty => out.write_all(&[0; 1024]).map_err(failed),
        Source::Stream(head) => {
            out.write_all(&head).map_err(failed)?;
            std::io::copy(&mut std::io::stdin(), out).map(drop).map_err(failed)
        }
        Source::Directory(root) => {
            let root = RootDir::open(&root).map_err(|e| errors::chain(&e))?;
            archive::pack_kept(out, &root, &|path, is_dir| keep(path, is_dir))
                .map(drop)
                .map_err(|e| errors::chain(&e))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_from_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("s");
        std::fs::write(&file, b"top").unwrap();
        let text = format!("id=a,src={}", file.display());
        assert_eq!(secret(&text).unwrap(), ("a".to_string(), b"top".to_vec()));
        for bad in ["src=x", "id", "id=a,x=y", "id=a,env=BRIG_TEST_NO_SUCH_VARIABLE", "id=a,src=/nonexistent"]
        {
            assert!(secret(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn archives_are_told_from_dockerfiles() {
        assert!(is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b"FROM scratch\n"));
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
    }
}
