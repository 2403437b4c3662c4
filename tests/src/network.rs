//! Places where nodes are started: a network of its own on loopback for each test.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::process::Invocation;
use crate::share::Share;

/// A network of nodes on loopback that no other test takes part in: it has a discovery port to itself.
#[derive(Debug)]
pub struct TestNet {
    machine: Machine,
    port: ReservedPort,
}

/// A place where the node can be started, and a temporary folder that goes with the last of its users.
#[derive(Debug, Clone)]
pub struct Machine {
    binary: PathBuf,
    /// What is run instead of the node, with the node as its argument: empty on this machine, `nsenter …` elsewhere.
    prefix: Vec<OsString>,
    common: Vec<OsString>,
    scratch: Arc<Scratch>,
}

impl TestNet {
    /// A fresh network for the node at `binary`.
    pub fn new(binary: &str) -> Self {
        let port = ReservedPort::new();
        let common = ["--bind", "127.0.0.1", "--port", &port.number.to_string()];
        let machine = Machine::new(binary, &[], &common, Arc::new(Scratch::new()));
        TestNet { machine, port }
    }

    /// A fresh network where something else listens for connections at the port.
    pub fn with_port_taken(binary: &str) -> (Self, TcpListener) {
        loop {
            let net = TestNet::new(binary);
            // The port is free for datagrams; a connection of another test may have it.
            if let Ok(taken) = TcpListener::bind(("127.0.0.1", net.port())) {
                return (net, taken);
            }
        }
    }

    /// The port on which the nodes of this network find each other.
    pub fn port(&self) -> u16 {
        self.port.number
    }
}

impl Deref for TestNet {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Machine {
    pub(crate) fn new(binary: &str, prefix: &[&str], common: &[&str], scratch: Arc<Scratch>) -> Self {
        let owned = |args: &[&str]| args.iter().map(OsString::from).collect();
        Machine { binary: binary.into(), prefix: owned(prefix), common: owned(common), scratch }
    }

    /// The same place, with what is started there run by another program, which gets the node as its last arguments.
    pub fn under(&self, program: &[&str]) -> Self {
        let prefix = self.prefix.iter().cloned().chain(program.iter().map(OsString::from)).collect();
        Machine { prefix, ..self.clone() }
    }

    /// The same place, with what is started there bound by the permissions of files, whoever runs the tests.
    pub fn without_privileges(&self) -> Self {
        match rustix::process::geteuid().is_root() {
            true => self.under(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"]),
            false => self.clone(),
        }
    }

    /// A fresh empty folder.
    pub fn folder(&self) -> PathBuf {
        self.scratch.folder()
    }

    /// `ftx-node` with these arguments and those that keep it on this network, in a fresh folder, with a fresh state.
    pub fn node<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain([self.binary.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(self.folder()).env("HOME", self.folder());
        // Nothing that the user of this machine has set may change what a test sees.
        let inherited = std::env::vars_os().map(|(name, _)| name);
        let ours = |name: &OsString| {
            name.to_str().is_some_and(|name| name.starts_with("FTX_") || name.starts_with("XDG_"))
        };
        for name in inherited.filter(ours).chain([OsString::from("RUST_LOG")]) {
            command.env_remove(name);
        }
        Invocation::new(command, self.common.clone(), self.folder())
            .args(args.into_iter().map(|arg| arg.as_ref().to_owned()))
    }

    /// `ftx-node get NAME -o TARGET --json`.
    pub fn get(&self, name: &str, target: &Path) -> Invocation {
        self.node(["get", name, "-o"]).arg(target).arg("--json")
    }

    /// Starts a node that shares `folder`, and waits until it is ready.
    pub fn share(&self, folder: &Path) -> Share {
        self.share_with(folder, &[])
    }

    /// Starts a node that shares `folder`, with more flags, and waits until it is ready.
    pub fn share_with(&self, folder: &Path, flags: &[&str]) -> Share {
        Share::start(self.node(["--share"]).arg(folder).arg("--json").args(flags))
    }

    /// Starts a node again that had been running with this state folder, with more flags.
    pub fn share_again_with(&self, folder: &Path, state: &Path, flags: &[&str]) -> Share {
        Share::start(self.node(["--share"]).arg(folder).arg("--json").args(flags).with_state(state))
    }

    /// Starts a node again that had been running with this state folder.
    pub fn share_again(&self, folder: &Path, state: &Path) -> Share {
        Share::start(self.node(["--share"]).arg(folder).arg("--json").with_state(state))
    }
}

/// Temporary folders, all removed together.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: TempDir,
    count: AtomicU32,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("ftx-tests-").tempdir().expect("a temporary folder");
        Scratch { root, count: AtomicU32::new(0) }
    }

    fn folder(&self) -> PathBuf {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let folder = self.root.path().join(number.to_string());
        fs::create_dir(&folder).expect("a fresh folder");
        folder
    }
}

/// A UDP port that was free, and that no other test of any process on this machine takes meanwhile.
///
/// The port cannot be held by binding it, since the nodes must. So what is held is a lock on a file named after it,
/// which the system lets go of however this process ends.
#[derive(Debug)]
struct ReservedPort {
    number: u16,
    _lock: File,
}

impl ReservedPort {
    fn new() -> Self {
        let folder = std::env::temp_dir().join("ftx-tests-ports");
        fs::create_dir_all(&folder).expect("a folder for the locks of ports");
        // Sockets are kept until one fits, or the system might offer the same port again.
        let mut tried = Vec::new();
        while tried.len() < PORTS_TRIED_MAX {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            let number = socket.local_addr().expect("a bound socket has an address").port();
            tried.push(socket);
            let path = folder.join(number.to_string());
            let lock = File::options().create(true).truncate(false).write(true).open(path);
            let lock = lock.expect("a file to lock");
            if lock.try_lock().is_ok() {
                return ReservedPort { number, _lock: lock };
            }
        }
        panic!("the system has offered {PORTS_TRIED_MAX} ports, and other tests use all of them");
    }
}

/// Ports that other tests may hold before something must be wrong.
const PORTS_TRIED_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_differ_while_they_are_held() {
        let ports: Vec<_> = (0..50).map(|_| ReservedPort::new()).collect();
        let mut numbers: Vec<_> = ports.iter().map(|port| port.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
        let path = std::env::temp_dir().join("ftx-tests-ports").join(numbers[0].to_string());
        assert!(File::open(path).unwrap().try_lock().is_err());
    }
}
