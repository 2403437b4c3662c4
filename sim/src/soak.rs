//! A fleet for as long as one likes: nodes join and leave, are killed, lie and fetch, round after round, and what the
//! process takes of memory, descriptors and threads is watched meanwhile.
//!
//! Some sources stay from round to round (one of them leaves in each, after another has joined); those that are killed, lie
//! or are slow come with a round and go with it, as those who fetch do. Between two rounds nothing happens, so that is when
//! figures can be compared: with those of the beginning, and in the end, without any node, with those before the first.
//!
//! Whom it hits is chosen from the seed; when, depends on the machine.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ftx_node::Node;
use ftx_node::cli::text;
use ftx_node::error::Error;
use ftx_node::fetch::resolve::Wanted;
use ftx_node::node::{FetchOptions, FetchRequest};
use ftx_node::runtimes;
use ftx_node::store::Target;
use ftx_proto::engine::pull::choice::LaneMode;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, MemberIndex};
use crate::original::{Original, Placement};
use crate::run::make;
use crate::scenario::{Role, Scenario};
use crate::scratch::Scratch;

/// What is to happen, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Soak {
    /// What a round is made of.
    pub scenario: Scenario,
    /// For how long rounds are begun.
    pub duration: Duration,
}

/// What the process takes of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory that no file stands behind.
    pub memory: u64,
    /// Open files, sockets and the like.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

/// How it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Since the beginning.
    pub elapsed: Duration,
    /// Rounds that have ended.
    pub rounds: u64,
    /// Fetches that ended with the right bytes.
    pub right: u64,
    /// Fetches that did not.
    pub wrong: u64,
    /// Fetches that were dropped in the middle, with their nodes.
    pub dropped: u64,
    /// Verified bytes of those that were right.
    pub bytes: u64,
    /// Nodes that were started.
    pub joined: u64,
    /// Sources that said goodbye while others fetched.
    pub left: u64,
    /// Sources that were killed while others fetched.
    pub killed: u64,
    /// Sources whose disk rotted.
    pub lied: u64,
    /// What the process takes between two rounds.
    pub usage: Usage,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoakOutcome {
    /// How it stood in the end.
    pub figures: Figures,
    /// Before the first node.
    pub before: Usage,
    /// Between two rounds, when everything had been used for a while.
    pub warm: Usage,
    /// Without any node again.
    pub after: Usage,
    /// What went wrong, a sentence each; the first few.
    pub problems: Vec<String>,
}

/// Runs rounds until the time is over. The nodes' connections do their work on `data`; `observe` is told every minute.
///
/// # Errors
/// If it cannot be run. What goes wrong with a fetch is part of the outcome.
pub async fn soak(
    soak: &Soak,
    data: Handle,
    observe: &mut (dyn FnMut(&Figures) + Send),
) -> Result<SoakOutcome, Error> {
    let scenario = &soak.scenario;
    scenario.roles()?;
    // What goes is removed before what comes; and one who leaves has been replaced already.
    let scratch = Scratch::new(scenario.bytes_on_disk()?)?;
    let original = make(scenario, &scratch).await?;
    runtimes::start_carriers();
    let before = Usage::now()?;
    let mut rounds = Rounds::begin(scenario, scratch.path(), original, data).await?;
    let begun = Instant::now();
    let (mut warm, mut told) = (None, Duration::ZERO);
    while begun.elapsed() < soak.duration || warm.is_none() {
        rounds.round().await?;
        rounds.figures.elapsed = begun.elapsed();
        if warm.is_none() && begun.elapsed() * WARM_UP_SHARE >= soak.duration {
            warm = Some(rest_after(Usage::now()?).await?);
        }
        rounds.figures.usage = Usage::now()?;
        if begun.elapsed() - told >= TELL_INTERVAL {
            told = begun.elapsed();
            observe(&rounds.figures);
        }
    }
    let warm = warm.unwrap_or_default();
    // At least one more, so that there is something to compare.
    rounds.round().await?;
    rounds.figures.elapsed = begun.elapsed();
    let settled = |usage: &Usage| {
        usage.descriptors <= warm.descriptors + DESCRIPTORS_GROWTH_MAX && usage.memory <= memory_max(&warm)
    };
    rounds.figures.usage = rest_until(settled).await?;
    let (figures, mut problems) = rounds.end().await;
    let after =
        rest_until(|usage| usage.descriptors <= before.descriptors && usage.threads <= before.threads)
            .await?;
    problems.extend(grown(&before, &warm, &figures.usage, &after));
    Ok(SoakOutcome { figures, before, warm, after, problems })
}

