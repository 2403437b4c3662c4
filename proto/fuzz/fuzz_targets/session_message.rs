//! Any frame is refused, or is a message that comes back as it was.
#![no_main]

use ftx_proto::wire::session::{HEADER_LEN, Header, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    let Some((header, rest)) = frame.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(Header { meta_len, payload_len }) = Header::decode(*header) else { return };
    let Some(meta) = rest.get(..meta_len) else { return };
    let Ok(message) = Message::decode(meta, payload_len) else { return };
    let bytes = message.encode(payload_len);
    assert_eq!(Message::decode(&bytes[HEADER_LEN..], payload_len), Ok(message));
});
