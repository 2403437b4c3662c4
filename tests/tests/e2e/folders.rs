//! Whole folders: what arrives is what was shared, from one node or from many, under whatever name.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::tree::{Entry, Shape, Tree};
use ftx_tests::{Content, Share, TestNet, listing, net};

/// What the folders of these tests are called.
pub(crate) const NAME: &str = "tree";

/// Everything, and a few mebibytes of it.
pub(crate) const SMALL: Shape = Shape { entries: 60, large: 3 * MIB + 17, bytes_max: 10 * MIB };

/// A folder to share with the tree of this seed in it.
pub(crate) fn made(net: &TestNet, seed: u64, shape: Shape) -> (PathBuf, Tree) {
    let folder = net.folder();
    fs::create_dir(folder.join(NAME)).expect("made");
    let tree = Tree::make(&folder.join(NAME), seed, shape);
    (folder, tree)
}

/// A node that shares the tree of this seed, all of it hashed.
pub(crate) fn shared(net: &TestNet, seed: u64, shape: Shape, flags: &[&str]) -> (PathBuf, Tree, Share) {
    let (folder, tree) = made(net, seed, shape);
    let share = net.share_with(&folder, flags);
    share.wait_until_folder_is_hashed(net, NAME);
    (folder, tree, share)
}

/// Fails unless nothing of an unfinished fetch lies beside the target.
#[track_caller]
pub(crate) fn expect_nothing_left(folder: &Path) {
    let left: Vec<_> = listing(folder).into_iter().filter(|name| name.contains(".ftx-")).collect();
    assert_eq!(left, [""; 0], "something was left over");
}

/// Nanoseconds since 1970 of a path's last change.
fn mtime(path: &Path) -> i128 {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// Gives all files and folders another time, as a copy does that does not keep them.
fn touch(folder: &Path, tree: &Tree) {
    for (path, entry) in tree.entries().filter(|(_, entry)| !matches!(entry, Entry::Link { .. })) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file =
            File::open(folder.join(path)).unwrap_or_else(|error| panic!("{path:?} {entry:?}: {error}"));
        file.set_modified(time).expect("its time is set");
    }
}

#[test]
fn a_tree_arrives_whole_and_a_second_get_fetches_nothing() {
    let net = net!();
    let (folder, tree, share) = shared(&net, 2201, Shape::default(), &[]);
    let to = net.folder();
    let target = to.join("copy");
    let state = net.folder();

    let fetched = net.get(NAME, &target).with_state(&state).run();

    let done = fetched.done();
    tree.as_fetched().expect_in(&target);
    assert_eq!(mtime(&target), mtime(&folder.join(NAME)));
    expect_nothing_left(&to);
    let count = |wanted: fn(&Entry) -> bool| {
        tree.as_fetched().entries().filter(|(_, entry)| wanted(entry)).count() as u64
    };
    let fields = [
        ("size", tree.size()),
        ("fetched", tree.size()),
        ("resumed", 0),
        ("files", count(|entry| matches!(entry, Entry::File { .. }))),
        ("folders", count(|entry| matches!(entry, Entry::Folder { .. }))),
        ("links", count(|entry| matches!(entry, Entry::Link { .. }))),
        ("unchanged_files", 0),
        ("copied_files", 0),
    ];
    for (field, value) in fields {
        assert_eq!(done[field], value, "{field}\n{}", fetched.said());
    }
    assert_eq!(done["kind"], "folder");
    assert_eq!(done["path"], target.to_str().expect("a path that is text"));
    // What is there twice travels twice, and nothing else does.
    assert!(fetched.of_source(share.node(), "bytes") <= tree.size(), "{}", fetched.said());

    for state in [state, net.folder()] {
        let again = net.get(NAME, &target).with_state(&state).run();
        assert_eq!(again.bytes_of_sources(), 0, "{}", again.said());
        assert_eq!(again.done()["fetched"], 0, "{}", again.said());
        assert_eq!(again.done()["unchanged_bytes"], tree.size());
        tree.as_fetched().expect_in(&target);
        expect_nothing_left(&to);
    }
}

