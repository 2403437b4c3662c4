//! What fuzz targets try of a session's records and frames.

use std::io;
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use aws_lc_rs::aead::NONCE_LEN;
use ftx_proto::wire::session::{HEADER_LEN, Header, Message, RequestId};
use rustls::ConnectionTrafficSecrets;
use tokio::io::{AsyncRead, ReadBuf};

use super::frame::FrameReader;
use super::records::{HEAD_LEN, Opener, PLAIN_MAX, Sealer, TAIL_LEN};
use crate::fuzzing::Bytes;

/// Whatever a peer seals, cut as it likes, of any kind, and even if something on the way changes a byte of it: what is
/// read are the frames in the application data before the first thing that is wrong, and then it is over.
pub fn frames(data: &[u8]) {
    let mut bytes = Bytes(data);
    let [step, parts] = bytes.take().map(|byte| usize::from(byte) + 1);
    let most = (step * step).saturating_mul(READS_MAX).min(SEALED_MAX);
    let Said { mut sealed, plain, mut ends, mut is_closed, .. } = Said::of(&mut bytes, most);
    let [is_changed, low, high, by] = bytes.take();
    if is_changed % 4 == 1 && !sealed.is_empty() {
        let place = usize::from(u16::from_le_bytes([low, high])) % sealed.len();
        sealed[place] ^= by.max(1);
        let before = ends.len();
        ends.retain(|(end, _)| *end <= place);
        // What comes behind the closing alert is not looked at.
        is_closed &= ends.len() == before;
    }
    let readable = ends.last().map_or(0, |(_, plain)| *plain);
    let (expected, left) = frames_in(&plain[..readable]);
    let is_whole = is_closed && left == 0;

    let begun = sealed[..sealed.len().min(parts)].to_vec();
    let stream = Cut { bytes: &sealed[begun.len()..], step: step * step };
    let opener = Opener::new(secrets()).expect("a key");
    let mut reader = FrameReader::new(stream, opener, begun);
    for (message, payload) in &expected {
        assert_eq!(ready(reader.read()).expect("a frame that was sent whole").as_ref(), Some(message));
        assert_eq!(reader.payload_len(), payload.len());
        if parts % 2 == 0 {
            let mut rest = payload.as_slice();
            for part in reader.parts(&[parts, 0, 16_384, 3, 16_384]) {
                assert!(rest.starts_with(part));
                rest = &rest[part.len()..];
            }
        }
        assert!(reader.payload() == payload.as_slice());
    }
    match ready(reader.read()) {
        Ok(None) => assert!(is_whole, "nobody said that it ends here"),
        Ok(Some(message)) => panic!("nobody sent {message:?}"),
        Err(_) => assert!(!is_whole, "it ended as it should"),
    }
}

/// What a peer says.
#[derive(Default)]
struct Said {
    sealed: Vec<u8>,
    /// The application data that can be read of it.
    plain: Vec<u8>,
    /// Where each record that can be read ends, in what is sealed and in the application data.
    ends: Vec<(usize, usize)>,
    is_closed: bool,
    is_over: bool,
}

