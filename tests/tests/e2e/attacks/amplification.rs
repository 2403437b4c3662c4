//! Attacks on somebody else: questions with a forged sender, whose answers go to whoever is named in them.
//!
//! In a network namespace of its own, with packets made by hand: nothing of this could leave the machine.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use ftx_proto::digest::Instance;
use ftx_proto::wire::discovery::{Datagram, Query, Want};
use ftx_tests::data::MIB;
use ftx_tests::inside::{self, Namespaces, tool};
use ftx_tests::share::put;
use ftx_tests::{Content, TestNet, net};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::NAME;

/// Where nobody has asked for anything.
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 99);

/// Sends datagrams with any sender.
struct Forger(Socket);

impl Forger {
    fn new() -> Self {
        let raw =
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("the right to do this");
        Forger(raw)
    }

    /// Bytes of UDP payload are sent, as if by the victim.
    fn send(&self, from_port: u16, to: SocketAddrV4, payload: &[u8]) {
        let len = (28 + payload.len()) as u16;
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet.extend(VICTIM.octets());
        packet.extend(to.ip().octets());
        for number in [from_port, to.port(), len - 20, 0] {
            packet.extend(number.to_be_bytes());
        }
        packet.extend(payload);
        // A full buffer is no matter.
        let _ = self.0.send_to(&packet, &SockAddr::from(SocketAddr::from(to)));
    }
}

/// What arrives at the victim, at whichever port: bytes of payload from the node. Headers count on neither side.
struct Arriving {
    raw: Socket,
    bytes: usize,
}

impl Arriving {
    fn new() -> Self {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).expect("the right to do this");
        raw.set_nonblocking(true).expect("an option");
        raw.set_recv_buffer_size(16 << 20).expect("an option");
        Arriving { raw, bytes: 0 }
    }

    fn count(&mut self) {
        let mut buffer = [0; 70_000];
        while let Ok(len) = (&self.raw).read(&mut buffer) {
            if len >= 28 && buffer[16..20] == VICTIM.octets() {
                self.bytes += len - 28;
            }
        }
    }
}

#[test]
fn questions_with_a_forged_sender_make_no_more_than_they_are() {
    inside::run(Namespaces::OwnNetwork, || {
        tool("ip", &["link", "set", "lo", "up"], None);
        let net: TestNet = net!();
        let folder = net.folder();
        let content = Content::new(3601, MIB);
        put(&folder, NAME, &content.bytes);
        // So many that one answer cannot hold them.
        for number in 0..300 {
            put(&folder, &format!("{number}-{}", "long".repeat(30)), b"x");
        }
        let share = net.share(&folder);
        share.wait_until_hashed(&net, NAME);
        let wants = [Want::All, Want::Name(NAME.parse().expect("a name"))];
        let (forger, mut arriving) = (Forger::new(), Arriving::new());
        // The victim has a socket at some ports, and none at others, where the system says so.
        let _listening: Vec<_> =
            (1..20).map(|n| UdpSocket::bind((VICTIM, 20_000 + n)).expect("a port")).collect();
        let mut sent = 0;
        let mut forge = |from_port: u16, to: u16, payload: &[u8]| {
            sent += payload.len();
            forger.send(from_port, SocketAddrV4::new(Ipv4Addr::LOCALHOST, to), payload);
        };
        for round in 0..200_u16 {
            for want in &wants {
                let query =
                    Query { nonce: rand::random(), instance: Instance(rand::random()), want: want.clone() };
                let query = Datagram::Query(query).encode();
                for to in [net.port(), share.port()] {
                    forge(20_000 + round % 40, to, &query);
                    // Not as long as they must be, so that they would pay for less than the answer.
                    forge(20_000 + round % 40, to, &query[..query.len() / 2]);
                    forge(20_000 + round % 40, to, &query[..40]);
                }
            }
            arriving.count();
        }
        // What waits for its moment comes before the answers to whoever asks afterwards and takes its time.
        net.node(["ls", "--timeout", "2"]).run().expect_status(0);
        arriving.count();
        assert!(arriving.bytes > 0, "nothing came at all, so nothing is shown");
        assert!(arriving.bytes <= sent, "{} bytes for {sent}", arriving.bytes);
    });
}