#[test]
fn several_nodes_all_give_something() {
    let net = net!();
    let shares: Vec<_> = (0..3).map(|_| shared(&net, 2202, SMALL, &["--max-upload", "2M"])).collect();
    let target = net.folder().join(NAME);

    let fetched = net.get(NAME, &target).run();

    shares[0].1.as_fetched().expect_in(&target);
    for (.., share) in &shares {
        assert!(fetched.of_source(share.node(), "bytes") > MIB as u64, "{}", fetched.said());
    }
}

#[test]
fn copies_with_other_times_are_one_content() {
    let net = net!();
    let flags = ["--max-upload", "2M"];
    let first = shared(&net, 2203, SMALL, &flags);
    let (folder, tree) = made(&net, 2203, SMALL);
    touch(&folder.join(NAME), &tree);
    let second = net.share_with(&folder, &flags);
    assert_eq!(
        first.2.wait_until_folder_is_hashed(&net, NAME),
        second.wait_until_folder_is_hashed(&net, NAME)
    );
    let target = net.folder().join(NAME);

    let fetched = net.get(NAME, &target).run();

    for share in [&first.2, &second] {
        assert!(fetched.of_source(share.node(), "bytes") > MIB as u64, "{}", fetched.said());
    }
    // The times are those of one of them.
    let touched = Tree::read(&folder.join(NAME)).as_fetched();
    assert!(first.1.as_fetched().differences(&target).is_empty() || touched.differences(&target).is_empty());
}

#[test]
fn a_root_and_a_folder_in_a_folder_are_names_too() {
    let net = net!();
    let folder = net.folder();
    fs::create_dir_all(folder.join("outer/inner")).expect("made");
    let tree = Tree::make(&folder.join("outer/inner"), 2204, SMALL);
    let share = net.share(&folder);
    let root = share.wait_until_folder_is_hashed(&net, "outer");
    let to = net.folder();

    let fetched = net.get(&root, &to.join("all")).run();
    assert_eq!(fetched.done()["root"], root.as_str());
    tree.as_fetched().expect_in(&to.join("all/inner"));
    net.get("outer/inner", &to.join("some")).run().done();
    tree.as_fetched().expect_in(&to.join("some"));
    // Into a place, and where one stands.
    let into = net.node(["get", "outer/inner", "--json", "-o"]).arg(format!("{}/", to.display())).run();
    assert_eq!(into.done()["path"], to.join("inner").to_str().expect("text"));
    tree.as_fetched().expect_in(&to.join("inner"));
    let here = net.folder();
    net.node(["get", "outer", "--json"]).within(&here).run().done();
    tree.as_fetched().expect_in(&here.join("outer/inner"));
    assert_eq!(listing(&here), ["outer"]);
    // A folder has no bytes of its own.
    net.node(["get", "outer", "-o", "-"]).within(&here).run().expect_status(2);
    net.node(["get", "outer", "--json", "-o", "no/such/place"]).run().expect_error(2, "usage");
}

#[test]
fn a_folder_that_holds_something_of_its_own_name_is_fetched_again() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "tree/tree", b"a file");
    net.share(&folder).stop();
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);
    let target = net.folder().join(NAME);
    for _ in 0..2 {
        net.get(NAME, &target).run().done();
        Tree::read(&folder.join(NAME)).expect_in(&target);
    }
}

#[test]
fn parts_of_a_folder_are_chosen_by_patterns() {
    let net = net!();
    let folder = net.folder();
    for name in ["a.log", "b.txt", "docs/c.txt", "docs/old/d.txt", "docs/old/e.log", "src/f.rs"] {
        put(&folder.join(NAME), name, Content::new(name.len() as u64, 30_000).bytes.as_slice());
    }
    fs::create_dir(folder.join(NAME).join("empty")).expect("made");
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);
    let tree = Tree::read(&folder.join(NAME));
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--include", "*.txt"], &["b.txt", "docs", "docs/c.txt", "docs/old", "docs/old/d.txt"]),
        (
            &["--include", "*.txt", "--include", "src"],
            &["b.txt", "docs", "docs/c.txt", "docs/old", "docs/old/d.txt", "src", "src/f.rs"],
        ),
        (&["--exclude", "docs", "--exclude", "*.log"], &["b.txt", "empty", "src", "src/f.rs"]),
        (&["--include", "docs", "--exclude", "old"], &["docs", "docs/c.txt"]),
        (&["--include", "nothing at all"], &[]),
    ];
    let to = net.folder();
    for (number, (flags, paths)) in cases.into_iter().enumerate() {
        let target = to.join(number.to_string());
        let fetched = net.get(NAME, &target).args(flags.iter().copied()).run();
        let wanted = tree.only(|path, _| paths.iter().any(|wanted| path == Path::new(wanted)));
        assert_eq!(fetched.done()["size"], wanted.size(), "{}", fetched.said());
        wanted.expect_in(&target);
        assert!(fetched.bytes_of_sources() <= wanted.size(), "{flags:?} {}", fetched.said());
    }
    // One after the other into the same: what is there is not fetched again, and stays.
    let target = to.join("0");
    let rest = net.get(NAME, &target).run();
    assert!(rest.bytes_of_sources() <= 90_000, "{}", rest.said());
    tree.expect_in(&target);
    net.get(NAME, &target).args(["--include", "["]).run().expect_error(2, "usage");
}

