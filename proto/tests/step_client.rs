//! Our client: what it asks, how it reads what servers of many authors say, and whole transfers over several connections
//! that break.

mod step_support;

use ftx_proto::interop::step::block::BlockPlan;
use ftx_proto::interop::step::client::{ClientError, ClientSession, Outcome, Refused, Reply, Request};
use ftx_proto::interop::step::download::{DownloadFailure, DownloadPlan, DownloadStep};
use ftx_proto::interop::step::frame::FrameError;
use ftx_proto::interop::step::limits::{BLOCK_ATTEMPTS_MAX, BLOCK_SIZE_MAX, MESSAGE_BYTES_MAX};
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::token::{Authenticator, classic_password};
use ftx_proto::interop::step::upload::{ConnectionId, Standing, UploadFailure, UploadPlan, UploadStep};
use ftx_proto::interop::step::value::{FileSize, Key, Md5Sum};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use step_support::{Connection, MemoryStore, at, frame, frames, pattern};

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn size(bytes: usize) -> FileSize {
    FileSize::new(bytes as u64).unwrap()
}

fn standard(bytes: usize) -> BlockPlan {
    BlockPlan::standard(size(bytes))
}

fn pairs(ranges: Vec<std::ops::Range<u64>>) -> Vec<(u64, u64)> {
    ranges.into_iter().map(|range| (range.start, range.end)).collect()
}

fn refused(status: u64, message: &str) -> Refused {
    Refused { status, message: message.to_owned() }
}

/// What our client makes of this reply to this request.
fn reads(request: Request, json: &str, binary: &[u8]) -> Result<Option<Outcome>, ClientError> {
    let mut client = ClientSession::new(None);
    client.begin(request).expect("it is idle");
    client.received(&frame(json, binary))
}

fn save() -> Request {
    Request::SaveFile { key: Some(key("k")), size: size(30_000) }
}

fn download() -> Request {
    Request::Download { key: key("k"), index: 1 }
}

#[test]
fn one_request_at_a_time() {
    let mut client = ClientSession::new(Some("t".into()));
    assert_eq!(client.received(b""), Ok(None));
    let asked = client.begin(Request::ListFiles).expect("it is idle");
    assert_eq!(frames(&asked)[0].0.len(), 4, "no key");
    assert_eq!(client.begin(Request::ListFiles), None);
    let reply = frame(
        r#"{"status": 200, "file_list": ["a", 7, "é"], "more": true}"#.replace('é', "\\u00e9").as_str(),
        &[],
    );
    assert_eq!(client.received(&reply[..20]), Ok(None));
    assert_eq!(client.begin(Request::ListFiles), None);
    let names = vec!["a".into(), "é".into()];
    assert_eq!(client.received(&reply[20..]), Ok(Some(Ok(Reply::Files { names, has_more: true }))));
    assert!(client.begin(Request::ListFiles).is_some());
    let bye = client.farewell();
    assert_eq!((&frames(&bye)[0].0["operation"], bye.len() > 16), (&"BYE".into(), true));
}

