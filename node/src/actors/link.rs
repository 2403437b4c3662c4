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
