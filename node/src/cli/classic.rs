//! `get` by udp-get and in stripes, and `put` by TCP put.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ftx_proto::interop::striped::Threads;
use ftx_proto::interop::udp_get::client::ServerReport;
use ftx_proto::name::{RelativePath, printable};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::args::{CommonOptions, GetOptions};
use super::json::Output;
use super::target::target;
use super::text;
use super::transfer::{NOTHING, Transfer, per_second};
use crate::config::DEFAULT_PORT;
use crate::error::{Code, Error};
use crate::interop::Url;
use crate::interop::fetched::Fetched;
use crate::interop::meter::Meter;
use crate::interop::striped_client::{self, StripedRequest};
use crate::interop::tcp_put_client::{self, TcpPutRequest};
use crate::interop::udp_get_client::{self, UdpGetRequest};
use crate::store::Target;

/// `get udp-get://NAME` and `get striped://HOST:PORT/PATH`.
pub(super) async fn get(
    url: Url,
    options: GetOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    if options.from.is_some() {
        return Err(Error::new(Code::Usage, "--from makes no sense with a URL; --peer HOST asks one server"));
    }
    let what = url.to_string();
    match url {
        Url::UdpGet { name } => {
            let target = target(&options, name.file_name())?;
            let request = udp_request(name, &common)?;
            udp_get(request, target, &what, &options, &common, data, output).await
        }
        Url::Striped { host, port, path } => {
            let target = target(&options, path.rsplit('/').next().unwrap_or_default())?;
            let threads = Threads::new(options.threads.into());
            let threads = threads.map_err(|error| Error::new(Code::Usage, error.to_string()))?;
            let (local, patience) = (common.bind, common.timeout);
            let request = StripedRequest { host, port, path, threads, local, patience };
            striped(request, target, &what, &options, &common, data, output).await
        }
        Url::Step { .. } | Url::TcpPut { .. } | Url::Inbox { .. } => {
            Err(Error::new(Code::Usage, format!("{what}: not to be got in this way")))
        }
    }
}

/// `get NAME` where no node has it, as `missing` says: what servers of udp-get have under that name.
pub(super) async fn instead(
    name: RelativePath,
    missing: Error,
    options: &GetOptions,
    common: &CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let what = Url::UdpGet { name: name.clone() }.to_string();
    let target = target(options, name.file_name())?;
    let mut request = udp_request(name, common)?;
    // Whoever waited for nodes already does not want to wait as long again.
    request.answer_max = Some(request.patience.map_or(INSTEAD_MAX, |patience| patience.min(INSTEAD_MAX)));
    output.event("fallback", json!({ "to": what, "code": missing.code.as_str() }));
    if !common.quiet && !output.is_json() {
        eprintln!("{}: no node has it; asking servers of udp-get (not with --native-only)", request.name);
    }
    match udp_get(request, target, &what, options, common, data, output).await {
        // Nobody, or a name that cannot be asked for.
        Err(error) if matches!(error.code, Code::NoNode | Code::Usage) => {
            Err(Error { message: format!("{missing}. No server of udp-get answered either"), ..missing })
        }
        done => done,
    }
}

fn udp_request(name: RelativePath, common: &CommonOptions) -> Result<UdpGetRequest, Error> {
    let port = common.port.unwrap_or(DEFAULT_PORT);
    let (bind, peers, patience) = (common.bind, common.peers(port)?, common.timeout);
    Ok(UdpGetRequest { name, port, bind, peers, patience, answer_max: None })
}

/// How long servers of udp-get may take to answer where nodes were looked for before.
const INSTEAD_MAX: Duration = Duration::from_secs(2);

async fn udp_get(
    request: UdpGetRequest,
    target: Target,
    what: &str,
    options: &GetOptions,
    common: &CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let (meter, stop) = (Arc::new(Meter::default()), Arc::new(AtomicBool::new(false)));
    let (counted, stopping, force) = (Arc::clone(&meter), Arc::clone(&stop), options.force);
    let task =
        data.spawn_blocking(move || udp_get_client::fetch(&request, target, force, &counted, &stopping));
    let stop = || stop.store(true, Ordering::Relaxed);
    let transfer = Transfer { task, stop, left: NOTHING };
    let (fetched, servers) = transfer.show(what, &meter, common, output).await?;
    copy_to_stdout(&fetched, options).await?;
    let sources: Vec<Value> = servers.iter().map(source).collect();
    tell(&fetched, "sha256", json!({ "sources": sources }), output);
    for (addr, report) in servers.iter().filter(|(_, report)| report.chunks > 0 || report.bad > 0) {
        let mut notes = String::new();
        if report.repeated > 0 {
            notes.push_str(&format!("  {} chunks twice", report.repeated));
        }
        if report.bad > 0 {
            notes.push_str(&format!("  {} chunks were wrong", report.bad));
        }
        output.line(format_args!("  {:>8} from {addr}{notes}", text::bytes(report.bytes)));
    }
    Ok(())
}

