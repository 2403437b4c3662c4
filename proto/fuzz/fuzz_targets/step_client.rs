//! Any bytes from a server: the client understands a reply, waits for more, or gives up, however they are cut.
#![no_main]

use ftx_proto::interop::step::client::{ClientSession, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let first = |len: usize| {
        let mut session = ClientSession::new(Some("token".to_owned()));
        session.begin(Request::ListFiles).expect("nothing was asked before");
        bytes
            .chunks(len.max(1))
            .map(|part| session.received(part))
            .find(|outcome| !matches!(outcome, Ok(None)))
    };
    // With bytes behind it a reply is an error at once if they are here already, at the next call if not.
    if let Some(Ok(understood)) = first(bytes.len()) {
        assert_eq!(Some(Ok(understood)), first(usize::from(*cut)));
    }
});
