//! `ftx-node --share DIR`: a node that offers what it has until it is stopped.

use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use ftx_proto::name::printable;

use super::args::{CommonOptions, ShareOptions};
use super::json::Output;
use super::text;
use crate::config::Sessions;
use crate::error::{Code, Error};
use crate::inbox::closed_to_all;
use crate::node::Node;

pub(super) async fn share(
    options: ShareOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    if options.share.is_empty() && options.inbox.is_none() {
        let message = "nothing to do: give something to share (`ftx-node --share DIR`), or a command (`ftx-node get \
                       NAME`); `ftx-node --help` lists them";
        return Err(Error::new(Code::Usage, message));
    }
    let mut config = common.node_config(Sessions::AtPort)?;
    options.complete(&mut config)?;
    let mut node = Node::start(config.clone(), data).await?;
    // Before anybody is told that it is ready, and may ask it to stop.
    let failed = |error: std::io::Error| Error::other(format!("cannot watch for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let addr = node.session_addr();
    let inbox = config.inbox.as_ref().map(|inbox| &inbox.path);
    let shares: Vec<String> =
        config.shares.iter().chain(inbox).map(|share| share.display().to_string()).collect();
    let services: Map<String, Value> =
        node.services().iter().map(|(name, addr)| (name.to_owned(), json!(addr.to_string()))).collect();
    output.event(
        "ready",
        json!({
            "node": node.id().to_string(),
            "name": node.name(),
            "addr": addr.map(|addr| addr.to_string()),
            "port": addr.map(|addr| addr.port()),
            "shares": shares,
            "services": services,
        }),
    );
    let other_ways = config.services.step.is_some() || config.services.tcp_put.is_some();
    let closed = config.inbox.as_ref().and_then(|inbox| closed_to_all(inbox.from, config.access.is_closed()));
    if let Some(why) = closed.filter(|_| !other_ways) {
        tracing::warn!("nobody can put anything into the inbox: {why}");
    }
    let limit = config.max_upload.map_or(String::new(), |rate| format!(", at most {}/s", text::bytes(rate)));
    let also: String = node
        .services()
        .iter()
        .map(|(name, addr)| format!(", {} at {addr}", name.replace('_', "-")))
        .collect();
    output.line(format_args!(
        "ready: {} ({}) shares {} at port {}{limit}{also}",
        printable(node.name()),
        node.id().short(),
        if shares.is_empty() { "nothing".to_owned() } else { printable(&shares.join(", ")).to_string() },
        addr.map_or(0, |addr| addr.port()),
    ));

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = node.ended() => return Err(Error::other("the node failed beyond repair; its log says why")),
    }
    node.stop().await;
    output.event("done", json!({}));
    Ok(())
}
