//! Where VMs went.

use std::collections::{HashMap, VecDeque};

/// VMs that moved away and are remembered, so that who asks for one learns where it is. The oldest
/// are forgotten first: by then who asks has had every chance.
pub(super) const MOVED_MAX: usize = 16_384;

/// Where VMs went.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) to: HashMap<String, String>,
    pub(super) order: VecDeque<String>,
}

impl Moved {
    /// Remembers where a VM went; the one that is forgotten for it.
    pub(super) fn remember(&mut self, id: &str, node: &str) -> Option<String> {
        if self.to.insert(id.to_owned(), node.to_owned()).is_some() {
            return None;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() <= MOVED_MAX {
            return None;
        }
        let old = self.order.pop_front()?;
        self.to.remove(&old);
        Some(old)
    }

    /// Whether there was something to forget.
    pub(super) fn forget(&mut self, id: &str) -> bool {
        let known = self.to.remove(id).is_some();
        if known {
            self.order.retain(|known| known != id);
        }
        known
    }
}
