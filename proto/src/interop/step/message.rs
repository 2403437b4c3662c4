//! JSON as it travels: objects whose fields are looked at one by one, and objects that are being written.
//!
//! A received object keeps every field as the text it came as, so what a client stores comes back unchanged: integers of
//! any length, floats, nested values. Only single fields are interpreted, never a whole unknown value, so nesting costs
//! no recursion. What is written is ASCII only, since Python peers count characters where others count bytes, and has
//! the spaces that Python's `json.dumps` puts, for the peers that look for pieces of text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::limits::JSON_DEPTH_MAX;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words of the protocol")]
pub enum Operation {
    Save,
    Delete,
    Get,
    Upload,
    Download,
    Bye,
    Login,
}

impl Operation {
    /// The operation of this name; case matters.
    pub fn from_name(name: &str) -> Option<Self> {
        use Operation::{Bye, Delete, Download, Get, Login, Save, Upload};
        [Save, Delete, Get, Upload, Download, Bye, Login]
            .into_iter()
            .find(|operation| operation.name() == name)
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Save => "SAVE",
            Operation::Delete => "DELETE",
            Operation::Get => "GET",
            Operation::Upload => "UPLOAD",
            Operation::Download => "DOWNLOAD",
            Operation::Bye => "BYE",
            Operation::Login => "LOGIN",
        }
    }
}

/// What a request is about: the field `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words of the protocol")]
pub enum Kind {
    File,
    Data,
    Auth,
}

impl Kind {
    /// The type of this name; case matters.
    pub fn from_name(name: &str) -> Option<Self> {
        [Kind::File, Kind::Data, Kind::Auth].into_iter().find(|kind| kind.name() == name)
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::File => "FILE",
            Kind::Data => "DATA",
            Kind::Auth => "AUTH",
        }
    }
}

/// The JSON part of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// An object, as every legal one is.
    Object(Object),
    /// Another JSON value: a list, a number, a text.
    Other,
}

/// A text that is no JSON, or nested deeper than [`JSON_DEPTH_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON, or nested too deeply")]
pub struct NotJson;

impl Body {
    /// The value that `bytes` are, exactly.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotJson> {
        let text = std::str::from_utf8(bytes).map_err(|_| NotJson)?;
        match Object::from_json(text) {
            Ok(object) => Ok(Body::Object(object)),
            Err(NotJson) if nested_too_deeply(text) => Err(NotJson),
            Err(NotJson) => serde_json::from_str::<&RawValue>(text).map(|_| Body::Other).map_err(|_| NotJson),
        }
    }
}

/// A JSON object: the text of each field's value, by name. Of fields with one name the last counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object(BTreeMap<String, Box<str>>);

/// A field that should be an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    /// There is no such field, or it is null.
    Absent,
    /// Another value, a float among them.
    Other,
    /// Below zero.
    Negative,
    /// From zero on.
    Unsigned(u64),
    /// More than 64 bits.
    Huge,
}

impl Object {
    /// The object that `text` is, exactly.
    pub fn from_json(text: &str) -> Result<Self, NotJson> {
        if nested_too_deeply(text) {
            return Err(NotJson);
        }
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|_| NotJson)?;
        Ok(Object(fields.into_iter().map(|(name, value)| (name, value.get().into())).collect()))
    }

    /// The object as JSON text, in ASCII.
    pub fn to_json(&self) -> String {
        let mut writer = ObjectWriter::default();
        for (name, value) in &self.0 {
            writer.json(name, value);
        }
        writer.finish()
    }

    /// Whether there is a field of this name, be it null.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether there is a field of this name that is not null.
    pub fn has_value(&self, name: &str) -> bool {
        self.json(name).is_some_and(|json| json != "null")
    }

    /// The text of the field's JSON, as it came.
    pub fn json(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// The field, if it is a text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.json(name).filter(|json| json.starts_with('"')).and_then(|json| serde_json::from_str(json).ok())
    }

    /// The field as an integer.
    pub fn integer(&self, name: &str) -> Integer {
        let Some(json) = self.json(name).filter(|&json| json != "null") else { return Integer::Absent };
        let (negative, digits) = json.strip_prefix('-').map_or((false, json), |digits| (true, digits));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Integer::Other;
        }
        match digits.parse::<u64>() {
            Ok(0) => Integer::Unsigned(0),
            _ if negative => Integer::Negative,
            Ok(value) => Integer::Unsigned(value),
            Err(_) => Integer::Huge,
        }
    }

    /// The field as a number from zero on, if it is one in any of the forms that servers write: `3`, `3.0`, `"3"`.
    pub fn lenient_number(&self, name: &str) -> Option<u64> {
        let json = self.json(name)?;
        let plain = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(json).trim();
        let whole = match plain.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => whole,
            Some(_) => return None,
            None => plain,
        };
        if whole.bytes().all(|b| b.is_ascii_digit()) { whole.parse().ok() } else { None }
    }

    /// The field as a list of texts; entries that are none are left out.
    pub fn texts(&self, name: &str) -> Option<Vec<String>> {
        let entries: Vec<&RawValue> = serde_json::from_str(self.json(name)?).ok()?;
        Some(entries.into_iter().filter_map(|entry| serde_json::from_str(entry.get()).ok()).collect())
    }

    /// The fields in the order of their names, each with the text of its JSON.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_ref()))
    }

    /// With this text under this name.
    #[must_use]
    pub fn with_text(mut self, name: &str, value: &str) -> Self {
        let mut writer = ObjectWriter::default();
        writer.quoted(value);
        self.0.insert(name.to_owned(), writer.text.into());
        self
    }

    /// Without the fields of these names.
    #[must_use]
    pub fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|name, _| !names.contains(&name.as_str()));
        self
    }
}

