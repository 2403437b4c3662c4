//! What is looked at on the network: interfaces, ports, whether broadcasts come back, who answers, whether they can be
//! connected to, whether an identity is used twice.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::digest::NodeId;
use ftx_proto::name::printable;
use ftx_proto::wire::discovery::Want;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::holders::{Transport, holder};
use super::{Finding, Findings, Level};
use crate::actors::discovery::LinkReport;
use crate::cli::look::{Seen, same_identity, who_answers};
use crate::cli::text::duration;
use crate::net::connection::{self, ConnectError};
use crate::net::interfaces::{Interface, Interfaces};
use crate::node::{Node, check_listening};
use crate::status::NodeStatus;

/// The addresses of this machine, and whether anybody can be reached from them.
pub(super) fn interfaces(bind: Option<IpAddr>) -> Vec<Finding> {
    const CHECK: &str = "interface";
    let all = match Interfaces::list_with_down(bind) {
        Ok(all) => all,
        Err(error) => {
            let todo = "without them there is no network for any program";
            return vec![Finding::problem(
                CHECK,
                "this machine",
                format!("its interfaces cannot be listed: {error}"),
                todo,
            )];
        }
    };
    let mut findings: Vec<Finding> = all.iter().map(|(interface, up)| look_at(interface, *up)).collect();
    let leads_out = all.iter().any(|(interface, up)| *up && !interface.loopback);
    match bind {
        Some(bind) if all.is_empty() => {
            let todo = "choose one of this machine's addresses, or leave --bind out";
            findings.push(Finding::problem(
                CHECK,
                bind,
                "no interface of this machine has the address of --bind",
                todo,
            ));
        }
        Some(bind) if bind.is_loopback() => {}
        _ if !leads_out => {
            let says = "no interface that is up leads to another machine";
            findings.push(Finding::problem(
                CHECK,
                "this machine",
                says,
                "plug in a cable, or join a network",
            ));
        }
        _ => {}
    }
    findings
}

fn look_at(interface: &Interface, up: bool) -> Finding {
    const CHECK: &str = "interface";
    let about = format!("{} {}/{}", interface.name, interface.addr, interface.prefix);
    if !up {
        let todo = "plug in its cable, or join its network, if nodes are to be found there";
        return Finding::warning(CHECK, about, "it is down, so nobody is found there", todo);
    }
    if interface.loopback {
        return Finding::ok(CHECK, about, "it leads to this machine only");
    }
    let says = match (interface.addr, interface.broadcast) {
        (IpAddr::V4(_), Some(broadcast)) => format!("up; all hosts of the network hear at {broadcast}"),
        (IpAddr::V4(_), None) => {
            let says = "its network has no broadcast address, so nobody is found there by name alone";
            return Finding::warning(CHECK, about, says, "name machines there with --peer HOST");
        }
        (IpAddr::V6(_), _) if interface.is_link_local_v6() => {
            "up; neighbours are found by IPv6 too".to_owned()
        }
        (IpAddr::V6(_), _) => "up".to_owned(),
    };
    Finding::ok(CHECK, about, says)
}

/// Whether sessions can be taken where others, and rules of firewalls, expect them.
pub(super) fn session_port(bind: Option<IpAddr>, port: u16, running: &[NodeStatus]) -> Vec<Finding> {
    const CHECK: &str = "port";
    let about = format!("TCP {port}");
    let Err(error) = check_listening(bind, port) else {
        let is_elsewhere =
            running.iter().filter_map(|node| node.session_addr).any(|addr| addr.port() != port);
        let says =
            if is_elsewhere { "it is free by now" } else { "it is free, so a node takes sessions there" };
        return vec![Finding::ok(CHECK, about, says)];
    };
    let ours = running.iter().find(|node| node.session_addr.is_some_and(|addr| addr.port() == port));
    if let Some(node) = ours {
        let says = format!("the node {} (process {}) takes sessions there", node.name, node.pid);
        return vec![Finding::ok(CHECK, about, says)];
    }
    let says = if error.kind() == std::io::ErrorKind::AddrInUse {
        let who = holder(Transport::Tcp, port).unwrap_or_else(|| "another program".to_owned());
        format!("{who} has it: a node takes sessions at another port, which rules of firewalls may not know")
    } else {
        format!("sessions cannot be taken there: {error}")
    };
    vec![Finding::warning(
        CHECK,
        about,
        says,
        "end that program if it is not wanted, or choose another --port on all nodes",
    )]
}

