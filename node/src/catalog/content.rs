//! One content as its server sees it: what it is, and its bytes as long as they are what was hashed.
//!
//! It is a file, or several that are the same; the bytes of all files of a folder; the manifest of one; or either of these
//! while it is being fetched.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{ChunkIndex, Geometry, PieceIndex, Span};
use ftx_proto::merkle::PieceLayer;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::session::Refusal;
use rustix::fs::OFlags;
use tokio::sync::watch;

use super::bundle::{Bundle, BundleReader};
use super::places::{Places, PlacesReader};
use crate::faults;
use crate::hash;
use crate::store::{Part, read_parts_at};

/// What tells one state of a file from another without reading it.
///
/// Two writes within one tick of the file system's clock (up to 10 ms) that leave the size alone cannot be told apart
/// by it; so a file is not hashed before its last change is that long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Bytes.
    pub(crate) size: u64,
    /// Seconds and nanoseconds since 1970 of the last change.
    pub(crate) mtime: (i64, u32),
    /// Number of the file on its device.
    pub(crate) inode: u64,
    /// The device.
    pub(crate) device: u64,
    /// Whether somebody may execute it. No change of the content if it differs.
    pub(crate) executable: bool,
}

/// Where a shared file is: the folder of the share, and the path in it, which links cannot lead out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    folder: Arc<Path>,
    relative: PathBuf,
}

/// One content that can be served, whole or in part.
#[derive(Debug)]
pub struct Content {
    layer: Arc<PieceLayer>,
    name: RelativePath,
    mtime: (i64, u32),
    executable: bool,
    source: Source,
    folder: Option<PartOfFolder>,
    is_named: bool,
}

#[derive(Debug)]
enum Source {
    Files(Places),
    Tree(Arc<Bundle>),
    Memory(Arc<[u8]>),
    Part { part: Arc<dyn Part>, have: watch::Receiver<Arc<PieceSet>> },
}

/// What a folder is that is being fetched.
#[derive(Debug, Clone)]
pub struct PartOfFolder {
    /// Its root.
    pub root: Root,
    /// Its manifest ([`Content::memory`]), if others are to get it from here as well.
    pub manifest: Option<Arc<Content>>,
}

/// How much of a content is there.
#[derive(Debug, Clone)]
pub enum Have {
    /// Every piece.
    Whole,
    /// These pieces so far; changes are told.
    Partial(watch::Receiver<Arc<PieceSet>>),
}

/// An open content.
#[derive(Debug)]
pub struct ContentReader {
    layer: Arc<PieceLayer>,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Files(PlacesReader),
    Tree(BundleReader),
    Memory(Arc<[u8]>),
    Part { part: Arc<dyn Part>, have: watch::Receiver<Arc<PieceSet>> },
}

/// Bytes of one chunk that are to be read.
#[derive(Debug)]
pub struct ChunkPart<'a> {
    /// Which chunk.
    pub chunk: ChunkIndex,
    /// From which of its bytes on.
    pub from: usize,
    /// Where they go, and how many.
    pub buffer: &'a mut [u8],
}

impl ChunkPart<'_> {
    fn slices(parts: &mut [Self]) -> Vec<IoSliceMut<'_>> {
        parts.iter_mut().map(|part| IoSliceMut::new(part.buffer)).collect()
    }
}

/// Why a content cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is not any more what was hashed.
    #[error("the file was changed")]
    Changed,
    /// The file is gone or cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// This part of it is not here yet.
    #[error("this part is not here yet")]
    Missing,
    /// One of the files of a folder is not any more what was hashed, or cannot be read. The others can.
    #[error("a file of the folder: {0}")]
    OneFile(Box<ReadError>),
}

impl ReadError {
    /// Whether the file is not what the catalog believes, so that it should look again.
    pub fn is_news(&self) -> bool {
        match self {
            ReadError::Changed | ReadError::Unreadable(_) | ReadError::OneFile(_) => true,
            ReadError::Missing => false,
        }
    }
}

impl From<&ReadError> for Refusal {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::Changed => Refusal::Changed,
            ReadError::Unreadable(_) => Refusal::Unreadable,
            // Whoever asks goes on with the other files.
            ReadError::Missing | ReadError::OneFile(_) => Refusal::Missing,
        }
    }
}

impl Content {
    /// Files with one content, of which the first has this name.
    pub(crate) fn files(layer: Arc<PieceLayer>, name: RelativePath, places: Places) -> Self {
        let Stamp { size, mtime, executable, .. } = places.stamp();
        assert_eq!(layer.geometry().size(), size, "the layer is that of the files");
        Content { executable, ..Content::new(layer, name, mtime, Source::Files(places)) }
    }

    /// The bytes of all files of the folder of this name.
    pub(crate) fn tree(
        layer: Arc<PieceLayer>,
        name: RelativePath,
        mtime: (i64, u32),
        bundle: Arc<Bundle>,
    ) -> Self {
        let files = layer.geometry().folder().map(|folder| folder.files().len());
        assert_eq!(files, Some(bundle.len()), "the layer is that of these files");
        Content::new(layer, name, mtime, Source::Tree(bundle))
    }

