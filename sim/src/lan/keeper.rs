//! The namespaces that a network lives in, and commands within them.
//!
//! A process of ours, the keeper, holds them and does nothing else; it ends when the pipe to it does, so also when this
//! process is killed. The hosts' own namespaces have names below its `/run`, which is a file system of its own.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Why there is no network, or why it does not do what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LanError {
    /// This machine does not let us make one, or has not the tools for it; the sentence says what is missing.
    Unavailable(String),
    /// It was made, and something went wrong with it.
    Failed(String),
}

impl fmt::Display for LanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LanError::Unavailable(why) => write!(f, "no network of namespaces on this machine: {why}"),
            LanError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for LanError {}

/// Holds the namespaces. Dropped, they end, with the last process in them.
#[derive(Debug)]
pub struct Keeper {
    child: Child,
    /// What is run before a command, to run it in the namespaces.
    enter: Vec<String>,
}

impl Keeper {
    /// Makes fresh namespaces.
    ///
    /// # Errors
    /// [`LanError::Unavailable`].
    pub fn start() -> Result<Self, LanError> {
        for (name, package) in [("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")] {
            require(name, package)?;
        }
        // Root may be refused a user namespace (in a container), and does not need one.
        let root = rustix::process::geteuid().is_root();
        match Self::start_as(true) {
            Err(refused) if root => Self::start_as(false).map_err(|_| refused),
            started => started,
        }
    }

    fn start_as(user: bool) -> Result<Self, LanError> {
        let unavailable = |error: String| LanError::Unavailable(error);
        let mut child = Command::new(require("unshare", "util-linux")?)
            .args(user.then_some("--map-root-user"))
            .args(["--net", "--mount", "sh", "-c", KEEP])
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| unavailable(format!("cannot run unshare: {error}")))?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        if !matches!(read, Some(Ok(_))) || line.trim() != "kept" {
            let _ = child.kill();
            let output = child.wait_with_output().map_err(|error| unavailable(error.to_string()))?;
            return Err(unavailable(said(&output)));
        }
        let target = child.id().to_string();
        let nsenter = require("nsenter", "util-linux")?.display().to_string();
        let mut enter = vec![nsenter];
        if user {
            enter.extend(["--preserve-credentials", "--user"].map(str::to_owned));
        }
        enter.extend(["--net", "--mount", "--target", &target].map(str::to_owned));
        let keeper = Keeper { child, enter };
        keeper.check_apart()?;
        Ok(keeper)
    }

    /// What is run before a command, to run it where the bridges are. Every word of it becomes the next by `exec`, so the
    /// process that is started is the command itself, and signals reach it.
    pub fn enter(&self) -> &[String] {
        &self.enter
    }

    /// Runs a shell script where the bridges are, to its end; what it prints.
    ///
    /// # Errors
    /// With what it says, if it fails.
    pub fn script(&self, script: &str) -> Result<String, LanError> {
        let failed = |error: std::io::Error| LanError::Failed(format!("cannot run a shell: {error}"));
        let mut child = Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .args(["sh", "-eu"])
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A shell that ends before it has read everything says why.
            let _ = stdin.write_all(script.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LanError::Failed(format!("the network refuses: {}", said(&output))))
    }

    /// Makes sure that what runs here is not on the machine's own network.
    fn check_apart(&self) -> Result<(), LanError> {
        let here = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let there = self.script("readlink /proc/self/ns/net\n")?;
        if there.trim().is_empty() || here == Path::new(there.trim()) {
            return Err(LanError::Unavailable("the namespaces are not apart from the machine".to_owned()));
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a tool is, if it is installed. An ordinary user's search path often lacks the folders of the administrator's.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Where a tool is that is needed.
pub(super) fn require(name: &str, package: &str) -> Result<PathBuf, LanError> {
    find_tool(name)
        .ok_or_else(|| LanError::Unavailable(format!("`{name}` is not installed (package {package})")))
}

fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

/// What a command said when it failed, as one line.
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}

/// Prepares the namespaces, says so, and lives until its standard input ends.
const KEEP: &str = "set -eu
mount -t tmpfs none /run
mkdir -p /run/netns
ip link set lo up
echo kept
read -r _ || true
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_fails_says_why() {
        let keeper = match Keeper::start() {
            Ok(keeper) => keeper,
            Err(why) => {
                assert!(matches!(why, LanError::Unavailable(_)), "{why}");
                assert!(std::env::var_os("FTX_TESTS_NO_SKIP").is_none(), "{why}");
                return;
            }
        };
        assert_eq!(keeper.script("echo here; true").unwrap(), "here\n");
        let refused = keeper.script("ip link set nothing up; echo unreached").unwrap_err();
        assert!(refused.to_string().contains("nothing"), "{refused}");
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let missing = require("no-such-tool", "some-package").unwrap_err().to_string();
        assert!(missing.contains("no-such-tool") && missing.contains("some-package"), "{missing}");
        assert!(find_tool("sh").is_some());
    }
}
