//! The fetch engine input by input, where a network would hide what is meant.

use std::sync::Arc;
use std::time::Duration;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::Digest;
use ftx_proto::engine::fetch::{FetchConfig, FetchEngine, Input, Output, SourceId};
use ftx_proto::geometry::{Geometry, PIECE_SIZE, Span};
use ftx_proto::merkle::{PieceLayer, piece_hash};
use ftx_proto::time::Time;
use ftx_proto::wire::session::{Refusal, RequestId};

const A: SourceId = SourceId(1);
const B: SourceId = SourceId(2);

/// An engine whose layer is known, and the answers by hand.
struct Bench {
    engine: FetchEngine,
    geometry: Geometry,
    now: Time,
    outputs: Vec<Output>,
}

fn leaf(chunk: u32) -> Digest {
    Digest::of(&chunk.to_le_bytes())
}

impl Bench {
    fn new(pieces: u32) -> Self {
        let geometry = Geometry::new(u64::from(pieces) * PIECE_SIZE).unwrap();
        let leaves = |span: Span| span.chunks().map(|c| leaf(c.get())).collect::<Vec<_>>();
        let hash = |piece| piece_hash(&geometry, piece, &leaves(geometry.span_of(piece)));
        let layer = PieceLayer::from_hashes(geometry.clone(), geometry.pieces().map(hash).collect()).unwrap();
        let have = PieceSet::empty(geometry.clone());
        let engine = FetchEngine::new(FetchConfig::default(), geometry.clone(), layer.root(), have, 1);
        let mut bench = Bench { engine, geometry, now: Time::ZERO, outputs: Vec::new() };
        bench.tell(Input::LayerKnown(Arc::new(layer)));
        bench
    }

    fn tell(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        self.outputs = std::iter::from_fn(|| self.engine.poll()).collect();
    }

    /// What the last input led to being asked.
    fn requests(&self) -> Vec<(SourceId, RequestId, Span)> {
        let request = |output: &Output| match *output {
            Output::Request { source, request, span } => Some((source, request, span)),
            _ => None,
        };
        self.outputs.iter().filter_map(request).collect()
    }

    fn arrived(&mut self, source: SourceId, request: RequestId, first: u32, count: u32) {
        let leaves = (first..first + count).map(|chunk| Some(leaf(chunk))).collect();
        let first = self.geometry.chunk(first).unwrap();
        self.tell(Input::Arrived { source, request, first, leaves });
    }

    fn join(&mut self, source: SourceId) {
        self.tell(Input::SourceJoined { source, whole: true });
    }
}

#[test]
fn a_request_that_is_passed_over_is_asked_again_while_others_are_answered() {
    let mut bench = Bench::new(200);
    bench.join(A);
    let mut queue: Vec<_> = bench.requests();
    let (_, lost, lost_span) = queue.remove(0);
    let mut cancelled_after = None;
    for answered in 0..150 {
        bench.now += Duration::from_millis(20);
        let (source, request, span) = queue.remove(0);
        bench.arrived(source, request, span.first().get(), span.count());
        queue.extend(bench.requests());
        if bench.outputs.contains(&Output::Cancel { source: A, request: lost }) {
            cancelled_after = Some(answered);
            break;
        }
    }
    // Not before several windows have come since, and long before the fetch ends.
    assert!(cancelled_after.is_some_and(|n| (5..60).contains(&n)), "{cancelled_after:?}");
    assert!(queue.iter().any(|(_, _, span)| *span == lost_span), "there is nobody else to ask");
    assert_eq!(bench.engine.source_stats(A).unwrap().retransmitted, 64);
    bench.engine.check_invariants();
}

#[test]
fn what_one_lost_the_other_is_asked_for() {
    let mut bench = Bench::new(200);
    bench.join(A);
    let lost: Vec<_> = bench.requests();
    bench.join(B);
    // B makes room, then A's lane breaks.
    for (_, request, span) in bench.requests() {
        bench.arrived(B, request, span.first().get(), span.count());
        bench.tell(Input::Refused { source: B, request, refusal: Refusal::Missing });
    }
    bench.tell(Input::Lost { source: A, requests: lost.iter().map(|(_, request, _)| *request).collect() });
    let asked = bench.requests();
    assert!(!asked.is_empty());
    for (source, _, span) in asked {
        assert!(
            source == B || lost.iter().all(|(_, _, other)| *other != span),
            "A is asked for something else"
        );
    }
    bench.engine.check_invariants();
}