    /// Bytes that are in memory: the encoded manifest of the folder of this name.
    pub fn memory(layer: Arc<PieceLayer>, name: RelativePath, mtime: (i64, u32), bytes: Arc<[u8]>) -> Self {
        assert_eq!(layer.geometry().size(), bytes.len() as u64, "the layer is that of these bytes");
        Content::new(layer, name, mtime, Source::Memory(bytes))
    }

    /// A content that is being fetched: `have` tells the pieces that are verified and written to `part`.
    pub fn partial(
        layer: Arc<PieceLayer>,
        name: RelativePath,
        mtime: (i64, u32),
        executable: bool,
        part: Arc<dyn Part>,
        have: watch::Receiver<Arc<PieceSet>>,
    ) -> Self {
        assert_eq!(layer.geometry(), part.geometry(), "the layer is that of the part");
        Content { executable, ..Content::new(layer, name, mtime, Source::Part { part, have }) }
    }

    /// The bytes of all files of a folder that is being fetched, as [`Content::partial`].
    pub fn partial_folder(
        layer: Arc<PieceLayer>,
        name: RelativePath,
        mtime: (i64, u32),
        folder: PartOfFolder,
        part: Arc<dyn Part>,
        have: watch::Receiver<Arc<PieceSet>>,
    ) -> Self {
        assert!(layer.geometry().folder().is_some(), "the layer is that of a folder");
        let content = Content::partial(layer, name, mtime, false, part, have);
        Content { folder: Some(folder), ..content }
    }

    fn new(layer: Arc<PieceLayer>, name: RelativePath, mtime: (i64, u32), source: Source) -> Self {
        Content { layer, name, mtime, executable: false, source, folder: None, is_named: true }
    }

    /// Something that is asked for by its root only, whatever the name that it is fetched for: the list of what is in a folder.
    pub fn nameless(self) -> Self {
        Content { is_named: false, ..self }
    }

    /// Whether it is what its name stands for.
    pub fn is_named(&self) -> bool {
        self.is_named
    }

    /// The folder that is being fetched, if this is one.
    pub fn part_of(&self) -> Option<&PartOfFolder> {
        self.folder.as_ref()
    }

    /// Its piece hashes, and by them its root and geometry.
    pub fn layer(&self) -> &Arc<PieceLayer> {
        &self.layer
    }

    /// Its root.
    pub fn root(&self) -> Root {
        self.layer.root()
    }

    /// How it is cut.
    pub fn geometry(&self) -> &Geometry {
        self.layer.geometry()
    }

    /// Its name here.
    pub fn name(&self) -> &RelativePath {
        &self.name
    }

    /// Seconds and nanoseconds since 1970 of its last change.
    pub fn mtime(&self) -> (i64, u32) {
        self.mtime
    }

    /// Whether it may be executed.
    pub fn executable(&self) -> bool {
        self.executable
    }

    /// How much of it is there.
    pub fn have(&self) -> Have {
        match &self.source {
            Source::Files(_) | Source::Tree(_) | Source::Memory(_) => Have::Whole,
            Source::Part { have, .. } => Have::Partial(have.clone()),
        }
    }

    /// Opens it. Blocks on the disk.
    pub fn reader(&self) -> Result<ContentReader, ReadError> {
        let bytes = match &self.source {
            Source::Files(places) => Bytes::Files(places.reader()?),
            Source::Tree(bundle) => Bytes::Tree(bundle.reader()?),
            Source::Memory(bytes) => Bytes::Memory(bytes.clone()),
            Source::Part { part, have } => Bytes::Part { part: part.clone(), have: have.clone() },
        };
        Ok(ContentReader { layer: self.layer.clone(), bytes })
    }
}

impl ContentReader {
    /// How the content is cut.
    pub fn geometry(&self) -> &Geometry {
        self.layer.geometry()
    }

    /// Bytes of a span.
    pub fn len_of(&self, span: Span) -> u64 {
        self.layer.geometry().len_of(span)
    }

    /// Fills `buffer`, which must be as long as the span, with its bytes. Blocks on the disk.
    ///
    /// On an error the buffer holds nothing that may be given away.
    pub fn read(&self, span: Span, buffer: &mut [u8]) -> Result<(), ReadError> {
        let bytes = self.layer.geometry().bytes_of(span);
        assert_eq!(buffer.len() as u64, bytes.end - bytes.start, "the buffer fits the span");
        match &self.bytes {
            Bytes::Files(files) => files.read(|file| file.read_exact_at(buffer, bytes.start)),
            Bytes::Tree(bundle) => bundle.read(self.layer.geometry(), span, buffer),
            Bytes::Memory(all) => {
                let part = all.get(bytes.start as usize..bytes.end as usize).ok_or(ReadError::Missing)?;
                buffer.copy_from_slice(part);
                Ok(())
            }
            Bytes::Part { part, have } => {
                let have = have.borrow().clone();
                if !is_here(&**part, &have, span) {
                    return Err(ReadError::Missing);
                }
                part.read_at(bytes.start, buffer)
                    .map_err(|error| ReadError::Unreadable(io::Error::other(error)))
            }
        }
    }

