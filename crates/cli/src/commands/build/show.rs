//! What is shown of a build: plain lines, a block that is redrawn on a terminal, or the events themselves.

use crate::error::{Error, Result};
use crate::terminal;
use crate::text::printable;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Lines of a failed step that a terminal shows.
const LAST_LINES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Tty,
    Json,
    Quiet,
}

/// A step on its way.
#[derive(Debug)]
struct Step {
    label: String,
    began: Option<Instant>,
    /// Output that has no line end yet.
    open: String,
    /// The last lines of output.
    last: Vec<String>,
}

/// Shows events.
#[derive(Debug)]
pub(crate) struct Show {
    mode: Mode,
    steps: BTreeMap<u64, Step>,
    running: Vec<u64>,
    /// Lines of the block at the bottom of the terminal.
    drawn: usize,
    began: Instant,
}

impl Show {
    pub(crate) fn new(progress: &str) -> Result<Show> {
        let mode = match progress {
            "auto" if std::io::stderr().is_terminal() => Mode::Tty,
            "auto" | "plain" => Mode::Plain,
            "tty" => Mode::Tty,
            "rawjson" | "json" => Mode::Json,
            "quiet" | "none" => Mode::Quiet,
            other => {
                return Err(Error::Usage(format!(
                    "invalid progress {other:?}: want auto, plain, tty, rawjson or quiet"
                )));
            }
        };
        Ok(Show { mode, steps: BTreeMap::new(), running: Vec::new(), drawn: 0, began: Instant::now() })
    }

    /// Something that is said before the daemon says anything.
    pub(crate) fn note(&mut self, text: &str) -> Result<()> {
        match self.mode {
            Mode::Plain | Mode::Tty => self.above(&format!("{text}\n")),
            Mode::Json | Mode::Quiet => Ok(()),
        }
    }

    /// One line of the stream.
    pub(crate) fn line(&mut self, line: &Value) -> Result<()> {
        match self.mode {
            Mode::Quiet => return Ok(()),
            Mode::Json => return say(&format!("{line}\n")),
            Mode::Plain | Mode::Tty => {}
        }
        let event = &line["brig"];
        let index = event["index"].as_u64().unwrap_or(u64::MAX);
        let text = |name: &str| event[name].as_str().map(printable).unwrap_or_default();
        match event["event"].as_str() {
            Some("plan") => {
                for step in event["steps"].as_array().into_iter().flatten() {
                    let stage = printable(step["stage"].as_str().unwrap_or_default());
                    let what = printable(step["text"].as_str().unwrap_or_default());
                    let label = match stage.as_str() {
                        "" => format!("[internal] {what}"),
                        stage => format!("[{stage} {}/{}] {what}", step["place"][0], step["place"][1]),
                    };
                    let step_ = Step { label, began: None, open: String::new(), last: Vec::new() };
                    self.steps.insert(step["index"].as_u64().unwrap_or(0), step_);
                }
            }
            Some("start") => self.start(index)?,
            Some("output") => self.output(index, event["text"].as_str().unwrap_or_default())?,
            Some("note") if index == u64::MAX => self.above(&format!("{}\n", text("text")))?,
            Some("note") => self.above(&format!("#{} {}\n", index + 1, text("text")))?,
            Some("finish") => self.finish(index, event["cached"] == true)?,
            Some("warning") => {
                let line = &event["lines"][0];
                self.above(&format!("WARN: {}: {} (line {line})\n", text("rule"), text("detail")))?;
            }
            _ => self.pull(line)?,
        }
        self.draw()
    }

