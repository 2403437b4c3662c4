//! The three datagrams: `get NAME`, `except N chunks HASH`, and a chunk with its hash.
//!
//! All of them are bounded and checked to the last byte; what does not fit is an error, to be counted and dropped.

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::limits::PATH_BYTES_MAX;
use crate::name::RelativePath;

/// Bytes of data in a chunk; the last one of a file may have fewer.
pub const CHUNK_DATA_SIZE: u32 = 1024;

/// Bytes before the data of a chunk: its number and its length.
pub const CHUNK_HEADER_SIZE: usize = 8;

/// Bytes after the data of a chunk: their SHA-256.
pub const CHUNK_HASH_SIZE: usize = 32;

/// The largest chunk datagram, in bytes; no datagram of this system is larger.
pub const DATAGRAM_SIZE_MAX: usize = CHUNK_HEADER_SIZE + CHUNK_DATA_SIZE as usize + CHUNK_HASH_SIZE;

/// The largest file, in bytes: chunk numbers have 32 bits.
pub const FILE_SIZE_MAX: u64 = u32::MAX as u64 * CHUNK_DATA_SIZE as u64;

/// Longest `except`: the words, ten digits, a hash, and a little that is trimmed.
const EXCEPT_SIZE_MAX: usize = 96;

/// Why a datagram is none of this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Does not begin as it should.
    #[error("neither get, except nor a chunk")]
    Unknown,
    /// The name is missing, or cannot be one within a share.
    #[error("no name that could be shared")]
    Name,
    /// Longer or shorter than it can be, or than it says.
    #[error("not as long as it should be")]
    Length,
    /// A chunk whose data have another hash.
    #[error("the data of a chunk do not have the hash that came with them")]
    Hash,
}

/// Whether a datagram is meant as a request, as servers tell it: by its first three bytes.
pub fn is_get(datagram: &[u8]) -> bool {
    datagram.starts_with(b"get")
}

/// The name that a `get` asks for: the second of the pieces between single spaces, whatever follows.
pub fn decode_get(datagram: &[u8]) -> Result<RelativePath, DecodeError> {
    if !is_get(datagram) {
        return Err(DecodeError::Unknown);
    }
    let name = datagram.split(|&byte| byte == b' ').nth(1).ok_or(DecodeError::Name)?;
    let name = std::str::from_utf8(name).map_err(|_| DecodeError::Name)?;
    name.parse().map_err(|_| DecodeError::Name)
}

/// The request for a file; `None` for a name with a space, which servers would cut there.
pub fn encode_get(name: &RelativePath) -> Option<Vec<u8>> {
    let name = name.as_str();
    (!name.contains(' ')).then(|| [b"get ", name.as_bytes()].concat())
}

/// What a server announces before the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Except {
    /// Number of chunks that follow.
    pub chunks: u32,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
}

impl Except {
    /// The announcement of a file of `size` bytes; `None` if it has more chunks than there are numbers.
    pub fn of_file(size: u64, sha256: Digest) -> Option<Self> {
        let chunks = u32::try_from(size.div_ceil(u64::from(CHUNK_DATA_SIZE))).ok()?;
        Some(Except { chunks, sha256 })
    }

    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        format!("except {} chunks {}", self.chunks, self.sha256).into_bytes()
    }

    /// Reads a datagram; white space and NULs at its end, as a C string may have, do not matter.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        if !datagram.starts_with(b"except ") {
            return Err(DecodeError::Unknown);
        }
        if datagram.len() > EXCEPT_SIZE_MAX {
            return Err(DecodeError::Length);
        }
        let text = std::str::from_utf8(datagram).map_err(|_| DecodeError::Unknown)?;
        let text = text.trim_end_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
        let mut words = text.split(' ').skip(1);
        let (Some(count), Some("chunks"), Some(hash), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(DecodeError::Unknown);
        };
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DecodeError::Unknown);
        }
        let chunks = count.parse().map_err(|_| DecodeError::Length)?;
        let sha256 = hash.parse().map_err(|_| DecodeError::Length)?;
        Ok(Except { chunks, sha256 })
    }
}

/// A chunk as it came in: what it says, not yet whether its hash is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Which one, from 0.
    pub number: u32,
    /// Its bytes; at most [`CHUNK_DATA_SIZE`].
    pub data: &'a [u8],
    /// The hash that came with them.
    hash: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads a datagram, which must be exactly as long as it says.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let (number, rest) = datagram.split_first_chunk::<4>().ok_or(DecodeError::Length)?;
        let (len, rest) = rest.split_first_chunk::<4>().ok_or(DecodeError::Length)?;
        let len = u32::from_be_bytes(*len);
        if len > CHUNK_DATA_SIZE || rest.len() != len as usize + CHUNK_HASH_SIZE {
            return Err(DecodeError::Length);
        }
        let (data, hash) = rest.split_at_checked(len as usize).ok_or(DecodeError::Length)?;
        Ok(Chunk { number: u32::from_be_bytes(*number), data, hash })
    }

    /// Whether the data have the hash that came with them. It proves that they arrived as they were sent, no more.
    pub fn verify(&self) -> Result<(), DecodeError> {
        if Sha256::digest(self.data).as_slice() == self.hash { Ok(()) } else { Err(DecodeError::Hash) }
    }
}

