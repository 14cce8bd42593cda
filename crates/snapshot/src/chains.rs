//! What lies below a layer, remembered: a stack of a hundred layers is a hundred look-ups in the database and as many files
//! that are asked whether they are there, for every container that is made and started on it.
//!
//! What a layer stands on does not change while it is there. When any layer goes, all is forgotten.

use crate::home::Home;
use crate::{Error, records};
use metadata::Database;
use oci::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stacks kept. Each takes some bytes for a layer; more images than this are seldom used on one machine.
const MAX_KEPT: usize = 256;

/// A layer and those below it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Topmost first.
    pub(crate) links: Vec<Link>,
    /// The number of the topmost layer that lists the root.
    pub(crate) root: Option<u64>,
}

/// A layer of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) number: u64,
    /// It is a directory, not an image.
    pub(crate) is_directory: bool,
}

/// The stacks that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Chains(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// How often everything was forgotten. What was read before that is not kept.
    age: u64,
    chains: HashMap<Digest, Arc<Chain>>,
}

impl Chains {
    /// The layer `chain_id` and those below it.
    pub(crate) fn get(&self, db: &Database, home: &Home, chain_id: &Digest) -> Result<Arc<Chain>, Error> {
        let age = {
            let kept = self.lock();
            if let Some(chain) = kept.chains.get(chain_id) {
                return Ok(Arc::clone(chain));
            }
            kept.age
        };
        let rows = records::chain(db, chain_id)?;
        let link = |number| Link { number, is_directory: home.path(number, "fs").exists() };
        let lists_root = |number: &u64| home.path(*number, "root").exists();
        let chain = Arc::new(Chain {
            links: rows.iter().map(|row| link(row.number)).collect(),
            root: rows.iter().map(|row| row.number).find(lists_root),
        });
        let mut kept = self.lock();
        if kept.age == age {
            if kept.chains.len() >= MAX_KEPT {
                kept.chains.clear();
            }
            kept.chains.insert(*chain_id, Arc::clone(&chain));
        }
        Ok(chain)
    }

    /// Forgets everything. Called behind every removal of records of layers.
    pub(crate) fn forget(&self) {
        let mut kept = self.lock();
        kept.age += 1;
        kept.chains.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
