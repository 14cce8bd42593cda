//! Volumes of plugins that went with their container: forgotten here, and still to be removed by the plugin.
//!
//! Nobody waits for a plugin when a container is removed. What is still to be asked of it is a record, made in the transaction that
//! removes the volume's own, and removed when the plugin has done it: a daemon that is killed meanwhile, or a plugin that
//! is down, leaves a record that the next start works off.

use super::{Volume, is_local, remove_with_driver};
use crate::Engine;
use crate::error::{During, Error, IoDuring};
use metadata::{Database, RecordKind};
use std::sync::{Mutex, PoisonError};

impl Engine {
    /// Removes the volume's record; with `doomed` its driver is to remove it too, behind the caller. Whether there was one.
    pub(super) fn delete_volume_record(&self, volume: &Volume, doomed: bool) -> Result<bool, Error> {
        let name = &volume.name;
        let doing = || format!("remove volume {name}");
        if !doomed || is_local(&volume.driver) {
            return self.db.delete_record(RecordKind::Volume, name).during(doing);
        }
        let body = serde_json::to_string(volume).map_err(std::io::Error::from).io_during(doing)?;
        let deleted = self.db.delete_durable(|tx| {
            tx.put_record(RecordKind::DoomedVolume, name, name, &body)?;
            tx.delete_record(RecordKind::Volume, name)
        });
        deleted.during(doing)
    }

    /// Has the drivers of doomed volumes remove them, on a thread of its own.
    pub(crate) fn remove_doomed_volumes(&self) {
        let (db, alone) = (self.db.clone(), self.volumes.dooming.clone());
        match db.list_records(RecordKind::DoomedVolume) {
            Ok(rows) if rows.is_empty() => {}
            // Without a thread they stay for the next time.
            Ok(_) => drop(crate::behind::spawn("remove-volume", move || work_off(&db, &alone))),
            Err(e) => tracing::warn!(error = %errors::chain(&e), "volumes of plugins not removed"),
        }
    }

    /// Keeps a volume that was doomed, for somebody who wants one of this name.
    pub(super) fn spare_volume(&self, name: &str) -> Result<(), Error> {
        if self
            .db
            .get_record(RecordKind::DoomedVolume, name)
            .during(|| format!("get volume {name}"))?
            .is_some()
        {
            self.db
                .delete_record(RecordKind::DoomedVolume, name)
                .during(|| format!("create volume {name}"))?;
        }
        Ok(())
    }
}

fn work_off(db: &Database, alone: &Mutex<()>) {
    // Whoever comes second finds what is left, and asks no plugin twice.
    let _alone = alone.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = db.list_records(RecordKind::DoomedVolume).unwrap_or_default();
    for row in rows {
        // Spared meanwhile, or done by another.
        if !db.get_record(RecordKind::DoomedVolume, &row.id).is_ok_and(|r| r.is_some()) {
            continue;
        }
        let removed = match serde_json::from_str::<Volume>(&row.body) {
            Ok(volume) => remove_with_driver(&volume),
            // Nobody can ask for what it names.
            Err(_) => Ok(()),
        };
        match removed {
            // A plugin that refuses has heard of it; asking it again and again would not change its mind.
            Ok(()) | Err(Error::Failed { kind: errors::Kind::Internal, .. }) => {
                if let Err(e) = &removed {
                    tracing::warn!(volume = row.id, error = %errors::chain(e), "its driver keeps it");
                }
                if let Err(e) = db.delete_record(RecordKind::DoomedVolume, &row.id) {
                    tracing::warn!(volume = row.id, error = %errors::chain(&e), "asked of its driver again later");
                }
            }
            Err(e) => {
                tracing::warn!(volume = row.id, error = %errors::chain(&e), "its driver is asked again later");
            }
        }
    }
}
