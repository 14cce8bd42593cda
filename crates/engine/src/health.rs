//! Health checks: a command run inside the container now and then, and what follows from its exit codes.
//!
//! ```text
//! start ----> starting --0--> healthy <--0-- unhealthy --> the action that the label asks for
//!                |               |              ^
//!                +--- `retries` failures in a row
//! ```
//!
//! One task a container that has a check, asleep between two runs: a host whose containers have none is never woken.
//! The checks are processes of the container like those of `exec`, but no `exec` of anybody's: they are in no list and
//! make no event. State is kept in the record, which is written when it changes, so that a daemon that was away goes on
//! where the last one stopped.

use crate::container::Container;
use crate::error::Error;
use crate::exec::{Exec, ExecConfig};
use crate::model::{Config, Healthcheck};
use crate::record::{Record, now};
use crate::shim_client::{Output, ask};
use crate::{Engine, Signal};
use serde::{Deserialize, Serialize};
use shim_api::{Request, Streams};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The label that says what becomes of a container that is found unhealthy: `none`, `kill` (its restart policy then
/// decides), `restart` or `stop`.
pub const ACTION_LABEL: &str = "brig.health-action";

/// Runs that are kept.
const KEPT: usize = 5;
/// Bytes of output that are kept of a run.
const MAX_OUTPUT: usize = 4096;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_RETRIES: u32 = 3;
/// Least duration that may be asked for, nanoseconds.
const MIN_NANOS: i64 = 1_000_000;

/// What is known of a container's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last runs, oldest first.
    #[serde(default)]
    pub log: Vec<Probe>,
}

impl Health {
    fn starting() -> Health {
        Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() }
    }
}

/// Docker's three states; a container without a check has none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub start: String,
    pub end: String,
    /// -1 when it could not be run or took too long.
    pub exit_code: i32,
    pub output: String,
}

/// What to do about an unhealthy container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Restart,
    Stop,
}

/// A check with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    /// The check of a container, if it has one.
    fn of(config: &Config) -> Option<Check> {
        let health = config.healthcheck.as_ref()?;
        let (kind, words) = health.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => {
                let shell = config.shell.clone().filter(|s| !s.is_empty());
                let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                command.push(words.join(" "));
                command
            }
            _ => return None,
        };
        let or = |nanos: i64, default| match u64::try_from(nanos) {
            Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos),
            _ => default,
        };
        Some(Check {
            command,
            interval: or(health.interval, DEFAULT_INTERVAL),
            timeout: or(health.timeout, DEFAULT_TIMEOUT),
            start_period: or(health.start_period, Duration::ZERO),
            start_interval: or(health.start_interval, DEFAULT_START_INTERVAL),
            retries: u32::try_from(health.retries).ok().filter(|n| *n > 0).unwrap_or(DEFAULT_RETRIES),
        })
    }

    /// Whether failures do not count yet, of a task that has run for so long: by a clock that nobody sets.
    fn is_in_start_period(&self, ran: Duration) -> bool {
        ran < self.start_period
    }

    fn pause(&self, record: &Record, ran: Duration) -> Duration {
        let is_starting = record.state.health.as_ref().is_none_or(|h| h.status == HealthStatus::Starting);
        if is_starting && self.is_in_start_period(ran) { self.start_interval } else { self.interval }
    }

    /// Takes a run into account that began when the task had run for `ran`; the new status where it changed.
    fn judge(&self, record: &mut Record, probe: Probe, ran: Duration) -> Option<HealthStatus> {
        let is_early = self.is_in_start_period(ran);
        let health = record.state.health.get_or_insert_with(Health::starting);
        let before = health.status;
        if probe.exit_code == 0 {
            health.failing_streak = 0;
            health.status = HealthStatus::Healthy;
        } else if !(is_early && before == HealthStatus::Starting) {
            health.failing_streak = health.failing_streak.saturating_add(1);
            if health.failing_streak >= self.retries {
                health.status = HealthStatus::Unhealthy;
            }
        }
        health.log.push(probe);
        let extra = health.log.len().saturating_sub(KEPT);
        health.log.drain(..extra);
        (health.status != before).then_some(health.status)
    }
}

