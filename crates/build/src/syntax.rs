//! Which frontends are ours: `# syntax=` and the build argument `BUILDKIT_SYNTAX` name images that BuildKit would run.

use crate::error::Error;
use crate::request::Request;
use dockerfile::Dockerfile;

/// Repositories of the frontend that is built in, on Docker's registry or on a mirror of it.
const OURS: &[&str] = &["docker/dockerfile", "docker/dockerfile-upstream"];

/// Whether an image is the Dockerfile frontend, which is served here, whatever its tag.
pub fn is_own_frontend(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or(image);
    let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
    let last = last.split(':').next().unwrap_or(last);
    let name = if above.is_empty() { last.to_string() } else { format!("{above}/{last}") };
    OURS.iter().any(|own| name.strip_suffix(own).is_some_and(|host| host.is_empty() || host.ends_with('/')))
}

/// Refuses a Dockerfile that is for another frontend.
///
/// # Errors
///
/// [`Error::Unsupported`] with its name.
pub(crate) fn check(request: &Request, file: &Dockerfile) -> Result<(), Error> {
    let asked = request.build_arg("BUILDKIT_SYNTAX").filter(|syntax| !syntax.is_empty());
    let Some(syntax) = asked.or(file.directives.syntax.as_deref()) else { return Ok(()) };
    // What stands behind the image's name are options for it.
    let image = syntax.split_whitespace().next().unwrap_or_default();
    if image.is_empty() || is_own_frontend(image) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "the frontend {image:?} (the build argument BUILDKIT_SYNTAX=docker/dockerfile takes the built-in one instead)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_frontends() {
        for own in [
            "docker/dockerfile",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile-upstream:master@sha256:00",
            "mirror.example.org:5000/proxy/docker/dockerfile:1",
        ] {
            assert!(is_own_frontend(own), "{own}");
        }
        for other in [
            "",
            "foo/bar:1",
            "docker/dockerfile-x",
            "notdocker/dockerfile",
            "dockerfile",
            "docker/x:dockerfile",
        ] {
            assert!(!is_own_frontend(other), "{other}");
        }
    }
}