    /// Fills the buffers of all of these, and sorts them by their places. Blocks on the disk.
    ///
    /// On an error the buffers hold nothing that may be given away.
    pub fn read_parts(&self, parts: &mut [ChunkPart<'_>]) -> Result<(), ReadError> {
        faults::point("reading what is served");
        let geometry = self.layer.geometry();
        parts.sort_unstable_by_key(|part| (part.chunk, part.from));
        let offset = |part: &ChunkPart<'_>| geometry.offset_of(part.chunk) + part.from as u64;
        let follows = |part: &ChunkPart<'_>, next: &ChunkPart<'_>| {
            offset(part) + part.buffer.len() as u64 == offset(next)
        };
        match &self.bytes {
            Bytes::Files(files) => files.read(|file| {
                parts.chunk_by_mut(follows).try_for_each(|run| {
                    let place = run.first().map_or(0, offset);
                    read_parts_at(file, &mut ChunkPart::slices(run), place)
                })
            }),
            Bytes::Tree(bundle) => {
                for part in parts {
                    bundle.read_chunk(geometry, part.chunk, part.from, part.buffer)?;
                }
                Ok(())
            }
            Bytes::Memory(all) => {
                for part in parts {
                    let place = offset(part) as usize;
                    let bytes = all.get(place..place + part.buffer.len()).ok_or(ReadError::Missing)?;
                    part.buffer.copy_from_slice(bytes);
                }
                Ok(())
            }
            Bytes::Part { part, have } => {
                let have = have.borrow().clone();
                for run in parts.chunk_by_mut(follows) {
                    let chunk = |read: &ChunkPart<'_>| geometry.span(read.chunk.get(), 1);
                    if !run.iter().filter_map(chunk).all(|span| is_here(&**part, &have, span)) {
                        return Err(ReadError::Missing);
                    }
                    let place = run.first().map_or(0, offset);
                    part.read_parts_at(place, &mut ChunkPart::slices(run))
                        .map_err(|error| ReadError::Unreadable(io::Error::other(error)))?;
                }
                Ok(())
            }
        }
    }

    /// The hashes of the chunks of a piece, in order; they are proved by the layer. Reads the piece.
    pub fn leaves(&self, piece: PieceIndex) -> Result<Vec<Digest>, ReadError> {
        let geometry = self.layer.geometry();
        let span = geometry.span_of(piece);
        let mut buffer = vec![0; geometry.len_of(span) as usize];
        self.read(span, &mut buffer)?;
        let mut leaves = Vec::new();
        hash::leaves_of(geometry, span, &buffer, &mut leaves);
        // A change that the stamp cannot show. Better told here than taken for a lie there.
        if self.layer.proves(piece, &leaves) { Ok(leaves) } else { Err(ReadError::Changed) }
    }
}

impl Stamp {
    /// The stamp of what these are the metadata of, if it is a plain file.
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Option<Self> {
        metadata.is_file().then(|| Stamp {
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
            inode: metadata.ino(),
            device: metadata.dev(),
            executable: metadata.mode() & 0o111 != 0,
        })
    }

    /// Whether the content is the same by all that a stamp can tell.
    pub(crate) fn is_same_content(&self, other: &Stamp) -> bool {
        Stamp { executable: other.executable, ..*self } == *other
    }
}

impl Location {
    pub(crate) fn new(folder: Arc<Path>, relative: impl Into<PathBuf>) -> Self {
        Location { folder, relative: relative.into() }
    }

    /// The path, for messages and as a key.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(&self.relative)
    }

    /// Opens it as a folder that everything below is opened in. Fails if a link leads out of the share.
    pub(crate) fn open_folder(&self) -> io::Result<Dir> {
        Dir::open_ambient_dir(&self.folder, ambient_authority())?.open_dir(&self.relative)
    }

    /// Opens the file for reading. Fails if a link leads out of the share.
    pub(crate) fn open(&self) -> io::Result<File> {
        // The folder is opened each time: it may have been put there anew, as a mounted disk is.
        let dir = Dir::open_ambient_dir(&self.folder, ambient_authority())?;
        let mut options = OpenOptions::new();
        // NONBLOCK: a pipe that took the place of the file must not hold us up.
        options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
        Ok(dir.open_with(&self.relative, &options)?.into_std())
    }
}

/// Whether all that a read of a span takes is verified.
fn is_here(part: &dyn Part, have: &PieceSet, span: Span) -> bool {
    span.pieces().chain(part.borrows_from(span)).all(|piece| have.contains(piece))
}

/// The stamp of an open plain file.
pub(crate) fn stamp_of(file: &File) -> io::Result<Stamp> {
    Stamp::of(&file.metadata()?).ok_or_else(|| io::Error::other("not a plain file"))
}

/// Fails if an open file does not have this stamp.
pub(crate) fn check(file: &File, expected: &Stamp) -> Result<(), ReadError> {
    if stamp_of(file)?.is_same_content(expected) { Ok(()) } else { Err(ReadError::Changed) }
}
