//! A node goes on when one of its actors fails.

use std::path::Path;
use std::time::Duration;

use super::*;

/// A node on loopback that shares `dir`.
async fn node(dir: &Path, port: u16) -> Node {
    let state = dir.join("state");
    let share = dir.join("share");
    std::fs::create_dir_all(&share).unwrap();
    let config = NodeConfig {
        shares: vec![share],
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        port,
        sessions: Sessions::Anywhere,
        peers: Vec::new(),
        state,
        name: "node".to_owned(),
        max_upload: None,
        inbox: None,
        services: crate::config::Services::default(),
    };
    Node::start(config, Handle::current()).await.unwrap()
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
    let request = FetchRequest { resolved, target, force: true, patience, only: None };
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
