//! The keys of the datagram lane, and what is done with them: datagrams are sealed and opened in place.
//!
//! Both sides of a session export one secret from its TLS. From that, the content's root, the number of the connection
//! and the direction follow a key and a 12-byte IV (HKDF-SHA256, RFC 5869). The nonce of a datagram is the IV xor its
//! sequence number (as in RFC 8446, section 5.3), and no number is used twice; connections have numbers of their own,
//! so that a content that is opened anew has new keys. Nothing is written down: a crash loses the keys, and the session
//! with them.

use std::fmt;

use aws_lc_rs::aead::{
    AES_128_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ftx_proto::digest::Root;
use ftx_proto::wire::datagram::{ConnectionId, HEADER_LEN, Header, Replays, SEQUENCE_MAX, TAG_LEN};
use rustls::{CipherSuite, CommonState};
use zeroize::Zeroizing;

/// By what the datagrams of a session are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    /// Where the session's TLS uses it: then both processors are good at it.
    Aes128Gcm,
    /// Everywhere else.
    ChaCha20Poly1305,
}

impl Aead {
    /// That of a session whose handshake is done.
    pub fn of(tls: &CommonState) -> Self {
        match tls.negotiated_cipher_suite().map(|suite| suite.suite()) {
            Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => Aead::Aes128Gcm,
            _ => Aead::ChaCha20Poly1305,
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Aead::Aes128Gcm => &AES_128_GCM,
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

/// What only the two sides of a session know; see the [module](self).
#[derive(Clone)]
pub struct DatagramSecret {
    bytes: Zeroizing<[u8; SECRET_LEN]>,
    aead: Aead,
}

impl fmt::Debug for DatagramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatagramSecret")
    }
}

impl DatagramSecret {
    /// This secret, for this way of sealing.
    pub fn new(bytes: [u8; SECRET_LEN], aead: Aead) -> Self {
        DatagramSecret { bytes: Zeroizing::new(bytes), aead }
    }

    /// Keys for what one side sends, and for what it receives, of one content.
    pub fn keys(&self, root: &Root, side: Side, connection: ConnectionId) -> (Sealer, Opener) {
        let secret = Salt::new(HKDF_SHA256, &root.0).extract(self.bytes.as_ref());
        let derive =
            |side| self.derive(&secret, side, connection).expect("HKDF gives what a key and an IV take");
        let (ours, theirs) = (derive(side), derive(side.other()));
        (
            Sealer { key: ours.0, iv: ours.1, connection, next: 0 },
            Opener {
                key: theirs.0,
                iv: theirs.1,
                connection,
                replays: Replays::default(),
                counts: OpenerCounts::default(),
            },
        )
    }

    fn derive(
        &self,
        secret: &Prk,
        sender: Side,
        connection: ConnectionId,
    ) -> Result<(LessSafeKey, [u8; NONCE_LEN]), Unspecified> {
        let connection = connection.0.to_be_bytes();
        let direction = match sender {
            Side::Asking => b"asking ",
            Side::Serving => b"serving",
        };
        let mut iv = [0; NONCE_LEN];
        let (for_key, for_iv): ([&[u8]; 4], [&[u8]; 4]) = (
            [b"ftx datagrams ", direction, &connection, b" key"],
            [b"ftx datagrams ", direction, &connection, b" iv"],
        );
        let key = UnboundKey::from(secret.expand(&for_key, self.aead.algorithm())?);
        secret.expand(&for_iv, IvLen)?.fill(&mut iv)?;
        Ok((LessSafeKey::new(key), iv))
    }
}

/// Length of an IV, as HKDF wants to be told.
struct IvLen;

impl KeyType for IvLen {
    fn len(&self) -> usize {
        NONCE_LEN
    }
}

/// Who of the two sides one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Sends Wants; it dialled the session.
    Asking,
    /// Sends fragments.
    Serving,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Asking => Side::Serving,
            Side::Serving => Side::Asking,
        }
    }
}

/// Every number of a connection is used; it has to be opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no numbers are left for datagrams")]
pub struct Exhausted;

/// Seals what one side sends, counting from 0.
pub struct Sealer {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    connection: ConnectionId,
    next: u64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("connection", &self.connection).field("next", &self.next).finish()
    }
}

