//! `diff`: what a container changed in its file system.

use crate::error::{During, Error, blocking};
use crate::{Engine, PLACES};
use std::sync::Arc;

impl Engine {
    /// Lists what the container `name` changed in what its image gave it; mounts are none of it.
    pub async fn changes(self: &Arc<Self>, name: &str) -> Result<Vec<archive::Change>, Error> {
        let container = self.container(name)?;
        let images = self.images.clone();
        let id = container.id().to_string();
        blocking(move || images.changes(&id, PLACES))
            .await
            .during(|| format!("look for changes of container {}", container.lock().name))
    }
}
