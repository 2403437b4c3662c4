//! What need not be fetched: the same bytes elsewhere in the folder, or in the target.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ftx_proto::chunk_set::PieceSet;
use tokio::sync::watch;

use super::tests::support::{Model, layer_of_folder, noise};
use super::tests::{fetch, kill_everywhere, open};
use super::*;
use crate::catalog::{Content, PartOfFolder, ReadError};

const MTIME: (i64, u32) = (1_000_000_007, 5);
const PIECE: usize = 1 << 20;

fn options() -> FolderOptions {
    FolderOptions { links: true, delete: true, force: true, ..Default::default() }
}

/// Equal files in one piece and in several, small and large.
fn twins() -> Model {
    Model::default()
        .file("a/1", noise(1, 100))
        .file("a/2", noise(2, 100))
        .file("b/1", noise(1, 100))
        .file("large", noise(3, 2 * PIECE + 77))
        .file("large too", noise(3, 2 * PIECE + 77))
        .file("z/1", noise(1, 100))
        .file("z/2", noise(4, 50_000))
        .file("z/3", noise(4, 50_000))
}

const DISTINCT: u64 = 100 + 100 + (2 * PIECE as u64 + 77) + 50_000;

fn get(target: &Path, model: &Model) -> (u64, Summary) {
    let opened = open(target, model, &options()).unwrap();
    let fetched = fetch(&opened, model).unwrap();
    opened.part.finish(MTIME, false, true).unwrap();
    model.assert_at(target);
    (fetched, opened.summary)
}

#[test]
fn equal_files_are_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("tree");
    let (fetched, summary) = get(&target, &twins());
    assert_eq!(fetched, DISTINCT);
    assert_eq!((summary.selected.files, summary.missing.files, summary.copied.files), (8, 4, 4));
    assert_eq!(summary.missing.bytes, DISTINCT);
    // They are files of their own.
    fs::write(target.join("b/1"), "another").unwrap();
    assert_eq!(fs::read(target.join("a/1")).unwrap(), noise(1, 100));
    // One of them is there.
    fs::remove_file(target.join("large")).unwrap();
    let (fetched, summary) = get(&target, &twins());
    assert_eq!((fetched, summary.copied.files), (0, 2));
}

#[test]
fn equal_files_survive_kills() {
    kill_everywhere(None, &twins(), &twins());
    let old = twins().file("a/1", noise(9, 100)).without("large").without("z").file("z", "in the way");
    kill_everywhere(Some(&old), &twins(), &twins());
}

#[test]
fn what_is_interrupted_goes_on_with_what_was_noted() {
    let folder = tempfile::tempdir().unwrap();
    let (target, model) = (folder.path().join("tree"), twins());
    for _ in 0..2 {
        let opened = open(&target, &model, &options()).unwrap();
        fetch(&opened, &model).unwrap();
    }
    let opened = open(&target, &model, &options()).unwrap();
    assert_eq!(fetch(&opened, &model).unwrap(), 0);
    // A copy that a killed run has begun.
    drop(opened);
    let staging = folder.path().join(".tree.ftx-part");
    fs::write(staging.join("large too"), vec![1; 2 * PIECE + 77]).unwrap();
    fs::write(staging.join("b/1"), noise(1, 100)).unwrap();
    let (fetched, summary) = get(&target, &model);
    assert_eq!((fetched, summary.copied.files), (0, 3), "one was right");
}

#[test]
fn a_copy_that_is_here_alone_is_what_the_others_are_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let (target, model) = (folder.path().join("tree"), twins());
    let selection = Selection::new(["large too", "z"], [""; 0]).unwrap();
    let opened = open(&target, &model, &FolderOptions { selection, ..options() }).unwrap();
    let first = fetch(&opened, &model).unwrap();
    assert_eq!(first, DISTINCT - 100);
    drop(opened);
    assert_eq!(get(&target, &model).0, 100);
}

