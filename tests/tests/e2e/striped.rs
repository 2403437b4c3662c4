//! Striped downloads: the node with clients and servers as the original ones are, and with itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, listing, md5_hex, net};
use serde_json::Value;

/// Sends a request as the original client does, in two segments; the status, and the body.
fn control(server: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(server).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    tcp.write_all(head.as_bytes()).unwrap();
    tcp.write_all(body.as_bytes()).unwrap();
    let mut reply = Vec::new();
    tcp.read_to_end(&mut reply).unwrap();
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").expect("headers and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().unwrap();
    (status, body.to_owned())
}

fn post(server: SocketAddr, path: &str, body: &str) -> (u16, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: identity\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    control(server, &head, body)
}

/// Hash and port of what a server offers.
fn offer(server: SocketAddr, path: &str, threads: usize) -> (String, SocketAddr) {
    let (status, body) = post(server, path, &format!("{{\"threads\": {threads}}}"));
    assert_eq!(status, 200, "{path}: {body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let port = body["port"].as_u64().unwrap().try_into().unwrap();
    (body["hash"].as_str().unwrap().to_owned(), SocketAddr::new(server.ip(), port))
}

/// Opens a connection for each id first, then sends the ids, then reads each to its end.
fn stripes(server: SocketAddr, ids: &[u8]) -> Vec<Vec<u8>> {
    let mut open: Vec<_> = ids.iter().map(|_| TcpStream::connect(server).unwrap()).collect();
    for (tcp, id) in open.iter_mut().zip(ids) {
        tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        tcp.write_all(&[*id]).unwrap();
    }
    let read = |mut tcp: TcpStream| {
        let mut bytes = Vec::new();
        tcp.read_to_end(&mut bytes).unwrap();
        bytes
    };
    open.into_iter().map(read).collect()
}

#[test]
fn classic_clients_get_files_of_any_size_with_any_number_of_threads() {
    let net = net!();
    let folder = net.folder();
    let sizes = [0, 1, 7, 8, 1023, 1024, 100_003, 3 * MIB + 1];
    let contents: Vec<_> = sizes.iter().map(|&size| Content::new(size as u64, size)).collect();
    for (size, content) in sizes.iter().zip(&contents) {
        put(&folder, &format!("{size}.bin"), &content.bytes);
    }
    let share = net.share_with(&folder, &["--striped"]);
    for threads in [1usize, 2, 8, 11, 255] {
        for (size, content) in sizes.iter().zip(&contents) {
            let (hash, server) = offer(share.service("striped"), &format!("/{size}.bin"), threads);
            assert_eq!(hash, md5_hex(&content.bytes), "{size}");
            let ids: Vec<u8> = (0..threads as u8).collect();
            let parts = stripes(server, &ids);
            let part_size = size / threads + 1;
            for (id, part) in parts.iter().enumerate() {
                let (from, to) = ((id * part_size).min(*size), ((id + 1) * part_size).min(*size));
                assert!(part == &content.bytes[from..to], "{size} in {threads}, part {id}: {}", part.len());
            }
        }
    }
}

#[test]
fn ids_may_come_in_any_order_repeat_and_be_out_of_range() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "f", b"0123456789");
    let share = net.share_with(&folder, &["--striped"]);
    let (_, server) = offer(share.service("striped"), "/f", 4);
    // One that never says which stripe it is holds up nobody.
    let _silent = TcpStream::connect(server).unwrap();
    let parts = stripes(server, &[3, 0, 200, 0, 1, 2]);
    let expected: [&[u8]; 6] = [b"9", b"012", b"", b"012", b"345", b"678"];
    assert_eq!(parts, expected);
}

