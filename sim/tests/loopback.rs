//! Small fleets of real nodes, and what may happen to them.

use std::process::{Command, Output};

use ftx_node::error::{Code, Error};
use ftx_node::fetch::report::SourceState;
use ftx_sim::outcome::Outcome;
use ftx_sim::run::{Event, run};
use ftx_sim::scenario::{Content, Role, Scenario};
use ftx_sim::threads;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Runs a scenario to its end; a failure shows what replays it.
#[track_caller]
fn outcome(scenario: &Scenario) -> Outcome {
    let runtimes = threads::start().unwrap();
    let outcome = runtimes.block_on(run(scenario, runtimes.data(), &mut |_| {}));
    runtimes.stop();
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}; {scenario:?}"));
    assert_eq!(outcome.problems(), Vec::<String>::new(), "{scenario:?}");
    assert_eq!(outcome.fetches.len(), scenario.nodes - scenario.sources);
    outcome
}

fn small(nodes: usize, sources: usize) -> Scenario {
    let content = Content::Random(2 * MIB + 77);
    Scenario { nodes, sources, content, kill: 0, liars: 0, slow: Vec::new(), max_upload: None, seed: 11 }
}

#[test]
fn five_nodes_and_one_of_them_fetches() {
    let outcome = outcome(&small(5, 4));
    let report = outcome.fetches[0].result.as_ref().unwrap();
    assert_eq!(report.size, 2 * MIB + 77);
    assert_eq!(report.sources.iter().map(|source| source.bytes).sum::<u64>(), report.size);
    assert_eq!(outcome.sources.len(), 4);
}

#[test]
fn twenty_nodes_of_which_five_fetch_at_once() {
    let outcome = outcome(&small(20, 15));
    let names: Vec<&str> = outcome.fetches.iter().map(|fetched| fetched.name.as_str()).collect();
    assert_eq!(names, ["node-16", "node-17", "node-18", "node-19", "node-20"]);
}

#[test]
fn the_others_make_up_for_sources_that_are_killed() {
    // Together they need about a second, and the last of them dies when half of it has passed.
    let (content, max_upload) = (Content::Random(8 * MIB), Some(2 * MIB));
    let outcome = outcome(&Scenario { kill: 2, content, max_upload, ..small(5, 4) });
    let report = outcome.fetches[0].result.as_ref().unwrap();
    let mut killed = 0;
    for fate in outcome.sources.iter().filter(|fate| matches!(fate.role, Role::Killed { .. })) {
        let at =
            fate.killed_at.unwrap_or_else(|| panic!("the fetch was over too soon: {:?}", report.elapsed));
        assert!(at < report.size, "{fate:?}");
        let source = report.sources.iter().find(|source| source.node == fate.id);
        let source = source.unwrap_or_else(|| panic!("{fate:?} took no part: {:?}", report.sources));
        assert!(matches!(source.state, SourceState::Left(_)), "{source:?}");
        killed += 1;
    }
    assert_eq!(killed, 2);
}

#[test]
fn wrong_bytes_of_a_liar_are_never_taken() {
    let outcome = outcome(&Scenario { liars: 2, content: Content::Random(8 * MIB), ..small(6, 5) });
    let liars: Vec<_> = outcome.sources.iter().filter(|it| it.role == Role::Liar).map(|it| it.id).collect();
    assert_eq!(liars.len(), 2);
    let report = outcome.fetches[0].result.as_ref().unwrap();
    let asked: Vec<_> = report.sources.iter().filter(|it| liars.contains(&it.node) && it.bad > 0).collect();
    assert!(!asked.is_empty(), "nobody asked a liar for anything: {:?}", report.sources);
    assert!(asked.iter().all(|it| it.bytes == 0 && matches!(it.state, SourceState::Dropped(_))), "{asked:?}");
}

#[test]
fn a_slow_source_does_not_hold_up_the_others() {
    let outcome =
        outcome(&Scenario { slow: vec![100_000], content: Content::Random(8 * MIB), ..small(4, 3) });
    let report = outcome.fetches[0].result.as_ref().unwrap();
    // Alone, it would have needed more than a minute for its third.
    assert!(report.elapsed.as_secs() < 20, "{:?}", report.elapsed);
}

#[test]
fn a_users_file_is_shared_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some file.txt");
    let bytes: Vec<u8> = (0..MIB + 5).map(|at| (at / 7) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let outcome = outcome(&Scenario { content: Content::File(path.clone()), liars: 1, ..small(4, 3) });
    let fetched = &outcome.fetches[0].result.as_ref().unwrap().path;
    assert_eq!(fetched.file_name().unwrap(), "some file.txt");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the user's file was changed");
}