impl Sealer {
    /// Appends one datagram to `out`, whose body `body` appends.
    ///
    /// # Errors
    /// [`Exhausted`], and then `out` is as it was.
    pub fn seal(&mut self, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), Exhausted> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        body(out);
        out.extend_from_slice(&[0; TAG_LEN]);
        self.seal_in_place(&mut out[start..]).inspect_err(|_| out.truncate(start))
    }

    /// Makes a datagram of a body that stands where it belongs, between the places of header and tag.
    ///
    /// # Errors
    /// [`Exhausted`], and then the datagram is as it was.
    pub fn seal_in_place(&mut self, datagram: &mut [u8]) -> Result<(), Exhausted> {
        if self.next >= SEQUENCE_MAX {
            return Err(Exhausted);
        }
        let header = Header { connection: self.connection, sequence: self.next }.encode();
        let nonce = nonce(&self.iv, self.next);
        // Whatever follows, this number is used.
        self.next += 1;
        let (head, rest) = datagram.split_at_mut(HEADER_LEN);
        let (body, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        head.copy_from_slice(&header);
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), body)
            .expect("a datagram is shorter than what can be sealed at once");
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    /// How many datagrams were sealed.
    pub fn sealed(&self) -> u64 {
        self.next
    }
}

/// How many datagrams were not let in, by the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenerCounts {
    /// Not sealed with the key.
    pub forged: u64,
    /// Came before, or so late that nobody can tell.
    pub replayed: u64,
    /// Of another connection, or no datagram of the lane at all.
    pub foreign: u64,
}

/// Opens what the other side sends, each datagram once.
pub struct Opener {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    connection: ConnectionId,
    replays: Replays,
    counts: OpenerCounts,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("connection", &self.connection).field("counts", &self.counts).finish()
    }
}

impl Opener {
    /// The header and the body of a datagram, opened in place, if the other side sealed it for this connection and it
    /// did not come before. Of one that did come before nothing is to be used; its bytes are of no more use either way.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Option<(Header, &'a mut [u8])> {
        let Some(header) = Header::decode(datagram).filter(|header| header.connection == self.connection)
        else {
            self.counts.foreign += 1;
            return None;
        };
        let (head, sealed) = datagram.split_at_mut(HEADER_LEN);
        let nonce = nonce(&self.iv, header.sequence);
        let Ok(body) = self.key.open_in_place(nonce, Aad::from(&*head), sealed) else {
            self.counts.forged += 1;
            return None;
        };
        if !self.replays.accept(header.sequence) {
            self.counts.replayed += 1;
            return None;
        }
        Some((header, body))
    }

    /// What was not let in so far.
    pub fn counts(&self) -> OpenerCounts {
        self.counts
    }
}

fn nonce(iv: &[u8; NONCE_LEN], sequence: u64) -> Nonce {
    let mut bytes = *iv;
    for (byte, number) in bytes.iter_mut().rev().zip(sequence.to_be_bytes().iter().rev()) {
        *byte ^= number;
    }
    Nonce::assume_unique_for_key(bytes)
}

/// Bytes of the secret of a session.
pub const SECRET_LEN: usize = 32;

