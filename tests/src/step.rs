//! A client of STEP over a plain socket, which knows of the node nothing but what goes over the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use md5::{Digest, Md5};
use serde_json::{Map, Value, json};

/// Bytes of a block.
pub const BLOCK: usize = 20_480;

/// A connection. Whatever is not answered in time fails the test.
#[derive(Debug)]
pub struct StepClient {
    tcp: TcpStream,
    /// Shown with every request, if there is one.
    pub token: Option<String>,
}

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Its fields.
    pub json: Value,
    /// What came behind them.
    pub binary: Vec<u8>,
}

impl StepClient {
    /// Connects.
    pub fn connect(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).expect("STEP is where the node says");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        tcp.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        tcp.set_nodelay(true).expect("no delay");
        StepClient { tcp, token: None }
    }

    /// Connects, and logs in as classic clients do.
    pub fn classic(addr: SocketAddr, user: &str) -> Self {
        let mut client = Self::connect(addr);
        assert_eq!(client.login(user, &md5_hex(user.as_bytes())).status(), 200);
        client
    }

    /// Connects with a token from before.
    pub fn with_token(addr: SocketAddr, token: &str) -> Self {
        StepClient { token: Some(token.to_owned()), ..Self::connect(addr) }
    }

    /// Logs in, and keeps the token if it is given one.
    pub fn login(&mut self, user: &str, password: &str) -> Reply {
        let reply = self.ask("LOGIN", "AUTH", json!({ "username": user, "password": password }), &[]);
        self.token = reply.json["token"].as_str().map(str::to_owned).or(self.token.take());
        reply
    }

    /// Sends a request and waits for the reply.
    pub fn ask(&mut self, operation: &str, kind: &str, fields: Value, binary: &[u8]) -> Reply {
        self.send(operation, kind, fields, binary);
        self.receive()
    }

    /// Sends a request.
    pub fn send(&mut self, operation: &str, kind: &str, fields: Value, binary: &[u8]) {
        let mut json = Map::new();
        json.insert("operation".to_owned(), operation.into());
        json.insert("direction".to_owned(), "REQUEST".into());
        json.insert("type".to_owned(), kind.into());
        if let Some(token) = &self.token {
            json.insert("token".to_owned(), token.as_str().into());
        }
        if let Value::Object(fields) = fields {
            json.extend(fields);
        }
        let json = Value::Object(json).to_string();
        let mut frame = Vec::with_capacity(8 + json.len() + binary.len());
        frame.extend(u32::try_from(json.len()).expect("a small request").to_be_bytes());
        frame.extend(u32::try_from(binary.len()).expect("a small request").to_be_bytes());
        frame.extend(json.as_bytes());
        frame.extend(binary);
        self.send_raw(&frame);
    }

    /// Sends bytes, be they a request or not.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).expect("the node reads");
    }

    /// The next reply.
    pub fn receive(&mut self) -> Reply {
        let mut lens = [0; 8];
        self.tcp.read_exact(&mut lens).expect("a reply");
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let (mut json, mut binary) = (vec![0; number(&lens[..4])], vec![0; number(&lens[4..])]);
        self.tcp
            .read_exact(&mut json)
            .and_then(|()| self.tcp.read_exact(&mut binary))
            .expect("a whole reply");
        Reply { json: serde_json::from_slice(&json).expect("a reply is JSON"), binary }
    }

    /// Whether the node has closed the connection without a further word.
    pub fn is_closed(&mut self) -> bool {
        match self.tcp.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Begins an upload.
    pub fn save(&mut self, key: &str, size: usize) -> Reply {
        self.ask("SAVE", "FILE", json!({ "key": key, "size": size }), &[])
    }

    /// Sends block `index` of a content and waits for the reply.
    pub fn upload(&mut self, key: &str, index: usize, content: &[u8]) -> Reply {
        self.send_block(key, index, content);
        self.receive()
    }

    /// Sends block `index` of a content.
    pub fn send_block(&mut self, key: &str, index: usize, content: &[u8]) {
        let block = content.chunks(BLOCK).nth(index).expect("a block of the content");
        self.send("UPLOAD", "FILE", json!({ "key": key, "block_index": index }), block);
    }

    /// Puts a whole file, block by block; the sum that the last reply tells.
    pub fn put(&mut self, key: &str, content: &[u8]) -> String {
        assert_eq!(self.save(key, content.len()).status(), 200, "{key}");
        let mut last = Value::Null;
        for index in 0..content.len().div_ceil(BLOCK) {
            last = self.upload(key, index, content).expect(200).json;
        }
        last["md5"].as_str().expect("the last reply tells the sum").to_owned()
    }

    /// Asks how a file stands.
    pub fn info(&mut self, key: &str) -> Reply {
        self.ask("GET", "FILE", json!({ "key": key }), &[])
    }

    /// Gets a whole file, block by block, and compares its sum.
    pub fn download(&mut self, key: &str) -> Vec<u8> {
        let plan = self.info(key).expect(200).json;
        let mut content = Vec::new();
        for index in 0..plan["total_block"].as_u64().expect("a number of blocks") {
            let block =
                self.ask("DOWNLOAD", "FILE", json!({ "key": key, "block_index": index }), &[]).expect(200);
            assert_eq!(block.json["size"], block.binary.len());
            content.extend(block.binary);
        }
        assert_eq!(plan["size"], content.len());
        assert_eq!(plan["md5"], md5_hex(&content));
        content
    }
}

impl Reply {
    /// Its status.
    pub fn status(&self) -> u64 {
        self.json["status"].as_u64().expect("a reply has a status")
    }

    /// Fails the test if it has another status.
    #[track_caller]
    pub fn expect(self, status: u64) -> Self {
        assert_eq!(self.json["status"], status, "{}", self.json);
        self
    }
}

/// The MD5 as hex digits.
pub fn md5_hex(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(30);
