//! A datagram lane: the task that pulls chunks from one source in datagrams.
//!
//! From the socket to the disk it is one task: it receives, opens in place, puts fragments together, hashes what one call
//! brought side by side and writes it ([`Landing::land_hashed`]), and asks for more as the engine ([`PullEngine`]) says. The
//! engine of the fetch hears of chunks only, in runs. The session over which the keys were agreed on stays what it is; when it ends so does this lane.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use ftx_proto::digest::{Digest, Root};
use ftx_proto::engine::fetch::SourceId;
use ftx_proto::engine::pull::budget::{Budget, Member};
use ftx_proto::engine::pull::{Fate, Input, Output, PullEngine};
use ftx_proto::geometry::ChunkIndex;
use ftx_proto::wire::datagram::{Asking, ConnectionId, Serving};
use ftx_proto::wire::session::RequestId;
use ractor::ActorRef;
use tokio::sync::mpsc;

use super::arrived::ArrivedRun;
use super::asked::Asked;
use super::landing::Landing;
use super::lane::{LaneCommand, LaneEnd, last_word, locked, violation};
use super::meter::LaneMeter;
use crate::actors::fetcher::FetcherMessage;
use crate::actors::source::SourceMessage;
use crate::clock::Clock;
use crate::faults;
use crate::hash;
use crate::limits::DATAGRAM_ASKED_BYTES_MAX;
use crate::net::datagram::seal::{DatagramSecret, Opener, Sealer, Side};
use crate::net::datagram::socket::{DatagramSocket, Mode, Received};

/// The budget of all datagram lanes of a fetch.
pub type SharedBudget = Arc<Mutex<Budget>>;

/// What a datagram lane needs to know.
#[derive(Debug, Clone)]
pub struct PullArguments {
    /// Which of the source's lanes it is.
    pub lane: usize,
    /// The source it leads to.
    pub source: SourceId,
    /// Where the source takes Wants.
    pub peer: SocketAddr,
    /// The local address to send from, where the node is confined to one.
    pub local: Option<IpAddr>,
    /// Stands for the content at the source.
    pub connection: ConnectionId,
    /// From what the keys are made.
    pub secret: DatagramSecret,
    /// The content.
    pub root: Root,
    /// Where its chunks go.
    pub landing: Arc<Landing>,
    /// Who hears of the lane.
    pub source_actor: ActorRef<SourceMessage>,
    /// Who hears of chunks.
    pub fetcher: ActorRef<FetcherMessage>,
    /// What all datagram lanes of the fetch may have in flight.
    pub budget: SharedBudget,
    /// What time it is.
    pub clock: Clock,
    /// How datagrams are sent and received.
    pub mode: Mode,
}

/// Runs the lane until it ends, and tells the source.
pub(super) async fn run(
    arguments: PullArguments,
    commands: mpsc::Receiver<LaneCommand>,
    asked: Arc<Mutex<Asked>>,
    meter: Arc<LaneMeter>,
) {
    let lane = arguments.lane;
    let last = last_word(&arguments.source_actor, lane);
    let end = match Pull::begin(arguments, asked, meter) {
        Ok(mut pull) => {
            let carried = pull.carry(commands).await;
            carried.err().unwrap_or_else(|| LaneEnd::Broke("closed".to_owned()))
        }
        Err(error) => LaneEnd::Broke(format!("no socket for datagrams: {error}")),
    };
    last.say(SourceMessage::LaneDown(lane, end));
}

impl Drop for Pull {
    /// Also when the lane is dropped in the middle: what it claimed of the budget is for the others.
    fn drop(&mut self) {
        let mut budget = self.arguments.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.leave(Member(self.arguments.source.0));
        let window = self.engine.window();
        tracing::debug!(
            peer = %self.arguments.peer,
            fragments_a_chunk = self.engine.layout().fragments(),
            statistics = ?self.engine.statistics(),
            refused = ?self.opener.counts(),
            window_bytes = window.bytes(),
            bytes_per_second = window.rate() as u64,
            loss = window.loss(),
            "datagram lane ended"
        );
    }
}

