//! Where the file of a user and a key lies under the inbox.
//!
//! A user and a key that make a [`RelativePath`] are that path, so that the file has the name on the network that it was
//! given. Parts that cannot be names are escaped: bytes as `%XX`, an empty part as `%00`, a part that is too long by its
//! beginning and its hash behind `%~`. A part that looks as if it were escaped is escaped as well, so two keys never share
//! a path (those that are hashed: unless somebody finds a collision of SHA-256). Every key has a second place of one
//! part, for the case that a folder lies at the first, or a file where it needs a folder.

use std::ffi::OsStr;

use ftx_proto::digest::Digest;
use ftx_proto::interop::step::value::{Key, UserName};
use ftx_proto::limits::PATH_PART_BYTES_MAX;
use ftx_proto::name::RelativePath;

use crate::store::is_own_file;

/// Names that begin so belong to the node.
const OWN_PREFIX: &str = ".ftx-";

/// What a part that cannot be read back begins with.
const HASHED: &str = "%~";

/// Digits of the hash in such a part.
const HASH_DIGITS: usize = 32;

/// Bytes of the original that such a part begins with.
const BEGINNING_BYTES_MAX: usize = 120;

/// Where a file lies: folders below the inbox, at least that of the user, and a name in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folders: Vec<String>,
    pub(super) name: String,
}

impl Place {
    /// The path below the inbox.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.folders.join("/"), self.name)
    }
}

/// The folder of a user below the inbox.
pub(super) fn user_folder(user: &UserName) -> String {
    let name = user.as_str();
    // `c:` would be a drive at the beginning of a path on the network.
    if name.as_bytes().get(1) == Some(&b':') { shortened(&escaped(name, &[b':']), name) } else { part(name) }
}

/// Where the file under this key belongs, and where it goes if that is not possible.
pub(super) fn places(user: &UserName, key: &Key) -> [Place; 2] {
    let folder = user_folder(user);
    let second = Place { folders: vec![folder.clone()], name: hashed(&part(last_part(key)), key.as_str()) };
    let mut folders = vec![folder];
    folders.extend(key.as_str().split('/').map(part));
    let Some(name) = folders.pop() else { return [second.clone(), second] };
    let first = Place { folders, name };
    match first.path().parse::<RelativePath>() {
        Ok(_) => [first, second],
        // Too long or too deep for the network.
        Err(_) => [second.clone(), second],
    }
}

/// The key whose file belongs at this path below the folder of the user, if the path says it.
pub(super) fn key_at(user: &UserName, parts: &[String]) -> Option<Key> {
    let decoded: Option<Vec<String>> = parts.iter().map(|part| unescaped(part)).collect();
    let key: Key = decoded?.join("/").parse().ok()?;
    let [first, _] = places(user, &key);
    let there = first.folders.iter().skip(1).chain([&first.name]).eq(parts.iter());
    there.then_some(key)
}

fn last_part(key: &Key) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

/// One part of a path, as it is if it can be.
fn part(text: &str) -> String {
    if text.is_empty() {
        return "%00".to_owned();
    }
    let is_safe = text != "."
        && text != ".."
        && !text.contains(['/', '\\', '\0'])
        && !text.starts_with(OWN_PREFIX)
        && !text.starts_with(HASHED)
        && !is_own_file(OsStr::new(text))
        && unescaped(text).as_deref() == Some(text);
    if is_safe { shortened(text, text) } else { shortened(&escaped(text, &[]), text) }
}

