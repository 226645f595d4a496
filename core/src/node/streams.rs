//! The producers of what a node streams: one task for each stream, which ends with its consumer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::MissedTickBehavior;

use super::events::Read;
use super::keyboard::Seat;
use super::registry::VmEntry;
use super::run::Run;
use super::{Shared, migrations};
use crate::action::{Action, Item, Subscription};
use crate::client::{ItemSink, ItemStream};
use crate::error::{DWCPError, Result};
use crate::machine::Console;
use crate::model::{Filters, LostEvents, Timestamp, VM, VMEvent, VMEventType, VMState};

/// Events taken from the log at once.
const BATCH: usize = 64;
/// Longest time between two figures: a year is not told from never, and can be added to any time.
const INTERVAL_MAX: Duration = Duration::from_secs(365 * 86_400);

impl Shared {
    /// Opens a stream.
    pub(super) async fn open(self: &Arc<Self>, subscription: Subscription) -> Result<ItemStream> {
        subscription.validate()?;
        if let Some(error) = self.registry.why_over(None) {
            return Err(error);
        }
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        let permit = permit.map_err(|_| {
            DWCPError::ResourceLimit(format!(
                "max_streams: this node has {} streams open, which is its limit",
                self.limits.max_streams
            ))
        })?;
        let (sink, stream) = match subscription {
            Subscription::Watch { .. } => ItemStream::events(),
            _ => ItemStream::channel(),
        };
        match subscription {
            Subscription::Watch {
                vm_id,
                filters,
                since,
                store,
            } => {
                let cursor = since.map(|since| {
                    if store.is_none_or(|store| store == self.uuid) {
                        Cursor::At(since.saturating_add(1))
                    } else {
                        Cursor::Foreign
                    }
                });
                self.open_watch(Watch { vm_id, filters }, cursor, sink, permit)?;
            }
            Subscription::Metrics { vm_id, interval } => {
                // What is legal for one figure is for many.
                let action = Action::Metrics {
                    vm_id,
                    window: interval,
                };
                let (entry, vm) = self.registry.find_legal(&action)?;
                migrations::check_held(self, "stream_metrics", &vm)?;
                let run = entry
                    .with_machine(|_, run| Arc::clone(run))
                    .ok_or_else(|| ending("stream_metrics", &vm))?;
                self.open_figures(entry, run, interval, sink, permit);
            }
            Subscription::MigrationProgress { migration_id } => {
                migrations::progress(self, &migration_id, sink, permit).await?;
            }
            Subscription::Console { vm_id, writer } => {
                let (entry, console, seat) = self.console_of(vm_id, writer)?;
                self.open_console(entry, (console, seat), sink, permit);
            }
        }
        Ok(stream)
    }

