//! `ftx-sim swarm`: what can be said, and what is shown.

use clap::Args;
use ftx_node::cli::json::{object, source};
use ftx_node::cli::text::{self, parse_bytes};
use ftx_node::error::Error;
use ftx_node::fetch::report::Report;
use ftx_proto::digest::Digest;
use ftx_proto::name::printable;
use serde_json::{Value, json};

use super::write_line;
use crate::outcome::Fetched;
use crate::run::Event;
use crate::swarm::{Measured, Swarm};

/// Who fetches, from how fast a source.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct SwarmOptions {
    /// How many nodes fetch the file, all at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    nodes: usize,
    /// What the only source sends at most, to all together
    #[arg(long, value_name = "RATE", default_value = "50MB/s", value_parser = parse_bytes)]
    source_rate: u64,
    /// How large the file is, which is made from the seed
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    size: u64,
}

const AFTER_HELP: &str = "\
First one node fetches the file alone, then all do at once. `ratio` is what the last of them needs, as a multiple of what
one needs alone; `source_sent` is what the source has sent to all of them, as a multiple of the file. Both would be the
number of nodes if they did not serve each other, and 1 if each byte left the source once and all had it at once. All nodes
run in this process: where its processors are what is slow, both say little about a network.

Exit status: 0 every fetch ended with the right bytes, 1 some did not, 2 usage, 130 interrupted.";

impl SwarmOptions {
    /// What the options describe.
    pub(super) fn swarm(&self, seed: u64) -> Result<Swarm, Error> {
        let swarm = Swarm { nodes: self.nodes, source_rate: self.source_rate, size: self.size, seed };
        swarm.check()?;
        Ok(swarm)
    }
}

/// Where a measurement is shown.
pub(super) struct Display {
    json: bool,
    swarm: Swarm,
}

impl Display {
    pub(super) fn new(json: bool, swarm: Swarm) -> Self {
        let Swarm { nodes, source_rate, size, seed } = swarm;
        if json {
            let fields = json!({ "nodes": nodes, "source_rate": source_rate, "size": size, "seed": seed });
            tell("begin", fields);
        } else {
            write_line(format_args!(
                "{nodes} nodes want {} at once, and the only one that has it sends {}/s. First one of them fetches it alone.\n",
                text::bytes(size),
                text::bytes(source_rate)
            ));
        }
        Display { json, swarm }
    }

    /// Something has happened in the run of so many fetchers.
    pub(super) fn event(&mut self, fetchers: usize, event: &Event<'_>) {
        match event {
            Event::Started(_) if !self.json => eprintln!("ftx-sim: {fetchers} of {} fetch", self.swarm.nodes),
            Event::Fetched(fetched) if self.json => {
                let mut fields = of_fetch(fetched);
                fields["fetchers"] = json!(fetchers);
                tell("fetched", fields);
            }
            _ => {}
        }
    }

    /// Whether every fetch was right.
    pub(super) fn end(&mut self, measured: &Measured) -> bool {
        let problems = measured.problems();
        if self.json {
            let sent: u64 = measured.together.sources.iter().map(|fate| fate.sent).sum();
            let seconds = |took: Option<std::time::Duration>| took.map(|took| took.as_secs_f64());
            tell(
                "done",
                json!({
                    "ok": problems.is_empty(),
                    "problems": problems,
                    "size": measured.together.original.size,
                    "sha256": Digest(measured.together.original.sha256).to_string(),
                    "nodes": self.swarm.nodes,
                    "seconds_alone": seconds(measured.alone_took()),
                    "seconds": seconds(measured.together_took()),
                    "ratio": measured.ratio(),
                    "source_bytes_sent": sent,
                    "source_sent": measured.source_sent(),
                    "fetches": measured.together.fetches.iter().map(of_fetch).collect::<Vec<_>>(),
                }),
            );
        } else {
            self.table(measured);
            for problem in &problems {
                write_line(format_args!("  wrong: {problem}"));
            }
        }
        problems.is_empty()
    }

    fn table(&self, measured: &Measured) {
        for fetched in &measured.together.fetches {
            match &fetched.result {
                Ok(report) => write_line(format_args!("  {}", row(&fetched.name, report, measured))),
                Err(error) => write_line(format_args!("  {}: {error}", fetched.name)),
            }
        }
        if let (Some(alone), Some(together), Some(ratio)) =
            (measured.alone_took(), measured.together_took(), measured.ratio())
        {
            write_line(format_args!(
                "\n  one alone {:.2} s; all {} in {:.2} s: ratio {ratio:.2}; the source sent {:.2} times the file",
                alone.as_secs_f64(),
                self.swarm.nodes,
                together.as_secs_f64(),
                measured.source_sent()
            ));
        }
    }

    /// It could not be run.
    pub(super) fn failed(json: bool, error: &Error) {
        if json {
            tell("error", json!({ "code": error.code.as_str(), "message": error.message }));
        } else {
            eprintln!("ftx-sim: {error}");
        }
    }
}

/// Who fetched, when it was done, and what it got from whom.
fn row(name: &str, report: &Report, measured: &Measured) -> String {
    let is_source = |node| measured.together.sources.iter().any(|fate| fate.id == node);
    let from_source: u64 = report.sources.iter().filter(|it| is_source(it.node)).map(|it| it.bytes).sum();
    let others: Vec<String> = report
        .sources
        .iter()
        .filter(|it| !is_source(it.node) && it.bytes > 0)
        .map(|it| format!("{} {}", printable(&it.name), text::bytes(it.bytes)))
        .collect();
    format!(
        "{name:<8} done after {:>6.2} s: {} from the source; {}",
        report.elapsed.as_secs_f64(),
        text::bytes(from_source),
        if others.is_empty() { "nothing from others".to_owned() } else { others.join(", ") }
    )
}

fn of_fetch(fetched: &Fetched) -> Value {
    match &fetched.result {
        Ok(report) => json!({
            "name": fetched.name,
            "verified": fetched.wrong.is_none(),
            "wrong": fetched.wrong,
            "seconds": report.elapsed.as_secs_f64(),
            "sources": report.sources.iter().map(source).collect::<Vec<_>>(),
        }),
        Err(error) => json!({
            "name": fetched.name,
            "verified": false,
            "code": error.code.as_str(),
            "message": error.message,
        }),
    }
}

fn tell(event: &str, fields: Value) {
    write_line(format_args!("{}", object(event, fields)));
}