#[test]
fn the_path_is_a_name_as_it_stands() {
    let net = net!();
    let folder = net.folder();
    for name in ["%41", "sub/a b?c=d", "sub/plain"] {
        put(&folder, name, name.as_bytes());
    }
    let share = net.share_with(&folder, &["--striped"]);
    let server = share.service("striped");
    for (path, name) in [
        ("%41", "%41"),
        ("/%41", "%41"),
        ("//sub/plain", "sub/plain"),
        ("sub/a b?c=d", "sub/a b?c=d"),
        ("/sub/plain", "sub/plain"),
    ] {
        let (hash, stripes_at) = offer(server, path, 1);
        assert_eq!(hash, md5_hex(name.as_bytes()), "{path}");
        assert_eq!(stripes(stripes_at, &[0]), [name.as_bytes()], "{path}");
    }
}

#[test]
fn what_is_not_served_has_its_status() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "shared/sub/f", b"x");
    put(&folder, "secret", b"y");
    std::os::unix::fs::symlink("../secret", folder.join("shared/link")).unwrap();
    let share = net.share_with(&folder.join("shared"), &["--striped"]);
    let server = share.service("striped");
    let threads = "{\"threads\": 8}";
    let secret = folder.join("secret");
    for path in [
        "/no",
        "/A",
        "/sub",
        "/",
        "/../secret",
        "../secret",
        "/sub/../../secret",
        "/link",
        "/sub/./f",
        "/f\0",
    ] {
        assert_eq!(post(server, path, threads).0, 404, "{path:?}");
    }
    assert_eq!(post(server, secret.to_str().unwrap(), threads).0, 404);
    for body in [
        "",
        "{}",
        "[8]",
        "{\"threads\": 0}",
        "{\"threads\": \"8\"}",
        "{\"threads\": 256}",
        "{\"threads\": -1}",
        "no",
    ] {
        assert_eq!(post(server, "/sub/f", body).0, 500, "{body}");
    }
    assert_eq!(control(server, "POST /sub/f HTTP/1.1\r\nHost: x\r\n\r\n", threads).0, 500);
    assert_eq!(control(server, "POST /sub/f HTTP/1.1\r\nContent-Length: x\r\n\r\n", threads).0, 500);
    assert_eq!(control(server, "GET /sub/f HTTP/1.1\r\nHost: x\r\n\r\n", "").0, 501);
    // It still serves what it has.
    assert_eq!(post(server, "/sub/f", threads).0, 200);
}

#[test]
fn a_file_that_may_not_be_read_is_forbidden() {
    use std::os::unix::fs::PermissionsExt;
    let net = net!();
    let folder = net.folder();
    let path = put(&folder, "f", b"x");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        eprintln!("SKIPPED: this user may read everything");
        return;
    }
    let share = net.share_with(&folder, &["--striped"]);
    assert_eq!(post(share.service("striped"), "/f", "{\"threads\": 1}").0, 403);
}

#[test]
fn a_file_that_changes_is_never_served_in_parts() {
    let net = net!();
    let folder = net.folder();
    let content = Content::new(1, 8 * MIB);
    let path = put(&folder, "f", &content.bytes);
    let share = net.share_with(&folder, &["--striped"]);
    let (_, server) = offer(share.service("striped"), "/f", 2);
    let mut first = TcpStream::connect(server).unwrap();
    first.write_all(&[0]).unwrap();
    let mut begun = [0; 1];
    first.read_exact(&mut begun).unwrap();
    std::fs::write(&path, Content::new(2, 8 * MIB).bytes).unwrap();
    let mut second = TcpStream::connect(server).unwrap();
    second.write_all(&[1]).unwrap();
    let mut bytes = Vec::new();
    let broken = second.read_to_end(&mut bytes);
    assert!(broken.is_err() && bytes.is_empty(), "{broken:?}, {} bytes", bytes.len());
}

