//! A soak, for people and for programs: a line every minute, and what came of it.

use ftx_node::cli::json::object;
use ftx_node::cli::text;
use ftx_node::error::Error;
use serde_json::{Value, json};

use super::write_line;
use crate::soak::{Figures, Soak, SoakOutcome, Usage};

/// Where it is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Display {
    pub(super) json: bool,
}

impl Display {
    pub(super) fn begin(self, soak: &Soak) {
        let scenario = &soak.scenario;
        if self.json {
            let fields = json!({
                "nodes": scenario.nodes,
                "sources": scenario.sources,
                "kill": scenario.kill,
                "liars": scenario.liars,
                "seed": scenario.seed,
                "seconds": soak.duration.as_secs_f64(),
            });
            return tell("begin", fields);
        }
        write_line(format_args!(
            "  {} s with {} nodes, of which {} share (in each round {} are killed and {} lie) and {} fetch; seed {}",
            soak.duration.as_secs(),
            scenario.nodes,
            scenario.sources,
            scenario.kill,
            scenario.liars,
            scenario.nodes - scenario.sources,
            scenario.seed
        ));
    }

    pub(super) fn figures(self, figures: &Figures) {
        match self.json {
            true => tell("figures", of_figures(figures)),
            false => write_line(format_args!("  {}", in_words(figures))),
        }
    }

    pub(super) fn end(self, outcome: &SoakOutcome) {
        if self.json {
            let mut fields = of_figures(&outcome.figures);
            fields["ok"] = json!(outcome.problems.is_empty());
            fields["problems"] = json!(outcome.problems);
            fields["before"] = of_usage(&outcome.before);
            fields["warm"] = of_usage(&outcome.warm);
            fields["after"] = of_usage(&outcome.after);
            return tell("done", fields);
        }
        self.figures(&outcome.figures);
        for (when, usage) in [
            ("before the first node", &outcome.before),
            ("when it was warm", &outcome.warm),
            ("between the last rounds", &outcome.figures.usage),
            ("after the last node", &outcome.after),
        ] {
            let Usage { descriptors, threads, .. } = usage;
            let memory = text::bytes(usage.memory);
            write_line(format_args!(
                "  {when:<24} {memory:>9}  {descriptors:>5} descriptors  {threads:>4} threads"
            ));
        }
        match outcome.problems.as_slice() {
            [] => write_line(format_args!("  everything was right, and nothing has grown")),
            problems => {
                for problem in problems {
                    write_line(format_args!("  WRONG  {problem}"));
                }
            }
        }
    }

    pub(super) fn failed(self, error: &Error) {
        match self.json {
            true => tell("error", json!({ "code": error.code.as_str(), "message": error.message })),
            false => eprintln!("ftx-sim: {error}"),
        }
    }
}

fn in_words(figures: &Figures) -> String {
    let Figures { rounds, right, wrong, dropped, joined, left, killed, lied, usage, .. } = figures;
    format!(
        "{:>6.1} min  {rounds} rounds, {right} fetches right ({}), {wrong} wrong, {dropped} dropped; {joined} nodes joined, \
         {left} left, {killed} killed, {lied} lied; {}, {} descriptors, {} threads",
        figures.elapsed.as_secs_f64() / 60.0,
        text::bytes(figures.bytes),
        text::bytes(usage.memory),
        usage.descriptors,
        usage.threads
    )
}

fn of_figures(figures: &Figures) -> Value {
    let mut fields = json!({
        "seconds": figures.elapsed.as_secs_f64(),
        "rounds": figures.rounds,
        "right": figures.right,
        "wrong": figures.wrong,
        "dropped": figures.dropped,
        "bytes": figures.bytes,
        "joined": figures.joined,
        "left": figures.left,
        "killed": figures.killed,
        "lied": figures.lied,
    });
    fields["usage"] = of_usage(&figures.usage);
    fields
}

fn of_usage(usage: &Usage) -> Value {
    json!({ "memory": usage.memory, "descriptors": usage.descriptors, "threads": usage.threads })
}

fn tell(event: &str, fields: Value) {
    write_line(format_args!("{}", object(event, fields)));
}
