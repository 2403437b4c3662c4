//! Going through the tree in the order of whole paths, byte by byte: `a`, `a.txt`, `a/b`.
//!
//! A folder comes at its own name. What is in it comes where its name followed by `/` would: there may be others between,
//! since some characters are less than `/`.

use ftx_proto::name::RelativePath;

use super::children::Position;
use super::{Id, Tree};

/// Entries in the order of their paths.
pub(crate) struct InOrder<'a> {
    tree: &'a Tree,
    stack: Vec<Frame>,
}

/// A folder that is being gone through.
struct Frame {
    folder: Id,
    at: Position,
    /// Folders whose names have passed and whose contents have not. The first to come is the last.
    waiting: Vec<Id>,
}

impl<'a> InOrder<'a> {
    /// What is below a folder.
    pub(super) fn below(tree: &'a Tree, folder: Id) -> Self {
        let mut order = InOrder { tree, stack: Vec::new() };
        order.enter(folder);
        order
    }

    /// What comes behind this path in the whole tree, whether or not there is something of that name.
    pub(super) fn behind(tree: &'a Tree, path: &RelativePath) -> Self {
        let mut order = InOrder { tree, stack: Vec::new() };
        let (mut folder, mut rest) = (Id::ROOT, path.as_str());
        while let Some(children) = tree.children(folder) {
            let part = rest.split('/').next().unwrap_or(rest);
            let at = children.after(&|id| tree.name_bytes(id).cmp(rest.as_bytes()));
            // Folders whose names are the beginning of the path: their contents can be behind it.
            let is_behind = |len: &usize| rest.as_bytes().get(*len).is_none_or(|next| *next < b'/');
            let begins = (1..=part.len()).filter(|len| rest.is_char_boundary(*len)).filter(is_behind);
            let waiting =
                begins.filter_map(|len| tree.child(folder, &rest[..len])).filter(|id| tree.is_folder(*id));
            let waiting = waiting.collect();
            order.stack.push(Frame { folder, at, waiting });
            let Some((inner, tail)) = tree.child(folder, part).zip(rest.get(part.len() + 1..)) else { break };
            (folder, rest) = (inner, tail);
        }
        order
    }

    fn enter(&mut self, folder: Id) {
        if let Some(children) = self.tree.children(folder) {
            self.stack.push(Frame { folder, at: children.begin(), waiting: Vec::new() });
        }
    }
}

impl Iterator for InOrder<'_> {
    type Item = Id;

    fn next(&mut self) -> Option<Id> {
        let tree = self.tree;
        loop {
            let frame = self.stack.last_mut()?;
            let children = tree.children(frame.folder)?;
            let next = children.next(frame.at, &|a, b| tree.name_order(a, b));
            if let Some(folder) = frame.waiting.pop_if(|folder| {
                next.is_none_or(|(next, _)| {
                    contents_come_first(tree.name_bytes(*folder), tree.name_bytes(next))
                })
            }) {
                self.enter(folder);
                continue;
            }
            let Some((id, behind)) = next else {
                self.stack.pop();
                continue;
            };
            frame.at = behind;
            if tree.is_folder(id) {
                frame.waiting.push(id);
            }
            return Some(id);
        }
    }
}

/// Whether what is in `folder` comes before `name`, which comes behind `folder` itself.
fn contents_come_first(folder: &[u8], name: &[u8]) -> bool {
    name.strip_prefix(folder).and_then(<[u8]>::first).is_none_or(|next| *next > b'/')
}
