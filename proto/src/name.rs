//! Names on the wire: relative paths that cannot leave the folder they are put into.
//!
//! A name is parsed once, where it comes in, into a [`RelativePath`]; whoever holds one need not check again. It is
//! never changed to make it fit: what is not safe is refused, with the reason.

use std::fmt;
use std::str::FromStr;

use crate::limits::{PATH_BYTES_MAX, PATH_PART_BYTES_MAX, PATH_PARTS_MAX};

/// A relative path of one or more checked parts, joined by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(String);

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("the name is empty")]
    Empty,
    /// Begins with `/`.
    #[error("the name is an absolute path")]
    Absolute,
    /// Begins with a drive letter such as `C:`.
    #[error("the name begins with a drive letter")]
    Drive,
    /// Has a part that is empty, as in `a//b` or `a/`.
    #[error("the name has an empty part")]
    EmptyPart,
    /// Has a part `.` or `..`.
    #[error("the name has a part '.' or '..'")]
    DotPart,
    /// Has a NUL or a backslash.
    #[error("the name has a NUL or a backslash")]
    Character,
    /// Is longer, deeper or has a longer part than the limits allow.
    #[error("the name is too long or too deep")]
    TooLong,
}

impl RelativePath {
    /// The path as text, parts joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts, outermost first; at least one.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for RelativePath {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        if s.is_empty() {
            return Err(NameError::Empty);
        }
        if s.len() > PATH_BYTES_MAX || s.split('/').count() > PATH_PARTS_MAX {
            return Err(NameError::TooLong);
        }
        if s.contains(['\0', '\\']) {
            return Err(NameError::Character);
        }
        if s.starts_with('/') {
            return Err(NameError::Absolute);
        }
        if has_drive(s) {
            return Err(NameError::Drive);
        }
        for part in s.split('/') {
            match part {
                "" => return Err(NameError::EmptyPart),
                "." | ".." => return Err(NameError::DotPart),
                long if long.len() > PATH_PART_BYTES_MAX => return Err(NameError::TooLong),
                _ => {}
            }
        }
        Ok(RelativePath(s.to_owned()))
    }
}

/// Whether a path begins with a drive letter, as in `C:` and `C:x`: some systems take that for another place.
pub(crate) fn has_drive(path: &str) -> bool {
    matches!(path.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

/// For people: control characters are shown as escapes, so that a name cannot write to the terminal.
impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&printable(&self.0), f)
    }
}

/// Text from outside, fit for a terminal or a log: control characters are shown as escapes.
pub fn printable(text: &str) -> impl fmt::Display + '_ {
    struct Printable<'a>(&'a str);
    impl fmt::Display for Printable<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            use fmt::Write;
            for c in self.0.chars() {
                // The bidirectional overrides can make a name look like another one.
                let misleading = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                if c.is_control() || misleading {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    f.write_char(c)?;
                }
            }
            Ok(())
        }
    }
    Printable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_stay_as_they_are() {
        for name in ["a", "a/b/c.txt", "...", "..a/b..", "ab:c", "ubuntu 24.04.iso", "Üñï/文件", " "] {
            let path: RelativePath = name.parse().unwrap();
            assert_eq!(path.as_str(), name);
            assert_eq!(path.parts().collect::<Vec<_>>().join("/"), name);
        }
        assert_eq!("a/b/c".parse::<RelativePath>().unwrap().file_name(), "c");
    }

    #[test]
    fn names_that_try_to_escape_are_refused() {
        let long_part = "x".repeat(256);
        let long_path = "abc/".repeat(300) + "x";
        let deep = "a/".repeat(64) + "a";
        let cases = [
            ("", NameError::Empty),
            ("/", NameError::Absolute),
            ("/etc/passwd", NameError::Absolute),
            ("..", NameError::DotPart),
            ("a/../b", NameError::DotPart),
            ("a/..", NameError::DotPart),
            ("./a", NameError::DotPart),
            ("a//b", NameError::EmptyPart),
            ("a/", NameError::EmptyPart),
            ("a\\..\\b", NameError::Character),
            ("a\0b", NameError::Character),
            ("C:", NameError::Drive),
            ("c:/windows", NameError::Drive),
            (&long_part, NameError::TooLong),
            (&long_path, NameError::TooLong),
            (&deep, NameError::TooLong),
        ];
        for (name, why) in cases {
            assert_eq!(name.parse::<RelativePath>(), Err(why), "{name:?}");
        }
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        let path: RelativePath = "a\x1b[2Jb\n\u{202e}c".parse().unwrap();
        assert_eq!(path.to_string(), "a\\u{1b}[2Jb\\n\\u{202e}c");
    }
}
