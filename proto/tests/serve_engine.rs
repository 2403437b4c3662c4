//! Who is served next, in virtual time: fairness, the upload limit, and that nothing is lost or leaks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ftx_proto::digest::Root;
use ftx_proto::engine::serve::{ContentKey, Input, Output, PeerKey, ServeConfig, ServeEngine, SessionId};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, Span};
use ftx_proto::limits::{FILE_SIZE_MAX, FRAME_PAYLOAD_MAX, SESSION_REQUESTS_MAX};
use ftx_proto::time::Time;
use ftx_proto::wire::session::{Refusal, RequestId};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

const CONTENT: ContentKey = ContentKey(7);

/// A server with a link that sends the grants one after the other, at this many bytes a second.
struct Link {
    engine: ServeEngine,
    now: Time,
    bytes_per_second: f64,
    free_at: Time,
    /// Session and bytes of what is being sent, with the time when it is out.
    sending: VecDeque<(Time, SessionId, u64)>,
    geometry: Geometry,
    /// Of sessions that ask for something else.
    geometries: BTreeMap<SessionId, Geometry>,
    bytes: BTreeMap<SessionId, u64>,
    granted: BTreeMap<(SessionId, RequestId), Vec<Span>>,
    /// Chunks that were asked for and are not granted.
    owed: BTreeMap<SessionId, u32>,
    others: Vec<Output>,
    closed: BTreeSet<SessionId>,
}

impl Link {
    fn new(config: ServeConfig, bytes_per_second: f64) -> Self {
        Link {
            engine: ServeEngine::new(config, 1),
            now: Time::ZERO,
            bytes_per_second,
            free_at: Time::ZERO,
            sending: VecDeque::new(),
            geometry: Geometry::new((1 << 40) - 77).unwrap(),
            geometries: BTreeMap::new(),
            bytes: BTreeMap::new(),
            granted: BTreeMap::new(),
            owed: BTreeMap::new(),
            others: Vec::new(),
            closed: BTreeSet::new(),
        }
    }

    fn limited(max_upload: u64) -> Self {
        Link::new(ServeConfig { max_upload: Some(max_upload), ..ServeConfig::default() }, 1e9)
    }

    fn tell(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll() {
            let Output::Grant { session, request, content, span } = output else {
                self.others.push(output);
                continue;
            };
            assert_eq!(content, CONTENT);
            let bytes = self.geometry_of(session).len_of(span);
            assert!(bytes <= FRAME_PAYLOAD_MAX as u64 && span.pieces().count() == 1);
            assert!(!self.closed.contains(&session), "nothing is granted to who is gone");
            *self.owed.entry(session).or_default() -= span.count();
            self.granted.entry((session, request)).or_default().push(span);
            self.free_at =
                self.free_at.max(self.now) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
            self.sending.push_back((self.free_at, session, bytes));
            let unsent = self.sending.iter().filter(|(_, other, _)| *other == session).count();
            assert!(unsent <= 4, "no session has more unsent grants than allowed");
        }
        self.engine.check_invariants();
    }

    fn open(&mut self, session: u64, peer: u64) -> SessionId {
        self.tell(Input::Opened { session: SessionId(session), peer: PeerKey(peer) });
        SessionId(session)
    }

    fn geometry_of(&self, session: SessionId) -> &Geometry {
        self.geometries.get(&session).unwrap_or(&self.geometry)
    }

    fn ask(&mut self, session: SessionId, request: u64, first: u32, count: u32) {
        let geometry = self.geometry_of(session).clone();
        let (span, request) = (geometry.span(first, count).unwrap(), RequestId(request));
        *self.owed.entry(session).or_default() += count;
        self.tell(Input::Asked { session, request, content: CONTENT, geometry, span });
    }

    /// Asks for pieces with these numbers.
    fn ask_pieces(&mut self, session: SessionId, pieces: std::ops::Range<u32>) {
        for piece in pieces {
            self.ask(session, u64::from(piece), piece * 64, 64);
        }
    }

