//! Who may give a content: everybody who was heard of, from the first offer to being dropped.
//!
//! ```text
//! heard of -> dialled -> joined -> left -> dialled again, less and less often
//!                |          \-> dropped (of no use now) -> dialled again when it offers again
//!                 \----------\-> banned (proved wrong, or broke the protocol): never again in this fetch
//! ```
//!
//! The fetcher asks whom to dial and says what became of it; nothing here opens a connection. Numbers are bounded:
//! announcing many nodes that do not answer neither grows the table nor keeps the others out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::engine::fetch::{DropReason, FetchEngine, Progress, SourceId};
use ftx_proto::engine::pull::choice::LaneKind;
use ftx_proto::name::printable;
use ftx_proto::time::Time;
use ftx_proto::wire::discovery::Announce;
use ftx_proto::wire::session::Refusal;
use ractor::{ActorId, ActorRef};

use super::lane::{Described, LaneEnd};
use super::meter::LaneMeter;
use super::report::{SourceReport, SourceState};
use crate::actors::source::SourceMessage;
use crate::error::{Code, Error};
use crate::limits::SOURCES_MAX;
use crate::net::connection::{ConnectError, Peer};

/// Everybody who was heard of in one fetch.
#[derive(Debug)]
pub struct Candidates {
    me: Instance,
    only: Option<NodeId>,
    size: u64,
    all: BTreeMap<SourceId, Candidate>,
    by_claim: HashMap<Claim, SourceId>,
    by_actor: HashMap<ActorId, SourceId>,
    last_drop: Option<DropReason>,
    /// Why the last one was banned that was.
    last_ban: Option<String>,
    /// Why the last one left that did.
    last_end: Option<String>,
}

/// Who somebody says to be in discovery, where nothing is proved. Both together name a candidate: whoever borrows the
/// instance of another has to borrow its identity too, and that shows as soon as it is dialled.
type Claim = (NodeId, Instance);

/// Somebody who has, or had, the content.
#[derive(Debug)]
struct Candidate {
    /// Where it was heard, the one to be dialled next first. A node on several of our networks has several.
    addrs: VecDeque<SocketAddr>,
    announced: Announce,
    peer: Option<Peer>,
    actor: Option<ActorRef<SourceMessage>>,
    lanes: usize,
    tries: u32,
    retry_at: Option<Time>,
    state: Option<SourceState>,
    banned: bool,
    /// One of the two nodes does not talk to the other, for this reason.
    not_admitted: Option<String>,
    /// It has given something since it was connected last.
    useful: bool,
    /// On which kind of lane it is asked, and why.
    lane: (LaneKind, String),
    /// What its datagram lane counts, and what those before it had to ask for again.
    meter: Option<Arc<LaneMeter>>,
    fragments_again: u64,
}

/// A candidate that is connected and may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Whether it has been of use before, or never had the occasion. Whoever only comes and goes is not.
    pub useful: bool,
}

/// Why nobody gives anything any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drought {
    /// Whoever gave something gave something wrong.
    Lied(DropReason),
    /// Whoever has it does not give it.
    Refused(Refusal),
    /// Whoever has it does not talk to this node, or this node not to it.
    NotAdmitted(String),
    /// Nobody is there; perhaps somebody was, who was dropped or left like this.
    Nobody(Option<String>),
}

impl Drought {
    /// The error for a fetch of `what` that nobody has fed for so long.
    pub fn error(self, what: &str, progress: Progress, patience: Duration) -> Error {
        let seconds = patience.as_secs_f64();
        match self {
            Drought::NotAdmitted(why) => {
                Error::new(Code::Refused, format!("{what}: the nodes that have it are out of reach: {why}"))
            }
            Drought::Lied(why) => {
                let message = format!(
                    "{what}: every node that has it sent wrong data ({why}); nothing wrong was kept; the same \
                     command goes on when another node has it"
                );
                Error::new(Code::Integrity, message)
            }
            _ if progress.bytes > 0 => {
                let message = format!(
                    "{what}: no node has given the rest for {seconds} s; {} of {} bytes are here and verified; \
                     the same command goes on from there",
                    progress.bytes, progress.bytes_total
                );
                Error::new(Code::Partial, message)
            }
            Drought::Refused(refusal) => {
                Error::new(Code::Refused, format!("{what}: the nodes that had it do not give it: {refusal}"))
            }
            Drought::Nobody(why) => {
                let why = why.unwrap_or_else(|| "see `-v` for why".to_owned());
                let message = format!("{what}: no node that has it gave anything for {seconds} s; {why}");
                Error::new(Code::Timeout, message)
            }
        }
    }
}

