//! What the server says to everything that a client may ask: every status, every message, in the order of the checks.

mod step_support;

use std::sync::Arc;

use ftx_proto::interop::step::limits::{
    BACKLOG_BYTES_MAX, BLOCK_SIZE, KEY_BYTES_MAX, LISTING_BYTES_MAX, REQUEST_JSON_MAX,
};
use ftx_proto::interop::step::server::{CloseReason, Input, Output, ServerSession};
use ftx_proto::interop::step::store::{Denial, FileState, StoreAnswer, StoreRequest};
use ftx_proto::interop::step::token::{Authenticator, Secrets, TokenKey, classic_password};
use ftx_proto::interop::step::value::Key;
use serde_json::{Map, Value, json};
use step_support::{Connection, MemoryStore, at, frame, frames, pattern, request};

/// What a reply says besides its own fields.
fn summary(reply: &Map<String, Value>) -> (&str, &str, u64, &str) {
    let text = |name: &str| reply[name].as_str().expect("a text");
    assert_eq!(text("direction"), "RESPONSE");
    (text("operation"), text("type"), reply["status"].as_u64().expect("a number"), text("status_msg"))
}

fn error(status: u64, message: &str) -> (&str, &str, u64, &str) {
    ("ERROR", "ERROR", status, message)
}

#[track_caller]
fn says(store: &mut MemoryStore, json: &str, expected: (&str, &str, u64, &str)) {
    let reply = Connection::classic().ask(store, json);
    assert_eq!(summary(&reply), expected, "{json}");
}