    fn run(&mut self, until: Duration) {
        let until = Time::from_origin(until);
        loop {
            let sent = self.sending.front().map(|&(at, ..)| at);
            let Some(at) = sent.into_iter().chain(self.engine.deadline()).min().filter(|&at| at <= until)
            else {
                self.now = until;
                return;
            };
            assert!(at >= self.now, "the engine wants to be woken in the past");
            self.now = at;
            if sent == Some(at) {
                let (_, session, bytes) = self.sending.pop_front().unwrap();
                *self.bytes.entry(session).or_default() += bytes;
                self.tell(Input::Sent { session, bytes });
            } else {
                let before = self.engine.deadline();
                self.tell(Input::Tick);
                assert!(
                    self.engine.deadline() != before || !self.sending.is_empty(),
                    "a tick when due does something"
                );
            }
        }
    }

    fn bytes_of(&self, session: SessionId) -> f64 {
        self.bytes.get(&session).copied().unwrap_or(0) as f64
    }
}

fn near(value: f64, expected: f64, share: f64) -> bool {
    (value - expected).abs() <= expected * share
}

#[test]
fn the_limit_is_held_for_ten_seconds() {
    for limit in [100_000u64, 1 << 20, 50 << 20, 700 << 20] {
        let mut link = Link::limited(limit);
        let session = link.open(1, 1);
        link.ask(session, 1, 0, 600_000);
        link.run(Duration::from_secs(10));
        let sent = link.bytes_of(session);
        assert!(near(sent, 10.0 * limit as f64, 0.02), "{sent} at a limit of {limit}");
    }
}

#[test]
fn no_second_is_far_above_the_limit() {
    let limit = 4 << 20;
    let mut link = Link::limited(limit);
    let session = link.open(1, 1);
    // Idle time is not saved up.
    link.run(Duration::from_secs(60));
    link.ask(session, 1, 0, 100_000);
    link.run(Duration::from_secs(61));
    let sent = link.bytes_of(session);
    assert!(near(sent, limit as f64, 0.08), "{sent}");
}

#[test]
fn peers_share_a_limit_evenly() {
    let mut link = Link::limited(20 << 20);
    let sessions: Vec<_> = (0..7).map(|n| link.open(n, n)).collect();
    for (&session, grain) in sessions.iter().zip([64, 64, 1, 3, 16, 17, 40]) {
        // Whatever the size of their requests.
        for request in 0..4000 {
            link.ask(session, request, request as u32 * grain, grain);
        }
    }
    link.run(Duration::from_secs(1));
    let before: Vec<_> = sessions.iter().map(|&session| link.bytes_of(session)).collect();
    link.run(Duration::from_secs(11));
    for (&session, before) in sessions.iter().zip(before) {
        // The third has asked for 62 MiB only, which is more than its share.
        let sent = link.bytes_of(session) - before;
        assert!(near(sent, 200.0 * 1048576.0 / 7.0, 0.03), "{session:?}: {sent}");
    }
}

#[test]
fn two_sessions_of_one_peer_have_one_share() {
    let mut link = Link::limited(10 << 20);
    let single = link.open(1, 1);
    let double = [link.open(2, 2), link.open(3, 2)];
    for session in [single, double[0], double[1]] {
        link.ask_pieces(session, 0..200);
    }
    link.run(Duration::from_secs(10));
    let total = 100.0 * 1048576.0;
    assert!(near(link.bytes_of(single), total / 2.0, 0.03));
    assert!(double.iter().all(|&session| near(link.bytes_of(session), total / 4.0, 0.03)));
}

