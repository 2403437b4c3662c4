//! Session messages: frames over an authenticated, encrypted stream.
//!
//! A frame is `u32 BE meta_len`, `u32 BE payload_len`, the message (bincode), the payload (raw bytes). Both lengths are
//! bounded, and only [`Message::Chunks`] and [`Message::Hashes`] have a payload. The side that dialled asks, the other
//! one serves; both begin with [`Message::Hello`]. In groups with a secret, [`Message::Prove`] of the side that dialled comes
//! first, then that of the other one: who does not know the secret hears nothing. Who is not wanted hears
//! [`Message::NotAdmitted`], and no name.

use std::ops::Range;

use super::codec::{self, Decode, DecodeError, Encode};
use crate::digest::{Instance, Root};
use crate::limits::{
    FRAME_HASHES_MAX, FRAME_META_MAX, FRAME_PAYLOAD_MAX, HAVE_RANGES_MAX, LISTING_ENTRIES_MAX,
    NODE_NAME_BYTES_MAX, RUN_CHUNKS_MAX, TEXT_BYTES_MAX,
};
use crate::name::RelativePath;

/// ALPN name of this version of the protocol.
pub const ALPN: &[u8] = b"ftx/1";

/// Bytes before the message: the two lengths.
pub const HEADER_LEN: usize = 8;

/// Chosen by the asker, unique within a session while the request is outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct RequestId(pub u64);

/// One message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// First, from both sides.
    Hello(Hello),
    /// Asks for what the node shares: names after `after`, in order.
    List {
        /// Where to go on; `None` for the beginning.
        after: Option<RelativePath>,
    },
    /// Answer to `List`.
    Listing {
        /// In order of their names.
        entries: Vec<ListingEntry>,
        /// There are more behind the last one.
        more: bool,
    },
    /// Asks what the node has of a content, and to be told what it gets ([`Message::Have`]).
    Subscribe {
        /// The content.
        root: Root,
    },
    /// Answer to `Subscribe`: the content is known here. What is there of it follows in `Have`.
    Describe {
        /// The content.
        root: Root,
        /// Its size in bytes.
        size: u64,
        /// Seconds and nanoseconds since 1970 of its last change.
        mtime: (i64, u32),
        /// Whether it may be executed.
        executable: bool,
        /// Every piece is there, so no `Have` follows.
        whole: bool,
    },
    /// These pieces of a subscribed content are there now.
    Have {
        /// The content.
        root: Root,
        /// Ranges of piece numbers: first and the one after the last.
        pieces: Vec<(u32, u32)>,
    },
    /// Asks for hashes; answered by `Hashes` frames, or `Refused`.
    WantHashes {
        /// Comes back in the answer.
        request: RequestId,
        /// The content.
        root: Root,
        /// Which of its hashes.
        which: WhichHashes,
    },
    /// Hashes, 32 bytes each, in the payload.
    Hashes {
        /// From the request.
        request: RequestId,
        /// Number of the first hash within those that were asked for.
        first: u32,
        /// No further frame follows for this request.
        last: bool,
    },
    /// Asks for a run of chunks; answered by `Chunks` frames in any order, or `Refused`.
    Request {
        /// Comes back in the answers.
        request: RequestId,
        /// The content.
        root: Root,
        /// First chunk.
        first: u32,
        /// How many chunks.
        count: u32,
    },
    /// Chunks, one after the other, in the payload: the part of a request that begins at chunk `first`.
    Chunks {
        /// From the request.
        request: RequestId,
        /// First chunk in the payload.
        first: u32,
    },
    /// A request is not answered, or not to its end.
    Refused {
        /// From the request; `None` answers a `Subscribe`.
        request: Option<RequestId>,
        /// The content.
        root: Root,
        /// Why.
        reason: Refusal,
    },
    /// A request is not wanted any more. What is on its way still comes.
    Cancel {
        /// From the request.
        request: RequestId,
    },
    /// Are you there? Answered by `Pong` with the same number.
    Ping(u64),
    /// I am.
    Pong(u64),
    /// The session ends, for this reason; for the log.
    Goodbye(String),
    /// Asks for a way to get chunks of a subscribed content in datagrams ([`super::datagram`]).
    OpenDatagrams {
        /// The content.
        root: Root,
    },
    /// Answer to `OpenDatagrams`.
    Datagrams {
        /// The content.
        root: Root,
        /// Where they are asked for; `None` if there is no such way now.
        at: Option<DatagramsAt>,
    },
    /// Stands for `Chunks` all of whose bytes are zero: holes of a file that has such.
    Zeros {
        /// From the request.
        request: RequestId,
        /// First chunk.
        first: u32,
        /// How many chunks; no more than a frame of them.
        count: u32,
    },
    /// Before `Hello`, and only in groups with a secret: that this side knows it, bound to this session.
    Prove {
        /// HMAC-SHA256; over what is for those who hold the secret.
        proof: [u8; 32],
    },
    /// Instead of `Hello`: this side does not talk to the other one, and ends the session.
    NotAdmitted(NotAdmitted),
    /// Asks to take a file into the inbox, that is, to fetch it from the node that says this.
    Put {
        /// The name it is to have; one part.
        name: RelativePath,
        /// Bytes.
        size: u64,
        /// What it is.
        root: Root,
        /// TCP port of the sessions in which it is given, at the address of this one.
        port: u16,
    },
    /// Of what was put, so many bytes are there and verified.
    Putting {
        /// Bytes.
        bytes: u64,
    },
    /// Answer to `Put`, the last one: it is there.
    HavePut {
        /// What it is.
        root: Root,
        /// The name it has there.
        name: RelativePath,
        /// It was there before.
        before: bool,
    },
    /// Answer to `Put`, the last one: it is not taken.
    PutRefused {
        /// Why.
        why: PutRefusal,
        /// The same, for people.
        text: String,
    },
}

