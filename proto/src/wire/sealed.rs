//! Discovery within a group that has a secret: the same messages, sealed, so that nobody else reads or makes them.
//!
//! A datagram is `FTXS`, a nonce of 12 bytes, and one sealed [`Datagram`] with the 16 bytes of its seal. What is sealed is
//! filled up with zeros to one of two sizes, so that its length tells no more than whether much was said. Keys, nonces and
//! the sealing itself belong to those who have them; this is the form around it.

use super::codec::DecodeError;
use super::discovery::Datagram;
use crate::limits::{ANSWER_TWICE_BYTES_MAX, DATAGRAM_SIZE_MAX, SEALED_OVERHEAD};

/// What every sealed datagram begins with.
pub const MAGIC: [u8; 4] = *b"FTXS";

/// Bytes of the nonce.
pub const NONCE_LEN: usize = 12;

/// Bytes of the seal.
pub const TAG_LEN: usize = 16;

/// Bytes before what is sealed: magic and nonce. The seal covers them too.
pub const HEAD_LEN: usize = MAGIC.len() + NONCE_LEN;

/// The two sizes of what is sealed. Two of the shorter ones, sealed, are no larger than a sealed query.
pub const PLAIN_SIZES: [usize; 2] = [ANSWER_TWICE_BYTES_MAX, DATAGRAM_SIZE_MAX];

/// The beginning of a sealed datagram with this nonce.
pub fn head(nonce: &[u8; NONCE_LEN]) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    for (to, from) in head.iter_mut().zip(MAGIC.iter().chain(nonce)) {
        *to = *from;
    }
    head
}

/// A sealed datagram, cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// What it begins with.
    pub head: [u8; HEAD_LEN],
    /// In the head.
    pub nonce: [u8; NONCE_LEN],
    /// What is sealed, with its tag.
    pub body: &'a [u8],
}

/// Cuts a sealed datagram.
///
/// # Errors
/// It is none, or has not the size of one.
pub fn split(payload: &[u8]) -> Result<Parts<'_>, DecodeError> {
    let (head, body) = payload.split_first_chunk::<HEAD_LEN>().ok_or(DecodeError::Magic)?;
    let nonce = head.strip_prefix(&MAGIC).and_then(|nonce| <[u8; NONCE_LEN]>::try_from(nonce).ok());
    let nonce = nonce.ok_or(DecodeError::Magic)?;
    match body.len().checked_sub(TAG_LEN) {
        Some(len) if PLAIN_SIZES.contains(&len) => Ok(Parts { head: *head, nonce, body }),
        _ => Err(DecodeError::Malformed("not of the size of a sealed datagram".into())),
    }
}

/// What is sealed of a datagram: its bytes, filled up with zeros.
pub fn plain(datagram: &Datagram) -> Vec<u8> {
    let mut bytes = datagram.encode();
    let size = PLAIN_SIZES.into_iter().find(|size| bytes.len() <= *size);
    bytes.resize(size.unwrap_or(DATAGRAM_SIZE_MAX), 0);
    bytes
}

/// The datagram that was sealed.
///
/// # Errors
/// As for [`Datagram::decode`], but that zeros may follow every message.
pub fn from_plain(bytes: &[u8]) -> Result<Datagram, DecodeError> {
    Datagram::decode_filled(bytes)
}

const _: () = assert!(HEAD_LEN + TAG_LEN == SEALED_OVERHEAD);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Instance, NodeId};
    use crate::wire::discovery::{Announce, Offer, Query, Want};

    fn bye(name: &str) -> Datagram {
        let (node, instance) = (NodeId([1; 32]), Instance(2));
        Datagram::Bye(Announce { node, instance, port: 3, name: name.into() })
    }

    #[test]
    fn what_is_sealed_has_one_of_two_sizes_and_comes_back() {
        let query = Datagram::Query(Query { nonce: 1, instance: Instance(2), want: Want::All });
        let Datagram::Bye(from) = bye("x") else { unreachable!() };
        // The last byte of it is a zero of its own.
        let offer = Datagram::Offer(Offer { nonce: 1, from, entries: Vec::new(), more: false });
        for (datagram, size) in [(query, 1200), (offer, 584), (bye(""), 584), (bye(&"n".repeat(64)), 584)] {
            let bytes = plain(&datagram);
            assert_eq!(bytes.len(), size, "{datagram:?}");
            assert_eq!(from_plain(&bytes), Ok(datagram));
        }
    }

    #[test]
    fn what_follows_has_to_be_zeros() {
        let mut bytes = plain(&bye("x"));
        if let Some(last) = bytes.last_mut() {
            *last = 1;
        }
        assert!(matches!(from_plain(&bytes), Err(DecodeError::Trailing(_))));
        assert_eq!(from_plain(b"FTXS"), Err(DecodeError::Magic));
    }

    #[test]
    fn a_sealed_datagram_is_cut_only_if_it_can_be_one() {
        let nonce = [7; NONCE_LEN];
        let mut payload = head(&nonce).to_vec();
        payload.resize(616, 9);
        let Parts { head, nonce: found, body } = split(&payload).unwrap();
        assert_eq!((&head[..4], found, body.len()), (&MAGIC[..], nonce, 600));
        for len in [0, 4, 16, 31, 32, 615, 617, 1231, 1233] {
            payload.resize(len, 9);
            assert!(split(&payload).is_err(), "{len}");
        }
        assert_eq!(split(&[b'X'; 616]), Err(DecodeError::Magic));
    }
}
