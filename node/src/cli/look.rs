//! `ls` and `peers`: what, and who, is on the network now.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use ftx_proto::digest::{Instance, Root};
use ftx_proto::engine::discovery::places_apart;
use ftx_proto::name::{RelativePath, printable};
use ftx_proto::wire::discovery::{Announce, Want};
use ftx_proto::wire::session::{ListingEntry, Message};

use super::args::CommonOptions;
use super::json::Output;
use super::text;
use crate::actors::discovery::Found;
use crate::config::Sessions;
use crate::error::{Code, Error};
use crate::net::connection;
use crate::node::Node;

/// A node that answered.
pub(super) struct Seen {
    pub(super) announce: Announce,
    /// Where it answered from first.
    pub(super) addr: SocketAddr,
    /// All addresses that it answered from.
    pub(super) addrs: Vec<SocketAddr>,
}

/// Name, root, whether it is a folder, and size: what makes two entries of two nodes the same line.
type Listed = (RelativePath, Option<Root>, bool, u64);

pub(super) async fn peers(common: CommonOptions, data: Handle, output: &Output) -> Result<(), Error> {
    let node = Node::start(common.node_config(Sessions::None)?, data).await?;
    let seen = look_around(&node, &common).await?;
    for peer in &seen {
        let elsewhere: Vec<SocketAddr> = seen.iter().filter_map(|other| same_identity(peer, other)).collect();
        output.event(
            "peer",
            json!({
                "node": peer.announce.node.to_string(),
                "name": printable(&peer.announce.name).to_string(),
                "addr": peer.addr.to_string(),
                "same_identity_at": elsewhere.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            }),
        );
        if let Some(other) = elsewhere.first() {
            tracing::warn!(
                "node {} is at {} and at {} at once: two machines use one identity, as with a copied state folder; remove \
                 the state folder of one of them",
                peer.announce.node.short(),
                peer.addr.ip(),
                other.ip()
            );
        }
        output.line(format_args!(
            "{}  {:<22}  {}",
            peer.announce.node.short(),
            peer.addr,
            printable(&peer.announce.name)
        ));
    }
    output.event("done", json!({ "peers": seen.len() }));
    node.stop().await;
    Ok(())
}

pub(super) async fn ls(
    pattern: Option<String>,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let pattern = pattern
        .map(|pattern| glob::Pattern::new(&pattern))
        .transpose()
        .map_err(|error| Error::new(Code::Usage, format!("the pattern is malformed: {error}")))?;
    let node = Node::start(common.node_config(Sessions::None)?, data).await?;
    let seen = look_around(&node, &common).await?;
    let mut listings = tokio::task::JoinSet::new();
    for peer in seen {
        let dialling = node.dialling(peer.addr);
        listings.spawn(async move {
            let listing = timeout(LISTING_MAX, list(dialling)).await;
            (peer, listing.unwrap_or_else(|_| Err("it does not answer".to_owned())))
        });
    }
    // The same content under the same name is one line, with everybody who has it.
    let mut entries: BTreeMap<Listed, (i64, Vec<Announce>)> = BTreeMap::new();
    while let Some(Ok((peer, listing))) = listings.join_next().await {
        match listing {
            Ok(listing) => {
                let matching =
                    |name: &RelativePath| pattern.as_ref().is_none_or(|p| p.matches(name.as_str()));
                for entry in listing.into_iter().filter(|entry| matching(&entry.name)) {
                    let key = (entry.name, entry.root, entry.is_folder, entry.size);
                    entries.entry(key).or_insert((entry.mtime, Vec::new())).1.push(peer.announce.clone());
                }
            }
            Err(error) => {
                let who = format!(
                    "{} ({}) at {}",
                    printable(&peer.announce.name),
                    peer.announce.node.short(),
                    peer.addr
                );
                tracing::warn!("cannot list what {who} has: {error}");
            }
        }
    }
    let count = entries.len();
    for ((name, root, is_folder, size), (mtime, mut nodes)) in entries {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<String> = nodes.iter().map(|node| printable(&node.name).to_string()).collect();
        output.event(
            "entry",
            json!({
                "name": name.as_str(),
                "kind": if is_folder { "folder" } else { "file" },
                "size": size,
                "mtime": mtime,
                "root": root.map(|root| root.to_string()),
                "nodes": nodes
                    .iter()
                    .map(|node| json!({ "node": node.node.to_string(), "name": printable(&node.name).to_string() }))
                    .collect::<Vec<_>>(),
            }),
        );
        output.line(format_args!(
            "{:>8}  {}  {}  {name}{}  on {}",
            text::bytes(size),
            text::date(mtime),
            // A folder's root is worked out once all in it is hashed, of a very large one when somebody wants it.
            root.map_or_else(
                || if is_folder { "       …" } else { "hashing…" }.to_owned(),
                |root| root.short()
            ),
            if is_folder { "/" } else { "" },
            names.join(", ")
        ));
    }
    output.event("done", json!({ "entries": count }));
    node.stop().await;
    Ok(())
}

