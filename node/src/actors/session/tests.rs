//! Tests of a session alone.

use super::*;
use ftx_proto::engine::serve::ServeConfig;

#[test]
fn the_queue_has_a_place_for_every_grant() {
    assert!(ServeConfig::default().grants_per_session as usize <= GRANTS_MAX);
}

/// Keeps what it hears to itself.
struct Deaf;

impl Actor for Deaf {
    type Msg = SessionMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<SessionMessage>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// The time is virtual.
#[tokio::test(start_paused = true)]
async fn a_message_of_a_byte_a_second_is_given_up() {
    use tokio::io::AsyncWriteExt;
    let (actor, _) = Deaf::spawn(None, Deaf, ()).await.unwrap();
    let (near, mut far) = tokio::io::duplex(64);
    let dribbling = tokio::spawn(async move {
        for byte in [23, 3, 3, 64, 0].into_iter().chain(std::iter::repeat(7)) {
            if far.write_u8(byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let began = tokio::time::Instant::now();
    let (_, opener) = crate::net::records::tests::pair();
    let reader = crate::net::frame::FrameReader::new(near, opener, Vec::new());
    let why = read_messages(reader, &actor, Arc::new(Semaphore::new(1))).await;
    assert!(why.contains("silent"), "{why}");
    assert!(began.elapsed() <= SESSION_IDLE_MAX + Duration::from_secs(1));
    dribbling.await.unwrap();
    actor.stop(None);
}
