//! Folders into a target that is there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ftx_node::store::{FolderOptions, Part, Selection, StoreError};

use crate::folder_support::{Model, noise};
use crate::harness::{CHUNK, MTIME, PIECE, Place, example, fetch, missing_bytes};

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
