//! What may happen when: the container's phase and an event give the next phase and what to do.
//!
//! ```text
//! Creating --done--> Created --start--> Starting --done--> Running <--> Pausing / Paused / Resuming
//!    | failed           | shutdown          | init exits       | init exits          | init exits
//!    v                  v                   v                  v                     v
//! Abandoning          Ending             Dying --job ends--> Deleting --done--> Draining --> Flushing --> Gone
//! ```
//!
//! An event that the table does not list is refused. Only one runtime call on the container runs at a time; execs run
//! beside it and are not in this table.

/// Where the container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The runtime's `create` runs.
    Creating,
    /// `create` failed; `delete` runs.
    Abandoning,
    Created,
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
    /// Asked to end before it started; init is being killed.
    Ending,
    /// Init is gone; a runtime call is not over yet.
    Dying,
    /// Init is gone; `delete` runs.
    Deleting,
    /// All processes are gone or killed; execs whose exit or output has not come yet are waited for.
    Draining,
    /// All is done but clients that have not read everything.
    Flushing,
    Gone,
}

/// What happens to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The runtime call succeeded.
    Done,
    /// The runtime call failed.
    Failed,
    InitExited,
    AskStart,
    AskPause,
    AskResume,
    AskShutdown,
    /// The execs have ended, or had their time.
    Drained,
    /// Clients have read everything, or had their time.
    Flushed,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Tells the daemon that the container exists.
    Announce,
    /// Tells the daemon that it does not.
    ReportFailure,
    RunStart,
    RunPause,
    RunResume,
    RunDelete,
    /// Answers whoever asked for the runtime call that just ended.
    Answer,
    KillInit,
    /// Reads what is left of init's output and gives the execs their time.
    Drain,
    /// Writes the exit record, tells everyone.
    Publish,
    /// Takes the socket away.
    Leave,
}

/// The next phase and what to do, in this order; None when `event` has no place in `phase`. An action that starts the
/// runtime is last: it may fail at once, which is the next event.
pub(crate) fn step(phase: Phase, event: Event) -> Option<(Phase, &'static [Action])> {
    use {Action as A, Event as E, Phase as P};
    Some(match (phase, event) {
        (P::Creating, E::Done) => (P::Created, &[A::Announce]),
        (P::Creating, E::Failed) => (P::Abandoning, &[A::RunDelete]),
        (P::Abandoning, E::Done | E::Failed) => (P::Gone, &[A::ReportFailure, A::Leave]),

        (P::Created, E::AskStart) => (P::Starting, &[A::RunStart]),
        (P::Created, E::AskShutdown) => (P::Ending, &[A::KillInit]),
        (P::Starting, E::Done) => (P::Running, &[A::Answer]),
        (P::Starting, E::Failed) => (P::Created, &[A::Answer]),

        (P::Running, E::AskPause) => (P::Pausing, &[A::RunPause]),
        (P::Pausing, E::Done) => (P::Paused, &[A::Answer]),
        (P::Pausing, E::Failed) => (P::Running, &[A::Answer]),
        (P::Paused, E::AskResume) => (P::Resuming, &[A::RunResume]),
        (P::Resuming, E::Done) => (P::Running, &[A::Answer]),
        (P::Resuming, E::Failed) => (P::Paused, &[A::Answer]),

        (P::Created | P::Ending | P::Running | P::Paused, E::InitExited) => (P::Deleting, &[A::RunDelete]),
        (P::Starting | P::Pausing | P::Resuming, E::InitExited) => (P::Dying, &[]),
        (P::Dying, E::Done | E::Failed) => (P::Deleting, &[A::Answer, A::RunDelete]),
        // A failed delete is noted and changes nothing: what it left is the daemon's to sweep.
        (P::Deleting, E::Done | E::Failed) => (P::Draining, &[A::Drain]),
        (P::Draining, E::Drained) => (P::Flushing, &[A::Publish]),
        (P::Flushing, E::Flushed) => (P::Gone, &[A::Leave]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(events: &[Event]) -> (Phase, Vec<Action>) {
        let mut phase = Phase::Creating;
        let mut all = Vec::new();
        for &event in events {
            let (next, actions) = step(phase, event).unwrap_or_else(|| panic!("{event:?} in {phase:?}"));
            phase = next;
            all.extend_from_slice(actions);
        }
        (phase, all)
    }

    #[test]
    fn a_whole_life() {
        use {Action as A, Event as E};
        let (phase, actions) =
            walk(&[E::Done, E::AskStart, E::Done, E::InitExited, E::Done, E::Drained, E::Flushed]);
        assert_eq!(phase, Phase::Gone);
        let all = [A::Announce, A::RunStart, A::Answer, A::RunDelete, A::Drain, A::Publish, A::Leave];
        assert_eq!(actions, all);
    }

    #[test]
    fn init_may_be_faster_than_the_runtime() {
        use {Action as A, Event as E};
        let (phase, actions) = walk(&[E::Done, E::AskStart, E::InitExited, E::Done]);
        assert_eq!((phase, actions.last()), (Phase::Deleting, Some(&A::RunDelete)));
        assert!(actions.contains(&A::Answer));
    }

    #[test]
    fn a_failed_create_is_deleted_before_it_is_told() {
        use {Action as A, Event as E};
        for outcome in [E::Done, E::Failed] {
            let (phase, actions) = walk(&[E::Failed, outcome]);
            assert_eq!((phase, actions), (Phase::Gone, vec![A::RunDelete, A::ReportFailure, A::Leave]));
        }
    }

    #[test]
    fn what_comes_at_the_wrong_time_is_refused() {
        use {Event as E, Phase as P};
        for (phase, event) in [
            (P::Creating, E::AskStart),
            (P::Running, E::AskStart),
            (P::Running, E::AskShutdown),
            (P::Running, E::AskResume),
            (P::Paused, E::AskPause),
            (P::Starting, E::AskPause),
            (P::Deleting, E::AskStart),
            (P::Gone, E::Done),
        ] {
            assert_eq!(step(phase, event), None, "{event:?} in {phase:?}");
        }
    }
}
