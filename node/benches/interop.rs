//! How fast the older systems move one file on loopback, between two nodes, beside a plain copy.
//!
//! `cargo bench -p ftx-node --bench interop`. `FTX_BENCH_MIB` is the size (1024), `FTX_BENCH_RUNS` how often (5); the
//! medians are told. STEP uploads and downloads over 4 connections, striped with 8 threads, udp-get by broadcast. The
//! plain copy is one TCP connection, sendfile on one side, 256 KiB reads and writes on the other. Striped is also
//! compared with the time that one MD5 of the file takes (`md5`), since its protocol wants that before and after.

mod support;

use std::time::Instant;

use md5::{Digest, Md5};
use support::{Failure, NAME, Node, Stage, from_environment, is_wanted, median, peak_of, same_bytes};

fn main() -> Result<(), Failure> {
    if !is_wanted("interop") {
        return Ok(());
    }
    let size = from_environment("FTX_BENCH_MIB", 1024)? << 20;
    let runs = from_environment("FTX_BENCH_RUNS", 5)?;
    let bench = Bench::new(size)?;
    let mut lines = Vec::new();
    for case in [Case::StepUpload, Case::StepDownload, Case::Striped, Case::UdpGet] {
        lines.push(bench.case(case, runs)?);
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    StepUpload,
    StepDownload,
    Striped,
    UdpGet,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::StepUpload => "step-upload",
            Case::StepDownload => "step-download",
            Case::Striped => "striped",
            Case::UdpGet => "udp-get",
        }
    }
}

/// One node that serves, in the older systems' ways.
struct Bench {
    stage: Stage,
    server: Node,
    step: String,
    striped: String,
}

impl Bench {
    fn new(size: u64) -> Result<Self, Failure> {
        // The original, the upload, and what is fetched.
        let stage = Stage::new("interop", size, 3)?;
        let inbox = stage.folder.path().join("inbox");
        std::fs::create_dir(&inbox)?;
        let mut command = stage.node("server");
        command.arg("--quiet").arg("--share").arg(stage.folder.path().join("share"));
        command.arg("--inbox").arg(&inbox).args(["--step=127.0.0.1:0", "--step-auth", "classic"]);
        command.args(["--striped=127.0.0.1:0", "--udp-get"]);
        let mut server = Node::start(&mut command)?;
        let (ready, _) = server.wait_for("ready")?;
        let address = |service: &str| -> Result<String, Failure> {
            let address = ready["services"][service].as_str();
            Ok(address.ok_or_else(|| format!("the node does not tell where {service} is"))?.to_owned())
        };
        let (step, striped) = (address("step")?, address("striped")?);
        stage.wait_until_hashed(1)?;
        Ok(Bench { stage, server, step, striped })
    }

    fn case(&self, case: Case, runs: u64) -> Result<String, Failure> {
        let (mut transfers, mut plain, mut md5) = (Vec::new(), Vec::new(), Vec::new());
        let mut peak = 0;
        for run in 1..=runs {
            let (seconds, own_peak) = self.transfer(case, run)?;
            peak = peak.max(own_peak).max(peak_of(self.server.child.id()).unwrap_or(0));
            transfers.push(seconds);
            plain.push(self.stage.copy_plainly()?.as_secs_f64());
            if case == Case::Striped {
                md5.push(self.md5()?);
            }
            eprintln!("interop: {} run {run} of {runs}: {:.0} MB/s", case.name(), self.stage.rate(seconds));
        }
        let (seconds, plain) = (median(transfers.into_iter()), median(plain.into_iter()));
        let mut line = format!(
            "interop {} MB/s={:.0} plain={:.0} ratio={:.2} peak_rss_MiB={}",
            case.name(),
            self.stage.rate(seconds),
            self.stage.rate(plain),
            plain / seconds,
            peak >> 20
        );
        if !md5.is_empty() {
            let md5 = median(md5.into_iter());
            line.push_str(&format!(" md5={:.0} time_by_md5={:.2}", self.stage.rate(md5), seconds / md5));
        }
        Ok(line)
    }

    /// Moves the file once; says how long it took, and how large the client was.
    fn transfer(&self, case: Case, run: u64) -> Result<(f64, u64), Failure> {
        let target = self.stage.target();
        let key = format!("step://bench@{}/{NAME}", self.step);
        let mut client = self.stage.node("client");
        match case {
            Case::StepUpload => {
                if run > 1 {
                    let removed = self.stage.node("remover").args(["rm", &key]).status()?;
                    if !removed.success() {
                        return Err("the upload of the last run cannot be removed".into());
                    }
                }
                client.arg("put").arg(&self.stage.file).arg(&key).args(["--connections", "4"]);
            }
            Case::StepDownload => {
                client.args(["get", &key, "--connections", "4", "-o"]).arg(&target);
            }
            Case::Striped => {
                let url = format!("striped://{}/{NAME}", self.striped);
                client.args(["get", &url, "--threads", "8", "-o"]).arg(&target);
            }
            Case::UdpGet => {
                client.args(["get", &format!("udp-get://{NAME}"), "-o"]).arg(&target);
            }
        }
        let mut client = Node::start(&mut client)?;
        let (done, peak) = client.wait_for("done")?;
        if !client.child.wait()?.success() {
            return Err(format!("{}: the client failed", case.name()).into());
        }
        if case != Case::StepUpload {
            if run == 1 && !same_bytes(&self.stage.file, &target)? {
                return Err(format!("{}: what came is not what was served", case.name()).into());
            }
            std::fs::remove_file(&target)?;
        }
        Ok((done["seconds"].as_f64().ok_or("`done` does not tell the seconds")?, peak))
    }

    /// Seconds that one MD5 of the file takes, read from memory.
    fn md5(&self) -> Result<f64, Failure> {
        use std::io::Read;
        let begun = Instant::now();
        let mut file = std::fs::File::open(&self.stage.file)?;
        let (mut sum, mut buffer) = (Md5::new(), vec![0; 256 << 10]);
        loop {
            let bytes = file.read(&mut buffer)?;
            if bytes == 0 {
                break;
            }
            sum.update(&buffer[..bytes]);
        }
        std::hint::black_box(sum.finalize());
        Ok(begun.elapsed().as_secs_f64())
    }
}
