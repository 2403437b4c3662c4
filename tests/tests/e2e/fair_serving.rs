//! One node that serves several at once, within an upload limit: each gets its share of the bytes, whatever it fetches.

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, net};

#[test]
fn a_folder_of_small_files_gets_its_share_beside_a_large_file() {
    const FILES: usize = 2500;
    const LEN: usize = 1000;
    const LIMIT: f64 = 1_000_000.0;
    let net = net!();
    let folder = net.folder();
    let small = Content::new(3001, FILES * LEN);
    for (number, bytes) in small.bytes.chunks(LEN).enumerate() {
        put(&folder, &format!("small/{number}"), bytes);
    }
    put(&folder, "large", &Content::new(3002, 40 * MIB).bytes);
    let share = net.share_with(&folder, &["--max-upload", &format!("{LIMIT}")]);
    share.wait_until_hashed(&net, "large");
    share.wait_until_folder_is_hashed(&net, "small");
    let to = net.folder();
    let mut large = net.get("large", &to.join("large")).start();
    large.wait_for_bytes(MIB as u64 / 2);

    let fetched = net.get("small", &to.join("small")).run();

    large.kill9();
    let seconds = fetched.done()["seconds"].as_f64().expect("done tells the seconds");
    // By chunks it would be a sixteenth.
    let share = (FILES * LEN) as f64 / (LIMIT * seconds);
    assert!(share > 0.25, "{share} of all bytes\n{}", fetched.said());
}
