//! The source's copying: rounds over all channels, and the last one in the pause.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::compression::Compression;
use super::converge::{Brake, Throttle};
use super::marks::micros;
use super::mirror::{Mirror, Pieces, total};
use super::pacer::Pacer;
use super::progress::Progress;
use super::sender::{Pass, Round, Sender, Sending};
use super::supply::{Route, Supply};
use super::switch::SwitchRule;
use crate::error::{DWCPError, Result};
use crate::machine::{Machine, Work, spawn, work_as};
use crate::memory::{Harvest, PAGE_SIZE, PageBitmap};
use crate::model::MigrationMode;
use crate::transport::Blocking;

/// What the engine needs to know of the options.
#[derive(Clone)]
pub(super) struct EngineOptions {
    /// Bytes per second over all channels, 0: no limit.
    pub(super) bandwidth: u64,
    /// Compress where it pays.
    pub(super) compression: bool,
    /// Checksums on every message.
    pub(super) checksum: bool,
    /// Limit on the downtime.
    pub(super) max_downtime: Duration,
    /// Copy while the guest runs.
    pub(super) live: bool,
    /// Copy its disk as well.
    pub(super) with_disks: bool,
    /// Where pages may be sent after the switch: how channels that are lost then are opened again.
    pub(super) post_copy: Option<Route>,
    /// What may slow the guest down, where that is permitted.
    pub(super) throttle: Option<Arc<dyn Throttle>>,
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

/// Copies a machine's memory over attached channels.
///
/// `copy` returns when it is time to switch, `finish` sends what is left of a paused machine, and its
/// state. `stopper` ends either from another thread.
pub(super) struct Engine {
    machine: Arc<Machine>,
    shared: Arc<Sending>,
    workers: Vec<Worker>,
    rule: SwitchRule,
    brake: Arc<Brake>,
    round: u64,
    live: bool,
    /// Found changed and not sent yet.
    left: Option<Harvest>,
    /// The disk that is taken along.
    mirror: Option<Mirror>,
    route: Option<Route>,
    /// The switch comes first for these pages: the destination knows that it misses them.
    late: Option<PageBitmap>,
    supply: Arc<OnceLock<Arc<Supply>>>,
    stopped: Arc<AtomicBool>,
}

/// One channel's thread.
struct Worker {
    jobs: mpsc::Sender<Job>,
    results: mpsc::Receiver<Result<()>>,
    socket: Blocking,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Round(Arc<Round>),
    State(Vec<u8>),
    Missing(PageBitmap),
    Serve(Arc<Supply>, u32),
}

/// Ends an engine's work, whatever it waits for.
#[derive(Clone)]
pub(super) struct Stopper {
    shared: Arc<Sending>,
    brake: Arc<Brake>,
    sockets: Arc<Mutex<Vec<Blocking>>>,
    supply: Arc<OnceLock<Arc<Supply>>>,
    /// What begins to be sent after the switch from now on ends at once.
    stopped: Arc<AtomicBool>,
}

impl Stopper {
    pub(super) fn stop(&self) {
        self.brake.release();
        self.shared.pacer.stop();
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(supply) = self.supply.get() {
            supply.stop();
        }
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.iter() {
            // It fails only when the peer was faster.
            let _ = socket.shutdown();
        }
    }

    /// The guest runs at the destination: where pages are sent after the switch, those too that it does not wait
    /// for.
    pub(super) fn push(&self) {
        if let Some(supply) = self.supply.get() {
            supply.push();
        }
    }

    /// Whether pages are sent after the switch.
    pub(super) fn is_serving(&self) -> bool {
        self.supply.get().is_some()
    }
}

impl Engine {
    /// Starts following the machine's changes, and a thread for each channel.
    pub(super) fn start(
        machine: &Arc<Machine>,
        channels: Vec<Blocking>,
        options: EngineOptions,
        progress: Arc<Progress>,
    ) -> Result<(Self, Stopper)> {
        let mirror = options.with_disks.then(|| Mirror::start(machine));
        let mirror = mirror.transpose()?;
        let shared = Arc::new(Sending {
            disk: mirror.as_ref().map(|own| Arc::clone(own.file())),
            ram: Arc::clone(machine.ram()),
            consumer: machine.harvester().subscribe()?,
            pacer: Pacer::new(options.bandwidth),
            progress,
            checksum: options.checksum,
            backed: Mutex::new(0..0),
            #[cfg(test)]
            faults: options.faults,
        });
        let mut sockets = Vec::new();
        for channel in &channels {
            sockets.push(channel.try_clone()?);
        }
        let brake = Arc::new(Brake::new(options.throttle));
        let (supply, stopped) = (Arc::default(), Arc::default());
        let stopper = Stopper {
            brake: Arc::clone(&brake),
            shared: Arc::clone(&shared),
            sockets: Arc::new(Mutex::new(sockets)),
            supply: Arc::clone(&supply),
            stopped: Arc::clone(&stopped),
        };
        let mut engine = Self {
            machine: Arc::clone(machine),
            shared,
            workers: Vec::new(),
            rule: SwitchRule::new(options.max_downtime),
            brake,
            round: 0,
            live: options.live,
            left: None,
            mirror,
            route: options.post_copy,
            late: None,
            supply,
            stopped,
        };
        // A limit that rounds down to nothing is still one.
        let share = options.bandwidth.div_ceil(channels.len().max(1) as u64);
        for (index, socket) in channels.into_iter().enumerate() {
            let spare = socket.try_clone()?;
            let compression = options.compression.then(|| Compression::new(share));
            let sender = Sender::new(socket, Arc::clone(&engine.shared), compression);
            engine.workers.push(Worker::start(index, spare, sender)?);
        }
        Ok((engine, stopper))
    }

