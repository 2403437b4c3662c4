//! Discovery messages: UDP datagrams of at most 1200 bytes, `FTX1` and one bincode message.
//!
//! Everything heard here is a hint: identity is proved in the session, content by its root.

use super::codec::{self, Decode, DecodeError, Encode};
use crate::digest::{Instance, NodeId, Root, RootPrefix};
use crate::limits::{DATAGRAM_SIZE_MAX, NODE_NAME_BYTES_MAX};
use crate::name::RelativePath;

/// What every discovery datagram of version 1 begins with.
pub const MAGIC: [u8; 4] = *b"FTX1";

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Datagram {
    /// Who has this? To a broadcast address, or to one node.
    Query(Query),
    /// The answer, to the asker's address only.
    Offer(Offer),
    /// A node came up or changed what it has. Broadcast. Padded like a query, since others ask back.
    Hello(Announce),
    /// A node goes away. Broadcast.
    Bye(Announce),
}

/// A question. It is padded to the size of the largest answer, so that a forged sender gains nothing.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Query {
    /// Chosen by the asker; comes back in the offers.
    pub nonce: u64,
    /// Who asks.
    pub instance: Instance,
    /// What is wanted.
    pub want: Want,
}

/// What a query asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Want {
    /// A content by its name.
    Name(RelativePath),
    /// A content by its root, or the beginning of it.
    Root(RootPrefix),
    /// Who is there at all; the offers' entries may be empty.
    All,
}

/// What one node has of what was asked. No entries: the node is there and has nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// From the query.
    pub nonce: u64,
    /// Who answers.
    pub from: Announce,
    /// What it has.
    pub entries: Vec<OfferEntry>,
    /// There are more entries than fit; a session lists them all.
    pub more: bool,
}

/// One content that a node offers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct OfferEntry {
    /// The name it has there.
    pub name: RelativePath,
    /// What it is.
    pub kind: OfferedKind,
    /// Bytes; of a folder those of all its files.
    pub size: u64,
    /// Seconds since 1970 of its last change; for people to choose by.
    pub mtime: i64,
    /// Its root, or how far hashing is.
    pub root: OfferedRoot,
}

/// What is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum OfferedKind {
    /// A file.
    File,
    /// A folder.
    Folder(
        /// Its manifest as this node gives it; once the root is known.
        Option<OfferedManifest>,
    ),
}

/// The encoded manifest of a folder, which is a content like any other. Those of nodes whose files have other times differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct OfferedManifest {
    /// Its Merkle root.
    pub root: Root,
    /// Its bytes.
    pub size: u64,
}

/// Whether a node knows the root of what it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum OfferedRoot {
    /// Known, and all pieces are there.
    Whole(Root),
    /// Known; the node is fetching it and has this many pieces so far.
    Partial {
        /// What is fetched.
        root: Root,
        /// Pieces verified so far.
        pieces: u32,
    },
    /// Being hashed, this many bytes so far.
    Hashing(u64),
}

impl OfferedRoot {
    /// The root, if it is known.
    pub fn root(&self) -> Option<Root> {
        match *self {
            OfferedRoot::Whole(root) | OfferedRoot::Partial { root, .. } => Some(root),
            OfferedRoot::Hashing(_) => None,
        }
    }
}

/// Who a node is and where its sessions are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Announce {
    /// Its claimed identity.
    pub node: NodeId,
    /// Which of that identity's instances.
    pub instance: Instance,
    /// TCP port of its sessions, at the address the datagram came from.
    pub port: u16,
    /// What it calls itself; for people.
    pub name: String,
}

impl Datagram {
    /// Who says that it sent it.
    pub fn instance(&self) -> Instance {
        match self {
            Datagram::Query(query) => query.instance,
            Datagram::Offer(Offer { from, .. }) | Datagram::Hello(from) | Datagram::Bye(from) => {
                from.instance
            }
        }
    }

    /// The bytes to send. Entries of an offer that do not fit are left out, and `more` is set.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = with_magic(self);
        match self {
            Datagram::Offer(offer) if bytes.len() > DATAGRAM_SIZE_MAX => {
                with_magic(&Datagram::Offer(offer.cut_to_fit()))
            }
            _ if self.is_padded() => {
                // The padding is zero bytes behind the message: the size of a datagram is its only carrier.
                bytes.resize(DATAGRAM_SIZE_MAX, 0);
                bytes
            }
            _ => bytes,
        }
    }

    /// The message that a datagram's payload is.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        if payload.len() > DATAGRAM_SIZE_MAX {
            return Err(DecodeError::TooLong { len: payload.len(), limit: DATAGRAM_SIZE_MAX });
        }
        let body = payload.strip_prefix(&MAGIC).ok_or(DecodeError::Magic)?;
        let (datagram, rest) = codec::decode_prefix::<Datagram, DATAGRAM_SIZE_MAX>(body)?;
        // Judged by what was decoded, not by a look at the bytes: a number can be encoded in several ways.
        if datagram.is_padded() {
            if payload.len() != DATAGRAM_SIZE_MAX {
                return Err(DecodeError::Malformed("without its padding".into()));
            }
            if rest.iter().any(|byte| *byte != 0) {
                return Err(DecodeError::Trailing(rest.len()));
            }
        } else if !rest.is_empty() {
            return Err(DecodeError::Trailing(rest.len()));
        }
        match &datagram {
            Datagram::Offer(Offer { from, .. }) | Datagram::Hello(from) | Datagram::Bye(from)
                if from.name.len() > NODE_NAME_BYTES_MAX =>
            {
                Err(DecodeError::Limit("name of the node"))
            }
            _ => Ok(datagram),
        }
    }

    /// Whether it makes others send something back, and so has the size of the largest answer.
    fn is_padded(&self) -> bool {
        matches!(self, Datagram::Query(_) | Datagram::Hello(_))
    }
}

impl Offer {
    /// As many of the first entries as fit a datagram.
    fn cut_to_fit(&self) -> Offer {
        let cut = |count: usize| Offer {
            nonce: self.nonce,
            from: self.from.clone(),
            entries: self.entries.iter().take(count).cloned().collect(),
            more: true,
        };
        let (mut fits, mut too_many) = (0, self.entries.len());
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if with_magic(&Datagram::Offer(cut(middle))).len() <= DATAGRAM_SIZE_MAX {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        cut(fits)
    }
}

fn with_magic(datagram: &Datagram) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(codec::encode(datagram));
    bytes
}
