//! Lists of VMs in parts.

use std::sync::Arc;

use super::{Registry, VmEntry};
use crate::error::{DWCPError, Result};
use crate::model::names::quote;
use crate::model::{Filters, VM};

/// Some VMs, and the name of the page after them.
type Page = (Vec<(Arc<VmEntry>, Arc<VM>)>, Option<String>);

impl Registry {
    /// The first `limit` VMs that match, oldest first, of those behind `page`.
    ///
    /// A page is named after the last VM of the one before: its place in the order, and its id, which
    /// finds the place again when a node that was restarted counts otherwise. VMs that come and go
    /// between two pages make no other VM missing or told twice.
    ///
    /// # Errors
    ///
    /// `invalid_config` for a page that no list has named.
    pub(in crate::node) fn page(
        &self,
        filters: &Filters,
        limit: u32,
        page: Option<&str>,
    ) -> Result<Page> {
        let place = page.map(place).transpose()?;
        let mut found: Vec<_> = {
            let book = self.book();
            let after = place.map(|(order, id)| book.vms.get(id).map_or(order, |own| own.order));
            let all = book.vms.values();
            all.filter(|own| after.is_none_or(|after| own.order > after))
                .map(|own| (own.order, Arc::clone(&own.entry), Arc::clone(&own.vm)))
                .collect()
        };
        found.retain(|(_, _, vm)| filters.matches(vm));
        found.sort_unstable_by_key(|(order, _, _)| *order);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found
            .last()
            .filter(|_| more)
            .map(|(order, entry, _)| format!("{order}-{}", entry.id));
        let vms = found.into_iter().map(|(_, entry, vm)| (entry, vm));
        Ok((vms.collect(), next))
    }
}

/// Reads the name of a page.
fn place(page: &str) -> Result<(u64, &str)> {
    page.split_once('-')
        .and_then(|(order, id)| Some((order.parse().ok()?, id)))
        .ok_or_else(|| DWCPError::Config(format!("page: no list has named a page {}", quote(page))))
}
