//! Trouble with the disk: full, read-only, forbidden, gone, broken. Each ends with its exit status and a sentence that says
//! what to do; the part stays, and once the cause is gone the same command goes on.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ftx_tests::data::MIB;
use ftx_tests::inside::{self, Namespaces};
use ftx_tests::power::Image;
use ftx_tests::share::copies;
use ftx_tests::{Content, Finished, Machine, Share, TestNet, listing, net};

const NAME: &str = "image.iso";
const PART: &str = ".image.iso.ftx-part";
const JOURNAL: &str = ".image.iso.ftx-journal";

/// A node that gives a content at a rate.
fn source(net: &TestNet, seed: u64, size: usize, rate: &str) -> (Content, Share) {
    let content = Content::new(seed, size);
    let share = net.share_with(&copies(net, 1, NAME, &content.bytes)[0], &["--max-upload", rate]);
    (content, share)
}

/// Fails unless the fetch ended like this, with a sentence that has all these words.
#[track_caller]
pub(crate) fn expect_error(ended: Finished, status: i32, code: &str, words: &[&str]) {
    let ended = ended.expect_error(status, code);
    let message = ended.last("error")["message"].as_str().unwrap_or_default();
    for word in words {
        assert!(message.contains(word), "no '{word}' in '{message}'");
    }
}

/// Runs the same command again, which must go on from `safe` bytes at least.
#[track_caller]
fn expect_to_go_on(machine: &Machine, content: &Content, folder: &Path, safe: u64) {
    let fetched = machine.get(NAME, &folder.join(NAME)).run();
    let resumed = fetched.done()["resumed"].as_u64().unwrap_or_default();
    assert!(resumed >= safe, "{resumed} bytes were there, and {safe} should have been\n{}", fetched.said());
    content.expect_in(&folder.join(NAME));
    assert!(
        !listing(folder).iter().any(|name| [PART, JOURNAL].contains(&name.as_str())),
        "{:?}",
        listing(folder)
    );
}

/// A tmpfs of so many mebibytes.
pub(crate) fn small_disk(net: &TestNet, mebibytes: usize) -> PathBuf {
    let folder = net.folder();
    inside::mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"], &folder);
    folder
}

#[test]
fn a_disk_that_is_too_small_is_told_before_anything_is_written() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2101, 12 * MIB, "40M");
        let folder = small_disk(&net, 8);
        let get = || net.get(NAME, &folder.join(NAME)).run();

        let words = ["12.0 MiB more needed", "8.0 MiB free", "4.0 MiB missing", "make room", "same command"];
        expect_error(get(), 8, "disk_full", &words);
        assert_eq!(listing(&folder), [""; 0]);

        inside::mount(&["-o", "remount,size=32m"], &folder);
        expect_to_go_on(&net, &content, &folder, 0);
    });
}

#[test]
fn a_disk_that_somebody_else_fills_is_told_and_the_part_stays() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2102, 12 * MIB, "6M");
        let folder = small_disk(&net, 16);

        let mut get = net.get(NAME, &folder.join(NAME)).start();
        let safe = get.wait_for_bytes(4 * MIB as u64);
        assert!(fs::write(folder.join("greedy"), vec![1; 16 * MIB]).is_err(), "it takes all there is");
        expect_error(get.finish(), 8, "disk_full", &["make room", "same command", "missing"]);
        assert_eq!(listing(&folder), [JOURNAL, PART, "greedy"]);

        // Still full.
        expect_error(net.get(NAME, &folder.join(NAME)).run(), 8, "disk_full", &["make room"]);
        assert_eq!(listing(&folder), [JOURNAL, PART, "greedy"]);

        fs::remove_file(folder.join("greedy")).expect("it was there");
        expect_to_go_on(&net, &content, &folder, safe);
    });
}

#[test]
fn a_disk_without_a_free_byte_is_told() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2103, 3 * MIB, "40M");
        let folder = small_disk(&net, 4);
        assert!(fs::write(folder.join("greedy"), vec![1; 8 * MIB]).is_err(), "it takes all there is");

        expect_error(net.get(NAME, &folder.join(NAME)).run(), 8, "disk_full", &["make room"]);
        assert_eq!(listing(&folder), ["greedy"]);

        fs::remove_file(folder.join("greedy")).expect("it was there");
        expect_to_go_on(&net, &content, &folder, 0);
    });
}

