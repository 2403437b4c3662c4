//! `ftx-sim lan`: what can be said, and what is shown.

use std::path::PathBuf;

use clap::Args;
use ftx_node::cli::json::object;
use ftx_node::cli::text::{self, parse_bytes};
use ftx_node::error::{Code, Error};
use ftx_proto::digest::Digest;
use ftx_proto::name::printable;
use serde_json::{Value, json};

use super::write_line;
use crate::lan::outcome::{Fetched, Outcome, goodput, median, share_of_link};
pub(super) use crate::lan::run::Event;
use crate::lan::scenario::{Scenario, Tcp};
use crate::lan::shape::{Loss, QUEUE_BYTES, Rate};

/// How the nodes' network is, and what happens on it.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct LanOptions {
    /// Hosts in all [default: one more than share and fetch, for the web server]
    #[arg(long, value_name = "N")]
    hosts: Option<usize>,
    /// How many of them share the file
    #[arg(long, value_name = "S", default_value_t = 2)]
    sources: usize,
    /// How many of them fetch it, all at once
    #[arg(long, value_name = "F", default_value_t = 1)]
    fetchers: usize,
    /// How large the file is, which is made from the seed
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    size: u64,
    /// The rate of every host's link, such as 100mbit or 1gbit
    #[arg(long, value_name = "RATE", default_value = "1gbit")]
    rate: Rate,
    /// The rate of the sources' links [default: that of all]
    #[arg(long, value_name = "RATE")]
    source_rate: Option<Rate>,
    /// What every host loses of the packets that arrive at it, in per cent
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    loss: Loss,
    /// How many bytes wait before a link [default: 256KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    queue: Option<u64>,
    /// How many sources are killed in the middle
    #[arg(long, value_name = "K", default_value_t = 0)]
    kill: usize,
    /// What carries the content, as `ftx-node get --lane` takes it: auto, stream or datagram
    #[arg(long, value_name = "LANE")]
    lane: Option<String>,
    /// TCP's congestion control on all hosts, such as cubic or bbr
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    tcp: String,
    /// Let curl fetch the file at the same time and on the same host, to see what each has of the link
    #[arg(long)]
    with_tcp: bool,
    /// Do not let curl fetch the file afterwards, to compare with
    #[arg(long, conflicts_with = "with_tcp")]
    no_tcp: bool,
    /// After how many seconds curl is not waited for any more: TCP may not get through at all where much is lost
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    tcp_seconds: u32,
    /// How often to measure, each time on a fresh network
    #[arg(long, value_name = "R", default_value_t = 1)]
    runs: usize,
    /// The node's program [default: this one, which is the node too when it is called ftx-node]
    #[arg(long, value_name = "PATH")]
    pub(super) node: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
The hosts are network namespaces with addresses in 10.77.0.0/16, joined by a bridge; nothing reaches the machine's own
network, and nothing is left when the program ends. Needs Linux, root or user namespaces, and the packages util-linux and
iproute2, nftables (or iptables) for --loss, curl to compare with.

Examples:
  ftx-sim lan --sources 4 --loss 5                  a lossy network of 1 Gbit/s, and what curl makes of it
  ftx-sim lan --sources 4 --kill 2 --rate 100mbit   two sources die
  ftx-sim lan --with-tcp                            what a fetch and a TCP download leave to each other
  ftx-sim lan --fetchers 4 --json                   four hosts fetch at once

Exit status: 0 every fetch ended with the right bytes, 1 some did not, 2 usage, 77 this machine offers no such network,
130 interrupted.";

impl LanOptions {
    /// What the options describe.
    pub(super) fn scenario(&self, seed: u64) -> Result<Scenario, Error> {
        let (sources, fetchers) = (self.sources, self.fetchers);
        let queue = u32::try_from(self.queue.unwrap_or(QUEUE_BYTES.into()))
            .map_err(|_| Error::new(Code::Usage, "--queue: less than 4GiB"))?;
        let scenario = Scenario {
            hosts: self.hosts.unwrap_or(Scenario::hosts_for(sources, fetchers)),
            sources,
            fetchers,
            size: self.size,
            rate: self.rate,
            source_rate: self.source_rate,
            queue_bytes: queue,
            loss: self.loss,
            kill: self.kill,
            lane: self.lane.clone(),
            congestion_control: self.tcp.clone(),
            tcp: match (self.with_tcp, self.no_tcp) {
                (true, _) => Tcp::Together,
                (_, true) => Tcp::Never,
                _ => Tcp::After,
            },
            tcp_seconds_max: self.tcp_seconds,
            seed,
            runs: self.runs,
        };
        scenario.check()?;
        Ok(scenario)
    }
}

