//! All containers, found by id, by the beginning of an id, and by name.

use crate::container::Container;
use crate::error::Error;
use crate::record::ContainerId;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

#[derive(Debug, Default)]
struct Maps {
    by_id: HashMap<ContainerId, Arc<Container>>,
    by_name: HashMap<String, ContainerId>,
}

/// The containers. The lock is held for look-ups only, never across work.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    maps: RwLock<Maps>,
}

impl Collection {
    /// The container that `name` means: whole id, name, then unique beginning of an id, in Docker's order.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>, Error> {
        if name.is_empty() {
            return Err(Error::invalid("invalid name or ID supplied: \"\""));
        }
        let maps = self.maps.read().expect("no holder panics");
        let bare = name.strip_prefix('/').unwrap_or(name);
        if let Some(found) = ContainerId::parse(bare).and_then(|id| maps.by_id.get(&id)) {
            return Ok(found.clone());
        }
        if let Some(found) = maps.by_name.get(bare).and_then(|id| maps.by_id.get(id)) {
            return Ok(found.clone());
        }
        let hex = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut matches = maps.by_id.iter().filter(|(id, _)| hex && id.as_str().starts_with(bare));
        match (matches.next(), matches.next()) {
            (Some((_, found)), None) => Ok(found.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousId { prefix: bare.into() }),
            (None, _) => Err(Error::NoSuchContainer { name: name.into() }),
        }
    }

    /// The container with this id.
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.maps.read().expect("no holder panics").by_id.get(id).cloned()
    }

    /// All, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Container>> {
        let mut out: Vec<(String, Arc<Container>)> = {
            let maps = self.maps.read().expect("no holder panics");
            maps.by_id.values().map(|c| (c.lock().created.clone(), c.clone())).collect()
        };
        out.sort_by(|a, b| b.0.cmp(&a.0));
        out.into_iter().map(|(_, c)| c).collect()
    }

    /// All, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.maps.read().expect("no holder panics").by_id.values().cloned().collect()
    }

    /// Takes `name` for `id`; an error says who has it.
    pub(crate) fn reserve(&self, name: &str, id: &ContainerId) -> Result<(), Error> {
        let mut maps = self.maps.write().expect("no holder panics");
        if let Some(other) = maps.by_name.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{other}\". \
                 You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        maps.by_name.insert(name.into(), id.clone());
        Ok(())
    }

    /// Gives a name back.
    pub(crate) fn release(&self, name: &str) {
        self.maps.write().expect("no holder panics").by_name.remove(name);
    }

    /// Adds a container whose name is reserved.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        self.maps.write().expect("no holder panics").by_id.insert(container.id().clone(), container);
    }

    /// Takes a container and its name out.
    pub(crate) fn remove(&self, container: &Container) {
        let name = container.lock().name.clone();
        let mut maps = self.maps.write().expect("no holder panics");
        maps.by_id.remove(container.id());
        if maps.by_name.get(&name) == Some(container.id()) {
            maps.by_name.remove(&name);
        }
    }
}
