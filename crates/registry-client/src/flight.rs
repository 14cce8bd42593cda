//! Who is fetching what: of several that want the same blob one fetches it, and the others find it stored.

use oci::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OwnedMutexGuard;

/// Digests of past downloads kept before they are looked through.
const LOOSE: usize = 256;

/// The downloads of one client, by digest.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

/// The right to fetch one blob. Whoever gets it looks first whether the one before has brought it.
pub(crate) type Flight = OwnedMutexGuard<()>;

impl Flights {
    /// Waits until nobody fetches `digest`. Cancel-safe.
    pub(crate) async fn enter(&self, digest: &Digest) -> Flight {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= LOOSE {
                all.retain(|_, lock| lock.strong_count() > 0);
            }
            match all.get(digest).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::default();
                    all.insert(*digest, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_each_digest() {
        let flights = Flights::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let first = flights.enter(&a).await;
        let _other = flights.enter(&b).await;
        let mut second = std::pin::pin!(flights.enter(&a));
        let now = futures_util::future::poll_immediate(&mut second).await;
        assert!(now.is_none());
        drop(first);
        let _second = second.await;
        for n in 0..1000u32 {
            drop(flights.enter(&Digest::of(&n.to_be_bytes())).await);
        }
        assert!(flights.0.lock().unwrap().len() <= LOOSE);
    }
}
