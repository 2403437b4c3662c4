//! Kills at every change that is made to the disk, and what the next run makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ftx_proto::chunk_set::ChunkMask;

use super::compare::Fate;
use super::tree::kill;
use super::*;

#[path = "../../../tests/folder_support/mod.rs"]
pub(super) mod support;

use proptest::prelude::*;
use support::{Model, Node, any_model, layer_of_folder, noise};

const MTIME: (i64, u32) = (1_000_000_007, 5);

pub(super) fn open(target: &Path, model: &Model, options: &FolderOptions) -> Result<Opened, StoreError> {
    let target = Target::new(target.parent().unwrap(), &"tree".parse().unwrap()).unwrap();
    FolderPart::open(target, model.manifest(), options.clone())
}

/// Fetches what is missing; returns how many bytes that were.
pub(super) fn fetch(opened: &Opened, model: &Model) -> Result<u64, StoreError> {
    let (geometry, bytes) = (opened.part.geometry(), model.bytes());
    let layer = layer_of_folder(&model.manifest(), &bytes);
    let mut fetched = 0;
    for piece in geometry.pieces().filter(|piece| !opened.have.contains(*piece)) {
        let skipped = opened.skipped.get(&piece).copied().unwrap_or_default();
        for span in ChunkMask::of(geometry.span_of(piece)).without(skipped).spans(geometry, piece) {
            let place = geometry.bytes_of(span);
            fetched += geometry.len_of(span);
            opened.part.write_at(place.start, &bytes[place.start as usize..place.end as usize])?;
        }
        opened.part.note(&[(piece, layer.hashes()[piece.get() as usize])])?;
        if piece.get() % 2 == 0 {
            opened.part.commit(&[piece])?;
        }
    }
    Ok(fetched)
}

/// Gets a folder with a kill before each change to the disk, one after the other, and once more after each.
pub(super) fn kill_everywhere(old: Option<&Model>, model: &Model, kept: &Model) {
    let mut finishing = 0;
    for changes in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("tree");
        if let Some(old) = old {
            old.write(&target);
        }
        let records = Some(folder.path().join("records"));
        let options = FolderOptions { links: true, delete: true, force: true, records, ..Default::default() };

        kill::after(Some(changes));
        let mut is_fetched = false;
        let result = open(&target, model, &options).and_then(|opened| {
            fetch(&opened, model)?;
            is_fetched = true;
            opened.part.finish(MTIME, false, true)
        });
        kill::after(None);
        if result.is_ok() {
            kept.assert_at(&target);
            assert!(finishing > 3, "{finishing} kills at the end");
            return;
        }
        finishing += u32::from(is_fetched);

        let opened = open(&target, model, &options).unwrap();
        let fetched = fetch(&opened, model).unwrap();
        assert!(!is_fetched || fetched == 0, "{fetched} bytes again, killed after {changes} changes");
        opened.part.finish(MTIME, false, true).unwrap();
        kept.assert_at(&target);
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["records", "tree"], "killed after {changes} changes");
    }
}

fn example() -> Model {
    Model::default()
        .file("a", noise(1, 10))
        .file("b/c/one", noise(2, 16_384))
        .file("b/c/two", noise(3, 40_000))
        .file("b/empty", "")
        .file("large", noise(5, (1 << 20) + 77))
        .with("run", Node::File(noise(7, 20), true))
        .folder("z")
        .link("b/link", "../a")
}

#[test]
fn a_new_folder_survives_kills() {
    kill_everywhere(None, &example(), &example());
}

#[test]
fn a_target_that_is_there_survives_kills() {
    let old = example()
        .file("a", noise(50, 10))
        .file("large", noise(51, 1 << 20))
        .without("run")
        .file("run/inside", "in the way")
        .file("moved", noise(3, 40_000))
        .without("b/c/two")
        .file("extra/file", "goes")
        .link("b/link", "one");
    kill_everywhere(Some(&old.without("z").file("z", "no folder")), &example(), &example());
}

