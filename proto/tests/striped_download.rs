//! The client of striped downloads against a server in virtual time: stripes that break, ports that are gone, lies.

use std::time::Duration;

use ftx_proto::interop::striped::download::{
    DownloadConfig, DownloadEngine, Failure, Input, Output, StripeEnd,
};
use ftx_proto::interop::striped::reply::{Reply, ReplyError};
use ftx_proto::interop::striped::{Md5Hash, Stripes, Threads};
use ftx_proto::time::Time;
use proptest::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

const HASH: Md5Hash = Md5Hash([7; 16]);

/// A server whose connections break now and then, and a caller that writes what it reads.
struct World {
    engine: DownloadEngine,
    now: Time,
    cut: Stripes,
    rng: ChaCha8Rng,
    break_percent: u32,
    refuse_percent: u32,
    /// Streams that break look as if they were complete.
    breaks_look_clean: bool,
    asked: u32,
    connected: Vec<u8>,
    ids: Vec<u8>,
    reads: Vec<(u8, u64)>,
    /// How often each byte was written.
    written: Vec<u32>,
}

impl World {
    fn new(seed: u64, size: u64, threads: u64) -> Self {
        let threads = Threads::new(threads).expect("1 to 255");
        World {
            engine: DownloadEngine::new(Time::ZERO, threads, DownloadConfig::default()),
            now: Time::ZERO,
            cut: Stripes::new(size, threads),
            rng: ChaCha8Rng::seed_from_u64(seed),
            break_percent: 0,
            refuse_percent: 0,
            breaks_look_clean: false,
            asked: 0,
            connected: Vec::new(),
            ids: Vec::new(),
            reads: Vec::new(),
            written: vec![0; size as usize + 1],
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn read(&mut self, stripe: u8, at: u64, skip: u64, len_max: u64) -> Input {
        let range = self.cut.range(stripe);
        let whole = range.end - range.start;
        let breaks = whole > 0 && self.chance(self.break_percent);
        let sent = if breaks { self.rng.random_range(0..whole) } else { whole };
        for place in skip..sent.min(len_max) {
            // A wrong place may be written, but not beyond what the bounds allow.
            if let Some(count) = self.written.get_mut((at + place) as usize) {
                *count += 1;
            }
        }
        let end = match breaks {
            _ if sent > len_max => StripeEnd::TooLong,
            true if !self.breaks_look_clean => StripeEnd::Broken,
            _ => StripeEnd::Closed,
        };
        Input::Ended { stripe, len: sent.min(len_max).max(skip), end }
    }

    /// Until it is over.
    fn run(&mut self) -> Result<u64, Failure> {
        for _ in 0..100_000 {
            let Some(output) = self.engine.poll() else {
                self.now = self.engine.deadline().expect("it waits for something").max(self.now);
                self.engine.handle(self.now, Input::Tick);
                continue;
            };
            let input = match output {
                Output::Ask => {
                    self.asked += 1;
                    self.connected.clear();
                    self.ids.clear();
                    Input::Replied(Ok(Reply { hash: HASH, port: 4000 + self.asked as u16 }))
                }
                Output::Connect { stripe, port } => {
                    assert_eq!(u32::from(port), 4000 + self.asked);
                    if self.chance(self.refuse_percent) {
                        Input::ConnectFailed { stripe }
                    } else {
                        self.connected.push(stripe);
                        Input::Connected { stripe }
                    }
                }
                Output::SendId { stripe } => {
                    assert!(self.connected.contains(&stripe));
                    self.ids.push(stripe);
                    continue;
                }
                Output::Read { stripe, at, skip, len_max } => {
                    assert!(self.ids.contains(&stripe));
                    self.reads.push((stripe, skip));
                    self.read(stripe, at, skip, len_max)
                }
                Output::Close { .. } | Output::Abandon => continue,
                Output::Complete { size, hash } => {
                    assert_eq!((hash, self.engine.poll(), self.engine.deadline()), (HASH, None, None));
                    return Ok(size);
                }
                Output::Failed(failure) => return Err(failure),
            };
            self.engine.handle(self.now, input);
        }
        panic!("no end");
    }
}

#[test]
fn all_connections_are_open_before_the_first_id() {
    let mut world = World::new(0, 10_001, 3);
    assert_eq!(world.engine.poll(), Some(Output::Ask));
    world.engine.handle(Time::ZERO, Input::Replied(Ok(Reply { hash: HASH, port: 5 })));
    for stripe in 0..3 {
        assert_eq!(world.engine.poll(), Some(Output::Connect { stripe, port: 5 }));
        assert_eq!(world.engine.poll(), None, "one after another");
        world.engine.handle(Time::ZERO, Input::Connected { stripe });
    }
    for stripe in 0..3 {
        assert_eq!(world.engine.poll(), Some(Output::SendId { stripe }));
    }
    let len_max = DownloadConfig::default().size_max;
    assert_eq!(world.engine.poll(), Some(Output::Read { stripe: 0, at: 0, skip: 0, len_max }));
    assert_eq!(world.engine.poll(), None, "nobody knows yet where the others belong");
    world.engine.handle(Time::ZERO, Input::Ended { stripe: 0, len: 3334, end: StripeEnd::Closed });
    for (stripe, at) in [(1, 3334), (2, 6668)] {
        assert_eq!(world.engine.poll(), Some(Output::Read { stripe, at, skip: 0, len_max: 3334 }));
    }
}

#[test]
fn every_size_is_put_together() {
    for size in [0, 1, 2, 7, 8, 9, 254, 255, 256, 10_001] {
        for threads in [1, 2, 3, 8, 11, 255] {
            let mut world = World::new(0, size, threads);
            assert_eq!(world.run(), Ok(size), "{size} bytes, {threads} threads");
            assert!(world.written[..size as usize].iter().all(|&count| count == 1));
            assert_eq!((world.written[size as usize], world.asked), (0, 1));
        }
    }
}

#[test]
fn a_broken_stripe_goes_on_where_it_broke() {
    for seed in 0..30 {
        let mut world = World::new(seed, 50_000, 8);
        (world.break_percent, world.refuse_percent) = (20, 20);
        match world.run() {
            Ok(size) => assert_eq!(size, 50_000),
            Err(failure) => assert_eq!(failure, Failure::Stripes, "seed {seed}"),
        }
        assert!(world.written.iter().all(|&count| count <= 1), "seed {seed}: a byte was written twice");
    }
}

#[test]
fn streams_that_end_early_without_a_word_are_noticed() {
    let mut noticed = 0;
    for seed in 0..60 {
        let mut world = World::new(seed, 50_000, 8);
        (world.break_percent, world.breaks_look_clean) = (10, true);
        match world.run() {
            // Only an end that is as good as the true one stays for the hash to find.
            Ok(size) => assert!((49_990..=50_000).contains(&size), "seed {seed}: {size}"),
            Err(failure) => assert!(matches!(failure, Failure::Stripes | Failure::Inconsistent)),
        }
        noticed += u32::from(world.reads.len() > 8);
    }
    assert!(noticed > 20, "{noticed} of 60");
}

#[test]
fn a_port_that_stays_closed_is_given_up() {
    let mut world = World::new(0, 100, 4);
    world.refuse_percent = 100;
    assert_eq!(world.run(), Err(Failure::Stripes));
    assert_eq!(world.asked, 1 + DownloadConfig::default().restarts_max);
    assert!((4..10).contains(&world.now.since_origin().as_secs()), "{:?}", world.now);
}

#[test]
fn a_server_that_refuses_or_is_silent_or_has_another_file_is_told() {
    let refused = ReplyError::Refused { status: 404 };
    let mut world = World::new(0, 1, 1);
    world.engine.handle(Time::ZERO, Input::Replied(Err(refused.clone())));
    let last = std::iter::from_fn(|| world.engine.poll()).last();
    assert_eq!(last, Some(Output::Failed(Failure::Control(refused))));

    let mut world = World::new(0, 1, 1);
    let due = world.engine.deadline().expect("patience has an end");
    world.engine.handle(due, Input::Tick);
    let last = std::iter::from_fn(|| world.engine.poll()).last();
    assert_eq!(last, Some(Output::Failed(Failure::NoReply)));

    let mut world = World::new(0, 1, 1);
    let (mut now, mut failed) = (Time::ZERO, None);
    for port in 1..60 {
        let hash = Md5Hash([port as u8 / 30; 16]);
        for output in std::iter::from_fn(|| world.engine.poll()).collect::<Vec<_>>() {
            match output {
                Output::Ask => world.engine.handle(now, Input::Replied(Ok(Reply { hash, port }))),
                Output::Connect { stripe, .. } => world.engine.handle(now, Input::ConnectFailed { stripe }),
                Output::Failed(failure) => failed = Some(failure),
                _ => {}
            }
        }
        now += Duration::from_millis(100);
        world.engine.handle(now, Input::Tick);
    }
    assert_eq!(failed, Some(Failure::Changed));
}

proptest! {
    #[test]
    fn reports_in_any_order_are_survived(
        reports in prop::collection::vec((0u8..6, any::<u8>(), any::<u64>()), 0..60),
    ) {
        let mut engine = DownloadEngine::new(Time::ZERO, Threads::new(5).expect("5"), DownloadConfig::default());
        for (which, stripe, len) in reports {
            let stripe = stripe % 6;
            engine.handle(Time::ZERO, match which {
                0 => Input::Replied(Ok(Reply { hash: HASH, port: 1 })),
                1 | 2 => Input::Connected { stripe },
                3 => Input::ConnectFailed { stripe },
                4 => Input::Ended { stripe, len, end: StripeEnd::Closed },
                _ => Input::Ended { stripe, len, end: StripeEnd::TooLong },
            });
            while engine.poll().is_some() {}
        }
    }
}
