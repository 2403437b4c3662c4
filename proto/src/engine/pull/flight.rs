//! What is on its way: Wants that were sent, and which of their fragments have not come.
//!
//! A source answers Wants in their order, and each in its send order. So every fragment that was asked has a place in
//! one long line, and what arrives tells what should have arrived before: fragments that far enough behind are lost.
//! How far is learnt from the path: whatever still comes after it was given up shows how much is reordered there.

use std::collections::VecDeque;

use crate::geometry::{ChunkIndex, Geometry};
use crate::limits::WANT_FRAGMENTS_MAX;
use crate::time::Time;
use crate::wire::datagram::{FragmentMask, Layout, Want};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Flight {
    /// In the order in which they were sent, their numbers without gaps.
    wants: VecDeque<SentWant>,
    /// Place in the line of the next fragment to be asked.
    next: u64,
    /// The highest place in the line that has arrived, and one more.
    arrived_to: u64,
    /// Everything before this place has arrived or is taken for lost.
    settled_to: u64,
    /// Places by which a fragment may be late before it is taken for lost.
    tolerance: u64,
    bytes: u64,
}

/// A Want that was sent.
#[derive(Debug)]
pub(super) struct SentWant {
    number: u32,
    sent_at: Time,
    layout: Layout,
    /// In the order in which they are sent, with their lengths in bytes.
    chunks: Vec<(ChunkIndex, FragmentMask, u32)>,
    count: u32,
    /// Place in the line of its first fragment.
    first: u64,
    /// Fragments that are in flight, by their places.
    open: Places,
    /// Fragments that have arrived, by their places.
    here: Places,
}

/// One bit for each fragment of a Want.
#[derive(Debug, Clone, Copy, Default)]
struct Places([u64; PLACES_WORDS]);

const PLACES_WORDS: usize = (WANT_FRAGMENTS_MAX as usize).div_ceil(64);

/// What an arrival means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    /// A fragment of a Want that is remembered.
    Known {
        /// How its Want cuts chunks.
        layout: Layout,
        /// When its Want was sent.
        sent_at: Time,
        /// It is the first to come of its Want, and of those that were sent first: how long it took tells the
        /// delay of the path.
        early: bool,
        /// It had been taken for lost.
        late: bool,
        /// It has come before.
        again: bool,
    },
    /// Its Want is remembered, and does not name it.
    Strange,
    /// Its Want is remembered, and cuts another length.
    Misfit,
    /// Its Want is not remembered any more.
    Forgotten,
}

impl Default for Flight {
    fn default() -> Self {
        Flight {
            wants: VecDeque::new(),
            next: 0,
            arrived_to: 0,
            settled_to: 0,
            tolerance: TOLERANCE_MIN,
            bytes: 0,
        }
    }
}

impl SentWant {
    /// A Want that is sent now.
    pub(super) fn new(want: &Want, now: Time, geometry: &Geometry) -> Self {
        let order = want.send_order().into_iter();
        let chunks = order.map(|(chunk, mask)| (chunk, mask, geometry.chunk_len(chunk))).collect();
        let (count, open) = (want.fragments(), Places::first(want.fragments()));
        let (number, layout) = (want.number, want.layout);
        SentWant { number, sent_at: now, layout, chunks, count, first: 0, open, here: Places::default() }
    }

    /// Where in the Want a fragment stands.
    fn place_of(&self, chunk: ChunkIndex, fragment: u8) -> Option<u32> {
        let mut before = 0;
        for (named, mask, _) in &self.chunks {
            if *named == chunk && mask.0 & (1 << fragment) != 0 {
                let earlier = FragmentMask(mask.0 & ((1u16 << fragment) - 1));
                return Some(before + earlier.count());
            }
            before += mask.count();
        }
        None
    }

    /// What each fragment counts, and which one it is, in the order of their places.
    fn fragments(&self) -> impl Iterator<Item = (ChunkIndex, u8, u64)> {
        let layout = self.layout;
        self.chunks.iter().flat_map(move |&(chunk, mask, len)| {
            mask.iter().map(move |fragment| (chunk, fragment, weight(layout.range(len, fragment).len())))
        })
    }
}

