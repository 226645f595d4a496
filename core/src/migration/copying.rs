//! The source's copying thread: opens the bulk channels, then runs the engine's rounds. It can be ended
//! from the driver's thread at any moment.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use super::engine::{Engine, EngineOptions, Stopper};
use super::link;
use super::progress::Progress;
use super::protocol::source::SourceInput;
use super::same_host::Handed;
use super::supply::Route;
use crate::error::{DWCPError, Result};
use crate::machine::{self, Machine, spawn, work_as};
use crate::transport::Blocking;

/// What the copying thread is told to do once the channels are open.
pub(super) enum Work {
    Copy,
    Finish(Vec<u8>),
}

/// What it reports.
pub(super) enum Report {
    /// What a step came to, for the state machine.
    Input(SourceInput),
    /// What is sent after the switch was all sent, or why not.
    Served(Result<()>),
}

/// What it starts with.
pub(super) struct Plan {
    pub(super) route: Route,
    pub(super) channels: u32,
    /// Pages may be sent after the switch, where the destination can take them.
    pub(super) post_copy: bool,
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
    stop: Option<Stop>,
}

/// What ends a worker's work from another thread.
enum Stop {
    Engine(Stopper),
    Handed(Blocking),
}

impl Stop {
    fn stop(&self) {
        match self {
            Self::Engine(stopper) => stopper.stop(),
            // It fails only when the peer was faster.
            Self::Handed(channel) => drop(channel.shutdown()),
        }
    }
}

/// What does the work.
enum Worker {
    Engine(Box<Engine>),
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
    /// Starts it; `report` takes what its steps come to.
    pub(super) fn start(plan: Plan, report: impl Fn(Report) + Send + 'static) -> Result<Self> {
        let (jobs, todo) = mpsc::channel();
        let stopper = Arc::new(Mutex::new(StopState::default()));
        let shared = Arc::clone(&stopper);
        let thread = spawn("dwcp-copy", move || {
            work_as(machine::Work::Control);
            let mut worker = match open(plan, &shared) {
                Ok(worker) => worker,
                Err(error) => return report(failed(&error)),
            };
            report(Report::Input(SourceInput::Attached));
            for work in todo {
                match worker.work(work) {
                    Ok(done) => report(Report::Input(done)),
                    Err(error) => return report(failed(&error)),
                }
                if let Worker::Engine(engine) = &mut worker
                    && let Some(served) = engine.serve()
                {
                    return report(Report::Served(served));
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
            stop.stop();
        }
    }

    /// The guest runs at the destination, which may have all pages now that it does not wait for. Returns
    /// whether any are sent after the switch.
    pub(super) fn push(&self) -> bool {
        let state = self.stopper.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Stop::Engine(engine)) = &state.stop else {
            return false;
        };
        engine.push();
        engine.is_serving()
    }

    /// Ends it as [`interrupt`](Self::interrupt) does, and waits for it: afterwards nothing follows the machine's memory.
    pub(super) fn stop(self) {
        self.interrupt();
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("a copying thread panicked");
        }
    }
}

fn failed(error: &DWCPError) -> Report {
    Report::Input(SourceInput::Failed(error.to_string()))
}

fn open(plan: Plan, shared: &Mutex<StopState>) -> Result<Worker> {
    let is_stopped = || {
        shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopped
    };
    let (mut channels, mut post_copy) = (Vec::new(), plan.post_copy);
    for channel in 0..plan.channels {
        if is_stopped() {
            return Err(DWCPError::Cancelled(
                "the migration is being stopped".into(),
            ));
        }
        let Route {
            dial,
            session,
            token,
        } = &plan.route;
        let (stream, attached) = link::attach(dial, session, token, channel)?;
        channels.push(stream);
        post_copy &= attached.post_copy;
    }
    let (worker, stop) = begin(plan, channels, post_copy)?;
    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if state.stopped {
        stop.stop();
    }
    state.stop = Some(stop);
    Ok(worker)
}

/// The worker, and what ends its work from another thread.
fn begin(plan: Plan, channels: Vec<Blocking>, post_copy: bool) -> Result<(Worker, Stop)> {
    if !plan.handed {
        let options = EngineOptions {
            post_copy: post_copy.then_some(plan.route),
            ..plan.options
        };
        let (engine, stopper) = Engine::start(&plan.machine, channels, options, plan.progress)?;
        return Ok((Worker::Engine(Box::new(engine)), Stop::Engine(stopper)));
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
    Ok((Worker::Handed(handed), Stop::Handed(spare)))
}
