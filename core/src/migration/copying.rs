//! The source's copying thread: opens the bulk channels, then runs the engine's rounds. It can be ended
//! from the driver's thread at any moment.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use super::engine::{Engine, EngineOptions, Stopper};
use super::link;
use super::progress::Progress;
use super::protocol::source::SourceInput;
use super::supply::Route;
use crate::error::{DWCPError, Result};
use crate::machine::{self, Machine, spawn, work_as};

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
    engine: Option<Stopper>,
}

impl Copying {
    /// Starts it; `report` takes what its steps come to.
    pub(super) fn start(plan: Plan, report: impl Fn(Report) + Send + 'static) -> Result<Self> {
        let (jobs, todo) = mpsc::channel();
        let stopper = Arc::new(Mutex::new(StopState::default()));
        let shared = Arc::clone(&stopper);
        let thread = spawn("dwcp-copy", move || {
            work_as(machine::Work::Control);
            let mut engine = match open(plan, &shared) {
                Ok(engine) => engine,
                Err(error) => return report(failed(&error)),
            };
            report(Report::Input(SourceInput::Attached));
            for work in todo {
                let (result, done) = match work {
                    Work::Copy => (engine.copy(), SourceInput::Converged),
                    Work::Finish(state) => (engine.finish(state), SourceInput::StateSent),
                };
                match result {
                    Ok(()) => report(Report::Input(done)),
                    Err(error) => return report(failed(&error)),
                }
                if let Some(served) = engine.serve() {
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
        if let Some(engine) = &state.engine {
            engine.stop();
        }
    }

    /// The guest runs at the destination, which may have all pages now that it does not wait for. Returns
    /// whether any are sent after the switch.
    pub(super) fn push(&self) -> bool {
        let state = self.stopper.lock().unwrap_or_else(PoisonError::into_inner);
        state.engine.as_ref().is_some_and(|engine| {
            engine.push();
            engine.is_serving()
        })
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

fn open(plan: Plan, stop: &Mutex<StopState>) -> Result<Engine> {
    let is_stopped = || stop.lock().unwrap_or_else(PoisonError::into_inner).stopped;
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
    let options = EngineOptions {
        post_copy: post_copy.then(|| plan.route.clone()),
        ..plan.options
    };
    let (engine, stopper) = Engine::start(&plan.machine, channels, options, plan.progress)?;
    let mut state = stop.lock().unwrap_or_else(PoisonError::into_inner);
    if state.stopped {
        stopper.stop();
    }
    state.engine = Some(stopper);
    Ok(engine)
}
