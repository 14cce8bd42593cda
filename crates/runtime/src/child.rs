//! The child: walks its steps, waits at the gate, becomes the user's program. Leaves only by execve or `_exit`.

use crate::channel::{Channel, Kind};
use crate::error::lacks;
use crate::plan::{Filter, Gate, Plan, Step};
use crate::procfs::Proc;
use crate::program;
use crate::steps::{World, home_entry, perform};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use sys::process::{Cloned, StringList};

/// Why the child stopped, as one line.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    /// What a shell would say: 127 not found, 126 not executable, else 1.
    code: i32,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, e: impl Into<std::io::Error>) -> Failure {
        let (what, e) = (what.into(), e.into());
        match Errno::from_io_error(&e) {
            // Which kernel it is is half of the cause.
            Some(Errno::NOSYS) => Failure::text(format!("{what}: {}", lacks("such system call"))),
            _ => Failure::text(format!("{what}: {e}")),
        }
    }

    pub(crate) fn text(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), code: 1 }
    }

    fn exec(name: &CStr, e: Errno, text: &str) -> Failure {
        let code = if e == Errno::NOENT { 127 } else { 126 };
        Failure { text: format!("exec: {:?}: {text}", name.to_string_lossy()), code }
    }
}

/// Runs in the new process. What the parent alone owns must be dropped before.
pub(crate) fn run(plan: Plan, channel: Channel, proc: Proc) -> ! {
    let Plan { steps, args, env, preserve_fds, inherited, .. } = plan;
    if steps.iter().any(|step| matches!(step, Step::Gate(_))) {
        // Not at the gate: a filter may forbid it there. The launcher does it for itself.
        sys::process::end_at_sigterm();
    }
    let mut world = World::new(channel, proc, env, inherited);
    let failure = match walk(steps, &mut world, &args, preserve_fds) {
        Ok(End { program, launch: None }) => match world.close_descriptors(preserve_fds) {
            Ok(()) => execute(&program, &args, &world),
            Err(failure) => failure,
        },
        Ok(End { program, launch: Some((gate, filter)) }) => {
            launch(&program, args, gate, filter.as_deref(), &mut world, preserve_fds)
        }
        Err(failure) => failure,
    };
    drop(world.channel.send(Kind::Failed, &failure.text));
    if let Some(gate) = &world.gate {
        // After the gate nobody listens to the channel but `run`; `start` listens here.
        let text = &failure.text.as_bytes()[..failure.text.len().min(4095)];
        let _ = rustix::io::write(gate, &[&[Kind::Failed as u8], text].concat());
    }
    sys::process::exit_now(failure.code)
}

/// Where the steps end.
struct End {
    program: CString,
    launch: Option<(Gate, Option<Box<Filter>>)>,
}

fn walk(steps: Vec<Step>, world: &mut World, args: &StringList, preserve_fds: u32) -> Result<End, Failure> {
    let (mut program, mut launch) = (None, None);
    for step in steps {
        match step {
            Step::Fork { namespaces } => fork(namespaces, world)?,
            Step::Find => {
                let (found, file) = find(args, &world.env)?;
                if let Some(refusal) = file.and_then(program::refusal) {
                    let text = format!("{}: {}", lower(refusal.errno), refusal.why);
                    let name = args.strings().first().unwrap_or(&found);
                    let failure = Failure::exec(name, refusal.errno, &text);
                    // The parent sees whether the kernel has formats of others; from here that is out of sight.
                    let doubt = refusal.unless_other_formats
                        && world.channel.send(Kind::Doubt, &failure.text).is_ok()
                        && world.channel.wait_for_go().unwrap_or(false);
                    if !doubt {
                        return Err(failure);
                    }
                }
                program = Some(found);
            }
            Step::Seccomp(_) => {
                // The filter may forbid it later. What is opened from here on is closed by execve.
                world.close_descriptors(preserve_fds)?;
                perform(step, world)?;
            }
            Step::Gate(gate) => wait_at(gate, world)?,
            Step::Launch { gate, filter } => launch = Some((gate, filter)),
            step => perform(step, world)?,
        }
    }
    let program = program.ok_or_else(|| Failure::text("the plan names no program"))?;
    Ok(End { program, launch })
}

