//! Tokens: what a client shows with every request after it logged in.
//!
//! A token is the padded base64 of `<user>.<stamp>.login.<mac>`. The classic one is stamped with the local time and has
//! an MD5 with a constant that everybody knows as its MAC: it proves nothing, never expires, and is what the programs in
//! use make by themselves. Ours is stamped with the second (UTC, since 1970) at which it expires, and its MAC is an
//! HMAC-SHA256 under a key that only this node has, over the secret of its user as well, so it is over when that is
//! another or none. Neither needs to be remembered: any connection may show a token that another one was given.
//!
//! It refuses to judge passwords that have a secret behind them: that is slow on purpose and belongs to the shell.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::value::{Md5Sum, UserName, WallTime, hex};

/// How users and tokens are checked.
#[derive(Debug, Clone)]
pub enum Authenticator {
    /// As the originals do it: no secret at all. Whoever knows a user's name has the user's files.
    Classic,
    /// Passwords are verified by the shell, tokens are sealed with a key, for the secrets that stand now.
    Secrets(TokenKey, Arc<Secrets>),
}

/// Which users have a secret, and a digest of what is kept of it: another one as soon as the secret is another.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<UserName, [u8; 32]>);

impl FromIterator<(UserName, [u8; 32])> for Secrets {
    /// Of two with one name the first counts.
    fn from_iter<I: IntoIterator<Item = (UserName, [u8; 32])>>(secrets: I) -> Self {
        let mut all = BTreeMap::new();
        for (user, secret) in secrets {
            all.entry(user).or_insert(secret);
        }
        Secrets(all)
    }
}

impl Secrets {
    /// What is known of the secret of a user, if there is such a user.
    pub fn of(&self, user: &UserName) -> Option<&[u8; 32]> {
        self.0.get(user)
    }
}

/// Shows no secret.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("users", &self.0.len()).finish_non_exhaustive()
    }
}

/// What our own tokens are sealed with. Made anew, it ends all sessions.
#[derive(Clone)]
pub struct TokenKey {
    key: [u8; 32],
    valid_seconds: u64,
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not four parts.
    #[error("the token has not four parts")]
    Format,
    /// Its MAC is wrong, its user impossible, or its time over.
    #[error("the token is wrong or expired")]
    Wrong,
}

impl TokenKey {
    /// A key of 32 random bytes for tokens that are valid so long.
    pub fn new(key: [u8; 32], valid_seconds: u64) -> Self {
        TokenKey { key, valid_seconds }
    }

    fn mac(&self, sealed: &str, secret: &[u8]) -> String {
        let mut mac = match Hmac::<Sha256>::new_from_slice(&self.key) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        mac.update(sealed.as_bytes());
        // Of a fixed length, so that what is sealed and what is secret cannot be taken for each other.
        mac.update(secret);
        hex(&mac.finalize().into_bytes())
    }
}

/// Shows no key.
impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("valid_seconds", &self.valid_seconds).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// The token for a user who has just logged in. One who has no secret by now gets a token that is refused.
    pub fn issue(&self, user: &UserName, now: &WallTime) -> String {
        let stamp = match self {
            Authenticator::Classic => now.local.to_string(),
            Authenticator::Secrets(key, _) => now.unix_seconds.saturating_add(key.valid_seconds).to_string(),
        };
        let sealed = format!("{user}.{stamp}.login");
        base64_encode(format!("{sealed}.{}", self.mac(&sealed, user).unwrap_or_default()).as_bytes())
    }

    /// The user whom a token names.
    pub fn user_of(&self, token: &str, now: &WallTime) -> Result<UserName, TokenError> {
        let text = String::from_utf8(base64_decode(token)).map_err(|_| TokenError::Format)?;
        let parts: Vec<&str> = text.split('.').take(5).collect();
        let &[user, stamp, _login, mac] = parts.as_slice() else { return Err(TokenError::Format) };
        let sealed = text.get(..text.len() - mac.len() - 1).unwrap_or_default();
        let user: UserName = user.parse().map_err(|_| TokenError::Wrong)?;
        let good = self.mac(sealed, &user).ok_or(TokenError::Wrong)?;
        if !bool::from(good.as_bytes().ct_eq(mac.as_bytes())) {
            return Err(TokenError::Wrong);
        }
        if let Authenticator::Secrets(..) = self {
            let expires: u64 = stamp.parse().map_err(|_| TokenError::Wrong)?;
            if expires <= now.unix_seconds {
                return Err(TokenError::Wrong);
            }
        }
        Ok(user)
    }

    /// The MAC of a token; none if the user has no secret.
    fn mac(&self, sealed: &str, user: &UserName) -> Option<String> {
        match self {
            Authenticator::Classic => {
                Some(Md5Sum::of(format!("{sealed}{CLASSIC_CONSTANT}").as_bytes()).to_string())
            }
            Authenticator::Secrets(key, secrets) => secrets.of(user).map(|secret| key.mac(sealed, secret)),
        }
    }
}

/// What a classic client sends as the password of a user, whose name is as it was typed.
pub fn classic_password(user: &str) -> String {
    Md5Sum::of(user.as_bytes()).to_string()
}

/// Part of every classic server and of some clients.
const CLASSIC_CONSTANT: &str = "kjh20)*(1";