/// Shows a measurement: text for people, or one object a line.
pub(super) struct Display {
    json: bool,
    scenario: Scenario,
    rate: Rate,
    told_per_cent: u64,
}

impl Display {
    pub(super) fn new(json: bool, scenario: &Scenario) -> Self {
        Display { json, scenario: scenario.clone(), rate: scenario.rate, told_per_cent: 0 }
    }

    fn begin(&self) {
        let scenario = &self.scenario;
        let Scenario { hosts, sources, fetchers, rate, loss, runs, seed, .. } = scenario;
        if self.json {
            let fields = json!({
                "hosts": hosts, "sources": sources, "fetchers": fetchers, "size": scenario.size,
                "rate": rate.bits(), "source_rate": scenario.source_rate.map(Rate::bits),
                "loss_percent": loss.as_percent(), "queue_bytes": scenario.queue_bytes,
                "kill": scenario.kill, "lane": scenario.lane, "tcp": scenario.congestion_control,
                "seed": seed, "runs": runs,
            });
            return tell("begin", fields);
        }
        let slower = scenario.source_rate.map(|rate| format!(", the sources' {rate}")).unwrap_or_default();
        line(format_args!(
            "a network of {hosts} hosts, links of {rate}{slower}, {loss} lost at each host, TCP {}, seed {seed}",
            scenario.congestion_control
        ));
    }

    pub(super) fn event(&mut self, event: &Event<'_>) {
        if let Event::Made(_) = event {
            self.begin();
        }
        match event {
            Event::Ended { run, outcome } if self.json => tell("run", self.of_run(*run, outcome)),
            Event::Ended { run, outcome } => self.run(*run, outcome),
            event if self.json => self.object(event),
            event => self.text(event),
        }
    }

    fn object(&self, event: &Event<'_>) {
        match event {
            Event::Made(original) => {
                tell("made", json!({ "size": original.size, "sha256": Digest(original.sha256).to_string() }))
            }
            Event::Begun { run } => tell("started", json!({ "run": run })),
            Event::Hashed => tell("hashed", json!({})),
            Event::Progress { bytes, size } => tell("progress", json!({ "bytes": bytes, "size": size })),
            Event::Killed { host, bytes } => {
                tell("killed", json!({ "name": format!("h{host}"), "bytes": bytes }));
            }
            Event::Downloading => tell("downloading", json!({})),
            Event::NoCurl => tell("no_curl", json!({})),
            Event::Ended { .. } => {}
        }
    }

    fn text(&mut self, event: &Event<'_>) {
        match event {
            Event::Made(original) => line(format_args!(
                "a random file of {}, SHA-256 {}…",
                text::bytes(original.size),
                &Digest(original.sha256).to_string()[..16]
            )),
            Event::Begun { run } => {
                self.told_per_cent = 0;
                line(format_args!("run {run}: the network is there, the sources hash the file"));
            }
            Event::Hashed => line(format_args!("  fetching")),
            Event::Progress { bytes, size } => {
                let per_cent = bytes * 100 / (*size).max(1);
                if per_cent >= self.told_per_cent + STEP_PER_CENT {
                    self.told_per_cent = per_cent;
                    line(format_args!("  {per_cent} %"));
                }
            }
            Event::Killed { host, bytes } => {
                line(format_args!("  h{host} is killed when {} are there", text::bytes(*bytes)));
            }
            Event::Downloading => line(format_args!("  now curl")),
            Event::NoCurl => line(format_args!("curl is not installed: there is nothing to compare with")),
            Event::Ended { .. } => {}
        }
    }

