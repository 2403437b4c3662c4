//! The tree that names a content: SHA-256 over 16 KiB leaves, as in BitTorrent v2 (BEP 52).
//!
//! Leaves are the hashes of the chunks. A content of one piece or less is a tree over its own leaves, filled with zero
//! hashes up to a power of two. A larger one has a *piece layer*: one hash per piece, each over 64 leaves (the last
//! piece filled with zero hashes); the layer is filled up to a power of two with the hash of a piece of zero leaves.
//!
//! The root of the empty content, which BEP 52 leaves open, is the SHA-256 of nothing.
//!
//! The files of a folder together ([`FolderCut`]) have a piece layer as well, which is no tree:
//! a piece that is part of one file has the hash that it has there; one with several small files has the SHA-256 of their
//! roots, one after the other. So the roots of the files, and the piece layers of the large ones, prove every piece.
//!
//! Source: <https://www.bittorrent.org/beps/bep_0052.html>.

use std::sync::Arc;

use crate::chunk_set::ChunkMask;
use crate::digest::{Digest, Root};
use crate::geometry::{FileCut, FolderCut, Geometry, PIECE_CHUNKS, PieceIndex, Segment};

/// The hash of one chunk's bytes.
pub fn leaf_hash(chunk: &[u8]) -> Digest {
    Digest::of(chunk)
}

/// The root of the empty content.
pub fn empty_root() -> Root {
    Root(Digest::of(b"").0)
}

/// The hash of every piece of a content, known to belong to its root.
///
/// There is no other way to make one than to compute it or to have it verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceLayer {
    geometry: Geometry,
    root: Root,
    hashes: Vec<Digest>,
}

/// Hashes that do not lead to the root they were given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// There are not as many as the content has pieces.
    #[error("{found} piece hashes where {expected} belong")]
    Count {
        /// Pieces of the content.
        expected: u32,
        /// Hashes given.
        found: usize,
    },
    /// They hash to another root.
    #[error("piece hashes do not lead to the root")]
    Root,
}

impl PieceLayer {
    /// The layer of a content whose piece hashes are `hashes`, in order.
    ///
    /// Those of a folder must be the right ones: its cut says which those are.
    pub fn from_hashes(geometry: Geometry, hashes: Vec<Digest>) -> Result<Self, LayerError> {
        let expected = geometry.piece_count();
        if hashes.len() != expected as usize {
            return Err(LayerError::Count { expected, found: hashes.len() });
        }
        let root = match geometry.folder() {
            None => root_of(&hashes),
            Some(folder) if proves_files(&geometry, folder, &hashes) => folder.root(),
            Some(_) => return Err(LayerError::Root),
        };
        Ok(PieceLayer { geometry, root, hashes })
    }

    /// The layer of the files of a folder. `layer_of` gives that of each file that is larger than a piece, by its number.
    ///
    /// `None` if one of them is missing or is another file's, or if this is no folder.
    pub fn of_folder(
        geometry: Geometry,
        mut layer_of: impl FnMut(usize) -> Option<Arc<PieceLayer>>,
    ) -> Option<Self> {
        let mut hashes = Vec::with_capacity(geometry.piece_count() as usize);
        let folder = geometry.folder()?;
        let mut pieces = geometry.pieces();
        while let Some(piece) = pieces.next() {
            let number = folder.file_of(geometry.span_of(piece).first());
            let file = folder.files().get(number).filter(|file| file.is_large());
            let Some(file) = file else {
                hashes.push(hash_of_small(&geometry, folder, piece));
                continue;
            };
            // Who made the manifest may have given a file the root of a smaller one.
            let is_of = |layer: &Arc<PieceLayer>| {
                layer.root() == file.root() && layer.geometry().size() == file.size()
            };
            let layer = layer_of(number).filter(is_of)?;
            hashes.extend(layer.hashes());
            // Past the other pieces of this file.
            pieces.nth(layer.hashes().len() - 2);
        }
        Self::from_hashes(geometry, hashes).ok()
    }

    /// The layer, if it is the one of the content that `root` names.
    pub fn verify(geometry: Geometry, root: Root, hashes: Vec<Digest>) -> Result<Self, LayerError> {
        let layer = Self::from_hashes(geometry, hashes)?;
        if layer.root == root { Ok(layer) } else { Err(LayerError::Root) }
    }

