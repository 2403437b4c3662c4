//! A group's secret, and what follows from it: proofs in sessions, seals in discovery.
//!
//! From the secret follow two keys (HKDF-SHA256, RFC 5869), so that what is made with one says nothing about the other.
//!
//! **In a session** each side proves that it knows the secret with an HMAC-SHA256 over the session: what both sides export
//! from its TLS, the identities of both, and which of the two speaks. Somebody in the middle has a TLS session with either
//! side, and these export different bytes, so a proof that is passed on is none; sent back to who made it, it is none either.
//!
//! **In discovery** every datagram is sealed with ChaCha20-Poly1305 under one key and a random nonce of 96 bits. Among N
//! datagrams two have the same nonce with a chance of about N²/2⁹⁷: 2⁻³³ for 2³² datagrams, 2⁻²⁵ for the 2³⁶ that a group
//! of a hundred nodes says in a year if each says twenty a second. What it would tell is the difference of these two datagrams;
//! and it would let somebody forge datagrams with that one nonce, since the key of Poly1305 is made anew for each. (With
//! AES-GCM it would let him forge all of them.)
//!
//! Replayed datagrams open again; nothing here remembers them. A query brings an answer that only the group can read, no
//! larger than itself; an offer is asked for by a random number that nobody asks with any more, or names a node that has to prove
//! itself in a session; a hello brings a query, a bye makes a node be asked again. That is what anybody may cause who
//! is in no group at all.
//!
//! Whoever hears datagrams or dials can try guesses at the secret as fast as his machines compute. So it has to be random.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use ftx_proto::digest::NodeId;
use ftx_proto::wire::codec::DecodeError;
use ftx_proto::wire::discovery::Datagram;
use ftx_proto::wire::sealed::{self, NONCE_LEN, TAG_LEN};
use zeroize::Zeroizing;

use crate::error::{Code, Error};

/// For what the binding of a proof is exported from TLS.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-ftx-group";

/// Bytes that are exported.
pub const BINDING_LEN: usize = 32;

/// Shortest secret, in bytes.
const SECRET_BYTES_MIN: usize = 16;

/// Longest secret, in bytes.
const SECRET_BYTES_MAX: usize = 4096;

/// Who speaks in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// Who dialled it.
    Dialling,
    /// Who took it.
    Taking,
}

/// What a proof is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    /// What both sides export from the session's TLS.
    pub exported: [u8; BINDING_LEN],
    /// Who dialled.
    pub dialling: NodeId,
    /// Who took the session.
    pub taking: NodeId,
}

/// What whoever knows a group's secret can do.
pub struct GroupSecret {
    proving: hmac::Key,
    sealing: LessSafeKey,
}

impl fmt::Debug for GroupSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupSecret")
    }
}

/// A secret of this length is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has {0} bytes; a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}")]
pub struct WrongLength(usize);

