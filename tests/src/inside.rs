//! Tests that need file systems or a network of their own: run again, as a process in namespaces of its own.
//!
//! What such a process mounts is its own, and gone with it, however it ends. Where the system does not let a test have
//! that, it is skipped loudly; with `FTX_TESTS_NO_SKIP` set it fails.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

/// What a test needs around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// To mount a tmpfs, as root of a user namespace: to be had by most users.
    OwnRoot,
    /// To mount block devices, as the machine's root.
    RealRoot,
    /// A network without any interface but its own loopback, with the right to send packets of any form on it.
    OwnNetwork,
}

/// Runs `test`, the body of the test that calls this, within namespaces.
#[track_caller]
pub fn run(namespaces: Namespaces, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let unshare = |program: &Path, args: &[&str]| {
        let flags: &[&str] = match namespaces {
            Namespaces::OwnRoot => &["-rm", "--propagation=private"],
            Namespaces::RealRoot => &["-m", "--propagation=private"],
            Namespaces::OwnNetwork => &["-rn"],
        };
        Command::new("unshare").args(flags).arg(program).args(args).env(INSIDE, "1").output()
    };
    let probe = match namespaces {
        Namespaces::OwnRoot => unshare(Path::new("mount"), &["-t", "tmpfs", "tmpfs", "/mnt"]),
        Namespaces::RealRoot => unshare(Path::new("sh"), &["-c", "losetup --find && mkfs.ext4 -V"]),
        Namespaces::OwnNetwork => unshare(Path::new("ip"), &["link", "set", "lo", "up"]),
    };
    let why = match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(said(&output)),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = why {
        // A container has no block devices even where everything else is to be had.
        let must = namespaces != Namespaces::RealRoot && std::env::var_os("FTX_TESTS_NO_SKIP").is_some();
        assert!(!must, "{name} needs namespaces of its own ({namespaces:?}): {why}");
        // Not `eprintln`: the test runner would hide it, since the test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: no namespaces of its own here: {}", why.trim());
        return;
    }
    let program = std::env::current_exe().expect("the path of this test program");
    let output =
        unshare(&program, &["--exact", "--include-ignored", "--nocapture", &name]).expect("it was probed");
    let text = said(&output);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    for line in text.lines().filter(|line| line.contains(" kills, ")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Mounts something; only within [`run`].
#[track_caller]
pub fn mount(args: &[&str], at: &Path) {
    assert!(std::env::var_os(INSIDE).is_some(), "nothing is mounted outside of namespaces");
    tool("mount", args, Some(at));
}

/// Runs a program that must succeed; its standard output.
#[track_caller]
pub fn tool(program: &str, args: &[&str], last: Option<&Path>) -> String {
    let mut command = Command::new(program);
    command.args(args).args(last);
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Set for the process that runs within the namespaces.
const INSIDE: &str = "FTX_TESTS_INSIDE";