struct Pull {
    arguments: PullArguments,
    asked: Arc<Mutex<Asked>>,
    meter: Arc<LaneMeter>,
    socket: DatagramSocket,
    sealer: Sealer,
    opener: Opener,
    engine: PullEngine,
    /// Chunks of which something has come.
    partial: HashMap<ChunkIndex, Box<[u8]>>,
    /// Buffers of a chunk that are used again.
    spare: Vec<Box<[u8]>>,
    /// Chunks that landed and of which the fetch has not heard.
    arrivals: Vec<ArrivedRun>,
    /// A datagram, as it goes out.
    outgoing: Vec<u8>,
    /// Something has come, and that has been told.
    is_up: bool,
}

/// A chunk of which everything has come, and which is not hashed yet.
struct WholeChunk<'a> {
    request: RequestId,
    chunk: ChunkIndex,
    bytes: ChunkBytes<'a>,
}

enum ChunkBytes<'a> {
    /// Came in one datagram, and is still where it was received.
    Received(&'a [u8]),
    /// Was put together from fragments.
    Assembled { buffer: Box<[u8]>, len: usize },
}

impl WholeChunk<'_> {
    /// Whether the other one is the next of the same request and piece.
    fn is_followed_by(&self, next: &Self) -> bool {
        self.request == next.request
            && self.chunk.get() + 1 == next.chunk.get()
            && self.chunk.piece() == next.chunk.piece()
    }
}

impl ChunkBytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            ChunkBytes::Received(bytes) => bytes,
            ChunkBytes::Assembled { buffer, len } => &buffer[..*len],
        }
    }
}

