//! `status`: how the node on this machine is, as it tells itself.

use std::fmt::Write;
use std::io;

use serde_json::json;

use super::args::CommonOptions;
use super::json::Output;
use super::text::{bytes, duration};
use crate::error::{Code, Error};
use crate::status::{Asked, FetchStatus, HashingStatus, NodeStatus, SessionStatus, ask_all};

pub(super) async fn status(common: &CommonOptions, output: &Output) -> Result<(), Error> {
    let state = common.state_dir()?;
    let shown = state.display();
    let all = ask_all(&state).await.map_err(|error| {
        let whose = "it answers only the user who started the node";
        Error::other(format!("cannot look for a node in the state folder {shown}: {error}; {whose}"))
    })?;
    if all.is_empty() {
        let message = format!(
            "no node runs with the state folder {shown}; start one with `ftx-node --share DIR`, or name the folder of another \
             with --state"
        );
        return Err(Error::new(Code::NoNode, message));
    }
    let mut silent = Vec::new();
    let mut answered = 0;
    for Asked { instance, answer } in all {
        match answer {
            Ok(status) => {
                answered += 1;
                output.event("status", json!(status));
                output.line(table(&status));
            }
            Err(error) => silent.push(format!("instance {instance} does not answer: {}", reason(&error))),
        }
    }
    match (answered, silent.first()) {
        (0, Some(first)) => {
            let what = "the process hangs or is stopped, if it is not about to end";
            return Err(Error::new(Code::Timeout, format!("{first}; {what}")));
        }
        _ => silent.iter().for_each(|silent| tracing::warn!("{silent}")),
    }
    output.event("done", json!({ "nodes": answered, "silent": silent.len() }));
    Ok(())
}

fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::TimedOut { "it took too long".to_owned() } else { error.to_string() }
}

/// What people get to see, without the last line's end.
fn table(status: &NodeStatus) -> String {
    let mut table = format!(
        "{} ({}), up {}, process {}, instance {}",
        status.name,
        status.node.get(..8).unwrap_or(&status.node),
        duration(status.uptime_seconds),
        status.pid,
        status.instance
    );
    let mut row = |name: &str, text: String| {
        // Writing to text does not fail.
        let _ = write!(table, "\n  {name:<9} {text}");
    };
    let sessions =
        status.session_addr.map_or("no sessions".to_owned(), |addr| format!("sessions at {addr} (TCP)"));
    row("ports", format!("{sessions}, discovery at {} (UDP)", status.port));
    let addresses: Vec<String> =
        status.addresses.iter().map(|address| format!("{} {}", address.interface, address.addr)).collect();
    row("addresses", or_none(addresses.join(", ")));
    if let Some(peers) = status.peers {
        row("others", format!("{peers} on the network"));
    }
    for share in &status.shares {
        let unreadable = match share.unreadable_files {
            0 => String::new(),
            count => format!(", {count} of them cannot be read"),
        };
        let (files, folders) = (share.files, share.folders);
        row(
            "share",
            format!("{}: {files} files, {folders} folders, {}{unreadable}", share.path, bytes(share.bytes)),
        );
    }
    if !status.shares.is_empty() {
        row("hashing", status.hashing.as_ref().map_or(no_answer(), hashing));
    }
    if let Some(hashing) = &status.hashing {
        for file in &hashing.now {
            row("", format!("{}: {} of {}", file.path, bytes(file.done), bytes(file.size)));
        }
        if hashing.skipped > 0 {
            row("skipped", format!("{} entries of the shares are not offered", hashing.skipped));
            for (path, reason) in hashing.skipped_examples.iter().take(SKIPPED_SHOWN_MAX) {
                row("", format!("{path}: {reason}"));
            }
        }
    }
    row(
        "upload",
        status.upload.as_ref().map_or(no_answer(), |upload| {
            let limit = upload.limit.map_or(String::new(), |limit| format!(" (at most {}/s)", bytes(limit)));
            let rate = bytes(upload.bytes_per_second as u64);
            format!("{rate}/s{limit}, {} since the start", bytes(upload.bytes))
        }),
    );
    for peer in &status.sessions {
        row("session", session(peer));
    }
    for running in &status.fetches {
        row("fetch", fetch(running));
    }
    if let Some(inbox) = &status.inbox {
        let (user, total) = (bytes(inbox.user_bytes_max), bytes(inbox.total_bytes_max));
        row("inbox", format!("{}, at most {user} for a user, {total} in all", inbox.path));
    }
    for (name, addr) in &status.services {
        row("service", format!("{} at {addr}", name.replace('_', "-")));
    }
    table
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

fn no_answer() -> String {
    "this part of the node does not answer just now".to_owned()
}

fn hashing(hashing: &HashingStatus) -> String {
    if hashing.loading {
        return "what the last run knew is being read".to_owned();
    }
    let scanning = if hashing.scanning { ", looking for changes" } else { "" };
    if hashing.files_waiting == 0 {
        return format!("all {} files are hashed{scanning}", hashing.files_done);
    }
    let rate = bytes(hashing.bytes_per_second as u64);
    let left = if hashing.bytes_per_second > 0.0 {
        format!(", {} left", duration(hashing.bytes_waiting as f64 / hashing.bytes_per_second))
    } else {
        String::new()
    };
    format!(
        "{} of {} files, {} of {}, {rate}/s{left}{scanning}",
        hashing.files_done,
        hashing.files_done + hashing.files_waiting,
        bytes(hashing.bytes_done),
        bytes(hashing.bytes_done + hashing.bytes_waiting)
    )
}

fn session(peer: &SessionStatus) -> String {
    let who = format!("{} ({}) at {}", peer.name, peer.node.get(..8).unwrap_or(&peer.node), peer.addr);
    let datagrams = match peer.datagram_bytes {
        0 => String::new(),
        sent => format!(", {} in datagrams", bytes(sent)),
    };
    let connections = if peer.connections == 1 { "connection" } else { "connections" };
    format!("{who}: {} in {} {connections}{datagrams}", bytes(peer.stream_bytes), peer.connections)
}

fn fetch(fetch: &FetchStatus) -> String {
    let sources = if fetch.sources == 1 { "source" } else { "sources" };
    format!(
        "{} {}: {}, {} of {}, {}/s, {} {sources}",
        fetch.name,
        fetch.root.get(..8).unwrap_or(&fetch.root),
        fetch.phase,
        bytes(fetch.bytes),
        bytes(fetch.size),
        bytes(fetch.bytes_per_second as u64),
        fetch.sources
    )
}

/// Most entries that are shown with the reason why they are not offered.
const SKIPPED_SHOWN_MAX: usize = 5;
