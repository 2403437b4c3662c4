//! Attacks, each named after what it tries. What is asked of the node is always the same: whoever is honest gets what is
//! right, and nothing that an attacker says is believed, kept, or passed on as it came.

mod amplification;
mod clocks;
mod crowds;
mod lies;
mod links;
mod names;
mod slow;
mod speech;
mod tls;

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, Share, TestNet};

const NAME: &str = "image.iso";

/// Whole pieces and a last chunk of one byte.
const SIZE: usize = 6 * MIB + 1;

fn shared(net: &TestNet, seed: u64, flags: &[&str]) -> (Content, Share) {
    let content = Content::new(seed, SIZE);
    let share = net.share_with(&copies(net, 1, NAME, &content.bytes)[0], flags);
    share.wait_until_hashed(net, NAME);
    (content, share)
}

#[track_caller]
fn still_serves(net: &TestNet, content: &Content) {
    let target = net.folder().join(NAME);
    net.get(NAME, &target).run().done();
    content.expect_in(&target);
}