/// Why a side does not talk to the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum NotAdmitted {
    /// It does not trust its identity.
    Untrusted,
    /// It belongs to a group, and the other side does not prove the secret of one.
    SecretNeeded,
    /// The other side knows another secret, or somebody sits between the two.
    WrongSecret,
}

/// Why a file that was put is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum PutRefusal {
    /// This node takes no files at all.
    NoInbox,
    /// Not from this node, or not under this name.
    NotAllowed,
    /// There is no room for it.
    Full,
    /// Something else has its name.
    Exists,
    /// Too much is being put, or just this file; later it may be taken.
    Busy,
    /// It could not be got from the side that put it.
    Unreachable,
    /// Anything else.
    Failed,
}

/// Where chunks of one content are given in datagrams, at the address of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DatagramsAt {
    /// UDP port.
    pub port: u16,
    /// Stands for the content in datagrams, see [`super::datagram::ConnectionId`].
    pub connection: u32,
}

/// Who a side is; its identity is its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Which of its identity's instances.
    pub instance: Instance,
    /// What it calls itself; for people.
    pub name: String,
}

/// Which hashes of a content are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum WhichHashes {
    /// One for each piece.
    PieceLayer,
    /// One for each chunk of this piece.
    Leaves {
        /// Number of the piece.
        piece: u32,
    },
}

/// One shared file or folder in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ListingEntry {
    /// Its name.
    pub name: RelativePath,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Bytes; of a folder those of all its files.
    pub size: u64,
    /// Seconds since 1970 of its last change.
    pub mtime: i64,
    /// Its root, if that is known.
    pub root: Option<Root>,
}

/// Why a node does not give what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// Too much to do; ask again after this many milliseconds.
    Busy {
        /// Milliseconds.
        retry_after_ms: u32,
    },
    /// The content is not known here (any more).
    Unknown,
    /// The content is known, this part of it is not here (yet).
    Missing,
    /// The file was changed since its root was computed.
    Changed,
    /// The file cannot be read.
    Unreadable,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Busy { retry_after_ms } => write!(f, "busy, again in {retry_after_ms} ms"),
            Refusal::Unknown => f.write_str("it does not have this content"),
            Refusal::Missing => f.write_str("it does not have this part"),
            Refusal::Changed => f.write_str("the file was changed there"),
            Refusal::Unreadable => f.write_str("the file cannot be read there"),
        }
    }
}

/// The lengths at the beginning of a frame, within their bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the message.
    pub meta_len: usize,
    /// Bytes of the payload.
    pub payload_len: usize,
}

