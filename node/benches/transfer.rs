//! How fast one file moves on loopback: real processes, from one source and from four, beside a plain copy.
//!
//! `cargo bench -p ftx-node --bench transfer`. `FTX_BENCH_MIB` is the size (1024), `FTX_BENCH_RUNS` how often (5); the
//! medians are told. The plain copy is what people know: one TCP connection, sendfile on one side, 256 KiB reads and
//! writes on the other, no encryption, no hashes. Both copies are made in turn, into memory where there is room for it;
//! on a disk, the node also waits until the file is safe there, which the plain copy does not.
//!
//! `MB/s` is the size by the `seconds` that the fetch itself tells in `done`. `cpu_s_per_GiB` is user and system time of
//! the fetching and all sharing processes while it ran; `peak_rss_MiB` is the largest process's.

mod support;

use support::{Failure, Stage, from_environment, is_wanted, median};

fn main() -> Result<(), Failure> {
    if !is_wanted("transfer") {
        return Ok(());
    }
    let size = from_environment("FTX_BENCH_MIB", 1024)? << 20;
    let runs = from_environment("FTX_BENCH_RUNS", 5)?;
    let bench = Bench { stage: Stage::new("transfer", size, 2)? };
    let mut lines = Vec::new();
    for sources in [1, 4] {
        lines.push(bench.case(sources, runs)?);
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// Where it happens.
struct Bench {
    stage: Stage,
}

impl Bench {
    /// Starts the sources, makes both kinds of copies in turn, and gives the line that sums it up.
    fn case(&self, sources: usize, runs: u64) -> Result<String, Failure> {
        let shares = (1..=sources).map(|number| self.stage.share(number)).collect::<Result<Vec<_>, _>>()?;
        self.stage.wait_until_hashed(sources)?;
        let (mut transfers, mut plain) = (Vec::new(), Vec::new());
        for run in 1..=runs {
            transfers.push(self.stage.get(&shares, "auto", run == 1)?);
            plain.push(self.stage.copy_plainly()?.as_secs_f64());
            if let (Some(transfer), Some(plain)) = (transfers.last(), plain.last()) {
                eprintln!(
                    "transfer: sources={sources} run {run} of {runs}: {:.0} MB/s, plain copy {:.0} MB/s",
                    self.stage.rate(transfer.seconds),
                    self.stage.rate(*plain)
                );
            }
        }
        let (seconds, plain) = (median(transfers.iter().map(|it| it.seconds)), median(plain.into_iter()));
        let gib = self.stage.size as f64 / f64::from(1 << 30);
        let peak = transfers.iter().map(|it| it.peak_bytes).max().unwrap_or(0);
        Ok(format!(
            "transfer sources={sources} MB/s={:.0} plain={:.0} ratio={:.2} cpu_s_per_GiB={:.2} peak_rss_MiB={}",
            self.stage.rate(seconds),
            self.stage.rate(plain),
            plain / seconds,
            median(transfers.iter().map(|it| it.cpu_seconds)) / gib,
            peak >> 20
        ))
    }
}
