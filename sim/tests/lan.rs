//! `ftx-sim lan` as a user has it. Skipped, loudly, where the system does not let us make network namespaces.

use std::io::Write;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs it; `None`, after saying so, where it says that this machine has no such network.
fn lan(line: &str) -> Option<(i32, Vec<Value>)> {
    let args = line.split_whitespace();
    let output = command().args(["lan", "--json"]).args(args).output().unwrap();
    if output.status.code() == Some(77) && std::env::var_os("FTX_TESTS_NO_SKIP").is_none() {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        // Not `eprintln`: the test runner would hide it, since the test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {}", said(&output));
        return None;
    }
    let events: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(events.iter().all(|event| event["v"] == 1), "{}", said(&output));
    Some((output.status.code().unwrap_or(-1), events))
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ftx-sim"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The only one of the kind.
fn event<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let mut all = events.iter().filter(|event| event["event"] == kind);
    match (all.next(), all.next()) {
        (Some(only), None) => only,
        _ => panic!("not one '{kind}' in {events:#?}"),
    }
}

#[test]
fn two_sources_on_a_lossy_network() {
    let Some((status, events)) = lan("--hosts 3 --sources 2 --size 8MiB --loss 2 --tcp-seconds 5") else {
        return;
    };
    assert_eq!((status, &event(&events, "done")["ok"]), (0, &Value::Bool(true)), "{events:#?}");
    let fetched = &event(&events, "run")["fetches"][0];
    assert_eq!((&fetched["verified"], fetched["size"].as_u64()), (&Value::Bool(true), Some(8 << 20)));
    let sources = fetched["sources"].as_array().unwrap();
    let names: Vec<_> = sources.iter().map(|source| source["name"].as_str().unwrap()).collect();
    assert!(names == ["h1", "h2"] || names == ["h2", "h1"], "{names:?}");
    let bytes: u64 = sources.iter().map(|source| source["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, 8 << 20);
    let tcp = &event(&events, "run")["tcp"];
    if events.iter().all(|event| event["event"] != "no_curl") {
        assert!(tcp["bytes"].as_u64().unwrap() > 0 && tcp["wrong"].is_null(), "{tcp}");
    }
}

#[test]
fn a_source_dies_and_two_hosts_fetch_beside_tcp() {
    let line =
        "--sources 2 --fetchers 2 --size 6MiB --rate 20mbit --kill 1 --with-tcp --tcp-seconds 10 --seed 5";
    let Some((status, events)) = lan(line) else { return };
    assert_eq!(status, 0, "{events:#?}");
    let killed = event(&events, "killed");
    assert!(["h1", "h2"].contains(&killed["name"].as_str().unwrap()), "{killed}");
    let run = event(&events, "run");
    assert_eq!(run["fetches"].as_array().unwrap().len(), 2);
    let shares = run["together"].as_array().unwrap();
    let with_curl = events.iter().all(|event| event["event"] != "no_curl");
    assert_eq!(shares.len(), 2 + usize::from(with_curl), "{run}");
}

#[test]
fn a_wrong_plan_is_refused_before_anything_is_made() {
    let output = command().args(["lan", "--sources", "2", "--kill", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
}

#[test]
fn where_there_is_no_such_network_it_says_so_with_a_status_of_its_own() {
    // In a namespace whose user may not make further ones, it is as on a machine that forbids them.
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && echo 0 >/proc/sys/user/max_net_namespaces && \
                  exec \"$0\" lan --size 1MiB";
    let output = Command::new("unshare")
        .args(["--map-root-user", "sh", "-c", forbid, env!("CARGO_BIN_EXE_ftx-sim")])
        .output();
    let output = match output {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("max_") => output,
        // Then this machine forbids them already.
        _ => command().args(["lan", "--size", "1MiB"]).output().unwrap(),
    };
    assert_eq!(output.status.code(), Some(77), "{}", said(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty() && stderr.starts_with("ftx-sim: no network of namespaces"), "{stderr}");
}
