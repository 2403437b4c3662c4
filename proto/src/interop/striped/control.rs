//! The control connection as a server sees it: one `POST` with the number of threads, one reply.
//!
//! It owns the bytes of one request until it is complete, within bounds. It refuses all of HTTP that no client of this
//! system uses: there is one request to a connection, and what follows it is ignored.

use serde_json::Value;

use super::{Md5Hash, Threads};
use crate::name::{NameError, RelativePath};

/// Longest request line and headers together, in bytes.
pub const HEAD_SIZE_MAX: usize = 16 * 1024;

/// Longest body, in bytes.
pub const BODY_SIZE_MAX: usize = 4 * 1024;

/// The statuses of replies; clients look at nothing else of one that is not [`Status::Ok`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// 200: the hash and the port follow.
    Ok,
    /// 400: no HTTP.
    BadRequest,
    /// 403: there, but not readable.
    Forbidden,
    /// 404: not in the share, or no regular file.
    NotFound,
    /// 431: a request line or headers without end.
    HeadTooLarge,
    /// 500: no or a bad length, no JSON, no or bad threads.
    InternalError,
    /// 501: any method but `POST`.
    NotImplemented,
    /// 503: too many downloads at once.
    Busy,
}

impl Status {
    /// The number.
    pub fn code(self) -> u16 {
        match self {
            Status::Ok => 200,
            Status::BadRequest => 400,
            Status::Forbidden => 403,
            Status::NotFound => 404,
            Status::HeadTooLarge => 431,
            Status::InternalError => 500,
            Status::NotImplemented => 501,
            Status::Busy => 503,
        }
    }

    /// The words that go with it.
    pub fn reason(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::BadRequest => "Bad Request",
            Status::Forbidden => "Forbidden",
            Status::NotFound => "Not Found",
            Status::HeadTooLarge => "Request Header Fields Too Large",
            Status::InternalError => "Internal Server Error",
            Status::NotImplemented => "Not Implemented",
            Status::Busy => "Service Unavailable",
        }
    }
}

/// A request that may be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRequest {
    /// The path as it stood in the request line: nothing in it is decoded, and it may lack the leading `/`.
    pub path: String,
    /// How many stripes are wanted.
    pub threads: Threads,
}

impl ControlRequest {
    /// The name within the share: the path without leading `/`. One that cannot be a name there is not found.
    pub fn name(&self) -> Result<RelativePath, NameError> {
        self.path.trim_start_matches('/').parse()
    }
}

/// The request, as it arrives in pieces of any size.
#[derive(Debug, Default)]
pub struct RequestParser {
    bytes: Vec<u8>,
    head: Option<Head>,
}

#[derive(Debug)]
struct Head {
    path: Result<String, Status>,
    body: usize,
    len: usize,
}

impl RequestParser {
    /// Nothing has arrived.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has arrived. `None` until the request is complete; then what it says, or how to refuse it.
    ///
    /// Nothing may be pushed after that.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Result<ControlRequest, Status>> {
        let searched = self.bytes.len();
        let room = (HEAD_SIZE_MAX + BODY_SIZE_MAX).saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
        if self.head.is_none() {
            let Some(end) = head_end(&self.bytes, searched) else {
                return (self.bytes.len() > HEAD_SIZE_MAX).then_some(Err(Status::HeadTooLarge));
            };
            if end > HEAD_SIZE_MAX {
                return Some(Err(Status::HeadTooLarge));
            }
            match Head::parse(self.bytes.get(..end)?, end) {
                Ok(head) => self.head = Some(head),
                Err(status) => return Some(Err(status)),
            }
        }
        let head = self.head.as_ref()?;
        let body = self.bytes.get(head.body..head.body + head.len)?;
        Some(head.with_body(body))
    }

    /// The client has ended its stream: what there is of the body is all of it.
    pub fn end(&self) -> Result<ControlRequest, Status> {
        let head = self.head.as_ref().ok_or(Status::BadRequest)?;
        head.with_body(self.bytes.get(head.body..).unwrap_or_default())
    }
}

impl Head {
    fn parse(bytes: &[u8], body: usize) -> Result<Self, Status> {
        let mut lines =
            bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = lines.next().unwrap_or_default();
        // The path is what is between, so that one with a space is one path.
        let first = line.iter().position(|&byte| byte == b' ').ok_or(Status::BadRequest)?;
        let last = line.iter().rposition(|&byte| byte == b' ').ok_or(Status::BadRequest)?;
        let path = line.get(first + 1..last).ok_or(Status::BadRequest)?;
        let version = line.get(last + 1..).unwrap_or_default();
        if !version.starts_with(b"HTTP/") {
            return Err(Status::BadRequest);
        }
        if line.get(..first) != Some(b"POST") {
            return Err(Status::NotImplemented);
        }
        // Names are UTF-8 here, so there is no file with another one.
        let path = String::from_utf8(path.to_vec()).map_err(|_| Status::NotFound);
        let len = content_length(lines)?;
        Ok(Head { path, body, len })
    }

    fn with_body(&self, body: &[u8]) -> Result<ControlRequest, Status> {
        let threads = threads_of(body).ok_or(Status::InternalError)?;
        Ok(ControlRequest { path: self.path.clone()?, threads })
    }
}

/// Where the body begins: after the first empty line. Only what was added after `searched` bytes is new.
fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    // The line end before an empty line may be in what was searched already.
    let from = searched.saturating_sub(3);
    let tail = bytes.get(from..)?;
    let ends = tail.iter().zip(from..).filter(|(byte, _)| **byte == b'\n').map(|(_, place)| place);
    ends.into_iter().find_map(|place| match bytes.get(place + 1..)? {
        [b'\n', ..] => Some(place + 2),
        [b'\r', b'\n', ..] => Some(place + 3),
        _ => None,
    })
}

/// The length of the body, which must be said; if it is said twice, alike.
fn content_length<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Result<usize, Status> {
    let mut said = None;
    for line in headers {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        if !name.trim_ascii().eq_ignore_ascii_case(b"content-length") {
            continue;
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if !value.iter().all(u8::is_ascii_digit) {
            return Err(Status::InternalError);
        }
        let value = std::str::from_utf8(value).ok().and_then(|text| text.parse::<usize>().ok());
        let value = value.filter(|&len| len <= BODY_SIZE_MAX).ok_or(Status::InternalError)?;
        if said.replace(value).is_some_and(|before| before != value) {
            return Err(Status::InternalError);
        }
    }
    said.ok_or(Status::InternalError)
}

fn threads_of(body: &[u8]) -> Option<Threads> {
    let value: Value = serde_json::from_slice(body).ok()?;
    Threads::new(value.as_object()?.get("threads")?.as_u64()?).ok()
}

/// The reply to a request that is answered. The port must be listening already.
pub fn encode_reply(hash: Md5Hash, port: u16) -> Vec<u8> {
    let body = format!("{{\"hash\": \"{hash}\", \"port\": {port}}}");
    encode(Status::Ok, "application/json", &body)
}

/// The reply to a request that is refused.
pub fn encode_refusal(status: Status) -> Vec<u8> {
    encode(status, "text/plain", &format!("{}\n", status.reason()))
}

fn encode(status: Status, content_type: &str, body: &str) -> Vec<u8> {
    let (code, reason, len) = (status.code(), status.reason(), body.len());
    format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
