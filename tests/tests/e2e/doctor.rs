//! What is wrong with a machine, as `doctor` finds it. What is wrong with a network is in `lan_doctor`.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ftx_tests::share::put;
use ftx_tests::{Finished, Machine, TestNet, binary, net};
use serde_json::Value;

fn examine(machine: &Machine, state: &Path) -> Finished {
    machine.node(["doctor", "--json", "--timeout", "2"]).with_state(state).run()
}

/// The findings of a check that are this bad.
fn findings<'a>(seen: &'a Finished, check: &str, level: &str) -> Vec<&'a Value> {
    let is_wanted =
        |event: &&Value| event["event"] == "finding" && event["check"] == check && event["level"] == level;
    seen.events.iter().filter(is_wanted).collect()
}

/// The only finding of a check that is this bad.
#[track_caller]
fn finding<'a>(seen: &'a Finished, check: &str, level: &str) -> &'a Value {
    match findings(seen, check, level)[..] {
        [finding] => finding,
        _ => panic!("not one {level} of {check}\n{}", seen.said()),
    }
}

#[track_caller]
fn says(finding: &Value, part: &str) {
    let all = format!("{}: {}", finding["about"], finding["says"]);
    assert!(all.contains(part), "'{part}' is not in {finding}");
}

#[test]
fn where_all_is_well_nothing_else_is_said() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "a/file", b"x");
    let node = net.share_with(&folder, &["--name", "ada"]);
    let other = net.share_with(&net.folder(), &["--name", "grace"]);
    node.wait_until_hashed(&net, "a/file");

    let seen = examine(&net, &node.state());

    let done = seen.done();
    assert_eq!((&done["warnings"], &done["problems"]), (&0.into(), &0.into()), "{}", seen.said());
    for check in ["clock", "limits", "state", "node", "share", "interface", "port", "broadcast", "identity"] {
        says(finding(&seen, check, "ok"), "");
    }
    assert_eq!(findings(&seen, "peer", "ok").len(), 2, "{}", seen.said());
    let sessions = findings(&seen, "session", "ok");
    for (port, session) in [node.port(), other.port()].iter().zip(&sessions) {
        says(session, &format!("127.0.0.1:{port}"));
    }
    says(findings(&seen, "share", "ok")[0], "1 files, 1 folders");

    let shown = net.node(["doctor"]).with_state(&node.state()).run().expect_status(0);
    assert!(String::from_utf8_lossy(&shown.stdout).ends_with("no problem, 0 warnings\n"), "{}", shown.said());
}

#[test]
fn nobody_else_there_is_a_warning() {
    let net = net!();
    let seen = examine(&net, &net.folder().join("new"));
    seen.done();
    let finding = finding(&seen, "peer", "warning");
    says(finding, "no other node answered");
    assert!(finding["todo"].as_str().unwrap().contains("--share"), "{finding}");
}

#[test]
fn whoever_has_the_port_is_named() {
    let (net, taken) = TestNet::with_port_taken(binary!());
    let node = net.share(&net.folder());
    assert_ne!(node.port(), taken.local_addr().unwrap().port());

    let seen = examine(&net, &node.state());

    seen.done();
    let warning = finding(&seen, "port", "warning");
    says(warning, &format!("(process {})", std::process::id()));
    drop(taken);
}

#[test]
fn a_program_that_keeps_discoverys_port_for_itself_is_named() {
    let net = net!();
    let _taken = UdpSocket::bind(("0.0.0.0", net.port())).unwrap();

    let seen = examine(&net, &net.folder().join("new")).expect_error(1, "other");

    let problem = finding(&seen, "broadcast", "problem");
    says(problem, "discovery does not work");
    says(problem, &format!("(process {})", std::process::id()));
}

#[test]
fn a_key_that_others_can_read_is_a_problem() {
    let net = net!();
    let node = net.share(&net.folder());
    let key = node.state().join("identity.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();

    let seen = examine(&net, &node.state()).expect_error(1, "other");

    let problem = finding(&seen, "state", "problem");
    says(problem, "can read this node's key");
    assert!(problem["todo"].as_str().unwrap().contains(key.to_str().unwrap()), "{problem}");
}

#[test]
fn a_state_folder_that_cannot_be_written_does_not_hide_the_network() {
    let net = net!();
    let node = net.share(&net.folder());
    let machine = net.without_privileges();
    let state = net.folder();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o500)).unwrap();

    let seen = examine(&machine, &state).expect_error(1, "other");

    says(finding(&seen, "state", "problem"), "nothing can be written there");
    says(finding(&seen, "session", "ok"), &format!("127.0.0.1:{}", node.port()));
}

#[test]
fn a_share_that_is_gone_is_a_problem() {
    let net = net!();
    let folder = net.folder().join("shared");
    std::fs::create_dir(&folder).unwrap();
    let node = net.share(&folder);
    std::fs::rename(&folder, folder.with_extension("elsewhere")).unwrap();

    let seen = examine(&net, &node.state()).expect_error(1, "other");

    says(finding(&seen, "share", "problem"), "cannot be read");
}

#[test]
fn a_node_that_hangs_is_a_problem() {
    let net = net!();
    let node = net.share(&net.folder());
    node.freeze();

    let seen = examine(&net, &node.state()).expect_error(1, "other");

    says(finding(&seen, "node", "problem"), "does not say how it is");
    node.thaw();
}

#[test]
fn a_node_on_another_port_is_not_looked_for_in_vain() {
    let net = net!();
    let other = net!();
    let node = other.share(&net.folder());

    let seen = examine(&net, &node.state());

    seen.done();
    let about = findings(&seen, "peer", "warning");
    assert!(
        about.iter().any(|finding| finding["says"].as_str().unwrap().contains(&other.port().to_string())),
        "{}",
        seen.said()
    );
}
