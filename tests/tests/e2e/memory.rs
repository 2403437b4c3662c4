//! Memory stays small however large the file is.

use std::fs::File;
use std::time::Duration;

use ftx_tests::{listing, net};

/// What a process may have resident at most.
const RESIDENT_BYTES_MAX: u64 = 100 << 20;

/// Size of the file: 2 GiB, or what `FTX_TEST_MEMORY_GIB` says.
fn file_size() -> u64 {
    let chosen = std::env::var("FTX_TEST_MEMORY_GIB").ok();
    chosen.map_or(2, |gibibytes| gibibytes.parse().expect("FTX_TEST_MEMORY_GIB is a number")) << 30
}

#[test]
fn a_large_file_is_shared_and_fetched_in_little_memory() {
    let net = net!();
    let size = file_size();
    let patience = Duration::from_secs(120 * (size >> 30).max(1));
    let shares = [0, 1].map(|_| {
        let folder = net.folder();
        File::create(folder.join("disk.img")).and_then(|file| file.set_len(size)).expect("a sparse file");
        net.share(&folder)
    });
    let target = net.folder();

    let timeout = patience.as_secs().to_string();
    let mut fetch = net
        .get("disk.img", &target.join("disk.img"))
        .args(["--timeout", &timeout])
        .deadline(patience)
        .start();
    let mut peak = 0;
    let mut line = fetch.next_line();
    while let Some(text) = line {
        // The last events may come when the process is gone already.
        peak = fetch.peak_resident_bytes().unwrap_or(peak);
        assert!(peak < RESIDENT_BYTES_MAX, "the get has {} MiB resident: {text}", peak >> 20);
        line = fetch.next_line();
    }
    let fetched = fetch.finish();

    assert_eq!(fetched.done()["size"], size, "{}", fetched.said());
    assert!(peak > 0, "memory was never measured");
    for share in &shares {
        let peak = share.process().peak_resident_bytes().expect("the share runs");
        assert!(peak < RESIDENT_BYTES_MAX, "a share has {} MiB resident", peak >> 20);
    }
    assert_eq!(listing(&target), ["disk.img"]);
    assert_eq!(std::fs::metadata(target.join("disk.img")).expect("there").len(), size);
}
