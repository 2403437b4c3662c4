//! A bounded table that knows which of its entries was touched longest ago.

use std::collections::BTreeMap;

use crate::time::Time;

/// Entries by key, and by when they were last touched. At its bound, the one that was touched longest ago makes room.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    bound: usize,
    entries: BTreeMap<K, Entry<V>>,
    /// One for each entry: when it was touched, and in which order among those of the same moment.
    order: BTreeMap<(Time, u64), K>,
    touches: u64,
}

#[derive(Debug)]
struct Entry<V> {
    touched: (Time, u64),
    value: V,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// An empty table for at most `bound` entries.
    pub(super) fn new(bound: usize) -> Self {
        Recent { bound, entries: BTreeMap::new(), order: BTreeMap::new(), touches: 0 }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry of `key`.
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Sets the entry of `key`, touched `now`. Returns the entry that had to make room.
    pub(super) fn insert(&mut self, now: Time, key: K, value: V) -> Option<(K, V)> {
        self.remove(&key);
        let evicted = if self.entries.len() >= self.bound { self.pop_oldest() } else { None };
        self.touches += 1;
        let touched = (now, self.touches);
        self.order.insert(touched, key.clone());
        self.entries.insert(key, Entry { touched, value });
        evicted
    }

    /// Takes the entry of `key` out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.touched);
        Some(entry.value)
    }

    /// When the entry that was touched longest ago was.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.order.first_key_value().map(|((time, _), _)| *time)
    }

    /// Takes one entry out that was last touched at `limit` or before.
    pub(super) fn pop_until(&mut self, limit: Time) -> Option<(K, V)> {
        if self.oldest()? <= limit { self.pop_oldest() } else { None }
    }

    /// All entries, in order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// The keys from `first` on, in order.
    pub(super) fn keys_from(&self, first: K) -> impl Iterator<Item = &K> {
        self.entries.range(first..).map(|(key, _)| key)
    }

    fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let entry = self.entries.remove(&key)?;
        Some((key, entry.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Time {
        Time::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn the_entry_untouched_for_longest_makes_room() {
        let mut table = Recent::new(2);
        assert_eq!(table.insert(at(0), 'a', 1), None);
        assert_eq!(table.insert(at(0), 'b', 2), None);
        assert_eq!(table.insert(at(1), 'a', 3), None);
        assert_eq!(table.insert(at(2), 'c', 4), Some(('b', 2)));
        assert_eq!((table.len(), table.oldest(), table.peek(&'a')), (2, Some(at(1)), Some(&3)));
    }

    #[test]
    fn entries_leave_when_their_time_is_over() {
        let mut table = Recent::new(3);
        table.insert(at(5), 'a', ());
        table.insert(at(3), 'b', ());
        assert_eq!(table.pop_until(at(2)), None);
        assert_eq!(table.pop_until(at(5)), Some(('b', ())));
        assert_eq!(table.remove(&'a'), Some(()));
        assert_eq!((table.pop_until(at(9)), table.oldest(), table.len()), (None, None, 0));
    }
}
