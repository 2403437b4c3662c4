//! Files that are put by the older systems, with the client killed at any moment, or the node that takes them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ftx_tests::crash::{Scenario, Struck, Trial};
use ftx_tests::data::MIB;
use ftx_tests::inside::{self, Namespaces};
use ftx_tests::power::{Disk, Image};
use ftx_tests::{Content, Finished, Machine, Running, Share, net};
use serde_json::Value;

/// Who is killed, or what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Client,
    Server,
    /// The machine of the server.
    Power,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Step,
    TcpPut,
}

/// Puts one file, each round under another name.
struct Put {
    machine: Machine,
    system: System,
    victim: Victim,
    content: Content,
    file: PathBuf,
    inbox: PathBuf,
    client_state: PathBuf,
    /// The disk with the inbox, where that is to lose its power.
    disk: Option<Disk>,
    server: Option<Share>,
    addr: SocketAddr,
    round: u64,
    /// Whether the file has its name.
    named: bool,
    /// Whether somebody was killed in this round, and since this client was started.
    struck: [bool; 2],
    /// How often the server refused since the round began.
    refused: u32,
}

impl Put {
    fn new(machine: &Machine, system: System, victim: Victim, content: Content) -> Self {
        let file = machine.folder().join("file");
        fs::write(&file, &content.bytes).expect("a file to send");
        let (mount, client_state) = (machine.folder(), machine.folder());
        // Nodes leave 64 MiB free.
        let disk = (victim == Victim::Power).then(|| Image::blank(160).mount(&mount, "commit=1"));
        let inbox = mount.join("inbox");
        let server = start_server(machine, system, &inbox, None);
        let addr = server.service(system.service());
        let (machine, server) = (machine.clone(), Some(server));
        let (round, named, struck) = (0, false, [false; 2]);
        Put {
            machine,
            system,
            victim,
            content,
            file,
            inbox,
            client_state,
            disk,
            server,
            addr,
            round,
            named,
            struck,
            refused: 0,
        }
    }

    fn url(&self) -> String {
        match self.system {
            System::Step => format!("step://alice@{}/file-{}", self.addr, self.round),
            System::TcpPut => format!("tcp-put://{}", self.addr),
        }
    }

    fn arrived(&self) -> PathBuf {
        match self.system {
            System::Step => self.inbox.join(format!("alice/file-{}", self.round)),
            System::TcpPut => self.inbox.join("file"),
        }
    }

    /// Kills the server, checks what it leaves, and starts it again.
    fn kill_server(&mut self) {
        let server = self.server.take().expect("there always is one");
        let state = server.state();
        if let Some(disk) = &mut self.disk {
            disk.cut();
        }
        let killed = server.kill9();
        assert_eq!(killed.status, 137, "{}", killed.said());
        if let Some(disk) = self.disk.take() {
            let image = disk.image();
            drop(disk);
            let mount = self.inbox.parent().expect("it is a folder on the disk");
            self.disk = Some(image.mount(mount, "commit=1"));
        }
        self.expect_whole_or_nothing();
        self.server = Some(start_server(&self.machine, self.system, &self.inbox, Some((self.addr, &state))));
    }

    /// Fails unless the name stands for the whole file, if for anything.
    fn expect_whole_or_nothing(&mut self) {
        self.named = self.arrived().exists();
        if self.named {
            self.content.expect_in(&self.arrived());
        }
    }
}

/// Soon the server has noticed that a client is gone.
const REFUSED_MAX: u32 = 20;

impl System {
    fn service(self) -> &'static str {
        match self {
            System::Step => "step",
            System::TcpPut => "tcp_put",
        }
    }
}

/// A node that takes files, where it was before if it was somewhere.
fn start_server(
    machine: &Machine,
    system: System,
    inbox: &Path,
    before: Option<(SocketAddr, &Path)>,
) -> Share {
    let inbox = format!("--inbox={}", inbox.display());
    let addr = before.map_or("127.0.0.1:0".to_owned(), |(addr, _)| addr.to_string());
    let flags = match system {
        System::Step => vec![format!("--step={addr}"), "--step-auth=classic".to_owned()],
        System::TcpPut => vec![format!("--tcp-put={addr}")],
    };
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.push(&inbox);
    match before {
        Some((_, state)) => machine.share_again_with(&machine.folder(), state, &flags),
        None => machine.share_with(&machine.folder(), &flags),
    }
}

impl Scenario for Put {
    fn begin(&mut self, round: u64) {
        if self.round > 0 {
            let (file, folder) = (self.arrived(), self.arrived().parent().map(fs::File::open));
            fs::remove_file(file).expect("the last round's is done");
            // It must not come back with the power.
            folder.expect("it is in a folder").and_then(|folder| folder.sync_all()).expect("synced");
        }
        (self.round, self.named, self.struck, self.refused) = (round, false, [false; 2], 0);
    }

    fn start(&mut self) -> Running {
        self.struck[1] = false;
        let put = self.machine.node(["put"]).arg(&self.file).arg(self.url()).arg("--json");
        put.with_state(&self.client_state).start()
    }

