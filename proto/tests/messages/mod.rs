//! One example of every message, and strategies that make any message.
#![allow(dead_code, reason = "each test file uses a part")]

use ftx_proto::digest::{Instance, NodeId, Root, RootPrefix};
use ftx_proto::geometry::Geometry;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::datagram::{
    self, Asking, ConnectionId, DataHead, FragmentMask, Header, Layout, SEQUENCE_MAX, padding,
};
use ftx_proto::wire::discovery::{
    Announce, Datagram, Offer, OfferEntry, OfferedKind, OfferedManifest, OfferedRoot, Query, Want,
};
use ftx_proto::wire::session::{
    DatagramsAt, Hello, ListingEntry, Message, NotAdmitted, PutRefusal, Refusal, RequestId, WhichHashes,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Every datagram, with a name for it.
pub(crate) fn datagrams() -> Vec<(&'static str, Datagram)> {
    let query = |want| Datagram::Query(Query { nonce: 0x0123_4567_89ab_cdef, instance: Instance(7), want });
    let file = OfferedKind::File;
    let entry =
        |kind, root| OfferEntry { name: path("pictures/a.iso"), kind, size: 5_000_000_000, mtime: -1, root };
    let manifest = OfferedManifest { root: Root([0x12; 32]), size: 70_000 };
    let offer = |entries, more| Datagram::Offer(Offer { nonce: 300, from: announce(), entries, more });
    vec![
        ("query name", query(Want::Name(path("ubuntu 24.04.iso")))),
        ("query root", query(Want::Root("0123456789abcdef".parse().expect("digits")))),
        ("query all", query(Want::All)),
        ("offer empty", offer(Vec::new(), false)),
        (
            "offer full",
            offer(
                vec![
                    entry(file, OfferedRoot::Whole(Root([0x11; 32]))),
                    entry(file, OfferedRoot::Partial { root: Root([0x22; 32]), pieces: 70_000 }),
                    entry(file, OfferedRoot::Hashing(251)),
                    entry(OfferedKind::Folder(Some(manifest)), OfferedRoot::Whole(Root([0x11; 32]))),
                    entry(OfferedKind::Folder(None), OfferedRoot::Hashing(251)),
                ],
                true,
            ),
        ),
        ("hello", Datagram::Hello(announce())),
        ("bye", Datagram::Bye(announce())),
    ]
}

/// Every session message, with a name for it and the length of its payload.
pub(crate) fn messages() -> Vec<(&'static str, Message, usize)> {
    let root = Root([0x33; 32]);
    let request = RequestId(1 << 40);
    let entry = |is_folder, root| ListingEntry {
        name: path("a/b"),
        is_folder,
        size: 250,
        mtime: 1_700_000_000,
        root,
    };
    let refused = |reason| Message::Refused { request: Some(request), root, reason };
    let want = |which| Message::WantHashes { request, root, which };
    vec![
        ("hello", Message::Hello(Hello { instance: Instance(u64::MAX), name: "küche".into() }), 0),
        ("list", Message::List { after: None }, 0),
        ("list after", Message::List { after: Some(path("a/b")) }, 0),
        (
            "listing",
            Message::Listing { entries: vec![entry(true, None), entry(false, Some(root))], more: true },
            0,
        ),
        ("subscribe", Message::Subscribe { root }, 0),
        (
            "describe",
            Message::Describe {
                root,
                size: 1 << 33,
                mtime: (1_700_000_000, 999_999_999),
                executable: true,
                whole: false,
            },
            0,
        ),
        ("have", Message::have(root, &[0..1, 250..251, 70_000..u32::MAX]), 0),
        ("want piece layer", want(WhichHashes::PieceLayer), 0),
        ("want leaves", want(WhichHashes::Leaves { piece: 3 }), 0),
        ("hashes", Message::Hashes { request, first: 64, last: true }, 64),
        ("request", Message::Request { request, root, first: 65_536, count: 16 }, 0),
        ("chunks", Message::Chunks { request, first: 65_536 }, 16_384),
        ("refused busy", refused(Refusal::Busy { retry_after_ms: 500 }), 0),
        ("refused unknown", refused(Refusal::Unknown), 0),
        ("refused missing", refused(Refusal::Missing), 0),
        ("refused changed", refused(Refusal::Changed), 0),
        ("refused unreadable", refused(Refusal::Unreadable), 0),
        ("refused subscribe", Message::Refused { request: None, root, reason: Refusal::Unknown }, 0),
        ("cancel", Message::Cancel { request }, 0),
        ("ping", Message::Ping(65_535), 0),
        ("pong", Message::Pong(65_536), 0),
        ("goodbye", Message::Goodbye("done".into()), 0),
        ("open datagrams", Message::OpenDatagrams { root }, 0),
        (
            "datagrams",
            Message::Datagrams { root, at: Some(DatagramsAt { port: 50_000, connection: 0xdead_beef }) },
            0,
        ),
        ("no datagrams", Message::Datagrams { root, at: None }, 0),
        ("zeros", Message::Zeros { request, first: 65_536, count: 16 }, 0),
        ("prove", Message::Prove { proof: [0x44; 32] }, 0),
        ("not admitted untrusted", Message::NotAdmitted(NotAdmitted::Untrusted), 0),
        ("not admitted secret needed", Message::NotAdmitted(NotAdmitted::SecretNeeded), 0),
        ("not admitted wrong secret", Message::NotAdmitted(NotAdmitted::WrongSecret), 0),
        ("put", Message::Put { name: path("report.pdf"), size: 5_000_000_000, root, port: 40_000 }, 0),
        ("putting", Message::Putting { bytes: 70_000 }, 0),
        ("have put", Message::HavePut { root, name: path("ada/report.pdf"), before: true }, 0),
        ("put refused no inbox", Message::put_refused(PutRefusal::NoInbox, "no"), 0),
        ("put refused not allowed", Message::put_refused(PutRefusal::NotAllowed, "no"), 0),
        ("put refused full", Message::put_refused(PutRefusal::Full, "no"), 0),
        ("put refused exists", Message::put_refused(PutRefusal::Exists, "no"), 0),
        ("put refused busy", Message::put_refused(PutRefusal::Busy, "no"), 0),
        ("put refused unreachable", Message::put_refused(PutRefusal::Unreachable, "no"), 0),
        ("put refused failed", Message::put_refused(PutRefusal::Failed, ""), 0),
    ]
}

/// Every body of a datagram of the lane, and a header, with a name for it. Of a content of 4 MiB and a byte.
pub(crate) fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let geometry = Geometry::new((4 << 20) + 1).expect("a size");
    let chunk = |number| geometry.chunk(number).expect("there is one");
    let (whole, one) = (Layout::SMALLEST.all(geometry.chunk_len(chunk(3))), FragmentMask::one(0));
    let chunks = vec![(chunk(3), whole), (chunk(255), FragmentMask(0x4001)), (chunk(256), one)];
    let want = datagram::Want { number: 0x0102_0304, layout: Layout::SMALLEST, chunks };
    let head = DataHead { want: 0xfedc, chunk: 255, fragment: 14 };
    let header = Header { connection: ConnectionId(0xdead_beef), sequence: SEQUENCE_MAX - 2 };
    vec![
        ("want", Asking::Want(want).encode()),
        ("probe", Asking::Probe { number: 7, bytes: 1400 }.encode()),
        ("data", [&head.encode()[..], b"a fragment"].concat()),
        ("padding", padding(7, 1400)),
        ("header", [&header.encode()[..], &[0x5a; 30]].concat()),
    ]
}

