//! `context`: daemons by name.

use super::Context;
use super::system::formatted;
use crate::contexts::{self, DEFAULT, FILES, Material, Store, Stored};
use crate::error::{Error, Result};
use crate::host::Endpoint;
use crate::listing::{self, Listing};
use crate::terminal;
use gotemplate::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest archive with a context.
const MAX_ARCHIVE: u64 = 10 << 20;

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Contexts {
    /// Create a context
    #[command(
        after_help = "Examples:\n  brig context create prod --docker host=ssh://me@prod\n  brig context create lab --docker host=tcp://lab:2376,ca=ca.pem,cert=cert.pem,key=key.pem\n  brig context use lab"
    )]
    Create {
        #[command(flatten)]
        settings: Settings,
        /// Create context from a named context
        #[arg(long, value_name = "string")]
        from: Option<String>,
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Export a context to a tar archive FILE or a tar stream on STDOUT
    Export {
        #[arg(value_name = "CONTEXT")]
        name: String,
        #[arg(value_name = "FILE|-")]
        output: Option<String>,
    },
    /// Import a context from a tar file
    Import {
        #[arg(value_name = "CONTEXT")]
        name: String,
        #[arg(value_name = "FILE|-")]
        input: String,
    },
    /// Display detailed information on one or more contexts
    Inspect {
        /// Format output: 'json' or a Go template
        #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
        format: String,
        #[arg(value_name = "CONTEXT")]
        names: Vec<String>,
    },
    /// List contexts
    #[command(name = "ls", alias = "list")]
    List {
        /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
        #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
        format: String,
        /// Only show context names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove one or more contexts
    #[command(name = "rm", alias = "remove")]
    Remove {
        /// Force the removal of a context in use
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "CONTEXT")]
        names: Vec<String>,
    },
    /// Print the name of the current context
    Show,
    /// Update a context
    Update {
        #[command(flatten)]
        settings: Settings,
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Set the current docker context
    Use {
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// Set the docker endpoint: host=ADDRESS,ca=FILE,cert=FILE,key=FILE,skip-tls-verify=BOOL, or from=CONTEXT
    #[arg(long, value_name = "stringToString")]
    docker: Option<String>,
}

pub(crate) fn context(context: &mut Context, command: Contexts) -> Result<u8> {
    let store = Store::beside(context.config.path());
    match command {
        Contexts::Create { settings, from, name } => {
            create(context, &store, &settings, from.as_deref(), &name)
        }
        Contexts::Update { settings, name } => update(context, &store, &settings, &name),
        Contexts::Inspect { format, names } => inspect(context, &store, &format, names),
        Contexts::List { format, quiet } => list(context, &store, &format, quiet),
        Contexts::Show => terminal::print_line(&context.current).map(|()| 0),
        Contexts::Use { name } => choose(context, &store, &name),
        Contexts::Remove { force, names } => remove(context, &store, force, &names),
        Contexts::Export { name, output } => export(&store, &name, output.as_deref()),
        Contexts::Import { name, input } => import(&store, &name, &input),
    }
}

/// The endpoint and the files that `--docker` names; None where it is not said.
fn endpoint(
    context: &Context,
    store: &Store,
    text: Option<&str>,
    into: &mut Stored,
) -> Result<Option<Material>> {
    let Some(text) = text else { return Ok(None) };
    let mut given = BTreeMap::new();
    for pair in text.split(',') {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("{pair} must be formatted as key=value")))?;
        if !["from", "host", "ca", "cert", "key", "skip-tls-verify"].contains(&key) {
            return Err(Error::Usage(format!("unrecognized config key: {key}")));
        }
        given.insert(key, value);
    }
    if let Some(from) = given.get("from") {
        let (stored, files) = source(context, store, from)?;
        (into.host, into.skip_verify) = (stored.host, stored.skip_verify);
        return Ok(Some(files));
    }
    if let Some(host) = given.get("host") {
        Endpoint::parse(host)?;
        into.host = (*host).to_string();
    }
    if into.host.is_empty() {
        into.host = Endpoint::Unix(context.default_socket.clone()).to_string();
    }
    into.skip_verify = match given.get("skip-tls-verify") {
        None => false,
        Some(text) => crate::run::mounts::parse_bool(text)
            .ok_or_else(|| Error::Usage(format!("invalid value for skip-tls-verify: {text}")))?,
    };
    let mut files = Vec::new();
    for (key, file) in ["ca", "cert", "key"].into_iter().zip(FILES) {
        if let Some(path) = given.get(key) {
            files.push((file, contexts::read_named(Path::new(path))?));
        }
    }
    Ok(Some(files))
}

