//! Which chunks of a file are in: a bitmap with its count.

/// A set of chunk numbers below a length.
#[derive(Debug, Clone, Default)]
pub(super) struct Received {
    words: Vec<u64>,
    chunks: u32,
    count: u32,
}

impl Received {
    /// None of `chunks` is in. Zeroed pages cost nothing before they are touched, so a server that announces a file of
    /// 4 TiB has to send one to use up memory.
    pub(super) fn none(chunks: u32) -> Self {
        Received { words: vec![0; chunks.div_ceil(64) as usize], chunks, count: 0 }
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Puts a number in; `true` if it was missing. One beyond the end is not missing.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        let missing = number < self.chunks && !self.contains(number);
        if let (true, Some(word)) = (missing, self.words.get_mut(number as usize / 64)) {
            *word |= 1 << (number % 64);
            self.count += 1;
        }
        missing
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_missing_once() {
        let mut received = Received::none(130);
        for number in [0, 63, 64, 129] {
            assert!(received.insert(number) && !received.insert(number) && received.contains(number));
        }
        assert!(!received.insert(130) && !received.insert(u32::MAX) && !received.contains(u32::MAX));
        assert_eq!(received.count(), 4);
        assert!((0..130).filter(|&number| received.insert(number)).count() == 126 && received.is_full());
        assert!(Received::none(0).is_full() && !Received::none(u32::MAX).is_full());
    }
}
