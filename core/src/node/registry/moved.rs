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
    pub(super) fn remember(&mut self, id: &str, node: &str) {
        if self.to.insert(id.to_owned(), node.to_owned()).is_none() {
            self.order.push_back(id.to_owned());
        }
        while self.order.len() > MOVED_MAX {
            if let Some(old) = self.order.pop_front() {
                self.to.remove(&old);
            }
        }
    }

    pub(super) fn forget(&mut self, id: &str) {
        if self.to.remove(id).is_some() {
            self.order.retain(|known| known != id);
        }
    }
}
