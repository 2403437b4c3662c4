//! The inbox: uploads under way by name, and how they become finished files.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use ftx_proto::interop::step::limits::LISTING_BYTES_MAX;
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::store::{Denial, FileState, StoreAnswer};
use ftx_proto::interop::step::value::{FileSize, Key, Md5Sum, UserName};
use rustix::fs::FlockOperation;

use super::background::Background;
use super::finished::{self, size_of};
use super::handles::{Handles, part_name};
use super::journal::Journal;
use super::names::{Place, key_at, places, user_folder};
use super::upload::{Stage, Taken, Upload};
use super::usage::{InboxLimits, InboxUsage};
use super::{FileName, OWN_FOLDER, UPLOADS_FOLDER, data, denial, folder, io_failed, sum_of};
use crate::catalog::content::stamp_of;
use crate::interop::digests::Digests;
use crate::limits::STEP_UPLOAD_QUIET_MAX;

/// Uploads under way, of all users.
const UPLOADS_MAX: usize = 1024;

/// Uploads under way of one user.
const USER_UPLOADS_MAX: usize = 256;

/// Locks that keep beginnings and deletions of one file apart.
const NAME_LOCKS: usize = 64;

/// Bytes that always stay free on the disk.
const FREE_BYTES_MIN: u64 = 64 << 20;

const LOCK_FILE: &str = "lock";

#[derive(Debug)]
pub(super) struct Inbox {
    root: Dir,
    handles: Arc<Handles>,
    uploads: Mutex<HashMap<FileName, Arc<Upload>>>,
    names: [Mutex<()>; NAME_LOCKS],
    hasher: RandomState,
    pub(super) usage: Arc<InboxUsage>,
    background: Background,
    /// Held as long as the inbox is used.
    _lock: File,
}