    /// Sends rounds while the guest runs, until it is time to switch. A migration that is not live
    /// switches at once.
    pub(super) fn copy(&mut self) -> Result<()> {
        #[cfg(test)]
        super::begin(&self.shared.faults, super::Phase::Copy)?;
        while self.live {
            // In each round, so that little is left to be flushed in the pause.
            self.machine.flush_disk()?;
            let harvest = self.shared.consumer.harvest()?;
            let pages = harvest.pages.count();
            self.shared.progress.dirtied(pages);
            let disk = self.take_disk()?;
            let decision = self.rule.decide(pages * PAGE_SIZE + total(&disk));
            let (stall, _) = self.machine.stalls();
            self.shared.progress.update(|s| {
                s.expected_downtime_us = micros(decision.expected);
                s.stall_us = micros(stall);
            });
            if decision.switch {
                self.left = Some(harvest);
                self.put_back(&disk);
                break;
            }
            // The disk is whole before the switch, also where some of the memory is not.
            if decision.stuck && self.route.is_some() && self.rule.allows(total(&disk)) {
                self.postpone(&harvest.pages)?;
                self.put_back(&disk);
                break;
            }
            if decision.hopeless
                && let Some(percent) = self.brake.press()
            {
                self.rule.slowed();
                self.shared
                    .progress
                    .update(|s| s.throttle = u32::from(percent));
            }
            let (sent, time) = self.send(harvest, disk, true)?;
            self.rule.round_sent(sent, time);
        }
        Ok(())
    }

    /// What is left goes after the switch, and so does what the guest writes until then: tells the destination,
    /// while the guest runs, so that little is left to be told in the pause.
    fn postpone(&mut self, pages: &PageBitmap) -> Result<()> {
        self.shared
            .progress
            .update(|s| s.mode = MigrationMode::Postcopy);
        self.do_first(Job::Missing(pages.clone()))?;
        self.late = Some(pages.clone());
        Ok(())
    }

    /// One job over the first channel.
    fn do_first(&self, job: Job) -> Result<()> {
        let first = &self.workers[0];
        first.give(job)?;
        first.result()
    }

    /// Sends what is left of a paused machine, or says what is left, then its state. Where something is left, the
    /// channels go on to serve it from then on; see [`serve`](Self::serve).
    pub(super) fn finish(&mut self, state: Vec<u8>) -> Result<()> {
        // The vCPUs stand still; wherever the guest goes on, it is at its own speed.
        self.brake.release();
        #[cfg(test)]
        super::begin(&self.shared.faults, super::Phase::SendState)?;
        let mut harvest = self.shared.consumer.harvest()?;
        if let Some(left) = self.left.take() {
            harvest.pages.merge(&left.pages);
        }
        #[cfg(test)]
        self.shared.faults.last_harvest(&mut harvest);
        #[cfg(test)]
        self.shared.faults.writes(super::faults::Moment::Paused);
        let disk = self.take_disk()?;
        #[cfg(test)]
        let disk = self.shared.faults.last_clusters(disk);
        let Some(mut late) = self.late.take() else {
            self.send(harvest, disk, false)?;
            return self.do_first(Job::State(state));
        };
        if !disk.is_empty() {
            let pages = self.machine.ram().layout().pages();
            let nothing = Harvest {
                pages: PageBitmap::new(pages),
                logged: PageBitmap::new(pages),
            };
            self.send(nothing, disk, false)?;
        }
        harvest.pages.remove(&late);
        if !harvest.pages.is_empty() {
            late.merge(&harvest.pages);
            self.do_first(Job::Missing(harvest.pages))?;
        }
        self.do_first(Job::State(state))?;
        self.begin_serving(&late)
    }

