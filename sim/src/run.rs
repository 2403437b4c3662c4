//! From a scenario to its outcome: everything is started, goes wrong as planned, and is checked.
//!
//! A run that is dropped ends at once and leaves nothing behind. What it measures depends on the machine; what is chosen
//! by chance does not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ftx_node::Node;
use ftx_node::error::{Code, Error};
use ftx_node::fetch::report::{Phase, Progress, Report, SourceState};
use ftx_node::fetch::resolve::{Resolved, Wanted};
use ftx_node::node::{FetchOptions, FetchRequest};
use ftx_node::store::Target;
use ftx_proto::engine::pull::choice::LaneMode;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fleet::{Fleet, Hashing, MemberIndex};
use crate::original::{Original, Placement};
use crate::outcome::{Fetched, Outcome, SourceFate};
use crate::scenario::{Content, Role, Scenario};
use crate::scratch::Scratch;

/// What happens in a run, for whoever watches.
#[derive(Debug)]
pub enum Event<'a> {
    /// The content is there.
    Made(&'a Original),
    /// All nodes run.
    Started(&'a Fleet),
    /// The sources hash what they share.
    Hashing(Hashing),
    /// They all have hashed it.
    Hashed {
        /// How long that took.
        elapsed: Duration,
    },
    /// The disk of a source has begun to rot.
    Spoiled {
        /// The source's name.
        name: &'a str,
    },
    /// A fetch is about to begin: the content was found by its name.
    Found {
        /// Who looked.
        name: &'a str,
        /// What was found.
        resolved: &'a Resolved,
        /// How long that took.
        elapsed: Duration,
    },
    /// All fetches together stand like this.
    Progress(Total),
    /// A source was killed.
    Killed {
        /// The source's name.
        name: &'a str,
        /// How all fetches together stood then.
        at: Total,
    },
    /// A fetch has ended, and was checked.
    Fetched(&'a Fetched),
}

/// How all fetches together stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Verified bytes.
    pub bytes: u64,
    /// Bytes in all.
    pub size: u64,
    /// Fetches that have not ended.
    pub running: usize,
    /// Connected sources of the fetch that has most.
    pub sources: usize,
}

/// Runs a scenario. The nodes' connections do their work on `data`.
///
/// # Errors
/// If it cannot be run. A fetch that fails is not an error, but part of the outcome.
pub async fn run(
    scenario: &Scenario,
    data: Handle,
    observe: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Outcome, Error> {
    let roles = scenario.roles()?;
    let scratch = Scratch::new(scenario.bytes_on_disk()?)?;
    let original = make(scenario, &scratch).await?;
    observe(Event::Made(&original));
    let mut fleet = Fleet::new(scratch.path(), data)?;
    let sources = start_sources(&mut fleet, &original, &roles, scenario.max_upload).await?;
    let mut fetchers = Vec::new();
    for _ in scenario.sources..scenario.nodes {
        fetchers.push(fleet.start_fetcher().await?);
    }
    observe(Event::Started(&fleet));
    let begun = Instant::now();
    fleet.hashed(|hashing| observe(Event::Hashing(hashing))).await?;
    observe(Event::Hashed { elapsed: begun.elapsed() });
    for (number, (source, _)) in sources.iter().enumerate().filter(|(_, (_, role))| *role == Role::Liar) {
        fleet.spoil(*source, scenario.seed.wrapping_add(number as u64))?;
        observe(Event::Spoiled { name: &fleet.member(*source).name });
    }
    let begun = Instant::now();
    let mut fetching = Fetching::begin(&fleet, &fetchers, &original)?;
    let killed_at = fetching.watch(&mut fleet, &sources, observe).await;
    let elapsed = begun.elapsed();
    let mut fates = Vec::new();
    for (index, role) in sources {
        let sent = match fleet.node(index) {
            Some(node) => node.sent_bytes().await?,
            None => 0,
        };
        let (member, killed_at) = (fleet.member(index), killed_at.get(&index).copied());
        fates.push(SourceFate { name: member.name.clone(), id: member.id, role, killed_at, sent });
    }
    Ok(Outcome {
        root: fetching
            .fetches
            .iter()
            .find_map(|fetched| fetched.result.as_ref().ok().map(|report| report.root)),
        original,
        elapsed,
        sources: fates,
        fetches: fetching.fetches,
    })
}

pub(crate) async fn make(scenario: &Scenario, scratch: &Scratch) -> Result<Original, Error> {
    let (content, seed, path) = (scenario.content.clone(), scenario.seed, scratch.path().join(RANDOM_NAME));
    let making = tokio::task::spawn_blocking(move || match content {
        Content::Random(size) => Original::generate(&path, size, seed),
        Content::File(file) => Original::of_file(&file),
    });
    let made = making.await.map_err(std::io::Error::other).and_then(|made| made);
    made.map_err(|error| Error::other(format!("cannot prepare the file to share: {error}")))
}

async fn start_sources(
    fleet: &mut Fleet,
    original: &Original,
    roles: &[Role],
    otherwise: Option<u64>,
) -> Result<Vec<(MemberIndex, Role)>, Error> {
    let mut sources = Vec::new();
    for role in roles {
        let placement = if *role == Role::Liar { Placement::Copied } else { Placement::Linked };
        let max_upload = if let Role::Slow { rate } = role { Some(*rate) } else { otherwise };
        sources.push((fleet.start_source(original, placement, max_upload).await?, *role));
    }
    Ok(sources)
}

/// All fetches of a run.
struct Fetching {
    original: Original,
    tasks: JoinSet<Fetched>,
    stands: watch::Receiver<Vec<Stand>>,
    fetches: Vec<Fetched>,
}

/// How one fetch stands.
#[derive(Debug, Clone, Default)]
struct Stand {
    bytes: u64,
    ended: bool,
    sources: usize,
    /// Told once.
    found: Option<(String, Resolved, Duration)>,
}

impl Fetching {
    fn begin(fleet: &Fleet, fetchers: &[MemberIndex], original: &Original) -> Result<Self, Error> {
        let name = original.path.file_name().unwrap_or_default().to_string_lossy();
        let wanted = Wanted::parse(&name)
            .map_err(|error| Error::other(format!("{}: {error}", original.path.display())))?;
        let (tell, stands) = watch::channel(vec![Stand::default(); fetchers.len()]);
        let mut tasks = JoinSet::new();
        for (number, index) in fetchers.iter().enumerate() {
            let Some(node) = fleet.node(*index) else { continue };
            let telling = Telling { number, tell: tell.clone() };
            let (wanted, original) = (wanted.clone(), original.clone());
            let folder = fleet.member(*index).folder.clone();
            tasks.spawn(async move {
                let result = fetch(&node, &wanted, &folder, &telling).await;
                telling.change(|stand| {
                    stand.ended = true;
                    stand.bytes = result.as_ref().map_or(stand.bytes, |report| report.size);
                });
                let wrong = check(&original, &result).await;
                Fetched { name: node.name().to_owned(), result, wrong }
            });
        }
        Ok(Fetching { original: original.clone(), tasks, stands, fetches: Vec::new() })
    }

    /// Watches over the fetches to their end, and kills whoever is to be killed; says at how many bytes that was.
    async fn watch(
        &mut self,
        fleet: &mut Fleet,
        sources: &[(MemberIndex, Role)],
        observe: &mut (dyn FnMut(Event<'_>) + Send),
    ) -> BTreeMap<MemberIndex, u64> {
        let mut killed = BTreeMap::new();
        let mut told = vec![false; self.stands.borrow().len()];
        loop {
            let ended = tokio::select! {
                ended = self.tasks.join_next() => Some(ended),
                Ok(()) = self.stands.changed() => None,
            };
            let stands = self.stands.borrow_and_update().clone();
            for (stand, told) in stands.iter().zip(&mut told) {
                if let (Some((name, resolved, elapsed)), false) = (&stand.found, *told) {
                    *told = true;
                    observe(Event::Found { name, resolved, elapsed: *elapsed });
                }
            }
            let total = self.total(&stands);
            observe(Event::Progress(total));
            for (index, role) in sources {
                let Role::Killed { after_per_mille } = role else { continue };
                let due = total.bytes >= total.size / 1000 * after_per_mille;
                if due && total.running > 0 && !killed.contains_key(index) {
                    fleet.kill(*index);
                    killed.insert(*index, total.bytes);
                    observe(Event::Killed { name: &fleet.member(*index).name, at: total });
                }
            }
            match ended {
                Some(None) => break,
                Some(Some(Ok(fetched))) => {
                    observe(Event::Fetched(&fetched));
                    self.fetches.push(fetched);
                }
                Some(Some(Err(error))) => {
                    let result = Err(Error::other(format!("the fetch failed inside this program: {error}")));
                    self.fetches.push(Fetched { name: "a node".to_owned(), result, wrong: None });
                }
                None => {}
            }
        }
        self.fetches.sort_by(|one, other| (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name)));
        killed
    }

    fn total(&self, stands: &[Stand]) -> Total {
        Total {
            bytes: stands.iter().map(|stand| stand.bytes).sum(),
            size: self.original.size * stands.len() as u64,
            running: stands.iter().filter(|stand| !stand.ended).count(),
            sources: stands.iter().map(|stand| stand.sources).max().unwrap_or(0),
        }
    }
}

/// Where one fetch says how it stands.
struct Telling {
    number: usize,
    tell: watch::Sender<Vec<Stand>>,
}

impl Telling {
    fn change(&self, change: impl FnOnce(&mut Stand)) {
        self.tell.send_modify(|stands| change(&mut stands[self.number]));
    }

    fn progress(&self, progress: &Progress) {
        let joined = progress.sources.iter().filter(|source| source.state == SourceState::Joined).count();
        self.change(|stand| {
            stand.bytes = progress.bytes;
            // At the end they are all let go.
            if progress.phase != Phase::Finishing {
                stand.sources = joined;
            }
        });
    }
}

async fn fetch(
    node: &Node,
    wanted: &Wanted,
    folder: &std::path::Path,
    telling: &Telling,
) -> Result<Report, Error> {
    let begun = Instant::now();
    let resolved = node.resolve(wanted, None, SEARCH_PATIENCE, |_| {}).await?;
    let found = (node.name().to_owned(), resolved.clone(), begun.elapsed());
    telling.change(|stand| stand.found = Some(found));
    let target = Target::new(&folder.join(""), &resolved.name)?;
    let how = FetchOptions { force: false, patience: FETCH_PATIENCE, only: None, lane: LaneMode::Auto };
    let mut fetch = node.fetch(FetchRequest { resolved, target, how }).await?;
    let mut progress = fetch.progress.clone();
    loop {
        tokio::select! {
            done = fetch.done() => return done,
            Ok(()) = progress.changed() => telling.progress(&progress.borrow_and_update()),
        }
    }
}

/// What is wrong with what was fetched.
async fn check(original: &Original, result: &Result<Report, Error>) -> Option<String> {
    let path = result.as_ref().ok()?.path.clone();
    let original = original.clone();
    let checking = tokio::task::spawn_blocking(move || original.check(&path));
    let checked = checking.await.map_err(std::io::Error::other).and_then(|checked| checked);
    checked.unwrap_or_else(|error| Some(format!("it cannot be read: {error}")))
}

impl Scenario {
    /// Bytes that a run of it may need on disk.
    pub(crate) fn bytes_on_disk(&self) -> Result<u64, Error> {
        let (size, copies) = match &self.content {
            Content::Random(size) => (*size, 1),
            Content::File(path) => {
                let metadata = std::fs::metadata(path).map_err(|error| error.to_string());
                let file = metadata
                    .and_then(|it| if it.is_file() { Ok(it) } else { Err("it is no file".to_owned()) });
                let usage = |error| Error::new(Code::Usage, format!("{}: {error}", path.display()));
                // On another file system every source has a copy of its own.
                (file.map_err(usage)?.len(), self.sources)
            }
        };
        let files = copies + self.liars + (self.nodes - self.sources);
        Ok(size.saturating_mul(files as u64))
    }
}

/// What the nodes know random bytes as.
const RANDOM_NAME: &str = "demo.bin";

/// How long to look for the content: many nodes answer on few cores.
const SEARCH_PATIENCE: Duration = Duration::from_secs(20);

/// How long a fetch waits when no source is left.
const FETCH_PATIENCE: Duration = Duration::from_secs(30);
