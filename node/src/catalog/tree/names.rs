//! The names of all entries, one behind the other: a byte for the length, then the name.
//!
//! A million small allocations would take more than the names themselves. What is not used any more stays where it is
//! until half of everything is such; then the tree has the rest moved together.

/// Where a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameAt(u32);

/// The names.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    unused: usize,
}

impl Names {
    /// Less than this is not worth moving together.
    const UNUSED_MIN: usize = 1 << 16;

    /// Keeps a name of at most 255 bytes. None if it is longer, or there is no more room.
    pub(super) fn add(&mut self, name: &str) -> Option<NameAt> {
        let at = u32::try_from(self.bytes.len()).ok()?;
        self.bytes.push(u8::try_from(name.len()).ok()?);
        self.bytes.extend_from_slice(name.as_bytes());
        Some(NameAt(at))
    }

    /// The name that is there, in UTF-8.
    pub(super) fn bytes(&self, at: NameAt) -> &[u8] {
        let begin = at.0 as usize + 1;
        &self.bytes[begin..begin + usize::from(self.bytes[begin - 1])]
    }

    /// The name is not used any more.
    pub(super) fn release(&mut self, at: NameAt) {
        self.unused += self.bytes(at).len() + 1;
    }

    /// Whether moving together is worth it.
    pub(super) fn is_wasteful(&self) -> bool {
        self.unused > Self::UNUSED_MIN && self.unused > self.bytes.len() / 2
    }

    /// Keeps those names only that are in use, and tells each of them its new place.
    pub(super) fn compact<'a>(&mut self, used: impl Iterator<Item = &'a mut NameAt>) {
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.unused);
        for at in used {
            let place = bytes.len() as u32;
            let begin = at.0 as usize;
            bytes.extend_from_slice(&self.bytes[begin..=begin + usize::from(self.bytes[begin])]);
            *at = NameAt(place);
        }
        *self = Names { bytes, unused: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_survives_moving_together() {
        let mut names = Names::default();
        let mut all: Vec<NameAt> = (0..20_000).map(|n| names.add(&format!("name {n}")).unwrap()).collect();
        assert!(names.add(&"x".repeat(256)).is_none());
        all.drain(..15_000).for_each(|at| names.release(at));
        assert!(names.is_wasteful());
        let before = names.bytes.len();
        names.compact(all.iter_mut());
        assert!(names.bytes.len() < before / 2 && !names.is_wasteful());
        for (number, at) in all.iter().enumerate() {
            assert_eq!(names.bytes(*at), format!("name {}", number + 15_000).as_bytes());
        }
    }
}
