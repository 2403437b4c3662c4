//! What original programs said to each other in UDP broadcast get, replayed against both of our sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ftx_proto::digest::Digest;
use ftx_proto::interop::udp_get::client::{ClientConfig, ClientEngine, Input, Output};
use ftx_proto::interop::udp_get::server::{self, ContentKey, ServedFile, ServerConfig, ServerEngine};
use ftx_proto::interop::udp_get::wire::{
    CHUNK_HEADER_SIZE, Chunk, DATAGRAM_SIZE_MAX, Except, chunk_data_mut, decode_get, encode_get, seal_chunk,
};
use ftx_proto::time::Time;
use serde_json::Value;

struct Conversation {
    request: Vec<u8>,
    replies: Vec<Vec<u8>>,
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hex digits");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits")).collect()
}

fn conversations() -> Vec<Conversation> {
    let all: Value = serde_json::from_str(include_str!("data/captures/udp-get.json")).expect("a capture");
    let all = all.as_array().expect("conversations");
    all.iter()
        .map(|one| Conversation {
            request: unhex(&one["request"]),
            replies: one["replies"].as_array().expect("datagrams").iter().map(unhex).collect(),
        })
        .collect()
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The file that the chunks of a conversation make up.
fn file_of(conversation: &Conversation) -> Vec<u8> {
    let chunks: BTreeMap<u32, &[u8]> = conversation.replies[1..]
        .iter()
        .map(|datagram| {
            let chunk = Chunk::decode(datagram).expect("a chunk");
            chunk.verify().expect("its hash");
            (chunk.number, chunk.data)
        })
        .collect();
    chunks.into_values().flatten().copied().collect()
}

#[test]
fn our_server_answers_like_the_original() {
    for conversation in conversations() {
        let file = file_of(&conversation);
        let mut engine = ServerEngine::new(ServerConfig::default(), 1);
        let mut now = Time::ZERO;
        let from = address(40_000);
        engine.handle(now, server::Input::Received { from, on_link: true, bytes: &conversation.request });
        let mut sent = Vec::new();
        loop {
            while let Some(output) = engine.poll() {
                match output {
                    server::Output::Lookup { token, name } => {
                        assert_eq!(encode_get(&name).expect("a name without spaces"), conversation.request);
                        let found = ServedFile {
                            content: ContentKey(7),
                            size: file.len() as u64,
                            sha256: Digest::of(&file),
                        };
                        engine.handle(now, server::Input::Found { token, file: Some(found) });
                    }
                    server::Output::Send { to, datagram } => {
                        assert_eq!(to, from);
                        sent.push(datagram);
                    }
                    server::Output::SendChunk { to, content, number, offset, len } => {
                        assert_eq!((to, content), (from, ContentKey(7)));
                        let mut buffer = [0; DATAGRAM_SIZE_MAX];
                        let place = chunk_data_mut(&mut buffer, len).expect("a chunk's length");
                        place.copy_from_slice(&file[offset as usize..][..len as usize]);
                        sent.push(seal_chunk(&mut buffer, number, len).to_vec());
                    }
                }
            }
            let Some(deadline) = engine.deadline() else { break };
            now = deadline;
            engine.handle(now, server::Input::Tick);
        }
        assert_eq!(sent[0], conversation.replies[0], "the announcement comes first");
        let mut expected = conversation.replies.clone();
        expected.sort();
        sent.sort();
        assert_eq!(sent, expected);
    }
}

#[test]
fn our_client_understands_the_original() {
    for conversation in conversations() {
        let file = file_of(&conversation);
        let name = decode_get(&conversation.request).expect("a name");
        let mut engine = ClientEngine::new(Time::ZERO, &name, ClientConfig::default()).expect("no space");
        assert_eq!(engine.poll(), Some(Output::Ask { datagram: conversation.request.clone() }));
        let from = address(10_526);
        let mut part = vec![0; file.len()];
        for bytes in &conversation.replies {
            engine.handle(Time::ZERO, Input::Received { from, bytes });
            while let Some(output) = engine.poll() {
                match output {
                    Output::Write { offset, data, .. } => {
                        assert_eq!(data.start, CHUNK_HEADER_SIZE);
                        let data = &bytes[data];
                        part[offset as usize..][..data.len()].copy_from_slice(data);
                    }
                    Output::Joined { server, .. } => assert_eq!(server, from),
                    other => panic!("{other:?}"),
                }
            }
        }
        let settled = engine.deadline().expect("it waits for other announcements");
        assert_eq!(settled, Time::from_origin(ClientConfig::default().settle));
        engine.handle(settled, Input::Tick);
        let sha256 = Digest::of(&file);
        assert_eq!(engine.poll(), Some(Output::Complete { size: file.len() as u64, sha256 }));
        assert_eq!((engine.poll(), engine.deadline(), engine.asked_count()), (None, None, 1));
        assert_eq!(part, file);
    }
}

#[test]
fn the_captured_announcements_are_those_of_the_files() {
    let sizes: Vec<(usize, u32)> = conversations()
        .iter()
        .map(|conversation| {
            let file = file_of(conversation);
            let except = Except::decode(&conversation.replies[0]).expect("an announcement");
            assert_eq!(Except::of_file(file.len() as u64, Digest::of(&file)), Some(except));
            (file.len(), except.chunks)
        })
        .collect();
    assert_eq!(sizes, [(5000, 5), (0, 0), (2048, 2)]);
}

#[test]
fn silence_ends_a_download_that_nobody_serves() {
    let name = "nowhere.bin".parse().expect("a name");
    let mut engine = ClientEngine::new(Time::ZERO, &name, ClientConfig::default()).expect("no space");
    let mut outputs = Vec::new();
    let mut last = Time::ZERO;
    loop {
        outputs.extend(std::iter::from_fn(|| engine.poll()));
        let Some(deadline) = engine.deadline() else { break };
        assert!(deadline > last, "time passes");
        last = deadline;
        engine.handle(deadline, Input::Tick);
    }
    let asks = outputs.iter().filter(|output| matches!(output, Output::Ask { .. })).count();
    assert!((5..10).contains(&asks), "{asks} requests");
    assert_eq!(last.since_origin(), Duration::from_secs(5));
    assert!(matches!(outputs.last(), Some(Output::Failed(_))));
}
