//! A process that is asked to end (SIGTERM, as at a shutdown) does so at once, with everything written down.

use std::time::{Duration, Instant};

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, Finished, Running, Signal, listing, net};

use crate::folders::{NAME, SMALL, made, shared};

/// It takes some 20 ms on a machine with nothing else to do, and has a second. Machines that run tests are busy.
const END_MAX: Duration = Duration::from_secs(4);

#[track_caller]
fn terminate(running: Running) -> Finished {
    running.signal(Signal::TERM);
    let asked = Instant::now();
    let ended = running.finish();
    let took = asked.elapsed();
    assert!(took < END_MAX, "it took {took:?}\n{}", ended.said());
    println!("ended {took:?} after SIGTERM");
    ended
}

#[test]
fn a_get_ends_at_once_and_goes_on_later() {
    let net = net!();
    let content = Content::new(1801, 12 * MIB);
    let shared = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let _source = net.share_with(&shared, &["--max-upload", "4M"]);
    let target = net.folder();
    let get = || net.get("image.iso", &target.join("image.iso"));

    let mut running = get().start();
    let verified = running.wait_for_bytes(4 * MIB as u64);
    terminate(running).expect_error(130, "interrupted");

    assert!(listing(&target).iter().all(|name| name.starts_with('.')), "{:?}", listing(&target));
    let fetched = get().run();
    let resumed = fetched.done()["resumed"].as_u64().unwrap_or_default();
    assert!(resumed >= verified, "{resumed} of {verified}\n{}", fetched.said());
    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"]);
}

#[test]
fn a_get_of_a_folder_ends_at_once_and_goes_on_later() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 1802, SMALL, &["--max-upload", "2M"]);
    let to = net.folder();
    let get = || net.get(NAME, &to.join(NAME));

    let mut running = get().start();
    let verified = running.wait_for_bytes(MIB as u64);
    terminate(running).expect_error(130, "interrupted");

    assert!(!to.join(NAME).exists());
    let fetched = get().run();
    let again = fetched.bytes_of_sources();
    assert!(
        again <= tree.size() - verified,
        "{again} bytes though {verified} were there\n{}",
        fetched.said()
    );
    tree.as_fetched().expect_in(&to.join(NAME));
}

#[test]
fn a_get_that_finds_nobody_ends_at_once() {
    let net = net!();
    let running = net.get("image.iso", &net.folder().join("image.iso")).args(["--timeout", "60"]).start();
    // Its signals are watched once it has threads for that, soon after it has an identity.
    let deadline = Instant::now() + END_MAX;
    while !running.state().join("run").exists() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let ended = terminate(running);
    assert!([130, 128 + 15].contains(&ended.status), "{}", ended.said());
}

#[test]
fn a_node_ends_at_once_whoever_fetches_from_it() {
    let net = net!();
    let content = Content::new(1803, 24 * MIB);
    let shared = copies(&net, 2, "image.iso", &content.bytes);
    let leaving = net.node(["--share"]).arg(&shared[0]).args(["--json", "--max-upload", "2M"]);
    let mut leaving = leaving.start();
    leaving.wait_for("it was ready", |event| event["event"] == "ready");
    let target = net.folder().join("image.iso");
    let mut get = net.get("image.iso", &target).start();
    get.wait_for_bytes(MIB as u64);

    let ended = terminate(leaving);

    assert_eq!(ended.status, 0, "{}", ended.said());
    ended.done();
    // And whoever fetched goes on with somebody else.
    let _staying = net.share(&shared[1]);
    get.finish().done();
    content.expect_in(&target);
}

#[test]
fn a_node_that_hashes_ends_at_once() {
    let net = net!();
    let (folder, _) = made(&net, 1804, SMALL);
    // Sparse, and long to hash.
    let large = std::fs::File::create(folder.join("large")).expect("made");
    large.set_len(64 << 30).expect("a sparse file");
    let mut running = net.node(["--share"]).arg(&folder).arg("--json").start();
    running.wait_for("it was ready", |event| event["event"] == "ready");
    assert_eq!(terminate(running).status, 0);
}
