//! Any actor of a node may be killed, and whatever does its work may panic, at any moment: what is under way ends right or with
//! an error, and nothing is left over.
//!
//! From a seed, actors of two nodes that share and of one that fetches are killed while a file goes from the ones to the
//! other, and their tasks and threads panic, round after round; now and then the fetch is dropped. A node that has given up is started again, as whoever runs one
//! does. What the process takes is counted, so this runs in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ftx_proto::engine::pull::choice::LaneMode;
use ractor::ActorCell;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::config::{Limits, Services};
use crate::faults;
use crate::fetch::report::Report;
use crate::fetch::resolve::Wanted;
use crate::runtimes;
use crate::store::Target;

#[test]
fn whatever_is_killed_transfers_end_and_nothing_is_left() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "node::supervision::round_after_round", "--ignored", "--nocapture"])
        .env("FTX_SUPERVISION_ROUNDS", std::env::var("FTX_SUPERVISION_ROUNDS").unwrap_or("15".to_owned()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
    println!("{said}");
}

#[test]
#[ignore = "takes minutes: a thousand rounds, or FTX_SUPERVISION_ROUNDS, from FTX_SUPERVISION_SEED"]
fn round_after_round() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let (rounds, seed) = (number("FTX_SUPERVISION_ROUNDS", 1000), number("FTX_SUPERVISION_SEED", 1));
    let runtime = Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtimes::start_carriers();
    let before = Usage::now(&runtime);
    let mut story = Story::new(dir.path(), seed);
    let mut warm = before;
    for round in 0..rounds {
        if round == rounds / 5 + 3 {
            warm = Usage::now(&runtime);
        }
        runtime.block_on(story.round());
    }
    let last = Usage::now(&runtime);
    runtime.block_on(async { story.nodes.iter_mut().for_each(|node| *node = None) });
    let after = Usage::settled(&runtime, &before);
    let Story { right, failed, dropped, restarted, kills, .. } = story;
    println!(
        "seed {seed}: {rounds} rounds, {kills} kills, {} panics; fetches: {right} right, {failed} failed, {dropped} dropped; \
         {restarted} nodes gave up\nbefore {before:?}\nwarm {warm:?}\nlast {last:?}\nafter {after:?}",
        faults::panics()
    );
    assert!(right > 0, "nothing was ever fetched");
    assert!(faults::panics() > 0, "nothing ever panicked");
    assert!(after.descriptors <= before.descriptors, "descriptors are left");
    assert!(after.threads <= before.threads, "threads are left");
    assert!(after.tasks <= before.tasks, "tasks are left");
    assert!(last.memory < warm.memory + MEMORY_GROWTH_MAX, "memory grows");
}

/// What the process takes.
#[derive(Debug, Clone, Copy)]
struct Usage {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    memory: u64,
}

impl Usage {
    fn now(runtime: &Runtime) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let number = |field: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            rest.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        Usage {
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: number("Threads:") as usize,
            tasks: runtime.metrics().num_alive_tasks(),
            memory: number("RssAnon:") * 1024,
        }
    }

    /// Once it is what it was before; or what it is after a while.
    fn settled(runtime: &Runtime, before: &Usage) -> Self {
        let begun = std::time::Instant::now();
        loop {
            let now = Usage::now(runtime);
            let is_settled = now.descriptors <= before.descriptors
                && now.threads <= before.threads
                && now.tasks <= before.tasks;
            if is_settled || begun.elapsed() > SETTLED_MAX {
                return now;
            }
            // Threads for the disk go when they had nothing to do for ten seconds.
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
        }
    }
}

/// The nodes, and what has become of the fetches.
struct Story {
    dir: PathBuf,
    port: u16,
    random: ChaCha8Rng,
    /// Two that share, and one that fetches.
    nodes: [Option<Node>; 3],
    bytes: Vec<u8>,
    right: u32,
    failed: u32,
    dropped: u32,
    restarted: u32,
    kills: u32,
}

impl Story {
    fn new(dir: &Path, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let bytes: Vec<u8> = (0..BYTES).map(|_| random.random()).collect();
        for giver in 0..2 {
            let share = dir.join(giver.to_string()).join("share");
            std::fs::create_dir_all(&share).unwrap();
            std::fs::write(share.join("file"), &bytes).unwrap();
        }
        let port = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Story {
            dir: dir.to_owned(),
            port,
            random,
            nodes: [None, None, None],
            bytes,
            right: 0,
            failed: 0,
            dropped: 0,
            restarted: 0,
            kills: 0,
        }
    }

