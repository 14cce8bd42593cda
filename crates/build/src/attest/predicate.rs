//! Provenance as SLSA has it, versions 0.2 and 1, with the fields that BuildKit gives it: tools know where to look.
//!
//! Where BuildKit has its graph (`buildConfig.llbDefinition`), there is none here: `buildConfig.steps` lists the steps.

use super::capture::{Captured, Material};
use super::settings::{ProvenanceAsked, Version};
use super::{Predicate, image_url};
use crate::error::Error;
use crate::git_url::redact;
use crate::solve::Solved;
use base64::Engine as _;
use oci::Platform;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";

/// What belongs to a client, or to one of its connections, and not to the build.
const LEFT_OUT: &[&str] = &[
    "cgroup-parent",
    "image-resolve-mode",
    "platform",
    "cache-imports",
    "cache-from",
    "frontend.caps",
    "BUILDKIT_SESSION_ID",
];
/// Beginnings of such.
const LEFT_OUT_BEFORE: &[&str] = &["attest:", "local-sessionid:", "sharedkey:", "input-metadata:", "vcs:"];

/// What all versions say.
struct Parts {
    materials: Vec<Value>,
    config_source: (Option<String>, Option<Value>, String),
    parameters: Map<String, Value>,
    has_all_parameters: bool,
    is_complete: bool,
    is_hermetic: bool,
    metadata: Map<String, Value>,
    build_config: Option<Value>,
}

pub(crate) fn provenance(solved: &Solved, asked: &ProvenanceAsked) -> Result<Predicate, Error> {
    let parts = parts(solved, asked);
    if asked.needs_complete && !parts.is_complete {
        return Err(Error::invalid(
            "provenance materials are incomplete: the build has files of the client's, which are not known by a digest",
        ));
    }
    let finished = jiff::Timestamp::now().to_string();
    let origin = &solved.origin;
    let (id, builder) = (&origin.invocation, &asked.builder_id);
    let host = Platform::host().to_string();
    let (predicate_type, body) = match asked.version {
        Version::V1 => {
            let (uri, digest, path) = &parts.config_source;
            let mut metadata = json!({
                "invocationId": id,
                "startedOn": origin.started,
                "finishedOn": finished,
                "buildkit_metadata": parts.metadata,
                "buildkit_completeness": {
                    "request": parts.has_all_parameters, "resolvedDependencies": parts.is_complete,
                },
            });
            for (key, value) in
                [("buildkit_hermetic", parts.is_hermetic), ("buildkit_reproducible", asked.is_reproducible)]
            {
                if value {
                    metadata[key] = json!(true);
                }
            }
            let mut internal = json!({ "builderPlatform": host });
            if let Some(config) = parts.build_config {
                internal["buildConfig"] = config;
            }
            let body = json!({
                "buildDefinition": {
                    "buildType": BUILD_TYPE_1,
                    "externalParameters": {
                        "configSource": source(uri.as_ref(), digest.as_ref(), "path", path),
                        "request": parts.parameters,
                    },
                    "internalParameters": internal,
                    "resolvedDependencies": parts.materials,
                },
                "runDetails": { "builder": { "id": builder }, "metadata": metadata },
            });
            ("https://slsa.dev/provenance/v1", body)
        }
        Version::V02 => {
            let (uri, digest, path) = &parts.config_source;
            let mut metadata = json!({
                "buildInvocationID": id,
                "buildStartedOn": origin.started,
                "buildFinishedOn": finished,
                "completeness": {
                    "parameters": parts.has_all_parameters,
                    "environment": true,
                    "materials": parts.is_complete,
                },
                "reproducible": asked.is_reproducible,
                "https://mobyproject.org/buildkit@v1#metadata": parts.metadata,
            });
            if parts.is_hermetic {
                metadata["https://mobyproject.org/buildkit@v1#hermetic"] = json!(true);
            }
            let mut body = json!({
                "builder": { "id": builder },
                "buildType": BUILD_TYPE_02,
                "materials": parts.materials,
                "invocation": {
                    "configSource": source(uri.as_ref(), digest.as_ref(), "entryPoint", path),
                    "parameters": parts.parameters,
                    "environment": { "platform": host },
                },
                "metadata": metadata,
            });
            if let Some(config) = parts.build_config {
                body["buildConfig"] = config;
            }
            ("https://slsa.dev/provenance/v0.2", body)
        }
    };
    let (file_name, inline_only) = (asked.file_name.clone(), asked.inline_only);
    Ok(Predicate { predicate_type, file_name, inline_only, body })
}

