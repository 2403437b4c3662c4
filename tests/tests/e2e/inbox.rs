//! Files that are put into the inbox of another node: verified, resumed, within a quota, and only from whom it may be.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Finished, Invocation, Running, Share, TestNet, listing, net};

/// A node called `office` with an inbox, and more flags.
fn inbox(net: &TestNet, flags: &[&str]) -> (Share, PathBuf) {
    let (folder, inbox) = (net.folder(), net.folder());
    (share_into(net, &folder, &inbox, flags), inbox)
}

fn share_into(net: &TestNet, folder: &Path, inbox: &Path, flags: &[&str]) -> Share {
    let inbox = inbox.to_str().expect("text");
    net.share_with(folder, &[&["--name", "office", "--inbox", inbox], flags].concat())
}

const ANYONE: [&str; 2] = ["--inbox-from", "anyone"];

/// Waits until more than so many bytes are over there.
fn wait_for_bytes(putting: &mut Running, bytes: usize) {
    putting.wait_for("so much was there", |event| {
        let there = event["bytes"].as_u64().unwrap_or(0) > bytes as u64;
        event["event"] == "progress" && event["phase"] == "transferring" && there
    });
}

fn putting(net: &TestNet, file: &Path, to: &str) -> Invocation {
    net.node(["put"]).arg(file).args([to, "--json"]).deadline(Duration::from_secs(180))
}

/// The folder of the node with this identity in an inbox where it has no name.
fn folder_of(finished: &Finished) -> String {
    let name = finished.done()["name"].as_str().expect("the name it has there");
    name.split_once('/').expect("a folder and a name").0.to_owned()
}

fn a_file(net: &TestNet, seed: u64, size: usize) -> (Content, PathBuf) {
    let content = Content::new(seed, size);
    let file = put(&net.folder(), "report.pdf", &content.bytes);
    (content, file)
}

#[test]
fn a_file_is_put_by_name_by_id_and_by_address_and_is_on_the_network() {
    let net = net!();
    let (content, file) = a_file(&net, 901, 3 * MIB + 5);
    let (office, inbox) = inbox(&net, &ANYONE);
    let address = format!("ftx://127.0.0.1:{}/third.pdf", office.port());
    let by_id = format!("ftx://{}/second.pdf", &office.node()[..12]);
    let state = net.folder();
    for (to, name) in [("ftx://office", "report.pdf"), (&by_id, "second.pdf"), (&address, "third.pdf")] {
        let done = putting(&net, &file, to).with_state(&state).run();
        assert_eq!(done.done()["root"], content.root().as_str(), "{}", done.said());
        assert_eq!(done.done()["node"], office.node());
        content.expect_in(&inbox.join(folder_of(&done)).join(name));
    }
    let id = net.node(["id", "--json"]).with_state(&state).run().done()["node"].as_str().unwrap().to_owned();
    assert_eq!(listing(&inbox), [&id[..16]]);
    office.wait_until_root_is_listed(&net, &content.root());
    let fetched = net.folder().join("back.pdf");
    net.get(&format!("{}/report.pdf", &id[..16]), &fetched).run().done();
    content.expect_in(&fetched);
}

#[test]
fn what_is_there_already_is_done_at_once_and_nothing_is_replaced() {
    let net = net!();
    let (content, file) = a_file(&net, 911, MIB + 1);
    let (_office, inbox) = inbox(&net, &ANYONE);
    let state = net.folder();
    let to = || putting(&net, &file, "ftx://office").with_state(&state).run();
    let first = to();
    assert_eq!(first.done()["there_before"], false);
    let again = to();
    assert_eq!(again.done()["there_before"], true, "{}", again.said());

    let other = Content::new(912, MIB + 1);
    std::fs::write(&file, &other.bytes).expect("written");
    to().expect_error(9, "exists");
    content.expect_in(&inbox.join(folder_of(&first)).join("report.pdf"));
    let renamed = putting(&net, &file, "ftx://office/newer.pdf").with_state(&state).run();
    other.expect_in(&inbox.join(folder_of(&renamed)).join("newer.pdf"));
    // Of somebody else, the same name is another file.
    let theirs = putting(&net, &file, "ftx://office").run();
    assert_ne!(folder_of(&theirs), folder_of(&first));
    other.expect_in(&inbox.join(folder_of(&theirs)).join("report.pdf"));
}

