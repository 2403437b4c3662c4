//! What a source may send to the asking side of the datagram lane, and what it is worth: nothing that was not asked for is
//! kept, and nothing that an honest source sends is held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ftx_proto::digest::Root;
use ftx_proto::engine::pull::budget::{Budget, Member};
use ftx_proto::engine::pull::{Fate, Input, Output, PullEngine, Violation};
use ftx_proto::geometry::{CHUNK_SIZE, ChunkIndex, Geometry};
use ftx_proto::time::Time;
use ftx_proto::wire::datagram::{Asking, DataHead, Layout};
use ftx_proto::wire::session::RequestId;
use proptest::prelude::*;

/// An engine, with everything that it has asked for in the order in which a source sends it.
struct Lane {
    geometry: Geometry,
    engine: PullEngine,
    budget: Budget,
    now: Time,
    answers: Vec<(DataHead, usize)>,
    probes: Vec<u32>,
    forgotten: Vec<u32>,
    silent: bool,
}

impl Lane {
    fn new(size: u64) -> Self {
        Lane::of(Geometry::new(size).unwrap())
    }

    fn of(geometry: Geometry) -> Self {
        let mut lane = Lane {
            engine: PullEngine::new(geometry.clone(), Member(0), 1 << 20, Time::ZERO),
            geometry,
            budget: Budget::new(),
            now: Time::ZERO,
            answers: Vec::new(),
            probes: Vec::new(),
            forgotten: Vec::new(),
            silent: false,
        };
        lane.input(Input::Tick);
        lane
    }

    /// A lane with so many chunks, of which all are asked for.
    fn asking(chunks: u32) -> Self {
        let mut lane = Lane::new(u64::from(chunks) * u64::from(CHUNK_SIZE));
        lane.ask(1, 0, chunks);
        lane
    }

    fn ask(&mut self, request: u64, first: u32, count: u32) {
        let span = self.geometry.span(first, count).unwrap();
        self.input(Input::Ask { request: RequestId(request), span });
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input, &mut self.budget);
        self.engine.check_invariants();
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Send(Asking::Probe { number, .. }) => self.probes.push(number),
                Output::Send(Asking::Want(want)) => {
                    for (chunk, mask) in want.send_order() {
                        self.answers.extend(mask.iter().map(|fragment| {
                            let head = DataHead { want: want.number as u16, chunk: chunk.get(), fragment };
                            (head, want.layout.range(self.geometry.chunk_len(chunk), fragment).len())
                        }));
                    }
                }
                Output::Forget(chunk) => self.forgotten.push(chunk.get()),
                Output::Silent => self.silent = true,
            }
        }
    }

    fn data(&mut self, head: DataHead, len: usize) -> Result<Fate, Violation> {
        let fate = self.engine.data(self.now, head, len);
        self.input(Input::Tick);
        fate
    }

    /// The next answer comes.
    fn next(&mut self) -> Option<Fate> {
        self.now += Duration::from_micros(100);
        let (head, len) = (!self.answers.is_empty()).then(|| self.answers.remove(0))?;
        Some(self.data(head, len).expect("it was asked for"))
    }

    /// Everything comes that is asked for, and what is asked for then: the chunks in the order in which they were
    /// complete, with their requests.
    fn finish(&mut self) -> Vec<(ChunkIndex, RequestId)> {
        let mut complete = Vec::new();
        while let Some(fate) = self.next() {
            if let Fate::Keep { chunk, completes: Some(request), .. } = fate {
                complete.push((chunk, request));
            }
        }
        complete
    }

    /// Time passes until everything that has not come counts as lost.
    fn lose_everything(&mut self) {
        self.answers.clear();
        self.now += Duration::from_millis(200);
        self.input(Input::Tick);
    }
}

#[test]
fn what_nobody_asked_for_is_a_violation_or_nothing() {
    let mut lane = Lane::new(8 * u64::from(CHUNK_SIZE));
    let (head, len) = (DataHead { want: 0, chunk: 3, fragment: 0 }, Layout::SMALLEST.fragment_len());
    assert_eq!(lane.data(head, len), Ok(Fate::Drop), "nothing is wanted");
    lane.ask(1, 0, 2);
    assert_eq!(lane.data(head, len), Err(Violation::Unasked), "the Want does not name the chunk");
    assert_eq!(
        lane.data(DataHead { chunk: 8, ..head }, len),
        Err(Violation::Unasked),
        "there is no such chunk"
    );
    assert_eq!(lane.data(DataHead { chunk: u32::MAX, ..head }, len), Err(Violation::Unasked));
    assert_eq!(
        lane.data(DataHead { chunk: 0, fragment: 15, ..head }, len),
        Err(Violation::Unasked),
        "no such fragment"
    );
    assert_eq!(lane.engine.statistics().arrived, 0);
    assert_eq!(lane.finish().len(), 2, "the honest go on");
}

