//! How near a fetch from four sources of different speeds comes to what they can give together: real processes on
//! loopback, limited by `--max-upload` to 10, 50, 100 and 200 MB/s; the fetching node is in this process.
//!
//! `cargo bench -p ftx-node --bench schedule`. `FTX_BENCH_MIB` is the size (1024), `FTX_BENCH_RUNS` how often (5); the
//! medians are told. `of_sum` is the rate of the whole fetch as a share of the sum of the limits; `tail` the share of its
//! time that the last hundredth took; `small_ms` how long 4 MiB take, from when it is known who has them.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ftx_node::Node;
use ftx_node::config::{Access, Limits, NodeConfig, Services, Sessions};
use ftx_node::fetch::resolve::Wanted;
use ftx_node::node::{FetchOptions, FetchRequest};
use ftx_node::runtimes::Runtimes;
use ftx_node::store::Target;
use ftx_proto::engine::pull::choice::LaneMode;
use support::{Failure, NAME, Stage, from_environment, is_wanted, median};

fn main() -> Result<(), Failure> {
    if !is_wanted("schedule") {
        return Ok(());
    }
    let size = from_environment("FTX_BENCH_MIB", 1024)? << 20;
    let runs = from_environment("FTX_BENCH_RUNS", 5)?;
    let stage = Stage::new("schedule", size, 2)?;
    let share = stage.folder.path().join("share");
    let small: Vec<u8> = (0..SMALL_BYTES).map(|at| (at * 31 / 7) as u8).collect();
    std::fs::write(share.join(SMALL), small)?;
    let mut sources = Vec::new();
    for rate in RATES {
        let mut command = stage.node(&format!("source-{rate}"));
        command.args(["--quiet", "--max-upload", &format!("{rate}MB/s"), "--share"]).arg(&share);
        let mut source = support::Node::start(&mut command)?;
        source.wait_for("ready")?;
        sources.push(source);
    }
    stage.wait_until_hashed(RATES.len())?;
    let runtimes = Runtimes::start()?;
    let measured = runtimes.block_on(measure(&stage, runs, &runtimes));
    runtimes.stop();
    println!("{}", measured?);
    Ok(())
}

async fn measure(stage: &Stage, runs: u64, runtimes: &Runtimes) -> Result<String, Failure> {
    let config = NodeConfig {
        shares: Vec::new(),
        bind: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: stage.port,
        sessions: Sessions::Anywhere,
        peers: Vec::new(),
        state: stage.folder.path().join("fetcher"),
        name: "fetcher".to_owned(),
        max_upload: None,
        inbox: None,
        services: Services::default(),
        limits: Limits::default(),
        access: Access::default(),
    };
    let node = Node::start(config, runtimes.data()).await?;
    let sum = RATES.iter().sum::<u64>() as f64 * 1e6;
    let (mut shares, mut tails, mut smalls) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        let large = fetch(stage, &node, NAME).await?;
        let small = fetch(stage, &node, SMALL).await?;
        shares.push(stage.size as f64 / large.seconds / sum);
        tails.push(large.tail / large.seconds);
        smalls.push(small.seconds * 1e3);
        eprintln!(
            "schedule: run {run} of {runs}: {:.3} of the sum, tail {:.3}, {:.1} ms for the small one",
            stage.size as f64 / large.seconds / sum,
            large.tail / large.seconds,
            small.seconds * 1e3
        );
    }
    node.stop().await;
    Ok(format!(
        "schedule of_sum={:.3} tail={:.3} small_ms={:.1}",
        median(shares.into_iter()),
        median(tails.into_iter()),
        median(smalls.into_iter())
    ))
}

/// How long a fetch took, and its last hundredth.
struct Took {
    seconds: f64,
    tail: f64,
}

async fn fetch(stage: &Stage, node: &Node, name: &str) -> Result<Took, Failure> {
    let wanted = Wanted::parse(name)?;
    let resolved = node.resolve(&wanted, None, PATIENCE, |_| {}).await?;
    let begun = Instant::now();
    let target = Target::new(&stage.folder.path().join("fetched").join(name), &resolved.name)?;
    let how = FetchOptions { force: false, patience: PATIENCE, only: None, lane: LaneMode::Auto };
    let mut fetch = node.fetch(FetchRequest { resolved, target, how }).await?;
    let mut pieces = fetch.pieces.clone();
    let total = pieces.borrow().geometry().piece_count();
    let mut nearly = None;
    let report = loop {
        tokio::select! {
            done = fetch.done() => break done?,
            Ok(()) = pieces.changed() => {
                let count = pieces.borrow_and_update().count();
                if nearly.is_none() && u64::from(count) * 100 >= u64::from(total) * 99 {
                    nearly = Some(begun.elapsed());
                }
            }
        }
    };
    let took = begun.elapsed();
    std::fs::remove_file(report.path)?;
    let tail = took.saturating_sub(nearly.unwrap_or(took));
    Ok(Took { seconds: took.as_secs_f64(), tail: tail.as_secs_f64() })
}

/// What each source sends at most, in megabytes a second.
const RATES: [u64; 4] = [10, 50, 100, 200];

const SMALL: &str = "small.bin";
const SMALL_BYTES: usize = 4 << 20;

const PATIENCE: Duration = Duration::from_secs(20);
