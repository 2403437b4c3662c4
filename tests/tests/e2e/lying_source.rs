//! Sources whose bytes are not what they say.
//!
//! A disk that rots silently makes an honest liar: the node has hashed the file, then bytes of it change while size and
//! times stay. What it serves from then on is wrong, in good faith.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, net};

/// Flips a byte in every one of `chunks`, without any trace in the file's metadata that a program can set.
fn rot(path: &Path, chunks: impl IntoIterator<Item = u64>) {
    let modified = std::fs::metadata(path).and_then(|data| data.modified()).expect("the file has a time");
    let file = File::options().read(true).write(true).open(path).expect("the file opens");
    for chunk in chunks {
        let mut byte = [0];
        let at = chunk * 16_384 + 77;
        file.read_exact_at(&mut byte, at).expect("the chunk exists");
        file.write_all_at(&[!byte[0]], at).expect("the byte is written");
    }
    file.set_modified(modified).expect("the time is set back");
}

#[test]
fn a_lying_source_is_dropped_and_named() {
    let net = net!();
    let content = Content::new(301, 12 * MIB);
    let folders = copies(&net, 3, "image.iso", &content.bytes);
    let shares: Vec<_> =
        folders.iter().map(|folder| net.share_with(folder, &["--max-upload", "3M"])).collect();
    for share in &shares {
        share.wait_until_hashed(&net, "image.iso");
    }
    rot(&folders[0].join("image.iso"), 0..12 * 64);
    let target = net.folder().join("image.iso");

    let fetched = net.get("image.iso", &target).run();

    content.expect_in(&target);
    assert!(fetched.of_source(shares[0].node(), "bad") > 0, "the liar is not named\n{}", fetched.said());
    for honest in &shares[1..] {
        assert_eq!(fetched.of_source(honest.node(), "bad"), 0, "an honest one is blamed\n{}", fetched.said());
        assert!(fetched.of_source(honest.node(), "bytes") > 0, "{}", fetched.said());
    }
    let dropped = fetched.events.iter().any(|event| {
        event["event"] == "source" && event["state"] == "dropped" && event["node"] == shares[0].node()
    });
    assert!(dropped, "no event tells that the liar was dropped\n{}", fetched.said());
}

#[test]
fn a_single_wrong_byte_is_found() {
    let net = net!();
    let content = Content::new(302, 4 * MIB);
    let folders = copies(&net, 2, "image.iso", &content.bytes);
    let shares: Vec<_> =
        folders.iter().map(|folder| net.share_with(folder, &["--max-upload", "2M"])).collect();
    for share in &shares {
        share.wait_until_hashed(&net, "image.iso");
    }
    rot(&folders[0].join("image.iso"), [130]);
    let target = net.folder().join("image.iso");

    let fetched = net.get("image.iso", &target).run();

    // Whether that chunk was asked of the rotten source is chance; that the bytes are right is not.
    fetched.done();
    content.expect_in(&target);
}

#[test]
fn where_everybody_lies_nothing_is_delivered() {
    let net = net!();
    let content = Content::new(303, 4 * MIB);
    let folder = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let share = net.share(&folder);
    share.wait_until_hashed(&net, "image.iso");
    rot(&folder.join("image.iso"), 0..4 * 64);
    let target = net.folder().join("image.iso");

    let failed = net.get("image.iso", &target).args(["--timeout", "3"]).run();

    assert!([7, 11].contains(&failed.status), "{}", failed.said());
    failed.last("error");
    assert!(!target.exists(), "{}", failed.said());
}