impl Pull {
    fn begin(arguments: PullArguments, asked: Arc<Mutex<Asked>>, meter: Arc<LaneMeter>) -> io::Result<Self> {
        let any: IpAddr = match arguments.peer {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = arguments.local.filter(|local| local.is_ipv4() == any.is_ipv4()).unwrap_or(any);
        let socket = DatagramSocket::bind(SocketAddr::new(local, 0), arguments.mode)?;
        let (sealer, opener) = arguments.secret.keys(&arguments.root, Side::Asking, arguments.connection);
        let (geometry, member) = (arguments.landing.geometry(), Member(arguments.source.0));
        // The system counts its own bookkeeping too: about as much again as small datagrams have bytes.
        let buffer = socket.receive_buffer_bytes() as u64 / 2;
        // What is more than the source takes from one connection it drops.
        let buffer = buffer.min(ASKED_BYTES_MAX);
        let engine = PullEngine::new(geometry.clone(), member, buffer, arguments.clock.now());
        Ok(Pull {
            arguments,
            asked,
            meter,
            socket,
            sealer,
            opener,
            engine,
            partial: HashMap::new(),
            spare: Vec::new(),
            arrivals: Vec::new(),
            outgoing: Vec::new(),
            is_up: false,
        })
    }

    async fn carry(&mut self, mut commands: mpsc::Receiver<LaneCommand>) -> Result<(), LaneEnd> {
        let mut received = Received::new();
        // To a socket that the runtime has not looked at yet nothing can be given: the first probes would be lost.
        let writable = self.socket.writable().await;
        writable.map_err(|error| LaneEnd::Broke(format!("no datagrams can be sent: {error}")))?;
        // One timer, that is put off again and again: a new one each time wakes whoever waits for the system.
        let mut due =
            pin!(tokio::time::sleep_until(self.arguments.clock.instant(self.arguments.clock.now())));
        loop {
            self.carry_out()?;
            let deadline = self.engine.deadline().map(|at| self.arguments.clock.instant(at));
            if let Some(at) = deadline.filter(|at| *at != due.deadline()) {
                due.as_mut().reset(at);
            }
            tokio::select! {
                // What has come is taken in before it is taken for lost, however late it is looked at.
                biased;
                command = commands.recv() => {
                    let Some(command) = command else { return Ok(()) };
                    self.command(command);
                    // What the fetch decides it decides at once for many requests.
                    while let Ok(command) = commands.try_recv() {
                        self.command(command);
                    }
                }
                result = self.socket.recv(&mut received) => {
                    result.map_err(|error| LaneEnd::Broke(format!("no datagrams can be received: {error}")))?;
                    self.take_in(&mut received)?;
                }
                () = &mut due, if deadline.is_some() => self.feed(Input::Tick),
            }
        }
    }

    fn command(&mut self, command: LaneCommand) {
        match command {
            LaneCommand::Request(request, span) => self.feed(Input::Ask { request, span }),
            LaneCommand::Cancel(request) => {
                locked(&self.asked).close(request);
                self.feed(Input::Cancel { request });
            }
            // Those go by the session.
            LaneCommand::Layer | LaneCommand::Leaves(_) | LaneCommand::OpenDatagrams => {}
        }
    }

    fn feed(&mut self, input: Input) {
        let now = self.arguments.clock.now();
        let mut budget = self.arguments.budget.lock().unwrap_or_else(PoisonError::into_inner);
        self.engine.handle(now, input, &mut budget);
    }

    /// Takes in a batch of datagrams, asks for more, and tells the fetch.
    fn take_in(&mut self, received: &mut Received) -> Result<(), LaneEnd> {
        faults::point("taking in datagrams");
        let mut whole = Vec::new();
        let opened = self.open(received, &mut whole);
        // Before the work on what has come: meanwhile the source works on what comes next.
        self.feed(Input::Tick);
        let asked = if opened.is_ok() { self.carry_out() } else { Ok(()) };
        // What came before somebody broke the protocol has come, and the fetch hears of it.
        let landed = self.land(whole);
        if matches!(opened, Ok(true)) && !std::mem::replace(&mut self.is_up, true) {
            let _ = self.arguments.source_actor.cast(SourceMessage::PullUp(self.arguments.lane));
        }
        let statistics = self.engine.statistics();
        self.meter.packets(statistics.arrived + statistics.lost, statistics.lost);
        self.tell();
        opened.and(landed).and(asked)
    }

    /// Opens a batch of datagrams, collects the chunks that are whole with it, and says whether anything came.
    fn open<'a>(
        &mut self,
        received: &'a mut Received,
        whole: &mut Vec<WholeChunk<'a>>,
    ) -> Result<bool, LaneEnd> {
        let mut came = false;
        let now = self.arguments.clock.now();
        for (route, datagram) in received.datagrams() {
            if route.peer.ip() != self.arguments.peer.ip() {
                continue;
            }
            let Some((_, body)) = self.opener.open(datagram) else { continue };
            came = true;
            match Serving::decode(body).map_err(|error| violation(&error.to_string()))? {
                Serving::Data(head, bytes) => {
                    let fate = self.engine.data(now, head, bytes.len());
                    match fate.map_err(|error| violation(&error.to_string()))? {
                        Fate::Keep { chunk, place, completes } => {
                            whole.extend(self.keep(chunk, place, completes, bytes));
                        }
                        Fate::Drop => {}
                    }
                }
                Serving::Padding { number } => self.feed(Input::Padding { number }),
            }
        }
        Ok(came)
    }

