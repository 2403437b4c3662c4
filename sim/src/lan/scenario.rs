//! What is measured on a network of hosts.

use ftx_node::error::{Code, Error};
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::shape::{Loss, Rate, Shape};

/// Most hosts: beyond, they only fight for the machine.
pub const HOSTS_MAX: usize = 64;

/// Most repetitions.
pub const RUNS_MAX: usize = 100;

/// What is measured. The hosts are, in this order: sources, hosts that fetch, others; the web server is on the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Hosts in all.
    pub hosts: usize,
    /// How many of them share the file.
    pub sources: usize,
    /// How many of them fetch it, all at once.
    pub fetchers: usize,
    /// How large the file is, in bytes.
    pub size: u64,
    /// The rate of each host's link.
    pub rate: Rate,
    /// The rate of the sources' links, where it differs.
    pub source_rate: Option<Rate>,
    /// Bytes that wait before a link.
    pub queue_bytes: u32,
    /// What each host loses of what arrives at it.
    pub loss: Loss,
    /// How many sources are killed in the middle.
    pub kill: usize,
    /// The lane that is asked for, if any.
    pub lane: Option<String>,
    /// TCP's congestion control.
    pub congestion_control: String,
    /// Whether `curl` fetches the file too.
    pub tcp: Tcp,
    /// Seconds after which `curl` is not waited for any more.
    pub tcp_seconds_max: u32,
    /// From what the file is made, and chosen who is killed when.
    pub seed: u64,
    /// How often it is measured.
    pub runs: usize,
}

/// Whether and when `curl` fetches the file too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tcp {
    /// After the node.
    After,
    /// At the same time, on the same host.
    Together,
    /// Not at all.
    Never,
}

impl Scenario {
    /// Hosts that are needed if nothing else is said: one is left for the web server.
    pub fn hosts_for(sources: usize, fetchers: usize) -> usize {
        sources.saturating_add(fetchers).saturating_add(1)
    }

    /// Refuses what cannot be measured.
    ///
    /// # Errors
    /// [`Code::Usage`].
    pub fn check(&self) -> Result<(), Error> {
        let Scenario { hosts, sources, fetchers, kill, runs, .. } = *self;
        let wrong = |message: String| Err(Error::new(Code::Usage, message));
        if hosts > HOSTS_MAX {
            return wrong(format!(
                "{hosts} hosts are more than this machine could serve; at most {HOSTS_MAX}"
            ));
        }
        if sources == 0 || fetchers == 0 {
            return wrong("there must be a source and a host that fetches".to_owned());
        }
        let needed = sources.saturating_add(fetchers);
        if needed > hosts {
            return wrong(format!(
                "{hosts} hosts are too few for {sources} sources and {fetchers} that fetch"
            ));
        }
        if kill >= sources {
            return wrong(format!("of {sources} sources {kill} are killed: one must be left"));
        }
        if self.tcp == Tcp::Together && needed == hosts {
            return wrong(format!(
                "--with-tcp needs a host of its own for the web server: at least {} hosts",
                needed + 1
            ));
        }
        if self.size == 0 {
            return wrong("there is nothing to measure about an empty file".to_owned());
        }
        if !(1..=RUNS_MAX).contains(&runs) {
            return wrong(format!("--runs {runs}: from 1 to {RUNS_MAX}"));
        }
        if !self.congestion_control.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return wrong(format!("'{}' is no congestion control", self.congestion_control));
        }
        Ok(())
    }

    /// Numbers of the sources' hosts.
    pub fn source_hosts(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.sources
    }

    /// Numbers of the hosts that fetch.
    pub fn fetcher_hosts(&self) -> std::ops::RangeInclusive<usize> {
        self.sources + 1..=self.sources + self.fetchers
    }

    /// The host of the web server: one that does nothing else, or, if there is none, a source.
    pub fn web_host(&self) -> usize {
        if self.hosts > self.sources + self.fetchers { self.hosts } else { 1 }
    }

    /// The cable of a host.
    pub fn shape(&self, host: usize) -> Shape {
        let is_source = self.source_hosts().contains(&host);
        let rate = self.source_rate.filter(|_| is_source).unwrap_or(self.rate);
        Shape { rate: Some(rate), queue_bytes: self.queue_bytes, loss: self.loss }
    }

    /// Which sources are killed in a run, and after how many thousandths of all that is to be fetched.
    pub fn kills(&self, run: usize) -> Vec<(usize, u64)> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed.wrapping_add(run as u64));
        let mut sources: Vec<usize> = self.source_hosts().collect();
        sources.shuffle(&mut random);
        sources.truncate(self.kill);
        sources.into_iter().map(|source| (source, random.random_range(KILLED_PER_MILLE))).collect()
    }
}

/// Sources die in the first part of a fetch: what they would have sent is missed then.
const KILLED_PER_MILLE: std::ops::Range<u64> = 100..500;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn scenario() -> Scenario {
        Scenario {
            hosts: 6,
            sources: 3,
            fetchers: 2,
            size: 1 << 20,
            rate: "1gbit".parse().unwrap(),
            source_rate: None,
            queue_bytes: super::super::shape::QUEUE_BYTES,
            loss: Loss::default(),
            kill: 2,
            lane: None,
            congestion_control: "cubic".to_owned(),
            tcp: Tcp::Together,
            tcp_seconds_max: 30,
            seed: 1,
            runs: 1,
        }
    }

    #[test]
    fn every_host_has_its_part() {
        let mut scenario = scenario();
        scenario.check().unwrap();
        assert_eq!(
            (scenario.source_hosts(), scenario.fetcher_hosts(), scenario.web_host()),
            (1..=3, 4..=5, 6)
        );
        scenario.source_rate = Some("100mbit".parse().unwrap());
        let rates = (1..=6).map(|host| scenario.shape(host).rate.unwrap().to_string());
        let (slow, fast) = ("100 Mbit/s", "1 Gbit/s");
        assert_eq!(rates.collect::<Vec<_>>(), [slow, slow, slow, fast, fast, fast]);
        (scenario.hosts, scenario.tcp) = (5, Tcp::After);
        assert_eq!(scenario.web_host(), 1);
    }

    #[test]
    fn the_seed_decides_who_is_killed_and_when() {
        let scenario = Scenario { sources: 40, hosts: 64, kill: 20, ..scenario() };
        let kills = scenario.kills(0);
        assert_eq!((kills.len(), &kills), (20, &scenario.kills(0)));
        assert_ne!(kills, scenario.kills(1));
        assert!(kills.iter().all(|(host, _)| scenario.source_hosts().contains(host)));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let refused = |change: fn(&mut Scenario)| {
            let mut scenario = scenario();
            change(&mut scenario);
            matches!(scenario.check(), Err(Error { code: Code::Usage, .. }))
        };
        assert!(refused(|scenario| scenario.hosts = 5));
        assert!(refused(|scenario| scenario.hosts = HOSTS_MAX + 1));
        assert!(refused(|scenario| scenario.sources = 0));
        assert!(refused(|scenario| scenario.sources = usize::MAX));
        assert!(refused(|scenario| scenario.fetchers = 0));
        assert!(refused(|scenario| scenario.kill = 3));
        assert!(refused(|scenario| scenario.size = 0));
        assert!(refused(|scenario| scenario.runs = 0));
        assert!(refused(|scenario| scenario.congestion_control = "cubic; reboot".to_owned()));
        assert!(!refused(|scenario| (scenario.hosts, scenario.tcp) = (5, Tcp::Never)));
    }
}
