//! The records of a TLS 1.3 connection whose handshake is done (RFC 8446, section 5): sealed and opened where they lie.
//!
//! `rustls` makes the handshake and hands over the keys; from there on it would copy each byte twice on either side. This
//! owns a key and the number of the next record, for one direction each. It writes nothing but application data and the
//! closing alert, and reads these; what else a peer may say after a handshake (new keys, an alert) ends the connection. A key
//! is given up long before it has sealed too much, and with it the connection: its lane is asked for again. A crash loses
//! the keys, and the connection with them.

use std::fmt;
use std::io;
use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

/// Bytes before what a record carries: its type, a version that says nothing, its length.
pub(super) const HEAD_LEN: usize = 5;

/// Bytes behind it: the type once more, this time sealed, and the tag.
pub(super) const TAIL_LEN: usize = 1 + TAG_LEN;

/// Most bytes that a record carries: those of one chunk.
pub(super) const PLAIN_MAX: usize = 1 << 14;

/// Longest record, in bytes. Whoever seals may pad it.
pub(super) const RECORD_MAX: usize = HEAD_LEN + SEALED_MAX;

const SEALED_MAX: usize = PLAIN_MAX + 256;
const TAG_LEN: usize = 16;

/// The version that all records after the handshake name.
const VERSION: [u8; 2] = [3, 3];

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// The message of a handshake that offers a ticket; nobody here ever comes back with one.
const NEW_SESSION_TICKET: u8 = 4;

/// The alert that says that nothing follows.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// Records that one key may seal: 128 GiB. With AES-GCM an attacker learns something from 2^24.5 full ones (section 5.5).
const RECORDS_MAX: u64 = 1 << 23;

/// A key for one direction, and what it has done.
struct Key {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    next: u64,
}

impl Key {
    /// The key that the handshake has given, and the number of the next record.
    fn new((next, secrets): (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(invalid("a cipher that is not known here")),
        };
        let key =
            UnboundKey::new(algorithm, key.as_ref()).map_err(|_| invalid("a key of the wrong length"))?;
        let iv = iv.as_ref().try_into().map_err(|_| invalid("an IV of the wrong length"))?;
        Ok(Key { key: LessSafeKey::new(key), iv, next })
    }

    /// The nonce of the next record, whose number is used with that.
    fn nonce(&mut self) -> io::Result<Nonce> {
        if self.next >= RECORDS_MAX {
            return Err(io::Error::other("this connection has carried all that its keys are good for"));
        }
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= number;
        }
        self.next += 1;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Seals what one side sends.
pub struct Sealer(Key);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("next", &self.0.next).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Seals with what the handshake has given for sending.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        Key::new(secrets).map(Sealer)
    }

    /// Makes a record of application data that stands where it belongs, between [`HEAD_LEN`] and [`TAIL_LEN`] bytes.
    ///
    /// # Errors
    /// If the key has sealed all that it may.
    pub(super) fn seal(&mut self, record: &mut [u8]) -> io::Result<()> {
        self.seal_as(APPLICATION_DATA, record)
    }

    /// Appends the record that says that nothing follows.
    ///
    /// # Errors
    /// If the key has sealed all that it may.
    pub(super) fn seal_close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + HEAD_LEN + CLOSE_NOTIFY.len() + TAIL_LEN, 0);
        out[start + HEAD_LEN..][..CLOSE_NOTIFY.len()].copy_from_slice(&CLOSE_NOTIFY);
        self.seal_as(ALERT, &mut out[start..])
    }

    fn seal_as(&mut self, kind: u8, record: &mut [u8]) -> io::Result<()> {
        let (head, body) = record.split_at_mut(HEAD_LEN);
        assert!((TAIL_LEN..=PLAIN_MAX + TAIL_LEN).contains(&body.len()), "a record is cut to its length");
        let len = (body.len() as u16).to_be_bytes();
        head.copy_from_slice(&[APPLICATION_DATA, VERSION[0], VERSION[1], len[0], len[1]]);
        let (plain, tag) = body.split_at_mut(body.len() - TAG_LEN);
        if let Some(last) = plain.last_mut() {
            *last = kind;
        }
        let nonce = self.0.nonce()?;
        let sealed = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(&*head), plain);
        tag.copy_from_slice(sealed.map_err(|_| io::Error::other("a record cannot be sealed"))?.as_ref());
        Ok(())
    }
}

/// What a record was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opened {
    /// Application data, in this place of the record.
    Data(Range<usize>),
    /// Something that nobody needs to know.
    Nothing,
    /// The peer says that nothing follows.
    Closed,
}

/// Opens what the other side sends.
pub struct Opener(Key);

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("next", &self.0.next).finish_non_exhaustive()
    }
}

impl Opener {
    /// Opens with what the handshake has given for receiving.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        Key::new(secrets).map(Opener)
    }

    /// Opens a whole record ([`record_len`]) in place.
    ///
    /// # Errors
    /// If it is not what the other side sealed next, or nothing that may come after a handshake.
    pub(super) fn open(&mut self, record: &mut [u8]) -> io::Result<Opened> {
        let (head, body) = record.split_at_mut(HEAD_LEN);
        let nonce = self.0.nonce()?;
        let opened = self.0.key.open_in_place(nonce, Aad::from(&*head), body);
        let plain = opened.map_err(|_| invalid("a record that the peer did not seal"))?;
        // Behind the type there may be zeros, to hide how long the rest is.
        let padded = plain.iter().rposition(|byte| *byte != 0);
        let (content, kind) = padded
            .and_then(|last| Some((plain.get(..last)?, *plain.get(last)?)))
            .ok_or_else(|| invalid("a record without a type"))?;
        match (kind, content) {
            (APPLICATION_DATA, content) if content.len() <= PLAIN_MAX => {
                Ok(Opened::Data(HEAD_LEN..HEAD_LEN + content.len()))
            }
            (ALERT, content) if content == CLOSE_NOTIFY => Ok(Opened::Closed),
            (ALERT, [_, alert]) => {
                Err(invalid(format!("the peer gives up the connection (TLS alert {alert})")))
            }
            (HANDSHAKE, [NEW_SESSION_TICKET, ..]) => Ok(Opened::Nothing),
            (HANDSHAKE, _) => Err(invalid("the peer wants other keys, which ends a connection here")),
            _ => Err(invalid("a record of a kind that does not belong here")),
        }
    }
}

