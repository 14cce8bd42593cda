//! What imported caches offer, and the layers of it that a build relies on and has not fetched yet.

use super::format::{Layer, Record};
use super::store::Origin;
use crate::cache::{self, Outcome};
use crate::error::{During, Error};
use engine::{Engine, blocking};
use image::Lease;
use metadata::BuildCacheRow;
use oci::Digest;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Layers that are fetched at once.
const AT_ONCE: usize = 4;

/// One cache that was read.
#[derive(Debug)]
pub(crate) struct Source {
    /// As clients named it.
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) records: Vec<Record>,
}

/// What all imported caches offer to one build.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    sources: Vec<(String, Origin)>,
    state: Mutex<State>,
    /// One fetches at a time: what another wants may be among it.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By key, in the order of the caches.
    offers: HashMap<Digest, Vec<Offer>>,
    /// Layers by chain ID that were taken on trust.
    layers: HashMap<Digest, Taken>,
    /// Rows for steps that were taken, for when their layers are here.
    rows: Vec<BuildCacheRow>,
    /// Layers that no cache has are not relied on any more.
    only_there: bool,
    given_up: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Offer {
    source: usize,
    created: String,
    layer: Option<Layer>,
}

#[derive(Debug, Clone)]
struct Taken {
    source: usize,
    parent: Option<Digest>,
    layer: Layer,
}

