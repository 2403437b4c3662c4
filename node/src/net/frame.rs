//! Frames on a connection, in the records of its TLS: opened where they were received, sealed where they were put together.
//!
//! A reader owns one buffer, which grows to what the largest frame takes and is used again. What a frame carries stays
//! where it came, as far as the peer cut it the way it is wanted ([`FrameReader::parts`]); so a chunk is received, opened,
//! hashed and written without ever being copied. A writer has places for chunks ([`FrameWriter::places`]) that are filled
//! from the disk, sealed and sent as they are. Nothing here decides anything; a frame beyond its bounds is an error, and
//! the connection is then of no more use.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use ftx_proto::geometry::PIECE_CHUNKS;
use ftx_proto::limits::{FRAME_META_MAX, FRAME_PAYLOAD_MAX};
use ftx_proto::wire::codec::DecodeError;
use ftx_proto::wire::session::{HEADER_LEN, Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::records::{HEAD_LEN, Opened, Opener, PLAIN_MAX, RECORD_MAX, Sealer, TAIL_LEN, record_len};
use crate::faults;

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
    opener: Opener,
    /// Records: first what is opened, then, from `sealed` to `filled`, what is not, then room.
    buffer: Vec<u8>,
    sealed: usize,
    filled: usize,
    /// What was opened and is not done with, in order.
    opened: VecDeque<Range<usize>>,
    /// Bytes of that.
    available: usize,
    meta: Vec<u8>,
    /// Bytes at its beginning that are the payload of the last frame.
    payload_len: usize,
    /// The peer has said that nothing follows.
    closed: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads the frames in the records of `stream`, of which these bytes have come already.
    pub fn new(stream: R, opener: Opener, begun: Vec<u8>) -> Self {
        FrameReader {
            stream,
            opener,
            sealed: 0,
            filled: begun.len(),
            buffer: begun,
            opened: VecDeque::new(),
            available: 0,
            meta: Vec::new(),
            payload_len: 0,
            closed: false,
        }
    }

    /// The next message, or `None` where the stream ended between two frames. Its payload can be had until the next call.
    /// A read that is dropped loses nothing.
    pub async fn read(&mut self) -> Result<Option<Message>, FrameError> {
        faults::point("reading a frame");
        let payload_len = std::mem::take(&mut self.payload_len);
        self.discard(payload_len);
        self.rewind();
        if !self.have(HEADER_LEN).await? {
            return Ok(None);
        }
        let mut header = [0; HEADER_LEN];
        self.copy_to(&mut header);
        let Header { meta_len, payload_len } = Header::decode(header)?;
        let len = HEADER_LEN + meta_len;
        self.have(len).await?;
        // The meta stands behind the header.
        let mut meta = std::mem::take(&mut self.meta);
        meta.resize(len, 0);
        self.copy_to(&mut meta);
        let message = Message::decode(&meta[HEADER_LEN..], payload_len);
        self.meta = meta;
        let message = message?;
        self.have(len + payload_len).await?;
        self.discard(len);
        self.payload_len = payload_len;
        Ok(Some(message))
    }

    /// Bytes of the payload of the frame that was read last.
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// The payload of the frame that was read last, in one piece.
    pub fn payload(&mut self) -> &[u8] {
        if self.opened.front().is_some_and(|first| first.len() < self.payload_len) {
            self.join();
        }
        let first = self.opened.front().map_or(0, |first| first.start);
        &self.buffer[first..first + self.payload_len]
    }

    /// The payload of the frame that was read last, cut to these lengths; where they come to more, the rest is empty. What
    /// the peer has cut in the same way is given as it lies.
    pub fn parts(&mut self, lengths: &[usize]) -> Vec<&[u8]> {
        if !self.is_cut_to(lengths) {
            self.payload();
        }
        let (mut ranges, mut rest) = (self.opened.iter(), 0..0);
        let mut left = self.payload_len;
        let cut = lengths.iter().map(|len| {
            if rest.is_empty() {
                rest = ranges.next().cloned().unwrap_or(0..0);
            }
            let len = (*len).min(left).min(rest.len());
            left -= len;
            let part = &self.buffer[rest.start..rest.start + len];
            rest.start += len;
            part
        });
        cut.collect()
    }

    /// Whether none of these parts of the payload lies in two places.
    fn is_cut_to(&self, lengths: &[usize]) -> bool {
        let (mut ranges, mut rest) = (self.opened.iter().map(Range::len), 0);
        for len in lengths.iter().filter(|len| **len > 0) {
            if rest == 0 {
                rest = ranges.next().unwrap_or(0);
            }
            if *len > rest {
                return false;
            }
            rest -= len;
        }
        true
    }

    /// Waits until that many bytes are opened; `false` if the stream has ended in an orderly way before the first.
    async fn have(&mut self, wanted: usize) -> Result<bool, FrameError> {
        loop {
            while self.available < wanted && self.open()? {}
            if self.available >= wanted {
                return Ok(true);
            }
            if self.closed && self.available == 0 {
                return Ok(false);
            }
            let room = if self.closed { 0..0 } else { self.make_room(wanted)? };
            // At the end of the stream, whoever has not said that it ends has not sent all.
            let read = if room.is_empty() { 0 } else { self.stream.read(&mut self.buffer[room]).await? };
            if read == 0 {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended in the middle");
                return Err(error.into());
            }
            self.filled += read;
        }
    }

    /// Opens the next record, if all of it is here. What comes behind the last one is not looked at.
    fn open(&mut self) -> io::Result<bool> {
        if self.closed {
            return Ok(false);
        }
        let sealed = &mut self.buffer[self.sealed..self.filled];
        let Some(record) = record_len(sealed)?.and_then(|len| sealed.get_mut(..len)) else {
            return Ok(false);
        };
        let len = record.len();
        match self.opener.open(record)? {
            Opened::Data(plain) => self.keep(self.sealed + plain.start..self.sealed + plain.end),
            Opened::Nothing => {}
            Opened::Closed => self.closed = true,
        }
        self.sealed += len;
        Ok(true)
    }

    /// Remembers bytes that were opened.
    fn keep(&mut self, plain: Range<usize>) {
        if plain.is_empty() {
            return;
        }
        self.available += plain.len();
        if self.opened.len() < PARTS_MAX {
            return self.opened.push_back(plain);
        }
        // Cut finer than anybody needs: put together, it takes no more to remember than to keep.
        if let Some(last) = self.opened.back_mut() {
            let (len, end) = (plain.len(), last.end);
            self.buffer.copy_within(plain, end);
            last.end += len;
        }
    }

    /// Makes room for what is missing of so many opened bytes, and a little more, so that what the next frame begins with
    /// comes with it; says where.
    fn make_room(&mut self, wanted: usize) -> io::Result<Range<usize>> {
        self.rewind();
        let here = self.filled - self.sealed;
        let missing = wanted - self.available;
        let records = missing + missing.div_ceil(PLAIN_MAX) * (HEAD_LEN + TAIL_LEN) + NEXT_LEN;
        // Where the peer cuts finer, it is at least the rest of this record.
        let record = record_len(&self.buffer[self.sealed..self.filled])?.unwrap_or(HEAD_LEN);
        let idle = if self.available == 0 && here == 0 { IDLE_LEN } else { 0 };
        let more = records.saturating_sub(here).max(record - here).max(idle);
        if self.filled + more > BUFFER_MAX {
            self.join();
        }
        let end = (self.filled + more).min(BUFFER_MAX);
        if end > self.buffer.len() {
            self.buffer.resize(end, 0);
        }
        Ok(self.filled..end)
    }

    /// Uses the buffer from its beginning again, if nothing in it is opened.
    fn rewind(&mut self) {
        if self.opened.is_empty() {
            self.join();
        }
    }

    /// Puts what is opened together, at the beginning, and what is not behind it.
    fn join(&mut self) {
        let mut end = 0;
        for range in self.opened.drain(..) {
            let len = range.len();
            self.buffer.copy_within(range, end);
            end += len;
        }
        if end > 0 {
            self.opened.push_back(0..end);
        }
        self.buffer.copy_within(self.sealed..self.filled, end);
        (self.filled, self.sealed) = (end + self.filled - self.sealed, end);
    }

    /// Copies the first opened bytes.
    fn copy_to(&self, mut out: &mut [u8]) {
        for range in &self.opened {
            let len = range.len().min(out.len());
            let (now, rest) = out.split_at_mut(len);
            now.copy_from_slice(&self.buffer[range.start..range.start + len]);
            out = rest;
        }
    }

    /// Is done with the first opened bytes.
    fn discard(&mut self, mut len: usize) {
        self.available -= len;
        while let Some(first) = self.opened.front_mut() {
            let now = first.len().min(len);
            first.start += now;
            len -= now;
            if first.start < first.end {
                return;
            }
            self.opened.pop_front();
        }
    }
}