#[test]
fn what_one_does_not_use_others_get() {
    let mut link = Link::limited(10 << 20);
    let (first, second) = (link.open(1, 1), link.open(2, 2));
    link.ask_pieces(first, 0..10);
    link.ask_pieces(second, 0..1000);
    link.run(Duration::from_secs(10));
    assert_eq!(link.bytes_of(first), 10.0 * 1048576.0);
    assert!(near(link.bytes_of(second), 90.0 * 1048576.0, 0.03));
}

#[test]
fn without_a_limit_everything_is_granted_exactly_once() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..50 {
        let mut link = Link::new(ServeConfig::default(), 1e9);
        let mut asked = BTreeMap::new();
        for n in 0..random.random_range(1..6) {
            let session = link.open(n, random.random_range(0..3));
            for request in 0..random.random_range(0..60) {
                let (first, count) = (random.random_range(0..5000), random.random_range(1..200));
                asked.insert((session, RequestId(request)), link.geometry.span(first, count).unwrap());
                link.ask(session, request, first, count);
            }
        }
        link.run(Duration::from_secs(100));
        assert_eq!(link.engine.queued_count(), 0);
        assert_eq!(link.engine.deadline(), None);
        assert_eq!(link.granted.len(), asked.len());
        for (key, span) in asked {
            let granted: Vec<_> = link.granted[&key].iter().flat_map(Span::chunks).collect();
            assert_eq!(granted, span.chunks().collect::<Vec<_>>(), "each chunk once, in order");
        }
    }
}

#[test]
fn requests_are_picked_at_random_and_a_piece_is_served_in_a_run() {
    let mut link = Link::limited(4 << 20);
    let sessions = [link.open(1, 1), link.open(2, 2)];
    for session in sessions {
        link.ask_pieces(session, 0..100);
    }
    link.run(Duration::from_secs(10));
    // Each has got 20 of the 100 pieces, all but the last one whole.
    let begun = sessions.map(|session| {
        let of_session = link.granted.iter().filter(|((of, _), _)| *of == session);
        let counts: Vec<u32> =
            of_session.clone().map(|(_, runs)| runs.iter().map(Span::count).sum()).collect();
        assert!(counts.iter().filter(|&&count| count < 64).count() <= 1, "{counts:?}");
        of_session.map(|((_, request), _)| request.0).collect::<BTreeSet<_>>()
    });
    assert!(begun.iter().all(|pieces| (20..=22).contains(&pieces.len())), "{begun:?}");
    assert!(begun[0].iter().max() > Some(&50), "not the first ones first: {begun:?}");
    assert!(begun[0].intersection(&begun[1]).count() < 12, "not the same for both: {begun:?}");
}

#[test]
fn a_cancelled_request_is_granted_no_further() {
    let mut link = Link::limited(1 << 20);
    let session = link.open(1, 1);
    link.ask_pieces(session, 0..3);
    link.run(Duration::from_millis(100));
    let before: usize = link.granted.values().map(Vec::len).sum();
    for request in 0..4 {
        link.tell(Input::Cancelled { session, request: RequestId(request) });
    }
    assert_eq!(link.engine.queued_count(), 0);
    link.run(Duration::from_secs(10));
    assert_eq!(link.granted.values().map(Vec::len).sum::<usize>(), before);
    // The number may be used again.
    link.ask(session, 1, 0, 1);
    link.run(Duration::from_secs(20));
    assert_eq!(link.granted[&(session, RequestId(1))].last().unwrap().count(), 1);
    assert!(link.others.is_empty());
}

