//! Any control request and any reply to one, however they are cut.
#![no_main]

use ftx_proto::interop::striped::control::RequestParser;
use ftx_proto::interop::striped::reply::ReplyParser;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let request = |len: usize| {
        let mut parser = RequestParser::new();
        bytes.chunks(len.max(1)).find_map(|part| parser.push(part)).unwrap_or_else(|| parser.end())
    };
    assert_eq!(format!("{:?}", request(bytes.len())), format!("{:?}", request(usize::from(*cut))));
    let reply = |len: usize| {
        let mut parser = ReplyParser::new();
        bytes.chunks(len.max(1)).find_map(|part| parser.push(part)).unwrap_or_else(|| parser.end())
    };
    // Which error it is may depend on how much was seen; whether it is one may not.
    assert_eq!(reply(bytes.len()).ok(), reply(usize::from(*cut)).ok());
});
