//! `WWW-Authenticate` headers.
//!
//! Spec: RFC 9110, section 11.6.1; distribution docs, "Token Authentication Specification".

/// How a registry wants us to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Fetch a token at `realm`.
    Bearer { realm: String, service: Option<String> },
    /// Send user and password.
    Basic,
}

/// The challenge to answer: Bearer where offered, else Basic. `headers` are the values of all `WWW-Authenticate`
/// headers; each may hold several challenges. What cannot be read is passed over.
pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, parameters) in headers.flat_map(parse) {
        let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        match scheme.as_str() {
            "bearer" => {
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer { realm, service: get("service") });
                }
            }
            "basic" => basic = Some(Challenge::Basic),
            _ => {}
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// The challenges in one header: schemes and parameter names in lower case.
fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut out: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return out;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        match (value, out.last_mut()) {
            // `name = value` belongs to the challenge before it.
            (Some(value), Some((_, parameters))) => {
                let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
                parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(_), None) => return out,
            (None, _) => {
                out.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A quoted string, or everything up to the next comma or blank, which is more than a token may be: servers forget
/// quotes around URLs.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_string(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
    }

    #[test]
    fn chooses() {
        let check =
            |headers: &[&str], expected| assert_eq!(choose(headers.iter().copied()), expected, "{headers:?}");
        check(
            &[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull""#],
            bearer("https://a/t", Some("s")),
        );
        check(&[r#"bearer REALM = "https://a/t?x=1,2" , service=s"#], bearer("https://a/t?x=1,2", Some("s")));
        check(&[r"Bearer realm=https://a/t,service=s"], bearer("https://a/t", Some("s")));
        check(&[r#"Basic realm="x", Bearer realm="https://a",error="e \" q""#], bearer("https://a", None));
        check(&[r#"Basic realm="x""#, r#"Bearer realm="https://a""#], bearer("https://a", None));
        check(&["Negotiate", "Basic"], Some(Challenge::Basic));
        check(&["Negotiate abc==, Basic realm=x"], Some(Challenge::Basic));
        check(&["Digest qop=auth"], None);
        check(&[], None);
    }

    #[test]
    fn survives_nonsense() {
        for text in [
            "",
            ",,,",
            "=",
            "=x",
            "Bearer",
            "Bearer realm",
            "Bearer realm=",
            r#"Bearer realm="\"#,
            "é=ü",
            "a=b=c,,",
        ] {
            let result = choose(std::iter::once(text));
            assert!(result.is_none() || text.starts_with("Bearer realm"), "{text:?}: {result:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read(text in r#"[A-Za-z=", \\\\é\t]{0,40}|.{0,40}"#) {
            let _challenge = choose(std::iter::once(text.as_str()));
        }
    }
}
