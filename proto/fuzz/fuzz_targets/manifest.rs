//! Any bytes are refused, or are a manifest that comes back from its encoding, names nothing outside of its folder, and
//! whose files are cut so that every byte is in one chunk. Small bytes never claim much memory.
#![no_main]

use std::collections::BTreeSet;

use ftx_proto::geometry::{CHUNK_SIZE, PIECE_CHUNKS};
use ftx_proto::manifest::{EntryKind, Manifest, may_lead_out};
use ftx_proto::merkle::PieceLayer;
use ftx_proto::name::RelativePath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    decode(data);
    // What does not begin as a manifest is tried as the rest of one.
    decode(&[b"FTXTREE\x01", data].concat());
});

fn decode(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    let encoded = manifest.encode().expect("no longer than what it came from");
    assert!(encoded.len() <= bytes.len(), "it is encoded in the shortest way");
    let again = Manifest::decode(&encoded).expect("what is encoded is a manifest");
    assert_eq!((&again, again.root()), (&manifest, manifest.root()));
    assert_eq!(again.encode().expect("as before"), encoded);
    assert!(manifest.entries().len() < bytes.len());
    check_entries(&manifest);
    check_cut(&manifest);
}

fn check_entries(manifest: &Manifest) {
    let mut folders = BTreeSet::new();
    for entry in manifest.entries() {
        if let Some((parent, _)) = entry.path.as_str().rsplit_once('/') {
            assert!(folders.contains(parent), "what is in a folder comes behind it");
        }
        match &entry.kind {
            EntryKind::Folder { .. } => assert!(folders.insert(entry.path.as_str())),
            EntryKind::Link { target } if !may_lead_out(&entry.path, target) => {
                assert!(stays_inside(&entry.path, target));
            }
            _ => {}
        }
    }
}

/// Whether a link leads to a place in the folder, if no part of its target is a link.
fn stays_inside(path: &RelativePath, target: &str) -> bool {
    let mut depth = path.parts().count() as i64 - 1;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    !target.starts_with('/')
}

fn check_cut(manifest: &Manifest) {
    let geometry = manifest.geometry();
    let folder = geometry.folder().expect("the cut of a manifest is a folder's");
    assert_eq!((folder.root(), folder.files().len()), (manifest.data_root(), manifest.with_bytes().len()));
    let (mut offset, mut last_end) = (0, 0);
    for (number, file) in folder.files().iter().enumerate() {
        let entry = manifest.file(number).expect("a file with bytes is an entry");
        assert!(
            matches!(entry.kind, EntryKind::File { size, root, .. } if (size, root) == (file.size(), file.root()))
        );
        let span = file.span();
        assert!(span.first().get() >= last_end && file.offset() == offset);
        (offset, last_end) = (offset + file.size(), span.end());
        let first = geometry.chunk(span.first().get()).expect("its first chunk exists");
        let last = geometry.chunk(span.end() - 1).expect("its last chunk exists");
        assert_eq!(geometry.offset_of(first), file.offset());
        assert_eq!(geometry.offset_of(last) + u64::from(geometry.chunk_len(last)), offset);
        assert!((1..=CHUNK_SIZE).contains(&geometry.chunk_len(last)));
        assert_eq!((folder.file_of(first), folder.file_of(last)), (number, number));
        assert!(file.is_large() || first.piece() == last.piece(), "a small file lies in one piece");
        assert!(!file.is_large() || first.in_piece() == 0, "a large one begins one");
    }
    assert_eq!((offset, geometry.chunk(last_end)), (geometry.size(), None));
    assert_eq!(geometry.piece_count(), last_end.div_ceil(PIECE_CHUNKS));
    if folder.files().iter().all(|file| !file.is_large()) {
        assert!(PieceLayer::of_small(geometry.clone(), manifest.data_root()).is_some());
    }
}
