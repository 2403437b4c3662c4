//! The encoding of messages: the only place that names bincode.
//!
//! bincode 2, standard configuration (little-endian, variable-length integers, `u32` variant numbers). Its bytes are
//! pinned by golden files in the tests, so that another implementation of the same format can take its place.
//!
//! Decoding is exact and bounded: a message that claims more than it holds, or holds more than it claims, is an error.

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError as BincodeDecodeError, EncodeError};
pub(crate) use bincode::{BorrowDecode, Decode, Encode};

use crate::digest::{Digest, Instance, NodeId, Root, RootPrefix};
use crate::name::RelativePath;

/// Bytes that are no message of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than the limit of this kind of message.
    #[error("{len} bytes are more than the {limit} allowed")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Does not begin as such a message does.
    #[error("not a message of this protocol")]
    Magic,
    /// Ends early, claims too much, or holds a value that is not allowed.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Bytes are left over behind the message.
    #[error("{0} bytes behind the end of the message")]
    Trailing(usize),
    /// Well-formed, but a field is beyond its limit.
    #[error("{0} is beyond its limit")]
    Limit(&'static str),
}

/// The bytes of a message.
pub(crate) fn encode<T: Encode>(message: &T) -> Vec<u8> {
    match bincode::encode_to_vec(message, bincode::config::standard()) {
        Ok(bytes) => bytes,
        // Our messages hold nothing that could fail to encode, and a vector grows.
        Err(error) => unreachable!("encoding into memory: {error}"),
    }
}

/// The message that `bytes` are, exactly; at most `LIMIT` of them.
pub(crate) fn decode<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    match decode_prefix::<T, LIMIT>(bytes)? {
        (message, []) => Ok(message),
        (_, rest) => Err(DecodeError::Trailing(rest.len())),
    }
}

/// The message that `bytes`, at most `LIMIT` of them, begin with, and what is behind it.
pub(crate) fn decode_prefix<T: Decode<()>, const LIMIT: usize>(
    bytes: &[u8],
) -> Result<(T, &[u8]), DecodeError> {
    if bytes.len() > LIMIT {
        return Err(DecodeError::TooLong { len: bytes.len(), limit: LIMIT });
    }
    let mut rest = bytes;
    Ok((decode_next(&mut rest)?, rest))
}

/// The list that `bytes`, of any length, are exactly; it has at most `count_max` members.
///
/// Read member by member, so that a list which claims more than it holds takes no more memory than what it holds.
pub(crate) fn decode_list<T: Decode<()>>(mut bytes: &[u8], count_max: usize) -> Result<Vec<T>, DecodeError> {
    let count: u64 = decode_next(&mut bytes)?;
    let count = usize::try_from(count).ok().filter(|count| *count <= count_max.min(bytes.len()));
    let count = count.ok_or(DecodeError::Limit("length of a list"))?;
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(decode_next(&mut bytes)?);
    }
    if bytes.is_empty() { Ok(members) } else { Err(DecodeError::Trailing(bytes.len())) }
}

/// The value that `bytes` begin with, which it takes off them.
fn decode_next<T: Decode<()>>(bytes: &mut &[u8]) -> Result<T, DecodeError> {
    // The limit counts bytes of memory claimed, so a text or list of hostile length fails before it is allocated.
    let config = bincode::config::standard().with_limit::<MEMORY_LIMIT>();
    let (value, used) = bincode::decode_from_slice(bytes, config)
        .map_err(|error: BincodeDecodeError| DecodeError::Malformed(error.to_string()))?;
    *bytes = bytes.get(used..).unwrap_or_default();
    Ok(value)
}

/// What decoding one message may claim, in bytes: lists of structs count with their size in memory.
const MEMORY_LIMIT: usize = 1 << 20;

/// Hashes travel as 32 bytes.
macro_rules! plain_32_bytes {
    ($($name:ident),*) => {$(
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.0.encode(encoder)
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, BincodeDecodeError> {
                Ok($name(<[u8; 32]>::decode(decoder)?))
            }
        }
        bincode::impl_borrow_decode!($name);
    )*};
}
plain_32_bytes!(Digest, Root, NodeId);

/// Eight bytes, little-endian: a random number gains nothing from a variable length.
impl Encode for Instance {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.to_le_bytes().encode(encoder)
    }
}

impl<C> Decode<C> for Instance {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, BincodeDecodeError> {
        Ok(Instance(u64::from_le_bytes(<[u8; 8]>::decode(decoder)?)))
    }
}
bincode::impl_borrow_decode!(Instance);

/// Names travel as text, and are checked as they come in.
macro_rules! checked_text {
    ($($name:ident),*) => {$(
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.as_str().encode(encoder)
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, BincodeDecodeError> {
                let text = String::decode(decoder)?;
                text.parse().map_err(|error| BincodeDecodeError::OtherString(format!("{error}")))
            }
        }
        impl<'de, C> BorrowDecode<'de, C> for $name {
            fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
                decoder: &mut D,
            ) -> Result<Self, BincodeDecodeError> {
                Decode::decode(decoder)
            }
        }
    )*};
}
checked_text!(RelativePath, RootPrefix);
