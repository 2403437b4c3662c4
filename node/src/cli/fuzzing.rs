//! What fuzz targets try of the command line.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Instant;

use clap::Parser;
use ftx_proto::name::printable;

use super::args::{CommonOptions, Options};
use super::text;
use crate::config::{ListenAt, Sessions};
use crate::interop::Url;

/// Any text as a configuration file: it is refused with a reason, or a node can be described by it.
pub fn configuration(data: &[u8]) {
    static NOTHING_SAID: OnceLock<CommonOptions> = OnceLock::new();
    let common = NOTHING_SAID.get_or_init(|| Options::parse_from(["ftx-node", "--state", "/nowhere"]).common);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let options = Options { command: None, share: Default::default(), common: common.clone() };
    let mut options = match options.with_text(text) {
        Ok(options) => options,
        Err(error) => return assert!(!error.is_empty()),
    };
    assert!(options.share.max_upload != Some(0), "a limit is a number of bytes");
    // Only addresses are looked up here: names would be asked for.
    options.common.peer.retain(|peer| peer.parse::<SocketAddr>().is_ok() || peer.parse::<IpAddr>().is_ok());
    let mut described = options.common.node_config(Sessions::None).expect("addresses and a state folder");
    assert!(described.peers.len() == options.common.peer.len());
    if options.share.complete(&mut described).is_err() {
        assert!(options.share.step.is_some() && options.share.step_auth.is_none());
    }
    let patience = options.common.fetch_patience();
    assert!(Instant::now().checked_add(patience).is_some(), "nobody can wait for so long");
}

/// Any text where a place, an address, a quantity or a name is expected.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(url) = text.parse::<Url>() {
        assert!(Url::is_meant(text));
        let shown = url.to_string();
        assert!(!shown.contains(|c: char| c.is_control()));
        if printable(text).to_string() == text {
            assert_eq!(shown.parse().as_ref(), Ok(&url), "{shown}");
        }
    }
    if let Ok(ListenAt { ip, port }) = text.parse::<ListenAt>() {
        let again = match (ip, port) {
            (Some(ip), Some(port)) => SocketAddr::from((ip, port)).to_string(),
            (Some(ip), None) => ip.to_string(),
            (None, Some(port)) => format!(":{port}"),
            (None, None) => String::new(),
        };
        assert_eq!(again.parse(), Ok(ListenAt { ip, port }));
    }
    if let Ok(bytes) = text::parse_bytes(text) {
        assert!(bytes > 0);
        assert!(!text::bytes(bytes).is_empty());
    }
    if let Ok(patience) = text::parse_seconds(text) {
        assert!(Instant::now().checked_add(patience).is_some(), "nobody can wait for so long");
        assert!(!text::duration(patience.as_secs_f64()).is_empty());
    }
    if let Some(seconds) = data.first_chunk() {
        assert!(text::date(i64::from_le_bytes(*seconds)).contains('-'));
    }
}
