//! Older versions of files that are being fetched: bytes that may be right where they are.
//!
//! A file that only grew, or was changed in one place, has most of its chunks at their places in the version that is there.
//! Nobody knows which: they are read, and whoever reads them writes, hashes and judges them like what came from a source.
//!
//! Where it is a guess that a file is an older version, up to eight pieces of it are compared with the hashes that
//! they should have, and without one that is right it is left alone.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};
use ftx_proto::limits::RUN_CHUNKS_MAX;
use ftx_proto::merkle::PieceLayer;

use super::tree::Tree;
use crate::hash;
use crate::store::sparse;

/// Most pieces of a guess that are looked at.
const PROBES_MAX: usize = 8;

/// Runs of chunks that are on this machine already and may be right, in order. Blocks on the disk.
///
/// What is taken from it is to be landed as what arrives from a source, and told to the engine as
/// [`Input::Found`](ftx_proto::engine::fetch::Input::Found), once that knows the hashes of all pieces.
#[derive(Debug)]
pub struct Found {
    geometry: Geometry,
    have: PieceSet,
    files: VecDeque<OldFile>,
    layer: Option<Arc<PieceLayer>>,
    /// The file for which a guess was right.
    guessed: Option<usize>,
    /// Of the first file: the file, and the runs that are left.
    open: Option<(std::fs::File, VecDeque<Span>)>,
}

/// A run of chunks of one piece and one file, and their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    /// Which chunks.
    pub span: Span,
    /// Their bytes, as many as the span has.
    pub bytes: Vec<u8>,
}

/// An older version of a file.
#[derive(Debug)]
pub(super) struct OldFile {
    /// Number of the file.
    pub(super) number: usize,
    /// Bytes of the older version.
    pub(super) size: u64,
    pub(super) tree: Arc<Tree>,
    pub(super) path: PathBuf,
    /// Whether it is what is left of an earlier fetch, where zeros are what never came.
    pub(super) is_part: bool,
    /// Whether nothing says that it is an older version but its name or its size.
    pub(super) is_guess: bool,
}

impl Found {
    pub(super) fn new(geometry: Geometry, have: PieceSet, files: Vec<OldFile>) -> Self {
        Found { geometry, have, files: files.into(), layer: None, guessed: None, open: None }
    }

    /// The same with the hashes of all pieces, without which no guess is taken.
    pub fn judged_by(self, layer: Arc<PieceLayer>) -> Self {
        Found { layer: Some(layer), ..self }
    }

    /// Whether there is nothing older at all.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The runs of a file that its older version has all bytes for.
    fn runs_of(&self, old: &OldFile) -> VecDeque<Span> {
        let Some(file) = self.geometry.folder().and_then(|folder| folder.files().get(old.number)) else {
            return VecDeque::new();
        };
        let end = |span: Span| self.geometry.bytes_of(span).end - file.offset();
        file.span()
            .chunks()
            .filter(|chunk| !self.have.contains(chunk.piece()))
            .filter_map(|chunk| self.geometry.span(chunk.get(), 1))
            .filter(|chunk| end(*chunk) <= old.size)
            .fold(VecDeque::new(), |mut runs: VecDeque<Span>, chunk| {
                let longer = runs.back().filter(|run| {
                    run.end() == chunk.first().get()
                        && run.first().piece() == chunk.first().piece()
                        && run.count() < RUN_CHUNKS_MAX
                });
                match longer.and_then(|run| self.geometry.span(run.first().get(), run.count() + 1)) {
                    Some(run) => {
                        runs.pop_back();
                        runs.push_back(run);
                    }
                    None => runs.push_back(chunk),
                }
                runs
            })
    }

    /// Whether one of a few pieces, all over the file, is right. Zeros say nothing.
    fn is_right_somewhere(&self, old: &OldFile, from: &std::fs::File) -> bool {
        let file = self.geometry.folder().and_then(|folder| folder.files().get(old.number));
        let (Some(layer), Some(file)) = (&self.layer, file) else { return false };
        let end = |piece| self.geometry.bytes_of(self.geometry.span_of(piece)).end - file.offset();
        let pieces: Vec<PieceIndex> = file
            .span()
            .pieces()
            .filter(|piece| !self.have.contains(*piece) && end(*piece) <= old.size)
            .collect();
        let step = pieces.len().div_ceil(PROBES_MAX).max(1);
        let (mut bytes, mut leaves) = (Vec::new(), Vec::new());
        pieces.into_iter().step_by(step).any(|piece| {
            let span = self.geometry.span_of(piece);
            let place = self.geometry.bytes_of(span);
            bytes.resize((place.end - place.start) as usize, 0);
            leaves.clear();
            from.read_exact_at(&mut bytes, place.start - file.offset()).is_ok()
                && !sparse::is_zero(&bytes)
                && {
                    hash::leaves_of(&self.geometry, span, &bytes, &mut leaves);
                    layer.proves(piece, &leaves)
                }
        })
    }

    /// The next run of the file at the front; nothing at its end, or if it cannot be read any more.
    fn next_of_file(&mut self) -> Option<FoundRun> {
        let old = self.files.front()?;
        let (file, runs) = match &mut self.open {
            Some(open) => open,
            None => {
                let file = old.tree.open_file(&old.path).ok()?;
                if old.is_guess {
                    if self.guessed == Some(old.number) || !self.is_right_somewhere(old, &file) {
                        return None;
                    }
                    self.guessed = Some(old.number);
                }
                let runs = self.runs_of(old);
                self.open.insert((file, runs))
            }
        };
        let begin = self.geometry.folder()?.files().get(old.number)?.offset();
        while let Some(span) = runs.pop_front() {
            let place = self.geometry.bytes_of(span);
            let mut bytes = vec![0; (place.end - place.start) as usize];
            file.read_exact_at(&mut bytes, place.start - begin).ok()?;
            if !(old.is_part && sparse::is_zero(&bytes)) {
                return Some(FoundRun { span, bytes });
            }
        }
        None
    }
}

impl Iterator for Found {
    type Item = FoundRun;

    fn next(&mut self) -> Option<FoundRun> {
        while !self.files.is_empty() {
            if let Some(run) = self.next_of_file() {
                return Some(run);
            }
            self.files.pop_front();
            self.open = None;
        }
        None
    }
}
