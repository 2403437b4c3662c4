//! What is in one folder, in order of the names, in little more than four bytes each.
//!
//! New entries go into a short sorted list of their own, which is merged into the long one when it is full; so a folder
//! of a million files can be filled in any order without moving all of them for each.

use std::cmp::Ordering;

use super::Id;

/// The entries of a folder.
#[derive(Debug, Default)]
pub(super) struct Children {
    sorted: Vec<Id>,
    recent: Vec<Id>,
}

/// A place between the entries of a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    sorted: usize,
    recent: usize,
}

/// How the name of an entry stands to the one that is looked for.
type Compare<'a> = &'a dyn Fn(Id) -> Ordering;

impl Children {
    /// Most entries of the short list.
    const RECENT_MAX: usize = 1024;

    /// The entry that is looked for.
    pub(super) fn find(&self, compare: Compare<'_>) -> Option<Id> {
        // What is put in order comes behind all others.
        let is_behind = |ids: &[Id]| ids.last().is_none_or(|last| compare(*last) == Ordering::Less);
        if is_behind(&self.sorted) && is_behind(&self.recent) {
            return None;
        }
        let search = |ids: &[Id]| ids.binary_search_by(|id| compare(*id)).ok().map(|place| ids[place]);
        search(&self.sorted).or_else(|| search(&self.recent))
    }

    /// Adds an entry that is not there yet. `name_order` compares the names of two entries.
    pub(super) fn insert(&mut self, id: Id, compare: Compare<'_>, name_order: &dyn Fn(Id, Id) -> Ordering) {
        let is_last = |ids: &[Id]| ids.last().is_none_or(|last| compare(*last) == Ordering::Less);
        if self.recent.is_empty() && is_last(&self.sorted) {
            return self.sorted.push(id);
        }
        let place = self.recent.partition_point(|other| compare(*other) == Ordering::Less);
        self.recent.insert(place, id);
        if self.recent.len() >= Self::RECENT_MAX.min(self.sorted.len().max(16)) {
            self.merge(name_order);
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, compare: Compare<'_>) {
        for ids in [&mut self.sorted, &mut self.recent] {
            if let Ok(place) = ids.binary_search_by(|id| compare(*id)) {
                ids.remove(place);
            }
        }
    }

    /// Takes out those that are not to be kept.
    pub(super) fn retain(&mut self, keep: &mut dyn FnMut(Id) -> bool) {
        self.sorted.retain(|id| keep(*id));
        self.recent.retain(|id| keep(*id));
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Id> {
        self.sorted.iter().chain(&self.recent).copied()
    }

    /// Before the first entry.
    pub(super) fn begin(&self) -> Position {
        Position { sorted: 0, recent: 0 }
    }

    /// Before the first entry whose name is greater.
    pub(super) fn after(&self, compare: Compare<'_>) -> Position {
        let place = |ids: &[Id]| ids.partition_point(|id| compare(*id) != Ordering::Greater);
        Position { sorted: place(&self.sorted), recent: place(&self.recent) }
    }

    /// The entry at a position, and the position behind it.
    pub(super) fn next(
        &self,
        at: Position,
        name_order: &dyn Fn(Id, Id) -> Ordering,
    ) -> Option<(Id, Position)> {
        let (sorted, recent) = (self.sorted.get(at.sorted), self.recent.get(at.recent));
        let from_recent = match (sorted, recent) {
            (Some(a), Some(b)) => name_order(*b, *a) == Ordering::Less,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if from_recent {
            recent.map(|id| (*id, Position { recent: at.recent + 1, ..at }))
        } else {
            sorted.map(|id| (*id, Position { sorted: at.sorted + 1, ..at }))
        }
    }

    /// From the back, so that what is moved is moved in long runs, and once.
    fn merge(&mut self, name_order: &dyn Fn(Id, Id) -> Ordering) {
        let mut end = self.sorted.len();
        self.sorted.resize(end + self.recent.len(), Id::ROOT);
        let mut hole = self.sorted.len();
        while let Some(id) = self.recent.pop() {
            let place = self.sorted[..end].partition_point(|other| name_order(*other, id) == Ordering::Less);
            self.sorted.copy_within(place..end, hole - (end - place));
            hole -= end - place + 1;
            self.sorted[hole] = id;
            end = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_sorted_set(numbers in prop::collection::vec((0u32..5000, 0u8..5), 0..4000)) {
            let (mut children, mut model) = (Children::default(), BTreeSet::new());
            let order = |a: Id, b: Id| a.0.cmp(&b.0);
            for (number, what) in numbers {
                let compare = |other: Id| other.0.cmp(&number);
                prop_assert_eq!(children.find(&compare).is_some(), model.contains(&number));
                if what == 0 {
                    children.remove(&compare);
                    model.remove(&number);
                } else if model.insert(number) {
                    children.insert(Id(number), &compare, &order);
                }
            }
            children.retain(&mut |id| id.0 % 7 != 0);
            model.retain(|number| number % 7 != 0);
            let from = |mut at| std::iter::from_fn(|| {
                let (id, next) = children.next(at, &order)?;
                at = next;
                Some(id.0)
            }).collect::<Vec<u32>>();
            prop_assert_eq!(from(children.begin()), model.iter().copied().collect::<Vec<_>>());
            let behind: Vec<u32> = model.range(2501..).copied().collect();
            prop_assert_eq!(from(children.after(&|id| id.0.cmp(&2500))), behind);
        }
    }
}
