//! One direction of a link: a rate, a queue before it, the way itself, and what goes wrong on it.

use std::ops::Range;
use std::time::Duration;

use ftx_proto::time::Time;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// What a link is like.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSpec {
    /// Bytes a second.
    pub rate: f64,
    /// Time from one end to the other.
    pub delay: Duration,
    /// Up to so much more, different for each datagram; those that follow wait behind one that is late.
    pub jitter: Duration,
    /// Bytes that may wait before the link; what comes beyond is lost.
    pub queue: u64,
    /// Share of datagrams that are lost one by one.
    pub loss: f64,
    /// Bad times, in which most is lost.
    pub bursts: Option<Bursts>,
    /// Share of datagrams that come later than those that were sent after them, by up to [`LinkSpec::reorder_by`].
    pub reorder: f64,
    /// See [`LinkSpec::reorder`].
    pub reorder_by: Duration,
    /// Share of datagrams that come twice.
    pub duplicate: f64,
    /// Times in which nothing passes.
    pub cuts: Vec<Range<Time>>,
}

/// A link that is good and bad by turns. What disturbs it does not wait for datagrams: times are measured in those that 1,500
/// bytes take on the link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// Mean time from the end of a bad time to the next. More than 0.
    pub every: f64,
    /// Mean length of a bad time. More than 0.
    pub length: f64,
    /// Share that is lost in it.
    pub loss: f64,
}

/// What a link has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCount {
    /// Datagrams that were given to it.
    pub sent: u64,
    /// Bytes of those that passed its queue.
    pub carried: u64,
    /// Those that found the queue full.
    pub overflowed: u64,
    /// Those that were lost on the way.
    pub lost: u64,
    /// Sum over the datagrams of the bytes that were before them in the queue.
    pub waited: u64,
}

/// A link at work.
#[derive(Debug)]
pub struct Link {
    spec: LinkSpec,
    /// When everything that is queued now has left.
    busy_until: Time,
    /// When the last one arrives that keeps its place.
    arrives_until: Time,
    /// Whether it was bad when the last one left, and when that was.
    in_burst: bool,
    left_at: Time,
    count: LinkCount,
}

/// Bytes by which [`Bursts`] are measured.
const LARGE_DATAGRAM: f64 = 1500.0;

impl Bursts {
    /// The chance that it is bad, so long after it was or was not.
    fn chance_of_bad(&self, before: bool, elapsed: f64) -> f64 {
        let mean = self.length / (self.length + self.every);
        let before = if before { 1.0 } else { 0.0 };
        let memory = (-elapsed * (1.0 / self.length + 1.0 / self.every)).exp();
        (mean + (before - mean) * memory).clamp(0.0, 1.0)
    }
}

impl LinkSpec {
    /// A wire that loses nothing.
    pub fn wire(rate: f64, delay: Duration, queue: u64) -> Self {
        LinkSpec {
            rate,
            delay,
            jitter: Duration::ZERO,
            queue,
            loss: 0.0,
            bursts: None,
            reorder: 0.0,
            reorder_by: Duration::ZERO,
            duplicate: 0.0,
            cuts: Vec::new(),
        }
    }

    /// The same without anything that goes wrong.
    #[must_use]
    pub fn without_faults(&self) -> Self {
        LinkSpec::wire(self.rate, self.delay, self.queue)
    }

    /// A network by its name: `ethernet`, `wifi`, `wifi-bad` or `powerline`.
    pub fn preset(name: &str) -> Option<Self> {
        let micros = Duration::from_micros;
        Some(match name {
            "ethernet" => LinkSpec::wire(125e6, micros(50), 256 << 10),
            "wifi" => LinkSpec {
                jitter: micros(3_000),
                loss: 0.01,
                reorder: 0.002,
                reorder_by: micros(2_000),
                ..LinkSpec::wire(30e6, micros(1_000), 512 << 10)
            },
            "wifi-bad" => LinkSpec {
                jitter: micros(15_000),
                loss: 0.05,
                bursts: Some(Bursts { every: 2_000.0, length: 30.0, loss: 0.8 }),
                reorder: 0.01,
                reorder_by: micros(8_000),
                duplicate: 0.001,
                ..LinkSpec::wire(4e6, micros(3_000), 256 << 10)
            },
            "powerline" => LinkSpec {
                jitter: micros(5_000),
                loss: 0.02,
                bursts: Some(Bursts { every: 5_000.0, length: 100.0, loss: 0.9 }),
                ..LinkSpec::wire(12e6, micros(2_000), 128 << 10)
            },
            _ => return None,
        })
    }
}

