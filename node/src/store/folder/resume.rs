//! What an earlier run left, and what of it counts.
//!
//! The journal is bound to the bytes of the folder and to the files that are wanted of it. A record says of a piece: what
//! it has of the wanted files is in the staging folder, and on the disk. A hint says: it was verified and written. What is
//! hinted is looked at: a small file is proved by its root in the manifest, a piece of a large one by the hash in the hint.
//!
//! Where the journal is for something else (another selection, another state of the target, another version of the
//! folder), what lies in the staging folder is hashed, and stays as far as it is right.

use std::io;

use ftx_proto::chunk_set::{ChunkMask, PieceSet};
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{Geometry, PIECE_CHUNKS, PieceIndex, Segment};
use ftx_proto::limits::RUN_CHUNKS_MAX;
use ftx_proto::merkle::piece_hash;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

use super::staging::{Staging, Survey};
use crate::hash;
use crate::store::journal::{Claims, Journal};
use crate::store::part::Lock;

/// The journal, and the pieces that it vouches for.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) journal: Journal,
    pub(super) pieces: PieceSet,
    /// Whether the journal was for this.
    pub(super) is_ours: bool,
}

/// What a journal is for: the bytes of a folder, and which of its files are wanted.
pub(super) fn binding(data_root: Root, wanted: &[bool]) -> Root {
    let mut hasher = Sha256::new();
    hasher.update(b"ftx wanted files 1\0");
    hasher.update(data_root.0);
    let bytes: Vec<u8> = wanted.iter().map(|wanted| u8::from(*wanted)).collect();
    hasher.update(bytes);
    Root(hasher.finalize().into())
}

/// The journal in `lock`, if it is for this; else an empty one. Before anything in the staging folder is changed.
pub(super) fn read(lock: &Lock, geometry: &Geometry, root: Root) -> io::Result<(Journal, Option<Claims>)> {
    match Journal::read(lock.file(), geometry, root)? {
        Some((journal, claims)) => Ok((journal, Some(claims))),
        None => Ok((Journal::create(lock.file(), geometry, root)?, None)),
    }
}

/// What a journal and the staging folder both vouch for. What was only hinted is synced and recorded.
pub(super) fn check(
    (journal, claims): (Journal, Option<Claims>),
    lock: &Lock,
    root: Root,
    staging: &Staging,
    survey: &Survey,
    wanted: &[bool],
    geometry: &Geometry,
) -> io::Result<Resumed> {
    let Some(claims) = claims else {
        let pieces = PieceSet::empty(geometry.clone());
        return Ok(Resumed { journal, pieces, is_ours: false });
    };
    let is_there = |piece| {
        let mut segments = geometry.segments(geometry.span_of(piece));
        segments.all(|segment| !wanted[segment.file] || survey.is_there[segment.file])
    };
    let mut pieces = PieceSet::empty(geometry.clone());
    for piece in claims.synced.iter().filter(|piece| is_there(*piece)) {
        pieces.insert(piece);
    }
    let is_whole = pieces.count() == claims.synced.count();
    let mut proved = PieceSet::empty(geometry.clone());
    for (piece, hash) in claims.hints {
        let is_news = !pieces.contains(piece) && is_there(piece);
        if is_news && is_right(staging, geometry, wanted, piece, hash) {
            let segments = geometry.segments(geometry.span_of(piece));
            segments.filter(|segment| wanted[segment.file]).for_each(|segment| {
                staging.touched(segment.file);
                staging.new_name(staging.file(segment.file).0);
            });
            proved.insert(piece);
            pieces.insert(piece);
        }
    }
    if !proved.is_empty() {
        // From here on they are as good as any other. If we are killed before that, the hints are still there.
        staging.sync()?;
    }
    let journal = if is_whole {
        journal
    } else {
        // What is missing will be there again in a moment; claims about it must be gone before that.
        let journal = Journal::create(lock.file(), geometry, root)?;
        journal.append(&pieces.ranges())?;
        journal
    };
    if is_whole && !proved.is_empty() {
        journal.append(&proved.ranges())?;
    }
    journal.forget_hints()?;
    Ok(Resumed { journal, pieces, is_ours: true })
}

