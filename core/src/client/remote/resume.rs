//! How a stream goes on over another connection, so that whoever reads it sees nothing of the change.
//!
//! No I/O here: what was shown goes in, what to ask for next and what to show comes out.
//!
//! A watch is resumed at (store, `seq`). With its first item a watch of one VM learns its `seq`; one
//! of several may have no first item for a long time, and would not know where it began. Such a one
//! begins with a cursor of no store there is, which the node answers with `lost` and the next `seq`
//! before the present state: that `lost` is taken as the answer it is, and not shown.

use std::collections::HashSet;

use crate::action::{Action, Item, Subscription};
use crate::model::{MigrationStatus, Timestamp, VM, VMEvent, VMEventType};

/// The store of no node.
const NO_STORE: &str = "00000000-0000-0000-0000-000000000000";

/// A stream that can be opened again.
#[derive(Debug)]
pub(super) struct Resume {
    asked: Subscription,
    place: Place,
}

/// Where a stream is.
#[derive(Debug)]
enum Place {
    Watch(Watch),
    /// Figures: each is about the interval before it.
    Anywhere,
    /// A migration: the last status that was shown.
    After(Option<Box<MigrationStatus>>),
    /// A console: what it printed has no numbers.
    Nowhere,
}

#[derive(Debug, Default)]
struct Watch {
    /// Whether it is about one VM.
    single: bool,
    /// The last event that is known, and the store it is of.
    cursor: Option<u64>,
    store: Option<String>,
    /// VMs whose present state was shown, while more of these may come.
    currents: Option<HashSet<String>>,
    /// When, by the node's clock, the present state was that.
    began: Timestamp,
    /// The store of whoever numbers what comes: this connection's node, or the one it forwards from.
    here: Option<String>,
    /// Nothing has come over this connection yet.
    first: bool,
    /// The next `lost` was provoked by this side, to learn the cursor.
    probing: bool,
    /// This connection was asked to go on at the cursor, and has not refused.
    resumed: bool,
    /// The last event was the last there can be.
    destroyed: bool,
}

impl Resume {
    pub(super) fn new(asked: Subscription) -> Resume {
        let place = match &asked {
            Subscription::Watch {
                vm_id,
                since,
                store,
                ..
            } => Place::Watch(Watch {
                single: vm_id.is_some(),
                cursor: *since,
                store: store.clone(),
                currents: since.is_none().then(HashSet::new),
                ..Watch::default()
            }),
            Subscription::Metrics { .. } => Place::Anywhere,
            Subscription::MigrationProgress { .. } => Place::After(None),
            Subscription::Console { .. } => Place::Nowhere,
        };
        Resume { asked, place }
    }

    /// What to ask for now.
    pub(super) fn request(&mut self) -> Subscription {
        let mut request = self.asked.clone();
        if let (Place::Watch(watch), Subscription::Watch { since, store, .. }) =
            (&mut self.place, &mut request)
        {
            watch.resumed = watch.cursor.is_some();
            watch.probing = watch.cursor.is_none() && !watch.single;
            watch.first = true;
            (*since, *store) = if watch.probing {
                (Some(u64::MAX), Some(NO_STORE.to_owned()))
            } else {
                (watch.cursor, watch.store.clone())
            };
        }
        request
    }

    /// The stream was opened, at a node with this store.
    pub(super) fn opened(&mut self, store: Option<String>) {
        if let Place::Watch(watch) = &mut self.place {
            // A cursor that came without a store is of whatever store the node has.
            if watch.cursor.is_some() && watch.store.is_none() {
                watch.store.clone_from(&store);
            }
            watch.here = store;
        }
    }

    /// What to show of an item, if anything.
    pub(super) fn take(&mut self, item: Item) -> Option<Item> {
        match (&mut self.place, item) {
            (Place::Watch(watch), Item::Event(event)) => watch.take(event).map(Item::Event),
            (Place::After(last), Item::Migration(status)) => {
                if last.as_ref() == Some(&status) {
                    return None;
                }
                *last = Some(status.clone());
                Some(Item::Migration(status))
            }
            (_, item) => Some(item),
        }
    }

    /// Whether it can go on over another connection.
    pub(super) fn is_possible(&self) -> bool {
        !matches!(self.place, Place::Nowhere)
    }

    /// Whether all has been shown, so that only the end is missing.
    pub(super) fn is_complete(&self) -> bool {
        match &self.place {
            Place::After(Some(status)) => status.state.is_terminal(),
            Place::Watch(watch) => watch.destroyed,
            _ => false,
        }
    }

    /// Whether the present state of some VMs may be missing: the connection broke among them, and the
    /// node does not send them again to whoever comes with a cursor.
    pub(super) fn lacks_currents(&self) -> bool {
        matches!(
            &self.place,
            Place::Watch(Watch {
                resumed: true,
                currents: Some(_),
                ..
            })
        )
    }

