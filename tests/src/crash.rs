//! Processes that are killed again and again, at moments chosen from a seed, until what they do is done all the same.
//!
//! A [`Scenario`] is something that can be started again after a kill and ends some time: a `get`, a `put`. It says what
//! must hold after every kill and at the end. [`Trial`] kills it: as soon as it was started, while bytes come in, around
//! the end, when the final name appears. It does so in rounds, each with a fresh target, until it has killed as often as
//! it was told to; then the last round may end in peace.
//!
//! `FTX_CRASH_KILLS` says how many kills there are, `FTX_CRASH_SEED` from which seed the moments come. The seed chooses
//! what to wait for and how long, and the system what happens meanwhile, so a replay hits the same moments about.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::process::{Finished, Running};

/// Something that is done by a process, that may be killed and started again until it is done.
pub trait Scenario {
    /// Begins anew, with nothing done.
    fn begin(&mut self, round: u64);

    /// Starts the process, which goes on where the last one was.
    fn start(&mut self) -> Running;

    /// How many bytes of how many are done, if this event says so.
    fn progress(&self, event: &Value) -> Option<(u64, u64)> {
        let number = |field: &str| event[field].as_u64();
        let is_looking = event["phase"] == "finding" || event["phase"] == "hashing";
        let progress = number("bytes").zip(number("size")).filter(|(_, size)| *size > 0);
        progress.filter(|_| event["event"] == "progress" && !is_looking)
    }

    /// What is there when it is done, or nearly, if that can be seen on this machine.
    fn result(&self) -> Option<PathBuf>;

    /// Kills: the process itself, or the one that it depends on, which is then checked and started again here.
    fn strike(&mut self, running: Running) -> Struck {
        Struck::Killed(running.kill9())
    }

    /// Fails the test unless everything is as it should be after the process was killed.
    fn check_after_kill(&mut self, killed: &Finished);

    /// Fails the test unless everything is as it should be when the process has ended of itself; says whether it is
    /// done, or has to be started again.
    fn check_after_end(&mut self, ended: Finished) -> bool;
}

/// What a kill left.
#[derive(Debug)]
pub enum Struck {
    /// The process was killed.
    Killed(Finished),
    /// Another one was, and this one goes on.
    Lives(Running),
}

/// A number of kills of one scenario.
#[derive(Debug)]
pub struct Trial {
    name: String,
    seed: u64,
    kills_wanted: u64,
    dice: ChaCha8Rng,
    /// Kills so far.
    pub kills: u64,
    /// Rounds that were begun.
    pub rounds: u64,
    ends: u64,
    begun: Instant,
}

/// When a process is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// So long after its start.
    Started(Duration),
    /// When it has done this share of all, and so long after that.
    Reached(f64, Duration),
    /// When the result is there, and so long after that.
    Appeared(Duration),
}

