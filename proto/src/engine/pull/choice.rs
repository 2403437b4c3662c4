//! Which lane a source is asked on: the stream lane, or the datagram lane where the network loses packets.
//!
//! ```text
//!            losses                        it delivers more
//!   stream ---------> trial of datagrams -----------------> datagrams
//!      ^  <-----------/   it does not                        |   ^
//!      |                                        no losses    |   |  it does not
//!      \--- it delivers as much --- trial of the stream <----/   |
//!                                          \---------------------/
//! ```
//!
//! A trial asks everything on the other lane for a while and measures what comes. One that failed is repeated, less and
//! less often. Where nothing is to be had from the datagram lane it stays with the stream.
//!
//! TCP makes losses of its own: it sends more and more until a queue runs over. Its receiver sees each as a burst of
//! packets out of turn, and then none for a while. Losses of the network come all the time, so only those that are seen in
//! one sample after the other make a trial; a stream that crawls through them is left within two or three samples, and one
//! on which what was asked does not even arrive a little later.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Time;

/// What may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LaneMode {
    /// Whichever delivers more.
    #[default]
    Auto,
    /// The stream lane only.
    Stream,
    /// The datagram lane, and the stream lane only where that one is not to be had.
    Datagram,
}

/// A word that names no [`LaneMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither auto nor stream nor datagram")]
pub struct UnknownLane;

impl std::str::FromStr for LaneMode {
    type Err = UnknownLane;
    fn from_str(text: &str) -> Result<Self, UnknownLane> {
        match text {
            "auto" => Ok(LaneMode::Auto),
            "stream" => Ok(LaneMode::Stream),
            "datagram" => Ok(LaneMode::Datagram),
            _ => Err(UnknownLane),
        }
    }
}

/// What carries chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKind {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

impl LaneKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            LaneKind::Stream => "stream",
            LaneKind::Datagram => "datagram",
        }
    }
}

