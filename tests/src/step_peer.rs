//! A STEP server as others write them: made from the description of what travels, not from the node's own pieces, and
//! as quirky as a test wants it.
//!
//! It serves each connection with a thread, on a port of 127.0.0.1 that the system chooses, and keeps everything in
//! memory. What a client must not do, it notes as a complaint: two requests at once on a connection, JSON that is not
//! ASCII.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ftx_proto::interop::step::value::Md5Sum;
use serde_json::{Map, Value, json};

/// What a server does differently.
#[derive(Debug, Clone)]
pub struct Quirks {
    /// The size of blocks that it announces and insists on.
    pub block_size: u64,
    /// Sends replies in pieces of a few bytes, their fields in another order, numbers as texts.
    pub scrambles: bool,
    /// Closes the connection instead of sending each reply whose number this divides. The request counts.
    pub drops_every: Option<u64>,
    /// Says nothing any more after so many replies, but reads on.
    pub silent_after: Option<u64>,
    /// Ends everything after so many replies, until it is revived.
    pub dies_after: Option<u64>,
    /// Serves one connection after the other.
    pub is_serial: bool,
    /// Says this MD5 whatever the file is.
    pub lies: Option<&'static str>,
    /// Completing UPLOADs say no MD5.
    pub keeps_md5_for_get: bool,
    /// GET says none either.
    pub knows_no_md5: bool,
    /// Lets in only with this password; else with the MD5 of the user's name.
    pub password: Option<&'static str>,
    /// Forgets a token after so many requests with it.
    pub token_uses: Option<u64>,
    /// Refuses UPLOADs beyond so many bytes in all.
    pub quota: Option<u64>,
    /// The status with which GET refuses a file that is not complete.
    pub incomplete: u64,
}

impl Default for Quirks {
    fn default() -> Self {
        Quirks {
            block_size: 20_480,
            scrambles: false,
            drops_every: None,
            silent_after: None,
            dies_after: None,
            is_serial: false,
            lies: None,
            keeps_md5_for_get: false,
            knows_no_md5: false,
            password: None,
            token_uses: None,
            quota: None,
            incomplete: 404,
        }
    }
}

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct StepPeer {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    quirks: Quirks,
    state: Mutex<State>,
    /// Held while a connection is served, if only one is at a time.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Stored>,
    data: HashMap<String, Map<String, Value>>,
    /// Each token with how often it may still be used.
    tokens: HashMap<String, u64>,
    requests: HashMap<String, u64>,
    complaints: Vec<String>,
    connections: Vec<TcpStream>,
    accepted: u64,
    replies: u64,
    is_dead: bool,
    is_revived: bool,
    has_ended: bool,
}

#[derive(Debug, Default)]
struct Stored {
    size: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    is_complete: bool,
}

/// A reply before it is sent: status, message, fields, binary.
type Reply = (u64, String, Value, Vec<u8>);

impl StepPeer {
    /// Starts a server.
    pub fn start(quirks: Quirks) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let addr = listener.local_addr().expect("the address of the port");
        let shared = Arc::new(Shared { quirks, state: Mutex::default(), turn: Mutex::default() });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = serving.state();
                if state.has_ended {
                    return;
                }
                state.accepted += 1;
                if state.is_dead {
                    continue;
                }
                state.connections.extend(stream.try_clone());
                drop(state);
                let shared = Arc::clone(&serving);
                // A connection that ends in the middle is part of the game.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        StepPeer { addr, shared }
    }

    /// `step://USER@HOST:PORT/KEY`.
    pub fn url(&self, user: &str, key: &str) -> String {
        format!("step://{user}@{}/{key}", self.addr)
    }

    /// Has a complete file.
    pub fn has(self, key: &str, bytes: &[u8]) -> Self {
        let blocks = bytes.chunks(self.shared.quirks.block_size as usize).map(<[u8]>::to_vec);
        let blocks = (0..).zip(blocks).collect();
        let stored = Stored { size: bytes.len() as u64, blocks, is_complete: true };
        self.shared.state().files.insert(key.to_owned(), stored);
        self
    }

    /// The bytes of a file that was uploaded completely.
    pub fn file(&self, key: &str) -> Option<Vec<u8>> {
        let state = self.shared.state();
        let stored = state.files.get(key).filter(|stored| stored.is_complete)?;
        Some(stored.bytes())
    }

    /// The keys of all complete files.
    pub fn keys(&self) -> Vec<String> {
        let state = self.shared.state();
        state.files.iter().filter(|(_, stored)| stored.is_complete).map(|(key, _)| key.clone()).collect()
    }

    /// How often an operation was asked for.
    pub fn requests(&self, operation: &str) -> u64 {
        self.shared.state().requests.get(operation).copied().unwrap_or_default()
    }

    /// How many connections were made.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// Forgets an upload that is not complete.
    pub fn forget_blocks(&self, key: &str) {
        let mut state = self.shared.state();
        let stored = state.files.get_mut(key).expect("an upload of that key");
        stored.blocks.clear();
    }

    /// Answers again, and from now on always, after it has died or fallen silent.
    pub fn revive(&self) {
        let mut state = self.shared.state();
        state.is_dead = false;
        state.is_revived = true;
    }

    /// Fails the test if a client did what it must not.
    #[track_caller]
    pub fn expect_no_complaints(&self) {
        let complaints = &self.shared.state().complaints;
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

impl Drop for StepPeer {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.has_ended = true;
        state.hang_up();
        drop(state);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
    }
}

