//! Whatever is asked and cancelled, and whatever comes from a source, the asking engine keeps its promises: nothing is
//! kept that was not wanted, a chunk is complete once and with all its bytes, and it never wakes itself for ever.
//!
//! The input is read as operations: a byte that says which, and its arguments.
#![no_main]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use ftx_proto::digest::Root;
use ftx_proto::engine::pull::budget::{Budget, Member};
use ftx_proto::engine::pull::{Fate, Input, Output, PullEngine};
use ftx_proto::geometry::{CHUNK_SIZE, ChunkIndex, Geometry};
use ftx_proto::time::Time;
use ftx_proto::wire::datagram::{Asking, DataHead};
use ftx_proto::wire::session::RequestId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[size, buffer], operations)) = data.split_first_chunk() else { return };
    Run::new(size, buffer).operate(operations);
});

/// Between one byte and 64 chunks; the last chunk is whole, or almost, or a byte.
fn file(size: u8) -> Geometry {
    let size = (u64::from(size / 4) * u64::from(CHUNK_SIZE) + u64::from(size % 4) * 5461).max(1);
    Geometry::new(size).expect("not too large")
}

/// Up to 16 files of up to three chunks, and behind some of them one of 65, with numbers that do not exist around it.
fn folder(shape: u8) -> Geometry {
    const SIZES: [u64; 7] = [1, 16_384, 20, 40_000, 5000, 16_385, 1093];
    let (count, step) = (usize::from(shape % 16) + 1, usize::from(shape / 64));
    let mut sizes: Vec<u64> = SIZES.iter().copied().cycle().step_by(step + 1).take(count).collect();
    if step > 1 {
        sizes.insert(count / 2, 64 * u64::from(CHUNK_SIZE) + 7);
    }
    let root = Root([1; 32]);
    Geometry::of_folder(root, sizes.into_iter().map(|size| (size, root))).expect("not too large")
}

struct Run {
    geometry: Geometry,
    engine: PullEngine,
    budget: Budget,
    now: Time,
    /// What is wanted and not complete: by whom, and which bytes are here.
    wanted: BTreeMap<ChunkIndex, (RequestId, Vec<Range<usize>>)>,
    /// Fragments that an honest source would send, with their lengths; and numbers of probes.
    answers: Vec<(DataHead, usize)>,
    probes: Vec<u32>,
    over: bool,
}

impl Run {
    fn new(size: u8, buffer: u8) -> Self {
        let geometry = if buffer % 4 == 1 { folder(size) } else { file(size) };
        let engine = PullEngine::new(geometry.clone(), Member(0), u64::from(buffer) << 12, Time::ZERO);
        let mut run = Run {
            geometry,
            engine,
            budget: Budget::new(),
            now: Time::ZERO,
            wanted: BTreeMap::new(),
            answers: Vec::new(),
            probes: Vec::new(),
            over: false,
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
            match operation % 10 {
                0 => self.ask(byte(), byte(), byte()),
                1 => self.cancel(byte()),
                2 | 3 => self.answer(byte(), 1, false),
                4 => self.answer(0, byte(), false),
                5 => self.answer(byte(), 1, true),
                6 => {
                    let head = DataHead {
                        want: u16::from_be_bytes([byte() / 64, byte()]),
                        chunk: u32::from(byte()),
                        fragment: byte() % 16,
                    };
                    self.data(head, usize::from(byte()) * 71);
                }
                7 => {
                    let number = byte();
                    let known = self.probes.get(usize::from(number)).copied();
                    self.input(Input::Padding { number: known.unwrap_or(u32::from(number) << 24) });
                }
                8 => self.pass(Duration::from_micros(u64::from(byte()) * 100)),
                _ => self.pass(Duration::from_millis(u64::from(byte()) * 16)),
            }
        }
    }

    fn ask(&mut self, request: u8, first: u8, count: u8) {
        let Some(span) = self.geometry.span(u32::from(first), u32::from(count)) else { return };
        let request = RequestId(u64::from(request));
        if !self.over {
            for chunk in span.chunks() {
                self.wanted.entry(chunk).or_insert_with(|| (request, Vec::new())).0 = request;
            }
        }
        self.input(Input::Ask { request, span });
    }

    fn cancel(&mut self, request: u8) {
        self.input(Input::Cancel { request: RequestId(u64::from(request)) });
        assert!(
            self.over || self.wanted.values().all(|(of, _)| of.0 != u64::from(request)),
            "all of it is to be forgotten"
        );
    }

    /// So many fragments come that were asked for, some of them once more.
    fn answer(&mut self, which: u8, count: u8, again: bool) {
        for _ in 0..count {
            let place = usize::from(which) % self.answers.len().max(1);
            let Some(&(head, len)) = self.answers.get(place) else { return };
            if !again {
                self.answers.remove(place);
            }
            let result = self.engine.data(self.now, head, len);
            self.fate(result.expect("what was asked for is no violation"), len);
            self.input(Input::Tick);
        }
    }

    fn data(&mut self, head: DataHead, len: usize) {
        if let Ok(fate) = self.engine.data(self.now, head, len) {
            self.fate(fate, len);
        }
        self.input(Input::Tick);
    }

    fn fate(&mut self, fate: Fate, len: usize) {
        let Fate::Keep { chunk, place, completes } = fate else { return };
        let chunk_len = self.geometry.chunk_len(chunk) as usize;
        assert!(place.len() == len && len > 0 && place.end <= chunk_len, "the bytes fill their place");
        let (request, here) = self.wanted.get_mut(&chunk).expect("only what is wanted is kept");
        here.push(place);
        let Some(completed) = completes else { return };
        assert_eq!(completed, *request, "it completes what asked for it last");
        here.sort_unstable_by_key(|range| range.start);
        let end = here.iter().fold(0, |end, range| if range.start <= end { end.max(range.end) } else { end });
        assert_eq!(end, chunk_len, "a complete chunk has all its bytes");
        self.wanted.remove(&chunk);
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
        self.engine.handle(self.now, input, &mut self.budget);
        self.drain();
        self.engine.check_invariants();
        let now = self.now;
        assert!(self.engine.deadline().is_none_or(|deadline| deadline > now), "it would wake for ever");
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll() {
            assert!(!self.over, "nothing comes after the end");
            match output {
                Output::Send(asking) => {
                    let read = Asking::decode(&asking.encode(), &self.geometry);
                    assert_eq!(read.as_ref(), Ok(&asking), "a source understands it");
                    self.sent(asking);
                }
                Output::Forget(chunk) => drop(self.wanted.remove(&chunk).expect("it was wanted")),
                Output::Silent => self.over = true,
            }
        }
    }

    fn sent(&mut self, asking: Asking) {
        match asking {
            Asking::Probe { number, .. } => self.probes.push(number),
            Asking::Want(want) => {
                for (chunk, mask) in want.send_order() {
                    assert!(self.wanted.contains_key(&chunk), "only what is wanted is asked for");
                    self.answers.extend(mask.iter().map(|fragment| {
                        let head = DataHead { want: want.number as u16, chunk: chunk.get(), fragment };
                        (head, want.layout.range(self.geometry.chunk_len(chunk), fragment).len())
                    }));
                }
            }
        }
    }
}
