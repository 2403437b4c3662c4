//! Progress of a fetch on stderr: a bar on a terminal, else a line every few seconds; events with `--json`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::name::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::args::CommonOptions;
use super::json::{self, Output};
use super::log;
use super::text;
use crate::fetch::report::{Progress, SourceState};
use crate::interop::meter::{Phase, Reading};

/// Shows one fetch.
pub(super) struct Display {
    output: Output,
    what: String,
    bar: Option<ProgressBar>,
    lines: bool,
    told: Option<Instant>,
    rate: Rate,
    states: HashMap<(NodeId, Instance), SourceState>,
}

impl Display {
    /// Shows progress as the options and the terminal want it.
    pub(super) fn new(what: String, options: &CommonOptions, output: Output) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (terminal && !options.quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(200));
            log::draw_around(Some(bar.clone()));
            bar
        });
        let lines = !terminal && !options.quiet && !output.is_json();
        Display { output, what, bar, lines, told: None, rate: Rate::default(), states: HashMap::new() }
    }

    /// Nothing is being fetched yet, for this reason.
    pub(super) fn waiting(&mut self, phase: &str, text: &str, bytes: u64, size: u64) {
        if let Some(bar) = &self.bar {
            bar.set_style(style("{spinner} {msg}"));
            bar.set_message(format!("{}: {text}", self.what));
        }
        if self.due(EVENT_INTERVAL, LINE_INTERVAL) {
            self.output
                .event("progress", json!({ "phase": phase, "bytes": bytes, "size": size, "sources": 0 }));
            if self.lines {
                eprintln!("{}: {text}", self.what);
            }
        }
    }

    /// The fetch stands like this.
    pub(super) fn fetching(&mut self, progress: &Progress) {
        self.rate.observe(progress.bytes - progress.resumed);
        self.tell_sources(progress);
        let joined = progress.sources.iter().filter(|s| s.state == SourceState::Joined).count();
        let per_second = self.rate.per_second();
        let state = format!(
            "{}/s  {}  {joined} {}  {}",
            text::bytes(per_second as u64),
            self.rate.remaining(progress.size - progress.bytes),
            if joined == 1 { "source" } else { "sources" },
            progress.phase.as_str()
        );
        if let Some(bar) = &self.bar {
            bar.set_style(style("{prefix} [{bar:30}] {percent:>3}%  {msg}"));
            bar.set_prefix(self.what.clone());
            bar.set_length(progress.size);
            bar.set_position(progress.bytes);
            bar.set_message(format!(
                "{} of {}  {state}",
                text::bytes(progress.bytes),
                text::bytes(progress.size)
            ));
        }
        if self.due(EVENT_INTERVAL, LINE_INTERVAL) {
            self.output.event(
                "progress",
                json!({
                    "phase": progress.phase.as_str(),
                    "bytes": progress.bytes,
                    "safe": progress.safe,
                    "size": progress.size,
                    "sources": joined,
                    "bytes_per_second": per_second,
                }),
            );
            if self.lines {
                eprintln!(
                    "{}: {} of {}  {state}",
                    self.what,
                    text::bytes(progress.bytes),
                    text::bytes(progress.size)
                );
            }
        }
    }

    /// A transfer with one of the older systems stands like this.
    pub(super) fn transferring(&mut self, reading: &Reading) {
        let Reading { phase, size, bytes, resumed } = *reading;
        self.rate.observe(bytes.saturating_sub(resumed));
        let per_second = self.rate.per_second();
        let state = match phase {
            // Nothing is known of the file yet.
            Phase::Connecting => phase.as_str().to_owned(),
            _ => format!(
                "{} of {}  {}/s  {}  {}",
                text::bytes(bytes),
                text::bytes(size),
                text::bytes(per_second as u64),
                self.rate.remaining(size - bytes),
                phase.as_str()
            ),
        };
        if let Some(bar) = &self.bar {
            bar.set_style(style("{prefix} [{bar:30}] {percent:>3}%  {msg}"));
            bar.set_prefix(self.what.clone());
            bar.set_length(size);
            bar.set_position(bytes);
            bar.set_message(state.clone());
        }
        if self.due(EVENT_INTERVAL, LINE_INTERVAL) {
            self.output.event(
                "progress",
                json!({
                    "phase": phase.as_str(),
                    "bytes": bytes,
                    "size": size,
                    "bytes_per_second": per_second,
                }),
            );
            if self.lines {
                eprintln!("{}: {state}", self.what);
            }
        }
    }

    /// Says who joined and who went, once.
    fn tell_sources(&mut self, progress: &Progress) {
        for source in &progress.sources {
            let who = (source.node, source.instance);
            if self.states.get(&who) == Some(&source.state) {
                continue;
            }
            self.states.insert(who, source.state.clone());
            self.output.event("source", json::source(source));
            if let (SourceState::Dropped(reason), false) = (&source.state, self.output.is_json()) {
                let who = format!("{} ({})", printable(&source.name), source.node.short());
                match &self.bar {
                    Some(bar) => bar.println(format!("{who} dropped: {reason}")),
                    None => eprintln!("{who} dropped: {reason}"),
                }
            }
        }
    }

    /// Whether it is time for the next event or line.
    fn due(&mut self, events: Duration, lines: Duration) -> bool {
        let interval = if self.output.is_json() { events } else { lines };
        let due = self.told.is_none_or(|told| told.elapsed() >= interval);
        if due {
            self.told = Some(Instant::now());
        }
        due
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            log::draw_around(None);
        }
    }
}

/// How fast it goes, over the last few seconds.
#[derive(Debug, Default)]
struct Rate {
    samples: std::collections::VecDeque<(Instant, u64)>,
}

impl Rate {
    fn observe(&mut self, bytes: u64) {
        let now = Instant::now();
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| now - *at > RATE_WINDOW) {
            self.samples.pop_front();
        }
    }

    fn per_second(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some((from, before)), Some((to, after))) if to > from => {
                after.saturating_sub(*before) as f64 / (*to - *from).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    fn remaining(&self, bytes: u64) -> String {
        let per_second = self.per_second();
        if per_second < 1.0 {
            return "ETA -".to_owned();
        }
        let seconds = (bytes as f64 / per_second).ceil() as u64;
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => format!("ETA {s} s"),
            (0, m, s) => format!("ETA {m}:{s:02}"),
            (h, m, s) => format!("ETA {h}:{m:02}:{s:02}"),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours; a broken one shows as a plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// How often programs hear of progress.
pub(super) const EVENT_INTERVAL: Duration = Duration::from_millis(200);

/// How often a line says it where no bar can be drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(3);

/// The time over which the rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(4);

/// Shows the hashing of one file, on a terminal only.
pub(super) struct HashDisplay {
    bar: Option<ProgressBar>,
}

impl HashDisplay {
    /// For a file of `size` bytes.
    pub(super) fn new(path: &std::path::Path, size: u64, options: &CommonOptions) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = (terminal && !options.quiet).then(|| {
            let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
            bar.set_style(style("{prefix} [{bar:30}] {percent:>3}%  {binary_bytes_per_sec}"));
            bar.set_prefix(printable(&path.display().to_string()).to_string());
            bar
        });
        HashDisplay { bar }
    }

    /// So many bytes of it are hashed.
    pub(super) fn hashed(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }
}

impl Drop for HashDisplay {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