/// Looking around, as `peers` and `get` do.
pub(super) struct Looking<'a> {
    pub(super) node: &'a Node,
    pub(super) port: u16,
    pub(super) patience: Duration,
    pub(super) asked_directly: Vec<SocketAddr>,
    pub(super) running: &'a [NodeStatus],
    pub(super) has_identity: bool,
}

/// What came of a connection to one address of a node.
struct Dialled {
    peer: usize,
    addr: SocketAddr,
    /// Who is there, or why nobody could be reached.
    result: Result<NodeId, ConnectError>,
}

impl Looking<'_> {
    pub(super) async fn look(&self, findings: &mut Findings<'_>) {
        let mut seen = who_answers(self.node.find(Want::All), self.patience).await;
        // Whatever was sent has come back by now, if it does.
        findings.extend(self.broadcasts().await);
        let answered = seen.len();
        let missing: Vec<SocketAddr> = self
            .asked_directly
            .iter()
            .filter(|peer| !seen.iter().any(|seen| seen.addrs.iter().any(|addr| addr.ip() == peer.ip())))
            .copied()
            .collect();
        if !missing.is_empty() {
            let more = who_answers(self.node.find_also_at(Want::All, missing.clone()), self.patience).await;
            let is_known =
                |more: &Seen| seen.iter().any(|seen| seen.announce.instance == more.announce.instance);
            let more: Vec<Seen> = more.into_iter().filter(|more| !is_known(more)).collect();
            seen.extend(more);
        }
        seen.truncate(PEERS_MAX);
        findings.extend(self.who_is_there(&seen, answered));
        findings.extend(self.sessions(&seen).await);
        for peer in &missing {
            if !seen.iter().any(|seen| seen.addrs.iter().any(|addr| addr.ip() == peer.ip())) {
                findings.add(self.silent(*peer).await);
            }
        }
        findings.extend(self.identities(&seen));
    }

    /// Whether what is sent to everybody is heard, by ourselves at least.
    async fn broadcasts(&self) -> Vec<Finding> {
        let links = match self.node.network_links().await {
            Ok(links) => links,
            Err(error) => {
                let todo = "start this command again";
                return vec![Finding::problem("broadcast", "this machine", error.message, todo)];
            }
        };
        let mut findings: Vec<Finding> = links.iter().map(|link| self.broadcast(link, &links)).collect();
        let off_link = self.node.discovery_statistics().await.map_or(0, |counted| counted.engine.off_link);
        if off_link > 0 {
            let says = format!(
                "{off_link} datagrams came from addresses that are on none of this machine's networks"
            );
            let todo = "compare the netmasks: all machines of a network need the same, or name each other with --peer";
            findings.push(Finding::warning("broadcast", "this machine", says, todo));
        }
        findings
    }

    fn broadcast(&self, link: &LinkReport, all: &[LinkReport]) -> Finding {
        const CHECK: &str = "broadcast";
        let Interface { name, addr, .. } = &link.interface;
        let about = format!("{name} {addr}");
        let port = self.port;
        if let Some(why) = &link.failing {
            let who = holder(Transport::Udp, port).map(|who| format!("; UDP port {port} is used by {who}"));
            let says = format!("discovery does not work there: {why}{}", who.unwrap_or_default());
            let todo = "end the program that has the port for itself, let the firewall pass what is sent, or choose another --port on all nodes";
            return Finding::problem(CHECK, about, says, todo);
        }
        let Some(everybody) = link.everybody else {
            let says =
                "its network has no address that all hear, so machines there have to be named with --peer";
            return Finding::ok(CHECK, about, says);
        };
        if link.hears_itself {
            let says = format!("what is sent to {} is heard here", everybody.ip());
            return Finding::ok(CHECK, about, says);
        }
        let says = format!(
            "what this machine itself sends to {} port {port} does not come back: a firewall here drops what comes in, so others \
             cannot find a node on this machine",
            everybody.ip()
        );
        let todo = format!(
            "let the firewall pass incoming UDP port {port} and TCP port {port}, broadcasts included"
        );
        // Where one kind of address does, neighbours are found.
        let other_way =
            all.iter().any(|other| other.interface.index == link.interface.index && other.hears_itself);
        let finding = if other_way { Finding::warning } else { Finding::problem };
        finding(CHECK, about, says, todo)
    }

    /// Who has answered, `answered` of them to a broadcast.
    fn who_is_there(&self, seen: &[Seen], answered: usize) -> Vec<Finding> {
        const CHECK: &str = "peer";
        let mut findings = Vec::new();
        let is_ours = |seen: &Seen| self.running.iter().any(|node| node.instance == instance_of(seen));
        for (number, peer) in seen.iter().enumerate() {
            let about = who(peer);
            if number < answered {
                findings.push(Finding::ok(CHECK, about, "it answers what is asked of everybody"));
            } else {
                let says = "it answers when it is asked directly, but not what is asked of everybody: its firewall or the network \
                            drops broadcasts";
                let todo = format!(
                    "let its firewall pass incoming UDP port {}, or name it with --peer on every machine",
                    self.port
                );
                findings.push(Finding::warning(CHECK, about, says, todo));
            }
        }
        for node in self.running.iter().filter(|node| node.session_addr.is_some()) {
            if seen.iter().any(|seen| instance_of(seen) == node.instance) {
                continue;
            }
            let about = format!("{} (process {})", node.name, node.pid);
            findings.push(if node.port == self.port {
                let says = "it runs on this machine and does not answer what is asked of everybody";
                let todo = "what is told of broadcasts says why; does it run with another --bind?";
                Finding::problem(CHECK, about, says, todo)
            } else {
                let says =
                    format!("it looks for others at port {}, and this command at {}", node.port, self.port);
                Finding::warning(CHECK, about, says, "give all nodes, and this command, the same --port")
            });
        }
        if seen.iter().all(is_ours) {
            let says =
                format!("no other node answered within {}", duration(self.patience.as_secs_f64().max(1.0)));
            let todo = format!(
                "does `ftx-node --share` run on another machine of the same network, and does its firewall pass UDP and TCP port {}? \
                 Networks that keep their machines apart (guests' wireless) drop broadcasts: name a machine with --peer HOST",
                self.port
            );
            findings.push(Finding::warning(CHECK, "the network", says, todo));
        }
        findings
    }

    /// Connects to everybody who has answered, at each address.
    async fn sessions(&self, seen: &[Seen]) -> Vec<Finding> {
        let permits = Arc::new(Semaphore::new(DIALLING_MAX));
        let mut dialling = JoinSet::new();
        for (peer, seen) in seen.iter().enumerate() {
            let addrs: BTreeSet<SocketAddr> = seen.addrs.iter().copied().collect();
            for addr in addrs.into_iter().take(ADDRESSES_MAX) {
                let (how, permits) = (self.node.dialling(addr), Arc::clone(&permits));
                dialling.spawn(async move {
                    let _permit = permits.acquire_owned().await;
                    let dialled = timeout(DIAL_MAX, connection::dial(how)).await;
                    let result = dialled.unwrap_or(Err(ConnectError::Timeout));
                    Dialled { peer, addr, result: result.map(|connection| connection.peer.node) }
                });
            }
        }
        let mut all = dialling.join_all().await;
        all.sort_by_key(|dialled| (dialled.peer, dialled.addr));
        let reached = |peer: usize| all.iter().any(|dialled| dialled.peer == peer && dialled.result.is_ok());
        all.iter().map(|dialled| session(dialled, &seen[dialled.peer], reached(dialled.peer))).collect()
    }

    /// Somebody who was named with `--peer` and has not answered at all.
    async fn silent(&self, peer: SocketAddr) -> Finding {
        const CHECK: &str = "peer";
        let dialled = timeout(DIAL_MAX, connection::dial(self.node.dialling(peer))).await;
        let port = peer.port();
        match dialled.unwrap_or(Err(ConnectError::Timeout)) {
            Ok(_) => {
                let says = "a node takes connections there, but does not answer by UDP: a firewall there passes TCP and drops UDP";
                Finding::problem(CHECK, peer, says, format!("let its firewall pass incoming UDP port {port}"))
            }
            Err(error) => {
                let says = format!("it answers neither by UDP nor by TCP ({})", reason(&error));
                let todo =
                    format!("does a node run there, at port {port}? Does its firewall pass UDP and TCP?");
                Finding::problem(CHECK, peer, says, todo)
            }
        }
    }

    /// Whether two machines use one identity.
    fn identities(&self, seen: &[Seen]) -> Vec<Finding> {
        const CHECK: &str = "identity";
        let todo = "the state folder was copied: remove it on one of the machines, and that one gets an identity of its own";
        let mut findings = Vec::new();
        for (number, one) in seen.iter().enumerate() {
            for other in seen.iter().skip(number + 1) {
                if let Some(elsewhere) = same_identity(one, other) {
                    let says = format!("it is at {} as well: two machines use one identity", elsewhere.ip());
                    findings.push(Finding::problem(CHECK, who(one), says, todo));
                }
            }
        }
        // No node may run here that could be compared with.
        let own: Vec<IpAddr> = Interfaces::list(None)
            .map(|all| all.iter().map(|interface| interface.addr).collect())
            .unwrap_or_default();
        let elsewhere = |seen: &&Seen| {
            self.has_identity
                && seen.announce.node == self.node.id()
                && !seen.addrs.iter().any(|addr| addr.ip().is_loopback() || own.contains(&addr.ip()))
        };
        if let Some(other) = seen.iter().find(elsewhere) {
            let says =
                format!("it has the identity of this machine's state folder, but is at {}", other.addr.ip());
            findings.push(Finding::problem(CHECK, who(other), says, todo));
        }
        if findings.is_empty() {
            findings.push(Finding::ok(CHECK, self.node.id().short(), "no identity is used on two machines"));
        }
        findings
    }
}