impl Candidates {
    /// Nobody yet. `only` may restrict it to one node; `size` is what the content must have.
    pub fn new(me: Instance, only: Option<NodeId>, size: u64) -> Self {
        Candidates {
            me,
            only,
            size,
            all: BTreeMap::new(),
            by_claim: HashMap::new(),
            by_actor: HashMap::new(),
            last_drop: None,
            last_ban: None,
            last_end: None,
        }
    }

    /// Somebody offers the content.
    pub fn offered(&mut self, announced: Announce, addr: SocketAddr, now: Time) {
        if announced.instance == self.me || self.only.is_some_and(|only| only != announced.node) {
            return;
        }
        let claim = (announced.node, announced.instance);
        let next = SourceId(self.all.len() as u32);
        let source = match self.by_claim.get(&claim) {
            Some(source) => *source,
            None if self.all.len() >= CANDIDATES_MAX => return,
            None => next,
        };
        self.by_claim.insert(claim, source);
        let candidate = self.all.entry(source).or_insert_with(|| Candidate {
            addrs: VecDeque::new(),
            announced,
            peer: None,
            actor: None,
            lanes: 0,
            tries: 0,
            retry_at: Some(now),
            state: None,
            banned: false,
            not_admitted: None,
            useful: true,
            lane: (LaneKind::Stream, String::new()),
            meter: None,
            fragments_again: 0,
        });
        if !candidate.addrs.contains(&addr) {
            let is_full = candidate.addrs.len() >= ADDRESSES_MAX;
            // Every packet over IPv6 has 20 bytes less for the file.
            if addr.is_ipv4() && candidate.actor.is_none() {
                candidate.addrs.truncate(ADDRESSES_MAX - usize::from(is_full));
                candidate.addrs.push_front(addr);
            } else {
                candidate.addrs.drain(..usize::from(is_full));
                candidate.addrs.push_back(addr);
            }
        }
        if candidate.actor.is_none() && !candidate.banned {
            // It is there again, or still.
            candidate.tries = candidate.tries.min(1);
            let soon = if candidate.tries == 0 { now } else { now + RETRY_AFTER };
            candidate.retry_at.get_or_insert(soon);
        }
    }

    /// Whom to dial now, and where: as many as the limit allows, whoever was tried least first.
    pub fn due(&self, now: Time) -> Vec<(SourceId, SocketAddr)> {
        let connected = self.all.values().filter(|candidate| candidate.actor.is_some()).count();
        let mut due: Vec<(u32, SourceId, SocketAddr)> = self
            .all
            .iter()
            .filter(|(_, candidate)| {
                !candidate.banned
                    && candidate.actor.is_none()
                    && candidate.retry_at.is_some_and(|at| at <= now)
            })
            .filter_map(|(source, candidate)| Some((candidate.tries, *source, *candidate.addrs.front()?)))
            .collect();
        due.sort_unstable_by_key(|(tries, ..)| *tries);
        due.truncate(SOURCES_MAX.saturating_sub(connected));
        due.into_iter().map(|(_, source, addr)| (source, addr)).collect()
    }

    /// It is being dialled, by this actor; without one, that could not even be tried.
    pub fn dialled(&mut self, source: SourceId, actor: Option<ActorRef<SourceMessage>>) {
        let Some(candidate) = self.all.get_mut(&source) else { return };
        candidate.retry_at = None;
        candidate.lanes = usize::from(actor.is_some());
        if let Some(actor) = &actor {
            self.by_actor.insert(actor.get_id(), source);
        }
        candidate.actor = actor;
    }

    /// Tells the source something, if it is there.
    pub fn tell(&self, source: SourceId, message: SourceMessage) {
        if let Some(actor) = self.all.get(&source).and_then(|candidate| candidate.actor.as_ref()) {
            // A source that has just ended is reported by its supervision event.
            let _ = actor.cast(message);
        }
    }

