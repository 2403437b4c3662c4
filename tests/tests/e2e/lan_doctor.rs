//! What is wrong with a network, as `doctor` finds it. Skipped, loudly, where the system does not let a test make one.

use std::time::Instant;

use ftx_sim::lan::Cable;
use ftx_tests::process::DEADLINE;
use ftx_tests::share::put;
use ftx_tests::{Finished, Lan, Machine, Share, binary};
use serde_json::Value;

const ONLY_IPV4: Cable = Cable { ipv6: false, ..Cable::PLAIN };

fn share(host: &Machine) -> Share {
    let folder = host.folder();
    put(&folder, "file", b"x");
    host.share(&folder)
}

fn examine(host: &Machine, flags: &[&str]) -> Finished {
    host.node(["doctor", "--json", "--timeout", "2"]).args(flags).run()
}

/// What is not in order.
fn complaints(seen: &Finished) -> Vec<(&str, &str, &Value)> {
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let findings =
        seen.events.iter().filter(|event| event["event"] == "finding" && text(&event["level"]) != "ok");
    findings
        .map(|event| (event["check"].as_str().unwrap(), event["level"].as_str().unwrap(), event))
        .collect()
}

#[track_caller]
fn only<'a>(seen: &'a Finished, check: &str, level: &str) -> &'a Value {
    match complaints(seen)[..] {
        [(found, bad, event)] if (found, bad) == (check, level) => event,
        _ => panic!("not one {level} of {check} and nothing else\n{}", seen.said()),
    }
}

#[test]
fn a_sound_network_is_told_as_one() {
    let Some(lan) = Lan::red(binary!(), 2, Cable::PLAIN) else { return };
    let _share = share(lan.host(1));
    let seen = examine(lan.host(2), &[]);
    seen.done();
    assert_eq!(complaints(&seen), [], "{}", seen.said());
}

#[test]
fn a_firewall_that_drops_tcp_and_lets_udp_through_is_told_as_that() {
    let Some(lan) = Lan::red(binary!(), 2, ONLY_IPV4) else { return };
    let share = share(lan.host(1));
    lan.network().drop_tcp(1).unwrap();

    let seen = examine(lan.host(2), &[]).expect_error(1, "other");

    let problem = only(&seen, "session", "problem");
    let said = problem["says"].as_str().unwrap();
    assert!(said.contains("a firewall passes UDP and drops TCP"), "{problem}");
    assert!(said.contains(&format!("10.77.0.1:{}", share.port())), "{problem}");
    assert!(problem["todo"].as_str().unwrap().contains(&share.port().to_string()), "{problem}");
}

#[test]
fn a_machine_whose_firewall_drops_broadcasts_is_told_so() {
    let Some(lan) = Lan::red(binary!(), 2, ONLY_IPV4) else { return };
    let _share = share(lan.host(1));
    lan.network().drop_broadcasts(2).unwrap();

    let seen = examine(lan.host(2), &[]).expect_error(1, "other");

    let problem = complaints(&seen).into_iter().find(|(check, _, event)| {
        *check == "broadcast" && event["about"].as_str().unwrap().contains("10.77.0.2")
    });
    let (_, level, problem) = problem.unwrap_or_else(|| panic!("{}", seen.said()));
    assert_eq!(level, "problem");
    assert!(problem["says"].as_str().unwrap().contains("does not come back"), "{problem}");
    // It can still ask others.
    assert!(
        seen.events.iter().any(|event| event["check"] == "session" && event["level"] == "ok"),
        "{}",
        seen.said()
    );
}

#[test]
fn whoever_hears_no_broadcast_and_answers_directly_is_told_apart() {
    let Some(lan) = Lan::red(binary!(), 2, ONLY_IPV4) else { return };
    let _share = share(lan.host(1));
    lan.network().drop_broadcasts(1).unwrap();

    // A node that has just come up says so, and whoever hears that asks it directly.
    let deadline = Instant::now() + DEADLINE;
    let seen = loop {
        let seen = examine(lan.host(2), &["--peer", "10.77.0.1"]);
        seen.done();
        if !complaints(&seen).is_empty() {
            break seen;
        }
        assert!(Instant::now() < deadline, "{}", seen.said());
    };

    let warning = only(&seen, "peer", "warning");
    assert!(warning["says"].as_str().unwrap().contains("answers when it is asked directly"), "{warning}");
}

#[test]
fn a_peer_that_is_not_there_is_told_so() {
    let Some(lan) = Lan::red(binary!(), 2, ONLY_IPV4) else { return };
    let seen = examine(lan.host(2), &["--peer", "10.77.0.1"]).expect_error(1, "other");
    let silent = complaints(&seen).into_iter().find(|(_, level, _)| *level == "problem").unwrap().2;
    assert!(silent["says"].as_str().unwrap().contains("neither by UDP nor by TCP"), "{silent}");
}

#[test]
fn an_identity_on_two_machines_is_a_problem() {
    let Some(lan) = Lan::red(binary!(), 3, ONLY_IPV4) else { return };
    let first = share(lan.host(1));
    let (copied, folder) = (lan.host(2).folder(), lan.host(2).folder());
    std::fs::copy(first.state().join("identity.pem"), copied.join("identity.pem")).unwrap();

    // Before it is used there, where it was copied to.
    let seen = lan.host(2).node(["doctor", "--json", "--timeout", "2"]).with_state(&copied).run();
    let seen = seen.expect_error(1, "other");
    assert!(
        only(&seen, "identity", "problem")["says"].as_str().unwrap().contains("10.77.0.1"),
        "{}",
        seen.said()
    );

    // And then by anybody.
    let _second = lan.host(2).share_again(&folder, &copied);
    let seen = examine(lan.host(3), &[]).expect_error(1, "other");
    let problem = only(&seen, "identity", "problem");
    let all = format!("{problem}");
    assert!(all.contains("10.77.0.1") && all.contains("10.77.0.2"), "{problem}");
}

#[test]
fn a_machine_without_a_network_is_told_so() {
    let Some(lan) = Lan::red(binary!(), 1, ONLY_IPV4) else { return };
    lan.network().unplug(1, "red").unwrap();
    let seen = examine(lan.host(1), &[]).expect_error(1, "other");
    let problem = complaints(&seen).into_iter().find(|(check, ..)| *check == "interface").unwrap();
    assert!(problem.2["says"].as_str().unwrap().contains("no interface that is up"), "{}", seen.said());
}
