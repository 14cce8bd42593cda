//! The events of a build as BuildKit's clients draw them: vertexes, statuses, logs, warnings.

use crate::board::{Board, Task};
use crate::wire::{Position, Range, SourceInfo, Timestamp, Vertex, VertexWarning};
use build::{Event, StepInfo};
use engine::PullEvent;
use oci::Digest;
use registry_client::Progress as Transfer;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Instructions that change files, or may: the only ones that clients see.
const SHOWN: &[&str] = &["FROM", "RUN", "COPY", "ADD", "WORKDIR"];

/// A file that warnings point into, and the work that found it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) vertex: String,
}

/// Draws the events of one build.
#[derive(Debug)]
pub(crate) struct Drawing {
    board: Arc<Board>,
    /// Tells vertexes of one platform from those of another.
    salt: String,
    /// Stands before the stage's name where several platforms are built.
    platform: Option<String>,
    source: Source,
    vertexes: BTreeMap<usize, Vertex>,
    /// Lines of each step.
    lines: BTreeMap<usize, (u32, u32)>,
    pulls: HashMap<String, (Task, HashMap<Digest, u64>)>,
}

impl Drawing {
    pub(crate) fn new(board: Arc<Board>, salt: String, platform: Option<String>, source: Source) -> Drawing {
        Drawing {
            board,
            salt,
            platform,
            source,
            vertexes: BTreeMap::new(),
            lines: BTreeMap::new(),
            pulls: HashMap::new(),
        }
    }

    fn digest(&self, what: &str) -> String {
        Digest::of(format!("{}\0{what}", self.salt).as_bytes()).to_string()
    }

    pub(crate) async fn event(&mut self, event: Event) {
        match event {
            Event::Planned(steps) => self.planned(&steps),
            Event::Warning(warning) => self.board.warning(self.warning(&warning)),
            Event::Pull { name, event } => self.pull(&name, &event),
            Event::Started { index } => {
                if let Some(vertex) = self.vertexes.get_mut(&index) {
                    vertex.started = Some(Timestamp::now());
                    self.board.vertex(vertex.clone());
                }
            }
            Event::CacheImport { name, error } => {
                let (digest, what) =
                    (format!("cache {name}"), format!("importing cache manifest from {name}"));
                let task = Task::begin(&self.board, self.digest(&digest), what);
                match error {
                    None => task.done(),
                    Some(e) => task.failed(&e),
                }
            }
            Event::CacheLost { why } => {
                let task = Task::begin(&self.board, self.digest(&why), "using a shared cache");
                task.failed(&why);
            }
            // Told where it is done.
            Event::CacheExport { .. } => {}
            Event::Running { .. } | Event::StageFinished { .. } => {}
            Event::Output { index, is_stderr, bytes } => {
                if let Some(vertex) = self.vertexes.get(&index) {
                    self.board.log(&vertex.digest, is_stderr, bytes).await;
                }
            }
            Event::Note { index, text } => {
                if let Some(vertex) = self.vertexes.get(&index) {
                    self.board.log(&vertex.digest, false, format!("{text}\n").into_bytes()).await;
                }
            }
            Event::Finished { index, result } => {
                if let Some(vertex) = self.vertexes.get_mut(&index) {
                    vertex.completed = Some(Timestamp::now());
                    vertex.cached = result.from_cache;
                    self.board.vertex(vertex.clone());
                }
            }
        }
    }

    fn planned(&mut self, steps: &[StepInfo]) {
        for (_, (task, _)) in self.pulls.drain() {
            task.done();
        }
        let is_shown = |s: &&StepInfo| {
            let word = s.text.split_whitespace().next().unwrap_or_default();
            !s.stage.is_empty() && SHOWN.iter().any(|w| w.eq_ignore_ascii_case(word))
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for step in steps.iter().filter(is_shown) {
            *counts.entry(&step.stage).or_default() += 1;
        }
        let several = counts.len() > 1;
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut before: BTreeMap<&str, String> = BTreeMap::new();
        for step in steps.iter().filter(is_shown) {
            let place = places.entry(&step.stage).or_default();
            *place += 1;
            let mut words: Vec<&str> = self.platform.as_deref().into_iter().collect();
            if several {
                words.push(&step.stage);
            }
            let place = format!("{place}/{}", counts[step.stage.as_str()]);
            words.push(&place);
            let vertex = Vertex {
                digest: self.digest(&format!("step {}", step.index)),
                inputs: before.get(step.stage.as_str()).cloned().into_iter().collect(),
                name: format!("[{}] {}", words.join(" "), step.text),
                ..Vertex::default()
            };
            before.insert(&step.stage, vertex.digest.clone());
            self.board.vertex(vertex.clone());
            self.vertexes.insert(step.index, vertex);
            self.lines.insert(step.index, step.lines);
        }
    }

    fn pull(&mut self, name: &str, event: &PullEvent) {
        let digest = self.digest(&format!("pull {name}"));
        let board = self.board.clone();
        let (task, sizes) = self.pulls.entry(name.to_string()).or_insert_with(|| {
            let task = Task::begin(&board, digest, format!("[internal] pull {name}"));
            (task, HashMap::new())
        });
        match event {
            PullEvent::Transfer(Transfer::LayerQueued { digest, size }) => {
                sizes.insert(*digest, *size);
                task.progress(&digest.to_string(), 0, *size, false);
            }
            PullEvent::Transfer(Transfer::Downloading { digest, current, total }) => {
                task.progress(&digest.to_string(), *current, *total, false);
            }
            PullEvent::Transfer(
                Transfer::DownloadComplete { digest } | Transfer::AlreadyExists { digest },
            ) => {
                if let Some(size) = sizes.get(digest) {
                    task.progress(&digest.to_string(), *size, *size, true);
                }
            }
            PullEvent::Transfer(
                Transfer::Resolving | Transfer::Retrying { .. } | Transfer::VerifyingChecksum { .. },
            )
            | PullEvent::Extract(_)
            | PullEvent::Done { .. } => {}
        }
    }

    fn warning(&self, warning: &dockerfile::Warning) -> VertexWarning {
        let rule = warning.rule;
        let (first, last) = warning.lines;
        let line = i32::try_from(first).unwrap_or(i32::MAX);
        VertexWarning {
            vertex: self.source.vertex.clone(),
            level: 1,
            short: format!("{}: {} (line {line})", rule.name(), warning.detail).into_bytes(),
            detail: vec![rule.description().as_bytes().to_vec()],
            url: rule.url(),
            info: Some(source_info(&self.source.name, &self.source.text)),
            ranges: vec![range(first, last)],
        }
    }

    /// The build failed: so did what was being done. The lines of the first of it.
    pub(crate) fn failed(&mut self, error: &str) -> Option<(u32, u32)> {
        for (_, (task, _)) in self.pulls.drain() {
            task.failed(error);
        }
        let mut place = None;
        let going = self.vertexes.iter_mut().filter(|(_, v)| v.started.is_some() && v.completed.is_none());
        for (index, vertex) in going {
            vertex.completed = Some(Timestamp::now());
            vertex.error = error.to_string();
            self.board.vertex(vertex.clone());
            place = place.or_else(|| self.lines.get(index).copied());
        }
        place
    }
}

pub(crate) fn source_info(name: &str, text: &str) -> SourceInfo {
    SourceInfo { filename: name.into(), data: text.as_bytes().to_vec(), language: "Dockerfile".into() }
}

pub(crate) fn range(first: u32, last: u32) -> Range {
    let at = |line: u32| Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
    Range { start: at(first), end: at(last) }
}
