//! The addresses of this machine's interfaces, and which addresses are neighbours.
//!
//! There are no events when an interface comes or goes, so whoever needs to know lists them again and compares.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use if_addrs::{IfAddr, IfOperStatus};

/// One address of an interface, and the network that it is on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface {
    /// The system's name of the interface.
    pub name: String,
    /// The system's number of the interface: the scope of its link-local addresses.
    pub index: u32,
    /// The address.
    pub addr: IpAddr,
    /// How many of the address's first bits are those of its network.
    pub prefix: u8,
    /// Where all neighbours hear, if the network has that: the directed broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// Whether it leads nowhere but to this machine.
    pub loopback: bool,
}

/// The interfaces that a node may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces(Vec<Interface>);

impl Interfaces {
    /// All interfaces that are up; with `bind`, only those that own this address.
    pub fn list(bind: Option<IpAddr>) -> io::Result<Self> {
        let mut all: Vec<Interface> =
            if_addrs::get_if_addrs()?.into_iter().filter_map(Interface::from_system).collect();
        all.sort();
        all.dedup();
        Ok(Interfaces(match bind {
            None => all,
            Some(addr) => all.into_iter().filter_map(|interface| interface.confined(addr)).collect(),
        }))
    }

    /// All interfaces that have an address, each with whether it is up; confined as in [`Self::list`].
    pub fn list_with_down(bind: Option<IpAddr>) -> io::Result<Vec<(Interface, bool)>> {
        let all = if_addrs::get_if_addrs()?.into_iter().filter_map(|interface| {
            let up = is_usable(&interface);
            let interface = Interface::of(interface)?;
            Some((
                match bind {
                    None => interface,
                    Some(addr) => interface.confined(addr)?,
                },
                up,
            ))
        });
        let mut all: Vec<_> = all.collect();
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// The interfaces, one entry for each address.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.0.iter()
    }

    /// The addresses to speak to the neighbours from. One IPv6 address of an interface is enough, the link-local one
    /// if there is one; and a machine that is not confined to `::1` hears itself on 127.0.0.1.
    pub fn speakers(&self) -> impl Iterator<Item = &Interface> {
        self.0.iter().filter(|interface| match interface.addr {
            IpAddr::V4(_) => true,
            IpAddr::V6(_) if interface.loopback => self.0.len() == 1,
            IpAddr::V6(_) => {
                let best = self
                    .0
                    .iter()
                    .filter(|other| other.index == interface.index && other.addr.is_ipv6())
                    .min_by_key(|other| (!other.is_link_local_v6(), other.addr));
                best == Some(*interface)
            }
        })
    }

    /// The interface on whose network `addr` is.
    pub fn reaching(&self, addr: SocketAddr) -> Option<&Interface> {
        self.0.iter().find(|interface| interface.reaches(addr))
    }

    /// Whether `addr` belongs to a network of one of these interfaces.
    pub fn on_link(&self, addr: SocketAddr) -> bool {
        self.reaching(addr).is_some()
    }
}

impl Interface {
    /// Whether `addr` is on this interface's network.
    pub fn reaches(&self, addr: SocketAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(own), SocketAddr::V4(other)) => {
                same_prefix(&own.octets(), &other.ip().octets(), self.prefix)
            }
            // A link-local address says nothing without its scope: each interface has the same network of them.
            (IpAddr::V6(own), SocketAddr::V6(other)) => {
                same_prefix(&own.octets(), &other.ip().octets(), self.prefix)
                    && (!is_link_local(*other.ip()) || other.scope_id() == self.index)
            }
            _ => false,
        }
    }

    /// Whether the address is an IPv6 one that only has a meaning on this interface.
    pub fn is_link_local_v6(&self) -> bool {
        matches!(self.addr, IpAddr::V6(addr) if is_link_local(addr))
    }

    fn from_system(interface: if_addrs::Interface) -> Option<Self> {
        if is_usable(&interface) { Self::of(interface) } else { None }
    }

    fn of(interface: if_addrs::Interface) -> Option<Self> {
        let index = interface.index?;
        let (addr, prefix) = match &interface.addr {
            IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
            IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
        };
        let loopback = interface.is_loopback();
        let broadcast = match addr {
            IpAddr::V4(addr) if !interface.is_p2p => broadcast_of(addr, prefix),
            _ => None,
        };
        Some(Interface { name: interface.name, index, addr, prefix, broadcast, loopback })
    }

    /// The interface as a node sees it that is confined to `bind`.
    fn confined(self, bind: IpAddr) -> Option<Self> {
        if self.addr == bind {
            return Some(self);
        }
        // All of 127/8 is the loopback interface's own, though it lists only one address.
        let other_loopback =
            self.loopback && bind.is_loopback() && self.reaches(SocketAddr::new(bind, 0)) && bind.is_ipv4();
        other_loopback.then_some(Interface { addr: bind, ..self })
    }
}