    async fn round(&mut self) {
        self.start_what_is_not_there().await;
        let target = self.dir.join("target");
        let _ = std::fs::remove_file(&target);
        let plan: Vec<(Duration, Harm)> = (0..self.random.random_range(1..=3))
            .map(|_| {
                let pause = Duration::from_millis(self.random.random_range(0..PAUSE_MAX));
                let harm = match self.random.random_range(0..5) {
                    node @ 0..3 => Harm::Kill(node),
                    _ => Harm::Panic(self.random.random_range(0..POINTS_MAX)),
                };
                (pause, harm)
            })
            .collect();
        let lane = if self.random.random_bool(0.3) { LaneMode::Datagram } else { LaneMode::Auto };
        let drops = self.random.random_bool(0.1);
        let chosen: u64 = self.random.random();
        let [one, two, Some(taker)] = &self.nodes else { panic!("all were started") };
        let nodes = [one.as_ref(), two.as_ref(), Some(taker)];
        let killing = async {
            let mut random = ChaCha8Rng::seed_from_u64(chosen);
            for (pause, harm) in plan {
                tokio::time::sleep(pause).await;
                let node = match harm {
                    Harm::Kill(node) => nodes[node],
                    Harm::Panic(points) => {
                        faults::panic_after(points);
                        continue;
                    }
                };
                let Some(node) = node else { continue };
                let mut actors = Vec::new();
                below(&node.root.get_cell(), &mut actors);
                if !actors.is_empty() {
                    actors[random.random_range(0..actors.len())].kill();
                    self.kills += 1;
                }
            }
            // What is dropped ends here, in the middle of whatever it is in.
            if !drops {
                std::future::pending::<()>().await;
            }
        };
        let fetched = tokio::select! {
            fetched = timeout(FETCH_MAX, fetch(taker, &target, lane)) => Some(fetched.expect("a fetch ends")),
            () = killing => None,
        };
        match fetched {
            None => self.dropped += 1,
            Some(Ok(_)) => {
                assert!(std::fs::read(&target).unwrap() == self.bytes, "other bytes");
                self.right += 1;
            }
            Some(Err(error)) => {
                assert!(!error.message.is_empty());
                println!("a fetch failed: {error}");
                self.failed += 1;
            }
        }
    }

    async fn start_what_is_not_there(&mut self) {
        for number in 0..self.nodes.len() {
            let has_given_up = self.nodes[number].as_ref().is_some_and(|node| node.ended.is_finished());
            self.restarted += u32::from(has_given_up);
            if self.nodes[number].is_some() && !has_given_up {
                continue;
            }
            self.nodes[number] = None;
            let dir = self.dir.join(number.to_string());
            let config = NodeConfig {
                shares: if number < 2 { vec![dir.join("share")] } else { Vec::new() },
                bind: Some(Ipv4Addr::LOCALHOST.into()),
                port: self.port,
                sessions: Sessions::Anywhere,
                peers: Vec::new(),
                state: dir.join("state"),
                name: format!("node-{number}"),
                max_upload: Some(RATE),
                inbox: None,
                access: crate::config::Access::default(),
                services: Services::default(),
                limits: Limits::default(),
            };
            self.nodes[number] = Some(Node::start(config, Handle::current()).await.unwrap());
        }
    }
}

/// What happens to one of the nodes.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// One of this node's actors is killed.
    Kill(usize),
    /// Something panics in one of the nodes, after so much else was done in them.
    Panic(u32),
}

/// All actors below this one.
fn below(actor: &ActorCell, found: &mut Vec<ActorCell>) {
    for child in actor.get_children() {
        below(&child, found);
        found.push(child);
    }
}

async fn fetch(node: &Node, target: &Path, lane: LaneMode) -> Result<Report, Error> {
    let wanted = Wanted::parse("file").unwrap();
    let resolved = node.resolve(&wanted, None, PATIENCE, |_| {}).await?;
    let target = Target::new(target, &resolved.name)?;
    let how = FetchOptions { force: true, patience: PATIENCE, only: None, lane };
    node.fetch(FetchRequest { resolved, target, how }).await?.done().await
}

/// What is fetched, and how fast each node gives it: a round takes a third of a second.
const BYTES: usize = 1 << 20;
const RATE: u64 = 2 << 20;

/// Points of [`faults`] until a panic, at most: in a round some hundreds are passed.
const POINTS_MAX: u32 = 100;

/// Milliseconds until the next harm is done, at most.
const PAUSE_MAX: u64 = 150;

/// How long a fetch looks for somebody, and waits when nobody is left.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a fetch may take, however it ends.
const FETCH_MAX: Duration = Duration::from_secs(60);

/// How long everything may take to be gone.
const SETTLED_MAX: Duration = Duration::from_secs(30);

/// What the allocator may keep.
const MEMORY_GROWTH_MAX: u64 = 32 << 20;
