//! A process of the node: how it is started, what it says, how it ends.
//!
//! Both outputs are read by threads of their own into memory, so a process never blocks on a full pipe, and waiting for
//! something is waiting on a condition with a deadline.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a process may take in all unless the test says otherwise. A hang fails the test.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A process about to be started.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    /// The subcommand, if any, and what it is given.
    args: Vec<OsString>,
    /// What every subcommand is given: the network the test lives on.
    common: Vec<OsString>,
    state: PathBuf,
    deadline: Duration,
}

/// A process that was started. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    label: String,
    state: PathBuf,
    started: Instant,
    deadline: Instant,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    /// How far the events have been looked at.
    seen: usize,
    reaped: bool,
}

/// A process that has ended, with all it has said.
#[derive(Debug)]
pub struct Finished {
    /// The exit status; 128 + n after signal n.
    pub status: i32,
    /// All of the standard output, as it came.
    pub stdout: Vec<u8>,
    /// All of the standard error.
    pub stderr: String,
    /// The lines of the standard output that are JSON objects.
    pub events: Vec<Value>,
    /// From start to end.
    pub elapsed: Duration,
}

impl Invocation {
    pub(crate) fn new(command: Command, common: Vec<OsString>, state: PathBuf) -> Self {
        Invocation { command, args: Vec::new(), common, state, deadline: DEADLINE }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Gives a flag that all processes of the network get, such as `--port`, another value.
    pub fn instead(mut self, flag: &str, value: &str) -> Self {
        let at = self.common.iter().position(|arg| arg == flag).expect("a flag that all processes get");
        self.common[at + 1] = value.into();
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Uses this state folder, and so this identity, instead of a fresh one.
    pub fn with_state(mut self, state: &Path) -> Self {
        self.state = state.to_owned();
        self
    }

    /// Runs in this folder.
    pub fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Fails the test if the process still runs after this time.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the process and waits for its end.
    pub fn run(self) -> Finished {
        self.start().finish()
    }

    /// Starts the process.
    pub fn start(mut self) -> Running {
        let label = describe(&self.args);
        // The common flags follow the subcommand, so that a `--` among the arguments does not swallow them.
        let has_subcommand = self.args.first().is_some_and(|first| !first.as_bytes().starts_with(b"-"));
        let (subcommand, rest) = self.args.split_at(usize::from(has_subcommand));
        self.command.args(subcommand).args(&self.common).arg("--state").arg(&self.state).args(rest);
        let started = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {label}: {error}"));
        let stdout = Output::collect(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Output::collect(child.stderr.take().expect("stderr is a pipe"));
        Running {
            child,
            label,
            state: self.state,
            started,
            deadline: started + self.deadline,
            stdout,
            stderr,
            seen: 0,
            reaped: false,
        }
    }
}

impl Running {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The state folder of the process.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What has been written to the standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().bytes).into_owned()
    }

    /// The next line of the standard output, without its end; `None` after the last.
    ///
    /// Fails the test when the deadline passes first.
    pub fn next_line(&mut self) -> Option<String> {
        let deadline = self.deadline;
        let seen = self.seen;
        let line = self.stdout.wait(deadline, |state| {
            let rest = &state.bytes[seen..];
            match rest.iter().position(|&b| b == b'\n') {
                Some(end) => Some(Some((rest[..end].to_vec(), seen + end + 1))),
                None if state.ended && rest.is_empty() => Some(None),
                None if state.ended => Some(Some((rest.to_vec(), state.bytes.len()))),
                None => None,
            }
        });
        let Some(line) = line else { self.fail("said nothing more within its time") };
        let (bytes, seen) = line?;
        self.seen = seen;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits for an event that `wanted` accepts, and returns it. Events before it are passed over.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        while let Some(line) = self.next_line() {
            if let Ok(event) = serde_json::from_str::<Value>(&line)
                && wanted(&event)
            {
                return event;
            }
        }
        self.fail(&format!("ended before {what}"))
    }

    /// Waits until more than `bytes` of the content have been fetched and verified; returns how many had been.
    pub fn wait_for_bytes(&mut self, bytes: u64) -> u64 {
        let what = format!("it had fetched {bytes} bytes");
        let event = self.wait_for(&what, |event| fetched(event).is_some_and(|now| now > bytes));
        fetched(&event).expect("the event was chosen for having it")
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Finished {
        let deadline = self.deadline;
        let ended = |state: &Captured| state.ended.then_some(());
        if self.stdout.wait(deadline, ended).is_none() || self.stderr.wait(deadline, ended).is_none() {
            self.fail("did not end within its time");
        }
        let status = self.child.wait().unwrap_or_else(|error| panic!("{}: {error}", self.label));
        self.reaped = true;
        let stdout = std::mem::take(&mut self.stdout.lock().bytes);
        let events = stdout
            .split(|&b| b == b'\n')
            .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
            .filter(Value::is_object)
            .collect();
        Finished {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout,
            stderr: self.stderr(),
            events,
            elapsed: self.started.elapsed(),
        }
    }

    /// Waits until an event that `wanted` accepts has come; whether it came before the end. Events before it are passed
    /// over.
    pub fn comes_to(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> bool {
        while let Some(line) = self.next_line() {
            if serde_json::from_str::<Value>(&line).is_ok_and(|event| wanted(&event)) {
                return true;
            }
        }
        false
    }

    /// Waits for the end, for so long at most; whether it came.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let until = (Instant::now() + time).min(self.deadline);
        if self.stdout.wait(until, |state| state.ended.then_some(())).is_some() {
            return true;
        }
        if until == self.deadline {
            self.fail("did not end within its time");
        }
        false
    }

    /// Ends the process as `kill -9` does, and waits until it is gone. What it had said by then comes back; its status is
    /// 137 unless it ended of itself just before.
    pub fn kill9(mut self) -> Finished {
        // A process that has ended by itself needs no killing; either way it is waited for.
        let _ = self.child.kill();
        self.renew_deadline();
        self.finish()
    }

    /// Gives the process the usual time again, from now on.
    pub(crate) fn renew_deadline(&mut self) {
        self.deadline = Instant::now() + DEADLINE;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal)
            .unwrap_or_else(|error| panic!("signal {signal:?} to {}: {error}", self.label));
    }

    /// The most memory the process has had resident so far, in bytes.
    pub fn peak_resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// Fails the test with all that the process has said.
    pub fn fail(&mut self, why: &str) -> ! {
        self.end();
        let stdout = String::from_utf8_lossy(&self.stdout.lock().bytes).into_owned();
        panic!(
            "{} {why} ({:.1} s)\n--- stdout ---\n{}\n--- stderr ---\n{}",
            self.label,
            self.started.elapsed().as_secs_f64(),
            tail(&stdout),
            tail(&self.stderr())
        );
    }

    fn end(&mut self) {
        if !self.reaped {
            self.reaped = true;
            // A process that has ended by itself needs no killing; either way it is waited for.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("--- {} wrote to stderr ---\n{}", self.label, tail(&self.stderr()));
        }
    }
}

impl Finished {
    /// Fails the test, with all output, unless the exit status is `status`.
    #[track_caller]
    pub fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, status, "exit status\n{}", self.said());
        self
    }

    /// The last event, if it has this kind; else the test fails.
    #[track_caller]
    pub fn last(&self, kind: &str) -> &Value {
        match self.events.last() {
            Some(event) if event["event"] == kind => event,
            _ => panic!("the last event is not '{kind}'\n{}", self.said()),
        }
    }

    /// The `done` event of a get that went well.
    #[track_caller]
    pub fn done(&self) -> &Value {
        assert_eq!(self.status, 0, "exit status\n{}", self.said());
        for event in self.events.iter().filter(|event| event["safe"].is_u64()) {
            let [safe, bytes, size] = ["safe", "bytes", "size"].map(|field| event[field].as_u64());
            assert!(safe <= bytes && bytes <= size, "{event} counts what it does not have\n{}", self.said());
        }
        self.last("done")
    }

    /// The code of the error that ended the process, after checking its exit status.
    #[track_caller]
    pub fn expect_error(self, status: i32, code: &str) -> Self {
        let this = self.expect_status(status);
        let error = this.last("error");
        assert_eq!(error["code"], code, "{}", this.said());
        let message = error["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "an error without a message\n{}", this.said());
        this
    }

    /// The sources of a get that went well, as its `done` event lists them.
    #[track_caller]
    pub fn sources(&self) -> &[Value] {
        self.done()["sources"].as_array().unwrap_or_else(|| panic!("done without sources\n{}", self.said()))
    }

    /// A number of the source with this node id; 0 if the node is not among the sources.
    #[track_caller]
    pub fn of_source(&self, node: &str, field: &str) -> u64 {
        let number = |source: &Value| {
            source[field].as_u64().unwrap_or_else(|| panic!("no '{field}' in {source}\n{}", self.said()))
        };
        self.sources().iter().filter(|source| source["node"] == node).map(number).sum()
    }

    /// The bytes that all sources together gave.
    #[track_caller]
    pub fn bytes_of_sources(&self) -> u64 {
        self.sources().iter().filter_map(|source| source["bytes"].as_u64()).sum()
    }

    /// Both outputs, for a failed assertion.
    pub fn said(&self) -> String {
        format!(
            "exit status {} after {:.1} s\n--- stdout ---\n{}\n--- stderr ---\n{}",
            self.status,
            self.elapsed.as_secs_f64(),
            tail(&String::from_utf8_lossy(&self.stdout)),
            tail(&self.stderr)
        )
    }
}