impl GroupSecret {
    /// The secret in this file, without white space at its ends.
    ///
    /// # Errors
    /// [`Code::Usage`] if the file cannot be read, if others than its owner may read it, or if it holds no secret.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let wrong = |why: String| Error::new(Code::Usage, format!("--secret-file {}: {why}", path.display()));
        let cannot = |error: std::io::Error| wrong(format!("it cannot be read: {error}"));
        let file = std::fs::File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(wrong("it is a folder".to_owned()));
        }
        if metadata.mode() & 0o077 != 0 {
            let shown = path.display();
            return Err(wrong(format!(
                "others than its owner may use it (mode {:03o}); `chmod 600 {shown}` mends that, but who has read it \
                 meanwhile knows the secret",
                metadata.mode() & 0o777
            )));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * SECRET_BYTES_MAX));
        file.take(2 * SECRET_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(cannot)?;
        Self::new(bytes.trim_ascii())
            .map_err(|error| wrong(format!("{error} (`head -c 32 /dev/urandom | base64` makes a good one)")))
    }

    /// What follows from this secret.
    ///
    /// # Errors
    /// It is too short or too long.
    pub fn new(secret: &[u8]) -> Result<Self, WrongLength> {
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(WrongLength(secret.len()));
        }
        let prk = Salt::new(HKDF_SHA256, b"ftx-node group secret").extract(secret);
        let (proving, sealing) = Self::derive(&prk).expect("HKDF gives what two keys take");
        Ok(GroupSecret { proving, sealing })
    }

    fn derive(prk: &Prk) -> Result<(hmac::Key, LessSafeKey), Unspecified> {
        let proving = prk.expand(&[b"ftx session proof"], HMAC_SHA256)?.into();
        let sealing = UnboundKey::from(prk.expand(&[b"ftx discovery seal"], &CHACHA20_POLY1305)?);
        Ok((proving, LessSafeKey::new(sealing)))
    }

    /// That who speaks in this session knows the secret.
    pub fn proof(&self, speaker: Speaker, binding: &Binding) -> [u8; 32] {
        let tag = hmac::sign(&self.proving, &proved(speaker, binding));
        let mut proof = [0; 32];
        proof.copy_from_slice(tag.as_ref());
        proof
    }

    /// Whether this proves it. Takes the same time whatever is wrong.
    pub fn is_proof(&self, speaker: Speaker, binding: &Binding, proof: &[u8; 32]) -> bool {
        hmac::verify(&self.proving, &proved(speaker, binding), proof).is_ok()
    }

    /// A discovery datagram as it is sent.
    pub fn seal(&self, datagram: &Datagram) -> Vec<u8> {
        self.seal_with(rand::random(), datagram)
    }

    fn seal_with(&self, nonce: [u8; NONCE_LEN], datagram: &Datagram) -> Vec<u8> {
        let head = sealed::head(&nonce);
        let mut body = sealed::plain(datagram);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .sealing
            .seal_in_place_separate_tag(nonce, Aad::from(head), &mut body)
            .expect("a datagram is shorter than what can be sealed at once");
        [&head[..], &body, tag.as_ref()].concat()
    }

    /// The datagram that somebody of the group has sent.
    ///
    /// # Errors
    /// It is not of this group, or not whole.
    pub fn open(&self, payload: &[u8]) -> Result<Datagram, DecodeError> {
        let sealed::Parts { head, nonce, body } = sealed::split(payload)?;
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.sealing.open_in_place(nonce, Aad::from(head), &mut body);
        let plain =
            opened.map_err(|_| DecodeError::Malformed("not sealed with this group's secret".into()))?;
        sealed::from_plain(plain)
    }
}

/// What is proved, as bytes: each part has one length, so that no two of them say the same.
fn proved(speaker: Speaker, binding: &Binding) -> Vec<u8> {
    let label: &[u8; 12] = match speaker {
        Speaker::Dialling => b"ftx dialling",
        Speaker::Taking => b"ftx taking  ",
    };
    [&label[..], &binding.exported, &binding.dialling.0, &binding.taking.0].concat()
}

