//! A folder on this machine, hashed from one end to the other: for whoever wants to know its root without sharing it.

use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ftx_proto::manifest::{Entry, EntryKind, Manifest, may_lead_out};

use super::hash_file;
use super::scan::{Found, Shares, Skipped, What};
use super::walk::Step;

/// What the folder at `path` is as a whole, by the rules by which a share offers it, and what it has that no share offers.
/// `progress` hears the bytes hashed so far.
///
/// Fails if a file cannot be read, or is changed meanwhile.
pub fn hash_folder(
    path: &Path,
    threads: NonZeroUsize,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<(Manifest, Vec<Skipped>)> {
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    // Whoever is not allowed to list it would take it for empty.
    path.read_dir()?;
    let shares = Shares::new(&[path.to_owned()], None);
    let _ = shares.scan(&AtomicBool::new(false), &mut |batch| {
        skipped.extend(batch.skipped);
        found.extend(batch.steps.into_iter().filter_map(|step| match step {
            Step::Found(found) => Some(found),
            Step::Listed { .. } => None,
        }));
        ControlFlow::Continue(())
    });
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let entries = entries_of(&shares, &found, threads, progress)?;
    Ok((Manifest::new(entries).map_err(io::Error::other)?, skipped))
}

/// The entries, each thread taking the next that nobody has taken.
fn entries_of(
    shares: &Shares,
    found: &[Found],
    threads: NonZeroUsize,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<Vec<Entry>> {
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || -> io::Result<Vec<(usize, Entry)>> {
        let mut entries = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(found) = found.get(number) else { return Ok(entries) };
            if let Some(entry) = entry_of(shares, found)? {
                if let EntryKind::File { size, .. } = entry.kind {
                    progress(bytes.fetch_add(size, Ordering::Relaxed) + size);
                }
                entries.push((number, entry));
            }
        }
    };
    let parts: Vec<io::Result<Vec<(usize, Entry)>>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.get()).map(|_| scope.spawn(work)).collect();
        let own = work();
        let failed = |_| Err(io::Error::other("a thread that hashes failed"));
        let others = others.into_iter().map(|thread| thread.join().unwrap_or_else(failed));
        std::iter::once(own).chain(others).collect()
    });
    let mut entries: Vec<(usize, Entry)> = Vec::with_capacity(found.len());
    for part in parts {
        entries.extend(part?);
    }
    entries.sort_by_key(|(number, _)| *number);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn entry_of(shares: &Shares, found: &Found) -> io::Result<Option<Entry>> {
    let path = found.name.clone();
    let kind = match &found.what {
        What::Folder { mtime } => EntryKind::Folder { mtime: *mtime },
        What::Link { target, .. } if may_lead_out(&path, target) => return Ok(None),
        What::Link { target, .. } => EntryKind::Link { target: target.clone() },
        What::File(stamp) => {
            let place = shares.location(found.share, &path).path();
            let layer = hash_file(&place, NonZeroUsize::MIN, &|_| ())
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            let size = layer.geometry().size();
            EntryKind::File { size, root: layer.root(), executable: stamp.executable, mtime: stamp.mtime }
        }
    };
    Ok(Some(Entry { path, kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_the_root_of_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("a/empty")).unwrap();
        for (name, len) in [("a/x", 0), ("a/y", 3), ("a-b", 20_000), ("z", (2 << 20) + 1)] {
            std::fs::write(at(name), vec![7; len]).unwrap();
        }
        std::os::unix::fs::symlink("a/y", at("link")).unwrap();
        std::os::unix::fs::symlink("/etc", at("out")).unwrap();
        let hash =
            |threads| hash_folder(folder.path(), NonZeroUsize::new(threads).unwrap(), &|_| ()).unwrap();
        let (manifest, skipped) = hash(1);
        let names: Vec<&str> = manifest.entries().iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(names, ["a", "a-b", "a/empty", "a/x", "a/y", "link", "z"]);
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        assert_eq!(hash(4).0.root(), manifest.root());
        std::fs::write(at("a/y"), "new").unwrap();
        assert_ne!(hash(4).0.root(), manifest.root());
        assert!(hash_folder(&at("nothing"), NonZeroUsize::MIN, &|_| ()).is_err());
    }
}
