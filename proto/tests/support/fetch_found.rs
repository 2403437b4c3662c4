//! An older copy of the content on the receiving machine: chunks of it are found there, right ones and wrong ones.

use std::time::Duration;

use ftx_proto::digest::Digest;
use ftx_proto::engine::fetch::Input;
use rand::RngExt;

use super::{Event, FOUND, World};

impl World {
    /// At this time the receiver looks at these chunks of an older copy, by their numbers, each with whether it is right.
    pub(crate) fn find(&mut self, at: Duration, chunks: Vec<(u32, bool)>) {
        self.at(at, Event::Found(chunks));
    }

    /// Nobody is asked for chunks until this time, at which the last older copy has been looked at.
    pub(crate) fn search_until(&mut self, at: Duration) {
        self.engine.search_first();
        self.searching = true;
        self.at(at, Event::Searched);
    }

    /// The receiver claims what is wanted and not claimed yet, writes it, and reports it in runs, some a little later.
    pub(super) fn found(&mut self, chunks: &[(u32, bool)]) {
        let mut runs: Vec<(u32, Vec<Digest>)> = Vec::new();
        for &(number, is_right) in chunks {
            let Some(chunk) = self.content.geometry.chunk(number) else { continue };
            let place = &mut self.written[number as usize];
            if place.is_some() || !self.content.is_wanted(chunk) {
                continue;
            }
            let leaf = if is_right { self.content.truth[number as usize] } else { Digest::of(b"older") };
            *place = Some((leaf, FOUND));
            match runs.last_mut() {
                // A run lies in one piece.
                Some((first, leaves)) if *first + leaves.len() as u32 == number && number % 64 != 0 => {
                    leaves.push(leaf);
                }
                _ => runs.push((number, vec![leaf])),
            }
        }
        for (first, leaves) in runs {
            let first = self.content.geometry.chunk(first).expect("what is found exists");
            let delay = Duration::from_millis(self.random.random_range(0..4) * 3);
            self.after(delay, Event::Report(Input::Found { first, leaves }));
        }
    }
}
