//! Where `get` puts the file, and what it does where there is something already.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use ftx_tests::data::MIB;
use ftx_tests::share::{copies, put};
use ftx_tests::{Content, Share, TestNet, listing, net};

fn shared(net: &TestNet, seed: u64) -> (Content, Share) {
    let content = Content::new(seed, 2 * MIB + 3);
    let share = net.share(&copies(net, 1, "image.iso", &content.bytes)[0]);
    (content, share)
}

#[test]
fn without_a_target_the_file_appears_here_under_its_name() {
    let net = net!();
    let (content, _share) = shared(&net, 1401);
    let here = net.folder();

    let fetched = net.node(["get", "image.iso", "--json"]).within(&here).run();

    assert_eq!(listing(&here), ["image.iso"]);
    content.expect_in(&here.join("image.iso"));
    let path = fetched.done()["path"].as_str().expect("done tells the path").to_owned();
    assert_eq!(fs::canonicalize(here.join(path)).ok(), fs::canonicalize(here.join("image.iso")).ok());
}

#[test]
fn a_file_as_target() {
    let net = net!();
    let (content, _share) = shared(&net, 1402);
    let here = net.folder();

    net.node(["get", "image.iso", "-o", "renamed.img"]).within(&here).run().expect_status(0);

    assert_eq!(listing(&here), ["renamed.img"]);
    content.expect_in(&here.join("renamed.img"));
}

#[test]
fn a_folder_as_target() {
    let net = net!();
    let (content, _share) = shared(&net, 1403);
    let here = net.folder();
    fs::create_dir(here.join("downloads")).expect("made");

    net.node(["get", "image.iso", "-o", "downloads/"]).within(&here).run().expect_status(0);

    assert_eq!(listing(&here), ["downloads"]);
    content.expect_in(&here.join("downloads/image.iso"));
}

#[test]
fn standard_output_as_target() {
    let net = net!();
    let (content, _share) = shared(&net, 1404);
    let here = net.folder();

    let fetched = net.node(["get", "image.iso", "-o", "-"]).within(&here).run().expect_status(0);

    assert!(fetched.stdout == content.bytes, "{} bytes on stdout", fetched.stdout.len());
    assert_eq!(listing(&here), Vec::<String>::new());
}

#[test]
fn nothing_comes_between_the_bytes_on_standard_output() {
    let net = net!();
    let (content, _share) = shared(&net, 1409);

    let fetched = net.node(["get", "image.iso", "-o", "-", "--json"]).run().expect_status(0);

    assert!(fetched.stdout == content.bytes, "{} bytes on stdout", fetched.stdout.len());
    let last = fetched.stderr.lines().last().unwrap_or_default();
    assert!(last.contains(r#""event":"done""#), "{}", fetched.said());

    let failed = net.node(["get", "no.iso", "-o", "-", "--json", "--timeout", "1"]).run().expect_status(3);
    assert!(failed.stdout.is_empty(), "{}", failed.said());
    assert!(failed.stderr.contains(r#""code":"not_found""#), "{}", failed.said());
}

#[test]
fn what_is_there_already_is_not_overwritten() {
    let net = net!();
    let (content, _share) = shared(&net, 1405);
    let target = net.folder();
    put(&target, "image.iso", b"precious");

    net.get("image.iso", &target.join("image.iso")).run().expect_error(9, "exists");
    assert_eq!(fs::read(target.join("image.iso")).expect("still there"), b"precious");
    assert_eq!(listing(&target), ["image.iso"]);

    net.get("image.iso", &target.join("image.iso")).arg("--force").run().done();
    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"]);
}

#[test]
fn a_link_as_target_is_not_followed() {
    let net = net!();
    let (content, _share) = shared(&net, 1406);
    let (target, elsewhere) = (net.folder(), net.folder());
    put(&elsewhere, "precious", b"precious");
    std::os::unix::fs::symlink(elsewhere.join("precious"), target.join("image.iso")).expect("linked");

    net.get("image.iso", &target.join("image.iso")).run().expect_error(9, "exists");
    net.get("image.iso", &target.join("image.iso")).arg("--force").run().done();

    assert_eq!(fs::read(elsewhere.join("precious")).expect("still there"), b"precious");
    content.expect_in(&target.join("image.iso"));
    assert!(!target.join("image.iso").is_symlink());
}

#[test]
fn a_target_in_a_folder_that_is_not_there_fails_at_once() {
    let net = net!();
    let (_content, _share) = shared(&net, 1407);
    let here = net.folder();

    let failed = net.node(["get", "image.iso", "-o", "no/such/folder/image.iso"]).within(&here).run();

    assert!([1, 2].contains(&failed.status), "{}", failed.said());
    assert!(failed.stderr.contains("no/such/folder"), "the folder is not named\n{}", failed.said());
    assert_eq!(listing(&here), Vec::<String>::new());
}

#[test]
fn time_and_execute_bit_come_along() {
    let net = net!();
    let folder = net.folder();
    let path = put(&folder, "tool", &Content::new(1408, 1000).bytes);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    fs::File::options().write(true).open(&path).and_then(|f| f.set_modified(modified)).expect("set");
    let _share = net.share(&folder);
    let target = net.folder().join("tool");

    net.get("tool", &target).run().done();

    let metadata = fs::metadata(&target).expect("there");
    assert_eq!(metadata.modified().ok(), Some(modified));
    assert_eq!(metadata.permissions().mode() & 0o111, 0o111);
}