#[test]
fn what_a_kill_in_between_left_is_hashed_before_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (target, model) = (folder.path().join("tree"), example());
    model.clone().without("a").without("large").write(&target);
    let options = FolderOptions { links: true, ..Default::default() };
    let opened = open(&target, &model, &options).unwrap();
    fetch(&opened, &model).unwrap();
    // The end began: one file is in its place already. The other was damaged meanwhile.
    let staging: PathBuf = folder.path().join(".tree.ftx-part");
    fs::rename(staging.join("a"), target.join("a")).unwrap();
    let mut bytes = fs::read(staging.join("large")).unwrap();
    bytes[100] ^= 1;
    fs::write(staging.join("large"), bytes).unwrap();
    drop(opened);
    let opened = open(&target, &model, &options).unwrap();
    assert_eq!(opened.summary.missing.files, 1);
    assert!(!opened.found.is_empty(), "most of it may be right");
    fetch(&opened, &model).unwrap();
    opened.part.finish(MTIME, false, false).unwrap();
    model.assert_at(&target);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_two_kills_lose_nothing(
        old in prop::option::of(any_model()), model in any_model(), kills in prop::array::uniform2(0u32..70),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("tree");
        if let Some(old) = &old {
            old.write(&target);
        }
        let records = Some(folder.path().join("records"));
        let options = FolderOptions { links: true, delete: true, force: true, records, ..Default::default() };
        for changes in kills.into_iter().map(Some).chain([None]) {
            kill::after(changes);
            let result = open(&target, &model, &options).and_then(|opened| {
                fetch(&opened, &model)?;
                opened.part.finish(MTIME, false, true)
            });
            kill::after(None);
            prop_assert!(changes.is_some() || result.is_ok(), "{result:?}");
        }
        model.assert_at(&target);
        for entry in fs::read_dir(folder.path()).unwrap() {
            let name = entry.unwrap().file_name();
            prop_assert!(name == "tree" || name == "records", "{name:?} is left");
        }
    }
}

#[test]
fn nothing_changed_again_reads_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (target, model) = (folder.path().join("tree"), example());
    let records = Some(folder.path().join("records"));
    let options = FolderOptions { links: true, records, ..Default::default() };
    let opened = open(&target, &model, &options).unwrap();
    fetch(&opened, &model).unwrap();
    opened.part.finish(MTIME, false, false).unwrap();
    for _ in 0..2 {
        let opened = open(&target, &model, &options).unwrap();
        assert!(!opened.part.comparison.has_hashed && !opened.part.comparison.fates.contains(&Fate::Wanted));
        opened.part.finish(MTIME, false, false).unwrap();
        model.assert_at(&target);
    }
    // One that was touched is hashed, and remembered before anything is fetched.
    fs::File::options().write(true).open(target.join("large")).unwrap().set_modified(UNIX_EPOCH).unwrap();
    let changed = model.clone().file("a", noise(9, 10));
    for is_new in [true, false] {
        let opened = open(&target, &changed, &options).unwrap();
        // The file that differs is among them: it has the right size.
        assert_eq!(opened.part.comparison.has_hashed, is_new);
        assert_eq!(opened.summary.missing.files, 1);
    }
}

/// What the engine makes of an older version: it takes what is right, and asks for the rest.
#[test]
fn the_engine_takes_what_is_found() {
    use ftx_proto::engine::fetch::{FetchConfig, FetchEngine, Input, Output, SourceId};
    use ftx_proto::time::Time;
    use std::time::Duration;

    let folder = tempfile::tempdir().unwrap();
    let (target, model) = (folder.path().join("tree"), example());
    let mut old = noise(5, (1 << 20) + 77);
    old[100_000] ^= 1;
    model.clone().file("large", old).write(&target);
    let opened = open(&target, &model, &FolderOptions { links: true, ..Default::default() }).unwrap();
    let manifest = model.manifest();
    let (geometry, bytes) = (manifest.geometry().clone(), model.bytes());
    let layer = layer_of_folder(&manifest, &bytes);
    let landing = crate::fetch::landing::Landing::new(Arc::new(opened.part), &opened.have);
    let have = opened.have.clone();
    let (config, root) = (FetchConfig::default(), manifest.data_root());
    let mut engine = FetchEngine::selecting(config, geometry.clone(), root, have, opened.skipped, 7);
    let mut now = Time::ZERO;
    engine.handle(now, Input::LayerKnown(layer));
    for run in opened.found {
        let leaves = landing.land(run.span, &run.bytes).unwrap().into_iter().map(Option::unwrap).collect();
        engine.handle(now, Input::Found { first: run.span.first(), leaves });
    }
    let source = SourceId(1);
    engine.handle(now, Input::SourceJoined { source, whole: true });
    let mut asked = 0;
    for _ in 0..1000 {
        let Some(output) = engine.poll() else {
            if engine.is_complete() {
                break;
            }
            now += Duration::from_millis(100);
            engine.handle(now, Input::Tick);
            continue;
        };
        match output {
            Output::Reset { piece, chunks } => landing.release(piece, chunks),
            Output::AskLeaves { source, piece } => {
                let leaves = support::leaves_of(&geometry, &bytes, geometry.span_of(piece));
                engine.handle(now, Input::Leaves { source, piece, leaves });
            }
            Output::Request { source, request, span } => {
                asked += span.count();
                let place = geometry.bytes_of(span);
                let leaves = landing.land(span, &bytes[place.start as usize..place.end as usize]).unwrap();
                engine.handle(now, Input::Arrived { source, request, first: span.first(), leaves });
            }
            _ => {}
        }
    }
    assert!(engine.is_complete());
    assert_eq!(asked, 1, "only the chunk that is wrong");
}