fn source((addr, report): &(SocketAddr, ServerReport)) -> Value {
    json!({
        "addr": addr.to_string(),
        "bytes": report.bytes,
        "chunks": report.chunks,
        "repeated": report.repeated,
        "bad": report.bad,
        "agrees": report.agrees,
    })
}

async fn striped(
    request: StripedRequest,
    target: Target,
    what: &str,
    options: &GetOptions,
    common: &CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let meter = Arc::new(Meter::default());
    let (counted, force, threads) = (Arc::clone(&meter), options.force, request.threads.count());
    let task = data.spawn(striped_client::fetch(request, target, force, counted));
    let handle = task.abort_handle();
    let transfer = Transfer { task, stop: || handle.abort(), left: NOTHING };
    let fetched = transfer.show(what, &meter, common, output).await?;
    copy_to_stdout(&fetched, options).await?;
    tell(&fetched, "md5", json!({ "threads": threads }), output);
    Ok(())
}

/// `put FILE tcp-put://HOST[:PORT]`.
pub(super) async fn put(
    file: &Path,
    host: String,
    port: u16,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let url = Url::TcpPut { host: host.clone(), port }.to_string();
    let (local, patience) = (common.bind, common.timeout);
    let request = TcpPutRequest { path: file.to_owned(), host, port, local, patience };
    let meter = Arc::new(Meter::default());
    let counted = Arc::clone(&meter);
    let task = data.spawn(async move { tcp_put_client::put(request, &counted).await });
    let handle = task.abort_handle();
    let name = file.display().to_string();
    let left = "the server may keep a part of it";
    let transfer = Transfer { task, stop: || handle.abort(), left };
    let pushed = transfer.show(&name, &meter, &common, output).await?;
    let rate = per_second(pushed.size, pushed.elapsed);
    let fields = json!({
        "path": name,
        "url": url,
        "size": pushed.size,
        "verified": false,
        "seconds": pushed.elapsed.as_secs_f64(),
        "bytes_per_second": rate,
    });
    output.event("done", fields);
    output.line(format_args!(
        "{url}  {} in {:.1} s, {}/s, confirmed (this system has no sums)",
        text::bytes(pushed.size),
        pushed.elapsed.as_secs_f64(),
        text::bytes(rate as u64)
    ));
    Ok(())
}

/// What was not verified as a whole does not get to stdout.
async fn copy_to_stdout(fetched: &Fetched, options: &GetOptions) -> Result<(), Error> {
    if !options.to_stdout() {
        return Ok(());
    }
    let copy = || {
        let mut stdout = std::io::stdout().lock();
        fetched.file.data().read_all(fetched.size, |bytes| stdout.write_all(bytes))?;
        stdout.flush()
    };
    let copied = tokio::task::block_in_place(copy);
    copied.map_err(|error| Error::other(format!("cannot write to stdout: {error}")))
}

/// The last word of a file that came.
fn tell(fetched: &Fetched, sum: &str, more: Value, output: &Output) {
    let mut fields = json!({
        "path": fetched.path.display().to_string(),
        "size": fetched.size,
        "verified": true,
        "seconds": fetched.elapsed.as_secs_f64(),
        "bytes_per_second": per_second(fetched.size, fetched.elapsed),
    });
    fields[sum] = json!(fetched.sum);
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    output.event("done", fields);
    output.line(format_args!(
        "{}  {} in {:.1} s, {}/s, verified, {} {}",
        printable(&fetched.path.display().to_string()),
        text::bytes(fetched.size),
        fetched.elapsed.as_secs_f64(),
        text::bytes(per_second(fetched.size, fetched.elapsed) as u64),
        if sum == "md5" { "MD5" } else { "SHA-256" },
        fetched.sum
    ));
}