    /// A source is connected: is it one that may be asked?
    pub fn ready(&mut self, source: SourceId, described: &Described) -> Option<Joined> {
        let unwanted = self.unwanted(described);
        let candidate = self.all.get_mut(&source)?;
        let who = format!("{} ({})", printable(&described.peer.name), described.peer.node.short());
        if described.peer.node != candidate.announced.node {
            // No fault of the node that was announced: perhaps it is at another address.
            let addr = described.peer.addr;
            tracing::warn!(%addr, found = %who, expected = %candidate.who(), "another node answers there");
            if let Some(actor) = &candidate.actor {
                actor.stop(Some("another node answers there".to_owned()));
            }
            candidate.addrs.retain(|known| *known != addr);
            return None;
        }
        candidate.peer = Some(described.peer.clone());
        if let Some(why) = unwanted {
            tracing::warn!(source = %who, %why, "source refused");
            self.ban(source, why);
            return None;
        }
        // That a source has ended is heard before what it said last; the engine would ask it in vain.
        candidate.actor.as_ref()?;
        tracing::info!(source = %who, addr = %described.peer.addr, whole = described.whole, "source");
        let useful = std::mem::take(&mut candidate.useful);
        if useful {
            // Whoever only comes and goes is tried less and less often.
            candidate.tries = 0;
        }
        candidate.state = Some(SourceState::Joined);
        Some(Joined { useful })
    }

    /// Why a peer is not taken as a source, if it is not.
    fn unwanted(&self, described: &Described) -> Option<String> {
        let node = described.peer.node;
        let banned = |candidate: &Candidate| {
            candidate.banned && candidate.peer.as_ref().map(|peer| peer.node) == Some(node)
        };
        if self.all.values().any(banned) {
            Some("it is a node that was dropped before".to_owned())
        } else if self.only.is_some_and(|only| only != node) {
            Some("it is not the node that was asked for".to_owned())
        } else if described.size != self.size {
            Some(format!("it says that the content has {} bytes", described.size))
        } else {
            None
        }
    }

    /// A chunk came from it that was not here.
    pub fn fed_by(&mut self, source: SourceId) {
        if let Some(candidate) = self.all.get_mut(&source) {
            candidate.useful = true;
        }
    }

    /// It is asked on this kind of lane from now on.
    pub fn lane_chosen(&mut self, source: SourceId, lane: LaneKind, reason: String) {
        let Some(candidate) = self.all.get_mut(&source) else { return };
        tracing::info!(source = %candidate.who(), lane = lane.as_str(), %reason, "lane");
        candidate.lane = (lane, reason);
    }

    /// A datagram lane to it was opened.
    pub fn lane_opened(&mut self, source: SourceId, meter: Arc<LaneMeter>) {
        let Some(candidate) = self.all.get_mut(&source) else { return };
        candidate.fragments_again = candidate.fragments_again();
        candidate.meter = Some(meter);
    }

    /// A source said why it ends, or showed it.
    pub fn failed(&mut self, source: SourceId, end: LaneEnd) {
        match end {
            LaneEnd::Broke(_) => {}
            LaneEnd::NotAdmitted { node, why } => {
                let Some(candidate) = self.all.get_mut(&source) else { return };
                if candidate.announced.node != node {
                    // No fault of the node that was announced.
                    return;
                }
                tracing::warn!(source = %candidate.who(), %why, "no session");
                candidate.not_admitted = Some(why.clone());
                self.ban(source, why);
            }
            LaneEnd::Refused(refusal) => self.last_drop = Some(DropReason::Gone(refusal)),
            LaneEnd::Violation(what) => {
                let who = self.all.get(&source).map(Candidate::who).unwrap_or_default();
                tracing::warn!(source = %who, why = %what, "source dropped for breaking the protocol");
                self.ban(source, what);
            }
        }
    }

    /// Ends the sessions with all who may not have one any more.
    pub fn part_with_others(&mut self, admits: impl Fn(NodeId) -> bool) {
        let others = self.all.iter().filter(|(_, candidate)| !candidate.banned);
        let others = others.filter_map(|(source, candidate)| Some((*source, candidate.peer.as_ref()?.node)));
        let others: Vec<_> = others.filter(|(_, node)| !admits(*node)).collect();
        for (source, node) in others {
            let why = ConnectError::Untrusted(node).to_string();
            self.failed(source, LaneEnd::NotAdmitted { node, why });
        }
    }