/// Goes on as a sibling in new namespaces; this process is done.
fn fork(namespaces: u32, world: &World) -> Result<(), Failure> {
    match sys::process::clone3(namespaces.into(), true, None) {
        Ok(Cloned::Child) => Ok(()),
        Ok(Cloned::Parent { pid, .. }) => {
            drop(world.channel.send(Kind::Process, &pid.to_string()));
            sys::process::exit_now(0)
        }
        Err(e) => Err(Failure::new("clone into the user namespace", e)),
    }
}

fn wait_at(gate: Gate, world: &mut World) -> Result<(), Failure> {
    untie()?;
    world.channel.send(Kind::Ready, "").map_err(|e| Failure::new("talk to the runtime", e))?;
    match gate {
        Gate::Fifo(fifo) => {
            // Only read(2): every profile allows it.
            let mut byte = [0u8; 1];
            let read = rustix::io::retry_on_intr(|| rustix::io::read(&fifo, &mut byte));
            world.gate = Some(fifo);
            match read {
                Ok(1) => Ok(()),
                Ok(_) => Err(Failure::text("wait for start: end of file")),
                Err(e) => Err(Failure::new("wait for start", e)),
            }
        }
        Gate::Parent => match world.channel.wait_for_go() {
            Ok(true) => Ok(()),
            _ => Err(Failure::text("the runtime is gone")),
        },
    }
}

/// Leaves the rest to the launcher, which tells the parent that all is ready.
fn launch(
    program: &CStr,
    args: StringList,
    gate: Gate,
    filter: Option<&Filter>,
    world: &mut World,
    preserve_fds: u32,
) -> Failure {
    // Of the path as much as fits a message.
    let shown = &program.to_bytes()[..program.count_bytes().min(1024)];
    let ready = [&[Kind::Ready as u8], shown].concat();
    if let Err(e) = untie().and_then(|()| world.close_descriptors(preserve_fds)) {
        return e;
    }
    let gate = match &gate {
        Gate::Fifo(fifo) => fifo.as_fd(),
        Gate::Parent => world.channel.as_fd(),
    };
    sys::process::reset_signals(&world.inherited);
    let filter = filter.map(|filter| (&filter.instructions[..], filter.flags));
    let launcher = sys::launcher::prepare(&sys::launcher::Launch {
        channel: world.channel.as_fd(),
        gate,
        ready: &ready,
        filter,
    });
    let args = args.after(program.to_owned());
    match launcher {
        Ok(launcher) => {
            Failure::new("execute the launcher", sys::launcher::execute(launcher, &args, &world.env))
        }
        Err(e) => Failure::new("make the launcher", e),
    }
}

fn untie() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(None).map_err(|e| Failure::new("untie", e))
}

fn execute(program: &CStr, args: &StringList, world: &World) -> Failure {
    sys::process::reset_signals(&world.inherited);
    let error = sys::process::execve(program, args, &world.env);
    let e = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let code = if e == Errno::NOENT { 127 } else { 126 };
    Failure { text: format!("exec {}: {}", program.to_string_lossy(), lower(e)), code }
}

