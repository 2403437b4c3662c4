//! The store as its sessions see it, and as a crash leaves it.

use super::*;
use ftx_proto::interop::step::block::{BlockFault, BlockPlan};
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::value::{FileSize, Md5Sum};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Barrier;
use std::time::Duration;
use tempfile::TempDir;

/// A folder with an inbox and a share, and a store for them.
struct Fixture {
    folder: TempDir,
    limits: InboxLimits,
    store: Option<Arc<StepStore>>,
}

impl Fixture {
    fn new() -> Self {
        Self::with_limits(InboxLimits::default())
    }

    fn with_limits(limits: InboxLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        let mut fixture = Fixture { folder, limits, store: None };
        fixture.reopen();
        fixture
    }

    /// As after a crash of the process: nothing is said to the disk before.
    fn reopen(&mut self) {
        self.store = None;
        let config = StepStoreConfig {
            inbox: Some(self.inbox()),
            limits: self.limits,
            shares: vec![self.folder.path().join("share")],
            state: None,
        };
        self.store = Some(Arc::new(StepStore::open(config, Arc::default()).unwrap()));
    }

    fn inbox(&self) -> PathBuf {
        self.folder.path().join("inbox")
    }

    fn store(&self) -> &Arc<StepStore> {
        self.store.as_ref().unwrap()
    }

    fn execute(&self, request: StoreRequest) -> StoreAnswer {
        // As sessions do it.
        self.store().quick(request).unwrap_or_else(|request| self.store().execute(request))
    }

    fn save(&self, key: &str, size: u64) -> StoreAnswer {
        let size = FileSize::new(size).unwrap();
        self.execute(StoreRequest::SaveFile { user: alice(), key: key.parse().unwrap(), size })
    }

    fn upload(&self, key: &str, index: u64, block: &[u8]) -> StoreAnswer {
        self.execute(upload(key, index, block))
    }

    fn info(&self, key: &str) -> FileState {
        let answer = self.execute(StoreRequest::FileInfo { user: alice(), key: key.parse().unwrap() });
        let StoreAnswer::File(state) = answer else { panic!("{answer:?}") };
        state
    }

    fn read(&self, key: &str, index: u64) -> StoreAnswer {
        self.execute(StoreRequest::ReadBlock { user: alice(), key: key.parse().unwrap(), index })
    }

    fn delete(&self, key: &str) -> StoreAnswer {
        self.execute(StoreRequest::DeleteFile { user: alice(), key: key.parse().unwrap() })
    }

    fn list(&self) -> Vec<String> {
        let answer = self.execute(StoreRequest::ListFiles { user: alice() });
        let StoreAnswer::Files(keys) = answer else { panic!("{answer:?}") };
        keys.iter().map(Key::to_string).collect()
    }

    /// Uploads a whole file, its blocks in this order; the last answer.
    fn put(&self, key: &str, content: &[u8], order: &[u64]) -> StoreAnswer {
        assert_eq!(self.save(key, content.len() as u64), StoreAnswer::UploadBegun { md5: None });
        let mut last = StoreAnswer::DataAbsent;
        for &index in order {
            last = self.upload(key, index, block(content, index));
            let StoreAnswer::BlockStored { .. } = last else { panic!("{last:?}") };
        }
        last
    }

