//! Files of one folder that have the same bytes: the first of them is fetched, the others are copies of it.
//!
//! Which ones are copies follows from what is wanted, so a later run finds the same ones, and the journal speaks of the
//! others only. They are made at the end, when what they are copies of is verified and before anything has its final
//! name; one that a killed run made is hashed before it counts. Until then whoever reads one is given the bytes of the other.

use std::collections::HashMap;

use ftx_proto::geometry::FileCut;

/// The copies, in the order of the files.
#[derive(Debug, Default)]
pub(super) struct Twins(Vec<Twin>);

/// A file that is a copy of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Twin {
    /// Number of the file.
    pub(super) number: usize,
    /// Number of the file that it is a copy of, which is none itself.
    pub(super) first: usize,
    /// Whether it is made already, and right.
    pub(super) is_there: bool,
}

impl Twins {
    /// The copies among the files that are wanted.
    pub(super) fn find(files: &[FileCut], wanted: &[bool]) -> Self {
        let mut firsts = HashMap::new();
        let wanted = files.iter().enumerate().filter(|(number, _)| wanted[*number]);
        let twins = wanted.filter_map(|(number, file)| {
            let first = *firsts.entry((file.root(), file.size())).or_insert(number);
            (first != number).then_some(Twin { number, first, is_there: false })
        });
        Twins(twins.collect())
    }

    /// What a file is a copy of, if it is one.
    pub(super) fn first_of(&self, number: usize) -> Option<usize> {
        let place = self.0.binary_search_by_key(&number, |twin| twin.number).ok()?;
        self.0.get(place).map(|twin| twin.first)
    }

    /// Remembers that a copy is made already.
    pub(super) fn is_there(&mut self, number: usize) {
        if let Ok(place) = self.0.binary_search_by_key(&number, |twin| twin.number) {
            self.0[place].is_there = true;
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Twin> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use ftx_proto::digest::Root;
    use ftx_proto::geometry::Geometry;

    use super::*;

    #[test]
    fn the_first_that_is_wanted_is_fetched_and_the_others_are_copies() {
        let files = [(5, 1), (5, 2), (5, 1), (6, 1), (5, 2), (5, 1)];
        let files = files.map(|(size, root)| (size, Root([root; 32])));
        let geometry = Geometry::of_folder(Root([9; 32]), files).unwrap();
        let files = geometry.folder().unwrap().files();
        let mut twins = Twins::find(files, &[false, true, true, true, true, true]);
        let copies = |twins: &Twins| twins.iter().map(|twin| (twin.number, twin.first)).collect::<Vec<_>>();
        assert_eq!(copies(&twins), [(4, 1), (5, 2)]);
        assert_eq!((twins.first_of(5), twins.first_of(2), twins.first_of(0)), (Some(2), None, None));
        twins.is_there(5);
        twins.is_there(3);
        assert_eq!(twins.iter().map(|twin| twin.is_there).collect::<Vec<_>>(), [false, true]);
    }
}
