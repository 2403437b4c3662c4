//! Processes confine themselves to what they were started for. What is within is in `node/tests/sandbox.rs`; this is that
//! the real ones do it, before their first thread, and with the right folders.

use std::fs;
use std::os::unix::fs::symlink;

use ftx_node::sandbox::{Allowed, Enforced, confine};
use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Finished, Running, listing, net};

use crate::folders::{NAME, SMALL, shared};

/// Whether this kernel can confine processes. Says so where it cannot, since nothing is tested there.
fn is_possible() -> bool {
    let tried = std::thread::spawn(|| confine(&Allowed::default())).join().expect("it does not panic");
    let possible = !matches!(tried, Ok(done) if done.folders == Enforced::Missing);
    if !possible {
        eprintln!("SKIPPED: this kernel cannot confine a process");
    }
    possible
}

/// What the kernel says of every thread of the process: whether it can get no new privileges, and its calls are filtered.
fn threads(process: &Running) -> Vec<bool> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("the process runs");
    // One that has ended meanwhile is of no interest.
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    statuses.map(|status| status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2")).collect()
}

#[test]
fn every_thread_of_a_node_is_confined_unless_that_is_not_wanted() {
    if !is_possible() {
        return;
    }
    let net = net!();
    let folder = net.folder();
    put(&folder, "file", &Content::new(1901, MIB).bytes);
    for (flags, is_confined) in [(&["-v"][..], true), (&["-v", "--no-sandbox"], false)] {
        let share = net.share_with(&folder, flags);
        share.wait_until_hashed(&net, "file");
        let threads = threads(share.process());
        assert!(threads.len() > 2, "{threads:?}");
        assert!(threads.iter().all(|confined| *confined == is_confined), "{flags:?}: {threads:?}");
        let said = share.process().stderr();
        let line = if is_confined { " confined: reads" } else { "not confined" };
        assert!(said.contains(line), "{said}");
        assert_eq!(said.contains(folder.to_str().expect("text")), is_confined, "{said}");
    }
    let other_ways = net.node(["--share"]).arg(&folder).args(["-v", "--json"]).env("FTX_NO_SANDBOX", "1");
    let mut running = other_ways.start();
    running.wait_for("it was ready", |event| event["event"] == "ready");
    assert!(running.stderr().contains("not confined"), "{}", running.stderr());
}

#[test]
fn a_get_says_what_it_is_confined_to_and_works_from_any_folder() {
    if !is_possible() {
        return;
    }
    let net = net!();
    let content = Content::new(1902, 3 * MIB);
    let folder = net.folder();
    put(&folder, "file", &content.bytes);
    let share = net.share(&folder);
    share.wait_until_hashed(&net, "file");
    let place = net.folder();
    fs::create_dir_all(place.join("in/it")).expect("made");
    symlink("in/it", place.join("link")).expect("linked");
    // Where it goes, as it is said from `place`.
    let ways: [(&[&str], &str); 7] = [
        (&[], "file"),
        (&["-o", "other"], "other"),
        (&["-o", "in"], "in/file"),
        (&["-o", "in/it/"], "in/it/file"),
        (&["-o", "link/x"], "in/it/x"),
        (&["-o", "link"], "in/it/file"),
        (&["-o", "in/../y"], "y"),
    ];
    for (args, target) in ways {
        let get = || net.node(["get", "file"]).args(["-v", "--force"]).args(args.iter()).within(&place);
        let got = get().run().expect_status(0);
        assert!(got.stderr.contains(" confined: reads"), "{}", got.said());
        content.expect_in(&place.join(target));
        fs::remove_file(place.join(target)).expect("it is there");
    }
    assert!(net.node(["get", "file", "-o", "-"]).run().expect_status(0).stdout == content.bytes);
}