#[test]
fn nodes_fetch_from_nodes() {
    let net = net!();
    let folder = net.folder();
    let sizes = [0, 1, 255, 1024, 50 * MIB + 3];
    for size in sizes {
        put(&folder, &format!("{size}.bin"), &Content::new(9, size).bytes);
    }
    let share = net.share_with(&folder, &["--striped=127.0.0.1:0"]);
    let server = share.service("striped");
    for (size, threads) in sizes.into_iter().zip(["8", "1", "255", "3", "16"]) {
        let content = Content::new(9, size);
        let target = net.folder();
        let url = format!("striped://{server}/{size}.bin");
        let got = net.node(["get", &url, "--threads", threads, "--json"]).within(&target).run();
        let got = got.expect_status(0);
        let done = got.last("done");
        assert_eq!((&done["size"], &done["md5"]), (&size.into(), &md5_hex(&content.bytes).into()));
        assert_eq!(listing(&target), [format!("{size}.bin")]);
        content.expect_in(&target.join(format!("{size}.bin")));
        // A second one does not replace it.
        net.node(["get", &url]).within(&target).run().expect_status(9);
    }
    let url = format!("striped://{server}/1024.bin");
    let got = net.node(["get", &url, "-o", "-"]).run().expect_status(0);
    assert_eq!(got.stdout, Content::new(9, 1024).bytes);
    net.node(["get", &format!("striped://{server}/no.bin"), "--json"]).run().expect_error(3, "not_found");
}

/// How a server that stands in for an original one goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Says another hash.
    Hash,
    /// The first connection for this stripe breaks in its middle.
    Break(u8),
    /// The first connection for this stripe ends early, as if that were its end.
    Short(u8),
    /// The port of the stripes has no room for a connection.
    Full,
    /// Opens what it is told: `/some/file.bin` is nothing, `some/file.bin` lies in its folder.
    Folder,
}

/// A server as the original one is: HTTP/1.0, no length, a port of its own for the stripes of each request.
fn original(content: &[u8], fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let content: Arc<[u8]> = content.into();
    let faults = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for control in listener.incoming() {
            let (content, faults) = (Arc::clone(&content), Arc::clone(&faults));
            thread::spawn(move || answer(control.unwrap(), &content, fault, &faults));
        }
    });
    addr
}