#[test]
fn what_was_not_asked_for_ends_the_connection() {
    let reply = frame(r#"{"status": 200, "file_list": []}"#, &[]);
    let mut client = ClientSession::new(None);
    assert_eq!(client.received(&reply), Err(ClientError::Unsolicited));
    assert_eq!(client.begin(Request::ListFiles), None, "it is broken");
    assert_eq!(client.received(&[]), Err(ClientError::Unsolicited));
    let mut client = ClientSession::new(None);
    client.begin(Request::ListFiles).unwrap();
    assert_eq!(client.received(&[&reply[..], &reply].concat()), Err(ClientError::Unsolicited));
}

#[test]
fn replies_are_read_leniently() {
    let plan = |total, block_size| BlockPlan::announced(size(total), block_size).unwrap();
    let granted = |plan| Ok(Some(Ok(Reply::UploadPlan { key: key("k"), plan, md5: None })));
    let cases = [
        (r#"{"status": 200, "block_size": 12800}"#, plan(30_000, 12_800)),
        (r#"{"status": 200, "size": 30000, "total_block": 2}"#, plan(30_000, 20_480)),
        (r#"{"status": "200", "block_size": "20480", "size": 30000.0, "key": "k"}"#, plan(30_000, 20_480)),
        (
            r#"{"status": 200.0, "block_size": 20480.00, "total_block": -7, "md5": null, "x": [{}]}"#,
            plan(30_000, 20_480),
        ),
    ];
    for (json, plan) in cases {
        assert_eq!(reads(save(), json, &[]), granted(plan), "{json}");
    }
    let md5 = Md5Sum::of(b"");
    let upper = format!(r#"{{"status": 200, "md5": "{}"}}"#, md5.to_string().to_uppercase());
    let upload = || Request::Upload { key: key("k"), index: 1, block: vec![7] };
    assert_eq!(reads(upload(), &upper, &[]), Ok(Some(Ok(Reply::BlockStored { md5: Some(md5) }))));
    for json in [r#"{"status": 200, "md5": "no"}"#, r#"{"status": 200, "block_index": 1, "md5": 7}"#] {
        assert_eq!(reads(upload(), json, &[]), Ok(Some(Ok(Reply::BlockStored { md5: None }))));
    }
    let block = Ok(Some(Ok(Reply::Block { bytes: b"bytes".to_vec() })));
    assert_eq!(reads(download(), r#"{"status": 200}"#, b"bytes"), block);
    let data = Request::GetData { key: key("k") };
    let json =
        r#"{"operation": "GET", "token": "t", "password": "p", "status": 200, "status_msg": "OK", "a": 1.0}"#;
    let object = Object::from_json(r#"{"a": 1.0}"#).unwrap();
    assert_eq!(reads(data, json, &[]), Ok(Some(Ok(Reply::Data(object)))), "nobody else's secrets");
    let saved = Request::SaveData { key: None, object: Object::default() };
    let json = r#"{"status": 200, "key": "made up"}"#;
    assert_eq!(reads(saved, json, &[]), Ok(Some(Ok(Reply::DataSaved { key: key("made up") }))));
}

#[test]
fn any_status_but_200_is_a_refusal() {
    for status in [0, 201, 333, 402, 404, 410, 500, u64::MAX] {
        let json = format!(r#"{{"status": {status}, "status_msg": "no\u001b[2J", "block_size": 1}}"#);
        let Ok(Some(Err(refused))) = reads(save(), &json, b"and data") else { panic!("{json}") };
        assert_eq!((refused.status, refused.message.as_str()), (status, "no\u{1b}[2J"));
        assert!(!refused.to_string().contains('\u{1b}'), "it cannot write to the terminal");
    }
    assert_eq!(reads(save(), r#"{"status": 404}"#, &[]), Ok(Some(Err(refused(404, "")))));
    let long = format!(r#"{{"status": 404, "status_msg": "x{}"}}"#, "é".repeat(5000));
    let Ok(Some(Err(refused))) = reads(save(), &long, &[]) else { panic!("no refusal") };
    assert_eq!(refused.message.len(), MESSAGE_BYTES_MAX - 1, "cut between two characters");
}

#[test]
fn replies_that_cannot_be_used_end_the_connection() {
    let field = |name| Err(ClientError::Field(name));
    for json in ["[]", "7", "{}", r#"{"status": null}"#, r#"{"status": "ok"}"#, r#"{"status": -200}"#] {
        assert_eq!(reads(save(), json, &[]), field("status"), "{json}");
    }
    for block_size in ["0", "-1", "null", "\"x\"", "99999999", "1.5"] {
        let json = format!(r#"{{"status": 200, "block_size": {block_size}}}"#);
        assert_eq!(reads(save(), &json, &[]), field("block_size"), "{json}");
    }
    let other_size = r#"{"status": 200, "block_size": 20480, "size": 7}"#;
    assert_eq!(reads(save(), other_size, &[]), field("size"));
    let bad_key = r#"{"status": 200, "block_size": 20480, "key": "../x"}"#;
    assert_eq!(reads(save(), bad_key, &[]), field("key"));
    let no_size = r#"{"status": 200, "block_size": 20480}"#;
    assert_eq!(reads(Request::GetFile { key: key("k") }, no_size, &[]), field("size"));
    assert_eq!(reads(download(), r#"{"status": 200, "block_index": 2}"#, b"x"), field("block_index"));
    let login = Request::Login { user: "u".into(), password: "p".into() };
    let long = format!(r#"{{"status": 200, "token": "{}"}}"#, "t".repeat(5000));
    assert_eq!(reads(login, &long, &[]), field("token"));
    let too_long = vec![7; BLOCK_SIZE_MAX as usize + 1];
    let refusal = Err(ClientError::Frame(FrameError::BinaryTooLong(BLOCK_SIZE_MAX + 1)));
    assert_eq!(reads(download(), r#"{"status": 200}"#, &too_long), refusal);
    assert_eq!(reads(save(), "{", &[]), Err(ClientError::Frame(FrameError::NotJson)));
}

#[test]
fn data_is_sent_without_what_the_protocol_has_for_itself() {
    let mut client = ClientSession::new(Some("t".into()));
    let object = r#"{"operation": "BYE", "token": "x", "key": "x", "direction": 7, "type": "FILE", "a": 1e2, "é": "é"}"#;
    let object = Object::from_json(object).unwrap();
    let asked = client.begin(Request::SaveData { key: Some(key("k")), object }).unwrap();
    let json = r#"{"operation": "SAVE", "direction": "REQUEST", "type": "DATA", "token": "t", "key": "k", "a": 1e2, "\u00e9": "\u00e9"}"#;
    assert_eq!(asked, frame(json, &[]));
}

/// Connections of one client to one server, each in lock-step; what happens on which is a matter of the seed.
struct Transfer {
    random: ChaCha8Rng,
    store: MemoryStore,
    peers: Vec<Peer>,
    token: String,
    faults_left: u32,
}

struct Peer {
    client: ClientSession,
    server: Connection,
    /// Sent, and not yet arrived at the server.
    pending: Option<Vec<u8>>,
}

impl Transfer {
    fn new(seed: u64, connections: usize, faults_left: u32) -> Self {
        let mut store = MemoryStore::default();
        let mut first = Peer::new(None);
        let login = Request::Login { user: "al.ice".into(), password: classic_password("al.ice") };
        let reply = first.asks(&mut store, login);
        let Ok(Reply::LoggedIn { token }) = reply else { panic!("{reply:?}") };
        let peers = (0..connections).map(|_| Peer::new(Some(token.clone()))).collect();
        Transfer { random: ChaCha8Rng::seed_from_u64(seed), store, peers, token, faults_left }
    }

    fn pick(&mut self) -> usize {
        self.random.random_range(0..self.peers.len())
    }

    /// What comes of what the connection has sent; `None` if its request or its reply was lost, and the connection.
    fn deliver(&mut self, number: usize) -> Option<Outcome> {
        let fault = self.random.random_range(0..10);
        let peer = &mut self.peers[number];
        let request = peer.pending.take().expect("something was sent");
        if fault < 3 && self.faults_left > 0 {
            self.faults_left -= 1;
            if fault > 0 {
                peer.server.receive(&mut self.store, &request);
            }
            *peer = Peer::new(Some(self.token.clone()));
            return None;
        }
        let reply = peer.server.receive(&mut self.store, &request);
        Some(peer.client.received(&reply).expect("a good reply").expect("a whole reply"))
    }

    fn upload(&mut self, upload: &mut UploadPlan, content: &[u8]) -> Option<Md5Sum> {
        loop {
            let number = self.pick();
            let connection = ConnectionId(number as u64);
            if self.peers[number].pending.is_some() {
                match self.deliver(number) {
                    Some(outcome) => upload.replied(connection, outcome),
                    None => upload.lost(connection),
                }
                continue;
            }
            let others = self.peers.iter().filter(|peer| peer.pending.is_some()).count();
            match upload.next(connection) {
                UploadStep::Wait => assert!(others > 0, "somebody works"),
                UploadStep::Finished { md5 } => return md5,
                UploadStep::Failed(failure) => panic!("{failure}"),
                UploadStep::Confirm => self.peers[number].sends(Request::GetFile { key: key("dir/ü") }),
                UploadStep::Send(block) => {
                    let left: u64 = upload.missing().iter().map(|range| range.end - range.start).sum();
                    assert!(left > 1 || others == 0, "the last block goes alone");
                    let bytes = content[block.offset() as usize..][..block.len()].to_vec();
                    let request = Request::Upload { key: key("dir/ü"), index: block.index(), block: bytes };
                    self.peers[number].sends(request);
                }
            }
        }
    }

    fn download(&mut self, download: &mut DownloadPlan) -> Vec<u8> {
        let mut content = vec![0; download.plan().size() as usize];
        loop {
            let number = self.pick();
            let connection = ConnectionId(number as u64);
            if self.peers[number].pending.is_some() {
                match self.deliver(number) {
                    Some(Ok(Reply::Block { bytes })) => {
                        let block = download.received(connection, bytes.len()).expect("a whole block");
                        content[block.offset() as usize..][..block.len()].copy_from_slice(&bytes);
                    }
                    Some(other) => panic!("{other:?}"),
                    None => download.lost(connection),
                }
                continue;
            }
            match download.next(connection) {
                DownloadStep::Wait => assert!(self.peers.iter().any(|peer| peer.pending.is_some())),
                DownloadStep::Finished => return content,
                DownloadStep::Failed(failure) => panic!("{failure}"),
                DownloadStep::Fetch(block) => {
                    self.peers[number].sends(Request::Download { key: key("dir/ü"), index: block.index() });
                }
            }
        }
    }
}

impl Peer {
    fn new(token: Option<String>) -> Self {
        Peer { client: ClientSession::new(token), server: Connection::classic(), pending: None }
    }

    fn sends(&mut self, request: Request) {
        self.pending = Some(self.client.begin(request).expect("it is idle"));
    }

    fn asks(&mut self, store: &mut MemoryStore, request: Request) -> Outcome {
        let bytes = self.client.begin(request).expect("it is idle");
        let reply = self.server.receive(store, &bytes);
        self.client.received(&reply).expect("a good reply").expect("a whole reply")
    }
}

#[test]
fn files_go_there_and_come_back_over_connections_that_break() {
    for seed in 0..120 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let len = [0, 1, 20_479, 20_480, 20_481, 45_000, 409_600, 500_001][random.random_range(0..8)];
        let connections = [1, 2, 4, 16][random.random_range(0..4)];
        let content = pattern(len);
        let sum = Md5Sum::of(&content);
        let mut transfer = Transfer::new(seed, connections, BLOCK_ATTEMPTS_MAX - 1);
        let Transfer { peers, store, .. } = &mut transfer;
        let before = peers[0].asks(store, Request::GetFile { key: key("dir/ü") });
        assert_eq!(Standing::of(&before, size(len), sum), Standing::Absent);
        let saved = peers[0].asks(store, Request::SaveFile { key: Some(key("dir/ü")), size: size(len) });
        let Ok(Reply::UploadPlan { plan, md5, .. }) = saved else { panic!("{saved:?}") };
        if len > 0 {
            let partial = peers[0].asks(store, Request::GetFile { key: key("dir/ü") });
            assert_eq!(Standing::of(&partial, size(len), sum), Standing::Partial);
        }

        let mut upload = UploadPlan::new(plan, md5);
        assert_eq!(transfer.upload(&mut upload, &content), Some(sum), "seed {seed}");
        assert_eq!(transfer.store.file("al_ice", "dir/ü").as_ref(), Some(&content), "seed {seed}");

        let mut transfer = Transfer { faults_left: BLOCK_ATTEMPTS_MAX - 1, ..transfer };
        transfer.peers.iter_mut().for_each(|peer| *peer = Peer::new(Some(transfer.token.clone())));
        let Transfer { peers, store, .. } = &mut transfer;
        let found = peers[0].asks(store, Request::GetFile { key: key("dir/ü") });
        assert_eq!(Standing::of(&found, size(len), sum), Standing::Same);
        assert_eq!(Standing::of(&found, size(len), Md5Sum::of(b"other")), Standing::Other);
        let Ok(Reply::FilePlan { plan, md5 }) = found else { panic!("{found:?}") };
        assert_eq!(md5, Some(sum));
        let mut download = DownloadPlan::new(plan);
        assert_eq!(transfer.download(&mut download), content, "seed {seed}");
        assert_eq!((download.missing(), download.bytes_done()), (vec![], len as u64));
    }
}

#[test]
fn an_interrupted_upload_goes_on_where_it_was() {
    let content = pattern(500_001);
    let mut transfer = Transfer::new(7, 4, 0);
    let Transfer { peers, store, .. } = &mut transfer;
    let saved =
        peers[0].asks(store, Request::SaveFile { key: Some(key("dir/ü")), size: size(content.len()) });
    assert!(saved.is_ok());
    let mut before = UploadPlan::new(standard(content.len()), None);
    for index in 0..10 {
        let UploadStep::Send(block) = before.next(ConnectionId(0)) else { panic!("no block") };
        assert_eq!(block.index(), index);
        let bytes = content[block.offset() as usize..][..block.len()].to_vec();
        let stored = peers[0].asks(store, Request::Upload { key: key("dir/ü"), index, block: bytes });
        before.replied(ConnectionId(0), stored);
    }
    assert_eq!((pairs(before.missing()), before.bytes_done()), (vec![(10, 25)], 204_800));
    let mut after = UploadPlan::resume(standard(content.len()), before.missing());
    assert_eq!(transfer.upload(&mut after, &content), Some(Md5Sum::of(&content)));
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let mut upload = UploadPlan::new(standard(45_000), None);
    let mut attempts = 0;
    loop {
        match upload.next(ConnectionId(attempts)) {
            UploadStep::Send(block) => assert_eq!(block.index(), 0, "a lost block goes first"),
            UploadStep::Confirm => assert_eq!(attempts, u64::from(BLOCK_ATTEMPTS_MAX)),
            UploadStep::Failed(failure) => break assert_eq!(failure, UploadFailure::Lost),
            other => panic!("{other:?}"),
        }
        upload.lost(ConnectionId(attempts));
        attempts += 1;
    }
    assert_eq!(pairs(upload.missing()), [(0, 3)], "all of it can be tried another time");

    let mut download = DownloadPlan::new(standard(45_000));
    for attempt in 0..BLOCK_ATTEMPTS_MAX {
        assert!(matches!(download.next(ConnectionId(0)), DownloadStep::Fetch(_)), "{attempt}");
        // Too short a block counts for as much as none.
        assert_eq!(download.received(ConnectionId(0), 7), None);
    }
    assert_eq!(download.next(ConnectionId(1)), DownloadStep::Failed(DownloadFailure::Lost));
}

#[test]
fn what_a_server_refuses_again_and_again_fails_in_its_words() {
    let no = || refused(403, "Token is wrong.");
    let mut upload = UploadPlan::new(standard(45_000), None);
    let mut steps = 0;
    let failure = loop {
        match upload.next(ConnectionId(0)) {
            UploadStep::Failed(failure) => break failure,
            _ => upload.replied(ConnectionId(0), Err(no())),
        }
        steps += 1;
        assert!(steps < 100, "it comes to an end");
    };
    assert_eq!(failure, UploadFailure::Refused(no()));
    let mut download = DownloadPlan::new(standard(45_000));
    for _ in 0..BLOCK_ATTEMPTS_MAX {
        assert!(matches!(download.next(ConnectionId(0)), DownloadStep::Fetch(_)));
        download.refused(ConnectionId(0), no());
    }
    assert_eq!(download.next(ConnectionId(0)), DownloadStep::Failed(DownloadFailure::Refused(no())));
}

/// Sends all blocks over one connection to a server that says no MD5.
fn sent_without_md5(upload: &mut UploadPlan) {
    while let UploadStep::Send(_) = upload.next(ConnectionId(0)) {
        upload.replied(ConnectionId(0), Ok(Reply::BlockStored { md5: None }));
    }
}

#[test]
fn without_a_sum_in_the_last_reply_the_file_is_asked_for() {
    let plan = BlockPlan::announced(size(30_000), 12_800).unwrap();
    let sum = Some(Md5Sum::of(b"x"));
    let mut upload = UploadPlan::new(plan, None);
    sent_without_md5(&mut upload);
    assert_eq!(upload.next(ConnectionId(0)), UploadStep::Confirm);
    assert_eq!(upload.next(ConnectionId(1)), UploadStep::Wait, "one asks");
    upload.lost(ConnectionId(0));
    assert_eq!(upload.next(ConnectionId(1)), UploadStep::Confirm, "then another");
    upload.replied(ConnectionId(1), Ok(Reply::FilePlan { plan, md5: sum }));
    assert_eq!(upload.next(ConnectionId(0)), UploadStep::Finished { md5: sum });

    let mut other = UploadPlan::new(plan, None);
    sent_without_md5(&mut other);
    assert_eq!(other.next(ConnectionId(0)), UploadStep::Confirm);
    other.replied(ConnectionId(0), Ok(Reply::FilePlan { plan: standard(7), md5: sum }));
    assert_eq!(other.next(ConnectionId(0)), UploadStep::Failed(UploadFailure::OtherFile));
}

#[test]
fn a_server_that_missed_the_end_is_sent_the_last_block_again() {
    let incomplete = || refused(404, "The key k is not completely uploaded.");
    let mut upload = UploadPlan::new(standard(45_000), None);
    for _ in 1..BLOCK_ATTEMPTS_MAX {
        sent_without_md5(&mut upload);
        assert_eq!(upload.next(ConnectionId(0)), UploadStep::Confirm);
        upload.replied(ConnectionId(0), Err(incomplete()));
        let UploadStep::Send(block) = upload.next(ConnectionId(0)) else { panic!("no block") };
        assert_eq!((block.index(), block.len(), pairs(upload.missing())), (2, 4040, vec![(2, 3)]));
    }
    sent_without_md5(&mut upload);
    assert_eq!(upload.next(ConnectionId(0)), UploadStep::Confirm);
    upload.replied(ConnectionId(0), Err(incomplete()));
    let failure = UploadFailure::Refused(incomplete());
    assert_eq!(upload.next(ConnectionId(0)), UploadStep::Failed(failure));

    // An empty file has no block to send again.
    let mut empty = UploadPlan::new(standard(0), None);
    for _ in 0..BLOCK_ATTEMPTS_MAX {
        assert_eq!(empty.next(ConnectionId(0)), UploadStep::Confirm);
        empty.replied(ConnectionId(0), Err(incomplete()));
    }
    assert!(matches!(empty.next(ConnectionId(0)), UploadStep::Failed(_)));
}

#[test]
fn the_largest_file_costs_no_memory() {
    let plan = BlockPlan::standard(FileSize::new(i64::MAX as u64).unwrap());
    let mut upload = UploadPlan::new(plan, None);
    for connection in 0..16 {
        assert!(matches!(upload.next(ConnectionId(connection)), UploadStep::Send(_)));
    }
    upload.replied(ConnectionId(3), Ok(Reply::BlockStored { md5: None }));
    assert_eq!(upload.missing(), vec![0..3, 4..plan.total_block()]);
    assert_eq!(upload.bytes_done(), 20_480);
    let overlapping = [5..9, 0..2, 2..3, 7..u64::MAX, 4..4];
    assert_eq!(DownloadPlan::resume(standard(204_801), overlapping).missing(), vec![0..3, 5..11]);
}

#[test]
fn a_token_of_ours_is_good_for_our_server() {
    let token = Authenticator::Classic.issue(&"al.ice".parse().unwrap(), &at(0));
    let mut peer = Peer::new(Some(token));
    let listed = peer.asks(&mut MemoryStore::default(), Request::ListFiles);
    assert_eq!(listed, Ok(Reply::Files { names: Vec::new(), has_more: false }));
}