/// What `--from` copies: a stored context, or what the environment says.
fn source(context: &Context, store: &Store, name: &str) -> Result<(Stored, Material)> {
    if name == DEFAULT {
        let host = context.default_host.to_string();
        let Endpoint::Tls(_, tls) = &context.default_host else {
            return Ok((Stored::at(host, false), Vec::new()));
        };
        let paths: [Option<&PathBuf>; 3] =
            [tls.ca.as_ref(), tls.identity.as_ref().map(|i| &i.0), tls.identity.as_ref().map(|i| &i.1)];
        let mut files = Vec::new();
        for (path, file) in paths.into_iter().zip(FILES) {
            if let Some(path) = path {
                files.push((file, contexts::read_named(path)?));
            }
        }
        return Ok((Stored::at(host, !tls.verifies), files));
    }
    Ok((store.get(name)?, store.files(name)?))
}

fn create(
    context: &Context,
    store: &Store,
    settings: &Settings,
    from: Option<&str>,
    name: &str,
) -> Result<u8> {
    contexts::check_name(name)?;
    if store.get(name).is_ok() {
        return Err(Error::Usage(format!("context {name:?} already exists")));
    }
    let (mut stored, mut files) = match (from, &settings.docker) {
        (Some(_), Some(_)) => {
            return Err(Error::Usage("cannot use --docker flag when --from is set".into()));
        }
        (Some(from), None) => source(context, store, from)?,
        (None, None) => return Err(Error::Usage("docker endpoint configuration is required".into())),
        (None, Some(_)) => (Stored::default(), Vec::new()),
    };
    stored.name = name.to_string();
    if let Some(description) = &settings.description {
        stored.description.clone_from(description);
    }
    if let Some(given) = endpoint(context, store, settings.docker.as_deref(), &mut stored)? {
        files = given;
    }
    store.put(&stored, Some(&files))?;
    terminal::print_line(name)?;
    terminal::warn(&format!("Successfully created context {name:?}"));
    Ok(0)
}

fn update(context: &Context, store: &Store, settings: &Settings, name: &str) -> Result<u8> {
    let mut stored = store.get(name)?;
    if let Some(description) = &settings.description {
        stored.description.clone_from(description);
    }
    let files = endpoint(context, store, settings.docker.as_deref(), &mut stored)?;
    store.put(&stored, files.as_deref())?;
    terminal::print_line(name)?;
    terminal::warn(&format!("Successfully updated context {name:?}"));
    Ok(0)
}

/// The context called `default` as a document.
fn default_document(context: &Context) -> serde_json::Value {
    let (host, skip) = match &context.default_host {
        Endpoint::Tls(_, files) => (context.default_host.to_string(), !files.verifies),
        other => (other.to_string(), false),
    };
    json!({
        "Name": DEFAULT,
        "Metadata": {},
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": skip}},
        "TLSMaterial": {},
        "Storage": {"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"},
    })
}

fn inspect(context: &Context, store: &Store, format: &str, names: Vec<String>) -> Result<u8> {
    let names = if names.is_empty() { vec![context.current.clone()] } else { names };
    let (mut found, mut code) = (Vec::new(), 0);
    for name in names {
        if name == DEFAULT {
            found.push(default_document(context));
            continue;
        }
        match store.get(&name) {
            Ok(stored) => {
                let mut document = stored.document();
                let material = store.material(&name);
                document["TLSMaterial"] =
                    if material.is_empty() { json!({}) } else { json!({"docker": material}) };
                document["Storage"] =
                    json!({"MetadataPath": store.meta_dir(&name), "TLSPath": store.tls_dir(&name)});
                found.push(document);
            }
            Err(error) => {
                terminal::warn(&errors::chain(&error));
                code = 1;
            }
        }
    }
    if matches!(format, "" | "json") {
        let list = Value::List(found.into_iter().map(value).collect());
        let text = if format.is_empty() { list.to_pretty_json() } else { list.to_json() };
        terminal::print_line(&text)?;
        return Ok(code);
    }
    for document in found {
        terminal::print(&formatted(format, &value(document))?.unwrap_or_default())?;
    }
    Ok(code)
}

