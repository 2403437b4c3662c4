//! Whether a name stands for something else than the last time, and comes from somebody else.

use std::path::Path;

use ftx_proto::digest::{NodeId, Root};
use ftx_proto::name::{RelativePath, printable};
use ftx_proto::wire::discovery::Want;
use serde_json::json;

use crate::cli::json::Output;
use crate::fetch::report::{Report, SourceState};
use crate::fetch::resolve::{Resolved, Wanted};
use crate::publishers::{Published, Publishers};

/// What is known of a name that is being fetched.
pub(super) struct Publisher {
    book: Publishers,
    name: Option<RelativePath>,
    earlier: Option<Published>,
    told: bool,
}

impl Publisher {
    /// For what the user wants; of a content that is wanted by its root nothing is said, since it is what it is.
    pub(super) fn new(state_dir: &Path, wanted: &Wanted, resolved: &Resolved) -> Self {
        let book = Publishers::new(state_dir);
        let by_name = |want: &Want| matches!(want, Want::Name(name) if *name == resolved.name);
        let name = wanted.readings().iter().any(|reading| by_name(&reading.want));
        let name = name.then(|| resolved.name.clone());
        // Who names a root as well knows what it is.
        let earlier = wanted.only_name().and_then(|name| book.find(name));
        Publisher { book, name, earlier, told: false }
    }

    /// It was found: these nodes say that they have it.
    pub(super) fn found(&mut self, resolved: &Resolved, output: &Output) {
        let nodes = resolved.holders.iter();
        let nodes = nodes.map(|holder| (holder.announce.node, holder.announce.name.clone())).collect();
        self.compare(resolved.root, nodes, output);
    }

    /// It was fetched, from these nodes, which have proved who they are.
    pub(super) fn fetched(&mut self, report: &Report, output: &Output) {
        let mut sources: Vec<_> = report.sources.iter().collect();
        // Whoever gave most of it stands for it.
        sources.sort_by_key(|source| (std::cmp::Reverse(source.bytes), source.state != SourceState::Joined));
        self.compare(
            report.root,
            sources.iter().map(|source| (source.node, source.name.clone())).collect(),
            output,
        );
        if let (Some(name), Some(source)) = (self.name.clone(), sources.first()) {
            let (node, called) = (source.node, source.name.clone());
            self.book.remember(Published { name, root: report.root, node, called });
        }
    }

    fn compare(&mut self, root: Root, nodes: Vec<(NodeId, String)>, output: &Output) {
        let Some(Published { name, root: earlier_root, node, called }) = &self.earlier else { return };
        if self.told || root == *earlier_root || nodes.is_empty() || nodes.iter().any(|(one, _)| one == node)
        {
            return;
        }
        self.told = true;
        let shown = |(node, name): &(NodeId, String)| format!("{} ({})", printable(name), node.short());
        let now: Vec<String> = nodes.iter().map(shown).collect();
        tracing::warn!(
            "{name}: last time it was {earlier_root} from {}; now it is {root} from {}, which is somebody else",
            shown(&(*node, called.clone())),
            now.join(", ")
        );
        output.event(
            "other_publisher",
            json!({
                "name": name.as_str(),
                "root": root.to_string(),
                "nodes": nodes
                    .iter()
                    .map(|(node, name)| json!({ "node": node.to_string(), "name": printable(name).to_string() }))
                    .collect::<Vec<_>>(),
                "earlier_root": earlier_root.to_string(),
                "earlier_node": { "node": node.to_string(), "name": printable(called).to_string() },
            }),
        );
    }
}
