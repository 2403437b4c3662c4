//! Every bound of the node that is not one of the protocol's ([`ftx_proto::limits`]), in one place.

use std::time::Duration;

/// Most sessions that others may have with this node at once.
pub const SESSIONS_MAX: u16 = 512;

/// Connections that may begin a second, and as many in a burst: each costs a good part of a millisecond of a core.
pub const HANDSHAKES_PER_SECOND: u16 = 512;

/// A session that neither asked for anything nor took anything for so long makes room where all places are taken.
pub const SESSION_QUIET_MIN: Duration = Duration::from_secs(5);

/// Most messages of one session that are being answered at once; the rest waits in the peer's socket.
pub const SESSION_MESSAGES_MAX: usize = 64;

/// Most contents that one session may have subscribed to. Each keeps a file open; a fetch wants one a session.
pub const SESSION_CONTENTS_MAX: usize = 32;

/// How long a session may be silent. Whoever still wants something pings ([`PING_INTERVAL`]).
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(90);

/// How often a source is pinged.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long one frame may take to be handed to the kernel.
pub const FRAME_WRITE_MAX: Duration = Duration::from_secs(60);

/// Shortest time between two `Have` messages about one content: what waits for it comes from somebody else meanwhile.
pub const HAVE_INTERVAL: Duration = Duration::from_millis(20);

/// Most sources that one fetch is connected to at once.
pub const SOURCES_MAX: usize = 32;

/// Most connections to one source.
pub const LANES_PER_SOURCE_MAX: usize = 4;

/// Requests that a lane remembers after they were answered or cancelled, so that what was on its way is still of use.
pub const LANE_CLOSED_REQUESTS_MAX: usize = 1024;

/// Verified bytes after which a fetch writes its journal.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Time after which a fetch writes its journal.
pub const JOURNAL_INTERVAL: Duration = Duration::from_secs(2);

/// Most STEP connections at once.
pub const STEP_SESSIONS_MAX: u16 = 256;

/// How long a STEP connection may be silent between two requests. Clients keep theirs open as long as their user thinks;
/// one whose machine is gone shows by [`STEP_KEEPALIVE`], and where all places are taken the quiet ones make room.
pub const STEP_IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a STEP connection is silent before the system asks whether anybody is there.
pub const STEP_KEEPALIVE: Duration = Duration::from_secs(120);

/// Bytes of replies that wait for one STEP client to read them: those of some two gigabytes of blocks.
pub const STEP_SESSION_REPLIES_MAX: usize = 16 << 20;

/// The same, for all STEP clients together.
pub const STEP_REPLIES_MAX: usize = 64 << 20;

/// Bytes of an unfinished request after which a STEP connection counts as active: a byte now and then does not keep a
/// place.
pub const STEP_ACTIVE_BYTES_MIN: usize = 4096;

/// How long a STEP connection may be silent within a request.
pub const STEP_STALLED_MAX: Duration = Duration::from_secs(120);

/// An upload of which no block came for so long is given up: its room is somebody else's.
pub const STEP_UPLOAD_QUIET_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often such uploads are looked for, besides at the start.
pub const STEP_UPLOAD_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Most striped downloads from this node at once.
pub const STRIPED_DOWNLOADS_MAX: u16 = 64;

/// Most connections for stripes at once, of all downloads.
pub const STRIPES_MAX: usize = 2048;

/// Connections of one striped download beyond one for each stripe: for those that break and come again.
pub const STRIPES_SPARE_MAX: usize = 8;

/// Most files that are pushed to this node by TCP put at once.
pub const TCP_PUTS_MAX: u16 = 64;

/// Most files that nodes put into the inbox at once; each is a fetch.
pub const PUTS_MAX: usize = 16;

/// How many of them may be of one node.
pub const PUTS_PER_NODE_MAX: usize = 8;

/// How long the node that put a file may be out of reach.
pub const PUT_PATIENCE: Duration = Duration::from_secs(20);

/// How often a node is told how much of what it puts is there.
pub const PUT_TOLD_INTERVAL: Duration = Duration::from_millis(200);

/// A part in the inbox that nobody went on with for so long is removed.
pub const PUT_QUIET_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often a running node looks for such parts.
pub const INBOX_TIDY_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// How often it is looked whether a node with which there are sessions is still trusted.
pub const TRUST_INTERVAL: Duration = Duration::from_secs(1);

/// Most requests of udp-get that wait to be looked at; those beyond are dropped, and asked again.
pub const UDP_GETS_WAITING_MAX: usize = 64;
/// Most connections to one STEP server at once.
pub const STEP_CONNECTIONS_MAX: u16 = 64;

/// Most datagram connections that others may have with this node at once: one for each content of a session.
pub const DATAGRAM_CONNECTIONS_MAX: usize = 512;

/// Bytes of datagrams that one connection may have asked for and not yet been sent; what is beyond is dropped.
pub const DATAGRAM_ASKED_BYTES_MAX: usize = 1 << 20;

/// Probes of one connection that are answered at once.
pub const DATAGRAM_PROBES_BURST: u32 = 16;

/// After how long one more probe of a connection is answered.
pub const DATAGRAM_PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes sent in datagrams after which the Server is told.
pub const DATAGRAM_REPORT_BYTES: u64 = 4 << 20;

/// Time after which the Server is told what was sent in datagrams.
pub const DATAGRAM_REPORT_INTERVAL: Duration = Duration::from_millis(20);

/// Restarts of one of the node's actors within [`RESTART_WINDOW`] after which the node gives up.
pub const RESTARTS_MAX: usize = 5;

/// See [`RESTARTS_MAX`].
pub const RESTART_WINDOW: Duration = Duration::from_secs(60);

// A full Want in the smallest datagrams fits beside another one.
const _: () = assert!(
    2 * ftx_proto::limits::WANT_FRAGMENTS_MAX as usize * ftx_proto::limits::DATAGRAM_SIZE_MAX
        <= DATAGRAM_ASKED_BYTES_MAX
);
const _: () = assert!(PING_INTERVAL.as_secs() * 3 < SESSION_IDLE_MAX.as_secs());
const _: () = assert!(STEP_SESSION_REPLIES_MAX <= STEP_REPLIES_MAX && STEP_REPLIES_MAX <= u32::MAX as usize);
const _: () = assert!(SESSION_MESSAGES_MAX < ftx_proto::limits::SESSION_REQUESTS_MAX);
