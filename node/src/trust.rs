//! Trusted nodes: a file of node ids, and who stands in it.
//!
//! A line is a node id (64 hex digits) and, if one likes, a name for it; what follows a `#` is for people. The file is
//! edited line by line, so that what people wrote there stays, and written whole or not at all. A running node looks at
//! the file whenever it matters, and reads it again when it is another one: who is added is so from the next session on, and
//! running sessions with who is removed end within a second or two. A file that cannot be read, or has a line that is none, trusts nobody; the log says so once.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ftx_proto::digest::NodeId;
use ftx_proto::name::printable;
use rustix::fs::FlockOperation;

use crate::error::{Code, Error};

/// The file of trusted nodes in the state folder, which is used where no other one is named.
pub const DEFAULT_FILE: &str = "trust";

/// Largest such file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest name of a node in it, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A trusted node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// Its id.
    pub node: NodeId,
    /// What it is called here, which nobody else can change.
    pub name: Option<String>,
}

/// What a line says: somebody, or nothing.
type Line = Result<Option<Trusted>, &'static str>;

/// Reads one line.
fn parse_line(line: &str) -> Line {
    let said = line.split('#').next().unwrap_or_default().trim();
    if said.is_empty() {
        return Ok(None);
    }
    let (id, name) = said.split_once(char::is_whitespace).unwrap_or((said, ""));
    let node = id.parse().map_err(|_| "it has to begin with a node id: 64 hex digits")?;
    let name = name.trim();
    let name = (!name.is_empty()).then(|| check_name(name)).transpose()?;
    Ok(Some(Trusted { node, name }))
}

/// A name for a node: it can be a folder's, since that of what the node puts into the inbox is called so.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<String, &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("the name has more than 64 bytes");
    }
    if name.starts_with('.') || name.contains(['/', '\\', '#', ':']) || name.contains(char::is_control) {
        return Err("the name begins with a dot, or has a '/', '\\', ':', '#' or a control character in it");
    }
    if name.trim() != name || name.is_empty() {
        return Err("the name is empty, or has white space at its ends");
    }
    Ok(name.to_owned())
}

/// Everybody in a file of trusted nodes.
///
/// # Errors
/// [`Code::Usage`], with the number of the line that is none, or why the file cannot be used.
pub fn read(path: &Path) -> Result<Vec<Trusted>, Error> {
    parse(path, &read_text(path)?)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Trusted>, Error> {
    let mut trusted = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let somebody = parse_line(line).map_err(|why| {
            let shown = path.display();
            Error::new(Code::Usage, format!("trusted nodes: {shown}, line {}: {why}", number + 1))
        })?;
        trusted.extend(somebody);
    }
    Ok(trusted)
}

fn read_text(path: &Path) -> Result<String, Error> {
    let wrong = |why: String| Error::new(Code::Usage, format!("trusted nodes: {}: {why}", path.display()));
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            wrong("there is no such file; `ftx-node trust add ID` makes one".to_owned())
        }
        _ => wrong(format!("it cannot be read: {error}")),
    };
    let file = fs::File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_dir() {
        return Err(wrong("it is a folder".to_owned()));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(wrong(format!(
            "others than its owner may change it (mode {mode:03o}); look through it, then `chmod 600 {}`",
            path.display()
        )));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong("it is larger than 1 MiB".to_owned()));
    }
    Ok(text)
}

/// Adds a node, or gives one that is there another name. Whether it was there.
///
/// # Errors
/// As for [`read`], and where the file cannot be written.
pub fn add(path: &Path, node: NodeId, name: Option<&str>) -> Result<bool, Error> {
    let _lock = lock(path)?;
    let text = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => HEADER.to_owned(),
        _ => read_text(path)?,
    };
    let before = parse(path, &text)?;
    let taken = |other: &&Trusted| other.node != node && other.name.as_deref() == name;
    if let Some(other) = before.iter().find(taken).filter(|_| name.is_some()) {
        let message = format!(
            "the name '{}' is that of node {} already",
            printable(name.unwrap_or_default()),
            other.node.short()
        );
        return Err(Error::new(Code::Exists, message));
    }
    let existed = before.iter().any(|trusted| trusted.node == node);
    let mut text = without(&text, |trusted| trusted.node == node);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    match name {
        Some(name) => text.push_str(&format!("{node} {name}\n")),
        None => text.push_str(&format!("{node}\n")),
    }
    write(path, &text)?;
    Ok(existed)
}

