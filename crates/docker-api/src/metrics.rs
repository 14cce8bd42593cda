//! Numbers for Prometheus, on an address of its own: how many containers are in which state, what happened, what the
//! daemon itself uses. Names are Docker's where Docker has the number.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>, text 0.0.4.

use crate::serve::Api;
use engine::Status;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long a client may take to ask.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Answers `GET /metrics` on `listener` until `stop` becomes true.
pub async fn serve_metrics(listener: TcpListener, api: Arc<Api>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let api = api.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(answer(&api, &request)) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection for metrics");
            }
        });
    }
}

fn answer(api: &Api, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "page not found\n".into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
    }
    plain(StatusCode::OK, text(api))
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

fn text(api: &Api) -> String {
    let (mut running, mut paused, mut stopped) = (0, 0, 0);
    let containers = api.engine.list_containers();
    for container in &containers {
        match container.status() {
            Status::Running | Status::Restarting => running += 1,
            Status::Paused => paused += 1,
            Status::Created | Status::Exited | Status::Removing | Status::Dead => stopped += 1,
        }
    }
    let counts = api.engine.counts();
    let mut out = String::new();
    family(&mut out, "engine_daemon_container_states_containers", "gauge", "Containers by state");
    for (state, count) in [("paused", paused), ("running", running), ("stopped", stopped)] {
        line(&mut out, &format!("engine_daemon_container_states_containers{{state=\"{state}\"}}"), count);
    }
    family(&mut out, "engine_daemon_engine_info", "gauge", "What runs here");
    let (kernel, driver) = (crate::system::kernel(), "overlay");
    let info = format!(
        "engine_daemon_engine_info{{version=\"{}\",kernel=\"{}\",graphdriver=\"{driver}\",architecture=\"{}\",os_type=\"linux\"}}",
        escape(api.version),
        escape(&kernel),
        std::env::consts::ARCH
    );
    line(&mut out, &info, 1);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let single = [
        ("engine_daemon_engine_cpus_cpus", "gauge", "CPUs of the host", cpus),
        ("engine_daemon_events_total", "counter", "Events published", counts.events),
        (
            "engine_daemon_events_subscribers_total",
            "gauge",
            "Clients that listen to events",
            counts.listeners,
        ),
        ("engine_daemon_health_checks_total", "counter", "Health checks run", counts.health_checks),
        (
            "engine_daemon_health_checks_failed_total",
            "counter",
            "Health checks that failed",
            counts.failed_health_checks,
        ),
        ("process_resident_memory_bytes", "gauge", "Resident memory of the daemon", resident()),
        ("process_open_fds", "gauge", "Descriptors open in the daemon", descriptors()),
    ];
    for (name, kind, help, value) in single {
        family(&mut out, name, kind, help);
        line(&mut out, name, value);
    }
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, value: u64) {
    let _ = writeln!(out, "{name} {value}");
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Kernel: proc_pid_statm(5), the second number, in pages.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn descriptors() -> u64 {
    // One is the directory's own.
    std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count().saturating_sub(1) as u64)
}
