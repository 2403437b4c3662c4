use std::collections::BTreeMap;

use ftx_proto::digest::Digest;
use ftx_proto::geometry::PIECE_SIZE;
use proptest::prelude::*;

use super::*;

fn stamp(size: u64) -> Stamp {
    Stamp { size, mtime: (1, 2), inode: size + 7, device: size % 3, executable: size % 2 == 1 }
}

fn layer(size: u64) -> Arc<PieceLayer> {
    let geometry = Geometry::new(size).unwrap();
    let hashes = geometry.pieces().map(|piece| Digest::of(&piece.get().to_le_bytes())).collect();
    Arc::new(PieceLayer::from_hashes(geometry, hashes).unwrap())
}

fn path(text: &str) -> RelativePath {
    text.parse().unwrap()
}

/// Puts in a file, and the folders that it is in.
fn add(tree: &mut Tree, text: &str, size: u64, hashed: bool) -> Option<Id> {
    let (above, name) = text.rsplit_once('/').map_or((None, text), |(above, name)| (Some(above), name));
    let mut folder = Id::ROOT;
    for part in above.into_iter().flat_map(|above| above.split('/')) {
        folder = match tree.child(folder, part) {
            Some(known) => known,
            None => tree.insert(folder, part, 0, (0, 0), New::Folder).unwrap(),
        };
        tree.set_listed(folder);
    }
    if tree.child(folder, name).is_some() || !tree.is_folder(folder) {
        return None;
    }
    tree.insert(folder, name, 0, (1, 2), New::File(stamp(size), hashed.then(|| Hashes::from(&layer(size)))))
}

proptest! {
    /// Whatever is put in and taken out: lookups, the order, places in the middle and the sums are those of a list of
    /// paths.
    #[test]
    fn it_is_a_sorted_list_of_paths(
        steps in prop::collection::vec(("[a!-]{1,2}(/[a!.0-]{1,2}){0,3}", 0u64..5, any::<bool>()), 1..120),
        looked_for in "[a!.-]{1,2}(/[a!.0-]{1,2}){0,3}",
    ) {
        let mut tree = Tree::new();
        let mut files: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for (text, size, hashed) in steps {
            let Ok(checked) = text.parse::<RelativePath>() else { continue };
            if size == 4 {
                if let Some(id) = tree.find(&checked) {
                    tree.remove(id, &mut |_, _| ());
                    let inside = format!("{text}/");
                    files.retain(|path, _| *path != text && !path.starts_with(&inside));
                }
            } else if !files.keys().any(|file| text.starts_with(&format!("{file}/")))
                && add(&mut tree, &text, size, hashed).is_some()
            {
                files.insert(text, (size, hashed));
            }
        }
        let paths = |order: InOrder<'_>| order.map(|id| tree.path(id).unwrap()).collect::<Vec<_>>();
        let all = paths(tree.behind(None));
        prop_assert!(all.is_sorted());
        prop_assert_eq!(all.len(), tree.len());
        let is_file = |path: &&RelativePath| !tree.is_folder(tree.find(path).unwrap());
        let found: Vec<&str> = all.iter().filter(is_file).map(RelativePath::as_str).collect();
        prop_assert_eq!(found, files.keys().map(String::as_str).collect::<Vec<_>>());
        if let Ok(looked_for) = looked_for.parse::<RelativePath>() {
            let behind: Vec<RelativePath> = all.iter().filter(|path| **path > looked_for).cloned().collect();
            prop_assert_eq!(paths(tree.behind(Some(&looked_for))), behind);
        }
        for path in &all {
            let behind: Vec<RelativePath> = all.iter().filter(|other| *other > path).cloned().collect();
            prop_assert_eq!(paths(tree.behind(Some(path))), behind);
        }
        let sums = tree.sums(Id::ROOT);
        let hashed = files.values().filter(|(_, hashed)| *hashed);
        prop_assert_eq!(sums.files as usize, files.len());
        prop_assert_eq!(sums.bytes, files.values().map(|(size, _)| size).sum::<u64>());
        prop_assert_eq!(sums.hashed_files as usize, hashed.clone().count());
        prop_assert_eq!(sums.hashed_bytes, hashed.map(|(size, _)| size).sum::<u64>());
        prop_assert_eq!(tree.by_root.len() as u64, sums.hashed_files);
        // All is in one share, and the folder that everything is in belongs to none.
        let of_share = tree.share_sums(0);
        prop_assert_eq!((of_share.files, of_share.bytes, of_share.hashed_bytes), (sums.files, sums.bytes, sums.hashed_bytes));
        prop_assert_eq!(of_share.folders + 1, sums.folders);
        prop_assert_eq!(of_share.folders as usize, all.iter().filter(|path| tree.find(path).is_some_and(|id| tree.is_folder(id))).count());
    }
}