/// With `%`, slashes, a leading dot and the bytes of `also` escaped.
fn escaped(text: &str, also: &[u8]) -> String {
    let mut escaped = String::new();
    for (place, c) in text.char_indices() {
        let is_special = matches!(c, '%' | '/' | '\\' | '\0')
            || c == '.' && place == 0
            || u8::try_from(c).is_ok_and(|byte| also.contains(&byte));
        if is_special {
            escaped.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// What an escaped part stands for; of a hashed one that cannot be told.
fn unescaped(part: &str) -> Option<String> {
    if part.starts_with(HASHED) {
        return None;
    }
    if part == "%00" {
        return Some(String::new());
    }
    let bytes = part.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| byte == b'%' && is_hex(digits));
        match digits.and_then(|digits| std::str::from_utf8(digits).ok()) {
            Some(digits) => {
                plain.push(u8::from_str_radix(digits, 16).ok()?);
                at += 3;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(plain).ok()
}

fn is_hex(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_hexdigit)
}

/// The escaped part, if it is short enough for a name.
fn shortened(escaped: &str, original: &str) -> String {
    if escaped.len() <= PATH_PART_BYTES_MAX { escaped.to_owned() } else { hashed(escaped, original) }
}

/// The beginning of `text` and the hash of `original`.
fn hashed(text: &str, original: &str) -> String {
    let mut end = text.len().min(BEGINNING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let digest = Digest::of(original.as_bytes()).to_string();
    format!(
        "{HASHED}{}~{}",
        text.get(..end).unwrap_or_default(),
        digest.get(..HASH_DIGITS).unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    #[test]
    fn good_names_stay_as_they_are() {
        for text in ["a.bin", "dir/sub/a.bin", "100% sure", "文件/ü", " ", "...", ".hidden", "a:b", "C:x"]
        {
            let [first, second] = places(&user("alice"), &key(text));
            assert_eq!(first.path(), format!("alice/{text}"));
            assert_ne!(first, second);
        }
    }

    #[test]
    fn no_two_keys_share_a_place_and_each_is_a_name_of_the_network() {
        let long = "x".repeat(300);
        let texts = [
            "/etc/passwd",
            "etc/passwd",
            "%00/etc/passwd",
            "a//b",
            "a/b",
            "a/%00/b",
            "a\\b",
            "a%5Cb",
            "a%5cb",
            "a%255Cb",
            "./a",
            "a",
            "%2E/a",
            "%2e/a",
            ".",
            "/",
            "%00",
            "%00/%00",
            ".ftx-step",
            "%2Eftx-step",
            ".ftx-step/data",
            ".x.ftx-part",
            ".x.ftx-journal",
            "%2Ex.ftx-part",
            "%~a~b",
            "%25~a~b",
            "C:\\x",
            "a/",
            "%",
            "%%",
            "%4",
            "%zz",
            "%C3",
            &long,
            &format!("{long}y"),
            &"d/".repeat(80),
            &"abc/".repeat(250),
            &"%".repeat(200),
            &"ü".repeat(130),
        ];
        let mut seen = HashMap::new();
        for name in ["alice", "bob", "a/b", "c:", "%", "%~x", &"%".repeat(128), &"ü".repeat(64)] {
            for text in texts {
                let [first, second] = places(&user(name), &key(text));
                for place in [&first, &second] {
                    let path = place.path();
                    assert!(path.parse::<RelativePath>().is_ok(), "{path}");
                    assert!(!path.split('/').any(|part| part.starts_with(OWN_PREFIX)), "{path}");
                    assert!(!is_own_file(OsStr::new(&place.name)), "{path}");
                    assert_eq!(place.folders[0], user_folder(&user(name)));
                }
                for place in if first == second { vec![first] } else { vec![first, second] } {
                    let other = seen.insert(place.path(), (name.to_owned(), text.to_owned()));
                    assert_eq!(other, None, "{name} {text}");
                }
            }
        }
    }

    #[test]
    fn a_path_tells_its_key() {
        let alice = user("alice");
        for text in ["a", "a/b", "/etc/passwd", "a//b", "a\\b", "./a", ".ftx-step", "100%", "%41", "a/"] {
            let [first, second] = places(&alice, &key(text));
            let parts: Vec<String> = first.folders.into_iter().skip(1).chain([first.name]).collect();
            assert_eq!(key_at(&alice, &parts), Some(key(text)));
            assert_eq!(key_at(&alice, &[second.name]), None);
        }
        // A file that somebody put there under a name that no key has.
        for name in ["%41", "a%00b", "%C3"] {
            assert_eq!(key_at(&alice, &[name.to_owned()]), None, "{name}");
        }
    }
}