    /// A run's table.
    fn run(&self, run: usize, outcome: &Outcome) {
        line(format_args!(
            "run {run}\n  {:<6} {:<8} {:>9} {:>8} {:>12} {:>15} {:>5}  {:<9} {}",
            "to", "from", "bytes", "chunks", "asked again", "fragments again", "bad", "lane", "at"
        ));
        for Fetched { host, result, .. } in &outcome.fetches {
            for source in result.iter().flat_map(|report| &report.sources) {
                let killed = outcome.killed.iter().any(|(host, _)| source.name == format!("h{host}"));
                line(format_args!(
                    "  {:<6} {:<8} {:>9} {:>8} {:>12} {:>15} {:>5}  {:<9} {}{}",
                    format!("h{host}"),
                    printable(&source.name).to_string(),
                    text::bytes(source.bytes),
                    source.chunks,
                    source.retransmitted,
                    source.fragments_again,
                    source.bad,
                    source.lane,
                    source.addr,
                    if killed { "  was killed" } else { "" },
                ));
            }
        }
        for fetched in &outcome.fetches {
            self.fetched(fetched);
        }
        if let Some(tcp) = &outcome.tcp {
            let speed = self.speed(tcp.bytes, tcp.seconds);
            let note = match (&tcp.wrong, tcp.complete) {
                (Some(wrong), _) => format!("WRONG: {wrong}"),
                (None, true) => "the right bytes".to_owned(),
                (None, false) => "not finished in its time".to_owned(),
            };
            line(format_args!("  curl   {speed}, {note}"));
        }
        let all: u64 = outcome.together.iter().map(|share| share.bytes).sum();
        for share in &outcome.together {
            let percent = share.bytes as f64 * 100.0 / all.max(1) as f64;
            let bytes = text::bytes(share.bytes);
            line(format_args!("  while all ran, {} had {bytes}, {percent:.0} %", share.name));
        }
    }

    fn fetched(&self, fetched: &Fetched) {
        let host = fetched.host;
        match (&fetched.result, &fetched.wrong) {
            (Err(error), _) => line(format_args!("  h{host}: {error}")),
            (Ok(_), Some(wrong)) => line(format_args!("  h{host}: WRONG: {wrong}")),
            (Ok(report), None) => line(format_args!(
                "  h{host:<5} {}, verified (SHA-256); with the search {:.1} s",
                self.speed(report.size, report.seconds),
                report.seconds_in_all
            )),
        }
    }

    fn speed(&self, bytes: u64, seconds: f64) -> String {
        let megabytes = goodput(bytes, seconds) / 1e6;
        let share = share_of_link(bytes, seconds, self.rate) * 100.0;
        format!("{} in {seconds:.2} s: {megabytes:.1} MB/s, {share:.0} % of the link", text::bytes(bytes))
    }

    fn of_run(&self, run: usize, outcome: &Outcome) -> Value {
        let fetches = outcome.fetches.iter().map(|fetched| match &fetched.result {
            Err(error) => {
                json!({ "name": format!("h{}", fetched.host), "verified": false, "message": error })
            }
            Ok(report) => json!({
                "name": format!("h{}", fetched.host),
                "verified": fetched.wrong.is_none(),
                "wrong": fetched.wrong,
                "size": report.size,
                "seconds": report.seconds,
                "seconds_in_all": report.seconds_in_all,
                "megabytes_per_second": goodput(report.size, report.seconds) / 1e6,
                "share_of_link": share_of_link(report.size, report.seconds, self.rate),
                "sources": report.sources.iter().map(|source| json!({
                    "name": source.name, "addr": source.addr, "bytes": source.bytes, "chunks": source.chunks,
                    "retransmitted": source.retransmitted,
                    "fragments_again": source.fragments_again, "bad": source.bad, "lane": source.lane,
                    "killed": outcome.killed.iter().any(|(host, _)| source.name == format!("h{host}")),
                })).collect::<Vec<_>>(),
            }),
        });
        let tcp = outcome.tcp.as_ref().map(|tcp| {
            json!({
                "bytes": tcp.bytes,
                "seconds": tcp.seconds,
                "complete": tcp.complete,
                "wrong": tcp.wrong,
                "megabytes_per_second": goodput(tcp.bytes, tcp.seconds) / 1e6,
                "share_of_link": share_of_link(tcp.bytes, tcp.seconds, self.rate),
            })
        });
        let together =
            outcome.together.iter().map(|share| json!({ "name": share.name, "bytes": share.bytes }));
        json!({
            "run": run,
            "fetches": fetches.collect::<Vec<_>>(),
            "tcp": tcp,
            "together": together.collect::<Vec<_>>(),
        })
    }

