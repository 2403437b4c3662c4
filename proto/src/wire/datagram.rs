//! Datagrams of the lane for networks that lose packets: sealed requests one way, sealed fragments the other.
//!
//! A datagram is `u32 BE` connection, `u48 BE` sequence, then the body, sealed (AES-128-GCM, or ChaCha20-Poly1305 where
//! the session's TLS uses that) with 16 bytes of tag. The ten bytes in clear are authenticated with it. The number of
//! the connection stands for one content within one session, which its [`Message::Datagrams`] names; so a `Data`
//! carries root, chunk and fragment. Each direction has its own key and counts its sequence from 0, without gaps; no
//! number is used twice and none is accepted twice. Fixed layouts, not the session's encoding: there are 100,000 of
//! these a second.
//!
//! | body | bytes |
//! |---|---|
//! | `Want` | `0x10`, `u32` number, `u8` fragments a chunk, then for each chunk: `u32` chunk, `u16` mask of fragments |
//! | `Probe` | `0x20`, `u32` number, `u16` bytes that the answer shall have |
//! | `Data` | `0x30` + number of the fragment, low `u16` of the Want's number, `u32` chunk, the bytes |
//! | `Padding` | `0x40`, `u32` number of the Probe, zeros |
//!
//! [`Message::Datagrams`]: super::session::Message::Datagrams

use std::ops::Range;

use super::codec::DecodeError;
use crate::geometry::{CHUNK_SIZE, ChunkIndex, Geometry};
use crate::limits::{WANT_CHUNKS_MAX, WANT_FRAGMENTS_MAX};

/// Bytes in clear before the body.
pub const HEADER_LEN: usize = 10;

/// Bytes by which a sealed body is longer.
pub const TAG_LEN: usize = 16;

/// Bytes of a `Data` body before the fragment.
pub const DATA_HEAD_LEN: usize = 7;

/// Sequence numbers are below this; a connection ends before it would use one twice.
pub const SEQUENCE_MAX: u64 = 1 << 48;

/// One content within one session, for its serving side; chosen by that side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// What stands in clear before a sealed body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose it is.
    pub connection: ConnectionId,
    /// Its number among the datagrams of this direction.
    pub sequence: u64,
}

impl Header {
    /// As bytes. Panics if the sequence number is not below [`SEQUENCE_MAX`].
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        assert!(self.sequence < SEQUENCE_MAX, "a connection ends before its numbers do");
        let [a, b, c, d] = self.connection.0.to_be_bytes();
        let [_, _, e, f, g, h, i, j] = self.sequence.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// The header of a datagram; `None` if it is too short to hold a sealed body.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let &[a, b, c, d, e, f, g, h, i, j] = datagram.first_chunk::<HEADER_LEN>()?;
        (datagram.len() > HEADER_LEN + TAG_LEN).then(|| Header {
            connection: ConnectionId(u32::from_be_bytes([a, b, c, d])),
            sequence: u64::from_be_bytes([0, 0, e, f, g, h, i, j]),
        })
    }
}

/// Into how many fragments of equal size a chunk is cut, so that each fits a datagram of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layout(u8);

/// Fragments of one chunk: bit `i` is fragment `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FragmentMask(pub u16);

impl Layout {
    /// What fits every path: datagrams of at most 1,200 bytes.
    pub const SMALLEST: Layout = Layout(15);

    /// The layouts that are tried, from the smallest datagrams to the largest: any path, Ethernet, jumbo frames, loopback.
    pub const ALL: [Layout; 4] = [Layout::SMALLEST, Layout(12), Layout(2), Layout(1)];

    /// A layout of so many fragments a chunk.
    pub fn new(fragments: u8) -> Option<Self> {
        (1..=16).contains(&fragments).then_some(Layout(fragments))
    }

    /// Fragments of a whole chunk.
    pub fn fragments(self) -> u8 {
        self.0
    }

    /// Bytes of a fragment; the last one of a chunk may be shorter.
    pub fn fragment_len(self) -> usize {
        (CHUNK_SIZE as usize).div_ceil(usize::from(self.0))
    }

