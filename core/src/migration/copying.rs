//! The source's copying thread: opens the bulk channels, then runs the engine's rounds. It can be ended
//! from the driver's thread at any moment.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use super::engine::{Engine, EngineOptions};
use super::link::{self, Dial};
use super::progress::Progress;
use super::protocol::source::SourceInput;
use super::same_host::Handed;
use crate::error::{DWCPError, Result};
use crate::machine::{self, Machine, spawn, work_as};
use crate::transport::Blocking;

/// What the copying thread is told to do once the channels are open.
pub(super) enum Work {
    Copy,
    Finish(Vec<u8>),
}

/// What it starts with.
pub(super) struct Plan {
    pub(super) dial: Dial,
    pub(super) session: String,
    pub(super) token: String,
    pub(super) channels: u32,
    /// The destination has the memory: only the state is to be sent, over the first channel.
    pub(super) handed: bool,
    pub(super) options: EngineOptions,
    pub(super) machine: Arc<Machine>,
    pub(super) progress: Arc<Progress>,
}

/// The copying thread.
pub(super) struct Copying {
    jobs: mpsc::Sender<Work>,
    stopper: Arc<Mutex<StopState>>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct StopState {
    stopped: bool,
    /// Ends the work under way.
    stop: Option<Box<dyn Fn() + Send>>,
}

/// What does the work.
enum Worker {
    Engine(Engine),
    Handed(Handed),
}

impl Worker {
    fn work(&mut self, work: Work) -> Result<SourceInput> {
        match (self, work) {
            (Self::Engine(engine), Work::Copy) => engine.copy().map(|()| SourceInput::Converged),
            (Self::Engine(engine), Work::Finish(state)) => {
                engine.finish(state).map(|()| SourceInput::StateSent)
            }
            (Self::Handed(handed), Work::Copy) => handed.copy().map(|()| SourceInput::Converged),
            (Self::Handed(handed), Work::Finish(state)) => {
                handed.finish(&state).map(|()| SourceInput::StateSent)
            }
        }
    }
}

impl Copying {
    /// Starts it; `report` takes what its steps come to, as the state machine's inputs.
    pub(super) fn start(plan: Plan, report: impl Fn(SourceInput) + Send + 'static) -> Result<Self> {
        let (jobs, todo) = mpsc::channel();
        let stopper = Arc::new(Mutex::new(StopState::default()));
        let shared = Arc::clone(&stopper);
        let thread = spawn("dwcp-copy", move || {
            work_as(machine::Work::Control);
            let mut worker = match open(plan, &shared) {
                Ok(worker) => worker,
                Err(error) => return report(SourceInput::Failed(error.to_string())),
            };
            report(SourceInput::Attached);
            for work in todo {
                match worker.work(work) {
                    Ok(done) => report(done),
                    Err(error) => return report(SourceInput::Failed(error.to_string())),
                }
            }
        })?;
        Ok(Self {
            jobs,
            stopper,
            thread,
        })
    }

    /// Gives it its next piece of work.
    ///
    /// # Errors
    ///
    /// `internal` when it has ended.
    pub(super) fn work(&self, work: Work) -> Result<()> {
        self.jobs
            .send(work)
            .map_err(|_| DWCPError::Internal("copying has ended".into()))
    }

    /// Ends it, wherever it is, and does not wait for that: what it reports from now on means nothing.
    pub(super) fn interrupt(&self) {
        let mut state = self.stopper.lock().unwrap_or_else(PoisonError::into_inner);
        state.stopped = true;
        if let Some(stop) = &state.stop {
            stop();
        }
    }

    /// The same, and waits for it: afterwards nothing follows the machine's memory.
    pub(super) fn stop(self) {
        self.interrupt();
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("a copying thread panicked");
        }
    }
}

fn open(plan: Plan, stop: &Mutex<StopState>) -> Result<Worker> {
    let is_stopped = || stop.lock().unwrap_or_else(PoisonError::into_inner).stopped;
    let mut channels = Vec::new();
    for channel in 0..plan.channels {
        if is_stopped() {
            return Err(DWCPError::Cancelled(
                "the migration is being stopped".into(),
            ));
        }
        channels.push(link::attach(
            &plan.dial,
            &plan.session,
            &plan.token,
            channel,
        )?);
    }
    let (worker, ends) = begin(plan, channels)?;
    let mut state = stop.lock().unwrap_or_else(PoisonError::into_inner);
    if state.stopped {
        ends();
    }
    state.stop = Some(ends);
    Ok(worker)
}

/// The worker, and what ends its work from another thread.
fn begin(plan: Plan, channels: Vec<Blocking>) -> Result<(Worker, Box<dyn Fn() + Send>)> {
    if !plan.handed {
        let (engine, stopper) =
            Engine::start(&plan.machine, channels, plan.options, plan.progress)?;
        return Ok((Worker::Engine(engine), Box::new(move || stopper.stop())));
    }
    let channel = channels.into_iter().next();
    let channel = channel.ok_or_else(|| DWCPError::Internal("no bulk channel".into()))?;
    let spare = channel.try_clone()?;
    let handed = Handed::new(
        plan.machine,
        channel,
        plan.progress,
        #[cfg(test)]
        plan.options.faults,
    );
    // It fails only when the peer was faster.
    let ends = move || drop(spare.shutdown());
    Ok((Worker::Handed(handed), Box::new(ends)))
}