/// The writing side of a session.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    sealer: Sealer,
    /// Room for the beginning of a frame, then the records of the places.
    buffer: Vec<u8>,
    /// Where the record of each place stands.
    places: Vec<Range<usize>>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames in records to `stream`.
    pub fn new(stream: W, sealer: Sealer) -> Self {
        FrameWriter { stream, sealer, buffer: Vec::new(), places: Vec::new() }
    }

    /// Writes one frame, and sees it handed to the kernel.
    pub async fn write(&mut self, message: &Message, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        self.seal(&message.encode(payload.len()), &mut out)?;
        self.seal(payload, &mut out)?;
        self.stream.write_all(&out).await
    }

    /// Places for the parts of a payload, each no longer than a chunk. What they are filled with is written by
    /// [`FrameWriter::write_places`]; places that were had before are gone.
    pub fn places(&mut self, lengths: impl Iterator<Item = usize>) -> Vec<&mut [u8]> {
        self.places.clear();
        let mut end = BEGINNING_MAX;
        for len in lengths {
            assert!(len <= PLAIN_MAX, "a place is for one record");
            let start = end;
            end += HEAD_LEN + len + TAIL_LEN;
            self.places.push(start..end);
        }
        if self.buffer.is_empty() {
            self.buffer = SPARE.take();
        }
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        let mut rest = &mut self.buffer[BEGINNING_MAX..end];
        let mut parts = Vec::with_capacity(self.places.len());
        for place in &self.places {
            let (record, behind) = rest.split_at_mut(place.len());
            parts.push(&mut record[HEAD_LEN..place.len() - TAIL_LEN]);
            rest = behind;
        }
        parts
    }

    /// The bytes of a place that were not written yet.
    pub fn place(&self, number: usize) -> &[u8] {
        let place = self.places.get(number).cloned().unwrap_or(0..HEAD_LEN + TAIL_LEN);
        &self.buffer[place.start + HEAD_LEN..place.end - TAIL_LEN]
    }

    /// Writes one frame whose payload is in these places, and sees it handed to the kernel. Of one filling, later places
    /// are written later, and none twice.
    pub async fn write_places(&mut self, message: &Message, places: Range<usize>) -> io::Result<()> {
        let Some(records) = self.places.get(places).filter(|records| !records.is_empty()) else {
            return self.write(message, b"").await;
        };
        let (start, end) = (records[0].start, records[records.len() - 1].end);
        let payload = records.iter().map(|record| record.len() - HEAD_LEN - TAIL_LEN).sum();
        let beginning = message.encode(payload);
        // It takes the room of places before, which are written already.
        let from = start - (HEAD_LEN + beginning.len() + TAIL_LEN);
        self.buffer[from + HEAD_LEN..start - TAIL_LEN].copy_from_slice(&beginning);
        self.sealer.seal(&mut self.buffer[from..start])?;
        for record in records {
            self.sealer.seal(&mut self.buffer[record.clone()])?;
        }
        self.stream.write_all(&self.buffer[from..end]).await
    }

    /// Gives the places back: the next ones may be those of another connection of this thread, whose memory is at hand.
    pub fn release_places(&mut self) {
        self.places.clear();
        SPARE.set(std::mem::take(&mut self.buffer));
    }

    /// Ends the stream in an orderly way.
    pub async fn close(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        self.sealer.seal_close(&mut out)?;
        self.stream.write_all(&out).await?;
        self.stream.shutdown().await
    }

    /// Appends the records of these bytes.
    fn seal(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        for part in bytes.chunks(PLAIN_MAX) {
            let start = out.len();
            out.resize(start + HEAD_LEN, 0);
            out.extend_from_slice(part);
            out.resize(out.len() + TAIL_LEN, 0);
            self.sealer.seal(&mut out[start..])?;
        }
        Ok(())
    }
}

