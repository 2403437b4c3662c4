//! `hash` and `verify`: roots of files and folders on this machine, without any network.

use std::path::{Path, PathBuf};

use ftx_proto::digest::RootPrefix;
use ftx_proto::name::printable;
use serde_json::json;

use super::args::CommonOptions;
use super::json::Output;
use super::progress::HashDisplay;
use crate::catalog::{Skipped, hash_file, hash_folder};
use crate::error::{Code, Error};

pub(super) fn hash(paths: &[PathBuf], common: &CommonOptions, output: &Output) -> Result<(), Error> {
    let mut failed = None;
    for path in paths {
        match root_of(path, common) {
            Ok((root, size)) => {
                let path = path.display().to_string();
                output.event("hash", json!({ "path": path, "size": size, "root": root.to_string() }));
                output.line(format_args!("{root}  {}", printable(&path)));
            }
            // The others are hashed all the same; the last error is the command's.
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    eprintln!("ftx-node: {before}");
                }
            }
        }
    }
    match failed {
        Some(error) => Err(error),
        None => {
            output.event("done", json!({ "files": paths.len() }));
            Ok(())
        }
    }
}

pub(super) fn verify(path: &Path, root: &str, common: &CommonOptions, output: &Output) -> Result<(), Error> {
    let wanted: RootPrefix = root
        .parse()
        .map_err(|error| Error::new(Code::Usage, format!("'{}' is no root: {error}", printable(root))))?;
    let (found, size) = root_of(path, common)?;
    let shown = printable(&path.display().to_string()).to_string();
    if !wanted.matches(&found) {
        let message = format!("{shown} is not the content {wanted}: its root is {found}");
        return Err(Error::new(Code::Integrity, message));
    }
    let path = path.display().to_string();
    output.event("done", json!({ "path": path, "size": size, "root": found.to_string(), "verified": true }));
    output.line(format_args!("{shown}: verified, root {found}"));
    Ok(())
}

fn root_of(path: &Path, common: &CommonOptions) -> Result<(ftx_proto::digest::Root, u64), Error> {
    let failed = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::Usage } else { Code::Other };
        Error::new(code, format!("cannot hash {}: {error}", printable(&path.display().to_string())))
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let threads = std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN);
    if metadata.is_dir() {
        // How much there is shows only on the way.
        let display = HashDisplay::new(path, 0, common);
        let (manifest, skipped) =
            hash_folder(path, threads, &|bytes| display.hashed(bytes)).map_err(failed)?;
        for Skipped { path, reason } in skipped {
            tracing::warn!("{path} is not part of it: {reason}");
        }
        return Ok((manifest.root(), manifest.geometry().size()));
    }
    if !metadata.is_file() {
        let message = format!(
            "cannot hash {}: it is neither a file nor a folder",
            printable(&path.display().to_string())
        );
        return Err(Error::new(Code::Usage, message));
    }
    let display = HashDisplay::new(path, metadata.len(), common);
    let layer = hash_file(path, threads, &|bytes| display.hashed(bytes)).map_err(failed)?;
    Ok((layer.root(), layer.geometry().size()))
}
