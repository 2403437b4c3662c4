//! Replies: what a store's answer means for the request that it was asked for.

use super::block::{BlockFault, BlockPlan};
use super::frame::encode;
use super::limits::LISTING_BYTES_MAX;
use super::message::{Integer, Kind, ObjectWriter, Operation};
use super::refusal::Refusal;
use super::store::{Denial, FileState, StoreAnswer};
use super::value::{FileSize, Key, Md5Sum};

/// The number of a block, as a client says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    Missing,
    Negative,
    Number(u64),
}

impl Index {
    pub(super) fn of(field: Integer) -> Self {
        match field {
            Integer::Absent | Integer::Other => Index::Missing,
            Integer::Negative => Index::Negative,
            Integer::Unsigned(index) => Index::Number(index),
            // No file has so many blocks.
            Integer::Huge => Index::Number(u64::MAX),
        }
    }
}

/// A request that the store was asked for, with what its reply needs.
#[derive(Debug)]
pub(super) enum Question {
    Save {
        key: Key,
        size: FileSize,
    },
    /// The size was missing or wrong, and the store was asked whether the key exists.
    SaveWithoutSize {
        key: Key,
        refusal: Refusal,
    },
    Upload {
        key: Key,
        index: u64,
    },
    /// The block was too long or its number missing, and the store was asked how the file stands.
    UploadOfNothing {
        key: Key,
        index: Index,
    },
    Get {
        key: Key,
    },
    List,
    /// Without a number the store was asked how the file stands.
    Download {
        key: Key,
        index: Index,
    },
    Delete {
        key: Key,
    },
    SaveData {
        key: Key,
    },
    GetData {
        key: Key,
    },
    DeleteData {
        key: Key,
    },
}

impl Question {
    /// The frame that answers the request.
    pub(super) fn reply(self, answer: StoreAnswer) -> Vec<u8> {
        let asked = self.asked();
        let outcome = match answer {
            StoreAnswer::Denied(denial) => Err(Refusal::Denied(asked.0, denial)),
            answer => self.outcome(answer),
        };
        match outcome {
            Ok(Good { fields, message, binary }) => reply(fields, asked, &message, &binary),
            Err(refusal) => refusal_reply(&refusal, Some(asked)),
        }
    }

    fn asked(&self) -> (Operation, Kind) {
        match self {
            Question::Save { .. } | Question::SaveWithoutSize { .. } => (Operation::Save, Kind::File),
            Question::Upload { .. } | Question::UploadOfNothing { .. } => (Operation::Upload, Kind::File),
            Question::Get { .. } | Question::List => (Operation::Get, Kind::File),
            Question::Download { .. } => (Operation::Download, Kind::File),
            Question::Delete { .. } => (Operation::Delete, Kind::File),
            Question::SaveData { .. } => (Operation::Save, Kind::Data),
            Question::GetData { .. } => (Operation::Get, Kind::Data),
            Question::DeleteData { .. } => (Operation::Delete, Kind::Data),
        }
    }