/// A node that fetches gives others what it has, and of copies what they are copies of.
#[test]
fn pieces_with_copies_are_given_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let model = twins();
    let opened = open(&folder.path().join("tree"), &model, &options()).unwrap();
    let (manifest, bytes) = (model.manifest(), model.bytes());
    let geometry = manifest.geometry().clone();
    let layer = layer_of_folder(&manifest, &bytes);
    // The first piece has a copy of a file in it, the last one nothing but that and what they are copies of there.
    let of = |number: usize| geometry.folder().unwrap().files()[number].span();
    let (first, last) = (of(0).first().piece(), of(5).first().piece());
    assert!(first != last && of(2).first().piece() == first && of(7).first().piece() == last);
    assert!(opened.spared.contains(first) && opened.spared.contains(last));
    let whole_copy = of(4).first().piece();
    assert!(!opened.spared.contains(whole_copy), "nothing of it is fetched, so nothing says when it is here");
    assert_eq!(opened.part.borrows_from(of(5)), [first]);

    fetch(&opened, &model).unwrap();
    let mut have = PieceSet::empty(geometry.clone());
    have.insert(last);
    let (told, watched) = watch::channel(Arc::new(have.clone()));
    let part_of = PartOfFolder { root: manifest.root(), manifest: None };
    let name = "tree".parse().unwrap();
    let content = Content::partial_folder(layer, name, MTIME, part_of, Arc::new(opened.part), watched);
    let reader = content.reader().unwrap();
    let read = |span| {
        let place = geometry.bytes_of(span);
        let mut buffer = vec![0; (place.end - place.start) as usize];
        reader.read(span, &mut buffer)?;
        assert_eq!(buffer, bytes[place.start as usize..place.end as usize]);
        Ok::<_, ReadError>(())
    };
    read(of(6)).unwrap();
    read(of(7)).unwrap();
    assert!(matches!(read(of(5)), Err(ReadError::Missing)), "what it is a copy of is not verified");
    assert!(matches!(read(geometry.span_of(last)), Err(ReadError::Missing)));
    have.insert(first);
    told.send_replace(Arc::new(have));
    read(geometry.span_of(last)).unwrap();
    read(geometry.span_of(first)).unwrap();
    assert!(matches!(read(of(4)), Err(ReadError::Missing)));
}

/// The runs that are offered, as beginnings and ends in the bytes of a file.
fn offered(opened: Opened, model: &Model, number: usize) -> Vec<(u64, u64)> {
    let manifest = model.manifest();
    let geometry = manifest.geometry();
    let begin = geometry.folder().unwrap().files()[number].offset();
    let found = opened.found.judged_by(layer_of_folder(&manifest, &model.bytes()));
    let runs =
        found.map(|run| geometry.bytes_of(run.span)).map(|place| (place.start - begin, place.end - begin));
    runs.fold(Vec::new(), |mut runs: Vec<(u64, u64)>, (start, end)| {
        match runs.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => runs.push((start, end)),
        }
        runs
    })
}

#[test]
fn a_large_file_that_was_renamed_and_changed_is_looked_through() {
    let len = 3 * PIECE + 77;
    let mut new = noise(5, len);
    new[PIECE + 5] ^= 1;
    let model = Model::default().file("new/image", new.clone()).file("small", noise(6, 20_000));
    let try_with = |old: Model| {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("tree");
        old.write(&target);
        let opened = open(&target, &model, &FolderOptions { links: true, ..Default::default() }).unwrap();
        offered(opened, &model, 0)
    };
    let old = noise(5, len);
    let all = len as u64;
    // The same name in another folder, also where it is shorter or longer.
    assert_eq!(try_with(Model::default().file("old/image", old.clone())), [(0, all)]);
    assert_eq!(try_with(Model::default().file("old/image", &old[..2 * PIECE + 10])), [(0, 2 * PIECE as u64)]);
    assert_eq!(try_with(Model::default().file("old/image", [&old[..], b"more"].concat())), [(0, all)]);
    // Another name and the same size; a wrong guess before it is passed over.
    assert_eq!(try_with(Model::default().file("v1", old.clone())), [(0, all)]);
    assert_eq!(
        try_with(Model::default().file("v1", old.clone()).file("old/image", noise(7, len))),
        [(0, all)]
    );
    // Something else altogether, of which nothing is written anywhere.
    assert_eq!(try_with(Model::default().file("v1", noise(8, len)).file("old/image", noise(9, len))), []);
    assert_eq!(try_with(Model::default().file("v1", vec![0; len])), []);
    // Where it is neither large nor alike.
    assert_eq!(try_with(Model::default().file("other/small", noise(6, 19_000))), []);
    // A copy that was changed, beside what it is a copy of.
    let both = model.clone().file("old", old.clone());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("tree");
    both.clone().without("new").write(&target);
    let opened = open(&target, &both, &FolderOptions { links: true, ..Default::default() }).unwrap();
    assert_eq!(offered(opened, &both, 0), [(0, all)]);
}

#[test]
fn what_was_at_the_place_of_a_copy_is_looked_through() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("tree");
    let mut old = noise(3, 2 * PIECE + 77);
    old[5] ^= 1;
    Model::default().file("large too", old).write(&target);
    let opened = open(&target, &twins(), &FolderOptions { links: true, ..Default::default() }).unwrap();
    assert_eq!(offered(opened, &twins(), 3), [(0, 2 * PIECE as u64 + 77)]);
}
