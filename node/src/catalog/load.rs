//! The table as it was when the node ran last: offered at once, while the first scan looks at what is true of it.
//!
//! Nothing wrong can come of what is not true any more: each file is looked at when it is opened, and refused if it is
//! not what was hashed. Folders are not offered as a whole before they were looked through, since what was not hashed,
//! links and empty folders among it, is not remembered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_proto::name::RelativePath;

use super::cache::Cache;
use super::index::Index;
use super::scan::Shares;
use super::tree::Id;
use crate::store::is_own_file;

/// The table of these shares with all that is remembered of them, until told to stop. Blocks on the disk.
pub(crate) fn load(cache: Option<&Cache>, shares: &Arc<Shares>, stop: &AtomicBool) -> Index {
    let mut index = Index::new(shares.clone());
    let Some(cache) = cache else { return index };
    let places: Vec<Place> = (0..shares.len()).map(|share| Place::new(shares, share)).collect();
    // Paths come in order: most are in the folder of the one before.
    let (mut last, mut folders): (Vec<u8>, Vec<(usize, Id)>) = (Vec::new(), Vec::new());
    index.begin_remembering();
    cache.each(&mut |path, stamp, hashes| {
        let Some(place) = path.iter().rposition(|byte| *byte == b'/') else { return true };
        let (above, file_name) = (&path[..place], &path[place + 1..]);
        if above != last {
            above.clone_into(&mut last);
            folders.clear();
            let is_private = shares.is_in_private(Path::new(OsStr::from_bytes(above)));
            let here = places.iter().enumerate().filter(|_| !is_private);
            let here = here.filter_map(|(share, place)| Some((share, place.name_of_folder(above)?)));
            folders.extend(
                here.filter_map(|(share, name)| {
                    Some((share, index.remembered_folder(share, name.as_ref())?))
                }),
            );
        }
        if let Some(name) = name_of_file(file_name) {
            for (share, folder) in &folders {
                if places[*share].only.as_deref().is_none_or(|only| only == file_name) {
                    index.remembered(*folder, *share, name, stamp, hashes.clone());
                }
            }
        }
        !stop.load(Ordering::Relaxed)
    });
    index.end_remembering();
    index
}

/// The name, if a file of this name may be offered.
fn name_of_file(name: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(name).ok()?;
    let is_good = !is_own_file(OsStr::from_bytes(name)) && text.parse::<RelativePath>().is_ok();
    is_good.then_some(text)
}

/// What the paths of a share begin with.
struct Place {
    folder: Vec<u8>,
    /// Of a single file, its name.
    only: Option<Vec<u8>>,
}

impl Place {
    fn new(shares: &Shares, share: usize) -> Self {
        let (folder, only) = shares.folder(share);
        let mut folder = folder.as_os_str().as_bytes().to_vec();
        // The folder of everything is the only one whose path ends so.
        if folder == b"/" {
            folder.clear();
        }
        Place { folder, only: only.map(|only| only.as_bytes().to_vec()) }
    }

    /// The name in the share of a folder at this path: none for the share's own.
    fn name_of_folder(&self, path: &[u8]) -> Option<Option<RelativePath>> {
        match path.strip_prefix(self.folder.as_slice())? {
            b"" => Some(None),
            _ if self.only.is_some() => None,
            rest => Some(Some(std::str::from_utf8(rest.strip_prefix(b"/")?).ok()?.parse().ok()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::content::Stamp;
    use ftx_proto::digest::Root;
    use ftx_proto::geometry::Geometry;
    use ftx_proto::merkle::PieceLayer;
    use ftx_proto::wire::discovery::Want;

    #[test]
    fn what_is_remembered_is_offered_under_the_name_that_it_has_now() {
        let (state, one, two) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for path in [two.path().join("single"), two.path().join("other")] {
            std::fs::write(path, "x").unwrap();
        }
        let cache = Cache::open(state.path()).unwrap();
        let single = two.path().join("single");
        let shares = Arc::new(Shares::new(
            &[one.path().to_owned(), single, one.path().join("a")],
            Some(&one.path().join("private")),
        ));
        let (one, two) = (one.path().canonicalize().unwrap(), two.path().canonicalize().unwrap());
        let names = ["a/b", "x", "a-b", "private/key"].map(|name| one.join(name));
        let entries: Vec<_> = (0u8..)
            .zip(names.into_iter().chain([two.join("single"), two.join("other")]))
            .map(|(number, path)| {
                let stamp =
                    Stamp { size: 5, mtime: (1, 2), inode: 3, device: 4, executable: number % 2 == 0 };
                let layer = PieceLayer::of_small(Geometry::new(5).unwrap(), Root([number; 32])).unwrap();
                (path, stamp, Arc::new(layer))
            })
            .collect();
        cache.save(&entries, &[]);

        let index = load(Some(&cache), &shares, &AtomicBool::new(false));
        let names: Vec<_> = index.list(None, 100).0.into_iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["a", "a-b", "a/b", "b", "single", "x"]);
        let content = index.open(&Root([4; 32])).unwrap();
        assert_eq!((content.name().as_str(), content.executable()), ("single", true));
        assert!(!index.open(&Root([1; 32])).unwrap().executable());
        assert!(index.open(&Root([5; 32])).is_none());
        // What else is in the folder is not known yet.
        let answer = index.lookup(&Want::Name("a".parse().unwrap()), &|_| 0);
        assert_eq!(answer.entries[0].root.root(), None);
        assert_eq!(index.totals().hashed_files, 5);
    }
}
