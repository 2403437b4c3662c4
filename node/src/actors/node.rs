//! The Node actor: the root, and the policy of restarts.
//!
//! Discovery, Catalog, Server and the services of the older systems are restarted when they fail, each with what it was
//! first started with; links lead the
//! others to the new one. More than [`RESTARTS_MAX`] failures within [`RESTART_WINDOW`] end the node with an error: then
//! something is wrong that restarts do not mend. A Fetcher that fails is not restarted: its fetch ends with an error,
//! and its journal keeps what is verified.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};

use super::catalog::{Catalog, CatalogArguments, CatalogMessage};
use super::discovery::{Discovery, DiscoveryArguments, DiscoveryMessage};
use super::fetcher::{Fetcher, FetcherArguments, FetcherMessage};
use super::link::Link;
use super::listener::{Listener, ListenerArguments};
use super::server::{Server, ServerArguments, ServerMessage};
use super::step::{StepListener, StepListenerArguments, StepListenerMessage};
use super::udp_get::{UdpGet, UdpGetMessage};
use crate::clock::Clock;
use crate::interop::udp_get_server::UdpGetServing;
use crate::limits::{RESTART_WINDOW, RESTARTS_MAX};
use ftx_proto::time::Time;

/// The Node actor.
#[derive(Debug)]
pub struct NodeRoot;

/// What the root is started with.
#[derive(Clone)]
pub struct NodeArguments {
    /// For the Catalog.
    pub catalog: CatalogArguments,
    /// For Discovery.
    pub discovery: DiscoveryArguments,
    /// For the Server; a node that only looks around has none.
    pub server: Option<ServerArguments>,
    /// For STEP, where the node speaks it.
    pub step: Option<StepListenerArguments>,
    /// For serving striped downloads, if it does.
    pub striped: Option<ListenerArguments>,
    /// For taking what is pushed by TCP put, if it does.
    pub tcp_put: Option<ListenerArguments>,
    /// For serving udp-get, if it does.
    pub udp_get: Option<UdpGetServing>,
    /// Where the others find them.
    pub links: Links,
    /// What time it is.
    pub clock: Clock,
}

/// Where the node's actors are.
#[derive(Debug, Clone, Default)]
pub struct Links {
    /// What is shared.
    pub catalog: Link<CatalogMessage>,
    /// Who is there.
    pub discovery: Link<DiscoveryMessage>,
    /// Who is being served.
    pub server: Link<ServerMessage>,
    /// Who speaks STEP to us.
    pub step: Link<StepListenerMessage>,
    /// The root itself.
    pub root: Link<NodeMessage>,
    /// Who is being served by udp-get.
    pub udp_get: Link<UdpGetMessage>,
}

/// What the root is told.
#[derive(Debug)]
pub enum NodeMessage {
    /// Start a fetch. `None` in the answer: it could not be started.
    Fetch(Box<FetcherArguments>, RpcReplyPort<Option<ActorRef<FetcherMessage>>>),
    /// Say goodbye to the network, then stop with all that is below.
    Stop,
}

/// What the root owns.
pub struct NodeState {
    arguments: NodeArguments,
    children: HashMap<ActorId, Part>,
    restarts: VecDeque<Time>,
}

/// A child that is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Catalog,
    Discovery,
    Server,
    Step,
    Striped,
    TcpPut,
    UdpGet,
}

