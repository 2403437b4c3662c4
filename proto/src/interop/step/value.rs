//! Names, sums and times: checked once, where they come in.

use std::fmt;
use std::str::FromStr;

use md5::{Digest as _, Md5};

use super::limits::{FILE_SIZE_MAX, KEY_BYTES_MAX, USER_BYTES_MAX};

/// The name of a file or of data among those of one user.
///
/// Any text of 1 to [`KEY_BYTES_MAX`] bytes without NUL and without a part `..`, whichever slash separates its parts.
/// Clients use paths of their own machine as keys, absolute ones and such with a drive letter too, so a key is not a
/// safe file name: a store escapes it. Two keys are the same only if they are so byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// More than [`KEY_BYTES_MAX`] bytes.
    #[error("it is longer than {KEY_BYTES_MAX} bytes")]
    TooLong,
    /// Has a NUL.
    #[error("it has a NUL")]
    Nul,
    /// Has a part `..`.
    #[error("it has a part '..'")]
    ParentPart,
}

impl Key {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A random UUID (version 4, RFC 9562) from 16 random bytes: the key of what is saved without one.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        // The version in the seventh byte, the variant in the ninth.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let digits = hex(&bytes);
        let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or_default());
        Key(groups.join("-"))
    }
}

impl FromStr for Key {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            Err(KeyError::Empty)
        } else if text.len() > KEY_BYTES_MAX {
            Err(KeyError::TooLong)
        } else if text.contains('\0') {
            Err(KeyError::Nul)
        } else if text.split(['/', '\\']).any(|part| part == "..") {
            Err(KeyError::ParentPart)
        } else {
            Ok(Key(text.to_owned()))
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a user as tokens carry it: every `.` is a `_`.
///
/// A server knows a user only from the token, where a dot separates parts; so `a.b` and `a_b` are one user from the
/// start, and neither can log in as the other with a password of its own. 1 to [`USER_BYTES_MAX`] bytes without control
/// characters; not a safe file name either.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

/// A text that cannot name a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user name has 1 to {USER_BYTES_MAX} bytes and no control characters")]
pub struct UserNameError;

impl UserName {
    /// The name as text, without dots.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = UserNameError;
    fn from_str(text: &str) -> Result<Self, UserNameError> {
        if text.is_empty() || text.len() > USER_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(UserNameError);
        }
        Ok(UserName(text.replace('.', "_")))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The size of a file in bytes: at most [`FILE_SIZE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileSize(u64);

impl FileSize {
    /// The size, if it is within the bound.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= FILE_SIZE_MAX { Some(FileSize(bytes)) } else { None }
    }

    /// In bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The MD5 of a file. It tells damage from none, and is no protection against anybody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Md5Sum(pub [u8; 16]);

impl Md5Sum {
    /// The MD5 of `data`.
    pub fn of(data: &[u8]) -> Self {
        Md5Sum(Md5::digest(data).into())
    }
}

/// 32 hex digits in lower case.
impl fmt::Display for Md5Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Md5Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Md5Sum({self})")
    }
}

/// A text that is not 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hex digits")]
pub struct ParseMd5Error;

impl FromStr for Md5Sum {
    type Err = ParseMd5Error;
    fn from_str(text: &str) -> Result<Self, ParseMd5Error> {
        let mut sum = [0; 16];
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseMd5Error);
        }
        for (byte, digits) in sum.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ParseMd5Error)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseMd5Error)?;
        }
        Ok(Md5Sum(sum))
    }
}

/// A moment as the session's shell reads it from its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallTime {
    /// Seconds since 1970-01-01 UTC.
    pub unix_seconds: u64,
    /// The same moment as a clock on the wall shows it.
    pub local: LocalTime,
}

/// What a clock on the wall shows. Its parts are only ever printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// As in 2026.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

/// `YYYYmmddHHMMSS`.
impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LocalTime { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
    }
}

/// Hex digits in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_as_clients_make_them() {
        let long = "k".repeat(KEY_BYTES_MAX);
        for text in [
            "a.bin",
            "dir/sub/a.bin",
            "/home/x/a",
            "C:\\x\\a",
            "./a",
            "文件",
            "...",
            "a..b",
            " ",
            "\u{1f600}",
            &long,
        ] {
            assert_eq!(text.parse::<Key>().unwrap().as_str(), text);
        }
        let too_long = "k".repeat(KEY_BYTES_MAX + 1);
        let cases = [
            ("", KeyError::Empty),
            (&too_long, KeyError::TooLong),
            ("a\0b", KeyError::Nul),
            ("..", KeyError::ParentPart),
            ("../../etc/passwd", KeyError::ParentPart),
            ("a\\..\\b", KeyError::ParentPart),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Key>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_random_key_is_a_uuid() {
        assert_eq!(Key::from_random([0; 16]).as_str(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(Key::from_random([0xff; 16]).as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn a_user_has_no_dots() {
        assert_eq!("al.ice".parse::<UserName>(), "al_ice".parse::<UserName>());
        for text in ["", "a\0", "a\nb", &"u".repeat(USER_BYTES_MAX + 1)] {
            assert_eq!(text.parse::<UserName>(), Err(UserNameError), "{text:?}");
        }
    }

    #[test]
    fn sums_are_text_and_back() {
        let sum = Md5Sum::of(b"");
        assert_eq!(sum.to_string(), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!("D41D8CD98F00B204E9800998ECF8427E".parse(), Ok(sum));
        for text in [
            "",
            "d41d",
            "d41d8cd98f00b204e9800998ecf8427g",
            "+41d8cd98f00b204e9800998ecf8427e",
            &"ü".repeat(16),
        ] {
            assert_eq!(text.parse::<Md5Sum>(), Err(ParseMd5Error), "{text:?}");
        }
    }

    #[test]
    fn a_local_time_has_fourteen_digits() {
        let time = LocalTime { year: 2026, month: 1, day: 2, hour: 3, minute: 4, second: 5 };
        assert_eq!(time.to_string(), "20260102030405");
    }
}