    /// The layer of a content of at most one piece, which its root alone determines; or of a folder without files that
    /// are larger, which their roots determine.
    pub fn of_small(geometry: Geometry, root: Root) -> Option<Self> {
        if let Some(folder) = geometry.folder() {
            return Self::of_folder(geometry.clone(), |_| None).filter(|_| folder.root() == root);
        }
        match geometry.piece_count() {
            0 => Self::verify(geometry, root, Vec::new()).ok(),
            1 => Some(PieceLayer { geometry, root, hashes: vec![Digest(root.0)] }),
            _ => None,
        }
    }

    /// How the content is cut.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The root of the content.
    pub fn root(&self) -> Root {
        self.root
    }

    /// One hash per piece, in order.
    pub fn hashes(&self) -> &[Digest] {
        &self.hashes
    }

    /// Whether these leaves, all of the piece's in order, are those that the root stands for.
    pub fn proves(&self, piece: PieceIndex, leaves: &[Digest]) -> bool {
        leaves.len() == self.geometry.span_of(piece).count() as usize
            && self.hashes.get(piece.get() as usize) == Some(&piece_hash(&self.geometry, piece, leaves))
    }

    /// Whether these leaves, all of the piece's in order, are right as far as `chunks` go: those of each file that has all
    /// of its chunks in this piece among them. What is in no such file is not proved by this.
    pub fn proves_part(&self, piece: PieceIndex, leaves: &[Digest], chunks: ChunkMask) -> bool {
        let span = self.geometry.span_of(piece);
        if chunks == ChunkMask::of(span) {
            return self.proves(piece, leaves);
        }
        let Some(folder) = self.geometry.folder().filter(|_| leaves.len() == span.count() as usize) else {
            return false;
        };
        let mut proved = ChunkMask::EMPTY;
        for segment in self.geometry.segments(span) {
            let mask = ChunkMask::of(segment.span);
            let start = segment.span.first().in_piece() as usize;
            let is_right = |leaves: &[Digest]| {
                segment.is_small
                    && folder
                        .files()
                        .get(segment.file)
                        .is_some_and(|file| file.root().0 == file_part(&segment, leaves).0)
            };
            let is_wanted = mask.without(chunks).is_empty();
            if is_wanted && !leaves.get(start..start + segment.span.count() as usize).is_some_and(is_right) {
                return false;
            }
            if is_wanted {
                proved = proved.union(mask);
            }
        }
        proved == chunks
    }
}

/// The hash of a piece from the hashes of its chunks, in order.
///
/// There must be as many `leaves` as the piece has chunks.
pub fn piece_hash(geometry: &Geometry, piece: PieceIndex, leaves: &[Digest]) -> Digest {
    let span = geometry.span_of(piece);
    assert_eq!(leaves.len(), span.count() as usize, "a leaf for each chunk");
    let mut rest = leaves;
    let part = |segment: Segment| {
        let (leaves, behind) = rest.split_at(segment.span.count() as usize);
        rest = behind;
        file_part(&segment, leaves)
    };
    joined(&geometry.segments(span).map(part).collect::<Vec<_>>())
}

/// The hash that the part of a file in one piece has in the tree of the file.
fn file_part(segment: &Segment, leaves: &[Digest]) -> Digest {
    let mut level = leaves.to_vec();
    if !segment.is_small {
        level.resize(PIECE_CHUNKS as usize, Digest::ZERO);
    }
    tree_root(level, Digest::ZERO)
}

/// The hash of a piece in which these are the hashes of the files.
fn joined(parts: &[Digest]) -> Digest {
    match parts {
        [only] => *only,
        several => Digest::of(several.iter().map(|part| part.0).collect::<Vec<_>>().as_flattened()),
    }
}

/// The hash of a piece of small files.
fn hash_of_small(geometry: &Geometry, folder: &FolderCut, piece: PieceIndex) -> Digest {
    let files =
        geometry.segments(geometry.span_of(piece)).filter_map(|segment| folder.files().get(segment.file));
    joined(&files.map(|file| Digest(file.root().0)).collect::<Vec<_>>())
}

