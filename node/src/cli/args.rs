//! What can be said on the command line, in the environment and in a configuration file.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use etcetera::BaseStrategy;
use serde::Deserialize;

use crate::config::{DEFAULT_PORT, NodeConfig, Sessions};
use crate::error::{Code, Error};
use crate::interop::Url;
use crate::limits::STEP_CONNECTIONS_MAX;

/// Move files on a local network, from all machines that have them at once, with nothing to set up.
///
/// `ftx-node --share DIR` on every machine that has something to give; `ftx-node get NAME` on any other.
#[derive(Debug, Parser)]
#[command(name = "ftx-node", version, args_conflicts_with_subcommands = false, after_help = EXIT_STATUSES)]
pub(super) struct Options {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) share: ShareOptions,
    #[command(flatten)]
    pub(super) common: CommonOptions,
}

const EXIT_STATUSES: &str = "Exit status: 0 ok, 1 other, 2 usage, 3 not found, 4 same name with different contents, \
5 no node answered, 6 network, 7 integrity, 8 disk full, 9 exists, 10 refused, 11 partial and resumable, 12 time-out, \
130 interrupted.";

/// What a node that shares is started with.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ShareOptions {
    /// A folder (or file) to share; may be given several times
    #[arg(long, value_name = "DIR", env = "FTX_SHARE")]
    pub(super) share: Vec<PathBuf>,
    /// Send at most this many bytes per second, such as 20MB/s, 500K or 1.5MiB
    #[arg(long, value_name = "RATE", env = "FTX_MAX_UPLOAD", value_parser = super::text::parse_bytes)]
    pub(super) max_upload: Option<u64>,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(super) struct CommonOptions {
    /// What this node calls itself [default: the name of the machine]
    #[arg(long, global = true, env = "FTX_NAME")]
    pub(super) name: Option<String>,
    /// Use only the network that this address of the machine belongs to
    #[arg(long, global = true, value_name = "ADDR", env = "FTX_BIND")]
    pub(super) bind: Option<IpAddr>,
    /// Port of discovery (UDP), and of sessions (TCP) where it is free [default: 10526]
    #[arg(long, global = true, env = "FTX_PORT")]
    pub(super) port: Option<u16>,
    /// A node to ask directly, where broadcasts do not reach; may be given several times
    #[arg(long, global = true, value_name = "HOST[:PORT]", env = "FTX_PEER", value_delimiter = ',')]
    pub(super) peer: Vec<String>,
    /// Where this node keeps its identity and the hashes of what it shares
    #[arg(long, global = true, value_name = "DIR", env = "FTX_STATE")]
    pub(super) state: Option<PathBuf>,
    /// How long to wait for nodes: at the beginning [default: 3], and when none is left [default: 60]
    #[arg(long, global = true, value_name = "SECONDS", env = "FTX_TIMEOUT", value_parser = super::text::parse_seconds)]
    pub(super) timeout: Option<Duration>,
    /// Print one JSON object a line on stdout
    #[arg(long, global = true, env = "FTX_JSON")]
    pub(super) json: bool,
    /// Take what is not given here or in the environment from this TOML file
    #[arg(long, global = true, value_name = "FILE", env = "FTX_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Say more on stderr; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, env = "FTX_QUIET")]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch a file from all nodes that have it
    Get(GetOptions),
    /// Give a file to a machine that speaks one of the older systems
    Put(PutOptions),
    /// Delete a file on a STEP server
    Rm {
        /// step://user@host[:port]/key
        url: Url,
        #[command(flatten)]
        step: StepOptions,
    },
    /// Save, get or delete a small JSON object on a STEP server
    Data(DataOptions),
    /// Show what is on the network now, or which files a user has on a STEP server
    Ls {
        /// Only names that match, such as '*.iso'; or step://user@host[:port]
        pattern: Option<String>,
        #[command(flatten)]
        step: StepOptions,
    },
    /// Show who is on the network now
    Peers,
    /// Print the roots that name the contents of files
    Hash {
        /// The files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Check that a file is the content that a root names
    Verify {
        /// The file
        path: PathBuf,
        /// Its root, or the first 8 or more digits of it
        root: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct GetOptions {
    /// NAME, NAME@ROOT where several contents have the name, or ROOT (8 or more of its hex digits); or a URL:
    /// step://user@host[:port]/key, udp-get://name, striped://host:port/path
    pub(super) what: String,
    /// Where to put it: FILE, DIR/ or - for stdout [default: the name, in the current folder]
    #[arg(short, long, value_name = "FILE|DIR/|-")]
    pub(super) output: Option<PathBuf>,
    /// Only from this node: its name, or the beginning of its id
    #[arg(long, value_name = "NODE", env = "FTX_FROM")]
    pub(super) from: Option<String>,
    /// Replace a file that is there already
    #[arg(long, env = "FTX_FORCE")]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) step: StepOptions,
}

/// What is given, and to whom.
#[derive(Debug, Args)]
pub(super) struct PutOptions {
    /// The file
    pub(super) file: PathBuf,
    /// To whom: step://user@host[:port][/key] or tcp-put://host[:port]
    pub(super) url: Url,
    #[command(flatten)]
    pub(super) step: StepOptions,
}

/// How a STEP server is spoken to.
#[derive(Debug, Clone, Args)]
pub(super) struct StepOptions {
    /// Connections to a STEP server at once
    #[arg(
        long,
        value_name = "N",
        env = "FTX_CONNECTIONS",
        default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=STEP_CONNECTIONS_MAX as i64),
    )]
    pub(super) connections: u16,
    /// File with the password for a STEP server, or - for stdin. FTX_STEP_PASSWORD may hold the password itself
    /// [default: the classic one, which everybody can make from the name of the user]
    #[arg(long, value_name = "FILE", env = "FTX_STEP_PASSWORD_FILE")]
    pub(super) password_file: Option<PathBuf>,
}

