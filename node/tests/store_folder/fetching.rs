//! New folders, and fetches that were interrupted.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use ftx_node::store::{FolderOptions, Part, Selection};
use ftx_proto::chunk_set::ChunkMask;
use ftx_proto::geometry::{PieceIndex, Span};
use proptest::prelude::*;

use crate::folder_support::{Model, any_model, layer_of_folder, noise};
use crate::harness::{CHUNK, MTIME, PIECE, Place, example, fetch, missing, missing_bytes};

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
