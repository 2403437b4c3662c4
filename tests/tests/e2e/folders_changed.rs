//! Folders that changed, here or there: what is the same is not fetched, what is there besides stays unless it is to go,
//! and nothing is replaced by something of another kind unasked.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::tree::{Entry, Tree};
use ftx_tests::{Content, listing, net};

use crate::disk::expect_error;
use crate::folders::{NAME, SMALL, expect_nothing_left, made, shared};

#[test]
fn only_what_changed_here_is_fetched() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2301, SMALL, &[]);
    let to = net.folder();
    let target = to.join(NAME);
    net.get(NAME, &target).run().done();
    // One byte of the large file; a file that moved; one that was cut; one that is gone; times and modes.
    flip(&target.join("large"), 2 * MIB + 5);
    fs::rename(target.join("tool"), target.join("moved tool")).expect("moved");
    fs::remove_file(target.join("empty file")).expect("removed");
    fs::remove_dir(target.join("empty folder")).expect("removed");
    fs::remove_file(target.join("to large")).expect("removed");

    let fetched = net.get(NAME, &target).run();

    // A chunk is wrong; that there is no better way to find out which is told by the hashes of a piece.
    assert_eq!(fetched.bytes_of_sources(), 16_384, "{}", fetched.said());
    assert_eq!(fetched.done()["copied_files"], 1, "{}", fetched.said());
    let moved = Tree::read(&target).only(|path, _| path == Path::new("moved tool"));
    tree.as_fetched().and(&moved).expect_in(&target);
    expect_nothing_left(&to);
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("it is there");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn whatever_changed_here_in_many_ways_is_put_right() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2302, SMALL, &[]);
    let tree = tree.as_fetched();
    let (to, state) = (net.folder(), net.folder());
    let target = to.join(NAME);
    net.get(NAME, &target).with_state(&state).run().done();
    for seed in 1..=6 {
        let aged = Tree::age(&target, seed);
        // Some of what is wrong is put right by what is elsewhere in the target.
        let is_wrong = |path: &Path, entry: &Entry| match (entry, aged.entry(path)) {
            (Entry::File { sha256, .. }, Some(Entry::File { sha256: found, .. })) => sha256 != found,
            (Entry::File { .. }, _) => true,
            _ => false,
        };
        let wrong = tree.only(is_wrong).size();
        let delete = (seed % 2 == 0).then_some("--delete");
        let fetched = net.get(NAME, &target).args(delete).with_state(&state).run();
        assert!(fetched.bytes_of_sources() <= wrong, "{wrong} were wrong\n{}", fetched.said());
        match delete {
            Some(_) => tree.expect_in(&target),
            None => tree.and(&aged.only(|path, _| tree.entry(path).is_none())).expect_in(&target),
        }
        expect_nothing_left(&to);
    }
}

