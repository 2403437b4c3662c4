//! A node goes on when one of its actors fails.

use ftx_proto::engine::pull::choice::LaneMode;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::{Services, StepAuth, StepConfig};
use crate::fetch::report::Report;
use crate::fetch::resolve::Wanted;
use crate::store::Target;

/// What makes a node on loopback that shares a folder of `dir`.
fn config(dir: &Path, port: u16) -> NodeConfig {
    let state = dir.join("state");
    let share = dir.join("share");
    std::fs::create_dir_all(&share).unwrap();
    NodeConfig {
        shares: vec![share],
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        port,
        sessions: Sessions::Anywhere,
        peers: Vec::new(),
        state,
        name: "node".to_owned(),
        max_upload: None,
        inbox: None,
        services: Services::default(),
    }
}

/// A node on loopback that shares a folder of `dir`.
async fn node(dir: &Path, port: u16) -> Node {
    Node::start(config(dir, port), Handle::current()).await.unwrap()
}

fn free_port() -> u16 {
    std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Fetches `name` from whoever has it, within the time that a restart may take.
async fn fetch(node: &Node, name: &str, into: &Path) -> Result<Report, Error> {
    let wanted = Wanted::parse(name).unwrap();
    let resolved = node.resolve(&wanted, None, Duration::from_secs(20), |_| {}).await?;
    let target = Target::new(into, &resolved.name)?;
    let patience = Duration::from_secs(20);
    let request = FetchRequest {
        resolved,
        target,
        how: FetchOptions { force: true, patience, only: None, lane: LaneMode::Auto },
    };
    node.fetch(request).await?.done().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_actor_is_killed_the_node_serves_again() {
    let dir = tempfile::tempdir().unwrap();
    let (giving, taking) = (dir.path().join("giving"), dir.path().join("taking"));
    let port = free_port();
    let giver = node(&giving, port).await;
    std::fs::write(giving.join("share/file"), vec![7; 300_000]).unwrap();
    let taker = node(&taking, port).await;
    let target = dir.path().join("file");
    fetch(&taker, "file", &target).await.unwrap();

    type Kill = fn(&Node);
    let kills: [(&str, Kill); 4] = [
        ("the giver's Discovery", |node| node.links.discovery.actor().unwrap().kill()),
        ("the giver's Catalog", |node| node.links.catalog.actor().unwrap().kill()),
        ("the giver's Server", |node| node.links.server.actor().unwrap().kill()),
        ("the giver's Discovery again", |node| node.links.discovery.actor().unwrap().kill()),
    ];
    for (what, kill) in kills {
        kill(&giver);
        let fetched = fetch(&taker, "file", &target).await;
        assert!(fetched.is_ok(), "after killing {what}: {fetched:?}");
    }
    taker.links.discovery.actor().unwrap().kill();
    assert!(fetch(&taker, "file", &target).await.is_ok(), "after killing the taker's Discovery");
    assert_eq!(std::fs::read(&target).unwrap(), vec![7; 300_000]);
}

/// Logs in as a classic client does; the reply, if the connection lives that long.
async fn log_in(addr: SocketAddr) -> std::io::Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tcp = tokio::net::TcpStream::connect(addr).await?;
    let json = br#"{"operation": "LOGIN", "direction": "REQUEST", "type": "AUTH", "username": "alice",
                    "password": "6384e2b2184bcbf58eccf10ca7a6563c"}"#;
    let lens = [(json.len() as u32).to_be_bytes(), [0; 4]].concat();
    tcp.write_all(&[&lens, &json[..]].concat()).await?;
    let json_len = tcp.read_u32().await?;
    tcp.read_u32().await?;
    let mut reply = vec![0; json_len as usize];
    tcp.read_exact(&mut reply).await?;
    Ok(reply)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_speaks_step_can_go_on_when_its_listener_fails() {
    let dir = tempfile::tempdir().unwrap();
    let step = StepConfig { at: "127.0.0.1:0".parse().unwrap(), auth: StepAuth::Classic };
    let services = Services { step: Some(step), ..Services::default() };
    let node = Node::start(NodeConfig { services, ..config(dir.path(), free_port()) }, Handle::current());
    let node = node.await.unwrap();
    let addr = node.services().step.unwrap();
    let is_served = |reply: std::io::Result<Vec<u8>>| {
        reply.is_ok_and(|reply| String::from_utf8_lossy(&reply).contains("Login successfully"))
    };
    assert!(is_served(log_in(addr).await));
    for _ in 0..3 {
        node.links.step.actor().unwrap().kill();
        let served = async { while !is_served(log_in(addr).await) {} };
        timeout(Duration::from_secs(20), served).await.expect("it is restarted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_parts_fail_again_and_again_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path(), free_port()).await;
    let giving_up = async {
        let mut killed = None;
        while !node.ended.is_finished() {
            // Each actor once: a link leads to the dead one until the next is there.
            if let Some(actor) = node.links.discovery.actor().filter(|actor| killed != Some(actor.get_id())) {
                killed = Some(actor.get_id());
                actor.kill();
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), giving_up).await.expect("it gives up");
    timeout(Duration::from_secs(5), node.ended()).await.expect("and says so");
}
