//! A pull's steps, and parts of other transfers', as the lines that Docker's clients draw.

use engine::PullEvent;
use image::State as Extract;
use oci::{Digest, Reference};
use registry_client::Progress;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// Turns events into lines, and knows which blobs are layers.
#[derive(Debug)]
pub(crate) struct PullLines {
    reference: Reference,
    started: bool,
    /// Layers that were announced.
    layers: HashSet<Digest>,
    done: HashSet<Digest>,
    last: HashMap<Digest, (&'static str, u64)>,
}

impl PullLines {
    pub(crate) fn new(reference: Reference) -> PullLines {
        PullLines {
            reference,
            started: false,
            layers: HashSet::new(),
            done: HashSet::new(),
            last: HashMap::new(),
        }
    }

    /// The lines for one event.
    pub(crate) fn lines(&mut self, event: &PullEvent) -> Vec<Value> {
        let mut out = Vec::new();
        if !self.started && !matches!(event, PullEvent::Transfer(Progress::Resolving)) {
            self.started = true;
            let label = self.reference.tag().map_or_else(
                || self.reference.digest().map(|d| d.to_string()).unwrap_or_default(),
                str::to_string,
            );
            out.push(json!({ "status": format!("Pulling from {}", self.repository()), "id": label }));
        }
        match event {
            PullEvent::Transfer(progress) => out.extend(self.transfer(progress)),
            PullEvent::Extract(progress) => out.extend(self.extract(progress)),
            PullEvent::Done { digest, newer } => {
                out.push(json!({ "status": format!("Digest: {digest}") }));
                let name = self.reference.familiar();
                let text = if *newer { "Downloaded newer image" } else { "Image is up to date" };
                out.push(json!({ "status": format!("Status: {text} for {name}") }));
            }
        }
        out
    }

    fn repository(&self) -> String {
        // Docker shows the path below the registry, `library/` included.
        self.reference.repository().to_string()
    }

    fn transfer(&mut self, progress: &Progress) -> Option<Value> {
        match progress {
            Progress::Resolving => None,
            Progress::LayerQueued { digest, .. } => {
                self.layers.insert(*digest).then(|| status(digest, "Pulling fs layer"))
            }
            Progress::Downloading { digest, current, total } if self.layers.contains(digest) => {
                self.moving(digest, "Downloading", *current, *total)
            }
            Progress::Retrying { digest, after } if self.layers.contains(digest) => {
                Some(status(digest, &format!("Retrying in {} seconds", after.as_secs().max(1))))
            }
            Progress::VerifyingChecksum { digest } if self.layers.contains(digest) => {
                Some(status(digest, "Verifying Checksum"))
            }
            Progress::DownloadComplete { digest } if self.layers.contains(digest) => {
                Some(status(digest, "Download complete"))
            }
            Progress::AlreadyExists { digest } => {
                // Also told of manifests and configs, which people do not see: layers are those that get extracted.
                self.layers.insert(*digest);
                None
            }
            _ => None,
        }
    }

    fn extract(&mut self, progress: &image::Progress) -> Option<Value> {
        let digest = progress.layer;
        match progress.state {
            Extract::Extracting { current_bytes, total_bytes } => {
                self.moving(&digest, "Extracting", current_bytes, total_bytes)
            }
            Extract::Done => self.done.insert(digest).then(|| status(&digest, "Pull complete")),
            Extract::Exists => self.done.insert(digest).then(|| status(&digest, "Already exists")),
        }
    }

    /// A line of a moving bar; none where nothing moved by a hundredth.
    fn moving(&mut self, digest: &Digest, word: &'static str, current: u64, total: u64) -> Option<Value> {
        let step = total / 100;
        if let Some((last_word, last)) = self.last.get(digest)
            && *last_word == word
            && current < total
            && current.saturating_sub(*last) < step
        {
            return None;
        }
        self.last.insert(*digest, (word, current));
        Some(moving_line(digest, word, current, total))
    }
}

/// A line of a moving bar.
pub(crate) fn moving_line(digest: &Digest, word: &str, current: u64, total: u64) -> Value {
    json!({
        "status": word,
        "progressDetail": { "current": current, "total": total },
        "progress": bar(current, total),
        "id": short(digest),
    })
}

/// A line that says what a layer is at.
pub(crate) fn status(digest: &Digest, text: &str) -> Value {
    json!({ "status": text, "progressDetail": {}, "id": short(digest) })
}

/// The id under which people see a layer.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// `[====>     ]  1.2MB/3.4MB`, fifty characters wide.
pub(crate) fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    if total == 0 {
        return size(current);
    }
    let filled = usize::try_from((current.min(total) * WIDTH) / total).unwrap_or(0);
    let head = if filled < 50 { ">" } else { "" };
    let blank = 50usize.saturating_sub(filled + head.len());
    format!("[{}{head}{}]  {}/{}", "=".repeat(filled), " ".repeat(blank), size(current), size(total))
}

/// Four significant digits in powers of 1000, as Docker's bars.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB"];
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 100.0 {
        1
    } else if value >= 10.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(1_234_567), "1.235MB");
        assert_eq!(size(12_345), "12.35kB");
        assert_eq!(bar(0, 10).len(), "[]  0B/10B".len() + 50);
        assert!(bar(10, 10).starts_with(&format!("[{}]", "=".repeat(50))));
    }
}
