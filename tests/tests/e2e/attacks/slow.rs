//! Attacks by being slow: a byte now and then at every stage, so that nothing ever times out for being silent.
//!
//! That each of them is given up after a while is tested in virtual time, beside the code that does it. Here they are many
//! and stay, and others must not notice.

use std::time::Duration;

use ftx_proto::digest::Root;
use ftx_proto::wire::session::{Message, RequestId};
use ftx_tests::evil::Stranger;
use ftx_tests::net;
use tokio::io::AsyncWriteExt;

use super::{shared, still_serves};

/// How many there are of each kind.
const MANY: usize = 60;

/// Time between two bytes. As often as this they would keep their places if bytes counted.
const BETWEEN: Duration = Duration::from_millis(200);

#[test]
fn a_byte_now_and_then_at_every_stage() {
    let net = net!();
    let (content, share) = shared(&net, 3401, &[]);
    let root: Root = content.root().parse().expect("a root");
    let stranger = Stranger::new(share.port());
    let mut slow = tokio::task::JoinSet::new();
    stranger.does(async {
        for _ in 0..MANY {
            // A handshake that never gets on: the length of a record, and then its bytes.
            let mut tcp = stranger.connect().await;
            slow.spawn(async move {
                for byte in [22, 3, 1, 64, 0].into_iter().chain(std::iter::repeat(1)) {
                    if tcp.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(BETWEEN).await;
                }
            });
        }
        for _ in 0..MANY {
            // A frame whose end never comes.
            let mut session = stranger.session().await;
            slow.spawn(async move {
                session.send(&[0, 0, 255, 255, 0, 0, 0, 0]).await;
                while session.try_send(&[3]).await {
                    tokio::time::sleep(BETWEEN).await;
                }
            });
        }
        for number in 0..MANY {
            // All that there is, of which a message is read now and then.
            let mut session = stranger.session().await;
            session.say(&Message::Subscribe { root }).await;
            for request in 0..50 {
                let request = RequestId(number as u64 * 1000 + request);
                session.say(&Message::Request { request, root, first: 0, count: 385 }).await;
            }
            slow.spawn(async move {
                while session.read().await.is_some() {
                    tokio::time::sleep(BETWEEN).await;
                }
            });
        }
    });
    for _ in 0..3 {
        still_serves(&net, &content);
    }
    assert!(share.process().peak_resident_bytes().expect("it runs") < 400 << 20, "memory for nobody");
    drop(slow);
}
