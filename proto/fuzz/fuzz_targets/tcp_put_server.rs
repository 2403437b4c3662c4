//! Any bytes from a client, however they are cut: never more data than was announced, and never a name with parts.
#![no_main]

use ftx_proto::interop::tcp_put::server::{Input, Output, ServerConfig, ServerSession};
use ftx_proto::time::Time;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let mut session = ServerSession::new(Time::ZERO, ServerConfig::default());
    let (mut announced, mut taken) = (0, 0);
    for part in bytes.chunks(usize::from(*cut).max(1)) {
        session.handle(Time::ZERO, Input::Received(part));
        while let Some(output) = session.poll() {
            match output {
                Output::Open { name, size } => {
                    assert_eq!(name.parts().count(), 1);
                    announced = size;
                    session.handle(Time::ZERO, Input::Opened);
                }
                Output::Data(range) => {
                    taken += part.get(range).expect("a part of what was handed in").len() as u64;
                }
                _ => {}
            }
        }
        assert!(taken <= announced);
    }
});
