//! Any payload is refused, or is cut into a head and something sealed; what is sealed, taken as if the seal were right, is
//! refused, or is a datagram that comes back as it was.
#![no_main]

use ftx_proto::limits::SEALED_SIZE_MAX;
use ftx_proto::wire::sealed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let Ok(sealed::Parts { head, nonce, body }) = sealed::split(payload) else { return };
    assert!(payload.len() <= SEALED_SIZE_MAX);
    assert_eq!(head, sealed::head(&nonce));
    let Ok(datagram) = sealed::from_plain(&body[..body.len() - sealed::TAG_LEN]) else { return };
    let plain = sealed::plain(&datagram);
    assert!(sealed::PLAIN_SIZES.contains(&plain.len()));
    assert_eq!(sealed::from_plain(&plain), Ok(datagram));
});
