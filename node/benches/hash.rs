//! How fast chunks are hashed: every engine on one core, and a whole file on all of them.
//!
//! `cargo bench -p ftx-node --bench hash`. `FTX_BENCH_MIB` is the size of the file (4096), `FTX_BENCH_RUNS` how often it is
//! hashed (5). `MB/s` are millions of bytes a second: of 16 chunks that stay in the core's cache, and of 64 MiB that do
//! not, the best of many passes; of the file, which lies in memory, the median. `sha2` is one stream of the crate: on one
//! core over the same bytes, and for the file one stream a core, each over its part. `cpu_ratio` compares the time that the
//! cores worked for the file, which says more than the clock where others work on the machine too.

mod support;

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ftx_node::catalog::hash_file;
use ftx_node::hash::{Engine, engine_name, hash_many, leaves};
use ftx_proto::digest::Digest;
use ftx_proto::geometry::CHUNK_SIZE;
use sha2::Digest as _;
use support::{Failure, Stage, from_environment, is_wanted, median};

fn main() -> Result<(), Failure> {
    if !is_wanted("hash") {
        return Ok(());
    }
    let size = from_environment("FTX_BENCH_MIB", 4096)? << 20;
    let runs = from_environment("FTX_BENCH_RUNS", 5)?;
    let (cache, memory) = (Buffer::new(16), Buffer::new(4096));
    let plain = Rates { cache: cache.rate(plain), memory: memory.rate(plain) };
    plain.tell("sha2", None);
    for engine in Engine::available() {
        let hash = |bytes: &[u8]| {
            let messages: Vec<&[u8]> = bytes.chunks(CHUNK_SIZE as usize).collect();
            let mut digests = Vec::with_capacity(messages.len());
            engine.hash_many(&messages, &mut digests);
            std::hint::black_box(digests);
        };
        Rates { cache: cache.rate(hash), memory: memory.rate(hash) }.tell(engine.name(), Some(&plain));
    }
    for count in [2, 4, 6, 8, 12] {
        let few = Buffer::new(count);
        println!("hash chunks={count} MB/s={:.0}", few.rate(scattered));
    }
    let chosen = Rates { cache: cache.rate(chosen), memory: memory.rate(chosen) };
    chosen.tell("chosen", Some(&plain));

    let stage = Stage::new("hash", size, 1)?;
    let threads = std::thread::available_parallelism()?;
    let (mut ours, mut streams) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let own = Time::of(|| hash_file(&stage.file, threads, &|_| ()).map(drop).map_err(Failure::from))?;
        let stream = Time::of(|| one_stream_a_core(&stage.file, size, threads))?;
        eprintln!(
            "hash: run {run} of {runs}: {:.0} MB/s, sha2 {:.0} MB/s",
            stage.rate(own.seconds),
            stage.rate(stream.seconds)
        );
        ours.push(own);
        streams.push(stream);
    }
    let (ours, streams) = (Time::median(&ours), Time::median(&streams));
    println!(
        "hash engine=\"{}\" one_core={:.0} sha2={:.0} ratio={:.2} cores={threads} file={:.0} sha2_file={:.0} \
         file_ratio={:.2} cpu_ratio={:.2}",
        engine_name(),
        chosen.cache,
        plain.cache,
        chosen.cache / plain.cache,
        stage.rate(ours.seconds),
        stage.rate(streams.seconds),
        streams.seconds / ours.seconds,
        streams.cpu_seconds / ours.cpu_seconds,
    );
    Ok(())
}

/// How long something took.
struct Time {
    seconds: f64,
    /// What all cores worked for it.
    cpu_seconds: f64,
}

impl Time {
    fn of(work: impl FnOnce() -> Result<(), Failure>) -> Result<Self, Failure> {
        let cpu_seconds = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
        };
        let (begun, before) = (Instant::now(), cpu_seconds());
        work()?;
        Ok(Time { seconds: begun.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds() - before })
    }

    fn median(times: &[Time]) -> Self {
        let of = |value: fn(&Time) -> f64| median(times.iter().map(value));
        Time { seconds: of(|it| it.seconds), cpu_seconds: of(|it| it.cpu_seconds) }
    }
}

/// Some chunks in memory.
struct Buffer(Vec<u8>);

/// Megabytes per second of bytes that stay in the core's cache, and of more than that.
struct Rates {
    cache: f64,
    memory: f64,
}

impl Buffer {
    fn new(chunks: usize) -> Self {
        Buffer((0..chunks * CHUNK_SIZE as usize).map(|place| (place % 251) as u8).collect())
    }

    /// Megabytes (millions) per second of the fastest of many passes.
    fn rate(&self, hash: impl Fn(&[u8])) -> f64 {
        let (begun, mut best) = (Instant::now(), f64::INFINITY);
        while begun.elapsed() < MEASURED_FOR {
            let begun = Instant::now();
            hash(&self.0);
            best = best.min(begun.elapsed().as_secs_f64());
        }
        self.0.len() as f64 / 1e6 / best
    }
}

impl Rates {
    fn tell(&self, name: &str, plain: Option<&Rates>) {
        let ratio = plain.map(|plain| {
            format!(" ratios={:.2},{:.2}", self.cache / plain.cache, self.memory / plain.memory)
        });
        println!(
            "hash engine=\"{name}\" in_cache={:.0} from_memory={:.0}{}",
            self.cache,
            self.memory,
            ratio.unwrap_or_default()
        );
    }
}

/// All bytes as one message.
fn plain(bytes: &[u8]) {
    std::hint::black_box(Digest::of(bytes));
}

/// The leaves, by what was chosen here.
fn chosen(bytes: &[u8]) {
    let mut digests = Vec::new();
    leaves(bytes, &mut digests);
    std::hint::black_box(digests);
}

/// The chunks as messages of their own.
fn scattered(bytes: &[u8]) {
    let messages: Vec<&[u8]> = bytes.chunks(CHUNK_SIZE as usize).collect();
    let mut digests = Vec::new();
    hash_many(&messages, &mut digests);
    std::hint::black_box(digests);
}

/// As many parts as cores, each hashed as one message while it is read.
fn one_stream_a_core(path: &Path, size: u64, threads: NonZeroUsize) -> Result<(), Failure> {
    let file = File::open(path)?;
    let part = size.div_ceil(threads.get() as u64);
    let stream = |number: u64| -> std::io::Result<()> {
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let (mut place, end) = (number * part, size.min((number + 1) * part));
        while place < end {
            let bytes = &mut buffer[..(end - place).min(256 << 10) as usize];
            file.read_exact_at(bytes, place)?;
            hasher.update(&*bytes);
            place += bytes.len() as u64;
        }
        std::hint::black_box(hasher.finalize());
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads.get() as u64).map(|number| scope.spawn(move || stream(number))).collect();
        for thread in running {
            thread.join().map_err(|_| "a thread failed")??;
        }
        Ok(())
    })
}

/// How long each engine is measured.
const MEASURED_FOR: Duration = Duration::from_millis(300);
