//! Further processes in a running container.

use crate::attach::Attachment;
use crate::error::{During, Error, IoDuring, blocking};
use crate::record::{ContainerId, random_hex};
use crate::shim_client::{ShimConnection, ask, unexpected};
use crate::{Engine, bundle, launch, userns};
use oci::IdMap;
use oci::runtime as spec;
use rootdir::RootDir;
use shim_api::{Exit, Request, Response, Streams};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// How long an exec that failed for no known reason waits for the container's end to be the reason.
const END_IS_NEAR: std::time::Duration = std::time::Duration::from_millis(300);

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecConfig {
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub tty: bool,
    pub privileged: bool,
    pub streams: Streams,
    pub detach_keys: String,
    /// Rows, columns.
    pub console_size: Option<(u16, u16)>,
}

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecStatus {
    pub started: bool,
    pub running: bool,
    pub pid: i32,
    pub exit_code: Option<i32>,
}

/// One exec. Lives in memory only: its client went with the daemon.
#[derive(Debug)]
pub struct Exec {
    pub id: String,
    pub container_id: ContainerId,
    pub config: ExecConfig,
    made: Instant,
    status: Mutex<ExecStatus>,
}

impl Exec {
    /// One that is in no list and makes no event.
    pub(crate) fn unlisted(container_id: ContainerId, config: ExecConfig) -> Exec {
        Exec { id: random_hex(), container_id, config, made: Instant::now(), status: Mutex::default() }
    }

    /// Where it is in its life.
    pub fn status(&self) -> ExecStatus {
        *self.status.lock().expect("no holder panics")
    }

    pub(crate) fn set_exit(&self, exit: &Exit) {
        self.set_exit_code(exit.code);
    }

    fn set_exit_code(&self, code: i32) {
        let mut status = self.status.lock().expect("no holder panics");
        status.running = false;
        status.exit_code = Some(code);
    }
}