impl Header {
    /// Reads the lengths, and refuses those beyond their bounds.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, DecodeError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let meta_len = u32::from_be_bytes([a, b, c, d]) as usize;
        let payload_len = u32::from_be_bytes([e, f, g, h]) as usize;
        if meta_len > FRAME_META_MAX {
            return Err(DecodeError::TooLong { len: meta_len, limit: FRAME_META_MAX });
        }
        if payload_len > FRAME_PAYLOAD_MAX {
            return Err(DecodeError::TooLong { len: payload_len, limit: FRAME_PAYLOAD_MAX });
        }
        Ok(Header { meta_len, payload_len })
    }
}

impl Message {
    /// Header and message of a frame whose payload, of `payload_len` bytes, follows.
    pub fn encode(&self, payload_len: usize) -> Vec<u8> {
        let meta = codec::encode(self);
        assert!(
            meta.len() <= FRAME_META_MAX && payload_len <= FRAME_PAYLOAD_MAX,
            "our frames keep the bounds"
        );
        let mut bytes = Vec::with_capacity(HEADER_LEN + meta.len());
        bytes.extend((meta.len() as u32).to_be_bytes());
        bytes.extend((payload_len as u32).to_be_bytes());
        bytes.extend(meta);
        bytes
    }

    /// The message of a frame, checked against the bounds and against the length of its payload.
    pub fn decode(meta: &[u8], payload_len: usize) -> Result<Self, DecodeError> {
        let message: Message = codec::decode::<_, FRAME_META_MAX>(meta)?;
        match &message {
            Message::Hello(Hello { name, .. }) if name.len() > NODE_NAME_BYTES_MAX => {
                return Err(DecodeError::Limit("name of the node"));
            }
            Message::Listing { entries, .. } if entries.len() > LISTING_ENTRIES_MAX => {
                return Err(DecodeError::Limit("number of entries"));
            }
            Message::Have { pieces, .. } if pieces.len() > HAVE_RANGES_MAX => {
                return Err(DecodeError::Limit("number of ranges"));
            }
            Message::Zeros { count, .. } if *count > RUN_CHUNKS_MAX => {
                return Err(DecodeError::Limit("number of chunks"));
            }
            Message::Put { name, .. } if name.parts().count() != 1 => {
                return Err(DecodeError::Limit("number of parts of the name"));
            }
            Message::Goodbye(text) | Message::PutRefused { text, .. } if text.len() > TEXT_BYTES_MAX => {
                return Err(DecodeError::Limit("length of the reason"));
            }
            _ => {}
        }
        let fits = match &message {
            Message::Chunks { .. } => payload_len > 0,
            Message::Hashes { first, .. } => {
                payload_len.is_multiple_of(32) && first.checked_add(FRAME_HASHES_MAX).is_some()
            }
            _ => payload_len == 0,
        };
        if fits { Ok(message) } else { Err(DecodeError::Limit("length of the payload")) }
    }

    /// A `Listing` of as many of the first entries as fit a frame; `more` is set if that is not all of them.
    pub fn listing(mut entries: Vec<ListingEntry>, more: bool) -> Self {
        // For each entry: its name, its root, and what little the numbers and lengths take.
        let mut room = FRAME_META_MAX - 16;
        let fits = entries.iter().take(LISTING_ENTRIES_MAX).take_while(|entry| {
            let len = entry.name.as_str().len() + 64;
            let fits = len <= room;
            room = room.saturating_sub(len);
            fits
        });
        let count = fits.count();
        let cut = count < entries.len();
        entries.truncate(count);
        Message::Listing { entries, more: more || cut }
    }

    /// A `Goodbye` with the beginning of this reason.
    pub fn goodbye(reason: &str) -> Self {
        Message::Goodbye(shortened(reason))
    }

    /// A `PutRefused` with the beginning of this text.
    pub fn put_refused(why: PutRefusal, text: &str) -> Self {
        Message::PutRefused { why, text: shortened(text) }
    }

    /// A `Have` for these ranges of pieces; at most [`HAVE_RANGES_MAX`] of them.
    pub fn have(root: Root, ranges: &[Range<u32>]) -> Self {
        Message::Have { root, pieces: ranges.iter().map(|r| (r.start, r.end)).collect() }
    }
}

/// As much of the beginning of a text as may be sent.
fn shortened(text: &str) -> String {
    let mut text = text.to_owned();
    while text.len() > TEXT_BYTES_MAX {
        text.pop();
    }
    text
}
