//! Trouble with the disk that a folder goes to: each ends with its exit status and a sentence that says what to do, nothing
//! wrong gets a name, and once the cause is gone the same command goes on.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use ftx_tests::data::MIB;
use ftx_tests::inside::{self, Namespaces};
use ftx_tests::power::Image;
use ftx_tests::share::put;
use ftx_tests::tree::{Shape, Tree};
use ftx_tests::{Content, Machine, Share, TestNet, listing, net};

use crate::disk::{expect_error, set_mode, small_disk, with_folder_changed};
use crate::folders::{NAME, expect_nothing_left, shared};

const PART: &str = ".tree.ftx-part";
const JOURNAL: &str = ".tree.ftx-journal";

/// A node that gives a tree of about 10 MiB at a rate.
fn source(net: &TestNet, seed: u64, rate: &str) -> (Tree, Share) {
    let shape = Shape { entries: 40, large: 3 * MIB + 17, bytes_max: 10 * MIB };
    let (_, tree, share) = shared(net, seed, shape, &["--max-upload", rate]);
    (tree.as_fetched(), share)
}

/// Runs the same command again, which must go on from `safe` bytes at least.
#[track_caller]
fn expect_to_go_on(machine: &Machine, tree: &Tree, folder: &Path, safe: u64) {
    let fetched = machine.get(NAME, &folder.join(NAME)).run();
    fetched.done();
    let came = fetched.bytes_of_sources();
    assert!(came + safe <= tree.size(), "{came} came, and {safe} should have been there\n{}", fetched.said());
    tree.expect_in(&folder.join(NAME));
    expect_nothing_left(folder);
}

#[test]
fn a_disk_that_is_too_small_for_a_folder_is_told_before_anything_is_written() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (tree, _source) = source(&net, 2401, "40M");
        let folder = small_disk(&net, 5);
        let ended = net.get(NAME, &folder.join(NAME)).run();
        expect_error(ended, 8, "disk_full", &["more needed", "free", "missing", "make room", "same command"]);
        assert_eq!(listing(&folder), [""; 0]);
        inside::mount(&["-o", "remount,size=32m"], &folder);
        expect_to_go_on(&net, &tree, &folder, 0);
    });
}

#[test]
fn a_disk_that_fills_in_the_middle_of_a_folder_is_told_and_what_came_stays() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (tree, _source) = source(&net, 2402, "5M");
        let folder = small_disk(&net, 14);
        let mut get = net.get(NAME, &folder.join(NAME)).start();
        let safe = get.wait_for_bytes(4 * MIB as u64);
        assert!(fs::write(folder.join("greedy"), vec![1; 16 * MIB]).is_err(), "it takes all there is");
        expect_error(get.finish(), 8, "disk_full", &["make room", "same command", "missing"]);
        assert_eq!(listing(&folder), [JOURNAL, PART, "greedy"]);
        // Still full.
        expect_error(net.get(NAME, &folder.join(NAME)).run(), 8, "disk_full", &["make room"]);
        assert_eq!(listing(&folder), [JOURNAL, PART, "greedy"]);
        fs::remove_file(folder.join("greedy")).expect("it was there");
        expect_to_go_on(&net, &tree, &folder, safe);
    });
}

#[test]
fn a_disk_without_a_free_inode_for_a_folder_is_told_as_full() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (tree, _source) = source(&net, 2403, "40M");
        let folder = net.folder();
        inside::mount(&["-t", "tmpfs", "-o", "size=32m,nr_inodes=20", "tmpfs"], &folder);
        expect_error(net.get(NAME, &folder.join(NAME)).run(), 8, "disk_full", &["make room"]);
        assert!(!folder.join(NAME).exists());
        inside::mount(&["-o", "remount,nr_inodes=2000"], &folder);
        expect_to_go_on(&net, &tree, &folder, 0);
    });
}

