//! What fuzz targets try of the catalog.

use std::sync::Arc;

use ftx_proto::digest::Digest;
use ftx_proto::geometry::Geometry;
use ftx_proto::merkle::PieceLayer;

use super::cache::{CHECKSUM_LEN, decode, encode};
use super::content::Stamp;
use super::tree::Hashes;
use crate::fuzzing::Bytes;

/// Any bytes as a value of the cache, sealed or not: they are refused, or come back as they were understood. And what is
/// remembered of any file comes back.
pub fn cache(data: &[u8]) {
    let sealed = [data, &Digest::of(data).0[..CHECKSUM_LEN]].concat();
    for value in [data, &sealed] {
        let Some((stamp, hashes)) = decode(value) else { continue };
        let layer = match hashes {
            Hashes::Large(layer) => layer,
            Hashes::Small(root) => {
                let geometry = Geometry::new(stamp.size).expect("it was looked at");
                Arc::new(PieceLayer::of_small(geometry, root).expect("a small one"))
            }
        };
        assert_eq!(decode(&encode(&stamp, &layer)), Some((stamp, Hashes::from(&layer))));
    }
    let mut bytes = Bytes(data);
    let number = |eight: [u8; 8]| u64::from_le_bytes(eight);
    let stamp = Stamp {
        size: number(bytes.take()) % (40 << 20),
        mtime: (number(bytes.take()) as i64, u32::from_le_bytes(bytes.take()) % 1_000_000_000),
        inode: number(bytes.take()),
        device: number(bytes.take()),
        executable: bytes.next().is_some_and(|byte| byte % 2 == 1),
    };
    let geometry = Geometry::new(stamp.size).expect("not too large");
    let hashes = geometry.pieces().map(|_| Digest(bytes.take())).collect();
    let Ok(layer) = PieceLayer::from_hashes(geometry, hashes).map(Arc::new) else { return };
    let mut value = encode(&stamp, &layer);
    assert_eq!(decode(&value), Some((stamp, Hashes::from(&layer))));
    let place = usize::from(u16::from_le_bytes(bytes.take())) % value.len();
    value[place] ^= bytes.next().unwrap_or(1).max(1);
    assert_eq!(decode(&value), None, "it was changed");
}