impl Trial {
    /// A trial of the test that calls this, with `kills` kills unless the environment says otherwise.
    pub fn new(kills: u64) -> Self {
        let number = |variable: &str| {
            let text = std::env::var(variable).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
        };
        // Another one each time: what no run of today meets, one of tomorrow may.
        let seed = number("FTX_CRASH_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000));
        let kills_wanted = number("FTX_CRASH_KILLS").unwrap_or(kills);
        let dice = ChaCha8Rng::seed_from_u64(seed);
        let name = thread::current().name().unwrap_or_default().to_owned();
        Trial { name, seed, kills_wanted, dice, kills: 0, rounds: 0, ends: 0, begun: Instant::now() }
    }

    /// The seed that all moments come from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Kills the scenario's process until that was often enough.
    pub fn run(&mut self, scenario: &mut impl Scenario) {
        while self.kills < self.kills_wanted {
            self.rounds += 1;
            scenario.begin(self.seed.wrapping_add(self.rounds));
            let mut kills_left =
                self.dice.random_range(1..=KILLS_A_ROUND_MAX).min(self.kills_wanted - self.kills);
            let mut running = scenario.start();
            loop {
                let moment = (kills_left > 0).then(|| self.moment());
                let ended = if moment.is_some_and(|moment| moment.comes(&mut running, scenario)) {
                    match scenario.strike(running) {
                        Struck::Lives(lives) => {
                            (kills_left, self.kills) = (kills_left - 1, self.kills + 1);
                            running = lives;
                            continue;
                        }
                        Struck::Killed(killed) if killed.status == KILLED => {
                            (kills_left, self.kills) = (kills_left - 1, self.kills + 1);
                            scenario.check_after_kill(&killed);
                            running = scenario.start();
                            continue;
                        }
                        // It was faster, and is looked at as any other that has ended.
                        Struck::Killed(ended) => ended,
                    }
                } else {
                    running.finish()
                };
                if scenario.check_after_end(ended) {
                    break;
                }
                running = scenario.start();
            }
            self.ends += 1;
        }
    }

    /// A moment of one of the kinds.
    fn moment(&mut self) -> Moment {
        let dice = &mut self.dice;
        let mut micros = |bound: u64| Duration::from_micros(dice.random_range(0..=bound));
        let (middle, late, instant) = (micros(120_000), micros(250_000), micros(2_000));
        // As often within the first millisecond or two as within the second half second.
        let early = micros(1_000) * (1 << dice.random_range(0..10));
        match dice.random_range(0..12) {
            0 | 1 => Moment::Started(early),
            2..=7 => Moment::Reached(dice.random_range(0.0..0.9), middle),
            8 | 9 => Moment::Reached(dice.random_range(0.75..1.0), late),
            _ => Moment::Appeared(if dice.random() { Duration::ZERO } else { instant }),
        }
    }
}

impl Drop for Trial {
    /// Says what was done; in a failed test, how to do it again.
    fn drop(&mut self) {
        if self.rounds == 0 {
            return;
        }
        // Not `eprintln`: the test runner would hide it where the test passes.
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "{self}");
        if thread::panicking() {
            let Trial { name, seed, kills_wanted, .. } = self;
            let _ = writeln!(
                stderr,
                "replay with: FTX_CRASH_SEED={seed} FTX_CRASH_KILLS={kills_wanted} \
                 cargo test -p ftx-tests --test crash -- --include-ignored --exact {name}"
            );
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial { name, seed, kills, rounds, ends, .. } = self;
        let seconds = self.begun.elapsed().as_secs_f64();
        write!(
            f,
            "{name}: {kills} kills, {rounds} rounds, {ends} of them to the end, seed {seed}, {seconds:.1} s"
        )
    }
}

impl Moment {
    /// Waits for the moment; whether it came before the process ended.
    fn comes(self, running: &mut Running, scenario: &impl Scenario) -> bool {
        match self {
            Moment::Started(after) => !running.ends_within(after),
            Moment::Reached(share, after) => {
                let reached = running.comes_to(|event| {
                    scenario.progress(event).is_some_and(|(bytes, size)| bytes as f64 >= share * size as f64)
                });
                reached && !running.ends_within(after)
            }
            Moment::Appeared(after) => {
                let Some(result) = scenario.result() else {
                    return Moment::Reached(0.95, after * 10).comes(running, scenario);
                };
                let there = |path: &Path| std::fs::symlink_metadata(path).is_ok();
                while !there(&result) {
                    if running.ends_within(LOOK_INTERVAL) {
                        return false;
                    }
                }
                after.is_zero() || !running.ends_within(after)
            }
        }
    }
}

/// The status of a process that was killed.
const KILLED: i32 = 128 + 9;

/// Most kills before a round may end in peace.
const KILLS_A_ROUND_MAX: u64 = 8;

/// How often it is looked whether the result is there.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_chooses_the_same_moments() {
        let moments = || {
            let mut trial = Trial::new(0);
            trial.dice = ChaCha8Rng::seed_from_u64(7);
            (0..100).map(|_| trial.moment()).collect::<Vec<_>>()
        };
        let moments = [moments(), moments()];
        assert_eq!(moments[0], moments[1]);
        for kind in [0, 1, 2] {
            let is_of_kind = |moment: &Moment| match moment {
                Moment::Started(_) => kind == 0,
                Moment::Reached(..) => kind == 1,
                Moment::Appeared(_) => kind == 2,
            };
            assert!(moments[0].iter().any(is_of_kind), "{moments:?}");
        }
    }
}
