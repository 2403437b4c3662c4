//! Folders from nodes that lie: about what is in them, or about the bytes. What is right comes from the honest ones, and
//! nothing wrong gets a name.

use std::path::Path;

use ftx_proto::wire::discovery::{Offer, OfferedKind};
use ftx_proto::wire::session::Message;
use ftx_tests::data::MIB;
use ftx_tests::evil::{Answers, Evil};
use ftx_tests::share::put;
use ftx_tests::{Content, Finished, Share, TestNet, listing, net};

use crate::folders::{NAME, expect_nothing_left};

type Files = Vec<(&'static str, Content)>;

fn files(seed: u64) -> Files {
    let file = |name, number, size| (name, Content::new(seed * 10 + number, size));
    vec![
        file("aaaa", 0, 30_000),
        file("bbbb", 1, 300_000),
        file("large", 2, 5 * MIB + 1),
        file("zzzz", 3, 1000),
    ]
}

/// An honest node that gives these files slowly, so that others are asked as well.
fn honest(net: &TestNet, files: &Files) -> Share {
    let folder = net.folder();
    for (name, content) in files {
        put(&folder.join(NAME), name, &content.bytes);
    }
    let share = net.share_with(&folder, &["--max-upload", "2M"]);
    share.wait_until_folder_is_hashed(net, NAME);
    share
}

#[track_caller]
fn expect_files(files: &Files, target: &Path) {
    assert_eq!(listing(target), files.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, content) in files {
        content.expect_in(&target.join(name));
    }
}

/// Gets the folder from evil nodes and from whoever else is there; also returns the target.
fn get(net: &TestNet, evil: &[&Evil]) -> (Finished, std::path::PathBuf) {
    let target = net.folder().join(NAME);
    let peers = evil.iter().flat_map(|evil| ["--peer", &evil.peer]);
    let ended = net.get(NAME, &target).args(["--timeout", "2"]).args(peers).run();
    (ended, target)
}

/// Fails unless nothing was made of it, and why is said.
#[track_caller]
fn expect_nothing(ended: &Finished, target: &Path) {
    assert!([7, 11].contains(&ended.status), "{}", ended.said());
    assert!(
        ended.last("error")["message"].as_str().is_some_and(|message| message.contains(NAME)),
        "{}",
        ended.said()
    );
    assert!(!target.exists(), "{}", ended.said());
}

fn as_it_is(_: &mut Offer) {}

fn agreed(_: &Message, answers: Answers) -> Option<Answers> {
    Some(answers)
}

/// Flips a byte of all chunks of a content longer than a manifest.
fn wrong_bytes(message: &Message, mut answers: Answers) -> Option<Answers> {
    if matches!(message, Message::Request { .. }) {
        for (_, payload) in answers.iter_mut().filter(|(_, payload)| payload.len() > 10_000) {
            payload[7] ^= 1;
        }
    }
    Some(answers)
}

/// Flips a byte of the list of what is in the folder, which is short.
fn wrong_list(message: &Message, mut answers: Answers) -> Option<Answers> {
    if matches!(message, Message::Request { .. }) {
        for (_, payload) in answers.iter_mut().filter(|(_, payload)| payload.len() < 900) {
            payload[40] ^= 1;
        }
    }
    Some(answers)
}

#[test]
fn a_folder_from_a_node_of_another_making_arrives() {
    let net = net!();
    let files = files(1);
    let evil = Evil::of_folder(NAME, &files, &[], |_| {}, as_it_is, agreed);
    let (ended, target) = get(&net, &[&evil]);
    ended.done();
    expect_files(&files, &target);
}

#[test]
fn wrong_bytes_of_a_folder_get_no_name() {
    let net = net!();
    let files = files(2);
    let evil = Evil::of_folder(NAME, &files, &[], |_| {}, as_it_is, wrong_bytes);
    let (ended, target) = get(&net, &[&evil]);
    expect_nothing(&ended, &target);

    let share = honest(&net, &files);
    let (ended, target) = get(&net, &[&evil]);
    ended.done();
    expect_files(&files, &target);
    assert!(ended.of_source(&evil.node, "bad") > 0, "{}", ended.said());
    assert_eq!(ended.of_source(share.node(), "bad"), 0, "{}", ended.said());
    expect_nothing_left(target.parent().expect("a folder"));
}

#[test]
fn a_list_with_wrong_bytes_is_not_believed() {
    let net = net!();
    let files = files(3);
    let evil = [(); 2].map(|()| Evil::of_folder(NAME, &files, &[], |_| {}, as_it_is, wrong_list));
    let (ended, target) = get(&net, &[&evil[0], &evil[1]]);
    expect_nothing(&ended, &target);

    let _share = honest(&net, &files);
    let (ended, target) = get(&net, &[&evil[0], &evil[1]]);
    ended.done();
    expect_files(&files, &target);
}

/// Lies about what is in the folder, with a list that is whole. Two of them, so that theirs is what most have.
fn lists(net: &TestNet, files: &Files, lie: impl Fn() -> Evil) {
    let evil = [lie(), lie()];
    let (ended, target) = get(net, &[&evil[0], &evil[1]]);
    expect_nothing(&ended, &target);
    expect_nothing_left(target.parent().expect("a folder"));
    let _share = honest(net, files);
    let (ended, target) = get(net, &[&evil[0], &evil[1]]);
    ended.done();
    expect_files(files, &target);
    assert_eq!(listing(target.parent().expect("a folder")), [NAME]);
}

#[test]
fn a_list_with_a_name_that_leads_out_is_not_believed() {
    let net = net!();
    let files = files(4);
    for bad in [b"../a", b"/bbb", b"a//b"] {
        let spoil = |list: &mut Vec<u8>| {
            let at = list.windows(4).position(|name| name == b"aaaa").expect("the name is in it");
            list[at..at + 4].copy_from_slice(bad);
        };
        lists(&net, &files, || Evil::of_folder(NAME, &files, &[], spoil, as_it_is, agreed));
    }
}

#[test]
fn a_list_in_which_a_name_stands_twice_or_is_a_file_and_a_folder_is_not_believed() {
    let net = net!();
    let mut files = files(10);
    files.insert(2, ("cccccc", Content::new(101, 2000)));
    for (good, bad) in [(&b"bbbb"[..], &b"aaaa"[..]), (b"cccccc", b"aaaa/b"), (b"cccccc", b"bbbb/b")] {
        let spoil = |list: &mut Vec<u8>| {
            let at = list.windows(good.len()).position(|name| name == good).expect("the name is in it");
            list[at..at + good.len()].copy_from_slice(bad);
        };
        lists(&net, &files, || Evil::of_folder(NAME, &files, &[], spoil, as_it_is, agreed));
    }
}

#[test]
fn a_list_that_is_cut_or_none_is_not_believed() {
    let net = net!();
    let files = files(5);
    let spoils: [fn(&mut Vec<u8>); 3] =
        [|list| list.truncate(60), |list| list[0] = b'X', |list| list.extend_from_slice(b"more")];
    for spoil in spoils {
        lists(&net, &files, || Evil::of_folder(NAME, &files, &[], spoil, as_it_is, agreed));
    }
}

#[test]
fn the_list_of_another_folder_is_not_believed() {
    let net = net!();
    let (right, mut wrong) = (files(6), files(6));
    wrong[1].1.bytes[5] ^= 1;
    let root = {
        let share = honest(&net, &right);
        share.wait_until_folder_is_hashed(&net, NAME).parse().expect("a root")
    };
    let claimed = move |offer: &mut Offer| {
        offer.entries[0].root = ftx_proto::wire::discovery::OfferedRoot::Whole(root);
    };
    lists(&net, &right, || Evil::of_folder(NAME, &wrong, &[], |_| {}, claimed, agreed));
}

#[test]
fn a_list_that_is_said_to_be_endless_is_not_fetched() {
    let net = net!();
    let files = files(7);
    let endless = |offer: &mut Offer| {
        if let OfferedKind::Folder(Some(manifest)) = &mut offer.entries[0].kind {
            manifest.size = 1 << 40;
        }
    };
    let evil = Evil::of_folder(NAME, &files, &[], |_| {}, endless, agreed);
    // As if it had not answered at all.
    let (ended, target) = get(&net, &[&evil]);
    let ended = ended.expect_error(3, "not_found");
    assert!(!target.exists(), "{}", ended.said());
    let _share = honest(&net, &files);
    let (ended, target) = get(&net, &[&evil]);
    ended.done();
    expect_files(&files, &target);
}

#[test]
fn links_that_lead_out_are_refused_and_told() {
    let net = net!();
    let files = files(8);
    let links = [("absolute", "/etc/passwd"), ("good", "aaaa"), ("up", "../x"), ("way", "good/../../x")];
    let evil = Evil::of_folder(NAME, &files, &links, |_| {}, as_it_is, agreed);
    let (ended, target) = get(&net, &[&evil]);
    assert_eq!(ended.done()["links"], 1, "{}", ended.said());
    assert_eq!(listing(&target), ["aaaa", "bbbb", "good", "large", "zzzz"]);
    for link in ["absolute", "up", "way"] {
        let said = format!("{link} is not made: the link may lead out");
        assert!(ended.stderr.contains(&said), "no '{said}'\n{}", ended.said());
    }
}

#[test]
fn names_of_our_own_files_are_refused() {
    let net = net!();
    let mut files = files(9);
    files.insert(0, (".aaaa.ftx-part", Content::new(99, 100)));
    let evil = Evil::of_folder(NAME, &files, &[], |_| {}, as_it_is, agreed);
    let (ended, target) = get(&net, &[&evil]);
    let ended = ended.expect_error(1, "other");
    let message = ended.last("error")["message"].as_str().unwrap_or_default();
    assert!(message.contains(".aaaa.ftx-part") && message.contains("--exclude"), "{message}");
    assert_eq!(listing(target.parent().expect("a folder")), [""; 0]);
}
