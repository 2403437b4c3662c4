//! What can be said on the command line, in the environment and in a configuration file.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use etcetera::BaseStrategy;
use serde::Deserialize;

use ftx_proto::engine::pull::choice::LaneMode;

use crate::config::{
    DEFAULT_PORT, InboxConfig, ListenAt, NodeConfig, Services, Sessions, StepAuth, StepConfig,
};
use crate::error::{Code, Error};
use crate::interop::Url;
use crate::interop::step_store::InboxLimits;
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
    /// Let clients of the older systems put files into this folder; what is complete there is shared
    #[arg(long, value_name = "DIR", env = "FTX_INBOX")]
    pub(super) inbox: Option<PathBuf>,
    /// How much each user may put into the inbox, such as 500MB or 20GiB; TCP put as a whole is one user [default: 10GiB]
    #[arg(long, value_name = "SIZE", env = "FTX_INBOX_QUOTA", value_parser = super::text::parse_bytes)]
    pub(super) inbox_quota: Option<u64>,
    /// How much all users and TCP put together may put into the inbox [default: 100GiB]
    #[arg(long, value_name = "SIZE", env = "FTX_INBOX_TOTAL", value_parser = super::text::parse_bytes)]
    pub(super) inbox_total: Option<u64>,
    /// Speak STEP at this address [default: that of --bind or 0.0.0.0, port 1379]
    #[arg(long, value_name = "ADDR", env = "FTX_STEP", num_args = 0..=1, require_equals = true,
          default_missing_value = "")]
    pub(super) step: Option<ListenAt>,
    /// Who may log in to STEP: the users in FILE (see `ftx-node step-user`), or `classic`: everybody under any name,
    /// which is unsafe
    #[arg(long, value_name = "classic|FILE", env = "FTX_STEP_AUTH")]
    pub(super) step_auth: Option<PathBuf>,
    /// Serve striped downloads, at this address or port [default: any port]
    #[arg(long, value_name = "ADDR", env = "FTX_STRIPED", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(super) striped: Option<ListenAt>,
    /// Answer `get NAME` by UDP, at the port of discovery
    #[arg(long, env = "FTX_UDP_GET")]
    pub(super) udp_get: bool,
    /// Take files that are pushed by TCP put into the inbox, at this address or port [default: port 5001]
    #[arg(long, value_name = "ADDR", env = "FTX_TCP_PUT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(super) tcp_put: Option<ListenAt>,
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
    /// A node (or server of udp-get) to ask directly, where broadcasts do not reach; may be given several times
    #[arg(long, global = true, value_name = "HOST[:PORT]", env = "FTX_PEER", value_delimiter = ',')]
    pub(super) peer: Vec<String>,
    /// Where this node keeps its identity, the hashes of what it shares, and how far unfinished uploads are
    #[arg(long, global = true, value_name = "DIR", env = "FTX_STATE")]
    pub(super) state: Option<PathBuf>,
    /// How long to wait for nodes: at the beginning [default: 3], and when none is left [default: 60]. For each step of a
    /// server of an older system [default: 5 to 120, by step]
    #[arg(long, global = true, value_name = "SECONDS", env = "FTX_TIMEOUT", value_parser = super::text::parse_seconds)]
    pub(super) timeout: Option<Duration>,
    /// Print one JSON object a line on stdout
    #[arg(long, global = true, env = "FTX_JSON")]
    pub(super) json: bool,
    /// Take what is not given here or in the environment from this TOML file
    #[arg(long, global = true, value_name = "FILE", env = "FTX_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Do not confine the process to the folders that it needs. Where this is said to be `false`, a kernel that cannot
    /// confine is warned about
    #[arg(long, global = true, value_name = "BOOL", env = "FTX_NO_SANDBOX", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) no_sandbox: Option<bool>,
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
    /// Show how the node on this machine is: what it shares, how far hashing is, who is being served, what it fetches
    ///
    /// Tells of every process that runs with the state folder (see --state), a `get` under way included. Where none runs, the
    /// exit status is 5; where one runs and does not answer, 12.
    Status,
    /// Find out what is wrong with this machine or network when nodes do not find each other
    ///
    /// Each finding is OK, a warning or a problem, with what it means and what to do. The exit status is 1 if there is a
    /// problem, else 0. It asks the network as `peers` does, and makes a connection to everybody who answers.
    Doctor,
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
    /// Say who may log in to STEP, with which password
    StepUser {
        #[command(subcommand)]
        action: StepUserAction,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum StepUserAction {
    /// Add a user, or give one another password: asked for, or else the first line of the standard input
    Add {
        /// The user's name
        name: String,
        /// The file of users; made if it is not there
        #[arg(long, value_name = "FILE", env = "FTX_STEP_AUTH")]
        file: PathBuf,
    },
    /// Remove a user
    Rm {
        /// The user's name
        name: String,
        /// The file of users
        #[arg(long, value_name = "FILE", env = "FTX_STEP_AUTH")]
        file: PathBuf,
    },
    /// List the users
    Ls {
        /// The file of users
        #[arg(long, value_name = "FILE", env = "FTX_STEP_AUTH")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct GetOptions {
    /// NAME, NAME@ROOT where several contents have the name, or ROOT (8 or more of its hex digits); or a URL:
    /// step://user@host[:port]/key, udp-get://name, striped://host:port/path
    pub(super) what: String,
    /// Where to put it: FILE (of a folder: the folder itself), DIR/ or - for stdout [default: the name, in the current folder]
    #[arg(short, long, value_name = "FILE|DIR/|-")]
    pub(super) output: Option<PathBuf>,
    /// Only from this node: its name, or the beginning of its id
    #[arg(long, value_name = "NODE", env = "FTX_FROM")]
    pub(super) from: Option<String>,
    /// What carries chunks: `stream` (TCP), `datagram` (UDP, for networks that lose packets), or `auto`, whichever gives more
    #[arg(long, value_name = "LANE", env = "FTX_LANE", default_value = "auto")]
    pub(super) lane: LaneMode,
    /// Do not ask servers of udp-get for a NAME that no node has
    #[arg(long, env = "FTX_NATIVE_ONLY")]
    pub(super) native_only: bool,
    /// Replace a file that is there already; in a folder, also files where folders should be and the reverse
    #[arg(long, env = "FTX_FORCE")]
    pub(super) force: bool,
    /// Of a folder only files that match: a name at any depth, or with a '/' a path in it; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub(super) include: Vec<String>,
    /// Of a folder nothing that matches, and nothing in folders that do; wins over --include
    #[arg(long, value_name = "GLOB")]
    pub(super) exclude: Vec<String>,
    /// Remove what is in the folder here and not in the one that is fetched, after showing it
    #[arg(long)]
    pub(super) delete: bool,
    /// Leave out the symbolic links of a folder
    #[arg(long, env = "FTX_NO_SYMLINKS")]
    pub(super) no_symlinks: bool,
    /// Stripes in which a file comes from striped://
    #[arg(long, value_name = "N", env = "FTX_THREADS", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) threads: u8,
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
    inbox: Option<PathBuf>,
    inbox_quota: Option<String>,
    inbox_total: Option<String>,
    step: Option<ListenAt>,
    step_auth: Option<PathBuf>,
    striped: Option<ListenAt>,
    #[serde(default)]
    udp_get: bool,
    tcp_put: Option<ListenAt>,
    name: Option<String>,
    bind: Option<IpAddr>,
    port: Option<u16>,
    #[serde(default)]
    peer: Vec<String>,
    state: Option<PathBuf>,
    timeout: Option<f64>,
    no_sandbox: Option<bool>,
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
        let share = &mut self.share;
        for (given, said) in [
            (&mut share.max_upload, file.max_upload),
            (&mut share.inbox_quota, file.inbox_quota),
            (&mut share.inbox_total, file.inbox_total),
        ] {
            if let (None, Some(bytes)) = (&given, said) {
                *given = Some(super::text::parse_bytes(&bytes).map_err(wrong)?);
            }
        }
        share.inbox = share.inbox.take().or(file.inbox);
        share.step = share.step.or(file.step);
        share.step_auth = share.step_auth.take().or(file.step_auth);
        share.striped = share.striped.or(file.striped);
        share.udp_get |= file.udp_get;
        share.tcp_put = share.tcp_put.or(file.tcp_put);
        let common = &mut self.common;
        common.name = common.name.take().or(file.name);
        common.bind = common.bind.or(file.bind);
        common.port = common.port.or(file.port);
        if common.peer.is_empty() {
            common.peer = file.peer;
        }
        common.state = common.state.take().or(file.state);
        common.no_sandbox = common.no_sandbox.or(file.no_sandbox);
        if let (None, Some(seconds)) = (common.timeout, file.timeout) {
            common.timeout = Some(super::text::parse_seconds(&seconds.to_string()).map_err(wrong)?);
        }
        Ok(self)
    }
}

impl ShareOptions {
    /// Adds to the node what these options say.
    pub(super) fn complete(&self, config: &mut NodeConfig) -> Result<(), Error> {
        config.shares = self.share.clone();
        config.max_upload = self.max_upload;
        let default = InboxLimits::default();
        let limits = InboxLimits {
            user_bytes_max: self.inbox_quota.unwrap_or(default.user_bytes_max),
            total_bytes_max: self.inbox_total.unwrap_or(default.total_bytes_max),
        };
        config.inbox = self.inbox.clone().map(|path| InboxConfig { path, limits });
        config.services =
            Services { step: None, striped: self.striped, tcp_put: self.tcp_put, udp_get: self.udp_get };
        let Some(at) = self.step else { return Ok(()) };
        let auth = match &self.step_auth {
            Some(auth) if auth.as_os_str() == "classic" => StepAuth::Classic,
            Some(file) => StepAuth::File(file.clone()),
            None => {
                let message = "--step needs --step-auth: a file of users (`ftx-node step-user add NAME --file FILE` \
                               makes it), or `classic`, with which whoever knows a user's name has the user's files";
                return Err(Error::new(Code::Usage, message));
            }
        };
        config.services.step = Some(StepConfig { at, auth });
        Ok(())
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
            inbox: None,
            services: Services::default(),
        })
    }

    /// The nodes that are to be asked directly.
    pub(super) fn peers(&self, port: u16) -> Result<Vec<SocketAddr>, Error> {
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
    fn step_listens_where_it_is_told_and_only_with_authentication() {
        let step = |args: &[&str]| {
            let options = Options::parse_from([&["ftx-node", "--state", "/s"], args].concat());
            let mut config = options.common.node_config(Sessions::None).unwrap();
            options
                .share
                .complete(&mut config)
                .map(|()| config.services.step.map(|step| (step.at, step.auth)))
        };
        let at = |text: &str| text.parse::<ListenAt>().unwrap();
        let classic = |text: &str| Some((at(text), StepAuth::Classic));
        assert_eq!(step(&["--step", "--step-auth", "classic"]).unwrap(), classic(""));
        assert_eq!(step(&["--step=127.0.0.1:7", "--step-auth=classic"]).unwrap(), classic("127.0.0.1:7"));
        let file = step(&["--step=7", "--step-auth", "users"]).unwrap().unwrap();
        assert_eq!(file, (at("7"), StepAuth::File("users".into())));
        assert_eq!(step(&[]).unwrap(), None);
        assert_eq!(step(&["--step"]).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn a_file_fills_in_what_was_not_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ftx.toml");
        std::fs::write(
            &path,
            "share = ['/a', '/b']\nport = 7\nmax-upload = '2MB'\ntimeout = 1.5\n\
             inbox = '/in'\ninbox-quota = '1GiB'\nstep = '127.0.0.1:0'\nstep-auth = 'classic'\nno-sandbox = true\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let options = Options::parse_from(["ftx-node", "--config", path, "--port", "8"]).with_file().unwrap();
        assert_eq!(options.common.port, Some(8));
        assert_eq!(options.share.share, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(options.share.max_upload, Some(2_000_000));
        assert_eq!(options.common.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(options.common.no_sandbox, Some(true));
        let mut config = options.common.node_config(Sessions::None).unwrap();
        options.share.complete(&mut config).unwrap();
        assert_eq!(config.inbox.unwrap().limits.user_bytes_max, 1 << 30);
        let step = StepConfig { at: "127.0.0.1:0".parse().unwrap(), auth: StepAuth::Classic };
        assert_eq!(config.services.step, Some(step));
        std::fs::write(path, "shares = 3").unwrap();
        let error = Options::parse_from(["ftx-node", "--config", path]).with_file().unwrap_err();
        assert_eq!(error.code, Code::Usage);
        assert!(error.message.contains("shares"), "{error}");
    }
}
