//! Events become lines: Docker's classic text, one step after the other although stages run side by side; or our own.

use crate::progress::PullLines;
use build::{Built, Event, StepInfo};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How a client wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Docker's classic text.
    Classic,
    /// Nothing but the id.
    Quiet,
    /// Each event by itself.
    Events,
}

/// Turns events into lines.
pub(crate) struct Lines {
    mode: Mode,
    steps: Vec<StepInfo>,
    /// The step whose lines go out; those of later ones wait.
    current: usize,
    waiting: BTreeMap<usize, Vec<Value>>,
    done: Vec<bool>,
    workspaces: BTreeMap<usize, String>,
    /// Bytes of a character that was cut.
    cut: BTreeMap<(usize, bool), Vec<u8>>,
    pulls: BTreeMap<String, PullLines>,
}

impl Lines {
    pub(crate) fn new(mode: Mode) -> Lines {
        Lines {
            mode,
            steps: Vec::new(),
            current: 0,
            waiting: BTreeMap::new(),
            done: Vec::new(),
            workspaces: BTreeMap::new(),
            cut: BTreeMap::new(),
            pulls: BTreeMap::new(),
        }
    }

    pub(crate) fn event(&mut self, event: Event) -> Vec<Value> {
        if let Event::Pull { name, event } = &event {
            if self.mode == Mode::Quiet {
                return Vec::new();
            }
            let Ok(reference) = name.parse() else { return Vec::new() };
            return self.pulls.entry(name.clone()).or_insert_with(|| PullLines::new(reference)).lines(event);
        }
        match self.mode {
            Mode::Quiet => Vec::new(),
            Mode::Events => self.own(&event),
            Mode::Classic => self.classic(event),
        }
    }

    fn own(&mut self, event: &Event) -> Vec<Value> {
        let value = match event {
            Event::Planned(steps) => {
                let steps: Vec<Value> = steps
                    .iter()
                    .map(|s| {
                        json!({ "index": s.index, "text": s.text, "stage": s.stage, "place": [s.place.0, s.place.1] })
                    })
                    .collect();
                json!({ "event": "plan", "steps": steps })
            }
            Event::Warning(w) => json!({
                "event": "warning",
                "rule": w.rule.name(),
                "detail": w.detail,
                "url": w.rule.url(),
                "lines": [w.lines.0, w.lines.1],
            }),
            Event::CacheImport { .. } | Event::CacheLost { .. } | Event::CacheExport { .. } => {
                json!({ "event": "note", "text": cache_text(event).unwrap_or_default() })
            }
            Event::Pull { .. } => return Vec::new(),
            Event::Started { index } => json!({ "event": "start", "index": index }),
            Event::Running { index, workspace } => json!({ "event": "run", "index": index, "id": workspace }),
            Event::Output { index, is_stderr, bytes } => {
                let text = self.text(*index, *is_stderr, bytes);
                json!({ "event": "output", "index": index, "stderr": is_stderr, "text": text })
            }
            Event::Note { index, text } => json!({ "event": "note", "index": index, "text": text }),
            Event::Finished { index, result } => {
                json!({ "event": "finish", "index": index, "cached": result.from_cache, "image": result.image_id })
            }
            Event::StageFinished { .. } => return Vec::new(),
        };
        vec![json!({ "brig": value })]
    }

    fn classic(&mut self, event: Event) -> Vec<Value> {
        let (index, lines) = match event {
            Event::Planned(steps) => {
                self.done = vec![false; steps.len()];
                self.steps = steps;
                return Vec::new();
            }
            Event::Started { index } => {
                let text = self.steps.get(index).map_or("", |s| s.text.as_str());
                let line = format!("Step {}/{} : {text}\n", index + 1, self.steps.len());
                (index, vec![stream_line(line)])
            }
            Event::Running { index, workspace } => {
                let line = format!(" ---> Running in {}\n", short(&workspace));
                self.workspaces.insert(index, workspace);
                (index, vec![stream_line(line)])
            }
            Event::Output { index, is_stderr, bytes } => {
                let text = self.text(index, is_stderr, &bytes);
                if text.is_empty() {
                    return Vec::new();
                }
                // Docker's own colour for what went to standard error.
                let text = if is_stderr { format!("\u{1b}[91m{text}\u{1b}[0m") } else { text };
                (index, vec![stream_line(text)])
            }
            Event::Note { index, text } => (index, vec![stream_line(format!("{text}\n"))]),
            Event::Finished { index, result } => {
                let mut lines = Vec::new();
                if result.from_cache {
                    lines.push(stream_line(" ---> Using cache\n".into()));
                }
                if let Some(workspace) = self.workspaces.remove(&index) {
                    let line = format!(" ---> Removed intermediate container {}\n", short(&workspace));
                    lines.push(stream_line(line));
                }
                if !result.image_id.is_empty() {
                    lines.push(stream_line(format!(" ---> {}\n", short(&result.image_id))));
                }
                let mut out = self.in_turn(index, lines);
                out.extend(self.next(index));
                return out;
            }
            Event::CacheImport { .. } | Event::CacheLost { .. } | Event::CacheExport { .. } => {
                return cache_text(&event).map(|text| stream_line(format!("{text}\n"))).into_iter().collect();
            }
            Event::Warning(_) | Event::Pull { .. } | Event::StageFinished { .. } => return Vec::new(),
        };
        self.in_turn(index, lines)
    }

