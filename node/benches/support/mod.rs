//! What the benchmarks share: real nodes, a folder in memory, and the plain copy that people know.

// Each benchmark is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

pub mod others;

use others::Taken;

pub type Failure = Box<dyn Error + Send + Sync>;

/// Whether this was started by `cargo bench`. `cargo test --all-targets` starts benchmarks too, which would take minutes.
pub fn is_wanted(name: &str) -> bool {
    let wanted = std::env::args().any(|arg| arg == "--bench");
    if !wanted {
        eprintln!("{name}: a benchmark; run it with `cargo bench`");
    }
    wanted
}

/// A number from the environment.
pub fn from_environment(name: &str, otherwise: u64) -> Result<u64, Failure> {
    let Ok(text) = std::env::var(name) else { return Ok(otherwise) };
    match text.parse() {
        Ok(number @ 1..=1_048_576) => Ok(number),
        _ => Err(format!("{name}={text}: not a number from 1 to 1048576").into()),
    }
}

/// A network on loopback, a folder for it, and a file to be moved.
pub struct Stage {
    pub folder: TempDir,
    pub file: PathBuf,
    pub size: u64,
    pub port: u16,
}

impl Stage {
    /// With a file of `size` bytes in the folder `share`, and an empty folder `fetched`; room for `copies` of it.
    pub fn new(bench: &str, size: u64, copies: u64) -> Result<Self, Failure> {
        let stage = Self::empty(bench, size, copies)?;
        make_file(&stage.file, size)?;
        Ok(stage)
    }

    /// With room for that, and nothing to be moved yet.
    pub fn empty(bench: &str, size: u64, copies: u64) -> Result<Self, Failure> {
        let place = place_for(size * copies)?;
        let folder = tempfile::Builder::new().prefix("ftx-bench-").tempdir_in(&place)?;
        remove_when_interrupted(folder.path().to_owned());
        eprintln!("{bench}: {} MiB in {}", size >> 20, place.display());
        for name in ["share", "fetched"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let file = folder.path().join("share").join(NAME);
        // The nodes open it together, and tolerate others on it: it need not be held meanwhile.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        Ok(Stage { folder, file, size, port })
    }

    /// A place for what is fetched.
    pub fn target(&self) -> PathBuf {
        self.folder.path().join("fetched").join(NAME)
    }

    /// Copies the file through one TCP connection, as simply as can be.
    pub fn copy_plainly(&self) -> Result<Duration, Failure> {
        let target = self.folder.path().join("fetched").join("plain");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let file = self.file.clone();
        let sending = std::thread::spawn(move || -> io::Result<u64> {
            // From a file to a socket this is sendfile.
            io::copy(&mut File::open(file)?, &mut listener.accept()?.0)
        });
        let begun = Instant::now();
        let mut stream = TcpStream::connect(addr)?;
        let mut output = File::create(&target)?;
        let mut buffer = vec![0; 256 << 10];
        let mut copied = 0;
        loop {
            let bytes = stream.read(&mut buffer)?;
            if bytes == 0 {
                break;
            }
            output.write_all(&buffer[..bytes])?;
            copied += bytes as u64;
        }
        drop(output);
        let elapsed = begun.elapsed();
        sending.join().map_err(|_| "the sending thread failed")??;
        if copied != self.size {
            return Err("the plain copy is not complete".into());
        }
        std::fs::remove_file(&target)?;
        Ok(elapsed)
    }

    /// The command for a node of this network, with a state of its own.
    pub fn node(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftx-node"));
        for (variable, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FTX_"))
        {
            command.env_remove(variable);
        }
        command.args(["--json", "--bind", "127.0.0.1", "--port", &self.port.to_string(), "--name", name]);
        command.arg("--state").arg(self.folder.path().join(name)).stdin(Stdio::null());
        command
    }

    /// Waits until that many nodes tell the root.
    pub fn wait_until_hashed(&self, sources: usize) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < HASHING_MAX {
            let listed = self.node("looker").args(["ls", NAME, "--timeout", "2"]).output()?;
            for line in listed.stdout.lines() {
                let event: Value = serde_json::from_str(&line?)?;
                let nodes = event["nodes"].as_array().map_or(0, Vec::len);
                if event["event"] == "entry" && event["root"].is_string() && nodes == sources {
                    return Ok(());
                }
            }
        }
        Err(format!("{sources} nodes have not hashed the file in {} s", HASHING_MAX.as_secs()).into())
    }

    /// Starts a node that shares the folder.
    pub fn share(&self, number: usize) -> Result<Node, Failure> {
        let mut command = self.node(&format!("source-{number}"));
        // Quiet: that the others have taken the port for sessions is no news here.
        command.arg("--quiet").arg("--share").arg(self.folder.path().join("share"));
        let mut share = Node::start(&mut command)?;
        share.wait_for("ready")?;
        Ok(share)
    }

    /// Fetches the file by its name, on this lane.
    pub fn get(&self, shares: &[Node], lane: &str, compare: bool) -> Result<Taken, Failure> {
        let target = self.target();
        let serving =
            || shares.iter().map(|share| cpu_of_process(share.child.id())).sum::<Result<f64, Failure>>();
        let (children, served) = (cpu_of_children()?, serving()?);
        let mut get =
            Node::start(self.node("fetcher").args(["get", NAME, "--lane", lane, "-o"]).arg(&target))?;
        let (done, own_peak) = get.wait_for("done")?;
        if !get.child.wait()?.success() {
            return Err("the fetch failed".into());
        }
        let (cpu_fetching, cpu_serving) = (cpu_of_children()? - children, serving()? - served);
        let seconds = done["seconds"].as_f64().ok_or("`done` does not tell the seconds")?;
        let peaks = shares.iter().filter_map(|share| peak_of(share.child.id()));
        if std::fs::metadata(&target)?.len() != self.size || (compare && !same_bytes(&self.file, &target)?) {
            return Err("the file that was fetched is not the one that was shared".into());
        }
        std::fs::remove_file(&target)?;
        let peak_bytes = peaks.max().unwrap_or(0).max(own_peak);
        Ok(Taken { seconds, cpu_fetching, cpu_serving, peak_bytes })
    }

    /// Megabytes (millions) per second, if all of the file takes so long.
    pub fn rate(&self, seconds: f64) -> f64 {
        self.size as f64 / 1e6 / seconds
    }
}

/// A running node. Dropped, it is killed.
pub struct Node {
    pub child: Child,
    events: io::Lines<BufReader<ChildStdout>>,
}

impl Node {
    pub fn start(command: &mut Command) -> Result<Self, Failure> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("the node has no stdout")?;
        Ok(Node { child, events: BufReader::new(stdout).lines() })
    }

