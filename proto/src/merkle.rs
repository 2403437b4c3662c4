//! The tree that names a content: SHA-256 over 16 KiB leaves, as in BitTorrent v2 (BEP 52).
//!
//! Leaves are the hashes of the chunks. A content of one piece or less is a tree over its own leaves, filled with zero
//! hashes up to a power of two. A larger one has a *piece layer*: one hash per piece, each over 64 leaves (the last
//! piece filled with zero hashes); the layer is filled up to a power of two with the hash of a piece of zero leaves.
//!
//! The root of the empty content, which BEP 52 leaves open, is the SHA-256 of nothing.
//!
//! Source: <https://www.bittorrent.org/beps/bep_0052.html>.

use crate::digest::{Digest, Root};
use crate::geometry::{Geometry, PIECE_CHUNKS, PieceIndex};

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
    pub fn from_hashes(geometry: Geometry, hashes: Vec<Digest>) -> Result<Self, LayerError> {
        let expected = geometry.piece_count();
        if hashes.len() != expected as usize {
            return Err(LayerError::Count { expected, found: hashes.len() });
        }
        let root = match hashes.as_slice() {
            [] => empty_root(),
            [only] => Root(only.0),
            many => Root(tree_root(many.to_vec(), zero_piece()).0),
        };
        Ok(PieceLayer { geometry, root, hashes })
    }

    /// The layer, if it is the one of the content that `root` names.
    pub fn verify(geometry: Geometry, root: Root, hashes: Vec<Digest>) -> Result<Self, LayerError> {
        let layer = Self::from_hashes(geometry, hashes)?;
        if layer.root == root { Ok(layer) } else { Err(LayerError::Root) }
    }

    /// The layer of a content of at most one piece, which its root alone determines.
    pub fn of_small(geometry: Geometry, root: Root) -> Option<Self> {
        match geometry.piece_count() {
            0 => Self::verify(geometry, root, Vec::new()).ok(),
            1 => Some(PieceLayer { geometry, root, hashes: vec![Digest(root.0)] }),
            _ => None,
        }
    }

    /// How the content is cut.
    pub fn geometry(&self) -> Geometry {
        self.geometry
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
            && self.hashes.get(piece.get() as usize) == Some(&piece_hash(self.geometry, leaves))
    }
}

/// The hash of a piece from the hashes of its chunks, in order.
///
/// `leaves` must be at least one and at most [`PIECE_CHUNKS`]; `geometry` tells whether the piece is the whole content.
pub fn piece_hash(geometry: Geometry, leaves: &[Digest]) -> Digest {
    assert!(!leaves.is_empty() && leaves.len() <= PIECE_CHUNKS as usize, "a piece has 1 to 64 leaves");
    let mut level = leaves.to_vec();
    if geometry.piece_count() > 1 {
        level.resize(PIECE_CHUNKS as usize, Digest::ZERO);
    }
    tree_root(level, Digest::ZERO)
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
        let hashes = leaves.chunks(PIECE_CHUNKS as usize).map(|l| piece_hash(geometry, l)).collect();
        PieceLayer::from_hashes(geometry, hashes).unwrap()
    }

    #[test]
    fn the_empty_content_has_a_root() {
        let layer = layer_of(b"");
        assert_eq!(
            layer.root().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(PieceLayer::of_small(layer.geometry(), layer.root()), Some(layer));
        let empty = Geometry::new(0).unwrap();
        assert_eq!(PieceLayer::of_small(empty, Root([7; 32])), None);
    }

    #[test]
    fn any_changed_hash_is_refused() {
        let data = vec![7; 3 * PIECE_SIZE as usize + 5];
        let layer = layer_of(&data);
        let verify = |hashes| PieceLayer::verify(layer.geometry(), layer.root(), hashes);
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
}