    fn begin_serving(&mut self, late: &PageBitmap) -> Result<()> {
        let route = self.route.take();
        let route = route.ok_or_else(|| DWCPError::Internal("no way to serve pages by".into()))?;
        self.round += 1;
        self.shared.progress.begin_round(self.round, late.count());
        let channels = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        let ram = self.machine.ram();
        let supply = Supply::new(ram, late, route, self.round, channels);
        // Nobody else sets it.
        let _ = self.supply.set(Arc::clone(&supply));
        // Whoever stopped it before found nothing to stop.
        if self.stopped.load(Ordering::SeqCst) {
            supply.stop();
        }
        for (channel, worker) in (0..).zip(&self.workers) {
            worker.give(Job::Serve(Arc::clone(&supply), channel))?;
        }
        Ok(())
    }

    /// Waits until all that is sent after the switch was sent, and placed; `None` where there is no such thing.
    pub(super) fn serve(&mut self) -> Option<Result<()>> {
        self.supply.get()?;
        let results: Vec<Result<()>> = self.workers.iter().map(Worker::result).collect();
        self.shared.progress.end_round();
        Some(results.into_iter().collect())
    }

    /// What is to be sent of the disk next.
    fn take_disk(&self) -> Result<Vec<Range<u64>>> {
        let Some(mirror) = &self.mirror else {
            return Ok(Vec::new());
        };
        #[cfg(test)]
        if self.shared.faults.mutation == Some(super::faults::Mutation::ReadBeforeClear)
            && self.round > 0
        {
            return Ok(mirror.look());
        }
        mirror.take()
    }

    /// For proving that the tests notice: the marks go when all that was marked has been read, where a test asks for
    /// it.
    #[cfg(test)]
    fn clear_late(&self) {
        if self.shared.faults.mutation == Some(super::faults::Mutation::ReadBeforeClear)
            && let Some(mirror) = &self.mirror
        {
            mirror.take().unwrap();
        }
    }

    /// What was taken of the disk goes with the last of it.
    fn put_back(&self, disk: &[Range<u64>]) {
        if let Some(mirror) = &self.mirror {
            mirror.put_back(disk);
        }
    }

    /// One round. Returns how many bytes of the guest's memory and disk were sent, compressed or not, and how long
    /// that took.
    fn send(
        &mut self,
        harvest: Harvest,
        disk: Vec<Range<u64>>,
        live: bool,
    ) -> Result<(u64, Duration)> {
        self.round += 1;
        let progress = Arc::clone(&self.shared.progress);
        let pages = total(&disk).div_ceil(PAGE_SIZE);
        progress.begin_round(self.round, harvest.pages.count() + pages);
        let (began, before) = (Instant::now(), progress.content_sent());
        let pass = Pass {
            number: self.round,
            fresh: self.round == 1,
            urgent: false,
        };
        let round = Arc::new(Round::new(
            pass,
            harvest,
            Pieces::new(disk),
            live,
            self.workers.len(),
        ));
        for worker in &self.workers {
            worker.give(Job::Round(Arc::clone(&round)))?;
        }
        // Every worker is waited for, so that none is still at it when an error is returned.
        let results: Vec<Result<()>> = self.workers.iter().map(Worker::result).collect();
        results.into_iter().collect::<Result<()>>()?;
        #[cfg(test)]
        self.clear_late();
        progress.end_round();
        Ok((progress.content_sent() - before, began.elapsed()))
    }
}

impl Worker {
    fn start(index: usize, socket: Blocking, mut sender: Sender) -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (done, results) = mpsc::channel();
        let thread = spawn(&format!("dwcp-send{index}"), move || {
            work_as(Work::Copy);
            for job in todo {
                let result = match job {
                    Job::Round(round) => sender.send_round(&round),
                    Job::State(state) => sender.send_state(&state),
                    Job::Missing(pages) => sender.send_missing(&pages),
                    Job::Serve(supply, channel) => {
                        let served = supply.serve(channel, &mut sender);
                        if served.is_err() {
                            // What one channel owes, the others do not know of.
                            supply.stop();
                        }
                        served
                    }
                };
                if done.send(result).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self {
            jobs,
            results,
            socket,
            thread: Some(thread),
        })
    }

    fn give(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| gone())
    }

    fn result(&self) -> Result<()> {
        self.results.recv().map_err(|_| gone())?
    }
}

fn gone() -> DWCPError {
    DWCPError::Internal("a channel's thread has ended".into())
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.brake.release();
        if let Some(supply) = self.supply.get() {
            supply.stop();
        }
        for worker in &mut self.workers {
            // Whatever it waits for ends; then there are no more jobs.
            let _ = worker.socket.shutdown();
            let (closed, _) = mpsc::channel();
            worker.jobs = closed;
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a channel's thread panicked");
            }
        }
    }
}
