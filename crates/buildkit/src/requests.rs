//! What clients ask of a Dockerfile without building it: its checks, its targets, its arguments.

use crate::options::Options;
use crate::progress::source_info;
use crate::rpc::Reply;
use crate::status::{info_json, range_json};
use crate::wire::FrontendResult;
use dockerfile::{Checks, Dockerfile, Kind, Mount, MountKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tonic::Status;

fn answer(value: &Value, text: String, more: &[(&str, &str)]) -> FrontendResult {
    let pretty = serde_json::to_vec_pretty(value).unwrap_or_default();
    let mut metadata: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    metadata.insert("result.json".into(), pretty);
    metadata.insert("result.txt".into(), text.into_bytes());
    metadata.insert("version".into(), b"1.0.0".to_vec());
    metadata.extend(more.iter().map(|(k, v)| (k.to_string(), v.as_bytes().to_vec())));
    FrontendResult { metadata, ..FrontendResult::default() }
}

/// What can be asked.
pub(crate) fn describe() -> FrontendResult {
    let known = [
        ("frontend.lint", "Lint a Dockerfile"),
        ("frontend.outline", "List all parameters current build target supports"),
        ("frontend.targets", "List all targets current build supports"),
        ("frontend.subrequests.describe", "List available subrequest types"),
    ];
    let list: Vec<Value> = known
        .iter()
        .map(|(name, description)| {
            json!({
                "name": name, "version": "1.0.0", "type": "rpc", "description": description, "opts": null,
                "metadata": [{ "name": "result.json" }, { "name": "result.txt" }],
            })
        })
        .collect();
    let text = known.iter().map(|(name, description)| format!("{name:32}1.0.0    {description}\n")).collect();
    answer(&json!(list), text, &[])
}

/// Lines of the file around those that are meant.
fn excerpt(name: &str, source: &str, lines: (u32, u32)) -> String {
    let all: Vec<&str> = source.split('\n').collect();
    let (first, last) = lines;
    let pad = if first == last { 4 } else { 2 };
    let (from, to) = (first.saturating_sub(pad).max(1), last.saturating_add(pad));
    let mut out = format!("{name}:{first}\n--------------------\n");
    for (number, text) in (1u32..).zip(all).filter(|(n, _)| (from..=to).contains(n)) {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        out.push_str(&format!("{number:4} | {mark} {text}\n"));
    }
    out.push_str("--------------------\n");
    out
}

/// The findings of the build checks.
pub(crate) fn lint(file: &Dockerfile, name: &str, asked: &Options) -> Reply<FrontendResult> {
    let mut file = file.clone();
    if let Some(Some(text)) = asked.build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
        let checks = Checks::parse(text).map_err(Status::invalid_argument)?;
        file.directives.checks = file.directives.checks.merged(&checks);
    }
    let warnings = dockerfile::check(&file);
    let mut text = String::new();
    let mut list = Vec::new();
    for warning in &warnings {
        let rule = warning.rule;
        text.push_str(&format!("\nWARNING: {}", rule.name()));
        if !rule.url().is_empty() {
            text.push_str(&format!(" - {}", rule.url()));
        }
        text.push_str(&format!("\n{}\n", warning.detail));
        text.push_str(&excerpt(name, &file.source, warning.lines));
        list.push(json!({
            "ruleName": rule.name(),
            "description": rule.description(),
            "url": rule.url(),
            "detail": warning.detail,
            "location": { "ranges": [range_json(warning.lines.0, warning.lines.1)] },
        }));
    }
    let sources = [info_json(&source_info(name, &file.source))];
    let code = if warnings.is_empty() { "0" } else { "1" };
    Ok(answer(&json!({ "warnings": list, "sources": sources }), text, &[("result.statuscode", code)]))
}

/// A file that cannot be read is a finding too.
pub(crate) fn lint_error(error: &dockerfile::Error, name: &str, source: &str) -> FrontendResult {
    let lines = (error.lines.0.max(1), error.lines.1.max(1));
    let text = format!("{error}\n{}", excerpt(name, source, lines));
    let value = json!({
        "warnings": null,
        "sources": [info_json(&source_info(name, source))],
        "buildError": { "message": error.to_string(), "location": { "ranges": [range_json(lines.0, lines.1)] } },
    });
    answer(&value, text, &[("result.statuscode", "1")])
}