impl Link {
    /// A link on which nothing has happened.
    pub fn new(spec: LinkSpec) -> Self {
        Link {
            spec,
            busy_until: Time::ZERO,
            arrives_until: Time::ZERO,
            in_burst: false,
            left_at: Time::ZERO,
            count: LinkCount::default(),
        }
    }

    /// What it has done.
    pub fn count(&self) -> LinkCount {
        self.count
    }

    /// Bytes that wait before it.
    pub fn queued(&self, now: Time) -> u64 {
        (self.busy_until.since(now).as_secs_f64() * self.spec.rate) as u64
    }

    /// When there is room in the queue again for a sender that waits rather than loses.
    pub fn room_at(&self, now: Time, bytes: u64) -> Time {
        let over = (self.queued(now) + bytes).saturating_sub(self.spec.queue);
        now + Duration::from_secs_f64(over as f64 / self.spec.rate)
    }

    /// Sends a datagram of so many bytes: when it arrives, never, once or twice.
    pub fn send(&mut self, now: Time, bytes: u64, random: &mut ChaCha8Rng) -> Vec<Time> {
        self.count.sent += 1;
        let queued = self.queued(now);
        if queued + bytes > self.spec.queue {
            self.count.overflowed += 1;
            return Vec::new();
        }
        self.count.waited += queued;
        self.count.carried += bytes;
        self.busy_until = self.busy_until.max(now) + Duration::from_secs_f64(bytes as f64 / self.spec.rate);
        let left = self.busy_until;
        if self.is_lost(left, random) {
            self.count.lost += 1;
            return Vec::new();
        }
        let mut times = vec![self.arrival(left, random)];
        if random.random_bool(self.spec.duplicate) {
            times.push(self.arrival(left, random));
        }
        times
    }

    fn is_lost(&mut self, at: Time, random: &mut ChaCha8Rng) -> bool {
        let mut loss = self.spec.loss;
        if let Some(bursts) = self.spec.bursts {
            let elapsed = at.since(std::mem::replace(&mut self.left_at, at)).as_secs_f64();
            let chance = bursts.chance_of_bad(self.in_burst, elapsed * self.spec.rate / LARGE_DATAGRAM);
            self.in_burst = random.random_bool(chance);
            if self.in_burst {
                loss = bursts.loss;
            }
        }
        random.random_bool(loss) || self.spec.cuts.iter().any(|cut| cut.contains(&at))
    }

