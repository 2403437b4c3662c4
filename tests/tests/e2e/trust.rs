//! Trusted nodes: who stands in the file may talk to this node, and nobody else, whichever of the two begins.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Share, TestNet, listing, net};

/// A state folder that has an identity, and its id.
fn identity(net: &TestNet) -> (PathBuf, String) {
    let state = net.folder();
    let shown = net.node(["id", "--json"]).with_state(&state).run();
    let id = shown.done()["node"].as_str().expect("the id").to_owned();
    (state, id)
}

/// A file of trusted nodes, with these in it.
fn trusting(net: &TestNet, ids: &[&str]) -> PathBuf {
    let file = net.folder().join("trust");
    std::fs::write(&file, "# nobody yet\n").expect("written");
    for id in ids {
        trust(net, &file, &["add", id]).expect_status(0);
    }
    file
}

fn trust(net: &TestNet, file: &Path, args: &[&str]) -> ftx_tests::Finished {
    net.node(["trust"]).args(args.iter().copied()).arg("--json").arg("--trust").arg(file).run()
}

/// A node that shares one file, `name`, and trusts those in `file`.
fn share(net: &TestNet, name: &str, content: &Content, file: Option<&Path>) -> Share {
    let folder = net.folder();
    put(&folder, name, &content.bytes);
    let flags: Vec<_> = file.iter().flat_map(|file| ["--trust", file.to_str().expect("text")]).collect();
    net.share_with(&folder, &flags)
}

#[test]
fn an_id_stays_what_it_is_and_is_the_one_of_the_node() {
    let net = net!();
    let (state, id) = identity(&net);
    assert_eq!(id.len(), 64);
    let plain = net.node(["id"]).with_state(&state).run().expect_status(0);
    assert_eq!(String::from_utf8_lossy(&plain.stdout), format!("{id}\n"));
    let share = net.share_again(&net.folder(), &state);
    assert_eq!(share.node(), id);
}