#[test]
fn fragments_have_the_length_that_they_must_have() {
    let mut lane = Lane::new(3 * u64::from(CHUNK_SIZE) + 100);
    lane.ask(1, 0, 4);
    for (head, len) in lane.answers.clone() {
        for wrong in [0, 1, len - 1, len + 1, CHUNK_SIZE as usize, usize::MAX] {
            if wrong != len {
                assert_eq!(lane.data(head, wrong), Err(Violation::Length), "{wrong} instead of {len}");
            }
        }
    }
    assert_eq!(lane.finish().len(), 4);
    assert!(lane.engine.is_idle());
}

#[test]
fn what_comes_twice_is_kept_once() {
    let mut lane = Lane::asking(4);
    let (mut kept, mut complete) = (0, 0);
    while let Some(&(head, len)) = lane.answers.first() {
        lane.answers.remove(0);
        let Fate::Keep { completes, place, .. } = lane.data(head, len).unwrap() else { panic!("it is new") };
        kept += place.len();
        complete += u32::from(completes.is_some());
        assert_eq!(lane.data(head, len), Ok(Fate::Drop));
        assert_eq!(lane.data(head, len), Ok(Fate::Drop));
    }
    assert_eq!((kept, complete), (4 * CHUNK_SIZE as usize, 4));
    let statistics = lane.engine.statistics();
    assert_eq!((statistics.arrived * 2, statistics.lost), (statistics.useless, 0));
}

#[test]
fn what_is_late_is_kept_and_not_taken_twice() {
    let mut lane = Lane::asking(2);
    let old = lane.answers.clone();
    lane.lose_everything();
    assert_eq!(lane.engine.statistics().lost as usize, old.len());
    assert!(!lane.answers.is_empty(), "it is asked for again");
    for (head, len) in &old {
        assert!(matches!(lane.data(*head, *len), Ok(Fate::Keep { .. })), "late is better than never");
    }
    assert_eq!(lane.engine.statistics().late as usize, old.len());
    // What was asked for again comes as well.
    for (head, len) in lane.answers.clone() {
        let known = old.iter().any(|(was, _)| (was.chunk, was.fragment) == (head.chunk, head.fragment));
        assert_eq!(lane.data(head, len).unwrap() == Fate::Drop, known);
    }
}

#[test]
fn fragments_of_another_layout_do_not_mix() {
    let mut lane = Lane::asking(8);
    // One fragment of each Want is here, then the path turns out to be wider.
    let old = lane.answers.clone();
    let Some(Fate::Keep { chunk, .. }) = lane.next() else { panic!("it was asked for") };
    for number in lane.probes.clone() {
        lane.input(Input::Padding { number });
    }
    assert_eq!(lane.engine.layout(), Layout::ALL[3], "everything passes");
    // A whole chunk as the answer to a Want for fifteenths.
    let head = DataHead { want: 0, chunk: chunk.get(), fragment: 1 };
    assert_eq!(lane.data(head, CHUNK_SIZE as usize), Err(Violation::Length));
    // Nothing comes any more: the path has become narrow, what was asked in large datagrams is cut anew.
    while lane.engine.layout() != Layout::SMALLEST {
        assert!(!lane.silent);
        lane.lose_everything();
    }
    for (head, len) in old.iter().skip(1) {
        assert!(lane.data(*head, *len).is_ok(), "the honest may be as late as they are");
    }
    let mut chunks: Vec<u32> = lane.finish().iter().map(|(chunk, _)| chunk.get()).collect();
    chunks.sort_unstable();
    chunks.dedup();
    assert!(lane.engine.is_idle() && !chunks.is_empty());
}

#[test]
fn padding_that_no_probe_asked_for_proves_nothing() {
    let mut lane = Lane::asking(4);
    for number in [lane.probes.len() as u32, 1000, u32::MAX] {
        lane.input(Input::Padding { number });
        assert_eq!(lane.engine.layout(), Layout::SMALLEST);
    }
    let number = lane.probes[0];
    lane.input(Input::Padding { number });
    let proved = lane.engine.layout();
    assert_ne!(proved, Layout::SMALLEST);
    lane.input(Input::Padding { number });
    assert_eq!(lane.engine.layout(), proved, "twice proves no more");
    assert_eq!(lane.finish().len(), 4);
}