    /// Bytes of UDP payload that a full fragment takes.
    pub fn datagram_len(self) -> usize {
        HEADER_LEN + DATA_HEAD_LEN + self.fragment_len() + TAG_LEN
    }

    /// Where a fragment lies in a chunk of so many bytes; empty if there is no such fragment.
    pub fn range(self, chunk_len: u32, fragment: u8) -> Range<usize> {
        let from = usize::from(fragment) * self.fragment_len();
        let end = (chunk_len as usize).min(from + self.fragment_len());
        from.min(end)..end
    }

    /// All fragments of a chunk of so many bytes.
    pub fn all(self, chunk_len: u32) -> FragmentMask {
        let count = (chunk_len as usize).div_ceil(self.fragment_len()).min(16);
        FragmentMask(((1u32 << count) - 1) as u16)
    }
}

impl FragmentMask {
    /// No fragment.
    pub const EMPTY: FragmentMask = FragmentMask(0);

    /// This one alone.
    pub fn one(fragment: u8) -> Self {
        FragmentMask(1u16.checked_shl(u32::from(fragment)).unwrap_or(0))
    }

    /// How many.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in this or the other.
    #[must_use]
    pub fn union(self, other: FragmentMask) -> FragmentMask {
        FragmentMask(self.0 | other.0)
    }

    /// Those in both.
    #[must_use]
    pub fn intersection(self, other: FragmentMask) -> FragmentMask {
        FragmentMask(self.0 & other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(self, other: FragmentMask) -> FragmentMask {
        FragmentMask(self.0 & !other.0)
    }

    /// The numbers of the fragments, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |&fragment| self.0 & (1 << fragment) != 0)
    }
}

/// Fragments of a content that are wanted now: credit to send exactly these, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Counts the Wants of a connection from 0.
    pub number: u32,
    /// How chunks are cut in it.
    pub layout: Layout,
    /// Chunks and their fragments. They are sent in the order of [`Want::send_order`].
    pub chunks: Vec<(ChunkIndex, FragmentMask)>,
}

impl Want {
    /// How many fragments.
    pub fn fragments(&self) -> u32 {
        self.chunks.iter().map(|(_, mask)| mask.count()).sum()
    }

    /// The chunks in the order in which they are sent: shuffled, the same on both sides, so that whoever asked knows by
    /// what has come what should have come before.
    pub fn send_order(&self) -> Vec<(ChunkIndex, FragmentMask)> {
        let mut order = self.chunks.clone();
        let mut state = u64::from(self.number);
        for last in (1..order.len()).rev() {
            order.swap(last, (split_mix(&mut state) % (last as u64 + 1)) as usize);
        }
        order
    }

    /// The body of its datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(WANT_HEAD_LEN + WANT_CHUNK_LEN * self.chunks.len());
        body.push(WANT);
        body.extend(self.number.to_be_bytes());
        body.push(self.layout.fragments());
        for (chunk, mask) in &self.chunks {
            body.extend(chunk.get().to_be_bytes());
            body.extend(mask.0.to_be_bytes());
        }
        body
    }

    fn decode(body: &[u8], geometry: &Geometry) -> Result<Self, DecodeError> {
        let (head, chunks) =
            body.split_first_chunk::<WANT_HEAD_LEN>().ok_or(DecodeError::Limit("length of a Want"))?;
        let &[_, a, b, c, d, fragments] = head;
        let layout = Layout::new(fragments).ok_or(DecodeError::Limit("number of fragments a chunk"))?;
        if chunks.is_empty()
            || !chunks.len().is_multiple_of(WANT_CHUNK_LEN)
            || chunks.len() > WANT_CHUNK_LEN * WANT_CHUNKS_MAX
        {
            return Err(DecodeError::Limit("length of a Want"));
        }
        let mut wanted = Vec::with_capacity(chunks.len() / WANT_CHUNK_LEN);
        for entry in chunks.as_chunks::<WANT_CHUNK_LEN>().0 {
            let &[a, b, c, d, e, f] = entry;
            let chunk = geometry
                .chunk(u32::from_be_bytes([a, b, c, d]))
                .ok_or(DecodeError::Limit("number of a chunk"))?;
            let mask = FragmentMask(u16::from_be_bytes([e, f]));
            if mask.is_empty() || !mask.without(layout.all(geometry.chunk_len(chunk))).is_empty() {
                return Err(DecodeError::Limit("mask of fragments"));
            }
            wanted.push((chunk, mask));
        }
        let want = Want { number: u32::from_be_bytes([a, b, c, d]), layout, chunks: wanted };
        if want.fragments() > WANT_FRAGMENTS_MAX {
            return Err(DecodeError::Limit("number of fragments"));
        }
        Ok(want)
    }
}

