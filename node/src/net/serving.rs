//! The writing side of a session that came in: messages, hashes and chunks, in the order they were queued.
//!
//! A granted span is read to where it is sealed and sent from; nobody else ever holds its bytes.
//! A file that is not what was hashed is refused, and the catalog is told to look again.

use std::sync::Arc;

use ftx_proto::digest::{Digest, Root};
use ftx_proto::engine::serve::SessionId;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};
use ftx_proto::limits::{FRAME_HASHES_MAX, RUN_CHUNKS_MAX};
use ftx_proto::merkle::PieceLayer;
use ftx_proto::wire::session::{Message, Refusal, RequestId};
use ractor::ActorRef;
use tokio::io::AsyncWrite;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::frame::FrameWriter;
use crate::actors::catalog::CatalogMessage;
use crate::actors::link::Link;
use crate::actors::server::ServerMessage;
use crate::catalog::{ChunkPart, ContentReader, ReadError};
use crate::faults;
use crate::limits::FRAME_WRITE_MAX;
use crate::store::is_zero;

/// Something to be written to a peer. A permit goes with it and is given back once it is written.
#[derive(Debug)]
pub enum Outgoing {
    /// A message without payload.
    Message(Message, OwnedSemaphorePermit),
    /// The last word, for the peer's log; then the connection is closed.
    Goodbye(String),
    /// The hashes of all pieces.
    Layer {
        /// The peer's number for the request.
        request: RequestId,
        /// The hashes.
        layer: Arc<PieceLayer>,
        /// Given back when written.
        permit: OwnedSemaphorePermit,
    },
    /// The hashes of the chunks of one piece.
    Leaves {
        /// The peer's number for the request.
        request: RequestId,
        /// The content.
        root: Root,
        /// Which piece.
        piece: PieceIndex,
        /// Where to read it.
        reader: Arc<ContentReader>,
        /// Given back when written.
        permit: OwnedSemaphorePermit,
    },
    /// Chunks that the Server granted.
    Run {
        /// The peer's number for the request.
        request: RequestId,
        /// The content.
        root: Root,
        /// Which chunks; at most as many as fit one frame.
        span: Span,
        /// Where to read them.
        reader: Arc<ContentReader>,
    },
}

/// Puts messages into the queue of a session that no message of its peer waits for, each when there is a place.
#[derive(Debug, Clone)]
pub struct Saying {
    queue: mpsc::Sender<Outgoing>,
    permits: Arc<Semaphore>,
    session: SessionId,
    server: ActorRef<ServerMessage>,
}

impl Saying {
    /// For this queue of a session, whose places these are.
    pub fn new(
        queue: mpsc::Sender<Outgoing>,
        permits: Arc<Semaphore>,
        session: SessionId,
        server: ActorRef<ServerMessage>,
    ) -> Self {
        Saying { queue, permits, session, server }
    }

    /// Lets the Server know that the session is of use, though nothing is asked for or sent in it.
    pub fn is_busy(&self) {
        // Without a Server the session is about to end.
        let _ = self.server.cast(ServerMessage::PutGoesOn(self.session));
    }

    /// Says it, unless the session is over.
    pub async fn say(&self, message: Message) {
        if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            let _ = self.queue.send(Outgoing::Message(message, permit)).await;
        }
    }

    /// Waits until the session is over.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }
}

