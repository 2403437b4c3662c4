//! Whatever is measured, the choice between lanes is always one of those that there are, and it changes it only by saying so.
#![no_main]

use ftx_proto::engine::pull::choice::{Carried, Choice, Input, LaneKind, LaneMode, Output, SAMPLE_INTERVAL};
use ftx_proto::time::Time;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, mut rest)) = data.split_first() else { return };
    let mode = [LaneMode::Auto, LaneMode::Stream, LaneMode::Datagram, LaneMode::Auto][usize::from(mode % 4)];
    let (mut choice, mut now, mut opened) = (Choice::new(mode, Time::ZERO), Time::ZERO, false);
    let (mut stream, mut datagram) = (Carried::default(), Carried::default());
    let mut lane = choice.lane();
    let mut wanted = mode == LaneMode::Datagram;
    while let Some((operation, after)) = rest.split_first() {
        rest = after;
        let mut byte = || {
            let (first, after) = rest.split_first().unwrap_or((&0, &[]));
            rest = after;
            u64::from(*first)
        };
        let input = match operation % 8 {
            0 if wanted => {
                opened = true;
                Input::Opened
            }
            1 => {
                opened = false;
                Input::Unavailable("none".to_owned())
            }
            _ => {
                now = now + SAMPLE_INTERVAL;
                for carried in [&mut stream, &mut datagram] {
                    let (bytes, packets) = (byte() << (byte() % 40), byte() * 100);
                    carried.bytes = carried.bytes.saturating_add(bytes);
                    carried.packets += packets;
                    carried.lost += packets * byte() / 255;
                }
                // A source that comes again counts from the beginning.
                if operation % 64 == 63 {
                    stream = Carried::default();
                }
                let (busy, stuck) = (operation % 16 != 15, operation % 32 >= 16);
                Input::Sampled { stream, datagram, busy, stuck }
            }
        };
        choice.handle(now, input);
        while let Some(output) = choice.poll() {
            match output {
                Output::Open => wanted = true,
                Output::Use { lane: next, reason } => {
                    assert!(!reason.is_empty());
                    assert!(next == LaneKind::Stream || opened, "only a lane that there is");
                    lane = next;
                }
            }
        }
        assert_eq!(choice.lane(), lane, "it says what it changes");
        assert!(mode != LaneMode::Stream || lane == LaneKind::Stream);
    }
});
