//! The Listener actor: takes the connections of one of the older systems, and starts a Connection actor for each.
//!
//! Owns the accepting task and the connections, as their supervisor. What a connection does is a function that it is
//! started with ([`Serve`]), which ends by itself when the connection is quiet for too long. When the Listener is
//! restarted its connections end, and their clients begin again. One that fails leaves the others alone.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinError};

use super::accept::Accepting;
use crate::throttle::tell_of_failed;

/// What is done with a connection, until its end.
#[derive(Clone)]
pub struct Serve(Arc<dyn Fn(TcpStream, SocketAddr) -> Serving + Send + Sync>);

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Serve {
    /// Does this.
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    ) -> Self {
        Serve(Arc::new(move |tcp, addr| Box::pin(serve(tcp, addr))))
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serve")
    }
}

/// The Listener actor.
#[derive(Debug)]
pub struct Listener;

/// What a Listener is started with.
#[derive(Debug, Clone)]
pub struct ListenerArguments {
    /// Of which system, for logs.
    pub system: &'static str,
    /// Where connections come in; outlives restarts of the actor.
    pub listener: Arc<TcpListener>,
    /// What is done with them.
    pub serve: Serve,
    /// Most connections at once; those beyond are closed.
    pub connections_max: usize,
    /// Where they do their work.
    pub data: Handle,
}

/// What a Listener is told.
#[derive(Debug)]
pub enum ListenerMessage {
    /// A connection came in.
    Accepted(TcpStream, SocketAddr, OwnedSemaphorePermit),
}

/// What a Listener owns.
#[derive(Debug)]
pub struct ListenerState {
    arguments: ListenerArguments,
    accepting: AbortHandle,
}

impl Actor for Listener {
    type Msg = ListenerMessage;
    type State = ListenerState;
    type Arguments = ListenerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ListenerMessage>,
        arguments: ListenerArguments,
    ) -> Result<ListenerState, ActorProcessingErr> {
        let accepting = Accepting {
            system: arguments.system,
            listener: Arc::clone(&arguments.listener),
            connections_max: arguments.connections_max,
            accepted: ListenerMessage::Accepted,
            make_room: None,
            turned_away: Arc::default(),
        };
        let accepting = tokio::spawn(accepting.run(myself)).abort_handle();
        Ok(ListenerState { arguments, accepting })
    }

    async fn handle(
        &self,
        myself: ActorRef<ListenerMessage>,
        message: ListenerMessage,
        state: &mut ListenerState,
    ) -> Result<(), ActorProcessingErr> {
        let ListenerMessage::Accepted(tcp, addr, permit) = message;
        let ListenerArguments { system, serve, data, .. } = state.arguments.clone();
        let arguments = ConnectionArguments { serve, tcp, addr, permit, data };
        if let Err(error) = Connection::spawn_linked(None, Connection, arguments, myself.get_cell()).await {
            tracing::warn!(system, %addr, %error, "cannot start a connection");
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<ListenerMessage>,
        event: SupervisionEvent,
        state: &mut ListenerState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            tell_of_failed(&format!("a connection of {}", state.arguments.system), &error);
        }
        Ok(())
    }
}

impl Drop for ListenerState {
    /// Also after a panic, where `post_stop` is not called.
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The Connection actor: one connection, as long as it lasts.
#[derive(Debug)]
struct Connection;

struct ConnectionArguments {
    serve: Serve,
    tcp: TcpStream,
    addr: SocketAddr,
    permit: OwnedSemaphorePermit,
    data: Handle,
}

/// The connection has ended; if by an error, then by one of this program.
struct Ended(Result<(), JoinError>);

struct ConnectionState {
    serving: AbortHandle,
    /// Gives its place back when the connection is gone.
    _permit: OwnedSemaphorePermit,
}

impl Actor for Connection {
    type Msg = Ended;
    type State = ConnectionState;
    type Arguments = ConnectionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Ended>,
        arguments: ConnectionArguments,
    ) -> Result<ConnectionState, ActorProcessingErr> {
        let ConnectionArguments { serve, tcp, addr, permit, data } = arguments;
        let serving = data.spawn(serve.0(tcp, addr));
        let handle = serving.abort_handle();
        tokio::spawn(async move {
            let ended = serving.await;
            // Whoever has stopped meanwhile needs to know nothing more.
            let _ = myself.cast(Ended(ended));
        });
        Ok(ConnectionState { serving: handle, _permit: permit })
    }

    async fn handle(
        &self,
        myself: ActorRef<Ended>,
        Ended(ended): Ended,
        _state: &mut ConnectionState,
    ) -> Result<(), ActorProcessingErr> {
        ended?;
        myself.stop(None);
        Ok(())
    }
}

impl Drop for ConnectionState {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Echoes one byte; fails inside the program on a `!`.
    async fn echo(mut tcp: TcpStream, _addr: SocketAddr) {
        let byte = tcp.read_u8().await.unwrap_or(0);
        assert_ne!(byte, b'!', "as a mistake of ours would");
        let _ = tcp.write_all(&[byte]).await;
    }

    #[tokio::test]
    async fn a_connection_that_fails_leaves_the_others_and_gives_its_place_back() {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = listener.local_addr().unwrap();
        let arguments = ListenerArguments {
            system: "echo",
            listener,
            serve: Serve::new(echo),
            connections_max: 2,
            data: Handle::current(),
        };
        let (actor, ended) = Listener::spawn(None, Listener, arguments).await.unwrap();
        let mut first = TcpStream::connect(addr).await.unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        let mut third = TcpStream::connect(addr).await.unwrap();
        let mut byte = Vec::new();
        third.read_to_end(&mut byte).await.unwrap();
        assert!(byte.is_empty(), "one too many is closed");
        second.write_all(b"!").await.unwrap();
        assert_eq!(second.read_to_end(&mut byte).await.unwrap_or(0), 0);
        let answered = async {
            loop {
                let mut next = TcpStream::connect(addr).await.unwrap();
                let sent = next.write_all(b"x").await;
                byte.clear();
                if sent.is_ok() && next.read_to_end(&mut byte).await.is_ok() && byte == b"x" {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), answered).await.expect("the place is free again");
        first.write_all(b"a").await.unwrap();
        assert_eq!(first.read_u8().await.unwrap(), b'a');
        actor.stop(None);
        ended.await.unwrap();
    }
}
