//! Small objects that users keep: one file each, written whole or not at all.

use std::io;

use cap_std::fs::Dir;
use ftx_proto::digest::Digest;
use ftx_proto::interop::step::limits::REQUEST_JSON_MAX;
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::store::StoreAnswer;
use ftx_proto::interop::step::value::Key;

use super::{DATA_FOLDER, OWN_FOLDER, folder};

/// Largest object as it is kept: each character may have become an escape.
const OBJECT_BYTES_MAX: usize = 24 * REQUEST_JSON_MAX as usize;

fn file_name(key: &Key) -> String {
    format!("{}.json", Digest::of(key.as_str().as_bytes()))
}

fn folder_of(root: &Dir, user: &str, create: bool) -> io::Result<Option<Dir>> {
    match folder::open_folder(root, &[OWN_FOLDER, DATA_FOLDER, user], create) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Bytes of an object's file; `None` if there is none.
pub(super) fn size(root: &Dir, user: &str, key: &Key) -> io::Result<Option<u64>> {
    let Some(dir) = folder_of(root, user, false)? else { return Ok(None) };
    let Some(file) = folder::open_file(&dir, &file_name(key))? else { return Ok(None) };
    Ok(Some(file.metadata()?.len()))
}

/// Keeps an object, which is on the disk when this returns; unless there is one.
pub(super) fn save(root: &Dir, user: &str, key: &Key, json: &str) -> io::Result<StoreAnswer> {
    let Some(dir) = folder_of(root, user, true)? else { return Err(io::ErrorKind::NotFound.into()) };
    match folder::write_small(&dir, &file_name(key), json.as_bytes(), false, true) {
        Ok(()) => Ok(StoreAnswer::DataSaved),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(StoreAnswer::DataExists),
        Err(error) => Err(error),
    }
}

/// Reads an object.
pub(super) fn read(root: &Dir, user: &str, key: &Key) -> io::Result<StoreAnswer> {
    let Some(dir) = folder_of(root, user, false)? else { return Ok(StoreAnswer::DataAbsent) };
    let bytes = folder::read_small(&dir, &file_name(key), OBJECT_BYTES_MAX)?;
    let Some(bytes) = bytes else { return Ok(StoreAnswer::DataAbsent) };
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Object::from_json(&text).map(StoreAnswer::Data).map_err(io::Error::other)
}

/// Removes an object, which is there.
pub(super) fn delete(root: &Dir, user: &str, key: &Key) -> io::Result<()> {
    let Some(dir) = folder_of(root, user, false)? else { return Ok(()) };
    folder::remove(&dir, &file_name(key))?;
    folder::sync_folder(&dir)
}
