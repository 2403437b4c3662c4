//! `get` of a folder: what is in it, what of that is here already, and what came of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ftx_proto::manifest::Manifest;
use ftx_proto::name::printable;
use serde_json::json;

use super::meant::Meant;
use super::{FetchOptions, Interrupt, follow, tell_sources};
use crate::cli::args::{CommonOptions, GetOptions};
use crate::cli::json::{self, Output};
use crate::cli::progress::Display;
use crate::cli::text;
use crate::error::{Code, Error};
use crate::fetch::report::Report;
use crate::node::{FolderRequest, Node};
use crate::store::{FolderOptions, FolderPart, Opened, Part, Selection, Summary, Target};

/// What the user asks for.
pub(super) struct Asked<'a> {
    pub(super) options: &'a GetOptions,
    pub(super) common: &'a CommonOptions,
    pub(super) how: FetchOptions,
}

/// Fetches the folder, and tells of it.
///
/// Where nothing is there yet, it is begun before it is certain that nobody else has another folder of the name; it gets its
/// name only then, and nothing is left of it otherwise.
pub(super) async fn fetch(
    node: &Node,
    mut meant: Meant<'_>,
    asked: &Asked<'_>,
    mut display: Display,
    output: &Output,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let Asked { options, common, how } = *asked;
    let resolved = meant.resolved().clone();
    if options.to_stdout() {
        meant.certain().await?;
        let message = format!("{} is a folder; it cannot go to stdout", resolved.name);
        return Err(Error::new(Code::Usage, message));
    }
    let place = options.output.clone().unwrap_or_else(|| PathBuf::from("./"));
    let target = Target::of_folder(&place, &resolved.name)?;
    let folder_options = folder_options(options, common)?;
    display.waiting("listing", "asking what is in it", 0, resolved.size);
    let manifest = Arc::new(list(node, &mut meant, how).await?);
    if !target.is_untouched()? {
        meant.certain().await?;
    }
    display.waiting("comparing", "looking at what is here already", 0, resolved.size);
    let wanted = Arc::clone(&manifest);
    let opening = tokio::task::spawn_blocking(move || FolderPart::open(target, wanted, folder_options));
    let opened = opening.await.map_err(|_| Error::other("the target could not be opened"))?;
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            meant.certain().await?;
            return Err(error.into());
        }
    };
    let Opened { part, have, skipped, spared, found, summary } = opened;
    announce(&summary, options.delete, output);
    let found = (!found.is_empty()).then_some(found);
    let (part, is_meant) = (Arc::new(part), meant.watch());
    let files = Arc::clone(&part);
    let request =
        FolderRequest { resolved, manifest, part: files, have, skipped, spared, found, how, is_meant };
    let fetching = async {
        let mut fetch = node.fetch_folder(request).await?;
        interrupt.the_fetch_has_begun();
        follow(&mut fetch, &mut display, interrupt, true).await
    };
    let report = meant.meanwhile(fetching).await;
    if !meant.is_certain() {
        let discarding = tokio::task::spawn_blocking(move || part.discard());
        discarding.await.map_err(|_| Error::other("what was begun could not be removed"))??;
    }
    drop(display);
    tell(&report?, &summary, output);
    Ok(())
}

/// What is in the folder: from whoever spoke first if they are quick, else from everybody.
async fn list(node: &Node, meant: &mut Meant<'_>, how: FetchOptions) -> Result<Manifest, Error> {
    let first = meant.resolved().clone();
    let mut asking = Box::pin(node.manifest(&first, how));
    let early = tokio::select! {
        biased;
        certain = meant.certain() => certain.map(|()| None)?,
        listed = &mut asking => Some(listed),
    };
    if let Some(Ok(manifest)) = early {
        return Ok(manifest);
    }
    meant.certain().await?;
    match early {
        _ if meant.resolved().holders != first.holders => {
            drop(asking);
            node.manifest(meant.resolved(), how).await
        }
        Some(listed) => listed,
        None => asking.await,
    }
}

fn folder_options(options: &GetOptions, common: &CommonOptions) -> Result<FolderOptions, Error> {
    let selection = Selection::new(&options.include, &options.exclude)
        .map_err(|error| Error::new(Code::Usage, format!("a pattern is malformed: {error}")))?;
    Ok(FolderOptions {
        selection,
        links: !options.no_symlinks,
        delete: options.delete,
        force: options.force,
        records: Some(common.state_dir()?.join("folders")),
    })
}

/// What will be gone is shown before it is.
fn announce(summary: &Summary, delete: bool, output: &Output) {
    let shown = |path: &Path| path.display().to_string();
    let Summary { refused_links, extras, replaced, .. } = summary;
    for link in refused_links {
        tracing::warn!("{link} is not made: the link may lead out of the folder");
    }
    let paths = |paths: &[PathBuf]| paths.iter().map(|path| shown(path)).collect::<Vec<_>>();
    if delete && !extras.is_empty() {
        output.event("deleting", json!({ "paths": paths(extras) }));
    }
    if !replaced.is_empty() {
        output.event("replacing", json!({ "paths": paths(replaced) }));
    }
    for path in extras.iter().filter(|_| delete) {
        output.line(format_args!("deleting {}", printable(&shown(path))));
    }
    for path in replaced {
        output.line(format_args!("replacing {}", printable(&shown(path))));
    }
}

/// The last word of a fetch that succeeded.
fn tell(report: &Report, summary: &Summary, output: &Output) {
    let fields = json!({
        "path": report.path.display().to_string(),
        "kind": "folder",
        "size": summary.selected.bytes,
        "files": summary.selected.files,
        "folders": summary.folders,
        "links": summary.links,
        "unchanged_files": summary.same.files,
        "unchanged_bytes": summary.same.bytes,
        "copied_files": summary.copied.files,
        "root": report.root.to_string(),
        "seconds": report.elapsed.as_secs_f64(),
        "bytes_per_second": report.bytes_per_second(),
        "fetched": report.size - report.resumed,
        "resumed": report.resumed,
        "sources": report.sources.iter().map(json::source).collect::<Vec<_>>(),
    });
    output.event("done", fields);
    let mut notes = String::new();
    if summary.same.files > 0 {
        notes.push_str(&format!(", {} files were there already", summary.same.files));
    }
    if summary.copied.files > 0 {
        notes.push_str(&format!(", {} are copies", summary.copied.files));
    }
    if report.resumed > 0 {
        notes.push_str(&format!(", {} from an earlier try", text::bytes(report.resumed)));
    }
    output.line(format_args!(
        "{}/  {} files, {}{notes}; {} in {:.1} s, {}/s, verified, root {}",
        printable(&report.path.display().to_string()),
        summary.selected.files,
        text::bytes(summary.selected.bytes),
        text::bytes(report.size - report.resumed),
        report.elapsed.as_secs_f64(),
        text::bytes(report.bytes_per_second() as u64),
        report.root.short()
    ));
    tell_sources(report, output);
}
