//! Striped TCP download: a request by HTTP, then N connections that carry a part of the file each.
//!
//! * [`control`]: the request as servers see it, and their replies;
//! * [`reply`]: the request as clients make it, and the replies as they see them;
//! * [`download`]: the client's order of events.
//!
//! Here is what both sides share: how a file is cut, and its MD5. The protocol never tells a client how long the file is;
//! only the end of the first part shows how long the parts are.

pub mod control;
pub mod download;
pub mod reply;

use std::fmt;
use std::num::NonZeroU8;
use std::ops::Range;
use std::str::FromStr;

/// How many parts a file is cut into: 1 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threads(NonZeroU8);

/// A number of parts that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a striped download has 1 to 255 threads")]
pub struct ThreadsError;

impl Threads {
    /// So many threads.
    pub fn new(count: u64) -> Result<Self, ThreadsError> {
        let count = u8::try_from(count).map_err(|_| ThreadsError)?;
        NonZeroU8::new(count).map(Threads).ok_or(ThreadsError)
    }

    /// How many they are.
    pub fn count(self) -> u8 {
        self.0.get()
    }

    /// The ids of the stripes: from 0, one less than the count is the last.
    pub fn ids(self) -> Range<u8> {
        0..self.0.get()
    }
}

/// The cut of a file of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripes {
    size: u64,
    threads: Threads,
}

impl Stripes {
    /// A file of `size` bytes in so many parts.
    pub fn new(size: u64, threads: Threads) -> Self {
        Stripes { size, threads }
    }

    /// How many parts there are.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// Bytes of every part but the last ones, which may be shorter or empty.
    pub fn part_size(&self) -> u64 {
        (self.size / u64::from(self.threads.count())).saturating_add(1)
    }

    /// Where in the file a part is; empty at the end of the file for an id that has none.
    pub fn range(&self, id: u8) -> Range<u64> {
        let start = u64::from(id).saturating_mul(self.part_size());
        let end = start.saturating_add(self.part_size());
        let within = id < self.threads.count();
        if within { start.min(self.size)..end.min(self.size) } else { self.size..self.size }
    }
}

/// The MD5 of a file: what this system compares. It protects from accidents only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Md5Hash(pub [u8; 16]);

impl fmt::Display for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Md5Hash({self})")
    }
}

/// A text that should be the 32 hex digits of an MD5, and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hex digits")]
pub struct ParseMd5Error;

impl FromStr for Md5Hash {
    type Err = ParseMd5Error;
    fn from_str(s: &str) -> Result<Self, ParseMd5Error> {
        if s.len() != 32 || !s.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseMd5Error);
        }
        let number = u128::from_str_radix(s, 16).map_err(|_| ParseMd5Error)?;
        Ok(Md5Hash(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn threads_are_1_to_255() {
        assert_eq!(Threads::new(255).unwrap().ids().last(), Some(254));
        for count in [0, 256, u64::MAX] {
            assert_eq!(Threads::new(count), Err(ThreadsError));
        }
    }

    #[test]
    fn hashes_are_lower_case_hex() {
        let hash: Md5Hash = "F8EF4167d946a455a1111eb2f3503d40".parse().unwrap();
        assert_eq!(hash.to_string(), "f8ef4167d946a455a1111eb2f3503d40");
        for wrong in
            ["", &"0".repeat(31), &"0".repeat(33), &"+".repeat(32), "+8ef4167d946a455a1111eb2f3503d40"]
        {
            assert_eq!(wrong.parse::<Md5Hash>(), Err(ParseMd5Error), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parts_cover_the_file_once(size in prop_oneof![0u64..2000, any::<u64>()], count in 1u64..=255) {
            let threads = Threads::new(count).unwrap();
            let stripes = Stripes::new(size, threads);
            let mut end = 0;
            for id in threads.ids() {
                let range = stripes.range(id);
                prop_assert_eq!(range.start, end);
                prop_assert!(range.end >= range.start && range.end - range.start <= stripes.part_size());
                end = range.end;
            }
            prop_assert_eq!(end, size);
            for id in threads.count()..=255 {
                prop_assert!(id < threads.count() || stripes.range(id).is_empty());
            }
        }
    }
}