/// Everybody who answers; an error if nobody does.
async fn look_around(node: &Node, common: &CommonOptions) -> Result<Vec<Seen>, Error> {
    let patience = common.search_patience();
    let seen = who_answers(node.find(Want::All), patience).await;
    if seen.is_empty() {
        let message = format!(
            "no node answered within {:.1} s; is `ftx-node --share` running on another machine of this network? Where \
             broadcasts do not pass, name it with --peer HOST. `ftx-node doctor` finds out more",
            patience.as_secs_f64()
        );
        return Err(Error::new(Code::NoNode, message));
    }
    Ok(seen)
}

/// Everybody who answers, in order of their names.
pub(super) async fn who_answers(mut offers: mpsc::Receiver<Found>, patience: Duration) -> Vec<Seen> {
    let give_up = Instant::now() + patience;
    let mut seen: BTreeMap<Instance, Seen> = BTreeMap::new();
    let mut until = give_up;
    while let Ok(Some(found)) = timeout_at(until, offers.recv()).await {
        let announce = found.offer.from;
        // Where datagrams get lost, nodes come one by one.
        if !seen.contains_key(&announce.instance) {
            until = give_up.min(Instant::now() + SETTLE);
        }
        let fresh = || Seen { announce: announce.clone(), addr: found.addr, addrs: Vec::new() };
        seen.entry(announce.instance).or_insert_with(fresh).addrs.push(found.addr);
    }
    let mut seen: Vec<Seen> = seen.into_values().collect();
    seen.sort_by(|a, b| (&a.announce.name, a.addr).cmp(&(&b.announce.name, b.addr)));
    seen
}

/// Where `other` is, if it uses the identity of `peer` on another machine.
pub(super) fn same_identity(peer: &Seen, other: &Seen) -> Option<SocketAddr> {
    let one_identity =
        peer.announce.node == other.announce.node && peer.announce.instance != other.announce.instance;
    let apart = one_identity.then(|| places_apart(&peer.addrs, &other.addrs)).flatten();
    apart.map(|(_, other)| other)
}

/// All that a node shares, page by page.
async fn list(dialling: connection::Dialling) -> Result<Vec<ListingEntry>, String> {
    let mut session = connection::dial(dialling).await.map_err(|error| error.to_string())?;
    let mut all: Vec<ListingEntry> = Vec::new();
    let mut bytes = 0;
    loop {
        let after = all.last().map(|entry| entry.name.clone());
        session.writer.write(&Message::List { after }, b"").await.map_err(|error| error.to_string())?;
        match session.reader.read().await.map_err(|error| error.to_string())? {
            Some(Message::Listing { entries, more }) => {
                // Names come in order: what does not go on would go round for ever.
                let goes_on =
                    entries.first().is_some_and(|first| all.last().is_none_or(|last| first.name > last.name));
                bytes += entries.iter().map(|entry| ENTRY_BYTES + entry.name.as_str().len()).sum::<usize>();
                all.extend(entries);
                if bytes > LISTED_BYTES_MAX {
                    return Err(format!("it lists too much: more than {} files", all.len()));
                }
                if !more || !goes_on {
                    return Ok(all);
                }
            }
            _ => return Err("it answers something else than it was asked".to_owned()),
        }
    }
}

/// How long to wait for further nodes after the last that has answered: twice the time after which a query is repeated.
const SETTLE: Duration = Duration::from_millis(600);

/// How long one node may take to list what it has.
const LISTING_MAX: Duration = Duration::from_secs(30);

/// Most memory that one node's listing may take: a million files with long names, several million with short ones.
const LISTED_BYTES_MAX: usize = 256 << 20;

/// What an entry takes besides its name.
const ENTRY_BYTES: usize = size_of::<ListingEntry>();