impl Stored {
    fn bytes(&self) -> Vec<u8> {
        self.blocks.values().flatten().copied().collect()
    }
}

impl State {
    fn hang_up(&mut self) {
        for connection in self.connections.drain(..) {
            // One that has ended already is no harm.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let _turn = self.quirks.is_serial.then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        stream.set_nodelay(true)?;
        loop {
            let mut lengths = [0; 8];
            stream.read_exact(&mut lengths)?;
            let [json_len, bin_len] = [&lengths[..4], &lengths[4..]]
                .map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")) as usize);
            let (mut json, mut binary) = (vec![0; json_len], vec![0; bin_len]);
            stream.read_exact(&mut json)?;
            stream.read_exact(&mut binary)?;
            self.look_for_more(&stream)?;
            let request: Value = serde_json::from_slice(&json)?;
            if !json.is_ascii() {
                self.state().complain(format!("JSON that is not ASCII: {request}"));
            }
            let operation = request["operation"].as_str().unwrap_or_default().to_owned();
            *self.state().requests.entry(operation.clone()).or_default() += 1;
            if operation == "BYE" {
                continue;
            }
            let (status, message, fields, binary) = self.answer(&operation, &request, &binary);
            if !self.may_reply(&stream)? {
                continue;
            }
            let mut reply = fields.as_object().cloned().unwrap_or_default();
            reply.insert("operation".to_owned(), json!(operation));
            reply.insert("direction".to_owned(), json!("RESPONSE"));
            reply.insert("type".to_owned(), request["type"].clone());
            reply.insert("status".to_owned(), json!(status));
            reply.insert("status_msg".to_owned(), json!(message));
            self.send(&mut stream, reply, &binary)?;
        }
    }

    /// A client that has sent the next request before its reply would lose it on other servers.
    fn look_for_more(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let more = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        if let Ok(1..) = more {
            self.state().complain("bytes of a second request before the first was answered".to_owned());
        }
        Ok(())
    }

    /// Whether the next reply is sent, by its number.
    fn may_reply(&self, stream: &TcpStream) -> io::Result<bool> {
        let mut state = self.state();
        if state.is_revived {
            return Ok(true);
        }
        if self.quirks.silent_after.is_some_and(|after| state.replies >= after) {
            return Ok(false);
        }
        state.replies += 1;
        if self.quirks.dies_after == Some(state.replies) {
            state.is_dead = true;
            state.hang_up();
        }
        if self.quirks.drops_every.is_some_and(|every| state.replies.is_multiple_of(every)) {
            stream.shutdown(Shutdown::Both)?;
        }
        Ok(true)
    }

    fn send(&self, stream: &mut TcpStream, reply: Map<String, Value>, binary: &[u8]) -> io::Result<()> {
        let json = if self.quirks.scrambles {
            let text = |value: &Value| match value {
                Value::Number(number) => json!(number.to_string()),
                other => other.clone(),
            };
            let fields = reply.iter().rev();
            let fields = fields.map(|(name, value)| format!("{}:{}", json!(name), text(value)));
            format!("{{ \n{} }}", fields.collect::<Vec<_>>().join(" ,\t"))
        } else {
            Value::Object(reply).to_string()
        };
        let mut bytes = (json.len() as u32).to_be_bytes().to_vec();
        bytes.extend((binary.len() as u32).to_be_bytes());
        bytes.extend(json.as_bytes());
        bytes.extend(binary);
        if !self.quirks.scrambles {
            return stream.write_all(&bytes);
        }
        // Sizes from one byte on, so that every boundary is hit by some reply.
        let mut size = 1 + bytes.len() % 7;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(size.min(rest.len()));
            stream.write_all(piece)?;
            rest = later;
            size = size * 2 + 1;
        }
        Ok(())
    }