/// The program of `args[0]`: itself if it has a slash, else the first match in `PATH`; open, where it can be read. Words as
/// Go's `exec.LookPath`, which engines look for.
fn find(args: &StringList, env: &StringList) -> Result<(CString, Option<OwnedFd>), Failure> {
    let name = args.strings().first().ok_or_else(|| Failure::text("no program given"))?;
    if name.to_bytes().contains(&b'/') {
        return match executable(name) {
            Ok(file) => Ok((name.clone(), file)),
            Err(Errno::NOENT) => {
                let text = format!("stat {}: no such file or directory", name.to_string_lossy());
                Err(Failure::exec(name, Errno::NOENT, &text))
            }
            Err(e) => Err(Failure::exec(name, e, &lower(e))),
        };
    }
    let path = env.strings().iter().rev().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let mut denied = false;
    for directory in path.unwrap_or_default().split(|&b| b == b':').filter(|d| d.first() == Some(&b'/')) {
        let Ok(candidate) = CString::new([directory, b"/", name.to_bytes()].concat()) else { continue };
        match executable(&candidate) {
            Ok(file) => return Ok((candidate, file)),
            Err(Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    if denied && !name.is_empty() {
        return Err(Failure::exec(name, Errno::ACCESS, "permission denied"));
    }
    Err(Failure::exec(name, Errno::NOENT, "executable file not found in $PATH"))
}

fn executable(path: &CStr) -> Result<Option<OwnedFd>, Errno> {
    // As whom it will be executed, capabilities included.
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A seccomp profile may forbid asking, or an old kernel not know how; execve will tell.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => program::open(path),
        // A directory is one first of all.
        Err(e @ Errno::ACCESS) => program::open(path).and(Err(e)),
        Err(e) => Err(e),
    }
}

/// The kernel's error in the words and the case that engines look for.
pub(crate) fn lower(e: Errno) -> String {
    match e {
        Errno::NOENT => "no such file or directory".into(),
        Errno::ACCESS => "permission denied".into(),
        Errno::PERM => "operation not permitted".into(),
        Errno::NOEXEC => "exec format error".into(),
        // Older docker clients know 126 by "permission denied" only, which is what execve(2) says of a directory.
        Errno::ISDIR => "is a directory: permission denied".into(),
        Errno::NOTDIR => "not a directory".into(),
        Errno::LOOP => "too many levels of symbolic links".into(),
        other => std::io::Error::from(other).to_string(),
    }
}

/// `HOME=` from the container's passwd file, `/` if it says nothing. Called when `/` is the container's.
pub(crate) fn home(uid: u32) -> CString {
    home_entry(&passwd_home(uid).unwrap_or_else(|| b"/".to_vec()))
}

/// Bounded, and never blocked by what the image put there instead of a file.
fn passwd_home(uid: u32) -> Option<Vec<u8>> {
    const MAX_PASSWD: usize = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let path = rustix::fs::open("/etc/passwd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&path).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let fd = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
    let again = rustix::fs::fstat(fd.as_fd()).ok()?;
    if FileType::from_raw_mode(again.st_mode) != FileType::RegularFile {
        return None;
    }
    let length = usize::try_from(again.st_size).ok()?.min(MAX_PASSWD);
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match rustix::io::read(&fd, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    home_of(&bytes, uid)
}

fn home_of(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    let uid = uid.to_string();
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let matches = fields.nth(2) == Some(uid.as_bytes());
        let home = fields.nth(2).filter(|home| home.first() == Some(&b'/'))?;
        matches.then(|| home.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes() {
        let passwd = b"root:x:0:0:r:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\nbad:x:7\nrel:x:8:8::x:/";
        assert_eq!(home_of(passwd, 0).as_deref(), Some(&b"/root"[..]));
        assert_eq!(home_of(passwd, 1000).as_deref(), Some(&b"/home/u"[..]));
        assert_eq!(home_of(passwd, 7), None);
        assert_eq!(home_of(passwd, 8), None);
        assert_eq!(home_of(passwd, 9), None);
    }

    #[test]
    fn programs() {
        let list =
            |items: &[&str]| StringList::new(items.iter().map(|s| CString::new(*s).unwrap()).collect());
        let check = |args: &[&str], env: &[&str], want: Result<&str, &str>| {
            let found = find(&list(args), &list(env));
            let found = found.map(|(p, _)| p.into_string().unwrap()).map_err(|f| f.text);
            assert_eq!(found.as_deref().map_err(String::as_str), want, "{args:?} {env:?}");
        };
        check(&["/bin/sh"], &[], Ok("/bin/sh"));
        check(&["sh"], &["PATH=/nowhere:/bin"], Ok("/bin/sh"));
        check(&["sh"], &["PATH=bin:"], Err(r#"exec: "sh": executable file not found in $PATH"#));
        check(&["sh"], &[], Err(r#"exec: "sh": executable file not found in $PATH"#));
        check(&["/nope"], &[], Err(r#"exec: "/nope": stat /nope: no such file or directory"#));
        check(&["/etc"], &[], Err(r#"exec: "/etc": is a directory: permission denied"#));
        check(&["/etc/passwd"], &[], Err(r#"exec: "/etc/passwd": permission denied"#));
    }
}