/// What a kind of lane has carried since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Bytes of chunks.
    pub bytes: u64,
    /// Packets that came, as far as they are counted.
    pub packets: u64,
    /// Packets that did not come, or not in their turn.
    pub lost: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// What has been carried up to now; once in [`SAMPLE_INTERVAL`].
    Sampled {
        /// By streams.
        stream: Carried,
        /// In datagrams.
        datagram: Carried,
        /// Something was asked for all the time.
        busy: bool,
        /// Some of what was asked on streams has not even arrived there.
        stuck: bool,
    },
    /// Datagrams pass.
    Opened,
    /// There is no datagram lane, or no more, for this reason.
    Unavailable(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open the datagram lane.
    Open,
    /// Ask on this lane from now on.
    Use {
        /// Which one.
        lane: LaneKind,
        /// Why, for people.
        reason: String,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub struct Choice {
    mode: LaneMode,
    lane: LaneKind,
    trial: Option<Trial>,
    available: bool,
    opening: bool,
    next_trial: Time,
    pause: Duration,
    samples: VecDeque<Sample>,
    /// What the stream lost in all of the last samples, without one in between where it lost little.
    streak: Streak,
    /// So many samples in a row nothing came, and what was asked had not arrived.
    stuck: u32,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    begun: Time,
    /// Bytes a second that the other lane carried before.
    rate_before: f64,
    loss_before: f64,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Time,
    stream: Carried,
    datagram: Carried,
}

/// Samples of the stream in a row, each of which had losses of the network.
#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    evidence: u32,
    time: Duration,
    carried: Carried,
}

impl Streak {
    fn rate(&self) -> f64 {
        self.carried.bytes as f64 / self.time.as_secs_f64().max(f64::EPSILON)
    }

    fn share(&self) -> f64 {
        self.carried.lost_share()
    }
}

impl Carried {
    /// What was carried after `earlier`.
    fn since(self, earlier: Carried) -> Carried {
        Carried {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            packets: self.packets.saturating_sub(earlier.packets),
            lost: self.lost.saturating_sub(earlier.lost),
        }
    }

    fn lost_share(self) -> f64 {
        if self.packets > 0 { (self.lost as f64 / self.packets as f64).min(1.0) } else { 0.0 }
    }
}

impl Choice {
    /// Begins with the stream lane.
    pub fn new(mode: LaneMode, now: Time) -> Self {
        Choice {
            mode,
            lane: LaneKind::Stream,
            trial: None,
            available: false,
            opening: false,
            next_trial: now,
            pause: PAUSE_MIN,
            samples: VecDeque::new(),
            streak: Streak::default(),
            stuck: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The lane to ask on.
    pub fn lane(&self) -> LaneKind {
        self.lane
    }

    /// Whether datagrams are wanted as soon as there is a lane for them.
    pub fn is_waiting(&self) -> bool {
        !self.available && (self.opening || self.mode == LaneMode::Datagram)
    }

    /// Takes in what happened. Then drain [`Choice::poll`].
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Opened => {
                self.available = true;
                self.opening = false;
                if self.mode == LaneMode::Datagram {
                    self.switch(LaneKind::Datagram, "it is wanted".to_owned());
                }
            }
            Input::Unavailable(reason) => {
                (self.available, self.opening, self.trial) = (false, false, None);
                self.forget();
                self.put_off(now);
                if self.lane == LaneKind::Datagram || self.mode == LaneMode::Datagram {
                    self.lane = LaneKind::Datagram;
                    self.switch(LaneKind::Stream, reason);
                }
            }
            Input::Sampled { stream, datagram, busy, stuck } => {
                if self.mode == LaneMode::Auto {
                    self.sampled(now, stream, datagram, busy, stuck);
                }
            }
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn sampled(&mut self, now: Time, stream: Carried, datagram: Carried, busy: bool, stuck: bool) {
        if !busy {
            // What is not asked for tells nothing.
            self.forget();
            if let Some(trial) = &mut self.trial {
                trial.begun = now;
            }
        }
        if let Some(last) = self.samples.back().filter(|_| self.lane == LaneKind::Stream) {
            self.lengthen(now.since(last.at), stream.since(last.stream), stuck);
        }
        self.samples.push_back(Sample { at: now, stream, datagram });
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
        match self.trial {
            Some(trial) if now.since(trial.begun) >= TRIAL => self.judge(now, trial),
            Some(_) => {}
            None => self.consider(now),
        }
    }

    /// What the stream carried since the last sample.
    fn lengthen(&mut self, time: Duration, stream: Carried, stuck: bool) {
        let streak = &mut self.streak;
        let is_silent = stream.packets == 0 && stream.bytes == 0;
        self.stuck = if is_silent && stuck { self.stuck + 1 } else { 0 };
        if stream.lost_share() >= LOSSY {
            streak.evidence += EVIDENCE_LOSSY;
        } else if is_silent && (streak.evidence > 0 || self.stuck >= STUCK) {
            // TCP waits long before it sends again what was lost with all that followed.
            streak.evidence += EVIDENCE_NOTHING;
        } else if stream.packets >= SAMPLE_PACKETS {
            *streak = Streak::default();
            return;
        }
        if streak.evidence > 0 {
            streak.time += time;
            streak.carried.bytes += stream.bytes;
            streak.carried.packets += stream.packets;
            streak.carried.lost += stream.lost;
        }
    }

    /// Whether the other lane is worth a trial.
    fn consider(&mut self, now: Time) {
        if now < self.next_trial {
            return;
        }
        match self.lane {
            // So it is at hand should they go on.
            LaneKind::Stream if self.streak.evidence > 0 && !self.available && !self.opening => self.open(),
            LaneKind::Stream
                if self.available
                    && self.streak.evidence >= EVIDENCE
                    && (self.streak.carried.packets >= STREAK_PACKETS || self.streak.time >= CRAWL) =>
            {
                let (rate, loss) = (self.streak.rate(), self.streak.share());
                let reason =
                    format!("trial: the stream lane gives {} with {} lost", mbs(rate), percent(loss));
                self.begin(now, LaneKind::Datagram, rate, loss, reason);
            }
            LaneKind::Datagram if self.samples.len() >= SAMPLES_MAX => {
                let Some((rate, loss)) = self.measure(self.lane, MEASURED).filter(|(_, loss)| *loss < CLEAN)
                else {
                    return;
                };
                let reason = format!("trial: the datagram lane gives {} and nothing is lost", mbs(rate));
                self.begin(now, LaneKind::Stream, rate, loss, reason);
            }
            _ => {}
        }
    }

    fn forget(&mut self) {
        self.samples.clear();
        self.streak = Streak::default();
        self.stuck = 0;
    }

    fn begin(&mut self, now: Time, lane: LaneKind, rate_before: f64, loss_before: f64, reason: String) {
        self.trial = Some(Trial { begun: now, rate_before, loss_before });
        self.forget();
        self.switch(lane, reason);
    }

    fn judge(&mut self, now: Time, trial: Trial) {
        let Some((rate, _)) = self.measure(self.lane, MEASURED) else { return };
        self.trial = None;
        let (tried, other) = match self.lane {
            LaneKind::Stream => (LaneKind::Stream, LaneKind::Datagram),
            LaneKind::Datagram => (LaneKind::Datagram, LaneKind::Stream),
        };
        // The stream costs less; where both give the same it is taken.
        let enough = match tried {
            LaneKind::Datagram => rate > 0.0 && rate >= trial.rate_before * BETTER,
            LaneKind::Stream => rate * BETTER >= trial.rate_before,
        };
        let rates = format!("{} against {}", mbs(rate), mbs(trial.rate_before));
        self.forget();
        if enough {
            self.pause = PAUSE_MIN;
            self.next_trial = now + self.pause;
            let reason = match tried {
                LaneKind::Datagram => format!("{rates} where {} is lost", percent(trial.loss_before)),
                LaneKind::Stream => format!("{rates}, and nothing is lost"),
            };
            self.switch(tried, reason);
        } else {
            self.put_off(now);
            self.switch(other, format!("the {} lane gave {rates}", tried.as_str()));
        }
    }

    fn put_off(&mut self, now: Time) {
        self.next_trial = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Bytes a second and share of losses of a lane over the last time, if there are samples of all of it.
    fn measure(&self, lane: LaneKind, over: Duration) -> Option<(f64, f64)> {
        let last = self.samples.back()?;
        let first = self.samples.iter().rev().find(|sample| last.at.since(sample.at) >= over)?;
        let carried = match lane {
            LaneKind::Stream => last.stream.since(first.stream),
            LaneKind::Datagram => last.datagram.since(first.datagram),
        };
        Some((carried.bytes as f64 / last.at.since(first.at).as_secs_f64(), carried.lost_share()))
    }

    fn open(&mut self) {
        self.opening = true;
        self.outputs.push_back(Output::Open);
    }

    fn switch(&mut self, lane: LaneKind, reason: String) {
        self.lane = lane;
        self.outputs.push_back(Output::Use { lane, reason });
    }
}

fn mbs(rate: f64) -> String {
    format!("{:.1} MB/s", rate / 1e6)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// How often samples are to be given.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// Time over which a lane is measured; and how long a trial takes, so that what was asked before is out of the way.
const MEASURED: Duration = Duration::from_millis(250);
const TRIAL: Duration = Duration::from_millis(500);

/// Samples that are remembered: two seconds of them.
const SAMPLES_MAX: usize = 40;

/// Share of packets out of turn in a sample from which on the network is taken to lose them. At one loss in a thousand TCP
/// delivers nearly all that the path carries, and some 4 % come out of turn, as they do while a queue runs over.
const LOSSY: f64 = 0.06;

/// What samples in a row have to tell for a trial: two lossy ones, or one and nothing at all in the next two; and of so many
/// packets at least, unless it has gone on for so long with fewer.
const EVIDENCE: u32 = 4;
const EVIDENCE_LOSSY: u32 = 2;
const EVIDENCE_NOTHING: u32 = 1;
const STREAK_PACKETS: u64 = 16;
const CRAWL: Duration = Duration::from_millis(250);

/// Samples in a row after which it is a sign of losses that what was asked has not arrived: a system confirms at once what
/// comes, however slow the program behind it is. TCP sends again after 200 ms, and then waits twice as long each time.
const STUCK: u32 = 3;

/// A sample of fewer packets does not tell that nothing is lost.
const SAMPLE_PACKETS: u64 = 30;

/// Losses of datagrams below which a trial of the stream pays.
const CLEAN: f64 = 0.0005;

/// The datagram lane is taken if it gives so many times what the stream gives.
const BETTER: f64 = 1.05;

/// Time from one trial to the next: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(3);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// A fetch of so many samples, in each of which the lane that is used carries this. What came of it.
    fn sampled(
        samples: u64,
        stuck: bool,
        carries: impl Fn(LaneKind, u64) -> Carried,
    ) -> (Choice, Vec<Output>) {
        let mut choice = Choice::new(LaneMode::Auto, Time::ZERO);
        let (mut now, mut outputs) = (Time::ZERO, Vec::new());
        let [mut stream, mut datagram] = [Carried::default(); 2];
        for sample in 0..samples {
            now += SAMPLE_INTERVAL;
            let more = carries(choice.lane(), sample);
            let sum = match choice.lane() {
                LaneKind::Stream => &mut stream,
                LaneKind::Datagram => &mut datagram,
            };
            sum.bytes += more.bytes;
            sum.packets += more.packets;
            sum.lost += more.lost;
            choice.handle(now, Input::Sampled { stream, datagram, busy: true, stuck });
            while let Some(output) = choice.poll() {
                if output == Output::Open {
                    choice.handle(now, Input::Opened);
                }
                outputs.push(output);
            }
        }
        (choice, outputs)
    }

    /// A fetch of so many seconds where each lane, when it is used, gives so many bytes a second and loses this share.
    fn run(seconds: u64, stream: (f64, f64), datagram: (f64, f64)) -> (Choice, Vec<Output>) {
        sampled(seconds * 20, false, |lane, _| {
            let (rate, loss) = if lane == LaneKind::Stream { stream } else { datagram };
            let bytes = (rate * SAMPLE_INTERVAL.as_secs_f64()) as u64;
            Carried { bytes, packets: 10_000, lost: (10_000.0 * loss) as u64 }
        })
    }

    #[test]
    fn where_nothing_is_lost_it_stays_with_the_stream() {
        let (choice, outputs) = run(60, (1e8, 0.0), (2e8, 0.0));
        assert_eq!((choice.lane(), outputs.len()), (LaneKind::Stream, 0));
    }

    #[test]
    fn a_queue_that_runs_over_now_and_then_is_no_reason() {
        let mut choice = Choice::new(LaneMode::Auto, Time::ZERO);
        choice.handle(Time::ZERO, Input::Opened);
        let (mut now, mut stream) = (Time::ZERO, Carried::default());
        for sample in 0..400 {
            now += SAMPLE_INTERVAL;
            stream.bytes += 5_000_000;
            stream.packets += 4_000;
            stream.lost += if sample % 4 == 0 { 400 } else { 0 };
            let datagram = Carried::default();
            choice.handle(now, Input::Sampled { stream, datagram, busy: true, stuck: false });
        }
        assert_eq!((choice.lane(), choice.poll()), (LaneKind::Stream, None));
    }

    #[test]
    fn a_stream_that_stands_still_after_losses_is_left() {
        let mut choice = Choice::new(LaneMode::Auto, Time::ZERO);
        let lossy = Carried { bytes: 30_000, packets: 30, lost: 9 };
        let datagram = Carried::default();
        let mut now = Time::ZERO;
        for stream in [Carried::default(), lossy, lossy, lossy, lossy] {
            now += SAMPLE_INTERVAL;
            choice.handle(now, Input::Sampled { stream, datagram, busy: true, stuck: false });
            if choice.poll() == Some(Output::Open) {
                choice.handle(now, Input::Opened);
            }
        }
        assert_eq!(choice.lane(), LaneKind::Datagram);
    }

    /// The stream carries this; datagrams carry 20 MB/s.
    fn beside_datagrams(of: impl Fn(u64) -> Carried) -> impl Fn(LaneKind, u64) -> Carried {
        move |lane, sample| match lane {
            LaneKind::Stream => of(sample),
            LaneKind::Datagram => Carried { bytes: 1_000_000, ..Carried::default() },
        }
    }

    #[test]
    fn a_stream_on_which_nothing_even_arrives_is_left() {
        let (choice, outputs) = sampled(25, true, beside_datagrams(|_| Carried::default()));
        assert_eq!((choice.lane(), outputs.len()), (LaneKind::Datagram, 3), "{outputs:?}");
    }

    #[test]
    fn where_no_lane_gives_anything_it_is_the_stream_that_is_waited_for() {
        let (choice, outputs) = sampled(100, true, |_, _| Carried::default());
        assert_eq!((choice.lane(), outputs.len()), (LaneKind::Stream, 5), "tried twice: {outputs:?}");
    }

    #[test]
    fn a_source_that_is_only_slow_is_not_left() {
        // Nothing for a second and more at a time, as with a small limit; nor where no packets are counted.
        let slow = |packets| {
            beside_datagrams(move |sample| match sample % 24 {
                0 => Carried { bytes: 16_384, packets, lost: 0 },
                _ => Carried::default(),
            })
        };
        for packets in [12, 0] {
            let (choice, outputs) = sampled(400, false, slow(packets));
            assert_eq!((choice.lane(), outputs.len()), (LaneKind::Stream, 0), "{outputs:?}");
        }
        // Nor if some of it does not arrive at once, as long as something comes.
        let steady = beside_datagrams(|_| Carried { bytes: 16_384, packets: 0, lost: 0 });
        let (choice, outputs) = sampled(400, true, steady);
        assert_eq!((choice.lane(), outputs.len()), (LaneKind::Stream, 0), "{outputs:?}");
    }

    #[test]
    fn what_the_stream_did_not_give_while_it_was_not_asked_is_no_sign() {
        let mut choice = Choice::new(LaneMode::Auto, Time::ZERO);
        (choice.lane, choice.available) = (LaneKind::Datagram, true);
        let (mut now, mut stream, mut datagram) = (Time::ZERO, Carried::default(), Carried::default());
        for sample in 0..200 {
            now += SAMPLE_INTERVAL;
            datagram.bytes += 1_000_000;
            datagram.packets += 1000;
            datagram.lost += 50;
            if sample == 100 {
                choice.handle(now, Input::Unavailable("gone".to_owned()));
                assert!(matches!(choice.poll(), Some(Output::Use { lane: LaneKind::Stream, .. })));
            }
            if choice.lane() == LaneKind::Stream {
                stream.bytes += 1_000_000;
                stream.packets += 20;
            }
            choice.handle(now, Input::Sampled { stream, datagram, busy: true, stuck: false });
        }
        assert_eq!((choice.lane(), choice.poll()), (LaneKind::Stream, None));
    }

    #[test]
    fn where_much_is_lost_and_datagrams_give_more_they_are_taken_soon() {
        let (choice, outputs) = run(2, (7e6, 0.2), (1.1e8, 0.05));
        assert_eq!(choice.lane(), LaneKind::Datagram);
        assert_eq!(outputs.len(), 3, "opened, tried, taken: {outputs:?}");
    }

    #[test]
    fn datagrams_that_give_less_are_tried_less_and_less_often() {
        let (choice, outputs) = run(120, (1e8, 0.08), (0.9e8, 0.01));
        assert_eq!(choice.lane(), LaneKind::Stream);
        let trials =
            outputs.iter().filter(|output| matches!(output, Output::Use { lane: LaneKind::Datagram, .. }));
        assert!((3..7).contains(&trials.count()), "{outputs:?}");
    }

    #[test]
    fn when_losses_end_it_goes_back_if_the_stream_gives_as_much() {
        let (choice, _) = run(20, (1e8, 0.08), (1.2e8, 0.0));
        assert_eq!(choice.lane(), LaneKind::Datagram, "the stream was tried and gave less");
        let mut choice = Choice::new(LaneMode::Auto, Time::ZERO);
        (choice.lane, choice.available) = (LaneKind::Datagram, true);
        let mut now = Time::ZERO;
        let mut sums = [Carried::default(); 2];
        for _ in 0..100 {
            now += SAMPLE_INTERVAL;
            sums[usize::from(choice.lane() == LaneKind::Datagram)].bytes += 1_000_000;
            let [stream, datagram] = sums;
            choice.handle(now, Input::Sampled { stream, datagram, busy: true, stuck: false });
        }
        assert_eq!(choice.lane(), LaneKind::Stream);
    }

    #[test]
    fn what_is_wanted_is_used_unless_it_is_not_to_be_had() {
        let mut choice = Choice::new(LaneMode::Datagram, Time::ZERO);
        choice.handle(Time::ZERO, Input::Opened);
        assert!(matches!(choice.poll(), Some(Output::Use { lane: LaneKind::Datagram, .. })));
        choice.handle(Time::ZERO, Input::Unavailable("a wall of fire".into()));
        let output = choice.poll();
        assert!(
            matches!(&output, Some(Output::Use { lane: LaneKind::Stream, reason }) if reason.contains("fire"))
        );
        assert_eq!(choice.lane(), LaneKind::Stream);
    }
}