    /// Waits for an event, and says how large the process has been until then.
    pub fn wait_for(&mut self, wanted: &str) -> Result<(Value, u64), Failure> {
        let mut peak = 0;
        for line in self.events.by_ref() {
            let line = line?;
            peak = peak.max(peak_of(self.child.id()).unwrap_or(0));
            let event: Value = serde_json::from_str(&line)?;
            if event["event"] == wanted {
                return Ok((event, peak));
            }
            if event["event"] == "error" {
                return Err(line.into());
            }
        }
        Err(format!("the node ended without '{wanted}'").into())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds that the children of this process have worked that have ended, and theirs.
pub fn cpu_of_children() -> Result<f64, Failure> {
    cpu_seconds("self", &[16, 17])
}

/// Seconds that this process has worked so far, and its children that have ended.
pub fn cpu_of_process(pid: u32) -> Result<f64, Failure> {
    cpu_seconds(&pid.to_string(), &[14, 15, 16, 17])
}

/// The sum of these fields of proc(5), by their numbers there.
fn cpu_seconds(pid: &str, fields: &[usize]) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // They are behind the name, which may contain anything but ends with the last ')'.
    let (_, behind) = stat.rsplit_once(')').ok_or("a malformed stat file")?;
    let behind: Vec<&str> = behind.split_whitespace().collect();
    let ticks = |field: &usize| -> Result<u64, Failure> {
        Ok(behind.get(field - 3).ok_or("a short stat file")?.parse::<u64>()?)
    };
    let sum = fields.iter().map(ticks).sum::<Result<u64, Failure>>()?;
    Ok(sum as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Most bytes of memory that a process has had at once; nothing once it has ended.
pub fn peak_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The one in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(low, high)
}

/// A folder with room for so many bytes, in memory if possible.
fn place_for(bytes: u64) -> Result<PathBuf, Failure> {
    let free =
        |place: &Path| rustix::fs::statvfs(place).map_or(0, |it| it.f_bavail.saturating_mul(it.f_frsize));
    let memory = PathBuf::from("/dev/shm");
    // The nodes need some memory too.
    if free(&memory) >= bytes.saturating_mul(2) {
        return Ok(memory);
    }
    let place = std::env::temp_dir();
    if free(&place) < bytes.saturating_add(64 << 20) {
        return Err(format!("{} MiB do not fit into {}", bytes >> 20, place.display()).into());
    }
    Ok(place)
}

/// What would otherwise stay in memory until the machine is started anew.
fn remove_when_interrupted(folder: PathBuf) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if runtime.is_ok_and(|runtime| runtime.block_on(tokio::signal::ctrl_c()).is_ok()) {
            let _ = std::fs::remove_dir_all(folder);
            std::process::exit(130);
        }
    });
}

/// Bytes without any pattern.
fn make_file(path: &Path, size: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        random.fill_bytes(&mut buffer);
        file.write_all(&buffer)?;
    }
    Ok(())
}

/// Whether two files are the same.
pub fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let bytes = one.read(&mut left)?;
        if bytes == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        other.read_exact(&mut right[..bytes])?;
        if left[..bytes] != right[..bytes] {
            return Ok(false);
        }
    }
}

/// The name that the file is fetched by.
pub const NAME: &str = "bench.bin";

/// How long the sources may hash before something must be wrong.
const HASHING_MAX: Duration = Duration::from_secs(120);