fn value(document: serde_json::Value) -> Value {
    serde_json::from_value(document).unwrap_or_default()
}

fn list(context: &Context, store: &Store, format: &str, quiet: bool) -> Result<u8> {
    let listing = Listing {
        default: "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
            .into(),
        headers: &[
            ("Name", "NAME"),
            ("Description", "DESCRIPTION"),
            ("DockerEndpoint", "DOCKER ENDPOINT"),
            ("Error", "ERROR"),
        ],
    };
    let mut rows = vec![(
        DEFAULT.to_string(),
        "Current DOCKER_HOST based configuration".to_string(),
        context.default_host.to_string(),
    )];
    rows.extend(store.list()?.into_iter().map(|c| (c.name, c.description, c.host)));
    let mut error = "";
    if !rows.iter().any(|(name, ..)| *name == context.current) {
        rows.push((context.current.clone(), String::new(), String::new()));
        error = "context not found";
    }
    rows.sort();
    if quiet {
        let names: Vec<String> = rows.into_iter().map(|(name, ..)| name).collect();
        return terminal::print_line(&names.join("\n")).map(|()| 0);
    }
    let rows = rows
        .into_iter()
        .map(|(name, description, endpoint)| {
            let current = name == context.current;
            listing::row([
                ("Error", Value::from(if endpoint.is_empty() { error } else { "" })),
                ("Name", Value::from(name)),
                ("Description", Value::from(description)),
                ("DockerEndpoint", Value::from(endpoint)),
                ("Current", Value::Bool(current)),
            ])
        })
        .collect();
    terminal::print(&listing.form(Some(format))?.render(rows)?)?;
    Ok(0)
}

fn choose(context: &mut Context, store: &Store, name: &str) -> Result<u8> {
    if name != DEFAULT {
        store.get(name)?;
    }
    context.config.set_text("currentContext", if name == DEFAULT { "" } else { name })?;
    terminal::print_line(name)?;
    terminal::warn(&format!("Current context is now {name:?}"));
    if let Some(variable) =
        ["BRIG_HOST", "DOCKER_HOST"].into_iter().find(|v| std::env::var_os(v).is_some_and(|v| !v.is_empty()))
    {
        terminal::warn(&format!(
            "Warning: {variable} environment variable overrides the active context. To use {name:?}, either set the global --context flag, or unset {variable} environment variable."
        ));
    }
    Ok(0)
}

fn remove(context: &mut Context, store: &Store, force: bool, names: &[String]) -> Result<u8> {
    let mut code = 0;
    for name in names {
        let in_use = context.config.text("currentContext").is_some_and(|current| current == *name);
        let removed = match store.get(name) {
            _ if name == DEFAULT => Err(Error::Usage("context \"default\" cannot be removed".into())),
            Err(_) if force && contexts::check_name(name).is_ok() => Ok(()),
            Err(error) => Err(error),
            Ok(_) if in_use && !force => {
                Err(Error::Usage(format!("context {name:?} is in use, set -f flag to force remove")))
            }
            Ok(_) => Ok(()),
        };
        match removed.and_then(|()| store.remove(name)) {
            Ok(()) => {
                if in_use {
                    context.config.set_text("currentContext", "")?;
                }
                terminal::print_line(name)?;
            }
            Err(error) => {
                terminal::warn(&errors::chain(&error));
                code = 1;
            }
        }
    }
    Ok(code)
}