/// Fills what the client did not say from the image's check, as Docker does.
pub(crate) fn merge(client: &mut Option<Healthcheck>, image: Option<Healthcheck>) {
    let Some(image) = image else { return };
    let Some(own) = client else {
        *client = Some(image);
        return;
    };
    if own.test.is_empty() {
        own.test = image.test;
    }
    for (own, image) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *own == 0 {
            *own = image;
        }
    }
}

/// Checks what a client asks for.
pub(crate) fn validate(config: &Config) -> Result<(), Error> {
    if let Some(health) = &config.healthcheck {
        for (name, nanos) in [
            ("Interval", health.interval),
            ("Timeout", health.timeout),
            ("StartPeriod", health.start_period),
            ("StartInterval", health.start_interval),
        ] {
            if nanos != 0 && nanos < MIN_NANOS {
                return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
            }
        }
        if health.retries < 0 {
            return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
        }
        match health.test.split_first().map(|(kind, words)| (kind.as_str(), words)) {
            None | Some(("NONE", [])) => {}
            Some(("CMD" | "CMD-SHELL", [first, ..])) if !first.is_empty() => {}
            Some((kind @ ("CMD" | "CMD-SHELL" | "NONE"), _)) => {
                return Err(Error::invalid(format!(
                    "the {kind} of Healthcheck has the wrong number of words"
                )));
            }
            Some((kind, _)) => {
                return Err(Error::invalid(format!("Unknown healthcheck type '{kind}' (expected 'CMD')")));
            }
        }
    }
    action(config).map(drop)
}

fn action(config: &Config) -> Result<Option<Action>, Error> {
    match config.labels.get(ACTION_LABEL).map(String::as_str) {
        None | Some("none") => Ok(None),
        Some("kill") => Ok(Some(Action::Kill)),
        Some("restart") => Ok(Some(Action::Restart)),
        Some("stop") => Ok(Some(Action::Stop)),
        Some(other) => Err(Error::invalid(format!(
            "invalid label {ACTION_LABEL}={other}: want none, kill, restart or stop"
        ))),
    }
}

/// The health with which a task begins; None for a container without a check.
pub(crate) fn at_start(config: &Config) -> Option<Health> {
    Check::of(config).map(|_| Health::starting())
}

/// What has been counted since the daemon started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub listeners: u64,
    pub health_checks: u64,
    pub failed_health_checks: u64,
}

impl Engine {
    /// What has been counted since the daemon started.
    pub fn counts(&self) -> Counts {
        let [health_checks, failed_health_checks] = &self.probes;
        Counts {
            events: self.events.published(),
            listeners: self.events.listeners() as u64,
            health_checks: health_checks.load(Ordering::Relaxed),
            failed_health_checks: failed_health_checks.load(Ordering::Relaxed),
        }
    }

