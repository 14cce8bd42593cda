//! The manifests of an image, as `GET /images/json` and `GET /images/{name}/json` tell them.

use crate::reply::Failure;
use crate::serve::Api;
use engine::Engine;
use image::{Image, ManifestKind, ManifestSummary};
use serde_json::{Value, json};
use std::sync::Arc;

/// The member `Manifests`.
pub(crate) async fn list(api: &Arc<Api>, image: &Image) -> Result<Value, Failure> {
    let (images, image) = (api.engine.images().clone(), image.clone());
    let all = crate::images::blocking(move || images.manifests(&image)).await?;
    Ok(all.iter().map(|one| summary(&api.engine, one)).collect())
}

fn summary(engine: &Arc<Engine>, one: &ManifestSummary) -> Value {
    let unpacked = match &one.kind {
        ManifestKind::Image { here: Some((_, size)), .. } => *size,
        _ => 0,
    };
    let mut out = json!({
        "ID": one.descriptor.digest,
        "Descriptor": one.descriptor,
        "Available": one.available,
        "Size": { "Content": one.content_bytes, "Total": one.content_bytes + unpacked },
        "Kind": "unknown",
    });
    match &one.kind {
        ManifestKind::Image { platform, here } => {
            let containers: Vec<String> = match here {
                Some((id, _)) => engine.containers_of(&id.0),
                None => Vec::new(),
            };
            out["Kind"] = "image".into();
            out["ImageData"] =
                json!({ "Platform": platform, "Containers": containers, "Size": { "Unpacked": unpacked } });
        }
        ManifestKind::Attestation { about } => {
            out["Kind"] = "attestation".into();
            out["AttestationData"] = json!({ "For": about });
        }
        ManifestKind::Unknown => {}
    }
    out
}
