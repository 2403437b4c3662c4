//! `get`: finds a content, fetches it from everybody who has it, and says what came from whom.

mod folder;
mod meant;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tokio::runtime::Handle;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::geometry::PIECE_SIZE;
use ftx_proto::name::printable;

use self::meant::Meant;
use super::args::{CommonOptions, GetOptions};
use super::json::{self, Output};
use super::progress::Display;
use super::put::url_of;
use super::text;
use crate::config::Sessions;
use crate::error::{Code, Error};
use crate::fetch::report::Report;
use crate::fetch::resolve::{ContentKind, Verdict, Wanted, is_named};
use crate::interop::Url;
use crate::node::{Fetch, FetchOptions, FetchRequest, Node};
use crate::store::{Part, Target};

pub(super) async fn get(
    options: GetOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    if let Some(url) = url_of(Some(&options.what))? {
        return match url {
            Url::Step { .. } => super::step::get(url, options, common, data, output).await,
            Url::UdpGet { .. } | Url::Striped { .. } => {
                super::classic::get(url, options, common, data, output).await
            }
            Url::TcpPut { .. } => {
                let message = "tcp-put:// can only be given files: `ftx-node put FILE tcp-put://host`";
                Err(Error::new(Code::Usage, message))
            }
        };
    }
    let wanted = Wanted::parse(&options.what)
        .map_err(|error| Error::new(Code::Usage, format!("'{}': {error}", printable(&options.what))))?;
    // With several readings none is the name; the target is then known only when the content is.
    check_target(&options, &wanted)?;
    let node = Node::start(common.node_config(Sessions::Anywhere)?, data.clone()).await?;
    let interrupted = Interrupt::new()?;
    let result = tokio::select! {
        result = find_and_fetch(&node, &options, &common, &wanted, output, &interrupted) => result,
        () = interrupted.before_the_fetch() => Err(Error::new(Code::Interrupted, "interrupted; nothing was fetched")),
    };
    node.stop().await;
    match (result, wanted.only_name()) {
        (Err(error), Some(name))
            if matches!(error.code, Code::NoNode | Code::NotFound)
                && !interrupted.has_the_fetch_begun()
                && !options.native_only
                && options.from.is_none() =>
        {
            super::classic::instead(name.clone(), error, &options, &common, data, output).await
        }
        (result, _) => result,
    }
}

async fn find_and_fetch(
    node: &Node,
    options: &GetOptions,
    common: &CommonOptions,
    wanted: &Wanted,
    output: &Output,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let mut display = Display::new(wanted.to_string(), common, *output);
    display.waiting("finding", "looking for it", 0, 0);
    let mut search = node.search(wanted, options.from.clone(), common.search_patience());
    let first = search
        .first(|verdict| {
            if let Verdict::Hashing { hashed, size } = verdict {
                let text = format!(
                    "the nodes that have it are hashing it: {} of {}",
                    text::bytes(*hashed),
                    text::bytes(*size)
                );
                display.waiting("hashing", &text, *hashed, *size);
            }
        })
        .await?;
    let is_folder = first.kind == ContentKind::Folder;
    // A file is there in a moment or takes long; what a folder needs before its first byte is worth to be done meanwhile.
    let resolved = if is_folder { first } else { search.settled(|_| {}).await? };
    let only = options.from.as_ref().and_then(|from| {
        let holder = resolved.holders.iter().find(|h| is_named(from, h.announce.node, &h.announce.name));
        holder.map(|holder| holder.announce.node)
    });
    let how =
        FetchOptions { force: options.force, patience: common.fetch_patience(), only, lane: options.lane };
    if is_folder {
        let asked = folder::Asked { options, common, how };
        return folder::fetch(node, Meant::new(search, resolved), &asked, display, output, interrupt).await;
    }
    drop(search);
    let to_stdout = options.to_stdout();
    let target = match &options.output {
        _ if to_stdout => Target::temporary(),
        Some(path) => Target::new(path, &resolved.name)?,
        None => Target::new(&PathBuf::from("./"), &resolved.name)?,
    };
    let mut fetch = node.fetch(FetchRequest { resolved, target, how }).await?;
    interrupt.the_fetch_has_begun();
    let mut copying = Copying(to_stdout.then(|| copy_to_stdout(&fetch)));
    let report = tokio::select! {
        report = follow(&mut fetch, &mut display, interrupt, !to_stdout) => report,
        // Without a reader the rest is fetched for nothing.
        failed = copying.failed() => Err(failed),
    };
    drop(display);
    let report = report?;
    tokio::select! {
        copied = copying.done() => copied?,
        () = interrupt.wait() => return Err(Error::new(Code::Interrupted, "interrupted while writing to stdout")),
    }
    tell(&report, output);
    Ok(())
}