#[test]
fn who_asks_too_much_breaks_the_protocol_and_a_full_node_is_busy() {
    let config = ServeConfig { requests_max: 6000, max_upload: Some(1), ..ServeConfig::default() };
    let mut link = Link::new(config, 1e9);
    let (first, second) = (link.open(1, 1), link.open(2, 2));
    for request in 0..SESSION_REQUESTS_MAX as u64 {
        link.ask(first, request, 0, 64);
    }
    assert!(link.others.is_empty());
    for request in 0..1905 {
        link.ask(second, request, 0, 64);
    }
    let busy = |request| Output::Refuse {
        session: second,
        request: RequestId(request),
        refusal: Refusal::Busy { retry_after_ms: 500 },
    };
    assert_eq!(link.others, [busy(1904)]);
    link.ask(first, 1 << 40, 0, 64);
    assert_eq!(link.others.last(), Some(&Output::Violation { session: first }));
    // Its queue is gone, so there is room again.
    link.ask(second, 5000, 0, 64);
    assert_eq!(link.others.len(), 2);
    assert_eq!(link.engine.queued_count(), 1905);
    link.ask(second, 5000, 0, 64);
    assert_eq!(link.others.last(), Some(&Output::Violation { session: second }));
    assert_eq!((link.engine.queued_count(), link.engine.session_count()), (0, 0));
}

#[test]
fn a_grant_that_could_not_be_sent_is_not_counted() {
    let mut engine = ServeEngine::new(ServeConfig { max_upload: Some(1 << 20), ..ServeConfig::default() }, 1);
    let geometry = Geometry::new(1 << 30).unwrap();
    let session = SessionId(1);
    engine.handle(Time::ZERO, Input::Opened { session, peer: PeerKey(1) });
    let span = geometry.span(0, 64).unwrap();
    let request = RequestId(1);
    engine.handle(Time::ZERO, Input::Asked { session, request, content: CONTENT, geometry, span });
    let first = engine.poll().unwrap();
    assert!(matches!(first, Output::Grant { span, .. } if span.count() == 3), "{first:?}");
    assert_eq!(engine.poll(), None);
    engine.handle(Time::ZERO, Input::Sent { session, bytes: 0 });
    assert!(matches!(engine.poll(), Some(Output::Grant { .. })));
}

#[test]
fn nothing_leaks_whatever_the_order_of_things() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    for seed in 0..200 {
        let limit = [None, Some(2_000_000)][random.random_range(0..2)];
        let mut link = Link::new(ServeConfig { max_upload: limit, ..ServeConfig::default() }, 1e7);
        let mut open = Vec::new();
        for n in 0..300u64 {
            match random.random_range(0..10) {
                0 => {
                    let peer = random.random_range(0..4);
                    open.push(link.open(n, peer));
                }
                1 if !open.is_empty() => {
                    let session = open.swap_remove(random.random_range(0..open.len()));
                    link.closed.insert(session);
                    link.tell(Input::Closed { session });
                }
                2 => {
                    let session = SessionId(random.random_range(0..n + 1));
                    link.tell(Input::Cancelled {
                        session,
                        request: RequestId(random.random_range(0..n + 1)),
                    });
                }
                3 => {
                    let until = link.now.since_origin() + Duration::from_millis(random.random_range(0..50));
                    link.run(until);
                }
                _ => {
                    let session = SessionId(random.random_range(0..n + 1));
                    link.ask(session, n, random.random_range(0..1000), random.random_range(1..150));
                }
            }
        }
        let until = link.now.since_origin() + Duration::from_secs(1000);
        link.run(until);
        assert_eq!((link.engine.queued_count(), link.engine.deadline()), (0, None), "seed {seed}");
        for session in open {
            link.tell(Input::Closed { session });
        }
        assert_eq!(link.engine.session_count(), 0);
        assert!(link.others.is_empty());
    }
}

#[test]
fn a_chunk_is_the_smallest_grant() {
    let mut link = Link::limited(1000);
    let session = link.open(1, 1);
    link.ask(session, 1, 0, 10);
    link.run(Duration::from_secs(60));
    let sent = link.bytes_of(session) / f64::from(CHUNK_SIZE);
    assert!((4.0..=5.0).contains(&sent), "{sent}");
}