    /// Watches the health of a container that runs, from now on and until its task ends or [`Engine::stop_watching`].
    pub(crate) fn watch_health(self: &Arc<Self>, container: &Arc<Container>) {
        let Some(check) = Check::of(&container.lock().config) else { return };
        container.lock().state.health.get_or_insert_with(Health::starting);
        container.health_watch.send_modify(|n| *n += 1);
        let mut replaced = container.health_watch.subscribe();
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let watch = async {
                loop {
                    let pause = check.pause(&container.record(), container.ran());
                    tokio::time::sleep(pause).await;
                    let ran = container.ran();
                    let probe = engine.probe(&container, &check).await;
                    engine.take_probe(&container, &check, probe, ran).await;
                }
            };
            tokio::select! {
                () = watch => {}
                _ = replaced.changed() => {}
            }
        });
    }

    /// Lets nobody watch any more: the task has ended, or is paused.
    pub(crate) fn stop_watching(&self, container: &Container) {
        container.health_watch.send_modify(|n| *n += 1);
    }

    async fn take_probe(
        self: &Arc<Self>,
        container: &Arc<Container>,
        check: &Check,
        probe: Probe,
        ran: Duration,
    ) {
        self.probes[0].fetch_add(1, Ordering::Relaxed);
        if probe.exit_code != 0 {
            self.probes[1].fetch_add(1, Ordering::Relaxed);
        }
        let changed = {
            let mut record = container.lock();
            if !record.state.status.is_alive() {
                return;
            }
            check.judge(&mut record, probe, ran)
        };
        let Some(status) = changed else { return };
        self.save_if_possible(container).await;
        self.publish(container, &format!("health_status: {}", status.as_str()), &[]);
        if status == HealthStatus::Unhealthy {
            self.act(container);
        }
    }

    /// Does what the label says, on a task of its own: it ends the one that watches.
    fn act(self: &Arc<Self>, container: &Arc<Container>) {
        let Ok(Some(action)) = action(&container.lock().config) else { return };
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let id = container.id().to_string();
            tracing::info!(container_id = id, ?action, "acting on an unhealthy container");
            let done = match action {
                // Not by a person: the restart policy goes on from here.
                Action::Kill => engine.signal(&container, Signal::KILL).await,
                Action::Restart => engine.restart(&id, None, None).await,
                Action::Stop => engine.stop(&id, None, None).await,
            };
            match done {
                Ok(()) | Err(Error::NotModified { .. }) => {}
                Err(e) => tracing::warn!(container_id = id, error = %errors::chain(&e), "{action:?}"),
            }
        });
    }

    /// Runs the check once.
    async fn probe(self: &Arc<Self>, container: &Container, check: &Check) -> Probe {
        let start = now();
        let exec = Arc::new(Exec::unlisted(
            container.id().clone(),
            ExecConfig { cmd: check.command.clone(), ..ExecConfig::default() },
        ));
        let mut output = Vec::new();
        let run = self.run_probe(&exec, &mut output);
        let outcome = tokio::time::timeout(check.timeout, run).await;
        let said = String::from_utf8_lossy(&output).into_owned();
        let (exit_code, output) = match outcome {
            Ok(Ok(code)) => (code, said),
            Ok(Err(e)) => (-1, errors::chain(&e)),
            Err(_) => {
                let dir = self.config.shim_dir(container.id().as_str());
                let request = Request::Kill { exec_id: Some(exec.id.clone()), signal: Signal::KILL.0 };
                if let Err(e) = ask(&dir, &request).await {
                    tracing::debug!(container_id = %container.id(), error = %errors::chain(&e), "end of a health check");
                }
                let said = if said.is_empty() { said } else { format!(": {said}") };
                (-1, format!("Health check exceeded timeout ({}){said}", go_duration(check.timeout)))
            }
        };
        Probe { start, end: now(), exit_code, output }
    }

    async fn run_probe(self: &Arc<Self>, exec: &Arc<Exec>, output: &mut Vec<u8>) -> Result<i32, Error> {
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        let (connection, _) = self.start_exec_process(exec, streams, None).await?;
        // The other half stays open: a client that closes it has gone.
        let (mut reader, _writer) = connection.split();
        loop {
            match reader.next().await? {
                Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => {
                    let room = MAX_OUTPUT - output.len();
                    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Some(Output::Exited(exit)) => return Ok(exit.code),
                None => return Err(Error::conflict("the container has ended")),
            }
        }
    }
}

