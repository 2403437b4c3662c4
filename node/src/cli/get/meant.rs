//! Whether what is being fetched is what the user means: it is begun with the first offer, and finished only when everybody
//! who answers at once has spoken of the same content.

use tokio::sync::watch;

use crate::error::{Code, Error};
use crate::fetch::resolve::Resolved;
use crate::node::Search;

/// A content that was begun with, and the search that may still say that it is not the only one.
pub(super) struct Meant<'node> {
    /// Until it is certain: as long as it is there, the network is asked.
    search: Option<Search<'node>>,
    resolved: Resolved,
    is_certain: watch::Sender<bool>,
}

impl<'node> Meant<'node> {
    pub(super) fn new(search: Search<'node>, resolved: Resolved) -> Self {
        Meant { search: Some(search), resolved, is_certain: watch::channel(false).0 }
    }

    /// The content, and who has it as far as is known.
    pub(super) fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Becomes true when it is certain.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.is_certain.subscribe()
    }

    pub(super) fn is_certain(&self) -> bool {
        self.search.is_none()
    }

    /// Waits until it is certain.
    ///
    /// # Errors
    /// If it is not what is meant, or not the only thing that may be.
    pub(super) async fn certain(&mut self) -> Result<(), Error> {
        let Some(search) = &mut self.search else { return Ok(()) };
        let settled = search.settled(|_| {}).await?;
        if settled.root != self.resolved.root {
            let message = format!("{}: it was changed just now; try again", self.resolved.name);
            return Err(Error::new(Code::Ambiguous, message));
        }
        (self.resolved, self.search) = (settled, None);
        self.is_certain.send_replace(true);
        Ok(())
    }

    /// Does something meanwhile. It is dropped if this turns out not to be what is meant; that it failed is told only if it
    /// is.
    pub(super) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::pin!(work);
        tokio::select! {
            biased;
            certain = self.certain() => certain?,
            done = &mut work => {
                if done.is_err() {
                    self.certain().await?;
                }
                return done;
            }
        }
        work.await
    }
}
