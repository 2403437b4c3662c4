//! Who gave what under which name: remembered from one fetch to the next.
//!
//! One line a name in the state folder: the root that was fetched under it last, and a node that gave it and had proved who it
//! is. Nothing is refused because of it; whoever asks is told when a name stands for something else and comes from somebody
//! else. It is bounded, the name that was fetched longest ago goes first. It is replaced as a whole, so a crash leaves the
//! old one or the new one. A damaged one is set aside. Without one, or on a full disk, nothing is remembered, and fetches
//! go on.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ftx_proto::digest::{NodeId, Root};
use ftx_proto::name::RelativePath;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

/// The file in the state folder.
const FILE_NAME: &str = "publishers";

/// Most names that are remembered.
const NAMES_MAX: usize = 4096;

/// Largest file, in bytes: that many of the longest names and a little more.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// What was fetched under a name, and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The name.
    pub name: RelativePath,
    /// The content.
    pub root: Root,
    /// A node that gave it, by its certificate.
    pub node: NodeId,
    /// What that called itself.
    pub called: String,
}

/// The memory of a node; see the [module](self).
#[derive(Debug, Clone)]
pub struct Publishers {
    path: PathBuf,
}

impl Publishers {
    /// That in this state folder.
    pub fn new(state_dir: &Path) -> Self {
        Publishers { path: state_dir.join(FILE_NAME) }
    }

    /// What was fetched under this name last.
    pub fn find(&self, name: &RelativePath) -> Option<Published> {
        self.read().into_iter().rfind(|published| published.name == *name)
    }

    /// From now on this is what was fetched under its name.
    pub fn remember(&self, published: Published) {
        if self.find(&published.name).as_ref() == Some(&published) {
            return;
        }
        if let Err(error) = self.try_remember(published) {
            tracing::warn!("{}: who gave what cannot be remembered: {error}", self.path.display());
        }
    }

    fn try_remember(&self, published: Published) -> io::Result<()> {
        let mut lock = self.path.clone().into_os_string();
        lock.push(".lock");
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
        // Whoever holds it is as soon done as this is.
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let mut all = self.read();
        all.retain(|known| known.name != published.name);
        all.push(published);
        let surplus = all.len().saturating_sub(NAMES_MAX);
        let lines = all.iter().skip(surplus).map(|published| format!("{}\n", line_of(published)));
        let text: String = lines.collect();
        let draft = self.path.with_extension("draft");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)
    }

    fn read(&self) -> Vec<Published> {
        let read = || -> io::Result<Vec<Published>> {
            let mut text = String::new();
            fs::File::open(&self.path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
            let published: Option<Vec<_>> = text.lines().map(published_of).collect();
            published.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has a line that is none"))
        };
        read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                let aside = self.path.with_extension("damaged");
                let moved =
                    error.kind() == io::ErrorKind::InvalidData && fs::rename(&self.path, &aside).is_ok();
                let set_aside =
                    if moved { format!("; it is set aside as {}", aside.display()) } else { String::new() };
                tracing::warn!("{}: it cannot be read: {error}{set_aside}", self.path.display());
            }
            Vec::new()
        })
    }
}

fn line_of(published: &Published) -> Value {
    let Published { name, root, node, called } = published;
    json!({ "name": name.as_str(), "root": root.to_string(), "node": node.to_string(), "called": called })
}

fn published_of(line: &str) -> Option<Published> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |field: &str| value.get(field)?.as_str();
    Some(Published {
        name: text("name")?.parse().ok()?,
        root: text("root")?.parse().ok()?,
        node: text("node")?.parse().ok()?,
        called: text("called")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(name: &str, root: u8, node: u8) -> Published {
        let (root, node) = (Root([root; 32]), NodeId([node; 32]));
        Published { name: name.parse().unwrap(), root, node, called: "ada \"x\"\n".to_owned() }
    }

    #[test]
    fn the_last_one_under_a_name_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let book = Publishers::new(dir.path());
        let name = "a\nb.pdf".parse().unwrap();
        assert_eq!(book.find(&name), None);
        book.remember(published("a\nb.pdf", 1, 2));
        book.remember(published("other", 3, 3));
        assert_eq!(Publishers::new(dir.path()).find(&name), Some(published("a\nb.pdf", 1, 2)));
        book.remember(published("a\nb.pdf", 4, 5));
        assert_eq!(book.find(&name), Some(published("a\nb.pdf", 4, 5)));
        assert_eq!(book.read().len(), 2);
    }

    #[test]
    fn the_oldest_name_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let book = Publishers::new(dir.path());
        let lines: String =
            (0..NAMES_MAX).map(|i| format!("{}\n", line_of(&published(&i.to_string(), 1, 2)))).collect();
        fs::write(&book.path, lines).unwrap();
        book.remember(published("new", 1, 2));
        assert_eq!(book.read().len(), NAMES_MAX);
        assert_eq!(book.find(&"0".parse().unwrap()), None);
        assert!(book.find(&"1".parse().unwrap()).is_some() && book.find(&"new".parse().unwrap()).is_some());
    }

    #[test]
    fn a_damaged_one_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let book = Publishers::new(dir.path());
        for damage in [&b"{\"name\":\"a\"}\n"[..], b"\xff\xfe", b"{\"na"] {
            book.remember(published("a", 1, 2));
            fs::write(&book.path, damage).unwrap();
            assert_eq!(book.find(&"a".parse().unwrap()), None);
            assert_eq!(fs::read(dir.path().join("publishers.damaged")).unwrap(), damage);
            book.remember(published("a", 1, 2));
            assert!(book.find(&"a".parse().unwrap()).is_some());
        }
    }
}
