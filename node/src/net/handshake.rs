//! The handshake of TLS, up to the keys: `rustls` makes it, and what follows is read and written by [`super::frame`].
//!
//! It is given one record after the other and no more, so that what the peer sends behind the handshake is still whole when
//! it is over. It refuses whatever is longer than a record, and knows nothing of time: who calls it limits that.

use std::io;
use std::sync::Arc;

use ftx_proto::digest::NodeId;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::datagram::seal::{Aead, DatagramSecret, EXPORTER_LABEL, SECRET_LEN};
use super::records::{HEAD_LEN, Opener, RECORD_MAX, Sealer, invalid};
use super::tls;

/// A handshake that is done.
#[derive(Debug)]
pub(super) struct Shaken {
    /// Who is at the other end, if it is one of ours.
    pub(super) node: Option<NodeId>,
    /// From what the keys of its datagrams are made.
    pub(super) datagram_secret: DatagramSecret,
    /// Seals what this side sends.
    pub(super) sealer: Sealer,
    /// Opens what the other side sends.
    pub(super) opener: Opener,
    /// What has come of the records behind the handshake.
    pub(super) begun: Vec<u8>,
}

/// Makes the handshake of the side that dialled.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    config: Arc<ClientConfig>,
) -> io::Result<Shaken> {
    let client = ClientConnection::new(config, tls::server_name()).map_err(invalid)?;
    shake(stream, client.into()).await
}

/// Makes the handshake of the side that was dialled.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    config: Arc<ServerConfig>,
) -> io::Result<Shaken> {
    let server = ServerConnection::new(config).map_err(invalid)?;
    shake(stream, server.into()).await
}

async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    mut session: Connection,
) -> io::Result<Shaken> {
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    loop {
        say(stream, &mut session, &mut outgoing).await?;
        if !session.is_handshaking() {
            break;
        }
        let len = receive_record(stream, &mut incoming).await?;
        let mut record = &incoming[..len];
        while !record.is_empty() {
            session.read_tls(&mut record)?;
            if let Err(error) = session.process_new_packets() {
                // The peer is told why, if it still listens.
                let _ = say(stream, &mut session, &mut outgoing).await;
                return Err(invalid(error));
            }
        }
        incoming.drain(..len);
    }
    let secret = session.export_keying_material([0; SECRET_LEN], EXPORTER_LABEL, None).map_err(invalid)?;
    let (node, datagram_secret) = (tls::peer_of(&session), DatagramSecret::new(secret, Aead::of(&session)));
    let secrets = session.dangerous_extract_secrets().map_err(invalid)?;
    let (sealer, opener) = (Sealer::new(secrets.tx)?, Opener::new(secrets.rx)?);
    Ok(Shaken { node, datagram_secret, sealer, opener, begun: incoming })
}

/// Sends what the handshake has to say now.
async fn say<S: AsyncWrite + Unpin>(
    stream: &mut S,
    tls: &mut Connection,
    outgoing: &mut Vec<u8>,
) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(outgoing)?;
    }
    if !outgoing.is_empty() {
        stream.write_all(outgoing).await?;
        outgoing.clear();
    }
    Ok(())
}

/// Waits until there is a whole record, and says how long it is.
async fn receive_record<S: AsyncRead + Unpin>(stream: &mut S, incoming: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        if let Some(&[_, _, _, high, low]) = incoming.get(..HEAD_LEN) {
            let len = HEAD_LEN + usize::from(u16::from_be_bytes([high, low]));
            if len > RECORD_MAX {
                return Err(invalid("what came is no record of TLS"));
            }
            if incoming.len() >= len {
                return Ok(len);
            }
        }
        let before = incoming.len();
        incoming.resize(before + READ_LEN, 0);
        let read = stream.read(&mut incoming[before..]).await;
        incoming.truncate(before + *read.as_ref().unwrap_or(&0));
        if read? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the handshake"));
        }
    }
}

/// Bytes that are read at once; a whole flight has less, in most cases.
const READ_LEN: usize = 4096;