const _: () = assert!(TAG_LEN == 16 && NONCE_LEN == aws_lc_rs::aead::NONCE_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::digest::{Digest, Instance};
    use ftx_proto::wire::discovery::{Announce, Query, Want};
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    const SECRET: &[u8] = b"sixteen bytes or more";

    fn group(secret: &[u8]) -> GroupSecret {
        GroupSecret::new(secret).unwrap()
    }

    fn binding() -> Binding {
        Binding { exported: [1; 32], dialling: NodeId([2; 32]), taking: NodeId([3; 32]) }
    }

    fn query() -> Datagram {
        let want = Want::Name("a secret name.pdf".parse().unwrap());
        Datagram::Query(Query { nonce: 7, instance: Instance(8), want })
    }

    #[test]
    fn a_proof_holds_for_one_speaker_in_one_session_of_two_nodes() {
        let (group_one, binding) = (group(SECRET), binding());
        let proof = group_one.proof(Speaker::Dialling, &binding);
        assert!(group_one.is_proof(Speaker::Dialling, &binding, &proof));
        assert!(!group_one.is_proof(Speaker::Taking, &binding, &proof), "sent back to who made it");
        for other in [
            Binding { exported: [4; 32], ..binding },
            Binding { dialling: NodeId([4; 32]), ..binding },
            Binding { taking: NodeId([4; 32]), ..binding },
        ] {
            assert!(!group_one.is_proof(Speaker::Dialling, &other, &proof), "{other:?}");
        }
        assert!(!group(b"another one, as long as that").is_proof(Speaker::Dialling, &binding, &proof));
        for bit in 0..256 {
            let mut wrong = proof;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!group_one.is_proof(Speaker::Dialling, &binding, &wrong), "bit {bit}");
        }
    }

    #[test]
    fn the_bytes_of_proofs_and_seals_are_pinned() {
        let group = group(SECRET);
        let proof = Digest(group.proof(Speaker::Dialling, &binding()));
        assert_eq!(proof.to_string(), "bd7a8e00da43ddc89f5810fda2e774e76c39b3acb9cba30c723b80a2aedb45cb");
        let proof = Digest(group.proof(Speaker::Taking, &binding()));
        assert_eq!(proof.to_string(), "713c51247cb15c366ea7e41c149bfd63955fead1e2420e989896aa1d7d5ea01b");
        let sealed = group.seal_with([9; NONCE_LEN], &query());
        assert_eq!(
            Digest::of(&sealed).to_string(),
            "3a370db483625b49a3d4229cadfe03f61adb31dd91fdc9093cb05cf3c5031c28"
        );
    }

    #[test]
    fn what_is_sealed_shows_nothing_and_opens_for_the_group_only() {
        let (one, other) = (group(SECRET), group(b"another one, as long as that"));
        let bye = Datagram::Bye(Announce {
            node: NodeId([1; 32]),
            instance: Instance(2),
            port: 3,
            name: "the name of a node".into(),
        });
        for datagram in [query(), bye] {
            let sealed = one.seal(&datagram);
            for clear in [&b"secret name"[..], b"the name", b"FTX1", &[0; 16], &[1; 16]] {
                assert!(!sealed.windows(clear.len()).any(|window| window == clear), "{clear:?} shows");
            }
            assert_eq!(one.open(&sealed), Ok(datagram.clone()));
            assert!(other.open(&sealed).is_err());
            assert!(Datagram::decode(&sealed).is_err(), "who has no secret takes it for nothing");
            assert!(one.open(&datagram.encode()).is_err(), "what is not sealed is not heard");
            assert_ne!(one.seal(&datagram), sealed, "with another nonce each time");
        }
    }

    #[test]
    fn a_bit_changed_anywhere_is_a_forgery() {
        let group = group(SECRET);
        let sealed = group.seal(&query());
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(group.open(&forged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_file_of_the_owners_holds_the_secret_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let load = |bytes: &[u8], mode| {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            GroupSecret::load(&path)
        };
        let trimmed = load(b"  sixteen bytes or more\n", 0o600).unwrap();
        let proof = group(SECRET).proof(Speaker::Taking, &binding());
        assert!(trimmed.is_proof(Speaker::Taking, &binding(), &proof));
        for (bytes, mode, why) in [
            (SECRET, 0o640, "mode 640"),
            (SECRET, 0o604, "mode 604"),
            (b" fifteen bytes!!\n ", 0o600, "15 bytes"),
            (&[b'x'; 5000], 0o600, "5000 bytes"),
            (b"", 0o600, "0 bytes"),
        ] {
            let error = load(bytes, mode).unwrap_err();
            assert_eq!(error.code, Code::Usage);
            assert!(error.message.contains(why), "{error}");
        }
        let error = GroupSecret::load(&dir.path().join("none")).unwrap_err();
        assert!(error.message.contains("cannot be read"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", group(SECRET)), "GroupSecret");
    }
}