/// What the asking side sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asking {
    /// Send these.
    Want(Want),
    /// Answer with a datagram of so many bytes: whether such a one passes.
    Probe {
        /// Comes back in the answer.
        number: u32,
        /// Bytes of UDP payload.
        bytes: u16,
    },
}

impl Asking {
    /// The body of its datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Asking::Want(want) => want.encode(),
            Asking::Probe { number, bytes } => {
                let mut body = vec![PROBE];
                body.extend(number.to_be_bytes());
                body.extend(bytes.to_be_bytes());
                body
            }
        }
    }

    /// What an opened body says about a content of this geometry. Everything that it names exists.
    pub fn decode(body: &[u8], geometry: &Geometry) -> Result<Self, DecodeError> {
        match *body {
            [WANT, ..] => Want::decode(body, geometry).map(Asking::Want),
            [PROBE, a, b, c, d, e, f] => {
                let bytes = u16::from_be_bytes([e, f]);
                let fits = (PADDING_MIN..=Layout(1).datagram_len()).contains(&usize::from(bytes));
                let number = u32::from_be_bytes([a, b, c, d]);
                if fits {
                    Ok(Asking::Probe { number, bytes })
                } else {
                    Err(DecodeError::Limit("size of a probe"))
                }
            }
            _ => Err(DecodeError::Magic),
        }
    }
}

/// What the serving side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving<'a> {
    /// A fragment.
    Data(DataHead, &'a [u8]),
    /// Answer to a [`Asking::Probe`].
    Padding {
        /// From the probe.
        number: u32,
    },
}

/// Which fragment a `Data` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHead {
    /// The low bits of the number of the Want that it answers.
    pub want: u16,
    /// Number of the chunk.
    pub chunk: u32,
    /// Number of the fragment, below 16.
    pub fragment: u8,
}

impl DataHead {
    /// What stands before the fragment in the body.
    pub fn encode(&self) -> [u8; DATA_HEAD_LEN] {
        let [a, b] = self.want.to_be_bytes();
        let [c, d, e, f] = self.chunk.to_be_bytes();
        [DATA | (self.fragment & 0x0f), a, b, c, d, e, f]
    }
}

impl<'a> Serving<'a> {
    /// What an opened body is.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        if let Some((&[kind, a, b, c, d, e, f], bytes)) = body.split_first_chunk::<DATA_HEAD_LEN>()
            && kind & 0xf0 == DATA
            && !bytes.is_empty()
        {
            let want = u16::from_be_bytes([a, b]);
            let head = DataHead { want, chunk: u32::from_be_bytes([c, d, e, f]), fragment: kind & 0x0f };
            return Ok(Serving::Data(head, bytes));
        }
        match *body {
            [PADDING, a, b, c, d, ..] => Ok(Serving::Padding { number: u32::from_be_bytes([a, b, c, d]) }),
            _ => Err(DecodeError::Magic),
        }
    }
}

/// The body of a `Padding` whose datagram has so many bytes.
pub fn padding(number: u32, datagram_bytes: u16) -> Vec<u8> {
    let mut body = vec![PADDING];
    body.extend(number.to_be_bytes());
    body.resize(usize::from(datagram_bytes).saturating_sub(HEADER_LEN + TAG_LEN).max(body.len()), 0);
    body
}