/// Any datagram that fits as it is.
pub(crate) fn any_datagram() -> impl Strategy<Value = Datagram> {
    let want =
        prop_oneof![any_path().prop_map(Want::Name), any_root_prefix().prop_map(Want::Root), Just(Want::All)];
    let query = (any::<u64>(), any_instance(), want)
        .prop_map(|(nonce, instance, want)| Datagram::Query(Query { nonce, instance, want }));
    let offer = (any::<u64>(), any_announce(), vec(any_offer_entry(), 0..4), any::<bool>())
        .prop_map(|(nonce, from, entries, more)| Datagram::Offer(Offer { nonce, from, entries, more }));
    prop_oneof![
        query,
        offer,
        any_announce().prop_map(Datagram::Hello),
        any_announce().prop_map(Datagram::Bye)
    ]
}

/// Any session message within its bounds, and the length of its payload.
pub(crate) fn any_message() -> impl Strategy<Value = (Message, usize)> {
    let small = prop_oneof![
        (any_instance(), any_node_name())
            .prop_map(|(instance, name)| Message::Hello(Hello { instance, name })),
        proptest::option::of(any_path()).prop_map(|after| Message::List { after }),
        (vec(any_listing_entry(), 0..20), any::<bool>())
            .prop_map(|(entries, more)| Message::Listing { entries, more }),
        any_root().prop_map(|root| Message::Subscribe { root }),
        (any_root(), any::<u64>(), any::<(i64, u32)>(), any::<bool>(), any::<bool>()).prop_map(
            |(root, size, mtime, executable, whole)| Message::Describe {
                root,
                size,
                mtime,
                executable,
                whole
            }
        ),
        (any_root(), vec(any::<(u32, u32)>(), 0..100))
            .prop_map(|(root, pieces)| Message::Have { root, pieces }),
        (any_request(), any_root(), proptest::option::of(any::<u32>())).prop_map(|(request, root, piece)| {
            let which = piece.map_or(WhichHashes::PieceLayer, |piece| WhichHashes::Leaves { piece });
            Message::WantHashes { request, root, which }
        }),
        (any_request(), any_root(), any::<u32>(), any::<u32>())
            .prop_map(|(request, root, first, count)| Message::Request { request, root, first, count }),
        (proptest::option::of(any_request()), any_root(), any_refusal())
            .prop_map(|(request, root, reason)| Message::Refused { request, root, reason }),
        any_request().prop_map(|request| Message::Cancel { request }),
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
        "[a-zü]{0,100}".prop_map(Message::Goodbye),
        any::<[u8; 32]>().prop_map(|proof| Message::Prove { proof }),
        ("[a-zü.]{3,100}", any::<u64>(), any_root(), any::<u16>())
            .prop_map(|(name, size, root, port)| (name.parse(), size, root, port))
            .prop_filter_map("parts of dots are no names", |(name, size, root, port)| {
                Some(Message::Put { name: name.ok()?, size, root, port })
            }),
        any::<u64>().prop_map(|bytes| Message::Putting { bytes }),
        (any_root(), any_path(), any::<bool>()).prop_map(|(root, name, before)| Message::HavePut {
            root,
            name,
            before
        }),
        "[a-zü]{0,100}".prop_map(|text| Message::put_refused(PutRefusal::Full, &text)),
        any_root().prop_map(|root| Message::OpenDatagrams { root }),
        (any_root(), proptest::option::of(any::<(u16, u32)>())).prop_map(|(root, at)| {
            let at = at.map(|(port, connection)| DatagramsAt { port, connection });
            Message::Datagrams { root, at }
        }),
    ];
    prop_oneof![
        10 => small.prop_map(|message| (message, 0)),
        1 => (any_request(), any::<u32>(), 1..=262_144usize)
            .prop_map(|(request, first, len)| (Message::Chunks { request, first }, len)),
        1 => (any_request(), 0..1u32 << 30, any::<bool>(), 0..=8_192usize)
            .prop_map(|(request, first, last, count)| (Message::Hashes { request, first, last }, count * 32)),
    ]
}

