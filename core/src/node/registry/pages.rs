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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::model::{NodeLimits, Timestamp, VMConfig, VMEventType, VMState};
    use crate::node::registry::Change;
    use crate::node::store::Store;

    fn registry(count: usize) -> Registry {
        let limits = NodeLimits {
            max_memory: 1 << 40,
            max_cpus: 1000,
            max_vms: 100,
            ..NodeLimits::default()
        };
        let (store, mut loaded) = Store::open(None).unwrap();
        let registry = Registry::new("node-01", limits, 1000, Arc::new(store), &mut loaded);
        for n in 0..count {
            create(&registry, &format!("vm-{n}"));
        }
        registry
    }

    fn create(registry: &Registry, id: &str) {
        let config = VMConfig {
            name: id.into(),
            labels: [("parity".into(), (id.len() % 2).to_string())].into(),
            ..VMConfig::default()
        };
        let vm = VM {
            created_at: Timestamp::from_unix_micros(1),
            ..VM::new(id, "node-01", config)
        };
        registry.create(vm, |_| Ok(None)).unwrap();
    }

    fn destroy(registry: &Registry, id: &str) {
        if registry.find(id).unwrap().1.state != VMState::Stopped {
            let stopped = Change::new(VMState::Stopped, VMEventType::Stopped, "test");
            registry.change(id, stopped).unwrap();
        }
        let action = Action::Destroy { vm_id: id.into() };
        registry.destroy(&action).unwrap();
    }

    fn page(registry: &Registry, limit: u32, page: Option<&str>) -> (Vec<String>, Option<String>) {
        let (vms, next) = registry.page(&Filters::new(), limit, page).unwrap();
        (vms.into_iter().map(|(_, vm)| vm.id.clone()).collect(), next)
    }

    #[test]
    fn pages_together_are_the_list() {
        for count in [0, 1, 5, 6, 7] {
            let registry = registry(count);
            let all = registry.list(&Filters::new());
            let all: Vec<_> = all.into_iter().map(|(_, vm)| vm.id.clone()).collect();
            let (mut told, mut next) = page(&registry, 3, None);
            let mut pages = 1;
            while let Some(name) = next {
                let (vms, after) = page(&registry, 3, Some(&name));
                assert!(!vms.is_empty());
                told.extend(vms);
                next = after;
                pages += 1;
            }
            assert_eq!(told, all);
            assert_eq!(pages, count.div_ceil(3).max(1), "{count}");
        }
    }

    #[test]
    fn vms_that_come_and_go_make_no_other_missing_or_told_twice() {
        let registry = registry(6);
        let (told, next) = page(&registry, 3, None);
        assert_eq!(told, ["vm-0", "vm-1", "vm-2"]);
        // The page is named after one of these.
        destroy(&registry, "vm-2");
        destroy(&registry, "vm-0");
        destroy(&registry, "vm-4");
        create(&registry, "vm-6");
        let (told, next) = page(&registry, 3, next.as_deref());
        assert_eq!(
            (told, next),
            (vec!["vm-3".into(), "vm-5".into(), "vm-6".into()], None)
        );
    }

    #[test]
    fn filters_count_for_every_page() {
        let registry = registry(12);
        let filters = Filters::new().with("parity", "1");
        let (first, next) = registry.page(&filters, 1, None).unwrap();
        let (second, end) = registry.page(&filters, 1, next.as_deref()).unwrap();
        assert_eq!(
            (first[0].1.id.as_str(), second[0].1.id.as_str()),
            ("vm-10", "vm-11")
        );
        assert_eq!(end, None);
    }

    #[test]
    fn a_page_that_no_list_has_named_is_refused() {
        for name in ["", "7", "x-y", "-1-vm-0", "18446744073709551616-vm-0"] {
            let error = registry(1)
                .page(&Filters::new(), 1, Some(name))
                .unwrap_err();
            assert!(error.message().starts_with("page: "), "{error}");
        }
    }
}
