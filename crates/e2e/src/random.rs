//! Numbers that look random and come again with the same seed.

#![allow(clippy::print_stdout, reason = "read by who runs the tests")]

use std::time::{SystemTime, UNIX_EPOCH};

/// A xorshift generator.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From this seed.
    pub fn seeded(seed: u64) -> Random {
        Random(seed | 1)
    }

    /// Seeded by `BRIG_TEST_SEED` to see a failure again, else by the clock. Says with what.
    pub fn new() -> Random {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Random::or_seed(u64::from(clock.subsec_nanos()))
    }

    /// Seeded by `BRIG_TEST_SEED` to see a failure again, else by `seed`. Says with what.
    pub fn or_seed(seed: u64) -> Random {
        let given = std::env::var("BRIG_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or(seed) | 1;
        println!("BRIG_TEST_SEED={seed}");
        Random(seed)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// An index into something of this length, which is not 0.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    /// One of `choices`.
    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// Whether something that happens once in `times` happens.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

impl Default for Random {
    fn default() -> Random {
        Random::new()
    }
}
