//! From a scenario to its outcomes: a network is built, nodes share and fetch, `curl` fetches the same, all is checked.
//!
//! Every run has a network and processes of its own. A run that is dropped ends at once and leaves nothing behind. What
//! is lost on the links, and so what is measured, differs from run to run; the file, and who is killed, do not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::keeper::{LanError, find_tool};
use super::network::{Cable, Host, Network, Segment};
use super::outcome::{Downloaded, Fetched, Given, Outcome, Report, Share};
use super::process::{Process, Programs};
use super::scenario::{Scenario, Tcp};
use crate::original::{Original, Placement};
use crate::scratch::Scratch;

/// The only segment.
pub const LAN: Segment = Segment { name: "lan", network: Ipv4Addr::new(10, 77, 0, 0), prefix: 16 };

/// What happens in a measurement, for whoever watches.
#[derive(Debug)]
pub enum Event<'a> {
    /// The file is there.
    Made(&'a Original),
    /// A run begins: its network is there, and the sources share.
    Begun {
        /// Which run, from 1 on.
        run: usize,
    },
    /// All sources have hashed the file.
    Hashed,
    /// All fetches together stand like this.
    Progress {
        /// Verified bytes.
        bytes: u64,
        /// Bytes in all.
        size: u64,
    },
    /// A source was killed.
    Killed {
        /// Its host.
        host: usize,
        /// Verified bytes of all fetches then.
        bytes: u64,
    },
    /// Now `curl` fetches it.
    Downloading,
    /// There is no `curl` to compare with.
    NoCurl,
    /// A run is over.
    Ended {
        /// Which run, from 1 on.
        run: usize,
        /// What came out.
        outcome: &'a Outcome,
    },
}