/// What has grown that should not have.
fn grown(before: &Usage, warm: &Usage, last: &Usage, after: &Usage) -> Vec<String> {
    let mut grown = Vec::new();
    if last.descriptors > warm.descriptors + DESCRIPTORS_GROWTH_MAX {
        grown.push(format!(
            "{} descriptors are open between two rounds, and {} were in the beginning",
            last.descriptors, warm.descriptors
        ));
    }
    if last.memory > memory_max(warm) {
        let (now, then) = (text::bytes(last.memory), text::bytes(warm.memory));
        grown.push(format!("{now} of memory are taken between two rounds, and {then} were in the beginning"));
    }
    if after.descriptors > before.descriptors {
        grown.push(format!(
            "{} descriptors are open without any node, and {} were before the first",
            after.descriptors, before.descriptors
        ));
    }
    if after.threads > before.threads {
        grown.push(format!(
            "{} threads run without any node, and {} did before the first",
            after.threads, before.threads
        ));
    }
    grown
}

/// What may be taken later on where so much is taken in the beginning: the allocator keeps what was needed at once, and how
/// much that was is chance.
fn memory_max(warm: &Usage) -> u64 {
    warm.memory + warm.memory / 4 + MEMORY_GROWTH_MAX
}

/// The rounds, and what stays from one to the next.
struct Rounds<'a> {
    scenario: &'a Scenario,
    original: Original,
    wanted: Wanted,
    fleet: Fleet,
    random: ChaCha8Rng,
    /// The sources that stay, the one that leaves next in front.
    staying: VecDeque<MemberIndex>,
    figures: Figures,
    problems: Vec<String>,
}

/// How a fetch ended: the bytes, or what was wrong.
type Fetched = Result<u64, String>;

impl<'a> Rounds<'a> {
    async fn begin(
        scenario: &'a Scenario,
        folder: &Path,
        original: Original,
        data: Handle,
    ) -> Result<Self, Error> {
        let name = original.path.file_name().unwrap_or_default().to_string_lossy();
        let wanted = Wanted::parse(&name)
            .map_err(|error| Error::other(format!("{}: {error}", original.path.display())))?;
        let mut rounds = Rounds {
            scenario,
            original,
            wanted,
            fleet: Fleet::new(folder, data)?,
            random: ChaCha8Rng::seed_from_u64(scenario.seed),
            staying: VecDeque::new(),
            figures: Figures::default(),
            problems: Vec::new(),
        };
        let passing = scenario.kill + scenario.liars + scenario.slow.len();
        // Whoever fetches has to find somebody honest.
        for _ in 0..(scenario.sources - passing).max(1) {
            let index = rounds.join(Role::Honest).await?;
            rounds.staying.push_back(index);
        }
        Ok(rounds)
    }