fn session(dialled: &Dialled, peer: &Seen, reached: bool) -> Finding {
    const CHECK: &str = "session";
    let (about, addr) = (who(peer), dialled.addr);
    let port = addr.port();
    let error = match &dialled.result {
        Ok(node) if *node == peer.announce.node => {
            return Finding::ok(CHECK, about, format!("connected to {addr}, and it is who it says"));
        }
        Ok(node) => {
            let says = format!("at {addr} is {} instead: somebody answers in another's name", node.short());
            return Finding::problem(CHECK, about, says, "find out who answers from that address");
        }
        Err(error) => error,
    };
    let (says, todo) = match error {
        ConnectError::NotANode => (
            format!("something else than a node of this version is at {addr}"),
            "run the same version on all machines".to_owned(),
        ),
        ConnectError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => (
            format!(
                "it answers by UDP, but at {addr} no TCP connection is taken: a firewall refuses it, or the node has just ended"
            ),
            format!("let the firewall of that machine pass incoming TCP port {port}"),
        ),
        other => (
            format!(
                "it answers by UDP, but no TCP connection to {addr} can be made ({}): a firewall passes UDP and drops TCP",
                reason(other)
            ),
            format!("let the firewalls of that machine and this one pass TCP port {port}"),
        ),
    };
    // One way is enough to fetch.
    let level = if reached { Level::Warning } else { Level::Problem };
    Finding { level, ..Finding::problem(CHECK, about, says, todo) }
}

fn reason(error: &ConnectError) -> String {
    match error {
        ConnectError::Timeout => format!("nothing came back within {}", duration(DIAL_MAX.as_secs_f64())),
        other => other.to_string(),
    }
}

fn who(seen: &Seen) -> String {
    format!("{} ({}) at {}", printable(&seen.announce.name), seen.announce.node.short(), seen.addr)
}

fn instance_of(seen: &Seen) -> String {
    format!("{:016x}", seen.announce.instance.0)
}

/// How long one connection may take to be made.
const DIAL_MAX: Duration = Duration::from_secs(4);

/// Most connections that are made at once.
const DIALLING_MAX: usize = 32;

/// Most nodes that are looked at.
const PEERS_MAX: usize = 256;

/// Most addresses of one node that are connected to.
const ADDRESSES_MAX: usize = 8;
