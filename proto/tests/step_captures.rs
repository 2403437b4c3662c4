//! Conversations of original clients with an original server, byte by byte as they went over the wire: our server
//! answers those clients as theirs did, and our client understands that server.
//!
//! Where our server deviates, it is listed here, in [`deviations`], and nowhere else:
//! * the token and the time in it are of another day (`token` of LOGIN);
//! * data comes back without the token of whoever saved it (`token` of DATA GET).

mod step_support;

use ftx_proto::interop::step::client::{ClientSession, Reply, Request};
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::token::Authenticator;
use ftx_proto::interop::step::value::{FileSize, Key, Md5Sum};
use serde_json::{Map, Value};
use step_support::{Connection, MemoryStore, PATTERN_LEN, frames, pattern};

const CAPTURES: [(&str, &str); 5] = [
    ("bye", include_str!("data/captures/step-bye.json")),
    ("pipelined", include_str!("data/captures/step-pipelined.json")),
    ("shell", include_str!("data/captures/step-shell.json")),
    ("single-recv", include_str!("data/captures/step-single-recv.json")),
    ("strict-parallel", include_str!("data/captures/step-strict-parallel.json")),
];

/// A request, its reply, and what the client sent and the server answered for it.
type Fields = (Map<String, Value>, Vec<u8>);

