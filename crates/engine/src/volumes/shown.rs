//! Volumes as clients see them: with what their drivers say, and those that only their drivers know.
//!
//! The drivers that are asked are those that some volume here has. Each is asked on a thread of its own and has some
//! seconds; one that does not answer costs a warning.

use super::plugin::{HURRY, Plugin, Told};
use super::{LOCAL, Volume, is_local};
use crate::Engine;
use crate::error::{Error, blocking};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A volume, and what is not in its record.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownVolume {
    pub volume: Volume,
    /// Where its content is on this host.
    pub mountpoint: String,
    /// `global` when all hosts see it.
    pub scope: String,
    /// What its driver says of it; null when that is nothing.
    pub status: serde_json::Value,
}

impl Engine {
    /// All volumes by name, and why some may be missing.
    pub async fn show_volumes(self: &Arc<Self>) -> Result<(Vec<ShownVolume>, Vec<String>), Error> {
        let engine = self.clone();
        blocking(move || {
            let known = engine.volume_records()?;
            let drivers: BTreeSet<String> =
                known.iter().filter(|v| !is_local(&v.driver)).map(|v| v.driver.clone()).collect();
            let answers = ask_all(drivers);
            let mut warnings = Vec::new();
            let mut shown: Vec<ShownVolume> = known.iter().map(|v| engine.shown(v, None, LOCAL)).collect();
            for (driver, answer) in answers {
                let (list, scope) = match answer {
                    Ok(answer) => answer,
                    Err(e) => {
                        warnings.push(format!("volume driver {driver}: {}", errors::chain(&e)));
                        continue;
                    }
                };
                for told in list {
                    match shown.iter_mut().find(|s| s.volume.name == told.name) {
                        Some(s) if s.volume.driver == driver => {
                            *s = engine.shown(&s.volume.clone(), Some(&told), &scope);
                        }
                        // Two of one name: ours is the one that can be used here.
                        Some(_) => {}
                        None => shown.push(engine.shown(&volume_of(&told, &driver), Some(&told), &scope)),
                    }
                }
            }
            shown.sort_by(|a, b| a.volume.name.cmp(&b.volume.name));
            Ok((shown, warnings))
        })
        .await
    }

    /// The volume `name`, which may be one that only its driver knows.
    pub async fn show_volume(self: &Arc<Self>, name: &str) -> Result<ShownVolume, Error> {
        let (engine, name) = (self.clone(), name.to_string());
        blocking(move || match engine.volume_record(&name) {
            Ok(volume) if is_local(&volume.driver) => Ok(engine.shown(&volume, None, LOCAL)),
            Ok(volume) => {
                let plugin = Plugin::find(&volume.driver)?;
                Ok(engine.shown(&volume, Some(&plugin.get(&name)?), &plugin.scope()))
            }
            Err(missing @ Error::NoSuchVolume { .. }) => {
                let drivers: BTreeSet<String> =
                    engine.volume_records()?.into_iter().map(|v| v.driver).filter(|d| !is_local(d)).collect();
                for (driver, answer) in ask_all(drivers) {
                    let Ok((list, scope)) = answer else { continue };
                    if let Some(told) = list.iter().find(|t| t.name == name) {
                        return Ok(engine.shown(&volume_of(told, &driver), Some(told), &scope));
                    }
                }
                Err(missing)
            }
            Err(e) => Err(e),
        })
        .await
    }

    fn shown(&self, volume: &Volume, told: Option<&Told>, scope: &str) -> ShownVolume {
        let own = self.volume_path(&volume.name).to_string_lossy().into_owned();
        let mut volume = volume.clone();
        if let Some(told) = told.filter(|t| !t.created.is_empty()) {
            volume.created.clone_from(&told.created);
        }
        ShownVolume {
            volume,
            mountpoint: told.map(|t| t.mountpoint.clone()).filter(|m| !m.is_empty()).unwrap_or(own),
            scope: scope.into(),
            status: told.map(|t| t.status.clone()).unwrap_or_default(),
        }
    }
}

/// A volume that only its driver knows.
fn volume_of(told: &Told, driver: &str) -> Volume {
    Volume {
        name: told.name.clone(),
        created: told.created.clone(),
        driver: driver.into(),
        labels: Default::default(),
        options: Default::default(),
        anonymous: false,
        owner: None,
    }
}

type Answer = Result<(Vec<Told>, String), Error>;

/// What each driver lists, and its scope. All are asked at once.
fn ask_all(drivers: BTreeSet<String>) -> Vec<(String, Answer)> {
    let ask = |driver: &str| -> Answer {
        let plugin = Plugin::find_within(driver, HURRY)?;
        Ok((plugin.list()?, plugin.scope()))
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = drivers.iter().map(|d| (d, scope.spawn(move || ask(d)))).collect();
        let done = asked.into_iter().map(|(driver, thread)| {
            let answer = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (driver.clone(), answer)
        });
        done.collect()
    })
}
