//! How the files of a folder are cut: as one content, whose chunks know where a file ends.
//!
//! Chunk numbers run over all files that have bytes, in order. A chunk never holds bytes of two files, so the last one of
//! each is short, and the leaves of a file are the same as if it were alone. A file of up to one piece lies within one
//! piece, together with its neighbours as far as they fit; a larger one begins a piece, and nothing follows it in its
//! last one. So some numbers at the end of a piece are no chunks.
//!
//! This is why thousands of small files cost no more requests than one file of their size, and why the hash of each piece
//! follows from the roots of the files in it, see [`crate::merkle::PieceLayer`].

use std::ops::Range;

use super::{CHUNK_SIZE, ChunkIndex, PIECE_CHUNKS, PIECE_SIZE, Span};
use crate::digest::Root;
use crate::limits::FILE_SIZE_MAX;

/// The files of a folder as they are cut, and what proves them.
#[derive(Debug)]
pub struct FolderCut {
    root: Root,
    files: Box<[FileCut]>,
    size: u64,
    chunks: u32,
    /// The number after that of the last chunk.
    end: u32,
}

/// One file with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileCut {
    first: u32,
    offset: u64,
    size: u64,
    root: Root,
}

/// The part of a span that lies in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Number of the file.
    pub file: usize,
    /// The chunks.
    pub span: Span,
    /// Their bytes, counted from the beginning of the file.
    pub bytes: Range<u64>,
    /// Whether the file is no larger than a piece, so that its root is the root over its leaves.
    pub is_small: bool,
}

/// More files than chunk numbers can name, or more bytes together than [`FILE_SIZE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the folder is too large for the protocol")]
pub struct FolderTooLarge;

impl FolderCut {
    pub(super) fn new(
        root: Root,
        files: impl IntoIterator<Item = (u64, Root)>,
    ) -> Result<Self, FolderTooLarge> {
        let (mut cuts, mut size, mut chunks, mut end) = (Vec::new(), 0u64, 0u32, 0u32);
        for (len, root) in files {
            if len == 0 || len > FILE_SIZE_MAX {
                return Err(FolderTooLarge);
            }
            let count = len.div_ceil(u64::from(CHUNK_SIZE)) as u32;
            let room = PIECE_CHUNKS - end % PIECE_CHUNKS;
            let follows_large = cuts.last().is_some_and(FileCut::is_large);
            let first = if count <= room && !follows_large {
                Some(end)
            } else {
                end.checked_next_multiple_of(PIECE_CHUNKS)
            };
            let first = first.ok_or(FolderTooLarge)?;
            // One piece is left free at the end, so that numbers after the last chunk can be computed with.
            end = first
                .checked_add(count)
                .filter(|end| *end <= u32::MAX - PIECE_CHUNKS)
                .ok_or(FolderTooLarge)?;
            cuts.push(FileCut { first, offset: size, size: len, root });
            // Both are far from overflowing: no more than what a single file may have.
            size += len;
            if size > FILE_SIZE_MAX {
                return Err(FolderTooLarge);
            }
            chunks += count;
        }
        Ok(FolderCut { root, files: cuts.into(), size, chunks, end })
    }

    /// The name that the bytes of all files have together.
    pub fn root(&self) -> Root {
        self.root
    }