/// A JSON object that is being written, in ASCII.
#[derive(Debug, Default)]
pub struct ObjectWriter {
    text: String,
}

impl ObjectWriter {
    /// Adds a text.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.name(name);
        self.quoted(value);
        self
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.name(name);
        // Writing to a text cannot fail.
        let _ = write!(self.text, "{value}");
        self
    }

    /// Adds a value that is JSON already.
    pub fn json(&mut self, name: &str, json: &str) -> &mut Self {
        self.name(name);
        // Characters beyond ASCII are only within its texts, where an escape means the same.
        for c in json.chars() {
            if c.is_ascii() { self.text.push(c) } else { self.escaped(c) }
        }
        self
    }

    /// Adds a list of texts.
    pub fn texts<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.name(name);
        self.text.push('[');
        for (place, value) in values.into_iter().enumerate() {
            if place > 0 {
                self.text.push_str(", ");
            }
            self.quoted(value);
        }
        self.text.push(']');
        self
    }

    /// The object.
    pub fn finish(mut self) -> String {
        self.text.push_str(if self.text.is_empty() { "{}" } else { "}" });
        self.text
    }

    fn name(&mut self, name: &str) {
        self.text.push_str(if self.text.is_empty() { "{" } else { ", " });
        self.quoted(name);
        self.text.push_str(": ");
    }

    fn quoted(&mut self, value: &str) {
        self.text.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                ' '..='~' => self.text.push(c),
                _ => self.escaped(c),
            }
        }
        self.text.push('"');
    }

    fn escaped(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a text cannot fail.
            let _ = write!(self.text, "\\u{unit:04x}");
        }
    }
}

/// Whether brackets are nested deeper than is taken in. Counts without recursion, in texts that may be no JSON too.
fn nested_too_deeply(text: &str) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(text: &str) -> Object {
        Object::from_json(text).unwrap()
    }

    #[test]
    fn integers_and_what_only_looks_like_them() {
        let fields = object(
            r#"{"a": 7, "b": -7, "c": 7.0, "d": "7", "e": null, "f": true, "g": 18446744073709551615,
                "h": 18446744073709551616, "i": 1e3, "j": -0, "k": [7]}"#,
        );
        let expected = [
            ("a", Integer::Unsigned(7)),
            ("b", Integer::Negative),
            ("c", Integer::Other),
            ("d", Integer::Other),
            ("e", Integer::Absent),
            ("f", Integer::Other),
            ("g", Integer::Unsigned(u64::MAX)),
            ("h", Integer::Huge),
            ("i", Integer::Other),
            ("j", Integer::Unsigned(0)),
            ("k", Integer::Other),
            ("z", Integer::Absent),
        ];
        for (name, value) in expected {
            assert_eq!(fields.integer(name), value, "{name}");
        }
        for (name, value) in
            [("a", Some(7)), ("c", Some(7)), ("d", Some(7)), ("b", None), ("e", None), ("h", None)]
        {
            assert_eq!(fields.lenient_number(name), value, "{name}");
        }
    }

    #[test]
    fn values_come_back_as_they_came() {
        let text = r#"{"a": 123456789012345678901234567890, "b": 1.10, "c": [{"x": 1e400}, "\ud83d\ude00"]}"#;
        assert_eq!(object(text).to_json(), text);
        assert_eq!(object(r#"{"é": {"ü": "😀"}}"#).to_json(), r#"{"\u00e9": {"\u00fc": "\ud83d\ude00"}}"#);
        assert_eq!(object("{}").to_json(), "{}");
        assert_eq!(object(r#"{"a": 1, "a": 2}"#).to_json(), r#"{"a": 2}"#);
    }

    #[test]
    fn wrong_shapes_are_told_from_no_json() {
        for text in ["[]", "5", "\"a\"", "null", "[{\"a\": 1}]"] {
            assert_eq!(Body::parse(text.as_bytes()), Ok(Body::Other), "{text}");
        }
        for text in ["", "{", "{\"a\": 1", "{'a': 1}", "{\"a\": 1} x", "nul", "{\"a\": NaN}"] {
            assert_eq!(Body::parse(text.as_bytes()), Err(NotJson), "{text}");
        }
        assert_eq!(Body::parse(b"{\"a\": \"\xff\"}"), Err(NotJson));
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let nested = |depth: usize| format!("{{\"a\": {}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(Object::from_json(&nested(JSON_DEPTH_MAX - 1)).is_ok());
        for depth in [JSON_DEPTH_MAX, 1000, 1_000_000] {
            assert_eq!(Body::parse(nested(depth).as_bytes()), Err(NotJson));
            assert_eq!(Body::parse("[".repeat(depth + 1).as_bytes()), Err(NotJson));
        }
        assert!(
            Object::from_json(&format!("{{\"a\": \"{}\\\"{}\"}}", "[".repeat(999), "{".repeat(999))).is_ok()
        );
    }

    proptest! {
        #[test]
        fn any_text_is_written_in_ascii_and_read_back(name: String, value: String, number: u64) {
            prop_assume!(name != "number");
            let mut writer = ObjectWriter::default();
            writer.text(&name, &value).number("number", number);
            let json = writer.finish();
            prop_assert!(json.is_ascii() && !json.contains(char::is_control));
            let read = object(&json);
            prop_assert_eq!(read.text(&name), Some(value));
            prop_assert_eq!(read.integer("number"), Integer::Unsigned(number));
            prop_assert_eq!(read.to_json().len(), json.len());
        }

        #[test]
        fn any_bytes_are_json_or_not(bytes: Vec<u8>) {
            let parsed = Body::parse(&bytes);
            prop_assert_eq!(parsed.is_ok(), serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok());
        }
    }
}
