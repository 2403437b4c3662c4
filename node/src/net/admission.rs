//! Whom this node talks to: everybody, nodes that it trusts, nodes that know its group's secret, or one node alone.
//!
//! It says who is admitted; [`super::connection`] asks it right after the handshake, before either side has said a word of
//! what it has. What is heard in discovery of nodes that are not admitted does not count, but nothing rests on that.

use std::sync::{Arc, OnceLock};

use ftx_proto::digest::NodeId;

use super::group::GroupSecret;
use crate::config::Access;
use crate::error::Error;
use crate::trust::{Trusted, TrustedNodes};

/// See the [module](self). Everybody, by default.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    trusted: Option<Arc<TrustedNodes>>,
    secret: Option<Arc<GroupSecret>>,
    /// Until it is known who, nobody.
    only: Option<Arc<OnceLock<NodeId>>>,
}

impl Admission {
    /// What the configuration asks for.
    ///
    /// # Errors
    /// A file of it that cannot be used.
    pub fn open(access: &Access) -> Result<Self, Error> {
        let trusted = access.trust.as_deref().map(TrustedNodes::open).transpose()?;
        let secret = access.secret_file.as_deref().map(GroupSecret::load).transpose()?;
        Ok(Admission { trusted: trusted.map(Arc::new), secret: secret.map(Arc::new), only: None })
    }

    /// Nodes that know this secret.
    pub fn group(secret: GroupSecret) -> Self {
        Admission { secret: Some(Arc::new(secret)), ..Admission::default() }
    }

    /// The same, but of those only one node, which is named later by [`Admission::name_the_only_one`].
    pub fn only_one(self) -> Self {
        Admission { only: Some(Arc::default()), ..self }
    }

    /// From now on this node is admitted, where only one is. The first that is named stays the one.
    pub fn name_the_only_one(&self, node: NodeId) {
        if let Some(only) = &self.only {
            let _ = only.set(node);
        }
    }

    /// Whether not everybody is admitted.
    pub fn is_closed(&self) -> bool {
        self.trusted.is_some() || self.secret.is_some()
    }

    /// Whether sessions with this node may be, as far as its identity goes. `dialled`: it did not come of its own will, so it
    /// need not be the only one.
    pub fn admits(&self, node: NodeId, me: NodeId, dialled: bool) -> bool {
        // Whoever has the key of this node may do what this node may.
        let trusted = node == me || self.trusted.as_ref().is_none_or(|trusted| trusted.find(node).is_some());
        let only = self.only.as_ref().filter(|_| !dialled);
        trusted && only.is_none_or(|only| only.get() == Some(&node))
    }

    /// Another number whenever others may be trusted; none where nobody has to be.
    pub fn version(&self) -> Option<u64> {
        self.trusted.as_ref().map(|trusted| trusted.version())
    }

    /// What a trusted node is called here.
    pub fn name_of(&self, node: NodeId) -> Option<String> {
        self.trusted.as_ref()?.find(node).and_then(|Trusted { name, .. }| name)
    }

    /// The trusted nodes, where only those are admitted.
    pub fn trusted(&self) -> Option<&TrustedNodes> {
        self.trusted.as_deref()
    }

    /// The secret of this node's group, if it is in one.
    pub fn secret(&self) -> Option<&Arc<GroupSecret>> {
        self.secret.as_ref()
    }
}
