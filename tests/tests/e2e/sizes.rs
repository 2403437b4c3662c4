//! Contents of every size at which an error by one would show.

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, TestNet, listing, net};

const CHUNK: usize = 16_384;

fn fetch_each(net: &TestNet, sizes: &[usize], sources: usize) {
    let contents: Vec<_> = sizes.iter().map(|&size| Content::new(1000 + size as u64, size)).collect();
    let folders: Vec<_> = (0..sources).map(|_| net.folder()).collect();
    for folder in &folders {
        for content in &contents {
            put(folder, &format!("of {} bytes", content.size()), &content.bytes);
        }
    }
    let _shares: Vec<_> = folders.iter().map(|folder| net.share(folder)).collect();
    let target = net.folder();
    for content in &contents {
        let name = format!("of {} bytes", content.size());
        let fetched = net.get(&name, &target.join(&name)).run();
        let done = fetched.done();
        assert_eq!(done["size"], content.size(), "{}", fetched.said());
        assert_eq!(done["root"], content.root().as_str(), "{}", fetched.said());
        content.expect_in(&target.join(&name));
    }
    assert_eq!(listing(&target).len(), sizes.len(), "{:?}", listing(&target));
}

#[test]
fn around_a_chunk_from_one_source() {
    fetch_each(&net!(), &[0, 1, CHUNK - 1, CHUNK, CHUNK + 1], 1);
}

#[test]
fn around_a_piece_from_one_source() {
    fetch_each(&net!(), &[MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB - CHUNK, 3 * MIB + CHUNK + 1], 1);
}

#[test]
fn every_edge_from_three_sources() {
    fetch_each(&net!(), &[0, 1, CHUNK - 1, CHUNK, CHUNK + 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7], 3);
}