/// Any name, short or long.
pub(crate) fn any_path() -> impl Strategy<Value = RelativePath> {
    vec("[a-zA-Z0-9 .ü文-]{1,60}", 1..4)
        .prop_map(|parts| parts.join("/").parse::<RelativePath>())
        .prop_filter_map("parts of dots are no names", Result::ok)
}

fn path(text: &str) -> RelativePath {
    text.parse().expect("a name for a test is a good one")
}

fn announce() -> Announce {
    Announce { node: NodeId([0xab; 32]), instance: Instance(1), port: 10_526, name: "office".into() }
}

fn any_announce() -> impl Strategy<Value = Announce> {
    (any::<[u8; 32]>(), any_instance(), any::<u16>(), any_node_name())
        .prop_map(|(node, instance, port, name)| Announce { node: NodeId(node), instance, port, name })
}

fn any_node_name() -> impl Strategy<Value = String> {
    "[a-z ü]{0,32}"
}

fn any_instance() -> impl Strategy<Value = Instance> {
    any::<u64>().prop_map(Instance)
}

fn any_root() -> impl Strategy<Value = Root> {
    any::<[u8; 32]>().prop_map(Root)
}

fn any_root_prefix() -> impl Strategy<Value = RootPrefix> {
    "[0-9a-f]{8,64}".prop_map(|digits| digits.parse().expect("digits"))
}

fn any_request() -> impl Strategy<Value = RequestId> {
    any::<u64>().prop_map(RequestId)
}

fn any_refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        any::<u32>().prop_map(|retry_after_ms| Refusal::Busy { retry_after_ms }),
        Just(Refusal::Unknown),
        Just(Refusal::Missing),
        Just(Refusal::Changed),
        Just(Refusal::Unreadable),
    ]
}

fn any_offer_entry() -> impl Strategy<Value = OfferEntry> {
    let root = prop_oneof![
        any_root().prop_map(OfferedRoot::Whole),
        (any_root(), any::<u32>()).prop_map(|(root, pieces)| OfferedRoot::Partial { root, pieces }),
        any::<u64>().prop_map(OfferedRoot::Hashing),
    ];
    let manifest = (any_root(), any::<u64>()).prop_map(|(root, size)| OfferedManifest { root, size });
    let kind =
        prop_oneof![Just(OfferedKind::File), proptest::option::of(manifest).prop_map(OfferedKind::Folder),];
    ("[a-z]{1,100}", kind, any::<u64>(), any::<i64>(), root)
        .prop_map(|(name, kind, size, mtime, root)| OfferEntry { name: path(&name), kind, size, mtime, root })
}

fn any_listing_entry() -> impl Strategy<Value = ListingEntry> {
    (any_path(), any::<bool>(), any::<u64>(), any::<i64>(), proptest::option::of(any_root()))
        .prop_map(|(name, is_folder, size, mtime, root)| ListingEntry { name, is_folder, size, mtime, root })
}
