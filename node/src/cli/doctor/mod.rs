//! `doctor`: what is wrong with this machine or network, each finding with what it means and what to do.
//!
//! It looks around as `peers` does and dials as `get` does, with the node's own parts: what it finds is what they would meet.
//! It changes nothing but what every start of a node makes, the state folder and the identity in it.

mod holders;
mod machine;
mod network;

use serde_json::json;
use tokio::runtime::Handle;

use ftx_proto::name::printable;

use super::args::CommonOptions;
use super::json::Output;
use crate::config::Sessions;
use crate::error::Error;
use crate::node::Node;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    /// It may be what is wanted.
    Warning,
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// Which check it comes from.
    check: &'static str,
    /// What was looked at: an interface, a folder, a node.
    about: String,
    /// What it means.
    says: String,
    /// What to do about it; of what is in order, nothing.
    todo: String,
}

impl Finding {
    fn ok(check: &'static str, about: impl ToString, says: impl Into<String>) -> Self {
        Finding { level: Level::Ok, check, about: about.to_string(), says: says.into(), todo: String::new() }
    }

    fn warning(
        check: &'static str,
        about: impl ToString,
        says: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Finding { level: Level::Warning, todo: todo.into(), ..Self::ok(check, about, says) }
    }

    fn problem(
        check: &'static str,
        about: impl ToString,
        says: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Finding { level: Level::Problem, ..Self::warning(check, about, says, todo) }
    }
}

/// Takes the findings as they come, so that people see at once what is known.
struct Findings<'a> {
    output: &'a Output,
    count: [usize; 3],
}

impl Findings<'_> {
    fn add(&mut self, finding: Finding) {
        let Finding { level, check, about, says, todo } = finding;
        let text = |text: &str| printable(text).to_string();
        let (about, says, todo) = (text(&about), text(&says), text(&todo));
        let (number, word) = match level {
            Level::Ok => (0, "OK"),
            Level::Warning => (1, "warning"),
            Level::Problem => (2, "problem"),
        };
        self.count[number] += 1;
        self.output.event(
            "finding",
            json!({
                "check": check,
                "level": word.to_lowercase(),
                "about": about,
                "says": says,
                "todo": (!todo.is_empty()).then_some(&todo),
            }),
        );
        self.output.line(format_args!("{word:<8} {check:<10} {about}: {says}"));
        if !todo.is_empty() {
            self.output.line(format_args!("{:19} -> {todo}", ""));
        }
    }

    fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }
}

pub(super) async fn doctor(common: CommonOptions, data: Handle, output: &Output) -> Result<(), Error> {
    let mut findings = Findings { output, count: [0; 3] };
    let mut config = common.node_config(Sessions::None)?;
    // First without them: who answers only when asked directly is not found by others.
    let asked_directly = std::mem::take(&mut config.peers);
    findings.extend(machine::clock(&config.state));
    findings.extend(machine::descriptors());
    let (state, is_usable) = machine::state_folder(&config.state);
    findings.extend(state);
    let running = machine::running(&config.state).await;
    findings.extend(running.findings);
    let interfaces = network::interfaces(config.bind);
    findings.extend(interfaces);
    findings.extend(network::session_port(config.bind, config.port, &running.nodes));

    // A state folder that cannot be used says nothing about the network.
    let elsewhere = if is_usable { None } else { tempfile::tempdir().ok() };
    if let Some(elsewhere) = &elsewhere {
        config.state = elsewhere.path().to_owned();
    }
    match Node::start(config, data).await {
        Ok(node) => {
            let looking = network::Looking {
                node: &node,
                port: common.port.unwrap_or(crate::config::DEFAULT_PORT),
                patience: common.search_patience(),
                asked_directly,
                running: &running.nodes,
                // Whose identity was made just now, nobody else can have.
                has_identity: elsewhere.is_none(),
            };
            looking.look(&mut findings).await;
            node.stop().await;
        }
        Err(error) => {
            let todo = "what is told above may say why; nothing can be found before that is mended";
            findings.add(Finding::problem("discovery", "this machine", error.message, todo));
        }
    }
    let [ok, warnings, problems] = findings.count;
    if problems > 0 {
        let others = if warnings > 0 { format!(", {}", counted(warnings, "warning")) } else { String::new() };
        let problems = counted(problems, "problem");
        return Err(Error::other(format!("{problems}{others}; what is told above says what to do")));
    }
    output.line(format_args!("no problem, {}", counted(warnings, "warning")));
    output.event("done", json!({ "ok": ok, "warnings": warnings, "problems": problems }));
    Ok(())
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
