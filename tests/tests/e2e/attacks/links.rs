//! Links that are put in the way while a fetch writes, by somebody else who may write where it does. What they lead to stays
//! as it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, TestNet, net};

use super::{NAME, shared};

/// A file and a folder that are nobody's business.
struct Victim {
    file: PathBuf,
    folder: PathBuf,
}

impl Victim {
    fn new(net: &TestNet) -> Self {
        let folder = net.folder();
        fs::write(folder.join("file"), "mine").expect("written");
        fs::create_dir(folder.join("folder")).expect("made");
        Victim { file: folder.join("file"), folder: folder.join("folder") }
    }

    #[track_caller]
    fn expect_untouched(&self) {
        assert_eq!(fs::read(&self.file).expect("it is there"), b"mine");
        assert_eq!(fs::read_dir(&self.folder).expect("it is there").count(), 0);
    }
}

/// The unfinished file or folder, as soon as there is one.
fn part_in(above: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(above).expect("it is there").flatten();
    entries.find(|entry| entry.file_name().to_string_lossy().ends_with(".ftx-part")).map(|entry| entry.path())
}

#[test]
fn a_link_in_place_of_the_part_of_a_file() {
    let net = net!();
    let (content, _share) = shared(&net, 3801, &["--max-upload", "3M"]);
    let victim = Victim::new(&net);
    let above = net.folder();
    let mut fetch = net.get(NAME, &above.join(NAME)).start();
    fetch.wait_for_bytes(MIB as u64);
    let part = part_in(&above).expect("it is being written");
    fs::remove_file(&part).expect("removed");
    symlink(&victim.file, &part).expect("linked");
    let ended = fetch.finish();
    victim.expect_untouched();
    // Whether it was told or written anew: a name is not given to something else.
    match ended.status {
        0 => content.expect_in(&above.join(NAME)),
        _ => assert!(fs::symlink_metadata(above.join(NAME)).is_err(), "{}", ended.said()),
    }
    // The next one begins anew.
    net.get(NAME, &above.join(NAME)).arg("--force").run();
    victim.expect_untouched();
}

#[test]
fn a_link_at_the_name_of_a_file_that_is_being_fetched() {
    let net = net!();
    let (content, _share) = shared(&net, 3802, &["--max-upload", "3M"]);
    let victim = Victim::new(&net);
    for (flags, to) in [(&[][..], &victim.file), (&["--force"], &victim.file), (&["--force"], &victim.folder)]
    {
        let above = net.folder();
        let mut fetch = net.get(NAME, &above.join(NAME)).args(flags.iter().copied()).start();
        fetch.wait_for_bytes(MIB as u64);
        symlink(to, above.join(NAME)).expect("linked");
        let ended = fetch.finish();
        victim.expect_untouched();
        let now = fs::symlink_metadata(above.join(NAME)).expect("something is there");
        if ended.status == 0 {
            assert!(now.is_file(), "{}", ended.said());
            content.expect_in(&above.join(NAME));
        } else {
            assert!(now.is_symlink(), "{}", ended.said());
        }
    }
}

#[test]
fn a_link_in_place_of_a_folder_within_one_that_is_being_fetched() {
    let net = net!();
    let contents: Vec<_> = (0..4).map(|number| Content::new(3803 + number, 2 * MIB)).collect();
    let folder = net.folder();
    for (number, content) in contents.iter().enumerate() {
        put(&folder.join(format!("tree/{number}")), "file", &content.bytes);
    }
    let share = net.share_with(&folder, &["--max-upload", "3M"]);
    share.wait_until_folder_is_hashed(&net, "tree");
    let victim = Victim::new(&net);
    let above = net.folder();
    let mut fetch = net.get("tree", &above.join("tree")).start();
    fetch.wait_for_bytes(MIB as u64);
    let part = part_in(&above).expect("it is being written");
    let mut swapped = 0;
    for entry in fs::read_dir(&part).expect("it is there").flatten() {
        if entry.file_type().expect("it is there").is_dir() {
            fs::rename(entry.path(), above.join(format!("away-{swapped}"))).expect("renamed");
            symlink(&victim.folder, entry.path()).expect("linked");
            swapped += 1;
        }
    }
    let ended = fetch.finish();
    victim.expect_untouched();
    assert!(swapped > 0, "nothing was there to be swapped");
    if ended.status == 0 {
        for (number, content) in contents.iter().enumerate() {
            content.expect_in(&above.join(format!("tree/{number}/file")));
        }
    }
    net.get("tree", &above.join("tree")).arg("--force").run();
    victim.expect_untouched();
}
