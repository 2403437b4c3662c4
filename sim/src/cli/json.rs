//! A run for programs: one object a line.

use ftx_node::cli::json::{object, source};
use ftx_node::error::Error;
use ftx_proto::digest::Digest;
use serde_json::{Value, json};

use super::{Display, write_line};
use crate::outcome::{Fetched, Outcome, SourceFate};
use crate::run::{Event, Total};
use crate::scenario::{Role, Scenario};

/// Objects on stdout.
pub(super) struct Lines;

impl Display for Lines {
    fn begin(&mut self, scenario: &Scenario) {
        tell(
            "begin",
            json!({
                "nodes": scenario.nodes,
                "sources": scenario.sources,
                "kill": scenario.kill,
                "liars": scenario.liars,
                "slow": scenario.slow,
                "max_upload": scenario.max_upload,
                "seed": scenario.seed,
            }),
        );
    }

    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Made(original) => tell(
                "made",
                json!({
                    "path": original.path.display().to_string(),
                    "size": original.size,
                    "sha256": Digest(original.sha256).to_string(),
                }),
            ),
            Event::Started(fleet) => {
                let nodes = fleet.members().map(|(_, member)| {
                    json!({ "node": member.id.to_string(), "name": member.name, "shares": member.file.is_some() })
                });
                tell("started", json!({ "nodes": nodes.collect::<Vec<_>>() }));
            }
            Event::Hashing(hashing) => {
                tell("hashing", json!({ "done": hashing.done, "sources": hashing.sources }));
            }
            Event::Hashed { elapsed } => tell("hashed", json!({ "seconds": elapsed.as_secs_f64() })),
            Event::Spoiled { name } => tell("spoiled", json!({ "name": name })),
            Event::Found { name, resolved, elapsed } => tell(
                "found",
                json!({
                    "name": name,
                    "root": resolved.root.to_string(),
                    "size": resolved.size,
                    "holders": resolved.holders.len(),
                    "seconds": elapsed.as_secs_f64(),
                }),
            ),
            Event::Progress(total) => tell("progress", of_total(total)),
            Event::Killed { name, at } => {
                let mut fields = of_total(at);
                fields["name"] = json!(name);
                tell("killed", fields);
            }
            Event::Fetched(fetched) => tell("fetched", of_fetch(fetched)),
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        let problems = outcome.problems();
        tell(
            "done",
            json!({
                "ok": problems.is_empty(),
                "problems": problems,
                "size": outcome.original.size,
                "sha256": Digest(outcome.original.sha256).to_string(),
                "root": outcome.root.map(|root| root.to_string()),
                "seconds": outcome.elapsed.as_secs_f64(),
                "sources": outcome.sources.iter().map(of_source).collect::<Vec<_>>(),
                "fetches": outcome.fetches.iter().map(of_fetch).collect::<Vec<_>>(),
            }),
        );
    }

    fn failed(&mut self, error: &Error) {
        tell("error", json!({ "code": error.code.as_str(), "message": error.message }));
    }
}

fn tell(event: &str, fields: Value) {
    write_line(format_args!("{}", object(event, fields)));
}

fn of_total(total: &Total) -> Value {
    json!({ "bytes": total.bytes, "size": total.size, "running": total.running, "sources": total.sources })
}

fn of_source(fate: &SourceFate) -> Value {
    let (role, rate) = match fate.role {
        Role::Honest => ("honest", None),
        Role::Killed { .. } => ("killed", None),
        Role::Liar => ("liar", None),
        Role::Slow { rate } => ("slow", Some(rate)),
    };
    json!({
        "node": fate.id.to_string(),
        "name": fate.name,
        "role": role,
        "rate": rate,
        "killed_at": fate.killed_at,
    })
}

fn of_fetch(fetched: &Fetched) -> Value {
    match &fetched.result {
        Ok(report) => json!({
            "name": fetched.name,
            "verified": fetched.wrong.is_none(),
            "wrong": fetched.wrong,
            "path": report.path.display().to_string(),
            "size": report.size,
            "root": report.root.to_string(),
            "seconds": report.elapsed.as_secs_f64(),
            "bytes_per_second": report.bytes_per_second(),
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
