//! What a server session asks of the store behind it, and what the store answers.
//!
//! The store owns the files and data of every user, and everything that must be atomic between connections: of the
//! blocks that complete a file exactly one is answered with the MD5, and of two that save under one key one is told that
//! it exists. Names are bounded, but none is a safe file name: the store escapes them. Files and data are two name
//! spaces.

use std::fmt;

use super::block::{BlockFault, BlockPlan};
use super::message::Object;
use super::value::{FileSize, Key, Md5Sum, UserName};

/// One thing to do. A session asks for one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// Begins an upload; one that was under way under this key begins anew. An empty file is complete at once.
    ///
    /// Answer: [`StoreAnswer::UploadBegun`], or [`StoreAnswer::File`] with a complete file.
    SaveFile {
        /// Whose.
        user: UserName,
        /// Under this key; a random one if the client gave none.
        key: Key,
        /// Bytes of the whole file.
        size: FileSize,
    },
    /// Takes one block of an upload, in any order; one that is there already is taken again.
    ///
    /// The block's number and length are as the client says: [`BlockPlan::place`] on the upload's plan judges them.
    /// Answer: [`StoreAnswer::BlockStored`], [`StoreAnswer::BlockRefused`], or [`StoreAnswer::File`] with a file that
    /// is complete or absent.
    Upload {
        /// Whose.
        user: UserName,
        /// Which file.
        key: Key,
        /// Number of the block.
        index: u64,
        /// Its bytes.
        block: Vec<u8>,
    },
    /// How a file stands. Answer: [`StoreAnswer::File`].
    FileInfo {
        /// Whose.
        user: UserName,
        /// Which file.
        key: Key,
    },
    /// Reads one block of a complete file.
    ///
    /// Answer: [`StoreAnswer::Block`], [`StoreAnswer::BlockRefused`], or [`StoreAnswer::File`] with a file that is
    /// uploading or absent.
    ReadBlock {
        /// Whose.
        user: UserName,
        /// Which file.
        key: Key,
        /// Number of the block, as the client says.
        index: u64,
    },
    /// Deletes a file, or what there is of an upload.
    ///
    /// Answer: [`StoreAnswer::FileDeleted`] with what it was.
    DeleteFile {
        /// Whose.
        user: UserName,
        /// Which file.
        key: Key,
    },
    /// The keys of complete files. Answer: [`StoreAnswer::Files`].
    ListFiles {
        /// Whose.
        user: UserName,
    },
    /// Keeps an object. Answer: [`StoreAnswer::DataSaved`] or [`StoreAnswer::DataExists`].
    SaveData {
        /// Whose.
        user: UserName,
        /// Under this key; a random one if the client gave none.
        key: Key,
        /// What to keep; holds neither token nor password.
        object: Object,
    },
    /// Reads an object. Answer: [`StoreAnswer::Data`] or [`StoreAnswer::DataAbsent`].
    GetData {
        /// Whose.
        user: UserName,
        /// Which one.
        key: Key,
    },
    /// Deletes an object. Answer: [`StoreAnswer::DataDeleted`] or [`StoreAnswer::DataAbsent`].
    DeleteData {
        /// Whose.
        user: UserName,
        /// Which one.
        key: Key,
    },
}

/// What came of a [`StoreRequest`]. Any of them may be denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAnswer {
    /// The upload may begin. An empty file is complete, and this is its MD5.
    UploadBegun {
        /// Of an empty file only.
        md5: Option<Md5Sum>,
    },
    /// The block is stored. To exactly one of the blocks of a file the MD5 of the whole: to that which completed it.
    BlockStored {
        /// Of the whole file, if this block completed it.
        md5: Option<Md5Sum>,
    },
    /// The block does not fit the file's plan.
    BlockRefused(BlockFault),
    /// A block of a complete file.
    Block(Vec<u8>),
    /// How the file stands: what was asked, or the reason why what was asked cannot be.
    File(FileState),
    /// Nothing is left under the key. This is what there was.
    FileDeleted(FileState),
    /// The keys of all complete files.
    Files(Vec<Key>),
    /// The object is kept.
    DataSaved,
    /// There is an object under this key.
    DataExists,
    /// The object.
    Data(Object),
    /// The object is gone.
    DataDeleted,
    /// There is no object under this key.
    DataAbsent,
    /// It was not done.
    Denied(Denial),
}

/// How a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// There is none under this key.
    Absent,
    /// Some of its blocks may be here.
    Uploading {
        /// Bytes that it will have.
        size: FileSize,
    },
    /// All of it is here.
    Complete {
        /// Its bytes.
        size: FileSize,
        /// Its sum.
        md5: Md5Sum,
    },
}

impl FileState {
    /// How the blocks of the file lie, if there is one.
    pub fn plan(&self) -> Option<BlockPlan> {
        match *self {
            FileState::Absent => None,
            FileState::Uploading { size } | FileState::Complete { size, .. } => {
                Some(BlockPlan::standard(size))
            }
        }
    }
}

/// Why the store did not do it, although the request was in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The node takes and deletes nothing.
    ReadOnly,
    /// The user has no room left.
    OverQuota,
    /// The disk has no room left.
    DiskFull,
    /// Too much is under way; it may go later.
    Busy,
    /// Reading or writing failed.
    Failed,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denial::ReadOnly => "this node is read-only",
            Denial::OverQuota => "the quota is used up",
            Denial::DiskFull => "the disk is full",
            Denial::Busy => "the node is busy, try again later",
            Denial::Failed => "the node could not read or write it",
        })
    }
}
