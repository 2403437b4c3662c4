//! Whatever sources say, do and leave undone, the fetch engine keeps its promises: only what is right is verified, each
//! piece once; only who is there is asked, for what there is; only liars are called that; and it never wakes for ever.
//!
//! The input is read as operations: a byte that says which, and its arguments. What the node promises to the engine (a
//! chunk is written once until it is reset) holds; what comes from sources is anything.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::Digest;
use ftx_proto::engine::fetch::{DropReason, FetchConfig, FetchEngine, Input, Output, SourceId};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PieceIndex, Span};
use ftx_proto::merkle::{PieceLayer, piece_hash};
use ftx_proto::time::Time;
use ftx_proto::wire::session::{Refusal, RequestId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[size, seed], operations)) = data.split_first_chunk() else { return };
    Run::new(size, seed).operate(operations);
});

struct Run {
    engine: FetchEngine,
    geometry: Geometry,
    truth: Vec<Digest>,
    layer: PieceLayer,
    now: Time,
    /// The leaf that was written of a chunk, and who gave it.
    written: BTreeMap<u32, (Digest, SourceId)>,
    requests: BTreeMap<RequestId, (SourceId, Span)>,
    here: BTreeSet<SourceId>,
    liars: BTreeSet<SourceId>,
    verified: BTreeSet<PieceIndex>,
    complete: bool,
}

impl Run {
    fn new(size: u8, seed: u8) -> Self {
        // Up to four pieces; the last chunk is whole, or a byte.
        let size = (u64::from(size) * u64::from(CHUNK_SIZE)).max(1) + u64::from(seed % 2);
        let geometry = Geometry::new(size).expect("not too large");
        let truth: Vec<_> = (0..geometry.chunk_count()).map(|n| Digest::of(&n.to_le_bytes())).collect();
        let hash = |piece| {
            let span = geometry.span_of(piece);
            piece_hash(&geometry, piece, &truth[span.first().get() as usize..span.end() as usize])
        };
        let hashes = geometry.pieces().map(hash).collect();
        let layer = PieceLayer::from_hashes(geometry.clone(), hashes).expect("one for each piece");
        let have = PieceSet::empty(geometry.clone());
        let engine =
            FetchEngine::new(FetchConfig::default(), geometry.clone(), layer.root(), have, u64::from(seed));
        let mut run = Run {
            engine,
            geometry,
            truth,
            layer,
            now: Time::ZERO,
            written: BTreeMap::new(),
            requests: BTreeMap::new(),
            here: BTreeSet::new(),
            liars: BTreeSet::new(),
            verified: BTreeSet::new(),
            complete: false,
        };
        run.drain();
        run
    }

    fn operate(&mut self, mut rest: &[u8]) {
        while let Some((operation, after)) = rest.split_first() {
            rest = after;
            let mut byte = || {
                let (first, after) = rest.split_first().unwrap_or((&0, &[]));
                rest = after;
                *first
            };
            let source = |number: u8| SourceId(u32::from(number % 6));
            match operation % 16 {
                0 | 1 => {
                    let (source, whole) = (source(byte()), byte() % 4 != 0);
                    self.here.insert(source);
                    self.requests.retain(|_, (of, _)| *of != source);
                    self.input(Input::SourceJoined { source, whole });
                }
                2 => {
                    let (source, first, count) = (source(byte()), u32::from(byte()), u32::from(byte()));
                    let ranges = vec![first % 5..first % 5 + count, u32::MAX - first..u32::MAX];
                    self.input(Input::SourceHas { source, pieces: ranges });
                }
                3 => {
                    let source = source(byte());
                    self.leave(source);
                    self.input(Input::SourceLeft { source });
                }
                4 | 5 => self.layer(source(byte()), byte()),
                6 => self.input(Input::LayerFailed { source: source(byte()) }),
                7..=10 => self.answer(byte(), byte(), byte()),
                11 => {
                    let source = source(byte());
                    let request = self.request(byte());
                    let refusal =
                        [Refusal::Missing, Refusal::Unknown, Refusal::Busy { retry_after_ms: u32::MAX }]
                            [usize::from(byte() % 3)];
                    self.input(Input::Refused { source, request, refusal });
                }
                12 => {
                    let source = source(byte());
                    let requests = vec![self.request(byte()), self.request(byte())];
                    self.input(Input::Lost { source, requests });
                }
                13 => self.leaves(source(byte()), byte(), byte()),
                14 => self.pass(Duration::from_millis(u64::from(byte()))),
                _ => self.pass(Duration::from_millis(u64::from(byte()) * 100)),
            }
        }
    }

