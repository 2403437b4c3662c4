//! The bytes of every message, pinned. They are the protocol: a change here is another version of it.
//!
//! With `FTX_WRITE_GOLDEN=1` in the environment the files are written anew instead of being compared, and with them the
//! seeds of the fuzzers.

mod messages;

use std::fmt::Write as _;
use std::path::PathBuf;

use ftx_proto::wire::discovery::Datagram;
use ftx_proto::wire::sealed;
use ftx_proto::wire::session::{HEADER_LEN, Header, Message};

#[test]
fn datagrams_have_the_bytes_they_always_had() {
    let encoded = messages::datagrams().into_iter().map(|(name, datagram)| (name, datagram.encode()));
    let golden = golden("discovery.txt", encoded.collect());
    for ((name, datagram), (golden_name, bytes)) in messages::datagrams().into_iter().zip(golden) {
        assert_eq!(name, golden_name);
        assert_eq!(Datagram::decode(&bytes), Ok(datagram), "{name}");
    }
}

#[test]
fn sealed_datagrams_have_the_form_they_always_had() {
    let nonce = [0x5e; sealed::NONCE_LEN];
    // Where the tag would be is nothing: sealing is for those who have a key.
    let form = |datagram: &Datagram| [&sealed::head(&nonce)[..], &sealed::plain(datagram)].concat();
    let encoded = messages::datagrams().into_iter().map(|(name, datagram)| (name, form(&datagram)));
    let golden = golden("sealed.txt", encoded.collect());
    for ((name, datagram), (golden_name, bytes)) in messages::datagrams().into_iter().zip(golden) {
        assert_eq!(name, golden_name);
        let tagged = [&bytes[..], &[0; sealed::TAG_LEN]].concat();
        assert_eq!(sealed::split(&tagged).map(|parts| parts.nonce), Ok(nonce), "{name}");
        assert_eq!(sealed::from_plain(&bytes[sealed::HEAD_LEN..]), Ok(datagram), "{name}");
    }
}

#[test]
fn bodies_of_the_lane_have_the_bytes_they_always_had() {
    golden("datagram.txt", messages::bodies());
}

#[test]
fn session_messages_have_the_bytes_they_always_had() {
    let encoded = messages::messages()
        .into_iter()
        .map(|(name, message, payload_len)| (name, message.encode(payload_len)));
    let golden = golden("session.txt", encoded.collect());
    for ((name, message, payload_len), (golden_name, bytes)) in messages::messages().into_iter().zip(golden) {
        assert_eq!(name, golden_name);
        let (header, meta) = bytes.split_first_chunk::<HEADER_LEN>().expect("a header comes first");
        assert_eq!(Header::decode(*header), Ok(Header { meta_len: meta.len(), payload_len }), "{name}");
        assert_eq!(Message::decode(meta, payload_len), Ok(message), "{name}");
    }
}

/// The messages that a golden file holds, which are to be `encoded`.
fn golden(file: &str, encoded: Vec<(&'static str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let mut text = String::new();
    for (name, bytes) in &encoded {
        // The padding would be most of the file.
        let padding = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let padding = if padding > 16 { padding } else { 0 };
        let digits: String =
            bytes[..bytes.len() - padding].iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{name}: {digits} + {padding}").expect("a text grows");
    }
    if std::env::var_os("FTX_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
        seed_fuzzers(file, &encoded);
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    for (ours, golden) in text.lines().zip(golden.lines()) {
        assert_eq!(ours, golden, "bytes of the protocol have changed");
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "a message is not pinned");
    golden.lines().map(|line| parse(line).expect("lines of the golden file are well-formed")).collect()
}

fn parse(line: &str) -> Option<(String, Vec<u8>)> {
    let (name, bytes) = line.split_once(": ")?;
    let (digits, padding) = bytes.split_once(" + ")?;
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let mut bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    bytes.resize(bytes.len() + padding.parse::<usize>().ok()?, 0);
    Some((name.to_owned(), bytes))
}

/// Writes each message where the fuzzers begin: alone, and a datagram also as something that the engine receives.
fn seed_fuzzers(file: &str, encoded: &[(&'static str, Vec<u8>)]) {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        std::fs::write(folder.join(name.replace(' ', "-")), bytes).expect("the seed can be written");
    };
    for (name, bytes) in encoded {
        match file {
            "session.txt" => {
                write("session_message", name, bytes);
                continue;
            }
            "sealed.txt" => {
                write("sealed_datagram", name, &[&bytes[..], &[0; sealed::TAG_LEN]].concat());
                continue;
            }
            "datagram.txt" => {
                // The size of the content comes first.
                write("datagram", name, &[&[0x40, 0, 1], &bytes[..]].concat());
                continue;
            }
            _ => {}
        }
        write("discovery_datagram", name, bytes);
        let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).min(255);
        let receive = [&[2, 7, len as u8], &bytes[..len]].concat();
        // Announce, find, receive it, answer, let a second pass, receive it again.
        let operations = [&[1, 7, 4, 1][..], &receive, &[6, 1, 1, 1], &receive, &[0, 50]].concat();
        write("discovery_engine", name, &operations);
    }
    for (name, text) in
        [("plain", "a/b/c.txt"), ("dots", "a/../b"), ("drive", "C:/x"), ("bidi", "a\u{202e}b")]
    {
        write("relative_path", name, text.as_bytes());
    }
}
