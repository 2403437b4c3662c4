//! Attacks by numbers: identities, offers, datagrams, connections.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_proto::digest::{Instance, NodeId, Root};
use ftx_proto::wire::discovery::{
    Announce, Datagram, Offer, OfferEntry, OfferedKind, OfferedRoot, Query, Want,
};
use ftx_proto::wire::session::{Message, RequestId};
use ftx_tests::evil::Stranger;
use ftx_tests::net;

use super::{NAME, shared, still_serves};

#[test]
fn more_identities_from_one_address_than_there_are_places() {
    let net = net!();
    let (content, share) = shared(&net, 3501, &["--max-upload", "20M"]);
    let root: Root = content.root().parse().expect("a root");
    // Another address of this machine, as another machine would have.
    let stranger = Stranger::from_address(share.port(), Ipv4Addr::new(127, 0, 0, 2));
    let mut busy = tokio::task::JoinSet::new();
    for number in 0..540 {
        stranger.does(async {
            let Some(mut session) = stranger.session_as_another().await else { return };
            // Each is another node, by its certificate, and never at rest.
            busy.spawn(async move {
                session.try_say(&Message::Subscribe { root }).await;
                for request in 0.. {
                    let asked =
                        Message::Request { request: RequestId(request), root, first: number % 300, count: 1 };
                    if !session.try_say(&asked).await || session.read().await.is_none() {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
            });
        });
    }
    // Whoever comes from an address that has fewer gets a place.
    still_serves(&net, &content);
    drop(busy);
}

#[test]
fn offers_of_a_thousand_nodes_that_are_not_there() {
    let net = net!();
    let (content, _share) = shared(&net, 3502, &[]);
    let root: Root = content.root().parse().expect("a root");
    let liar = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let peer = liar.local_addr().expect("bound").to_string();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopping, wakes) = (Arc::clone(&stop), liar.try_clone().expect("the same socket"));
    let lying = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((len, to)) = liar.recv_from(&mut buffer) {
            if stopping.load(Ordering::Relaxed) {
                return;
            }
            let Ok(Datagram::Query(Query { nonce, .. })) = Datagram::decode(&buffer[..len]) else { continue };
            for number in 0..1000_u32 {
                let mut node = [7; 32];
                node[..4].copy_from_slice(&number.to_be_bytes());
                // Nobody listens at port 1.
                let from =
                    Announce { node: NodeId(node), instance: Instance(1), port: 1, name: "none".into() };
                let entry = OfferEntry {
                    name: NAME.parse().expect("a name"),
                    kind: OfferedKind::File,
                    size: content.size(),
                    mtime: 0,
                    root: OfferedRoot::Whole(root),
                };
                let offer = Offer { nonce, from, entries: vec![entry], more: false };
                // A full buffer is no matter.
                let _ = liar.send_to(&Datagram::Offer(offer).encode(), to);
            }
        }
    });
    let content = ftx_tests::Content::new(3502, super::SIZE);
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).args(["--peer", &peer]).run();
    stop.store(true, Ordering::Relaxed);
    let at = wakes.local_addr().expect("bound");
    wakes.send_to(&[], at).expect("sent");
    lying.join().expect("it ends");
    fetched.done();
    content.expect_in(&target);
}

/// What a flood does to a transfer that runs, counted in what a transfer without a flood gets done meanwhile.
#[test]
fn floods_of_datagrams_and_connections_during_a_transfer() {
    let net = net!();
    let (content, share) = shared(&net, 3503, &["--max-upload", "2M"]);
    let port = share.port();
    let quiet = net!();
    let (_, undisturbed) = shared(&quiet, 3503, &["--max-upload", "2M"]);
    let stop = Arc::new(AtomicBool::new(false));
    // So many, that the ports of the machine are not used up.
    let flood = |times: u32, what: fn(u16)| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            for _ in 0..times {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                what(port);
                std::thread::yield_now();
            }
        })
    };
    let (target, beside) = (net.folder().join(NAME), quiet.folder().join(NAME));
    let mut disturbed = net.get(NAME, &target).start();
    let mut free = quiet.get(NAME, &beside).start();
    disturbed.wait_for_bytes(0);
    free.wait_for_bytes(0);
    let floods = [
        flood(u32::MAX, |port| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            let query = Query { nonce: rand::random(), instance: Instance(rand::random()), want: Want::All };
            let query = Datagram::Query(query).encode();
            for _ in 0..100 {
                let _ = socket.send_to(&query, (Ipv4Addr::LOCALHOST, port));
                let _ = socket.send_to(&query[..700], (Ipv4Addr::LOCALHOST, port));
            }
        }),
        flood(5000, |port| drop(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)))),
    ];
    // When the one that nobody disturbs is done, the other one has at least half, but for the piece under way.
    free.finish().done();
    let meanwhile = disturbed.bytes_so_far();
    stop.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().expect("it ends"));
    let disturbed = disturbed.finish();
    disturbed.done();
    let piece = ftx_tests::data::MIB as u64;
    assert!(meanwhile + piece >= content.size() / 2, "only {meanwhile} bytes\n{}", disturbed.said());
    content.expect_in(&target);
    drop(undisturbed);
}