fn location(lines: (u32, u32)) -> Value {
    json!({ "ranges": [range_json(lines.0, lines.1)] })
}

/// The stages that have a name, and the last.
pub(crate) fn targets(file: &Dockerfile) -> FrontendResult {
    let last = file.stages.len().saturating_sub(1);
    let mut list = Vec::new();
    let mut text = format!("{:<24}{}\n", "TARGET", "DESCRIPTION");
    for (index, stage) in file.stages.iter().enumerate() {
        let name = stage.name.clone().unwrap_or_default();
        if name.is_empty() && index != last {
            continue;
        }
        let mut target = json!({ "base": stage.from.image, "location": location(stage.head.lines) });
        for (key, value) in
            [("name", name.as_str()), ("platform", stage.from.platform.as_deref().unwrap_or_default())]
        {
            if !value.is_empty() {
                target[key] = json!(value);
            }
        }
        if index == last {
            target["default"] = json!(true);
        }
        let shown = match (name.as_str(), index == last) {
            ("", _) => "(default)".to_string(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_string(),
        };
        text.push_str(&format!("{shown}\n"));
        list.push(target);
    }
    answer(&json!({ "targets": list, "sources": [base64(&file.source)] }), text, &[])
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The arguments, secrets and agents of the target and of what it is made from.
pub(crate) fn outline(file: &Dockerfile, asked: &Options) -> Reply<FrontendResult> {
    let target = file.target(&asked.target).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let mut stages = vec![target];
    let mut next = target;
    while let Some(base) = file.stage_before(next, &file.stages[next].from.image) {
        stages.push(base);
        next = base;
    }
    let (mut args, mut secrets, mut agents, mut caches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let own = stages.iter().flat_map(|s| &file.stages[*s].instructions);
    for instruction in file.global.iter().chain(own) {
        match &instruction.kind {
            Kind::Arg(list) => {
                for arg in list {
                    let given = asked.build_args.get(&arg.name).cloned().flatten();
                    let value = given.or_else(|| arg.default.clone()).unwrap_or_default();
                    args.push(
                        json!({ "name": arg.name, "value": value, "location": location(instruction.lines) }),
                    );
                }
            }
            Kind::Run(run) => {
                for text in &run.mounts {
                    let Ok(mount) = Mount::parse(text, &|w| Ok(w.to_string())) else { continue };
                    let id = mount.id.clone().unwrap_or_else(|| "default".into());
                    let place = location(instruction.lines);
                    match mount.kind {
                        MountKind::Secret => {
                            secrets
                                .push(json!({ "name": id, "required": mount.required, "location": place }));
                        }
                        MountKind::Ssh => {
                            agents.push(json!({ "name": id, "required": mount.required, "location": place }));
                        }
                        MountKind::Cache => {
                            let id = mount.id.or(mount.target).unwrap_or_default();
                            caches.push(json!({ "ID": id, "location": place }));
                        }
                        MountKind::Bind | MountKind::Tmpfs => {}
                    }
                }
            }
            _ => {}
        }
    }
    let name = file.stages[target].name.clone().unwrap_or_default();
    let mut text = if name.is_empty() { String::new() } else { format!("TARGET: {name}\n\n") };
    text.push_str(&format!("{:<24}{}\n", "BUILD ARG", "VALUE"));
    for arg in &args {
        let of = |key: &str| arg[key].as_str().unwrap_or_default().to_string();
        text.push_str(&format!("{:<24}{}\n", of("name"), of("value")));
    }
    let mut value = json!({ "sources": [base64(&file.source)] });
    for (key, list) in [("args", args), ("secrets", secrets), ("ssh", agents), ("cache", caches)] {
        if !list.is_empty() {
            value[key] = json!(list);
        }
    }
    if !name.is_empty() {
        value["name"] = json!(name);
    }
    Ok(answer(&value, text, &[]))
}
