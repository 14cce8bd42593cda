//! `conform docker-py`: the integration tests of Docker's Python client, from its source distribution on PyPI, against
//! brigd and then against Debian's dockerd, or against one of them.
//!
//! Images come from a registry on loopback that stands in for Docker Hub as a mirror. `docker-py.exceptions` beside this
//! file lists what does not pass, each with its reason; any other failure is an error, and so is an exception that
//! passes. What the list says of dockerd is compared with what dockerd does.

use super::{daemons, exceptions};
use crate::packages;
use crate::run::{Doing, Result, run};
use crate::workspace::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The last version whose source distribution brings its tests.
const VERSION: &str = "7.0.0";
/// What it needs, of versions that fit it.
const REQUIREMENTS: &[&str] = &[
    "requests==2.31.0",
    "urllib3<2.3",
    "packaging",
    "paramiko",
    "websocket-client",
    "pytest==7.4.4",
    "pytest-timeout",
    "setuptools<81",
    "setuptools_scm",
    "wheel",
];
/// Whole files about what brig leaves to others (swarm), and what no engine takes part in (credential stores).
const NOT_OURS: &[&str] = &[
    "api_config_test.py",
    "api_secret_test.py",
    "api_service_test.py",
    "api_swarm_test.py",
    "models_nodes_test.py",
    "models_services_test.py",
    "models_swarm_test.py",
    "credentials",
    "context_api_test.py",
    "api_plugin_test.py",
];
/// The newest API of both engines.
const API: &str = "1.41";
const EXCEPTIONS: &str = include_str!("docker-py.exceptions");

pub(super) fn command(args: &[String]) -> Result<()> {
    let (engines, rest) = match args {
        [flag, engine, rest @ ..] if flag == "--engine" => (vec![engine.as_str()], rest),
        [] => (vec!["brig", "dockerd"], args),
        rest => (vec!["brig"], rest),
    };
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::CONFORM)?;
    let home = root().join("target/conform/docker-py");
    std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
    let python = prepare(&home)?;
    let mut judged = Ok(());
    for engine in engines {
        let text = daemons::with_images(engine, |host| test(engine, rest, &home, &python, host))?;
        let (passed, failed) = outcome(&text);
        // The other engine is asked all the same.
        judged = judged.and(exceptions::judge(engine, &passed, &failed, EXCEPTIONS));
        if engine == "dockerd" && rest.is_empty() {
            judged = judged.and(exceptions::is_fair(engine, &passed, &failed, EXCEPTIONS));
        }
    }
    judged
}

/// Runs the suite against the engine at `host`; what pytest printed.
fn test(engine: &str, rest: &[String], home: &Path, python: &Path, host: &str) -> Result<String> {
    let mut pytest = Command::new(python);
    pytest
        .current_dir(home.join(format!("docker-{VERSION}")))
        .env("DOCKER_HOST", host)
        .env("DOCKER_TEST_API_VERSION", API)
        .args(["-m", "pytest", "-q", "-rA", "--tb=short", "--timeout=60", "-p", "no:cacheprovider"]);
    if rest.iter().all(|a| a.starts_with('-')) {
        pytest.arg("tests/integration");
    }
    pytest.args(NOT_OURS.iter().map(|f| format!("--ignore=tests/integration/{f}"))).args(rest);
    // Its exit code says only that something failed.
    let out = pytest.output().doing(|| "run pytest".into())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let report = home.join(format!("report-{engine}.txt"));
    std::fs::write(&report, &text).doing(|| format!("write {}", report.display()))?;
    print!("{text}");
    println!("the whole report: {}", report.display());
    Ok(text)
}

/// What passed, and what failed.
fn outcome(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let mut results: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        if matches!(word, "PASSED" | "FAILED" | "ERROR") && rest.starts_with("tests/") {
            let test = rest.split(" - ").next().unwrap_or(rest).trim_start_matches("tests/integration/");
            results.entry(word).or_default().insert(test);
        }
    }
    let of = |word: &str| results.get(word).cloned().unwrap_or_default();
    let failed: BTreeSet<&str> = of("FAILED").union(&of("ERROR")).copied().collect();
    let passed: BTreeSet<&str> = of("PASSED").difference(&failed).copied().collect();
    (passed, failed)
}

/// A Python with what the tests need, and their sources; its program.
fn prepare(home: &Path) -> Result<PathBuf> {
    let python = home.join("venv/bin/python");
    let sources = home.join(format!("docker-{VERSION}"));
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")))?;
        run(Command::new(&python).args(["-m", "pip", "-q", "install"]).args(REQUIREMENTS))?;
    }
    if !sources.exists() {
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "-q",
            "download",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            "docker",
        ]);
        run(pip.arg(format!("docker=={VERSION}")).arg("-d").arg(home))?;
        run(Command::new("tar")
            .arg("-xzf")
            .arg(home.join(format!("docker-{VERSION}.tar.gz")))
            .arg("-C")
            .arg(home))?;
    }
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let text = "PASSED tests/integration/a.py::T::x\nFAILED tests/integration/a.py::T::y - why\nERROR tests/b.py::z\n1 failed\n";
        let (passed, failed) = outcome(text);
        assert_eq!(passed.into_iter().collect::<Vec<_>>(), ["a.py::T::x"]);
        assert_eq!(failed.into_iter().collect::<Vec<_>>(), ["a.py::T::y", "tests/b.py::z"]);
    }
}
