//! How fast one file moves on loopback: real processes, from one source and from four, beside what people use today.
//!
//! `cargo bench -p ftx-node --bench transfer`. `FTX_BENCH_MIB` is the size (1024), `FTX_BENCH_RUNS` how often (5); the
//! medians are told. All kinds of copies are made in turns, into memory where there is room for it; on a disk, the node also
//! waits until the file is safe there, which the others do not.
//!
//! * *plain*: one TCP connection, sendfile on one side, 256 KiB reads and writes on the other; no encryption, no hashes;
//! * *curl* and *aria2* (four connections) from nginx, and an *rsync* daemon, where they are installed: none of them encrypts
//!   here, and none verifies what it got, but rsync with a weak sum.
//!
//! `MB/s` is the size by the `seconds` that the fetch itself tells in `done`; of the others, from the start of the program to
//! its end. The seconds of the processors are user and system time, of the fetching process and of all that serve.
//! `peak_rss_MiB` is the largest process's. The last lines have the ratios; more than 1 is faster than the other one.

mod support;

use support::others::{Other, Taken, start_all};
use support::{Failure, Stage, from_environment, is_wanted, median};

fn main() -> Result<(), Failure> {
    if !is_wanted("transfer") {
        return Ok(());
    }
    let size = from_environment("FTX_BENCH_MIB", 1024)? << 20;
    let runs = from_environment("FTX_BENCH_RUNS", 5)?;
    let stage = Stage::new("transfer", size, 2)?;
    let bench = Bench { others: start_all(&stage), stage };
    let mut cases = Vec::new();
    for sources in [1, 4] {
        cases.push(bench.case(sources, runs)?);
    }
    for case in &cases {
        bench.print_table(case);
    }
    for case in &cases {
        bench.print_ratios(case);
    }
    Ok(())
}

/// Where it happens.
struct Bench {
    // Its servers end before its folder does.
    others: Vec<Other>,
    stage: Stage,
}

/// The medians of one number of sources.
struct Case {
    sources: usize,
    node: Taken,
    plain: f64,
    others: Vec<(&'static str, Taken)>,
}

impl Bench {
    /// Starts the sources, and makes all kinds of copies in turns.
    fn case(&self, sources: usize, runs: u64) -> Result<Case, Failure> {
        let shares = (1..=sources).map(|number| self.stage.share(number)).collect::<Result<Vec<_>, _>>()?;
        self.stage.wait_until_hashed(sources)?;
        let (mut node, mut plain) = (Vec::new(), Vec::new());
        let mut others = vec![Vec::new(); self.others.len()];
        for run in 1..=runs {
            node.push(self.stage.get(&shares, "auto", run == 1)?);
            plain.push(self.stage.copy_plainly()?.as_secs_f64());
            let mut line = format!("transfer: sources={sources} run {run} of {runs}:");
            let mut tell = |name: &str, seconds: f64| {
                line += &format!(" {name} {:.0} MB/s", self.stage.rate(seconds));
            };
            tell("ftx-node", node.last().map_or(0.0, |it| it.seconds));
            tell("plain", plain.last().copied().unwrap_or(0.0));
            for (other, taken) in self.others.iter().zip(&mut others) {
                let copy = other.copy(&self.stage)?;
                tell(other.name, copy.seconds);
                taken.push(copy);
            }
            eprintln!("{line}");
        }
        let others = self.others.iter().zip(&others);
        Ok(Case {
            sources,
            node: Taken::median_of(&node),
            plain: median(plain.into_iter()),
            others: others.map(|(other, taken)| (other.name, Taken::median_of(taken))).collect(),
        })
    }

    fn print_table(&self, case: &Case) {
        let gib = self.stage.size as f64 / f64::from(1 << 30);
        println!(
            "\n{} source(s)         MB/s   cpu s/GiB fetching   serving   peak MiB\n\
             plain copy       {:9.0}",
            case.sources,
            self.stage.rate(case.plain)
        );
        for (name, taken) in [("ftx-node", case.node)].iter().chain(&case.others) {
            println!(
                "{name:<17}{:9.0}{:21.2}{:10.2}{:11}",
                self.stage.rate(taken.seconds),
                taken.cpu_fetching / gib,
                taken.cpu_serving / gib,
                taken.peak_bytes >> 20
            );
        }
    }

    fn print_ratios(&self, case: &Case) {
        let gib = self.stage.size as f64 / f64::from(1 << 30);
        let Case { sources, node, plain, others } = case;
        let mut line = format!(
            "transfer sources={sources} MB/s={:.0} plain={:.0}",
            self.stage.rate(node.seconds),
            self.stage.rate(*plain)
        );
        for (name, taken) in others {
            line += &format!(" {name}={:.0}", self.stage.rate(taken.seconds));
        }
        for (name, taken) in others {
            line += &format!(" ratio_{name}={:.2}", taken.seconds / node.seconds);
        }
        println!(
            "{line} ratio_plain={:.2} cpu_s_per_GiB={:.2} peak_rss_MiB={}",
            plain / node.seconds,
            node.cpu_seconds() / gib,
            node.peak_bytes >> 20
        );
    }
}
