//! A web server for one file: what fetches over plain TCP are measured against.
//!
//! It reads a request to its empty line and sends the file, whatever was asked for. The bytes go from the file to the
//! socket within the kernel (`sendfile`), so that it is as fast as a server can be.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// Serves `file` at `addr` until the process ends; `ready` is told the address first.
///
/// # Errors
/// If it cannot listen there.
pub fn serve(file: &Path, addr: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    ready(listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, file) = (stream?, file.to_owned());
        std::thread::spawn(move || answer(stream, file));
    }
    Ok(())
}

/// A client that goes away in the middle is no concern of the server's.
fn answer(mut stream: TcpStream, file: PathBuf) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?.take(REQUEST_BYTES_MAX)).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut file = File::open(file)?;
    let size = file.metadata()?.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\
         Connection: close\r\n\r\n"
    )?;
    io::copy(&mut file, &mut stream).map(drop)
}

/// Most bytes of a request that are looked at.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn whoever_asks_gets_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let (tell, ready) = mpsc::channel();
        std::thread::spawn(move || serve(&path, ([127, 0, 0, 1], 0).into(), |addr| tell.send(addr).unwrap()));
        let mut stream = TcpStream::connect(ready.recv().unwrap()).unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let text = String::from_utf8_lossy(&all);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("Content-Length: 100000\r\n"));
        assert!(all.ends_with(&[7; 100_000]));
    }
}