    fn answer(&self, operation: &str, request: &Value, binary: &[u8]) -> Reply {
        if operation == "LOGIN" {
            return self.log_in(request);
        }
        if let Err(refused) = self.check_token(request) {
            return refused;
        }
        let key = request["key"].as_str().map(str::to_owned);
        match (operation, request["type"].as_str().unwrap_or_default()) {
            ("SAVE", "FILE") => self.save(key, request),
            ("UPLOAD", "FILE") => self.upload(key.unwrap_or_default(), request, binary),
            ("GET", "FILE") => self.get(key),
            ("DOWNLOAD", "FILE") => self.download(key.unwrap_or_default(), request),
            ("DELETE", "FILE") => {
                let key = key.unwrap_or_default();
                match self.state().files.remove(&key) {
                    Some(stored) if !stored.is_complete => {
                        let text = "is not completely uploaded. The tmp files are deleted.";
                        refused(404, format!("The \"key\" {key} {text}"))
                    }
                    Some(_) => good(format!("The \"key\" {key} is deleted."), json!({ "key": key })),
                    None => refused(404, format!("The \"key\" {key} is not existing.")),
                }
            }
            (operation, "DATA") => self.data(operation, key, request),
            _ => refused(408, format!("Operation {operation} is not allowed")),
        }
    }

    fn log_in(&self, request: &Value) -> Reply {
        let user = request["username"].as_str().unwrap_or_default();
        let classic = Md5Sum::of(user.as_bytes()).to_string();
        if request["password"] != *self.quirks.password.unwrap_or(&classic) {
            return refused(401, "\"Password error for login.".to_owned());
        }
        let mut state = self.state();
        let token = format!("{user}-{}", state.tokens.len());
        state.tokens.insert(token.clone(), self.quirks.token_uses.unwrap_or(u64::MAX));
        good("Login successfully".to_owned(), json!({ "token": token }))
    }

    fn check_token(&self, request: &Value) -> Result<(), Reply> {
        let Some(token) = request["token"].as_str() else { return Err(refused(403, "No token.".to_owned())) };
        match self.state().tokens.get_mut(token) {
            Some(uses) if *uses > 0 => {
                *uses -= 1;
                Ok(())
            }
            _ => Err(refused(403, "Token is wrong.".to_owned())),
        }
    }

    fn save(&self, key: Option<String>, request: &Value) -> Reply {
        let Some(size) = request["size"].as_u64() else {
            return refused(402, "This file \"size\" has to be included".to_owned());
        };
        let mut state = self.state();
        let key = key.unwrap_or_else(|| format!("made-up-{}", state.files.len()));
        if state.files.get(&key).is_some_and(|stored| stored.is_complete) {
            return refused(402, format!("This \"key\" {key} is existing."));
        }
        let stored = Stored { size, is_complete: size == 0, ..Stored::default() };
        state.files.insert(key.clone(), stored);
        let mut fields = self.plan(&key, size);
        if size == 0 {
            fields["md5"] = json!(Md5Sum::of(b"").to_string());
        }
        good("This is the upload plan.".to_owned(), fields)
    }

    fn plan(&self, key: &str, size: u64) -> Value {
        let block_size = self.quirks.block_size;
        json!({ "key": key, "size": size, "block_size": block_size, "total_block": size.div_ceil(block_size) })
    }