fn export(store: &Store, name: &str, output: Option<&str>) -> Result<u8> {
    let stored = store.get(name)?;
    let packed = |e: archive::Error| Error::Usage(format!("export context {name:?}: {}", errors::chain(&e)));
    let mut bytes = Vec::new();
    let mut files = archive::Files::new(&mut bytes);
    files.bytes("meta.json", stored.document().to_string().as_bytes()).map_err(packed)?;
    let material = store.files(name)?;
    if !material.is_empty() {
        files.directory("tls").map_err(packed)?;
        files.directory("tls/docker").map_err(packed)?;
        for (file, content) in &material {
            files.bytes(&format!("tls/docker/{file}"), content).map_err(packed)?;
        }
    }
    files.finish().map_err(packed)?;
    if output == Some("-") {
        if std::io::stdout().is_terminal() {
            return Err(Error::Usage(
                "cowardly refusing to export to a terminal, specify a file path".into(),
            ));
        }
        let written = std::io::stdout().write_all(&bytes);
        return written
            .map(|()| 0)
            .map_err(|source| Error::Stream { doing: "write to standard output", source });
    }
    let path = output.map_or_else(|| format!("{name}.dockercontext"), str::to_string);
    // It may hold a key, and takes nothing that is there.
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    let written = options.open(&path).and_then(|mut file| file.write_all(&bytes));
    written.map_err(|source| Error::File { doing: "write", path: path.clone().into(), source })?;
    terminal::warn(&format!("Written file {path:?}"));
    Ok(0)
}

fn import(store: &Store, name: &str, input: &str) -> Result<u8> {
    contexts::check_name(name)?;
    if store.get(name).is_ok() {
        return Err(Error::Usage(format!("context {name:?} already exists")));
    }
    let failed = |why: String| Error::Usage(format!("import context {name:?}: {why}"));
    let mut bytes = match input {
        "-" => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(MAX_ARCHIVE).read_to_end(&mut bytes);
            read.map_err(|source| Error::Stream { doing: "read standard input", source })?;
            bytes
        }
        path => {
            let file = |source| Error::File { doing: "read", path: path.into(), source };
            if std::fs::metadata(path).map_err(file)?.len() > MAX_ARCHIVE {
                return Err(failed("the archive is too large".into()));
            }
            std::fs::read(path).map_err(file)?
        }
    };
    if bytes.starts_with(b"PK") {
        return Err(Error::Unsupported("contexts in zip archives are not supported; use tar".into()));
    }
    // docker ends its archives without the padding of the last file.
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    // Unpacked aside: nothing of it is taken but the files by their names.
    let aside = Aside::new().map_err(|e| failed(e.to_string()))?;
    let root = rootdir::RootDir::open(&aside.0).map_err(|e| failed(errors::chain(&e)))?;
    let options = archive::Options {
        forbid_devices: true,
        keep_owner: false,
        max_entries: 100,
        max_bytes: MAX_ARCHIVE,
        whiteouts: archive::Whiteouts::Keep,
        ..archive::Options::default()
    };
    archive::apply(bytes.as_slice(), &root, &options).map_err(|e| failed(errors::chain(&e)))?;
    let read = |path: &str| -> Option<Vec<u8>> {
        use rustix::fs::{Mode, OFlags};
        let file = root.open_file(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(MAX_ARCHIVE).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let document = read("meta.json").ok_or_else(|| failed("invalid context: no metadata found".into()))?;
    let stored = contexts::import(&document, name)?;
    Endpoint::parse(&stored.host)?;
    let files: Vec<(&str, Vec<u8>)> =
        FILES.into_iter().filter_map(|file| Some((file, read(&format!("tls/docker/{file}"))?))).collect();
    store.put(&stored, Some(&files))?;
    terminal::print_line(name)?;
    terminal::warn(&format!("Successfully imported context {name:?}"));
    Ok(0)
}

/// A directory for a moment.
struct Aside(PathBuf);

impl Aside {
    fn new() -> std::io::Result<Aside> {
        let unique = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
        let path = std::env::temp_dir().join(format!("brig-context-{}-{unique}", std::process::id()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path)?;
        Ok(Aside(path))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
