//! How much longer eight nodes need that want one file at once than one alone, from a source that sends 50 MB/s: real
//! processes on loopback.
//!
//! `cargo bench -p ftx-node --bench swarm`. `FTX_BENCH_MIB` is the size (256), `FTX_BENCH_NODES` how many fetch (8),
//! `FTX_BENCH_RUNS` how often (3); the medians are told. Times are from the first process that is started to the last
//! that is done, finding the file included. `source_sent` is what the fetches say to have from the source, as a multiple
//! of the file; `ftx-sim swarm` also counts what the source has sent and nobody needed.

mod support;

use std::time::Instant;

use ftx_node::cli::text::parse_bytes;
use support::{Failure, NAME, Node, Stage, from_environment, is_wanted, median, same_bytes};

fn main() -> Result<(), Failure> {
    if !is_wanted("swarm") {
        return Ok(());
    }
    let size = from_environment("FTX_BENCH_MIB", 256)? << 20;
    let nodes = from_environment("FTX_BENCH_NODES", 8)?;
    let runs = from_environment("FTX_BENCH_RUNS", 3)?;
    let stage = Stage::new("swarm", size, nodes + 1)?;
    let mut command = stage.node("source");
    command.args(["--quiet", "--max-upload", RATE, "--share"]).arg(stage.folder.path().join("share"));
    let mut source = Node::start(&mut command)?;
    source.wait_for("ready")?;
    stage.wait_until_hashed(1)?;
    let (mut ratios, mut sent) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let (alone, _) = fetch_at_once(&stage, 1, run == 1)?;
        let (together, from_source) = fetch_at_once(&stage, nodes, run == 1)?;
        eprintln!(
            "swarm: run {run} of {runs}: alone {alone:.2} s, all {together:.2} s, source {from_source:.2}"
        );
        ratios.push(together / alone);
        sent.push(from_source);
    }
    let rate = parse_bytes(RATE)? as f64;
    println!(
        "swarm nodes={nodes} ratio={:.2} source_sent={:.2} ideal_s={:.2}",
        median(ratios.into_iter()),
        median(sent.into_iter()),
        size as f64 / rate
    );
    Ok(())
}

/// Seconds until the last of them is done, and how often the source gave the file.
fn fetch_at_once(stage: &Stage, nodes: u64, compare: bool) -> Result<(f64, f64), Failure> {
    let target = |number: u64| stage.folder.path().join("fetched").join(format!("{number}"));
    let begun = Instant::now();
    let mut gets = Vec::new();
    for number in 1..=nodes {
        let mut command = stage.node(&format!("fetcher-{number}"));
        gets.push(Node::start(command.args(["get", NAME, "-o"]).arg(target(number)))?);
    }
    let waiting: Vec<_> = gets.into_iter().map(|get| std::thread::spawn(move || wait(get))).collect();
    let mut bytes = 0;
    for done in waiting {
        bytes += done.join().map_err(|_| "waiting for a fetch failed")??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    for number in 1..=nodes {
        if compare && !same_bytes(&stage.file, &target(number))? {
            return Err("a file that was fetched is not the one that was shared".into());
        }
        std::fs::remove_file(target(number))?;
    }
    Ok((seconds, bytes as f64 / stage.size as f64))
}

/// Waits for the end of a fetch, and says how many bytes it has from the source.
fn wait(mut get: Node) -> Result<u64, Failure> {
    let (done, _) = get.wait_for("done")?;
    let sources = done["sources"].as_array().ok_or("`done` does not tell the sources")?;
    let of_source = sources.iter().filter(|source| source["name"] == "source");
    Ok(of_source.filter_map(|source| source["bytes"].as_u64()).sum())
}

/// What the source sends to all together.
const RATE: &str = "50MB/s";
