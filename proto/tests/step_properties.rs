//! What holds for all streams, and for all bytes that are none.

mod step_support;

use ftx_proto::interop::step::client::{ClientSession, Request};
use ftx_proto::interop::step::frame::{Binary, Frame, FrameBounds, FrameDecoder, FrameError};
use ftx_proto::interop::step::limits::{BLOCK_SIZE, REQUEST_JSON_MAX};
use ftx_proto::interop::step::message::{Body, Object};
use ftx_proto::interop::step::server::{CloseReason, Input, Output, ServerSession};
use ftx_proto::interop::step::token::Authenticator;
use ftx_proto::interop::step::value::FileSize;
use proptest::collection::vec;
use proptest::prelude::*;
use step_support::{Connection, MemoryStore, at, frame, frames, pattern, request};

/// Requests that mean something together with the fields of each other, in any order.
fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let operation = prop::sample::select(vec![
        "SAVE", "DELETE", "GET", "UPLOAD", "UPLOAD", "UPLOAD", "DOWNLOAD", "BYE", "LOGIN", "INFO",
    ]);
    let kind = prop::sample::select(vec!["FILE", "FILE", "FILE", "DATA", "AUTH", "NO"]);
    let key = prop::sample::select(vec!["a", "b", "dir/c", "..", ""]);
    let size = prop::sample::select(vec![0u64, 1, 20_480, 45_000]);
    let binary = prop::sample::select(vec![0usize, 1, 4040, 20_480, 20_481, 70_000]);
    (operation, kind, key, size, 0u64..4, binary).prop_map(|(operation, kind, key, size, index, binary)| {
        let fields = format!(r#""key": "{key}", "size": {size}, "block_index": {index}"#);
        frame(&request(operation, kind, &fields), &pattern(binary))
    })
}

