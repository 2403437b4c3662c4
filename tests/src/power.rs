//! A disk that loses its power: an ext4 on a block device whose image takes nothing any more from one moment on.
//!
//! The image lies in memory, in a file that can be sealed against writes. What the file system has given to its device
//! by that moment is in the image, what it kept in its caches is not, and no process can tell the seal from a disk that
//! broke: later writes fail. So a copy of the image is what a power cut leaves, and the device itself is a broken disk.
//!
//! What is not simulated: a disk that has written things in another order than it was given them. That they end up right
//! in spite of that is the file system's promise, not that of whoever uses it.
//!
//! Only within [`inside::run`](crate::inside::run), as the machine's root.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::data::MIB;
use crate::inside::tool;

/// What is on a disk that is not in use.
#[derive(Debug, Clone)]
pub struct Image {
    bytes: Arc<Vec<u8>>,
}

/// A mounted disk. Dropped, it is unmounted, and what was on it is gone.
#[derive(Debug)]
pub struct Disk {
    image: File,
    mounted: PathBuf,
    /// Where the system is told the device's share of the caches.
    share: PathBuf,
    has_power: bool,
}

impl Image {
    /// A fresh ext4 on so many mebibytes.
    pub fn blank(mebibytes: usize) -> Self {
        let file = in_memory(&vec![0; mebibytes * MIB]);
        tool("mkfs.ext4", &["-q", "-F", "-m", "0"], Some(&path_of(&file)));
        Image { bytes: Arc::new(contents(&file)) }
    }

    /// Mounts a disk with this image at an empty folder.
    pub fn mount(&self, at: &Path, options: &str) -> Disk {
        let image = in_memory(&self.bytes);
        let device = tool("losetup", &["--find", "--show"], Some(&path_of(&image)));
        let share = Path::new("/sys/block").join(device.trim_start_matches("/dev/")).join("bdi/min_ratio");
        // Of a new device the system has written next to nothing yet, and so lets it have next to nothing in its caches
        // either: all would be written at once, and nothing could be lost. This is its share of the memory, in percent.
        std::fs::write(&share, "1").expect("a share of the caches");
        crate::inside::mount(&["-o", options, &device], at);
        // Once it is not mounted any more.
        tool("losetup", &["--detach"], Some(Path::new(&device)));
        Disk { image, mounted: at.to_owned(), share, has_power: true }
    }
}

impl Disk {
    /// Cuts the power: nothing that is written from now on gets onto the disk.
    pub fn cut(&mut self) {
        rustix::fs::fcntl_add_seals(&self.image, SealFlags::WRITE).expect("the image can be sealed");
        self.has_power = false;
    }

    /// Whether the power was not cut yet.
    pub fn has_power(&self) -> bool {
        self.has_power
    }

    /// What is on it after the cut.
    pub fn image(&self) -> Image {
        assert!(!self.has_power, "as long as it is written to, nobody knows what is on it");
        Image { bytes: Arc::new(contents(&self.image)) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The next user of the device is to find it as it was.
        let _ = std::fs::write(&self.share, "0");
        // A process that was just killed may hold it for a moment longer; with the namespace it goes in any case.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).output();
    }
}

/// A file in memory with these bytes.
fn in_memory(bytes: &[u8]) -> File {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let file = File::from(rustix::fs::memfd_create("disk", flags).expect("a file in memory"));
    file.set_len(bytes.len() as u64).expect("it has a length");
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        // What is not written takes no memory, and most of a disk is empty.
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, (index * BLOCK) as u64).expect("it is written");
        }
    }
    file
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().expect("it has a length").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("it is read");
    bytes
}

/// Where other processes find it.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

const BLOCK: usize = 64 * 1024;
