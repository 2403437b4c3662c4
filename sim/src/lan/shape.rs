//! What a cable does to the packets on it: a rate, a queue before it, and packets that get lost.
//!
//! Both ends of the cable keep the rate (`tbf`), each with a queue of its own. A host loses what arrives at it, every
//! packet with the same chance (nftables, or iptables where that is missing). Packets are single ones, of the size that
//! goes over a wire: segmentation is not left to the other end of the cable, or a loss would take 64 KiB at once.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use super::keeper::{LanError, find_tool};

/// Bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    bits: u64,
}

/// The part of all packets that gets lost, in steps of a hundredth of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Loss {
    per_ten_thousand: u32,
}

/// What a cable does to packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How much goes through it in each direction; `None`: as much as the machine can do.
    pub rate: Option<Rate>,
    /// How many bytes wait at each end before further ones are dropped. Only where there is a rate.
    pub queue_bytes: u32,
    /// What is lost of what arrives at the host.
    pub loss: Loss,
}

impl Shape {
    /// A cable that carries everything.
    pub const NONE: Shape =
        Shape { rate: None, queue_bytes: QUEUE_BYTES, loss: Loss { per_ten_thousand: 0 } };

    /// A script that makes it so, at the port `port` of a segment and the interface `interface` of the host `host`.
    ///
    /// # Errors
    /// If the tools are missing.
    pub(super) fn script(&self, port: &str, host: &str, interface: &str) -> Result<String, LanError> {
        let mut script = String::new();
        let mut line = |line: fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = writeln!(script, "{line}");
        };
        line(format_args!("ip link set {port} gso_max_segs 1"));
        line(format_args!("ip -n {host} link set {interface} gso_max_segs 1"));
        if let Some(rate) = self.rate {
            super::keeper::require("tc", "iproute2")?;
            let bits = rate.bits;
            // Half a millisecond, and not less than a few packets.
            let burst = (bits / 8 / 2000).max(BURST_BYTES_MIN);
            let queue = self.queue_bytes;
            let tbf = format!("root tbf rate {bits}bit burst {burst} limit {queue}");
            line(format_args!("tc qdisc replace dev {port} {tbf}"));
            line(format_args!("tc -n {host} qdisc replace dev {interface} {tbf}"));
        }
        if self.loss.per_ten_thousand > 0 {
            let lossy = self.loss.script(host, interface)?;
            line(format_args!("{lossy}"));
        }
        Ok(script)
    }
}

impl Rate {
    /// Bits per second.
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// Bytes per second, headers and all.
    pub fn bytes(self) -> f64 {
        self.bits as f64 / 8.0
    }
}

impl Loss {
    /// So many per cent.
    pub const fn percent(percent: u32) -> Self {
        Loss { per_ten_thousand: percent * 100 }
    }

    /// Per cent.
    pub fn as_percent(self) -> f64 {
        f64::from(self.per_ten_thousand) / 100.0
    }

    /// What of nftables chooses so many packets; nothing where it is all of them.
    pub(super) fn condition(self) -> String {
        match self.per_ten_thousand {
            0..10_000 => format!("numgen random mod 10000 < {}", self.per_ten_thousand),
            _ => String::new(),
        }
    }

    fn script(self, host: &str, interface: &str) -> Result<String, LanError> {
        let lost = self.per_ten_thousand;
        if find_tool("nft").is_some() {
            let rules = format!(
                "table inet lossy_{interface} {{ chain arriving {{ type filter hook input priority 0; \
                 iifname {interface} {} drop; }}; }}",
                self.condition()
            );
            return Ok(format!("ip netns exec {host} nft '{rules}'"));
        }
        if find_tool("iptables").is_none() {
            return Err(LanError::Unavailable(
                "packets get lost only where `nft` (package nftables) or `iptables` is installed".to_owned(),
            ));
        }
        let rule = format!(
            "-A INPUT -i {interface} -m statistic --mode random --probability {} -j DROP",
            f64::from(lost) / 10_000.0
        );
        Ok(format!("ip netns exec {host} iptables {rule}\nip netns exec {host} ip6tables {rule}"))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no rate of a link, such as 1gbit, 100mbit or 2.5gbit");
        let lower = text.to_ascii_lowercase();
        let plain = lower.strip_suffix("/s").unwrap_or(&lower);
        let plain = plain.strip_suffix("bit").ok_or_else(wrong)?;
        let (number, unit) = match plain.as_bytes().last() {
            Some(b'k') => (&plain[..plain.len() - 1], 1e3),
            Some(b'm') => (&plain[..plain.len() - 1], 1e6),
            Some(b'g') => (&plain[..plain.len() - 1], 1e9),
            _ => (plain, 1.0),
        };
        let bits = number.trim().parse::<f64>().map_err(|_| wrong())? * unit;
        // Below, a host cannot say a word; above, no cable of this kind keeps the rate.
        let possible = (64e3..=100e9).contains(&bits);
        if possible { Ok(Rate { bits: bits as u64 }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits as f64;
        match self.bits {
            1_000_000_000.. => write!(f, "{} Gbit/s", bits / 1e9),
            1_000_000.. => write!(f, "{} Mbit/s", bits / 1e6),
            _ => write!(f, "{} kbit/s", bits / 1e3),
        }
    }
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>();
        match number {
            Ok(percent) if (0.0..=90.0).contains(&percent) => {
                Ok(Loss { per_ten_thousand: (percent * 100.0).round() as u32 })
            }
            _ => Err(format!("'{text}' is no loss in per cent, from 0 to 90")),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.as_percent())
    }
}

/// What waits before a link of 1 Gbit/s for 2 ms: a switch of the cheaper kind.
pub const QUEUE_BYTES: u32 = 256 * 1024;

/// What may go out at once at any rate.
const BURST_BYTES_MIN: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown() {
        for (text, bits, shown) in [
            ("1gbit", 1_000_000_000, "1 Gbit/s"),
            ("2.5Gbit/s", 2_500_000_000, "2.5 Gbit/s"),
            ("100mbit", 100_000_000, "100 Mbit/s"),
            ("64kbit", 64_000, "64 kbit/s"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bits(), rate.to_string().as_str()), (bits, shown), "{text}");
        }
        for text in ["", "1", "1g", "gbit", "-1gbit", "nanbit", "1bit", "999999gbit", "1MB/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn losses_are_read_and_shown() {
        for (text, per_ten_thousand, shown) in
            [("0", 0, "0 %"), ("5", 500, "5 %"), ("0.25%", 25, "0.25 %"), ("30 %", 3000, "30 %")]
        {
            let loss: Loss = text.parse().unwrap();
            assert_eq!((loss.per_ten_thousand, loss.to_string().as_str()), (per_ten_thousand, shown));
        }
        for text in ["", "-1", "91", "NaN", "all"] {
            assert!(text.parse::<Loss>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_plain_cable_needs_no_rules() {
        let script = Shape::NONE.script("lan1", "h1", "lan").unwrap();
        assert!(!script.contains("tbf") && !script.contains("drop"), "{script}");
    }
}