#[test]
fn a_disk_without_a_free_inode_is_told_as_full() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2104, 3 * MIB, "40M");
        let folder = net.folder();
        // The root of it, and one more: the journal, but not the part.
        inside::mount(&["-t", "tmpfs", "-o", "size=8m,nr_inodes=2", "tmpfs"], &folder);

        expect_error(net.get(NAME, &folder.join(NAME)).run(), 8, "disk_full", &["make room"]);
        inside::mount(&["-o", "remount,nr_inodes=20"], &folder);
        expect_to_go_on(&net, &content, &folder, 0);
    });
}

#[test]
fn what_was_reserved_is_had_whoever_fills_the_disk() {
    inside::run(Namespaces::RealRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2105, 12 * MIB, "6M");
        let folder = net.folder();
        let _disk = Image::blank(32).mount(&folder, "defaults");

        let mut get = net.get(NAME, &folder.join(NAME)).start();
        get.wait_for_bytes(MIB as u64);
        assert!(fs::write(folder.join("greedy"), vec![1; 32 * MIB]).is_err(), "it takes all there is");
        get.finish().done();
        content.expect_in(&folder.join(NAME));
        assert_eq!(listing(&folder), ["greedy", NAME, "lost+found"]);
    });
}

#[test]
fn a_disk_that_breaks_is_told_and_another_goes_on_from_what_was_safe() {
    inside::run(Namespaces::RealRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2106, 24 * MIB, "5M");
        let folder = net.folder();
        let mut disk = Image::blank(64).mount(&folder, "defaults");

        let mut get = net.get(NAME, &folder.join(NAME)).start();
        let event = get.wait_for("some of it was safe", |event| event["safe"].as_u64() > Some(0));
        let safe = event["safe"].as_u64().expect("it was chosen for that");
        disk.cut();
        let words = ["Input/output error", "check the disk", "same command", NAME];
        expect_error(get.finish(), 1, "other", &words);
        assert!(!folder.join(NAME).exists(), "{:?}", listing(&folder));
        // And again, on the broken disk.
        let again = net.get(NAME, &folder.join(NAME)).run();
        assert_eq!(again.status, 1, "{}", again.said());

        // What was copied from it to another.
        let image = disk.image();
        drop(disk);
        let _disk = image.mount(&folder, "defaults");
        expect_to_go_on(&net, &content, &folder, safe);
    });
}

#[test]
fn a_read_only_disk_is_told() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2107, 12 * MIB, "6M");
        let folder = small_disk(&net, 32);
        let mut get = net.get(NAME, &folder.join(NAME)).start();
        let safe = get.wait_for_bytes(4 * MIB as u64);
        get.kill9();

        inside::mount(&["-o", "remount,ro"], &folder);
        let words = ["read-only", "-o", NAME];
        expect_error(net.get(NAME, &folder.join(NAME)).run(), 1, "other", &words);
        inside::mount(&["-o", "remount,rw"], &folder);
        expect_to_go_on(&net, &content, &folder, safe);
    });
}

#[test]
fn a_full_disk_for_temporary_files_is_told_by_its_name() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2119, 6 * MIB, "40M");
        let folder = small_disk(&net, 4);
        let get = || net.node(["get", NAME, "-o", "-"]).env("TMPDIR", &folder).run();
        let ended = get().expect_status(8);
        for word in [folder.to_str().expect("a path that is text"), "full", "make room"] {
            assert!(ended.stderr.contains(word), "no '{word}'\n{}", ended.said());
        }
        inside::mount(&["-o", "remount,size=16m"], &folder);
        assert!(get().expect_status(0).stdout == content.bytes);
        assert_eq!(listing(&folder), [""; 0]);
    });
}

