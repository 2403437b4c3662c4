//! `put FILE ftx://NODE`: gives a file to a node that has an inbox.

use std::sync::Arc;

use ftx_proto::name::{NameError, RelativePath, printable};
use serde_json::json;
use tokio::runtime::Handle;

use super::args::{CommonOptions, PutOptions};
use super::json::Output;
use super::text;
use super::transfer::{GOES_ON, Transfer, per_second};
use crate::config::Sessions;
use crate::error::{Code, Error};
use crate::interop::meter::Meter;
use crate::node::{Node, PutReport, PutRequest};

pub(super) async fn put(
    options: PutOptions,
    node: String,
    name: Option<RelativePath>,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let PutOptions { file, max_upload, .. } = options;
    let shown = file.display().to_string();
    let wrong = |why: String| Error::new(Code::Usage, format!("cannot put {}: {why}", printable(&shown)));
    let metadata = std::fs::metadata(&file).map_err(|error| wrong(error.to_string()))?;
    if metadata.is_dir() {
        let why =
            "it is a folder; share it (`ftx-node --share`), and `get` it there, or put its files one by one";
        return Err(wrong(why.to_owned()));
    }
    if !metadata.is_file() {
        return Err(wrong("it is not a file".to_owned()));
    }
    let shared: Option<Result<RelativePath, NameError>> =
        file.file_name().and_then(|name| name.to_str()).map(str::parse);
    let shared = shared.ok_or_else(|| wrong("its name is not UTF-8".to_owned()))?;
    let shared = shared.map_err(|error| wrong(error.to_string()))?;
    let mut config = common.node_config(Sessions::WithOne)?;
    config.shares = vec![file];
    config.max_upload = max_upload;
    let request = PutRequest {
        name: name.unwrap_or_else(|| shared.clone()),
        shared,
        to: node,
        port: config.port,
        patience: common.search_patience(),
    };
    let here = Node::start(config, data.clone()).await?;
    let meter = Arc::new(Meter::default());
    let counted = Arc::clone(&meter);
    let task = tokio::spawn(async move {
        let put = here.put(&request, &counted).await;
        here.stop().await;
        put
    });
    let handle = task.abort_handle();
    let transfer = Transfer { task, stop: || handle.abort(), left: GOES_ON };
    let report = transfer.show(&shown, &meter, &common, output).await?;
    tell(&shown, &report, output);
    Ok(())
}

fn tell(file: &str, report: &PutReport, output: &Output) {
    let PutReport { peer, name, root, size, before, resumed, elapsed } = report;
    let rate = if *before { 0.0 } else { per_second(size.saturating_sub(*resumed), *elapsed) };
    output.event(
        "done",
        json!({
            "path": file,
            "node": peer.node.to_string(),
            "node_name": printable(&peer.name).to_string(),
            "addr": peer.addr.to_string(),
            "name": name.as_str(),
            "size": size,
            "root": root.to_string(),
            "verified": true,
            "there_before": before,
            "seconds": elapsed.as_secs_f64(),
            "bytes_per_second": rate,
            "resumed": resumed,
        }),
    );
    let how = match before {
        true => "was there already".to_owned(),
        false => format!("in {:.1} s, {}/s", elapsed.as_secs_f64(), text::bytes(rate as u64)),
    };
    output.line(format_args!(
        "{name} on {} ({})  {} {how}, verified, root {}",
        printable(&peer.name),
        peer.node.short(),
        text::bytes(*size),
        root.short()
    ));
}
