//! A content of a few pieces, and the part file that it goes into.

use std::fs;
use std::path::PathBuf;

use ftx_node::store::{Part, PartFile, StoreError, Target};
use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PieceIndex};
use ftx_proto::merkle::{leaf_hash, piece_hash};

pub(crate) const ROOT: Root = Root([1; 32]);
pub(crate) const MTIME: (i64, u32) = (1_000_000_000, 123_456_789);

/// A folder, and a content of a few pieces that goes into it as `name`.
pub(crate) struct Fetch {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Fetch {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = (0..len).map(|i| (i / 251 + i % 253) as u8).collect();
        Fetch { folder: tempfile::tempdir().unwrap(), name: "file.bin".to_owned(), bytes }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    pub(crate) fn hidden(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!(".{}.ftx-{suffix}", self.name))
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::new(self.bytes.len() as u64).unwrap()
    }

    pub(crate) fn target(&self) -> Target {
        Target::new(&self.path(), &"ignored".parse().unwrap()).unwrap()
    }

    pub(crate) fn open_with(&self, root: Root, force: bool) -> Result<(PartFile, PieceSet), StoreError> {
        PartFile::open(self.target(), self.geometry(), root, force)
    }

    pub(crate) fn open(&self) -> (PartFile, PieceSet) {
        self.open_with(ROOT, false).unwrap()
    }

    pub(crate) fn pieces(&self, numbers: impl IntoIterator<Item = u32>) -> Vec<PieceIndex> {
        numbers.into_iter().map(|number| self.geometry().piece(number).unwrap()).collect()
    }

    pub(crate) fn write(&self, part: &PartFile, numbers: impl IntoIterator<Item = u32>) {
        for piece in self.pieces(numbers) {
            let place = self.geometry().bytes_of(self.geometry().span_of(piece));
            part.write_at(place.start, &self.bytes[place.start as usize..place.end as usize]).unwrap();
        }
    }

    /// Verified pieces as they are noted.
    pub(crate) fn hashed(&self, numbers: impl IntoIterator<Item = u32>) -> Vec<(PieceIndex, Digest)> {
        let hash = |piece| {
            let place = self.geometry().bytes_of(self.geometry().span_of(piece));
            let bytes = &self.bytes[place.start as usize..place.end as usize];
            let leaves: Vec<Digest> = bytes.chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
            (piece, piece_hash(&self.geometry(), piece, &leaves))
        };
        self.pieces(numbers).into_iter().map(hash).collect()
    }

    /// The numbers of the pieces that a new process finds.
    pub(crate) fn found(&self) -> Vec<u32> {
        self.open().1.iter().map(PieceIndex::get).collect()
    }

    pub(crate) fn finish(&self, part: &PartFile) {
        assert_eq!(part.finish(MTIME, false, false).unwrap(), self.path());
        assert!(fs::read(self.path()).unwrap() == self.bytes);
        assert_eq!(self.files(), std::slice::from_ref(&self.name));
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