    fn open_watch(
        self: &Arc<Self>,
        watch: Watch,
        cursor: Option<Cursor>,
        sink: ItemSink,
        permit: OwnedSemaphorePermit,
    ) -> Result<()> {
        let look = match self.registry.look(watch.vm_id.as_deref(), &watch.filters) {
            Ok(look) => look,
            // It went while nobody watched: what happened to it until then is still to be told.
            Err(gone) => {
                let (Some(id), Some(Cursor::At(from))) = (&watch.vm_id, cursor) else {
                    return Err(gone);
                };
                if !(self.registry.keeps(from) && self.registry.has_events_of(id, from)) {
                    return Err(gone);
                }
                let shared = Arc::clone(self);
                self.runtime.spawn(async move {
                    let _permit = permit;
                    shared.watch(&watch, from, &sink).await;
                });
                return Ok(());
            }
        };
        let last = look.next - 1;
        let mut first = Vec::new();
        // Whoever was here before goes on where it was, if that is still kept and was ever there: a
        // number from the future is another node's.
        let from = match cursor {
            Some(Cursor::At(from)) if from <= look.next && self.registry.keeps(from) => from,
            cursor => {
                first.extend(cursor.map(|cursor| {
                    let from = match cursor {
                        Cursor::At(from) => from,
                        // Nothing is known of the events of this store.
                        Cursor::Foreign => 1,
                    };
                    let count = look.next.saturating_sub(from);
                    let missed = LostEvents {
                        count,
                        next: look.next,
                    };
                    lost(missed, &self.uuid)
                }));
                first.extend(look.vms.iter().map(|vm| current(vm, last, &self.uuid)));
                look.next
            }
        };
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            let _permit = permit;
            // Its cursor begins with what was looked at, which must not be forgotten then.
            tokio::select! {
                biased;
                () = sink.closed() => return,
                () = shared.registry.durable(last) => {}
            }
            for event in first {
                if sink.send(Ok(Item::Event(Box::new(event)))).await.is_err() {
                    return;
                }
            }
            shared.watch(&watch, from, &sink).await;
        });
        Ok(())
    }

    /// Sends the events of a watch from a number on.
    async fn watch(&self, watch: &Watch, mut from: u64, sink: &ItemSink) {
        loop {
            let read = tokio::select! {
                biased;
                () = sink.closed() => return,
                read = self.registry.read_events(from, BATCH) => read,
            };
            match read {
                Some(Read::Events(events)) => {
                    for event in events {
                        from = event.seq + 1;
                        let about = watch.is_about(&event.vm, event.before.as_deref());
                        if !about {
                            continue;
                        }
                        let item = Item::Event(Box::new(event.to_event()));
                        if sink.send(Ok(item)).await.is_err() {
                            return;
                        }
                        if event.last && watch.vm_id.is_some() {
                            return self.say_why(watch.vm_id.as_deref(), sink).await;
                        }
                    }
                }
                Some(Read::Lost(missed)) => {
                    from = missed.next;
                    let item = Item::Event(Box::new(lost(missed, &self.uuid)));
                    if sink.send(Ok(item)).await.is_err() {
                        return;
                    }
                    // The last event of the VM may be among them.
                    if let Some(id) = &watch.vm_id
                        && self.registry.find(id).is_err()
                        && !self.registry.has_events_of(id, from)
                    {
                        return self.say_why(Some(id), sink).await;
                    }
                }
                Some(Read::Nothing) => {}
                None => return self.say_why(watch.vm_id.as_deref(), sink).await,
            }
        }
    }

    fn open_figures(
        self: &Arc<Self>,
        entry: Arc<VmEntry>,
        run: Arc<Run>,
        interval: Duration,
        sink: ItemSink,
        permit: OwnedSemaphorePermit,
    ) {
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            let _permit = permit;
            let mut last = match shared.reading(&entry).await {
                Ok(reading) => reading.map(|(sample, _)| sample),
                Err(_) => None,
            };
            let interval = interval.min(INTERVAL_MAX);
            let begin = tokio::time::Instant::now() + interval;
            let mut ticks = tokio::time::interval_at(begin, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    biased;
                    () = sink.closed() => return,
                    () = run.over() => {
                        return shared.say_why(Some(&entry.id), &sink).await;
                    }
                    _ = ticks.tick() => {}
                }
                let Ok((_, vm)) = shared.registry.find(&entry.id) else {
                    return shared.say_why(Some(&entry.id), &sink).await;
                };
                let item = match shared.figures_since(&entry, &vm, last).await {
                    Ok(Some((metrics, sample))) if !run.is_over() => {
                        last = Some(sample);
                        Ok(Item::Metrics(Box::new(metrics)))
                    }
                    // It has just ended.
                    Ok(_) => continue,
                    Err(error) => Err(error),
                };
                let failed = item.is_err();
                if sink.send(item).await.is_err() || failed {
                    return;
                }
            }
        });
    }

    /// The console of a VM: that of its machine, with a seat at its keyboard, or what one that has failed printed
    /// before.
    fn console_of(
        &self,
        vm_id: String,
        writer: Option<String>,
    ) -> Result<(Arc<VmEntry>, Console, Option<Seat>)> {
        let (entry, vm) = self.registry.find(&vm_id)?;
        if vm.state == VMState::Failed
            && let Some(console) = entry.last_words()
        {
            return Ok((entry, console, None));
        }
        let write = Action::ConsoleWrite {
            vm_id,
            data: bytes::Bytes::new(),
            writer: None,
        };
        let (entry, vm) = self.registry.find_legal(&write)?;
        migrations::check_held(self, "console", &vm)?;
        let opened = entry.with_machine(|machine, run| {
            let seat = run.keyboard.open(writer.unwrap_or_default());
            (machine.console().clone(), seat)
        });
        let (console, seat) = opened.ok_or_else(|| ending("console", &vm))?;
        Ok((entry, console, Some(seat)))
    }

    fn open_console(
        self: &Arc<Self>,
        entry: Arc<VmEntry>,
        (console, seat): (Console, Option<Seat>),
        sink: ItemSink,
        permit: OwnedSemaphorePermit,
    ) {
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            let (_permit, _seat) = (permit, seat);
            let mut from = 0;
            loop {
                let read = tokio::select! {
                    biased;
                    () = sink.closed() => return,
                    read = console.read(from) => read,
                };
                let Some((bytes, next)) = read else {
                    return shared.say_why(Some(&entry.id), &sink).await;
                };
                from = next;
                if sink.send(Ok(Item::Console(bytes))).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Ends a stream with the reason, where it is none of its own.
    async fn say_why(&self, id: Option<&str>, sink: &ItemSink) {
        if let Some(error) = self.registry.why_over(id) {
            // Whoever dropped the stream needs no reason.
            let _ = sink.send(Err(error)).await;
        }
    }
}

/// The error for a VM whose machine is just being taken away.
pub(super) fn ending(what: &str, vm: &VM) -> DWCPError {
    DWCPError::InvalidOperation(format!("{what}: VM {} is ending", vm.id))
}

/// Where a watch that is resumed was.
#[derive(Clone, Copy, Debug)]
enum Cursor {
    /// The event with this number comes next.
    At(u64),
    /// In the events of another store.
    Foreign,
}

/// What a watch is about.
#[derive(Debug)]
struct Watch {
    vm_id: Option<String>,
    filters: Filters,
}

impl Watch {
    /// Whether an event belongs to it: the VM matched before it or after it, so that a VM which
    /// leaves a filter is seen to leave.
    fn is_about(&self, vm: &VM, before: Option<&VM>) -> bool {
        self.vm_id.as_ref().is_none_or(|id| *id == vm.id)
            && (self.filters.matches(vm)
                || before.is_some_and(|before| self.filters.matches(before)))
    }
}

/// The present state of a VM, as the first item of a watch.
fn current(vm: &Arc<VM>, seq: u64, store: &str) -> VMEvent {
    VMEvent {
        seq,
        event_type: VMEventType::Current,
        message: format!("is {}", vm.state),
        timestamp: Timestamp::now(),
        vm: VM::clone(vm),
        store: Some(store.to_owned()),
        ..VMEvent::default()
    }
}

/// What says that events are missing.
fn lost(missed: LostEvents, store: &str) -> VMEvent {
    VMEvent {
        seq: missed.next.saturating_sub(1),
        event_type: VMEventType::Lost,
        message: format!("{} events are no longer kept", missed.count),
        timestamp: Timestamp::now(),
        lost: Some(missed),
        store: Some(store.to_owned()),
        ..VMEvent::default()
    }
}