/// What is wrong with the target should be said before anything else happens.
fn check_target(options: &GetOptions, wanted: &Wanted) -> Result<(), Error> {
    use ftx_proto::wire::discovery::Want;
    let to_stdout = options.to_stdout();
    if to_stdout {
        return if options.force {
            Err(Error::new(Code::Usage, "--force makes no sense with -o -"))
        } else {
            Ok(())
        };
    }
    if let [only] = wanted.readings()
        && let Want::Name(name) = &only.want
    {
        let output = options.output.clone().unwrap_or_else(|| PathBuf::from("./"));
        let target = Target::new(&output, name)?;
        // A folder that is there may be brought up to date; whether it is one on the other side is not known yet. It would
        // go to the output itself, even where a file would go into it.
        let of_folder = Target::of_folder(&output, name)?;
        let is_folder = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        if !options.force && !is_folder(&target.path()) && !is_folder(&of_folder.path()) {
            target.expect_free()?;
        }
    }
    Ok(())
}

/// Shows the fetch until it is done.
async fn follow(
    fetch: &mut Fetch,
    display: &mut Display,
    interrupt: &Interrupt,
    resumable: bool,
) -> Result<Report, Error> {
    let mut progress = fetch.progress.clone();
    let mut interrupted = false;
    loop {
        tokio::select! {
            done = fetch.done() => {
                display.fetching(&progress.borrow().clone());
                return done.map_err(|error| kept(error, &progress.borrow(), resumable));
            }
            Ok(()) = progress.changed() => {
                let now = progress.borrow_and_update().clone();
                display.fetching(&now);
            }
            () = interrupt.wait(), if !interrupted => {
                interrupted = true;
                fetch.interrupt();
            }
        }
    }
}

/// Whoever stops a fetch wants to know what is left of it.
fn kept(error: Error, progress: &crate::fetch::report::Progress, resumable: bool) -> Error {
    match error.code {
        Code::Interrupted if !resumable => {
            Error::new(Code::Interrupted, "interrupted; the output is not complete")
        }
        Code::Interrupted => Error::new(
            Code::Interrupted,
            format!(
                "interrupted; {} of {} are here and verified; the same command goes on from there",
                text::bytes(progress.bytes),
                text::bytes(progress.size)
            ),
        ),
        _ => error,
    }
}

/// What copies to stdout, where something does.
struct Copying(Option<tokio::task::JoinHandle<std::io::Result<()>>>);

impl Copying {
    /// Waits until everything is copied.
    async fn done(&mut self) -> Result<(), Error> {
        let Some(copying) = &mut self.0 else { return Ok(()) };
        let copied = copying.await.map_err(|_| Error::other("writing to stdout failed"));
        self.0 = None;
        copied?.map_err(|error| Error::other(format!("cannot write to stdout: {error}")))
    }

    /// Waits until copying fails; for ever if it does not.
    async fn failed(&mut self) -> Error {
        match self.done().await {
            Err(error) => error,
            Ok(()) => std::future::pending().await,
        }
    }
}