#[test]
fn what_is_not_in_the_folder_goes_only_if_that_is_asked_for() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2303, SMALL, &[]);
    let tree = tree.as_fetched();
    let to = net.folder();
    let target = to.join(NAME);
    net.get(NAME, &target).run().done();
    let victim = net.folder();
    put(&victim, "theirs", b"theirs");
    put(&target, "extra/deep/file", b"extra");
    put(&target, "empty folder/extra.log", b"extra");
    symlink(&victim, target.join("extra/link")).expect("linked");
    let with_extras = Tree::read(&target);

    net.get(NAME, &target).run().done();
    assert_eq!(with_extras.only(|path, _| tree.entry(path).is_none()).and(&tree), Tree::read(&target));

    // What is left out is not looked at, and so stays.
    let fetched = net.get(NAME, &target).args(["--delete", "--exclude", "*.log"]).run();
    let paths = |fetched: &ftx_tests::Finished| {
        let event = fetched.events.iter().find(|event| event["event"] == "deleting");
        let paths = event.and_then(|event| event["paths"].as_array()).cloned().unwrap_or_default();
        paths.iter().filter_map(|path| path.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let at = |path: &str| target.join(path).display().to_string();
    let gone = [at("extra"), at("extra/deep"), at("extra/deep/file"), at("extra/link")];
    assert_eq!(paths(&fetched), gone, "{}", fetched.said());
    assert!(!target.join("extra").exists() && target.join("empty folder/extra.log").exists());
    assert_eq!(listing(&victim), ["theirs"]);

    let told = net.node(["get", NAME, "--delete", "-o"]).arg(&target).run().expect_status(0);
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(said.contains(&format!("deleting {}", at("empty folder/extra.log"))), "{}", told.said());
    tree.expect_in(&target);
    expect_nothing_left(&to);
}

#[test]
fn what_changed_at_the_source_is_fetched_and_no_more() {
    let net = net!();
    let (folder, tree, share) = shared(&net, 2304, SMALL, &[]);
    let root = share.wait_until_folder_is_hashed(&net, NAME);
    let to = net.folder();
    let target = to.join(NAME);
    net.get(NAME, &target).run().done();
    let source = folder.join(NAME);
    put(&source, "new file", &Content::new(1, 50_000).bytes);
    fs::rename(source.join("tool"), source.join("empty folder/tool")).expect("moved");
    fs::remove_file(source.join("empty file")).expect("removed");
    let new = Tree::read(&source).as_fetched();

    // The node is told of it, or sees it when it is asked: both take a moment.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(50);
    let fetched = loop {
        let fetched = net.get(NAME, &target).arg("--delete").run();
        if fetched.done()["root"] != root.as_str() && new.differences(&target).is_empty() {
            break fetched;
        }
        assert!(std::time::Instant::now() < deadline, "{:?}\n{}", new.differences(&target), fetched.said());
    };
    assert!(fetched.bytes_of_sources() <= 50_000, "{}", fetched.said());
    assert_ne!(tree.as_fetched(), new);
    expect_nothing_left(&to);
}

#[test]
fn a_file_in_the_way_of_a_folder_stays_unless_it_is_to_go() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2305, SMALL, &[]);
    let to = net.folder();
    let target = to.join(NAME);
    let get = |flags: &[&str]| net.get(NAME, &target).args(flags.iter().copied()).run();

    // The target itself, and one that leads to a folder.
    fs::write(&target, "in the way").expect("written");
    get(&[]).expect_error(9, "exists");
    assert_eq!(fs::read(&target).ok().as_deref(), Some(&b"in the way"[..]));
    assert_eq!(listing(&to), [NAME]);
    get(&["--force"]).done();
    tree.as_fetched().expect_in(&target);

    // Within it.
    fs::remove_dir(target.join("empty folder")).expect("removed");
    fs::write(target.join("empty folder"), "in the way").expect("written");
    fs::remove_file(target.join("tool")).expect("removed");
    put(&target, "tool/inner", b"in the way");
    let before = Tree::read(&target);
    expect_error(get(&[]), 9, "exists", &["empty folder", "tool", "--force"]);
    before.expect_in(&target);
    expect_nothing_left(&to);
    let forced = get(&["--force"]);
    forced.done();
    assert!(forced.events.iter().any(|event| event["event"] == "replacing"), "{}", forced.said());
    tree.as_fetched().expect_in(&target);
    expect_nothing_left(&to);
}

#[test]
fn a_link_to_a_folder_is_not_written_through() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2306, SMALL, &[]);
    let (to, victim) = (net.folder(), net.folder());
    let target = to.join(NAME);
    symlink(&victim, &target).expect("linked");
    let refused = net.get(NAME, &target).run();
    expect_error(refused, 9, "exists", &[NAME, "in the way", "remove it", "-o"]);
    assert_eq!((listing(&to), listing(&victim)), (vec![NAME.to_owned()], Vec::new()));
    net.get(NAME, &target).arg("--force").run().done();
    tree.as_fetched().expect_in(&target);
    // And one within.
    fs::remove_dir(target.join("empty folder")).expect("removed");
    symlink(&victim, target.join("empty folder")).expect("linked");
    net.get(NAME, &target).run().expect_error(9, "exists");
    net.get(NAME, &target).arg("--force").run().done();
    tree.as_fetched().expect_in(&target);
    assert_eq!(listing(&victim), [""; 0]);
}

/// Fetches while something happens to the files of the only source.
fn while_the_source(seed: u64, change: impl FnOnce(&Path)) -> ftx_tests::Finished {
    let net = net!();
    let (folder, tree, _share) = shared(&net, seed, SMALL, &["--max-upload", "3M"]);
    let to = net.folder();
    let target = to.join(NAME);
    let mut get = net.get(NAME, &target).args(["--timeout", "3"]).start();
    get.wait_for_bytes(2 * MIB as u64);
    change(&folder.join(NAME));
    let ended = get.finish();
    if ended.status == 0 {
        tree.as_fetched().expect_in(&target);
    } else {
        let error = ended.last("error");
        assert!([7, 11].contains(&ended.status), "{}", ended.said());
        assert!(error["message"].as_str().is_some_and(|message| message.contains("verified")), "{error}");
        assert!(!target.exists(), "{}", ended.said());
        // The same command brings what is there now.
        let again = net.get(NAME, &target).run();
        again.done();
        let now = Tree::read(&folder.join(NAME)).as_fetched();
        let differences = now.differences(&target);
        assert!(differences.is_empty(), "{differences:?}\n{}", again.said());
    }
    ended
}

#[test]
fn one_file_that_changes_at_the_only_source_does_not_make_wrong_ones() {
    let ended = while_the_source(2307, |tree| {
        fs::write(tree.join("large"), Content::new(1, SMALL.large).bytes).expect("written");
    });
    assert!(ended.status != 0, "{}", ended.said());
}