/// Numbers that were accepted already: every number once, in a window behind the highest.
#[derive(Debug, Clone)]
pub struct Replays {
    /// The highest number that was accepted, and one more.
    next: u64,
    /// Bit `n % REPLAY_WINDOW` says whether `n` was accepted, for the numbers in the window below `next`.
    seen: [u64; (REPLAY_WINDOW / 64) as usize],
}

/// Datagrams by which one may be late.
const REPLAY_WINDOW: u64 = 8192;

impl Default for Replays {
    fn default() -> Self {
        Replays { next: 0, seen: [0; (REPLAY_WINDOW / 64) as usize] }
    }
}

impl Replays {
    /// Whether this number is new; from now on it is not. To be asked only about what was proved authentic.
    pub fn accept(&mut self, sequence: u64) -> bool {
        if sequence >= SEQUENCE_MAX || sequence + REPLAY_WINDOW < self.next {
            return false;
        }
        if sequence >= self.next {
            let skipped = self.next..sequence.saturating_add(1);
            if skipped.end - skipped.start >= REPLAY_WINDOW {
                self.seen.fill(0);
            } else {
                skipped.for_each(|number| *self.word(number) &= !bit(number));
            }
            self.next = sequence + 1;
        }
        let (word, bit) = (self.word(sequence), bit(sequence));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is within the array")]
    fn word(&mut self, sequence: u64) -> &mut u64 {
        &mut self.seen[(sequence % REPLAY_WINDOW / 64) as usize]
    }
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

const WANT: u8 = 0x10;
const PROBE: u8 = 0x20;
const DATA: u8 = 0x30;
const PADDING: u8 = 0x40;

const WANT_HEAD_LEN: usize = 6;
const WANT_CHUNK_LEN: usize = 6;
const PADDING_MIN: usize = HEADER_LEN + TAG_LEN + 5;

// Every Want and every probe fits the smallest datagrams.
const _: () = assert!(
    HEADER_LEN + TAG_LEN + WANT_HEAD_LEN + WANT_CHUNK_LEN * WANT_CHUNKS_MAX
        <= super::super::limits::DATAGRAM_SIZE_MAX
);

/// The next number of a well-mixed sequence.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry::new(10 * u64::from(CHUNK_SIZE) + 100).unwrap()
    }

    #[test]
    fn fragments_cover_a_chunk_without_overlap() {
        for fragments in 1..=16 {
            let layout = Layout::new(fragments).unwrap();
            for len in [1, 100, 1093, 1094, 8192, 8193, CHUNK_SIZE - 1, CHUNK_SIZE] {
                let mut end = 0;
                for fragment in layout.all(len).iter() {
                    let range = layout.range(len, fragment);
                    assert_eq!(range.start, end);
                    assert!(!range.is_empty() && range.len() <= layout.fragment_len());
                    end = range.end;
                }
                assert_eq!(end, len as usize);
                assert!(layout.range(len, layout.all(len).count() as u8).is_empty());
            }
        }
        assert!(Layout::new(0).is_none() && Layout::new(17).is_none());
    }

    #[test]
    fn layouts_fit_the_paths_they_are_for() {
        let lens: Vec<usize> = Layout::ALL.iter().map(|layout| layout.datagram_len()).collect();
        for (len, path) in lens.iter().zip([1200, 1420 - 28, 8192 + 40, 65_507]) {
            assert!(*len <= path + 20, "{len} {path}");
        }
        assert!(lens.is_sorted());
        assert!(lens[1] <= 1452, "IPv6 over Ethernet");
    }