#[test]
fn what_is_mounted_within_the_target_gets_its_files_as_well() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let folder = net.folder();
        let target = folder.join(NAME);
        // Nothing can be renamed from one file system to the other.
        fs::create_dir_all(target.join("other")).expect("made");
        inside::mount(&["-t", "tmpfs", "-o", "size=32m", "tmpfs"], &target.join("other"));
        let source_folder = net.folder();
        let shared = source_folder.join(NAME);
        put(&shared, "other/large", &Content::new(2416, 2 * MIB + 5).bytes);
        put(&shared, "other/deep/small", b"small");
        put(&shared, "here", b"here");
        let mut holes = vec![0; 3 * MIB];
        holes[MIB] = 1;
        put(&shared, "other/holes", &holes);
        set_mode(&shared.join("other/deep/small"), 0o755);
        symlink("deep/small", shared.join("other/link")).expect("linked");
        put(&target.join("other"), "large", b"older");
        let other = Tree::read(&shared);
        let share = net.share(&source_folder);
        share.wait_until_folder_is_hashed(&net, NAME);

        net.get(NAME, &target).arg("--delete").run().done();

        other.expect_in(&target);
        expect_nothing_left(&folder);
        expect_nothing_left(&target.join("other"));
        let blocks = fs::metadata(target.join("other/holes")).expect("it is there").blocks();
        assert!(blocks * 512 < MIB as u64, "{blocks} blocks for a hole");
        assert_eq!(net.get(NAME, &target).run().bytes_of_sources(), 0);
    });
}

#[test]
fn a_read_only_disk_is_told_by_a_get_of_a_folder() {
    inside::run(Namespaces::OwnRoot, || {
        let net = net!();
        let (tree, _source) = source(&net, 2404, "5M");
        let folder = small_disk(&net, 32);
        let mut get = net.get(NAME, &folder.join(NAME)).start();
        let safe = get.wait_for_bytes(4 * MIB as u64);
        get.kill9();
        inside::mount(&["-o", "remount,ro"], &folder);
        expect_error(net.get(NAME, &folder.join(NAME)).run(), 1, "other", &["read-only", "-o", NAME]);
        inside::mount(&["-o", "remount,rw"], &folder);
        expect_to_go_on(&net, &tree, &folder, safe);
    });
}

#[test]
fn a_disk_that_breaks_under_a_folder_is_told_and_another_goes_on() {
    inside::run(Namespaces::RealRoot, || {
        let net = net!();
        let (tree, _source) = source(&net, 2405, "3M");
        let folder = net.folder();
        let mut disk = Image::blank(64).mount(&folder, "defaults");
        let mut get = net.get(NAME, &folder.join(NAME)).start();
        let event = get.wait_for("some of it was safe", |event| event["safe"].as_u64() > Some(0));
        let safe = event["safe"].as_u64().expect("it was chosen for that");
        disk.cut();
        expect_error(
            get.finish(),
            1,
            "other",
            &["Input/output error", "check the disk", "same command", NAME],
        );
        assert!(!folder.join(NAME).exists(), "{:?}", listing(&folder));
        let image = disk.image();
        drop(disk);
        let _disk = image.mount(&folder, "defaults");
        expect_to_go_on(&net, &tree, &folder, safe);
    });
}

#[test]
fn a_place_that_may_not_be_written_is_told_by_a_get_of_a_folder() {
    let net = net!();
    let (tree, _source) = source(&net, 2406, "40M");
    let folder = net.folder();
    let machine = net.without_privileges();
    set_mode(&folder, 0o555);
    let words = ["no permission", "change its permissions", "-o"];
    expect_error(machine.get(NAME, &folder.join(NAME)).run(), 1, "other", &words);
    assert_eq!(listing(&folder), [""; 0]);
    set_mode(&folder, 0o755);
    expect_to_go_on(&machine, &tree, &folder, 0);
}

#[test]
fn a_folder_within_the_target_that_may_not_be_written_is_told() {
    let net = net!();
    let (tree, _source) = source(&net, 2407, "40M");
    let folder = net.folder();
    let machine = net.without_privileges();
    machine.get(NAME, &folder.join(NAME)).run().done();
    let target = folder.join(NAME);
    fs::write(target.join("tool"), "another").expect("written");
    set_mode(&target, 0o555);
    let words = ["no permission", "change its permissions"];
    expect_error(machine.get(NAME, &target).run(), 1, "other", &words);
    assert_eq!(fs::read(target.join("tool")).ok().as_deref(), Some(&b"another"[..]));
    set_mode(&target, 0o755);
    expect_to_go_on(&machine, &tree, &folder, tree.size() - 16 * 1024);
}

#[test]
fn a_place_that_is_removed_is_told_by_a_get_of_a_folder() {
    let net = net!();
    let (tree, _source) = source(&net, 2408, "5M");
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        // Files may come into being while they are removed.
        while fs::remove_dir_all(above.join("to")).is_err() {}
    });
    expect_error(ended, 1, "other", &["removed", "same command", NAME]);
    assert_eq!(listing(&above), [""; 0], "nothing was made anew");
    fs::create_dir(above.join("to")).expect("made");
    expect_to_go_on(&net, &tree, &above.join("to"), 0);
}