    /// The files that have bytes, in order.
    pub fn files(&self) -> &[FileCut] {
        &self.files
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn chunk_count(&self) -> u32 {
        self.chunks
    }

    pub(super) fn piece_count(&self) -> u32 {
        self.end.div_ceil(PIECE_CHUNKS)
    }

    /// The number after that of the last chunk of a piece that exists.
    pub(super) fn end_of_piece(&self, piece: u32) -> u32 {
        let end = (piece + 1) * PIECE_CHUNKS;
        match self.last_before(end) {
            Some(last) => last.end().min(end),
            None => piece * PIECE_CHUNKS,
        }
    }

    /// Whether all these numbers are chunks of one piece.
    pub(super) fn has_run(&self, run: Range<u32>) -> bool {
        let piece = run.start / PIECE_CHUNKS;
        !run.is_empty() && piece < self.piece_count() && run.end <= self.end_of_piece(piece)
    }

    /// How many chunks from `first` on have these many bytes, or none if that is in the middle of one.
    pub(super) fn count_of_bytes(&self, first: ChunkIndex, len: u64) -> Option<u32> {
        let end = self.bytes_of_chunk(first).start.checked_add(len).filter(|end| *end <= self.size)?;
        let last = self.files.partition_point(|file| file.offset < end).checked_sub(1)?;
        let file = self.files.get(last)?;
        let chunks = (end - file.offset).div_ceil(u64::from(CHUNK_SIZE)) as u32;
        (file.first + chunks).checked_sub(first.0)
    }

    /// Where the bytes of a chunk are.
    pub(super) fn bytes_of_chunk(&self, chunk: ChunkIndex) -> Range<u64> {
        let Some(file) = self.last_before(chunk.0 + 1) else { return 0..0 };
        let start = u64::from(chunk.0 - file.first) * u64::from(CHUNK_SIZE);
        let end = (start + u64::from(CHUNK_SIZE)).min(file.size);
        file.offset + start..file.offset + end
    }

    /// The file that a chunk is of.
    pub fn file_of(&self, chunk: ChunkIndex) -> usize {
        self.files_before(chunk.0 + 1).saturating_sub(1)
    }

    pub(super) fn segments(&self, span: Span) -> impl Iterator<Item = Segment> + '_ {
        let from = self.file_of(span.first);
        self.files.iter().enumerate().skip(from).take_while(move |(_, file)| file.first < span.end()).map(
            move |(number, file)| {
                let first = span.first.0.max(file.first);
                let end = span.end().min(file.end());
                let start = u64::from(first - file.first) * u64::from(CHUNK_SIZE);
                let stop = (u64::from(end - file.first) * u64::from(CHUNK_SIZE)).min(file.size);
                Segment {
                    file: number,
                    span: Span { first: ChunkIndex(first), count: end - first },
                    bytes: start..stop,
                    is_small: !file.is_large(),
                }
            },
        )
    }

    /// The last file that begins before this chunk number.
    fn last_before(&self, number: u32) -> Option<&FileCut> {
        self.files.get(self.files_before(number).checked_sub(1)?)
    }

    /// How many files begin before this chunk number.
    fn files_before(&self, number: u32) -> usize {
        self.files.partition_point(|file| file.first < number)
    }
}

/// The root names all of it.
impl PartialEq for FolderCut {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

impl Eq for FolderCut {}

impl FileCut {
    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its root.
    pub fn root(&self) -> Root {
        self.root
    }

    /// Where its bytes begin in the content of the folder.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// All its chunks.
    pub fn span(&self) -> Span {
        Span { first: ChunkIndex(self.first), count: self.end() - self.first }
    }

    /// Whether it is larger than a piece, and so has a piece layer of its own.
    pub fn is_large(&self) -> bool {
        self.size > PIECE_SIZE
    }