/// As Go prints durations: `1.5s`, `30s`, `1m0s`, `500ms`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let fraction = |whole: u64| {
        let text = format!("{whole}.{:09}", duration.subsec_nanos());
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    match seconds {
        0 => format!("{}ms", duration.as_secs_f64() * 1000.0),
        1..60 => format!("{}s", fraction(seconds)),
        60..3600 => format!("{}m{}s", seconds / 60, fraction(seconds % 60)),
        _ => format!("{}h{}m{}s", seconds / 3600, seconds / 60 % 60, fraction(seconds % 60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn config(health: Healthcheck) -> Config {
        Config { healthcheck: Some(health), ..Config::default() }
    }

    fn probe(exit_code: i32) -> Probe {
        Probe { start: now(), end: now(), exit_code, output: String::new() }
    }

    #[test]
    fn commands() {
        let check = |test: &[&str], want: Option<&[&str]>| {
            let got = Check::of(&config(Healthcheck { test: words(test), ..Healthcheck::default() }));
            assert_eq!(got.map(|c| c.command), want.map(words), "{test:?}");
        };
        check(&["CMD", "a", "b"], Some(&["a", "b"]));
        check(&["CMD-SHELL", "exit 1"], Some(&["/bin/sh", "-c", "exit 1"]));
        check(&["NONE"], None);
        check(&[], None);
    }

    #[test]
    fn three_failures_in_a_row_and_one_success() {
        let mut record = crate::bundle::tests::record(Default::default(), Config::default());
        let check =
            Check::of(&config(Healthcheck { test: words(&["CMD", "x"]), ..Healthcheck::default() })).unwrap();
        let got: Vec<Option<HealthStatus>> = [1, 1, 0, 1, 1, 1, 1, 0]
            .into_iter()
            .map(|code| check.judge(&mut record, probe(code), Duration::ZERO))
            .collect();
        let (healthy, unhealthy) = (Some(HealthStatus::Healthy), Some(HealthStatus::Unhealthy));
        assert_eq!(got, [None, None, healthy, None, None, unhealthy, None, healthy]);
        assert_eq!(record.state.health.unwrap().log.len(), KEPT);
    }

    #[test]
    fn failures_of_the_start_do_not_count() {
        let mut record = crate::bundle::tests::record(Default::default(), Config::default());
        let health = Healthcheck {
            test: words(&["CMD", "x"]),
            retries: 1,
            start_period: 3_600_000_000_000,
            ..Healthcheck::default()
        };
        let check = Check::of(&config(health)).unwrap();
        let early = Duration::from_secs(3599);
        assert_eq!(check.judge(&mut record, probe(1), early), None);
        assert_eq!(
            (check.pause(&record, early), record.state.health.as_ref().unwrap().failing_streak),
            (DEFAULT_START_INTERVAL, 0)
        );
        assert_eq!(check.judge(&mut record, probe(0), early), Some(HealthStatus::Healthy));
        // Once healthy, the start is over.
        assert_eq!(check.judge(&mut record, probe(1), early), Some(HealthStatus::Unhealthy));
        assert_eq!(check.pause(&record, early), DEFAULT_INTERVAL);
    }

    #[test]
    fn the_image_fills_what_the_client_left() {
        let image =
            Healthcheck { test: words(&["CMD", "i"]), interval: 5, retries: 7, ..Healthcheck::default() };
        let mut none = None;
        merge(&mut none, Some(image.clone()));
        assert_eq!(none, Some(image.clone()));
        let mut own = Some(Healthcheck { retries: 2, ..Healthcheck::default() });
        merge(&mut own, Some(image.clone()));
        assert_eq!(own, Some(Healthcheck { retries: 2, ..image }));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |health: Healthcheck, ok: bool| {
            assert_eq!(validate(&config(health.clone())).is_ok(), ok, "{health:?}")
        };
        check(Healthcheck { test: words(&["CMD-SHELL", "x"]), ..Default::default() }, true);
        check(Healthcheck { test: words(&["NONE"]), ..Default::default() }, true);
        check(Healthcheck { interval: 999_999, ..Default::default() }, false);
        check(Healthcheck { retries: -1, ..Default::default() }, false);
        check(Healthcheck { test: words(&["CMD"]), ..Default::default() }, false);
        check(Healthcheck { test: words(&["HTTP", "x"]), ..Default::default() }, false);
        let labels = [(ACTION_LABEL.to_string(), "explode".to_string())].into();
        assert!(validate(&Config { labels, ..Config::default() }).is_err());
    }

    #[test]
    fn durations_as_go() {
        let check = |ms: u64, want: &str| assert_eq!(go_duration(Duration::from_millis(ms)), want);
        check(500, "500ms");
        check(1500, "1.5s");
        check(30_000, "30s");
        check(60_000, "1m0s");
        check(5_400_000, "1h30m0s");
    }
}
