//! What the engine counted since it began.

/// Numbers for people who wonder why nothing is found, or what hammers at their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams that came in, of whatever kind.
    pub received: u64,
    /// Of those, the ones that are none of ours.
    pub malformed: u64,
    /// Of those, our own, heard back.
    pub own: u64,
    /// Of those, the ones from networks that we are not attached to and did not ask.
    pub off_link: u64,
    /// Offers to no query of ours, or beyond what a query remembers.
    pub stray_offers: u64,
    /// Queries and hellos that got no answer, because their sender or all senders together were too many.
    pub rate_limited: u64,
    /// Queries that got no answer, because they had just got one.
    pub repeated: u64,
    /// Queries that got no answer, because the catalog was too slow.
    pub unanswered: u64,
    /// Datagrams broadcast, each counted once whatever the number of networks.
    pub broadcast: u64,
    /// Datagrams sent to one address.
    pub sent: u64,
}
