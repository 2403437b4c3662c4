//! How fast one file moves on loopback in datagrams, beside the stream lane: real processes, one source.
//!
//! `cargo bench -p ftx-node --bench datagram`. `FTX_BENCH_MIB` is the size (1024), `FTX_BENCH_RUNS` how often (5); the
//! medians are told. Both lanes are used in turn. What they do on networks that lose packets shows `ftx-sim lan`.
//!
//! `MB/s` is the size by the `seconds` that the fetch itself tells in `done`. `cpu_s_per_GiB` is user and system time of
//! both processes while it ran, in datagrams; `peak_rss_MiB` is the larger process's.

mod support;

use support::{Failure, Stage, from_environment, is_wanted, median};

fn main() -> Result<(), Failure> {
    if !is_wanted("datagram") {
        return Ok(());
    }
    let size = from_environment("FTX_BENCH_MIB", 1024)? << 20;
    let runs = from_environment("FTX_BENCH_RUNS", 5)?;
    let stage = Stage::new("datagram", size, 2)?;
    let shares = [stage.share(1)?];
    stage.wait_until_hashed(1)?;
    let (mut datagrams, mut streams) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        datagrams.push(stage.get(&shares, "datagram", run == 1)?);
        streams.push(stage.get(&shares, "stream", run == 1)?);
        if let (Some(datagram), Some(stream)) = (datagrams.last(), streams.last()) {
            eprintln!(
                "datagram: run {run} of {runs}: {:.0} MB/s, stream {:.0} MB/s",
                stage.rate(datagram.seconds),
                stage.rate(stream.seconds)
            );
        }
    }
    let gib = stage.size as f64 / f64::from(1 << 30);
    let (seconds, stream) =
        (median(datagrams.iter().map(|it| it.seconds)), median(streams.iter().map(|it| it.seconds)));
    println!(
        "datagram MB/s={:.0} stream={:.0} ratio={:.2} cpu_s_per_GiB={:.2} stream_cpu_s_per_GiB={:.2} \
         peak_rss_MiB={}",
        stage.rate(seconds),
        stage.rate(stream),
        stream / seconds,
        median(datagrams.iter().map(|it| it.cpu_seconds())) / gib,
        median(streams.iter().map(|it| it.cpu_seconds())) / gib,
        datagrams.iter().map(|it| it.peak_bytes).max().unwrap_or(0) >> 20
    );
    Ok(())
}