    /// The lines, if it is their step's turn.
    fn in_turn(&mut self, index: usize, lines: Vec<Value>) -> Vec<Value> {
        if index <= self.current {
            return lines;
        }
        self.waiting.entry(index).or_default().extend(lines);
        Vec::new()
    }

    /// Goes on to the next step that is not done, with what waited on the way.
    fn next(&mut self, index: usize) -> Vec<Value> {
        if let Some(done) = self.done.get_mut(index) {
            *done = true;
        }
        let mut out = Vec::new();
        while self.done.get(self.current) == Some(&true) {
            self.current += 1;
            out.extend(self.waiting.remove(&self.current).unwrap_or_default());
        }
        out
    }

    /// Output as text; the beginning of a character waits for its end.
    fn text(&mut self, index: usize, is_stderr: bool, bytes: &[u8]) -> String {
        let mut whole = self.cut.remove(&(index, is_stderr)).unwrap_or_default();
        whole.extend_from_slice(bytes);
        if let Err(e) = std::str::from_utf8(&whole)
            && e.error_len().is_none()
        {
            let rest = whole.split_off(e.valid_up_to());
            self.cut.insert((index, is_stderr), rest);
        }
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// What waits is shown before a failure: it may be what failed.
    fn rest(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }

    pub(crate) fn success(&mut self, built: &Built, tags: &[String]) -> Vec<Value> {
        let id = built.image_id.to_string();
        let mut out = self.rest();
        match self.mode {
            Mode::Quiet => out.push(stream_line(format!("{id}\n"))),
            Mode::Classic | Mode::Events => {
                out.push(json!({ "aux": { "ID": id } }));
                out.push(stream_line(format!("Successfully built {}\n", short(&id))));
                out.extend(tags.iter().map(|tag| stream_line(format!("Successfully tagged {tag}\n"))));
            }
        }
        if self.mode == Mode::Events {
            let (digest, size) = (built.manifest.digest.to_string(), built.manifest.size);
            let kind = &built.manifest.media_type;
            let images: Vec<Value> = built
                .images
                .iter()
                .map(|(platform, id)| json!({ "platform": platform.to_string(), "image": id.to_string() }))
                .collect();
            out.push(json!({ "brig": {
                "event": "built", "image": id, "digest": digest, "size": size, "mediaType": kind, "tags": tags,
                "images": images,
            } }));
        }
        out
    }

    pub(crate) fn failure(&mut self, error: &build::Error) -> Vec<Value> {
        let mut out = self.rest();
        let message = if self.mode == Mode::Events { error.report() } else { error.text() };
        out.push(json!({ "errorDetail": { "code": error.code(), "message": message }, "error": message }));
        out
    }
}

/// What happened to a shared cache, in words.
fn cache_text(event: &Event) -> Option<String> {
    Some(match event {
        Event::CacheImport { name, error: None } => format!("importing cache manifest from {name}"),
        Event::CacheImport { name, error: Some(e) } => {
            format!("[Warning] importing cache manifest from {name}: {e}")
        }
        Event::CacheLost { why } => format!("[Warning] {why}"),
        Event::CacheExport { text, error: None } => text.clone(),
        Event::CacheExport { text, error: Some(e) } => format!("[Warning] {text}: {e}"),
        _ => return None,
    })
}

fn stream_line(text: String) -> Value {
    json!({ "stream": text })
}

/// Twelve digits of an id.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use build::StepResult;

    fn info(index: usize) -> StepInfo {
        StepInfo {
            index,
            text: format!("RUN {index}"),
            stage: "s".into(),
            place: (1, 1),
            is_run: true,
            lines: (1, 1),
        }
    }

    fn show(values: Vec<Value>) -> String {
        values.iter().filter_map(|v| v["stream"].as_str()).collect()
    }

    #[test]
    fn steps_are_told_in_the_order_of_the_file() {
        let mut lines = Lines::new(Mode::Classic);
        let result = || StepResult { image_id: "sha256:0123456789abcdef".into(), from_cache: false };
        assert!(lines.event(Event::Planned(vec![info(0), info(1)])).is_empty());
        assert_eq!(show(lines.event(Event::Started { index: 0 })), "Step 1/2 : RUN 0\n");
        assert!(lines.event(Event::Started { index: 1 }).is_empty());
        assert!(lines.event(Event::Finished { index: 1, result: result() }).is_empty());
        let last = show(lines.event(Event::Finished { index: 0, result: result() }));
        assert_eq!(last, " ---> 0123456789ab\nStep 2/2 : RUN 1\n ---> 0123456789ab\n");
    }

    #[test]
    fn characters_that_are_cut_are_put_together() {
        let mut lines = Lines::new(Mode::Classic);
        lines.event(Event::Planned(vec![info(0)]));
        let output = |bytes: &[u8]| Event::Output { index: 0, is_stderr: false, bytes: bytes.to_vec() };
        assert_eq!(show(lines.event(output(&[b'a', 0xc3]))), "a");
        assert_eq!(show(lines.event(output(&[0xa9, 0xff]))), "é\u{fffd}");
    }
}
