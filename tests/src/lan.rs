//! A local network of hosts, made of network namespaces.
//!
//! Loopback hides faults of discovery: it has one interface, no real broadcast, no carrier that can be lost. So here
//! are two Ethernet segments, without any link to the machine's network (see [`ftx_sim::lan`]):
//!
//! ```text
//! red   10.77.0.0/24   h1 .1   h2 .2   h3 .3   h4 .4
//! blue  10.78.0.0/24                           h4 .4   h5 .5
//! ```
//!
//! or another network that a test makes of them. No host has a default route: what a node sends must be meant for an
//! interface. Where the system does not let a test make namespaces, the test is skipped loudly; with
//! `FTX_TESTS_NO_SKIP` set it fails.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ftx_sim::lan::{Cable, LanError, Network, Segment};

use crate::network::{Machine, Scratch};

/// The hosts. Dropped, they are gone.
#[derive(Debug)]
pub struct Lan {
    network: Network,
    hosts: Vec<Machine>,
    scratch: Arc<Scratch>,
}

impl Lan {
    /// A fresh network as in the picture above, whose hosts run the node at `binary`; `None`, after saying so, where that
    /// is not possible.
    pub fn new(binary: &str) -> Option<Self> {
        Self::of(binary, |network| {
            network.add_segment(RED)?;
            network.add_segment(BLUE)?;
            for number in 1..=5 {
                network.add_host()?;
                if number <= 4 {
                    network.plug(number, RED.name, &Cable::PLAIN)?;
                }
                if number >= 4 {
                    network.plug(number, BLUE.name, &Cable::PLAIN)?;
                }
            }
            Ok(())
        })
    }

    /// A fresh network that `build` makes.
    pub fn of(binary: &str, build: impl FnOnce(&mut Network) -> Result<(), LanError>) -> Option<Self> {
        let built = Network::new().and_then(|mut network| build(&mut network).map(|()| network));
        let network = match built {
            Ok(network) => network,
            Err(LanError::Unavailable(why)) if std::env::var_os("FTX_TESTS_NO_SKIP").is_none() => {
                let name = std::thread::current().name().unwrap_or("a test").to_owned();
                // Not `eprintln`: the test runner would hide it, since the test passes.
                let _ = writeln!(std::io::stderr(), "SKIPPED {name}: no network of namespaces here: {why}");
                return None;
            }
            Err(why) => panic!("{why}"),
        };
        let mut lan = Lan { network, hosts: Vec::new(), scratch: Arc::new(Scratch::new()) };
        lan.hosts = (1..=lan.network.host_count()).map(|number| lan.machine(binary, number)).collect();
        Some(lan)
    }

    /// One more host, which is not attached to anything yet; its number.
    pub fn add_host(&mut self, binary: &str) -> usize {
        let number = self.network.add_host().unwrap_or_else(|error| panic!("{error}"));
        self.hosts.push(self.machine(binary, number));
        number
    }

    fn machine(&self, binary: &str, number: usize) -> Machine {
        let prefix: Vec<&str> = self.network.host(number).prefix().iter().map(String::as_str).collect();
        Machine::new(binary, &prefix, &[], Arc::clone(&self.scratch))
    }

    /// A fresh network of the red segment with `count` hosts on it, each attached by such a cable.
    pub fn red(binary: &str, count: usize, cable: Cable) -> Option<Self> {
        Self::of(binary, |network| {
            network.add_segment(RED)?;
            for _ in 0..count {
                let number = network.add_host()?;
                network.plug(number, RED.name, &cable)?;
            }
            Ok(())
        })
    }

    /// A host, by its number.
    pub fn host(&self, number: usize) -> &Machine {
        &self.hosts[number - 1]
    }

    /// What the hosts are made of.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Pulls a host's cable out of the red segment, or puts it back. Nobody is told: no reset, no unreachable.
    pub fn connect(&self, number: usize, connected: bool) {
        self.network.connect(number, RED.name, connected).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The bytes that a host has sent so far on its interface in the red segment, with all headers.
    pub fn sent_bytes(&self, number: usize) -> u64 {
        self.network.sent_bytes(number, RED.name).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The segment of most hosts.
pub const RED: Segment = Segment { name: "red", network: Ipv4Addr::new(10, 77, 0, 0), prefix: 24 };

/// The other segment.
pub const BLUE: Segment = Segment { name: "blue", network: Ipv4Addr::new(10, 78, 0, 0), prefix: 24 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_reach_their_segment_and_nothing_else() {
        // Any program will do for the node here: what is asked is where it runs.
        let Some(lan) = Lan::new("/usr/bin/env") else { return };
        let addresses = |number: usize| {
            let shown = lan.network.ip(number, "-4 -o addr show scope global").unwrap();
            shown.lines().count()
        };
        assert_eq!([1, 2, 3, 4, 5].map(addresses), [1, 1, 1, 2, 1]);
        let routes = lan.network.ip(4, "route show").unwrap();
        assert!(routes.contains("10.77.0.0/24") && routes.contains("10.78.0.0/24"), "{routes}");
        assert!(!routes.contains("default"), "{routes}");
        assert!(lan.sent_bytes(1) < 10_000);
        lan.connect(1, false);
        lan.connect(1, true);
    }
}