impl Engine {
    /// Prepares an exec.
    pub fn create_exec(&self, name: &str, config: ExecConfig) -> Result<Arc<Exec>, Error> {
        let container = self.container(name)?;
        self.require_running(&container)?;
        if config.cmd.is_empty() || config.cmd[0].is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        let nul = |text: &String| text.contains('\0');
        if config.cmd.iter().any(nul) || nul(&config.working_dir) || nul(&config.user) {
            return Err(Error::invalid("a NUL byte in the command, the working directory or the user"));
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' needs to be an absolute path",
                config.working_dir
            )));
        }
        if let Some(bad) = config.env.iter().find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0'))
        {
            return Err(Error::invalid(format!("invalid environment variable: {bad:?}")));
        }
        let exec = Arc::new(Exec::unlisted(container.id().clone(), config));
        {
            let mut execs = self.execs.lock().expect("no holder panics");
            forget_old(&mut execs);
            execs.insert(exec.id.clone(), exec.clone());
        }
        self.publish(
            &container,
            &format!("exec_create: {}", described(&exec)),
            &[("execID", exec.id.clone())],
        );
        Ok(exec)
    }

    /// The exec with this id.
    pub fn exec(&self, id: &str) -> Result<Arc<Exec>, Error> {
        let execs = self.execs.lock().expect("no holder panics");
        execs.get(id).cloned().ok_or_else(|| Error::NoSuchExec { id: id.into() })
    }

    /// Ids of the execs of a container that still run.
    pub fn list_execs(&self, container: &ContainerId) -> Vec<String> {
        let execs = self.execs.lock().expect("no holder panics");
        execs
            .values()
            .filter(|e| e.container_id == *container && e.status().running)
            .map(|e| e.id.clone())
            .collect()
    }

    /// Whether an exec could be started now.
    ///
    /// # Errors
    ///
    /// WrongState when its container does not run or it was started before.
    pub fn check_exec(&self, exec: &Exec) -> Result<(), Error> {
        let container = self.container(exec.container_id.as_str())?;
        self.require_running(&container)?;
        if exec.status().started {
            return Err(Error::conflict(format!("exec {} has already run", exec.id)));
        }
        Ok(())
    }

    /// Starts an exec with `streams` attached; no stream at all detaches.
    pub async fn start_exec(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        streams: Streams,
        console_size: Option<(u16, u16)>,
    ) -> Result<Attachment, Error> {
        let container = self.container(exec.container_id.as_str())?;
        self.require_running(&container)?;
        {
            let mut status = exec.status.lock().expect("no holder panics");
            if status.started {
                return Err(Error::conflict(format!("exec {} has already run", exec.id)));
            }
            status.started = true;
            status.running = true;
        }
        let started = self.start_exec_process(exec, streams, console_size).await;
        match started {
            Ok((connection, pid)) => {
                {
                    let mut status = exec.status.lock().expect("no holder panics");
                    status.pid = pid;
                }
                let action = format!("exec_start: {}", described(exec));
                self.publish(&container, &action, &[("execID", exec.id.clone())]);
                Ok(Attachment::new(connection, Some(exec.clone())))
            }
            Err(e) => {
                exec.set_exit_code(exit_code_of_failure(&errors::chain(&e), &exec.config.cmd[0]));
                if errors::HasKind::kind(&e) == errors::Kind::Internal {
                    // What runtimes say when the container ends under their hands; its end is heard a moment later.
                    let mut life = container.life.subscribe();
                    drop(tokio::time::timeout(END_IS_NEAR, life.wait_for(|l| !l.running)).await);
                }
                self.require_running(&container)?;
                Err(self.not_running_or(&container, e))
            }
        }
    }

    pub(crate) async fn start_exec_process(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        streams: Streams,
        console_size: Option<(u16, u16)>,
    ) -> Result<(ShimConnection, i32), Error> {
        let dir = self.config.shim_dir(exec.container_id.as_str());
        let container = self.container(exec.container_id.as_str())?;
        let (pid, ids) = (container.lock().state.pid, container.root_ids());
        let config =
            ExecConfig { console_size: console_size.or(exec.config.console_size), ..exec.config.clone() };
        let capabilities = self.capabilities.clone();
        let path = dir.join("config.json");
        let process = blocking(move || exec_process(&path, pid, &config, &capabilities, ids.as_deref()));
        let (process, connection) = tokio::join!(process, ShimConnection::connect(&dir));
        let mut connection = connection?;
        let request = Request::Exec { exec_id: exec.id.clone(), process: process?, streams };
        match connection.request(&request).await? {
            Response::Started { pid } => Ok((connection, pid)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets the size of an exec's terminal.
    pub async fn resize_exec(&self, id: &str, height: u16, width: u16) -> Result<(), Error> {
        let exec = self.exec(id)?;
        if !exec.status().running {
            return Err(Error::conflict(format!("exec {id} is not running")));
        }
        let dir = self.config.shim_dir(exec.container_id.as_str());
        ask(&dir, &Request::Resize { exec_id: Some(id.into()), height, width }).await.map(drop)
    }

    pub(crate) fn exec_exited(&self, id: &str, exit: &Exit) {
        let Ok(exec) = self.exec(id) else { return };
        exec.set_exit(exit);
        if let Some(container) = self.containers.get(&exec.container_id) {
            let attributes = [("execID", exec.id.clone()), ("exitCode", exit.code.to_string())];
            self.publish(&container, "exec_die", &attributes);
        }
    }

    /// Ends the execs of a container whose task has ended; those that finished are forgotten with it.
    pub(crate) fn forget_execs(&self, container: &ContainerId) {
        let execs = self.execs.lock().expect("no holder panics");
        for exec in execs.values().filter(|e| e.container_id == *container) {
            let mut status = exec.status.lock().expect("no holder panics");
            if status.running {
                status.running = false;
                status.exit_code.get_or_insert(137);
            }
        }
    }

    /// Forgets the execs of a container that is gone.
    pub(crate) fn drop_execs(&self, container: &ContainerId) {
        self.execs.lock().expect("no holder panics").retain(|_, e| e.container_id != *container);
    }
}

/// Docker's exit code for an exec that could not be started: 127 when its program is not there, else 126.
fn exit_code_of_failure(message: &str, program: &str) -> i32 {
    let missing = message.contains("executable file not found")
        || (message.contains("no such file or directory") && message.contains(&format!("{program:?}")));
    if missing { 127 } else { 126 }
}

/// Docker's word for an exec's event: the program, a space, the arguments.
fn described(exec: &Exec) -> String {
    let (program, arguments) = exec.config.cmd.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    format!("{program} {}", arguments.join(" "))
}

/// Most execs that are remembered besides those that run. A client may still ask for the code of one that has ended;
/// nobody asks for one that has ended thousands ago.
const KEPT: usize = 4096;

/// Makes room by half: the execs that do not run, oldest first.
fn forget_old(execs: &mut HashMap<String, Arc<Exec>>) {
    if execs.len() < KEPT {
        return;
    }
    let mut idle: Vec<(Instant, String)> =
        execs.values().filter(|e| !e.status().running).map(|e| (e.made, e.id.clone())).collect();
    idle.sort_unstable();
    idle.truncate(KEPT / 2);
    for (_, id) in idle {
        execs.remove(&id);
    }
}

/// Blocking: reads the container's document and its user files.
fn exec_process(
    path: &PathBuf,
    pid: i32,
    config: &ExecConfig,
    capabilities: &[String],
    ids: Option<&IdMap>,
) -> Result<spec::Process, Error> {
    let doing = || format!("read {}", path.display());
    let bytes = std::fs::read(path).io_during(doing)?;
    let document: spec::Spec =
        serde_json::from_slice(&bytes).map_err(std::io::Error::from).io_during(doing)?;
    let base = document.process.ok_or_else(|| Error::invalid("the container has no process document"))?;
    let credentials = if config.user.is_empty() {
        None
    } else {
        // The init's own root shows what the container sees, its mounts included.
        let root = RootDir::open(&PathBuf::from(format!("/proc/{pid}/root")))
            .during(|| "open root file system".into())?;
        let credentials = launch::credentials(&root, &config.user, &[])?;
        userns::check_credentials(ids, &credentials)?;
        Some(credentials)
    };
    Ok(bundle::exec_process(&base, config, credentials.as_ref(), capabilities))
}