fn answer(mut control: TcpStream, content: &Arc<[u8]>, fault: Fault, faults: &Arc<AtomicUsize>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"}") {
        control.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let path = if request.starts_with("POST /") { "/some/file.bin" } else { "some/file.bin" };
    assert!(request.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{request}");
    if fault == Fault::Folder && path.starts_with('/') {
        control.write_all(b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\n").unwrap();
        return;
    }
    assert_eq!(path.starts_with('/'), fault != Fault::Folder, "asked again only for what is not there");
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let threads = serde_json::from_str::<Value>(body).unwrap()["threads"].as_u64().unwrap() as usize;
    let part_size = content.len() / threads + 1;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hash = if fault == Fault::Hash { md5_hex(b"other") } else { md5_hex(content) };
    let reply = format!("HTTP/1.0 200 OK\r\nServer: x\r\n\r\n{{\"hash\": \"{hash}\", \"port\": {port}}}");
    if fault == Fault::Full {
        // For as long as the test runs.
        std::mem::forget(full(listener));
        control.write_all(reply.as_bytes()).unwrap();
        return;
    }
    control.write_all(reply.as_bytes()).unwrap();
    for stripe in listener.incoming() {
        let (content, faults, mut stripe) = (Arc::clone(content), Arc::clone(faults), stripe.unwrap());
        thread::spawn(move || {
            let mut id = [0];
            if stripe.read_exact(&mut id).is_err() {
                return;
            }
            let start = (usize::from(id[0]) * part_size).min(content.len());
            let mut part = &content[start..(start + part_size).min(content.len())];
            let is_faulty = matches!(fault, Fault::Break(of) | Fault::Short(of) if of == id[0]);
            if is_faulty && faults.fetch_add(1, Ordering::SeqCst) == 0 {
                part = &part[..part.len() / 2];
                if matches!(fault, Fault::Break(_)) {
                    let linger = socket2::SockRef::from(&stripe).set_linger(Some(Duration::ZERO));
                    linger.unwrap();
                }
            }
            // A client that has gone shows in other ways.
            let _ = stripe.write_all(part);
        });
    }
    // Kept until the stripes are gone, as the original keeps it for a while.
    drop(control);
}

/// A listener at which every further connection waits: those that are open already have all the room.
fn full(listener: TcpListener) -> TcpListener {
    let addr = listener.local_addr().unwrap();
    socket2::SockRef::from(&listener).listen(0).unwrap();
    while let Ok(tcp) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
        std::mem::forget(tcp);
    }
    listener
}

#[test]
fn what_a_server_has_in_its_own_folder_is_found() {
    let net = net!();
    let url = format!("striped://{}/some/file.bin", original(b"content", Fault::Folder));
    let target = net.folder();
    net.node(["get", &url]).within(&target).run().expect_status(0);
    assert_eq!(std::fs::read(target.join("file.bin")).unwrap(), b"content");
    let refused = net.node(["get", "striped://127.0.0.1:1/a\u{1b}[2J", "--json"]).run();
    refused.expect_error(2, "usage");
}

#[test]
fn original_servers_serve_the_node() {
    let net = net!();
    for (size, threads) in [(0, "8"), (1, "1"), (1000, "255"), (2 * MIB + 5, "8"), (3 * MIB, "11")] {
        let content = Content::new(4, size);
        let url = format!("striped://{}/some/file.bin", original(&content.bytes, Fault::None));
        let target = net.folder();
        let got = net.node(["get", &url, "--threads", threads, "--json"]).within(&target).run();
        let got = got.expect_status(0);
        assert_eq!(got.last("done")["md5"], md5_hex(&content.bytes));
        content.expect_in(&target.join("file.bin"));
    }
}

#[test]
fn stripes_that_break_are_fetched_again() {
    let net = net!();
    let content = Content::new(5, 2 * MIB);
    for fault in [Fault::Break(0), Fault::Break(3), Fault::Short(2), Fault::Short(0)] {
        let url = format!("striped://{}/some/file.bin", original(&content.bytes, fault));
        let target = net.folder();
        let got = net.node(["get", &url, "--threads", "4", "--json"]).within(&target).run();
        assert_eq!(got.status, 0, "{fault:?}\n{}", got.said());
        content.expect_in(&target.join("file.bin"));
    }
}

#[test]
fn wrong_bytes_are_not_kept() {
    let net = net!();
    let url = format!("striped://{}/some/file.bin", original(b"content", Fault::Hash));
    let target = net.folder();
    net.node(["get", &url, "--json"]).within(&target).run().expect_error(7, "integrity");
    assert!(listing(&target).is_empty(), "{:?}", listing(&target));
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let net = net!();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap();
    let target = net.folder();
    let url = format!("striped://{addr}/f");
    net.node(["get", &url, "--json", "--timeout", "0.3"]).within(&target).run().expect_error(12, "timeout");
    drop(silent);
    let full = format!("striped://{}/some/file.bin", original(b"content", Fault::Full));
    let given_up = net.node(["get", &full, "--json", "--timeout", "0.3"]).within(&target).run();
    given_up.expect_error(12, "timeout");
    net.node(["get", &url, "--json"]).within(&target).run().expect_error(6, "network");
    assert!(listing(&target).is_empty());
}

#[test]
fn a_refusal_is_told() {
    let net = net!();
    for (status, code, word) in [(404, 3, "not_found"), (403, 10, "refused"), (500, 10, "refused")] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let reply = format!("HTTP/1.0 {status} No\r\n\r\n");
            tcp.write_all(reply.as_bytes()).unwrap();
            tcp.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            match tcp.read_to_end(&mut rest) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
                _ => {}
            }
        });
        net.node(["get", &format!("striped://{addr}/f"), "--json"]).run().expect_error(code, word);
        server.join().unwrap();
    }
}