/// Copies what is verified to stdout, in order, while the rest is still being fetched.
fn copy_to_stdout(fetch: &Fetch) -> tokio::task::JoinHandle<std::io::Result<()>> {
    let (mut pieces, part) = (fetch.pieces.clone(), Arc::clone(&fetch.part));
    tokio::spawn(async move {
        for piece in part.geometry().pieces() {
            let there = |pieces: &Arc<PieceSet>| pieces.contains(piece);
            if pieces.wait_for(there).await.is_err() {
                // The fetch has ended before the piece was there, and says why.
                return Ok(());
            }
            let part = Arc::clone(&part);
            let copied = tokio::task::spawn_blocking(move || copy_piece(&*part, piece));
            copied.await.map_err(std::io::Error::other)??;
        }
        Ok(())
    })
}

fn copy_piece(part: &dyn Part, piece: ftx_proto::geometry::PieceIndex) -> std::io::Result<()> {
    let geometry = part.geometry();
    let mut buffer = vec![0; PIECE_SIZE as usize];
    let place = geometry.bytes_of(geometry.span_of(piece));
    let bytes = (place.end - place.start) as usize;
    part.read_at(place.start, &mut buffer[..bytes]).map_err(std::io::Error::other)?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&buffer[..bytes])?;
    stdout.flush()
}

/// The last word of a fetch that succeeded.
fn tell(report: &Report, output: &Output) {
    let sources: Vec<_> = report.sources.iter().map(json::source).collect();
    let fields = json!({
        "path": report.path.display().to_string(),
        "size": report.size,
        "root": report.root.to_string(),
        "seconds": report.elapsed.as_secs_f64(),
        "bytes_per_second": report.bytes_per_second(),
        "resumed": report.resumed,
        "sources": sources,
    });
    output.event("done", fields);
    let resumed = match report.resumed {
        0 => String::new(),
        bytes => format!(", {} of it from an earlier try", text::bytes(bytes)),
    };
    output.line(format_args!(
        "{}  {}{resumed} in {:.1} s, {}/s, verified, root {}",
        printable(&report.path.display().to_string()),
        text::bytes(report.size),
        report.elapsed.as_secs_f64(),
        text::bytes(report.bytes_per_second() as u64),
        report.root.short()
    ));
    tell_sources(report, output);
}

/// What came from whom.
fn tell_sources(report: &Report, output: &Output) {
    for source in report.sources.iter().filter(|source| source.bytes > 0 || source.bad > 0) {
        let mut notes = String::new();
        if source.retransmitted > 0 {
            notes.push_str(&format!("  {} chunks asked again", source.retransmitted));
        }
        if source.bad > 0 {
            notes.push_str(&format!("  {} chunks were wrong", source.bad));
        }
        output.line(format_args!(
            "  {:>8} from {} ({}) at {}{notes}",
            text::bytes(source.bytes),
            printable(&source.name),
            source.node.short(),
            source.addr
        ));
    }
}

/// The user's wish to stop: the first one ends the fetch in an orderly way.
pub(super) struct Interrupt {
    wished: tokio::sync::watch::Receiver<bool>,
    begun: tokio::sync::watch::Sender<bool>,
}

impl Interrupt {
    pub(super) fn new() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error: std::io::Error| Error::other(format!("cannot watch for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (sender, wished) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            sender.send_replace(true);
            // Whoever asks twice does not want to wait for the disk.
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(i32::from(Code::Interrupted.exit_status()));
        });
        let (begun, _) = tokio::sync::watch::channel(false);
        Ok(Interrupt { wished, begun })
    }

    pub(super) async fn wait(&self) {
        let mut wished = self.wished.clone();
        if wished.wait_for(|wished| *wished).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn the_fetch_has_begun(&self) {
        self.begun.send_replace(true);
    }

    fn has_the_fetch_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Returns if the user wants to stop while nothing is being fetched yet.
    async fn before_the_fetch(&self) {
        self.wait().await;
        if self.has_the_fetch_begun() {
            std::future::pending::<()>().await;
        }
    }
}