    /// One round: everybody who is to fetch does, and meanwhile happens what happens.
    async fn round(&mut self) -> Result<(), Error> {
        let scenario = Scenario { seed: self.random.random(), ..self.scenario.clone() };
        let mut passing = Vec::new();
        for role in scenario.roles()?.into_iter().filter(|role| *role != Role::Honest) {
            passing.push((self.join(role).await?, role));
        }
        self.fleet.hashed(|_| {}).await?;
        for (index, _) in passing.iter().filter(|(_, role)| *role == Role::Liar) {
            self.fleet.spoil(*index, self.random.random())?;
            self.figures.lied += 1;
        }
        let (mut fetches, mut fetchers) = (JoinSet::new(), Vec::new());
        for _ in scenario.sources..scenario.nodes {
            let index = self.fleet.start_fetcher().await?;
            self.figures.joined += 1;
            let Some(node) = self.fleet.node(index) else { continue };
            let (wanted, original) = (self.wanted.clone(), self.original.clone());
            let folder = self.fleet.member(index).folder.clone();
            let fetch = fetches.spawn(fetch(node, wanted, folder, original));
            fetchers.push((index, fetch));
        }
        // One may change its mind, if there is another.
        if fetchers.len() > 1 && self.random.random_bool(0.5) {
            let (_, fetch) = &fetchers[self.random.random_range(0..fetchers.len())];
            self.pause().await;
            fetch.abort();
        }
        passing = self.meanwhile(passing).await?;
        while let Some(fetched) = fetches.join_next().await {
            self.count(fetched);
        }
        // Some say goodbye.
        for index in
            fetchers.into_iter().map(|(index, _)| index).chain(passing.into_iter().map(|(index, _)| index))
        {
            if self.random.random_bool(0.5) {
                self.fleet.leave(index).await;
            }
            self.fleet.forget(index);
        }
        self.figures.rounds += 1;
        Ok(())
    }

    /// What happens to the sources while others fetch. Returns those of a round that are still there.
    async fn meanwhile(
        &mut self,
        passing: Vec<(MemberIndex, Role)>,
    ) -> Result<Vec<(MemberIndex, Role)>, Error> {
        let mut still = Vec::new();
        for (index, role) in passing {
            if !matches!(role, Role::Killed { .. }) {
                still.push((index, role));
                continue;
            }
            self.pause().await;
            self.fleet.forget(index);
            self.figures.killed += 1;
        }
        let newcomer = self.join(Role::Honest).await?;
        self.fleet.hashed(|_| {}).await?;
        self.staying.push_back(newcomer);
        if let Some(leaving) = self.staying.pop_front() {
            self.fleet.leave(leaving).await;
            self.fleet.forget(leaving);
            self.figures.left += 1;
        }
        Ok(still)
    }

    async fn join(&mut self, role: Role) -> Result<MemberIndex, Error> {
        let placement = if role == Role::Liar { Placement::Copied } else { Placement::Linked };
        let max_upload = match role {
            Role::Slow { rate } => Some(rate),
            _ => self.scenario.max_upload,
        };
        self.figures.joined += 1;
        self.fleet.start_source(&self.original, placement, max_upload).await
    }

    /// For a moment the fetches go on.
    async fn pause(&mut self) {
        let milliseconds = self.random.random_range(0..PAUSE_MAX.as_millis() as u64);
        sleep(Duration::from_millis(milliseconds)).await;
    }

    fn count(&mut self, fetched: Result<Fetched, tokio::task::JoinError>) {
        match fetched {
            Ok(Ok(bytes)) => {
                self.figures.right += 1;
                self.figures.bytes += bytes;
            }
            Err(error) if error.is_cancelled() => self.figures.dropped += 1,
            Ok(Err(problem)) => self.wrong(problem),
            Err(error) => self.wrong(format!("the fetch failed inside this program: {error}")),
        }
    }

    fn wrong(&mut self, problem: String) {
        self.figures.wrong += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(format!("in round {}: {problem}", self.figures.rounds + 1));
        }
    }

    async fn end(mut self) -> (Figures, Vec<String>) {
        for index in std::mem::take(&mut self.staying) {
            self.fleet.forget(index);
        }
        (self.figures, self.problems)
    }
}

async fn fetch(node: Arc<Node>, wanted: Wanted, folder: PathBuf, original: Original) -> Fetched {
    let name = node.name().to_owned();
    let path = fetch_into(&node, &wanted, &folder).await.map_err(|error| format!("{name}: {error}"))?;
    let size = original.size;
    let checking = tokio::task::spawn_blocking(move || original.check(&path));
    let checked = checking.await.map_err(io::Error::other).and_then(|checked| checked);
    match checked {
        Ok(None) => Ok(size),
        Ok(Some(wrong)) => Err(format!("{name}: {wrong}")),
        Err(error) => Err(format!("{name}: what it fetched cannot be read: {error}")),
    }
}