/// For what the secret is exported from TLS.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-ftx-datagrams";

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Root = Root([7; 32]);
    const CONNECTION: ConnectionId = ConnectionId(0x0102_0304);

    fn secret(aead: Aead) -> DatagramSecret {
        DatagramSecret::new([9; SECRET_LEN], aead)
    }

    fn sealed(sealer: &mut Sealer, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        sealer.seal(&mut out, |out| out.extend_from_slice(body)).unwrap();
        out
    }

    #[test]
    fn what_one_side_seals_the_other_one_opens() {
        for aead in [Aead::Aes128Gcm, Aead::ChaCha20Poly1305] {
            let (mut ask, mut hear) = secret(aead).keys(&ROOT, Side::Asking, CONNECTION);
            let (mut answer, mut take) = secret(aead).keys(&ROOT, Side::Serving, CONNECTION);
            for (number, body) in [&b"wanted"[..], b"x", &[3; 16_391]].into_iter().enumerate() {
                let header = Header { connection: CONNECTION, sequence: number as u64 };
                let mut datagram = sealed(&mut ask, body);
                assert!(!datagram.windows(body.len().max(4)).any(|window| window == body));
                assert_eq!(take.open(&mut datagram), Some((header, &mut body.to_vec()[..])));
                let mut datagram = sealed(&mut answer, body);
                assert_eq!(hear.open(&mut datagram), Some((header, &mut body.to_vec()[..])));
            }
            assert_eq!(ask.sealed(), 3);
            assert_eq!((take.counts(), hear.counts()), Default::default());
        }
    }

    #[test]
    fn datagrams_are_appended_one_after_the_other() {
        let (mut sealer, _) = secret(Aead::Aes128Gcm).keys(&ROOT, Side::Asking, CONNECTION);
        let (_, mut opener) = secret(Aead::Aes128Gcm).keys(&ROOT, Side::Serving, CONNECTION);
        let mut out = Vec::new();
        for body in [b"first", b"other"] {
            sealer.seal(&mut out, |out| out.extend_from_slice(body)).unwrap();
        }
        let half = out.len() / 2;
        let (first, other) = out.split_at_mut(half);
        assert_eq!(opener.open(other).unwrap().1, b"other", "in any order");
        assert_eq!(opener.open(first).unwrap().1, b"first");
    }

    #[test]
    fn a_bit_changed_anywhere_is_a_forgery() {
        for aead in [Aead::Aes128Gcm, Aead::ChaCha20Poly1305] {
            let (mut sealer, _) = secret(aead).keys(&ROOT, Side::Asking, CONNECTION);
            let (_, mut opener) = secret(aead).keys(&ROOT, Side::Serving, CONNECTION);
            let datagram = sealed(&mut sealer, b"a body");
            for bit in 0..datagram.len() * 8 {
                let mut forged = datagram.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opener.open(&mut forged), None, "bit {bit}");
            }
            let OpenerCounts { forged, replayed, foreign } = opener.counts();
            assert_eq!((forged + foreign, replayed), (datagram.len() as u64 * 8, 0));
            assert_eq!(foreign, 32, "the bits of the connection's number");
            assert!(opener.open(&mut datagram.clone()).is_some(), "no forgery uses up a number");
        }
    }

    #[test]
    fn a_datagram_is_let_in_once() {
        let (mut sealer, _) = secret(Aead::Aes128Gcm).keys(&ROOT, Side::Asking, CONNECTION);
        let (_, mut opener) = secret(Aead::Aes128Gcm).keys(&ROOT, Side::Serving, CONNECTION);
        let datagram = sealed(&mut sealer, b"a body");
        assert!(opener.open(&mut datagram.clone()).is_some());
        assert!(opener.open(&mut datagram.clone()).is_none());
        assert_eq!(opener.counts(), OpenerCounts { replayed: 1, ..Default::default() });
    }

    #[test]
    fn keys_hold_for_one_direction_of_one_connection_of_one_session_only() {
        let aead = Aead::Aes128Gcm;
        let (mut sealer, mut other_way) = secret(aead).keys(&ROOT, Side::Asking, CONNECTION);
        let datagram = sealed(&mut sealer, b"a body");
        assert!(other_way.open(&mut datagram.clone()).is_none(), "sent back to who sent it");

        let open = |secret: &DatagramSecret, root: Root, connection: ConnectionId| {
            let (_, mut opener) = secret.keys(&root, Side::Serving, connection);
            // As if whoever forges it had changed the number in clear.
            let mut datagram = datagram.clone();
            datagram[..4].copy_from_slice(&connection.0.to_be_bytes());
            opener.open(&mut datagram).is_some()
        };
        assert!(open(&secret(aead), ROOT, CONNECTION));
        assert!(!open(&secret(aead), Root([8; 32]), CONNECTION));
        assert!(!open(&secret(aead), ROOT, ConnectionId(5)));
        assert!(!open(&DatagramSecret::new([8; SECRET_LEN], aead), ROOT, CONNECTION));
        assert!(!open(&secret(Aead::ChaCha20Poly1305), ROOT, CONNECTION));
    }

    #[test]
    fn what_is_no_datagram_of_the_lane_is_foreign() {
        let (_, mut opener) = secret(Aead::Aes128Gcm).keys(&ROOT, Side::Serving, CONNECTION);
        for len in [0, 1, HEADER_LEN, HEADER_LEN + 16] {
            assert!(opener.open(&mut vec![0; len]).is_none());
        }
        assert_eq!(opener.counts(), OpenerCounts { foreign: 4, ..Default::default() });
    }

    #[test]
    fn no_number_is_used_twice() {
        let (mut sealer, _) = secret(Aead::Aes128Gcm).keys(&ROOT, Side::Asking, CONNECTION);
        sealer.next = SEQUENCE_MAX - 1;
        let mut out = Vec::new();
        assert_eq!(sealer.seal(&mut out, |out| out.push(1)), Ok(()));
        let len = out.len();
        assert_eq!(sealer.seal(&mut out, |out| out.push(1)), Err(Exhausted));
        assert_eq!(out.len(), len);
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = secret(Aead::Aes128Gcm);
        let (sealer, opener) = secret.keys(&ROOT, Side::Asking, CONNECTION);
        assert_eq!(format!("{secret:?}"), "DatagramSecret");
        assert!(!format!("{sealer:?} {opener:?}").contains("iv"));
    }
}