#[test]
fn what_is_cancelled_is_forgotten_and_can_be_asked_for_again() {
    let mut lane = Lane::asking(8);
    lane.next();
    let old = lane.answers.clone();
    lane.input(Input::Cancel { request: RequestId(1) });
    assert_eq!(lane.forgotten, (0..8).collect::<Vec<_>>());
    assert!(lane.engine.is_idle());
    let (late, rest) = old.split_at(old.len() / 2);
    for (head, len) in late {
        assert_eq!(
            lane.data(*head, *len),
            Ok(Fate::Drop),
            "nobody wants it any more, and that is no violation"
        );
    }
    lane.answers.clear();
    lane.ask(2, 0, 8);
    // What is still under way for the old request serves the new one.
    for (head, len) in rest {
        assert!(matches!(lane.data(*head, *len), Ok(Fate::Keep { .. })));
    }
    assert!(lane.finish().iter().all(|(_, request)| *request == RequestId(2)));
    assert!(lane.engine.is_idle());
}

#[test]
fn what_is_lost_of_an_old_request_does_not_disturb_the_new_one() {
    let mut lane = Lane::asking(64);
    lane.input(Input::Cancel { request: RequestId(1) });
    lane.ask(2, 0, 64);
    let asked = lane.engine.statistics().asked;
    lane.lose_everything();
    assert!(lane.engine.statistics().asked > asked, "it goes on");
    let complete = lane.finish();
    assert_eq!(complete.len(), 64);
}

#[test]
fn what_comes_late_completes_a_chunk_that_still_waits_and_it_can_be_asked_for_again() {
    let mut lane = Lane::asking(64);
    let old = lane.answers.clone();
    for request in 2..4 {
        lane.input(Input::Cancel { request: RequestId(request - 1) });
        lane.ask(request, 0, 64);
        for (head, len) in &old {
            assert!(lane.data(*head, *len).is_ok());
        }
        // As if what came was wrong.
        lane.ask(request, 0, 64);
    }
    assert!(lane.finish().len() >= 64);
    assert!(lane.engine.is_idle());
}

#[test]
fn a_request_number_that_is_used_again_means_the_newer_one() {
    let mut lane = Lane::asking(4);
    lane.input(Input::Cancel { request: RequestId(9) });
    assert!(lane.forgotten.is_empty(), "there is no such request");
    // The same chunks for another request: they are asked for once and belong to that one.
    let asked = lane.engine.statistics().asked;
    lane.ask(2, 1, 2);
    assert_eq!(lane.engine.statistics().asked, asked);
    lane.input(Input::Cancel { request: RequestId(1) });
    assert_eq!(lane.forgotten, [0, 3]);
    lane.ask(1, 3, 1);
    let mut complete: Vec<(u32, u64)> = lane.finish().iter().map(|(chunk, of)| (chunk.get(), of.0)).collect();
    complete.sort_unstable();
    assert_eq!(complete, [(1, 2), (2, 2), (3, 1)]);
}

#[test]
fn a_source_that_sends_only_nonsense_is_given_up_like_a_silent_one() {
    let mut lane = Lane::asking(4);
    let nonsense = DataHead { want: 0, chunk: 4, fragment: 0 };
    for _ in 0..1000 {
        if lane.silent {
            break;
        }
        lane.now = lane.engine.deadline().unwrap_or(lane.now).max(lane.now);
        assert_eq!(lane.data(nonsense, 1), Err(Violation::Unasked));
    }
    assert!(lane.silent && lane.engine.deadline().is_none());
    let asked = lane.engine.statistics().asked;
    lane.ask(5, 0, 4);
    assert_eq!(lane.engine.statistics().asked, asked, "it is over");
}

fn folder(sizes: &[u64]) -> Geometry {
    let root = Root([7; 32]);
    Geometry::of_folder(root, sizes.iter().map(|size| (*size, root))).unwrap()
}

/// Chunks of one byte and of any other length, with numbers that do not exist behind some of them.
fn sizes() -> impl Strategy<Value = Vec<u64>> {
    let chunk = u64::from(CHUNK_SIZE);
    let size = prop_oneof![1u64..5, 1u64..3000, 1u64..(3 * chunk), (63 * chunk)..(67 * chunk)];
    prop::collection::vec(size, 1..12)
}