    fn outcome(self, answer: StoreAnswer) -> Result<Good, Refusal> {
        let (operation, _) = self.asked();
        match self {
            Question::Save { key, size } => save(&key, size, answer),
            Question::SaveWithoutSize { key, refusal } => Err(match answer {
                StoreAnswer::File(FileState::Complete { .. }) => Refusal::FileExists(key.to_string()),
                _ => refusal,
            }),
            Question::Upload { key, index } => upload(&key, index, answer),
            Question::UploadOfNothing { key, index } => Err(match (answer, index) {
                (StoreAnswer::File(FileState::Uploading { .. }), Index::Missing) => Refusal::IndexMissing,
                (StoreAnswer::File(FileState::Uploading { .. }), Index::Negative) => Refusal::IndexNegative,
                (StoreAnswer::File(FileState::Uploading { size }), Index::Number(index)) => {
                    // Longer than any block, so that the only question is which fault is told.
                    let fault = BlockPlan::standard(size).place(index, usize::MAX).err();
                    upload_fault(fault.unwrap_or(BlockFault::SizeWrong))
                }
                (StoreAnswer::File(state), _) => upload_refused(&key, state),
                _ => misanswered(operation),
            }),
            Question::Get { key } => get(&key, answer),
            Question::List => match answer {
                StoreAnswer::Files(keys) => Ok(list(&keys)),
                _ => Err(misanswered(operation)),
            },
            Question::Download { key, index } => download(&key, index, answer),
            Question::Delete { key } => delete(&key, answer),
            Question::SaveData { key } => match answer {
                StoreAnswer::DataSaved => {
                    Ok(Good::new(format!("Data is saved with key \"{key}\"")).text("key", key.as_str()))
                }
                StoreAnswer::DataExists => Err(Refusal::DataExists(key.to_string())),
                _ => Err(misanswered(operation)),
            },
            Question::GetData { key } => match answer {
                StoreAnswer::Data(object) => {
                    let object = object.without(&["operation", "direction", "type", "status", "status_msg"]);
                    let mut good = Good::new("OK");
                    for (name, json) in object.iter() {
                        good.fields.json(name, json);
                    }
                    Ok(good)
                }
                StoreAnswer::DataAbsent => Err(Refusal::KeyAbsent(key.to_string())),
                _ => Err(misanswered(operation)),
            },
            Question::DeleteData { key } => match answer {
                StoreAnswer::DataDeleted => Ok(deleted(&key)),
                StoreAnswer::DataAbsent => Err(Refusal::QuotedKeyAbsent(key.to_string())),
                _ => Err(misanswered(operation)),
            },
        }
    }
}

/// What goes into a reply with status 200.
struct Good {
    fields: ObjectWriter,
    message: String,
    binary: Vec<u8>,
}

impl Good {
    fn new(message: impl Into<String>) -> Self {
        Good { fields: ObjectWriter::default(), message: message.into(), binary: Vec::new() }
    }

    fn text(mut self, name: &str, value: &str) -> Self {
        self.fields.text(name, value);
        self
    }

    fn number(mut self, name: &str, value: u64) -> Self {
        self.fields.number(name, value);
        self
    }

    fn md5(self, md5: Option<Md5Sum>) -> Self {
        match md5 {
            Some(md5) => self.text("md5", &md5.to_string()),
            None => self,
        }
    }

    fn plan(self, key: &Key, size: FileSize) -> Self {
        let plan = BlockPlan::standard(size);
        self.text("key", key.as_str())
            .number("size", plan.size())
            .number("total_block", plan.total_block())
            .number("block_size", u64::from(plan.block_size()))
    }
}

fn save(key: &Key, size: FileSize, answer: StoreAnswer) -> Result<Good, Refusal> {
    match answer {
        StoreAnswer::UploadBegun { md5 } => {
            Ok(Good::new("This is the upload plan.").plan(key, size).md5(md5))
        }
        StoreAnswer::File(FileState::Complete { .. }) => Err(Refusal::FileExists(key.to_string())),
        _ => Err(misanswered(Operation::Save)),
    }
}

fn upload(key: &Key, index: u64, answer: StoreAnswer) -> Result<Good, Refusal> {
    match answer {
        StoreAnswer::BlockStored { md5 } => Ok(Good::new(format!("The block {index} is uploaded."))
            .text("key", key.as_str())
            .number("block_index", index)
            .md5(md5)),
        StoreAnswer::BlockRefused(fault) => Err(upload_fault(fault)),
        StoreAnswer::File(state) => Err(upload_refused(key, state)),
        _ => Err(misanswered(Operation::Upload)),
    }
}

fn upload_fault(fault: BlockFault) -> Refusal {
    match fault {
        BlockFault::IndexBeyondEnd => Refusal::UploadIndexBeyondEnd,
        BlockFault::SizeWrong => Refusal::BlockSize,
    }
}

fn upload_refused(key: &Key, state: FileState) -> Refusal {
    match state {
        FileState::Complete { .. } => Refusal::UploadComplete(key.to_string()),
        FileState::Absent | FileState::Uploading { .. } => Refusal::UploadNotAccepted(key.to_string()),
    }
}

