//! Processes on the hosts: nodes, the web server, `curl`.
//!
//! The nodes are this very program, called by the name `ftx-node`: so there is nothing to install beside it. They are
//! killed when what holds them is dropped, and by the system when this process dies.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::keeper::LanError;
use super::network::Host;

/// The name under which this program is the node.
pub const NODE_NAME: &str = "ftx-node";

/// A process that says what it does in JSON, one object a line.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    label: String,
    stderr: PathBuf,
}

/// The programs that run on the hosts.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The node.
    pub node: PathBuf,
    /// This program.
    pub simulator: PathBuf,
}

impl Programs {
    /// The node at `node`, or else this program under the node's name, in `folder`.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn new(node: Option<&Path>, folder: &Path) -> Result<Self, LanError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| LanError::Failed(format!("{what}: {error}"));
        let simulator =
            std::env::current_exe().map_err(|error| failed("cannot find this program itself", &error))?;
        let node = match node {
            Some(node) => {
                let found = node.canonicalize();
                found.map_err(|error| failed(&format!("--node {}", node.display()), &error))?
            }
            None => {
                let node = folder.join(NODE_NAME);
                std::os::unix::fs::symlink(&simulator, &node)
                    .map_err(|error| failed("cannot give this program a second name", &error))?;
                node
            }
        };
        Ok(Programs { node, simulator })
    }
}

impl Process {
    /// Starts a program on a host, in a fresh folder of its own below `folder`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        host: &Host,
        program: &Path,
        label: &str,
        folder: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self, LanError> {
        let failed = |error: std::io::Error| LanError::Failed(format!("cannot start {label}: {error}"));
        let stderr = folder.join(format!("{label}.log"));
        let mut command = host.command(program);
        command.args(args).current_dir(folder).env("HOME", folder);
        // Nothing that the user has set for nodes may change what is measured, but for the log.
        let set = std::env::vars_os().map(|(name, _)| name);
        let of_nodes =
            |name: &&str| name.starts_with("FTX_") && *name != "FTX_LOG" || name.starts_with("XDG_");
        for name in set.filter(|name| name.to_str().as_ref().is_some_and(of_nodes)) {
            command.env_remove(name);
        }
        let mut child = Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).map_err(failed)?)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| failed(std::io::Error::other("it has no stdout")))?;
        Ok(Process { child, lines: BufReader::new(stdout).lines(), label: label.to_owned(), stderr })
    }

    /// The next object that it says; `None` at its end.
    ///
    /// # Errors
    /// If its output cannot be read.
    pub async fn next(&mut self) -> Result<Option<Value>, LanError> {
        loop {
            let line = self.lines.next_line().await;
            let line = line.map_err(|error| LanError::Failed(format!("{}: {error}", self.label)))?;
            match line.map(|line| serde_json::from_str(&line)) {
                None => return Ok(None),
                Some(Ok(value)) => return Ok(Some(value)),
                Some(Err(_)) => {}
            }
        }
    }

    /// Waits until it says an event of this kind.
    ///
    /// # Errors
    /// With what it has said, if it ends before.
    pub async fn wait_for(&mut self, event: &str) -> Result<Value, LanError> {
        while let Some(value) = self.next().await? {
            if value["event"] == event {
                return Ok(value);
            }
        }
        Err(LanError::Failed(format!("{} ended before it was {event}: {}", self.label, self.log())))
    }

    /// Kills it.
    pub fn kill(&mut self) {
        // One that has ended by itself needs no killing.
        let _ = self.child.start_kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Of the system.
    pub async fn ended(&mut self) -> Result<ExitStatus, LanError> {
        self.child.wait().await.map_err(|error| LanError::Failed(format!("{}: {error}", self.label)))
    }

    /// The end of what it has written to stderr.
    pub fn log(&self) -> String {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(LOG_LINES_MAX).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

/// If this program was called by the node's name, lives no longer than whoever called it.
///
/// A node that somebody has started under this name by hand ends with the shell that it was started from.
pub fn end_with_parent() {
    use rustix::process::{Signal, set_parent_process_death_signal};
    // Where the system does not offer it, nodes outlive only a simulator that is killed outright.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
}

/// Most lines of a log in a message.
const LOG_LINES_MAX: usize = 5;