impl Inbox {
    pub(super) fn open(path: &Path, limits: InboxLimits) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let root = Dir::open_ambient_dir(path, ambient_authority())?;
        let own = folder::open_folder(&root, &[OWN_FOLDER], true)?;
        rustix::fs::fchmod(&own, rustix::fs::Mode::from_raw_mode(0o700))?;
        let lock = match folder::open_own(&own, LOCK_FILE, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                folder::open_own(&own, LOCK_FILE, false)
            }
            result => result,
        }?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process uses it as its inbox")
            }
            error => error.into(),
        })?;
        let handles = Arc::new(Handles::new(folder::open_folder(&own, &[UPLOADS_FOLDER], true)?));
        let uploads = resume(&handles)?;
        let usage = InboxUsage::new(root.try_clone()?, limits);
        for upload in uploads.values() {
            usage.promise(&user_folder(&upload.name.user), upload.size.get());
        }
        let inbox = Inbox {
            root,
            handles,
            uploads: Mutex::new(uploads),
            names: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            usage: Arc::new(usage),
            background: Background::start()?,
            _lock: lock,
        };
        inbox.remove_abandoned(SystemTime::now());
        Ok(inbox)
    }

    /// Begins an upload, anew if need be.
    pub(super) fn save(
        &self,
        name: FileName,
        size: FileSize,
        digests: &Digests,
    ) -> Result<StoreAnswer, Denial> {
        let _name = self.lock_name(&name);
        if let Some(upload) = self.upload_of(&name) {
            // If it is finished by now, the file is found below.
            self.abandon(&upload);
        }
        let failed = |error: &io::Error| io_failed("save", &name, error);
        if let Some(found) = finished::find(&self.root, &name).map_err(|error| failed(&error))? {
            let state = sum_of(&name, || found.state(&self.root, &name.key, digests))?;
            return Ok(StoreAnswer::File(state));
        }
        let user = user_folder(&name.user);
        self.has_place(&name.user)?;
        self.reserve(&user, size.get())?;
        let begun = if size.get() == 0 {
            self.save_empty(&name).map(|md5| {
                self.usage.keep(&user, 0);
                StoreAnswer::UploadBegun { md5: Some(md5) }
            })
        } else {
            Upload::begin(name.clone(), size, Arc::clone(&self.handles)).map(|upload| {
                self.lock().insert(name.clone(), upload);
                StoreAnswer::UploadBegun { md5: None }
            })
        };
        begun.map_err(|error| {
            self.usage.give_up(&user, size.get());
            failed(&error)
        })
    }

    /// Takes a block, unless that may take long.
    pub(super) fn upload_quickly(&self, name: &FileName, index: u64, block: &[u8]) -> Option<StoreAnswer> {
        let upload = self.upload_of(name)?;
        let answer = match upload.take(index, block, false) {
            Ok(Taken::Stored) => StoreAnswer::BlockStored { md5: None },
            Ok(Taken::Refused(fault)) => StoreAnswer::BlockRefused(fault),
            Ok(Taken::Completed) => self.finish(&upload),
            Ok(Taken::Slow | Taken::Gone | Taken::Finished(_)) => return None,
            Err(denial) => StoreAnswer::Denied(denial),
        };
        self.background.look_at(&upload);
        Some(answer)
    }

    /// Takes a block.
    pub(super) fn upload(
        &self,
        name: &FileName,
        index: u64,
        block: &[u8],
        digests: &Digests,
    ) -> Result<StoreAnswer, Denial> {
        let Some(upload) = self.upload_of(name) else {
            return self.finished(name, digests).map(StoreAnswer::File);
        };
        let answer = match upload.take(index, block, true)? {
            Taken::Stored => StoreAnswer::BlockStored { md5: None },
            Taken::Refused(fault) => StoreAnswer::BlockRefused(fault),
            Taken::Completed => self.finish(&upload),
            Taken::Finished(md5) => StoreAnswer::File(FileState::Complete { size: upload.size, md5 }),
            // What the block belonged to was deleted or begun anew meanwhile.
            Taken::Gone | Taken::Slow => StoreAnswer::File(FileState::Absent),
        };
        self.background.look_at(&upload);
        Ok(answer)
    }

    /// How a file stands. One whose last block is here, but which has not its name yet, is finished now.
    pub(super) fn info(&self, name: &FileName, digests: &Digests) -> Result<FileState, Denial> {
        if let Some(upload) = self.upload_of(name) {
            match upload.settled()? {
                (Stage::Receiving | Stage::Broken, _) => {
                    return Ok(FileState::Uploading { size: upload.size });
                }
                (Stage::Finishing, true) => {
                    if let StoreAnswer::Denied(denial) = self.finish(&upload) {
                        return Err(denial);
                    }
                }
                (Stage::Finishing | Stage::Finished(_) | Stage::Gone, _) => {}
            }
        }
        self.finished(name, digests)
    }

    /// How an upload under way stands.
    pub(super) fn uploading(&self, name: &FileName) -> Result<Option<FileState>, Denial> {
        let Some(upload) = self.upload_of(name) else { return Ok(None) };
        match upload.settled()? {
            (Stage::Receiving | Stage::Broken, _) => Ok(Some(FileState::Uploading { size: upload.size })),
            (Stage::Finishing, true) => match self.finish(&upload) {
                StoreAnswer::Denied(denial) => Err(denial),
                _ => Ok(None),
            },
            (Stage::Finishing | Stage::Finished(_) | Stage::Gone, _) => Ok(None),
        }
    }

    pub(super) fn is_uploading(&self, name: &FileName) -> bool {
        self.lock().contains_key(name)
    }

    /// A finished file, open for reading.
    pub(super) fn open_finished(&self, name: &FileName) -> Result<Option<File>, Denial> {
        let found = finished::find(&self.root, name).map_err(|error| io_failed("open", name, &error))?;
        Ok(found.map(|found| found.file))
    }

    /// Deletes a file, or what there is of one.
    pub(super) fn delete(&self, name: &FileName) -> Result<StoreAnswer, Denial> {
        let _name = self.lock_name(name);
        if let Some(upload) = self.upload_of(name)
            && self.abandon(&upload)
        {
            return Ok(StoreAnswer::FileDeleted(FileState::Uploading { size: upload.size }));
        }
        let failed = |error: io::Error| io_failed("delete", name, &error);
        let Some(found) = finished::find(&self.root, name).map_err(failed)? else {
            return Ok(StoreAnswer::FileDeleted(FileState::Absent));
        };
        // Nobody is told the sum of what is gone, so it is not worth reading the file for.
        let md5 = found.recorded(&self.root).unwrap_or(Md5Sum([0; 16]));
        self.remove_finished(&found.place).map_err(failed)?;
        self.usage.release(&user_folder(&name.user), found.stamp.size);
        Ok(StoreAnswer::FileDeleted(FileState::Complete { size: size_of(&found.stamp), md5 }))
    }

    /// Gives up the uploads of which no block came for long. One that only lacks its name gets it instead.
    pub(super) fn remove_abandoned(&self, now: SystemTime) {
        let uploads: Vec<Arc<Upload>> = self.lock().values().cloned().collect();
        for upload in uploads {
            let _name = self.lock_name(&upload.name);
            let quiet = self.handles.last_written(&upload.stem).ok();
            let quiet = quiet.and_then(|written| now.duration_since(written).ok());
            if quiet.is_none_or(|quiet| quiet < STEP_UPLOAD_QUIET_MAX) {
                continue;
            }
            if let Ok((Stage::Finishing, true)) = upload.settled() {
                self.finish(&upload);
            } else if self.abandon(&upload) {
                tracing::info!(name = %upload.name, size = upload.size.get(), "an abandoned upload is given up");
            }
        }
    }

    /// The keys of a user's finished files, as many as fit a reply.
    pub(super) fn list(&self, user: &UserName) -> Result<Vec<Key>, Denial> {
        let folder = user_folder(user);
        let (mut keys, mut bytes) = (Vec::new(), 0);
        let walked = folder::walk(&self.root, &[folder], &mut |parts, _| {
            let below = parts.get(1..).unwrap_or_default();
            let key = key_at(user, below).or_else(|| {
                // Hashed names do not tell their key; and what stands at no key's place is not listed.
                let path = parts.join("/");
                finished::recorded_key(&self.root, &path)
                    .filter(|key| places(user, key).iter().any(|place| place.path() == path))
            });
            if let Some(key) = key {
                bytes += key.as_str().len();
                keys.push(key);
            }
            if bytes > LISTING_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        walked.map_err(|error| {
            tracing::warn!(%user, %error, "cannot list the files of the inbox");
            denial(&error)
        })?;
        Ok(keys)
    }

    /// Keeps an object.
    pub(super) fn save_data(
        &self,
        user: &UserName,
        key: &Key,
        object: &Object,
    ) -> Result<StoreAnswer, Denial> {
        let failed = |error: io::Error| io_failed("save", &name_of(user, key), &error);
        let folder = user_folder(user);
        if data::size(&self.root, &folder, key).map_err(failed)?.is_some() {
            return Ok(StoreAnswer::DataExists);
        }
        let json = object.to_json();
        let bytes = json.len() as u64;
        self.reserve(&folder, bytes)?;
        let saved = data::save(&self.root, &folder, key, &json);
        match saved {
            Ok(StoreAnswer::DataSaved) => self.usage.keep(&folder, bytes),
            _ => self.usage.give_up(&folder, bytes),
        }
        saved.map_err(failed)
    }

    /// Reads an object.
    pub(super) fn read_data(&self, user: &UserName, key: &Key) -> Result<StoreAnswer, Denial> {
        data::read(&self.root, &user_folder(user), key)
            .map_err(|error| io_failed("read", &name_of(user, key), &error))
    }

    /// Deletes an object.
    pub(super) fn delete_data(&self, user: &UserName, key: &Key) -> Result<StoreAnswer, Denial> {
        let name = name_of(user, key);
        let _name = self.lock_name(&name);
        let failed = |error: io::Error| io_failed("delete", &name, &error);
        let folder = user_folder(user);
        let Some(bytes) = data::size(&self.root, &folder, key).map_err(failed)? else {
            return Ok(StoreAnswer::DataAbsent);
        };
        data::delete(&self.root, &folder, key).map_err(failed)?;
        self.usage.release(&folder, bytes);
        Ok(StoreAnswer::DataDeleted)
    }

    fn finished(&self, name: &FileName, digests: &Digests) -> Result<FileState, Denial> {
        let found = finished::find(&self.root, name).map_err(|error| io_failed("open", name, &error))?;
        match found {
            Some(found) => sum_of(name, || found.state(&self.root, &name.key, digests)),
            None => Ok(FileState::Absent),
        }
    }

    /// Gives an upload whose last block is here its name. The answer to that block.
    fn finish(&self, upload: &Arc<Upload>) -> StoreAnswer {
        let mut deciding = Deciding { upload, stage: Stage::Receiving };
        match self.give_name(upload) {
            Ok(md5) => {
                deciding.stage = Stage::Finished(md5);
                drop(deciding);
                self.forget(upload);
                self.usage.keep(&user_folder(&upload.name.user), upload.size.get());
                // The part has its new name by now; what is left is the journal.
                self.handles.remove(&upload.stem);
                tracing::info!(name = %upload.name, size = upload.size.get(), %md5, "uploaded");
                StoreAnswer::BlockStored { md5: Some(md5) }
            }
            Err(error) => StoreAnswer::Denied(io_failed("finish", &upload.name, &error)),
        }
    }

    fn give_name(&self, upload: &Arc<Upload>) -> io::Result<Md5Sum> {
        let (md5, files) = upload.seal()?;
        let stamp = stamp_of(&files.part)?;
        self.install(&upload.name, &part_name(&upload.stem), |place| {
            finished::remember(&self.root, place, &upload.name.key, &stamp, md5);
        })?;
        Ok(md5)
    }

    fn save_empty(&self, name: &FileName) -> io::Result<Md5Sum> {
        let part = part_name(&name.stem(rand::random()));
        let file = folder::open_own(self.handles.dir(), &part, true)?;
        let stamp = stamp_of(&file)?;
        let md5 = Md5Sum::of(b"");
        let installed = self.install(name, &part, |place| {
            finished::remember(&self.root, place, &name.key, &stamp, md5);
        });
        if installed.is_err() {
            // The first error is the one that counts.
            let _ = folder::remove(self.handles.dir(), &part);
        }
        installed.map(|()| md5)
    }

    /// Renames a part to the first place of its name that can be had.
    fn install(&self, name: &FileName, part: &str, remember: impl Fn(&Place)) -> io::Result<()> {
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for place in places(&name.user, &name.key) {
            let dir = match folder::open_folder(&self.root, &place.folders, true) {
                // A file or a link is where a folder is needed.
                Err(error) if finished::is_absent(&error) => {
                    taken = error;
                    continue;
                }
                result => result?,
            };
            remember(&place);
            match folder::rename_new(self.handles.dir(), part, &dir, &place.name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if folder::open_file(&dir, &place.name)?.is_some() {
                        // Put there by hand meanwhile, so its sum is not ours.
                        finished::forget(&self.root, &place);
                        return Err(error);
                    }
                    // A folder.
                    finished::forget(&self.root, &place);
                    taken = error;
                }
                result => {
                    result?;
                    return folder::sync_folder(&dir);
                }
            }
        }
        Err(taken)
    }

    fn remove_finished(&self, place: &Place) -> io::Result<()> {
        let dir = folder::open_folder(&self.root, &place.folders, false)?;
        folder::remove(&dir, &place.name)?;
        folder::sync_folder(&dir)?;
        finished::forget(&self.root, place);
        // Folders that are empty now go too, from the innermost on; the first that is not ends it.
        for depth in (0..place.folders.len()).rev() {
            let (Some(above), Some(name)) = (place.folders.get(..depth), place.folders.get(depth)) else {
                break;
            };
            let removed = folder::open_folder(&self.root, above, false).and_then(|dir| {
                Ok(rustix::fs::unlinkat(&dir, name.as_str(), rustix::fs::AtFlags::REMOVEDIR)?)
            });
            if removed.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Gives up an upload. `false` if it is finished.
    fn abandon(&self, upload: &Arc<Upload>) -> bool {
        let abandoned = upload.abandon();
        if abandoned {
            self.forget(upload);
            self.usage.give_up(&user_folder(&upload.name.user), upload.size.get());
        }
        abandoned
    }

    fn forget(&self, upload: &Arc<Upload>) {
        let mut uploads = self.lock();
        if uploads.get(&upload.name).is_some_and(|other| Arc::ptr_eq(other, upload)) {
            uploads.remove(&upload.name);
        }
    }

    fn has_place(&self, user: &UserName) -> Result<(), Denial> {
        let uploads = self.lock();
        let of_user = uploads.keys().filter(|name| name.user == *user).count();
        if uploads.len() < UPLOADS_MAX && of_user < USER_UPLOADS_MAX { Ok(()) } else { Err(Denial::Busy) }
    }

    /// Whether the disk has room for so much more, besides what the uploads under way will need.
    fn has_space(&self, bytes: u64) -> Result<(), Denial> {
        let Ok(stat) = rustix::fs::fstatvfs(&self.root) else { return Ok(()) };
        if stat.f_blocks == 0 {
            // The file system does not tell; running out will be noticed when writing.
            return Ok(());
        }
        let uploads: Vec<Arc<Upload>> = self.lock().values().cloned().collect();
        let promised: u64 = uploads.iter().fold(0, |sum, upload| sum.saturating_add(upload.missing_bytes()));
        let free = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(FREE_BYTES_MIN);
        if bytes <= free.saturating_sub(promised) { Ok(()) } else { Err(Denial::DiskFull) }
    }

    /// Takes room within the quota and on the disk.
    fn reserve(&self, user: &str, bytes: u64) -> Result<(), Denial> {
        self.usage.reserve(user, bytes)?;
        self.has_space(bytes).inspect_err(|_| self.usage.give_up(user, bytes))
    }

    fn upload_of(&self, name: &FileName) -> Option<Arc<Upload>> {
        self.lock().get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileName, Arc<Upload>>> {
        // Nothing panics half-way through a change of it.
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_name(&self, name: &FileName) -> MutexGuard<'_, ()> {
        let number = self.hasher.hash_one(name) as usize % NAME_LOCKS;
        self.names[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload that is being finished: those who wait for it are told, however that ends.
struct Deciding<'a> {
    upload: &'a Arc<Upload>,
    stage: Stage,
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.upload.decided(self.stage);
    }
}

fn name_of(user: &UserName, key: &Key) -> FileName {
    FileName { user: user.clone(), key: key.clone() }
}

/// The uploads of earlier runs of the node. What is left of others is removed.
fn resume(handles: &Arc<Handles>) -> io::Result<HashMap<FileName, Arc<Upload>>> {
    let mut uploads = HashMap::new();
    let stems = handles.stems()?;
    let mut kept = Vec::new();
    for stem in stems {
        let Some(file) = handles.journal(&stem)? else { continue };
        let Some((journal, header)) = Journal::read(&file)? else { continue };
        let (Ok(user), Ok(key)) = (header.user.parse(), header.key.parse()) else { continue };
        let Some(size) = FileSize::new(header.size).filter(|size| size.get() > 0) else { continue };
        let name = FileName { user, key };
        if name.stem(header.seal) != stem || uploads.len() >= UPLOADS_MAX || uploads.contains_key(&name) {
            continue;
        }
        kept.push(stem.clone());
        let upload = Upload::resume(name.clone(), size, stem, journal, Arc::clone(handles));
        uploads.insert(name, Arc::new(upload));
    }
    handles.remove_strays(&kept)?;
    Ok(uploads)
}
