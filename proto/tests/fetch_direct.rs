//! The fetch engine input by input, where a network would hide what is meant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::chunk_set::{ChunkMask, PieceSet};
use ftx_proto::digest::{Digest, Root};
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

/// So many files of one chunk of 100 bytes, of which each leaf is the root.
fn small_files(count: u32) -> Geometry {
    let files = (0..count).map(|number| (100, Root(leaf(number).0)));
    Geometry::of_folder(Root([9; 32]), files).unwrap()
}

/// A fetch of small files, without these chunks of the first piece; the roots of the files prove everything.
fn bench_of_small_files(count: u32, skipped: u64) -> Bench {
    let geometry = small_files(count);
    let skipped = BTreeMap::from([(geometry.piece(0).unwrap(), ChunkMask(skipped))]);
    let (config, have) = (FetchConfig::default(), PieceSet::empty(geometry.clone()));
    let engine = FetchEngine::selecting(config, geometry.clone(), Root([9; 32]), have, skipped, 1);
    let mut bench = Bench { engine, geometry, now: Time::ZERO, outputs: Vec::new() };
    bench.tell(Input::Tick);
    assert!(matches!(bench.outputs[..], [Output::LayerReady(_)]));
    bench
}

impl Bench {
    fn found(&mut self, first: u32, leaves: Vec<Digest>) {
        let first = self.geometry.chunk(first).unwrap();
        self.tell(Input::Found { first, leaves });
        self.engine.check_invariants();
    }
}

#[test]
fn what_is_found_proves_files_without_anybody() {
    let mut bench = bench_of_small_files(100, 0b10);
    let first = bench.geometry.piece(0).unwrap();
    bench.found(0, vec![leaf(0)]);
    assert_eq!(bench.outputs, []);
    // What is not wanted is no part of it, whatever it is.
    bench.found(1, vec![leaf(77)]);
    bench.found(2, (2..64).map(leaf).collect());
    assert_eq!(bench.outputs, [Output::Verified { piece: first }]);
    assert!(!bench.engine.have().contains(first), "a chunk of it is not here");
    assert_eq!(bench.engine.progress().bytes, 6300);
    // What is verified stays, and nothing is said about it.
    bench.found(0, vec![leaf(5)]);
    assert_eq!(bench.outputs, []);
    bench.found(64, (64..100).map(leaf).collect());
    let last = bench.geometry.piece(1).unwrap();
    assert_eq!(bench.outputs, [Output::Verified { piece: last }, Output::Complete]);
    let progress = bench.engine.progress();
    assert_eq!((progress.bytes, progress.bytes_total), (9900, 9900));
    assert_eq!(bench.engine.all_stats().count(), 0, "nobody did anything");
}

#[test]
fn what_is_spared_does_not_keep_a_piece_from_others() {
    let geometry = small_files(150);
    let pieces: Vec<_> = geometry.pieces().collect();
    // Of each piece a chunk is skipped; of the first and the second it can be read all the same. The first is here.
    let skipped = BTreeMap::from_iter(pieces.iter().map(|piece| (*piece, ChunkMask(1))));
    let mut spared = PieceSet::empty(geometry.clone());
    spared.insert_range(0..2);
    let mut have = PieceSet::empty(geometry.clone());
    have.insert(pieces[0]);
    let config = FetchConfig::default();
    let mut engine = FetchEngine::selecting(config, geometry.clone(), Root([9; 32]), have, skipped, 1);
    engine.spare(spared);
    let mut bench = Bench { engine, geometry, now: Time::ZERO, outputs: Vec::new() };
    let have = |bench: &Bench| bench.engine.have().iter().map(|piece| piece.get()).collect::<Vec<_>>();
    assert_eq!(have(&bench), [0]);
    bench.found(65, (65..128).map(leaf).collect());
    bench.found(129, (129..150).map(leaf).collect());
    assert!(bench.engine.is_complete());
    assert_eq!(have(&bench), [0, 1], "of the third a chunk is not here");
    let progress = bench.engine.progress();
    assert_eq!((progress.bytes, progress.bytes_total), (14_700, 14_700));
    let wanted = bench.geometry.pieces().map(|piece| bench.engine.len_wanted(piece)).collect::<Vec<_>>();
    assert_eq!(wanted, [6300, 6300, 2100]);
}

