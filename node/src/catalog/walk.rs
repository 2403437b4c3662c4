//! Walking through the shares, or through one folder of them, without following links.
//!
//! A folder is told before what is in it; and when all that is in it was told, that is told as well, so that whoever
//! listens knows what is not there any more. It holds one open folder for each level, at most
//! [`ftx_proto::limits::PATH_PARTS_MAX`].

use std::fs::{DirEntry, ReadDir};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_proto::name::{NameError, RelativePath};

use super::scan::{FILES_MAX, Found, Shares, SkipReason, Skipped, What, classify, is_own, unreadable};

/// Steps in one batch of a scan.
const BATCH_LEN: usize = 256;

/// Most entries of a folder that somebody asks for that are looked at for this question alone.
const LOOK_MAX: usize = 2048;

/// What is come across on a walk, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something that can be offered.
    Found(Found),
    /// All that is in this folder was told; or in the share, if there is none.
    Listed { share: usize, folder: Option<RelativePath> },
}

/// Some of what a walk came across.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) steps: Vec<Step>,
    pub(crate) skipped: Vec<Skipped>,
}

impl Batch {
    /// The files among what was found.
    pub(crate) fn files(self) -> impl Iterator<Item = Found> {
        self.steps.into_iter().filter_map(|step| match step {
            Step::Found(found) => Some(found).filter(|found| matches!(found.what, What::File(_))),
            Step::Listed { .. } => None,
        })
    }
}

/// What one name stands for now.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Which share it is in, if it is anything at all.
    pub(crate) share: Option<usize>,
    /// It and, of a folder, what is in it; a large folder not to its end.
    pub(crate) batch: Batch,
    /// That is all there is.
    pub(crate) is_whole: bool,
}

impl Shares {
    /// Walks the shares in order and hands over what it comes across, until told to stop, by `stop` or in answer to a
    /// batch. Blocks on the disk.
    pub(crate) fn scan(
        &self,
        stop: &AtomicBool,
        emit: &mut dyn FnMut(Batch) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut walk = Walk { shares: self, batch: Batch::default(), found: 0, stop, emit };
        for share in 0..self.len() {
            walk.share(share)?;
            walk.step(Step::Listed { share, folder: None })?;
        }
        walk.flush()
    }

    /// Looks at what this name stands for, as a scan would. Blocks on the disk.
    pub(crate) fn look_into(&self, name: &RelativePath, stop: &AtomicBool) -> Look {
        let Some(found) = self.look(name) else { return Look { is_whole: true, ..Look::default() } };
        let share = found.share;
        let is_folder = matches!(found.what, What::Folder { .. });
        let mut look = Look { share: Some(share), batch: Batch::default(), is_whole: false };
        let mut add = |mut batch: Batch| {
            look.batch.steps.append(&mut batch.steps);
            look.batch.skipped.append(&mut batch.skipped);
            if look.batch.steps.len() < LOOK_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let mut walk = Walk { shares: self, batch: Batch::default(), found: 0, stop, emit: &mut add };
        let path = self.location(share, name).path();
        let flow = if is_folder { walk.folder(share, found, &path) } else { walk.step(Step::Found(found)) };
        let is_whole = flow.is_continue();
        if is_whole {
            // Nobody has to be told to stop who has ended.
            let _ = walk.flush();
        }
        look.is_whole = is_whole;
        look
    }
}

/// A walk under way.
struct Walk<'a> {
    shares: &'a Shares,
    batch: Batch,
    found: usize,
    stop: &'a AtomicBool,
    emit: &'a mut dyn FnMut(Batch) -> ControlFlow<()>,
}