#[test]
fn a_staging_folder_that_is_removed_is_told() {
    let net = net!();
    let (tree, _source) = source(&net, 2409, "5M");
    let (above, ended) =
        with_folder_changed(
            &net,
            NAME,
            |above| while fs::remove_dir_all(above.join("to").join(PART)).is_err() {},
        );
    expect_error(ended, 1, "other", &["removed", "same command", NAME]);
    expect_to_go_on(&net, &tree, &above.join("to"), 0);
}

#[test]
fn files_that_are_removed_from_the_staging_folder_are_told_or_made_again() {
    let net = net!();
    let (tree, _source) = source(&net, 2410, "5M");
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        let part = above.join("to").join(PART);
        for (path, _) in
            Tree::read(&part).only(|_, entry| matches!(entry, ftx_tests::tree::Entry::File { .. })).entries()
        {
            let _ = fs::remove_file(part.join(path));
        }
    });
    let target = above.join("to").join(NAME);
    if ended.status == 0 {
        tree.expect_in(&target);
    } else {
        expect_error(ended, 1, "other", &["same command", NAME]);
        assert!(!target.exists());
        expect_to_go_on(&net, &tree, &above.join("to"), 0);
    }
}

#[test]
fn a_place_that_is_renamed_gets_the_folder_and_done_says_where() {
    let net = net!();
    let (tree, _source) = source(&net, 2411, "5M");
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        fs::rename(above.join("to"), above.join("elsewhere")).expect("renamed");
    });
    let told = PathBuf::from(ended.done()["path"].as_str().expect("done says where it is"));
    assert_eq!(told, above.join("elsewhere").join(NAME));
    tree.expect_in(&told);
    assert_eq!(listing(&above), ["elsewhere"]);
    assert_eq!(listing(&above.join("elsewhere")), [NAME]);
}

#[test]
fn a_link_that_takes_the_place_of_the_target_is_not_followed() {
    let net = net!();
    let (tree, _source) = source(&net, 2412, "5M");
    let victim = net.folder();
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        fs::rename(above.join("to"), above.join("elsewhere")).expect("renamed");
        symlink(&victim, above.join("to")).expect("linked");
    });
    ended.done();
    tree.expect_in(&above.join("elsewhere").join(NAME));
    assert_eq!(listing(&victim), [""; 0]);

    // The target itself, which is there already.
    let folder = net.folder();
    let target = folder.join(NAME);
    put(&target, "old", b"old");
    let mut get = net.get(NAME, &target).start();
    get.wait_for_bytes(2 * MIB as u64);
    fs::rename(&target, folder.join("moved")).expect("renamed");
    symlink(&victim, &target).expect("linked");
    let ended = get.finish();
    assert_eq!(listing(&victim), [""; 0], "{}", ended.said());
    let told = ended.done()["path"].as_str().expect("done says where it is");
    assert_eq!(Path::new(told), folder.join("moved"), "{}", ended.said());
    let old = Tree::read(&folder.join("moved")).only(|path, _| path == Path::new("old"));
    tree.and(&old).expect_in(&folder.join("moved"));
}

#[test]
fn a_target_that_comes_into_being_meanwhile_is_not_replaced() {
    let net = net!();
    let (tree, _source) = source(&net, 2413, "5M");
    let (above, ended) = with_folder_changed(&net, NAME, |above| {
        put(&above.join("to").join(NAME), "theirs", b"theirs");
    });
    expect_error(ended, 9, "exists", &[NAME]);
    let target = above.join("to").join(NAME);
    assert_eq!(listing(&target), ["theirs"]);
    fs::remove_dir_all(&target).expect("removed");
    expect_to_go_on(&net, &tree, &above.join("to"), tree.size());
}

#[test]
fn a_get_of_a_folder_with_few_open_files_works_or_says_what_is_missing() {
    let net = net!();
    let (tree, _source) = source(&net, 2414, "40M");
    for count in [8, 12, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 48] {
        let folder = net.folder();
        let few = net.under(&["prlimit", &format!("--nofile={count}")]);
        let ended = few.get(NAME, &folder.join(NAME)).args(["--timeout", "3"]).run();
        if ended.status == 0 {
            tree.expect_in(&folder.join(NAME));
            continue;
        }
        let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &ended.stderr;
        assert!(said.contains("open files"), "{count}: {}", ended.said());
        assert!(!folder.join(NAME).exists());
        expect_to_go_on(&net, &tree, &folder, 0);
    }
}
