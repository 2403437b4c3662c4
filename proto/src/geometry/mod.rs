//! How a content is cut: chunks of 16 KiB, pieces of 64 chunks, spans of chunks.
//!
//! All arithmetic of lengths and offsets is here. A [`ChunkIndex`], [`PieceIndex`] or [`Span`] can only be made by a
//! [`Geometry`], so whoever holds one holds a place that exists in that content.
//!
//! The files of a folder are one content as well ([`FolderCut`]): their chunks have numbers one after the other.

mod folder;

use std::ops::Range;
use std::sync::Arc;

use crate::digest::Root;
use crate::limits::FILE_SIZE_MAX;

pub use folder::{FileCut, FolderCut, FolderTooLarge, Segment};

/// Bytes of a chunk: the leaf of the tree, the unit of retransmission. The last chunk of a content may be shorter.
pub const CHUNK_SIZE: u32 = 16 * 1024;

/// Chunks of a piece: the unit that is assigned to a source and whose hash is listed.
pub const PIECE_CHUNKS: u32 = 64;

/// Bytes of a piece. The last piece of a content may be shorter.
pub const PIECE_SIZE: u64 = CHUNK_SIZE as u64 * PIECE_CHUNKS as u64;

/// A chunk of a content, counted from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(u32);

/// A piece of a content, counted from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

/// A run of consecutive chunks; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    first: ChunkIndex,
    count: u32,
}

/// The cut of a content: of a file of a given size, or of the files of a folder. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    folder: Option<Arc<FolderCut>>,
}

/// A size beyond [`FILE_SIZE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{size} bytes is more than the {FILE_SIZE_MAX} that the protocol can name")]
pub struct TooLarge {
    size: u64,
}

impl Geometry {
    /// The cut of a file of `size` bytes.
    pub fn new(size: u64) -> Result<Self, TooLarge> {
        if size <= FILE_SIZE_MAX { Ok(Geometry { size, folder: None }) } else { Err(TooLarge { size }) }
    }

    /// The cut of the files of a folder, of which `root` is the name that their bytes have together, given by size and
    /// root in order. Files without bytes are to be left out.
    pub fn of_folder(
        root: Root,
        files: impl IntoIterator<Item = (u64, Root)>,
    ) -> Result<Self, FolderTooLarge> {
        let cut = FolderCut::new(root, files)?;
        Ok(Geometry { size: cut.size(), folder: Some(Arc::new(cut)) })
    }