/// The body of a Want for some fragments of one chunk.
fn want(layout: u8, chunk: u32, mask: u16) -> Vec<u8> {
    [&[0x10, 0, 0, 0, 1, layout], &chunk.to_be_bytes()[..], &mask.to_be_bytes()].concat()
}

#[test]
fn numbers_between_files_are_never_kept() {
    // The large file has chunks 0 to 64, the small ones 128 and 129.
    let mut lane = Lane::of(folder(&[64 * u64::from(CHUNK_SIZE) + 5, 1, 20]));
    lane.ask(1, 64, 1);
    lane.ask(1, 128, 2);
    let len = Layout::SMALLEST.fragment_len();
    for chunk in [65, 66, 127, 130, 191, 192, 1 << 30, u32::MAX] {
        for len in [1, 5, len] {
            let head = DataHead { want: 0, chunk, fragment: 0 };
            assert_eq!(lane.data(head, len), Err(Violation::Unasked), "{chunk}");
        }
    }
    assert_eq!(lane.answers.iter().map(|(_, len)| *len).sum::<usize>(), 26);
    assert_eq!(lane.finish().len(), 3);
    assert!(lane.engine.is_idle());
}

#[test]
fn many_short_chunks_are_not_asked_for_all_at_once() {
    // As many datagrams as a window of such bytes would hold drown any receiver.
    let mut lane = Lane::of(folder(&[10; 64 * 20]));
    for piece in 0..20 {
        lane.ask(u64::from(piece), piece * 64, 64);
    }
    let at_first = lane.answers.len();
    assert!((16..=100).contains(&at_first), "{at_first} datagrams to a receiver of which nothing is known");
    assert_eq!(lane.finish().len(), 64 * 20);
    assert!(lane.engine.is_idle());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_want_names_what_exists_and_nothing_else(sizes in sizes(), layout in 1u8..=16) {
        let geometry = folder(&sizes);
        let last = geometry.pieces().last().map_or(0, |piece| geometry.span_of(piece).end());
        for number in (0..last + 130).chain([1 << 26, 1 << 30, u32::MAX - 1, u32::MAX]) {
            let Some(chunk) = geometry.chunk(number) else {
                prop_assert!(Asking::decode(&want(layout, number, 1), &geometry).is_err(), "{}", number);
                continue;
            };
            let all = Layout::new(layout).unwrap().all(geometry.chunk_len(chunk));
            prop_assert!(all.count() > 0 && Asking::decode(&want(layout, number, all.0), &geometry).is_ok());
            let beyond = u32::from(all.0) + 1;
            if let Ok(beyond) = u16::try_from(beyond) {
                prop_assert!(Asking::decode(&want(layout, number, beyond), &geometry).is_err());
            }
        }
    }

    #[test]
    fn chunks_of_any_length_come_whole_and_once(sizes in sizes(), losses: u64, wide: bool) {
        let geometry = folder(&sizes);
        let mut lane = Lane::of(geometry.clone());
        if wide {
            for number in lane.probes.clone() {
                lane.input(Input::Padding { number });
            }
        }
        let mut missing = BTreeSet::new();
        for piece in geometry.pieces() {
            let span = geometry.span_of(piece);
            lane.ask(u64::from(piece.get()), span.first().get(), span.count());
            missing.extend(span.chunks());
        }
        let mut bytes: BTreeMap<ChunkIndex, u64> = BTreeMap::new();
        for step in 0..100_000u32 {
            prop_assert!(!lane.silent);
            if lane.engine.is_idle() {
                break;
            }
            if lane.answers.is_empty() {
                lane.lose_everything();
            }
            if losses >> (step % 64) & 0b1011 == 0b1011 {
                lane.answers.pop();
            }
            let Some(Fate::Keep { chunk, place, completes }) = lane.next() else { continue };
            *bytes.entry(chunk).or_default() += place.len() as u64;
            if let Some(request) = completes {
                prop_assert_eq!(request.0, u64::from(chunk.piece().get()));
                prop_assert!(missing.remove(&chunk), "a chunk is complete once");
                prop_assert_eq!(bytes[&chunk], u64::from(geometry.chunk_len(chunk)));
            }
        }
        prop_assert!(missing.is_empty() && lane.engine.is_idle());
        prop_assert_eq!(bytes.values().sum::<u64>(), geometry.size());
    }
}