impl Said {
    /// What these bytes make it say, until that has come to more than `most` bytes.
    fn of(bytes: &mut Bytes<'_>, most: usize) -> Self {
        let mut said = Said::default();
        let mut sealer = Sealer::new(secrets()).expect("a key");
        let (mut cut, mut padding) = (PLAIN_MAX, 0);
        while let Some(operation) = bytes.next() {
            if operation == 255 || said.sealed.len() > most {
                break;
            }
            let (kind, content) = match operation % 16 {
                0..=3 => {
                    let [request, first, low, high] = bytes.take();
                    let len = usize::from(u16::from_le_bytes([low, high]));
                    // Mostly little, which is soon tried.
                    let len = match operation / 16 {
                        shift @ 0..=2 => len << shift,
                        _ => len >> 4,
                    };
                    let (request, first) = (RequestId(request.into()), first.into());
                    let mut frame = Message::Chunks { request, first }.encode(len);
                    frame.extend_from_slice(&pattern()[..len]);
                    (DATA, frame)
                }
                4 | 5 => (DATA, Message::Ping(u64::from_le_bytes(bytes.take())).encode(0)),
                6 | 7 => {
                    let len = bytes.next().unwrap_or(0);
                    (DATA, (0..len).map_while(|_| bytes.next()).collect())
                }
                8 | 9 => {
                    cut = usize::from(u16::from_le_bytes(bytes.take())) % PLAIN_MAX + 1;
                    continue;
                }
                10 => {
                    padding = usize::from(bytes.next().unwrap_or(0));
                    continue;
                }
                11 => (HANDSHAKE, vec![4, 0, 0, 0]),
                12 => (ALERT, vec![1, 0]),
                13 => (DATA, Vec::new()),
                _ => (bytes.next().unwrap_or(0).max(1), bytes.take::<2>().to_vec()),
            };
            let mut rest = content.as_slice();
            let cut = cut.max(content.len() / RECORDS_MAX);
            loop {
                let (now, later) = rest.split_at(rest.len().min(cut));
                said.seal(&mut sealer, kind, now, padding);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        }
        said
    }

    fn seal(&mut self, sealer: &mut Sealer, kind: u8, content: &[u8], padding: usize) {
        let mut record = vec![0; HEAD_LEN];
        record.extend_from_slice(content);
        let padding = padding.min(PLAIN_MAX - content.len());
        let len = HEAD_LEN + content.len() + padding + TAIL_LEN;
        if padding == 0 {
            record.resize(len, 0);
            sealer.seal_as(kind, &mut record).expect("few records");
        } else {
            // What is sealed ends with a kind of 0, so that it is padding.
            record.push(kind);
            record.resize(len, 0);
            sealer.seal_as(0, &mut record).expect("few records");
        }
        self.sealed.extend(record);
        let is_readable = match kind {
            DATA => true,
            HANDSHAKE => content.first() == Some(&4),
            ALERT => content == [1, 0],
            _ => false,
        };
        if !self.is_over && is_readable {
            self.plain.extend_from_slice(if kind == DATA { content } else { &[] });
            self.ends.push((self.sealed.len(), self.plain.len()));
            self.is_closed = kind == ALERT;
        }
        self.is_over |= !is_readable || kind == ALERT;
    }
}

/// Bytes that a payload is made of; as many as the longest one has.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| (0..251_u8).cycle().take(usize::from(u16::MAX) << 2).collect())
}

/// Enough for a frame of any size.
const SEALED_MAX: usize = 600_000;

/// As many reads take all of it, or one for each byte of a little.
const READS_MAX: usize = 512;

/// Into so many records a frame is cut: more than anybody remembers one by one.
const RECORDS_MAX: usize = 200;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// The frames that these bytes begin with, and how many bytes are left behind them.
fn frames_in(mut plain: &[u8]) -> (Vec<(Message, Vec<u8>)>, usize) {
    let mut frames = Vec::new();
    while let Some((header, rest)) = plain.split_first_chunk::<HEADER_LEN>()
        && let Ok(Header { meta_len, payload_len }) = Header::decode(*header)
        && let Some((meta, rest)) = rest.split_at_checked(meta_len)
        && let Ok(message) = Message::decode(meta, payload_len)
        && let Some((payload, rest)) = rest.split_at_checked(payload_len)
    {
        frames.push((message, payload.to_vec()));
        plain = rest;
    }
    (frames, plain.len())
}

fn secrets() -> (u64, ConnectionTrafficSecrets) {
    let (key, iv) = ([7; 32].into(), [9; NONCE_LEN].into());
    (0, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv })
}

/// A stream that gives only so many bytes at once.
struct Cut<'data> {
    bytes: &'data [u8],
    step: usize,
}

impl AsyncRead for Cut<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.bytes.split_at(self.bytes.len().min(self.step).min(into.remaining()));
        into.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

/// What comes of something that never waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits for what is there"),
    }
}