/// Removes a node by its id, the beginning of it (8 digits or more), or its name. Whoever it was.
///
/// # Errors
/// [`Code::NotFound`] if nobody is meant, [`Code::Ambiguous`] if several are; and as for [`add`].
pub fn remove(path: &Path, who: &str) -> Result<Trusted, Error> {
    // Where there is none, no lock is left either.
    read_text(path)?;
    let _lock = lock(path)?;
    let text = read_text(path)?;
    let digits = who.to_ascii_lowercase();
    let is_prefix = |node: &NodeId| digits.len() >= 8 && node.to_string().starts_with(&digits);
    let mut meant = parse(path, &text)?;
    meant.retain(|trusted| trusted.name.as_deref() == Some(who) || is_prefix(&trusted.node));
    meant.dedup_by_key(|trusted| trusted.node);
    match meant.as_slice() {
        [one] => {
            write(path, &without(&text, |trusted| trusted.node == one.node))?;
            Ok(one.clone())
        }
        [] => {
            let message =
                format!("'{}' is not among the trusted nodes in {}", printable(who), path.display());
            Err(Error::new(Code::NotFound, message))
        }
        _ => Err(Error::new(Code::Ambiguous, format!("'{}' may be several nodes", printable(who)))),
    }
}

/// From now on nobody else changes the file, until this is dropped: of two changes at the same time neither is lost.
fn lock(path: &Path) -> Result<fs::File, Error> {
    // Through a link it is the same file, and has to be the same lock.
    let mut name = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
    name.push(".lock");
    let locking = || {
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&name)?;
        // Whoever holds it is as soon done as this is.
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    };
    locking().map_err(|error| unwritable(path, &error))
}

/// The text without the lines of some nodes.
fn without(text: &str, goes: impl Fn(&Trusted) -> bool) -> String {
    let stays = |line: &&str| !matches!(parse_line(line), Ok(Some(trusted)) if goes(&trusted));
    text.split_inclusive('\n').filter(stays).collect()
}

/// Replaces the file, for its owner only: a crash leaves the old one or the new one.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::other(format!("{}: it would be larger than 1 MiB", path.display())));
    }
    // A link to it stays one.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut draft = path.to_owned().into_os_string();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = PathBuf::from(draft);
    let writing = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    writing().map_err(|error| {
        // The first error is the one that counts.
        let _ = fs::remove_file(&draft);
        unwritable(path, &error)
    })
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
        _ => Code::Other,
    };
    Error::new(code, format!("trusted nodes: {} cannot be written: {error}", path.display()))
}

/// What a new file begins with.
const HEADER: &str = "# Nodes that may open sessions with this one: an id and a name on each line. See `ftx-node trust --help`.\n";

/// The trusted nodes of a running node, as the file has them at the moment.
#[derive(Debug)]
pub struct TrustedNodes {
    path: PathBuf,
    read: Mutex<Said>,
}

/// What the file said.
#[derive(Debug)]
struct Said {
    /// As what it was looked at before that. None: it was not there.
    stamp: Option<Stamp>,
    trusted: Vec<Trusted>,
    /// How often it was read.
    times: u64,
}

/// Another one means another content: the file is replaced, not written over, by those who know.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

