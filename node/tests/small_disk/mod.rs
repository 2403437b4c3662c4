//! A disk that is really full soon, for tests.

use std::process::Command;

/// Runs a test of this program again as root of a namespace of its own, with a tmpfs of so many MiB at `/mnt`.
pub(crate) fn on_a_small_disk(mebibytes: u32, test: &str) {
    let script = format!(
        "mount -t tmpfs -o size={mebibytes}m tmpfs /mnt && exec \"$0\" --exact --include-ignored --nocapture \"$1\""
    );
    let exe = std::env::current_exe().unwrap();
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("FTX_TESTS_NO_SKIP").is_none(),
            "a small disk needs `unshare -rm` and mount"
        );
        eprintln!("SKIPPED: a small disk needs `unshare -rm` and mount, which are not allowed here");
        return;
    }
    let output =
        Command::new("unshare").args(["-rm", "sh", "-c", &script]).arg(exe).arg(test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
