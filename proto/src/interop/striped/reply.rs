//! The control connection as a client sees it: the request that it makes, and the reply, as servers of any make send it.
//!
//! It owns the bytes of one reply until it is complete, within bounds. The length of the body may be said, or not, or
//! chunk by chunk; a JSON object shows its own end, so a server that closes late is not waited for.

use serde_json::{Deserializer, Value};

use super::{Md5Hash, Threads};

/// Longest reply, in bytes. That of a server is a tenth of it, and what follows the headers of a refusal is not read.
pub const REPLY_SIZE_MAX: usize = 16 * 1024;

/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;

/// A path that cannot stand in a request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path of a request must have 1 to {PATH_BYTES_MAX} bytes, and no control character")]
pub struct PathError;

/// The request, path verbatim. `host` is what goes into the header `Host`.
pub fn encode_request(path: &str, host: &str, threads: Threads) -> Result<Vec<u8>, PathError> {
    if path.is_empty()
        || path.len() > PATH_BYTES_MAX
        || path.chars().chain(host.chars()).any(char::is_control)
    {
        return Err(PathError);
    }
    let body = format!("{{\"threads\": {}}}", threads.count());
    let len = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\nContent-Length: {len}");
    Ok(format!("{head}\r\n\r\n{body}").into_bytes())
}

/// What a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The MD5 of the whole file.
    pub hash: Md5Hash,
    /// Where the stripes are.
    pub port: u16,
}

/// Why there is no offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The server refused.
    #[error("the server answered with status {status}")]
    Refused {
        /// The status, not 200.
        status: u16,
    },
    /// No HTTP, or a body that makes no sense.
    #[error("the server's answer makes no sense: {0}")]
    Malformed(&'static str),
    /// The connection ended before the reply did.
    #[error("the server closed before it had answered")]
    CutShort,
    /// The reply is longer than any may be.
    #[error("the server's answer has no end")]
    TooLong,
}

/// The reply, as it arrives in pieces of any size.
#[derive(Debug, Default)]
pub struct ReplyParser {
    bytes: Vec<u8>,
}

enum Body<'a> {
    Sized(&'a [u8], usize),
    Chunked(&'a [u8]),
    UntilEnd(&'a [u8]),
}

impl ReplyParser {
    /// Nothing has arrived.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has arrived. `None` until the reply is complete. Nothing may be pushed after that.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Result<Reply, ReplyError>> {
        let room = REPLY_SIZE_MAX.saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
        match self.parse() {
            Ok(None) if self.bytes.len() >= REPLY_SIZE_MAX => Some(Err(ReplyError::TooLong)),
            parsed => parsed.transpose(),
        }
    }

    /// The server has ended its stream: what there is is all of it.
    pub fn end(&self) -> Result<Reply, ReplyError> {
        match self.parse() {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => match self.head()? {
                Some((200, Body::UntilEnd(body))) => offer_in(body),
                Some((200, _)) | None => Err(ReplyError::CutShort),
                Some((status, _)) => Err(ReplyError::Refused { status }),
            },
            Err(error) => Err(error),
        }
    }

    fn parse(&self) -> Result<Option<Reply>, ReplyError> {
        let Some((status, body)) = self.head()? else { return Ok(None) };
        if status != 200 {
            return Err(ReplyError::Refused { status });
        }
        match body {
            Body::Sized(body, len) => body.get(..len).map(offer_in).transpose(),
            Body::Chunked(body) => unchunk(body)?.map(|body| offer_in(&body)).transpose(),
            // Most servers of this kind close later than they could. What follows the object is nothing, whether it came
            // together with it or later.
            Body::UntilEnd(body) => {
                let mut values = Deserializer::from_slice(body).into_iter::<Value>();
                match values.next() {
                    Some(Ok(Value::Object(_))) => {
                        offer_in(body.get(..values.byte_offset()).unwrap_or(body)).map(Some)
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// The status and the body so far, once the headers are complete.
    fn head(&self) -> Result<Option<(u16, Body<'_>)>, ReplyError> {
        let mut rest = self.bytes.as_slice();
        loop {
            match Self::head_of(rest)? {
                // Only a sign of life; the reply follows.
                Some((100..=199, Body::UntilEnd(after))) => rest = after,
                head => return Ok(head),
            }
        }
    }

    fn head_of(mut rest: &[u8]) -> Result<Option<(u16, Body<'_>)>, ReplyError> {
        let bytes = rest;
        let Some(line) = take_line(&mut rest) else {
            let begins = bytes.iter().zip(b"HTTP/").all(|(have, want)| have == want);
            return if begins { Ok(None) } else { Err(ReplyError::Malformed("no HTTP")) };
        };
        let status = status_of(line).ok_or(ReplyError::Malformed("no HTTP"))?;
        let (mut len, mut chunked) = (None, false);
        loop {
            let Some(line) = take_line(&mut rest) else { return Ok(None) };
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"content-length") {
                len = Some(decimal(value).ok_or(ReplyError::Malformed("its length is no number"))?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            }
        }
        Ok(Some(match len {
            _ if chunked => (status, Body::Chunked(rest)),
            Some(len) => (status, Body::Sized(rest, len)),
            None => (status, Body::UntilEnd(rest)),
        }))
    }
}

/// The next line without its end, if it is complete.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    let line = rest.get(..end)?;
    *rest = rest.get(end + 1..)?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn status_of(line: &[u8]) -> Option<u16> {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let version = words.next()?;
    let status = decimal(words.next()?)?;
    (version.starts_with(b"HTTP/") && (100..1000).contains(&status)).then_some(status as u16)
}

fn decimal(text: &[u8]) -> Option<usize> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The body of a reply that came in chunks; `None` until the last one is there.
fn unchunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>, ReplyError> {
    let mut body = Vec::new();
    loop {
        let Some(line) = take_line(&mut rest) else { return Ok(None) };
        let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let len = std::str::from_utf8(digits).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let len =
            len.filter(|&len| len <= REPLY_SIZE_MAX).ok_or(ReplyError::Malformed("no length of a chunk"))?;
        if len == 0 {
            return Ok(Some(body));
        }
        let Some((data, after)) = rest.split_at_checked(len) else { return Ok(None) };
        body.extend_from_slice(data);
        rest = after;
        match take_line(&mut rest) {
            Some([]) => {}
            Some(_) => return Err(ReplyError::Malformed("a chunk is longer than it says")),
            None => return Ok(None),
        }
    }
}

fn offer_in(body: &[u8]) -> Result<Reply, ReplyError> {
    let value: Value = serde_json::from_slice(body).map_err(|_| ReplyError::Malformed("no JSON"))?;
    let hash = value.get("hash").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let port = value.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    Ok(Reply {
        hash: hash.ok_or(ReplyError::Malformed("no hash"))?,
        port: port.filter(|&port| port != 0).ok_or(ReplyError::Malformed("no port"))?,
    })
}