/// What is done with a small JSON object.
#[derive(Debug, Args)]
pub(super) struct DataOptions {
    /// What to do
    #[arg(value_enum)]
    pub(super) action: DataAction,
    /// step://user@host[:port]/key; to save without a key, so that the server makes one up, leave it out
    pub(super) url: Url,
    /// What to save: a JSON object [default: read from stdin]
    #[arg(value_name = "JSON")]
    pub(super) object: Option<String>,
    #[command(flatten)]
    pub(super) step: StepOptions,
}

/// See [`DataOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DataAction {
    /// Keep it under a key that is not taken
    Save,
    /// Print it
    Get,
    /// Delete it
    Rm,
}

impl GetOptions {
    /// Whether the file goes to stdout.
    pub(super) fn to_stdout(&self) -> bool {
        self.output.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}

/// What a configuration file may hold: the long options, by their names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    share: Vec<PathBuf>,
    max_upload: Option<String>,
    name: Option<String>,
    bind: Option<IpAddr>,
    port: Option<u16>,
    #[serde(default)]
    peer: Vec<String>,
    state: Option<PathBuf>,
    timeout: Option<f64>,
}

impl Options {
    /// Whether stdout gets the content of a file.
    pub(super) fn content_on_stdout(&self) -> bool {
        matches!(&self.command, Some(Command::Get(get)) if get.to_stdout())
    }

    /// Fills in what only the configuration file says.
    pub(super) fn with_file(mut self) -> Result<Self, Error> {
        let Some(path) = self.common.config.clone() else { return Ok(self) };
        let wrong = |error: String| {
            Error::new(Code::Usage, format!("configuration file {}: {error}", path.display()))
        };
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if self.share.share.is_empty() && self.command.is_none() {
            self.share.share = file.share;
        }
        if let (None, Some(rate)) = (self.share.max_upload, file.max_upload) {
            self.share.max_upload = Some(super::text::parse_bytes(&rate).map_err(wrong)?);
        }
        let common = &mut self.common;
        common.name = common.name.take().or(file.name);
        common.bind = common.bind.or(file.bind);
        common.port = common.port.or(file.port);
        if common.peer.is_empty() {
            common.peer = file.peer;
        }
        common.state = common.state.take().or(file.state);
        if let (None, Some(seconds)) = (common.timeout, file.timeout) {
            common.timeout = Some(super::text::parse_seconds(&seconds.to_string()).map_err(wrong)?);
        }
        Ok(self)
    }
}

impl CommonOptions {
    /// The node that these options describe, sharing nothing yet.
    pub(super) fn node_config(&self, sessions: Sessions) -> Result<NodeConfig, Error> {
        let port = self.port.unwrap_or(DEFAULT_PORT);
        Ok(NodeConfig {
            shares: Vec::new(),
            bind: self.bind,
            port,
            sessions,
            peers: self.peers(port)?,
            state: self.state_dir()?,
            name: self.name.clone().unwrap_or_else(machine_name),
            max_upload: None,
        })
    }

    fn peers(&self, port: u16) -> Result<Vec<SocketAddr>, Error> {
        let mut peers = Vec::new();
        for peer in &self.peer {
            let with_port = peer.to_socket_addrs();
            let found = with_port.or_else(|_| (peer.as_str(), port).to_socket_addrs()).map_err(|error| {
                Error::new(Code::Usage, format!("--peer {peer}: {error}; it has to be HOST or HOST:PORT"))
            })?;
            peers.extend(found);
        }
        Ok(peers)
    }

    pub(super) fn state_dir(&self) -> Result<PathBuf, Error> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        let strategy = etcetera::choose_base_strategy().map_err(|error| {
            Error::new(Code::Usage, format!("there is no home folder ({error}); name a folder with --state"))
        })?;
        Ok(strategy.state_dir().unwrap_or_else(|| strategy.data_dir()).join("ftx-node"))
    }

    /// How long to wait until the first node answers.
    pub(super) fn search_patience(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(3))
    }

    /// How long to wait when no source is left.
    pub(super) fn fetch_patience(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(60))
    }
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_parser_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_file_fills_in_what_was_not_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ftx.toml");
        std::fs::write(&path, "share = ['/a', '/b']\nport = 7\nmax-upload = '2MB'\ntimeout = 1.5\n").unwrap();
        let path = path.to_str().unwrap();
        let options = Options::parse_from(["ftx-node", "--config", path, "--port", "8"]).with_file().unwrap();
        assert_eq!(options.common.port, Some(8));
        assert_eq!(options.share.share, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(options.share.max_upload, Some(2_000_000));
        assert_eq!(options.common.timeout, Some(Duration::from_millis(1500)));
        std::fs::write(path, "shares = 3").unwrap();
        let error = Options::parse_from(["ftx-node", "--config", path]).with_file().unwrap_err();
        assert_eq!(error.code, Code::Usage);
        assert!(error.message.contains("shares"), "{error}");
    }
}