#[test]
fn links_are_left_out_where_that_is_asked_for() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2206, SMALL, &[]);
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).arg("--no-symlinks").run();
    assert_eq!(fetched.done()["links"], 0, "{}", fetched.said());
    tree.only(|_, entry| !matches!(entry, Entry::Link { .. })).expect_in(&target);
}

#[test]
fn what_cannot_be_shared_is_told_and_the_rest_arrives() {
    let net = net!();
    let folder = net.folder();
    let tree = folder.join(NAME);
    put(&tree, "good", b"good");
    put(&tree, "also/good", b"good as well");
    fs::write(tree.join(std::ffi::OsStr::from_bytes(b"not \xff UTF-8")), "lost").expect("written");
    fs::create_dir(tree.join(std::ffi::OsStr::from_bytes(b"folder \xfe"))).expect("made");
    fs::write(tree.join(std::ffi::OsStr::from_bytes(b"folder \xfe")).join("inner"), "lost").expect("written");
    symlink("/etc/passwd", tree.join("leads out")).expect("linked");
    symlink("../../also", tree.join("also/leads out too")).expect("linked");
    let mode = rustix_mode();
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("pipe"), mode).expect("a pipe");
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);
    let target = net.folder().join(NAME);

    net.get(NAME, &target).run().done();

    assert_eq!(listing(&target), ["also", "good"]);
    assert_eq!(listing(&target.join("also")), ["good"]);
    let said = share.process().stderr();
    for what in ["not \u{fffd} UTF-8", "folder \u{fffd}", "pipe", "leads out"] {
        assert!(said.contains(what), "nothing is said of '{what}'\n{said}");
    }
    assert!(!said.contains("inner"), "what is in a folder that is skipped is told one by one\n{said}");
}

fn rustix_mode() -> rustix::fs::Mode {
    rustix::fs::Mode::from_raw_mode(0o600)
}

#[test]
fn names_that_differ_in_case_are_two() {
    let net = net!();
    let folder = net.folder();
    for name in ["Readme", "readme", "README", "Ärger/x", "ärger/x", "a\u{308}rger/x"] {
        put(&folder.join(NAME), name, name.as_bytes());
    }
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);
    let target = net.folder().join(NAME);
    net.get(NAME, &target).run().done();
    Tree::read(&folder.join(NAME)).expect_in(&target);
}

#[test]
fn an_empty_folder_arrives() {
    let net = net!();
    let folder = net.folder();
    fs::create_dir(folder.join("empty")).expect("made");
    put(&folder, "nothing/much", b"");
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, "empty");
    share.wait_until_folder_is_hashed(&net, "nothing");
    let to = net.folder();
    for _ in 0..2 {
        let fetched = net.get("empty", &to.join("empty")).run();
        assert_eq!(fetched.done()["files"], 0);
        assert_eq!(listing(&to.join("empty")), [""; 0]);
        net.get("nothing", &to.join("nothing")).run().done();
        assert_eq!(fs::read(to.join("nothing/much")).ok(), Some(Vec::new()));
        expect_nothing_left(&to);
    }
}

