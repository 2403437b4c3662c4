//! Contents made from a seed, and what is to be known about files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ftx_proto::digest::Root;
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PIECE_CHUNKS};
use ftx_proto::merkle::{PieceLayer, leaf_hash, piece_hash};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// The bytes of a file: always the same for the same seed and size, and without any pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Content {
    /// `size` bytes from `seed`.
    pub fn new(seed: u64, size: usize) -> Self {
        let mut bytes = vec![0; size];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        Content { bytes }
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The root that names the content: 64 hex digits.
    pub fn root(&self) -> String {
        let geometry = Geometry::new(self.size()).expect("a content of a test is small");
        let leaves: Vec<_> = self.bytes.chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
        let pieces = geometry.pieces().zip(leaves.chunks(PIECE_CHUNKS as usize));
        let hashes = pieces.map(|(piece, leaves)| piece_hash(&geometry, piece, leaves)).collect();
        let layer = PieceLayer::from_hashes(geometry, hashes).expect("one hash a piece");
        let root: Root = layer.root();
        root.to_string()
    }

    /// Fails the test unless the file at `path` has exactly these bytes.
    #[track_caller]
    pub fn expect_in(&self, path: &Path) {
        let found = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(found.len(), self.bytes.len(), "size of {}", path.display());
        if let Some(at) = found.iter().zip(&self.bytes).position(|(found, right)| found != right) {
            panic!("{} differs from byte {at} on", path.display());
        }
    }
}

/// The SHA-256 of a file: 64 hex digits.
pub fn sha256_of_file(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if count == 0 {
            return hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        }
        hasher.update(&buffer[..count]);
    }
}

/// The MD5 of bytes: 32 hex digits.
pub fn md5_hex(bytes: &[u8]) -> String {
    use md5::Digest as _;
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of bytes: 64 hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The names in a folder, hidden ones too, sorted.
pub fn listing(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// One mebibyte.
pub const MIB: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_content() {
        assert_eq!(Content::new(1, 100_000), Content::new(1, 100_000));
        assert_ne!(Content::new(1, 100_000), Content::new(2, 100_000));
    }

    #[test]
    fn a_single_wrong_byte_is_noticed() {
        let content = Content::new(3, 100_000);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, &content.bytes).unwrap();
        content.expect_in(&path);
        let mut wrong = content.clone();
        wrong.bytes[99_999] ^= 1;
        assert!(std::panic::catch_unwind(|| wrong.expect_in(&path)).is_err());
    }
}