    fn arrival(&mut self, left: Time, random: &mut ChaCha8Rng) -> Time {
        let direct = left + self.spec.delay;
        if self.spec.reorder > 0.0 && random.random_bool(self.spec.reorder) {
            return direct + self.spec.reorder_by.mul_f64(random.random_range(0.0..1.0));
        }
        // A retry on the air holds up everything behind it; most go through at once.
        let late: f64 = random.random_range(0.0..1.0);
        let arrives = (direct + self.spec.jitter.mul_f64(late.powi(8))).max(self.arrives_until);
        self.arrives_until = arrives;
        arrives
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn wire() -> LinkSpec {
        LinkSpec::wire(1e6, Duration::from_millis(2), 10_000)
    }

    fn micros(micros: u64) -> Time {
        Time::ZERO + Duration::from_micros(micros)
    }

    /// Sends so many datagrams of 1,000 bytes, one every so many microseconds: when each of them came, and what was
    /// counted.
    fn send(spec: LinkSpec, count: u64, every: u64) -> (Vec<Vec<Time>>, LinkCount) {
        let (mut link, mut random) = (Link::new(spec), ChaCha8Rng::seed_from_u64(7));
        let times = (0..count).map(|number| link.send(micros(number * every), 1000, &mut random)).collect();
        (times, link.count())
    }

    fn share(part: u64, all: u64) -> f64 {
        part as f64 / all as f64
    }

    #[test]
    fn what_is_sent_at_once_comes_at_the_rate_of_the_link() {
        let (times, count) = send(wire(), 10, 0);
        let expected: Vec<_> = (1..=10).map(|number| vec![micros(number * 1000 + 2000)]).collect();
        assert_eq!(times, expected);
        assert_eq!((count.sent, count.carried, count.waited), (10, 10_000, 45_000));
    }

    #[test]
    fn what_the_queue_does_not_hold_is_lost() {
        let (times, count) = send(wire(), 15, 0);
        assert!(times[..10].iter().all(|times| times.len() == 1) && times[10..].iter().all(Vec::is_empty));
        assert_eq!((count.overflowed, count.lost), (5, 0));
        let (mut link, mut random) = (Link::new(wire()), ChaCha8Rng::seed_from_u64(7));
        let mut now = Time::ZERO;
        for _ in 0..100 {
            now = link.room_at(now, 1000) + Duration::from_nanos(100);
            link.send(now, 1000, &mut random);
        }
        assert_eq!(link.count().overflowed, 0, "who waits loses nothing");
    }

    #[test]
    fn as_many_are_lost_as_is_said() {
        let (_, count) = send(LinkSpec { loss: 0.2, ..wire() }, 20_000, 1000);
        assert!((share(count.lost, 20_000) - 0.2).abs() < 0.01, "{count:?}");
        // A datagram of the test is two thirds of a large one.
        let bursts = Some(Bursts { every: 60.0, length: 20.0 / 3.0, loss: 1.0 });
        let (times, count) = send(LinkSpec { bursts, ..wire() }, 100_000, 1000);
        assert!((share(count.lost, 100_000) - 0.1).abs() < 0.01, "{count:?}");
        let ends = times.windows(2).filter(|pair| pair[0].is_empty() && !pair[1].is_empty()).count() as u64;
        assert!((share(count.lost, ends) - 10.0).abs() < 1.0, "{} in a row", share(count.lost, ends));
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let late = Duration::from_millis(5);
        let (times, _) = send(LinkSpec { jitter: late, ..wire() }, 2000, 1000);
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        let delays: Vec<_> =
            times.iter().zip(1..).map(|(times, number)| times[0].since(micros(number * 1000))).collect();
        assert!(delays.iter().all(|delay| (2..=7).contains(&delay.as_millis())), "never more than it may be");
        assert!(delays.iter().any(|delay| delay.as_millis() >= 5));
        let (times, _) = send(LinkSpec { reorder: 0.1, reorder_by: late, ..wire() }, 2000, 1000);
        let overtaken = times.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!((100..250).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn as_many_come_twice_as_is_said() {
        let (times, _) = send(LinkSpec { duplicate: 0.1, ..wire() }, 20_000, 1000);
        let twice = times.iter().filter(|times| times.len() == 2).count() as u64;
        assert!(
            times.iter().all(|times| !times.is_empty()) && (share(twice, 20_000) - 0.1).abs() < 0.01,
            "{twice}"
        );
    }

    #[test]
    fn nothing_passes_while_it_is_cut() {
        let spec = LinkSpec { cuts: vec![micros(5_000)..micros(8_000)], ..wire() };
        let (times, count) = send(spec, 12, 1000);
        // Each leaves a millisecond after it was sent.
        let passed: Vec<bool> = times.iter().map(|times| !times.is_empty()).collect();
        let expected: Vec<bool> = (1..=12).map(|leaves| !(5..8).contains(&leaves)).collect();
        assert_eq!(passed, expected);
        assert_eq!(count.lost, 3);
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        for name in ["ethernet", "wifi", "wifi-bad", "powerline"] {
            let spec = LinkSpec::preset(name).expect("it exists");
            assert_eq!(send(spec.clone(), 5000, 100), send(spec, 5000, 100));
        }
        assert_eq!(LinkSpec::preset("carrier pigeons"), None);
    }
}