#[test]
fn holes_stay_holes() {
    let net = net!();
    let folder = net.folder();
    let target = net.folder().join(NAME);
    let holes = |path: &Path| {
        let file = File::create(path).expect("created");
        file.set_len(24 * MIB as u64).expect("it has a length");
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 5000], 9 * MIB as u64 + 77).expect("written");
    };
    put(&folder, "tree/other", &Content::new(2209, 40_000).bytes);
    holes(&folder.join("tree/holes"));
    File::create(folder.join("tree/small hole")).and_then(|file| file.set_len(500_000)).expect("created");
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);

    let fetched = net.get(NAME, &target).run();

    fetched.done();
    Tree::read(&folder.join(NAME)).expect_in(&target);
    let blocks = |name: &str| fs::metadata(target.join(name)).expect("it is there").blocks() * 512;
    assert!(blocks("holes") <= 128 * 1024, "{} bytes", blocks("holes"));
    assert_eq!(blocks("small hole"), 0);
}

#[test]
fn thousands_of_tiny_files_arrive() {
    let net = net!();
    let folder = net.folder();
    for number in 0..5000u32 {
        put(&folder.join(NAME), &format!("{}/{number}", number % 50), format!("{number}").as_bytes());
    }
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).run();
    assert_eq!(fetched.done()["files"], 5000);
    let tree = Tree::read(&folder.join(NAME));
    tree.expect_in(&target);
    // One of them changes.
    fs::write(target.join("7/57"), "99").expect("written");
    let fetched = net.get(NAME, &target).run();
    assert_eq!(fetched.bytes_of_sources(), 2, "{}", fetched.said());
    tree.expect_in(&target);
}

#[test]
fn a_folder_that_is_still_being_hashed_is_waited_for() {
    let net = net!();
    let (folder, tree) = made(&net, 2211, Shape { entries: 20, large: 150 * MIB, bytes_max: 160 * MIB });
    let _share = net.share(&folder);
    let target = net.folder().join(NAME);
    net.get(NAME, &target).run().done();
    tree.as_fetched().expect_in(&target);
}

#[test]
fn those_who_fetch_a_folder_help_each_other() {
    let net = net!();
    let (_, tree, origin) = shared(&net, 2212, SMALL, &["--max-upload", "1M"]);
    // Three times 10 MiB would take 30 s from the origin alone.
    let targets: Vec<_> = (0..3).map(|_| net.folder().join(NAME)).collect();
    let fetches: Vec<_> = targets.iter().map(|target| net.get(NAME, target).start()).collect();
    let fetched: Vec<_> = fetches.into_iter().map(|fetch| fetch.finish()).collect();
    let mut from_origin = 0;
    for (fetched, target) in fetched.iter().zip(&targets) {
        fetched.done();
        tree.as_fetched().expect_in(target);
        from_origin += fetched.of_source(origin.node(), "bytes");
    }
    assert!(from_origin < 5 * tree.size() / 2, "{from_origin} of {} came from the origin", 3 * tree.size());
}

#[test]
fn datagrams_carry_folders() {
    let net = net!();
    let shares: Vec<_> = (0..2).map(|_| shared(&net, 2213, SMALL, &["--max-upload", "4M"])).collect();
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).args(["--lane", "datagram"]).run();
    shares[0].1.as_fetched().expect_in(&target);
    for (.., share) in &shares {
        assert!(fetched.of_source(share.node(), "bytes") > MIB as u64, "{}", fetched.said());
    }
}

#[test]
fn few_open_files_are_enough_on_both_sides() {
    let net = net!();
    let (folder, tree) = made(&net, 2214, SMALL);
    let few = net.under(&["prlimit", "--nofile=64"]);
    let share = few.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);
    let target = net.folder().join(NAME);
    few.get(NAME, &target).run().done();
    tree.as_fetched().expect_in(&target);
    // Into one that is there, with much to be changed.
    for (path, entry) in tree.entries() {
        if matches!(entry, Entry::File { .. }) {
            fs::write(target.join(path), "another").expect("written");
        }
    }
    few.get(NAME, &target).run().done();
    tree.as_fetched().expect_in(&target);
}

#[test]
fn execute_bits_are_set_by_what_the_reader_lets_others_do() {
    let net = net!();
    let (_, tree, _share) = shared(&net, 2215, SMALL, &[]);
    let target = net.folder().join(NAME);
    net.under(&["sh", "-c", "umask 077; exec \"$0\" \"$@\""]).get(NAME, &target).run().done();
    tree.as_fetched().expect_in(&target);
    let mode = |name: &str| fs::metadata(target.join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("tool"), mode("large")), (0o700, 0o600));
}