/// All that a client sent on a connection, and all that the server did.
struct Captured {
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Captured {
    /// The requests with their replies; BYE has none.
    fn exchanges(&self) -> Vec<(Fields, Option<Fields>)> {
        let mut replies = frames(&self.server).into_iter();
        frames(&self.client).into_iter().map(|request| (request, replies.next())).collect()
    }
}

fn captured(text: &str) -> Vec<Captured> {
    let connections: Vec<Vec<(String, String)>> = serde_json::from_str(text).unwrap();
    let side = |turns: &[(String, String)], who: &str| {
        turns.iter().filter(|(from, _)| from == who).flat_map(|(_, hex)| unhex(hex)).collect::<Vec<u8>>()
    };
    connections.iter().map(|turns| Captured { client: side(turns, "c"), server: side(turns, "s") }).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A reply as it is compared: without what deviates.
fn deviations(reply: &Fields, own: bool) -> Fields {
    let (mut fields, binary) = reply.clone();
    match (fields["operation"].as_str(), fields["type"].as_str()) {
        (Some("LOGIN"), Some("AUTH")) => {
            let token = fields.remove("token").expect("a token");
            assert_eq!(token.as_str().map(|token| token.len() % 4), Some(0));
        }
        (Some("GET"), Some("DATA")) => {
            assert_eq!(fields.remove("token").is_none(), own, "only theirs gives the token away");
        }
        _ => {}
    }
    (fields, binary)
}

/// What was sent on all connections in the order of the requests: where there are several, the first one begins and
/// waits for the others before its last request.
fn in_order(connections: &[Captured]) -> Vec<(usize, Fields, Option<Fields>)> {
    let mut first = connections[0].exchanges();
    let last = if connections.len() > 1 { first.pop() } else { None };
    let others = connections[1..].iter().zip(1..).flat_map(|(captured, number)| {
        captured.exchanges().into_iter().map(move |(request, reply)| (number, request, reply))
    });
    let numbered = |(request, reply)| (0, request, reply);
    first.into_iter().map(numbered).chain(others).chain(last.map(numbered)).collect()
}

fn bytes_of((fields, binary): &Fields) -> Vec<u8> {
    step_support::frame(&serde_json::to_string(fields).unwrap(), binary)
}

#[test]
fn our_server_answers_original_clients_as_theirs_did() {
    for (name, text) in CAPTURES {
        let connections = captured(text);
        let mut store = MemoryStore::default();
        let mut ours: Vec<_> = connections.iter().map(|_| Connection::classic()).collect();
        for (number, request, reply) in in_order(&connections) {
            let sent = ours[number].receive(&mut store, &bytes_of(&request));
            let sent: Vec<_> = frames(&sent).iter().map(|reply| deviations(reply, true)).collect();
            let expected: Vec<_> = reply.iter().map(|reply| deviations(reply, false)).collect();
            assert_eq!(sent, expected, "{name}: reply to {:?}", request.0);
        }
        assert!(ours.iter().all(|connection| connection.closed.is_none() && connection.session.is_idle()));
        let stored = [("al_ice", "report.bin"), ("carol", "a.bin"), ("bob", "a.bin"), ("alice", "a.bin")]
            .iter()
            .find_map(|(user, key)| store.file(user, key));
        assert_eq!(stored, Some(pattern(PATTERN_LEN)), "{name}");
    }
}

/// As the pipelining client does it: everything at once, in one piece, before it reads any reply.
#[test]
fn one_connection_may_be_sent_at_once() {
    for (name, text) in CAPTURES {
        let connections = captured(text);
        let [only] = connections.as_slice() else { continue };
        let mut store = MemoryStore::default();
        let sent = Connection::classic().receive(&mut store, &only.client);
        let ours: Vec<_> = frames(&sent).iter().map(|reply| deviations(reply, true)).collect();
        let theirs: Vec<_> = frames(&only.server).iter().map(|reply| deviations(reply, false)).collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

/// Programs look for pieces of text, so our replies are theirs to the byte, where nothing deviates.
#[test]
fn our_bytes_are_those_of_the_original_server() {
    let mut same = 0;
    for (name, text) in CAPTURES {
        let connections = captured(text);
        let [only] = connections.as_slice() else { continue };
        let mut connection = Connection::classic();
        connection.receive(&mut MemoryStore::default(), &only.client);
        let mut theirs = only.server.as_slice();
        for ours in connection.sent {
            let (fields, _) = frames(&ours).remove(0);
            let deviates =
                fields["operation"] == "LOGIN" || fields["operation"] == "GET" && fields["type"] == "DATA";
            let length =
                |place: usize| u32::from_be_bytes(theirs[place..place + 4].try_into().unwrap()) as usize;
            let (reply, rest) = theirs.split_at(8 + length(0) + length(4));
            assert!(deviates || ours == reply, "{name}: {fields:?}");
            same += usize::from(!deviates);
            theirs = rest;
        }
    }
    assert_eq!(same, 24, "of all captures together");
}

/// What our client would have asked for the same.
fn our_request((fields, binary): &Fields) -> Request {
    let text = |name: &str| fields[name].as_str().unwrap().to_owned();
    let key = || text("key").parse::<Key>().unwrap();
    let index = || fields["block_index"].as_u64().unwrap();
    match (text("operation").as_str(), text("type").as_str()) {
        ("LOGIN", "AUTH") => Request::Login { user: text("username"), password: text("password") },
        ("SAVE", "FILE") => {
            let size = FileSize::new(fields["size"].as_u64().unwrap()).unwrap();
            Request::SaveFile { key: Some(key()), size }
        }
        ("UPLOAD", "FILE") => Request::Upload { key: key(), index: index(), block: binary.clone() },
        ("GET", "FILE") => Request::GetFile { key: key() },
        ("DOWNLOAD", "FILE") => Request::Download { key: key(), index: index() },
        ("DELETE", "FILE") => Request::DeleteFile { key: key() },
        ("SAVE", "DATA") => {
            let object = Object::from_json(&serde_json::to_string(fields).unwrap()).unwrap();
            Request::SaveData { key: Some(key()), object }
        }
        ("GET", "DATA") => Request::GetData { key: key() },
        ("DELETE", "DATA") => Request::DeleteData { key: key() },
        other => panic!("the captures have no {other:?}"),
    }
}

#[test]
fn our_client_understands_the_original_server() {
    let md5 = Md5Sum::of(&pattern(PATTERN_LEN));
    let mut understood = 0;
    for (name, text) in CAPTURES {
        for (request, reply) in captured(text).iter().flat_map(Captured::exchanges) {
            let Some(reply) = reply else { continue };
            let token = request.0.get("token").and_then(Value::as_str).map(str::to_owned);
            let mut client = ClientSession::new(token);
            let asked = client.begin(our_request(&request)).expect("nothing else is outstanding");
            asks_for_the_same(&asked, &request);

            let bytes = bytes_of(&reply);
            let (last, before) = bytes.split_last().unwrap();
            for byte in before {
                assert_eq!(client.received(&[*byte]), Ok(None), "{name}");
            }
            let outcome = client.received(&[*last]).unwrap().expect("the reply is complete");
            match outcome {
                Ok(Reply::LoggedIn { token }) => {
                    assert_eq!(client.token(), Some(token.as_str()));
                    assert!(Authenticator::Classic.user_of(&token, &step_support::at(0)).is_ok());
                }
                Ok(Reply::UploadPlan { key, plan, md5 }) => {
                    assert_eq!(Some(key.as_str()), request.0["key"].as_str());
                    assert_eq!((plan.size(), plan.total_block(), md5), (45_000, 3, None));
                }
                Ok(Reply::BlockStored { md5: told }) => {
                    assert_eq!(told, (request.0["block_index"] == 2).then_some(md5), "{name}");
                }
                Ok(Reply::FilePlan { plan, md5: told }) => {
                    assert_eq!((plan.size(), plan.block_size(), told), (45_000, 20_480, Some(md5)));
                }
                Ok(Reply::Block { bytes }) => assert_eq!(bytes, reply.1),
                Ok(Reply::Data(object)) => assert_eq!(object.to_json(), r#"{"a": 1, "key": "k1"}"#),
                Ok(Reply::DataSaved { key }) => assert_eq!(key.as_str(), "k1"),
                Ok(Reply::DataDeleted) => assert_eq!(reply.0["status_msg"], "The \"key\" k1 is deleted."),
                Err(refused) => {
                    assert_eq!(
                        (refused.status, refused.message.as_str()),
                        (404, "The \"key\" a.bin is not existing.")
                    );
                }
                Ok(Reply::FileDeleted | Reply::Files { .. }) => panic!("{name}: not in the captures"),
            }
            assert!(client.is_idle());
            understood += 1;
        }
    }
    assert_eq!(understood, 35, "of all captures together");
}

/// Our request has every field of theirs that means anything, with the same value, and the same binary data.
fn asks_for_the_same(asked: &[u8], captured: &Fields) {
    let (ours, binary) = frames(asked).remove(0);
    assert_eq!(binary, captured.1);
    for (name, value) in &captured.0 {
        let login = captured.0["operation"] == "LOGIN";
        let meaningless = match name.as_str() {
            "token" => login,
            "username" | "password" => !login,
            _ => false,
        };
        assert!(meaningless || ours.get(name) == Some(value), "{name} of {ours:?}");
    }
}
