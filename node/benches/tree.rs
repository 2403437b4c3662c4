//! How fast a folder of many small files moves on loopback, beside an rsync daemon: real processes.
//!
//! `cargo bench -p ftx-node --bench tree`. `FTX_BENCH_FILES` is how many files of 1 to 64 KiB (10,000), `FTX_BENCH_RUNS` how
//! often (5); the medians are told. Times are those of whole processes, from their start to their end, as whoever waits for
//! them sees it: for us with finding the folder on the network, encryption and the hash of every chunk; for `rsync -a` with
//! neither of those. Both copies are made in turn, into memory where there is room for it. Then again with nothing changed,
//! and ten times as many files of 100 bytes.
//!
//! `ratio` is our time by rsync's. Without rsync it is left out, and said so.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};
use support::others::Server;
use support::{Failure, Node, Stage, from_environment, is_wanted, median, same_bytes};

fn main() -> Result<(), Failure> {
    if !is_wanted("tree") {
        return Ok(());
    }
    let files = from_environment("FTX_BENCH_FILES", 10_000)?;
    let runs = from_environment("FTX_BENCH_RUNS", 5)?;
    // Half of the largest size a file, as often as it is there at once, and what the file system adds.
    let stage = Stage::empty("tree", (files * (48 << 10)).max(64 << 20), 4)?;
    let trees = [
        Tree::new(&stage, "mixed", files, 1 << 10..64 << 10)?,
        Tree::new(&stage, "tiny", 10 * files, 100..101)?,
    ];
    let bench = Bench { share: stage.share(1)?, rsync: Server::rsync(&stage)?, stage };
    let [mixed, tiny] = &trees;
    let mut lines = Vec::new();
    let (first, line) = bench.case(mixed, runs, false)?;
    lines.push(line);
    lines.push(bench.case(mixed, runs, true)?.1);
    let (many, line) = bench.case(tiny, runs, false)?;
    lines.push(format!("{line} times_the_mixed={:.2}", many / first));
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// A folder to be moved.
struct Tree {
    name: &'static str,
    files: u64,
    bytes: u64,
}

impl Tree {
    /// In folders of 100 files each.
    fn new(
        stage: &Stage,
        name: &'static str,
        files: u64,
        sizes: std::ops::Range<usize>,
    ) -> Result<Self, Failure> {
        let mut random = ChaCha8Rng::seed_from_u64(files);
        let (folder, mut bytes) = (stage.folder.path().join("share").join(name), 0);
        let mut buffer = vec![0; sizes.end];
        for number in 0..files {
            let place = folder.join(format!("{:04}", number / 100));
            fs::create_dir_all(&place)?;
            let content = &mut buffer[..random.random_range(sizes.clone())];
            random.fill_bytes(content);
            bytes += content.len() as u64;
            fs::write(place.join(format!("{number:06}.bin")), content)?;
        }
        Ok(Tree { name, files, bytes })
    }
}

struct Bench {
    share: Node,
    rsync: Option<Server>,
    stage: Stage,
}

impl Bench {
    /// Both kinds of copies in turn, of a folder that is not there yet or (`again`) is. Our time, and the line that sums up.
    fn case(&self, tree: &Tree, runs: u64, again: bool) -> Result<(f64, String), Failure> {
        let place = self.stage.folder.path().join("fetched");
        let (ours, theirs) = (place.join("ours"), place.join("theirs"));
        let (mut get_times, mut rsync_times, mut peak) = (Vec::new(), Vec::new(), 0);
        for run in 0..=runs {
            // The first one waits for the hashes, fills the caches, and is looked at closely; it is not counted.
            let (seconds, own_peak) = self.get(tree, &ours)?;
            peak = peak.max(own_peak);
            let rsync = self.rsync.as_ref().map(|rsync| rsync_copy(rsync, tree.name, &theirs)).transpose()?;
            if run == 0 {
                compare(&self.stage.folder.path().join("share").join(tree.name), &ours, tree.files)?;
            } else {
                get_times.push(seconds);
                rsync_times.extend(rsync);
                eprintln!(
                    "tree: {} run {run} of {runs}: {seconds:.2} s, rsync {:.2} s",
                    tree.name,
                    rsync.unwrap_or(f64::NAN)
                );
            }
            if !again || run == runs {
                fs::remove_dir_all(&ours)?;
                rsync.map(|_| fs::remove_dir_all(&theirs)).transpose()?;
            }
        }
        let seconds = median(get_times.into_iter());
        let beside = match &self.rsync {
            Some(_) => {
                let rsync = median(rsync_times.into_iter());
                format!("rsync_s={rsync:.2} ratio={:.2}", seconds / rsync)
            }
            None => "rsync is not installed".to_owned(),
        };
        let what = if again { "unchanged" } else { "new" };
        let peak = peak.max(support::peak_of(self.share.child.id()).unwrap_or(0)) >> 20;
        let line = format!(
            "tree {} files={} MiB={} {what} s={seconds:.2} {beside} peak_rss_MiB={peak}",
            tree.name,
            tree.files,
            tree.bytes >> 20
        );
        Ok((seconds, line))
    }

    /// Seconds from start to end, and most memory.
    fn get(&self, tree: &Tree, target: &Path) -> Result<(f64, u64), Failure> {
        let begun = Instant::now();
        let mut get = Node::start(self.stage.node("fetcher").args(["get", tree.name, "-o"]).arg(target))?;
        let (_, peak) = get.wait_for("done")?;
        if !get.child.wait()?.success() {
            return Err("the fetch failed".into());
        }
        Ok((begun.elapsed().as_secs_f64(), peak))
    }
}

/// What `rsync -a` takes for a folder, in seconds from start to end.
fn rsync_copy(server: &Server, name: &str, target: &Path) -> Result<f64, Failure> {
    let begun = Instant::now();
    let from = format!("rsync://127.0.0.1:{}/share/{name}/", server.port);
    let done = Command::new("rsync").arg("-a").arg(from).arg(target).stdin(Stdio::null()).status()?;
    if !done.success() {
        return Err("rsync failed".into());
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Fails unless both folders have the same files.
fn compare(one: &Path, other: &Path, files: u64) -> Result<(), Failure> {
    let (mut seen, mut folders) = (0, vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(one.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if same_bytes(&one.join(&path), &other.join(&path))? {
                seen += 1;
            } else {
                return Err(format!("{} is not what was shared", path.display()).into());
            }
        }
    }
    if seen == files { Ok(()) } else { Err(format!("{seen} of {files} files were compared").into()) }
}
