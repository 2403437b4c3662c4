//! How fairly one node serves many at once, and what that costs it: real processes on loopback.
//!
//! `cargo bench -p ftx-node --bench crowd`. `FTX_BENCH_PEERS` is how many fetch (200), `FTX_BENCH_MIB` the size of the file
//! (128), `FTX_BENCH_MBS` what the source may send in a second (30), low enough that the cores have time for all of the
//! processes, `FTX_BENCH_SECONDS` how long it is watched (10).
//!
//! The peers do not hear of each other, so all they get is from the source. What it has given each of them is read twice, the
//! first time when all have been given something. `least` and `most` are what a peer got between the two; `rss_MiB` is the most
//! memory that the source had.

mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Failure, NAME, Node, Stage, from_environment, is_wanted, peak_of};

fn main() -> Result<(), Failure> {
    if !is_wanted("crowd") {
        return Ok(());
    }
    let count = from_environment("FTX_BENCH_PEERS", 200)?;
    let size = from_environment("FTX_BENCH_MIB", 128)? << 20;
    let rate = from_environment("FTX_BENCH_MBS", 30)?;
    let watched = Duration::from_secs(from_environment("FTX_BENCH_SECONDS", 10)?);
    // Nothing is fetched to its end.
    let stage = Stage::new("crowd", size, 8)?;
    let mut command = stage.node("source");
    command.args(["--max-upload", &format!("{rate}MB/s"), "--share"]).arg(stage.folder.path().join("share"));
    let mut source = Node::start(&mut command)?;
    source.wait_for("ready")?;
    stage.wait_until_hashed(1)?;
    let addr = format!("127.0.0.1:{}", stage.port);
    let mut peers = Peers::default();
    for number in 0..count {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut peer = stage.node_at(&format!("peer-{number}"), port);
        peer.args(["get", NAME, "--peer", &addr, "-o"])
            .arg(stage.folder.path().join("fetched").join(format!("{number}")));
        peers.0.push(peer.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    let begun = Instant::now();
    let before = loop {
        let given = given_by(&mut stage.node("source"))?;
        if given.len() as u64 == count && given.values().all(|bytes| *bytes > 0) {
            break given;
        }
        if begun.elapsed() > BEGINNING_MAX {
            return Err(format!(
                "after {} s only {} peers are served",
                begun.elapsed().as_secs(),
                given.len()
            )
            .into());
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    let all_after = begun.elapsed().as_secs_f64();
    std::thread::sleep(watched);
    let after = given_by(&mut stage.node("source"))?;
    let peak = peak_of(source.child.id()).unwrap_or(0);
    let got = |(peer, before): (&String, &u64)| after.get(peer).map(|after| after.saturating_sub(*before));
    let got: Vec<u64> = before.iter().filter_map(got).collect();
    let (least, most) = (got.iter().min().copied().unwrap_or(0), got.iter().max().copied().unwrap_or(0));
    println!(
        "crowd peers={} MB/s={rate} all_served_after_s={all_after:.1} least_MiB={:.2} most_MiB={:.2} ratio={:.2} rss_MiB={}",
        got.len(),
        least as f64 / f64::from(1 << 20),
        most as f64 / f64::from(1 << 20),
        most as f64 / least.max(1) as f64,
        peak >> 20
    );
    Ok(())
}

/// Processes that fetch. Dropped, they are killed.
#[derive(Default)]
struct Peers(Vec<Child>);

impl Drop for Peers {
    fn drop(&mut self) {
        // Some may have ended already.
        self.0.iter_mut().for_each(|peer| drop(peer.kill()));
        self.0.iter_mut().for_each(|peer| drop(peer.wait()));
    }
}

/// Bytes of chunks that the node has given each of its peers.
fn given_by(node: &mut Command) -> Result<BTreeMap<String, u64>, Failure> {
    let output = node.arg("status").output()?;
    let status: Value =
        serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap_or(&[]))?;
    let sessions = status["sessions"].as_array().ok_or("`status` tells no sessions")?;
    let given = |session: &Value| {
        let bytes = session["stream_bytes"].as_u64()? + session["datagram_bytes"].as_u64()?;
        Some((session["node"].as_str()?.to_owned(), bytes))
    };
    Ok(sessions.iter().filter_map(given).collect())
}

/// How long all peers together may take to be given something.
const BEGINNING_MAX: Duration = Duration::from_secs(120);

const LOOK_INTERVAL: Duration = Duration::from_millis(200);