#[test]
fn a_written_chunk_counts_however_late_it_is() {
    let mut bench = Bench::new(2);
    bench.join(A);
    let old: Vec<_> = bench.requests();
    bench.tell(Input::SourceLeft { source: A });
    assert!(bench.engine.is_starved());
    for (source, request, span) in old {
        bench.arrived(source, request, span.first().get(), span.count());
        bench.engine.check_invariants();
    }
    let stats = bench.engine.source_stats(A).unwrap();
    assert!(stats.chunks > 0 && bench.engine.progress().pieces > 0, "{stats:?}");
    // The other piece is here but for what was never asked for.
    bench.join(B);
    let asked: u32 = bench.requests().iter().map(|(_, _, span)| span.count()).sum();
    assert_eq!(u64::from(asked) + stats.chunks, 128);
}

#[test]
fn what_nobody_asked_for_is_ignored() {
    let mut bench = Bench::new(2);
    bench.join(A);
    let (_, request, span) = bench.requests()[0];
    let outside = if span.first().get() < 64 { 64 } else { 0 };
    let before = format!("{:?}", bench.engine.progress());
    bench.arrived(A, RequestId(999), 0, 4);
    bench.arrived(B, request, span.first().get(), 1);
    bench.arrived(A, request, outside, 4);
    bench.arrived(A, request, 60, 8);
    bench.tell(Input::Refused { source: B, request, refusal: Refusal::Missing });
    bench.tell(Input::Lost { source: B, requests: vec![request, RequestId(999)] });
    bench.tell(Input::LeavesFailed { source: A, piece: span.first().piece() });
    bench.tell(Input::Leaves { source: A, piece: span.first().piece(), leaves: Vec::new() });
    bench.tell(Input::Layer { source: A, hashes: Vec::new() });
    assert_eq!(bench.outputs, []);
    assert_eq!(format!("{:?}", bench.engine.progress()), before);
    assert_eq!(bench.engine.source_stats(A).unwrap().duplicates, 0);
    bench.engine.check_invariants();
    bench.arrived(A, request, span.first().get(), 1);
    bench.engine.check_invariants();
}

#[test]
fn a_wrong_layer_from_elsewhere_is_not_believed() {
    let other = Bench::new(3).engine.layer().cloned().unwrap();
    let geometry = Geometry::new(2 * PIECE_SIZE).unwrap();
    let root = Bench::new(2).engine.layer().unwrap().root();
    let mut engine =
        FetchEngine::new(FetchConfig::default(), geometry.clone(), root, PieceSet::empty(geometry), 1);
    engine.handle(Time::ZERO, Input::LayerKnown(other));
    assert_eq!((engine.poll(), engine.layer()), (None, None));
}

#[test]
fn pieces_that_are_begun_and_left_do_not_pile_up() {
    let mut bench = Bench::new(4300);
    bench.tell(Input::SourceJoined { source: A, whole: false });
    let mut resets = 0;
    for piece in 0..4300 {
        let only = piece..piece + 1;
        bench.tell(Input::SourceHas { source: A, pieces: vec![only] });
        let (_, request, span) = *bench.requests().first().expect("what it has is asked for");
        assert_eq!(span.first().piece().get(), piece);
        resets += bench.outputs.iter().filter(|output| matches!(output, Output::Reset { .. })).count();
        bench.arrived(A, request, span.first().get(), 1);
        bench.tell(Input::Refused { source: A, request, refusal: Refusal::Missing });
    }
    assert_eq!(resets, 4300 - 4096);
    bench.engine.check_invariants();
}

#[test]
fn a_silent_source_alone_is_starvation() {
    let mut bench = Bench::new(20);
    bench.join(A);
    assert!(!bench.engine.is_starved());
    for _ in 0..3 {
        bench.now = bench.engine.deadline().unwrap();
        bench.tell(Input::Tick);
        assert!(!bench.requests().is_empty(), "it is probed");
    }
    assert!(bench.engine.is_starved());
    let (_, request, span) = bench.requests()[0];
    bench.arrived(A, request, span.first().get(), 1);
    assert!(!bench.engine.is_starved());
}