    /// The engine has no more use for it.
    pub fn dropped(&mut self, source: SourceId, why: DropReason) {
        self.last_drop = Some(why);
        let Some(candidate) = self.all.get_mut(&source) else { return };
        let who = candidate.who();
        match why {
            DropReason::Lied(_) => {
                tracing::warn!(source = %who, %why, "source dropped for wrong data");
                self.ban(source, why.to_string());
            }
            DropReason::Gone(_) | DropReason::Unresponsive => {
                tracing::warn!(source = %who, %why, "source dropped");
                candidate.state = Some(SourceState::Dropped(why.to_string()));
                if let Some(actor) = &candidate.actor {
                    actor.stop(Some(why.to_string()));
                }
            }
        }
    }

    /// Never asks it again in this fetch.
    fn ban(&mut self, source: SourceId, why: String) {
        let Some(candidate) = self.all.get_mut(&source) else { return };
        candidate.banned = true;
        candidate.state = Some(SourceState::Dropped(why.clone()));
        if let Some(actor) = &candidate.actor {
            actor.stop(Some(why.clone()));
        }
        self.last_ban = Some(why);
    }

    /// A source actor has ended: its candidate is tried again later, less and less often.
    pub fn ended(&mut self, actor: &ActorId, reason: String, now: Time) -> Option<SourceId> {
        let source = self.by_actor.remove(actor)?;
        let candidate = self.all.get_mut(&source)?;
        candidate.actor = None;
        candidate.lanes = 0;
        // Perhaps another way leads there.
        candidate.addrs.rotate_left(usize::from(!candidate.addrs.is_empty()));
        tracing::info!(source = %candidate.who(), %reason, "source left");
        self.last_end = Some(reason.clone()).filter(|reason| !reason.is_empty());
        if candidate.state == Some(SourceState::Joined) {
            candidate.state = Some(SourceState::Left(reason));
        }
        if !candidate.banned && candidate.tries < TRIES_MAX {
            candidate.retry_at = Some(now + RETRY_AFTER * (1 << candidate.tries));
            candidate.tries += 1;
        }
        Some(source)
    }

    /// How many are connected and may be asked.
    pub fn joined_count(&self) -> usize {
        self.all.values().filter(|candidate| candidate.state == Some(SourceState::Joined)).count()
    }

    /// Where there are few sources, several lanes to each.
    pub fn spread_lanes(&mut self) {
        let joined = self.joined_count();
        if joined == 0 {
            return;
        }
        let wanted = LANES_IN_ALL.div_ceil(joined);
        for candidate in self.all.values_mut() {
            if let Some(actor) = candidate.actor.as_ref().filter(|_| candidate.lanes < wanted) {
                candidate.lanes += 1;
                let _ = actor.cast(SourceMessage::WantLanes(wanted));
            }
        }
    }

    /// Whether nobody was heard of but nodes that do not talk to this one, or this one not to them.
    pub fn nobody_admitted(&self) -> Option<Drought> {
        let last = self.all.values().next_back()?.not_admitted.clone()?;
        let all = self.all.values().all(|candidate| candidate.not_admitted.is_some());
        all.then_some(Drought::NotAdmitted(last))
    }

    /// Why nobody gives anything any more, as far as it shows.
    pub fn drought(&self) -> Drought {
        let banned = self.all.values().any(|candidate| candidate.banned && candidate.peer.is_some());
        match self.last_drop {
            Some(why @ DropReason::Lied(_)) if banned => Drought::Lied(why),
            Some(DropReason::Gone(refusal)) => Drought::Refused(refusal),
            _ => {
                let dropped = self.last_ban.as_ref().map(|why| format!("one was dropped since {why}"));
                let left = || self.last_end.as_ref().map(|why| format!("the last one that was asked: {why}"));
                Drought::Nobody(dropped.or_else(left))
            }
        }
    }

    /// Everybody who was connected, in the order in which they were heard of, with what the engine counted.
    pub fn reports(&self, engine: &FetchEngine) -> Vec<SourceReport> {
        let report = |(source, candidate): (&SourceId, &Candidate)| {
            let peer = candidate.peer.as_ref()?;
            let stats = engine.source_stats(*source).unwrap_or_default();
            Some(SourceReport {
                node: peer.node,
                instance: peer.instance,
                name: peer.name.clone(),
                addr: peer.addr,
                bytes: stats.bytes,
                chunks: stats.chunks,
                retransmitted: stats.retransmitted,
                bad: stats.bad,
                state: candidate.state.clone()?,
                lane: candidate.lane.0,
                lane_reason: candidate.lane.1.clone(),
                fragments_again: candidate.fragments_again(),
            })
        };
        self.all.iter().filter_map(report).collect()
    }
}

