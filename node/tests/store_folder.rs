//! A fetched folder from its first byte to its final names, with everything that comes in between.

mod folder_support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use folder_support::{Model, Node, any_model, layer_of_folder, noise};
use ftx_node::store::{FolderOptions, FolderPart, Opened, Part, Selection, StoreError, Target};
use ftx_proto::chunk_set::ChunkMask;
use ftx_proto::geometry::{CHUNK_SIZE, PIECE_SIZE, PieceIndex, Span};
use proptest::prelude::*;

const MTIME: (i64, u32) = (1_000_000_007, 5);
const CHUNK: usize = CHUNK_SIZE as usize;
const PIECE: usize = PIECE_SIZE as usize;

/// A place for a target, and a place for what is remembered of it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("here")).unwrap();
        Place { folder }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("here/tree")
    }

    fn staging(&self) -> PathBuf {
        self.folder.path().join("here/.tree.ftx-part")
    }

    fn options(&self) -> FolderOptions {
        let records = Some(self.folder.path().join("records"));
        FolderOptions { links: true, records, ..FolderOptions::default() }
    }

    fn open_with(&self, model: &Model, options: FolderOptions) -> Result<Opened, StoreError> {
        let target = Target::new(&self.folder.path().join("here/"), &"tree".parse().unwrap());
        // A target that is there would be taken for the folder to put it into.
        let target = target.unwrap();
        assert_eq!(target.path(), self.target());
        FolderPart::open(target, model.manifest(), options)
    }

    fn open(&self, model: &Model) -> Opened {
        self.open_with(model, self.options()).unwrap()
    }

    /// Fetches all that is missing.
    fn get_with(&self, model: &Model, options: FolderOptions) -> Opened {
        let opened = self.open_with(model, options).unwrap();
        fetch(&opened, model, |_| true);
        opened.part.finish(MTIME, false, false).unwrap();
        assert_eq!(self.names(), ["tree"]);
        opened
    }

    fn get(&self, model: &Model) -> Opened {
        let opened = self.get_with(model, self.options());
        model.assert_at(&self.target());
        let metadata = fs::metadata(self.target()).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (MTIME.0, MTIME.1.into()));
        opened
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("here")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The spans that are to be fetched, each within one piece.
fn missing(opened: &Opened) -> Vec<Span> {
    let geometry = opened.part.geometry();
    let pieces = geometry.pieces().filter(|piece| !opened.have.contains(*piece));
    let spans = pieces.flat_map(|piece| {
        let skipped = opened.skipped.get(&piece).copied().unwrap_or_default();
        ChunkMask::of(geometry.span_of(piece)).without(skipped).spans(geometry, piece)
    });
    spans.collect()
}

