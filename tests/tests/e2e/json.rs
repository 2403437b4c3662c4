//! What scripts read: one JSON object a line on standard output, and nothing else there.

use ftx_tests::data::MIB;
use ftx_tests::share::{copies, put};
use ftx_tests::{Content, Finished, net, sha256_of_file};
use serde_json::Value;

/// Checks the rules that hold for every command, and returns the last event.
fn checked(finished: &Finished) -> Value {
    let text = String::from_utf8(finished.stdout.clone()).expect("JSON is UTF-8");
    assert!(text.ends_with('\n'), "the last line has no end\n{}", finished.said());
    let mut last = Value::Null;
    for line in text.lines() {
        last = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(last["v"], 1, "{line}");
        assert!(last["event"].is_string(), "{line}");
    }
    let ends = |event: &&Value| event["event"] == "done" || event["event"] == "error";
    assert_eq!(finished.events.iter().filter(ends).count(), 1, "one end\n{}", finished.said());
    assert!(ends(&&last), "the end is not the last\n{}", finished.said());
    let expected = if finished.status == 0 { "done" } else { "error" };
    assert_eq!(last["event"], expected, "{}", finished.said());
    last
}

#[test]
fn a_get_tells_all_about_itself() {
    let net = net!();
    let content = Content::new(1501, 6 * MIB);
    let share = net.share_with(&copies(&net, 1, "image.iso", &content.bytes)[0], &["--max-upload", "3M"]);
    let target = net.folder().join("image.iso");

    let fetched = net.get("image.iso", &target).run();

    let done = checked(&fetched);
    assert_eq!(done["path"], target.to_str().expect("UTF-8"), "{done}");
    assert_eq!(done["size"], content.size(), "{done}");
    assert_eq!(done["root"], content.root().as_str(), "{done}");
    assert!(done["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{done}");
    assert!(done["bytes_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{done}");
    let source = &done["sources"][0];
    assert_eq!(source["node"], share.node(), "{done}");
    assert_eq!(source["addr"], format!("127.0.0.1:{}", share.port()), "{done}");
    assert_eq!(source["bytes"], content.size(), "{done}");
    assert_eq!(source["chunks"], content.size() / 16_384, "{done}");
    assert_eq!(source["bad"], 0, "{done}");
    assert!(source["retransmitted"].is_u64(), "{done}");
    let expected = net.folder().join("expected");
    std::fs::write(&expected, &content.bytes).expect("written");
    assert_eq!(sha256_of_file(&target), sha256_of_file(&expected));
}

#[test]
fn progress_grows_up_to_the_size() {
    let net = net!();
    let content = Content::new(1502, 6 * MIB);
    let _share = net.share_with(&copies(&net, 1, "image.iso", &content.bytes)[0], &["--max-upload", "2M"]);

    let fetched = net.get("image.iso", &net.folder().join("image.iso")).run();

    fetched.done();
    let progress: Vec<_> = fetched.events.iter().filter(|event| event["event"] == "progress").collect();
    assert!(progress.len() >= 3, "{}", fetched.said());
    let fetching = progress.iter().filter(|event| event["phase"] == "fetching");
    let bytes: Vec<_> = fetching.map(|event| event["bytes"].as_u64().expect("a number")).collect();
    assert!(bytes.is_sorted(), "{bytes:?}");
    assert!(bytes.iter().all(|&bytes| bytes <= content.size()), "{bytes:?}");
}

#[test]
fn errors_are_events_too() {
    let net = net!();
    let nobody = net.get("image.iso", &net.folder().join("x")).args(["--timeout", "2"]).run();
    assert_eq!(checked(&nobody)["code"], "no_node");

    let missing = net.folder().join("missing");
    let usage = net.node(["--share"]).arg(&missing).arg("--json").run();
    assert_eq!(checked(&usage)["code"], "usage");
}

#[test]
fn lists_are_events() {
    let net = net!();
    let folder = net.folder();
    let contents = [Content::new(1503, 1000), Content::new(1504, 0), Content::new(1505, 3 * MIB)];
    for (content, name) in contents.iter().zip(["one", "two", "three.iso"]) {
        put(&folder, name, &content.bytes);
    }
    let share = net.share(&folder);
    share.wait_until_hashed(&net, "three.iso");

    let listed = net.node(["ls", "--json", "--timeout", "3"]).run().expect_status(0);
    checked(&listed);
    for (content, name) in contents.iter().zip(["one", "two", "three.iso"]) {
        let entry = listed.events.iter().find(|event| event["name"] == name);
        let entry = entry.unwrap_or_else(|| panic!("{name} is not listed\n{}", listed.said()));
        assert_eq!(entry["size"], content.size(), "{entry}");
    }

    let filtered = net.node(["ls", "*.iso", "--json", "--timeout", "3"]).run().expect_status(0);
    checked(&filtered);
    let names: Vec<_> = filtered.events.iter().filter_map(|event| event["name"].as_str()).collect();
    assert_eq!(names, ["three.iso"], "{}", filtered.said());

    let peers = net.node(["peers", "--json", "--timeout", "3"]).run().expect_status(0);
    checked(&peers);
    let found = peers.events.iter().filter(|event| event["node"] == share.node()).count();
    assert_eq!(found, 1, "{}", peers.said());
}

#[test]
fn a_share_says_that_it_is_ready() {
    let net = net!();
    let folder = net.folder();
    let share = net.share_with(&folder, &["--name", "under test"]);
    let ready = share.ready();
    assert_eq!(ready["v"], 1, "{ready}");
    assert_eq!(ready["name"], "under test", "{ready}");
    assert_eq!(ready["node"].as_str().map(str::len), Some(64), "{ready}");
    assert_eq!(ready["addr"], format!("127.0.0.1:{}", share.port()), "{ready}");
    assert!(ready["shares"].to_string().contains(folder.to_str().expect("UTF-8")), "{ready}");

    // The identity is kept with the state.
    let (node, state) = (share.node().to_owned(), share.state());
    let stopped = share.stop();
    assert!([0, 130].contains(&stopped.status), "{}", stopped.said());
    assert_eq!(net.share_again(&folder, &state).node(), node);
}