#[test]
fn a_file_is_given_back_as_it_was_put_in() {
    let mut tree = Tree::new();
    for size in [0, 1, PIECE_SIZE, 3 * PIECE_SIZE + 1] {
        let id = add(&mut tree, &format!("a/{size}"), size, true).unwrap();
        let View::File { stamp: found, state } = tree.view(id) else { panic!("it is a file") };
        assert_eq!((found, state), (stamp(size), State::Hashed(layer(size).root())));
        assert_eq!(tree.layer(id), Some(layer(size)));
        let same: Vec<Id> =
            tree.hashed_as(beginning_of(&layer(size).root())).map(|(found, _)| found).collect();
        assert_eq!(same, [id]);
        tree.set_file(id, stamp(size + 2), State::Unhashed, None);
        assert_eq!(tree.layer(id), None);
        assert_eq!(tree.hashed_as(beginning_of(&layer(size).root())).count(), 0);
    }
    assert_eq!((tree.layers.len(), tree.by_root.len()), (0, 0));
}

#[test]
fn every_change_below_a_folder_shows_in_it_and_no_other_does() {
    let mut tree = Tree::new();
    let file = add(&mut tree, "a/b/file", 5, true).unwrap();
    add(&mut tree, "other/file", 5, true).unwrap();
    let (a, other) = (tree.find(&path("a")).unwrap(), tree.find(&path("other")).unwrap());
    let b = tree.find(&path("a/b")).unwrap();
    let mut last = tree.changed(a);
    let before = tree.changed(other);
    let mut is_new = |tree: &Tree| {
        let is_new = tree.changed(a) > last;
        last = tree.changed(a);
        is_new
    };
    tree.set_file(file, stamp(6), State::Unhashed, None);
    assert!(is_new(&tree) && !tree.sums(a).is_complete());
    tree.set_file(file, stamp(6), State::Failed, None);
    assert!(is_new(&tree) && tree.sums(a).is_complete());
    tree.set_mtime(b, (9, 9));
    assert!(is_new(&tree));
    tree.set_mtime(b, (9, 9));
    tree.set_listed(b);
    tree.see(b, 5);
    assert!(!is_new(&tree), "nothing is another");
    let link = tree.insert(b, "link", 0, (0, 0), New::Link("file".into())).unwrap();
    assert!(is_new(&tree));
    let empty = tree.insert(b, "empty", 0, (0, 0), New::Folder).unwrap();
    assert!(is_new(&tree) && !tree.sums(a).is_complete());
    tree.set_listed(empty);
    assert!(is_new(&tree) && tree.sums(a).is_complete());
    let mut gone = Vec::new();
    tree.retain(b, &|_, id| id == file, &mut |tree, id| gone.push(tree.path(id).unwrap().to_string()));
    gone.sort();
    assert_eq!(gone, ["a/b/empty", "a/b/link"]);
    assert!(is_new(&tree));
    tree.remove(b, &mut |_, _| ());
    assert!(is_new(&tree));
    assert_eq!(tree.sums(a), Sums { folders: 1, ..Sums::default() });
    assert_eq!(tree.changed(other), before);
    assert!(link != empty && tree.len() == 3);
}

#[test]
fn what_was_filled_in_is_found_by_its_root_and_what_went_meanwhile_is_not() {
    let mut tree = Tree::new();
    let before = add(&mut tree, "before", 9, true).unwrap();
    tree.begin_filling();
    let stays = add(&mut tree, "stays", 5, true).unwrap();
    let goes = add(&mut tree, "goes", 6, true).unwrap();
    tree.remove(goes, &mut |_, _| ());
    tree.end_filling();
    let found =
        |size| tree.hashed_as(beginning_of(&layer(size).root())).map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!((found(9), found(5)), (vec![before, stays], vec![before, stays]));
    assert_eq!(tree.by_root.len(), 2);
}

#[test]
fn an_entry_takes_little() {
    assert!(size_of::<Node>() <= 88, "{}", size_of::<Node>());
}