#[test]
fn who_is_trusted_is_served_and_others_are_refused_at_once() {
    let net = net!();
    let content = Content::new(701, MIB + 1);
    let (friend, id) = identity(&net);
    let file = trusting(&net, &[&id]);
    let share = share(&net, "plan.pdf", &content, Some(&file));
    let target = net.folder();

    // A refusal is not waited out: this would take longer than any test may.
    let patient = net.get("plan.pdf", &target.join("theirs")).args(["--timeout", "3600"]);
    let refused = patient.run().expect_error(10, "refused");
    let message = refused.last("error")["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("does not trust this node"), "{message}");
    let listed = net.node(["ls", "--json"]).run().expect_error(10, "refused");
    assert!(!listed.said().contains("plan.pdf"), "{}", listed.said());
    share.process().wait_for_stderr("is not trusted here");

    let path = target.join("ours");
    net.get("plan.pdf", &path).with_state(&friend).run().done();
    content.expect_in(&path);
}

#[test]
fn who_is_not_trusted_is_not_asked() {
    let net = net!();
    let content = Content::new(711, MIB + 1);
    let stranger = share(&net, "plan.pdf", &content, None);
    let target = net.folder().join("plan.pdf");
    let nobody = trusting(&net, &[]);

    let get = || net.get("plan.pdf", &target).args(["--native-only", "--timeout", "5"]);
    let refused = get().arg("--trust").arg(&nobody).run().expect_error(10, "refused");
    let message = refused.last("error")["message"].as_str().expect("a message").to_owned();
    assert!(message.contains(stranger.node()), "it says whom to trust: {message}");
    net.node(["peers", "--json", "--trust"]).arg(&nobody).run().expect_error(10, "refused");
    assert_eq!(listing(target.parent().expect("a folder")), Vec::<String>::new());

    trust(&net, &nobody, &["add", stranger.node(), "office"]).expect_status(0);
    get().arg("--trust").arg(&nobody).run().done();
    content.expect_in(&target);
}

#[test]
fn a_running_node_sees_who_is_added_and_removed() {
    let net = net!();
    let content = Content::new(721, MIB + 1);
    let (friend, id) = identity(&net);
    let file = trusting(&net, &[]);
    let _share = share(&net, "plan.pdf", &content, Some(&file));
    let get = |name: &str| net.get("plan.pdf", &net.folder().join(name)).with_state(&friend).run();

    get("a").expect_error(10, "refused");
    trust(&net, &file, &["add", &id, "ada"]).expect_status(0);
    get("b").done();
    trust(&net, &file, &["rm", "ada"]).expect_status(0);
    get("c").expect_error(10, "refused");
}

#[test]
fn a_session_with_a_node_that_is_removed_ends() {
    let net = net!();
    let content = Content::new(751, 24 * MIB);
    let (friend, id) = identity(&net);
    let file = trusting(&net, &[&id]);
    let folder = net.folder();
    put(&folder, "plan.pdf", &content.bytes);
    let trusted = ["--trust", file.to_str().expect("text")];
    let share = net.share_with(&folder, &[&trusted[..], &["--max-upload", "1MB/s"]].concat());
    let target = net.folder().join("plan.pdf");
    let get = || net.get("plan.pdf", &target).with_state(&friend).deadline(Duration::from_secs(120));

    // A refusal is not waited out.
    let mut first = get().args(["--timeout", "3600"]).start();
    let there = first.wait_for_bytes(MIB as u64);
    trust(&net, &file, &["rm", &id]).expect_status(0);
    let ended = first.finish().expect_error(10, "refused");
    let message = ended.last("error")["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("does not trust this node"), "{message}");
    share.process().wait_for_stderr("not trusted any more");

    trust(&net, &file, &["add", &id]).expect_status(0);
    let (state, _) = (share.state(), share.stop());
    let _share = net.share_again_with(&folder, &state, &trusted);
    let resumed = get().run().done()["resumed"].as_u64().expect("a number");
    assert!(resumed >= there, "{resumed} bytes were there, and {there} should have been");
    content.expect_in(&target);
}

#[test]
fn a_fetch_from_a_node_that_is_removed_ends() {
    let net = net!();
    let content = Content::new(761, 24 * MIB);
    let folder = net.folder();
    put(&folder, "plan.pdf", &content.bytes);
    let share = net.share_with(&folder, &["--max-upload", "1MB/s"]);
    let file = trusting(&net, &[share.node()]);
    let target = net.folder().join("plan.pdf");
    let get = net.get("plan.pdf", &target).args(["--timeout", "3600", "--trust"]).arg(&file);
    let mut get = get.deadline(Duration::from_secs(120)).start();
    get.wait_for_bytes(MIB as u64);
    trust(&net, &file, &["rm", share.node()]).expect_status(0);
    let ended = get.finish().expect_error(10, "refused");
    let message = ended.last("error")["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("is not trusted here"), "{message}");
    assert!(!target.exists());
}

#[test]
fn a_link_to_the_file_leads_to_it_and_stays_one() {
    let net = net!();
    let content = Content::new(771, MIB);
    let (friend, id) = identity(&net);
    let file = trusting(&net, &[]);
    let link = net.folder().join("link");
    symlink(&file, &link).expect("linked");
    let _share = share(&net, "plan.pdf", &content, Some(&link));
    let get = |name: &str| net.get("plan.pdf", &net.folder().join(name)).with_state(&friend).run();
    get("a").expect_error(10, "refused");
    trust(&net, &link, &["add", &id]).expect_status(0);
    assert!(link.is_symlink(), "it is not replaced by a file");
    assert_eq!(trust(&net, &file, &["ls"]).done()["nodes"], 1);
    get("b").done();
}

#[test]
fn the_same_identity_is_always_trusted() {
    let net = net!();
    let content = Content::new(731, MIB);
    let file = trusting(&net, &[]);
    let share = share(&net, "plan.pdf", &content, Some(&file));
    let target = net.folder().join("plan.pdf");
    net.get("plan.pdf", &target).with_state(&share.state()).arg("--trust").arg(&file).run().done();
    content.expect_in(&target);
}

#[test]
fn the_file_is_checked_and_edited_line_by_line() {
    let net = net!();
    let (_, one) = identity(&net);
    let (_, other) = identity(&net);
    let file = net.folder().join("trust");
    trust(&net, &file, &["add", &one, "ada"]).expect_status(0);
    trust(&net, &file, &["add", &other]).expect_status(0);
    let listed = trust(&net, &file, &["ls"]);
    assert_eq!(listed.done()["nodes"], 2, "{}", listed.said());
    assert!(listed.events.iter().any(|event| event["node"] == one.as_str() && event["name"] == "ada"));
    trust(&net, &file, &["rm", "nobody"]).expect_error(3, "not_found");
    trust(&net, &file, &["add", "abc"]).expect_error(2, "usage");
    trust(&net, &file, &["rm", &other[..8]]).expect_status(0);

    let text = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(&file, format!("{text}what is this\n")).expect("written");
    let line = text.lines().count() + 1;
    let refused = net.node(["--json", "--share"]).arg(net.folder()).arg("--trust").arg(&file).run();
    let refused = refused.expect_error(2, "usage");
    assert!(refused.said().contains(&format!("line {line}:")), "{}", refused.said());
}

#[test]
fn nodes_that_are_added_at_the_same_time_are_all_there() {
    let net = net!();
    let file = net.folder().join("trust");
    let ids: Vec<String> = (1..=24).map(|number| format!("{number:064x}")).collect();
    let add = |id| net.node(["trust", "add", id, "--json", "--trust"]).arg(&file).start();
    let running: Vec<_> = ids.iter().map(|id| add(id.as_str())).collect();
    for running in running {
        running.finish().expect_status(0);
    }
    let listed = trust(&net, &file, &["ls"]);
    assert_eq!(listed.done()["nodes"], ids.len(), "{}", listed.said());
}

#[test]
fn the_file_in_the_state_folder_counts_only_where_it_is_named() {
    let net = net!();
    let (state, id) = identity(&net);
    net.node(["trust", "add", &id, "me"]).with_state(&state).run().expect_status(0);
    assert!(state.join("trust").is_file());
    let content = Content::new(741, 1000);
    let folder = net.folder();
    put(&folder, "plan.pdf", &content.bytes);
    let _open = net.share_again(&folder, &state);
    let target = net.folder().join("plan.pdf");
    net.get("plan.pdf", &target).run().done();
    content.expect_in(&target);
}

#[test]
fn what_serves_everybody_does_not_go_with_trust() {
    let net = net!();
    let file = trusting(&net, &[]);
    for open in ["--udp-get", "--striped"] {
        let run = net.node(["--json", "--share"]).arg(net.folder()).arg("--trust").arg(&file).arg(open).run();
        assert!(run.expect_error(2, "usage").said().contains(open));
    }
}

#[test]
fn status_and_doctor_tell_who_may_talk() {
    let net = net!();
    let (friend, id) = identity(&net);
    let file = trusting(&net, &[&id]);
    let share = share(&net, "plan.pdf", &Content::new(731, 1000), Some(&file));
    let shown = net.node(["status"]).with_state(&share.state()).run().expect_status(0);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains(&format!("the node in {}", file.display())), "{text}");
    let asked = net.node(["status", "--json"]).with_state(&share.state()).run();
    let access = &asked.events[0]["access"];
    assert_eq!((&access["trusted"], &access["secret"]), (&1.into(), &false.into()), "{}", asked.said());

    let doctor = || net.node(["doctor", "--json", "--timeout", "2"]);
    let session = |seen: &ftx_tests::Finished, level: &str| {
        let about = |event: &&serde_json::Value| event["check"] == "session" && event["level"] == level;
        let says: Vec<_> = seen.events.iter().filter(about).map(|event| event["says"].to_string()).collect();
        assert_eq!(says.len(), 1, "{}", seen.said());
        says[0].clone()
    };
    let strange = doctor().run();
    let says = session(&strange, "warning");
    assert!(says.contains("does not trust this node") && !says.contains("firewall"), "{says}");
    // From the other side it is the same: whom this machine does not trust.
    let nobody = trusting(&net, &[]);
    let careful = doctor().with_state(&friend).arg("--trust").arg(&nobody).run();
    assert!(session(&careful, "warning").contains("is not trusted here"), "{}", careful.said());
    session(&doctor().with_state(&friend).run(), "ok");
}