    /// The files, if this is the cut of a folder.
    pub fn folder(&self) -> Option<&FolderCut> {
        self.folder.as_deref()
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of chunks; 0 for an empty content. In a folder, not every number below the last one's is a chunk's.
    pub fn chunk_count(&self) -> u32 {
        match &self.folder {
            None => self.size.div_ceil(u64::from(CHUNK_SIZE)) as u32,
            Some(folder) => folder.chunk_count(),
        }
    }

    /// Number of pieces; 0 for an empty content.
    pub fn piece_count(&self) -> u32 {
        match &self.folder {
            None => self.size.div_ceil(PIECE_SIZE) as u32,
            Some(folder) => folder.piece_count(),
        }
    }

    /// The chunk with this number, if there is one.
    pub fn chunk(&self, number: u32) -> Option<ChunkIndex> {
        self.span(number, 1).map(|span| span.first)
    }

    /// The piece with this number, if there is one.
    pub fn piece(&self, number: u32) -> Option<PieceIndex> {
        (number < self.piece_count()).then_some(PieceIndex(number))
    }

    /// All pieces in order.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }

    /// The chunks of a piece.
    pub fn span_of(&self, piece: PieceIndex) -> Span {
        let first = piece.0 * PIECE_CHUNKS;
        let end = match &self.folder {
            None => self.chunk_count(),
            Some(folder) => folder.end_of_piece(piece.0),
        };
        Span { first: ChunkIndex(first), count: PIECE_CHUNKS.min(end - first) }
    }

    /// `count` chunks from number `first` on, if all of them exist and there is at least one.
    pub fn span(&self, first: u32, count: u32) -> Option<Span> {
        let end = first.checked_add(count)?;
        let exists = match &self.folder {
            None => end <= self.chunk_count(),
            Some(folder) => folder.has_run(first..end),
        };
        (count > 0 && exists).then_some(Span { first: ChunkIndex(first), count })
    }

    /// The chunks from number `first` on that have these many bytes together, if there are such.
    pub fn span_of_bytes(&self, first: u32, len: u64) -> Option<Span> {
        let count = match &self.folder {
            None => u32::try_from(len.div_ceil(u64::from(CHUNK_SIZE))).ok()?,
            Some(folder) => folder.count_of_bytes(self.chunk(first)?, len)?,
        };
        self.span(first, count).filter(|span| self.len_of(*span) == len)
    }

    /// Where a chunk begins, in bytes.
    pub fn offset_of(&self, chunk: ChunkIndex) -> u64 {
        match &self.folder {
            None => u64::from(chunk.0) * u64::from(CHUNK_SIZE),
            Some(folder) => folder.bytes_of_chunk(chunk).start,
        }
    }

    /// Bytes of a chunk.
    pub fn chunk_len(&self, chunk: ChunkIndex) -> u32 {
        self.len_of(Span { first: chunk, count: 1 }) as u32
    }

    /// Where in the content the bytes of a span are. In a folder the files follow each other without gaps.
    pub fn bytes_of(&self, span: Span) -> Range<u64> {
        match &self.folder {
            None => {
                let start = self.offset_of(span.first);
                let end = start + u64::from(span.count) * u64::from(CHUNK_SIZE);
                start..end.min(self.size)
            }
            Some(folder) => {
                let last = ChunkIndex(span.end() - 1);
                folder.bytes_of_chunk(span.first).start..folder.bytes_of_chunk(last).end
            }
        }
    }

    /// Number of bytes of a span.
    pub fn len_of(&self, span: Span) -> u64 {
        let bytes = self.bytes_of(span);
        bytes.end - bytes.start
    }

    /// The longest beginning of a span that has at most these bytes; the first chunk in any case.
    pub fn beginning_of(&self, span: Span, bytes_max: u64) -> Span {
        let fits = |count: u32| count <= 1 || self.len_of(Span { count, ..span }) <= bytes_max;
        if fits(span.count) {
            return span;
        }
        // So many chunks fit; and so many do not.
        let (mut count, mut too_many) = (1, span.count);
        while count + 1 < too_many {
            let between = count + (too_many - count) / 2;
            if fits(between) { count = between } else { too_many = between }
        }
        Span { count, ..span }
    }

    /// The span cut by files, in order. What is no folder is one file, with number 0.
    pub fn segments(&self, span: Span) -> impl Iterator<Item = Segment> + '_ {
        let plain = match &self.folder {
            None => {
                Some(Segment { file: 0, span, bytes: self.bytes_of(span), is_small: self.piece_count() <= 1 })
            }
            Some(_) => None,
        };
        let files = self.folder.as_deref().into_iter().flat_map(move |folder| folder.segments(span));
        plain.into_iter().chain(files)
    }
}

impl ChunkIndex {
    /// The number of the chunk.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The piece that holds the chunk.
    pub fn piece(self) -> PieceIndex {
        PieceIndex(self.0 / PIECE_CHUNKS)
    }

    /// The chunk's place in its piece, below [`PIECE_CHUNKS`].
    pub fn in_piece(self) -> u32 {
        self.0 % PIECE_CHUNKS
    }
}

impl PieceIndex {
    /// The number of the piece.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Span {
    /// The first chunk.
    pub fn first(&self) -> ChunkIndex {
        self.first
    }

    /// How many chunks; at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The number after that of the last chunk.
    pub fn end(&self) -> u32 {
        self.first.0 + self.count
    }

    /// The chunks in order.
    pub fn chunks(&self) -> impl DoubleEndedIterator<Item = ChunkIndex> + ExactSizeIterator + use<> {
        (self.first.0..self.end()).map(ChunkIndex)
    }

    /// Whether all chunks of `other` are in this span.
    pub fn contains(&self, other: Span) -> bool {
        self.first <= other.first && other.end() <= self.end()
    }

    /// The part of the span that lies in `piece`, if any.
    pub fn within(&self, piece: PieceIndex) -> Option<Span> {
        let start = self.first.0.max(piece.0 * PIECE_CHUNKS);
        let end = self.end().min((piece.0 + 1).saturating_mul(PIECE_CHUNKS));
        (start < end).then(|| Span { first: ChunkIndex(start), count: end - start })
    }

    /// The shortest span that contains both.
    #[must_use]
    pub fn cover(&self, other: Span) -> Span {
        let first = self.first.min(other.first);
        Span { first, count: self.end().max(other.end()) - first.0 }
    }

