//! Frames on a stream: reading into buffers that are used again, writing header, message and payload.
//!
//! Nothing here decides anything; a frame beyond its bounds is an error, and the stream is then of no more use.

use std::io;

use ftx_proto::limits::FRAME_PAYLOAD_MAX;
use ftx_proto::wire::codec::DecodeError;
use ftx_proto::wire::session::{HEADER_LEN, Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer sent what is no frame of this protocol.
    #[error("the peer breaks the protocol: {0}")]
    Malformed(#[from] DecodeError),
}

/// The reading side of a session.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    meta: Vec<u8>,
    payload: Vec<u8>,
    payload_len: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `stream`.
    pub fn new(stream: R) -> Self {
        FrameReader { stream, meta: Vec::new(), payload: Vec::new(), payload_len: 0 }
    }

    /// The next message, or `None` where the stream ended between two frames. Its payload stays in
    /// [`Self::payload`] until the next call. Not cancel-safe: a dropped read leaves the stream in mid-frame.
    pub async fn read(&mut self) -> Result<Option<Message>, FrameError> {
        let mut header = [0; HEADER_LEN];
        self.payload_len = 0;
        let begun = self.stream.read(&mut header).await?;
        if begun == 0 {
            return Ok(None);
        }
        if let Some(rest) = header.get_mut(begun..) {
            self.stream.read_exact(rest).await?;
        }
        let Header { meta_len, payload_len } = Header::decode(header)?;
        self.meta.resize(meta_len, 0);
        self.stream.read_exact(&mut self.meta).await?;
        let message = Message::decode(&self.meta, payload_len)?;
        if payload_len > 0 {
            if self.payload.is_empty() {
                self.payload = vec![0; FRAME_PAYLOAD_MAX];
            }
            self.stream.read_exact(&mut self.payload[..payload_len]).await?;
            self.payload_len = payload_len;
        }
        Ok(Some(message))
    }

    /// The payload of the frame that was read last.
    pub fn payload(&self) -> &[u8] {
        &self.payload[..self.payload_len]
    }
}

/// The writing side of a session.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames to `stream`.
    pub fn new(stream: W) -> Self {
        FrameWriter { stream }
    }

    /// Writes one frame, and sees it handed to the kernel.
    pub async fn write(&mut self, message: &Message, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&message.encode(payload.len())).await?;
        if !payload.is_empty() {
            self.stream.write_all(payload).await?;
        }
        self.stream.flush().await
    }

    /// Ends the stream in an orderly way.
    pub async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::wire::session::RequestId;

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let (near, far) = tokio::io::duplex(1000);
        let chunks = Message::Chunks { request: RequestId(7), first: 3 };
        let payload = vec![9; 5000];
        let sent = (chunks.clone(), payload.clone());
        let writing = tokio::spawn(async move {
            let mut writer = FrameWriter::new(near);
            writer.write(&Message::Ping(1), b"").await.unwrap();
            writer.write(&sent.0, &sent.1).await.unwrap();
        });
        let mut reader = FrameReader::new(far);
        assert_eq!(reader.read().await.unwrap(), Some(Message::Ping(1)));
        assert!(reader.payload().is_empty());
        assert_eq!(reader.read().await.unwrap(), Some(chunks));
        assert_eq!(reader.payload(), payload);
        assert_eq!(reader.read().await.unwrap(), None);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn hostile_lengths_are_refused_before_they_are_believed() {
        for header in [[255; 8], [0, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 4, 0, 1]] {
            let mut reader = FrameReader::new(&header[..]);
            assert!(matches!(reader.read().await, Err(FrameError::Malformed(_))), "{header:?}");
        }
        let truncated = Message::Ping(5).encode(0);
        for len in 1..truncated.len() {
            let mut reader = FrameReader::new(&truncated[..len]);
            assert!(matches!(reader.read().await, Err(FrameError::Io(_))), "{len}");
        }
    }
}
