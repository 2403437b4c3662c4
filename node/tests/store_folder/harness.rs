//! A place for a target, and fetching into it as a fetch does, without a network.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use ftx_node::store::{FolderOptions, FolderPart, Opened, Part, StoreError, Target};
use ftx_proto::chunk_set::ChunkMask;
use ftx_proto::geometry::{CHUNK_SIZE, PIECE_SIZE, PieceIndex, Span};

use crate::folder_support::{Model, Node, noise};

pub(crate) const MTIME: (i64, u32) = (1_000_000_007, 5);
pub(crate) const CHUNK: usize = CHUNK_SIZE as usize;
pub(crate) const PIECE: usize = PIECE_SIZE as usize;

/// A place for a target, and a place for what is remembered of it.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("here")).unwrap();
        Place { folder }
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.folder.path().join("here/tree")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.path().join("here/.tree.ftx-part")
    }

    pub(crate) fn options(&self) -> FolderOptions {
        let records = Some(self.folder.path().join("records"));
        FolderOptions { links: true, records, ..FolderOptions::default() }
    }

    pub(crate) fn open_with(&self, model: &Model, options: FolderOptions) -> Result<Opened, StoreError> {
        let target = Target::new(&self.folder.path().join("here/"), &"tree".parse().unwrap());
        // A target that is there would be taken for the folder to put it into.
        let target = target.unwrap();
        assert_eq!(target.path(), self.target());
        FolderPart::open(target, model.manifest(), options)
    }

    pub(crate) fn open(&self, model: &Model) -> Opened {
        self.open_with(model, self.options()).unwrap()
    }

    /// Fetches all that is missing.
    pub(crate) fn get_with(&self, model: &Model, options: FolderOptions) -> Opened {
        let opened = self.open_with(model, options).unwrap();
        fetch(&opened, model, |_| true);
        opened.part.finish(MTIME, false, false).unwrap();
        assert_eq!(self.names(), ["tree"]);
        opened
    }

    pub(crate) fn get(&self, model: &Model) -> Opened {
        let opened = self.get_with(model, self.options());
        model.assert_at(&self.target());
        let metadata = fs::metadata(self.target()).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (MTIME.0, MTIME.1.into()));
        opened
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("here")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The spans that are to be fetched, each within one piece.
pub(crate) fn missing(opened: &Opened) -> Vec<Span> {
    let geometry = opened.part.geometry();
    let pieces = geometry.pieces().filter(|piece| !opened.have.contains(*piece));
    let spans = pieces.flat_map(|piece| {
        let skipped = opened.skipped.get(&piece).copied().unwrap_or_default();
        ChunkMask::of(geometry.span_of(piece)).without(skipped).spans(geometry, piece)
    });
    spans.collect()
}

/// Writes what is missing, as far as it is `wanted`. Returns the pieces that are whole by that.
pub(crate) fn fetch(opened: &Opened, model: &Model, wanted: impl Fn(PieceIndex) -> bool) -> Vec<PieceIndex> {
    let (geometry, bytes) = (opened.part.geometry(), model.bytes());
    let mut pieces = BTreeSet::new();
    for span in missing(opened).into_iter().filter(|span| wanted(span.first().piece())) {
        for run in span.runs(16) {
            let place = geometry.bytes_of(run);
            opened.part.write_at(place.start, &bytes[place.start as usize..place.end as usize]).unwrap();
        }
        pieces.insert(span.first().piece());
    }
    pieces.into_iter().collect()
}

pub(crate) fn missing_bytes(opened: &Opened) -> u64 {
    missing(opened).into_iter().map(|span| opened.part.geometry().len_of(span)).sum()
}

/// Files of all kinds and sizes.
pub(crate) fn example() -> Model {
    let model = Model::default()
        .file("a", noise(1, 10))
        .file("docs/empty", "")
        .file("docs/one", noise(2, CHUNK))
        .file("docs/two", noise(3, CHUNK + 1))
        .file("docs-b/x", noise(4, 100))
        .file("large", noise(5, 2 * PIECE + 77))
        .file("piece", noise(6, PIECE))
        .with("run.sh", Node::File(b"#!/bin/sh\n".to_vec(), true))
        .folder("deep/er/empty")
        .link("docs/link", "../a")
        .link("dangling", "nowhere");
    (0..40).fold(model, |model, number| {
        model.file(&format!("many/{number:02}/{number}"), noise(100 + number, 700 * number as usize + 1))
    })
}