impl Walk<'_> {
    fn share(&mut self, share: usize) -> ControlFlow<()> {
        let shares = self.shares;
        let (folder, only) = shares.folder(share);
        let Some(only) = only else {
            return match folder.read_dir() {
                Ok(entries) => self.entries(share, None, folder, entries),
                Err(error) => self.skip(folder, unreadable(folder, &error)),
            };
        };
        let path = folder.join(only);
        let looked_at = path.symlink_metadata();
        match (named(None, only.to_str()), looked_at) {
            (Ok(name), Ok(metadata)) => match classify(&name, &path, &metadata) {
                Ok(What::File(stamp)) => self.found(Found { share, name, what: What::File(stamp) }),
                Ok(_) => self.skip(&path, SkipReason::Special),
                Err(reason) => self.skip(&path, reason),
            },
            (Err(reason), _) => self.skip(&path, reason),
            (_, Err(error)) => self.skip(&path, unreadable(&path, &error)),
        }
    }

    /// A folder and all that is in it. One that cannot be read is not there for whoever listens.
    fn folder(&mut self, share: usize, found: Found, path: &Path) -> ControlFlow<()> {
        match path.read_dir() {
            Ok(entries) => {
                let name = found.name.clone();
                self.found(found)?;
                self.entries(share, Some(&name), path, entries)?;
                self.step(Step::Listed { share, folder: Some(name) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => ControlFlow::Continue(()),
            Err(error) => self.skip(path, unreadable(path, &error)),
        }
    }

    fn entries(
        &mut self,
        share: usize,
        folder: Option<&RelativePath>,
        path: &Path,
        entries: ReadDir,
    ) -> ControlFlow<()> {
        for entry in entries {
            if self.stop.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            match entry {
                Ok(entry) => self.entry(share, folder, &entry)?,
                Err(error) => self.skip(path, unreadable(path, &error))?,
            }
        }
        ControlFlow::Continue(())
    }

    fn entry(&mut self, share: usize, folder: Option<&RelativePath>, entry: &DirEntry) -> ControlFlow<()> {
        let path = entry.path();
        if self.shares.is_private(&path) {
            return ControlFlow::Continue(());
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // It went away since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return ControlFlow::Continue(()),
            Err(error) => return self.skip(&path, unreadable(&path, &error)),
        };
        let file_name = entry.file_name();
        let name = match named(folder, file_name.to_str()) {
            Ok(name) => name,
            Err(reason) => return self.skip(&path, reason),
        };
        match classify(&name, &path, &metadata) {
            Ok(what) if is_own(&what, &file_name) => ControlFlow::Continue(()),
            Ok(what @ What::Folder { .. }) => self.folder(share, Found { share, name, what }, &path),
            Ok(what) => self.found(Found { share, name, what }),
            Err(reason) => self.skip(&path, reason),
        }
    }

    fn found(&mut self, found: Found) -> ControlFlow<()> {
        if self.found >= FILES_MAX {
            let path = self.shares.location(found.share, &found.name).path();
            return self.skip(&path, SkipReason::TooMany);
        }
        self.found += 1;
        self.step(Step::Found(found))
    }

    fn step(&mut self, step: Step) -> ControlFlow<()> {
        self.batch.steps.push(step);
        self.flush_if_full()
    }

    fn skip(&mut self, path: &Path, reason: SkipReason) -> ControlFlow<()> {
        self.batch.skipped.push(Skipped::new(path, reason));
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> ControlFlow<()> {
        if self.batch.steps.len() + self.batch.skipped.len() < BATCH_LEN {
            return ControlFlow::Continue(());
        }
        self.flush()
    }

    fn flush(&mut self) -> ControlFlow<()> {
        (self.emit)(std::mem::take(&mut self.batch))
    }
}

/// The name of something in a folder.
fn named(folder: Option<&RelativePath>, file_name: Option<&str>) -> Result<RelativePath, SkipReason> {
    let file_name = file_name.ok_or(SkipReason::NotUtf8)?;
    let name = match folder {
        Some(folder) => format!("{}/{file_name}", folder.as_str()).parse(),
        None => file_name.parse(),
    };
    name.map_err(|error: NameError| SkipReason::Name(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn told(step: &Step) -> String {
        match step {
            Step::Listed { share, folder: None } => format!("{share}: end"),
            Step::Listed { share, folder: Some(folder) } => format!("{share}:{folder}/ end"),
            Step::Found(Found { share, name, what }) => match what {
                What::File(_) => format!("{share}:{name}"),
                What::Folder { .. } => format!("{share}:{name}/"),
                What::Link { target, .. } => format!("{share}:{name} -> {target}"),
            },
        }
    }

    fn scan(shares: &Shares) -> (Vec<String>, BTreeMap<String, SkipReason>) {
        let (mut steps, mut skipped) = (Vec::new(), BTreeMap::new());
        let flow = shares.scan(&AtomicBool::new(false), &mut |batch| {
            steps.extend(batch.steps.iter().map(told));
            skipped.extend(batch.skipped.into_iter().map(|skipped| (skipped.path, skipped.reason)));
            ControlFlow::Continue(())
        });
        assert_eq!(flow, ControlFlow::Continue(()));
        // A folder is told before what is in it, and its end after that.
        for (place, step) in steps.iter().enumerate() {
            if let Some(folder) = step.strip_suffix("/ end") {
                let inside = format!("{folder}/");
                let begin = steps.iter().position(|step| *step == inside).unwrap();
                let within = steps
                    .iter()
                    .enumerate()
                    .filter(|(_, step)| step.starts_with(&inside) && *step != &inside);
                assert!(within.clone().all(|(at, _)| begin < at && at <= place), "{steps:?}");
            }
        }
        steps.sort();
        (steps, skipped)
    }

    #[test]
    fn odd_entries_are_told_and_the_rest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("sub/.hidden")).unwrap();
        fs::create_dir(path("state")).unwrap();
        for name in [
            "a",
            "sub/b.txt",
            "sub/.hidden/c",
            ".dot",
            ".x.ftx-part",
            ".x.ftx-journal",
            "state/key",
            "back\\slash",
        ] {
            fs::write(path(name), name).unwrap();
        }
        fs::write(folder.path().join(OsStr::from_bytes(b"latin\xe9")), "x").unwrap();
        symlink("/etc/passwd", path("link")).unwrap();
        symlink("sub/b.txt", path("good-link")).unwrap();
        symlink("../../a", path("sub/.hidden/up")).unwrap();
        symlink("../../../a", path("sub/.hidden/too-far")).unwrap();
        symlink(OsStr::from_bytes(b"latin\xe9"), path("bad-link")).unwrap();
        fs::create_dir(path("empty")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let shares = Shares::new(&[folder.path().to_owned()], Some(&path("state")));
        let (names, skipped) = scan(&shares);
        let expected = [
            "0: end",
            "0:.dot",
            "0:a",
            "0:empty/",
            "0:empty/ end",
            "0:good-link -> sub/b.txt",
            "0:sub/",
            "0:sub/ end",
            "0:sub/.hidden/",
            "0:sub/.hidden/ end",
            "0:sub/.hidden/c",
            "0:sub/.hidden/up -> ../../a",
            "0:sub/b.txt",
        ];
        assert_eq!(names, expected);
        let root = folder.path().canonicalize().unwrap();
        let reason = |name: &str| skipped.get(&root.join(name).display().to_string()).cloned();
        assert_eq!(reason("link"), Some(SkipReason::Link));
        assert_eq!(reason("sub/.hidden/too-far"), Some(SkipReason::Link));
        assert_eq!(reason("bad-link"), Some(SkipReason::LinkNotUtf8));
        assert_eq!(reason("socket"), Some(SkipReason::Special));
        assert_eq!(reason("back\\slash"), Some(SkipReason::Name(NameError::Character)));
        assert_eq!(reason("latin\u{fffd}"), Some(SkipReason::NotUtf8));
        assert_eq!(skipped.len(), 6, "{skipped:?}");

        // A probe finds what a scan finds, and nothing else.
        for name in ["a", "sub/b.txt", "sub/.hidden/c", ".dot"] {
            let Found { share, name: found, what } = shares.probe(&name.parse().unwrap()).unwrap();
            let What::File(stamp) = what else { panic!("it is a file") };
            assert_eq!((share, found.as_str(), stamp.size), (0, name, name.len() as u64));
        }
        for name in ["link", "good-link", "socket", "state/key", ".x.ftx-part", "sub", "empty", "no"] {
            assert_eq!(shares.probe(&name.parse().unwrap()), None, "{name}");
        }
        symlink("sub", path("folder-link")).unwrap();
        let look = |name: &str| {
            let look = shares.look_into(&name.parse().unwrap(), &AtomicBool::new(false));
            let mut steps: Vec<String> = look.batch.steps.iter().map(told).collect();
            steps.sort();
            (look.share, steps)
        };
        for name in
            ["link", "folder-link/b.txt", "socket", "state", "state/key", ".x.ftx-part", "no", "no/no"]
        {
            assert_eq!(look(name), (None, Vec::new()), "{name}");
        }
        assert_eq!(look("good-link"), (Some(0), vec!["0:good-link -> sub/b.txt".to_owned()]));
        assert_eq!(look("a"), (Some(0), vec!["0:a".to_owned()]));
        let inside: Vec<String> = expected
            .iter()
            .filter(|step| step.starts_with("0:sub/"))
            .map(|step| (*step).to_owned())
            .collect();
        assert_eq!(look("sub"), (Some(0), inside));
    }

    #[test]
    fn what_an_inbox_keeps_for_itself_is_never_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("inbox/.ftx-step/data/alice")).unwrap();
        fs::create_dir_all(path("inbox/alice")).unwrap();
        for name in ["inbox/.ftx-step/lock", "inbox/.ftx-step/data/alice/secret", "inbox/alice/file"] {
            fs::write(path(name), name).unwrap();
        }
        for (share, file) in [(path("inbox"), "alice/file"), (folder.path().to_owned(), "inbox/alice/file")] {
            let shares = Shares::new(&[share], None);
            let (names, skipped) = scan(&shares);
            let files: Vec<_> =
                names.iter().filter(|step| !step.ends_with('/') && !step.ends_with("end")).collect();
            assert_eq!(files, [&format!("0:{file}")]);
            assert!(skipped.is_empty(), "{skipped:?}");
            for hidden in [".ftx-step/lock", ".ftx-step/data/alice/secret", "inbox/.ftx-step/lock"] {
                assert_eq!(shares.probe(&hidden.parse().unwrap()), None, "{hidden}");
            }
        }
    }

    #[test]
    fn a_share_may_be_one_file_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("one"), "1").unwrap();
        fs::write(folder.path().join("two"), "2").unwrap();
        let paths = [folder.path().join("one"), folder.path().join("gone"), folder.path().to_owned()];
        let shares = Shares::new(&paths, None);
        let (names, skipped) = scan(&shares);
        assert_eq!(names, ["0: end", "0:one", "1: end", "2: end", "2:one", "2:two"]);
        assert!(skipped.values().all(|reason| matches!(reason, SkipReason::Unreadable(_))), "{skipped:?}");
        assert_eq!(skipped.len(), 1);
        assert_eq!(shares.probe(&"one".parse().unwrap()).unwrap().share, 0);
        assert_eq!(shares.probe(&"two".parse().unwrap()).unwrap().share, 2);
    }

    #[test]
    fn a_scan_stops_when_told() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..BATCH_LEN * 2 {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        let mut batches = 0;
        let shares = Shares::new(&[folder.path().to_owned()], None);
        let flow = shares.scan(&AtomicBool::new(false), &mut |_| {
            batches += 1;
            ControlFlow::Break(())
        });
        assert_eq!((flow, batches), (ControlFlow::Break(()), 1));
        let flow = shares.scan(&AtomicBool::new(true), &mut |batch| panic!("{batch:?}"));
        assert_eq!(flow, ControlFlow::Break(()));
    }

    #[test]
    fn a_large_folder_is_looked_at_for_a_moment_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("large")).unwrap();
        for number in 0..LOOK_MAX + 2 * BATCH_LEN {
            fs::write(folder.path().join("large").join(number.to_string()), "").unwrap();
        }
        let shares = Shares::new(&[folder.path().to_owned()], None);
        let look = shares.look_into(&"large".parse().unwrap(), &AtomicBool::new(false));
        assert_eq!((look.share, look.is_whole), (Some(0), false));
        assert_eq!(look.batch.steps.len(), LOOK_MAX);
        assert!(look.batch.steps.iter().all(|step| matches!(step, Step::Found(_))), "it is not listed");
    }

    #[test]
    fn a_name_counts_in_the_first_share_that_has_its_first_part() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [one.path(), two.path()] {
            fs::create_dir(folder.join("both")).unwrap();
        }
        fs::write(two.path().join("both/file"), "x").unwrap();
        let shares = Shares::new(&[one.path().to_owned(), two.path().to_owned()], None);
        let name = "both/file".parse().unwrap();
        assert_eq!(shares.look(&name), None);
        fs::remove_dir(one.path().join("both")).unwrap();
        assert_eq!(shares.look(&name).unwrap().share, 1);
        // What cannot be offered does not count.
        symlink("/etc", one.path().join("both")).unwrap();
        assert_eq!(shares.look(&name).unwrap().share, 1);
    }
}