#[test]
fn what_leaves_without_a_grant_counts_under_the_limit() {
    let mut link = Link::limited(1_000_000);
    let session = link.open(1, 1);
    link.ask_pieces(session, 0..64);
    for tenth in 1..=100 {
        link.tell(Input::Spent { bytes: 60_000 });
        link.run(Duration::from_millis(tenth * 100));
    }
    let granted = link.bytes_of(session);
    assert!(near(granted, 4_000_000.0, 0.1), "{granted} beside 6,000,000");

    // More than the limit: nothing is granted until it is made up for.
    link.tell(Input::Spent { bytes: 2_000_000 });
    link.run(Duration::from_millis(11_500));
    let still = link.bytes_of(session);
    assert!(still - granted < 200_000.0, "{}", still - granted);
    assert_eq!(link.engine.waiting_count(), 1);
    link.run(Duration::from_millis(13_000));
    assert!(near(link.bytes_of(session) - granted, 1_000_000.0, 0.3));
}

#[test]
fn what_leaves_without_a_grant_costs_nothing_where_there_is_no_limit() {
    let mut link = Link::new(ServeConfig::default(), 1e9);
    let session = link.open(1, 1);
    link.tell(Input::Spent { bytes: u64::MAX });
    link.ask_pieces(session, 0..4);
    link.run(Duration::from_secs(1));
    assert!(link.bytes_of(session) > 0.0);
    assert_eq!((link.engine.deadline(), link.engine.waiting_count()), (None, 0));
}

/// A folder of so many files of this size.
fn folder(files: u32, size: u64) -> Geometry {
    let root = Root([1; 32]);
    Geometry::of_folder(root, (0..files).map(|_| (size, root))).unwrap()
}

#[test]
fn short_chunks_count_for_what_they_are_under_the_limit() {
    for size in [1, 100, 5000] {
        // 640 pieces a second, as far as the limit goes.
        let limit = 10 * 64 * 64 * size;
        let mut link = Link::limited(limit);
        link.geometry = folder(130_000, size);
        let session = link.open(1, 1);
        for seconds in 1..=3 {
            link.ask_pieces(session, (seconds - 1) * 640..seconds * 640);
            link.run(Duration::from_secs(u64::from(seconds)));
            let sent = link.bytes_of(session);
            assert!(near(sent, (u64::from(seconds) * limit) as f64, 0.06), "{sent} of files of {size}");
        }
    }
}

#[test]
fn a_request_far_out_in_a_large_folder_is_served_to_its_end() {
    let mut link = Link::new(ServeConfig::default(), 1e9);
    link.geometry = folder(1, FILE_SIZE_MAX);
    let session = link.open(1, 1);
    let first = (1 << 30) - 64;
    link.ask(session, 1, first, 64);
    link.run(Duration::from_secs(1));
    let granted: u32 = link.granted[&(session, RequestId(1))].iter().map(Span::count).sum();
    assert_eq!(granted, 64);
}

#[test]
fn small_files_get_as_many_bytes_as_large_ones() {
    for (limit, size) in [(2 << 20, 1000), (20 << 20, 1000), (20 << 20, 5000), (4 << 20, 200)] {
        let mut link = Link::limited(limit);
        let (large, small) = (link.open(1, 1), link.open(2, 2));
        link.geometries.insert(small, folder(400_000, size));
        let (mut of_large, mut of_small) = (0..1 << 14, 0..6000);
        // Both keep a window of requests under way, as fetches do.
        for millis in 1..=4000 {
            for (session, pieces) in [(large, &mut of_large), (small, &mut of_small)] {
                while link.owed.get(&session).is_none_or(|owed| *owed < 16 * 64)
                    && let Some(piece) = pieces.next()
                {
                    link.ask_pieces(session, piece..piece + 1);
                }
            }
            link.run(Duration::from_millis(millis));
        }
        assert!(link.owed[&small] > 0, "there was always something to ask for");
        let bytes = [large, small].map(|session| link.bytes_of(session));
        assert!(bytes[0] / bytes[1] < 1.1 && bytes[1] / bytes[0] < 1.1, "{bytes:?}, files of {size}");
        assert!(near(bytes[0] + bytes[1], 4.0 * limit as f64, 0.03), "{bytes:?}");
    }
}

