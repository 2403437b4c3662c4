//! Attacks on the handshake: certificates that are not the peer's, none, junk, far too many, and handshakes that stop.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ftx_node::identity::Identity;
use ftx_tests::evil::{Evil, Shows, Stranger, identity, mismatched};
use ftx_tests::{Content, net};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::{NAME, SIZE, shared, still_serves};

fn fresh() -> Identity {
    Identity::load_or_create(tempfile::tempdir().expect("a folder").path()).expect("an identity")
}

/// Tries a handshake that shows this; whether a session came of it.
fn is_let_in(stranger: &Stranger, shown: Option<Arc<CertifiedKey>>) -> bool {
    stranger.does(async {
        let shows = Arc::new(Shows(shown));
        let handshake = stranger.handshake_with(|config| config.client_auth_cert_resolver = shows).await;
        // In TLS 1.3 a client learns only afterwards that it is not wanted.
        let Ok(mut stream) = handshake else { return false };
        let mut said = [0; 1];
        matches!(stream.read(&mut said).await, Ok(1))
    })
}

#[test]
fn a_certificate_of_somebody_else() {
    let net = net!();
    let (content, share) = shared(&net, 3101, &["-v"]);
    let stranger = Stranger::new(share.port());
    let (victim, attacker) = (fresh(), fresh());
    assert!(is_let_in(&stranger, Some(mismatched(attacker.certificate(), &attacker.key()))), "its own");
    assert!(!is_let_in(&stranger, Some(mismatched(victim.certificate(), &attacker.key()))));
    still_serves(&net, &content);
    let log = share.process().stderr();
    assert!(log.contains("did not become a session"), "{log}");
}

#[test]
fn a_certificate_of_somebody_else_at_the_serving_side() {
    let net = net!();
    let (content, honest) = shared(&net, 3102, &[]);
    let (victim, (_, tls)) = (fresh(), identity());
    let mut pretending = (*tls.server).clone();
    let attacker = fresh();
    pretending.cert_resolver = Arc::new(Shows(Some(mismatched(victim.certificate(), &attacker.key()))));
    let tls = ftx_node::net::tls::Tls { server: Arc::new(pretending), ..tls };
    let evil =
        || Evil::with_faces(NAME, &content, vec![(victim.node(), tls.clone())], |_, answers| Some(answers));

    // It gives the right bytes, which is no excuse.
    let one = evil();
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).args(["--peer", &one.peer]).run();
    content.expect_in(&target);
    assert_eq!(fetched.of_source(&one.node, "bytes"), 0, "{}", fetched.said());
    assert_eq!(fetched.of_source(honest.node(), "bytes"), content.size(), "{}", fetched.said());

    drop(honest);
    let target = net.folder().join(NAME);
    let failed = net.get(NAME, &target).args(["--peer", &one.peer, "--timeout", "2"]).run();
    assert_ne!(failed.status, 0, "{}", failed.said());
    assert!(!target.exists(), "{}", failed.said());
}

#[test]
fn no_certificate_junk_and_a_thousand() {
    let net = net!();
    let (content, share) = shared(&net, 3103, &[]);
    let stranger = Stranger::new(share.port());
    let own = fresh();
    assert!(!is_let_in(&stranger, None));
    for junk in [vec![], vec![0x30], vec![0x30, 0x82, 0xff, 0xff, 1], vec![7; 3000]] {
        let shown = mismatched(CertificateDer::from(junk.clone()), &own.key());
        assert!(!is_let_in(&stranger, Some(shown)), "{junk:?}");
    }
    // Its own in front, then as much as it likes: taken or not, it costs nobody else anything.
    let key = mismatched(own.certificate(), &own.key()).key.clone();
    let chain = std::iter::repeat_n(own.certificate(), 1000).collect();
    is_let_in(&stranger, Some(Arc::new(CertifiedKey::new(chain, key))));
    still_serves(&net, &content);
}

/// A connection on which only so many bytes are sent.
struct Cut {
    tcp: TcpStream,
    left: usize,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, into)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let now = bytes.len().min(self.left);
        if now == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut self.tcp).poll_write(cx, &bytes[..now]);
        if let Poll::Ready(Ok(len)) = &written {
            self.left -= len;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[test]
fn a_handshake_that_stops_after_any_number_of_bytes() {
    let net = net!();
    let (content, share) = shared(&net, 3104, &["-v"]);
    let stranger = Stranger::new(share.port());
    let lens = [1, 4, 5, 6, 60, 150, 220, 260, 300, 400, 600, 700, 800, 900];
    for len in lens {
        stranger.does(async {
            let cut = Cut { tcp: stranger.connect().await, left: len };
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&stranger.tls().client));
            // The last of these are long enough for a handshake, but not for what is said first.
            if let Ok(mut stream) = connector.connect(ftx_node::net::tls::server_name(), cut).await {
                use tokio::io::AsyncWriteExt;
                assert!(
                    stream.write_all(&[0; 4000]).await.is_err() || stream.flush().await.is_err(),
                    "{len}"
                );
            }
        });
    }
    still_serves(&net, &content);
    let log = share.process().stderr();
    assert!(log.matches("did not become a session").count() >= lens.len(), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn another_face_on_every_connection() {
    let net = net!();
    let content = Content::new(3105, SIZE);
    let faces: Vec<_> = (0..3).map(|_| identity()).collect();
    let evil = Evil::with_faces(NAME, &content, faces, |_, answers| Some(answers));
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).args(["--peer", &evil.peer, "--timeout", "3"]).run();
    // What is fetched counts for the face that was announced, or nothing is fetched at all.
    if fetched.status == 0 {
        content.expect_in(&target);
        assert_eq!(fetched.of_source(&evil.node, "bytes"), content.size(), "{}", fetched.said());
        assert_eq!(fetched.sources().len(), 1, "{}", fetched.said());
    } else {
        assert!(!target.exists(), "{}", fetched.said());
    }
    let (again, honest) = shared(&net, 3105, &["--max-upload", "3M"]);
    let target = net.folder().join(NAME);
    let fetched = net.get(NAME, &target).args(["--peer", &evil.peer]).run();
    fetched.done();
    again.expect_in(&target);
    assert_eq!(fetched.of_source(honest.node(), "bad"), 0, "{}", fetched.said());
}
