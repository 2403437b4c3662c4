//! Programs that people use today, each in a folder of its own and on 127.0.0.1: what the node is measured against.
//!
//! One that is not installed is left out, and that is said. Ports are given by the system.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Failure, NAME, Stage, cpu_of_children, cpu_of_process, median, peak_of};

/// What one copy took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    pub seconds: f64,
    /// Of whoever fetches.
    pub cpu_fetching: f64,
    /// Of all who serve.
    pub cpu_serving: f64,
    /// Of the largest process.
    pub peak_bytes: u64,
}

impl Taken {
    /// Of all together.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_fetching + self.cpu_serving
    }

    /// Of each figure the median, of the memory the most.
    pub fn median_of(all: &[Taken]) -> Taken {
        let of = |figure: fn(&Taken) -> f64| median(all.iter().map(figure));
        Taken {
            seconds: of(|it| it.seconds),
            cpu_fetching: of(|it| it.cpu_fetching),
            cpu_serving: of(|it| it.cpu_serving),
            peak_bytes: all.iter().map(|it| it.peak_bytes).max().unwrap_or(0),
        }
    }
}

/// A program with its server.
pub struct Other {
    pub name: &'static str,
    server: Server,
    fetch: Fetch,
}

/// A server on a port of its own; it ends with this.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts a server with a folder of this name, and waits until it listens.
    fn start(stage: &Stage, name: &str, start: StartServer) -> Result<Self, Failure> {
        let folder = stage.folder.path().join(name);
        fs::create_dir(&folder)?;
        // Nothing listens there in between; whoever takes it before the server does makes that one fail.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = start(stage, folder, port)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut server = Server { child, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if server.child.try_wait()?.is_some() || begun.elapsed() > START_MAX {
                let mut said = String::new();
                let _ = server.child.kill();
                if let Some(stderr) = &mut server.child.stderr {
                    stderr.read_to_string(&mut said)?;
                }
                return Err(format!("its server does not start: {}", said.trim()).into());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(server)
    }

    /// An rsync daemon that gives what is shared; none where rsync is not installed.
    pub fn rsync(stage: &Stage) -> Result<Option<Self>, Failure> {
        found("rsync").map(|_| Server::start(stage, "rsync", rsync_daemon)).transpose()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that are installed, their servers running.
pub fn start_all(stage: &Stage) -> Vec<Other> {
    let all: [Known; 3] = [
        ("curl", "curl", "nginx", nginx, curl),
        ("rsync", "rsync", "rsync", rsync_daemon, rsync),
        ("aria2", "aria2c", "nginx", nginx, aria2),
    ];
    let mut others = Vec::new();
    for (name, client, server, start, fetch) in all {
        if let Some(missing) = [client, server].into_iter().find(|program| found(program).is_none()) {
            eprintln!("transfer: without {name}: {missing} is not installed");
            continue;
        }
        match Other::start(stage, name, start, fetch) {
            Ok(other) => others.push(other),
            Err(failure) => eprintln!("transfer: without {name}: {failure}"),
        }
    }
    others
}

/// Its name, the programs of both sides, and how these are started.
type Known = (&'static str, &'static str, &'static str, StartServer, Fetch);

type StartServer = fn(&Stage, PathBuf, u16) -> Result<Command, Failure>;

/// The command that fetches from this port to this place.
type Fetch = fn(u16, &str) -> Command;

impl Other {
    fn start(stage: &Stage, name: &'static str, start: StartServer, fetch: Fetch) -> Result<Self, Failure> {
        Ok(Other { name, server: Server::start(stage, name, start)?, fetch })
    }

    /// Fetches the file once.
    pub fn copy(&self, stage: &Stage) -> Result<Taken, Failure> {
        let target = stage.target();
        let text = target.to_str().ok_or("a temporary folder with a strange name")?;
        let server = self.server.child.id();
        let (children, serving) = (cpu_of_children()?, cpu_of_process(server)?);
        let begun = Instant::now();
        let mut client = (self.fetch)(self.server.port, text)
            .current_dir(stage.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut peak_bytes = 0;
        let status = loop {
            peak_bytes = peak_of(client.id()).unwrap_or(0).max(peak_bytes);
            if let Some(status) = client.try_wait()? {
                break status;
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        let seconds = begun.elapsed().as_secs_f64();
        if !status.success() || fs::metadata(&target)?.len() != stage.size {
            return Err(format!("{} has not fetched the file", self.name).into());
        }
        fs::remove_file(&target)?;
        Ok(Taken {
            seconds,
            cpu_fetching: cpu_of_children()? - children,
            cpu_serving: cpu_of_process(server)? - serving,
            peak_bytes: peak_of(server).unwrap_or(0).max(peak_bytes),
        })
    }
}

fn nginx(stage: &Stage, folder: PathBuf, port: u16) -> Result<Command, Failure> {
    let (here, share) = (folder.display(), stage.folder.path().join("share"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {here}/{kind};\n"))
        .collect();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
         sendfile on;\n{temporary}server {{\nlisten 127.0.0.1:{port};\nroot {};\n}}\n}}\n",
        share.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new(found("nginx").ok_or("not installed")?);
    command.arg("-p").arg(&folder).arg("-c").arg(file).args(["-e", "stderr"]);
    Ok(command)
}

fn curl(port: u16, target: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--output", target]);
    command.arg(format!("http://127.0.0.1:{port}/{NAME}"));
    command
}

fn aria2(port: u16, target: &str) -> Command {
    let mut command = Command::new("aria2c");
    let place = std::path::Path::new(target);
    command.args([
        "--no-conf",
        "--quiet",
        "--max-connection-per-server=4",
        "--split=4",
        "--file-allocation=none",
    ]);
    command.arg("--no-proxy=*").arg("--dir").args(place.parent()).arg("--out").args(place.file_name());
    command.arg(format!("http://127.0.0.1:{port}/{NAME}"));
    command
}

fn rsync_daemon(stage: &Stage, folder: PathBuf, port: u16) -> Result<Command, Failure> {
    let share = stage.folder.path().join("share");
    // Started by root it would otherwise become somebody who may not look into the folder.
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let who = if user.is_root() {
        format!("uid = {}\ngid = {}\n", user.as_raw(), group.as_raw())
    } else {
        String::new()
    };
    let config = format!("use chroot = no\nreverse lookup = no\n{who}[share]\npath = {}\n", share.display());
    let file = folder.join("rsyncd.conf");
    fs::write(&file, config)?;
    let mut command = Command::new(found("rsync").ok_or("not installed")?);
    command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]).arg(format!("--port={port}"));
    command.arg(format!("--config={}", file.display())).arg("--log-file=/dev/null");
    Ok(command)
}

fn rsync(port: u16, target: &str) -> Command {
    let mut command = Command::new("rsync");
    command.arg("--whole-file").arg(format!("rsync://127.0.0.1:{port}/share/{NAME}")).arg(target);
    command
}

/// Where a program is; servers are in folders that the search for programs leaves out for most people.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// How long a server may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether something has happened.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