impl TrustedNodes {
    /// Those in this file.
    ///
    /// # Errors
    /// As for [`read`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let stamp = stamp_of(path);
        let trusted = read(path)?;
        Ok(TrustedNodes { path: path.to_owned(), read: Mutex::new(Said { stamp, trusted, times: 1 }) })
    }

    /// The node with this id, if it is trusted now.
    pub fn find(&self, node: NodeId) -> Option<Trusted> {
        self.now().trusted.iter().find(|trusted| trusted.node == node).cloned()
    }

    /// How many are trusted now.
    pub fn count(&self) -> usize {
        self.now().trusted.len()
    }

    /// Another number whenever the file is another one.
    pub fn version(&self) -> u64 {
        self.now().times
    }

    /// Where they stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says now.
    fn now(&self) -> MutexGuard<'_, Said> {
        let stamp = stamp_of(&self.path);
        let mut read = self.lock();
        if read.stamp != stamp {
            let trusted = self::read(&self.path).unwrap_or_else(|error| {
                tracing::error!("{error}; until it is mended no node is trusted");
                Vec::new()
            });
            tracing::info!(file = %self.path.display(), nodes = trusted.len(), "trusted nodes");
            // Looked at before it was read: what changes in between shows the next time.
            *read = Said { stamp, trusted, times: read.times + 1 };
        }
        read
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        // Nothing panics half-way through a change of it.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn id(byte: u8) -> NodeId {
        NodeId([byte; 32])
    }

    fn somebody(byte: u8, name: Option<&str>) -> Trusted {
        Trusted { node: id(byte), name: name.map(str::to_owned) }
    }

    fn write_text(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn lines_are_ids_names_and_remarks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        let upper = id(0xab).to_string().to_uppercase();
        let text = format!("# ours\n\n  {}  lab 3 # by the door\n{upper}\t\n{}#x", id(1), id(2));
        write_text(&path, &text, 0o644);
        let expected = [somebody(1, Some("lab 3")), somebody(0xab, None), somebody(2, None)];
        assert_eq!(read(&path).unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_none_is_named_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        let good = id(1);
        for line in ["abc", "x", &format!("{good}0"), &format!("{good} a/b"), &format!("{good} .x"), "é"] {
            write_text(&path, &format!("{good}\n#\n{line}\n"), 0o600);
            let error = read(&path).unwrap_err();
            assert_eq!(error.code, Code::Usage);
            assert!(error.message.contains("line 3:"), "{line}: {error}");
        }
    }

    #[test]
    fn what_others_may_change_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        for mode in [0o620, 0o602, 0o666] {
            write_text(&path, &id(1).to_string(), mode);
            let error = read(&path).unwrap_err();
            assert!(error.message.contains(&format!("{mode:o}")), "{error}");
        }
        let none = read(&dir.path().join("none")).unwrap_err();
        assert!(none.message.contains("trust add"), "{none}");
    }

    #[test]
    fn nodes_are_added_named_anew_and_removed_and_remarks_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        assert!(!add(&path, id(1), Some("ada")).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        write_text(&path, &format!("{text}# a remark\n# without an end"), 0o600);
        assert!(!add(&path, id(2), None).unwrap());
        assert!(add(&path, id(1), Some("grace")).unwrap());
        assert_eq!(add(&path, id(3), Some("grace")).unwrap_err().code, Code::Exists);
        assert_eq!(read(&path).unwrap(), [somebody(2, None), somebody(1, Some("grace"))]);
        assert_eq!(remove(&path, "ada").unwrap_err().code, Code::NotFound);
        assert_eq!(remove(&path, "grace").unwrap(), somebody(1, Some("grace")));
        assert_eq!(remove(&path, &"02".repeat(4)).unwrap(), somebody(2, None));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("# a remark\n# without an end\n"), "{text}");
        assert_eq!(read(&path).unwrap(), []);
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["trust", "trust.lock"], "no draft is left");
    }

    #[test]
    fn of_changes_at_the_same_time_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        let link = dir.path().join("link");
        for byte in 1..=8 {
            add(&path, id(byte), None).unwrap();
        }
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::thread::scope(|scope| {
            for byte in 1..=8 {
                let (path, link) = (&path, &link);
                scope.spawn(move || remove(path, &id(byte).to_string()).unwrap());
                scope.spawn(move || add(path, id(100 + byte), None).unwrap());
                scope.spawn(move || add(link, id(200 + byte), None).unwrap());
            }
        });
        let mut there: Vec<u8> = read(&path).unwrap().iter().map(|trusted| trusted.node.0[0]).collect();
        there.sort_unstable();
        assert_eq!(there, (101..=108).chain(201..=208).collect::<Vec<u8>>());
    }

    #[test]
    fn a_running_node_sees_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        add(&path, id(1), Some("ada")).unwrap();
        let trusted = TrustedNodes::open(&path).unwrap();
        assert_eq!(trusted.find(id(1)), Some(somebody(1, Some("ada"))));
        assert_eq!(trusted.find(id(2)), None);
        let version = trusted.version();
        assert_eq!(trusted.version(), version, "nothing is another one");
        add(&path, id(2), None).unwrap();
        assert_ne!(trusted.version(), version);
        assert_eq!(trusted.find(id(2)), Some(somebody(2, None)));
        remove(&path, "ada").unwrap();
        assert_eq!(trusted.find(id(1)), None);
        write_text(&path, &format!("{}\nnonsense\n", id(2)), 0o600);
        assert_eq!(trusted.find(id(2)), None, "a file that cannot be read trusts nobody");
        fs::remove_file(&path).unwrap();
        assert_eq!(trusted.find(id(2)), None);
        add(&path, id(2), None).unwrap();
        assert!(trusted.find(id(2)).is_some());
    }
}
