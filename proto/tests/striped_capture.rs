//! What original programs said to each other in striped downloads, replayed against both of our sides; and requests
//! and replies as nobody should send them.

use ftx_proto::interop::striped::control::{
    BODY_SIZE_MAX, ControlRequest, HEAD_SIZE_MAX, RequestParser, Status, encode_refusal, encode_reply,
};
use ftx_proto::interop::striped::reply::{REPLY_SIZE_MAX, Reply, ReplyError, ReplyParser, encode_request};
use ftx_proto::interop::striped::{Md5Hash, Stripes, Threads};
use md5::{Digest as _, Md5};
use proptest::prelude::*;
use serde_json::Value;

type Request = Result<ControlRequest, Status>;

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hex digits");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits")).collect()
}

fn conversations() -> Vec<Value> {
    serde_json::from_str(include_str!("data/captures/striped.json")).expect("a capture")
}

fn threads(count: u64) -> Threads {
    Threads::new(count).expect("1 to 255")
}

/// What the request says, handed over in pieces that end at these places; `None` if it never ends.
fn parse(bytes: &[u8], cuts: &[usize]) -> Option<Request> {
    let mut parser = RequestParser::new();
    pieces(bytes, cuts).find_map(|piece| parser.push(piece))
}

fn parse_reply(bytes: &[u8], cuts: &[usize]) -> Result<Reply, ReplyError> {
    let mut parser = ReplyParser::new();
    pieces(bytes, cuts).find_map(|piece| parser.push(piece)).unwrap_or_else(|| parser.end())
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    let ends: Vec<(usize, usize)> = places.windows(2).map(|pair| (pair[0], pair[1])).collect();
    ends.into_iter().map(|(start, end)| &bytes[start..end])
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn captured_requests_are_understood_and_ours_are_the_same() {
    let found: Vec<_> = conversations().iter().map(|one| parse(&unhex(&one["request"]), &[])).collect();
    let asked = |path: &str| Some(Ok(ControlRequest { path: path.to_owned(), threads: threads(3) }));
    let wrong = Some(Err(Status::InternalError));
    assert_eq!(found, [asked("/data/f.bin"), asked("/data/none.bin"), wrong.clone(), wrong]);
    let ours = encode_request("/data/f.bin", "127.0.0.1:8081", threads(3)).expect("a path");
    assert_eq!(ours, unhex(&conversations()[0]["request"]));
}

#[test]
fn captured_replies_are_understood() {
    let found: Vec<_> = conversations().iter().map(|one| parse_reply(&unhex(&one["reply"]), &[])).collect();
    let hash = "f8ef4167d946a455a1111eb2f3503d40".parse().expect("a hash");
    let refused = |status| Err(ReplyError::Refused { status });
    assert_eq!(found, [Ok(Reply { hash, port: 40_747 }), refused(404), refused(500), refused(500)]);
}

#[test]
fn our_reply_has_the_body_of_the_original() {
    let original = unhex(&conversations()[0]["reply"]);
    let Reply { hash, port } = parse_reply(&original, &[]).expect("a reply");
    let ours = encode_reply(hash, port);
    let body = |reply: &[u8]| reply.rsplit(|&byte| byte == b'\n').next().expect("a body").to_vec();
    assert_eq!(body(&ours), body(&original));
    assert!(ours.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(parse_reply(&ours, &[]), Ok(Reply { hash, port }));
    for status in [Status::NotFound, Status::Forbidden, Status::InternalError, Status::NotImplemented] {
        let refused = Err(ReplyError::Refused { status: status.code() });
        assert_eq!(parse_reply(&encode_refusal(status), &[]), refused);
    }
}

#[test]
fn what_follows_the_object_is_nothing_however_the_reply_is_cut() {
    let hash = "d41d8cd98f00b204e9800998ecf8427e".parse().expect("a hash");
    let reply = format!("HTTP/1.0 200 OK\r\n\r\n{{\"hash\": \"{hash}\", \"port\": 4242}}\n\0S").into_bytes();
    for cut in 0..reply.len() {
        assert_eq!(parse_reply(&reply, &[cut]), Ok(Reply { hash, port: 4242 }), "cut at {cut}");
    }
}

#[test]
fn captured_stripes_are_cut_as_we_cut() {
    let conversation = &conversations()[0];
    let stripes = conversation["stripes"].as_array().expect("stripes");
    let parts: Vec<Vec<u8>> = stripes.iter().map(|stripe| unhex(&stripe[1])).collect();
    let file = parts.concat();
    assert_eq!(file.len(), 10_001);
    let cut = Stripes::new(file.len() as u64, threads(3));
    for (id, part) in (0u8..).zip(&parts) {
        let range = cut.range(id);
        assert_eq!(&file[range.start as usize..range.end as usize], part);
    }
    let hash = Md5Hash(Md5::digest(&file).into());
    assert_eq!(parse_reply(&unhex(&conversation["reply"]), &[]).map(|reply| reply.hash), Ok(hash));
}

#[test]
fn paths_are_verbatim_and_stay_in_the_share() {
    for (path, name) in [
        ("/a/b", Some("a/b")),
        ("a", Some("a")),
        ("//a", Some("a")),
        ("/%41?x=1#y", Some("%41?x=1#y")),
        ("/a b", Some("a b")),
        ("/é", Some("é")),
        ("/../a", None),
        ("/", None),
        ("/a//b", None),
        ("/a\0b", None),
    ] {
        let request = parse(&post(path, "{\"threads\": 1}"), &[]).expect("complete").expect("good");
        assert_eq!(request.path, path);
        assert_eq!(request.name().ok().map(|name| name.as_str().to_owned()).as_deref(), name);
    }
    assert_eq!(encode_request("a\r\nX: y", "h", threads(1)).ok(), None);
    assert_eq!(encode_request("", "h", threads(1)).ok(), None);
}

#[test]
fn requests_are_refused_as_the_original_does() {
    let good = "{\"threads\": 255, \"more\": [1]}";
    assert_eq!(
        parse(&post("a", good), &[]),
        Some(Ok(ControlRequest { path: "a".into(), threads: threads(255) }))
    );
    let deep = format!("{}1{}", "[".repeat(1500), "]".repeat(1500));
    for body in ["", "{}", "[3]", "3", "{\"threads\": \"3\"}", "{\"threads\": 0}", "{\"threads\": -1}", &deep]
    {
        assert_eq!(parse(&post("a", body), &[]), Some(Err(Status::InternalError)), "{body}");
    }
    for number in ["256", "3.0", "true", "null", "1e400", "99999999999999999999999", "[1]"] {
        let body = format!("{{\"threads\": {number}}}");
        assert_eq!(parse(&post("a", &body), &[]), Some(Err(Status::InternalError)), "{body}");
    }
    let lines = |text: &str| parse(text.replace('\n', "\r\n").as_bytes(), &[]);
    for length in ["", "-1", "x", "1 2", "4294967296", "99999999999999999999999", "5\nContent-Length: 6"] {
        let request = format!("POST a HTTP/1.1\nContent-Length: {length}\n\n");
        assert_eq!(lines(&request), Some(Err(Status::InternalError)), "{length}");
    }
    assert_eq!(lines("POST a HTTP/1.1\n\n"), Some(Err(Status::InternalError)));
    assert_eq!(lines("GET a HTTP/1.1\n\n"), Some(Err(Status::NotImplemented)));
    assert_eq!(lines("DELETE a HTTP/1.1\nContent-Length: 5\n\n"), Some(Err(Status::NotImplemented)));
    for nonsense in ["\n\n", "POST\n\n", "POST a\n\n", "POST a FTP/1\n\n"] {
        assert_eq!(lines(nonsense), Some(Err(Status::BadRequest)), "{nonsense:?}");
    }
    let not_utf8 = b"POST /\xff HTTP/1.1\r\ncontent-length:14\r\n\r\n{\"threads\": 3}";
    assert_eq!(parse(not_utf8, &[]), Some(Err(Status::NotFound)));
}

#[test]
fn what_has_no_end_is_cut() {
    let mut parser = RequestParser::new();
    let mut pushed = 0;
    while parser.push(b"POST aaaa").is_none() {
        pushed += 9;
        assert!(pushed <= HEAD_SIZE_MAX + 9);
    }
    let header = format!("POST a HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_SIZE_MAX));
    assert_eq!(parse(header.as_bytes(), &[]), Some(Err(Status::HeadTooLarge)));
    let long = format!("HTTP/1.0 200 OK\r\n\r\n{{{}", " ".repeat(REPLY_SIZE_MAX));
    assert_eq!(parse_reply(long.as_bytes(), &[100, 200]), Err(ReplyError::TooLong));
}

#[test]
fn a_request_that_ends_early_is_what_it_is() {
    let whole = post("a", "{\"threads\": 3}  ");
    let mut parser = RequestParser::new();
    assert_eq!(parser.push(&whole[..whole.len() - 1]), None);
    assert_eq!(parser.end().map(|request| request.threads), Ok(threads(3)));
    assert_eq!(RequestParser::new().end(), Err(Status::BadRequest));
}

#[test]
fn replies_of_other_makes_are_understood() {
    let hash: Md5Hash = "f8ef4167d946a455a1111eb2f3503d40".parse().expect("a hash");
    let body = format!("{{\"port\":8,\"hash\":\"{}\"}}", hash.to_string().to_uppercase());
    let len = body.len();
    let good = Ok(Reply { hash, port: 8 });
    let (first, second) = body.split_at(10);
    for reply in [
        format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
        format!("HTTP/1.1 200\r\ncontent-length: {len}\r\n\r\n{body}more"),
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\n\n{body}\n"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n{first}\r\n{:x};x=y\r\n{second}\r\n0\r\n\r\n",
            second.len()
        ),
    ] {
        assert_eq!(parse_reply(reply.as_bytes(), &[]), good, "{reply}");
        for cut in 0..reply.len() {
            assert_eq!(parse_reply(reply.as_bytes(), &[cut]), good, "{reply} cut at {cut}");
        }
    }
    for wrong in [
        "{}",
        "[]",
        "{\"hash\": \"x\", \"port\": 1}",
        "<html>",
        "{\"hash\": \"f8ef4167d946a455a1111eb2f3503d40\", \"port\": 0}",
        "{\"hash\": \"f8ef4167d946a455a1111eb2f3503d40\", \"port\": 65536}",
        "{\"hash\": \"f8ef4167d946a455a1111eb2f3503d40\", \"port\": \"1\"}",
    ] {
        let reply = format!("HTTP/1.0 200 OK\r\n\r\n{wrong}");
        assert!(matches!(parse_reply(reply.as_bytes(), &[]), Err(ReplyError::Malformed(_))), "{wrong}");
    }
    assert_eq!(parse_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", &[]), Err(ReplyError::CutShort));
    assert_eq!(parse_reply(b"HTTP/1.1 2", &[]), Err(ReplyError::CutShort));
    assert!(matches!(parse_reply(b"220 ftp", &[]), Err(ReplyError::Malformed(_))));
}

proptest! {
    #[test]
    fn requests_are_the_same_however_they_are_cut(
        path in "[ -~é]{1,40}",
        body in prop_oneof![(0u32..300).prop_map(|n| format!("{{\"threads\": {n}}}")), "[{}\":a-z0-9 ]{0,30}"],
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        line_end in prop_oneof![Just("\r\n"), Just("\n")],
    ) {
        let text = format!("POST {path} HTTP/1.1\nHost: x\nContent-Length: {}\n\n", body.len());
        let bytes = [text.replace('\n', line_end).into_bytes(), body.into_bytes()].concat();
        let whole = parse(&bytes, &[]);
        prop_assert!(whole.is_some());
        prop_assert_eq!(parse(&bytes, &cuts), whole);
    }

    #[test]
    fn captured_replies_are_the_same_however_they_are_cut(
        which in 0usize..4,
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let reply = unhex(&conversations()[which]["reply"]);
        prop_assert_eq!(parse_reply(&reply, &cuts), parse_reply(&reply, &[]));
    }

    #[test]
    fn garbage_is_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        begin in prop_oneof![Just(""), Just("POST "), Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Just("POST a HTTP/1.1\r\nContent-Length: 9\r\n\r\n")],
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let bytes = [begin.as_bytes(), &bytes].concat();
        prop_assert_eq!(parse(&bytes, &cuts), parse(&bytes, &[]));
        let _ = parse_reply(&bytes, &cuts);
    }
}

const _: () = assert!(BODY_SIZE_MAX > 1024);
