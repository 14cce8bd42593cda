//! `brigd`, the daemon. Reads flags and configuration, opens the engine, serves the API, and leaves when told to.
//! Containers are not its children's children to keep: they belong to their shims and go on without it.

mod cluster;
mod listen;
mod settings;
mod tls;

use docker_api::Api;
use engine::Engine;
use errors::HasKind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use settings::{Flags, Settings};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Without requests for so long, the daemon rests.
const REST: Duration = Duration::from_secs(2);
/// Open files for which there is room from the start: 32 KiB.
const DESCRIPTORS: u64 = 4096;

fn main() -> ExitCode {
    sys::footprint::share_arenas();
    let flags = <Flags as clap::Parser>::parse();
    let result = Settings::resolve(flags).and_then(run);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            tracing::error!("{report}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut settings: Settings) -> Result<(), errors::Report> {
    let level = if settings.debug { "debug" } else { "info" };
    let filter = EnvFilter::new(format!("{level},hyper=info,h2=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    // What steps of builds and containers make does not depend on who started the daemon.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    settings.engine.open_files = raise_open_files();
    make_room_for_descriptors();
    // Whatever descriptors a careless parent left open must not reach a shim (CVE-2024-21626).
    sys::spawn::cloexec_inherited(settings.first_free_descriptor()).map_err(|e| errors::Report::of(&e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.workers)
        // Slow clients keep some, so that there are more than ever work at once.
        .max_blocking_threads(512)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(|e| errors::Report::new(errors::Kind::Internal, format!("start the async runtime: {e}")))?;
    runtime.block_on(serve(settings))
}

/// Raises the soft limit of open files to the hard one: each attached client takes several, and a login's soft limit is
/// often 1,024. Gives back what both were, which is what containers are to have; None where there was nothing to raise.
fn raise_open_files() -> Option<(u64, u64)> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if before.current == before.maximum || setrlimit(Resource::Nofile, raised).is_err() {
        return None;
    }
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    Some((number(before.current), number(before.maximum)))
}

/// Has the kernel make room for as many open files as a busy daemon has. Later it would do so as each power of two is reached,
/// and in a program of several threads it then waits for all processors: 10 ms, three times while 500 ports are published.
fn make_room_for_descriptors() {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(DESCRIPTORS);
    let (Ok(last), Ok(any)) = (i32::try_from(limit.saturating_sub(1)), std::fs::File::open("/dev/null"))
    else {
        return;
    };
    // What cannot be had early is had when it is needed.
    drop(rustix::io::fcntl_dupfd_cloexec(any, last));
}

async fn serve(settings: Settings) -> Result<(), errors::Report> {
    let report = |e: engine::Error| errors::Report { kind: e.kind(), ..errors::Report::of(&e) };
    // Before anything is looked at: two daemons on one store would take each other's containers for leftovers.
    let _store = listen::lock_roots(&settings)?;
    let pidfile = listen::write_pidfile(&settings)?;
    let listeners = listen::open(&settings)?;
    let engine = Engine::open(settings.engine.clone()).await.map_err(report)?;
    let version = env!("CARGO_PKG_VERSION");
    let buildkit = buildkit::Server::new(engine.clone(), version);
    let requests = tokio::sync::Notify::new();
    let api = Arc::new(Api { engine, buildkit, exchanges: Default::default(), version, requests });
    tokio::spawn(slim_at_rest(api.clone()));
    let (stop_sender, stop) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        servers.spawn(docker_api::serve(listener, api.clone(), stop.clone()));
    }
    if let Some(address) = &settings.metrics_addr {
        let listener = listen::metrics(address)?;
        servers.spawn(docker_api::serve_metrics(listener, api.clone(), stop.clone()));
    }
    listen::notify_ready();
    tracing::info!(data_root = %settings.engine.data_root.display(), "ready");
    wait_for_signal().await?;
    tracing::info!("leaving; containers go on");
    stop_sender.send_replace(true);
    while servers.join_next().await.is_some() {}
    let engine = api.engine.clone();
    engine::blocking(move || engine.settle()).await;
    listen::remove_sockets(&settings);
    drop(pidfile);
    Ok(())
}

/// Gives memory back once there have been no requests for a while: most of what is resident then is code that the last one
/// needed. The next one has it mapped again in a fraction of a millisecond.
async fn slim_at_rest(api: Arc<Api>) {
    loop {
        while tokio::time::timeout(REST, api.requests.notified()).await.is_ok() {}
        // Reads a file of the kernel's and gives advice: nothing that waits.
        sys::footprint::forget_code();
        api.requests.notified().await;
    }
}

async fn wait_for_signal() -> Result<(), errors::Report> {
    let listen = |kind| {
        signal(kind)
            .map_err(|e| errors::Report::new(errors::Kind::Internal, format!("listen for signals: {e}")))
    };
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            // Docker's daemon reads its configuration anew; ours is restarted for that, which no container notices.
            _ = hangup.recv() => tracing::warn!("SIGHUP: settings are read at start only; restart brigd to change them"),
        }
    }
}