#[test]
fn files_that_vanish_at_the_only_source_do_not_make_wrong_ones() {
    // Files that are open already may still be read.
    while_the_source(2308, |tree| {
        for name in ["tool", "large"] {
            fs::remove_file(tree.join(name)).expect("removed");
        }
    });
}

#[test]
fn a_file_that_changes_at_one_of_two_sources_comes_from_the_other() {
    let net = net!();
    let sources: Vec<_> = (0..2).map(|_| shared(&net, 2309, SMALL, &["--max-upload", "2M"])).collect();
    let target = net.folder().join(NAME);
    let mut get = net.get(NAME, &target).start();
    get.wait_for_bytes(2 * MIB as u64);
    for (path, entry) in sources[0].1.entries() {
        if matches!(entry, Entry::File { size: 1.., .. }) {
            File::options()
                .write(true)
                .open(sources[0].0.join(NAME).join(path))
                .and_then(|file| file.set_len(1))
                .expect("cut");
        }
    }
    get.finish().done();
    sources[0].1.as_fetched().expect_in(&target);
}

#[test]
fn a_target_that_changes_meanwhile_is_put_right_by_the_next_one() {
    let net = net!();
    let (folder, tree) = made(&net, 2310, SMALL);
    let share = net.share_with(&folder, &["--max-upload", "4M"]);
    share.wait_until_folder_is_hashed(&net, NAME);
    let to = net.folder();
    let target = to.join(NAME);
    fs::create_dir(&target).expect("made");
    let mut get = net.get(NAME, &target).start();
    get.wait_for_bytes(2 * MIB as u64);
    // Somebody makes what is about to be made, of another kind.
    put(&target, "tool/inner", b"in the way");
    fs::write(target.join("empty folder"), "in the way").expect("written");
    let ended = get.finish();
    assert!(ended.status != 0, "{}", ended.said());
    assert_eq!(fs::read(target.join("tool/inner")).ok().as_deref(), Some(&b"in the way"[..]));
    let again = net.get(NAME, &target).arg("--force").run();
    again.done();
    tree.as_fetched().expect_in(&target);
    expect_nothing_left(&to);
}

#[test]
fn a_get_that_is_stopped_says_so_and_another_one_meanwhile_is_refused() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2311, SMALL, &["--max-upload", "4M"]);
    let to = net.folder();
    let target = to.join(NAME);
    let mut get = net.get(NAME, &target).start();
    let bytes = get.wait_for_bytes(2 * MIB as u64);
    let second = net.get(NAME, &target).run();
    assert_eq!(second.status, 1, "{}", second.said());
    assert!(second.last("error")["message"].as_str().is_some_and(|text| text.contains("by another process")));
    get.signal(ftx_tests::Signal::INT);
    get.finish().expect_error(130, "interrupted");
    assert!(!target.exists());
    let rest = net.get(NAME, &target).run();
    rest.done();
    assert!(rest.bytes_of_sources() + bytes <= tree.size(), "{bytes} were there\n{}", rest.said());
    tree.as_fetched().expect_in(&target);
    expect_nothing_left(&to);
}

#[test]
fn a_selection_that_changes_in_the_middle_keeps_what_came() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2312, SMALL, &["--max-upload", "4M"]);
    let tree = tree.as_fetched();
    let to = net.folder();
    let target = to.join(NAME);
    let mut get = net.get(NAME, &target).args(["--exclude", "tool"]).start();
    let bytes = get.wait_for_bytes(6 * MIB as u64);
    get.kill9();
    let rest = net.get(NAME, &target).run();
    rest.done();
    // What was whole in pieces of the old selection is found again by its bytes.
    assert!(rest.bytes_of_sources() + bytes <= tree.size() + MIB as u64, "{bytes}\n{}", rest.said());
    tree.expect_in(&target);
    expect_nothing_left(&to);
}

#[test]
fn a_file_that_was_right_and_changes_meanwhile_is_not_taken_for_right() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2313, SMALL, &["--max-upload", "1M"]);
    let (to, state) = (net.folder(), net.folder());
    let target = to.join(NAME);
    let get = || net.get(NAME, &target).with_state(&state);
    get().run().done();
    // A copy that was made without keeping the times, and of which something is missing.
    let file = File::open(target.join("tool")).expect("it is there");
    file.set_modified(std::time::SystemTime::now()).expect("its time is set");
    fs::remove_file(target.join("large")).expect("removed");
    let mut running = get().start();
    running.wait_for_bytes(0);
    flip(&target.join("tool"), 77);
    running.finish().done();

    let again = get().run();

    assert_eq!(again.bytes_of_sources(), 16 * 1024, "{}", again.said());
    tree.as_fetched().expect_in(&target);
}