    fn pull(&mut self, line: &Value) -> Result<()> {
        let counts = line["progressDetail"]["current"].as_u64().unwrap_or(0) > 0;
        match line["status"].as_str() {
            Some(status) if !counts => {
                let id = line["id"].as_str().map(|id| format!("{}: ", printable(id))).unwrap_or_default();
                self.above(&format!("{id}{}\n", printable(status)))
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, index: u64) -> Result<()> {
        let Some(step) = self.steps.get_mut(&index) else { return Ok(()) };
        step.began = Some(Instant::now());
        self.running.push(index);
        if self.mode == Mode::Plain {
            return say(&format!("#{} {}\n", index + 1, step.label));
        }
        Ok(())
    }

    fn output(&mut self, index: u64, text: &str) -> Result<()> {
        let plain = self.mode == Mode::Plain;
        let Some(step) = self.steps.get_mut(&index) else { return Ok(()) };
        step.open.push_str(text);
        let seconds = step.began.map_or(0.0, |b| b.elapsed().as_secs_f64());
        let mut out = String::new();
        while let Some(at) = step.open.find('\n') {
            let line: String = step.open.drain(..=at).collect();
            let line = printable(line.trim_end_matches(['\n', '\r']));
            if plain {
                out.push_str(&format!("#{} {seconds:.3} {line}\n", index + 1));
            }
            step.last.push(line);
            if step.last.len() > LAST_LINES {
                step.last.remove(0);
            }
        }
        if plain { say(&out) } else { Ok(()) }
    }

    fn finish(&mut self, index: u64, cached: bool) -> Result<()> {
        self.flush(index)?;
        self.running.retain(|i| *i != index);
        let Some(step) = self.steps.get(&index) else { return Ok(()) };
        let seconds = step.began.map_or(0.0, |b| b.elapsed().as_secs_f64());
        let state = if cached { "CACHED".to_string() } else { format!("DONE {seconds:.1}s") };
        let line = match self.mode {
            Mode::Plain => format!("#{} {state}\n", index + 1),
            _ if cached => format!(" => CACHED {}\n", step.label),
            _ => format!(" => {}  {seconds:.1}s\n", step.label),
        };
        self.above(&line)
    }

    /// What a step wrote without a line end.
    fn flush(&mut self, index: u64) -> Result<()> {
        let is_open = self.steps.get(&index).is_some_and(|s| !s.open.is_empty());
        if is_open { self.output(index, "\n") } else { Ok(()) }
    }

    /// After a failure: what ran last says why.
    pub(crate) fn failed(&mut self) -> Result<()> {
        for index in self.running.clone() {
            self.flush(index)?;
        }
        self.erase()?;
        if self.mode == Mode::Tty {
            for step in self.running.iter().filter_map(|i| self.steps.get(i)) {
                say(&format!(" => ERROR {}\n", step.label))?;
                for line in &step.last {
                    say(&format!("    {line}\n"))?;
                }
            }
        }
        self.running.clear();
        Ok(())
    }

    pub(crate) fn done(&mut self) -> Result<()> {
        self.running.clear();
        self.erase()
    }

    /// Text above the block.
    fn above(&mut self, text: &str) -> Result<()> {
        self.erase()?;
        say(text)
    }

    fn erase(&mut self) -> Result<()> {
        if self.drawn > 0 {
            say(&format!("\u{1b}[{}A\u{1b}[J", self.drawn))?;
            self.drawn = 0;
        }
        Ok(())
    }

    /// The block: what runs, with the last line of its output.
    fn draw(&mut self) -> Result<()> {
        if self.mode != Mode::Tty || self.running.is_empty() {
            return Ok(());
        }
        self.erase()?;
        let width = terminal::size().map_or(80, |(_, columns)| usize::from(columns)).max(20);
        let mut out = String::new();
        let mut lines = 0;
        let mut push = |text: String| {
            out.extend(text.chars().take(width - 1));
            out.push('\n');
            lines += 1;
        };
        push(format!("[+] Building {:.1}s", self.began.elapsed().as_secs_f64()));
        for step in self.running.iter().filter_map(|i| self.steps.get(i)) {
            push(format!(
                " => {}  {:.1}s",
                step.label,
                step.began.map_or(0.0, |b| b.elapsed().as_secs_f64())
            ));
            if let Some(last) = step.last.last() {
                push(format!(" => => {last}"));
            }
        }
        self.drawn = lines;
        say(&out)
    }
}

fn say(text: &str) -> Result<()> {
    let written = std::io::stderr().write_all(text.as_bytes());
    written.map_err(|source| Error::Stream { doing: "show progress", source })
}

/// The findings of `--check`; the exit code is 1 where there are some.
pub(crate) fn checks(answer: &Value) -> Result<u8> {
    let warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
    if warnings.is_empty() {
        terminal::print_line("Check complete, no warnings found.")?;
        return Ok(0);
    }
    let count = warnings.len();
    let noun = if count == 1 { "warning has" } else { "warnings have" };
    terminal::print_line(&format!("Check complete, {count} {noun} been found!"))?;
    let name = answer["dockerfile"].as_str().unwrap_or("Dockerfile");
    let source: Vec<&str> = answer["source"].as_str().unwrap_or_default().lines().collect();
    for warning in &warnings {
        let text = |key: &str| printable(warning[key].as_str().unwrap_or_default());
        let (first, last) =
            (warning["lines"][0].as_u64().unwrap_or(0), warning["lines"][1].as_u64().unwrap_or(0));
        let url = text("url");
        let page = if url.is_empty() { String::new() } else { format!(" - {url}") };
        let mut out =
            format!("\nWARNING: {}{page}\n{}\n{}\n\n", text("rule"), text("description"), text("detail"));
        out.push_str(&format!("{name}:{first}\n--------------------\n"));
        for (number, line) in (1u64..).zip(&source) {
            if (first.saturating_sub(2)..=last + 2).contains(&number) {
                let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
                out.push_str(&format!("{number:4} | {mark} {}\n", printable(line)));
            }
        }
        out.push_str("--------------------");
        terminal::print_line(&out)?;
    }
    Ok(1)
}
