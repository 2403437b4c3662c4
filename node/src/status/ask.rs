//! Asking the nodes of a state folder how they are.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::NodeStatus;
use super::socket::{ANSWER_BYTES_MAX, ShortPath, folder_of, sockets_in};

/// What a process has answered.
#[derive(Debug)]
pub struct Asked {
    /// Its instance: 16 hex digits.
    pub instance: String,
    /// Its answer, or what came instead.
    pub answer: io::Result<NodeStatus>,
}

/// Asks all processes that are nodes with this state folder, at once. Those that have gone without a word are left out.
///
/// # Errors
/// If the folder cannot be read; that it is not there is no error.
pub async fn ask_all(state: &Path) -> io::Result<Vec<Asked>> {
    let mut asking = JoinSet::new();
    for (instance, path) in sockets_in(&folder_of(state))? {
        asking.spawn(async move {
            let answer = timeout(PATIENCE, ask(&path)).await;
            Asked { instance, answer: answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) }
        });
    }
    let mut all = asking.join_all().await;
    let is_gone = |asked: &Asked| {
        let kind = asked.answer.as_ref().err().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
    };
    all.retain(|asked| !is_gone(asked));
    // The one that runs longest is the one that is meant most; those that do not answer come last.
    let started = |asked: &Asked| asked.answer.as_ref().map_or(f64::INFINITY, |status| status.started);
    all.sort_by(|a, b| started(a).total_cmp(&started(b)).then_with(|| a.instance.cmp(&b.instance)));
    Ok(all)
}

async fn ask(path: &Path) -> io::Result<NodeStatus> {
    let short = ShortPath::new(path)?;
    let mut answer = Vec::new();
    let stream = UnixStream::connect(short.path()).await?;
    stream.take(ANSWER_BYTES_MAX as u64 + 1).read_to_end(&mut answer).await?;
    let malformed = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    match answer.len() {
        0 => Err(malformed("it closed without an answer")),
        len if len > ANSWER_BYTES_MAX => Err(malformed("its answer is too long")),
        _ => serde_json::from_slice(&answer).map_err(|error| malformed(&error.to_string())),
    }
}

/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusSocket;
    use ftx_proto::digest::Instance;
    use tokio::io::AsyncWriteExt;

    /// A node that answers with these bytes.
    fn answering(state: &Path, instance: u64, bytes: Vec<u8>) -> StatusSocket {
        let (socket, listener) = StatusSocket::open(state, Instance(instance)).unwrap();
        tokio::spawn(async move {
            // Others that start look whether somebody listens.
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // Whoever has read enough goes away.
                let _ = stream.write_all(&bytes).await;
            }
        });
        socket
    }

    #[tokio::test]
    async fn whatever_a_node_answers_the_others_are_heard() {
        let state = tempfile::tempdir().unwrap();
        assert!(ask_all(state.path()).await.unwrap().is_empty());
        let _nodes = [
            answering(state.path(), 1, br#"{"pid":5,"uptime_seconds":9.5,"from_the_future":[1]}"#.to_vec()),
            answering(state.path(), 2, b"nonsense".to_vec()),
            answering(state.path(), 3, vec![b' '; ANSWER_BYTES_MAX + 10]),
            answering(state.path(), 4, Vec::new()),
        ];
        let (killed, listener) = StatusSocket::open(state.path(), Instance(5)).unwrap();
        drop(listener);

        let all = ask_all(state.path()).await.unwrap();

        drop(killed);
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!(all[0].answer.as_ref().unwrap().pid, 5);
        assert_eq!(all.iter().filter(|asked| asked.answer.is_err()).count(), 3, "{all:?}");
    }
}