    /// What tells the present state of all VMs it is about.
    pub(super) fn currents(&self) -> Option<Action> {
        let Subscription::Watch { vm_id, filters, .. } = &self.asked else {
            return None;
        };
        Some(match vm_id {
            Some(vm_id) => Action::Get {
                vm_id: vm_id.clone(),
            },
            None => Action::List {
                filters: filters.clone(),
                limit: 0,
                page: None,
            },
        })
    }

    /// All VMs that match, for those of which the present state is missing: what to show.
    pub(super) fn complete(&mut self, vms: Vec<VM>) -> Vec<Item> {
        let Place::Watch(watch) = &mut self.place else {
            return Vec::new();
        };
        let Some(shown) = watch.currents.take() else {
            return Vec::new();
        };
        let (seq, began) = (watch.cursor.unwrap_or_default(), watch.began);
        vms.into_iter()
            // One that was made since will come as an event.
            .filter(|vm| began == Timestamp::default() || vm.created_at <= began)
            .filter(|vm| !shown.contains(&vm.id))
            .map(|vm| {
                Item::Event(Box::new(VMEvent {
                    seq,
                    message: format!("is {}", vm.state),
                    timestamp: began,
                    vm,
                    ..VMEvent::default()
                }))
            })
            .collect()
    }
}

impl Watch {
    fn take(&mut self, event: Box<VMEvent>) -> Option<Box<VMEvent>> {
        let first = std::mem::take(&mut self.first);
        if let Some(store) = &event.store {
            if self.store.as_ref().is_some_and(|known| known != store) {
                // The VM moved: another node says how it is there, and numbers what follows.
                self.cursor = None;
                self.resumed = false;
            }
            self.here = Some(store.clone());
        }
        match event.event_type {
            VMEventType::Lost => self.lost(event, first),
            VMEventType::Current => self.current(event),
            _ => self.event(event),
        }
    }

    fn event(&mut self, event: Box<VMEvent>) -> Option<Box<VMEvent>> {
        if self.cursor.is_some_and(|cursor| event.seq <= cursor) {
            return None;
        }
        if !self.resumed {
            // The present state of all has come before.
            self.currents = None;
        }
        self.probing = false;
        self.advance(event.seq);
        self.destroyed = self.single && event.event_type == VMEventType::Destroyed;
        Some(event)
    }

    fn lost(&mut self, event: Box<VMEvent>, first: bool) -> Option<Box<VMEvent>> {
        let next = event
            .lost
            .map_or(event.seq.saturating_add(1), |lost| lost.next);
        if first {
            // The cursor was refused, and the present state follows.
            self.resumed = false;
            self.currents = Some(HashSet::new());
            self.began = event.timestamp;
        }
        self.advance(next.saturating_sub(1));
        (!std::mem::take(&mut self.probing)).then_some(event)
    }

    fn current(&mut self, event: Box<VMEvent>) -> Option<Box<VMEvent>> {
        self.probing = false;
        if self.resumed {
            // The cursor was accepted: what is current has been shown, or is fetched by itself.
            return None;
        }
        // What is current includes all events so far.
        self.advance(event.seq.max(self.cursor.unwrap_or_default()));
        if self.single {
            self.currents = None;
        } else if let Some(shown) = &mut self.currents {
            if shown.is_empty() && self.began == Timestamp::default() {
                self.began = event.timestamp;
            }
            shown.insert(event.vm.id.clone());
        }
        Some(event)
    }

