//! The UdpGet actor: serves files by udp-get.
//!
//! Owns the thread on which that happens ([`crate::interop::udp_get_server`]), and fails with it, so that both are
//! started anew. Requests come from Discovery, whose port they share; at most [`UDP_GETS_WAITING_MAX`] wait.

use std::net::SocketAddr;
use std::sync::Arc;

use ftx_proto::interop::udp_get::server::ServerCounters;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::link::Link;
use crate::interop::udp_get_server::{UdpGetSender, UdpGetServing, start};
use crate::limits::UDP_GETS_WAITING_MAX;
use crate::net::udp::Heard;

/// The UdpGet actor.
#[derive(Debug)]
pub struct UdpGet;

/// What the actor is told.
#[derive(Debug)]
pub enum UdpGetMessage {
    /// A request came in.
    Heard(SocketAddr, Vec<u8>, OwnedSemaphorePermit),
    /// What has happened so far?
    Counters(RpcReplyPort<ServerCounters>),
    /// The thread has ended: by a mistake of ours if `true`.
    Ended(bool),
}

impl Actor for UdpGet {
    type Msg = UdpGetMessage;
    type State = Serving;
    type Arguments = UdpGetServing;

    async fn pre_start(
        &self,
        myself: ActorRef<UdpGetMessage>,
        arguments: UdpGetServing,
    ) -> Result<Serving, ActorProcessingErr> {
        let ended = move |failed| {
            // An actor that has stopped needs to know nothing more.
            let _ = myself.cast(UdpGetMessage::Ended(failed));
        };
        Ok(Serving(start(arguments, ended)?))
    }

    async fn handle(
        &self,
        _myself: ActorRef<UdpGetMessage>,
        message: UdpGetMessage,
        Serving(sender): &mut Serving,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            UdpGetMessage::Heard(from, bytes, permit) => sender.heard(from, bytes, permit),
            UdpGetMessage::Counters(reply) => {
                if let Some(counters) = sender.counters().await {
                    // Whoever asked may have given up.
                    let _ = reply.send(counters);
                }
            }
            UdpGetMessage::Ended(_) => return Err("the thread of udp-get has ended".into()),
        }
        Ok(())
    }
}

/// What the actor owns.
#[derive(Debug)]
pub struct Serving(UdpGetSender);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Brings requests to the actor that `link` leads to, as many as may wait; the rest is dropped, and asked again.
pub fn hearing(link: Link<UdpGetMessage>) -> Heard {
    let permits = Arc::new(Semaphore::new(UDP_GETS_WAITING_MAX));
    Arc::new(move |from, bytes| {
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            link.cast(UdpGetMessage::Heard(from, bytes.to_vec(), permit));
        }
    })
}