#[test]
fn a_node_with_few_open_files_outlives_many_who_fetch() {
    let net = net!();
    let content = Content::new(2120, 3 * MIB);
    let shared = copies(&net, 1, NAME, &content.bytes).remove(0);
    let share = net.under(&["prlimit", "--nofile=64"]).share_with(&shared, &[]);
    share.wait_until_hashed(&net, NAME);
    let folders: Vec<_> = (0..24).map(|_| net.folder()).collect();
    let start = |folder: &PathBuf| net.get(NAME, &folder.join(NAME)).args(["--timeout", "20"]).start();
    let gets: Vec<_> = folders.iter().map(start).collect();
    for (get, folder) in gets.into_iter().zip(&folders) {
        // Who finds no place waits, or is told that nobody gave anything: whatever it is, nothing breaks.
        let ended = get.finish();
        if ended.status != 0 {
            expect_to_go_on(&net, &content, folder, 0);
        }
        content.expect_in(&folder.join(NAME));
    }
    assert!(share.stop().status == 0);
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("its mode is set");
}

#[test]
fn a_folder_that_may_not_be_written_is_told() {
    let net = net!();
    let (content, _source) = source(&net, 2108, 3 * MIB, "40M");
    let folder = net.folder();
    let machine = net.without_privileges();
    set_mode(&folder, 0o555);
    let words = ["no permission", "change its permissions", "-o"];
    expect_error(machine.get(NAME, &folder.join(NAME)).run(), 1, "other", &words);
    assert_eq!(listing(&folder), [""; 0]);
    set_mode(&folder, 0o755);
    expect_to_go_on(&machine, &content, &folder, 0);
}

#[test]
fn a_folder_that_may_not_be_written_any_more_keeps_the_part() {
    let net = net!();
    let (content, _source) = source(&net, 2109, 6 * MIB, "6M");
    let folder = net.folder();
    let machine = net.without_privileges();
    let mut get = machine.get(NAME, &folder.join(NAME)).start();
    get.wait_for_bytes(MIB as u64);
    set_mode(&folder, 0o555);
    expect_error(get.finish(), 1, "other", &["no permission", "change its permissions"]);
    assert_eq!(listing(&folder), [JOURNAL, PART]);
    set_mode(&folder, 0o755);
    expect_to_go_on(&machine, &content, &folder, content.size());
}

#[test]
fn a_part_of_another_user_is_told() {
    let net = net!();
    let (content, _source) = source(&net, 2110, 3 * MIB, "40M");
    let folder = net.folder();
    let machine = net.without_privileges();
    fs::write(folder.join(PART), "").expect("written");
    set_mode(&folder.join(PART), 0o444);
    expect_error(machine.get(NAME, &folder.join(NAME)).run(), 1, "other", &["no permission", PART]);
    set_mode(&folder.join(PART), 0o644);
    expect_to_go_on(&machine, &content, &folder, 0);
}

/// Starts a get into the folder `to` of a fresh folder, does something to it in the middle, and waits for the end.
pub(crate) fn with_folder_changed(
    net: &TestNet,
    name: &str,
    change: impl FnOnce(&Path),
) -> (PathBuf, Finished) {
    let above = net.folder();
    let folder = above.join("to");
    fs::create_dir(&folder).expect("made");
    let mut get = net.get(name, &folder.join(name)).start();
    get.wait_for_bytes(2 * MIB as u64);
    change(&above);
    (above, get.finish())
}

#[test]
fn a_folder_that_is_removed_is_told() {
    let net = net!();
    let (content, _source) = source(&net, 2111, 8 * MIB, "6M");
    let (above, ended) =
        with_folder_changed(&net, NAME, |above| fs::remove_dir_all(above.join("to")).expect("removed"));
    expect_error(ended, 1, "other", &["removed", "same command", NAME]);
    assert_eq!(listing(&above), [""; 0], "nothing was made anew");
    fs::create_dir(above.join("to")).expect("made");
    expect_to_go_on(&net, &content, &above.join("to"), 0);
}

#[test]
fn a_part_that_is_removed_is_told() {
    let net = net!();
    let (content, _source) = source(&net, 2112, 8 * MIB, "6M");
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        fs::remove_file(above.join("to").join(PART)).expect("removed")
    });
    expect_error(ended, 1, "other", &["removed", "same command", NAME]);
    expect_to_go_on(&net, &content, &above.join("to"), 0);
}

#[test]
fn a_folder_that_is_renamed_gets_the_file_and_done_says_where() {
    let net = net!();
    let (content, _source) = source(&net, 2113, 8 * MIB, "6M");
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        fs::rename(above.join("to"), above.join("elsewhere")).expect("renamed");
    });
    let told = PathBuf::from(ended.done()["path"].as_str().expect("done says where it is"));
    assert_eq!(told, above.join("elsewhere").join(NAME));
    content.expect_in(&told);
    assert_eq!(listing(&above), ["elsewhere"]);
    assert_eq!(listing(&above.join("elsewhere")), [NAME]);
}

