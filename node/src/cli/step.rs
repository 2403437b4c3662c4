//! `put`, `get`, `rm`, `ls` and `data` with a STEP server.

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::interop::step::limits::{PASSWORD_BYTES_MAX, REQUEST_JSON_MAX};
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::value::Key;
use ftx_proto::name::printable;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::args::{CommonOptions, DataAction, DataOptions, GetOptions, PutOptions, StepOptions};
use super::json::Output;
use super::target::target;
use super::text;
use super::transfer::{GOES_ON, NOTHING, Transfer, finished, per_second};
use crate::error::{Code, Error};
use crate::interop::Url;
use crate::interop::meter::Meter;
use crate::interop::step_client::{Account, Download, Downloaded, StepClient, Upload, Uploaded};
use crate::store::{Part, PartFile};

pub(super) async fn put(
    options: PutOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let (client, key) = client(&options.url, &options.step, &common)?;
    let upload = Upload {
        file: options.file.clone(),
        key,
        connections: connections(&options.step),
        journals: common.state_dir()?.join("step-uploads"),
    };
    let meter = Arc::new(Meter::default());
    let counted = Arc::clone(&meter);
    let task = data.spawn(async move { client.upload(upload, counted).await });
    let handle = task.abort_handle();
    let name = options.file.display().to_string();
    let transfer = Transfer { task, stop: || handle.abort(), left: GOES_ON };
    let uploaded = transfer.show(&name, &meter, &common, output).await?;
    tell_uploaded(&options.file, &options.url, &uploaded, output);
    Ok(())
}

fn tell_uploaded(file: &Path, url: &Url, uploaded: &Uploaded, output: &Output) {
    let Uploaded { key, size, md5, is_verified, resumed, elapsed } = uploaded;
    let url = match url.clone() {
        Url::Step { user, host, port, .. } => Url::Step { user, host, port, key: Some(key.clone()) },
        other => other,
    };
    let rate = per_second(size - resumed, *elapsed);
    let fields = json!({
        "path": file.display().to_string(),
        "url": url.to_string(),
        "key": key.as_str(),
        "size": size,
        "md5": md5.to_string(),
        "verified": is_verified,
        "seconds": elapsed.as_secs_f64(),
        "bytes_per_second": rate,
        "resumed": resumed,
    });
    output.event("done", fields);
    let verified = if *is_verified { "verified" } else { "not verified: the server says no MD5" };
    output.line(format_args!(
        "{url}  {} in {:.1} s, {}/s, {verified}, MD5 {md5}",
        text::bytes(*size),
        elapsed.as_secs_f64(),
        text::bytes(rate as u64)
    ));
}

pub(super) async fn get(
    url: Url,
    options: GetOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let (client, key) = client(&url, &options.step, &common)?;
    let key = needed(key)?;
    if options.from.is_some() {
        return Err(Error::new(Code::Usage, "--from makes no sense with a URL, which says from where"));
    }
    let (to_stdout, force) = (options.to_stdout(), options.force);
    // Keys are paths on all kinds of systems.
    let last = key.as_str().rsplit(['/', '\\']).next().unwrap_or_default();
    let target = target(&options, last)?;
    let download = Download { key, target, force, connections: connections(&options.step) };
    let meter = Arc::new(Meter::default());
    let counted = Arc::clone(&meter);
    let task = data.spawn(async move {
        let downloaded = client.download(download, counted).await?;
        if to_stdout {
            // What was not verified as a whole does not get there.
            copy_to_stdout(&downloaded.part)?;
        }
        Ok(downloaded)
    });
    let handle = task.abort_handle();
    let left = if to_stdout { NOTHING } else { GOES_ON };
    let transfer = Transfer { task, stop: || handle.abort(), left };
    let downloaded = transfer.show(&url.to_string(), &meter, &common, output).await?;
    tell_downloaded(&downloaded, output);
    Ok(())
}

fn copy_to_stdout(part: &PartFile) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    let failed = |error| Error::other(format!("cannot write to stdout: {error}"));
    let mut buffer = vec![0; 1 << 20];
    let (mut at, size) = (0, part.geometry().size());
    while at < size {
        let len = (size - at).min(buffer.len() as u64);
        part.read_at(at, &mut buffer[..len as usize])?;
        stdout.write_all(&buffer[..len as usize]).map_err(failed)?;
        at += len;
    }
    stdout.flush().map_err(failed)
}

fn tell_downloaded(downloaded: &Downloaded, output: &Output) {
    let Downloaded { part, path, md5, resumed, elapsed } = downloaded;
    let size = part.geometry().size();
    let rate = per_second(size - resumed, *elapsed);
    let fields = json!({
        "path": path.display().to_string(),
        "size": size,
        "md5": md5.to_string(),
        "verified": true,
        "seconds": elapsed.as_secs_f64(),
        "bytes_per_second": rate,
        "resumed": resumed,
    });
    output.event("done", fields);
    output.line(format_args!(
        "{}  {} in {:.1} s, {}/s, verified, MD5 {md5}",
        printable(&path.display().to_string()),
        text::bytes(size),
        elapsed.as_secs_f64(),
        text::bytes(rate as u64)
    ));
}

