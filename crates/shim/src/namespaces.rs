//! `brig-shim --namespaces [PATH]`: makes a user namespace and a network namespace that belongs to it, for a container to come. The
//! daemon cannot: a process of several threads may not leave its user namespace.
//!
//! ```text
//! daemon                                     this program
//!                                            makes the user namespace, or enters the one at PATH
//!                            <- U            holds it
//! writes uid_map, gid_map, of a new one
//!                            go ->
//!                                            makes the network namespace, whose files belong to the mapped root
//!                            <- N            holds both
//! opens both
//!                            end of file ->
//!                                            leaves
//! ```
//! Whoever dies meanwhile leaves nothing: the namespaces are there as long as somebody holds them.

use crate::Error;
use rustix::thread::LinkNameSpaceType;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::path::Path;

/// The argument with which the daemon starts it.
pub const WORD: &str = "--namespaces";
/// There is a user namespace.
pub const USER: u8 = b'U';
/// There is a network namespace.
pub const NETWORK: u8 = b'N';

const CLONE_NEWUSER: u32 = 0x1000_0000;
const CLONE_NEWNET: u32 = 0x4000_0000;

/// Makes and holds them, when `words` ask for it; None when they do not. Call it on the only thread.
///
/// # Errors
///
/// [`Error::Setup`] with the kernel's reason.
pub fn run(words: &[OsString]) -> Option<Result<(), Error>> {
    match words {
        [word] if word == WORD => Some(make(None, &mut io::stdin(), &mut io::stdout())),
        [word, path] if word == WORD => {
            Some(make(Some(Path::new(path)), &mut io::stdin(), &mut io::stdout()))
        }
        _ => None,
    }
}

fn make(within: Option<&Path>, input: &mut impl Read, output: &mut impl Write) -> Result<(), Error> {
    let at = |what: &'static str| move |source: io::Error| Error::Setup { what, source };
    match within {
        None => sys::process::unshare(CLONE_NEWUSER).map_err(at("make a user namespace"))?,
        Some(path) => File::open(path)
            .and_then(|file| {
                let user = Some(LinkNameSpaceType::User);
                Ok(rustix::thread::move_into_link_name_space(file.as_fd(), user)?)
            })
            .map_err(at("enter a user namespace"))?,
    }
    let tell = |output: &mut dyn Write, word: u8| output.write_all(&[word]).and_then(|()| output.flush());
    tell(output, USER).map_err(at("tell of a user namespace"))?;
    if input.read(&mut [0; 1]).map_err(at("wait for the mappings"))? == 0 {
        return Ok(());
    }
    sys::process::unshare(CLONE_NEWNET).map_err(at("make a network namespace"))?;
    tell(output, NETWORK).map_err(at("tell of a network namespace"))?;
    input.read(&mut [0; 1]).map_err(at("wait for the daemon"))?;
    Ok(())
}