/// Whether the hashes of all pieces follow from the roots of the files.
fn proves_files(geometry: &Geometry, folder: &FolderCut, hashes: &[Digest]) -> bool {
    let small = geometry.pieces().zip(hashes).all(|(piece, hash)| {
        let number = folder.file_of(geometry.span_of(piece).first());
        let is_large = folder.files().get(number).is_some_and(FileCut::is_large);
        is_large || *hash == hash_of_small(geometry, folder, piece)
    });
    small
        && folder.files().iter().filter(|file| file.is_large()).all(|file| {
            let first = file.span().first().piece().get() as usize;
            let count = file.span().pieces().count();
            hashes.get(first..first + count).is_some_and(|hashes| root_of(hashes) == file.root())
        })
}

/// The root of a content with this piece layer.
fn root_of(layer: &[Digest]) -> Root {
    match layer {
        [] => empty_root(),
        [only] => Root(only.0),
        many => Root(tree_root(many.to_vec(), zero_piece()).0),
    }
}

/// The root of a tree over `level`, filled to a power of two with `filler`.
fn tree_root(mut level: Vec<Digest>, mut filler: Digest) -> Digest {
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => Digest::parent(left, right),
                [left, ..] => Digest::parent(left, &filler),
                [] => filler,
            })
            .collect();
        filler = Digest::parent(&filler, &filler);
    }
    level.pop().unwrap_or(filler)
}