/// Writes what is queued until the queue or the connection ends; says why it did.
pub async fn write_outgoing<W: AsyncWrite + Unpin>(
    mut writer: FrameWriter<W>,
    mut queue: mpsc::Receiver<Outgoing>,
    session: SessionId,
    server: ActorRef<ServerMessage>,
    catalog: Link<CatalogMessage>,
) -> String {
    let refused = |request, root, error: &ReadError| {
        if error.is_news() {
            catalog.cast(CatalogMessage::Rescan);
        }
        Message::Refused { request: Some(request), root, reason: Refusal::from(error) }
    };
    let mut last_word = None;
    // Bytes of grants that were sent, and of which the server has not heard.
    let mut unsaid = Vec::new();
    while last_word.is_none()
        && let Some(outgoing) = queue.recv().await
    {
        faults::point("writing what is queued");
        let writing = async {
            match outgoing {
                Outgoing::Message(message, _permit) => writer.write(&message, b"").await,
                Outgoing::Goodbye(reason) => {
                    writer.write(&Message::goodbye(&reason), b"").await?;
                    last_word = Some(reason);
                    Ok(())
                }
                Outgoing::Layer { request, layer, permit: _permit } => {
                    write_hashes(&mut writer, request, layer.hashes()).await
                }
                Outgoing::Leaves { request, root, piece, reader, permit: _permit } => {
                    match reader.leaves(piece) {
                        Ok(leaves) => write_hashes(&mut writer, request, &leaves).await,
                        Err(error) => writer.write(&refused(request, root, &error), b"").await,
                    }
                }
                Outgoing::Run { request, root, span, reader } => {
                    let mut sent = 0;
                    let written = match fill_places(&mut writer, &reader, span) {
                        Ok(()) => {
                            sent = reader.len_of(span);
                            write_run(&mut writer, request, span).await
                        }
                        Err(error) => {
                            let _ = server.cast(ServerMessage::Cancelled { session, request, permit: None });
                            writer.write(&refused(request, root, &error), b"").await
                        }
                    };
                    writer.release_places();
                    unsaid.push(sent);
                    written
                }
            }
        };
        match timeout(FRAME_WRITE_MAX, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return format!("the connection broke: {error}"),
            Err(_) => return format!("the peer took nothing for {} s", FRAME_WRITE_MAX.as_secs()),
        }
        if !unsaid.is_empty() && (unsaid.len() >= SENT_AT_ONCE || queue.is_empty()) {
            let grants = std::mem::take(&mut unsaid);
            let _ = server.cast(ServerMessage::Sent { session, grants });
        }
        // What the peer asks is heard in between, however fast it takes.
        tokio::task::yield_now().await;
    }
    // The session is over; the peer is told that nothing follows. It may be gone already.
    let _ = timeout(FRAME_WRITE_MAX, writer.close()).await;
    last_word.unwrap_or_else(|| "stopped".to_owned())
}

/// Grants that are told to be sent together, while others wait: half of those that a session may have. Waking the server, which
/// wakes the session, which wakes this task, costs about as much as sending a chunk.
const SENT_AT_ONCE: usize = 2;

/// Reads chunks to where they are sent from. On an error there is nothing that may be sent.
fn fill_places<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    reader: &ContentReader,
    span: Span,
) -> Result<(), ReadError> {
    let places = writer.places(lengths(reader.geometry(), span));
    let part = |(chunk, buffer)| ChunkPart { chunk, from: 0, buffer };
    reader.read_parts(&mut span.chunks().zip(places).map(part).collect::<Vec<_>>())
}

/// Bytes of each chunk of a span.
fn lengths(geometry: &Geometry, span: Span) -> impl Iterator<Item = usize> {
    span.chunks().map(|chunk| geometry.chunk_len(chunk) as usize)
}

/// Writes the chunks in the places; of those that are all zeros only that they are.
async fn write_run<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    request: RequestId,
    span: Span,
) -> std::io::Result<()> {
    let all = span.count() as usize;
    let mut from = 0;
    while from < all {
        let are_zero = is_zero(writer.place(from));
        let to = (from + 1..all).find(|place| is_zero(writer.place(*place)) != are_zero).unwrap_or(all);
        let to = if are_zero { to.min(from + RUN_CHUNKS_MAX as usize) } else { to };
        let first = span.first().get() + from as u32;
        if are_zero {
            let count = (to - from) as u32;
            writer.write(&Message::Zeros { request, first, count }, b"").await?;
        } else {
            writer.write_places(&Message::Chunks { request, first }, from..to).await?;
        }
        from = to;
    }
    Ok(())
}