/// A store in which alice has the complete file `done`, the upload `begun` of 45,000 bytes, and the data `note`.
fn store() -> MemoryStore {
    let mut store = MemoryStore::default();
    let mut connection = Connection::classic();
    for (key, blocks) in [("done", 3), ("begun", 1)] {
        connection.ask(&mut store, &request("SAVE", "FILE", &format!(r#""key": "{key}", "size": 45000"#)));
        for (index, block) in pattern(45_000).chunks(20_480).enumerate().take(blocks) {
            let json = request("UPLOAD", "FILE", &format!(r#""key": "{key}", "block_index": {index}"#));
            assert_eq!(connection.ask_with(&mut store, &json, block).0["status"], 200);
        }
    }
    connection.ask(&mut store, &request("SAVE", "DATA", r#""key": "note", "a": [1.0, "\u00e9"]"#));
    store
}

#[test]
fn checks_before_dispatch() {
    let store = &mut store();
    let earth = ("3BODY", "DANGEROUS", 333, "DO NOT ANSWER! DO NOT ANSWER! DO NOT ANSWER!");
    says(store, r#"{"direction": "EARTH"}"#, earth);
    says(store, r#"{"direction": "EARTH", "operation": "LOGIN", "type": 7}"#, earth);
    for body in ["{}", "[]", "7", "\"x\"", "null", r#"{"direction": "no", "type": "no"}"#] {
        says(store, body, error(400, "Compulsory field operation is missing."));
    }
    says(store, r#"{"operation": "no", "type": "no"}"#, error(400, "Compulsory field direction is missing."));
    says(store, r#"{"operation": "no", "direction": "no"}"#, error(400, "Compulsory field type is missing."));
    let wrong = error(407, "Wrong direction. Should be \"REQUEST\"");
    says(store, r#"{"operation": "no", "direction": "RESPONSE", "type": "no"}"#, wrong);
    says(store, r#"{"operation": "no", "direction": 7, "type": "no"}"#, wrong);
    says(store, r#"{"operation": "no", "direction": "request", "type": "no"}"#, wrong);
    for operation in ["INFO", "STATUS", "login", "3BODY", ""] {
        let message = format!("Operation {operation} is not allowed");
        says(store, &request(operation, "no", ""), error(408, &message));
    }
    let number = r#"{"operation": 7, "direction": "REQUEST", "type": "FILE"}"#;
    says(store, number, error(408, "Operation 7 is not allowed"));
    says(store, &request("GET", "file", ""), error(409, "Type file is not allowed"));
}

#[test]
fn tokens() {
    let store = &mut store();
    let ask =
        |token: &str| format!(r#"{{"operation": "DELETE", "direction": "REQUEST", "type": "DATA"{token}}}"#);
    let refused = |message| ("DELETE", "AUTH", 403, message);
    says(store, &ask(""), refused("No token."));
    says(store, &ask(r#", "token": null"#), refused("No token."));
    for token in [r#""""#, "7", "[]", r#""YWJj""#] {
        says(store, &ask(&format!(r#", "token": {token}"#)), refused("Token format is wrong."));
    }
    // alice.1.login.0
    says(store, &ask(r#", "token": "YWxpY2UuMS5sb2dpbi4w""#), refused("Token is wrong."));
}

#[test]
fn login() {
    let store = &mut MemoryStore::default();
    let login = |kind: &str, fields: &str| {
        format!(r#"{{"operation": "LOGIN", "direction": "REQUEST", "type": "{kind}"{fields}}}"#)
    };
    let refused = |status, message| ("LOGIN", "AUTH", status, message);
    says(store, &login("FILE", ""), refused(409, "Type of LOGIN has to be AUTH."));
    for fields in ["", r#", "username": 7, "password": "x""#, r#", "username": null"#] {
        says(store, &login("AUTH", fields), refused(410, "\"username\" has to be a field for LOGIN"));
    }
    let no_password = refused(410, "\"password\" has to be a field for LOGIN");
    says(store, &login("AUTH", r#", "username": "alice""#), no_password);
    let wrong = refused(401, "\"Password error for login.");
    for user in ["alice", "", "a\\u0000"] {
        let fields = format!(r#", "username": "{user}", "password": "alice""#);
        says(store, &login("AUTH", &fields), wrong);
    }
    for user in ["alice", "al.ice", "日本", "a/../b"] {
        let fields =
            format!(r#", "username": "{user}", "password": "{}""#, classic_password(user).to_uppercase());
        let reply = Connection::classic().ask(store, &login("AUTH", &fields));
        assert_eq!(summary(&reply), ("LOGIN", "AUTH", 200, "Login successfully"));
        let token = reply["token"].as_str().expect("a token");
        let named = Authenticator::Classic.user_of(token, &at(0)).expect("a good token");
        assert_eq!(named.as_str(), user.replace('.', "_"));
    }
}

#[test]
fn secrets_are_verified_by_the_shell() {
    let with = |secret: [u8; 32]| {
        let secrets = Secrets::from_iter([("al.ice".parse().unwrap(), secret)]);
        Authenticator::Secrets(TokenKey::new([9; 32], 60), Arc::new(secrets))
    };
    let secrets = with([1; 32]);
    let login = |password: &str| {
        let password = format!(r#""username": "al.ice", "password": "{password}""#);
        format!(r#"{{"operation": "LOGIN", "direction": "REQUEST", "type": "AUTH", {password}}}"#)
    };
    let mut session = ServerSession::new(secrets.clone(), [0; 32], at(0));
    session.handle(at(0), Input::Received(&frame(&login("secret"), &[])));
    let verify = Output::VerifyPassword { user: "al_ice".parse().unwrap(), password: "secret".into() };
    assert_eq!(session.poll(), Some(verify));
    assert!(!session.is_idle());
    session.handle(at(0), Input::StoreDone(StoreAnswer::DataSaved));
    assert_eq!(session.poll(), None, "it waits for the password");
    session.handle(at(100), Input::PasswordVerified(true));
    let Some(Output::Send(reply)) = session.poll() else { panic!("no reply") };
    let token = frames(&reply)[0].0["token"].as_str().expect("a token").to_owned();

    let ask =
        format!(r#"{{"operation": "GET", "direction": "REQUEST", "type": "FILE", "token": "{token}"}}"#);
    session.handle(at(159), Input::Received(&frame(&ask, &[])));
    let list = StoreRequest::ListFiles { user: "al_ice".parse().unwrap() };
    assert_eq!(session.poll(), Some(Output::Store(list)));
    session.handle(at(160), Input::StoreDone(StoreAnswer::Files(Vec::new())));
    assert!(matches!(session.poll(), Some(Output::Send(_))));
    // Over in time, and over with another secret, on the very connection that it was made for.
    for (now, secret) in [(160, [1; 32]), (159, [2; 32])] {
        session.set_authenticator(with(secret));
        session.handle(at(now), Input::Received(&frame(&ask, &[])));
        let Some(Output::Send(reply)) = session.poll() else { panic!("no reply") };
        assert_eq!(summary(&frames(&reply)[0].0), ("GET", "AUTH", 403, "Token is wrong."));
    }

    let mut connection = Connection::new(secrets.clone());
    let store = &mut MemoryStore::default();
    let classic = login(&classic_password("al.ice"));
    for bad in [login("other"), classic, login(&"x".repeat(2000)), request("GET", "FILE", "")] {
        let status = connection.ask(store, &bad)["status"].as_u64();
        assert!(matches!(status, Some(401 | 403)), "{bad}");
    }
}

#[test]
fn data() {
    let store = &mut store();
    let saved = ("SAVE", "DATA", 200, "Data is saved with key \"k\"");
    says(store, &request("SAVE", "DATA", r#""key": "k", "password": "p", "n": 1.50"#), saved);
    assert_eq!(
        store.data("alice", "k").as_deref(),
        Some(r#"{"key": "k", "n": 1.50}"#),
        "no secrets are kept"
    );
    says(
        store,
        &request("SAVE", "DATA", r#""key": "k""#),
        ("SAVE", "DATA", 402, "This key \"k\" is existing."),
    );
    let reply = Connection::classic().ask(store, &request("GET", "DATA", r#""key": "note""#));
    assert_eq!(summary(&reply), ("GET", "DATA", 200, "OK"));
    assert_eq!((&reply["a"], &reply["key"], reply.len()), (&json!([1.0, "é"]), &json!("note"), 7));
    says(store, &request("GET", "DATA", r#""key": "x""#), ("GET", "DATA", 404, "The key x is not existing."));
    says(store, &request("GET", "DATA", ""), ("GET", "DATA", 410, "Field \"key\" is missing for DATA GET."));
    let deleted = ("DELETE", "DATA", 200, "The \"key\" k is deleted.");
    says(store, &request("DELETE", "DATA", r#""key": "k""#), deleted);
    let absent = ("DELETE", "DATA", 404, "The \"key\" k is not existing.");
    says(store, &request("DELETE", "DATA", r#""key": "k""#), absent);
    let missing = ("DELETE", "DATA", 410, "Field \"key\" is missing for DATA delete.");
    says(store, &request("DELETE", "DATA", ""), missing);
    // Files and data have keys of their own.
    let upload = ("SAVE", "FILE", 200, "This is the upload plan.");
    says(store, &request("SAVE", "FILE", r#""key": "note", "size": 1"#), upload);
}

#[test]
fn what_is_stored_cannot_change_the_reply() {
    let store = &mut MemoryStore::default();
    let hostile = r#""key": "k", "status": 500, "status_msg": "x", "more": {"status": 1}"#;
    says(store, &request("SAVE", "DATA", hostile), ("SAVE", "DATA", 200, "Data is saved with key \"k\""));
    let reply = Connection::classic().ask(store, &request("GET", "DATA", r#""key": "k""#));
    assert_eq!(summary(&reply), ("GET", "DATA", 200, "OK"));
    assert_eq!(reply["more"], json!({"status": 1}));
}

#[test]
fn without_a_key_a_random_one() {
    let store = &mut MemoryStore::default();
    let mut connection = Connection::classic();
    let mut keys = Vec::new();
    for (kind, fields) in [("FILE", r#""size": 1"#), ("FILE", r#""size": 1, "key": null"#), ("DATA", "")] {
        let reply = connection.ask(store, &request("SAVE", kind, fields));
        let key = reply["key"].as_str().expect("a key").to_owned();
        assert_eq!((reply["status"].as_u64(), key.len(), key.as_bytes()[14]), (Some(200), 36, b'4'));
        keys.push(key);
    }
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[test]
fn saving_files() {
    let store = &mut store();
    let refused = |message| ("SAVE", "FILE", 402, message);
    // That the key exists comes first, whatever is wrong with the size.
    for size in ["", r#", "size": 45000"#, r#", "size": -1"#] {
        let json = request("SAVE", "FILE", &format!(r#""key": "done"{size}"#));
        says(store, &json, refused("This \"key\" done is existing."));
    }
    says(
        store,
        &request("SAVE", "FILE", r#""key": "new""#),
        refused("This file \"size\" has to be included"),
    );
    for size in ["-1", "1.5", "\"1\"", "9223372036854775808", "99999999999999999999", "[]", "true"] {
        let json = request("SAVE", "FILE", &format!(r#""key": "new", "size": {size}"#));
        says(store, &json, refused("This file \"size\" has to be an integer from 0 to 9223372036854775807"));
    }
    let reply = Connection::classic()
        .ask(store, &request("SAVE", "FILE", r#""key": "new", "size": 9223372036854775807"#));
    assert_eq!(reply["total_block"].as_u64(), Some((i64::MAX as u64).div_ceil(20_480)));
    assert_eq!(reply["block_size"], 20_480);
    let reply = Connection::classic().ask(store, &request("SAVE", "FILE", r#""key": "empty", "size": 0"#));
    assert_eq!(
        (&reply["total_block"], &reply["md5"]),
        (&json!(0), &json!("d41d8cd98f00b204e9800998ecf8427e"))
    );
    assert_eq!(store.file("alice", "empty"), Some(Vec::new()));
}

#[test]
fn uploading() {
    let store = &mut store();
    let ask = |fields: &str| request("UPLOAD", "FILE", fields);
    let mut says = |fields: &str, block: &[u8], status: u64, message: &str| {
        let reply = Connection::classic().ask_with(store, &ask(fields), block).0;
        assert_eq!(summary(&reply), ("UPLOAD", "FILE", status, message), "{fields}");
    };
    let (full, last, long) = ([7; 20_480], [7; 4040], vec![7; 100_000]);
    says("", &full, 410, "Field \"key\" is missing for FILE uploading.");
    for block in [&full[..], &last, &long, &[]] {
        for index in ["", r#", "block_index": 0"#, r#", "block_index": -1"#, r#", "block_index": 99"#] {
            says(&format!(r#""key": "done"{index}"#), block, 408, "The \"key\" done is completely uploaded.");
            let message = "The \"key\" new is not accepted for uploading.";
            says(&format!(r#""key": "new"{index}"#), block, 408, message);
        }
        for index in ["", r#", "block_index": null"#, r#", "block_index": "0""#, r#", "block_index": 0.0"#] {
            says(&format!(r#""key": "begun"{index}"#), block, 410, "The \"block_index\" is compulsory.");
        }
        for index in ["3", "18446744073709551615", "18446744073709551616"] {
            let fields = format!(r#""key": "begun", "block_index": {index}"#);
            says(&fields, block, 405, "The \"block_index\" exceed the max index.");
        }
        says(r#""key": "begun", "block_index": -1"#, block, 410, "The \"block_index\" should >= 0.");
    }
    for (index, block) in [(0, &last[..]), (2, &full), (0, &long), (2, &[])] {
        says(
            &format!(r#""key": "begun", "block_index": {index}"#),
            block,
            406,
            "The \"block_size\" is wrong.",
        );
    }
    says(r#""key": "begun", "block_index": 2"#, &last, 200, "The block 2 is uploaded.");
    says(r#""key": "begun", "block_index": 2"#, &last, 200, "The block 2 is uploaded.");
    let reply = Connection::classic().ask_with(store, &ask(r#""key": "begun", "block_index": 1"#), &full).0;
    assert_eq!(
        reply["md5"].as_str().map(str::len),
        Some(32),
        "the block that completes the file has its sum"
    );
    assert_eq!((&reply["key"], &reply["block_index"]), (&json!("begun"), &json!(1)));
}

#[test]
fn getting_downloading_and_deleting() {
    let store = &mut store();
    let get = |status, message| ("GET", "FILE", status, message);
    says(store, &request("GET", "FILE", r#""key": "x""#), get(404, "The key x is not existing."));
    says(
        store,
        &request("GET", "FILE", r#""key": "begun""#),
        get(404, "The key begun is not completely uploaded."),
    );
    let reply = Connection::classic().ask(store, &request("GET", "FILE", ""));
    assert_eq!((summary(&reply), &reply["file_list"]), (get(200, "List of files."), &json!(["done"])));
    assert!(!reply.contains_key("more"));

    let download = |fields: &str| request("DOWNLOAD", "FILE", fields);
    says(store, &download(""), get(410, "Field \"key\" is missing for FILE downloading."));
    for index in ["", r#", "block_index": 0"#, r#", "block_index": -1"#] {
        let absent = "The \"key\" x is not existing.";
        says(store, &download(&format!(r#""key": "x"{index}"#)), get(404, absent));
        let incomplete = "The \"key\" begun is not completely uploaded. Please upload it first";
        says(store, &download(&format!(r#""key": "begun"{index}"#)), get(404, incomplete));
    }
    for (index, message) in [
        ("", "The \"block_index\" is compulsory."),
        (r#", "block_index": true"#, "The \"block_index\" is compulsory."),
        (r#", "block_index": 3"#, "The \"block_index\" exceed the max index."),
        (r#", "block_index": -3"#, "The \"block_index\" should >= 0."),
    ] {
        says(store, &download(&format!(r#""key": "done"{index}"#)), get(410, message));
    }
    let ask = download(r#""key": "done", "block_index": 2"#);
    let (reply, block) = Connection::classic().ask_with(store, &ask, &[]);
    assert_eq!(summary(&reply), ("DOWNLOAD", "FILE", 200, "An available block."));
    assert_eq!((reply["size"].as_u64(), block), (Some(4040), pattern(45_000)[40_960..].to_vec()));

    let delete = |fields: &str| request("DELETE", "FILE", fields);
    says(store, &delete(""), get(410, "Field \"key\" is missing for FILE delete."));
    says(store, &delete(r#""key": "x""#), get(404, "The \"key\" x is not existing."));
    let partial = "The \"key\" begun is not completely uploaded. The tmp files are deleted.";
    says(store, &delete(r#""key": "begun""#), get(404, partial));
    says(store, &delete(r#""key": "begun""#), get(404, "The \"key\" begun is not existing."));
    let reply = Connection::classic().ask(store, &delete(r#""key": "done""#));
    assert_eq!((summary(&reply), &reply["key"]), (get(200, "The \"key\" done is deleted."), &json!("done")));
    assert_eq!(store.file("alice", "done"), None);
}

#[test]
fn only_bye_is_left_without_a_reply() {
    let store = &mut store();
    let mut connection = Connection::classic();
    for kind in ["AUTH", "FILE", "DATA"] {
        assert_eq!(connection.receive(store, &frame(&request("BYE", kind, ""), &[])), Vec::<u8>::new());
    }
    assert_eq!(connection.closed, None, "the client ends the connection");
    for (operation, kind) in [("SAVE", "AUTH"), ("GET", "AUTH"), ("UPLOAD", "DATA"), ("DOWNLOAD", "DATA")] {
        let reply = connection.ask(store, &request(operation, kind, r#""key": "done""#));
        let message = format!("Operation {operation} is not allowed for type {kind}");
        assert_eq!(summary(&reply), (operation, kind, 408, message.as_str()));
    }
}

#[test]
fn keys_that_cannot_be() {
    let store = &mut store();
    let long = "k".repeat(5000);
    for key in ["", "..", "../../etc/passwd", "a\\\\..\\\\b", "a\\u0000b", long.as_str()] {
        let fields = format!(r#""key": "{key}", "size": 1, "block_index": 0"#);
        let mut connection = Connection::classic();
        for (operation, kind, status) in [
            ("SAVE", "FILE", 402),
            ("SAVE", "DATA", 402),
            ("UPLOAD", "FILE", 408),
            ("GET", "FILE", 404),
            ("GET", "DATA", 404),
            ("DOWNLOAD", "FILE", 404),
            ("DELETE", "FILE", 404),
            ("DELETE", "DATA", 404),
        ] {
            let reply = connection.ask(store, &request(operation, kind, &fields));
            assert_eq!(reply["status"], status, "{operation} {kind} {key:?}");
        }
    }
    for key in ["7", "[]", "{}", "false"] {
        let json = request("DELETE", "DATA", &format!(r#""key": {key}"#));
        says(store, &json, ("DELETE", "DATA", 410, "Field \"key\" has to be a text."));
    }
    for key in ["dir/sub/file.txt", "/abs/file", "日本語.txt", "C:\\\\x", &"k".repeat(KEY_BYTES_MAX)] {
        let reply = Connection::classic()
            .ask(store, &request("SAVE", "FILE", &format!(r#""key": "{key}", "size": 1"#)));
        assert_eq!(reply["status"], 200, "{key}");
        assert_eq!(reply["key"].as_str().map(str::to_owned), Some(key.replace("\\\\", "\\")));
    }
}

#[test]
fn a_store_that_denies_gets_a_status_of_the_protocol() {
    let mut store = store();
    for denial in [Denial::ReadOnly, Denial::OverQuota, Denial::DiskFull, Denial::Busy, Denial::Failed] {
        store.denial = Some(denial);
        for (operation, kind, status) in [
            ("SAVE", "FILE", 402),
            ("SAVE", "DATA", 402),
            ("UPLOAD", "FILE", 408),
            ("DELETE", "FILE", 403),
            ("DELETE", "DATA", 403),
        ] {
            let fields = r#""key": "k", "size": 1, "block_index": 0"#;
            let reply = Connection::classic().ask_with(&mut store, &request(operation, kind, fields), b"x").0;
            let status = match denial {
                Denial::Failed => 500,
                Denial::Busy => 503,
                _ => status,
            };
            let message = format!("{operation} is not possible: {denial}.");
            assert_eq!((&reply["status"], &reply["status_msg"]), (&json!(status), &json!(message)));
        }
    }
}

#[test]
fn a_store_that_answers_another_question_leaves_no_client_waiting() {
    let mut session = ServerSession::new(Authenticator::Classic, [0; 32], at(0));
    for json in [request("GET", "FILE", r#""key": "k""#), request("SAVE", "DATA", "")] {
        session.handle(at(0), Input::Received(&frame(&json, &[])));
        assert!(matches!(session.poll(), Some(Output::Store(_))));
        session.handle(at(0), Input::StoreDone(StoreAnswer::FileDeleted(FileState::Absent)));
        let Some(Output::Send(reply)) = session.poll() else { panic!("no reply") };
        assert_eq!(frames(&reply)[0].0["status"], 500);
    }
}

#[test]
fn unwanted_binary_data_is_read_and_dropped() {
    let store = &mut store();
    let mut connection = Connection::classic();
    let fields = format!(r#""username": "bob", "password": "{}""#, classic_password("bob"));
    let big = vec![7; 3_000_000];
    for json in [
        request("LOGIN", "AUTH", &fields),
        request("SAVE", "FILE", r#""key": "big", "size": 3000000"#),
        request("SAVE", "DATA", r#""key": "big""#),
        request("GET", "DATA", r#""key": "big""#),
        request("DOWNLOAD", "FILE", r#""key": "done", "block_index": 0"#),
    ] {
        let reply = connection.ask_with(store, &json, &big).0;
        assert_eq!(reply["status"], 200, "{json}");
        assert!(connection.session.is_idle());
    }
}

/// The whole 4 GiB that the length can say, without keeping any of it.
#[test]
fn four_gigabytes_are_dropped_as_they_come() {
    let json = request("GET", "FILE", "");
    let lengths = [json.len() as u32, u32::MAX].map(u32::to_be_bytes);
    let head = [&lengths[0][..], &lengths[1], json.as_bytes()].concat();
    let mut session = ServerSession::new(Authenticator::Classic, [0; 32], at(0));
    session.handle(at(0), Input::Received(&head));
    let part = vec![0; BACKLOG_BYTES_MAX / 2];
    let mut left = u64::from(u32::MAX);
    while left > 0 {
        assert_eq!(session.poll(), None);
        assert!(session.wants_bytes());
        let len = left.min(part.len() as u64);
        session.handle(at(0), Input::Received(&part[..len as usize]));
        left -= len;
    }
    assert!(matches!(session.poll(), Some(Output::Store(StoreRequest::ListFiles { .. }))));
}

#[test]
fn requests_wait_their_turn_and_a_bounded_time() {
    let mut session = ServerSession::new(Authenticator::Classic, [0; 32], at(0));
    let block = vec![7; BLOCK_SIZE as usize];
    let upload = |index: usize| {
        frame(&request("UPLOAD", "FILE", &format!(r#""key": "k", "block_index": {index}"#)), &block)
    };
    let (mut sent, mut answered) = (0, 0);
    while session.wants_bytes() {
        session.handle(at(0), Input::Received(&upload(sent)));
        sent += 1;
        if sent == 1 {
            assert!(matches!(session.poll(), Some(Output::Store(StoreRequest::Upload { index: 0, .. }))));
        }
        assert_eq!(session.poll(), None, "one thing at a time");
    }
    assert!((10..20).contains(&sent), "a bounded number waits: {sent}");
    while answered < sent {
        session.handle(at(0), Input::StoreDone(StoreAnswer::BlockStored { md5: None }));
        let Some(Output::Send(reply)) = session.poll() else { panic!("no reply") };
        assert_eq!(frames(&reply)[0].0["block_index"], answered, "replies come in the order of requests");
        answered += 1;
        let next = session.poll();
        assert_eq!(matches!(next, Some(Output::Store(_))), answered < sent);
    }
    assert!(session.is_idle() && session.wants_bytes());

    session.handle(at(0), Input::Received(&upload(0)));
    assert!(session.poll().is_some());
    session.handle(at(0), Input::Received(&vec![0; BACKLOG_BYTES_MAX + 1]));
    assert_eq!(session.poll(), Some(Output::Close(CloseReason::Backlog)));
    session.handle(at(0), Input::StoreDone(StoreAnswer::BlockStored { md5: None }));
    assert_eq!((session.poll(), session.wants_bytes()), (None, false));
}

#[test]
fn a_list_that_is_too_long_is_cut_and_says_so() {
    let mut session = ServerSession::new(Authenticator::Classic, [0; 32], at(0));
    session.handle(at(0), Input::Received(&frame(&request("GET", "FILE", ""), &[])));
    assert!(matches!(session.poll(), Some(Output::Store(StoreRequest::ListFiles { .. }))));
    let key: Key = "é".repeat(KEY_BYTES_MAX / 2).parse().unwrap();
    session.handle(at(0), Input::StoreDone(StoreAnswer::Files(vec![key; 3000])));
    let Some(Output::Send(reply)) = session.poll() else { panic!("no reply") };
    let fields = &frames(&reply)[0].0;
    let listed = fields["file_list"].as_array().map(Vec::len);
    assert_eq!((listed, &fields["more"]), (Some(LISTING_BYTES_MAX / (KEY_BYTES_MAX + 4)), &json!(true)));
}

#[test]
fn what_is_no_frame_ends_the_connection() {
    let too_long = [(REQUEST_JSON_MAX + 1).to_be_bytes(), 0u32.to_be_bytes()].concat();
    let garbage = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let deep = frame(&format!("{{\"a\": {}", "[".repeat(60_000)), &[]);
    let closed = "{\"a\": ".to_owned() + &"[".repeat(20_000) + &"]".repeat(20_000) + "}";
    for bytes in [
        too_long,
        garbage,
        frame("", &[]),
        frame("{", &[]),
        frame("{'a': 1}", &[]),
        deep,
        frame(&closed, &[]),
    ] {
        let mut connection = Connection::classic();
        let store = &mut MemoryStore::default();
        assert_eq!(connection.receive(store, &bytes), Vec::<u8>::new());
        assert!(matches!(connection.closed, Some(CloseReason::Frame(_))));
        assert_eq!(connection.receive(store, &frame("{}", &[])), Vec::<u8>::new(), "it stays ended");
    }
}