    /// A request that was made, or one that was not.
    fn request(&self, which: u8) -> RequestId {
        let place = usize::from(which) % (self.requests.len() + 1);
        self.requests.keys().nth(place).copied().unwrap_or(RequestId(u64::from(which)))
    }

    fn leave(&mut self, source: SourceId) {
        self.here.remove(&source);
        self.requests.retain(|_, (of, _)| *of != source);
    }

    fn layer(&mut self, source: SourceId, how: u8) {
        let mut hashes = self.layer.hashes().to_vec();
        match how % 8 {
            0 => hashes[0].0[0] ^= 1,
            1 => drop(hashes.pop()),
            2 => hashes.extend([Digest([7; 32]); 3]),
            _ => {}
        }
        if hashes != self.layer.hashes() {
            self.liars.insert(source);
        }
        self.input(Input::Layer { source, hashes });
    }

    /// A run of a request comes in, right or wrong; or one from somebody who was not asked for it.
    fn answer(&mut self, which: u8, part: u8, how: u8) {
        let place = usize::from(which) % self.requests.len().max(1);
        let Some((&request, &(asked, span))) = self.requests.iter().nth(place) else { return };
        let source = if how % 16 == 15 { SourceId(u32::from(part % 6)) } else { asked };
        let (skip, count) = (u32::from(part % 8) % span.count(), u32::from(part / 8) + 1);
        let first = span.first().get() + skip;
        let Some(run) = self.geometry.span(first, count.min(span.end() - first)) else { return };
        let mut leaves = Vec::new();
        for chunk in run.chunks() {
            let mut leaf = self.truth[chunk.get() as usize];
            if how % 4 == 0 {
                leaf.0[0] ^= 1;
                self.liars.insert(source);
            }
            let is_claimed =
                self.written.contains_key(&chunk.get()) || self.verified.contains(&chunk.piece());
            if !is_claimed {
                self.written.insert(chunk.get(), (leaf, source));
            }
            leaves.push((!is_claimed).then_some(leaf));
        }
        self.input(Input::Arrived { source, request, first: run.first(), leaves });
    }

    fn leaves(&mut self, source: SourceId, piece: u8, how: u8) {
        let Some(piece) = self.geometry.piece(u32::from(piece % 5)) else { return };
        let span = self.geometry.span_of(piece);
        let right = &self.truth[span.first().get() as usize..span.end() as usize];
        let mut leaves = right.to_vec();
        match how % 6 {
            0 => return self.input(Input::LeavesFailed { source, piece }),
            1 => leaves[0].0[0] ^= 1,
            2 => drop(leaves.pop()),
            _ => {}
        }
        if leaves != right {
            self.liars.insert(source);
        }
        self.input(Input::Leaves { source, piece, leaves });
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
        self.drain();
        self.engine.check_invariants();
        assert_eq!(self.engine.progress().pieces as usize, self.verified.len());
        assert_eq!(self.engine.is_complete(), self.complete, "it says so at once, and once");
        let now = self.now;
        assert!(self.engine.deadline().is_none_or(|deadline| deadline > now), "it would wake for ever");
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll() {
            assert!(!self.complete, "nothing comes after the end");
            match output {
                Output::Request { source, request, span } => {
                    assert!(self.here.contains(&source), "only who is there is asked");
                    assert_eq!(span.pieces().count(), 1);
                    assert!(!self.verified.contains(&span.first().piece()), "only what is missing");
                    assert!(self.requests.insert(request, (source, span)).is_none(), "a number of its own");
                }
                Output::AskLayer { source } | Output::AskLeaves { source, .. } => {
                    assert!(self.here.contains(&source), "only who is there is asked");
                }
                // What is on its way may still come.
                Output::Cancel { .. } => {}
                Output::LayerReady(layer) => assert_eq!(layer.hashes(), self.layer.hashes()),
                Output::Verified { piece } => {
                    for chunk in self.geometry.span_of(piece).chunks() {
                        let (leaf, _) = self.written.remove(&chunk.get()).expect("it was written");
                        assert_eq!(leaf, self.truth[chunk.get() as usize], "only what is right is verified");
                    }
                    assert!(self.verified.insert(piece), "once");
                }
                Output::Reset { piece, chunks } => {
                    for chunk in self.geometry.span_of(piece).chunks() {
                        if chunks.contains(chunk.in_piece()) {
                            assert!(self.written.remove(&chunk.get()).is_some(), "only what was written");
                        }
                    }
                }
                Output::Drop { source, why } => {
                    assert!(!matches!(why, DropReason::Lied(_)) || self.liars.contains(&source), "{why:?}");
                    self.leave(source);
                }
                Output::Complete => {
                    assert_eq!(self.verified.len(), self.geometry.piece_count() as usize);
                    self.complete = true;
                }
            }
        }
    }
}