async fn fetch_into(node: &Node, wanted: &Wanted, folder: &Path) -> Result<PathBuf, Error> {
    let resolved = node.resolve(wanted, None, PATIENCE, |_| {}).await?;
    let target = Target::new(&folder.join(""), &resolved.name)?;
    let how = FetchOptions { force: false, patience: PATIENCE, only: None, lane: LaneMode::Auto };
    let mut fetch = node.fetch(FetchRequest { resolved, target, how }).await?;
    Ok(fetch.done().await?.path)
}

impl Usage {
    /// What the process takes now.
    ///
    /// # Errors
    /// Where the system does not tell, as where it is not Linux.
    pub fn now() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::other(format!("cannot tell what this process takes: {error}"));
        let status = fs::read_to_string("/proc/self/status").map_err(failed)?;
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
        };
        // Without that of the listing itself.
        let descriptors = fs::read_dir("/proc/self/fd").map_err(failed)?.count().saturating_sub(1);
        Ok(Usage { memory: number("RssAnon:") * 1024, descriptors, threads: number("Threads:") as usize })
    }
}

/// What is taken when nothing goes away any more: connections end a moment after the nodes.
async fn rest_after(mut last: Usage) -> Result<Usage, Error> {
    let deadline = Instant::now() + REST_MAX;
    let mut since = Instant::now();
    while since.elapsed() < QUIET && Instant::now() < deadline {
        sleep(LOOK_INTERVAL).await;
        let now = Usage::now()?;
        if now.descriptors != last.descriptors {
            since = Instant::now();
        }
        last = now;
    }
    Ok(last)
}

/// What is taken once that is as it should be; or in the end, if it never is.
async fn rest_until(settled: impl Fn(&Usage) -> bool) -> Result<Usage, Error> {
    let deadline = Instant::now() + REST_MAX;
    loop {
        let now = Usage::now()?;
        if settled(&now) || Instant::now() >= deadline {
            return Ok(now);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// What part of the time has to be over until figures are compared with.
const WARM_UP_SHARE: u32 = 4;

/// How often it is told how things stand.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Memory that may be taken more without anybody asking why.
const MEMORY_GROWTH_MAX: u64 = 48 << 20;

/// Descriptors that may be open more: a node opens a socket for datagrams, with a thread for it, when it is first asked for
/// some, and how many of those that are there were asked is chance. What leaks in every round is more than that soon.
const DESCRIPTORS_GROWTH_MAX: usize = 24;

/// How long a fetch looks for somebody, and waits when nobody is left.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait until something happens in a round.
const PAUSE_MAX: Duration = Duration::from_millis(150);

/// How long figures may take to become what they should be: threads that wait for the disk's work go after ten seconds.
const REST_MAX: Duration = Duration::from_secs(30);

/// How long figures have to stay what they are to count.
const QUIET: Duration = Duration::from_secs(1);

/// How often they are looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Problems that are told.
const PROBLEMS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage = Usage { memory: 100 << 20, descriptors: 50, threads: 9 };

    #[test]
    fn what_grows_is_told() {
        let bare = Usage { descriptors: 10, ..USAGE };
        assert_eq!(grown(&bare, &USAGE, &USAGE, &bare), Vec::<String>::new());
        let more = Usage { descriptors: 51 + DESCRIPTORS_GROWTH_MAX, ..USAGE };
        assert!(grown(&bare, &USAGE, &more, &bare)[0].contains("75 descriptors"));
        let larger = Usage { memory: 200 << 20, ..USAGE };
        assert!(grown(&bare, &USAGE, &larger, &bare)[0].contains("of memory"));
        assert!(grown(&bare, &USAGE, &USAGE, &USAGE)[0].contains("without any node"));
        let threads = Usage { threads: 10, ..bare };
        assert!(grown(&bare, &USAGE, &USAGE, &threads)[0].contains("10 threads"));
    }

    #[test]
    fn a_descriptor_is_seen() {
        let before = Usage::now().unwrap();
        assert!(before.memory > 0 && before.threads > 0 && before.descriptors > 0, "{before:?}");
        let _open: Vec<_> = (0..500).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close some meanwhile.
        assert!(Usage::now().unwrap().descriptors > before.descriptors + 400);
    }
}
