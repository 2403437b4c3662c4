//! The sums of whole files that the older systems ask for, computed once for each state of a file.
//!
//! It owns which sums are known, and which are being computed: several that ask for the same one wait for one reading.
//! A file is known by its device and number, its state by its stamp; a sum of a file that was changed meanwhile is never
//! given. A crash loses all of it, and the files are read again when somebody asks.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ftx_proto::digest::Digest;
use ftx_proto::interop::step::value::Md5Sum;
use md5::Md5;
use sha2::Sha256;

use crate::catalog::ReadError;
use crate::catalog::content::{Stamp, stamp_of};

/// Sums that are remembered.
const SUMS_MAX: usize = 4096;

/// Bytes that are read at once.
const READ_LEN: usize = 256 * 1024;

/// The sums of files.
#[derive(Debug, Default)]
pub struct Digests {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    sums: HashMap<Question, Entry>,
    /// Counts uses, to tell which was used last.
    uses: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    device: u64,
    inode: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Md5,
    Sha256,
}

#[derive(Debug)]
enum Entry {
    Computing,
    Known { stamp: Stamp, sum: Sum, used: u64 },
}

#[derive(Debug, Clone, Copy)]
enum Sum {
    Md5(Md5Sum),
    Sha256(Digest),
}

impl Digests {
    /// The MD5 of a whole plain file. Blocks while the file is read, by this or another call.
    pub fn md5(&self, file: &File) -> Result<Md5Sum, ReadError> {
        match self.sum(file, Kind::Md5)? {
            Sum::Md5(sum) => Ok(sum),
            Sum::Sha256(_) => unreachable!("an MD5 was asked for"),
        }
    }

    /// The SHA-256 of a whole plain file. Blocks while the file is read, by this or another call.
    pub fn sha256(&self, file: &File) -> Result<Digest, ReadError> {
        match self.sum(file, Kind::Sha256)? {
            Sum::Sha256(sum) => Ok(sum),
            Sum::Md5(_) => unreachable!("a SHA-256 was asked for"),
        }
    }

    fn sum(&self, file: &File, kind: Kind) -> Result<Sum, ReadError> {
        let stamp = stamp_of(file)?;
        let question = Question { device: stamp.device, inode: stamp.inode, kind };
        let mut known = self.known();
        loop {
            known.uses += 1;
            let now = known.uses;
            match known.sums.get_mut(&question) {
                Some(Entry::Known { stamp: of, sum, used }) if of.is_same_content(&stamp) => {
                    *used = now;
                    return Ok(*sum);
                }
                Some(Entry::Computing) => {
                    known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
                }
                _ => break,
            }
        }
        known.make_room();
        known.sums.insert(question, Entry::Computing);
        drop(known);
        let claim = Claim { digests: self, question, found: None };
        claim.compute(file, stamp)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics half-way through a change of it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Forgets the sum that was used longest ago, if there are too many.
    fn make_room(&mut self) {
        if self.sums.len() < SUMS_MAX {
            return;
        }
        let used = |(question, entry): (&Question, &Entry)| match entry {
            Entry::Known { used, .. } => Some((*used, *question)),
            Entry::Computing => None,
        };
        if let Some((_, oldest)) = self.sums.iter().filter_map(used).min_by_key(|(used, _)| *used) {
            self.sums.remove(&oldest);
        }
    }
}

/// The task to compute a sum, which others may wait for: they are told, however it ends.
struct Claim<'a> {
    digests: &'a Digests,
    question: Question,
    found: Option<(Stamp, Sum)>,
}

impl Claim<'_> {
    fn compute(mut self, file: &File, stamp: Stamp) -> Result<Sum, ReadError> {
        let sum = match self.question.kind {
            Kind::Md5 => Sum::Md5(Md5Sum(digest_of::<Md5>(file, stamp.size)?.into())),
            Kind::Sha256 => Sum::Sha256(Digest(digest_of::<Sha256>(file, stamp.size)?.into())),
        };
        // After the read: whatever was written before or meanwhile shows here.
        if !stamp_of(file)?.is_same_content(&stamp) {
            return Err(ReadError::Changed);
        }
        self.found = Some((stamp, sum));
        Ok(sum)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut known = self.digests.known();
        match self.found {
            Some((stamp, sum)) => {
                let used = known.uses;
                known.sums.insert(self.question, Entry::Known { stamp, sum, used });
            }
            None => {
                known.sums.remove(&self.question);
            }
        }
        drop(known);
        self.digests.changed.notify_all();
    }
}

fn digest_of<D: sha2::Digest>(file: &File, size: u64) -> Result<sha2::digest::Output<D>, ReadError> {
    let mut hasher = D::new();
    let mut buffer = vec![0; READ_LEN];
    let mut offset = 0;
    while offset < size {
        let len = usize::try_from(size - offset).unwrap_or(READ_LEN).min(READ_LEN);
        let Some(bytes) = buffer.get_mut(..len) else { unreachable!("at most the buffer") };
        match file.read_exact_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadError::Changed),
            result => result?,
        }
        hasher.update(bytes);
        offset += len as u64;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn sums_are_those_of_the_present_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "abc").unwrap();
        let digests = Digests::default();
        let file = File::open(&path).unwrap();
        for _ in 0..2 {
            assert_eq!(digests.md5(&file).unwrap().to_string(), "900150983cd24fb0d6963f7d28e17f72");
            assert_eq!(digests.sha256(&file).unwrap(), Digest::of(b"abc"));
        }
        assert_eq!(digests.known().sums.len(), 2);
        std::fs::write(&path, "abcd").unwrap();
        assert_eq!(digests.md5(&file).unwrap(), Md5Sum::of(b"abcd"));
        assert_eq!(digests.known().sums.len(), 2, "the old sum is forgotten");
        assert!(digests.md5(&File::open(folder.path()).unwrap()).is_err());
        assert_eq!(digests.known().sums.len(), 2);
    }

    #[test]
    fn many_that_ask_at_once_all_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content = vec![7; 3 * READ_LEN + 1];
        std::fs::write(&path, &content).unwrap();
        let digests = Arc::new(Digests::default());
        let sums: Vec<_> = (0..8)
            .map(|_| {
                let (digests, file) = (digests.clone(), File::open(&path).unwrap());
                std::thread::spawn(move || digests.md5(&file).unwrap())
            })
            .map(|thread| thread.join().unwrap())
            .collect();
        assert!(sums.iter().all(|sum| *sum == Md5Sum::of(&content)));
        assert_eq!(digests.known().sums.len(), 1);
    }
}
