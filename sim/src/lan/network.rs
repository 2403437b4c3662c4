//! Segments, hosts, and the cables between them.
//!
//! Host number *n* is called `h`*n*; on a segment it has the segment's network address plus *n*, on an interface that is
//! called like the segment. The other end of its cable is the segment's port *SEGMENT*`n`. No host has a default route:
//! what a program sends must be meant for an interface.

use std::net::Ipv4Addr;
use std::process::Command;

use super::keeper::{Keeper, LanError, require};
use super::shape::{Loss, Shape};

/// The whole network. Dropped, it is gone.
#[derive(Debug)]
pub struct Network {
    keeper: Keeper,
    segments: Vec<Segment>,
    hosts: Vec<Host>,
}

/// An Ethernet segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// What it is called: at most 8 lower-case letters.
    pub name: &'static str,
    /// Its network's first address.
    pub network: Ipv4Addr,
    /// How many bits of it are the network's.
    pub prefix: u8,
}

/// How a host is attached to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cable {
    /// Whether the interface has an IPv4 address.
    pub ipv4: bool,
    /// Whether it has a link-local IPv6 address, if the machine has IPv6 at all.
    pub ipv6: bool,
    /// What happens to packets on it.
    pub shape: Shape,
}

/// A host: a place where programs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    number: usize,
    name: String,
    prefix: Vec<String>,
}

impl Cable {
    /// Carries everything.
    pub const PLAIN: Cable = Cable { ipv4: true, ipv6: true, shape: Shape::NONE };
}

impl Segment {
    /// The address of a host on it.
    pub fn addr(&self, number: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().wrapping_add(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    fn port(&self, number: usize) -> String {
        format!("{}{number}", self.name)
    }
}

impl Network {
    /// A network of nothing.
    ///
    /// # Errors
    /// [`LanError::Unavailable`] where the machine does not allow it.
    pub fn new() -> Result<Self, LanError> {
        Ok(Network { keeper: Keeper::start()?, segments: Vec::new(), hosts: Vec::new() })
    }

    /// One more segment.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn add_segment(&mut self, segment: Segment) -> Result<(), LanError> {
        let name = segment.name;
        let good = (1..=8).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase());
        if !good || name == "lo" || self.segments.iter().any(|other| other.name == name) {
            return Err(LanError::Failed(format!("'{name}' is no name for a further segment")));
        }
        // What a bridge learns about multicast takes minutes; a plain switch floods.
        self.keeper
            .script(&format!("ip link add {name} type bridge mcast_snooping 0\nip link set {name} up\n"))?;
        self.segments.push(segment);
        Ok(())
    }