/// Bytes of the record that begins with these; `None` until so much of it is there that it says so.
///
/// # Errors
/// If it is no record that may come after a handshake, or too long for one.
pub(super) fn record_len(begun: &[u8]) -> io::Result<Option<usize>> {
    let Some(&[kind, major, minor, high, low]) = begun.get(..HEAD_LEN) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if kind != APPLICATION_DATA || [major, minor] != VERSION || !(TAIL_LEN..=SEALED_MAX).contains(&len) {
        return Err(invalid("what came is no record of TLS 1.3"));
    }
    Ok(Some(HEAD_LEN + len))
}

pub(super) fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A sealer, and the opener for what it seals.
    pub(in crate::net) fn pair() -> (Sealer, Opener) {
        let secrets = || {
            let (key, iv) = ([7; 32].into(), [9; NONCE_LEN].into());
            (0, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv })
        };
        (Sealer::new(secrets()).unwrap(), Opener::new(secrets()).unwrap())
    }

    fn record(sealer: &mut Sealer, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut record = vec![0; HEAD_LEN];
        record.extend_from_slice(content);
        if padding == 0 {
            record.resize(HEAD_LEN + content.len() + TAIL_LEN, 0);
            sealer.seal_as(kind, &mut record).unwrap();
        } else {
            // What is sealed ends with a type of 0, so that it is padding.
            record.push(kind);
            record.resize(HEAD_LEN + content.len() + padding + TAIL_LEN, 0);
            sealer.seal_as(0, &mut record).unwrap();
        }
        record
    }

    #[test]
    fn what_is_sealed_is_opened_in_its_turn_and_once() {
        let (mut sealer, mut opener) = pair();
        let mut records: Vec<_> = [0, 1, 1000, PLAIN_MAX]
            .into_iter()
            .map(|len| (len, record(&mut sealer, APPLICATION_DATA, &vec![3; len], 0)))
            .collect();
        for (len, record) in &mut records {
            assert_eq!(record_len(record).unwrap(), Some(record.len()));
            assert_eq!(opener.open(record).unwrap(), Opened::Data(HEAD_LEN..HEAD_LEN + *len));
            assert_eq!(record[HEAD_LEN..HEAD_LEN + *len], vec![3; *len]);
        }
        let mut again = record(&mut sealer, APPLICATION_DATA, b"x", 0);
        let mut copy = again.clone();
        opener.open(&mut again).unwrap();
        opener.open(&mut copy).unwrap_err();
    }

    #[test]
    fn whatever_is_changed_on_the_way_is_refused() {
        let (mut sealer, _) = pair();
        let sealed = record(&mut sealer, APPLICATION_DATA, b"some bytes", 0);
        for place in 0..sealed.len() {
            let (_, mut opener) = pair();
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            let refused = match record_len(&changed) {
                // Whoever reads waits for as many bytes as it says.
                Ok(Some(len)) => {
                    changed.resize(len, 0);
                    opener.open(&mut changed).is_err()
                }
                other => other.is_err(),
            };
            assert!(refused, "byte {place}");
        }
    }

    #[test]
    fn padding_is_taken_away_and_what_does_not_belong_here_is_refused() {
        let (mut sealer, mut opener) = pair();
        let mut padded = record(&mut sealer, APPLICATION_DATA, b"abc\0", 100);
        assert_eq!(opener.open(&mut padded).unwrap(), Opened::Data(HEAD_LEN..HEAD_LEN + 4));
        let mut ticket = record(&mut sealer, HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 0], 0);
        assert_eq!(opener.open(&mut ticket).unwrap(), Opened::Nothing);
        let mut close = Vec::new();
        sealer.seal_close(&mut close).unwrap();
        assert_eq!(opener.open(&mut close).unwrap(), Opened::Closed);
        let key_update: &[u8] = &[24, 0, 0, 1, 0];
        for (kind, content) in [(ALERT, &[2, 40][..]), (HANDSHAKE, key_update), (20, &[1]), (0, &[])] {
            let mut other = record(&mut sealer, kind, content, 0);
            opener.open(&mut other).unwrap_err();
        }
    }

    #[test]
    fn lengths_and_kinds_are_looked_at_before_anything_is_waited_for() {
        assert_eq!(record_len(&[23, 3, 3, 0]).unwrap(), None);
        assert_eq!(record_len(&[23, 3, 3, 0x41, 0]).unwrap(), Some(RECORD_MAX));
        for head in [[22, 3, 3, 0, 20], [23, 3, 1, 0, 20], [23, 3, 3, 0, 16], [23, 3, 3, 0x41, 1]] {
            record_len(&head).unwrap_err();
        }
    }

    #[test]
    fn a_key_is_given_up_before_it_has_sealed_too_much() {
        let (mut sealer, mut opener) = pair();
        (sealer.0.next, opener.0.next) = (RECORDS_MAX - 1, RECORDS_MAX - 1);
        let mut last = record(&mut sealer, APPLICATION_DATA, b"last", 0);
        opener.open(&mut last).unwrap();
        sealer.seal(&mut [0; 100]).unwrap_err();
    }
}
