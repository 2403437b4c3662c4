//! A run for people: what happens, a bar while it does, and a table in the end.

use std::io::IsTerminal;
use std::time::Duration;

use ftx_node::cli::text;
use ftx_node::error::Error;
use ftx_node::fetch::report::{Report, SourceReport};
use ftx_proto::digest::Digest;
use ftx_proto::name::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Display, write_line};
use crate::outcome::{Fetched, Outcome, SourceFate};
use crate::run::{Event, Total};
use crate::scenario::{Content, Role, Scenario};

/// Text on stdout, a bar on stderr where that is a terminal.
pub(super) struct Text {
    bar: Option<ProgressBar>,
    bold: bool,
    content: String,
    found: usize,
    fetches: usize,
    /// The bar shows the fetches, and not any more what comes before.
    fetching: bool,
    told_per_cent: u64,
}

impl Text {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("  {msg}"));
            bar
        });
        let bold = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Text { bar, bold, content: String::new(), found: 0, fetches: 0, fetching: false, told_per_cent: 0 }
    }

    /// One of the steps of a run.
    fn step(&self, what: &str, text: impl std::fmt::Display) {
        self.line(format_args!("  {}  {text}", self.strong(&format!("{what:<8}"))));
    }

    fn line(&self, line: impl std::fmt::Display) {
        let write = || write_line(format_args!("{line}"));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn strong(&self, text: &str) -> String {
        if self.bold { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn progress(&mut self, total: &Total) {
        let per_cent = total.bytes * 100 / total.size.max(1);
        if let Some(bar) = &self.bar {
            let (bytes, size) = (text::bytes(total.bytes), text::bytes(total.size));
            bar.set_length(total.size);
            bar.set_position(total.bytes);
            bar.set_message(format!("{bytes} of {size} from {} sources", total.sources));
            if !self.fetching {
                self.fetching = true;
                bar.set_prefix(self.strong("fetching"));
                bar.set_style(style("  {prefix}  [{bar:40}] {percent:>3} %  {msg}"));
            }
        } else if per_cent >= self.told_per_cent + STEP_PER_CENT && total.bytes < total.size {
            self.told_per_cent = per_cent;
            let (bytes, size) = (text::bytes(total.bytes), text::bytes(total.size));
            self.step(
                "fetching",
                format_args!("{per_cent:>3} %  {bytes} of {size} from {} sources", total.sources),
            );
        }
    }

    fn table(&self, outcome: &Outcome) {
        let sent = outcome.sent();
        let all: u64 = sent.iter().map(|(source, _)| source.bytes).sum();
        let title = format!(
            "  {:<9} {:<10} {:>9} {:>6} {:>8} {:>12} {:>6}",
            "source", "id", "bytes", "share", "chunks", "asked again", "wrong"
        );
        self.line("");
        self.line(self.strong(&title));
        // What is out of the ordinary is shown in any case.
        let mut ordinary = 0;
        for (source, fate) in &sent {
            let is_ordinary = fate.is_none_or(|fate| fate.role == Role::Honest) && source.bad == 0;
            ordinary += usize::from(is_ordinary);
            if !is_ordinary || ordinary <= ROWS_MAX {
                self.line(row(source, *fate, all));
            }
        }
        if ordinary > ROWS_MAX {
            self.line(format_args!("  … and {} more like these", ordinary - ROWS_MAX));
        }
        let sum = |field: fn(&SourceReport) -> u64| sent.iter().map(|(source, _)| field(source)).sum::<u64>();
        let total = format!(
            "  {:<20} {:>9} {:>6} {:>8} {:>12} {:>6}",
            "total",
            text::bytes(all),
            "100 %",
            sum(|source| source.chunks),
            sum(|source| source.retransmitted),
            sum(|source| source.bad)
        );
        self.line(self.strong(&total));
        let idle: Vec<&SourceFate> = outcome
            .sources
            .iter()
            .filter(|fate| sent.iter().all(|(source, _)| source.node != fate.id))
            .collect();
        for fate in &idle {
            if let Some(note) = note(fate) {
                self.line(format_args!("  {} took no part ({note})", fate.name));
            }
        }
        // A small file may be there before everybody was asked; whoever was not is told of all the same.
        let slower: Vec<&str> =
            idle.iter().filter(|fate| note(fate).is_none()).map(|fate| fate.name.as_str()).collect();
        if !slower.is_empty() {
            let more = match slower.len().saturating_sub(ROWS_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let named = slower[..slower.len().min(ROWS_MAX)].join(", ");
            self.line(format_args!("  {named}{more} took no part (others were faster)"));
        }
    }
}

impl Display for Text {
    fn begin(&mut self, scenario: &Scenario) {
        let Scenario { nodes, sources, .. } = scenario;
        self.fetches = nodes - sources;
        self.content = match &scenario.content {
            Content::Random(size) => {
                format!("{} of random data (seed {})", text::bytes(*size), scenario.seed)
            }
            Content::File(path) => printable(&path.display().to_string()).to_string(),
        };
        let fetch = match self.fetches {
            1 => "The last one knows nothing but its name: it asks\nthe network for it, and fetches it"
                .to_owned(),
            n => {
                format!("The other {n} know nothing but its name: they ask\nthe network for it, and fetch it")
            }
        };
        self.line(format_args!(
            "{nodes} nodes start in this process, on 127.0.0.1 only; {sources} share a file. {fetch} from all that have it \
             at once. Every byte is encrypted on\nits way and verified when it arrives.\n"
        ));
    }

    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Made(original) => {
                let name = original.path.file_name().unwrap_or_default().to_string_lossy();
                self.step("file", format_args!("{}: {}", printable(&name), self.content));
            }
            Event::Started(fleet) => {
                let names: Vec<&str> = fleet.members().map(|(_, member)| member.name.as_str()).collect();
                let (Some(first), Some(last)) = (names.first(), names.last()) else { return };
                self.step("nodes", format_args!("{first} to {last} are running"));
                if let Some(bar) = &self.bar {
                    bar.enable_steady_tick(Duration::from_millis(100));
                    bar.set_message(format!("{}   the sources hash the file …", self.strong("hashing")));
                }
            }
            Event::Hashing(hashing) => {
                if let Some(bar) = &self.bar {
                    let (done, sources) = (hashing.done, hashing.sources);
                    bar.set_message(format!(
                        "{}   {done} of {sources} sources are done",
                        self.strong("hashing")
                    ));
                }
            }
            Event::Hashed { elapsed } => {
                self.step("hashing", format_args!("all sources have hashed it, in {}", seconds(*elapsed)));
            }
            Event::Spoiled { name } => {
                self.step(
                    "rotten",
                    format_args!("the disk of {name} has changed a byte in every chunk, unnoticed"),
                );
            }
            Event::Found { name, resolved, elapsed } => {
                self.found += 1;
                if self.found <= FOUND_MAX {
                    self.step(
                        "found",
                        format_args!(
                            "{name} has found '{}' on {} nodes in {}: root {}…",
                            resolved.name,
                            resolved.holders.len(),
                            seconds(*elapsed),
                            resolved.root.short()
                        ),
                    );
                }
            }
            Event::Progress(total) => self.progress(total),
            Event::Killed { name, at } => {
                let per_cent = at.bytes * 100 / at.size.max(1);
                self.step("killed", format_args!("{name}, when {per_cent} % were there"));
            }
            Event::Fetched(fetched) => {
                if self.fetches > 1 {
                    self.step("fetched", of_fetch(fetched));
                }
            }
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.table(outcome);
        self.line("");
        let problems = outcome.problems();
        for problem in &problems {
            self.line(format_args!("  {}: {problem}", self.strong("wrong")));
        }
        let reports: Vec<&Report> = outcome.fetches.iter().filter_map(|it| it.result.as_ref().ok()).collect();
        let bytes: u64 = reports.iter().map(|report| report.size).sum();
        let took = match reports.as_slice() {
            [only] => only.elapsed,
            _ => outcome.elapsed,
        };
        let rate = text::bytes((bytes as f64 / took.as_secs_f64().max(1e-6)) as u64);
        let moved = format!("{} in {}, {rate}/s", text::bytes(bytes), seconds(took));
        let sha256 = &Digest(outcome.original.sha256).to_string()[..16];
        let (right, of) = (
            outcome.fetches.iter().filter(|it| it.result.is_ok() && it.wrong.is_none()).count(),
            outcome.fetches.len(),
        );
        match (problems.is_empty(), of) {
            (true, 1) => self.line(format_args!(
                "  {}  {moved}: the fetched file is the original, byte for byte (SHA-256 {sha256}…)",
                self.strong("verified")
            )),
            (true, _) => self.line(format_args!(
                "  {}  {moved}: all {of} fetched files are the original, byte for byte (SHA-256 {sha256}…)",
                self.strong("verified")
            )),
            (false, _) => self.line(format_args!(
                "  {}  {right} of {of} fetches ended with the right bytes",
                self.strong("FAILED")
            )),
        }
    }

    fn failed(&mut self, error: &Error) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        eprintln!("ftx-sim: {error}");
    }
}

fn row(source: &SourceReport, fate: Option<&SourceFate>, all: u64) -> String {
    let note = match fate {
        Some(fate) => note(fate).map(|note| format!("  {note}")),
        None => Some("  had it from the others".to_owned()),
    };
    format!(
        "  {:<9} {:<10} {:>9} {:>4.0} % {:>8} {:>12} {:>6}{}",
        printable(&source.name).to_string(),
        source.node.short(),
        text::bytes(source.bytes),
        source.bytes as f64 * 100.0 / all.max(1) as f64,
        source.chunks,
        source.retransmitted,
        source.bad,
        note.unwrap_or_default()
    )
}

/// What is special about a source.
fn note(fate: &SourceFate) -> Option<String> {
    match (fate.role, fate.killed_at) {
        (Role::Honest, _) => None,
        (Role::Killed { .. }, Some(_)) => Some("was killed".to_owned()),
        (Role::Killed { .. }, None) => Some("to be killed, but all was over too soon".to_owned()),
        (Role::Liar, _) => Some("has a rotten disk".to_owned()),
        (Role::Slow { rate }, _) => Some(format!("sends at most {}/s", text::bytes(rate))),
    }
}

fn of_fetch(fetched: &Fetched) -> String {
    match (&fetched.result, &fetched.wrong) {
        (Err(error), _) => format!("{}: {error}", fetched.name),
        (Ok(_), Some(wrong)) => format!("{}: WRONG: {wrong}", fetched.name),
        (Ok(report), None) => {
            let from = report.sources.iter().filter(|source| source.bytes > 0).count();
            let rate = text::bytes(report.bytes_per_second() as u64);
            format!("{} from {from} nodes in {}, {rate}/s, verified", fetched.name, seconds(report.elapsed))
        }
    }
}

fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.2} s") } else { format!("{seconds:.1} s") }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours; a broken one shows as a plain bar.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// How far it goes from one line to the next where no bar can be drawn.
const STEP_PER_CENT: u64 = 20;

/// Most sources of the ordinary kind in the table.
const ROWS_MAX: usize = 16;

/// Most searches that are told of.
const FOUND_MAX: usize = 3;