    /// The last word; whether all was right.
    pub(super) fn end(&self, outcomes: &[Outcome]) -> bool {
        let problems: Vec<String> = outcomes.iter().flat_map(Outcome::problems).collect();
        let reports = outcomes.iter().flat_map(|outcome| &outcome.fetches);
        let fetched = reports.filter_map(|fetched| fetched.result.as_ref().ok());
        let fetched = median(fetched.map(|report| goodput(report.size, report.seconds) / 1e6).collect());
        let tcp = outcomes.iter().filter_map(|outcome| outcome.tcp.as_ref());
        let tcp = median(tcp.map(|tcp| goodput(tcp.bytes, tcp.seconds) / 1e6).collect());
        if self.json {
            let ok = problems.is_empty();
            let fields = json!({
                "ok": ok,
                "problems": problems,
                "megabytes_per_second": fetched,
                "tcp_megabytes_per_second": tcp,
            });
            tell("done", fields);
            return ok;
        }
        for problem in &problems {
            line(format_args!("wrong: {problem}"));
        }
        if outcomes.len() > 1 {
            let shown = |value: Option<f64>| value.map_or("nothing".to_owned(), |v| format!("{v:.1} MB/s"));
            line(format_args!("median: a fetch {}, curl {}", shown(fetched), shown(tcp)));
        }
        problems.is_empty()
    }
}

/// It could not be measured.
pub(super) fn failed(json: bool, code: &str, message: &str) {
    if json {
        tell("error", json!({ "code": code, "message": message }));
    } else {
        eprintln!("ftx-sim: {message}");
    }
}

fn tell(event: &str, fields: Value) {
    write_line(format_args!("{}", object(event, fields)));
}

fn line(text: std::fmt::Arguments<'_>) {
    write_line(format_args!("{text}"));
}

/// How far it goes from one line to the next.
const STEP_PER_CENT: u64 = 20;

#[cfg(test)]
mod tests {
    use super::super::args::{Command, Options};
    use super::*;
    use clap::Parser;

    fn parse(line: &str) -> Result<Scenario, Error> {
        let words = ["ftx-sim", "lan"].into_iter().chain(line.split_whitespace());
        match Options::try_parse_from(words) {
            Ok(Options { command: Some(Command::Lan(lan)), seed, .. }) => lan.scenario(seed),
            Ok(_) => panic!("{line}"),
            Err(error) => Err(Error::new(Code::Usage, error.to_string())),
        }
    }

    #[test]
    fn one_host_more_than_needed_is_for_the_web_server() {
        let scenario = parse("").unwrap();
        assert_eq!((scenario.hosts, scenario.sources, scenario.fetchers), (4, 2, 1));
        assert_eq!((scenario.size, scenario.tcp, scenario.lane), (256 << 20, Tcp::After, None));
        assert_eq!(
            (scenario.rate.to_string(), scenario.congestion_control),
            ("1 Gbit/s".into(), "cubic".into())
        );
    }

    #[test]
    fn everything_can_be_said() {
        let scenario = parse(
            "--hosts 9 --sources 4 --fetchers 2 --rate 100mbit --source-rate 1gbit --loss 5 --size 1MiB --lane auto \
             --kill 3 --seed 7 --tcp bbr --queue 64KiB --runs 3 --with-tcp --tcp-seconds 9",
        )
        .unwrap();
        assert_eq!((scenario.hosts, scenario.kill, scenario.seed, scenario.runs), (9, 3, 7, 3));
        assert_eq!((scenario.lane.as_deref(), scenario.queue_bytes), (Some("auto"), 65536));
        assert_eq!((scenario.tcp, scenario.tcp_seconds_max), (Tcp::Together, 9));
        assert_eq!(scenario.loss, Loss::percent(5));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in
            ["--loss 100", "--rate fast", "--sources 0", "--hosts 2", "--with-tcp --no-tcp", "--kill 2"]
        {
            assert_eq!(parse(line).unwrap_err().code, Code::Usage, "{line}");
        }
    }
}