/// Puts a link to a folder with `secret.txt` in the place of what a node shares, and asks for that.
fn ask_for_what_took_the_place(flags: &[&str]) -> (Finished, Option<Vec<u8>>, String) {
    let net = net!();
    let (above, secrets) = (net.folder(), net.folder());
    put(&above, "shared/file", b"shared");
    put(&secrets, "secret.txt", b"secret");
    let share = net.share_with(&above.join("shared"), flags);
    share.wait_until_hashed(&net, "file");
    fs::rename(above.join("shared"), above.join("aside")).expect("renamed");
    symlink(&secrets, above.join("shared")).expect("linked");
    let target = net.folder().join("secret.txt");
    let got = net.get("secret.txt", &target).args(["--timeout", "3"]).run();
    let said = share.stop().stderr;
    (got, fs::read(target).ok(), said)
}

#[test]
fn what_is_put_in_the_place_of_a_share_is_not_served() {
    if !is_possible() {
        return;
    }
    let (got, bytes, said) = ask_for_what_took_the_place(&[]);
    assert!(got.status != 0 && bytes.is_none(), "{}", got.said());
    assert!(said.contains("--no-sandbox"), "why it is not is told\n{said}");
    // Otherwise it would be: the test tests something.
    let (got, bytes, _) = ask_for_what_took_the_place(&["--no-sandbox"]);
    assert_eq!(bytes.as_deref(), Some(&b"secret"[..]), "{}", got.said());
}

#[test]
fn a_link_out_of_a_share_gives_nothing() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "in/file", b"shared");
    symlink("/etc/passwd", folder.join("passwd")).expect("linked");
    symlink("/etc/passwd", folder.join("in/passwd")).expect("linked");
    symlink("/etc", folder.join("etc")).expect("linked");
    let share = net.share(&folder);
    share.wait_until_hashed(&net, "in/file");
    for name in ["passwd", "in/passwd", "etc", "etc/passwd"] {
        let target = net.folder().join("got");
        let got = net.get(name, &target).args(["--timeout", "2"]).run();
        assert!(got.status != 0 && !target.exists(), "{name}\n{}", got.said());
    }
    let target = net.folder().join("in");
    net.get("in", &target).run().done();
    assert_eq!(listing(&target), ["file"]);
}

/// Fetches a folder, and puts a link to another folder in the place of the state folder in the middle of it. Returns
/// what was written there.
fn fetch_with_the_state_elsewhere(flags: &[&str]) -> Vec<String> {
    let net = net!();
    let (_, tree, _share) = shared(&net, 1905, SMALL, &["--max-upload", "2M"]);
    let (above, victim, to) = (net.folder(), net.folder(), net.folder());
    let state = above.join("state");
    // Files may be made wherever temporary ones are, and the folders of a test are there.
    let get = net.get(NAME, &to.join(NAME)).with_state(&state).env("TMPDIR", net.folder()).args(flags);
    let mut get = get.start();
    get.wait_for_bytes(MIB as u64 / 2);
    fs::rename(&state, above.join("aside")).expect("renamed");
    symlink(&victim, &state).expect("linked");
    get.finish().done();
    tree.as_fetched().expect_in(&to.join(NAME));
    listing(&victim)
}

#[test]
fn a_get_writes_nowhere_but_where_it_was_started_for() {
    if !is_possible() {
        return;
    }
    assert_eq!(fetch_with_the_state_elsewhere(&[]), [""; 0]);
    // Otherwise it would: the test tests something.
    assert_ne!(fetch_with_the_state_elsewhere(&["--no-sandbox"]), [""; 0]);
}

#[test]
fn a_configuration_file_can_switch_it_off_and_the_command_line_on_again() {
    if !is_possible() {
        return;
    }
    let net = net!();
    let file = net.folder().join("ftx.toml");
    fs::write(&file, "no-sandbox = true\n").expect("written");
    let said = |flags: &[&str]| {
        let looked = net.node(["peers", "-v", "--timeout", "0.1", "--config"]).arg(&file).args(flags.iter());
        looked.run().stderr
    };
    assert!(said(&[]).contains("not confined"), "{}", said(&[]));
    let on = said(&["--no-sandbox=false"]);
    assert!(on.contains(" confined: reads") && !on.contains("not confined"), "{on}");
}