/// Writes what is missing, as far as it is `wanted`. Returns the pieces that are whole by that.
fn fetch(opened: &Opened, model: &Model, wanted: impl Fn(PieceIndex) -> bool) -> Vec<PieceIndex> {
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

fn missing_bytes(opened: &Opened) -> u64 {
    missing(opened).into_iter().map(|span| opened.part.geometry().len_of(span)).sum()
}

/// Files of all kinds and sizes.
fn example() -> Model {
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

#[test]
fn a_new_folder_has_everything() {
    let (place, model) = (Place::new(), example());
    let opened = place.get(&model);
    assert!(opened.have.is_empty() && opened.skipped.is_empty() && opened.found.is_empty());
    assert_eq!(opened.summary.missing.bytes, model.bytes().len() as u64);
    assert_eq!(opened.summary.missing.files + 1, opened.summary.selected.files, "all but the empty one");
    let mode = |path: &str| fs::metadata(place.target().join(path)).unwrap().permissions().mode() & 0o111;
    assert!(mode("run.sh") != 0 && mode("a") == 0);
    // What is finished can be read on through the same handle.
    let mut buffer = vec![0; 10];
    opened.part.read_at(0, &mut buffer).unwrap();
    assert_eq!(buffer, noise(1, 10));
}

#[test]
fn a_folder_without_bytes_is_made() {
    for model in [Model::default(), Model::default().folder("a/b").file("c", "").link("d", "c")] {
        let place = Place::new();
        let opened = place.get(&model);
        assert!(opened.have.is_full() && opened.have.is_empty());
    }
}

#[test]
fn nothing_changed_again_touches_no_file() {
    let (place, model) = (Place::new(), example());
    place.get(&model);
    let inode = |path: &str| fs::metadata(place.target().join(path)).unwrap().ino();
    let before = (inode("large"), inode("many/07/7"));
    let opened = place.get(&model);
    assert_eq!(missing_bytes(&opened), 0);
    assert_eq!(opened.summary.same, opened.summary.selected);
    assert_eq!((inode("large"), inode("many/07/7")), before, "not touched");
}

#[test]
fn what_is_remembered_is_believed_only_for_unchanged_files() {
    let (place, model) = (Place::new(), example());
    place.get(&model);
    // The same size, the same time: what tells is the time of the change of the file itself.
    let path = place.target().join("docs/two");
    let metadata = fs::metadata(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[5] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
    let opened = place.open(&model);
    assert_eq!(opened.summary.missing.files, 1);
    assert!(missing_bytes(&opened) >= CHUNK as u64);
    drop(opened);
    place.get(&model);
    // And without any record.
    fs::remove_dir_all(place.folder.path().join("records")).unwrap();
    let opened = place.get(&model);
    assert_eq!(opened.summary.same, opened.summary.selected);
}

#[test]
fn an_interrupted_fetch_goes_on_with_what_was_committed_or_noted() {
    let (place, model) = (Place::new(), example());
    let bytes = model.bytes();
    let layer = layer_of_folder(&model.manifest(), &bytes);
    let opened = place.open(&model);
    let count = opened.part.geometry().piece_count();
    assert!(count > 5);
    let written = fetch(&opened, &model, |piece| piece.get() != 1);
    let (committed, noted) = written.split_at(2);
    opened.part.commit(committed).unwrap();
    let hash = |piece: &PieceIndex| (*piece, layer.hashes()[piece.get() as usize]);
    opened.part.note(&noted.iter().map(hash).collect::<Vec<_>>()).unwrap();
    drop(opened);
    assert!(!place.target().exists());
    // Twice: taken over for good.
    for _ in 0..2 {
        let opened = place.open(&model);
        let lost: Vec<u32> = opened
            .part
            .geometry()
            .pieces()
            .filter(|p| !opened.have.contains(*p))
            .map(PieceIndex::get)
            .collect();
        assert_eq!(lost, [1]);
        let piece = opened.part.geometry().piece(1).unwrap();
        assert_eq!(
            missing_bytes(&opened),
            opened.part.geometry().len_of(opened.part.geometry().span_of(piece))
        );
    }
    place.get(&model);
}

#[test]
fn a_hint_is_not_believed() {
    let (place, model) = (Place::new(), example());
    let layer = layer_of_folder(&model.manifest(), &model.bytes());
    let opened = place.open(&model);
    let geometry = opened.part.geometry().clone();
    let pieces = fetch(&opened, &model, |_| true);
    // One byte of a small file and one of a large one are others than were verified.
    let small = geometry.span_of(geometry.piece(0).unwrap());
    let files = geometry.folder().unwrap().files();
    let large = files.iter().find(|file| file.is_large()).unwrap();
    for (offset, byte) in
        [(geometry.bytes_of(small).start, noise(1, 10)[0]), (large.offset() + 3, noise(5, 4)[3])]
    {
        opened.part.write_at(offset, &[byte ^ 1]).unwrap();
    }
    let hash = |piece: &PieceIndex| (*piece, layer.hashes()[piece.get() as usize]);
    opened.part.note(&pieces.iter().map(hash).collect::<Vec<_>>()).unwrap();
    drop(opened);
    let opened = place.open(&model);
    let lost: Vec<PieceIndex> = geometry.pieces().filter(|piece| !opened.have.contains(*piece)).collect();
    assert_eq!(lost, [geometry.piece(0).unwrap(), large.span().first().piece()]);
    // The right files of the first piece need not be fetched again.
    assert_eq!(missing(&opened)[0].count(), 1);
    drop(opened);
    place.get(&model);
}

#[test]
fn files_that_vanish_from_the_staging_folder_are_fetched_again() {
    let (place, model) = (Place::new(), example());
    let opened = place.open(&model);
    let pieces = fetch(&opened, &model, |_| true);
    opened.part.commit(&pieces).unwrap();
    drop(opened);
    fs::remove_file(place.staging().join("docs/two")).unwrap();
    fs::File::options().write(true).open(place.staging().join("large")).unwrap().set_len(5).unwrap();
    for _ in 0..2 {
        let opened = place.open(&model);
        assert_eq!(opened.summary.missing.files, 2, "those beside it are found right");
        assert!(missing_bytes(&opened) >= (2 * PIECE + CHUNK) as u64);
    }
    place.get(&model);
}

#[test]
fn what_somebody_put_into_the_staging_folder_does_not_reach_the_target() {
    let (place, model) = (Place::new(), example());
    let opened = place.open(&model);
    let pieces = fetch(&opened, &model, |piece| piece.get() < 2);
    opened.part.commit(&pieces).unwrap();
    drop(opened);
    let staging = place.staging();
    fs::write(staging.join("more"), "theirs").unwrap();
    fs::create_dir(staging.join("docs/more")).unwrap();
    symlink("/etc", staging.join("deep/etc")).unwrap();
    fs::remove_dir_all(staging.join("many")).unwrap();
    symlink("/tmp", staging.join("many")).unwrap();
    place.get(&model);
}

#[test]
fn another_version_starts_with_what_is_right() {
    let (place, model) = (Place::new(), example());
    let opened = place.open(&model);
    let pieces = fetch(&opened, &model, |_| true);
    opened.part.commit(&pieces).unwrap();
    drop(opened);
    let newer = model.without("docs/one").file("docs/two", noise(33, CHUNK + 1)).file("z", noise(9, 5));
    let opened = place.open(&newer);
    assert_eq!(missing_bytes(&opened), CHUNK as u64 + 1 + 5);
    let found: Vec<_> = opened.found.map(|run| run.bytes.len()).collect();
    assert_eq!(found, [CHUNK + 1], "the older one is offered");
    drop(opened.part);
    place.get(&newer);
}

#[test]
fn another_selection_keeps_what_is_right() {
    let (place, model) = (Place::new(), example());
    let options = |include: &[&str], exclude: &[&str]| FolderOptions {
        selection: Selection::new(include, exclude).unwrap(),
        ..place.options()
    };
    let opened = place.open_with(&model, options(&["docs", "large"], &[])).unwrap();
    assert_eq!(opened.summary.selected.files, 4);
    let pieces = fetch(&opened, &model, |_| true);
    assert!(opened.part.note(&[]).is_ok());
    opened.part.commit(&pieces).unwrap();
    let only = missing_bytes(&opened);
    assert_eq!(only, (2 * CHUNK + 1 + 2 * PIECE + 77) as u64);
    // What was not asked for and comes all the same is not written.
    opened.part.write_at(0, &[1; 10]).unwrap();
    drop(opened);
    assert!(!place.staging().join("a").exists());

    let opened = place.open_with(&model, options(&[], &["many"])).unwrap();
    assert_eq!(missing_bytes(&opened), (10 + 100 + PIECE + 10) as u64);
    fetch(&opened, &model, |_| true);
    opened.part.finish(MTIME, false, false).unwrap();
    model.clone().without("many").assert_at(&place.target());
    // The rest comes beside it.
    place.get(&model);
}

#[test]
fn pieces_of_which_only_some_files_are_wanted_are_noted_as_well() {
    let (place, model) = (Place::new(), example());
    let options =
        || FolderOptions { selection: Selection::new(["many"], ["many/0*"]).unwrap(), ..place.options() };
    let opened = place.open_with(&model, options()).unwrap();
    assert!(!opened.skipped.is_empty());
    let layer = layer_of_folder(&model.manifest(), &model.bytes());
    let pieces = fetch(&opened, &model, |_| true);
    let hash = |piece: &PieceIndex| (*piece, layer.hashes()[piece.get() as usize]);
    opened.part.note(&pieces.iter().map(hash).collect::<Vec<_>>()).unwrap();
    drop(opened);
    let opened = place.open_with(&model, options()).unwrap();
    assert!(pieces.iter().all(|piece| opened.have.contains(*piece)));
    assert_eq!(missing_bytes(&opened), 0);
    opened.part.finish(MTIME, false, false).unwrap();
    assert_eq!(fs::read_dir(place.target().join("many")).unwrap().count(), 30);
    assert!(!place.target().join("docs").exists());
}

#[test]
fn only_what_differs_is_fetched_into_a_target_that_is_there() {
    let (place, model) = (Place::new(), example());
    model.write(&place.target());
    let large = place.target().join("large");
    let mut bytes = noise(5, 2 * PIECE + 77);
    bytes[PIECE + 5] ^= 1;
    fs::write(&large, &bytes).unwrap();
    fs::set_permissions(&large, fs::Permissions::from_mode(0o640)).unwrap();
    fs::remove_file(place.target().join("docs/two")).unwrap();
    fs::remove_file(place.target().join("docs/link")).unwrap();
    symlink("elsewhere", place.target().join("docs/link")).unwrap();
    fs::remove_dir_all(place.target().join("many/03")).unwrap();
    fs::set_permissions(place.target().join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(place.target().join("own"), "not in the folder").unwrap();

    let opened = place.open(&model);
    let missing_len = (2 * PIECE + 77 + CHUNK + 1 + 2101) as u64;
    assert_eq!((opened.summary.missing.files, opened.summary.missing.bytes), (3, missing_len));
    assert_eq!(missing_bytes(&opened), missing_len);
    let pieces = fetch(&opened, &model, |_| true);
    opened.part.commit(&pieces).unwrap();
    assert_eq!(fs::read(&large).unwrap(), bytes, "nothing is changed before the end");
    assert_eq!(fs::read_link(place.target().join("docs/link")).unwrap(), Path::new("elsewhere"));
    opened.part.finish(MTIME, false, false).unwrap();
    assert_eq!(place.names(), ["tree"]);
    assert_eq!(fs::metadata(&large).unwrap().permissions().mode() & 0o777, 0o640, "as it was");
    fs::remove_file(place.target().join("own")).unwrap();
    // Its removal has changed the time of the folder, and nothing in it.
    model.assert_at(&place.target());
    // What moved to its place is still to be read.
    let file = opened.part.geometry().folder().unwrap().files().iter().find(|file| file.is_large()).unwrap();
    let mut buffer = [0; 4];
    opened.part.read_at(file.offset(), &mut buffer).unwrap();
    assert_eq!(buffer, noise(5, 4)[..]);
}

#[test]
fn an_interrupted_update_goes_on_although_the_target_is_there() {
    let (place, model) = (Place::new(), example());
    model.clone().file("large", "old").without("many").write(&place.target());
    let opened = place.open(&model);
    let pieces = fetch(&opened, &model, |piece| piece.get() % 2 == 0);
    opened.part.commit(&pieces).unwrap();
    let before = missing_bytes(&opened);
    drop(opened);
    let opened = place.open(&model);
    assert!(missing_bytes(&opened) < before && missing_bytes(&opened) > 0);
    drop(opened);
    place.get(&model);
}

#[test]
fn older_versions_are_offered_chunk_by_chunk() {
    let (place, model) = (Place::new(), example());
    let mut old = noise(5, 2 * PIECE);
    old[PIECE + 5] ^= 1;
    // Two chunks and a little more of the last piece.
    old.extend(noise(6, 30));
    model.clone().file("large", old.clone()).write(&place.target());
    let opened = place.open(&model);
    let geometry = opened.part.geometry().clone();
    let offset =
        geometry.folder().unwrap().files().iter().find(|file| file.is_large()).unwrap().offset() as usize;
    let mut end = 0;
    for run in opened.found {
        let bytes = geometry.bytes_of(run.span);
        assert!(run.span.count() <= 16 && run.span.pieces().count() == 1);
        let place = bytes.start as usize - offset;
        assert!(run.bytes == old[place..place + (bytes.end - bytes.start) as usize]);
        assert_eq!(place, end, "in order, nothing twice");
        end = place + run.bytes.len();
    }
    assert_eq!(end, 2 * PIECE, "the last chunk is not all there");
}

#[test]
fn files_with_other_names_are_copied() {
    let (place, model) = (Place::new(), example());
    place.get(&model);
    let (docs, target) = (place.target().join("docs"), place.target());
    fs::rename(target.join("large"), docs.join("moved")).unwrap();
    fs::rename(docs.join("one"), target.join("one-more")).unwrap();
    // Two that changed places, of the same size.
    let swapped = model.clone().file("a", noise(50, 10)).file("b", noise(51, 10));
    fs::write(target.join("a"), noise(51, 10)).unwrap();
    fs::write(target.join("b"), noise(50, 10)).unwrap();
    let options = FolderOptions { delete: true, ..place.options() };
    let opened = place.open_with(&swapped, options).unwrap();
    assert_eq!(missing_bytes(&opened), 0);
    assert_eq!((opened.summary.copied.files, opened.summary.missing.files), (4, 0));
    assert_eq!(opened.summary.extras, [docs.join("moved"), target.join("one-more")]);
    // A kill here must not lose what was copied.
    drop(opened);
    let options = FolderOptions { delete: true, ..place.options() };
    let opened = place.open_with(&swapped, options).unwrap();
    assert_eq!(missing_bytes(&opened), 0);
    opened.part.finish(MTIME, false, false).unwrap();
    swapped.assert_at(&target);
}

#[test]
fn only_what_is_not_in_the_folder_and_selected_is_removed() {
    let (place, model) = (Place::new(), example());
    place.get(&model);
    let extra = |path: &str| {
        fs::create_dir_all(place.target().join(path).parent().unwrap()).unwrap();
        fs::write(place.target().join(path), "extra").unwrap();
    };
    ["new/file", "new/er/file", "docs/old", "kept/file.keep", "kept/gone"].into_iter().for_each(extra);
    symlink("new", place.target().join("link")).unwrap();
    let options = || FolderOptions {
        selection: Selection::new([""; 0], ["*.keep"]).unwrap(),
        delete: true,
        ..place.options()
    };
    // Not without being told to.
    place.get_with(&model, place.options());
    assert!(place.target().join("new/er/file").exists());
    let opened = place.open_with(&model, options()).unwrap();
    let extras: Vec<_> =
        opened.summary.extras.iter().map(|p| p.strip_prefix(place.target()).unwrap()).collect();
    let expected =
        ["docs/old", "kept", "kept/gone", "link", "new", "new/er", "new/er/file", "new/file"].map(Path::new);
    assert_eq!(extras, expected);
    assert!(place.target().join("docs/old").exists(), "only at the end");
    opened.part.finish(MTIME, false, false).unwrap();
    let left = Model::read(&place.target());
    assert_eq!(left, model.clone().file("kept/file.keep", "extra"));
}

#[test]
fn files_and_folders_replace_each_other_by_force_only() {
    let place = Place::new();
    Model::default().file("a/b/c", "1").file("d", "2").link("e", "a").write(&place.target());
    let model = Model::default().file("a", noise(1, 5)).file("d/x", noise(2, 6)).file("e/y", "").folder("e");
    let before = Model::read(&place.target());
    let error = place.open_with(&model, place.options()).unwrap_err();
    assert!(matches!(&error, StoreError::OtherKind { paths } if paths.len() == 3), "{error}");
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(place.names(), ["tree"]);
    assert_eq!(Model::read(&place.target()), before);
    let opened = place.get_with(&model, FolderOptions { force: true, ..place.options() });
    assert_eq!(opened.summary.replaced.len(), 3);
    model.assert_at(&place.target());
}

#[test]
fn a_file_with_the_name_of_the_target_is_replaced_by_force_only() {
    let (place, model) = (Place::new(), example());
    fs::write(place.target(), "precious").unwrap();
    assert!(matches!(place.open_with(&model, place.options()), Err(StoreError::OtherKind { .. })));
    assert_eq!(place.names(), ["tree"]);
    let opened = place.open_with(&model, FolderOptions { force: true, ..place.options() }).unwrap();
    fetch(&opened, &model, |_| true);
    assert_eq!(fs::read(place.target()).unwrap(), b"precious");
    opened.part.finish(MTIME, false, false).unwrap();
    model.assert_at(&place.target());
}

#[test]
fn links_that_may_lead_out_are_not_made() {
    let place = Place::new();
    let model =
        Model::default().file("a", "1").link("good", "a").link("out", "../x").link("etc", "/etc/passwd");
    let opened = place.get_with(&model, place.options());
    let refused: Vec<_> = opened.summary.refused_links.iter().map(|path| path.as_str()).collect();
    assert_eq!(refused, ["etc", "out"]);
    model.clone().without("etc").without("out").assert_at(&place.target());
    // And none at all.
    let place = Place::new();
    let opened = place.get_with(&model, FolderOptions { links: false, ..place.options() });
    assert!(opened.summary.refused_links.is_empty());
    Model::default().file("a", "1").assert_at(&place.target());
}

#[test]
fn a_second_fetch_of_the_same_target_is_locked_out() {
    let (place, model) = (Place::new(), example());
    let opened = place.open(&model);
    assert!(matches!(place.open_with(&model, place.options()), Err(StoreError::Locked(_))));
    opened.part.discard().unwrap();
    assert!(place.names().is_empty());
    assert!(opened.part.finish(MTIME, false, false).is_err());
    drop(opened);
    place.get(&model);
}

#[test]
fn a_target_that_appears_meanwhile_is_not_replaced() {
    let (place, model) = (Place::new(), example());
    let opened = place.open(&model);
    let pieces = fetch(&opened, &model, |_| true);
    opened.part.commit(&pieces).unwrap();
    fs::create_dir(place.target()).unwrap();
    fs::write(place.target().join("theirs"), "1").unwrap();
    assert!(matches!(opened.part.finish(MTIME, false, false), Err(StoreError::Exists(_))));
    drop(opened);
    let opened = place.open(&model);
    assert_eq!(missing_bytes(&opened), 0, "what was staged is still there");
    opened.part.finish(MTIME, false, false).unwrap();
    model.file("theirs", "1").0.iter().for_each(|(path, node)| {
        assert_eq!(Model::read(&place.target()).0.get(path), Some(node));
    });
}

#[test]
fn names_that_cannot_be_are_told_before_anything_is_made() {
    for name in [".x.ftx-part", "a/.b.ftx-journal"] {
        let place = Place::new();
        let model = Model::default().file(name, "1");
        let error = place.open_with(&model, place.options()).unwrap_err();
        assert!(matches!(&error, StoreError::Entry { path, .. } if path.ends_with(name)), "{error}");
        assert!(place.names().is_empty());
        let selection = Selection::new([""; 0], ["*.ftx-*"]).unwrap();
        place.get_with(&model, FolderOptions { selection, ..place.options() });
    }
    // Names that only some file systems take: this one does, or says which.
    let place = Place::new();
    let model = Model::default().file("a/what?", "1").file("end.", "2").folder("co:lon");
    match place.open_with(&model, place.options()) {
        Ok(opened) => {
            fetch(&opened, &model, |_| true);
            opened.part.finish(MTIME, false, false).unwrap();
            model.assert_at(&place.target());
        }
        Err(error) => assert!(matches!(error, StoreError::Entry { .. }), "{error}"),
    }
    // Names that only some file systems take for one: this one knows.
    let place = Place::new();
    let model = Model::default().file("x/Readme", "1").file("x/README", "2");
    match place.open_with(&model, place.options()) {
        Ok(opened) => {
            fetch(&opened, &model, |_| true);
            opened.part.finish(MTIME, false, false).unwrap();
            model.assert_at(&place.target());
        }
        Err(error) => {
            assert!(matches!(error, StoreError::SameName { .. }), "{error}");
            assert!(place.names().is_empty());
        }
    }
}

#[test]
fn zeros_take_no_room() {
    let place = Place::new();
    let mut holes = vec![0; 3 * PIECE];
    holes[PIECE..PIECE + CHUNK].copy_from_slice(&noise(1, CHUNK));
    let model = Model::default().file("large", holes).file("small", vec![0; 10 * CHUNK]);
    place.get(&model);
    for (name, most) in [("large", 2 * CHUNK), ("small", 0)] {
        let occupied = fs::metadata(place.target().join(name)).unwrap().blocks() * 512;
        assert!(occupied <= most as u64 + 8192, "{name} takes {occupied} bytes");
    }
    // What was written there before is gone.
    let opened = Place::new();
    let part = opened.open(&model);
    part.part.write_at(0, &noise(2, 4 * CHUNK)).unwrap();
    fetch(&part, &model, |_| true);
    part.part.finish(MTIME, false, false).unwrap();
    model.assert_at(&opened.target());
}

#[test]
fn many_write_while_one_commits() {
    let (place, model) = (Place::new(), example());
    let opened = place.open(&model);
    let geometry = opened.part.geometry().clone();
    let (bytes, spans) = (model.bytes(), missing(&opened));
    let (part, sent) = (&opened.part, std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (sender, spans, bytes, geometry) = (sent.0.clone(), &spans, &bytes, &geometry);
            scope.spawn(move || {
                for span in spans.iter().skip(worker).step_by(4) {
                    for run in span.runs(16) {
                        let place = geometry.bytes_of(run);
                        part.write_at(place.start, &bytes[place.start as usize..place.end as usize]).unwrap();
                    }
                    sender.send(span.first().piece()).unwrap();
                }
            });
        }
        drop(sent.0);
        for piece in sent.1 {
            part.commit(&[piece]).unwrap();
        }
    });
    drop(opened);
    let opened = place.open(&model);
    assert!(opened.have.is_full());
    opened.part.finish(MTIME, false, false).unwrap();
    model.assert_at(&place.target());
}

#[test]
fn few_open_files_are_enough() {
    let exe = std::env::current_exe().unwrap();
    let script = "ulimit -n 64 && exec \"$0\" --exact --include-ignored --nocapture --test-threads 1 inner_few_open_files";
    let output = Command::new("sh").args(["-c", script]).arg(exe).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "runs with few files, as another test starts it"]
fn inner_few_open_files() {
    let place = Place::new();
    let model = (0..200).fold(Model::default(), |model, number| {
        model.file(&format!("{number}/a/b"), noise(number, 2 * CHUNK + 5)).file(&format!("{number}/l"), "")
    });
    let opened = place.open(&model);
    let geometry = opened.part.geometry().clone();
    let bytes = model.bytes();
    // Chunk by chunk, so that files stay open; each from its end.
    let mut chunks: Vec<_> =
        missing(&opened).into_iter().flat_map(|span| span.chunks().collect::<Vec<_>>()).collect();
    chunks.reverse();
    for chunk in chunks {
        let (offset, len) = (geometry.offset_of(chunk), geometry.chunk_len(chunk) as usize);
        opened.part.write_at(offset, &bytes[offset as usize..offset as usize + len]).unwrap();
    }
    opened.part.finish(MTIME, false, false).unwrap();
    model.assert_at(&place.target());
    place.get(&model);
}

#[test]
fn a_target_that_is_a_link_is_not_followed() {
    let (place, model) = (Place::new(), example());
    let other = place.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    symlink(&other, place.target()).unwrap();
    assert!(matches!(place.open_with(&model, place.options()), Err(StoreError::InTheWay(_))));
    assert_eq!(place.names(), ["tree"]);
    place.get_with(&model, FolderOptions { force: true, ..place.options() });
    model.assert_at(&place.target());
    assert_eq!(fs::read_dir(other).unwrap().count(), 0);
}

/// Runs a test of this file again as root of a namespace of its own, on a tmpfs of 3 MiB.
fn on_a_small_disk(test: &str) {
    let script =
        "mount -t tmpfs -o size=3m tmpfs /mnt && exec \"$0\" --exact --include-ignored --nocapture \"$1\"";
    let exe = std::env::current_exe().unwrap();
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a small disk needs `unshare -rm` and mount, which are not allowed here");
        return;
    }
    let output =
        Command::new("unshare").args(["-rm", "sh", "-c", script]).arg(exe).arg(test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_full_disk_is_told_before_and_while_writing() {
    on_a_small_disk("inner_full_disk");
}

#[test]
#[ignore = "runs on the small disk that another test makes"]
fn inner_full_disk() {
    let open = |model: &Model| {
        let target = Target::new(Path::new("/mnt/"), &"tree".parse().unwrap()).unwrap();
        FolderPart::open(target, model.manifest(), FolderOptions::default())
    };
    let count = || fs::read_dir("/mnt").unwrap().count();
    let model = Model::default().file("a/b", noise(1, 5 * PIECE));
    match open(&model) {
        Err(StoreError::DiskFull { needed, available, .. }) => {
            assert_eq!(needed, 5 * PIECE_SIZE);
            assert!(available > 2 * PIECE_SIZE && available <= 3 * PIECE_SIZE, "{available}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(count(), 0, "nothing is left behind");

    // Another file takes the room meanwhile.
    let model = Model::default().file("a", noise(1, PIECE)).file("b", noise(2, PIECE));
    let opened = open(&model).unwrap();
    let pieces = fetch(&opened, &model, |piece| piece.get() == 0);
    opened.part.commit(&pieces).unwrap();
    assert!(fs::write("/mnt/greedy", vec![0; 3 * PIECE]).is_err());
    let error = opened.part.write_at(PIECE_SIZE, &noise(2, PIECE)).unwrap_err();
    assert!(
        matches!(&error, StoreError::DiskFull { needed, available, .. } if needed > available),
        "{error:?}"
    );
    drop(opened);
    assert!(matches!(open(&model), Err(StoreError::DiskFull { .. })), "what is there stays");
    fs::remove_file("/mnt/greedy").unwrap();
    let opened = open(&model).unwrap();
    assert_eq!(opened.have.count(), 1);
    fetch(&opened, &model, |_| true);
    opened.part.finish(MTIME, false, false).unwrap();
    model.assert_at(Path::new("/mnt/tree"));
    assert_eq!(count(), 1);

    // A target that is another file system has the staging folder within it.
    fs::remove_dir_all("/mnt/tree").unwrap();
    fs::create_dir("/mnt/tree").unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs", "/mnt/tree"]).status();
    assert!(mounted.unwrap().success());
    let opened = open(&model).unwrap();
    assert!(Path::new("/mnt/tree/.tree.ftx-part").is_dir() && !Path::new("/mnt/.tree.ftx-part").exists());
    let pieces = fetch(&opened, &model, |piece| piece.get() == 1);
    opened.part.commit(&pieces).unwrap();
    drop(opened);
    let opened = open(&model).unwrap();
    assert_eq!(opened.have.count(), 1);
    fetch(&opened, &model, |_| true);
    opened.part.finish(MTIME, false, false).unwrap();
    model.assert_at(Path::new("/mnt/tree"));
    assert_eq!(fs::metadata("/mnt/tree").unwrap().mtime(), MTIME.0);
    assert_eq!(count(), 1);

    // The same file system, mounted twice; and another one within the target.
    let mount =
        |arguments: &[&str]| assert!(Command::new("mount").args(arguments).status().unwrap().success());
    fs::create_dir("/mnt/other").unwrap();
    mount(&["--bind", "/mnt/other", "/mnt/other"]);
    fs::create_dir("/mnt/other/sub").unwrap();
    mount(&["-t", "tmpfs", "tmpfs", "/mnt/other/sub"]);
    let model =
        Model::default().file("a", noise(3, 100)).file("sub/b", noise(4, 3 * CHUNK)).link("sub/c", "b");
    let target = Target::new(Path::new("/mnt/"), &"other".parse().unwrap()).unwrap();
    let options = FolderOptions { links: true, ..FolderOptions::default() };
    let opened = FolderPart::open(target, model.manifest(), options).unwrap();
    assert!(Path::new("/mnt/other/.other.ftx-part").is_dir());
    fetch(&opened, &model, |_| true);
    opened.part.finish(MTIME, false, false).unwrap();
    model.assert_at(Path::new("/mnt/other"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_written_in_any_order_over_any_other_is_that_tree(
        old in prop::option::of(any_model()), model in any_model(), order in any::<u64>(), stop in 0usize..20,
    ) {
        let place = Place::new();
        if let Some(old) = &old {
            old.write(&place.target());
        }
        let options = || FolderOptions { delete: true, force: true, ..place.options() };
        let layer = layer_of_folder(&model.manifest(), &model.bytes());
        let bytes = model.bytes();
        for round in 0..2 {
            let opened = place.open_with(&model, options()).unwrap();
            let geometry = opened.part.geometry().clone();
            let mut spans = missing(&opened);
            let runs: Vec<Span> = spans.drain(..).flat_map(|span| span.runs(1 + (order % 16) as u32).collect::<Vec<_>>()).collect();
            let mut runs: Vec<(u64, Span)> = runs.into_iter().enumerate()
                .map(|(at, run)| (order.wrapping_mul(at as u64 * 2 + 1).rotate_left(17), run)).collect();
            runs.sort_by_key(|(key, _)| *key);
            if round == 0 {
                runs.truncate(stop);
            }
            let mut here = opened.have.clone();
            let mut done = std::collections::BTreeMap::new();
            for (_, run) in runs {
                let at = geometry.bytes_of(run);
                opened.part.write_at(at.start, &bytes[at.start as usize..at.end as usize]).unwrap();
                let piece = run.first().piece();
                let mask: &mut ChunkMask = done.entry(piece).or_default();
                *mask = mask.union(ChunkMask::of(run));
                let wanted = ChunkMask::of(geometry.span_of(piece))
                    .without(opened.skipped.get(&piece).copied().unwrap_or_default());
                if *mask == wanted {
                    here.insert(piece);
                    if order % 3 == 0 {
                        opened.part.commit(&[piece]).unwrap();
                    } else {
                        opened.part.note(&[(piece, layer.hashes()[piece.get() as usize])]).unwrap();
                    }
                }
            }
            if round == 0 {
                drop(opened);
                let again = place.open_with(&model, options()).unwrap();
                for piece in here.iter() {
                    prop_assert!(again.have.contains(piece), "piece {} was there", piece.get());
                }
            } else {
                opened.part.finish(MTIME, false, true).unwrap();
            }
        }
        model.assert_at(&place.target());
        prop_assert_eq!(place.names(), ["tree"]);
    }
}