    fn progress(&self, event: &Value) -> Option<(u64, u64)> {
        let size = event["size"].as_u64().filter(|size| *size > 0)?;
        (event["event"] == "progress").then(|| event["bytes"].as_u64().map(|bytes| (bytes, size))).flatten()
    }

    fn result(&self) -> Option<PathBuf> {
        Some(self.arrived())
    }

    fn strike(&mut self, running: Running) -> Struck {
        self.struck = [true; 2];
        if self.victim == Victim::Client {
            return Struck::Killed(running.kill9());
        }
        self.kill_server();
        Struck::Lives(running)
    }

    fn check_after_kill(&mut self, _killed: &Finished) {
        self.expect_whole_or_nothing();
    }

    fn check_after_end(&mut self, ended: Finished) -> bool {
        self.expect_whole_or_nothing();
        let [in_round, since_start] = self.struck;
        match ended.status {
            0 => {
                if self.victim == Victim::Power {
                    // What was told to be there stays there.
                    self.kill_server();
                }
                assert!(self.named, "what was told to be there is not\n{}", ended.said());
            }
            // The word that it is there was lost, and nobody replaces what is there.
            9 | 10 if self.named && in_round => {}
            // The server has not seen yet that the client before is gone, and takes one file of a name at a time.
            10 if in_round && self.refused < REFUSED_MAX => {
                self.refused += 1;
                return false;
            }
            // The server was gone; one that goes before it has said anything has refused, as far as TCP put can tell.
            6 | 10 | 11 | 12 if since_start => return false,
            // A server may forget an upload that it had not yet written down when the power went; the next put begins anew.
            1 if since_start && self.victim == Victim::Power => return false,
            _ => panic!("{}", ended.said()),
        }
        let is_kept =
            |path: &Path| path.ends_with("lock") || path.parent().is_some_and(|at| at.ends_with("sums"));
        let own = self.inbox.join(".ftx-step");
        let mut left = files_below(&self.inbox);
        left.retain(|path| !(path.starts_with(&own) && is_kept(path)));
        assert_eq!(left, [self.arrived()], "something was left over");
        assert_eq!(files_below(&self.client_state), [""; 0].map(PathBuf::from), "something was left over");
        true
    }
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn put(system: System, victim: Victim, kills: u64) {
    let net = net!();
    let mut trial = Trial::new(kills);
    let content = Content::new(trial.seed(), 16 * MIB + 12_345);
    trial.run(&mut Put::new(&net, system, victim, content));
}

#[test]
fn a_step_upload_to_a_machine_that_loses_its_power_ends_right() {
    inside::run(Namespaces::RealRoot, || put(System::Step, Victim::Power, 3));
}

#[test]
#[ignore = "takes minutes"]
fn a_step_upload_to_a_machine_that_loses_its_power_ends_right_many_times() {
    inside::run(Namespaces::RealRoot, || put(System::Step, Victim::Power, 100));
}

#[test]
fn a_tcp_put_to_a_machine_that_loses_its_power_is_there_whole_or_not_at_all() {
    inside::run(Namespaces::RealRoot, || put(System::TcpPut, Victim::Power, 1));
}

#[test]
#[ignore = "takes minutes"]
fn a_tcp_put_to_a_machine_that_loses_its_power_is_there_whole_or_not_at_all_many_times() {
    inside::run(Namespaces::RealRoot, || put(System::TcpPut, Victim::Power, 100));
}

#[test]
fn a_step_upload_whose_client_is_killed_at_any_moment_ends_right() {
    put(System::Step, Victim::Client, 6);
}

#[test]
#[ignore = "takes minutes"]
fn a_step_upload_whose_client_is_killed_at_any_moment_ends_right_many_times() {
    put(System::Step, Victim::Client, 200);
}

#[test]
fn a_step_upload_whose_server_is_killed_at_any_moment_ends_right() {
    put(System::Step, Victim::Server, 4);
}

#[test]
#[ignore = "takes minutes"]
fn a_step_upload_whose_server_is_killed_at_any_moment_ends_right_many_times() {
    put(System::Step, Victim::Server, 150);
}

#[test]
fn a_tcp_put_whose_client_is_killed_at_any_moment_is_there_whole_or_not_at_all() {
    put(System::TcpPut, Victim::Client, 3);
}

#[test]
#[ignore = "takes minutes"]
fn a_tcp_put_whose_client_is_killed_at_any_moment_is_there_whole_or_not_at_all_many_times() {
    put(System::TcpPut, Victim::Client, 150);
}

#[test]
fn a_tcp_put_whose_server_is_killed_at_any_moment_is_there_whole_or_not_at_all() {
    put(System::TcpPut, Victim::Server, 3);
}

#[test]
#[ignore = "takes minutes"]
fn a_tcp_put_whose_server_is_killed_at_any_moment_is_there_whole_or_not_at_all_many_times() {
    put(System::TcpPut, Victim::Server, 150);
}