    /// One more host, which is attached to nothing; its number, from 1 on.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn add_host(&mut self) -> Result<usize, LanError> {
        let number = self.hosts.len() + 1;
        let name = format!("h{number}");
        // Quiet links: what the kernel itself says there would be counted as the node's. Where the settings cannot be
        // changed, links are only slower to come up.
        self.keeper.script(&format!(
            "ip netns add {name}\nip -n {name} link set lo up\n\
             ip netns exec {name} sh -c 'cd /proc/sys/net/ipv6/conf/default; echo 0 >accept_dad; \
             echo 0 >router_solicitations' 2>/dev/null || true\n"
        ))?;
        let mut prefix = self.keeper.enter().to_vec();
        prefix.push(require("ip", "iproute2")?.display().to_string());
        prefix.extend(["netns", "exec", &name].map(str::to_owned));
        self.hosts.push(Host { number, name, prefix });
        Ok(number)
    }

    /// Attaches a host to a segment.
    ///
    /// # Errors
    /// If the system refuses, or the tools for the cable's shape are missing.
    pub fn plug(&self, number: usize, segment: &str, cable: &Cable) -> Result<(), LanError> {
        let (host, segment) = (self.host(number).name(), self.segment(segment)?);
        let (name, port) = (segment.name, segment.port(number));
        let mut script = format!(
            "ip link add {port} type veth peer name {name} netns {host}\nip link set {port} master {name}\n"
        );
        script.push_str(&cable.shape.script(&port, host, name)?);
        if !cable.ipv6 {
            script.push_str(&format!(
                "ip netns exec {host} sh -c 'echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6' || true\n"
            ));
        }
        script.push_str(&format!("ip link set {port} up\nip -n {host} link set {name} up\n"));
        if cable.ipv4 {
            let (addr, prefix) = (segment.addr(number), segment.prefix);
            script.push_str(&format!("ip -n {host} addr add {addr}/{prefix} brd + dev {name}\n"));
        }
        self.keeper.script(&script).map(drop)
    }

    /// Takes a host's interface away.
    ///
    /// # Errors
    /// If there is none.
    pub fn unplug(&self, number: usize, segment: &str) -> Result<(), LanError> {
        let port = self.segment(segment)?.port(number);
        self.keeper.script(&format!("ip link del {port}\n")).map(drop)
    }

    /// Gives a host's interface another IPv4 address instead of the one it has.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn change_addr(&self, number: usize, segment: &str, addr: Ipv4Addr) -> Result<(), LanError> {
        let (host, segment) = (self.host(number).name(), self.segment(segment)?);
        let (name, prefix) = (segment.name, segment.prefix);
        let script = format!(
            "ip -n {host} -4 addr flush dev {name}\nip -n {host} addr add {addr}/{prefix} brd + dev {name}\n"
        );
        self.keeper.script(&script).map(drop)
    }

    /// Pulls a host's cable out of a segment, or puts it back. Nobody is told: no reset, no unreachable.
    ///
    /// # Errors
    /// If the host is not attached to it.
    pub fn connect(&self, number: usize, segment: &str, connected: bool) -> Result<(), LanError> {
        let (port, up) = (self.segment(segment)?.port(number), if connected { "up" } else { "down" });
        self.keeper.script(&format!("ip link set {port} {up}\n")).map(drop)
    }

    /// Lets the host lose this part of the datagrams (UDP) that arrive, and nothing else.
    ///
    /// # Errors
    /// If nftables is missing.
    pub fn lose_datagrams(&self, number: usize, loss: Loss) -> Result<(), LanError> {
        require("nft", "nftables")?;
        let host = self.host(number).name();
        let rules = format!(
            "table inet careless {{ chain arriving {{ type filter hook input priority 0; \
             meta l4proto udp {} drop; }}; }}",
            loss.condition()
        );
        self.keeper.script(&format!("ip netns exec {host} nft '{rules}'\n")).map(drop)
    }

    /// Lets the host drop every broadcast and multicast datagram of IP that arrives, as some wireless networks do.
    ///
    /// # Errors
    /// If nftables is missing.
    pub fn drop_broadcasts(&self, number: usize) -> Result<(), LanError> {
        require("nft", "nftables")?;
        let host = self.host(number).name();
        let rules = "table inet deaf { chain arriving { type filter hook input priority 0; \
                     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
                     meta pkttype { broadcast, multicast } drop; }; }";
        self.keeper.script(&format!("ip netns exec {host} nft '{rules}'\n")).map(drop)
    }

    /// Lets the host drop every packet of TCP that arrives, without a word, as firewalls do that somebody opened for UDP only.
    ///
    /// # Errors
    /// If nftables is missing.
    pub fn drop_tcp(&self, number: usize) -> Result<(), LanError> {
        require("nft", "nftables")?;
        let host = self.host(number).name();
        let rules = "table inet closed { chain arriving { type filter hook input priority 0; \
                     meta l4proto tcp drop; }; }";
        self.keeper.script(&format!("ip netns exec {host} nft '{rules}'\n")).map(drop)
    }

    /// Makes TCP of a host use this congestion control on a segment, whatever is the default of the machine.
    ///
    /// The system lets only an administrator choose the default of a namespace freely, but anybody that of a route.
    ///
    /// # Errors
    /// If this kernel has no such congestion control.
    pub fn congestion_control(&self, number: usize, segment: &str, name: &str) -> Result<(), LanError> {
        let (host, segment) = (self.host(number).name(), self.segment(segment)?);
        let (device, network, prefix) = (segment.name, segment.network, segment.prefix);
        let addr = segment.addr(number);
        let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
        let known = known.unwrap_or_default();
        if !known.split_whitespace().any(|known| known == name) {
            return Err(LanError::Unavailable(format!(
                "this kernel has no TCP congestion control '{name}', but {}",
                known.split_whitespace().collect::<Vec<_>>().join(", ")
            )));
        }
        // Without IPv6 there is no second route to change.
        self.keeper
            .script(&format!(
                "ip -n {host} route replace {network}/{prefix} dev {device} src {addr} proto kernel scope link \
                 congctl {name}\n\
                 ip -n {host} -6 route replace fe80::/64 dev {device} proto kernel metric 256 congctl {name} || true\n"
            ))
            .map(drop)
    }

    /// The bytes that a host has sent so far on its interface in a segment, with all headers.
    ///
    /// # Errors
    /// If the host is not attached to it.
    pub fn sent_bytes(&self, number: usize, segment: &str) -> Result<u64, LanError> {
        let (host, segment) = (self.host(number).name(), self.segment(segment)?);
        let device = segment.name;
        let shown = self
            .keeper
            .script(&format!("ip netns exec {host} cat /sys/class/net/{device}/statistics/tx_bytes\n"))?;
        shown.trim().parse().map_err(|_| LanError::Failed(format!("'{shown}' is no number of bytes")))
    }

    /// Runs `ip` on a host; what it prints.
    ///
    /// # Errors
    /// With what it says, if it fails. The words are not quoted.
    pub fn ip(&self, number: usize, words: &str) -> Result<String, LanError> {
        self.keeper.script(&format!("ip -n {} {words}\n", self.host(number).name()))
    }

    /// A host.
    ///
    /// # Panics
    /// If there is none with this number.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// How many hosts there are.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    fn segment(&self, name: &str) -> Result<&Segment, LanError> {
        let found = self.segments.iter().find(|segment| segment.name == name);
        found.ok_or_else(|| LanError::Failed(format!("there is no segment '{name}'")))
    }
}

impl Host {
    /// Its number, from 1 on.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is run before a program, to run it there; each word becomes the next by `exec`.
    pub fn prefix(&self) -> &[String] {
        &self.prefix
    }

    /// A program on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(&self.prefix[0]);
        command.args(&self.prefix[1..]).arg(program);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_count_from_the_network_address() {
        let segment = Segment { name: "lan", network: Ipv4Addr::new(10, 77, 0, 0), prefix: 16 };
        assert_eq!(segment.addr(1), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(segment.addr(300), Ipv4Addr::new(10, 77, 1, 44));
        assert_eq!(segment.port(12), "lan12");
    }
}