    /// What is left of the span behind its part `before`, if anything.
    #[must_use]
    pub fn behind(&self, before: Span) -> Option<Span> {
        let first = before.end().max(self.first.0);
        (first < self.end()).then(|| Span { first: ChunkIndex(first), count: self.end() - first })
    }

    /// The pieces that the span touches, in order.
    pub fn pieces(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (self.first.piece().0..=(self.end() - 1) / PIECE_CHUNKS).map(PieceIndex)
    }

    /// The span cut into runs of at most `count` chunks.
    pub fn runs(&self, count: u32) -> impl Iterator<Item = Span> + use<> {
        let (first, end, step) = (self.first.0, self.end(), count.max(1));
        (first..end)
            .step_by(step as usize)
            .map(move |start| Span { first: ChunkIndex(start), count: step.min(end - start) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_around_every_edge() {
        let cases = [
            (0, 0, 0),
            (1, 1, 1),
            (16_383, 1, 1),
            (16_384, 1, 1),
            (16_385, 2, 1),
            (PIECE_SIZE - 1, 64, 1),
            (PIECE_SIZE, 64, 1),
            (PIECE_SIZE + 1, 65, 2),
            (FILE_SIZE_MAX, 1 << 30, 1 << 24),
        ];
        for (size, chunks, pieces) in cases {
            let geometry = Geometry::new(size).unwrap();
            assert_eq!((geometry.chunk_count(), geometry.piece_count()), (chunks, pieces), "{size}");
            let total: u64 = if pieces < 1000 {
                geometry.pieces().map(|p| geometry.len_of(geometry.span_of(p))).sum()
            } else {
                size
            };
            assert_eq!(total, size);
        }
        assert!(Geometry::new(FILE_SIZE_MAX + 1).is_err());
    }

    #[test]
    fn nothing_beyond_the_end() {
        let geometry = Geometry::new(PIECE_SIZE + 20_000).unwrap();
        assert_eq!(geometry.chunk_count(), 66);
        assert!(geometry.chunk(65).is_some() && geometry.chunk(66).is_none());
        assert!(geometry.piece(2).is_none());
        assert!(geometry.span(0, 0).is_none());
        assert!(geometry.span(60, 7).is_none());
        assert!(geometry.span(u32::MAX, 2).is_none());
        let span = geometry.span(60, 6).unwrap();
        assert_eq!(geometry.bytes_of(span), 60 * 16_384..PIECE_SIZE + 20_000);
        assert_eq!(geometry.chunk_len(geometry.chunk(65).unwrap()), 20_000 - 16_384);
    }

    #[test]
    fn a_beginning_has_as_much_as_fits() {
        let geometry = Geometry::new(PIECE_SIZE + 20_000).unwrap();
        let count = |first, count, bytes| {
            let span = geometry.span(first, count).unwrap();
            let beginning = geometry.beginning_of(span, bytes);
            assert_eq!(beginning.first(), span.first());
            beginning.count()
        };
        let chunk = u64::from(CHUNK_SIZE);
        assert_eq!([0, 1, chunk, 2 * chunk - 1].map(|bytes| count(0, 64, bytes)), [1; 4]);
        assert_eq!(
            (count(0, 64, 2 * chunk), count(0, 64, 63 * chunk), count(0, 64, 99 * chunk)),
            (2, 63, 64)
        );
        // The last chunk is short.
        assert_eq!((count(64, 2, 20_000), count(64, 2, 19_999)), (2, 1));
    }

    #[test]
    fn spans_are_cut_by_piece_and_by_run() {
        let geometry = Geometry::new(3 * PIECE_SIZE).unwrap();
        let span = geometry.span(60, 70).unwrap();
        let parts: Vec<_> =
            span.pieces().map(|p| span.within(p).unwrap()).map(|s| (s.first().get(), s.count())).collect();
        assert_eq!(parts, [(60, 4), (64, 64), (128, 2)]);
        let runs: Vec<_> = span.runs(32).map(|s| (s.first().get(), s.count())).collect();
        assert_eq!(runs, [(60, 32), (92, 32), (124, 6)]);
        assert!(span.contains(geometry.span(129, 1).unwrap()));
        assert!(!span.contains(geometry.span(130, 1).unwrap()));
        let behind = |first, count| span.behind(geometry.span(first, count).unwrap());
        assert_eq!(behind(60, 5), geometry.span(65, 65));
        assert_eq!((behind(60, 70), behind(0, 60), behind(0, 2)), (None, Some(span), Some(span)));
    }
}
