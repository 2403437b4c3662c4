//! Replies on their way to a client.
//!
//! A client may send a whole file before it reads the first reply, so what its socket does not take waits here while the
//! next blocks are read: else both sides would wait for each other. What waits is bounded, for a session and for all; beyond
//! that the client has to read. A reply goes out with one write as long as the client keeps up.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::session::Ended;
use crate::limits::{FRAME_WRITE_MAX, STEP_SESSION_REPLIES_MAX};

/// The replies of one session that its client has not yet taken.
#[derive(Debug)]
pub(super) struct Replies {
    /// In all sessions, a permit for each byte.
    room: Arc<Semaphore>,
    waiting: Vec<u8>,
    /// How many of the waiting bytes are sent.
    sent: usize,
    /// For what waits.
    permit: Option<OwnedSemaphorePermit>,
}

impl Replies {
    pub(super) fn new(room: Arc<Semaphore>) -> Self {
        Replies { room, waiting: Vec::new(), sent: 0, permit: None }
    }

    /// Whether something waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.sent < self.waiting.len()
    }

    /// Sends a reply, or has it wait. Takes long only if there is no room to wait in.
    pub(super) async fn send(&mut self, tcp: &TcpStream, reply: Vec<u8>) -> Result<(), Ended> {
        self.flush(tcp)?;
        let taken = if self.is_waiting() { 0 } else { write_some(tcp, &reply)? };
        let rest = reply.get(taken..).unwrap_or_default();
        if rest.is_empty() || self.wait(rest) {
            return Ok(());
        }
        self.finish(tcp).await?;
        let mut rest = rest;
        while !rest.is_empty() {
            writable(tcp).await?;
            rest = rest.get(write_some(tcp, rest)?..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends what the socket takes now.
    pub(super) fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.is_waiting() {
            let count = write_some(tcp, self.waiting.get(self.sent..).unwrap_or_default())?;
            if count == 0 {
                return Ok(());
            }
            self.sent += count;
            drop(self.permit.as_mut().and_then(|permit| permit.split(count)));
        }
        if self.sent > 0 {
            *self = Replies::new(Arc::clone(&self.room));
        }
        Ok(())
    }

    /// Sends all that waits.
    pub(super) async fn finish(&mut self, tcp: &TcpStream) -> Result<(), Ended> {
        while self.is_waiting() {
            writable(tcp).await?;
            self.flush(tcp)?;
        }
        Ok(())
    }

    /// `false` if there is no room.
    fn wait(&mut self, bytes: &[u8]) -> bool {
        if self.waiting.len() - self.sent + bytes.len() > STEP_SESSION_REPLIES_MAX {
            return false;
        }
        let Ok(count) = u32::try_from(bytes.len()) else { return false };
        let Ok(permit) = Arc::clone(&self.room).try_acquire_many_owned(count) else { return false };
        match &mut self.permit {
            Some(all) => all.merge(permit),
            None => self.permit = Some(permit),
        }
        // Once for as many bytes as were sent, so it costs no more than those did.
        if self.sent > self.waiting.len() / 2 {
            self.waiting.drain(..self.sent);
            self.sent = 0;
        }
        self.waiting.extend_from_slice(bytes);
        true
    }
}

/// Waits until the client takes something.
async fn writable(tcp: &TcpStream) -> Result<(), Ended> {
    match timeout(FRAME_WRITE_MAX, tcp.writable()).await {
        Ok(writable) => Ok(writable?),
        Err(_) => Err(Ended::NotRead),
    }
}

/// How many bytes the socket takes now.
fn write_some(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match tcp.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_a_client_does_not_read_waits_and_all_of_it_arrives_in_order() {
        let (mut client, server) = pair().await;
        let room = Arc::new(Semaphore::new(64 << 20));
        let mut replies = Replies::new(Arc::clone(&room));
        let reply = |number: u32| vec![number as u8; 100_000];
        let mut count = 0;
        // Whatever the sockets take, then some.
        while room.available_permits() > 60 << 20 {
            replies.send(&server, reply(count)).await.unwrap();
            count += 1;
        }
        assert!(replies.is_waiting());
        let (finished, ()) = tokio::join!(replies.finish(&server), async {
            for number in 0..count {
                let mut bytes = reply(0);
                client.read_exact(&mut bytes).await.unwrap();
                assert!(bytes == reply(number), "{number}");
            }
        });
        finished.unwrap();
        assert_eq!(room.available_permits(), 64 << 20, "the room is free again");
    }

    #[tokio::test]
    async fn beyond_the_bound_a_client_has_to_read() {
        let (client, server) = pair().await;
        let room = Arc::new(Semaphore::new(1 << 20));
        let mut replies = Replies::new(Arc::clone(&room));
        let sending = async {
            loop {
                replies.send(&server, vec![0; 300_000]).await.unwrap();
            }
        };
        let ended = timeout(std::time::Duration::from_millis(200), sending).await;
        assert!(ended.is_err(), "it has to wait");
        assert!(replies.waiting.len() <= 1 << 20);
        drop(client);
        let failed = replies.send(&server, vec![0; 300_000]).await.unwrap_err();
        assert!(matches!(failed, Ended::Io(_)), "{failed}");
        drop(replies);
        assert_eq!(room.available_permits(), 1 << 20);
    }
}