#[test]
fn nobody_is_blamed_for_what_was_found() {
    // The source tells the leaves, or never does: then all of the piece is fetched.
    for (tells, found) in [(true, 60), (false, 60), (true, 63), (false, 63)] {
        let mut bench = bench_of_small_files(64, 1);
        let piece = bench.geometry.piece(0).unwrap();
        bench.found(1, (1..found).map(leaf).chain([leaf(1000)]).collect());
        bench.join(A);
        let requests = bench.requests();
        assert_eq!(requests.iter().map(|(_, _, span)| span.count()).sum::<u32>(), 63 - found);
        let mut outputs = std::mem::take(&mut bench.outputs);
        for (source, request, span) in requests {
            bench.arrived(source, request, span.first().get(), span.count());
        }
        outputs.append(&mut bench.outputs);
        assert!(outputs.contains(&Output::AskLeaves { source: A, piece }));
        let mut resets = Vec::new();
        while resets.is_empty() {
            if tells {
                bench.tell(Input::Leaves { source: A, piece, leaves: (0..64).map(leaf).collect() });
            } else {
                bench.now = bench.engine.deadline().unwrap();
                bench.tell(Input::Tick);
            }
            let reset = |output: &Output| match output {
                Output::Reset { chunks, .. } => Some(chunks.0),
                Output::Drop { .. } => panic!("nobody lied"),
                _ => None,
            };
            resets.extend(bench.outputs.iter().filter_map(reset));
        }
        assert_eq!(resets, [if tells { 1 << found } else { u64::MAX - 1 }]);
        for (source, request, span) in bench.requests() {
            bench.arrived(source, request, span.first().get(), span.count());
        }
        assert_eq!(bench.outputs.last(), Some(&Output::Complete));
        let stats = bench.engine.source_stats(A).unwrap();
        assert_eq!((stats.bad, stats.chunks), (0, u64::from(if tells { 64 - found } else { 63 })));
    }
}

#[test]
fn what_is_found_before_the_layer_is_known_is_bounded() {
    let geometry = Geometry::new(300 * PIECE_SIZE).unwrap();
    let have = PieceSet::empty(geometry.clone());
    let engine = FetchEngine::new(FetchConfig::default(), geometry.clone(), Root([1; 32]), have, 1);
    let mut bench = Bench { engine, geometry, now: Time::ZERO, outputs: Vec::new() };
    for piece in 0..300 {
        bench.found(piece * 64, vec![leaf(0)]);
        let number = bench.geometry.piece(piece).unwrap();
        let refused = Output::Reset { piece: number, chunks: ChunkMask(1) };
        assert_eq!(bench.outputs, if piece < 256 { vec![] } else { vec![refused] }, "{piece}");
    }
}

#[test]
#[should_panic(expected = "a file's part of a piece is skipped or is not")]
fn half_a_file_cannot_be_skipped() {
    let geometry = Geometry::new(2 * PIECE_SIZE).unwrap();
    let skipped = BTreeMap::from([(geometry.piece(1).unwrap(), ChunkMask(1))]);
    let have = PieceSet::empty(geometry.clone());
    FetchEngine::selecting(FetchConfig::default(), geometry, Root([1; 32]), have, skipped, 1);
}

#[test]
fn nobody_is_late_while_nobody_looks() {
    let mut bench = Bench::new(200);
    bench.join(A);
    bench.join(B);
    let slept = Duration::from_secs(5);
    bench.now += slept;
    bench.tell(Input::Overslept(slept));
    bench.tell(Input::Tick);
    let stats = |bench: &Bench, source| bench.engine.source_stats(source).unwrap();
    assert_eq!((stats(&bench, A).retransmitted, stats(&bench, B).retransmitted), (0, 0));
    // Time that somebody looks counts as ever.
    bench.now += slept;
    bench.tell(Input::Tick);
    assert!(stats(&bench, A).retransmitted > 0 && stats(&bench, B).retransmitted > 0);
    bench.engine.check_invariants();
}

#[test]
fn a_source_has_as_long_as_it_takes_to_receive_what_the_others_owe() {
    let mut bench = Bench::new(400);
    let many: Vec<SourceId> = (1..=20).map(SourceId).collect();
    // Everything comes, but from one after the other, and each has to wait 1.2 s: this machine takes in no more.
    let mut queues: BTreeMap<SourceId, Vec<(RequestId, Span)>> = BTreeMap::new();
    for &source in &many {
        bench.join(source);
        queues
            .insert(source, bench.requests().into_iter().map(|(_, request, span)| (request, span)).collect());
    }
    for &source in many.iter().cycle().take(100) {
        bench.now += Duration::from_millis(60);
        let queue = queues.get_mut(&source).unwrap();
        let (request, span) = queue.remove(0);
        bench.arrived(source, request, span.first().get(), span.count());
        for (source, request, span) in bench.requests() {
            queues.get_mut(&source).unwrap().push((request, span));
        }
    }
    let late: u64 = bench.engine.all_stats().map(|(_, stats)| stats.retransmitted).sum();
    assert_eq!(late, 0, "none of them is at fault");
    bench.engine.check_invariants();
}
