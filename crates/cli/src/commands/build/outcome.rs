//! What becomes of a built image: files with its id and metadata, and outputs besides the store.

use crate::blocking::Download;
use crate::commands::{Context, export};
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use hyper::Method;
use rootdir::RootDir;
use serde_json::{Value, json};
use std::path::{Path as FilePath, PathBuf};

/// `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Into the store, which is where it is.
    Store,
    /// The files, into a directory.
    Local(PathBuf),
    /// The files, as a tar archive.
    Tar(String),
    /// The image, as an archive.
    Archive(String),
}

impl Output {
    pub(crate) fn parse(text: &str) -> Result<Output> {
        if !text.contains('=') {
            return Ok(if text == "-" { Output::Tar("-".into()) } else { Output::Local(text.into()) });
        }
        let (mut kind, mut dest) = (String::new(), None);
        for field in text.split(',') {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| Error::Usage(format!("invalid value {field} in --output {text:?}")))?;
            match key {
                "type" => kind = value.to_string(),
                "dest" => dest = Some(value.to_string()),
                other => return Err(Error::Unsupported(format!("--output: {other:?} is not supported"))),
            }
        }
        let needs = |dest: Option<String>| {
            dest.ok_or_else(|| Error::Usage(format!("dest is required for {kind} exporter")))
        };
        match kind.as_str() {
            "local" => Ok(Output::Local(needs(dest)?.into())),
            "tar" => Ok(Output::Tar(dest.unwrap_or_else(|| "-".into()))),
            "oci" => Ok(Output::Archive(needs(dest)?)),
            "docker" => Ok(dest.map_or(Output::Store, Output::Archive)),
            "image" if dest.is_none() => Ok(Output::Store),
            other => Err(Error::Unsupported(format!("--output type={other} is not supported"))),
        }
    }
}

/// Writes what was asked for. `latest` is the second that times of files do not pass, or nothing.
pub(crate) async fn finish(
    context: &Context,
    built: &Value,
    outputs: &[Output],
    iidfile: Option<&FilePath>,
    metadata: Option<&FilePath>,
    latest: &str,
) -> Result<()> {
    let id = built["image"].as_str().unwrap_or_default();
    // Of several platforms.
    let images = built["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    for output in outputs {
        match output {
            Output::Store => {}
            Output::Archive(dest) => {
                let tags = built["tags"].as_array().cloned().unwrap_or_default();
                let mut path = Path::new(&["images", "get"]);
                if tags.is_empty() {
                    path = path.query("names", id);
                }
                for tag in tags.iter().filter_map(Value::as_str) {
                    path = path.query("names", tag);
                }
                export::download(context, &path, file(dest)).await?;
            }
            Output::Local(dir) if !images.is_empty() => {
                for image in images {
                    let text = |key: &str| image[key].as_str().unwrap_or_default();
                    let below = dir.join(text("platform").replace('/', "_"));
                    of_files(context, text("image"), Files::Directory(&below), latest).await?;
                }
            }
            Output::Local(dir) => of_files(context, id, Files::Directory(dir), latest).await?,
            Output::Tar(dest) => of_files(context, id, Files::Tar(file(dest)), latest).await?,
        }
    }
    // What was wanted as files only does not stay as an image without a name.
    let is_wanted = outputs.is_empty() || outputs.contains(&Output::Store);
    let is_named = built["tags"].as_array().is_some_and(|t| !t.is_empty());
    if !is_wanted && !is_named {
        let all = images.iter().filter_map(|image| image["image"].as_str()).filter(|other| *other != id);
        for id in all.chain([id]) {
            let image: Value = context.client.get(&Path::new(&["images", id, "json"])).await?;
            if image["RepoTags"].as_array().is_none_or(Vec::is_empty) {
                drop(context.client.delete(&Path::new(&["images", id])).await);
            }
        }
    }
    if let Some(path) = iidfile {
        write(path, id.as_bytes())?;
    }
    if let Some(path) = metadata {
        let tags = built["tags"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = tags.iter().filter_map(Value::as_str).collect();
        let document = json!({
            "containerimage.config.digest": id,
            "containerimage.digest": built["digest"],
            "containerimage.descriptor": {
                "mediaType": built["mediaType"],
                "digest": built["digest"],
                "size": built["size"],
            },
            "image.name": names.join(","),
        });
        let text = serde_json::to_vec_pretty(&document).unwrap_or_default();
        write(path, &text)?;
    }
    Ok(())
}

fn file(dest: &str) -> Option<&str> {
    (dest != "-").then_some(dest)
}

enum Files<'a> {
    Directory(&'a FilePath),
    Tar(Option<&'a str>),
}

/// The files of the image: those of a container that is never started. Times after the second `latest` become it.
async fn of_files(context: &Context, id: &str, to: Files<'_>, latest: &str) -> Result<()> {
    let request = json!({ "Image": id, "Cmd": ["-"], "Entrypoint": [] });
    let created: Value = context.client.post_json(&Path::new(&["containers", "create"]), &request).await?;
    let container = created["Id"].as_str().unwrap_or_default().to_string();
    let path = Path::new(&["containers", &container, "export"]).query_some("latest", latest);
    let written = match to {
        Files::Tar(dest) => export::download(context, &path, dest).await.map(drop),
        Files::Directory(dir) => unpack(context, &path, dir).await,
    };
    let removed = context.client.delete(&Path::new(&["containers", &container]).flag("v", true)).await;
    written.and(removed.map(drop))
}

/// Unpacks below a descriptor of the directory; no entry leaves it.
async fn unpack(context: &Context, path: &Path, dir: &FilePath) -> Result<()> {
    let failed = |source| Error::File { doing: "create", path: dir.into(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let root = RootDir::open(dir).map_err(|e| Error::Usage(errors::chain(&e)))?;
    let response = context.client.request(Method::GET, path, Extra::default()).await?;
    let mut download = Download::start(response.into_body());
    let keep_owner = rustix::process::geteuid().is_root();
    let done = tokio::task::spawn_blocking(move || {
        let options = archive::Options {
            whiteouts: archive::Whiteouts::Keep,
            keep_owner,
            ..archive::Options::default()
        };
        archive::apply(&mut download, &root, &options).map_err(|e| errors::chain(&e))
    });
    match done.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(message)) => Err(Error::Reported(format!("unpack to {}: {message}", dir.display()))),
        Err(e) => Err(Error::Reported(e.to_string())),
    }
}

fn write(path: &FilePath, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::File { doing: "write", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs() {
        let check = |text: &str, want: Output| assert_eq!(Output::parse(text).unwrap(), want, "{text}");
        check("out", Output::Local("out".into()));
        check("-", Output::Tar("-".into()));
        check("type=local,dest=a", Output::Local("a".into()));
        check("type=docker", Output::Store);
        check("type=docker,dest=a.tar", Output::Archive("a.tar".into()));
        check("type=oci,dest=a.tar", Output::Archive("a.tar".into()));
        for bad in ["type=local", "type=x", "type=oci", "type=image,push=true"] {
            assert!(Output::parse(bad).is_err(), "{bad}");
        }
    }
}