impl Lent {
    pub(crate) fn new(sources: Vec<Source>) -> Lent {
        let mut lent = Lent::default();
        let mut state = State::default();
        for (at, source) in sources.into_iter().enumerate() {
            lent.sources.push((source.name, source.origin));
            for Record { key, created, layer, .. } in source.records {
                state.offers.entry(key).or_default().push(Offer { source: at, created, layer });
            }
        }
        lent.state = Mutex::new(state);
        lent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// What a step comes to on `parent` by what a cache says, of those that have its layer before others.
    pub(crate) fn take(
        &self,
        lease: &Lease,
        key: &Digest,
        parent: Option<Digest>,
        before: Option<&Digest>,
        text: &str,
    ) -> Option<Outcome> {
        let mut state = self.lock();
        let has = |o: &&Offer| o.layer.as_ref().is_none_or(|l| l.blob.is_some());
        let mut usable = state.offers.get(key)?.iter().filter(|o| !state.given_up.contains(&o.source));
        let offer = usable.clone().find(has).or_else(|| if state.only_there { None } else { usable.next() });
        let Offer { source, created, layer } = offer?.clone();
        let outcome = match layer {
            None => Outcome { chain_id: parent, layer: None, created },
            Some(layer) => {
                let chain_id = Digest::chain(parent, layer.diff_id);
                lease.keep_layer(&chain_id);
                let described = layer.described();
                lease.keep_blob(&described.digest);
                let layer_ = Some((described, layer.diff_id));
                state.layers.insert(chain_id, Taken { source, parent, layer });
                Outcome { chain_id: Some(chain_id), layer: layer_, created }
            }
        };
        let size = outcome.layer.as_ref().map_or(0, |(blob, _)| blob.size);
        state.rows.push(cache::row(key, before, &outcome, size, text));
        Some(outcome)
    }

    /// Has the files of the layer `chain_id` and of those below it here.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] when a cache does not have what it promised: the build begins again without that.
    pub(crate) async fn fetch(
        &self,
        engine: &Arc<Engine>,
        lease: &Arc<Lease>,
        chain_id: Option<Digest>,
    ) -> Result<(), Error> {
        if self.is_empty() || chain_id.is_none() {
            return Ok(());
        }
        let _turn = self.fetching.lock().await;
        let mut wanted: Vec<(Digest, Taken)> = Vec::new();
        {
            let state = self.lock();
            let mut next = chain_id;
            while let Some(chain_id) = next
                && let Some(taken) = state.layers.get(&chain_id)
            {
                wanted.push((chain_id, taken.clone()));
                next = taken.parent;
            }
        }
        wanted.reverse();
        let (here, chains) = (engine.clone(), wanted.iter().map(|(c, _)| *c).collect::<Vec<_>>());
        let missing = blocking(move || {
            let mut out = Vec::new();
            for (at, chain_id) in chains.iter().enumerate() {
                if here.snapshots().layer(chain_id).during(|| "look for a layer".into())?.is_none() {
                    out.push(at);
                }
            }
            Ok::<_, Error>(out)
        })
        .await?;
        if let Some((_, taken)) = wanted.iter().find(|(_, taken)| taken.layer.blob.is_none()) {
            self.lock().only_there = true;
            return Err(self.lost(taken, "it has not the layers of all steps that it knows"));
        }
        // Of a layer that is here the plain blob is made when it is needed.
        let is_wanted = |at: usize, taken: &Taken| {
            missing.contains(&at) || taken.layer.described().digest != taken.layer.diff_id
        };
        let bring = wanted.iter().enumerate().filter(|(at, (_, taken))| is_wanted(*at, taken));
        self.bring(engine, lease, bring.map(|(_, (_, taken))| taken)).await?;
        for at in missing {
            let (_, taken) = wanted[at].clone();
            let (here, lease_, blob) = (engine.clone(), lease.clone(), taken.layer.described());
            let (diff_id, parent) = (taken.layer.diff_id, taken.parent);
            let unpacked = blocking(move || {
                let images = here.images();
                images.unpack_layer(&lease_, &blob, &diff_id, parent.as_ref(), &image::ignore)
            })
            .await;
            if let Err(e) = unpacked {
                self.lock().given_up.push(taken.source);
                return Err(self.lost(&taken, &errors::chain(&e)));
            }
        }
        Ok(())
    }

    /// Has the blobs here; those that no cache has are passed over.
    async fn bring<'a>(
        &self,
        engine: &Arc<Engine>,
        lease: &Arc<Lease>,
        all: impl Iterator<Item = &'a Taken>,
    ) -> Result<(), Error> {
        let mut all = all.filter(|taken| taken.layer.blob.is_some()).cloned();
        let mut running = tokio::task::JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some(taken) = all.next()
            {
                let (engine, lease) = (engine.clone(), lease.clone());
                let origin = self.sources[taken.source].1.clone();
                running.spawn(async move {
                    let brought = origin.bring_layer(&engine, &lease, &taken.layer).await;
                    (taken, brought)
                });
            }
            match running.join_next().await {
                None => return Ok(()),
                Some(Ok((_, Ok(())))) => {}
                Some(Ok((taken, Err(e)))) => {
                    self.lock().given_up.push(taken.source);
                    return Err(self.lost(&taken, &e.text()));
                }
                Some(Err(e)) => std::panic::resume_unwind(e.into_panic()),
            }
        }
    }

    /// Has those of the blobs `wanted` here that caches have. Plain blobs of layers that are here are made when needed.
    pub(crate) async fn blobs(
        &self,
        engine: &Arc<Engine>,
        lease: &Arc<Lease>,
        wanted: &HashSet<Digest>,
    ) -> Result<(), Error> {
        let _turn = self.fetching.lock().await;
        let taken: Vec<(Digest, Taken)> = {
            let state = self.lock();
            let is_wanted = |taken: &Taken| wanted.contains(&taken.layer.described().digest);
            let all = state.layers.iter().filter(|(_, taken)| is_wanted(taken));
            all.map(|(chain_id, taken)| (*chain_id, taken.clone())).collect()
        };
        let here = engine.clone();
        let taken = blocking(move || {
            let mut out = Vec::new();
            for (chain_id, taken) in taken {
                let is_plain = taken.layer.described().digest == taken.layer.diff_id;
                let layer = || here.snapshots().layer(&chain_id).during(|| "look for a layer".into());
                if !is_plain || layer()?.is_none() {
                    out.push(taken);
                }
            }
            Ok::<_, Error>(out)
        })
        .await?;
        self.bring(engine, lease, taken.iter()).await
    }

    fn lost(&self, taken: &Taken, why: &str) -> Error {
        let name = &self.sources[taken.source].0;
        Error::Lost { message: format!("the cache {name} is of no use for this step: {why}") }
    }

    /// The rows of what was taken and is here now.
    pub(crate) fn rows(&self) -> Vec<BuildCacheRow> {
        std::mem::take(&mut self.lock().rows)
    }
}