    fn advance(&mut self, seq: u64) {
        self.cursor = Some(seq);
        // A cursor that was accepted is of the store it was of.
        if !self.resumed || self.store.is_none() {
            self.store.clone_from(&self.here);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Filters, LostEvents, MigrationState};

    fn watch(vm_id: Option<&str>, since: Option<u64>) -> Resume {
        Resume::new(Subscription::Watch {
            vm_id: vm_id.map(str::to_owned),
            filters: Filters::new(),
            since,
            store: None,
        })
    }

    fn event(event_type: VMEventType, seq: u64, vm: &str) -> Item {
        let lost = (event_type == VMEventType::Lost).then_some(LostEvents {
            count: 1,
            next: seq + 1,
        });
        Item::Event(Box::new(VMEvent {
            seq,
            event_type,
            vm: VM {
                id: vm.into(),
                ..VM::default()
            },
            lost,
            ..VMEvent::default()
        }))
    }

    fn cursor(resume: &mut Resume) -> (Option<u64>, Option<String>) {
        match resume.request() {
            Subscription::Watch { since, store, .. } => (since, store),
            other => panic!("{other:?}"),
        }
    }

    fn at(seq: u64, store: &str) -> (Option<u64>, Option<String>) {
        (Some(seq), Some(store.to_owned()))
    }

    #[test]
    fn a_watch_of_one_vm_goes_on_behind_what_was_shown() {
        let mut resume = watch(Some("a"), None);
        assert_eq!(cursor(&mut resume), (None, None));
        resume.opened(Some("s".into()));
        assert!(resume.take(event(VMEventType::Current, 4, "a")).is_some());
        assert_eq!(cursor(&mut resume), at(4, "s"));
        assert!(!resume.lacks_currents());
        resume.opened(Some("s".into()));
        // A node that says once more how things are, or repeats an event.
        assert!(resume.take(event(VMEventType::Current, 6, "a")).is_none());
        assert!(resume.take(event(VMEventType::Started, 4, "a")).is_none());
        assert!(resume.take(event(VMEventType::Started, 5, "a")).is_some());
        assert!(!resume.is_complete());
        assert!(resume.take(event(VMEventType::Destroyed, 6, "a")).is_some());
        assert!(resume.is_complete());
    }

    #[test]
    fn a_cursor_of_the_user_is_bound_to_the_first_store() {
        let mut resume = watch(None, Some(9));
        assert_eq!(cursor(&mut resume), (Some(9), None));
        resume.opened(Some("s".into()));
        assert_eq!(cursor(&mut resume), at(9, "s"));
        // Another store, that says nothing before it is gone, changes nothing.
        resume.opened(Some("t".into()));
        assert_eq!(cursor(&mut resume), at(9, "s"));
        resume.opened(Some("t".into()));
        assert!(resume.take(event(VMEventType::Lost, 2, "")).is_some());
        assert_eq!(cursor(&mut resume), at(2, "t"));
    }

    #[test]
    fn a_vm_that_moves_takes_its_numbers_from_where_it_is() {
        let tagged = |event_type, seq, store: &str| match event(event_type, seq, "a") {
            Item::Event(mut event) => {
                event.store = Some(store.to_owned());
                Item::Event(event)
            }
            other => other,
        };
        let mut resume = watch(Some("a"), None);
        assert_eq!(cursor(&mut resume), (None, None));
        resume.opened(Some("s".into()));
        let current = tagged(VMEventType::Current, 40, "s");
        assert!(resume.take(current).is_some());
        assert!(resume.take(event(VMEventType::Migrated, 41, "a")).is_some());
        // Lower numbers, of another store, over the same connection.
        let current = tagged(VMEventType::Current, 3, "t");
        assert!(resume.take(current).is_some());
        assert!(resume.take(event(VMEventType::Updated, 4, "a")).is_some());
        assert_eq!(cursor(&mut resume), at(4, "t"));
        // And they stay that store's, over another connection to the first node.
        resume.opened(Some("s".into()));
        assert!(resume.take(event(VMEventType::Updated, 4, "a")).is_none());
        assert!(resume.take(event(VMEventType::Updated, 5, "a")).is_some());
        assert_eq!(cursor(&mut resume), at(5, "t"));
        // Back where it was.
        resume.opened(Some("s".into()));
        assert!(resume.take(tagged(VMEventType::Lost, 50, "s")).is_some());
        assert!(resume.take(tagged(VMEventType::Current, 50, "s")).is_some());
        assert_eq!(cursor(&mut resume), at(50, "s"));
    }

    #[test]
    fn a_watch_of_all_asks_for_its_cursor_and_fetches_what_it_did_not_see() {
        let mut resume = watch(None, None);
        assert_eq!(cursor(&mut resume), at(u64::MAX, NO_STORE));
        resume.opened(Some("s".into()));
        assert_eq!(cursor(&mut resume), at(u64::MAX, NO_STORE), "nothing came");
        resume.opened(Some("s".into()));
        assert!(
            resume.take(event(VMEventType::Lost, 4, "")).is_none(),
            "it was provoked"
        );
        assert!(resume.take(event(VMEventType::Current, 4, "a")).is_some());
        assert_eq!(cursor(&mut resume), at(4, "s"));
        resume.opened(Some("s".into()));
        assert!(resume.lacks_currents());
        let vms = ["a", "b"].map(|id| VM {
            id: id.into(),
            ..VM::default()
        });
        let items = resume.complete(vms.to_vec());
        let shown: Vec<_> = items
            .iter()
            .map(|item| match item {
                Item::Event(event) => (event.vm.id.as_str(), event.seq),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shown, [("b", 4)]);
        assert!(!resume.lacks_currents());
        // What is lost later is told.
        assert!(resume.take(event(VMEventType::Updated, 5, "a")).is_some());
        assert!(resume.take(event(VMEventType::Lost, 9, "")).is_some());
        assert_eq!(cursor(&mut resume), at(9, "s"));
    }

    #[test]
    fn progress_is_not_repeated_and_ends_with_the_last_status() {
        let mut resume = Resume::new(Subscription::MigrationProgress {
            migration_id: "m".into(),
        });
        let status = |state| {
            Item::Migration(Box::new(MigrationStatus {
                state,
                ..MigrationStatus::default()
            }))
        };
        let running = || status(MigrationState::Running);
        assert!(resume.take(running()).is_some());
        assert!(resume.take(running()).is_none());
        assert!(resume.is_possible() && !resume.is_complete());
        assert!(resume.take(status(MigrationState::Failed)).is_some());
        assert!(resume.is_complete());
    }

    #[test]
    fn a_console_cannot_be_continued() {
        let console = Resume::new(Subscription::Console {
            vm_id: "a".into(),
            writer: None,
        });
        assert!(!console.is_possible() && !console.is_complete());
    }
}