#[test]
fn nobody_may_put_anything_unless_it_is_said_who() {
    let net = net!();
    let (_, file) = a_file(&net, 921, 1000);
    let closed = net.folder();
    let careful = share_into(&net, &net.folder(), &closed, &[]);
    let refused = putting(&net, &file, "ftx://office").run().expect_error(10, "refused");
    assert!(refused.said().contains("--inbox-from"), "it says how: {}", refused.said());
    careful.process().wait_for_stderr("nobody can put anything");
    assert_eq!(listing(&closed), Vec::<String>::new());
    careful.stop();

    let plain = net.share_with(&net.folder(), &["--name", "plain"]);
    let refused = putting(&net, &file, "ftx://plain").run().expect_error(10, "refused");
    assert!(refused.said().contains("no inbox"), "{}", refused.said());
    putting(&net, &file, "ftx://nobody").args(["--timeout", "1"]).run().expect_error(3, "not_found");
    plain.stop();
}

#[test]
fn a_trusted_node_has_a_folder_by_the_name_that_it_has_here() {
    let net = net!();
    let (content, file) = a_file(&net, 931, MIB);
    let state = net.folder();
    let id = net.node(["id", "--json"]).with_state(&state).run().done()["node"].as_str().unwrap().to_owned();
    let trust = net.folder().join("trust");
    let trusted = trust.to_str().expect("text");
    net.node(["trust", "add", &id, "ada", "--trust", trusted]).run().expect_status(0);
    let (_office, inbox) = inbox(&net, &["--trust", trusted]);

    let done = putting(&net, &file, "ftx://office").with_state(&state).run();
    assert_eq!(done.done()["name"], "ada/report.pdf");
    content.expect_in(&inbox.join("ada/report.pdf"));
    putting(&net, &file, "ftx://office").args(["--name", "ada"]).run().expect_error(10, "refused");
    assert_eq!(listing(&inbox.join("ada")), ["report.pdf"]);
}

#[test]
fn a_put_of_a_node_that_is_removed_ends_and_goes_on_when_it_is_added_again() {
    let net = net!();
    let (content, file) = a_file(&net, 936, 24 * MIB);
    let state = net.folder();
    let id = net.node(["id", "--json"]).with_state(&state).run().done()["node"].as_str().unwrap().to_owned();
    let trust = net.folder().join("trust");
    let trusted = trust.to_str().expect("text");
    let edit = |args: [&str; 2]| {
        net.node(["trust"]).args(args).args(["--trust", trusted]).run().expect_status(0);
    };
    edit(["add", &id]);
    let (office, inbox) = inbox(&net, &["--trust", trusted]);

    let mut first =
        putting(&net, &file, "ftx://office").args(["--max-upload", "1MB/s"]).with_state(&state).start();
    wait_for_bytes(&mut first, MIB);
    edit(["rm", &id]);
    let ended = first.finish();
    assert!(ended.status == 10 || ended.status == 11, "{}", ended.said());
    assert!(ended.said().contains("does not trust this node"), "{}", ended.said());
    office.process().wait_for_stderr("not trusted any more");
    putting(&net, &file, "ftx://office").with_state(&state).run().expect_error(10, "refused");

    edit(["add", &id]);
    let done = putting(&net, &file, "ftx://office").with_state(&state).run();
    assert!(done.done()["resumed"].as_u64().expect("a number") >= MIB as u64, "{}", done.said());
    content.expect_in(&inbox.join(&id[..16]).join("report.pdf"));
}

#[test]
fn two_nodes_put_files_of_one_name_at_the_same_time() {
    let net = net!();
    let (one, other) = (a_file(&net, 937, 3 * MIB), a_file(&net, 938, 3 * MIB));
    let (_office, inbox) = inbox(&net, &ANYONE);
    let running = [&one, &other].map(|(_, file)| putting(&net, file, "ftx://office").start());
    for ((content, _), running) in [&one, &other].into_iter().zip(running) {
        content.expect_in(&inbox.join(folder_of(&running.finish())).join("report.pdf"));
    }
    assert_eq!(listing(&inbox).len(), 2);
}

#[test]
fn within_a_group_files_can_be_put() {
    let net = net!();
    let (content, file) = a_file(&net, 941, MIB);
    let secret = net.folder().join("secret");
    std::fs::write(&secret, "a secret of sixteen bytes at least").expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let (office, inbox) = inbox(&net, &["--secret-file", secret.to_str().expect("text")]);
    let done = putting(&net, &file, "ftx://office").arg("--secret-file").arg(&secret).run();
    content.expect_in(&inbox.join(folder_of(&done)).join("report.pdf"));
    let address = format!("ftx://127.0.0.1:{}", office.port());
    putting(&net, &file, &address).run().expect_error(10, "refused");
}

