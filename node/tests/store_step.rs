//! The store of STEP on a disk that is really full: what clients are told, and that they can go on afterwards.

mod small_disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ftx_node::interop::step_store::{InboxUsage, StepStore, StepStoreConfig};
use ftx_proto::interop::step::store::{Denial, FileState, StoreAnswer, StoreRequest};
use ftx_proto::interop::step::value::{FileSize, Key, Md5Sum, UserName};
use small_disk::on_a_small_disk;

const BLOCK: usize = 20_480;

fn store() -> StepStore {
    let inbox = Some(PathBuf::from("/mnt/inbox"));
    StepStore::open(StepStoreConfig { inbox, ..StepStoreConfig::default() }, Arc::default()).unwrap()
}

fn name() -> (UserName, Key) {
    ("alice".parse().unwrap(), "a".parse().unwrap())
}

fn execute(store: &StepStore, request: StoreRequest) -> StoreAnswer {
    // As sessions do it.
    store.quick(request).unwrap_or_else(|request| store.execute(request))
}

fn save(store: &StepStore, size: usize) -> StoreAnswer {
    let (user, key) = name();
    execute(store, StoreRequest::SaveFile { user, key, size: FileSize::new(size as u64).unwrap() })
}

fn upload(store: &StepStore, content: &[u8], index: usize) -> StoreAnswer {
    let ((user, key), block) = (name(), content.chunks(BLOCK).nth(index).unwrap().to_vec());
    execute(store, StoreRequest::Upload { user, key, index: index as u64, block })
}

fn info(store: &StepStore) -> StoreAnswer {
    let (user, key) = name();
    execute(store, StoreRequest::FileInfo { user, key })
}

/// Takes all the room that is left.
fn fill() {
    use std::io::Write;
    let mut file = fs::File::options().append(true).create(true).open("/mnt/filler").unwrap();
    for len in [1 << 20, 4096] {
        while file.write_all(&vec![1; len]).is_ok() {}
    }
}

fn make_room() {
    fs::remove_file("/mnt/filler").unwrap();
}

#[test]
fn a_disk_that_fills_up_during_an_upload_costs_nothing_but_time() {
    // Of which 64 MiB have to stay free.
    on_a_small_disk(80, "inner_full_disk");
}

#[test]
#[ignore = "runs on the small disk that another test makes"]
fn inner_full_disk() {
    let content: Vec<u8> = (0..100 * BLOCK + 7).map(|i| (i / 100 % 251) as u8).collect();
    let other: Vec<u8> = content.iter().map(|byte| !byte).collect();
    let (stored, full) = (StoreAnswer::BlockStored { md5: None }, StoreAnswer::Denied(Denial::DiskFull));
    let mut step = store();
    assert_eq!(save(&step, content.len()), StoreAnswer::UploadBegun { md5: None });
    for index in 0..40 {
        assert_eq!(upload(&step, &content, index), stored);
    }
    fill();
    // A page that is there already may take the rest of a record, but no page is left for a new block.
    for index in [40, 41, 99] {
        assert_eq!(upload(&step, &content, index), full, "{index}");
    }
    // Nor is there one for the record that a block is another now, sooner or later; what is here stays as it is.
    let mut replaced = 0;
    while upload(&step, if replaced % 2 == 0 { &other } else { &content }, 3) == stored {
        replaced += 1;
        assert!(replaced < 10_000, "the journal has to grow");
    }
    assert_eq!(info(&step), StoreAnswer::File(FileState::Uploading { size: size_of(&content) }));
    assert!(!Path::new("/mnt/inbox/alice").exists(), "nothing has a name");

    make_room();
    assert_eq!(upload(&step, &content, 3), stored);
    assert_eq!(upload(&step, &content, 40), stored);
    // Also after a crash in this very state.
    fill();
    assert_eq!(upload(&step, &content, 41), full);
    drop(step);
    step = store();
    assert_eq!(upload(&step, &content, 41), full);
    make_room();
    let mut last = stored.clone();
    for index in 41..=100 {
        assert_eq!(last, stored);
        last = upload(&step, &content, index);
    }
    let md5 = Md5Sum::of(&content);
    assert_eq!(last, StoreAnswer::BlockStored { md5: Some(md5) });
    assert!(fs::read("/mnt/inbox/alice/a").unwrap() == content);
    assert_eq!(info(&step), StoreAnswer::File(FileState::Complete { size: size_of(&content), md5 }));
    step.remove_abandoned(SystemTime::now());
    assert_eq!(fs::read_dir("/mnt/inbox/.ftx-step/uploads").unwrap().count(), 0);
    let usage: Arc<InboxUsage> = step.usage().unwrap();
    assert_eq!(usage.reserve_for_nobody(u64::MAX).err(), Some(Denial::OverQuota));
}

fn size_of(content: &[u8]) -> FileSize {
    FileSize::new(content.len() as u64).unwrap()
}
