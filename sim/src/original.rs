//! The content of a run: made from a seed or given by the user, and known by its SHA-256 before any node sees it.
//!
//! That hash is what fetched files are checked against. It shares no code with the nodes' own hashes, and is taken
//! before the nodes run, so that a node which damages what it shares is found out too.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ftx_proto::geometry::CHUNK_SIZE;
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};
use sha2::{Digest, Sha256};

/// The content of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Where its bytes are.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// The SHA-256 of all bytes.
    pub sha256: [u8; 32],
}

/// How a node gets the original into its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// As another name of the same file, where the file system allows it.
    Linked,
    /// As a file of its own, which may be damaged without harm to the others.
    Copied,
}

impl Original {
    /// Makes `size` bytes without any pattern, always the same for the same seed.
    ///
    /// # Errors
    /// Of the file at `path`.
    pub fn generate(path: &Path, size: u64, seed: u64) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut left = size;
        while left > 0 {
            let bytes = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            random.fill_bytes(&mut buffer[..bytes]);
            hasher.update(&buffer[..bytes]);
            file.write_all(&buffer[..bytes])?;
            left -= bytes as u64;
        }
        Ok(Original { path: path.to_owned(), size, sha256: hasher.finalize().into() })
    }

    /// Takes a file that is there already; it stays where and as it is.
    ///
    /// # Errors
    /// Of reading it.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        Ok(Original { size: fs::metadata(&path)?.len(), sha256: sha256_of(&path)?, path })
    }

    /// Puts it into a folder under its own name.
    ///
    /// # Errors
    /// Of the file to be made.
    pub fn place(&self, folder: &Path, placement: Placement) -> io::Result<PathBuf> {
        let path = folder.join(self.path.file_name().unwrap_or_default());
        if placement == Placement::Copied || fs::hard_link(&self.path, &path).is_err() {
            fs::copy(&self.path, &path)?;
            // So that all nodes tell the same age, as with files that were once copied by any tool that keeps it.
            File::options().write(true).open(&path)?.set_modified(fs::metadata(&self.path)?.modified()?)?;
        }
        Ok(path)
    }

    /// Says what is wrong with a fetched file, if anything is.
    ///
    /// # Errors
    /// Of reading it.
    pub fn check(&self, path: &Path) -> io::Result<Option<String>> {
        if sha256_of(path)? == self.sha256 {
            return Ok(None);
        }
        let size = fs::metadata(path)?.len();
        if size != self.size {
            return Ok(Some(format!("it has {size} bytes instead of {}", self.size)));
        }
        Ok(Some(match first_difference(&self.path, path)? {
            Some(at) => format!("it differs from the original from byte {at} on"),
            None => "it is like the original, which is not any more what it was".to_owned(),
        }))
    }
}

/// Changes one byte in every chunk of a file, and leaves its size and time as they were: a disk that rots silently.
///
/// # Errors
/// Of the file; and a file with several names is refused, since they would all be damaged.
pub fn spoil(path: &Path, seed: u64) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let metadata = file.metadata()?;
    if metadata.nlink() != 1 {
        return Err(io::Error::other(format!("{} has other names; it is not to be damaged", path.display())));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for begin in (0..metadata.len()).step_by(CHUNK_SIZE as usize) {
        let at = random.random_range(begin..metadata.len().min(begin + u64::from(CHUNK_SIZE)));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ random.random_range(1..=u8::MAX)], at)?;
    }
    file.set_modified(metadata.modified()?)
}

fn sha256_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            bytes => hasher.update(&buffer[..bytes]),
        }
    }
}

/// Of two files of the same size.
fn first_difference(one: &Path, other: &Path) -> io::Result<Option<u64>> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let size = one.metadata()?.len();
    let (mut left, mut right) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    for begin in (0..size).step_by(BUFFER_BYTES) {
        let bytes = BUFFER_BYTES.min(usize::try_from(size - begin).unwrap_or(BUFFER_BYTES));
        one.read_exact_at(&mut left[..bytes], begin)?;
        other.read_exact_at(&mut right[..bytes], begin)?;
        let different = left[..bytes].iter().zip(&right[..bytes]).position(|(left, right)| left != right);
        if let Some(at) = different {
            return Ok(Some(begin + at as u64));
        }
    }
    Ok(None)
}

/// What is read, made or written at once.
const BUFFER_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 3 * (1 << 20) + 77;

    #[test]
    fn the_same_seed_makes_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, seed| Original::generate(&folder.path().join(name), SIZE, seed).unwrap();
        let (one, same, other) = (make("one", 1), make("same", 1), make("other", 2));
        assert_eq!(one.sha256, same.sha256);
        assert_ne!(one.sha256, other.sha256);
        assert_eq!(fs::metadata(&one.path).unwrap().len(), SIZE);
        assert_eq!(Original::of_file(&one.path).unwrap().sha256, one.sha256);
    }

    #[test]
    fn a_spoiled_copy_is_wrong_in_every_chunk_and_looks_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let original = Original::generate(&folder.path().join("file"), SIZE, 1).unwrap();
        let copies = folder.path().join("copies");
        fs::create_dir(&copies).unwrap();
        let path = original.place(&copies, Placement::Copied).unwrap();
        let before = fs::metadata(&path).unwrap();

        spoil(&path, 5).unwrap();

        let after = fs::metadata(&path).unwrap();
        assert_eq!(
            (after.len(), after.modified().unwrap(), after.ino()),
            (before.len(), before.modified().unwrap(), before.ino())
        );
        let (right, wrong) = (fs::read(&original.path).unwrap(), fs::read(&path).unwrap());
        let chunk = CHUNK_SIZE as usize;
        assert!(right.chunks(chunk).zip(wrong.chunks(chunk)).all(|(right, wrong)| right != wrong));
        assert_eq!(original.check(&original.path).unwrap(), None);
        let told = original.check(&path).unwrap().unwrap();
        assert!(told.contains("differs from the original"), "{told}");
    }

    #[test]
    fn what_others_share_is_not_spoiled() {
        let folder = tempfile::tempdir().unwrap();
        let original = Original::generate(&folder.path().join("file"), 100, 1).unwrap();
        let links = folder.path().join("links");
        fs::create_dir(&links).unwrap();
        let path = original.place(&links, Placement::Linked).unwrap();
        assert!(spoil(&path, 5).is_err());
        assert_eq!(original.check(&path).unwrap(), None);
    }

    #[test]
    fn a_file_cut_short_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let original = Original::generate(&folder.path().join("file"), 100, 1).unwrap();
        let short = folder.path().join("short");
        fs::write(&short, &fs::read(&original.path).unwrap()[..99]).unwrap();
        assert_eq!(original.check(&short).unwrap().unwrap(), "it has 99 bytes instead of 100");
    }
}