#[test]
fn nothing_is_left_when_a_run_is_over_or_given_up() {
    let runtimes = threads::start().unwrap();
    let mut folder = None;
    let (scenario, data) = (small(3, 2), runtimes.data());
    let done = runtimes.block_on(async {
        let mut observe = |event: Event<'_>| {
            if let Event::Made(original) = event {
                folder = original.path.parent().map(ToOwned::to_owned);
            }
        };
        run(&scenario, data.clone(), &mut observe).await
    });
    assert!(done.is_ok());
    assert!(!folder.unwrap().exists());

    let (sender, started) = tokio::sync::oneshot::channel::<()>();
    let mut sender = Some(sender);
    let mut folder = None;
    runtimes.block_on(async {
        let mut observe = |event: Event<'_>| match event {
            Event::Made(original) => folder = original.path.parent().map(ToOwned::to_owned),
            Event::Started(_) => drop(sender.take()),
            _ => {}
        };
        tokio::select! {
            biased;
            _ = started => {}
            _ = run(&scenario, data, &mut observe) => {}
        }
    });
    assert!(!folder.unwrap().exists());
    runtimes.stop();
}

#[test]
fn what_cannot_succeed_is_not_begun() {
    let runtimes = threads::start().unwrap();
    let mut observe = |event: Event<'_>| panic!("{event:?}");
    let scenario = Scenario { kill: 1, liars: 1, ..small(3, 2) };
    let refused = runtimes.block_on(run(&scenario, runtimes.data(), &mut observe));
    assert!(matches!(refused, Err(Error { code: Code::Usage, .. })));
}

fn ftx_sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ftx-sim")).args(args).output().unwrap()
}

#[test]
fn the_command_tells_programs_everything() {
    let args = ["loopback", "--nodes", "4", "--sources", "3", "--size", "1MiB", "--seed", "5", "--json"];
    let output = ftx_sim(&args);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    let events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().all(|event| event["v"] == 1), "{stdout}");
    let done = events.last().unwrap();
    assert_eq!((&done["event"], &done["ok"]), (&Value::from("done"), &Value::from(true)), "{stdout}");
    assert_eq!(done["fetches"].as_array().unwrap().len(), 1);
    assert_eq!(done["fetches"][0]["size"], MIB);
    assert_eq!(done["fetches"][0]["verified"], true);
}

#[test]
fn a_soak_tells_figures_and_that_nothing_has_grown() {
    let args = ["loopback", "--soak", "0.05", "--nodes", "6", "--size", "1MiB", "--seed", "7", "--json"];
    let output = ftx_sim(&args);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    let done: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&done["event"], &done["ok"]), (&Value::from("done"), &Value::from(true)), "{stdout}");
    let number = |field: &str| done[field].as_u64().unwrap();
    assert!(number("rounds") >= 2, "{stdout}");
    // In each round one is killed, one lies, one leaves, and three fetch or are dropped.
    assert_eq!(number("killed"), number("rounds"), "{stdout}");
    assert_eq!(number("lied"), number("rounds"), "{stdout}");
    assert_eq!(number("left"), number("rounds"), "{stdout}");
    assert_eq!(number("right") + number("dropped"), 3 * number("rounds"), "{stdout}");
    assert_eq!(done["after"]["descriptors"], done["before"]["descriptors"], "{stdout}");
    assert!(done["usage"]["memory"].as_u64().unwrap() > 0, "{stdout}");
}

#[test]
fn the_command_tells_people_that_it_was_right() {
    let output = ftx_sim(&["loopback", "--nodes", "3", "--size", "1MiB"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.lines().last().unwrap().contains("verified"), "{stdout}");
    for node in ["node-1", "node-2", "node-3"] {
        assert!(stdout.contains(node), "{stdout}");
    }
}

#[test]
fn a_mistake_in_usage_is_told_as_that() {
    for args in [
        &["loopback", "--nodes", "3", "--kill", "2"][..],
        &["loopback", "--nodes", "1"],
        &["loopback", "--nodes", "0"],
        &["loopback", "--file", "/nothing/here"],
        &["loopback", "--size", "much"],
        &["loopback", "--soak", "0"],
        &["loopback", "--soak", "for ever"],
        &["loopback", "--soak", "1", "--nodes", "3"],
        &["no-such-command"],
    ] {
        let output = ftx_sim(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}