const BASE64_DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding (RFC 4648).
fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = BASE64_DIGITS.get((bits >> (18 - 6 * place) & 63) as usize).copied().unwrap_or(b'A');
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The bytes of a base64 text; like Python, it passes over what is no digit, and unlike Python it needs no padding.
fn base64_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            // The lowest eight of the bits that are not yet taken.
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::step::value::LocalTime;
    use proptest::prelude::*;

    fn at(unix_seconds: u64) -> WallTime {
        let local = LocalTime { year: 2026, month: 11, day: 21, hour: 19, minute: 53, second: 48 };
        WallTime { unix_seconds, local }
    }

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    /// As it was captured from an original server.
    const CAPTURED: &str = "YWxfaWNlLjIwMjYxMTIxMTk1MzQ4LmxvZ2luLjI1YmZjMGM5MzMyNDY3ODUwNWNlNWJkOTY2YTAxNDFl";

    #[test]
    fn a_classic_token_is_that_of_the_originals() {
        assert_eq!(Authenticator::Classic.issue(&user("al.ice"), &at(0)), CAPTURED);
        assert_eq!(Authenticator::Classic.user_of(CAPTURED, &at(u64::MAX)), Ok(user("al_ice")));
    }

    #[test]
    fn base64_is_read_leniently() {
        let noisy = CAPTURED.chars().flat_map(|c| [c, '\n', ' ', '*']).collect::<String>();
        assert_eq!(Authenticator::Classic.user_of(&noisy, &at(0)), Ok(user("al_ice")));
        let token = Authenticator::Classic.issue(&user("alice"), &at(0));
        assert!(token.ends_with('='));
        assert_eq!(Authenticator::Classic.user_of(token.trim_end_matches('='), &at(0)), Ok(user("alice")));
    }

    #[test]
    fn what_is_no_token_is_told_from_a_wrong_one() {
        let classic = Authenticator::Classic;
        for token in [
            "",
            "%%%",
            "YWJj",
            &base64_encode(b"a.b.login"),
            &base64_encode(b"a.b.c.d.e"),
            &base64_encode(b"\xff"),
        ] {
            assert_eq!(classic.user_of(token, &at(0)), Err(TokenError::Format), "{token}");
        }
        for text in ["bob.20261121195348.login.25bfc0c93324678505ce5bd966a0141e", "a.b.login.", "..."] {
            assert_eq!(
                classic.user_of(&base64_encode(text.as_bytes()), &at(0)),
                Err(TokenError::Wrong),
                "{text}"
            );
        }
    }

    #[test]
    fn a_sealed_token_expires_and_is_good_for_one_key_only() {
        let sealed = with_key([7; 32]);
        let token = sealed.issue(&user("al.ice"), &at(1000));
        assert_eq!(sealed.user_of(&token, &at(4599)), Ok(user("al_ice")));
        assert_eq!(sealed.user_of(&token, &at(4600)), Err(TokenError::Wrong));
        let other = with_key([8; 32]);
        assert_eq!(other.user_of(&token, &at(1000)), Err(TokenError::Wrong));
        assert_eq!(Authenticator::Classic.user_of(&token, &at(1000)), Err(TokenError::Wrong));
        assert_eq!(sealed.user_of(CAPTURED, &at(0)), Err(TokenError::Wrong));
        let text = String::from_utf8(base64_decode(&token)).unwrap();
        assert_eq!(text.split('.').count(), 4);
        let later = base64_encode(text.replacen(".4600.", ".9600.", 1).as_bytes());
        assert_eq!(sealed.user_of(&later, &at(1000)), Err(TokenError::Wrong));
        assert!(!format!("{sealed:?}").contains("7, 7"));
    }

    fn with_key(key: [u8; 32]) -> Authenticator {
        let secrets = Secrets::from_iter([(user("al.ice"), [1; 32]), (user("bob"), [2; 32])]);
        Authenticator::Secrets(TokenKey::new(key, 3600), Arc::new(secrets))
    }

    #[test]
    fn a_token_is_over_when_the_secret_of_its_user_is_another_or_none() {
        let key = || TokenKey::new([7; 32], 3600);
        let with = |secrets: &[(UserName, [u8; 32])]| {
            Authenticator::Secrets(key(), Arc::new(secrets.iter().cloned().collect()))
        };
        let (alice, bob) = ((user("alice"), [1; 32]), (user("bob"), [2; 32]));
        let before = with(&[alice.clone(), bob.clone()]);
        let token = before.issue(&alice.0, &at(0));
        assert_eq!(
            with(std::slice::from_ref(&alice)).user_of(&token, &at(0)),
            Ok(alice.0.clone()),
            "others do not matter"
        );
        for now in [vec![], vec![bob.clone()], vec![(alice.0.clone(), [3; 32]), bob]] {
            assert_eq!(with(&now).user_of(&token, &at(0)), Err(TokenError::Wrong), "{now:?}");
        }
        let nobody = with(&[]).issue(&alice.0, &at(0));
        assert_eq!(before.user_of(&nobody, &at(0)), Err(TokenError::Wrong));
        assert!(!format!("{before:?}").contains("1, 1"));
    }

    #[test]
    fn the_hmac_is_the_standard_one() {
        // RFC 4231, test case 2, has a shorter key than ours: padded with zeros it is the same key.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        assert_eq!(
            TokenKey::new(key, 0).mac("what do ya want ", b"for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    proptest! {
        #[test]
        fn base64_comes_back(bytes: Vec<u8>) {
            prop_assert_eq!(base64_decode(&base64_encode(&bytes)), bytes);
        }

        #[test]
        fn any_text_is_no_token(text: String) {
            prop_assert!(Authenticator::Classic.user_of(&text, &at(0)).is_err());
        }
    }
}
