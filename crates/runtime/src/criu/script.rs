//! The moment in a restore at which the namespaces are there and nothing runs in them yet. criu calls a shell script then and
//! waits for its end; the script asks this process, by pipes that it finds in `/proc`, and passes the answer on.
//!
//! ```text
//! criu                       sh                                  here
//!  | setup-namespaces ------>| opens both pipes                    | poll
//!  |                         |---------- the process's id -------->| hooks
//!  |                         |<--------- go, or no ----------------|
//!  |<------- exit status ----|                                     |
//! ```
//!
//! A runtime that is killed meanwhile closes the pipes, and the script fails; so does criu then.
//!
//! Docs: criu(8), `--action-script`; <https://criu.org/Action_scripts>.

use crate::Error;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Child, Output};

/// What is done at that moment, with the id of the container's first process.
pub(super) type Early<'a> = &'a mut dyn FnMut(i32) -> Result<(), Error>;

/// Both pipes, and who answers.
pub(super) struct Questions<'a> {
    /// The script's questions come here; its other end is kept, so that it never ends.
    asked: (OwnedFd, OwnedFd),
    answers: (OwnedFd, OwnedFd),
    early: Early<'a>,
    failure: Option<Error>,
}

impl<'a> Questions<'a> {
    pub(super) fn new(early: Early<'a>) -> Result<Questions<'a>, Errno> {
        let (asked, answers) = (pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?);
        Ok(Questions { asked, answers, early, failure: None })
    }

    /// What criu is to have a shell do.
    pub(super) fn script(&self) -> String {
        let us = std::process::id();
        let (answers, asked) = (self.answers.0.as_raw_fd(), self.asked.1.as_raw_fd());
        format!(
            "[ \"$CRTOOLS_SCRIPT_ACTION\" != setup-namespaces ] || {{ \
             exec 8</proc/{us}/fd/{answers} 9>/proc/{us}/fd/{asked} && echo \"$CRTOOLS_INIT_PID\" >&9 && \
             read -r answer <&8 && [ \"$answer\" = go ]; }}"
        )
    }

    /// Answers until `child` has ended, and gives what it wrote to its stderr.
    pub(super) fn wait(&mut self, mut child: Child) -> io::Result<Output> {
        let mut stderr = Vec::new();
        if let Some(mut pipe) = child.stderr.take() {
            let mut bytes = [0; 4096];
            loop {
                let mut polled = [self.asked.0.as_fd(), pipe.as_fd()]
                    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                match poll(&mut polled, None) {
                    Ok(_) => {}
                    Err(Errno::INTR) => continue,
                    Err(e) => return Err(e.into()),
                }
                if polled[0].revents().contains(PollFlags::IN) {
                    self.answer()?;
                    continue;
                }
                match pipe.read(&mut bytes)? {
                    0 => break,
                    count => stderr.extend_from_slice(&bytes[..count]),
                }
            }
        }
        Ok(Output { status: child.wait()?, stdout: Vec::new(), stderr })
    }

    fn answer(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64];
        let count = rustix::io::read(&self.asked.0, &mut bytes)?;
        let pid = std::str::from_utf8(&bytes[..count]).ok().and_then(|text| text.trim().parse().ok());
        let done = match pid {
            Some(pid) => (self.early)(pid),
            None => Err(Error::Child { text: "criu names no process at its namespaces".into() }),
        };
        let word: &[u8] = if done.is_ok() { b"go\n" } else { b"no\n" };
        self.failure = done.err();
        rustix::io::write(&self.answers.1, word)?;
        Ok(())
    }

    /// Why the restore was to go no further.
    pub(super) fn failure(self) -> Option<Error> {
        self.failure
    }
}
