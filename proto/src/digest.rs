//! SHA-256 values and what they name: contents ([`Root`]) and nodes ([`NodeId`]).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A SHA-256 value: a leaf or an inner node of a Merkle tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The SHA-256 Merkle root that names a content; see [`crate::merkle`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub [u8; 32]);

/// The SHA-256 of a node's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// The random number of one running instance of a node; several may run with one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub u64);

impl Digest {
    /// The hash that stands for leaves beyond the end of a content (BEP 52).
    pub const ZERO: Digest = Digest([0; 32]);

    /// The SHA-256 of `data`.
    pub fn of(data: &[u8]) -> Self {
        Digest(Sha256::digest(data).into())
    }

    /// The SHA-256 of two digests, one after the other: their parent in a tree.
    pub fn parent(left: &Digest, right: &Digest) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(left.0);
        hasher.update(right.0);
        Digest(hasher.finalize().into())
    }
}

impl NodeId {
    /// The id of the node with this public key (the DER of its SubjectPublicKeyInfo).
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        NodeId(Digest::of(spki_der).0)
    }

    /// The first 8 hex digits: enough to tell nodes apart on a screen, never to trust one.
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

impl Root {
    /// The first 8 hex digits, for people.
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

/// The first hex digits of a root, as people type them: 8 to 64.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RootPrefix(String);

impl RootPrefix {
    /// Fewest hex digits that name a root.
    pub const DIGITS_MIN: usize = 8;

    /// Whether `root` begins with these digits.
    pub fn matches(&self, root: &Root) -> bool {
        root.to_string().starts_with(&self.0)
    }

    /// The digits, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Root> for RootPrefix {
    fn from(root: Root) -> Self {
        RootPrefix(root.to_string())
    }
}

/// A text that should be hex digits of a hash, and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hex digits")]
pub struct ParseHexError {
    expected: &'static str,
}

impl FromStr for RootPrefix {
    type Err = ParseHexError;
    fn from_str(s: &str) -> Result<Self, ParseHexError> {
        if (Self::DIGITS_MIN..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(RootPrefix(s.to_ascii_lowercase()))
        } else {
            Err(ParseHexError { expected: "8 to 64" })
        }
    }
}

impl fmt::Display for RootPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! hex_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseHexError;
            fn from_str(s: &str) -> Result<Self, ParseHexError> {
                unhex(s).map($name).ok_or(ParseHexError { expected: "64" })
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
    )*};
}
hex_text!(Digest, Root, NodeId);

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|n| DIGITS.get(usize::from(n))).collect()
}

fn unhex(s: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = s.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).filter_map(|p| Some(p.first()? << 4 | p.last()?)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_refuses_everything_else() {
        let root = Root(Digest::of(b"a").0);
        assert_eq!(root.to_string().parse(), Ok(root));
        assert_eq!(root.to_string(), "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
        assert_eq!(root.short(), "ca978112");
        for wrong in ["", "ca97", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), "é"] {
            assert!(wrong.parse::<Root>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes_match_whatever_the_case() {
        let root = Root(Digest::of(b"a").0);
        let prefix: RootPrefix = "CA978112".parse().unwrap();
        assert!(prefix.matches(&root));
        assert!(!"ca978113".parse::<RootPrefix>().unwrap().matches(&root));
        assert!("ca97811".parse::<RootPrefix>().is_err());
        assert!(RootPrefix::from(root).matches(&root));
    }
}