thread_local! {
    /// The places that a connection of this thread used last. What it writes of them is sealed.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Parts of a payload that are remembered one by one: the most chunks that come in one frame, and what is around them.
const PARTS_MAX: usize = PIECE_CHUNKS as usize + 8;

/// Bytes that are received at once where nothing is expected.
const IDLE_LEN: usize = 4096;

/// Bytes behind a frame that are received with it: the beginning of the next one, if that has a short message.
const NEXT_LEN: usize = BEGINNING_MAX;

/// Room for the record of a message with chunks.
const BEGINNING_MAX: usize = 64;

/// Most that is ever kept of a stream: the largest frame, opened but for its last record.
const BUFFER_MAX: usize = HEADER_LEN + FRAME_META_MAX + FRAME_PAYLOAD_MAX + RECORD_MAX + NEXT_LEN;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::records::tests::pair;
    use ftx_proto::wire::session::RequestId;
    use tokio::io::{DuplexStream, duplex};

    fn connected(room: usize) -> (FrameWriter<DuplexStream>, FrameReader<DuplexStream>) {
        let (near, far) = duplex(room);
        let (sealer, opener) = pair();
        (FrameWriter::new(near, sealer), FrameReader::new(far, opener, Vec::new()))
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|place| (place % 251) as u8).collect()
    }

    fn chunks(first: u32) -> Message {
        Message::Chunks { request: RequestId(u64::MAX), first }
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let (mut writer, mut reader) = connected(1000);
        let payload = bytes(FRAME_PAYLOAD_MAX);
        let sent = payload.clone();
        let writing = tokio::spawn(async move {
            writer.write(&Message::Ping(1), b"").await.unwrap();
            for len in [1, PLAIN_MAX, PLAIN_MAX + 1, FRAME_PAYLOAD_MAX] {
                writer.write(&chunks(3), &sent[..len]).await.unwrap();
            }
            writer.write(&Message::Ping(2), b"").await.unwrap();
            writer.close().await.unwrap();
        });
        assert_eq!(reader.read().await.unwrap(), Some(Message::Ping(1)));
        assert!(reader.payload().is_empty());
        for len in [1, PLAIN_MAX, PLAIN_MAX + 1, FRAME_PAYLOAD_MAX] {
            assert_eq!(reader.read().await.unwrap(), Some(chunks(3)));
            assert!(reader.payload() == &payload[..len], "{len}");
        }
        assert_eq!(reader.read().await.unwrap(), Some(Message::Ping(2)));
        assert_eq!(reader.read().await.unwrap(), None);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_behind_the_end_is_not_looked_at() {
        let (mut sealer, opener) = pair();
        let mut sent = Vec::new();
        sealer.seal_close(&mut sent).unwrap();
        sent.extend(b"no record at all");
        let mut reader = FrameReader::new(&sent[3..], opener, sent[..3].to_vec());
        assert_eq!(reader.read().await.unwrap(), None);
        assert_eq!(reader.read().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_in_places_is_sent_from_there_in_frames_and_received_in_parts() {
        let lengths = [PLAIN_MAX, 1, 0, PLAIN_MAX, 700];
        let all = bytes(lengths.iter().sum());
        let (mut writer, mut reader) = connected(1 << 20);
        for _ in 0..2 {
            let mut rest = all.as_slice();
            for place in writer.places(lengths.into_iter()) {
                place.copy_from_slice(rest.split_off(..place.len()).unwrap());
            }
            assert_eq!(writer.place(1), &all[PLAIN_MAX..=PLAIN_MAX]);
            writer.write_places(&chunks(0), 0..1).await.unwrap();
            // One is left out: its room is used for the beginning of the next frame.
            writer.write_places(&chunks(2), 2..5).await.unwrap();
            writer.release_places();
        }
        for _ in 0..2 {
            assert_eq!(reader.read().await.unwrap(), Some(chunks(0)));
            assert!(reader.payload() == &all[..PLAIN_MAX]);
            assert_eq!(reader.read().await.unwrap(), Some(chunks(2)));
            let expected = &all[PLAIN_MAX + 1..];
            let before = reader.buffer.clone();
            let parts = reader.parts(&[0, PLAIN_MAX, 700]);
            assert!(parts == [&[], &expected[..PLAIN_MAX], &expected[PLAIN_MAX..]]);
            assert!(reader.buffer == before, "nothing was moved");
            // Cut in any other way they are put together first.
            let parts = reader.parts(&[100, PLAIN_MAX, 600]);
            assert!(parts.concat() == expected && parts[1].len() == PLAIN_MAX);
        }
    }

    #[tokio::test]
    async fn records_of_any_length_make_frames_and_keep_the_buffer_bounded() {
        let payload = bytes(FRAME_PAYLOAD_MAX);
        let mut stream = chunks(9).encode(payload.len());
        stream.extend_from_slice(&payload);
        stream.extend_from_slice(&Message::Ping(7).encode(0));
        for cut in [1, 13, 5000, PLAIN_MAX] {
            let (mut writer, mut reader) = connected(1 << 16);
            let stream = stream.clone();
            let writing = tokio::spawn(async move {
                for part in stream.chunks(cut) {
                    let mut out = Vec::new();
                    writer.seal(part, &mut out).unwrap();
                    writer.stream.write_all(&out).await.unwrap();
                }
                writer.close().await.unwrap();
            });
            assert_eq!(reader.read().await.unwrap(), Some(chunks(9)));
            assert!(reader.payload() == payload, "{cut}");
            assert_eq!(reader.read().await.unwrap(), Some(Message::Ping(7)));
            assert_eq!(reader.read().await.unwrap(), None);
            assert!(reader.buffer.len() <= BUFFER_MAX && reader.opened.len() <= PARTS_MAX);
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_read_that_is_dropped_loses_nothing() {
        let (mut writer, mut reader) = connected(100);
        let payload = bytes(30_000);
        let sent = payload.clone();
        let writing = tokio::spawn(async move { writer.write(&chunks(1), &sent).await.unwrap() });
        let mut dropped = 0;
        let message = loop {
            tokio::select! {
                biased;
                message = reader.read() => break message.unwrap(),
                () = tokio::task::yield_now() => dropped += 1,
            }
        };
        assert!(dropped > 10, "{dropped}");
        assert_eq!(message, Some(chunks(1)));
        assert!(reader.payload() == payload);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn hostile_lengths_are_refused_before_they_are_believed() {
        for header in [[255; 8], [0, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 4, 0, 1]] {
            let (mut writer, mut reader) = connected(1000);
            let mut out = Vec::new();
            writer.seal(&header, &mut out).unwrap();
            writer.stream.write_all(&out).await.unwrap();
            assert!(matches!(reader.read().await, Err(FrameError::Malformed(_))), "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_saying_so_was_cut_off() {
        let (mut writer, _) = connected(1000);
        let mut whole = Vec::new();
        writer.seal(&Message::Ping(5).encode(0), &mut whole).unwrap();
        for len in 0..=whole.len() {
            let (_, opener) = pair();
            let mut reader = FrameReader::new(&[][..], opener, whole[..len].to_vec());
            if len == whole.len() {
                assert_eq!(reader.read().await.unwrap(), Some(Message::Ping(5)));
            }
            assert!(matches!(reader.read().await, Err(FrameError::Io(_))), "{len}");
        }
    }
}