pub(super) async fn rm(
    url: Url,
    step: StepOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let (client, key) = client(&url, &step, &common)?;
    let key = needed(key)?;
    finished(data.spawn(async move { client.remove(key).await })).await?;
    output.event("done", json!({ "url": url.to_string() }));
    output.line(format_args!("{url}: deleted"));
    Ok(())
}

pub(super) async fn ls(
    url: Url,
    step: StepOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let (client, key) = client(&url, &step, &common)?;
    if key.is_some() {
        let message = format!("{url}: only all files can be listed, with step://user@host[:port]");
        return Err(Error::new(Code::Usage, message));
    }
    let (names, has_more) = finished(data.spawn(async move { client.list().await })).await?;
    for name in &names {
        output.event("entry", json!({ "name": name }));
        output.line(printable(name));
    }
    output.event("done", json!({ "entries": names.len(), "more": has_more }));
    if has_more && !output.is_json() {
        eprintln!("ftx-node: the server has more files than it lists");
    }
    Ok(())
}

pub(super) async fn data(
    options: DataOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let (client, key) = client(&options.url, &options.step, &common)?;
    if options.action != DataAction::Save && options.object.is_some() {
        return Err(Error::new(Code::Usage, "only `data save` takes JSON"));
    }
    match options.action {
        DataAction::Save => {
            let json = options.object.map_or_else(json_from_stdin, Ok)?;
            let object = Object::from_json(&json).map_err(|error| {
                Error::new(
                    Code::Usage,
                    format!("what is to be saved has to be one JSON object; it is {error}"),
                )
            })?;
            if object.to_json().len() > OBJECT_BYTES_MAX {
                let message =
                    format!("the object is longer than {OBJECT_BYTES_MAX} bytes; use `ftx-node put`");
                return Err(Error::new(Code::Usage, message));
            }
            let key = finished(data.spawn(async move { client.save_data(key, object).await })).await?;
            output.event("done", json!({ "key": key.as_str() }));
            output.line(format_args!("saved with the key {}", printable(key.as_str())));
        }
        DataAction::Get => {
            let key = needed(key)?;
            let name = key.clone();
            let object = finished(data.spawn(async move { client.data(key).await })).await?;
            let json = object.to_json();
            let value: Value = serde_json::from_str(&json).unwrap_or_default();
            output.event("done", json!({ "key": name.as_str(), "object": value }));
            // ASCII, and numbers as long as they came.
            output.line(json);
        }
        DataAction::Rm => {
            let key = needed(key)?;
            finished(data.spawn(async move { client.remove_data(key).await })).await?;
            output.event("done", json!({ "url": options.url.to_string() }));
            output.line(format_args!("{}: deleted", options.url));
        }
    }
    Ok(())
}

/// The client of the account that a URL names, and the key in it.
fn client(url: &Url, step: &StepOptions, common: &CommonOptions) -> Result<(StepClient, Option<Key>), Error> {
    let Url::Step { user, host, port, key } = url.clone() else {
        let message = format!(
            "{url}: only STEP servers can do that; it has to look like step://user@host[:port][/key]"
        );
        return Err(Error::new(Code::Usage, message));
    };
    let reply_time = common.timeout.unwrap_or(REPLY_TIME);
    let account = Account::new(user, password(step)?, (host, port), common.bind, reply_time);
    Ok((StepClient::new(account), key))
}

fn needed(key: Option<Key>) -> Result<Key, Error> {
    key.ok_or_else(|| {
        Error::new(Code::Usage, "the URL names no file; it has to look like step://user@host[:port]/key")
    })
}

fn connections(step: &StepOptions) -> NonZeroUsize {
    NonZeroUsize::new(step.connections.into()).unwrap_or(NonZeroUsize::MIN)
}

/// The password from where no other user of the machine can read it.
fn password(step: &StepOptions) -> Result<Option<String>, Error> {
    let text = match &step.password_file {
        Some(path) => {
            let mut text = String::new();
            let bound = PASSWORD_BYTES_MAX as u64 + 3;
            let read = match path.as_os_str() == "-" {
                true => std::io::stdin().take(bound).read_to_string(&mut text),
                false => {
                    std::fs::File::open(path).and_then(|file| file.take(bound).read_to_string(&mut text))
                }
            };
            read.map_err(|error| {
                Error::new(Code::Usage, format!("--password-file {}: {error}", path.display()))
            })?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => match std::env::var("FTX_STEP_PASSWORD") {
            Ok(text) => text,
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(Error::new(Code::Usage, format!("FTX_STEP_PASSWORD: {error}"))),
        },
    };
    if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
        let message = format!("the password for the STEP server has to have 1 to {PASSWORD_BYTES_MAX} bytes");
        return Err(Error::new(Code::Usage, message));
    }
    Ok(Some(text))
}

fn json_from_stdin() -> Result<String, Error> {
    let mut text = String::new();
    let read = std::io::stdin().take(u64::from(REQUEST_JSON_MAX) + 1).read_to_string(&mut text);
    read.map_err(|error| Error::new(Code::Usage, format!("cannot read the object from stdin: {error}")))?;
    Ok(text)
}

/// How long a server may take to reply unless `--timeout` says otherwise.
const REPLY_TIME: Duration = Duration::from_secs(20);

/// Longest object that is sent, in bytes: with key and token around it, no server takes more.
const OBJECT_BYTES_MAX: usize = REQUEST_JSON_MAX as usize - 16 * 1024;
