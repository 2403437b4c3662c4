//! The address of an actor that may be restarted: whoever holds a link always reaches the present one.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{ActorRef, RpcReplyPort};

/// Where to reach one of the node's actors, across its restarts.
pub struct Link<M> {
    actor: Arc<RwLock<Option<ActorRef<M>>>>,
}

impl<M> std::fmt::Debug for Link<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl<M> Clone for Link<M> {
    fn clone(&self) -> Self {
        Link { actor: self.actor.clone() }
    }
}

impl<M> Default for Link<M> {
    fn default() -> Self {
        Link { actor: Arc::default() }
    }
}

/// What an actor is told when a task ends, also when the task panics or is aborted: whoever waits for it would wait for ever.
#[derive(Debug)]
pub(crate) struct LastWord<M: ractor::Message> {
    listener: ActorRef<M>,
    word: Option<M>,
}

impl<M: ractor::Message> LastWord<M> {
    /// `otherwise` is said unless the task comes to say something else.
    pub(crate) fn new(listener: ActorRef<M>, otherwise: M) -> Self {
        LastWord { listener, word: Some(otherwise) }
    }

    /// Says this, and nothing more.
    pub(crate) fn say(mut self, word: M) {
        self.word = Some(word);
    }
}

impl<M: ractor::Message> Drop for LastWord<M> {
    fn drop(&mut self) {
        if let Some(word) = self.word.take() {
            // Whoever has ended meanwhile needs to know nothing more.
            let _ = self.listener.cast(word);
        }
    }
}

/// The actor is gone, is being restarted, or did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a part of this node does not answer")]
pub struct Unavailable;

/// How long any call between actors may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

impl<M: ractor::Message> Link<M> {
    /// From now on the link leads to `actor`.
    pub fn set(&self, actor: ActorRef<M>) {
        *self.actor.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    /// The present actor.
    pub fn actor(&self) -> Option<ActorRef<M>> {
        self.actor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a message. It is lost if the actor is not there: a restarted one knows nothing of what was before.
    pub fn cast(&self, message: M) {
        if let Some(actor) = self.actor() {
            // The error says that the actor has just ended.
            let _ = actor.cast(message);
        }
    }

    /// Sends a message and waits for the answer, for at most [`CALL_TIMEOUT`].
    pub async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> M,
    ) -> Result<T, Unavailable> {
        let actor = self.actor().ok_or(Unavailable)?;
        match actor.call(message, Some(CALL_TIMEOUT)).await {
            Ok(CallResult::Success(answer)) => Ok(answer),
            _ => Err(Unavailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::mpsc;

    /// Hands on what it is told.
    struct Listener(mpsc::UnboundedSender<&'static str>);

    impl Actor for Listener {
        type Msg = &'static str;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<&'static str>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<&'static str>,
            word: &'static str,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            let _ = self.0.send(word);
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_last_word_is_said_however_a_task_ends() {
        let (heard, mut words) = mpsc::unbounded_channel();
        let (listener, _) = Actor::spawn(None, Listener(heard), ()).await.unwrap();
        let word = |otherwise| LastWord::new(listener.clone(), otherwise);

        let held = word("panicked");
        let panicking = tokio::spawn(async move {
            let _held = held;
            // As a task does that comes across a bug.
            std::panic::resume_unwind(Box::new("a bug"));
        });
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(words.recv().await, Some("panicked"));

        let held = word("aborted");
        let waiting = tokio::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        waiting.abort();
        assert_eq!(words.recv().await, Some("aborted"));

        word("otherwise").say("done");
        assert_eq!(words.recv().await, Some("done"));
        assert!(words.try_recv().is_err(), "once");
    }
}