/// Whether what is wanted of a piece is there. What cannot be read is fetched again.
fn is_right(
    staging: &Staging,
    geometry: &Geometry,
    wanted: &[bool],
    piece: PieceIndex,
    hash: Digest,
) -> bool {
    let mut segments = geometry.segments(geometry.span_of(piece));
    segments.all(|segment| {
        !wanted[segment.file]
            || leaves_of(staging, &segment).is_some_and(|leaves| proves(geometry, &segment, &leaves, hash))
    })
}

/// Whether these are the right leaves of a part of a file; `hash` is that of its piece.
fn proves(geometry: &Geometry, segment: &Segment, leaves: &[Digest], hash: Digest) -> bool {
    if !segment.is_small {
        return piece_hash(geometry, segment.span.first().piece(), leaves) == hash;
    }
    let file = geometry.folder().and_then(|folder| folder.files().get(segment.file));
    let Some((file, alone)) = file.and_then(|file| Some((file, Geometry::new(file.size()).ok()?))) else {
        return false;
    };
    alone.piece(0).is_some_and(|piece| piece_hash(&alone, piece, leaves).0 == file.root().0)
}

fn leaves_of(staging: &Staging, segment: &Segment) -> Option<Vec<Digest>> {
    let mut leaves = Vec::with_capacity(segment.span.count() as usize);
    let mut bytes = vec![0; (segment.bytes.end - segment.bytes.start) as usize];
    staging.read_at(segment.file, segment.bytes.start, &mut bytes).ok()?;
    let run = RUN_CHUNKS_MAX as usize * ftx_proto::geometry::CHUNK_SIZE as usize;
    bytes.chunks(run).for_each(|bytes| hash::leaves(bytes, &mut leaves));
    Some(leaves)
}

/// What is known of a file of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is not to be fetched: nobody asked for it, or the target has it.
    NotWanted,
    /// It is in the staging folder, whole and right.
    Settled,
    /// Pieces of it are missing, as far as the journal does not have them.
    Open,
    /// It is not to be fetched: it will be, or is, a copy of another one that is wanted.
    Twin,
}

/// What follows from what is known of the files.
#[derive(Debug)]
pub(super) struct Plan {
    /// Pieces that are here and were not claimed.
    pub(super) added: PieceSet,
    /// Chunks that need not be fetched.
    pub(super) skipped: BTreeMap<PieceIndex, ChunkMask>,
    /// Pieces of which all that is skipped can be read, now or when what it is a copy of is here.
    pub(super) spared: PieceSet,
}

/// Adds to the pieces that are here those of which everything wanted is, and returns what need not be fetched of each.
pub(super) fn plan(geometry: &Geometry, states: &[State], have: &mut PieceSet) -> Plan {
    let (mut added, mut skipped) = (PieceSet::empty(geometry.clone()), BTreeMap::new());
    let mut spared = added.clone();
    for piece in geometry.pieces() {
        let (mut not_wanted, mut settled, mut twins) = (ChunkMask::EMPTY, ChunkMask::EMPTY, ChunkMask::EMPTY);
        let mut is_open = false;
        for segment in geometry.segments(geometry.span_of(piece)) {
            match states[segment.file] {
                State::NotWanted => not_wanted = not_wanted.union(ChunkMask::of(segment.span)),
                State::Settled => settled = settled.union(ChunkMask::of(segment.span)),
                State::Open => is_open = true,
                State::Twin => twins = twins.union(ChunkMask::of(segment.span)),
            }
        }
        if not_wanted.is_empty() && (is_open || !settled.is_empty()) {
            spared.insert(piece);
        }
        not_wanted = not_wanted.union(twins);
        let is_here = have.contains(piece) || !is_open;
        if !is_here {
            not_wanted = not_wanted.union(settled);
        } else if !settled.is_empty() && have.insert(piece) {
            added.insert(piece);
        }
        if !not_wanted.is_empty() {
            skipped.insert(piece, not_wanted);
        }
    }
    Plan { added, skipped, spared }
}

const _: () = assert!(PIECE_CHUNKS.is_multiple_of(RUN_CHUNKS_MAX));