fn is_usable(interface: &if_addrs::Interface) -> bool {
    matches!(interface.oper_status, IfOperStatus::Up | IfOperStatus::Unknown)
}

/// The address that all hosts of a network hear; networks of one or two hosts have none.
fn broadcast_of(addr: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    let host_bits = 32u32.checked_sub(u32::from(prefix)).filter(|bits| (2..32).contains(bits))?;
    Some(Ipv4Addr::from_bits(addr.to_bits() | ((1 << host_bits) - 1)))
}

fn same_prefix<const N: usize>(a: &[u8; N], b: &[u8; N], prefix: u8) -> bool {
    let mut left = u32::from(prefix);
    a.iter().zip(b).all(|(a, b)| {
        let bits = left.min(8);
        left -= bits;
        let mask = (0xff00u32 >> bits) as u8;
        a & mask == b & mask
    })
}

fn is_link_local(addr: Ipv6Addr) -> bool {
    addr.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(addr: &str, prefix: u8, index: u32) -> Interface {
        let addr: IpAddr = addr.parse().unwrap();
        Interface {
            name: format!("eth{index}"),
            index,
            addr,
            prefix,
            broadcast: None,
            loopback: addr.is_loopback(),
        }
    }

    #[test]
    fn neighbours_are_on_the_same_network() {
        let links = Interfaces(vec![
            interface("10.77.0.1", 24, 1),
            interface("fe80::1", 64, 2),
            interface("fd00::1", 60, 2),
        ]);
        for (addr, on_link) in [
            ("10.77.0.200:1", true),
            ("10.77.1.1:1", false),
            ("[fe80::9%2]:1", true),
            ("[fe80::9%1]:1", false),
            ("[fd00:0:0:f::1]:1", true),
            ("[fd00:0:0:10::1]:1", false),
            ("127.0.0.1:1", false),
        ] {
            assert_eq!(links.on_link(addr.parse().unwrap()), on_link, "{addr}");
        }
    }

    #[test]
    fn an_interface_speaks_once_for_each_family() {
        let links = Interfaces(vec![
            interface("::1", 128, 1),
            interface("127.0.0.1", 8, 1),
            interface("10.77.0.1", 24, 2),
            interface("10.78.0.1", 24, 2),
            interface("2001:db8::1", 64, 2),
            interface("fe80::1", 64, 2),
            interface("fd00::1", 64, 3),
            interface("fd00::2", 64, 3),
        ]);
        let speakers: Vec<_> = links.speakers().map(|interface| interface.addr.to_string()).collect();
        assert_eq!(speakers, ["127.0.0.1", "10.77.0.1", "10.78.0.1", "fe80::1", "fd00::1"]);
        assert_eq!(Interfaces(vec![interface("::1", 128, 1)]).speakers().count(), 1);
    }

    #[test]
    fn every_network_of_several_hosts_has_a_broadcast_address() {
        let addr = Ipv4Addr::new(10, 77, 5, 9);
        for (prefix, broadcast) in [
            (0, None),
            (8, Some([10, 255, 255, 255])),
            (22, Some([10, 77, 7, 255])),
            (30, Some([10, 77, 5, 11])),
            (31, None),
            (32, None),
            (99, None),
        ] {
            assert_eq!(broadcast_of(addr, prefix), broadcast.map(Ipv4Addr::from), "{prefix}");
        }
    }

    #[test]
    fn a_loopback_address_confines_to_loopback() {
        for bind in ["127.0.0.1", "127.9.9.9"] {
            let bind: IpAddr = bind.parse().unwrap();
            let links = Interfaces::list(Some(bind)).unwrap();
            let all: Vec<_> = links.iter().collect();
            assert_eq!(all.len(), 1, "{all:?}");
            assert_eq!((all[0].addr, all[0].broadcast), (bind, Some(Ipv4Addr::new(127, 255, 255, 255))));
            assert!(all[0].loopback && links.on_link("127.1.2.3:4".parse().unwrap()));
            assert!(!links.on_link("10.0.0.1:4".parse().unwrap()));
        }
        let nobody: IpAddr = "203.0.113.77".parse().unwrap();
        assert_eq!(Interfaces::list(Some(nobody)).unwrap(), Interfaces::default());
    }
}
