//! A running node that shares a folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::network::Machine;
use crate::process::{Finished, Invocation, Running};

/// A node that shares a folder and has said that it is ready. Dropped, it is killed.
#[derive(Debug)]
pub struct Share {
    running: Running,
    ready: Value,
}

impl Share {
    pub(crate) fn start(invocation: Invocation) -> Self {
        // A share runs as long as its test; what bounds it is that the test drops it.
        let mut running = invocation.start();
        let ready = running.wait_for("it was ready", |event| event["event"] == "ready");
        Share { running, ready }
    }

    /// The whole `ready` event.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// The node id: 64 hex digits.
    pub fn node(&self) -> &str {
        self.ready["node"].as_str().expect("ready names the node")
    }

    /// The port for sessions.
    pub fn port(&self) -> u16 {
        let port = self.ready["port"].as_u64().expect("ready tells the port");
        u16::try_from(port).expect("a port has 16 bits")
    }

    /// Where the node serves an older system: `step`, `striped`, `tcp_put`…
    pub fn service(&self, name: &str) -> SocketAddr {
        let addr = self.ready["services"][name].as_str();
        let addr = addr.unwrap_or_else(|| panic!("no {name} in {}", self.ready));
        addr.parse().expect("an address with a port")
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.running.state().to_owned()
    }

    /// The process.
    pub fn process(&self) -> &Running {
        &self.running
    }

    /// Waits until a node tells the root of `name`, that is, has hashed it; returns the root.
    pub fn wait_until_hashed(&self, machine: &Machine, name: &str) -> String {
        let mut found = None;
        self.ask_until(machine, name, |entry| {
            let root = entry["root"].as_str().filter(|root| root.len() == 64);
            found = (entry["name"] == name).then(|| root.map(str::to_owned)).flatten();
            found.is_some()
        });
        found.expect("it was found")
    }

    /// Waits until this node has hashed all of a folder; returns its root.
    pub fn wait_until_folder_is_hashed(&self, machine: &Machine, name: &str) -> String {
        // A listing tells the roots of folders a while later. Whoever fetches nothing of one learns it at once.
        let target = machine.folder().join("nothing");
        let get = machine.get(name, &target).args(["--from", self.node(), "--exclude", "*"]);
        let fetched = get.run();
        fetched.done()["root"].as_str().expect("done tells the root").to_owned()
    }

    /// Waits until a node tells of a content with this root.
    pub fn wait_until_root_is_listed(&self, machine: &Machine, root: &str) {
        self.ask_until(machine, root, |entry| entry["root"] == root);
    }

    /// Asks the network what there is until some entry is `wanted`. Each answer says how far the nodes are.
    fn ask_until(&self, machine: &Machine, what: &str, mut wanted: impl FnMut(&Value) -> bool) {
        let deadline = Instant::now() + crate::process::DEADLINE;
        while Instant::now() < deadline {
            let listed = machine.node(["ls", "--json", "--timeout", "2"]).run();
            if listed.events.iter().any(|event| any_object(event, &mut wanted)) {
                return;
            }
        }
        panic!("{what} was not listed in time\n--- the node wrote ---\n{}", self.running.stderr());
    }

    /// Stops the process where it is, as a machine does that hangs.
    pub fn freeze(&self) {
        self.running.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.running.signal(Signal::CONT);
    }

    /// Ends the process as `kill -9` does.
    pub fn kill9(self) -> Finished {
        self.running.kill9()
    }

    /// Asks the process to end, and waits until it has.
    pub fn stop(mut self) -> Finished {
        self.running.renew_deadline();
        self.running.signal(Signal::TERM);
        self.running.finish()
    }
}

/// Copies of a node's folder: `count` fresh folders, in each the file `name` with these bytes.
pub fn copies(machine: &Machine, count: usize, name: &str, bytes: &[u8]) -> Vec<PathBuf> {
    let copy = |_| {
        let folder = machine.folder();
        put(&folder, name, bytes);
        folder
    };
    (0..count).map(copy).collect()
}

/// Writes a file below `folder`, with the folders it needs.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    let parent = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, bytes)).expect("the file is written");
    path
}

/// Whether `wanted` accepts `value` or some object within it.
fn any_object(value: &Value, wanted: &mut impl FnMut(&Value) -> bool) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| any_object(item, wanted)),
        Value::Object(fields) => wanted(value) || fields.values().any(|field| any_object(field, wanted)),
        _ => false,
    }
}
