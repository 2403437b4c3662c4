//! Which program has a port, as far as the system tells: on Linux, from what it lists of sockets and descriptors.

use std::path::Path;

/// What a port is looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// Who has this port of the machine: a text such as `nginx (process 812)`. Programs of other users are known by their user
/// only, unless root asks.
pub(super) fn holder(transport: Transport, port: u16) -> Option<String> {
    let tables: [&str; 2] = match transport {
        Transport::Tcp => ["/proc/self/net/tcp", "/proc/self/net/tcp6"],
        Transport::Udp => ["/proc/self/net/udp", "/proc/self/net/udp6"],
    };
    let found = tables.iter().find_map(|table| {
        let text = read_at_most(Path::new(table), TABLE_BYTES_MAX)?;
        text.lines().find_map(|line| socket_at(line, transport, port))
    });
    let (inode, user) = found?;
    Some(process_of(inode).unwrap_or_else(|| format!("a program of user number {user}")))
}

/// Number and user of the socket that a line of the table tells of, if it has this port.
fn socket_at(line: &str, transport: Transport, port: u16) -> Option<(u64, u32)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let is_wanted = u16::from_str_radix(local, 16).ok()? == port
        // Connections have the port of the socket that they came in at.
        && (transport == Transport::Udp || *fields.get(3)? == LISTENING);
    if !is_wanted {
        return None;
    }
    Some((fields.get(9)?.parse().ok()?, fields.get(7)?.parse().ok()?))
}

/// The program that has a socket open.
fn process_of(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let mut left = DESCRIPTORS_MAX;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(number) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Those of other users are not told.
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            left = left.checked_sub(1)?;
            let leads_to = std::fs::read_link(descriptor.path());
            if leads_to.is_ok_and(|to| to.as_os_str() == wanted.as_str()) {
                let name = read_at_most(&process.path().join("comm"), 64).unwrap_or_default();
                return Some(format!("{} (process {number})", name.trim()));
            }
        }
    }
    None
}

fn read_at_most(path: &Path, bytes: u64) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(bytes).read_to_string(&mut text).ok()?;
    Some(text)
}

/// As the system writes the state of a socket that listens.
const LISTENING: &str = "0A";

/// How much of a table is looked at: some hundred thousand sockets.
const TABLE_BYTES_MAX: u64 = 32 << 20;

/// How many open files of programs are looked at.
const DESCRIPTORS_MAX: usize = 200_000;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_port_is_named() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let who = holder(Transport::Tcp, port).unwrap();
        assert!(who.contains(&format!("(process {})", std::process::id())), "{who}");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let who = holder(Transport::Udp, udp.local_addr().unwrap().port()).unwrap();
        assert!(who.contains(&format!("(process {})", std::process::id())), "{who}");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(holder(Transport::Tcp, free), None);
    }

    #[test]
    fn a_line_that_is_none_is_passed_over() {
        for line in ["", "sl local_address", "0: zz", "0: 00:291E 0:0 01 0 0 0 5 0 77", "0: 00:291E 0:0 0A"] {
            assert_eq!(socket_at(line, Transport::Tcp, 10526), None, "{line}");
        }
        let line = "0: 00000000:291E 00000000:0000 0A 0:0 0:0 0 1000 0 77 1";
        assert_eq!(socket_at(line, Transport::Tcp, 10526), Some((77, 1000)));
    }
}