impl Actor for NodeRoot {
    type Msg = NodeMessage;
    type State = NodeState;
    type Arguments = NodeArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeMessage>,
        arguments: NodeArguments,
    ) -> Result<NodeState, ActorProcessingErr> {
        arguments.links.root.set(myself.clone());
        let mut state = NodeState { arguments, children: HashMap::new(), restarts: VecDeque::new() };
        for part in PARTS {
            state.start(&myself, part).await.map_err(|error| ActorProcessingErr::from(reason_of(error)))?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMessage>,
        message: NodeMessage,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        let (arguments, reply) = match message {
            NodeMessage::Fetch(arguments, reply) => (arguments, reply),
            NodeMessage::Stop => {
                // From now on whoever ends is meant to.
                state.children.clear();
                if let Some(discovery) = state.arguments.links.discovery.actor() {
                    // Its last word is a broadcast; if it hangs, nobody waits for it.
                    let _ = discovery.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
                }
                myself.stop(None);
                return Ok(());
            }
        };
        let spawned = Fetcher::spawn_linked(None, Fetcher, *arguments, myself.get_cell()).await;
        let fetcher = spawned.map(|(actor, _)| actor).inspect_err(|error| {
            tracing::error!(%error, "cannot start a fetch");
        });
        // Whoever asked may have given up; then nobody waits for the fetch either.
        let _ = reply.send(fetcher.ok());
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, why) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                (actor, reason.unwrap_or_else(|| "stopped".to_owned()))
            }
            _ => return Ok(()),
        };
        let Some(part) = state.children.remove(&actor.get_id()) else { return Ok(()) };
        let now = state.arguments.clock.now();
        while state.restarts.front().is_some_and(|at| now.since(*at) > RESTART_WINDOW) {
            state.restarts.pop_front();
        }
        if state.restarts.len() >= RESTARTS_MAX {
            let reason = format!("{part:?} failed {} times within a minute, last: {why}", RESTARTS_MAX + 1);
            tracing::error!(%reason, "giving up");
            myself.stop(Some(reason));
            return Ok(());
        }
        tracing::error!(?part, %why, "failed; restarting it");
        state.restarts.push_back(now);
        if let Err(error) = state.start(&myself, part).await {
            myself.stop(Some(format!("{part:?} cannot be restarted: {}", reason_of(error))));
        }
        Ok(())
    }
}

impl NodeState {
    async fn start(&mut self, myself: &ActorRef<NodeMessage>, part: Part) -> Result<(), SpawnErr> {
        let NodeArguments { catalog, discovery, server, step, striped, tcp_put, udp_get, links, .. } =
            self.arguments.clone();
        let supervisor = myself.get_cell();
        let id = match part {
            Part::Catalog => {
                let (actor, _) = Catalog::spawn_linked(None, Catalog, catalog, supervisor).await?;
                links.catalog.set(actor.clone());
                actor.get_id()
            }
            Part::Discovery => {
                let (actor, _) = Discovery::spawn_linked(None, Discovery, discovery, supervisor).await?;
                links.discovery.set(actor.clone());
                actor.get_id()
            }
            Part::Server => {
                let Some(server) = server else { return Ok(()) };
                let (actor, _) = Server::spawn_linked(None, Server, server, supervisor).await?;
                links.server.set(actor.clone());
                actor.get_id()
            }
            Part::Step => {
                let Some(step) = step else { return Ok(()) };
                let (actor, _) = StepListener::spawn_linked(None, StepListener, step, supervisor).await?;
                links.step.set(actor.clone());
                actor.get_id()
            }
            Part::Striped | Part::TcpPut => {
                let arguments = if part == Part::Striped { striped } else { tcp_put };
                let Some(arguments) = arguments else { return Ok(()) };
                let (actor, _) = Listener::spawn_linked(None, Listener, arguments, supervisor).await?;
                actor.get_id()
            }
            Part::UdpGet => {
                let Some(udp_get) = udp_get else { return Ok(()) };
                let (actor, _) = UdpGet::spawn_linked(None, UdpGet, udp_get, supervisor).await?;
                links.udp_get.set(actor.clone());
                actor.get_id()
            }
        };
        self.children.insert(id, part);
        Ok(())
    }
}

/// Why an actor could not be started, without what ractor says around it.
pub(crate) fn reason_of(error: SpawnErr) -> String {
    match error {
        SpawnErr::StartupFailed(reason) => reason.to_string(),
        other => other.to_string(),
    }
}

/// In the order in which they are started: what others ask for first, what is asked first last.
const PARTS: [Part; 7] =
    [Part::Catalog, Part::Server, Part::Step, Part::Striped, Part::TcpPut, Part::UdpGet, Part::Discovery];

/// How long discovery may take to say goodbye.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
