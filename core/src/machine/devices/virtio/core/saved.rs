//! The saved form of what a device has behind any transport.
#![forbid(unsafe_code)]

use super::super::queue::Queue;
use super::super::{body, body_of, refused};
use super::Core;
use super::state::{State, status, uses_event_idx};
use crate::error::Result;
use crate::hypervisor::{Kind, Section};

impl Core {
    /// Saves a paused device: what it has behind any transport, and what only its kind has.
    pub(in super::super) fn save(&self, instance: u32) -> Vec<Section> {
        let state = self.lock();
        debug_assert!(state.paused && state.in_flight == 0);
        let device = &self.shared.device;
        let mut out = body();
        out.u32(device.id());
        out.u64(state.features());
        out.u8(state.status());
        out.u32(state.generation);
        // At most 64 queues.
        out.u16(u16::try_from(state.queues().len()).unwrap_or(u16::MAX));
        for queue in state.queues() {
            queue.save(&mut out);
        }
        let core = Section::new(Kind::VirtioCore, instance, out.0);
        let mut out = body();
        device.save(&mut out);
        vec![core, Section::new(device.kind(), instance, out.0)]
    }

    /// Loads what [`save`](Self::save) saved, into a device that has not run.
    ///
    /// # Errors
    ///
    /// `migration`, naming what is wrong: a section that is missing or of another version, another kind
    /// of device, features that this one does not offer, other queues.
    pub(in super::super) fn load(&self, instance: u32, sections: &[Section]) -> Result<()> {
        let device = &self.shared.device;
        let mut reader = body_of(sections, Kind::VirtioCore, instance)?;
        let id = reader.u32()?;
        if id != device.id() {
            return Err(refused(&format!(
                "device {instance} is of kind {id}, here it is of kind {}",
                device.id()
            )));
        }
        let features = reader.u64()?;
        let status = reader.u8()?;
        let unknown = features & !self.offered();
        if unknown != 0 && status & status::FEATURES_OK != 0 {
            return Err(refused(&format!(
                "device {instance} uses features {unknown:#x}, which it does not have here"
            )));
        }
        let generation = reader.u32()?;
        let count = usize::from(reader.u16()?);
        let sizes = device.queues();
        if count != sizes.len() {
            return Err(refused(&format!(
                "device {instance} has {count} queues, here it has {}",
                sizes.len()
            )));
        }
        let mut queues = Vec::new();
        for &size in sizes {
            let queue = Queue::load(&mut reader, uses_event_idx(features))?;
            if queue.max_size() != size {
                return Err(refused(&format!(
                    "a queue of device {instance} has {} places, here it has {size}",
                    queue.max_size()
                )));
            }
            queues.push(queue);
        }
        reader.finish()?;
        State::check(status, &queues)
            .map_err(|why| refused(&format!("device {instance}: {why}")))?;

        let mut reader = body_of(sections, device.kind(), instance)?;
        device.load(&mut reader)?;
        reader.finish()?;
        let mut state = self.lock();
        state.restore(status, features, generation, queues);
        if state.is_driven() {
            device.activate(features);
        }
        Ok(())
    }
}
