//! What a server says instead of yes: every status and message of the protocol, and a few of our own where the originals
//! would not answer at all.

use super::message::{Kind, Operation};
use super::store::Denial;
use super::value::KeyError;

/// A reply with a status other than 200.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("DO NOT ANSWER! DO NOT ANSWER! DO NOT ANSWER!")]
    Earth,
    #[error("Compulsory field {0} is missing.")]
    CompulsoryField(&'static str),
    #[error("Wrong direction. Should be \"REQUEST\"")]
    Direction,
    #[error("Operation {0} is not allowed")]
    OperationUnknown(String),
    #[error("Type {0} is not allowed")]
    TypeUnknown(String),
    #[error("No token.")]
    NoToken,
    #[error("Token format is wrong.")]
    TokenFormat,
    #[error("Token is wrong.")]
    TokenWrong,
    #[error("Type of LOGIN has to be AUTH.")]
    LoginType,
    #[error("\"{0}\" has to be a field for LOGIN")]
    LoginField(&'static str),
    /// The stray quote is that of the originals.
    #[error("\"Password error for login.")]
    Password,
    /// The originals do not answer.
    #[error("Operation {} is not allowed for type {}", .0.name(), .1.name())]
    OperationForType(Operation, Kind),
    #[error("Field \"key\" is missing for {0}.")]
    KeyMissing(&'static str),
    /// The originals do not answer.
    #[error("Field \"key\" has to be a text.")]
    KeyNotText,
    /// Ours: the originals take what their file system takes.
    #[error("This \"key\" cannot be used: {0}.")]
    KeyUnusable(KeyError),
    #[error("This key \"{0}\" is existing.")]
    DataExists(String),
    #[error("This \"key\" {0} is existing.")]
    FileExists(String),
    #[error("This file \"size\" has to be included")]
    SizeMissing,
    /// The originals do not answer.
    #[error("This file \"size\" has to be an integer from 0 to 9223372036854775807")]
    SizeWrong,
    #[error("The \"key\" {0} is completely uploaded.")]
    UploadComplete(String),
    #[error("The \"key\" {0} is not accepted for uploading.")]
    UploadNotAccepted(String),
    #[error("The \"block_index\" is compulsory.")]
    IndexMissing,
    #[error("The \"block_index\" exceed the max index.")]
    UploadIndexBeyondEnd,
    /// The same words with another status.
    #[error("The \"block_index\" exceed the max index.")]
    DownloadIndexBeyondEnd,
    #[error("The \"block_index\" should >= 0.")]
    IndexNegative,
    #[error("The \"block_size\" is wrong.")]
    BlockSize,
    /// Of GET.
    #[error("The key {0} is not existing.")]
    KeyAbsent(String),
    /// Of DOWNLOAD and DELETE.
    #[error("The \"key\" {0} is not existing.")]
    QuotedKeyAbsent(String),
    #[error("The key {0} is not completely uploaded.")]
    GetIncomplete(String),
    #[error("The \"key\" {0} is not completely uploaded. Please upload it first")]
    DownloadIncomplete(String),
    #[error("The \"key\" {0} is not completely uploaded. The tmp files are deleted.")]
    DeleteIncomplete(String),
    /// Ours, with the status that the operation's other errors have.
    #[error("{operation} is not possible: {denial}.", operation = .0.name(), denial = .1)]
    Denied(Operation, Denial),
}

impl Refusal {
    pub(super) fn status(&self) -> u64 {
        match self {
            Refusal::Earth => 333,
            Refusal::CompulsoryField(_) => 400,
            Refusal::Password => 401,
            Refusal::DataExists(_)
            | Refusal::FileExists(_)
            | Refusal::SizeMissing
            | Refusal::SizeWrong
            | Refusal::KeyUnusable(_) => 402,
            Refusal::NoToken | Refusal::TokenFormat | Refusal::TokenWrong => 403,
            Refusal::KeyAbsent(_)
            | Refusal::QuotedKeyAbsent(_)
            | Refusal::GetIncomplete(_)
            | Refusal::DownloadIncomplete(_)
            | Refusal::DeleteIncomplete(_) => 404,
            Refusal::UploadIndexBeyondEnd => 405,
            Refusal::BlockSize => 406,
            Refusal::Direction => 407,
            Refusal::OperationUnknown(_)
            | Refusal::OperationForType(..)
            | Refusal::UploadComplete(_)
            | Refusal::UploadNotAccepted(_) => 408,
            Refusal::TypeUnknown(_) | Refusal::LoginType => 409,
            Refusal::LoginField(_)
            | Refusal::KeyMissing(_)
            | Refusal::KeyNotText
            | Refusal::IndexMissing
            | Refusal::DownloadIndexBeyondEnd
            | Refusal::IndexNegative => 410,
            Refusal::Denied(_, Denial::Failed) => 500,
            Refusal::Denied(_, Denial::Busy) => 503,
            Refusal::Denied(Operation::Save, _) => 402,
            Refusal::Denied(Operation::Upload, _) => 408,
            Refusal::Denied(..) => 403,
        }
    }

    /// What the reply says for `operation` and `type`.
    ///
    /// The originals answer every DELETE of a file, and every DOWNLOAD that fails, as if it had been a GET.
    pub(super) fn echo(&self, asked: Option<(Operation, Kind)>) -> (&'static str, &'static str) {
        match (self, asked) {
            (Refusal::Earth, _) => ("3BODY", "DANGEROUS"),
            (_, None) => ("ERROR", "ERROR"),
            (
                Refusal::NoToken | Refusal::TokenFormat | Refusal::TokenWrong | Refusal::LoginType,
                Some((operation, _)),
            ) => (operation.name(), Kind::Auth.name()),
            (_, Some((Operation::Download | Operation::Delete, Kind::File))) => {
                (Operation::Get.name(), Kind::File.name())
            }
            (_, Some((operation, kind))) => (operation.name(), kind.name()),
        }
    }
}
