//! A request of Docker's API: the first line is the query, the rest is the body.

pub(crate) fn run(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(0);
    let body = data.get(end + 1..).unwrap_or_default();
    let _ways = docker_api::examine(&String::from_utf8_lossy(&data[..end]), body);
}
