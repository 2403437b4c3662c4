//! Looking for what the user means: a query for each reading, and the offers until enough of them are there.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Node, OFFERS_WAITING_MAX};
use crate::actors::discovery::Found;
use crate::error::Error;
use crate::fetch::resolve::{Offers, Reading, Resolved, Verdict, Wanted, ambiguous};

/// A search for one content. The network is asked as long as it is there.
#[derive(Debug)]
pub struct Search<'node> {
    node: &'node Node,
    wanted: &'node Wanted,
    patience: Duration,
    begun: Instant,
    offers: Offers,
    answers: mpsc::Receiver<(Found, Reading)>,
}

impl Node {
    /// Finds out which content is meant, and who has it. `observe` hears of hashing that is waited for.
    ///
    /// # Errors
    /// [`Code::NoNode`](crate::error::Code::NoNode), [`Code::NotFound`](crate::error::Code::NotFound),
    /// [`Code::Ambiguous`](crate::error::Code::Ambiguous).
    pub async fn resolve(
        &self,
        wanted: &Wanted,
        from: Option<String>,
        patience: Duration,
        observe: impl FnMut(&Verdict),
    ) -> Result<Resolved, Error> {
        self.search(wanted, from, patience).settled(observe).await
    }

    /// Begins to look for a content.
    pub fn search<'node>(
        &'node self,
        wanted: &'node Wanted,
        from: Option<String>,
        patience: Duration,
    ) -> Search<'node> {
        let (offers, answers) = (Offers::new(from), self.ask(wanted));
        Search { node: self, wanted, patience, begun: Instant::now(), offers, answers }
    }

    /// One query for each reading, in one stream of offers.
    fn ask(&self, wanted: &Wanted) -> mpsc::Receiver<(Found, Reading)> {
        let (sender, receiver) = mpsc::channel(OFFERS_WAITING_MAX);
        for reading in wanted.readings().iter().cloned() {
            let (mut offers, sender) = (self.find(reading.want.clone()), sender.clone());
            tokio::spawn(async move {
                loop {
                    let found = tokio::select! {
                        found = offers.recv() => found,
                        () = sender.closed() => None,
                    };
                    let Some(found) = found else { return };
                    if sender.send((found, reading.clone())).await.is_err() {
                        return;
                    }
                }
            });
        }
        receiver
    }
}

impl Search<'_> {
    /// The content that the first offers speak of. Others may still speak of another one, which [`Search::settled`] tells.
    ///
    /// # Errors
    /// As [`Node::resolve`].
    pub async fn first(&mut self, observe: impl FnMut(&Verdict)) -> Result<Resolved, Error> {
        self.found_at(self.begun, observe).await
    }

    /// The content that is meant, once everybody who answers at once has answered.
    ///
    /// # Errors
    /// As [`Node::resolve`].
    pub async fn settled(&mut self, observe: impl FnMut(&Verdict)) -> Result<Resolved, Error> {
        self.found_at(self.begun + SETTLE.min(self.patience), observe).await
    }

    /// The one content that there is from this moment on. That there are several is told when all can be.
    async fn found_at(
        &mut self,
        moment: Instant,
        mut observe: impl FnMut(&Verdict),
    ) -> Result<Resolved, Error> {
        let settled = self.begun + SETTLE.min(self.patience);
        let mut give_up = self.begun + self.patience;
        let mut last = Verdict::Nothing;
        loop {
            let now = Instant::now();
            let verdict = self.offers.verdict();
            match &verdict {
                Verdict::One(resolved) if now >= moment => return Ok(resolved.clone()),
                Verdict::Several(contents) if now >= settled => {
                    return Err(ambiguous(self.wanted, contents.clone()));
                }
                _ => {}
            }
            if verdict != last {
                if matches!(verdict, Verdict::Hashing { .. }) {
                    // As long as it goes on, it is worth waiting for.
                    give_up = now + self.patience;
                    observe(&verdict);
                }
                last = verdict;
            }
            if now >= give_up {
                return Err(self.offers.nothing(self.wanted, self.begun.elapsed()));
            }
            let wake = match last {
                Verdict::One(_) | Verdict::Several(_) => settled,
                Verdict::Hashing { .. } => now + HASHING_POLL,
                Verdict::Nothing => give_up,
            };
            match timeout_at(wake.min(give_up), self.answers.recv()).await {
                Ok(Some((found, reading))) => self.offers.take(&found, &reading),
                // Discovery is being restarted.
                Ok(None) => {
                    tokio::time::sleep(HASHING_POLL).await;
                    self.answers = self.node.ask(self.wanted);
                }
                // A fresh query is answered at once; the old one would be repeated ever more rarely.
                Err(_) if matches!(last, Verdict::Hashing { .. }) => {
                    self.answers = self.node.ask(self.wanted);
                }
                Err(_) => {}
            }
        }
    }
}

/// How long to wait for further offers before one is taken: all that answer at once should take part.
const SETTLE: Duration = Duration::from_millis(150);

/// How often the nodes are asked how far their hashing is.
const HASHING_POLL: Duration = Duration::from_millis(300);