/// The bytes of the content that a progress event says are fetched; `None` for other events and phases.
fn fetched(event: &Value) -> Option<u64> {
    (event["event"] == "progress" && event["phase"] == "fetching").then(|| event["bytes"].as_u64()).flatten()
}

/// The command line without what all have in common.
fn describe(args: &[OsString]) -> String {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    format!("`ftx-node {}`", args.join(" "))
}

/// The last lines of a long text.
fn tail(text: &str) -> &str {
    let start = text.rmatch_indices('\n').nth(LINES_SHOWN).map_or(0, |(at, _)| at + 1);
    &text[start..]
}

/// Lines of each output that a failure shows.
const LINES_SHOWN: usize = 60;

/// An output of a process as far as it has come.
#[derive(Debug, Default)]
struct Output {
    state: Mutex<Captured>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    /// Collects what comes from `pipe` until its end.
    fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Output::default());
        let ours = Arc::clone(&output);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = ours.lock();
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                ours.changed.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        output
    }

    /// What `ready` makes of the output as soon as it makes something; `None` once the deadline has passed.
    fn wait<T>(&self, deadline: Instant, mut ready: impl FnMut(&Captured) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = ready(&state) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Captured> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the place of the node.
    fn shell(script: &str) -> Invocation {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        Invocation::new(command, Vec::new(), PathBuf::from("/nonexistent"))
    }

    #[test]
    fn events_are_found_among_other_lines() {
        let script = r#"
            echo '{"event":"progress","phase":"finding","bytes":9}'
            echo plain
            echo '{"event":"progress","phase":"fetching","bytes":5}'
            echo '{"event":"progress","phase":"fetching","bytes":7}'
            printf '{"event":"error","code":"other","message":"because"}'
            echo trouble >&2
            exit 3"#;
        let mut running = shell(script).start();
        assert_eq!(running.wait_for_bytes(5), 7);
        let finished = running.finish().expect_error(3, "other");
        assert_eq!(finished.events.len(), 4);
        assert_eq!(finished.stderr, "trouble\n");
    }

    #[test]
    fn a_hang_fails_with_what_was_said() {
        let hang = shell("echo before; echo trouble >&2; exec sleep 60").deadline(Duration::from_millis(300));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hang.run())).unwrap_err();
        let message = failed.downcast_ref::<String>().unwrap();
        assert!(message.contains("before") && message.contains("trouble"), "{message}");
    }

    #[test]
    fn a_killed_process_is_gone() {
        let mut running = shell("echo up; exec sleep 60").start();
        assert_eq!(running.next_line().as_deref(), Some("up"));
        // In the middle of an exec a process has next to nothing.
        let deadline = Instant::now() + Duration::from_secs(10);
        while running.peak_resident_bytes().is_none_or(|bytes| bytes < 100_000) {
            assert!(Instant::now() < deadline, "it has no memory");
            thread::yield_now();
        }
        let id = running.id();
        running.kill9();
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn the_status_of_a_signal_is_the_shells() {
        let mut running = shell("echo up; exec sleep 60").start();
        running.next_line();
        running.signal(Signal::TERM);
        assert_eq!(running.finish().status, 128 + 15);
    }
}
