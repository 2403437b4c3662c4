//! Where a service listens, as it is said.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// What was said of a service's address: all, a part, or nothing of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenAt {
    /// At which of the machine's addresses; else where the node is confined to, or at all of them.
    pub ip: Option<IpAddr>,
    /// At which port; else the usual one of the service.
    pub port: Option<u16>,
}

/// `ADDR:PORT`, `ADDR`, `PORT`, or a word that only switches it on.
impl FromStr for ListenAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "" | "1" | "true" | "yes" | "on") {
            return Ok(ListenAt::default());
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(ListenAt { ip: Some(addr.ip()), port: Some(addr.port()) });
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(ListenAt { ip: Some(ip), port: None });
        }
        let wrong = |_| format!("'{text}' is not ADDR:PORT, ADDR or PORT, such as 192.168.0.2:1379");
        text.trim_start_matches(':')
            .parse()
            .map(|port| ListenAt { ip: None, port: Some(port) })
            .map_err(wrong)
    }
}

/// A text as above, a port, or `true`.
impl<'de> Deserialize<'de> for ListenAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyForm;
        impl Visitor<'_> for AnyForm {
            type Value = ListenAt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("'ADDR:PORT', a port, or true")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ListenAt, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, port: i64) -> Result<ListenAt, E> {
                let port = u16::try_from(port).map_err(E::custom)?;
                Ok(ListenAt { ip: None, port: Some(port) })
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<ListenAt, E> {
                if on { Ok(ListenAt::default()) } else { Err(E::custom("leave it out to switch it off")) }
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
        let at = |ip: &str, port| ListenAt { ip: (!ip.is_empty()).then(|| ip.parse().unwrap()), port };
        for (text, expected) in [
            ("", at("", None)),
            ("true", at("", None)),
            ("7", at("", Some(7))),
            (":7", at("", Some(7))),
            ("10.0.0.1", at("10.0.0.1", None)),
            ("10.0.0.1:0", at("10.0.0.1", Some(0))),
            ("::1", at("::1", None)),
            ("[::1]", at("::1", None)),
            ("[::1]:7", at("::1", Some(7))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["host:7", "70000", "-1", "127.0.0.1:", "x"] {
            assert!(text.parse::<ListenAt>().is_err(), "{text}");
        }
    }
}
