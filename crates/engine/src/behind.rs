//! Work that nobody waits for, on a thread of its own.

/// Runs `work` on a new thread; whether there was one to be had. A process at the limit of its threads goes on without what
/// `work` would have done: callers say what becomes of it then, and none may panic for that.
#[must_use = "without a thread the work is not done"]
pub(crate) fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> bool {
    match std::thread::Builder::new().name(name.into()).spawn(work) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(thread = name, %error, "no thread to be had");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_beside_the_caller() {
        let (sender, receiver) = std::sync::mpsc::channel();
        assert!(super::spawn("test", move || sender
            .send(std::thread::current().id())
            .expect("somebody waits")));
        assert_ne!(receiver.recv().expect("it ran"), std::thread::current().id());
    }
}
