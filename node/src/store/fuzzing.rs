//! What fuzz targets try of the store.

use std::collections::BTreeSet;

use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{Geometry, PIECE_SIZE};

use super::journal::Journal;
use crate::fuzzing::{Bytes, damage, memory_file};

/// A journal to which things are said, which is damaged and read again, in any order: it never claims what was not said
/// to it, and forgets nothing as long as nothing was damaged.
pub fn journal(data: &[u8]) {
    let (geometry, root) = (Geometry::new(200 * PIECE_SIZE - 1).expect("not too large"), Root([9; 32]));
    let hash = |piece: u32| Digest([piece as u8; 32]);
    let file = memory_file();
    let mut journal = Journal::create(&file, &geometry, root).expect("memory");
    // What was ever said, and what was said and not damaged since.
    let (mut said, mut hinted) = (BTreeSet::new(), BTreeSet::new());
    let (mut here, mut is_damaged) = (BTreeSet::new(), false);
    let mut bytes = Bytes(data);
    while let Some(operation) = bytes.next() {
        match operation % 8 {
            0 | 1 => {
                let mut end = 0;
                let ranges: Vec<_> = (0..=operation / 64)
                    .map(|_| bytes.take())
                    .map_while(|[gap, len]: [u8; 2]| {
                        let start = end + 1 + u32::from(gap % 16);
                        end = start + 1 + u32::from(len % 32);
                        (end <= geometry.piece_count()).then_some(start..end)
                    })
                    .collect();
                journal.append(&ranges).expect("memory");
                said.extend(ranges.iter().cloned().flatten());
                here.extend(ranges.into_iter().flatten());
            }
            2 | 3 => {
                let hints = bytes.take::<2>().map(|piece| u32::from(piece) % geometry.piece_count());
                let pieces = hints.map(|piece| geometry.piece(piece).expect("there is one"));
                journal.hint(&pieces.map(|piece| (piece, hash(piece.get())))).expect("memory");
                hinted.extend(hints);
            }
            4 => journal.forget_hints().expect("memory"),
            5 | 6 => {
                is_damaged = true;
                damage(&file, bytes.take()).expect("memory");
            }
            _ => match Journal::read(&file, &geometry, root).expect("memory") {
                Some((again, claims)) => {
                    journal = again;
                    let synced: BTreeSet<u32> = claims.synced.iter().map(|piece| piece.get()).collect();
                    assert!(synced.is_subset(&said));
                    // Records behind a damaged one count again once that is overwritten: they are as true as ever.
                    assert!(is_damaged || here.is_subset(&synced), "it forgets");
                    for (piece, digest) in claims.hints {
                        assert!(hinted.contains(&piece.get()) && digest == hash(piece.get()));
                    }
                    (here, is_damaged) = (synced, false);
                }
                None => {
                    assert!(is_damaged);
                    journal = Journal::create(&file, &geometry, root).expect("memory");
                    (said, hinted, here, is_damaged) = Default::default();
                }
            },
        }
    }
}
