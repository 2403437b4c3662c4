//! Where a service listens, as it is said.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// What was said of a service's address: all, a part, or nothing of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ServiceAddr {
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl ServiceAddr {
    /// The address, with these in place of what was not said.
    pub(super) fn or(self, ip: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip.unwrap_or(ip), self.port.unwrap_or(port))
    }
}

/// `ADDR:PORT`, `ADDR`, `PORT`, or a word that only switches it on.
impl FromStr for ServiceAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "" | "1" | "true" | "yes" | "on") {
            return Ok(ServiceAddr::default());
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(ServiceAddr { ip: Some(addr.ip()), port: Some(addr.port()) });
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ServiceAddr { ip: Some(ip), port: None });
        }
        let wrong = |_| format!("'{text}' is not ADDR:PORT, ADDR or PORT, such as 192.168.0.2:1379");
        text.trim_start_matches(':')
            .parse()
            .map(|port| ServiceAddr { ip: None, port: Some(port) })
            .map_err(wrong)
    }
}

/// A text as above, a port, or `true`.
impl<'de> Deserialize<'de> for ServiceAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyForm;
        impl Visitor<'_> for AnyForm {
            type Value = ServiceAddr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("'ADDR:PORT', a port, or true")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ServiceAddr, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, port: i64) -> Result<ServiceAddr, E> {
                let port = u16::try_from(port).map_err(E::custom)?;
                Ok(ServiceAddr { ip: None, port: Some(port) })
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<ServiceAddr, E> {
                if on { Ok(ServiceAddr::default()) } else { Err(E::custom("leave it out to switch it off")) }
            }
        }
        deserializer.deserialize_any(AnyForm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_said_in_whole_or_in_part() {
        let default = |text: &str| {
            text.parse::<ServiceAddr>().map(|addr| addr.or(IpAddr::from([127, 0, 0, 1]), 5).to_string())
        };
        for (text, addr) in [
            ("", "127.0.0.1:5"),
            ("true", "127.0.0.1:5"),
            ("7", "127.0.0.1:7"),
            (":7", "127.0.0.1:7"),
            ("10.0.0.1", "10.0.0.1:5"),
            ("10.0.0.1:0", "10.0.0.1:0"),
            ("::1", "[::1]:5"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(default(text).as_deref(), Ok(addr), "{text}");
        }
        for text in ["host:7", "70000", "-1", "127.0.0.1:", "x"] {
            assert!(default(text).is_err(), "{text}");
        }
    }
}
