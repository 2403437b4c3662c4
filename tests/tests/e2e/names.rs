//! Names: those that try to escape, those that are merely odd, and shares with odd things in them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use ftx_tests::share::put;
use ftx_tests::{Content, listing, net};

#[test]
fn names_that_try_to_escape_are_usage_errors() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "x", b"content");
    put(folder.parent().expect("a parent"), "secret", b"not shared");
    let _share = net.share(&folder);
    for name in ["../secret", "/etc/passwd", "a/../../secret", "..", "a\\..\\secret", "C:/secret", "a//x", ""]
    {
        let target = net.folder();
        let refused = net.node(["get", "--json", "--timeout", "3"]).args(["--", name]).within(&target).run();
        assert_eq!(refused.status, 2, "{name:?}\n{}", refused.said());
        assert_eq!(listing(&target), Vec::<String>::new(), "{name:?}");
    }
}

#[test]
fn odd_names_are_fetched_under_their_own_name() {
    let net = net!();
    let folder = net.folder();
    let names = [
        "with spaces and 'quotes' \"both\"",
        "Üñï 文件 🦀",
        "-rf",
        "...",
        "ab:c",
        "me@host.txt",
        "line\nbreak",
        "100%s{}",
        "$HOME",
    ];
    for (i, name) in names.iter().enumerate() {
        put(&folder, name, &Content::new(900 + i as u64, 1000 + i).bytes);
    }
    let _share = net.share(&folder);
    for (i, name) in names.iter().enumerate() {
        let target = net.folder();
        let fetched = net.node(["get", "--json"]).args(["--", name]).within(&target).run();
        assert_eq!(fetched.status, 0, "{name:?}\n{}", fetched.said());
        assert_eq!(listing(&target), [*name]);
        Content::new(900 + i as u64, 1000 + i).expect_in(&target.join(name));
    }
}

#[test]
fn the_longest_name_leaves_room_for_the_part() {
    let net = net!();
    let folder = net.folder();
    // As long as the file system allows: what stands beside the target meanwhile must have a shorter name.
    let name = "n".repeat(255);
    let content = Content::new(940, 40_000);
    put(&folder, &name, &content.bytes);
    let _share = net.share(&folder);
    let target = net.folder();

    net.get(&name, &target.join(&name)).run().done();

    content.expect_in(&target.join(&name));
    assert_eq!(listing(&target), [name.as_str()]);
}

#[test]
fn a_name_cannot_write_to_the_terminal() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "red \x1b[31m alert \x07", b"content");
    let share = net.share(&folder);
    share.wait_until_hashed(&net, "red \x1b[31m alert \x07");

    let listed = net.node(["ls", "--timeout", "3"]).run().expect_status(0);

    assert!(listed.said().contains("alert"), "{}", listed.said());
    assert!(!listed.said().contains(['\x1b', '\x07']), "{:?}", listed.said());
}

#[test]
fn files_in_folders_are_fetched_by_their_path() {
    let net = net!();
    let folder = net.folder();
    let content = Content::new(920, 50_000);
    put(&folder, "2026/november/report.txt", &content.bytes);
    let _share = net.share(&folder);
    let target = net.folder().join("report.txt");

    net.get("2026/november/report.txt", &target).run().done();

    content.expect_in(&target);
}

#[test]
fn what_cannot_be_shared_is_named_and_the_rest_is_shared() {
    let net = net!();
    let folder = net.folder();
    let content = Content::new(930, 20_000);
    put(&folder, "good", &content.bytes);
    // Opening a pipe waits for somebody to write into it.
    let made = std::process::Command::new("mkfifo").arg(folder.join("pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    std::fs::write(folder.join(OsStr::from_bytes(b"not\xffunicode")), b"x").expect("written");
    symlink("nowhere", folder.join("dangling")).expect("linked");
    symlink(".", folder.join("loop")).expect("linked");
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).expect("bound");

    let share = net.share(&folder);
    share.wait_until_hashed(&net, "good");
    let target = net.folder().join("good");
    net.get("good", &target).run().done();

    content.expect_in(&target);
    let stderr = share.process().stderr();
    assert!(stderr.contains("unicode"), "the file that cannot be named is not reported:\n{stderr}");
}

#[test]
fn a_link_does_not_lead_out_of_a_share() {
    let net = net!();
    let (folder, outside) = (net.folder(), net.folder());
    put(&folder, "inside", b"shared");
    put(&outside, "secret", b"not shared");
    symlink(outside.join("secret"), folder.join("link")).expect("linked");
    symlink(&outside, folder.join("way")).expect("linked");
    let share = net.share(&folder);
    share.wait_until_hashed(&net, "inside");

    for name in ["link", "way/secret"] {
        let target = net.folder().join("out");
        let refused = net.get(name, &target).args(["--timeout", "2"]).run();
        assert_ne!(refused.status, 0, "{name}\n{}", refused.said());
        assert!(!target.exists(), "{name}\n{}", refused.said());
    }
}
