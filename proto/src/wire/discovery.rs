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
    /// A node came up or changed what it has. Broadcast.
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
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OfferEntry {
    /// The name it has there.
    pub name: RelativePath,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970 of its last change; for people to choose by.
    pub mtime: i64,
    /// Its root, or how far hashing is.
    pub root: OfferedRoot,
}

/// Whether a node knows the root of what it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
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
    /// The bytes to send. Entries of an offer that do not fit are left out, and `more` is set.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Datagram::Offer(offer) => {
                let mut offer = offer.clone();
                loop {
                    let bytes = with_magic(&Datagram::Offer(offer.clone()));
                    if bytes.len() <= DATAGRAM_SIZE_MAX || offer.entries.is_empty() {
                        return bytes;
                    }
                    offer.entries.pop();
                    offer.more = true;
                }
            }
            Datagram::Query(_) => {
                // The padding is zero bytes behind the message: the size of a datagram is its only carrier.
                let mut bytes = with_magic(self);
                bytes.resize(DATAGRAM_SIZE_MAX, 0);
                bytes
            }
            Datagram::Hello(_) | Datagram::Bye(_) => with_magic(self),
        }
    }

    /// The message that a datagram's payload is.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        if payload.len() > DATAGRAM_SIZE_MAX {
            return Err(DecodeError::TooLong { len: payload.len(), limit: DATAGRAM_SIZE_MAX });
        }
        let body = payload.strip_prefix(&MAGIC).ok_or(DecodeError::Magic)?;
        let datagram: Datagram = match body.first() {
            Some(&QUERY_VARIANT) if payload.len() != DATAGRAM_SIZE_MAX => {
                return Err(DecodeError::Malformed("a query without its padding".into()));
            }
            Some(&QUERY_VARIANT) => codec::decode_padded::<_, DATAGRAM_SIZE_MAX>(body)?,
            _ => codec::decode::<_, DATAGRAM_SIZE_MAX>(body)?,
        };
        match &datagram {
            Datagram::Offer(Offer { from, .. }) | Datagram::Hello(from) | Datagram::Bye(from)
                if from.name.len() > NODE_NAME_BYTES_MAX =>
            {
                Err(DecodeError::Limit("name of the node"))
            }
            _ => Ok(datagram),
        }
    }
}

/// First byte of an encoded [`Datagram::Query`].
const QUERY_VARIANT: u8 = 0;

fn with_magic(datagram: &Datagram) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(codec::encode(datagram));
    bytes
}