fn source(uri: Option<&String>, digest: Option<&Value>, path_key: &str, path: &str) -> Value {
    let mut out = Map::new();
    if let Some(uri) = uri {
        out.insert("uri".into(), json!(uri));
    }
    if let Some(digest) = digest {
        out.insert("digest".into(), digest.clone());
    }
    if !path.is_empty() {
        out.insert(path_key.into(), json!(path));
    }
    Value::Object(out)
}

fn parts(solved: &Solved, asked: &ProvenanceAsked) -> Parts {
    let origin = &solved.origin;
    let Captured { materials, secrets, agents, had_network } = &origin.captured;
    let mut args: BTreeMap<&str, String> = BTreeMap::new();
    let mut vcs = Map::new();
    let mut has_all_parameters = true;
    for (key, value) in &origin.args {
        if let Some(name) = key.strip_prefix("vcs:") {
            if !value.is_empty() {
                vcs.insert(name.into(), json!(redact(value)));
            }
            continue;
        }
        if LEFT_OUT.contains(&key.as_str()) || LEFT_OUT_BEFORE.iter().any(|p| key.starts_with(p)) {
            continue;
        }
        if !asked.is_max && (key.starts_with("build-arg:") || key.starts_with("label:")) {
            has_all_parameters = false;
            continue;
        }
        args.insert(key, redact(value));
    }
    let mut parameters = Map::new();
    parameters.insert("frontend".into(), json!("dockerfile.v0"));
    let context = args.get("context").cloned();
    args.remove("filename");
    if !args.is_empty() {
        parameters.insert("args".into(), json!(args));
    }
    if !origin.locals.is_empty() {
        let locals: Vec<Value> = origin.locals.iter().map(|name| json!({ "name": name })).collect();
        parameters.insert("locals".into(), json!(locals));
    }
    if asked.is_max {
        for (name, all) in [("secrets", secrets), ("ssh", agents)] {
            let list: Vec<Value> = all
                .iter()
                .map(|(id, optional)| match optional {
                    true => json!({ "id": id, "optional": true }),
                    false => json!({ "id": id }),
                })
                .collect();
            if !list.is_empty() {
                parameters.insert(name.into(), json!(list));
            }
        }
    }
    let mut metadata = Map::new();
    if !vcs.is_empty() {
        metadata.insert("vcs".into(), Value::Object(vcs));
    }
    let mut build_config = None;
    if asked.is_max {
        let steps = solved.trail.records.iter().enumerate();
        let described: Vec<Value> = steps
            .map(|(at, record)| {
                let mut step = json!({ "id": format!("step{at}"), "text": record.text, "key": record.key });
                if let Some(before) =
                    record.before.and_then(|key| solved.trail.records.iter().position(|r| r.key == key))
                {
                    step["inputs"] = json!([format!("step{before}:0")]);
                }
                step
            })
            .collect();
        build_config = Some(json!({ "steps": described }));
        let layers: Map<String, Value> = solved
            .trail
            .records
            .iter()
            .enumerate()
            .filter_map(|(at, r)| Some((format!("step{at}:0"), json!([[r.layer.as_ref()?.described()]]))))
            .collect();
        metadata.insert("layers".into(), Value::Object(layers));
        let data = base64::engine::general_purpose::STANDARD.encode(&origin.dockerfile);
        let info = json!({ "filename": origin.dockerfile_name, "language": "Dockerfile", "data": data });
        metadata.insert("source".into(), json!({ "infos": [info] }));
    }
    let config_digest = context.as_ref().and_then(|url| {
        materials.iter().find_map(|material| match material {
            Material::Git { url: own, commit } if url.split('#').next() == Some(own) => {
                Some(of_commit(commit))
            }
            Material::Http { url: own, digest } if own == url => Some(json!({ "sha256": digest.hex() })),
            _ => None,
        })
    });
    let is_complete = origin.locals.is_empty();
    Parts {
        materials: materials.iter().map(material).collect(),
        config_source: (context, config_digest, origin.dockerfile_name.clone()),
        parameters,
        has_all_parameters,
        is_complete,
        is_hermetic: is_complete && !had_network,
        metadata,
        build_config,
    }
}

fn of_commit(commit: &str) -> Value {
    json!({ (if commit.len() == 64 { "sha256" } else { "sha1" }): commit })
}

fn material(material: &Material) -> Value {
    match material {
        Material::Image { reference, platform, digest } => {
            let platform = platform.parse().unwrap_or_else(|_| Platform::host());
            json!({ "uri": image_url("docker", reference, &platform), "digest": { "sha256": digest.hex() } })
        }
        Material::Git { url, commit } => json!({ "uri": url, "digest": of_commit(commit) }),
        Material::Http { url, digest } => json!({ "uri": url, "digest": { "sha256": digest.hex() } }),
    }
}