#[test]
fn many_small_files_go_in_one_grant() {
    let mut link = Link::new(ServeConfig::default(), 1e9);
    link.geometry = folder(1000, 3000);
    let session = link.open(1, 1);
    link.ask_pieces(session, 0..1);
    assert_eq!(link.granted[&(session, RequestId(0))].iter().map(Span::count).collect::<Vec<_>>(), [64]);
    link.geometry = folder(1000, 10_000);
    let session = link.open(2, 2);
    link.ask_pieces(session, 1..2);
    let counts: Vec<u32> = link.granted[&(session, RequestId(1))].iter().map(Span::count).collect();
    assert_eq!(counts, [26, 26, 12], "as many as 256 KiB hold");
}

/// Peers that all fetch at once, in what they fetch and how much they ask for not alike, and one of them twice.
fn two_hundred_peers(limit: Option<u64>) -> (Link, Vec<SessionId>) {
    let mut link = Link::new(ServeConfig { max_upload: limit, ..ServeConfig::default() }, 200e6);
    let sessions: Vec<SessionId> = (0..200).map(|n| link.open(n, n)).collect();
    let small = folder(200_000, 3000);
    if limit.is_some() {
        link.geometries.extend(sessions.iter().step_by(3).map(|session| (*session, small.clone())));
    }
    (link, sessions)
}

#[test]
fn two_hundred_peers_at_once_get_the_same() {
    for limit in [None, Some(40_000_000)] {
        let (mut link, sessions) = two_hundred_peers(limit);
        let (mut next, mut before) = (vec![0; sessions.len()], Vec::new());
        for step in 1..=480 {
            for (number, (session, next)) in sessions.iter().zip(&mut next).enumerate() {
                let window = [2, 4, 7][number % 3] * 64;
                while link.owed.get(session).is_none_or(|owed| *owed < window) {
                    link.ask_pieces(*session, *next..*next + 1);
                    *next += 1;
                }
            }
            link.run(Duration::from_millis(step * 25));
            if step == 40 {
                // Who came first had all for itself.
                before = sessions.iter().map(|session| link.bytes_of(*session)).collect();
            }
        }
        let bytes: Vec<f64> =
            sessions.iter().zip(before).map(|(session, before)| link.bytes_of(*session) - before).collect();
        let most = bytes.iter().copied().fold(0.0, f64::max);
        let least = bytes.iter().copied().fold(f64::MAX, f64::min);
        assert!(most / least < 1.3, "{least} to {most} with a limit of {limit:?}");
        assert!(link.others.is_empty());
    }
}

#[test]
fn what_two_hundred_peers_ask_for_is_bounded() {
    let (mut link, sessions) = two_hundred_peers(Some(1));
    let mut engine = std::mem::replace(&mut link.engine, ServeEngine::new(ServeConfig::default(), 1));
    let (mut busy, before) = (0, resident());
    for request in 0..1000 {
        for session in &sessions {
            let geometry = link.geometry.clone();
            let (span, request) = (geometry.span(request * 64, 64).unwrap(), RequestId(request.into()));
            let asked = Input::Asked { session: *session, request, content: CONTENT, geometry, span };
            engine.handle(Time::ZERO, asked);
            while let Some(output) = engine.poll() {
                busy += usize::from(matches!(output, Output::Refuse { refusal: Refusal::Busy { .. }, .. }));
            }
        }
    }
    assert_eq!(engine.queued_count(), ServeConfig::default().requests_max);
    assert!(busy > 100_000, "the others are told to come again: {busy}");
    if let (Some(before), Some(after)) = (before, resident()) {
        assert!(after.saturating_sub(before) < 64 << 20, "{before} to {after} bytes");
    }
}

/// Bytes of memory that this process has, where the system tells.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}
