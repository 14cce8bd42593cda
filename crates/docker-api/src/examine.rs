//! Reading what a client sends without doing it: what fuzzing runs.

use crate::build;
use crate::filters::Filters;
use crate::request::{Query, from_base64};
use serde::de::DeserializeOwned;

/// Reads a query and a body as all endpoints do that take them; in how many ways they can be understood.
pub fn examine(query: &str, body: &[u8]) -> usize {
    fn is<T: DeserializeOwned>(bytes: &[u8]) -> bool {
        serde_json::from_slice::<T>(bytes).is_ok()
    }
    let query = Query::parse(query);
    let filters =
        Filters::parse(query.text("filters"), &["label", "name", "id", "status", "until", "label!"]);
    let numbers = [query.number::<i64>("t").is_ok(), query.number::<u16>("h").is_ok(), query.flag("stream")];
    let labels = [("a".to_string(), "b".to_string())].into();
    [
        filters.is_ok_and(|f| f.labels(&labels)),
        query.text("platform").parse::<oci::Platform>().is_ok(),
        from_base64(query.text("auth")).is_some(),
        is::<crate::containers::CreateBody>(body),
        is::<crate::update::Body>(body),
        is::<crate::networks::Connection>(body),
        is::<engine::NetworkRequest>(body),
        build::examine(query.text("auth"), body),
        crate::units::parse_time(query.text("since")).is_some(),
    ]
    .into_iter()
    .chain(numbers)
    .filter(|understood| *understood)
    .count()
}