async fn write_hashes<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    request: RequestId,
    hashes: &[Digest],
) -> std::io::Result<()> {
    let frames = hashes.len().div_ceil(FRAME_HASHES_MAX as usize).max(1);
    for frame in 0..frames {
        let start = frame * FRAME_HASHES_MAX as usize;
        let end = hashes.len().min(start + FRAME_HASHES_MAX as usize);
        let payload = hashes[start..end].iter().flat_map(|hash| hash.0).collect::<Vec<u8>>();
        let message = Message::Hashes { request, first: start as u32, last: frame + 1 == frames };
        writer.write(&message, &payload).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::FrameReader;
    use crate::net::records::tests::pair;
    use ftx_proto::geometry::CHUNK_SIZE;

    /// What a peer gets of a first piece with these bytes.
    async fn frames_of(geometry: &Geometry, mut bytes: &[u8]) -> Vec<(Message, Vec<u8>)> {
        let span = geometry.span_of(geometry.piece(0).unwrap());
        let (near, far) = tokio::io::duplex(2 << 20);
        let (sealer, opener) = pair();
        let mut writer = FrameWriter::new(near, sealer);
        for place in writer.places(lengths(geometry, span)) {
            place.copy_from_slice(bytes.split_off(..place.len()).unwrap());
        }
        write_run(&mut writer, RequestId(7), span).await.unwrap();
        writer.close().await.unwrap();
        let mut reader = FrameReader::new(far, opener, Vec::new());
        let mut frames = Vec::new();
        while let Some(message) = reader.read().await.unwrap() {
            frames.push((message, reader.payload().to_vec()));
        }
        frames
    }

    #[tokio::test]
    async fn zeros_are_told_and_not_sent() {
        let chunk = CHUNK_SIZE as usize;
        let geometry = Geometry::new(5 * chunk as u64 + 9).unwrap();
        let mut bytes = vec![0; 5 * chunk + 9];
        bytes[chunk] = 1;
        bytes[3 * chunk - 1] = 1;
        let frames = frames_of(&geometry, &bytes).await;
        let request = RequestId(7);
        let zeros = |first, count| (Message::Zeros { request, first, count }, Vec::new());
        let chunks = (Message::Chunks { request, first: 1 }, bytes[chunk..3 * chunk].to_vec());
        assert_eq!(frames, [zeros(0, 1), chunks, zeros(3, 3)]);
        bytes.fill(1);
        assert_eq!(frames_of(&geometry, &bytes).await, [(Message::Chunks { request, first: 0 }, bytes)]);
    }

    #[tokio::test]
    async fn zeros_of_many_small_files_take_several_messages() {
        let root = Root([1; 32]);
        let geometry = Geometry::of_folder(root, (0..40).map(|_| (3, root))).unwrap();
        let frames = frames_of(&geometry, &[0; 120]).await;
        let zeros = |first, count| (Message::Zeros { request: RequestId(7), first, count }, Vec::new());
        assert_eq!(frames, [zeros(0, 16), zeros(16, 16), zeros(32, 8)]);
    }

    /// Hears everything and says nothing.
    struct Deaf;

    impl ractor::Actor for Deaf {
        type Msg = ServerMessage;
        type State = ();
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<ServerMessage>,
            (): (),
        ) -> Result<(), ractor::ActorProcessingErr> {
            Ok(())
        }
    }

    /// The time is virtual.
    #[tokio::test(start_paused = true)]
    async fn who_takes_a_byte_a_second_is_given_up() {
        use tokio::io::AsyncReadExt;
        let (server, _) = ractor::Actor::spawn(None, Deaf, ()).await.unwrap();
        let (near, mut far) = tokio::io::duplex(64);
        let geometry = Geometry::new(1000 << 20).unwrap();
        let layer = Arc::new(PieceLayer::from_hashes(geometry, vec![Digest([7; 32]); 1000]).unwrap());
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let (queue, queued) = mpsc::channel(1);
        queue.try_send(Outgoing::Layer { request: RequestId(1), layer, permit }).unwrap();
        let taking = tokio::spawn(async move {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        });
        let began = tokio::time::Instant::now();
        let writer = FrameWriter::new(near, pair().0);
        let writing = write_outgoing(writer, queued, SessionId(1), server.clone(), Link::default());
        let why = writing.await;
        assert!(why.contains("took nothing"), "{why}");
        assert!(began.elapsed() <= FRAME_WRITE_MAX + std::time::Duration::from_secs(1));
        assert_eq!(permits.available_permits(), 1, "what was queued for it is let go");
        taking.await.unwrap();
        server.stop(None);
    }
}