impl Flight {
    /// Bytes in flight.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the oldest Want was sent of which something is in flight.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.wants.iter().find(|want| !want.open.is_empty()).map(|want| want.sent_at)
    }

    /// A Want goes out.
    pub(super) fn sent(&mut self, mut want: SentWant) {
        want.first = self.next;
        self.next += u64::from(want.count);
        self.bytes += want.fragments().map(|(_, _, bytes)| bytes).sum::<u64>();
        self.wants.push_back(want);
    }

    /// A fragment of so many bytes has come.
    pub(super) fn landed(&mut self, want: u16, (chunk, fragment): (ChunkIndex, u8), len: usize) -> Landed {
        let Some(front) = self.wants.front() else { return Landed::Forgotten };
        let behind = want.wrapping_sub(front.number as u16);
        let Some(want) = self.wants.get_mut(usize::from(behind)) else { return Landed::Forgotten };
        let Some(place) = want.place_of(chunk, fragment) else { return Landed::Strange };
        let chunk_len = want.chunks.iter().find(|(named, ..)| *named == chunk).map_or(0, |(_, _, len)| *len);
        if want.layout.range(chunk_len, fragment).len() != len {
            return Landed::Misfit;
        }
        let in_line = want.first + u64::from(place);
        let (layout, sent_at) = (want.layout, want.sent_at);
        let early = place < EARLY_PLACES && want.here.is_empty();
        let again = !want.here.insert(place);
        let late = !want.open.remove(place) && !again;
        if late {
            let late_by = self.arrived_to.saturating_sub(in_line);
            self.tolerance = self.tolerance.max(late_by + 1).min(TOLERANCE_MAX);
        } else if !again {
            self.bytes -= weight(len);
            self.arrived_to = self.arrived_to.max(in_line + 1);
        }
        Landed::Known { layout, sent_at, early, late, again }
    }

    /// Takes for lost what later arrivals have overtaken by too much.
    pub(super) fn gaps(&mut self) -> Vec<(ChunkIndex, FragmentMask)> {
        let to = self.arrived_to.saturating_sub(self.tolerance);
        let lost = if to > self.settled_to { self.settle(to) } else { Vec::new() };
        self.forget();
        lost
    }

    /// Takes for lost whatever is in flight.
    pub(super) fn give_up(&mut self) -> Vec<(ChunkIndex, FragmentMask)> {
        let lost = self.settle(self.next);
        self.forget();
        lost
    }

    /// Takes for lost what is in flight before this place in the line.
    fn settle(&mut self, to: u64) -> Vec<(ChunkIndex, FragmentMask)> {
        let mut lost: Vec<(ChunkIndex, FragmentMask)> = Vec::new();
        for want in &mut self.wants {
            if want.first >= to {
                break;
            }
            if want.open.is_empty() {
                continue;
            }
            let (mut open, mut gone) = (want.open, 0);
            for (place, (chunk, fragment, bytes)) in (0..).zip(want.fragments()) {
                if want.first + u64::from(place) >= to {
                    break;
                }
                if !open.remove(place) {
                    continue;
                }
                gone += bytes;
                match lost.last_mut().filter(|(last, _)| *last == chunk) {
                    Some((_, mask)) => *mask = mask.union(FragmentMask::one(fragment)),
                    None => lost.push((chunk, FragmentMask::one(fragment))),
                }
            }
            want.open = open;
            self.bytes -= gone;
        }
        self.settled_to = self.settled_to.max(to);
        lost
    }

    /// Forgets the oldest Wants of which nothing is in flight, but for some that may still bring something late.
    fn forget(&mut self) {
        while self.wants.len() > REMEMBERED && self.wants.front().is_some_and(|want| want.open.is_empty()) {
            self.wants.pop_front();
        }
    }

    /// What is in flight, for tests.
    pub(super) fn all(&self) -> Vec<(ChunkIndex, FragmentMask)> {
        let mut all = Vec::new();
        for want in &self.wants {
            let mut open = want.open;
            for (place, (chunk, fragment, _)) in (0..).zip(want.fragments()) {
                if open.remove(place) {
                    all.push((chunk, FragmentMask::one(fragment)));
                }
            }
        }
        all
    }

    /// Panics if what must always hold does not.
    pub(super) fn check(&self) {
        let mut bytes = 0;
        let mut number = None;
        for want in &self.wants {
            assert!(number.is_none_or(|before: u32| before.wrapping_add(1) == want.number), "no gaps");
            number = Some(want.number);
            let mut open = want.open;
            for (place, (_, _, len)) in (0..).zip(want.fragments()) {
                if open.remove(place) {
                    bytes += len;
                    assert!(
                        want.first + u64::from(place) >= self.settled_to,
                        "what is settled is not in flight"
                    );
                }
            }
        }
        assert_eq!(bytes, self.bytes, "the total is the sum");
    }
}

impl Places {
    fn first(count: u32) -> Self {
        let mut places = Places::default();
        for place in 0..count {
            places.insert(place);
        }
        places
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether it was not there.
    fn insert(&mut self, place: u32) -> bool {
        let Some(word) = self.0.get_mut(place as usize / 64) else { return false };
        let bit = 1 << (place % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Whether it was there.
    fn remove(&mut self, place: u32) -> bool {
        let Some(word) = self.0.get_mut(place as usize / 64) else { return false };
        let bit = 1 << (place % 64);
        let was_there = *word & bit != 0;
        *word &= !bit;
        was_there
    }
}

/// What a fragment of so many bytes counts in flight and on arrival: however short it is, a datagram takes room in the
/// queues and buffers on its way, and work at both ends.
pub(super) fn weight(len: usize) -> u64 {
    (len as u64).max(WEIGHT_MIN)
}

/// What the shortest fragment counts. Linux takes 768 bytes from a socket's buffer for the smallest datagram, and grants
/// twice the buffer that one asks for.
const WEIGHT_MIN: u64 = 384;

/// Fragments by which one may be late at first, and at most, before it is taken for lost.
const TOLERANCE_MIN: u64 = 3;
const TOLERANCE_MAX: u64 = 512;

/// Fragments at the beginning of a Want that tell the delay.
const EARLY_PLACES: u32 = 3;

/// Wants that are remembered though nothing of them is in flight.
const REMEMBERED: usize = 64;
