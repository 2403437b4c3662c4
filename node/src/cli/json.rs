//! What goes to stdout: lines for people, or one JSON object a line for programs.

use std::io::Write;

use serde_json::{Map, Value, json};

use ftx_proto::name::printable;

use crate::error::Error;
use crate::fetch::report::{SourceReport, SourceState};

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    /// stdout is a file's; what there is to say goes to stderr.
    aside: bool,
}

impl Output {
    /// For programs if `json`, else for people.
    pub fn new(json: bool) -> Self {
        Output { json, aside: false }
    }

    /// The same, but on stderr: where stdout gets the content of a file, nothing else may come between.
    pub fn aside(self) -> Self {
        Output { aside: true, ..self }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people; programs do not get it, nor does stderr.
    pub fn line(&self, text: impl std::fmt::Display) {
        if !self.json && !self.aside {
            self.write_line(format_args!("{text}"));
        }
    }

    /// An event for programs; people do not get it.
    pub fn event(&self, event: &str, fields: Value) {
        if self.json {
            self.write_line(format_args!("{}", object(event, fields)));
        }
    }

    /// The last word of a command that failed.
    pub fn error(&self, error: &Error) {
        if !self.json {
            // Whatever is in it, only its lines are lines: names and words of others do not write to the terminal.
            let lines: Vec<_> = error.message.split('\n').map(|line| printable(line).to_string()).collect();
            eprintln!("ftx-node: {}", lines.join("\n"));
            return;
        }
        let mut fields = json!({ "code": error.code.as_str(), "message": error.message });
        if !error.contents.is_empty() {
            let contents = error.contents.iter().map(|content| {
                let nodes = content
                    .nodes
                    .iter()
                    .map(|(node, name)| json!({ "node": node.to_string(), "name": name }));
                json!({
                    "root": content.root.map(|root| root.to_string()),
                    "size": content.size,
                    "mtime": content.mtime,
                    "nodes": nodes.collect::<Vec<_>>(),
                })
            });
            fields["contents"] = contents.collect();
        }
        self.event("error", fields);
    }

    /// Writes a line at once. A reader that went away is no reason to panic, and nothing else can be done about it.
    fn write_line(&self, line: std::fmt::Arguments<'_>) {
        let _ = if self.aside {
            writeln!(std::io::stderr().lock(), "{line}")
        } else {
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{line}").and_then(|()| stdout.flush())
        };
    }
}

/// An event as it stands on its line.
pub fn object(event: &str, fields: Value) -> Value {
    let mut object = Map::new();
    object.insert("v".to_owned(), json!(1));
    object.insert("event".to_owned(), json!(event));
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object)
}

/// A source as it stands in the events of a fetch.
pub fn source(source: &SourceReport) -> Value {
    let (state, reason) = match &source.state {
        SourceState::Joined => ("joined", None),
        SourceState::Left(reason) => ("left", Some(reason)),
        SourceState::Dropped(reason) => ("dropped", Some(reason)),
    };
    json!({
        "node": source.node.to_string(),
        "name": printable(&source.name).to_string(),
        "addr": source.addr.to_string(),
        "bytes": source.bytes,
        "chunks": source.chunks,
        "retransmitted": source.retransmitted,
        "bad": source.bad,
        "state": state,
        "reason": reason,
        "lane": source.lane.as_str(),
        "lane_reason": source.lane_reason,
        "fragments_again": source.fragments_again,
    })
}
