//! The tags of a repository.

use crate::answer::{collect, header};
use crate::client::{Need, last, pull_scope, refusal, with_auth};
use crate::send::Payload;
use crate::transport::{Endpoint, Request};
use crate::{Auth, Client, Error};
use http::header::LINK;
use http::{HeaderMap, Method};
use oci::Reference;
use serde::Deserialize;

/// Tags that are asked for at once.
const PAGE: &str = "1000";
/// Most pages: a million tags.
const MAX_PAGES: usize = 1000;
/// Longest page. A tag has at most 128 characters.
const MAX_BODY: u64 = 4 << 20;

impl Client {
    /// The tags of the repository of `reference`, in the order in which the registry tells them: the first mirror that tells
    /// any, else the registry itself. What could not be a tag is left out.
    ///
    /// # Errors
    ///
    /// [`Error::RepositoryUnknown`], [`Error::AccessDenied`] and the like; [`Error::Malformed`] for an answer that is none.
    ///
    /// Spec: distribution-spec, "Listing Tags".
    pub async fn tags(&self, reference: &Reference, auth: &Auth) -> Result<Vec<String>, Error> {
        // A mirror that has none may not have been asked for any of them yet.
        let tells = |tags: &Vec<String>, endpoint: &Endpoint| !endpoint.mirror || !tags.is_empty();
        let endpoints = self.endpoints(reference, Need::Manifest).await?;
        let mut failure = None;
        for (endpoint, auth) in with_auth(&endpoints, auth) {
            match self.tags_at(endpoint, reference, auth).await {
                Ok(tags) if tells(&tags, endpoint) => return Ok(tags),
                Ok(_) => {}
                Err(error) => self.passed_over(endpoint, &mut failure, error),
            }
        }
        Err(last(failure))
    }

    /// As [`Client::tags`], at one place.
    async fn tags_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        auth: &Auth,
    ) -> Result<Vec<String>, Error> {
        let what = format!("tags of {}", reference.familiar_name());
        let malformed = |reason: String| Error::Malformed { what: what.clone(), reason };
        let transport = self.transport();
        let request = Request {
            method: Method::GET,
            path: format!("/v2/{}/tags/list", reference.repository()),
            headers: HeaderMap::new(),
            own_headers: endpoint.headers.clone(),
            scope: pull_scope(reference),
            payload: Payload::Empty,
        };
        let first = transport.url(endpoint, &request.path).await?;
        let mut url = first.clone();
        url.push_query("n", PAGE);
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let response = match transport.once_at(&url, &request, auth).await? {
                Ok(response) => response,
                Err(answer) => return Err(refusal(answer, reference, auth, &what)),
            };
            let (head, body) = response.into_parts();
            let body = collect(body, MAX_BODY, &what, self.config().timeouts.idle).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
            let known = page.tags.unwrap_or_default();
            tags.extend(known.into_iter().filter(|tag| reference.with_tag(tag).is_ok()));
            let Some(next) = header(&head.headers, LINK.as_str()).and_then(next_page) else {
                return Ok(tags);
            };
            url = url.join(next).filter(|next| next.same_origin(&first)).ok_or_else(|| {
                malformed(format!("the next page {:?} is elsewhere", crate::answer::printable(next)))
            })?;
        }
        Err(malformed(format!("more than {MAX_PAGES} pages")))
    }
}

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

/// The target of `<target>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
    is_next.then_some(target)
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn links_are_read() {
        assert_eq!(
            next_page(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#),
            Some("/v2/x/tags/list?last=b&n=2")
        );
        assert_eq!(next_page("<x>; a=b;rel=next"), Some("x"));
        assert_eq!(next_page(r#"<x>; rel="prev""#), None);
        assert_eq!(next_page("x"), None);
        assert_eq!(next_page("<x"), None);
    }
}