impl Candidate {
    /// Fragments that had to be asked for again, in all of its datagram lanes.
    fn fragments_again(&self) -> u64 {
        self.fragments_again + self.meter.as_ref().map_or(0, |meter| meter.carried().lost)
    }

    /// For people: its name and the beginning of its id.
    fn who(&self) -> String {
        match &self.peer {
            Some(peer) => format!("{} ({})", printable(&peer.name), peer.node.short()),
            None => {
                format!("{} ({}, not proved)", printable(&self.announced.name), self.announced.node.short())
            }
        }
    }
}

/// Lanes to all sources together, as long as these are few: two keep two cores busy, four cover their pauses.
const LANES_IN_ALL: usize = 4;

/// How long to wait before a source is tried again; twice as long each further time.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How often in a row a source is tried until it is heard of again.
const TRIES_MAX: u32 = 6;

/// Most candidates of one fetch; whoever is heard of beyond is not asked.
const CANDIDATES_MAX: usize = 1024;

/// Most addresses that are remembered of one candidate.
const ADDRESSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::ZERO;

    fn announce(number: u64) -> Announce {
        let node = NodeId([number as u8; 32]);
        Announce { node, instance: Instance(number), port: 1, name: format!("node{number}") }
    }

    fn addr(number: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], number))
    }

    fn described(number: u64, size: u64) -> Described {
        let Announce { node, instance, name, .. } = announce(number);
        let peer = Peer { node, instance, name, addr: addr(number as u16) };
        Described { peer, size, mtime: (0, 0), executable: false, whole: true }
    }

    #[test]
    fn neither_myself_nor_anybody_but_the_only_one() {
        let mut candidates = Candidates::new(Instance(1), Some(NodeId([2; 32])), 10);
        for number in 1..4 {
            candidates.offered(announce(number), addr(number as u16), START);
        }
        assert_eq!(candidates.due(START), [(SourceId(0), addr(2))]);
    }

    #[test]
    fn who_may_have_no_session_any_more_is_parted_with() {
        let mut candidates = Candidates::new(Instance(0), None, 10);
        for number in 1..4 {
            candidates.offered(announce(number), addr(number as u16), START);
            candidates.ready(SourceId(number as u32 - 1), &described(number, 10));
        }
        let first = described(1, 10).peer.node;
        candidates.part_with_others(|node| node == first);
        assert_eq!(candidates.due(START), [(SourceId(0), addr(1))]);
        assert_eq!(candidates.nobody_admitted(), None, "one is left");
        candidates.part_with_others(|_| false);
        assert!(matches!(candidates.nobody_admitted(), Some(Drought::NotAdmitted(_))));
        candidates.offered(announce(1), addr(1), START);
        assert_eq!(candidates.due(START), [], "nor is it dialled again");
    }

    #[test]
    fn a_flood_of_names_neither_grows_the_table_nor_is_dialled_all_at_once() {
        let mut candidates = Candidates::new(Instance(0), None, 10);
        for number in 1..5000 {
            candidates.offered(announce(number), addr(1), START);
        }
        assert_eq!(candidates.all.len(), CANDIDATES_MAX);
        assert_eq!(candidates.due(START).len(), SOURCES_MAX);
    }

    #[test]
    fn whoever_has_another_size_or_another_identity_is_not_asked() {
        let mut candidates = Candidates::new(Instance(0), None, 10);
        candidates.offered(announce(1), addr(1), START);
        candidates.offered(announce(2), addr(2), START);
        assert_eq!(candidates.ready(SourceId(0), &described(1, 11)), None);
        let mut somebody_else = described(3, 10);
        somebody_else.peer.addr = addr(2);
        assert_eq!(candidates.ready(SourceId(1), &somebody_else), None);
        // The first is never asked again, the second only where nobody else answers for it.
        assert_eq!(candidates.due(START), []);
        candidates.offered(announce(2), addr(4), START);
        assert_eq!(candidates.due(START), [(SourceId(1), addr(4))]);
        assert!(matches!(candidates.drought(), Drought::Nobody(Some(_))));
    }
}
