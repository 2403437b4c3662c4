//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ftx_node::cli::text::parse_bytes;
use ftx_node::error::{Code, Error};

use super::lan::LanOptions;
use super::swarm::SwarmOptions;
use crate::lan::run::SERVE_FILE;
use crate::scenario::{Content, Scenario};
use crate::soak::Soak;

/// Run many nodes of ftx-node on one machine, and check that files arrive whole whatever happens to the nodes.
///
/// Without a command: a demonstration with five nodes, of which four share a file and one fetches it by its name.
/// Everything stays on this machine (127.0.0.1, or namespaces of its own) and in a temporary folder.
#[derive(Debug, Parser)]
#[command(name = "ftx-sim", version, after_help = AFTER_HELP)]
pub(super) struct Options {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// From what everything that is left to chance is chosen: data, who is killed and when, what is damaged
    #[arg(long, global = true, value_name = "X", default_value_t = 1)]
    pub(super) seed: u64,
    /// Print one JSON object a line on stdout; the last is `done` or `error`
    #[arg(long, global = true)]
    pub(super) json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  ftx-sim                                                 the demonstration
  ftx-sim loopback --nodes 50 --sources 45 --size 64MiB   five nodes fetch from 45 at once
  ftx-sim loopback --nodes 9 --kill 3 --liars 2           three sources die, two have rotten disks
  ftx-sim loopback --nodes 4 --slow 1MB/s --seed 7 --json
  ftx-sim loopback --soak 60                              an hour of everything that may happen
  ftx-sim swarm --nodes 8 --source-rate 50MB/s            eight fetch at once, and serve each other
  ftx-sim lan --sources 4 --loss 5                        hosts on a network of 1 Gbit/s that loses packets

Exit status: 0 every fetch ended with the right bytes, 1 some did not or something grew (--soak), 2 usage, 77 this machine offers no network of
namespaces (lan), 130 interrupted.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Nodes on the loopback interface of this machine
    Loopback(LoopbackOptions),
    /// Many nodes that fetch one file at once from a source that is slow, and how long that takes them
    Swarm(SwarmOptions),
    /// Nodes on hosts of a network made of network namespaces, with a rate and losses, and curl to compare with
    Lan(LanOptions),
    /// Serve a file to whoever asks by HTTP: what `lan` runs on a host
    #[command(hide = true, name = SERVE_FILE)]
    ServeFile {
        /// The file
        path: PathBuf,
        /// Where to listen
        addr: SocketAddr,
    },
}

/// What is to happen to the nodes.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct LoopbackOptions {
    /// Nodes in all
    /// [default: 5, with --soak 8]
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// How many of them share the file; the others fetch it, all at once [default: all but one, with --soak all but three]
    #[arg(long, value_name = "S")]
    sources: Option<usize>,
    /// How large the file is, which is made from the seed, such as 1MiB [default: 64MiB, with --soak 8MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    size: Option<u64>,
    /// Share this file instead; it is only read
    #[arg(long, value_name = "PATH", conflicts_with = "size")]
    file: Option<PathBuf>,
    /// How many sources are killed in the middle [default: none, with --soak one in each round]
    #[arg(long, value_name = "K")]
    kill: Option<usize>,
    /// How many sources send wrong bytes in good faith: their disks rot after they have hashed the file [default:
    /// none, with --soak one in each round]
    #[arg(long, value_name = "L")]
    liars: Option<usize>,
    /// One more source that sends at most so many bytes per second, such as 2MB/s; may be given several times
    #[arg(long, value_name = "RATE", value_parser = parse_bytes)]
    slow: Vec<u64>,
    /// What every other source sends at most, such as 12MB/s, which is a network of 100 Mbit/s [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = parse_bytes)]
    max_upload: Option<u64>,
    /// Go on for so many minutes, round after round, with sources that join and leave and fetches that are dropped; tell every
    /// minute how things stand, and fail if memory, descriptors or threads have grown in the end
    #[arg(long, value_name = "MINUTES", value_parser = parse_minutes)]
    soak: Option<Duration>,
}

/// For how long, from minutes and parts of them.
fn parse_minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "minutes, such as 10 or 0.5".to_owned())?;
    if !(minutes > 0.0 && minutes <= MINUTES_MAX) {
        return Err(format!("more than none, and at most {MINUTES_MAX} minutes"));
    }
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

/// Four weeks.
const MINUTES_MAX: f64 = 28.0 * 24.0 * 60.0;

impl LoopbackOptions {
    /// What the options describe.
    pub(super) fn scenario(&self, seed: u64) -> Result<Scenario, Error> {
        let is_soak = self.soak.is_some();
        let nodes = self.nodes.unwrap_or(if is_soak { 8 } else { 5 });
        let each_round = usize::from(is_soak);
        let (kill, liars) = (self.kill.unwrap_or(each_round), self.liars.unwrap_or(each_round));
        // With a soak, more than one fetch if there is somebody for that.
        let fetchers = if is_soak && nodes > 5 { 3 } else { 1 };
        let sources = self.sources.or(nodes.checked_sub(fetchers));
        let sources =
            sources.ok_or_else(|| Error::new(Code::Usage, "--nodes 0: there must be at least two"))?;
        let size = self.size.unwrap_or(if is_soak { 8 << 20 } else { 64 << 20 });
        let content = self.file.clone().map_or(Content::Random(size), Content::File);
        let (slow, max_upload) = (self.slow.clone(), self.max_upload);
        Ok(Scenario { nodes, sources, content, kill, liars, slow, max_upload, seed })
    }

    /// The soak that is asked for, if one is.
    pub(super) fn soak(&self, seed: u64) -> Result<Option<Soak>, Error> {
        let Some(duration) = self.soak else { return Ok(None) };
        Ok(Some(Soak { scenario: self.scenario(seed)?, duration }))
    }
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
    fn all_but_one_share_unless_it_is_said() {
        let parse = |line: &str| {
            let options = Options::try_parse_from(line.split(' ')).unwrap();
            match options.command {
                Some(Command::Loopback(loopback)) => loopback.scenario(options.seed).unwrap(),
                _ => panic!("{line}"),
            }
        };
        let scenario = parse("ftx-sim loopback --nodes 7 --slow 2MB/s --slow 1K --seed 9");
        assert_eq!((scenario.nodes, scenario.sources, scenario.seed), (7, 6, 9));
        assert_eq!(scenario.slow, [2_000_000, 1000]);
        assert_eq!(scenario.content, Content::Random(64 << 20));
        assert_eq!(parse("ftx-sim --seed 3 loopback --sources 2").sources, 2);
        assert!(Options::try_parse_from(["ftx-sim", "loopback", "--size", "1", "--file", "x"]).is_err());
        assert!(Options::try_parse_from(["ftx-sim"]).unwrap().command.is_none());
    }
}
