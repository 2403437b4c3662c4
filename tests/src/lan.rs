//! A local network of hosts, made of network namespaces.
//!
//! Loopback hides faults of discovery: it has one interface, no real broadcast, no carrier that can be lost. So here
//! are two Ethernet segments (bridges) in namespaces of their own, without any link to the machine's network:
//!
//! ```text
//! red   10.77.0.0/24   h1 .1   h2 .2   h3 .3   h4 .4
//! blue  10.78.0.0/24                           h4 .4   h5 .5
//! ```
//!
//! No host has a default route: what a node sends must be meant for an interface. Where the system does not let a test
//! make namespaces, the test is skipped loudly; with `FTX_TESTS_NO_SKIP` set it fails.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use crate::network::{Machine, Scratch};

/// The hosts. Dropped, they are gone.
#[derive(Debug)]
pub struct Lan {
    keeper: Child,
    hosts: Vec<Machine>,
}

impl Lan {
    /// A fresh network whose hosts run the node at `binary`; `None`, after saying so, where that is not possible.
    pub fn new(binary: &str) -> Option<Self> {
        match Self::build(binary) {
            Ok(lan) => Some(lan),
            Err(why) if std::env::var_os("FTX_TESTS_NO_SKIP").is_some() => {
                panic!("no network of namespaces: {why}")
            }
            Err(why) => {
                let name = std::thread::current().name().unwrap_or("a test").to_owned();
                // Not `eprintln`: the test runner would hide it, since the test passes.
                let _ = writeln!(std::io::stderr(), "SKIPPED {name}: no network of namespaces here: {why}");
                None
            }
        }
    }

    /// Host number 1 to 5 of the picture above.
    pub fn host(&self, number: usize) -> &Machine {
        &self.hosts[number - 1]
    }

    /// Pulls a host's cable out of the red segment, or puts it back. Nobody is told: no reset, no unreachable.
    pub fn connect(&self, number: usize, connected: bool) {
        let up = if connected { "up" } else { "down" };
        self.inside(&["ip", "link", "set", &format!("red{number}"), up]);
    }

    /// The bytes that a host has sent so far on its interface in the red segment, with all headers.
    pub fn sent_bytes(&self, number: usize) -> u64 {
        let shown =
            self.inside(&["ip", "-s", "-j", "-n", &format!("h{number}"), "link", "show", "dev", "red"]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("ip prints JSON");
        shown[0]["stats64"]["tx"]["bytes"].as_u64().expect("ip counts bytes")
    }

    /// Runs a command where the bridges are.
    fn inside(&self, command: &[&str]) -> Output {
        let words = enter(self.keeper.id());
        let output = Command::new(&words[0])
            .args(&words[1..])
            .args(command)
            .output()
            .expect("nsenter worked when the network was made");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn build(binary: &str) -> Result<Self, String> {
        let mut keeper = Command::new("unshare")
            .args(["--map-root-user", "--net", "--mount", "bash", "-c", BUILD])
            // The keeper ends when this pipe does, so also when this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run unshare: {error}"))?;
        let mut line = String::new();
        let stdout = keeper.stdout.take().expect("stdout is a pipe");
        let read = BufReader::new(stdout).read_line(&mut line);
        if read.is_err() || line.trim() != "built" {
            let _ = keeper.kill();
            let output = keeper.wait_with_output().map_err(|error| error.to_string())?;
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let mut lan = Lan { keeper, hosts: Vec::new() };
        lan.assert_apart();
        let scratch = Arc::new(Scratch::new());
        let words = enter(lan.keeper.id());
        for number in 1..=HOSTS {
            let name = format!("h{number}");
            let mut prefix: Vec<&str> = words.iter().map(String::as_str).collect();
            prefix.extend(["ip", "netns", "exec", &name]);
            lan.hosts.push(Machine::new(binary, &prefix, &[], Arc::clone(&scratch)));
        }
        Ok(lan)
    }

    /// Makes sure that what runs on the hosts is not on the machine's own network.
    fn assert_apart(&self) {
        let here = std::fs::read_link("/proc/self/ns/net").expect("this process has a network");
        let there = self.inside(&["readlink", "/proc/self/ns/net"]).stdout;
        assert_ne!(here.to_string_lossy(), String::from_utf8_lossy(&there).trim(), "the same network");
        let links = self.inside(&["ip", "-o", "link", "show"]).stdout;
        let links = String::from_utf8_lossy(&links).into_owned();
        let foreign = links.lines().find(|line| {
            let name = line.split_whitespace().nth(1).unwrap_or_default();
            !["lo", "red", "blue"].iter().any(|ours| name.starts_with(ours))
        });
        assert_eq!(foreign, None, "a link that the script has not made");
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// What runs a command in the namespaces of the process `id`. Every word of it becomes the next by `exec`, so the
/// process that is started is the command itself, and signals reach it.
fn enter(id: u32) -> Vec<String> {
    let target = id.to_string();
    ["nsenter", "--preserve-credentials", "--user", "--net", "--mount", "--target", &target]
        .map(str::to_owned)
        .to_vec()
}

/// Hosts of the picture above.
const HOSTS: usize = 5;

/// Makes the network, says so, and lives until its standard input ends.
const BUILD: &str = r#"
set -eu
mount -t tmpfs none /run
mkdir -p /run/netns
ip link set lo up
for segment in red blue; do
  ip link add "$segment" type bridge
  ip link set "$segment" up
done
host() { # number
  ip netns add "h$1"
  # Quiet links: what the kernel itself says there would be counted as the node's.
  ip netns exec "h$1" bash -c 'cd /proc/sys/net/ipv6/conf/default && echo 0 >accept_dad && echo 0 >router_solicitations' 2>/dev/null || true
  ip -n "h$1" link set lo up
}
plug() { # number, segment, network
  ip link add "$2$1" type veth peer name "$2" netns "h$1"
  ip link set "$2$1" master "$2" up
  ip -n "h$1" link set "$2" up
  ip -n "h$1" addr add "$3.$1/24" brd + dev "$2"
}
for number in 1 2 3 4 5; do host $number; done
for number in 1 2 3 4; do plug $number red 10.77.0; done
for number in 4 5; do plug $number blue 10.78.0; done
echo built
read -r _ || true
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_reach_their_segment_and_nothing_else() {
        // Any program will do for the node here: what is asked is where it runs.
        let Some(lan) = Lan::new("/usr/bin/env") else { return };
        let addresses = |number: usize| {
            let host = format!("h{number}");
            let shown = lan.inside(&["ip", "-n", &host, "-4", "-o", "addr", "show", "scope", "global"]);
            String::from_utf8_lossy(&shown.stdout).lines().count()
        };
        assert_eq!([1, 2, 3, 4, 5].map(addresses), [1, 1, 1, 2, 1]);
        let routes = lan.inside(&["ip", "-n", "h4", "route", "show"]);
        let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
        assert!(routes.contains("10.77.0.0/24") && routes.contains("10.78.0.0/24"), "{routes}");
        assert!(!routes.contains("default"), "{routes}");
        assert!(lan.sent_bytes(1) < 10_000);
        lan.connect(1, false);
        lan.connect(1, true);
    }
}
