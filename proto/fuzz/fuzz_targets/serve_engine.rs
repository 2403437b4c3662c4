//! Whatever sessions open, ask, cancel and leave, the serve engine keeps its promises: it grants what was asked for, once,
//! to who is there, never more at once than it may, and never more than the limit.
//!
//! The input is read as operations: a byte that says which, and its arguments.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ftx_proto::digest::Root;
use ftx_proto::engine::serve::{ContentKey, Input, Output, PeerKey, ServeConfig, ServeEngine, SessionId};
use ftx_proto::geometry::Geometry;
use ftx_proto::limits::FRAME_PAYLOAD_MAX;
use ftx_proto::time::Time;
use ftx_proto::wire::session::RequestId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&seed, operations)) = data.split_first() else { return };
    Run::new(seed).operate(operations);
});

struct Run {
    engine: ServeEngine,
    /// Of a file, and of a folder of small and large files.
    geometries: [Geometry; 2],
    now: Time,
    max_upload: Option<u64>,
    granted_bytes: u64,
    sessions: BTreeMap<SessionId, Open>,
    next_session: u64,
}

#[derive(Default)]
struct Open {
    /// Chunks of each request that are asked for and neither granted nor cancelled.
    asked: BTreeMap<RequestId, BTreeSet<u32>>,
    /// Bytes of the grants that are not sent.
    unsent: Vec<u64>,
}

impl Run {
    fn new(seed: u8) -> Self {
        let max_upload = (seed % 4 == 0).then_some(u64::from(seed) * 10_000 + 1);
        let config = ServeConfig { max_upload, ..ServeConfig::default() };
        Run {
            engine: ServeEngine::new(config, seed.into()),
            geometries: [Geometry::new(255 << 14 | 77).expect("not too large"), folder()],
            now: Time::ZERO,
            max_upload,
            granted_bytes: 0,
            sessions: BTreeMap::new(),
            next_session: 0,
        }
    }

    fn operate(&mut self, mut rest: &[u8]) {
        while let Some((operation, after)) = rest.split_first() {
            rest = after;
            let mut byte = || {
                let (first, after) = rest.split_first().unwrap_or((&0, &[]));
                rest = after;
                *first
            };
            match operation % 10 {
                0 => {
                    let session = SessionId(self.next_session);
                    self.next_session += 1;
                    self.sessions.insert(session, Open::default());
                    self.input(Input::Opened { session, peer: PeerKey(u64::from(byte() % 5)) });
                }
                1 => {
                    let session = self.session(byte());
                    self.sessions.remove(&session);
                    self.input(Input::Closed { session });
                }
                2..=5 => self.ask(byte(), byte(), byte(), byte()),
                6 => {
                    let (session, request) = (self.session(byte()), RequestId(u64::from(byte())));
                    if let Some(open) = self.sessions.get_mut(&session) {
                        open.asked.remove(&request);
                    }
                    self.input(Input::Cancelled { session, request });
                }
                7 | 8 => self.sent(byte(), byte()),
                // In datagrams, beside the grants.
                _ if *operation == u8::MAX => self.input(Input::Spent { bytes: u64::from(byte()) << 12 }),
                _ => self.pass(Duration::from_millis(u64::from(byte()))),
            }
        }
    }

    /// One that is open, or one that is not.
    fn session(&self, which: u8) -> SessionId {
        let place = usize::from(which) % (self.sessions.len() + 1);
        self.sessions.keys().nth(place).copied().unwrap_or(SessionId(u64::from(which)))
    }

    fn ask(&mut self, session: u8, request: u8, first: u8, count: u8) {
        let content = u64::from(request >> 7);
        let geometry = self.geometry(ContentKey(content)).clone();
        let Some(span) = geometry.span(u32::from(first), u32::from(count % 80)) else { return };
        let (session, request) = (self.session(session), RequestId(u64::from(request)));
        if let Some(open) = self.sessions.get_mut(&session) {
            let chunks = span.chunks().map(|chunk| chunk.get()).collect();
            open.asked.entry(request).or_insert(chunks);
        }
        self.input(Input::Asked { session, request, content: ContentKey(content), geometry, span });
    }

    fn geometry(&self, content: ContentKey) -> &Geometry {
        &self.geometries[content.0 as usize]
    }

    fn sent(&mut self, which: u8, how: u8) {
        let session = self.session(which);
        let Some(open) = self.sessions.get_mut(&session).filter(|open| !open.unsent.is_empty()) else {
            return;
        };
        let bytes = open.unsent.remove(0);
        // It cannot always be sent.
        let is_sent = how % 8 != 0;
        self.granted_bytes -= if is_sent { 0 } else { bytes };
        self.input(Input::Sent { session, bytes: if is_sent { bytes } else { 0 } });
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.engine.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.input(Input::Tick);
        }
        self.now = end;
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Grant { session, request, content, span } => {
                    let bytes = self.geometry(content).len_of(span);
                    let open =
                        self.sessions.get_mut(&session).expect("only who is there is granted something");
                    assert!(bytes <= FRAME_PAYLOAD_MAX as u64 && span.pieces().count() == 1);
                    let asked = open.asked.get_mut(&request).expect("only what is asked for");
                    for chunk in span.chunks() {
                        assert!(asked.remove(&chunk.get()), "once");
                    }
                    if asked.is_empty() {
                        open.asked.remove(&request);
                    }
                    open.unsent.push(bytes);
                    assert!(open.unsent.len() <= 4, "no more at once than it may");
                    self.granted_bytes += bytes;
                }
                Output::Refuse { session, request, .. } => {
                    let open =
                        self.sessions.get_mut(&session).expect("only who is there is refused something");
                    assert!(open.asked.remove(&request).is_some());
                }
                Output::Violation { session } => {
                    // What was granted before is not sent any more; it stays counted.
                    assert!(self.sessions.remove(&session).is_some(), "only who is there");
                }
            }
        }
        if let Some(rate) = self.max_upload {
            // What the limit allows, what it lets leave at once, and a grant that is larger than that.
            let seconds = self.now.since(Time::ZERO).as_secs_f64() + 0.05;
            let allowed = rate as f64 * seconds + 512.0 * 1024.0;
            assert!(
                self.granted_bytes as f64 <= allowed,
                "{} bytes instead of {allowed}",
                self.granted_bytes
            );
        }
        self.engine.check_invariants();
        assert_eq!(self.engine.session_count(), self.sessions.len());
        let now = self.now;
        assert!(self.engine.deadline().is_none_or(|deadline| deadline > now), "it would wake for ever");
    }
}

fn folder() -> Geometry {
    let sizes = (0..60).map(|number| if number % 20 == 7 { 3_000_000 } else { number * number * 97 + 1 });
    Geometry::of_folder(Root([1; 32]), sizes.map(|size| (size, Root([2; 32])))).expect("a small one")
}