    fn upload(&self, key: String, request: &Value, binary: &[u8]) -> Reply {
        let mut state = self.state();
        let all: u64 =
            state.files.values().flat_map(|stored| stored.blocks.values()).map(|b| b.len() as u64).sum();
        let Some(stored) = state.files.get_mut(&key) else {
            return refused(408, format!("The \"key\" {key} is not accepted for uploading."));
        };
        if stored.is_complete {
            return refused(408, format!("The \"key\" {key} is completely uploaded."));
        }
        let Some(index) = request["block_index"].as_u64() else {
            return refused(410, "The \"block_index\" is compulsory.".to_owned());
        };
        let begin = index * self.quirks.block_size;
        if begin >= stored.size {
            return refused(405, "The \"block_index\" exceed the max index.".to_owned());
        }
        if binary.len() as u64 != self.quirks.block_size.min(stored.size - begin) {
            return refused(406, "The \"block_size\" is wrong.".to_owned());
        }
        if self.quirks.quota.is_some_and(|quota| all + binary.len() as u64 > quota) {
            return refused(408, "UPLOAD is not possible: the quota is used up.".to_owned());
        }
        stored.blocks.insert(index, binary.to_vec());
        let mut fields = json!({ "key": key, "block_index": index });
        if stored.blocks.len() as u64 == stored.size.div_ceil(self.quirks.block_size) {
            stored.is_complete = true;
            if !self.quirks.keeps_md5_for_get {
                fields["md5"] = json!(self.md5_of(stored));
            }
        }
        good(format!("The block {index} is uploaded."), fields)
    }

    fn md5_of(&self, stored: &Stored) -> String {
        self.quirks.lies.map_or_else(|| Md5Sum::of(&stored.bytes()).to_string(), str::to_owned)
    }

    fn get(&self, key: Option<String>) -> Reply {
        let state = self.state();
        let Some(key) = key else {
            let names: Vec<_> = state.files.keys().collect();
            return good("List of files.".to_owned(), json!({ "file_list": names }));
        };
        match state.files.get(&key) {
            None => refused(404, format!("The key {key} is not existing.")),
            Some(stored) if !stored.is_complete => {
                refused(self.quirks.incomplete, format!("The key {key} is not completely uploaded."))
            }
            Some(stored) => {
                let mut fields = self.plan(&key, stored.size);
                if !self.quirks.knows_no_md5 {
                    fields["md5"] = json!(self.md5_of(stored));
                }
                good("OK. This is the download plan.".to_owned(), fields)
            }
        }
    }

    fn download(&self, key: String, request: &Value) -> Reply {
        let state = self.state();
        let index = request["block_index"].as_u64().unwrap_or(u64::MAX);
        let Some(stored) = state.files.get(&key).filter(|stored| stored.is_complete) else {
            return refused(404, format!("The \"key\" {key} is not existing."));
        };
        match stored.blocks.get(&index) {
            None => refused(410, "The \"block_index\" exceed the max index.".to_owned()),
            Some(block) => {
                let fields = json!({ "block_index": index, "key": key, "size": block.len() });
                (200, "An available block.".to_owned(), fields, block.clone())
            }
        }
    }

    /// Keeps whole requests and gives them back, as the originals do.
    fn data(&self, operation: &str, key: Option<String>, request: &Value) -> Reply {
        let mut state = self.state();
        let key = key.unwrap_or_else(|| format!("made-up-{}", state.data.len()));
        match operation {
            "SAVE" if state.data.contains_key(&key) => {
                refused(402, format!("This key \"{key}\" is existing."))
            }
            "SAVE" => {
                state.data.insert(key.clone(), request.as_object().cloned().unwrap_or_default());
                good(format!("Data is saved with key \"{key}\""), json!({ "key": key }))
            }
            "GET" => match state.data.get(&key) {
                Some(object) => good("OK".to_owned(), Value::Object(object.clone())),
                None => refused(404, format!("The key {key} is not existing.")),
            },
            _ => match state.data.remove(&key) {
                Some(_) => good(format!("The \"key\" {key} is deleted."), json!({ "key": key })),
                None => refused(404, format!("The \"key\" {key} is not existing.")),
            },
        }
    }
}

fn good(message: String, fields: Value) -> Reply {
    (200, message, fields, Vec::new())
}

fn refused(status: u64, message: String) -> Reply {
    (status, message, json!({}), Vec::new())
}