/// Who is told.
pub type Observe<'a> = &'a mut (dyn FnMut(Event<'_>) + Send);

/// Measures. The nodes are `node`, or else this very program.
///
/// # Errors
/// If it cannot be measured. A fetch that fails is not an error, but part of the outcome.
pub async fn run(
    scenario: &Scenario,
    node: Option<&Path>,
    observe: Observe<'_>,
) -> Result<Vec<Outcome>, LanError> {
    // What this machine cannot do is said before anything else is done.
    drop(Network::new()?);
    let files = 2 + scenario.fetchers as u64;
    let scratch = Scratch::new(scenario.size.saturating_mul(files))
        .map_err(|error| LanError::Failed(error.to_string()))?;
    let programs = Programs::new(node, scratch.path())?;
    let (path, size, seed) = (scratch.path().join(FILE_NAME), scenario.size, scenario.seed);
    let original = blocking(move || Original::generate(&path, size, seed)).await?;
    observe(Event::Made(&original));
    let with_curl = scenario.tcp != Tcp::Never;
    if with_curl && find_tool("curl").is_none() {
        observe(Event::NoCurl);
    }
    let mut outcomes = Vec::new();
    for run in 1..=scenario.runs {
        let folder = scratch.path().join(format!("run-{run}"));
        let bench = Bench { scenario, programs: &programs, original: &original, folder };
        let outcome = bench.run(run, observe).await?;
        observe(Event::Ended { run, outcome: &outcome });
        outcomes.push(outcome);
        // The room is needed again; what cannot be removed goes with the rest.
        let _ = std::fs::remove_dir_all(&bench.folder);
    }
    Ok(outcomes)
}

/// What one run is made of.
struct Bench<'a> {
    scenario: &'a Scenario,
    programs: &'a Programs,
    original: &'a Original,
    folder: PathBuf,
}

/// How those stand that fetch at once.
#[derive(Debug, Clone, Default)]
struct Stand {
    bytes: u64,
    begun: bool,
    ended: bool,
}

/// Who has come to an end, and where the file is that is not checked yet: that would slow down those who still run.
enum Ended {
    Fetch(Fetched, PathBuf),
    Download(Downloaded, PathBuf),
}

impl Bench<'_> {
    async fn run(&self, run: usize, observe: Observe<'_>) -> Result<Outcome, LanError> {
        let network = self.build()?;
        let mut sources = Vec::new();
        for number in self.scenario.source_hosts() {
            sources.push(self.start_source(network.host(number)).await?);
        }
        let curl = find_tool("curl").filter(|_| self.scenario.tcp != Tcp::Never);
        let web = match &curl {
            Some(curl) => Some((curl.clone(), self.start_web(network.host(self.scenario.web_host())).await?)),
            None => None,
        };
        observe(Event::Begun { run });
        self.wait_until_hashed(&network).await?;
        observe(Event::Hashed);
        let (together, after) = match (&web, self.scenario.tcp) {
            (Some(web), Tcp::Together) => (Some(web), None),
            (web, _) => (None, web.as_ref()),
        };
        let mut outcome = self.fetch(&network, &mut sources, run, together, observe).await?;
        if let Some((curl, (_server, url))) = after {
            observe(Event::Downloading);
            let host = network.host(*self.scenario.fetcher_hosts().start());
            let ended = self.download(host.clone(), curl.clone(), url.clone(), None).await;
            self.check(ended, &mut outcome).await;
        }
        outcome.fetches.sort_by_key(|fetched| fetched.host);
        Ok(outcome)
    }

    fn build(&self) -> Result<Network, LanError> {
        let mut network = Network::new()?;
        network.add_segment(LAN)?;
        for _ in 0..self.scenario.hosts {
            let number = network.add_host()?;
            let cable = Cable { ipv4: true, ipv6: true, shape: self.scenario.shape(number) };
            network.plug(number, LAN.name, &cable)?;
            network.congestion_control(number, LAN.name, &self.scenario.congestion_control)?;
        }
        Ok(network)
    }

    /// A fresh folder of a host.
    fn folder(&self, host: &Host, what: &str) -> Result<PathBuf, LanError> {
        let folder = self.folder.join(host.name()).join(what);
        std::fs::create_dir_all(&folder).map_err(|error| failed("cannot make a folder", &error))?;
        Ok(folder)
    }

    fn start_node(&self, host: &Host, what: &str, args: &[&str]) -> Result<Process, LanError> {
        let folder = self.folder(host, what)?;
        let state = folder.join("state").display().to_string();
        let common = ["--json", "--name", host.name(), "--state", &state];
        let args = args.iter().chain(&common);
        Process::start(host, &self.programs.node, &format!("{what}-{}", host.name()), &folder, args)
    }

    async fn start_source(&self, host: &Host) -> Result<Process, LanError> {
        let share = self.folder(host, "shared")?;
        self.original
            .place(&share, Placement::Linked)
            .map_err(|error| failed("cannot place the file", &error))?;
        let mut source = self.start_node(host, "source", &["--share", &share.display().to_string()])?;
        source.wait_for("ready").await?;
        Ok(source)
    }

    async fn start_web(&self, host: &Host) -> Result<(Process, String), LanError> {
        let folder = self.folder(host, "web")?;
        let addr = SocketAddr::from((LAN.addr(host.number()), 0)).to_string();
        let path = self.original.path.display().to_string();
        let args = [SERVE_FILE, &path, &addr];
        let mut server = Process::start(host, &self.programs.simulator, "web", &folder, args)?;
        let ready = server.wait_for("ready").await?;
        let url = format!("http://{}/{FILE_NAME}", ready["addr"].as_str().unwrap_or_default());
        Ok((server, url))
    }

    /// Hashing is not what is measured.
    async fn wait_until_hashed(&self, network: &Network) -> Result<(), LanError> {
        let host = network.host(*self.scenario.fetcher_hosts().start());
        let deadline = Instant::now() + HASHING_MAX;
        let mut log = String::new();
        while Instant::now() < deadline {
            let mut look = self.start_node(host, "look", &["ls", "--timeout", "3"])?;
            while let Some(event) = look.next().await? {
                let hashed = event["event"] == "entry" && event["root"].is_string();
                let nodes = event["nodes"].as_array().map_or(0, Vec::len);
                if hashed && nodes == self.scenario.sources {
                    look.ended().await?;
                    return Ok(());
                }
            }
            look.ended().await?;
            log = look.log();
        }
        let sources = self.scenario.sources;
        Err(LanError::Failed(format!("not all {sources} sources have hashed the file in time: {log}")))
    }

    /// Everybody who fetches, at once, until the last has it.
    async fn fetch(
        &self,
        network: &Network,
        sources: &mut [Process],
        run: usize,
        together: Option<&(PathBuf, (Process, String))>,
        observe: Observe<'_>,
    ) -> Result<Outcome, LanError> {
        let mut tasks = JoinSet::new();
        let at_once = self.scenario.fetchers + usize::from(together.is_some());
        let (tell, mut stands) = watch::channel(vec![Stand::default(); at_once]);
        for (index, number) in self.scenario.fetcher_hosts().enumerate() {
            tasks.spawn(self.fetch_on(network.host(number), index, tell.clone())?);
        }
        let first = network.host(*self.scenario.fetcher_hosts().start());
        let size = self.scenario.size * self.scenario.fetchers as u64;
        let mut kills = self.scenario.kills(run);
        let (mut outcome, mut download, mut all) = (Outcome::default(), together, Vec::new());
        loop {
            let ended = tokio::select! {
                ended = tasks.join_next() => ended,
                Ok(()) = stands.changed() => {
                    let now = stands.borrow_and_update().clone();
                    let bytes = now.iter().take(self.scenario.fetchers).map(|stand| stand.bytes).sum();
                    observe(Event::Progress { bytes, size });
                    kills.retain(|(host, per_mille)| {
                        let due = bytes >= size / 1000 * per_mille;
                        if due && let Some(source) = sources.get_mut(host - 1) {
                            source.kill();
                            outcome.killed.push((*host, bytes));
                            observe(Event::Killed { host: *host, bytes });
                        }
                        !due
                    });
                    if now[0].begun && let Some((curl, (_, url))) = download.take() {
                        tasks.spawn(self.download(first.clone(), curl.clone(), url.clone(), Some(tell.clone())));
                    }
                    if outcome.together.is_empty() && now.iter().any(|stand| stand.ended) {
                        outcome.together = self.shares(&now);
                    }
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            all.push(ended.map_err(|error| failed("a task of this program failed", &error))?);
        }
        for ended in all {
            self.check(ended, &mut outcome).await;
        }
        Ok(outcome)
    }

    /// Who has how much when the first ends.
    fn shares(&self, stands: &[Stand]) -> Vec<Share> {
        let mut names: Vec<String> =
            self.scenario.fetcher_hosts().map(|number| format!("h{number}")).collect();
        names.push("tcp".to_owned());
        let mut shares: Vec<Share> =
            names.into_iter().zip(stands).map(|(name, stand)| Share { name, bytes: stand.bytes }).collect();
        if let Some(tcp) = shares.get_mut(self.scenario.fetchers)
            && !stands.last().is_some_and(|stand| stand.ended)
        {
            tcp.bytes = std::fs::metadata(self.download_path()).map_or(0, |file| file.len());
        }
        if shares.len() > 1 { shares } else { Vec::new() }
    }

    /// Looks at what has arrived, and puts it into the outcome.
    async fn check(&self, ended: Ended, outcome: &mut Outcome) {
        match ended {
            Ended::Fetch(mut fetched, path) => {
                if fetched.result.is_ok() {
                    fetched.wrong = check(self.original.clone(), path).await;
                }
                outcome.fetches.push(fetched);
            }
            Ended::Download(mut downloaded, path) => {
                if downloaded.complete {
                    downloaded.wrong = check(self.original.clone(), path).await;
                }
                outcome.tcp = Some(downloaded);
            }
        }
    }

    /// One fetch by a node; what is done does not borrow from here.
    fn fetch_on(
        &self,
        host: &Host,
        index: usize,
        tell: watch::Sender<Vec<Stand>>,
    ) -> Result<impl Future<Output = Ended> + Send + use<>, LanError> {
        let target = self.folder(host, "fetched")?.join(FILE_NAME);
        let mut args =
            vec!["get".to_owned(), FILE_NAME.to_owned(), "-o".to_owned(), target.display().to_string()];
        if let Some(lane) = &self.scenario.lane {
            args.extend(["--lane".to_owned(), lane.clone()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let begun = Instant::now();
        let mut process = self.start_node(host, "get", &args)?;
        let number = host.number();
        Ok(async move {
            let result = follow(&mut process, index, begun, &tell).await;
            tell.send_modify(|stands| stands[index].ended = true);
            Ended::Fetch(Fetched { host: number, result, wrong: None }, target)
        })
    }

    fn download_path(&self) -> PathBuf {
        self.folder.join(DOWNLOAD_NAME)
    }

    /// What `curl` does; it does not borrow from here.
    fn download(
        &self,
        host: Host,
        curl: PathBuf,
        url: String,
        tell: Option<watch::Sender<Vec<Stand>>>,
    ) -> impl Future<Output = Ended> + Send + use<> {
        let (target, folder, index) = (self.download_path(), self.folder.clone(), self.scenario.fetchers);
        let seconds = self.scenario.tcp_seconds_max.to_string();
        async move {
            let mut downloaded = Downloaded { bytes: 0, seconds: 0.0, complete: false, wrong: None };
            let path = target.display().to_string();
            let args = ["-sS", "--noproxy", "*", "-o", &path, "-m", &seconds, "-w", CURL_SAYS, &url];
            let result = async {
                let mut curl = Process::start(&host, &curl, "curl", &folder, args)?;
                let said = curl.next().await?.unwrap_or_default();
                Ok::<_, LanError>((said, curl.ended().await?, curl.log()))
            };
            match result.await {
                Ok((said, status, log)) => {
                    downloaded.bytes = said["bytes"].as_u64().unwrap_or(0);
                    downloaded.seconds = said["seconds"].as_f64().unwrap_or(0.0);
                    downloaded.complete = status.success();
                    if !matches!(status.code(), Some(0 | CURL_TIME_OUT)) {
                        downloaded.wrong = Some(format!("{status}: {log}"));
                    }
                }
                Err(error) => downloaded.wrong = Some(error.to_string()),
            }
            if let Some(tell) = tell {
                let bytes = downloaded.bytes;
                tell.send_modify(|stands| stands[index] = Stand { bytes, begun: true, ended: true });
            }
            Ended::Download(downloaded, target)
        }
    }
}

/// Reads what a fetching node says to its end.
async fn follow(
    process: &mut Process,
    index: usize,
    begun: Instant,
    tell: &watch::Sender<Vec<Stand>>,
) -> Result<Report, String> {
    let mut last = Value::Null;
    while let Some(event) = process.next().await.map_err(|error| error.to_string())? {
        if event["event"] == "progress" && event["phase"] == "fetching" {
            let bytes = event["bytes"].as_u64().unwrap_or(0);
            tell.send_modify(|stands| stands[index] = Stand { bytes, begun: true, ended: false });
        }
        last = event;
    }
    let status = process.ended().await.map_err(|error| error.to_string())?;
    let seconds_in_all = begun.elapsed().as_secs_f64();
    if last["event"] != "done" {
        let message = last["message"].as_str().map(str::to_owned);
        return Err(message.unwrap_or_else(|| format!("{status}: {}", process.log())));
    }
    let size = last["size"].as_u64().unwrap_or(0);
    tell.send_modify(|stands| stands[index] = Stand { bytes: size, begun: true, ended: true });
    Ok(Report {
        size,
        seconds: last["seconds"].as_f64().unwrap_or(seconds_in_all),
        seconds_in_all,
        sources: last["sources"].as_array().map(|all| all.iter().map(given).collect()).unwrap_or_default(),
    })
}

fn given(source: &Value) -> Given {
    let text = |field: &str| source[field].as_str().unwrap_or_default().to_owned();
    let number = |field: &str| source[field].as_u64().unwrap_or(0);
    Given {
        name: text("name"),
        addr: text("addr"),
        bytes: number("bytes"),
        chunks: number("chunks"),
        retransmitted: number("retransmitted"),
        fragments_again: number("fragments_again"),
        bad: number("bad"),
        // A node that says nothing of lanes has only one.
        lane: source["lane"].as_str().unwrap_or("stream").to_owned(),
    }
}

/// What is wrong with a fetched file, which is removed then: many need more room than there is.
async fn check(original: Original, path: PathBuf) -> Option<String> {
    let checked = blocking(move || {
        let wrong = original.check(&path)?;
        std::fs::remove_file(&path).map(|()| wrong)
    });
    checked.await.unwrap_or_else(|error| Some(format!("it cannot be read: {error}")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, LanError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other);
    done.and_then(|done| done).map_err(|error| failed("cannot use the temporary folder", &error))
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> LanError {
    LanError::Failed(format!("{what}: {error}"))
}

/// The command of this program that is a web server, for [`super::http`].
pub const SERVE_FILE: &str = "serve-file";

/// What the nodes know the file as.
const FILE_NAME: &str = "lan.bin";

/// What `curl` fetches it as.
const DOWNLOAD_NAME: &str = "downloaded.bin";

/// What `curl` says in the end.
const CURL_SAYS: &str = "{\"bytes\":%{size_download},\"seconds\":%{time_total}}\\n";

/// How `curl` ends when its time is over.
const CURL_TIME_OUT: i32 = 28;

/// How long the sources may take to hash the file.
const HASHING_MAX: Duration = Duration::from_secs(180);