    /// What lies in the folder of the uploads.
    fn uploads(&self) -> Vec<String> {
        let entries = fs::read_dir(self.inbox().join(".ftx-step/uploads")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn alice() -> UserName {
    "alice".parse().unwrap()
}

fn upload(key: &str, index: u64, block: &[u8]) -> StoreRequest {
    StoreRequest::Upload { user: alice(), key: key.parse().unwrap(), index, block: block.to_vec() }
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn block(content: &[u8], index: u64) -> &[u8] {
    content.chunks(BLOCK).nth(index as usize).unwrap()
}

fn order(content: &[u8]) -> Vec<u64> {
    (0..content.len().div_ceil(BLOCK) as u64).collect()
}

fn complete(content: &[u8]) -> FileState {
    FileState::Complete { size: FileSize::new(content.len() as u64).unwrap(), md5: Md5Sum::of(content) }
}

fn completing(content: &[u8]) -> StoreAnswer {
    StoreAnswer::BlockStored { md5: Some(Md5Sum::of(content)) }
}

const BLOCK: usize = 20_480;

#[test]
fn sizes_around_every_edge_in_any_order() {
    let fixture = Fixture::new();
    for (number, len) in
        [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 700 * BLOCK + 5].into_iter().enumerate()
    {
        let (key, bytes) = (format!("dir/{number}"), content(number as u64, len));
        let mut order = order(&bytes);
        order.shuffle(&mut StdRng::seed_from_u64(number as u64));
        assert_eq!(fixture.put(&key, &bytes, &order), completing(&bytes));
        assert_eq!(fixture.info(&key), complete(&bytes));
        assert_eq!(fs::read(fixture.inbox().join("alice").join(&key)).unwrap(), bytes);
        for index in (0..order.len() as u64).rev() {
            assert_eq!(fixture.read(&key, index), StoreAnswer::Block(block(&bytes, index).to_vec()));
        }
        let beyond = StoreAnswer::BlockRefused(BlockFault::IndexBeyondEnd);
        assert_eq!(fixture.read(&key, order.len() as u64), beyond);
    }
    assert_eq!(fixture.save("empty", 0), StoreAnswer::UploadBegun { md5: Some(Md5Sum::of(b"")) });
    assert_eq!(fixture.info("empty"), complete(b""));
    assert_eq!(fixture.uploads(), Vec::<String>::new(), "nothing is left over");
    assert_eq!(fixture.list(), ["dir/0", "dir/1", "dir/2", "dir/3", "dir/4", "dir/5", "empty"]);
}

#[test]
fn what_was_confirmed_is_still_there_after_a_crash() {
    let mut fixture = Fixture::new();
    let bytes = content(1, 900 * BLOCK + 17);
    let mut order = order(&bytes);
    order.shuffle(&mut StdRng::seed_from_u64(7));
    assert_eq!(fixture.save("a/b", bytes.len() as u64), StoreAnswer::UploadBegun { md5: None });
    let mut last = None;
    for (step, &index) in order.iter().enumerate() {
        if step % 211 == 0 {
            fixture.reopen();
            let size = FileSize::new(bytes.len() as u64).unwrap();
            assert_eq!(fixture.info("a/b"), FileState::Uploading { size });
            assert_eq!(fixture.read("a/b", 0), StoreAnswer::File(FileState::Uploading { size }));
        }
        last = Some(fixture.upload("a/b", index, block(&bytes, index)));
    }
    assert_eq!(last, Some(completing(&bytes)));
    let path = fixture.inbox().join("alice/a/b");
    assert!(fs::read(&path).unwrap() == bytes);
    fixture.reopen();
    assert_eq!(fixture.info("a/b"), complete(&bytes));
}

#[test]
fn what_a_power_cut_took_is_asked_for_again() {
    let mut fixture = Fixture::new();
    let bytes = content(2, 6 * BLOCK);
    fixture.save("a", bytes.len() as u64);
    for index in 0..5 {
        fixture.upload("a", index, block(&bytes, index));
    }
    fixture.store = None;
    // The bytes of one block never reached the disk, nor did the record of another.
    let own = fixture.inbox().join(".ftx-step/uploads");
    for entry in fs::read_dir(&own).unwrap() {
        let path = entry.unwrap().path();
        let mut file = fs::read(&path).unwrap();
        if path.extension().unwrap() == "ftx-part" {
            file[2 * BLOCK..2 * BLOCK + 512].fill(0);
        } else {
            let end = file.len();
            file[end - 32..end - 16].fill(0);
        }
        fs::write(&path, file).unwrap();
    }
    fixture.reopen();
    assert_eq!(fixture.upload("a", 5, block(&bytes, 5)), StoreAnswer::BlockStored { md5: None });
    assert_eq!(fixture.upload("a", 2, block(&bytes, 2)), StoreAnswer::BlockStored { md5: None });
    assert_eq!(fixture.upload("a", 3, block(&bytes, 3)), completing(&bytes));
    assert_eq!(fs::read(fixture.inbox().join("alice/a")).unwrap(), bytes);
}

#[test]
fn a_crash_at_the_end_loses_nothing() {
    let mut fixture = Fixture::new();
    let bytes = content(3, 2 * BLOCK);
    fixture.save("a", bytes.len() as u64);
    fixture.upload("a", 0, block(&bytes, 0));
    let own = fixture.inbox().join(".ftx-step/uploads");
    let before: Vec<_> = fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().path()).collect();
    let copies: Vec<_> = before.iter().map(|path| (path, fs::read(path).unwrap())).collect();
    assert_eq!(fixture.upload("a", 1, block(&bytes, 1)), completing(&bytes));
    // After the rename, before the journal was removed.
    fixture.store = None;
    for (path, copy) in &copies {
        if path.extension().unwrap() == "ftx-journal" {
            fs::write(path, copy).unwrap();
        }
    }
    fixture.reopen();
    assert_eq!(fixture.info("a"), complete(&bytes));
    assert_eq!(fixture.uploads(), Vec::<String>::new());
}

#[test]
fn an_upload_that_only_lacks_its_name_is_finished_when_asked_for() {
    let mut fixture = Fixture::new();
    let bytes = content(4, 3 * BLOCK);
    // A file in the way of the name, for as long as the upload lasts.
    fixture.save("a", bytes.len() as u64);
    let path = fixture.inbox().join("alice/a");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "by hand").unwrap();
    for index in 0..2 {
        fixture.upload("a", index, block(&bytes, index));
    }
    assert_eq!(fixture.upload("a", 2, block(&bytes, 2)), StoreAnswer::Denied(Denial::Failed));
    assert_eq!(fs::read(&path).unwrap(), b"by hand");
    fixture.reopen();
    fs::remove_file(&path).unwrap();
    assert_eq!(fixture.info("a"), complete(&bytes));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn of_blocks_that_complete_a_file_at_once_exactly_one_is_told_the_sum() {
    let fixture = Fixture::new();
    for round in 0..40 {
        let (key, bytes) = (format!("{round}"), content(round, 4 * BLOCK));
        fixture.save(&key, bytes.len() as u64);
        let barrier = Barrier::new(5);
        let answers: Vec<StoreAnswer> = std::thread::scope(|scope| {
            // One block comes twice.
            let threads: Vec<_> = [0, 1, 2, 3, 3]
                .map(|index| {
                    let request = upload(&key, index, block(&bytes, index));
                    let (fixture, barrier) = (&fixture, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        fixture.execute(request)
                    })
                })
                .into_iter()
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let sums = answers.iter().filter(|answer| **answer == completing(&bytes)).count();
        assert_eq!(sums, 1, "{answers:?}");
        for answer in &answers {
            let late = *answer == StoreAnswer::File(complete(&bytes));
            assert!(late || matches!(answer, StoreAnswer::BlockStored { .. }), "{answers:?}");
        }
        assert_eq!(fixture.info(&key), complete(&bytes));
    }
}

#[test]
fn saving_again_begins_anew_until_the_file_is_complete() {
    let fixture = Fixture::new();
    let (old, new) = (content(5, 3 * BLOCK), content(6, 2 * BLOCK));
    fixture.save("a", old.len() as u64);
    fixture.upload("a", 0, block(&old, 0));
    fixture.upload("a", 1, block(&old, 1));
    assert_eq!(fixture.put("a", &new, &[1, 0]), completing(&new));
    assert_eq!(fixture.save("a", 9), StoreAnswer::File(complete(&new)));
    assert_eq!(fixture.upload("a", 0, block(&old, 0)), StoreAnswer::File(complete(&new)));
    assert_eq!(fixture.upload("b", 0, b"x"), StoreAnswer::File(FileState::Absent));
    assert_eq!(fixture.info("a"), complete(&new));
    assert_eq!(fixture.uploads(), Vec::<String>::new());
}

#[test]
fn a_block_may_be_replaced_until_the_file_is_complete() {
    let mut fixture = Fixture::new();
    let (mut bytes, count) = (content(7, 900 * BLOCK), 900);
    fixture.save("a", bytes.len() as u64);
    for index in 0..count - 1 {
        fixture.upload("a", index, block(&bytes, index));
    }
    for (round, index) in [3, 500, 3].into_iter().enumerate() {
        let other = content(100 + round as u64, BLOCK);
        assert_eq!(fixture.upload("a", index, &other), StoreAnswer::BlockStored { md5: None });
        bytes[index as usize * BLOCK..][..BLOCK].copy_from_slice(&other);
        if round == 1 {
            fixture.reopen();
        }
    }
    assert_eq!(fixture.upload("a", count - 1, block(&bytes, count - 1)), completing(&bytes));
    assert!(fs::read(fixture.inbox().join("alice/a")).unwrap() == bytes);
}

#[test]
fn blocks_that_do_not_fit_are_refused() {
    let fixture = Fixture::new();
    fixture.save("a", BLOCK as u64 + 5);
    for (index, len, fault) in [
        (2, BLOCK, BlockFault::IndexBeyondEnd),
        (u64::MAX, 1, BlockFault::IndexBeyondEnd),
        (0, BLOCK - 1, BlockFault::SizeWrong),
        (0, 0, BlockFault::SizeWrong),
        (1, 6, BlockFault::SizeWrong),
    ] {
        assert_eq!(fixture.upload("a", index, &vec![0; len]), StoreAnswer::BlockRefused(fault));
    }
}

#[test]
fn nothing_leaves_the_inbox_whatever_the_names_are() {
    let fixture = Fixture::new();
    let outside = fixture.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir_all(fixture.inbox().join("alice")).unwrap();
    symlink(&outside, fixture.inbox().join("alice/link")).unwrap();
    symlink(outside.join("secret"), fixture.inbox().join("alice/file-link")).unwrap();
    assert_eq!(fixture.info("link/secret"), FileState::Absent);
    assert_eq!(fixture.info("file-link"), FileState::Absent);
    assert_eq!(fixture.delete("link/secret"), StoreAnswer::FileDeleted(FileState::Absent));
    let keys =
        ["/etc/x", "link/new", "file-link", "a\\b", ".ftx-step/lock", "a", "a/b", "C:\\x", "%41", "d//"];
    for (number, key) in keys.into_iter().enumerate() {
        let bytes = content(number as u64, BLOCK + number);
        let order = order(&bytes);
        assert_eq!(fixture.put(key, &bytes, &order), completing(&bytes), "{key}");
        assert_eq!(fixture.info(key), complete(&bytes), "{key}");
    }
    let mut listed = fixture.list();
    let mut all = keys.map(str::to_owned).to_vec();
    listed.sort();
    all.sort();
    assert_eq!(listed, all);
    for key in keys {
        let deleted = fixture.delete(key);
        assert!(matches!(deleted, StoreAnswer::FileDeleted(FileState::Complete { .. })), "{key} {deleted:?}");
        assert_eq!(fixture.info(key), FileState::Absent, "{key}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fixture.list(), Vec::<String>::new());
}

#[test]
fn users_have_their_own_files() {
    let fixture = Fixture::new();
    let bytes = content(8, 10);
    fixture.put("a", &bytes, &[0]);
    let (user, key): (UserName, Key) = ("bob".parse().unwrap(), "a".parse().unwrap());
    let asked = StoreRequest::FileInfo { user: user.clone(), key };
    assert_eq!(fixture.execute(asked), StoreAnswer::File(FileState::Absent));
    assert_eq!(fixture.execute(StoreRequest::ListFiles { user }), StoreAnswer::Files(Vec::new()));
}

#[test]
fn a_quota_counts_what_is_there_and_what_was_promised() {
    let limits = InboxLimits { user_bytes_max: 100_000, total_bytes_max: 130_000 };
    let mut fixture = Fixture::with_limits(limits);
    let bytes = content(9, 60_000);
    fixture.put("a", &bytes, &[0, 1, 2]);
    assert_eq!(fixture.save("b", 40_001), StoreAnswer::Denied(Denial::OverQuota));
    assert_eq!(fixture.save("b", 40_000), StoreAnswer::UploadBegun { md5: None });
    assert_eq!(fixture.save("c", 1), StoreAnswer::Denied(Denial::OverQuota));
    fixture.reopen();
    assert_eq!(fixture.save("c", 1), StoreAnswer::Denied(Denial::OverQuota));
    let (user, key) = ("bob".parse().unwrap(), "b".parse().unwrap());
    let bob = |size| StoreRequest::SaveFile {
        user: UserName::clone(&user),
        key: Key::clone(&key),
        size: FileSize::new(size).unwrap(),
    };
    assert_eq!(fixture.execute(bob(30_001)), StoreAnswer::Denied(Denial::OverQuota), "of all users");
    assert_eq!(fixture.execute(bob(30_000)), StoreAnswer::UploadBegun { md5: None });
    let deleted = fixture.delete("b");
    assert!(matches!(deleted, StoreAnswer::FileDeleted(FileState::Uploading { .. })), "{deleted:?}");
    assert_eq!(fixture.save("c", 40_000), StoreAnswer::UploadBegun { md5: None });
    fixture.delete("a");
    assert_eq!(fixture.save("d", 60_000), StoreAnswer::UploadBegun { md5: None });
    assert_eq!(fixture.save("e", i64::MAX as u64), StoreAnswer::Denied(Denial::OverQuota));
}

#[test]
fn an_upload_without_a_block_for_a_week_gives_its_room_back() {
    let limits = InboxLimits { user_bytes_max: 100_000, total_bytes_max: 130_000 };
    let mut fixture = Fixture::with_limits(limits);
    let (old, bytes) = (content(20, 60_000), content(21, 2 * BLOCK));
    fixture.save("old", old.len() as u64);
    fixture.upload("old", 0, block(&old, 0));
    let day = Duration::from_secs(24 * 60 * 60);
    let now = SystemTime::now();
    fixture.store().remove_abandoned(now + 6 * day);
    assert_eq!(fixture.upload("old", 1, block(&old, 1)), StoreAnswer::BlockStored { md5: None });
    fixture.store().remove_abandoned(now + 8 * day);
    assert_eq!(fixture.info("old"), FileState::Absent);
    assert_eq!(fixture.upload("old", 2, block(&old, 2)), StoreAnswer::File(FileState::Absent));
    assert_eq!(fixture.uploads(), Vec::<String>::new());
    assert_eq!(fixture.save("old", 59_000), StoreAnswer::UploadBegun { md5: None }, "there is room");

    // The same at the start, of an upload of an earlier run.
    let own = fixture.inbox().join(".ftx-step/uploads");
    for name in fixture.uploads() {
        let file = File::options().write(true).open(own.join(name)).unwrap();
        file.set_modified(now - 8 * day).unwrap();
    }
    fixture.save("new", bytes.len() as u64);
    fixture.upload("new", 0, block(&bytes, 0));
    fixture.reopen();
    assert_eq!(fixture.info("old"), FileState::Absent);
    assert_eq!(fixture.upload("new", 1, block(&bytes, 1)), completing(&bytes));
    assert_eq!(fixture.save("more", 59_000), StoreAnswer::UploadBegun { md5: None }, "there is room");
}

#[test]
fn an_abandoned_upload_that_only_lacks_its_name_gets_it() {
    let mut fixture = Fixture::new();
    let bytes = content(22, 2 * BLOCK);
    fixture.save("a", bytes.len() as u64);
    fixture.upload("a", 0, block(&bytes, 0));
    fs::write(fixture.inbox().join("alice"), b"in the way").unwrap();
    let answer = fixture.upload("a", 1, block(&bytes, 1));
    assert_eq!(answer, StoreAnswer::Denied(Denial::Failed));
    fs::remove_file(fixture.inbox().join("alice")).unwrap();
    fixture.reopen();
    fixture.store().remove_abandoned(SystemTime::now() + 8 * Duration::from_secs(24 * 60 * 60));
    assert_eq!(fs::read(fixture.inbox().join("alice/a")).unwrap(), bytes);
    assert_eq!(fixture.info("a"), complete(&bytes));
}

#[test]
fn a_file_larger_than_the_disk_is_refused_at_once() {
    let limits = InboxLimits { user_bytes_max: u64::MAX, total_bytes_max: u64::MAX };
    let fixture = Fixture::with_limits(limits);
    assert_eq!(fixture.save("a", 1 << 60), StoreAnswer::Denied(Denial::DiskFull));
    assert_eq!(fixture.uploads(), Vec::<String>::new());
}

#[test]
fn a_file_that_was_changed_by_hand_has_a_new_sum() {
    let mut fixture = Fixture::new();
    let (old, new) = (content(10, BLOCK + 1), content(11, BLOCK + 2));
    fixture.put("a", &old, &[0, 1]);
    assert_eq!(fixture.read("a", 0), StoreAnswer::Block(block(&old, 0).to_vec()));
    fs::write(fixture.inbox().join("alice/a"), &new).unwrap();
    assert_eq!(fixture.info("a"), complete(&new));
    assert_eq!(fixture.read("a", 1), StoreAnswer::Block(block(&new, 1).to_vec()));
    fixture.reopen();
    assert_eq!(fixture.info("a"), complete(&new));
    fs::remove_file(fixture.inbox().join("alice/a")).unwrap();
    assert_eq!(fixture.read("a", 1), StoreAnswer::File(FileState::Absent));
    assert_eq!(fixture.info("a"), FileState::Absent);
}

#[test]
fn shares_are_read_by_name_and_never_written() {
    let fixture = Fixture::new();
    let bytes = content(12, 2 * BLOCK);
    let share = fixture.folder.path().join("share");
    fs::create_dir(share.join("sub")).unwrap();
    fs::write(share.join("sub/file"), &bytes).unwrap();
    assert_eq!(fixture.info("sub/file"), complete(&bytes));
    assert_eq!(fixture.read("sub/file", 1), StoreAnswer::Block(block(&bytes, 1).to_vec()));
    assert_eq!(fixture.list(), ["sub/file"]);
    assert_eq!(fixture.delete("sub/file"), StoreAnswer::FileDeleted(FileState::Absent));
    // The user's own file of the same name counts.
    let own = content(13, 5);
    fixture.put("sub/file", &own, &[0]);
    assert_eq!(fixture.info("sub/file"), complete(&own));
    assert_eq!(fixture.read("sub/file", 0), StoreAnswer::Block(own));
    assert_eq!(fixture.list(), ["sub/file"]);
    assert_eq!(fs::read(share.join("sub/file")).unwrap(), bytes);
}

#[test]
fn without_an_inbox_everything_is_read_only() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "abc").unwrap();
    let config = StepStoreConfig { shares: vec![folder.path().to_owned()], ..StepStoreConfig::default() };
    let store = StepStore::open(config, Arc::default()).unwrap();
    let (user, key): (UserName, Key) = (alice(), "file".parse().unwrap());
    let size = FileSize::new(1).unwrap();
    let denied = StoreAnswer::Denied(Denial::ReadOnly);
    for request in [
        StoreRequest::SaveFile { user: user.clone(), key: key.clone(), size },
        upload("file", 0, b"x"),
        StoreRequest::DeleteFile { user: user.clone(), key: key.clone() },
        StoreRequest::SaveData { user: user.clone(), key: key.clone(), object: Object::default() },
        StoreRequest::DeleteData { user: user.clone(), key: key.clone() },
    ] {
        assert_eq!(store.execute(request.clone()), denied, "{request:?}");
    }
    let info = StoreRequest::FileInfo { user: user.clone(), key: key.clone() };
    assert_eq!(store.execute(info), StoreAnswer::File(complete(b"abc")));
    assert_eq!(store.execute(StoreRequest::ListFiles { user }), StoreAnswer::Files(vec![key]));
}

#[test]
fn data_is_kept_apart_from_files_and_across_restarts() {
    let mut fixture = Fixture::new();
    let key: Key = "/x/../y".replace("..", "z").parse().unwrap();
    let object = Object::from_json(r#"{"n": 1.50, "deep": [{"a": null}], "ü": "\u0000"}"#).unwrap();
    let user = alice();
    let save = || StoreRequest::SaveData { user: user.clone(), key: key.clone(), object: object.clone() };
    let read = || StoreRequest::GetData { user: user.clone(), key: key.clone() };
    assert_eq!(fixture.execute(read()), StoreAnswer::DataAbsent);
    assert_eq!(fixture.execute(save()), StoreAnswer::DataSaved);
    assert_eq!(fixture.execute(save()), StoreAnswer::DataExists);
    fixture.reopen();
    assert_eq!(fixture.execute(read()), StoreAnswer::Data(object.clone()));
    assert_eq!(fixture.info(key.as_str()), FileState::Absent);
    assert_eq!(fixture.list(), Vec::<String>::new());
    let delete = || StoreRequest::DeleteData { user: user.clone(), key: key.clone() };
    assert_eq!(fixture.execute(delete()), StoreAnswer::DataDeleted);
    assert_eq!(fixture.execute(delete()), StoreAnswer::DataAbsent);
}

#[test]
fn an_inbox_has_one_owner() {
    let fixture = Fixture::new();
    let config = StepStoreConfig { inbox: Some(fixture.inbox()), ..StepStoreConfig::default() };
    let error = StepStore::open(config, Arc::default()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}

#[test]
fn more_uploads_than_open_files_all_end_well() {
    let fixture = Fixture::new();
    let bytes = content(14, 3 * BLOCK);
    let users: Vec<UserName> = (0..2).map(|number| format!("user{number}").parse().unwrap()).collect();
    let request = |user: &UserName, number: usize, index| {
        let key = format!("{number}").parse().unwrap();
        StoreRequest::Upload { user: user.clone(), key, index, block: block(&bytes, index).to_vec() }
    };
    let size = FileSize::new(bytes.len() as u64).unwrap();
    for user in &users {
        for number in 0..200 {
            let key = format!("{number}").parse().unwrap();
            let begun = fixture.execute(StoreRequest::SaveFile { user: user.clone(), key, size });
            assert_eq!(begun, StoreAnswer::UploadBegun { md5: None });
        }
    }
    for index in 0..3 {
        for user in &users {
            for number in 0..200 {
                let md5 = (index == 2).then(|| Md5Sum::of(&bytes));
                let stored = StoreAnswer::BlockStored { md5 };
                assert_eq!(fixture.execute(request(user, number, index)), stored);
            }
        }
    }
    assert_eq!(BlockPlan::standard(size).total_block(), 3);
}
