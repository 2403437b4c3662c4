//! Any payload is refused, or is a datagram that comes back as it was.
#![no_main]

use ftx_proto::limits::DATAGRAM_SIZE_MAX;
use ftx_proto::wire::discovery::Datagram;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let Ok(datagram) = Datagram::decode(payload) else { return };
    let bytes = datagram.encode();
    assert!(bytes.len() <= DATAGRAM_SIZE_MAX);
    assert!(bytes.len() <= payload.len(), "what is encoded is the shortest form");
    assert_eq!(Datagram::decode(&bytes), Ok(datagram));
});