/// The hash of a piece whose leaves are all zero: the filler of the piece layer.
fn zero_piece() -> Digest {
    (0..PIECE_CHUNKS.ilog2()).fold(Digest::ZERO, |hash, _| Digest::parent(&hash, &hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{CHUNK_SIZE, PIECE_SIZE};

    fn layer_of(data: &[u8]) -> PieceLayer {
        let geometry = Geometry::new(data.len() as u64).unwrap();
        let leaves: Vec<_> = data.chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
        let pieces = geometry.pieces().zip(leaves.chunks(PIECE_CHUNKS as usize));
        let hashes = pieces.map(|(piece, leaves)| piece_hash(&geometry, piece, leaves)).collect();
        PieceLayer::from_hashes(geometry, hashes).unwrap()
    }

    #[test]
    fn the_empty_content_has_a_root() {
        let layer = layer_of(b"");
        assert_eq!(
            layer.root().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(PieceLayer::of_small(layer.geometry().clone(), layer.root()), Some(layer));
        let empty = Geometry::new(0).unwrap();
        assert_eq!(PieceLayer::of_small(empty, Root([7; 32])), None);
    }

    #[test]
    fn any_changed_hash_is_refused() {
        let data = vec![7; 3 * PIECE_SIZE as usize + 5];
        let layer = layer_of(&data);
        let verify = |hashes| PieceLayer::verify(layer.geometry().clone(), layer.root(), hashes);
        assert_eq!(verify(layer.hashes().to_vec()), Ok(layer.clone()));
        for i in 0..4 {
            let mut hashes = layer.hashes().to_vec();
            hashes[i].0[31] ^= 1;
            assert_eq!(verify(hashes), Err(LayerError::Root));
        }
        let short = layer.hashes()[..3].to_vec();
        assert_eq!(verify(short), Err(LayerError::Count { expected: 4, found: 3 }));
    }

    #[test]
    fn a_piece_is_proved_by_all_its_leaves_only() {
        let data: Vec<u8> = (0..PIECE_SIZE as usize + 40_000).map(|i| (i / 7) as u8).collect();
        let layer = layer_of(&data);
        let last = layer.geometry().piece(1).unwrap();
        let leaves: Vec<_> = data[PIECE_SIZE as usize..].chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
        assert!(layer.proves(last, &leaves));
        assert!(!layer.proves(last, &leaves[..2]));
        assert!(!layer.proves(layer.geometry().piece(0).unwrap(), &leaves));
        let mut wrong = leaves.clone();
        wrong.swap(0, 1);
        assert!(!layer.proves(last, &wrong));
    }

    /// Leaves of a folder's pieces, and layers of its large files, from files of made-up bytes.
    struct Folder {
        geometry: Geometry,
        leaves: Vec<Vec<Digest>>,
        layers: Vec<Arc<PieceLayer>>,
    }

    fn folder(sizes: &[usize]) -> Folder {
        let files: Vec<Vec<u8>> =
            (0..).zip(sizes).map(|(n, size)| (0..*size).map(|i| (i / 5 + 31 * n) as u8).collect()).collect();
        let layers: Vec<_> = files.iter().map(|data| Arc::new(layer_of(data))).collect();
        let cut = layers.iter().map(|layer| (layer.geometry().size(), layer.root()));
        let geometry = Geometry::of_folder(Root([9; 32]), cut).unwrap();
        let leaves = geometry.pieces().map(|piece| {
            let segments = geometry.segments(geometry.span_of(piece));
            let bytes = segments.map(|it| &files[it.file][it.bytes.start as usize..it.bytes.end as usize]);
            bytes.flat_map(|bytes| bytes.chunks(CHUNK_SIZE as usize)).map(leaf_hash).collect()
        });
        let leaves = leaves.collect();
        Folder { geometry, leaves, layers }
    }

    #[test]
    fn the_roots_of_its_files_prove_a_folder() {
        let Folder { geometry, leaves, layers } =
            folder(&[5, 40_000, 2 * PIECE_SIZE as usize + 20_000, PIECE_SIZE as usize, 7, 16_384]);
        let layer = PieceLayer::of_folder(geometry.clone(), |file| Some(layers[file].clone())).unwrap();
        assert_eq!(layer.root(), Root([9; 32]));
        for (piece, leaves) in geometry.pieces().zip(&leaves) {
            assert!(layer.proves(piece, leaves), "{piece:?}");
            let mut wrong = leaves.clone();
            wrong[0].0[0] ^= 1;
            assert!(!layer.proves(piece, &wrong), "{piece:?}");
            let hashes = layer.hashes().to_vec();
            assert!(PieceLayer::verify(geometry.clone(), Root([9; 32]), hashes.clone()).is_ok());
            let mut hashes = hashes;
            hashes[piece.get() as usize].0[0] ^= 1;
            assert_eq!(PieceLayer::from_hashes(geometry.clone(), hashes), Err(LayerError::Root), "{piece:?}");
        }
        assert_eq!(
            PieceLayer::of_small(geometry.clone(), Root([9; 32])),
            None,
            "the large file's layer is not known"
        );
        assert_eq!(PieceLayer::of_folder(geometry, |_| Some(layers[0].clone())), None, "another file's");
    }

    #[test]
    fn the_layer_of_a_file_of_another_size_is_not_taken() {
        for small in [layer_of(b""), layer_of(b"small")] {
            let cut = [(3 * PIECE_SIZE, small.root()), (7, Root([1; 32]))];
            let geometry = Geometry::of_folder(Root([9; 32]), cut).unwrap();
            let small = Arc::new(small);
            assert_eq!(PieceLayer::of_folder(geometry, |_| Some(small.clone())), None);
        }
    }

    #[test]
    fn small_files_need_nothing_but_their_roots() {
        let Folder { geometry, leaves, .. } = folder(&[5, 40_000, PIECE_SIZE as usize, 7, 16_384]);
        let layer = PieceLayer::of_small(geometry.clone(), Root([9; 32])).unwrap();
        assert!(geometry.pieces().zip(&leaves).all(|(piece, leaves)| layer.proves(piece, leaves)));
        assert_eq!(PieceLayer::of_small(geometry, Root([8; 32])), None);
    }

    #[test]
    fn some_files_of_a_piece_are_proved_by_their_leaves() {
        // Chunks 0, 1 to 3, and 4.
        let Folder { geometry, leaves, .. } = folder(&[5, 40_000, 7]);
        let layer = PieceLayer::of_small(geometry.clone(), Root([9; 32])).unwrap();
        let piece = geometry.piece(0).unwrap();
        let mut some = leaves[0].clone();
        some[0] = Digest::ZERO;
        assert!(!layer.proves(piece, &some));
        let proves = |mask| layer.proves_part(piece, &some, ChunkMask(mask));
        assert!(proves(0b11110) && proves(0b1110) && proves(0b10000) && proves(0));
        assert!(!proves(0b11111) && !proves(1), "the wrong one");
        assert!(!proves(0b0110), "half a file");
        let large = folder(&[3 * PIECE_SIZE as usize]);
        let layer =
            PieceLayer::of_folder(large.geometry.clone(), |file| Some(large.layers[file].clone())).unwrap();
        let piece = large.geometry.piece(1).unwrap();
        assert!(layer.proves_part(piece, &large.leaves[1], ChunkMask(u64::MAX)));
        assert!(!layer.proves_part(piece, &large.leaves[1], ChunkMask(1)), "half a piece");
    }
}
