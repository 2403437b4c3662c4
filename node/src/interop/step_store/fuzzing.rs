//! What fuzz targets try of the store of STEP.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use super::journal::{Header, Journal};
use crate::fuzzing::{Bytes, damage, memory_file};

/// A journal to which blocks are told, which is damaged and read again, in any order: it never tells of a block that
/// nobody wrote, and forgets nothing as long as nothing was damaged. And any bytes as the beginning of one.
pub fn journal(data: &[u8]) {
    foreign(data);
    let mut bytes = Bytes(data);
    let [len, seal] = bytes.take();
    let text: String = (0..len).filter_map(|_| bytes.next()).map(char::from).collect();
    let header = Header { user: text.clone(), key: text, size: 50_000, seal: seal.into() };
    let file = memory_file();
    let mut journal = Journal::create(&file, &header).expect("memory");
    let (mut said, mut here, mut is_damaged) = (BTreeSet::new(), BTreeSet::new(), false);
    while let Some(operation) = bytes.next() {
        match operation % 8 {
            0..=2 => {
                let [index, crc] = bytes.take();
                journal.written(&file, index.into(), crc.into()).expect("memory");
                said.insert((u64::from(index), u32::from(crc)));
                here.insert((u64::from(index), u32::from(crc)));
            }
            3 => journal.synced(&file, bytes.next().unwrap_or(0).into()).expect("memory"),
            4 => journal.overwriting(&file).expect("memory"),
            5 => {
                is_damaged = true;
                damage(&file, bytes.take()).expect("memory");
            }
            _ => {
                let Some((again, of)) = Journal::read(&file).expect("memory") else {
                    assert!(is_damaged);
                    return;
                };
                assert!(is_damaged || of == header);
                journal = again;
                let mut told = BTreeSet::new();
                let tell = |written: super::journal::Written| {
                    told.insert((written.index, written.crc));
                    Ok(())
                };
                journal.blocks(&file, tell).expect("memory");
                if of.seal == header.seal {
                    assert!(told.is_subset(&said), "nobody wrote that");
                }
                assert!(is_damaged || here.is_subset(&told), "it forgets");
                here = told;
                is_damaged = false;
            }
        }
    }
}

/// A header that somebody else wrote, if it has the right sum, and what stands behind it.
fn foreign(data: &[u8]) {
    let (json, records) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let mut bytes = b"FTXSTEP\x01".to_vec();
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(json).to_le_bytes());
    bytes.extend(json);
    bytes.extend(records);
    for bytes in [data, &bytes] {
        let file = memory_file();
        file.write_all_at(bytes, 0).expect("memory");
        if let Some((journal, _)) = Journal::read(&file).expect("memory") {
            journal.blocks(&file, |_| Ok(())).expect("memory");
        }
    }
}