    #[test]
    fn headers_and_bodies_come_back() {
        let header = Header { connection: ConnectionId(7), sequence: SEQUENCE_MAX - 1 };
        let mut datagram = header.encode().to_vec();
        datagram.resize(HEADER_LEN + TAG_LEN + 1, 0);
        assert_eq!(Header::decode(&datagram), Some(header));
        assert_eq!(Header::decode(&datagram[..HEADER_LEN + TAG_LEN]), None);

        let chunk = |number| geometry().chunk(number).unwrap();
        let layout = Layout::SMALLEST;
        let chunks = vec![(chunk(3), FragmentMask(0x7fff)), (chunk(10), FragmentMask(1))];
        let want = Asking::Want(Want { number: 0xdead_beef, layout, chunks });
        assert_eq!(Asking::decode(&want.encode(), &geometry()), Ok(want));
        let probe = Asking::Probe { number: 9, bytes: 1400 };
        assert_eq!(Asking::decode(&probe.encode(), &geometry()), Ok(probe));

        let head = DataHead { want: 0xfedc, chunk: 0x0102_0304, fragment: 15 };
        let body = [&head.encode()[..], b"bytes"].concat();
        assert_eq!(Serving::decode(&body), Ok(Serving::Data(head, b"bytes")));
        let body = padding(5, 1400);
        assert_eq!(body.len() + HEADER_LEN + TAG_LEN, 1400);
        assert_eq!(Serving::decode(&body), Ok(Serving::Padding { number: 5 }));
    }

    #[test]
    fn what_does_not_exist_cannot_be_wanted() {
        let body = |layout: u8, chunk: u32, mask: u16| {
            let mut body = vec![WANT, 0, 0, 0, 1, layout];
            body.extend(chunk.to_be_bytes());
            body.extend(mask.to_be_bytes());
            body
        };
        assert!(Asking::decode(&body(12, 3, 0x0fff), &geometry()).is_ok());
        for (layout, chunk, mask) in
            [(0, 3, 1), (17, 3, 1), (12, 11, 1), (12, u32::MAX, 1), (12, 3, 0), (12, 3, 0x1000), (12, 10, 2)]
        {
            assert!(
                Asking::decode(&body(layout, chunk, mask), &geometry()).is_err(),
                "{layout} {chunk} {mask}"
            );
        }
        assert!(Asking::decode(&[WANT, 0, 0, 0, 1, 12], &geometry()).is_err(), "no chunk");
        assert!(Asking::decode(&body(12, 3, 1)[..11], &geometry()).is_err(), "half a chunk");
        let many: Vec<u8> =
            body(1, 3, 1)[..6].iter().copied().chain([0, 0, 0, 3, 0, 1].repeat(2000)).collect();
        assert!(Asking::decode(&many, &geometry()).is_err(), "too many");
        for bytes in [0u16, 30, u16::MAX] {
            let body = [&[PROBE, 0, 0, 0, 1][..], &bytes.to_be_bytes()].concat();
            assert!(Asking::decode(&body, &geometry()).is_err(), "a probe of {bytes}");
        }
    }

    #[test]
    fn both_sides_send_in_the_same_shuffled_order() {
        let chunks: Vec<_> = (0..10).map(|n| (geometry().chunk(n).unwrap(), FragmentMask(1))).collect();
        let want = |number| Want { number, layout: Layout::SMALLEST, chunks: chunks.clone() };
        let order = want(7).send_order();
        assert_eq!(order, want(7).send_order());
        assert_ne!(order, chunks);
        assert_ne!(order, want(8).send_order());
        let mut sorted = order;
        sorted.sort_unstable_by_key(|(chunk, _)| *chunk);
        assert_eq!(sorted, chunks);
    }

    #[test]
    fn every_number_is_accepted_once() {
        let mut replays = Replays::default();
        assert!(replays.accept(5) && !replays.accept(5));
        assert!(replays.accept(0) && replays.accept(4) && !replays.accept(0));
        assert!(replays.accept(5 + REPLAY_WINDOW));
        assert!(!replays.accept(5), "too old to tell");
        assert!(replays.accept(6), "late, but within the window");
        assert!(!replays.accept(6));
        assert!(replays.accept(1 << 40) && !replays.accept(5 + REPLAY_WINDOW));
        assert!(!replays.accept(SEQUENCE_MAX) && !replays.accept(u64::MAX));
    }
}