/// A value that may stand where another one belongs.
fn any_value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "null",
            "true",
            "0",
            "-1",
            "1",
            "1.5",
            "1e400",
            "-0",
            "99999999999999999999",
            "9223372036854775808",
            "\"\"",
            "\"REQUEST\"",
            "\"EARTH\"",
            "\"FILE\"",
            "\"DATA\"",
            "\"AUTH\"",
            "\"SAVE\"",
            "\"UPLOAD\"",
            "\"GET\"",
            "\"LOGIN\"",
            "\"DELETE\"",
            "\"DOWNLOAD\"",
            "\"a\"",
            "\"../a\"",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "\"é\"",
            "[]",
            "{}",
        ])
        .prop_map(str::to_owned),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(3, 8, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            vec(inner, 0..4).prop_map(|values| {
                let fields: Vec<_> = values.iter().map(|value| format!("\"k\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

/// An object whose fields have the names of the protocol and any values; often enough a token that is good.
fn any_object() -> impl Strategy<Value = String> {
    let names = prop::sample::subsequence(
        vec![
            "operation",
            "direction",
            "type",
            "username",
            "password",
            "token",
            "key",
            "size",
            "total_block",
            "md5",
            "block_size",
            "status",
            "status_msg",
            "block_index",
            "file_list",
        ],
        0..15,
    );
    (names, vec(any_value(), 15), any::<bool>()).prop_map(|(names, values, good)| {
        let fields: Vec<_> =
            names.iter().zip(values).map(|(name, value)| format!("\"{name}\": {value}")).collect();
        let fields = fields.join(", ");
        if good { request("UPLOAD", "FILE", &fields) } else { format!("{{{fields}}}") }
    })
}

/// The bytes cut anywhere.
fn segments<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let starts = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain(std::iter::once(bytes.len()));
    starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect()
}

fn decoder() -> FrameDecoder {
    let bounds = FrameBounds { json_max: REQUEST_JSON_MAX, keep: |_| BLOCK_SIZE, discard_max: 1 << 20 };
    FrameDecoder::new(bounds)
}

fn decoded(segments: &[&[u8]]) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = decoder();
    let mut decoded = Vec::new();
    for segment in segments {
        decoder.push(segment);
        loop {
            match decoder.poll() {
                Ok(Some(frame)) => decoded.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.poll(), Err(error), "it is final");
                    return (decoded, Some(error));
                }
            }
        }
    }
    (decoded, None)
}

/// A frame as a Python peer sends it that does not escape: its length counts characters.
fn frame_of_characters(json: &str, binary: &[u8]) -> Vec<u8> {
    let lengths = [json.chars().count() as u32, binary.len() as u32].map(u32::to_be_bytes);
    [&lengths[0][..], &lengths[1], json.as_bytes(), binary].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_segmentation_gives_the_same_replies(
        requests in vec(any_request(), 1..12), cuts in vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let stream = requests.concat();
        let (mut store, mut whole) = (MemoryStore::default(), Connection::classic());
        let expected = whole.receive(&mut store, &stream);
        let (mut store, mut cut) = (MemoryStore::default(), Connection::classic());
        let sent: Vec<u8> = segments(&stream, &cuts).iter().flat_map(|part| cut.receive(&mut store, part)).collect();
        prop_assert_eq!(&sent, &expected);
        prop_assert!(cut.closed.is_none() && cut.session.is_idle());
        let bye = requests.iter().filter(|bytes| frames(bytes)[0].0["operation"] == "BYE");
        let silent = bye.filter(|bytes| frames(bytes)[0].0["type"] != "NO").count();
        prop_assert_eq!(frames(&sent).len(), requests.len() - silent);
    }

    #[test]
    fn a_length_in_characters_is_understood_in_any_segmentation(
        text in "[a-zé日😀\"\\\\]{0,40}", before in any::<bool>(), binary in vec(any::<u8>(), 0..40),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let json = format!("{{\"a\": {}, \"b\": 1}}", serde_json::to_string(&text).unwrap());
        let next = frame("{\"next\": 1}", b"n");
        let first = if before { frame(&json, &binary) } else { frame_of_characters(&json, &binary) };
        let stream = [first, next].concat();
        let (got, error) = decoded(&segments(&stream, &cuts));
        prop_assert_eq!((got.len(), error), (2, None));
        let object = Object::from_json(&json).unwrap();
        prop_assert_eq!(object.text("a"), Some(text));
        prop_assert_eq!(&got[0], &Frame { body: Body::Object(object), binary: Binary::Kept(binary) });
        prop_assert_eq!(&got[1].binary, &Binary::Kept(b"n".to_vec()));
    }

    #[test]
    fn every_object_gets_one_reply_that_is_well_formed(json in any_object(), binary in vec(any::<u8>(), 0..40)) {
        let mut connection = Connection::classic();
        let sent = connection.receive(&mut MemoryStore::default(), &frame(&json, &binary));
        prop_assert_eq!(connection.closed, None);
        prop_assert!(connection.session.is_idle());
        let replies = frames(&sent);
        prop_assert_eq!(replies.len(), 1, "{}", json);
        let (reply, _) = &replies[0];
        for name in ["operation", "direction", "type", "status_msg"] {
            prop_assert!(reply[name].is_string(), "{} of {:?}", name, reply);
        }
        prop_assert!(reply["status"].as_u64().is_some_and(|status| (200..500).contains(&status)));
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600), cuts in vec(any::<prop::sample::Index>(), 0..4)) {
        let (whole, cut) = (decoded(&[&bytes]), decoded(&segments(&bytes, &cuts)));
        prop_assert_eq!(whole, cut);
        let mut connection = Connection::classic();
        connection.receive(&mut MemoryStore::default(), &bytes);
        let mut client = ClientSession::new(None);
        client.begin(Request::ListFiles).unwrap();
        let _ = client.received(&bytes);
    }

    #[test]
    fn random_json_lengths_and_bodies_do_no_harm(
        body in "[\\[\\]{}\",:0-9 aé\\\\]{0,60}", json_len in 0u32..70, bin_len in 0u32..30,
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = [&json_len.to_be_bytes()[..], &bin_len.to_be_bytes(), body.as_bytes()].concat();
        let (whole, cut) = (decoded(&[&bytes]), decoded(&segments(&bytes, &cuts)));
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn a_flipped_byte_does_no_harm(
        requests in vec(any_request(), 1..4), at in any::<prop::sample::Index>(), value in 1u8..,
    ) {
        let mut stream = requests.concat();
        let at = at.index(stream.len());
        stream[at] ^= value;
        let mut connection = Connection::classic();
        let sent = connection.receive(&mut MemoryStore::default(), &stream);
        prop_assert!(frames(&sent).iter().all(|(reply, _)| reply["direction"] == "RESPONSE"));
    }

    #[test]
    fn any_reply_is_understood_or_refused(json in any_object(), binary in vec(any::<u8>(), 0..40)) {
        let key = || "k".parse().unwrap();
        let object = Object::default();
        for request in [
            Request::Login { user: "u".into(), password: "p".into() },
            Request::SaveFile { key: None, size: FileSize::new(1).unwrap() },
            Request::Upload { key: key(), index: 0, block: vec![1] },
            Request::GetFile { key: key() },
            Request::ListFiles,
            Request::Download { key: key(), index: 0 },
            Request::DeleteFile { key: key() },
            Request::SaveData { key: None, object },
            Request::GetData { key: key() },
            Request::DeleteData { key: key() },
        ] {
            let mut client = ClientSession::new(None);
            client.begin(request.clone()).unwrap();
            let whole = client.received(&frame(&json, &binary));
            prop_assert_eq!(client.is_idle(), whole.is_ok());
            prop_assert!(!matches!(whole, Ok(None)), "a whole frame is a whole reply");
            let mut client = ClientSession::new(None);
            client.begin(request).unwrap();
            let bytes = frame(&json, &binary);
            let (last, before) = bytes.split_last().unwrap();
            for byte in before {
                prop_assert_eq!(client.received(&[*byte]), Ok(None));
            }
            prop_assert_eq!(client.received(&[*last]), whole);
        }
    }
}

/// Long names that are cut into single bytes are looked at once, not again with every byte.
#[test]
fn the_longest_request_in_single_bytes() {
    let filler = "é".repeat(REQUEST_JSON_MAX as usize - 20);
    let json = format!("{{\"a\": \"{filler}\"}}");
    assert!(json.chars().count() <= REQUEST_JSON_MAX as usize);
    let bytes = frame_of_characters(&json, &[]);
    let mut decoder = decoder();
    let mut frames = 0;
    for byte in bytes {
        decoder.push(&[byte]);
        while let Some(frame) = decoder.poll().unwrap() {
            assert_eq!(frame.body, Body::Object(Object::from_json(&json).unwrap()));
            frames += 1;
        }
    }
    assert_eq!((frames, decoder.is_between_frames()), (1, true));
}

#[test]
fn bounds_hold_to_the_byte() {
    let json = |len: u32| format!("{{\"a\": \"{}\"}}", "x".repeat(len as usize - 9));
    let (frames, error) = decoded(&[&frame(&json(REQUEST_JSON_MAX), &[])]);
    assert_eq!((frames.len(), error), (1, None));
    let error = Some(FrameError::JsonTooLong(REQUEST_JSON_MAX + 1));
    assert_eq!(decoded(&[&frame(&json(REQUEST_JSON_MAX + 1), &[])]), (vec![], error));

    let binary = |len: usize| decoded(&[&frame("{}", &vec![7; len])]).0.remove(0).binary;
    assert_eq!(binary(BLOCK_SIZE as usize), Binary::Kept(vec![7; BLOCK_SIZE as usize]));
    assert_eq!(binary(BLOCK_SIZE as usize + 1), Binary::Dropped(BLOCK_SIZE + 1));
    assert_eq!(binary(1 << 20), Binary::Dropped(1 << 20));
    let huge = [&2u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), b"{}"].concat();
    assert_eq!(decoded(&[&huge]), (vec![], Some(FrameError::BinaryTooLong(u32::MAX))));
    for lengths in [[0xff; 8].to_vec(), [&u32::MAX.to_be_bytes()[..], &[0; 4]].concat()] {
        let mut session = ServerSession::new(Authenticator::Classic, [0; 32], at(0));
        session.handle(at(0), Input::Received(&lengths));
        let reason = CloseReason::Frame(FrameError::JsonTooLong(u32::MAX));
        assert_eq!(session.poll(), Some(Output::Close(reason)));
    }
}
