//! A confined thread reaches what it was allowed and nothing else. Each test confines a thread of its own: the others of
//! the process stay as they are.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use ftx_node::sandbox::{Allowed, Enforced, confine};

/// Runs this in a thread that is confined; not at all, and saying so, where the kernel cannot do that.
fn confined(allowed: Allowed, work: impl FnOnce() + Send) {
    let ended = thread::scope(|scope| {
        let thread =
            scope.spawn(|| match confine(&allowed).expect("nothing is wrong with the rules").folders {
                Enforced::Missing => eprintln!("SKIPPED: this kernel cannot confine a process"),
                Enforced::Full | Enforced::Partial => work(),
            });
        thread.join()
    });
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

#[track_caller]
fn expect_refused<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.expect_err("it is out of reach").kind(), ErrorKind::PermissionDenied);
}

#[test]
fn what_is_not_allowed_is_out_of_reach() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(other.path().join("secret"), "secret").unwrap();
    confined(Allowed::default().write(own.path()), || {
        expect_refused(fs::read("/etc/passwd"));
        expect_refused(fs::read_dir("/"));
        expect_refused(fs::read(other.path().join("secret")));
        expect_refused(File::options().append(true).open(other.path().join("secret")));
        expect_refused(File::create(other.path().join("new")));
        expect_refused(fs::create_dir(other.path().join("new")));
        expect_refused(fs::remove_file(other.path().join("secret")));
        expect_refused(Command::new("/bin/true").status());
        // Nor what is started from here.
        thread::scope(|scope| {
            scope.spawn(|| expect_refused(fs::read("/etc/passwd"))).join().unwrap();
        });
        // Nor by a way around.
        symlink(other.path().join("secret"), own.path().join("link")).unwrap();
        expect_refused(fs::read(own.path().join("link")));
        assert!(fs::hard_link(other.path().join("secret"), own.path().join("hard")).is_err());
        assert!(fs::rename(other.path().join("secret"), own.path().join("moved")).is_err());
    });
    assert_eq!(fs::read(other.path().join("secret")).unwrap(), b"secret");
    assert!(fs::read("/etc/passwd").is_ok(), "other threads are not confined");
}

#[test]
fn what_is_written_may_be_made_moved_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    confined(Allowed::default().write(folder.path()), || {
        fs::create_dir_all(at("one/two")).unwrap();
        fs::create_dir(at("three")).unwrap();
        fs::write(at("one/two/file"), "bytes").unwrap();
        symlink("file", at("one/two/link")).unwrap();
        fs::rename(at("one/two"), at("three/two")).unwrap();
        fs::rename(at("three/two/file"), at("one/file")).unwrap();
        assert_eq!(fs::read(at("one/file")).unwrap(), b"bytes");
        File::options().write(true).open(at("one/file")).unwrap().set_len(1).unwrap();
        assert_eq!(fs::read_dir(at("three/two")).unwrap().count(), 1);
        fs::remove_dir_all(at("three")).unwrap();
    });
}

#[test]
fn what_is_read_is_not_written_and_links_to_it_are_followed_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["shared", "other"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("file"), name).unwrap();
    }
    symlink(at("shared"), at("link")).unwrap();
    confined(Allowed::default().read(at("link")).read(at("not there")), || {
        assert_eq!(fs::read(at("link/file")).unwrap(), b"shared");
        expect_refused(fs::write(at("link/file"), "other"));
        expect_refused(fs::remove_file(at("link/file")));
        expect_refused(fs::read(at("other/file")));
    });
    // The folder counts, not its name.
    let swap = || -> io::Result<()> {
        fs::remove_file(at("link"))?;
        symlink(at("other"), at("link"))
    };
    let (ready, is_ready) = mpsc::channel::<()>();
    let (swapped, is_swapped) = mpsc::channel::<()>();
    let at = &at;
    thread::scope(|scope| {
        scope.spawn(move || {
            confined(Allowed::default().read(at("link")), move || {
                ready.send(()).unwrap();
                is_swapped.recv().unwrap();
                expect_refused(fs::read(at("link/file")));
                assert_eq!(fs::read(at("shared/file")).unwrap(), b"shared");
            });
        });
        // Where nothing can be confined there is nobody to wait for.
        if is_ready.recv().is_ok() {
            swap().unwrap();
            swapped.send(()).unwrap();
        }
    });
}

#[test]
fn a_single_file_is_only_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "file").unwrap();
    fs::write(at("beside"), "beside").unwrap();
    confined(Allowed::default().read(at("file")), || {
        assert_eq!(fs::read(at("file")).unwrap(), b"file");
        expect_refused(fs::read(at("beside")));
        expect_refused(fs::read_dir(folder.path()));
    });
}

#[test]
fn temporary_files_are_made_where_nothing_can_be_listed() {
    let folder = tempfile::tempdir().unwrap();
    confined(Allowed::default().temporary(folder.path()), || {
        tempfile::tempfile_in(folder.path()).unwrap().set_len(5).unwrap();
        tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        expect_refused(fs::read_dir(folder.path()));
        expect_refused(fs::create_dir(folder.path().join("new")));
    });
}

#[test]
fn what_the_system_needs_can_be_read() {
    confined(Allowed::default(), || {
        for path in ["/etc/hosts", "/proc/self/status", "/dev/null"] {
            assert!(!Path::new(path).exists() || fs::read(path).is_ok(), "{path}");
        }
        let own = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(own.contains("NoNewPrivs:\t1"), "{own}");
        // Looks at the system's files.
        let found = std::net::ToSocketAddrs::to_socket_addrs("localhost:7").unwrap();
        assert!(found.into_iter().any(|addr| addr.ip().is_loopback()));
    });
}