fn get(key: &Key, answer: StoreAnswer) -> Result<Good, Refusal> {
    match answer {
        StoreAnswer::File(FileState::Complete { size, md5 }) => {
            Ok(Good::new("OK. This is the download plan.").plan(key, size).md5(Some(md5)))
        }
        StoreAnswer::File(FileState::Uploading { .. }) => Err(Refusal::GetIncomplete(key.to_string())),
        StoreAnswer::File(FileState::Absent) => Err(Refusal::KeyAbsent(key.to_string())),
        _ => Err(misanswered(Operation::Get)),
    }
}

fn list(keys: &[Key]) -> Good {
    let mut bytes = 0;
    let fitting = keys.iter().take_while(|key| {
        bytes += key.as_str().len() + 4;
        bytes <= LISTING_BYTES_MAX
    });
    let fitting: Vec<&str> = fitting.map(Key::as_str).collect();
    let more = fitting.len() < keys.len();
    let mut good = Good::new("List of files.");
    good.fields.texts("file_list", fitting);
    if more {
        good.fields.json("more", "true");
    }
    good
}

fn download(key: &Key, index: Index, answer: StoreAnswer) -> Result<Good, Refusal> {
    match (answer, index) {
        (StoreAnswer::Block(binary), Index::Number(index)) => {
            let good = Good::new("An available block.")
                .number("block_index", index)
                .text("key", key.as_str())
                .number("size", binary.len() as u64);
            Ok(Good { binary, ..good })
        }
        (StoreAnswer::BlockRefused(_), _) => Err(Refusal::DownloadIndexBeyondEnd),
        (StoreAnswer::File(FileState::Uploading { .. }), _) => {
            Err(Refusal::DownloadIncomplete(key.to_string()))
        }
        (StoreAnswer::File(FileState::Absent), _) => Err(Refusal::QuotedKeyAbsent(key.to_string())),
        (StoreAnswer::File(FileState::Complete { .. }), Index::Missing) => Err(Refusal::IndexMissing),
        (StoreAnswer::File(FileState::Complete { .. }), Index::Negative) => Err(Refusal::IndexNegative),
        _ => Err(misanswered(Operation::Download)),
    }
}

fn delete(key: &Key, answer: StoreAnswer) -> Result<Good, Refusal> {
    match answer {
        StoreAnswer::FileDeleted(FileState::Complete { .. }) => Ok(deleted(key)),
        StoreAnswer::FileDeleted(FileState::Uploading { .. }) => {
            Err(Refusal::DeleteIncomplete(key.to_string()))
        }
        StoreAnswer::FileDeleted(FileState::Absent) => Err(Refusal::QuotedKeyAbsent(key.to_string())),
        _ => Err(misanswered(Operation::Delete)),
    }
}

fn deleted(key: &Key) -> Good {
    Good::new(format!("The \"key\" {key} is deleted.")).text("key", key.as_str())
}

/// The store answered another question. That is a mistake of ours, and no reason to leave a client without a reply.
fn misanswered(operation: Operation) -> Refusal {
    Refusal::Denied(operation, Denial::Failed)
}

/// A frame with status 200.
pub(super) fn reply(fields: ObjectWriter, asked: (Operation, Kind), message: &str, binary: &[u8]) -> Vec<u8> {
    let operation = match asked {
        // As the originals do, which every client tolerates and one expects.
        (Operation::Delete, Kind::File) => Operation::Get,
        (operation, _) => operation,
    };
    write(fields, operation.name(), 200, message, asked.1.name(), binary)
}

/// A frame with the status of the refusal.
pub(super) fn refusal_reply(refusal: &Refusal, asked: Option<(Operation, Kind)>) -> Vec<u8> {
    let (operation, kind) = refusal.echo(asked);
    write(ObjectWriter::default(), operation, refusal.status(), &refusal.to_string(), kind, &[])
}

fn write(
    mut fields: ObjectWriter,
    operation: &str,
    status: u64,
    message: &str,
    kind: &str,
    binary: &[u8],
) -> Vec<u8> {
    fields
        .text("operation", operation)
        .text("direction", "RESPONSE")
        .number("status", status)
        .text("status_msg", message)
        .text("type", kind);
    encode(fields, binary)
}