    fn end(&self) -> u32 {
        self.first + self.size.div_ceil(u64::from(CHUNK_SIZE)) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Geometry;
    use super::*;

    const CHUNK: u64 = CHUNK_SIZE as u64;

    fn folder(sizes: &[u64]) -> Geometry {
        Geometry::of_folder(Root([1; 32]), sizes.iter().map(|size| (*size, Root([2; 32])))).unwrap()
    }

    fn firsts(geometry: &Geometry) -> Vec<u32> {
        geometry.folder().unwrap().files().iter().map(|file| file.span().first().get()).collect()
    }

    #[test]
    fn small_files_share_a_piece_and_large_ones_do_not() {
        assert_eq!(firsts(&folder(&[1, 1, 3 * CHUNK, 5])), [0, 1, 2, 5]);
        assert_eq!(firsts(&folder(&[1, 64 * CHUNK, 1])), [0, 64, 128]);
        assert_eq!(firsts(&folder(&[1, 63 * CHUNK, 1])), [0, 1, 64]);
        assert_eq!(firsts(&folder(&[1, 65 * CHUNK, 1, 2])), [0, 64, 192, 193]);
        let geometry = folder(&[1, 65 * CHUNK, 7]);
        assert_eq!((geometry.piece_count(), geometry.chunk_count()), (4, 67));
        let counts: Vec<u32> = geometry.pieces().map(|piece| geometry.span_of(piece).count()).collect();
        assert_eq!(counts, [1, 64, 1, 1]);
    }

    #[test]
    fn numbers_between_the_files_are_no_chunks() {
        let geometry = folder(&[1, 65 * CHUNK, 7]);
        assert!(geometry.chunk(0).is_some() && geometry.chunk(1).is_none() && geometry.chunk(63).is_none());
        assert!(geometry.span(64, 64).is_some() && geometry.span(64, 65).is_none(), "not over two pieces");
        assert!(geometry.chunk(128).is_some() && geometry.chunk(129).is_none());
        assert!(geometry.chunk(192).is_some() && geometry.chunk(193).is_none());
        assert!(geometry.chunk(u32::MAX).is_none() && geometry.span(u32::MAX, 1).is_none());
        assert!(geometry.span(0, 0).is_none());
    }

    #[test]
    fn a_folder_without_bytes_has_no_chunks() {
        let geometry = folder(&[]);
        assert_eq!((geometry.size(), geometry.piece_count(), geometry.chunk_count()), (0, 0, 0));
        assert!(geometry.chunk(0).is_none() && geometry.piece(0).is_none());
    }

    #[test]
    fn what_numbers_cannot_name_is_refused() {
        let files =
            |count: usize, size| Geometry::of_folder(Root([1; 32]), vec![(size, Root([2; 32])); count]);
        assert!(files(1, FILE_SIZE_MAX).is_ok() && files(4, FILE_SIZE_MAX / 4).is_ok());
        assert_eq!(files(5, FILE_SIZE_MAX / 4), Err(FolderTooLarge));
        assert_eq!(files(2, FILE_SIZE_MAX), Err(FolderTooLarge));
        assert_eq!(files(1, FILE_SIZE_MAX + 1), Err(FolderTooLarge));
        assert_eq!(files(1, 0), Err(FolderTooLarge));
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_chunk_of_one_piece(sizes in prop::collection::vec(prop_oneof![
            1u64..100, 16_380u64..16_390, 1u64..(70 * CHUNK), (63 * CHUNK)..(66 * CHUNK), 1u64..(300 * CHUNK),
        ], 0..40)) {
            let geometry = folder(&sizes);
            prop_assert_eq!(geometry.size(), sizes.iter().sum::<u64>());
            let (mut at, mut chunks) = (0, 0);
            let mut of_files = vec![0; sizes.len()];
            for piece in geometry.pieces() {
                let span = geometry.span_of(piece);
                prop_assert_eq!(geometry.bytes_of(span).start, at);
                let mut within = at;
                for segment in geometry.segments(span) {
                    prop_assert_eq!(segment.bytes.start, of_files[segment.file]);
                    of_files[segment.file] = segment.bytes.end;
                    prop_assert_eq!(geometry.bytes_of(segment.span).start, within);
                    within = geometry.bytes_of(segment.span).end;
                    prop_assert_eq!(segment.is_small, sizes[segment.file] <= PIECE_SIZE);
                }
                prop_assert_eq!(within, geometry.bytes_of(span).end);
                for chunk in span.chunks() {
                    prop_assert_eq!(geometry.chunk(chunk.get()), Some(chunk));
                    prop_assert_eq!(chunk.piece(), piece);
                    prop_assert_eq!(geometry.offset_of(chunk), at);
                    prop_assert!((1..=CHUNK_SIZE).contains(&geometry.chunk_len(chunk)));
                    at += u64::from(geometry.chunk_len(chunk));
                    chunks += 1;
                }
            }
            prop_assert_eq!(at, geometry.size());
            prop_assert_eq!(chunks, geometry.chunk_count());
            prop_assert_eq!(of_files, sizes);
        }

        #[test]
        fn a_span_is_found_by_its_bytes(
            sizes in prop::collection::vec(1u64..(90 * CHUNK), 1..20), piece: prop::sample::Index, from in 0u32..64, count in 1u32..65, off in 0u64..3,
        ) {
            let geometry = folder(&sizes);
            let all = geometry.span_of(geometry.piece(piece.index(geometry.piece_count() as usize) as u32).unwrap());
            let first = all.first().get() + from % all.count();
            let span = geometry.span(first, count.min(all.end() - first)).unwrap();
            let len = geometry.len_of(span);
            prop_assert_eq!(geometry.span_of_bytes(first, len), Some(span));
            if let Some(other) = geometry.span_of_bytes(first, len + off) {
                prop_assert_eq!(geometry.len_of(other), len + off);
            }
            prop_assert_eq!(geometry.span_of_bytes(first, 0), None);
            prop_assert_eq!(geometry.span_of_bytes(first, u64::MAX), None);
        }
    }
}
