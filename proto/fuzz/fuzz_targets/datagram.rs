//! Any datagram of the lane for lossy networks is refused, or says what comes back as it was; whatever a Want names,
//! exists.
#![no_main]

use ftx_proto::digest::Root;
use ftx_proto::geometry::Geometry;
use ftx_proto::limits::{WANT_CHUNKS_MAX, WANT_FRAGMENTS_MAX};
use ftx_proto::wire::datagram::{Asking, HEADER_LEN, Header, Serving, padding};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(header) = Header::decode(input) {
        assert_eq!(header.encode(), input[..HEADER_LEN]);
    }
    let Some((&[a, b, c], body)) = input.split_first_chunk::<3>() else { return };
    let Ok(geometry) = Geometry::new(u64::from_be_bytes([0, 0, 0, 0, 0, a, b, c])) else { return };
    // Of some the content is a folder: so many small files, one larger than a piece, and a small one.
    let geometry = if a == 0xf0 {
        let (root, large) = (Root([1; 32]), (1 << 20) + 100 * u64::from(c));
        let sizes = (0..b).map(|number| 1 + 300 * u64::from(number)).chain([large + 1, 9]);
        Geometry::of_folder(root, sizes.map(|size| (size, root))).expect("not too large")
    } else {
        geometry
    };
    if let Ok(asking) = Asking::decode(body, &geometry) {
        assert_eq!(asking.encode(), body);
        if let Asking::Want(want) = asking {
            assert!(want.chunks.len() <= WANT_CHUNKS_MAX && want.fragments() <= WANT_FRAGMENTS_MAX);
            let mut fragments = 0;
            for (chunk, mask) in want.send_order() {
                let len = geometry.chunk_len(chunk);
                for fragment in mask.iter() {
                    let range = want.layout.range(len, fragment);
                    assert!(!range.is_empty() && range.end <= len as usize);
                    fragments += 1;
                }
            }
            assert_eq!(fragments, want.fragments());
        }
    }
    match Serving::decode(body) {
        Ok(Serving::Data(head, bytes)) => {
            assert!(!bytes.is_empty());
            assert_eq!([&head.encode()[..], bytes].concat(), body);
        }
        Ok(Serving::Padding { number }) => assert_eq!(padding(number, 0), body[..5]),
        Err(_) => {}
    }
});
