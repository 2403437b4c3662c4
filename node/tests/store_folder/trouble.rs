//! What is in the way: others, names, links, and systems with little room.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use ftx_node::store::{FolderOptions, FolderPart, Part, Selection, StoreError, Target};
use ftx_proto::geometry::{PIECE_SIZE, Span};

use crate::folder_support::{Model, noise};
use crate::harness::{CHUNK, MTIME, PIECE, Place, example, fetch, missing, missing_bytes};
use crate::small_disk::on_a_small_disk;

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
fn nothing_is_written_any_more_once_it_was_given_up() {
    let (place, model) = (Place::new(), example());
    let opened = place.open(&model);
    // Whoever received a chunk just now does not know yet.
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (part, spans, bytes) = (&opened.part, missing(&opened), model.bytes());
            scope.spawn(move || {
                let write = |span: &Span| {
                    let place = part.geometry().bytes_of(*span);
                    part.write_at(place.start, &bytes[place.start as usize..place.end as usize])
                };
                // Much longer than it takes to give it up.
                (0..100).all(|_| spans.iter().skip(first).all(|span| write(span).is_ok()))
            });
        }
        opened.part.discard().unwrap();
    });
    assert!(place.names().is_empty());
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
fn few_open_files_are_enough() {
    let exe = std::env::current_exe().unwrap();
    let script = "ulimit -n 64 && exec \"$0\" --exact --include-ignored --nocapture --test-threads 1 trouble::inner_few_open_files";
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

#[test]
fn a_full_disk_is_told_before_and_while_writing() {
    on_a_small_disk(3, "trouble::inner_full_disk");
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