#[test]
fn a_link_that_takes_the_place_of_the_folder_is_not_followed() {
    let net = net!();
    let (content, _source) = source(&net, 2114, 8 * MIB, "6M");
    let victim = net.folder();
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        fs::rename(above.join("to"), above.join("elsewhere")).expect("renamed");
        symlink(&victim, above.join("to")).expect("linked");
    });
    let told = PathBuf::from(ended.done()["path"].as_str().expect("done says where it is"));
    assert_eq!(told, above.join("elsewhere").join(NAME));
    content.expect_in(&told);
    assert_eq!(listing(&victim), [""; 0]);
}

#[test]
fn a_get_with_few_open_files_works_or_says_what_is_missing() {
    let net = net!();
    let (content, _source) = source(&net, 2115, 6 * MIB, "40M");
    let few = |count: u32| net.under(&["prlimit", &format!("--nofile={count}")]);
    let folder = net.folder();
    let fetched = few(64).get(NAME, &folder.join(NAME)).run();
    fetched.done();
    content.expect_in(&folder.join(NAME));
    for count in [4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32] {
        let folder = net.folder();
        let ended = few(count).get(NAME, &folder.join(NAME)).args(["--timeout", "3"]).run();
        if ended.status == 0 {
            content.expect_in(&folder.join(NAME));
            continue;
        }
        let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &ended.stderr;
        assert!(said.contains("open files"), "{count}: {}", ended.said());
        assert!(!folder.join(NAME).exists());
        expect_to_go_on(&net, &content, &folder, 0);
    }
}

#[test]
fn a_state_folder_that_may_not_be_written_is_told() {
    let net = net!();
    let (content, _source) = source(&net, 2116, 3 * MIB, "40M");
    let (folder, state) = (net.folder(), net.folder());
    let machine = net.without_privileges();
    set_mode(&state, 0o555);
    let get = |machine: &Machine, state: &Path| machine.get(NAME, &folder.join(NAME)).with_state(state).run();
    expect_error(get(&machine, &state), 1, "other", &["identity", "--state"]);
    expect_error(get(&machine, &state.join("in/it")), 1, "other", &["state folder", "--state"]);
    set_mode(&state, 0o755);
    get(&machine, &state).done();
    // Once it is there, nothing more has to be written.
    set_mode(&state, 0o555);
    fs::remove_file(folder.join(NAME)).expect("it was fetched");
    get(&machine, &state).done();
    content.expect_in(&folder.join(NAME));
}

#[test]
fn a_state_folder_on_a_full_disk_is_told() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (content, _source) = source(&net, 2117, 3 * MIB, "40M");
        let (folder, state) = (net.folder(), small_disk(&net, 1));
        assert!(fs::write(state.join("greedy"), vec![1; 2 * MIB]).is_err(), "it takes all there is");
        let get = || net.get(NAME, &folder.join(NAME)).with_state(&state).run();
        expect_error(get(), 8, "disk_full", &["identity", "make room", "--state"]);
        assert_eq!(listing(&state), ["greedy"]);
        fs::remove_file(state.join("greedy")).expect("it was there");
        get().done();
        content.expect_in(&folder.join(NAME));
    });
}

#[test]
fn a_node_whose_state_is_full_shares_all_the_same() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let content = Content::new(2118, 3 * MIB);
        let shared = copies(&net, 1, NAME, &content.bytes).remove(0);
        let (folder, state) = (net.folder(), small_disk(&net, 1));
        // The identity is there, and then nothing more has room.
        net.share_again(&shared, &state).stop();
        let _ = fs::remove_file(state.join("hashes.redb"));
        assert!(fs::write(state.join("greedy"), vec![1; 2 * MIB]).is_err(), "it takes all there is");
        let share = net.share_again(&shared, &state);
        net.get(NAME, &folder.join(NAME)).run().done();
        content.expect_in(&folder.join(NAME));
        assert!(
            share.process().stderr().contains("hashes are not remembered"),
            "{}",
            share.process().stderr()
        );
    });
}