#[test]
fn a_quota_is_for_each_node_and_parts_count() {
    let net = net!();
    let (content, file) = a_file(&net, 951, 2 * MIB);
    let (_office, inbox) = inbox(&net, &[&ANYONE[..], &["--inbox-quota", "3MiB"]].concat());
    let state = net.folder();
    let to = |name: &str| putting(&net, &file, &format!("ftx://office/{name}")).with_state(&state).run();
    let first = to("a.pdf");
    let refused = to("b.pdf").expect_error(8, "disk_full");
    assert!(refused.said().contains("quota"), "{}", refused.said());
    assert_eq!(listing(&inbox.join(folder_of(&first))), ["a.pdf"]);
    // Another node has room of its own.
    let other = putting(&net, &file, "ftx://office/b.pdf").run();
    content.expect_in(&inbox.join(folder_of(&other)).join("b.pdf"));
}

#[test]
fn a_put_whose_sender_was_killed_goes_on() {
    let net = net!();
    let (content, file) = a_file(&net, 961, 24 * MIB);
    let (_office, inbox) = inbox(&net, &ANYONE);
    let state = net.folder();
    let slow = ["--max-upload", "1MB/s"];
    let mut first = putting(&net, &file, "ftx://office").args(slow).with_state(&state).start();
    wait_for_bytes(&mut first, MIB);
    first.kill9();

    let done = putting(&net, &file, "ftx://office").with_state(&state).run();
    assert!(done.done()["resumed"].as_u64().expect("a number") >= MIB as u64, "{}", done.said());
    let folder = inbox.join(folder_of(&done));
    content.expect_in(&folder.join("report.pdf"));
    assert_eq!(listing(&folder), ["report.pdf"], "neither part nor journal is left");
}

#[test]
fn a_put_whose_receiver_was_killed_goes_on() {
    let net = net!();
    let (content, file) = a_file(&net, 971, 24 * MIB);
    let (folder, inbox) = (net.folder(), net.folder());
    let office = share_into(&net, &folder, &inbox, &ANYONE);
    let state = net.folder();
    let slow = ["--max-upload", "1MB/s"];
    let mut first = putting(&net, &file, "ftx://office").args(slow).with_state(&state).start();
    wait_for_bytes(&mut first, MIB);
    office.kill9();
    let broken = first.finish().expect_error(11, "partial");
    assert!(broken.said().contains("the same command goes on"), "{}", broken.said());

    let _office = share_into(&net, &folder, &inbox, &ANYONE);
    let done = putting(&net, &file, "ftx://office").with_state(&state).run();
    assert!(done.done()["resumed"].as_u64().expect("a number") >= MIB as u64, "{}", done.said());
    content.expect_in(&inbox.join(folder_of(&done)).join("report.pdf"));
}

#[test]
fn what_is_being_put_is_not_offered_to_anybody_else() {
    let net = net!();
    let (_, file) = a_file(&net, 981, 24 * MIB);
    let (_office, _inbox) = inbox(&net, &ANYONE);
    let mut giving = putting(&net, &file, "ftx://office").args(["--max-upload", "2MB/s"]).start();
    wait_for_bytes(&mut giving, MIB);
    let asked = ["--timeout", "1", "--native-only"];
    net.get("report.pdf", &net.folder().join("x")).args(asked).run().expect_error(3, "not_found");
    let seen = net.node(["peers", "--json", "--timeout", "1"]).run();
    assert_eq!(seen.done()["peers"], 1, "only the office is seen: {}", seen.said());
    giving.kill9();
}

#[test]
fn an_empty_file_can_be_put_and_a_folder_cannot() {
    let net = net!();
    let (_office, inbox) = inbox(&net, &ANYONE);
    let folder = net.folder();
    let empty = put(&folder, "empty", b"");
    let done = putting(&net, &empty, "ftx://office").run();
    assert_eq!(std::fs::read(inbox.join(folder_of(&done)).join("empty")).expect("it is there"), b"");
    putting(&net, &folder, "ftx://office").run().expect_error(2, "usage");
    putting(&net, &folder.join("none"), "ftx://office").run().expect_error(2, "usage");
}