    /// Puts a fragment where it belongs; gives the chunk if it is whole with it.
    fn keep<'a>(
        &mut self,
        chunk: ChunkIndex,
        place: Range<usize>,
        completes: Option<RequestId>,
        bytes: &'a [u8],
    ) -> Option<WholeChunk<'a>> {
        let len = self.arguments.landing.geometry().chunk_len(chunk) as usize;
        if place == (0..len) {
            let bytes = ChunkBytes::Received(bytes);
            return completes.map(|request| WholeChunk { request, chunk, bytes });
        }
        let spare = &mut self.spare;
        let new = || spare.pop().unwrap_or_else(|| vec![0; CHUNK_BYTES].into_boxed_slice());
        let buffer = self.partial.entry(chunk).or_insert_with(new);
        // The engine has made sure of both: the place lies in the chunk, and the bytes fill it.
        buffer[place].copy_from_slice(bytes);
        let request = completes?;
        let bytes = ChunkBytes::Assembled { buffer: self.partial.remove(&chunk)?, len };
        Some(WholeChunk { request, chunk, bytes })
    }

    /// Hashes the chunks that were asked for, side by side, and writes them.
    fn land(&mut self, whole: Vec<WholeChunk<'_>>) -> Result<(), LaneEnd> {
        let landing = Arc::clone(&self.arguments.landing);
        let mut result = Ok(());
        let mut wanted = Vec::with_capacity(whole.len());
        let mut asked = locked(&self.asked);
        for chunk in &whole {
            let (first, bytes) = (chunk.chunk.get(), chunk.bytes.as_slice());
            match asked.arrived(landing.geometry(), chunk.request, first, bytes.len()) {
                Ok(Some(_)) => wanted.push(chunk),
                Ok(None) => {}
                Err(what) => {
                    result = Err(LaneEnd::Violation(what));
                    break;
                }
            }
        }
        drop(asked);
        // They come shuffled. In order, neighbours are written with one call and told in one message.
        wanted.sort_unstable_by_key(|chunk| chunk.chunk);
        let messages: Vec<&[u8]> = wanted.iter().map(|chunk| chunk.bytes.as_slice()).collect();
        let mut leaves = Vec::new();
        hash::hash_many(&messages, &mut leaves);
        let mut from = 0;
        for run in wanted.chunk_by(|one, next| one.is_followed_by(next)) {
            let to = from + run.len();
            self.land_run(run, &messages[from..to], &leaves[from..to]);
            from = to;
        }
        for chunk in whole {
            if let ChunkBytes::Assembled { buffer, .. } = chunk.bytes {
                self.recycle(buffer);
            }
        }
        result
    }

    /// Writes neighbours of one request.
    fn land_run(&mut self, run: &[&WholeChunk<'_>], chunks: &[&[u8]], leaves: &[Digest]) {
        let landing = &self.arguments.landing;
        let Some(first) = run.first() else { return };
        let Some(span) = landing.geometry().span(first.chunk.get(), run.len() as u32) else { return };
        self.meter.came(landing.geometry().len_of(span));
        match landing.land_hashed(span, chunks, leaves) {
            Ok(leaves) => {
                let run = ArrivedRun { request: first.request, first: first.chunk, leaves };
                let rest = match self.arrivals.last_mut() {
                    Some(last) => last.join(run),
                    None => Some(run),
                };
                self.arrivals.extend(rest);
            }
            Err(error) => {
                let _ = self.arguments.fetcher.cast(FetcherMessage::StoreFailed(error));
            }
        }
    }

    fn recycle(&mut self, buffer: Box<[u8]>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(buffer);
        }
    }

    fn tell(&mut self) {
        let source = self.arguments.source;
        for run in self.arrivals.drain(..) {
            // The fetcher may have just ended, and this lane is about to.
            let _ = self.arguments.fetcher.cast(FetcherMessage::Fact(run.fact(source)));
        }
    }

    /// Sends what the engine wants to send.
    fn carry_out(&mut self) -> Result<(), LaneEnd> {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Send(asking) => self.send(&asking)?,
                Output::Forget(chunk) => {
                    if let Some(buffer) = self.partial.remove(&chunk) {
                        self.recycle(buffer);
                    }
                }
                Output::Silent => {
                    return Err(LaneEnd::Broke("no datagrams come from there any more".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, asking: &Asking) -> Result<(), LaneEnd> {
        self.outgoing.clear();
        self.sealer
            .seal(&mut self.outgoing, |out| out.extend_from_slice(&asking.encode()))
            .map_err(|error| LaneEnd::Broke(error.to_string()))?;
        // What the system does not take now is lost like any other datagram, and asked again.
        let _ = self.socket.try_send(self.arguments.peer, &self.outgoing, self.outgoing.len());
        Ok(())
    }
}

/// Bytes of chunks that are asked for at most: with what is around them, a source keeps so many waiting.
const ASKED_BYTES_MAX: u64 = DATAGRAM_ASKED_BYTES_MAX as u64 / 16 * 15;

/// Bytes of a buffer for a chunk.
const CHUNK_BYTES: usize = ftx_proto::geometry::CHUNK_SIZE as usize;

/// Buffers that are kept to be used again.
const SPARE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;
    use std::time::Instant;

    use ftx_proto::chunk_set::PieceSet;
    use ftx_proto::geometry::Geometry;
    use ftx_proto::wire::datagram::Header;
    use ractor::{Actor, ActorProcessingErr};
    use tokio::net::UdpSocket;
    use tokio::runtime::Handle;
    use tokio::task::{AbortHandle, JoinHandle};

    use super::*;
    use crate::fetch::lane::Lane;
    use crate::net::datagram::seal::Aead;
    use crate::store::{PartFile, Target};

    /// Hears everything and does nothing.
    struct Deaf<M>(PhantomData<M>);

    impl<M: ractor::Message + Sync> Actor for Deaf<M> {
        type Msg = M;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<M>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
    }

    /// A lane to a source that is nothing but a socket, with actors that do nothing.
    struct World {
        source: UdpSocket,
        geometry: Geometry,
        budget: SharedBudget,
        lane: Lane,
        task: AbortHandle,
        source_actor: (ActorRef<SourceMessage>, JoinHandle<()>),
        fetcher: (ActorRef<FetcherMessage>, JoinHandle<()>),
    }

    impl World {
        async fn new() -> Self {
            let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let geometry = Geometry::new(1 << 20).unwrap();
            let root = Root([7; 32]);
            let (part, have) = PartFile::open(Target::temporary(), geometry.clone(), root, false).unwrap();
            assert!(have == PieceSet::empty(geometry.clone()));
            let source_actor = Actor::spawn(None, Deaf(PhantomData), ()).await.unwrap();
            let fetcher = Actor::spawn(None, Deaf(PhantomData), ()).await.unwrap();
            let budget: SharedBudget = Arc::default();
            let arguments = PullArguments {
                lane: 0,
                source: SourceId(3),
                peer: source.local_addr().unwrap(),
                local: Some(Ipv4Addr::LOCALHOST.into()),
                connection: ConnectionId(5),
                secret: DatagramSecret::new([9; 32], Aead::Aes128Gcm),
                root,
                landing: Arc::new(Landing::new(Arc::new(part), &have)),
                source_actor: source_actor.0.clone(),
                fetcher: fetcher.0.clone(),
                budget: Arc::clone(&budget),
                clock: Clock::start(),
                mode: Mode::default(),
            };
            let (lane, task) = Lane::start_pull(arguments, &Handle::current());
            World { source, geometry, budget, lane, task, source_actor, fetcher }
        }

        async fn end(self) {
            self.task.abort();
            self.source_actor.0.stop(None);
            self.fetcher.0.stop(None);
            self.source_actor.1.await.unwrap();
            self.fetcher.1.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_that_a_new_lane_sends_is_lost_here() {
        let world = World::new().await;
        let mut datagram = [0; 2048];
        for sequence in 0..3 {
            let len = world.source.recv(&mut datagram).await.unwrap();
            assert_eq!(Header::decode(&datagram[..len]).unwrap().sequence, sequence);
        }
        world.end().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_aborted_lane_gives_back_its_claim_on_the_budget() {
        let world = World::new().await;
        let span = world.geometry.span(0, 8).unwrap();
        world.lane.send(LaneCommand::Request(RequestId(1), span)).unwrap();
        let nothing = format!("{:?}", Budget::new());
        let claimed = || format!("{:?}", world.budget.lock().unwrap_or_else(PoisonError::into_inner));
        let until = async |what: &str, is_so: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !is_so() {
                assert!(begun.elapsed().as_secs() < 20, "until {what}: {}", claimed());
                tokio::task::yield_now().await;
            }
        };
        // It asks, so it has claimed something; nobody answers, and it goes on asking.
        world.source.recv(&mut [0; 2048]).await.unwrap();
        until("there is a claim", &|| claimed() != nothing).await;

        world.task.abort();

        until("the claim is given back", &|| claimed() == nothing).await;
        world.end().await;
    }
}
