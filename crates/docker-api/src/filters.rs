//! The `filters` parameter: `{"label":["a=b"]}`, or the older `{"label":{"a=b":true}}`.

use crate::reply::Failure;
use regex_lite::{Regex, RegexBuilder};
use std::collections::BTreeMap;

/// Keys whose values are regular expressions, as Docker has them.
const PATTERNS: &[&str] = &["name", "id"];
/// Bytes that one may take when it is compiled.
const MAX_PATTERN: usize = 256 << 10;

/// Values by key. A key without values passes everything.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    values: BTreeMap<String, Vec<String>>,
    /// Those of [`PATTERNS`] that are well formed.
    patterns: BTreeMap<String, Vec<Regex>>,
}

impl Filters {
    /// Reads the parameter; only the keys in `known` may appear.
    pub(crate) fn parse(text: &str, known: &[&str]) -> Result<Filters, Failure> {
        if text.is_empty() {
            return Ok(Filters::default());
        }
        let error = |e: String| Failure::bad_request(format!("invalid filter: {e}"));
        let map: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|e| error(e.to_string()))?;
        let mut out = BTreeMap::new();
        for (key, value) in map {
            if !known.contains(&key.as_str()) {
                return Err(Failure::bad_request(format!("invalid filter '{key}'")));
            }
            let values = match value {
                serde_json::Value::Array(list) => list
                    .into_iter()
                    .map(|v| {
                        v.as_str().map(str::to_string).ok_or_else(|| error(format!("{key} holds no text")))
                    })
                    .collect::<Result<Vec<_>, _>>()?,
                serde_json::Value::Object(set) => {
                    set.into_iter().filter(|(_, v)| *v == true).map(|(k, _)| k).collect()
                }
                _ => return Err(error(format!("{key} is neither a list nor a set"))),
            };
            out.insert(key, values);
        }
        let compile = |text: &String| RegexBuilder::new(text).size_limit(MAX_PATTERN).build().ok();
        let of = |key: &str| Some((key.to_string(), out.get(key)?.iter().filter_map(compile).collect()));
        let patterns = PATTERNS.iter().filter_map(|key| of(key)).collect();
        Ok(Filters { values: out, patterns })
    }

    /// Whether the key is absent, or one of its values is `text`, or a regular expression that is found in it. What is none
    /// is compared only, as Docker does.
    pub(crate) fn found(&self, key: &str, text: &str) -> bool {
        let values = self.get(key);
        values.is_empty()
            || values.iter().any(|v| v == text)
            || self.patterns.get(key).is_some_and(|all| all.iter().any(|p| p.is_match(text)))
    }

    /// The values of a key.
    pub(crate) fn get(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// Refuses a value of `key` that cannot be.
    pub(crate) fn check(&self, key: &str, is_valid: impl Fn(&String) -> bool) -> Result<(), Failure> {
        match self.get(key).iter().find(|v| !is_valid(v)) {
            Some(value) => Err(Failure::bad_request(format!("invalid filter '{key}={value}'"))),
            None => Ok(()),
        }
    }

    /// Whether the key is absent or `matches` one of its values.
    pub(crate) fn any(&self, key: &str, matches: impl Fn(&str) -> bool) -> bool {
        let values = self.get(key);
        values.is_empty() || values.iter().any(|v| matches(v))
    }

    /// Whether the object has all the labels asked for (`key` or `key=value`) and none of those of `label!`.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        self.get("label").iter().all(has) && !self.get("label!").iter().any(has)
    }

    /// A boolean key such as `dangling`; None when absent.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Failure> {
        match self.get(key) {
            [] => Ok(None),
            [one] => match one.as_str() {
                "1" | "true" | "True" => Ok(Some(true)),
                "0" | "false" | "False" => Ok(Some(false)),
                other => Err(Failure::bad_request(format!("invalid filter '{key}=[{other}]'"))),
            },
            _ => Err(Failure::bad_request(format!("invalid filter '{key}': more than one value"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_regular_expressions() {
        let check = |pattern: &str, name: &str, want: bool| {
            let text = serde_json::json!({ "name": [pattern] }).to_string();
            let filters = Filters::parse(&text, &["name"]).unwrap();
            assert_eq!(filters.found("name", name), want, "{pattern} {name}");
            assert!(filters.found("id", "anything"));
        };
        check("we", "web", true);
        check("^we", "my-web", false);
        check("^web$", "web", true);
        check("^web$", "web2", false);
        check("^(web|db)-[0-9]+$", "db-12", true);
        check("w.b", "wab", true);
        check("(", "x(", false);
        check("(", "(", true);
    }

    #[test]
    fn both_forms_are_read_and_others_refused() {
        let check = |text: &str, want: Option<&[&str]>| {
            let got = Filters::parse(text, &["label"]).ok().map(|f| f.get("label").to_vec());
            assert_eq!(got, want.map(|w| w.iter().map(ToString::to_string).collect()), "{text}");
        };
        check("", Some(&[]));
        check(r#"{"label":["a","b=c"]}"#, Some(&["a", "b=c"]));
        check(r#"{"label":{"a":true,"b":false}}"#, Some(&["a"]));
        check(r#"{"other":["a"]}"#, None);
        check(r#"{"label":"a"}"#, None);
        check(r#"[]"#, None);
    }
}