/// The place for the data in the buffer of a chunk datagram; `None` if `len` is more than a chunk.
pub fn chunk_data_mut(buffer: &mut [u8; DATAGRAM_SIZE_MAX], len: u32) -> Option<&mut [u8]> {
    if len > CHUNK_DATA_SIZE {
        return None;
    }
    buffer.get_mut(CHUNK_HEADER_SIZE..CHUNK_HEADER_SIZE + len as usize)
}

/// Puts the number, the length and the hash around data that [`chunk_data_mut`] has made room for: the datagram.
///
/// `len` must be at most [`CHUNK_DATA_SIZE`]; what is beyond is cut off.
pub fn seal_chunk(buffer: &mut [u8; DATAGRAM_SIZE_MAX], number: u32, len: u32) -> &[u8] {
    let len = len.min(CHUNK_DATA_SIZE);
    let (header, rest) = buffer.split_at_mut(CHUNK_HEADER_SIZE);
    let (data, rest) = rest.split_at_mut(len as usize);
    let (hash, _) = rest.split_at_mut(CHUNK_HASH_SIZE);
    let (number_place, len_place) = header.split_at_mut(4);
    number_place.copy_from_slice(&number.to_be_bytes());
    len_place.copy_from_slice(&len.to_be_bytes());
    hash.copy_from_slice(&Sha256::digest(&*data));
    let (datagram, _) = buffer.split_at(CHUNK_HEADER_SIZE + len as usize + CHUNK_HASH_SIZE);
    datagram
}

/// Longest request: the word, a space and a name.
pub const GET_SIZE_MAX: usize = 4 + PATH_BYTES_MAX;

const _: () = assert!(GET_SIZE_MAX < DATAGRAM_SIZE_MAX && EXCEPT_SIZE_MAX < DATAGRAM_SIZE_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_the_second_space() {
        let name = |datagram: &[u8]| decode_get(datagram).map(|name| name.as_str().to_owned());
        assert_eq!(name(b"get a.bin"), Ok("a.bin".into()));
        assert_eq!(name(b"get a b"), Ok("a".into()));
        assert_eq!(name(b"getting a"), Ok("a".into()));
        assert_eq!(name("get d/é".as_bytes()), Ok("d/é".into()));
        for nameless in [&b"get"[..], b"get ", b"get  a", b"get \xff", b"get ../a", b"get /a", b"get a\0"] {
            assert_eq!(name(nameless), Err(DecodeError::Name), "{nameless:?}");
        }
        assert_eq!(name(b"ge a"), Err(DecodeError::Unknown));
    }

    #[test]
    fn a_name_with_a_space_is_never_asked_for() {
        assert_eq!(encode_get(&"a b".parse().unwrap()), None);
        assert_eq!(encode_get(&"a/b".parse().unwrap()).unwrap(), b"get a/b");
    }

    #[test]
    fn announcements_are_checked_to_the_last_byte() {
        let hash = Digest::of(b"").to_string();
        let except = Except::of_file(1025, Digest::of(b"")).unwrap();
        assert_eq!(except.chunks, 2);
        assert_eq!(Except::decode(&except.encode()), Ok(except));
        assert_eq!(Except::decode(format!("except 2 chunks {hash}\n\0").as_bytes()), Ok(except));
        for (text, why) in [
            (format!("except -1 chunks {hash}"), DecodeError::Unknown),
            (format!("except +1 chunks {hash}"), DecodeError::Unknown),
            (format!("except  chunks {hash}"), DecodeError::Length),
            (format!("except 4294967296 chunks {hash}"), DecodeError::Length),
            (format!("except 1 chunks {hash} x"), DecodeError::Unknown),
            (format!("except 1 chunks {}", &hash[1..]), DecodeError::Length),
            (format!("except 1  chunks {hash}"), DecodeError::Unknown),
            (format!("except {} chunks {hash}", "0".repeat(1000)), DecodeError::Length),
            ("except".into(), DecodeError::Unknown),
        ] {
            assert_eq!(Except::decode(text.as_bytes()), Err(why), "{text}");
        }
        assert_eq!(Except::of_file(FILE_SIZE_MAX + 1, Digest::ZERO), None);
        assert_eq!(Except::of_file(FILE_SIZE_MAX, Digest::ZERO).unwrap().chunks, u32::MAX);
    }

    #[test]
    fn a_chunk_is_as_long_as_it_says_and_has_its_hash() {
        let mut buffer = [0; DATAGRAM_SIZE_MAX];
        chunk_data_mut(&mut buffer, 5).unwrap().copy_from_slice(b"hello");
        let datagram = seal_chunk(&mut buffer, 0x0102_0304, 5).to_vec();
        let chunk = Chunk::decode(&datagram).unwrap();
        assert_eq!((chunk.number, chunk.data, chunk.verify()), (0x0102_0304, &b"hello"[..], Ok(())));
        for len in 0..datagram.len() {
            assert_eq!(Chunk::decode(&datagram[..len]), Err(DecodeError::Length));
        }
        for place in CHUNK_HEADER_SIZE..datagram.len() {
            let mut changed = datagram.clone();
            changed[place] ^= 1;
            assert_eq!(Chunk::decode(&changed).unwrap().verify(), Err(DecodeError::Hash));
        }
        let mut huge = datagram;
        huge[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Chunk::decode(&huge), Err(DecodeError::Length));
        assert_eq!(chunk_data_mut(&mut buffer, CHUNK_DATA_SIZE + 1), None);
    }
}
