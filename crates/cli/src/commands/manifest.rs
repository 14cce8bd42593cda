//! `manifest`: lists of manifests, put together here and pushed through the daemon; and what registries have.

use super::{Context, pull};
use crate::drafts::{Draft, Drafts, Entry};
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::terminal;
use crate::text::printable;
use bytes::Bytes;
use hyper::Method;
use oci::image::media_type;
use oci::{Descriptor, Digest, Reference};
use serde_json::{Value, json};

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Manifest {
    /// Add additional information to a manifest of a local list
    Annotate(Annotate),
    /// Create a local manifest list for annotating and pushing to a registry
    Create(Create),
    /// Display an image manifest, or manifest list: a local list, else as the registry has it
    Inspect(Inspect),
    /// Push a manifest list to a repository
    Push(Push),
    /// Delete one or more manifest lists from local storage
    Rm(Rm),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Annotate {
    /// Set architecture
    #[arg(long, value_name = "string")]
    arch: Option<String>,
    /// Set operating system
    #[arg(long, value_name = "string")]
    os: Option<String>,
    /// Set operating system features
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    os_features: Vec<String>,
    /// Set operating system version
    #[arg(long, value_name = "string")]
    os_version: Option<String>,
    /// Set architecture variant
    #[arg(long, value_name = "string")]
    variant: Option<String>,
    #[arg(value_name = "MANIFEST_LIST")]
    list: String,
    #[arg(value_name = "MANIFEST")]
    manifest: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Create {
    /// Amend an existing manifest list
    #[arg(short, long)]
    amend: bool,
    /// Allow communication with an insecure registry
    #[arg(long)]
    insecure: bool,
    #[arg(value_name = "MANIFEST_LIST")]
    list: String,
    #[arg(value_name = "MANIFEST", required = true)]
    manifests: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Inspect {
    /// Allow communication with an insecure registry
    #[arg(long)]
    insecure: bool,
    /// Also show reference and descriptor, and the manifests that a list names
    #[arg(short, long)]
    verbose: bool,
    /// The image: NAME[:TAG|@DIGEST]; or a local list and one of its manifests
    #[arg(value_name = "[MANIFEST_LIST] MANIFEST", required = true, num_args = 1..=2)]
    names: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Push {
    /// Allow push to an insecure registry
    #[arg(long)]
    insecure: bool,
    /// Remove the local manifest list after push
    #[arg(short, long)]
    purge: bool,
    #[arg(value_name = "MANIFEST_LIST")]
    list: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Rm {
    #[arg(value_name = "MANIFEST_LIST", required = true)]
    lists: Vec<String>,
}

pub(crate) async fn manifest(context: &Context, command: &Manifest) -> Result<u8> {
    let drafts = Drafts::beside(context.config.path());
    match command {
        Manifest::Annotate(flags) => annotate(&drafts, flags),
        Manifest::Create(flags) => create(context, &drafts, flags).await,
        Manifest::Inspect(flags) => inspect(context, &drafts, flags).await,
        Manifest::Push(flags) => push(context, &drafts, flags).await,
        Manifest::Rm(flags) => remove(&drafts, flags),
    }
}

fn no_such(list: &Reference) -> Error {
    Error::Reported(format!("No such manifest: {list}"))
}

async fn create(context: &Context, drafts: &Drafts, flags: &Create) -> Result<u8> {
    let list = pull::tagged(&flags.list)?;
    let mut draft = match drafts.get(&list)? {
        Some(_) if !flags.amend => {
            let text = format!("refusing to amend an existing manifest list with no --amend flag: {list}");
            return Err(Error::Reported(text));
        }
        known => known.unwrap_or_default(),
    };
    for name in &flags.manifests {
        let reference = pull::tagged(name)?;
        let entry = look(context, &reference, flags.insecure).await?;
        match draft.entries.iter_mut().find(|known| known.reference == entry.reference) {
            Some(known) => *known = entry,
            None => draft.entries.push(entry),
        }
    }
    drafts.put(&list, &draft)?;
    terminal::print_line(&format!("Created manifest list {list}"))?;
    Ok(0)
}

/// What the registry has under a name: one manifest, and what it is for.
async fn look(context: &Context, reference: &Reference, insecure: bool) -> Result<Entry> {
    let path = Path::new(&["distribution", &reference.familiar(), "json"]).flag("insecure", insecure);
    let extra = Extra { content: None, registry_auth: context.config.registry_auth(reference.host()).await? };
    let response = context.client.request(Method::GET, &path, extra).await?;
    let found: Value = context.client.json(&path, response).await?;
    let decode = |source| Error::Decode { what: format!("what the registry says of {reference}"), source };
    let descriptor: Descriptor = serde_json::from_value(found["Descriptor"].clone()).map_err(decode)?;
    if media_type::is_index(&descriptor.media_type) {
        return Err(Error::Reported(format!("{reference} is a manifest list")));
    }
    let platform = found["Platforms"].get(0).cloned().unwrap_or_else(|| json!({}));
    Ok(Entry { reference: reference.to_string(), descriptor, platform })
}

fn annotate(drafts: &Drafts, flags: &Annotate) -> Result<u8> {
    let (list, manifest) = (pull::tagged(&flags.list)?, pull::tagged(&flags.manifest)?);
    let mut draft = drafts.get(&list)?.ok_or_else(|| no_such(&list))?;
    let missing = || Error::Reported(format!("manifest for image {manifest} does not exist in {list}"));
    let known = draft.entries.iter_mut().find(|entry| entry.reference == manifest.to_string());
    let platform = &mut known.ok_or_else(missing)?.platform;
    let mut set = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            platform[key] = value.as_str().into();
        }
    };
    set("os", &flags.os);
    set("architecture", &flags.arch);
    set("variant", &flags.variant);
    set("os.version", &flags.os_version);
    if !flags.os_features.is_empty() {
        let mut features: Vec<Value> = platform["os.features"].as_array().cloned().unwrap_or_default();
        for feature in &flags.os_features {
            if features.iter().all(|known| known != feature) {
                features.push(feature.as_str().into());
            }
        }
        platform["os.features"] = features.into();
    }
    drafts.put(&list, &draft)?;
    Ok(0)
}

fn remove(drafts: &Drafts, flags: &Rm) -> Result<u8> {
    let mut code = 0;
    for name in &flags.lists {
        let list = pull::tagged(name)?;
        if !drafts.remove(&list)? {
            terminal::warn(&no_such(&list).to_string());
            code = 1;
        }
    }
    Ok(code)
}

/// The list as a registry gets it: Docker's kind where all that it names is of Docker's kind.
fn document(draft: &Draft) -> Result<(&'static str, Vec<u8>)> {
    let mut manifests = Vec::new();
    for entry in &draft.entries {
        let has = |key: &str| entry.platform[key].as_str().is_some_and(|text| !text.is_empty());
        if !has("os") || !has("architecture") {
            return Err(Error::Reported(format!(
                "manifest {} must have an OS and Architecture to be pushed to a registry",
                entry.reference
            )));
        }
        manifests.push(json!({
            "mediaType": entry.descriptor.media_type,
            "digest": entry.descriptor.digest,
            "size": entry.descriptor.size,
            "platform": entry.platform,
        }));
    }
    let dockers =
        draft.entries.iter().all(|entry| entry.descriptor.media_type == media_type::DOCKER_MANIFEST);
    let kind = if dockers { media_type::DOCKER_INDEX } else { media_type::OCI_INDEX };
    let list = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    let bytes = serde_json::to_vec_pretty(&list);
    Ok((kind, bytes.map_err(|source| Error::Decode { what: "the list".into(), source })?))
}

async fn push(context: &Context, drafts: &Drafts, flags: &Push) -> Result<u8> {
    let list = pull::tagged(&flags.list)?;
    let draft = drafts.get(&list)?.ok_or_else(|| no_such(&list))?;
    let mut path =
        Path::new(&["distribution", &list.familiar(), "manifest"]).flag("insecure", flags.insecure);
    let mut taken = Vec::new();
    for entry in &draft.entries {
        let reference = pull::parse(&entry.reference)?;
        if reference.host() != list.host() {
            return Err(Error::Reported(format!(
                "cannot use source images from a different registry than the target image: {} != {}",
                reference.host(),
                list.host()
            )));
        }
        if reference.name() != list.name() {
            path = path.query("from", &reference.with_digest(entry.descriptor.digest).to_string());
            taken.push(list.with_digest(entry.descriptor.digest));
        }
    }
    let (kind, bytes) = document(&draft)?;
    let digest = Digest::of(&bytes);
    let extra = Extra {
        content: Some((kind, Bytes::from(bytes))),
        registry_auth: context.config.registry_auth(list.host()).await?,
    };
    let response = context.client.request(Method::POST, &path, extra).await?;
    drop(context.client.read_all(response).await?);
    for reference in taken {
        let digest = reference.digest().map(|digest| digest.to_string()).unwrap_or_default();
        terminal::print_line(&format!("Pushed ref {reference} with digest: {digest}"))?;
    }
    terminal::print_line(&digest.to_string())?;
    if flags.purge {
        drafts.remove(&list)?;
    }
    Ok(0)
}

async fn inspect(context: &Context, drafts: &Drafts, flags: &Inspect) -> Result<u8> {
    let shown = match flags.names.as_slice() {
        [list, manifest] => {
            let (list, manifest) = (pull::tagged(list)?, pull::tagged(manifest)?);
            let draft = drafts.get(&list)?.ok_or_else(|| no_such(&list))?;
            let known = draft.entries.iter().find(|entry| entry.reference == manifest.to_string());
            let entry = known.ok_or_else(|| no_such(&manifest))?;
            show_entry(context, entry, flags).await?
        }
        names => {
            let reference = pull::tagged(names.first().map_or("", String::as_str))?;
            match drafts.get(&reference)? {
                Some(draft) if flags.verbose => {
                    let mut all = Vec::new();
                    for entry in &draft.entries {
                        all.push(show_entry(context, entry, flags).await?);
                    }
                    Value::Array(all)
                }
                Some(draft) => parse(&document(&draft)?.1)?,
                None => show_remote(context, &reference, flags).await?,
            }
        }
    };
    let mut out = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, form);
    serde::Serialize::serialize(&shown, &mut writer)
        .map_err(|source| Error::Decode { what: "a manifest".into(), source })?;
    terminal::print_line(&printable(&String::from_utf8_lossy(&out)))?;
    Ok(0)
}

/// A manifest of a draft.
async fn show_entry(context: &Context, entry: &Entry, flags: &Inspect) -> Result<Value> {
    let reference = pull::parse(&entry.reference)?;
    let pinned = reference.with_digest(entry.descriptor.digest);
    let (media_type, bytes) = fetch(context, &pinned, flags.insecure).await?;
    if flags.verbose {
        return describe(&reference, &media_type, &bytes, entry.platform.clone());
    }
    parse(&bytes)
}

async fn show_remote(context: &Context, reference: &Reference, flags: &Inspect) -> Result<Value> {
    let (media_type, bytes) = fetch(context, reference, flags.insecure).await?;
    let document: Value = parse(&bytes)?;
    if !flags.verbose {
        return Ok(document);
    }
    let Some(entries) = document.get("manifests").and_then(|list| list.as_array()) else {
        return describe(reference, &media_type, &bytes, json!(null));
    };
    let mut all = Vec::new();
    for entry in entries {
        let digest = entry.get("digest").and_then(|d| d.as_str()).unwrap_or_default();
        let digest: Digest = digest.parse().map_err(|_| {
            Error::Reported(format!("the list names {:?}, which is no digest", printable(digest)))
        })?;
        let (media_type, bytes) = fetch(context, &reference.with_digest(digest), flags.insecure).await?;
        let platform = entry.get("platform").cloned().unwrap_or(json!(null));
        all.push(describe(&reference.with_digest(digest), &media_type, &bytes, platform)?);
    }
    Ok(Value::Array(all))
}

/// The manifest's media type and bytes.
async fn fetch(context: &Context, reference: &Reference, insecure: bool) -> Result<(String, Vec<u8>)> {
    let path = Path::new(&["distribution", &reference.familiar(), "manifest"]).flag("insecure", insecure);
    let extra = Extra { content: None, registry_auth: context.config.registry_auth(reference.host()).await? };
    let response = context.client.request(Method::GET, &path, extra).await?;
    let media_type = response.headers().get("content-type").and_then(|v| v.to_str().ok());
    let media_type = media_type.unwrap_or_default().to_string();
    Ok((media_type, context.client.read_all(response).await?.to_vec()))
}

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|source| Error::Decode { what: "a manifest".into(), source })
}

fn describe(reference: &Reference, media_type: &str, bytes: &[u8], platform: Value) -> Result<Value> {
    let mut descriptor = json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    if !platform.is_null() {
        descriptor["platform"] = platform;
    }
    let field = if media_type.contains("docker") { "SchemaV2Manifest" } else { "OCIManifest" };
    Ok(json!({"Ref": reference.to_string(), "Descriptor": descriptor, field: parse(bytes)?}))
}
