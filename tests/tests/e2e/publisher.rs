//! A name that stands for something else than the last time, and comes from somebody else: whoever gets it is told.

use std::path::Path;

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Finished, Share, TestNet, net};

fn share(net: &TestNet, content: &Content) -> Share {
    let folder = net.folder();
    put(&folder, "tool.bin", &content.bytes);
    let share = net.share(&folder);
    share.wait_until_root_is_listed(net, &content.root());
    share
}

fn get(net: &TestNet, state: &Path) -> Finished {
    let got = net.get("tool.bin", &net.folder().join("tool.bin")).with_state(state).run();
    got.done();
    got
}

fn warnings(got: &Finished) -> Vec<&serde_json::Value> {
    got.events.iter().filter(|event| event["event"] == "other_publisher").collect()
}

#[test]
fn another_content_from_somebody_else_is_told_and_fetched() {
    let net = net!();
    let (one, other) = (Content::new(1001, MIB), Content::new(1002, MIB + 1));
    let state = net.folder();
    let first = share(&net, &one);
    let first_id = first.node().to_owned();
    assert!(warnings(&get(&net, &state)).is_empty(), "nothing is known yet");
    assert!(warnings(&get(&net, &state)).is_empty(), "the same again");
    first.stop();

    let second = share(&net, &other);
    let got = get(&net, &state);
    let told = warnings(&got);
    assert_eq!(told.len(), 1, "{}", got.said());
    assert_eq!(told[0]["earlier_root"], one.root().as_str());
    assert_eq!(told[0]["earlier_node"]["node"], first_id.as_str());
    assert_eq!(told[0]["root"], other.root().as_str());
    assert_eq!(told[0]["nodes"][0]["node"], second.node());
    for part in [&first_id[..8], &second.node()[..8], &one.root(), &other.root()] {
        assert!(got.stderr.contains(part), "{part}: {}", got.stderr);
    }
    assert!(warnings(&get(&net, &state)).is_empty(), "it is known now");
    assert!(warnings(&get(&net, &net.folder())).is_empty(), "to whom nothing was known it is no news");
}

#[test]
fn another_content_from_the_same_node_and_the_same_content_from_another_are_no_news() {
    let net = net!();
    let (one, other) = (Content::new(1011, MIB), Content::new(1012, MIB + 1));
    let state = net.folder();
    let folder = net.folder();
    put(&folder, "tool.bin", &one.bytes);
    let first = net.share(&folder);
    get(&net, &state);
    let (identity, _) = (first.state(), first.stop());
    put(&folder, "tool.bin", &other.bytes);
    let first = net.share_again(&folder, &identity);
    first.wait_until_root_is_listed(&net, &other.root());
    assert!(warnings(&get(&net, &state)).is_empty(), "a new version");
    first.stop();
    let _copy = share(&net, &other);
    assert!(warnings(&get(&net, &state)).is_empty(), "a copy");
}

#[test]
fn a_damaged_memory_is_set_aside() {
    let net = net!();
    let one = Content::new(1021, MIB);
    let state = net.folder();
    let _share = share(&net, &one);
    get(&net, &state);
    std::fs::write(state.join("publishers"), b"\x00nonsense").expect("written");
    let got = get(&net, &state);
    assert!(got.stderr.contains("set aside"), "{}", got.stderr);
    assert!(state.join("publishers.damaged").is_file() && state.join("publishers").is_file());
}

#[test]
fn of_a_folder_it_is_told_once_all_who_have_it_are_known() {
    let net = net!();
    let state = net.folder();
    let share_folder = |bytes: &[u8]| {
        let folder = net.folder();
        put(&folder, "tools/tool.bin", bytes);
        net.share(&folder)
    };
    let got = || {
        let got = net.get("tools", &net.folder().join("tools")).with_state(&state).run();
        got.done();
        got
    };
    let first = share_folder(b"one");
    assert!(warnings(&got()).is_empty(), "nothing is known yet");
    let (id, _) = (first.node().to_owned(), first.stop());
    let second = share_folder(b"another one");
    let told = got();
    assert_eq!(warnings(&told).len(), 1, "{}", told.said());
    assert_eq!(warnings(&told)[0]["earlier_node"]["node"], id.as_str());
    assert_eq!(warnings(&told)[0]["nodes"][0]["node"], second.node());
    assert!(warnings(&got()).is_empty(), "it is known now");
}
