//! Nodes that fetch the same at once from a source that cannot send it to each of them.

use std::process::{Command, Output};

use ftx_sim::swarm::Swarm;
use ftx_sim::threads;
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn ftx_sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ftx-sim")).args(args).output().unwrap()
}

#[test]
fn who_fetches_serves_the_others() {
    // At this rate the source would need 6 s for all four, and neither the machine nor the build is what takes time.
    let swarm = Swarm { nodes: 4, source_rate: 8 * MIB, size: 12 * MIB, seed: 3 };
    let runtimes = threads::start().unwrap();
    let measured = runtimes.block_on(swarm.measure(runtimes.data(), &mut |_, _| {}));
    runtimes.stop();
    let measured = measured.unwrap();
    assert_eq!(measured.problems(), Vec::<String>::new());
    let (ratio, sent) = (measured.ratio().unwrap(), measured.source_sent());
    assert!(sent >= 1.0, "somebody has to send it: {sent}");
    assert!(sent < 2.5, "the source sent it {sent} times to four");
    assert!(ratio < 2.5, "four took {ratio} times as long as one");
    for fetched in &measured.together.fetches {
        let source = measured.together.sources[0].id;
        let report = fetched.result.as_ref().unwrap();
        let others: u64 = report.sources.iter().filter(|it| it.node != source).map(|it| it.bytes).sum();
        assert!(others > 0, "{} got nothing from the others: {:?}", fetched.name, report.sources);
    }
}

#[test]
fn the_command_tells_the_ratio() {
    let args =
        ["swarm", "--nodes", "2", "--source-rate", "20MB/s", "--size", "4MiB", "--json", "--seed", "2"];
    let output = ftx_sim(&args);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    let done: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&done["event"], &done["ok"]), (&Value::from("done"), &Value::from(true)), "{stdout}");
    assert_eq!(done["fetches"].as_array().unwrap().len(), 2);
    let (ratio, seconds) = (done["ratio"].as_f64().unwrap(), done["seconds"].as_f64().unwrap());
    assert!((ratio - seconds / done["seconds_alone"].as_f64().unwrap()).abs() < 1e-6, "{stdout}");
    assert!(done["source_bytes_sent"].as_u64().unwrap() >= 4 * MIB, "{stdout}");

    let output = ftx_sim(&["swarm", "--nodes", "2", "--source-rate", "20MB/s", "--size", "2MiB"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    for told in ["node-2", "node-3", "from the source", "ratio", "times the file"] {
        assert!(stdout.contains(told), "{stdout}");
    }
}

#[test]
fn what_cannot_be_measured_is_a_mistake_in_usage() {
    for args in [["--nodes", "0"], ["--nodes", "1000"], ["--size", "0"], ["--source-rate", "0"]] {
        let output = ftx_sim(&[&["swarm"][..], &args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
