//! Tables belong to a socket, and the socket may have to be given up.

use super::{Batch, Failure, can_own, with_kept};

/// Whether answers did not fit, so that nobody knows what there is still to read.
pub(super) fn is_lost(failure: &Failure) -> bool {
    failure.source.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// Has the socket for batches, a new one, own the tables of this name: with the one before they lost their owner, and nobody
/// watches tables that have one.
pub(super) fn own_again(table: &'static str) {
    for mut batch in [Batch::new(table), Batch::of_devices(table)] {
        if can_own() {
            batch.table();
            batch.end();
            // The next change of the fixed rules tries again.
            drop(with_kept(true, |socket| socket.transact(&batch.request)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::has_table;

    /// A socket that is lost takes ownership of the tables with it; what comes next has it again.
    #[test]
    fn tables_are_owned_again_after_a_loss() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: needs root");
        }
        let survives = |again: bool| {
            let thread = std::thread::spawn(move || {
                sys::netns::unshare_network_and_mounts().unwrap();
                if !crate::firewall::claim().unwrap() {
                    return None;
                }
                let table = crate::firewall::table();
                let lost = || Failure { message: 0, source: rustix::io::Errno::NOBUFS.into() };
                with_kept(true, |_| Err::<(), _>(lost())).unwrap_err();
                if again {
                    own_again(table);
                }
                let flush = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
                assert!(flush.unwrap().success());
                Some(has_table(table).unwrap())
            });
            thread.join().unwrap()
        };
        match survives(true) {
            // Before Linux 6.9.
            None => {}
            owned => assert_eq!((owned, survives(false)), (Some(true), Some(false))),
        }
    }
}
