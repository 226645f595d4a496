//! Several pairs of nodes at the same time: most of a job is waiting.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dwcp::Backend;
use futures::FutureExt;

use super::pair::{Kind, NEVER, Pair};
use crate::support::Witness;
use crate::support::fault_proxy::text;

/// Pairs of nodes.
const WORKERS: usize = 6;
/// The same where guests have to outrun what copies them, for which they need the processors.
const BUSY_WORKERS: usize = 3;
/// How often a job is done again whose guest did not outrun its copy.
const OUTRUN_AGAIN: usize = 12;
/// How often a job is done again when the host stood still meanwhile.
const AGAIN: usize = 3;
/// A host that stands still for so long may have kept a node from answering in time.
const STILL: Duration = Duration::from_millis(100);
/// How often that is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// Something to do with a pair of nodes, which is as before when it went well.
pub(crate) trait Job: Send + Sync + 'static {
    fn name(&self) -> String;
    /// What it came to, or what went wrong.
    fn run(&self, pair: &mut Pair) -> impl Future<Output = Result<String, String>> + Send;
}

/// Does all jobs, prints what each came to, and fails with all that went wrong. A pair with which
/// something went wrong is not used again. What counts on a time-out is done again where the host stood
/// still meanwhile, and where the switch is to come first, what went wrong without it; nothing excuses a second runner
/// or wrong memory.
pub(crate) async fn all<J: Job>(backend: Backend, kind: Kind, jobs: VecDeque<J>) {
    let count = jobs.len();
    assert!(count > 0, "there is no such job");
    let began = Instant::now();
    let jobs: VecDeque<(J, usize)> = jobs.into_iter().map(|job| (job, 0)).collect();
    let jobs = Arc::new(Mutex::new(jobs));
    let workers = match kind {
        Kind::PostCopy => BUSY_WORKERS,
        Kind::PreCopy | Kind::SameHost => WORKERS,
    };
    let workers: Vec<_> = (0..workers.min(count))
        .map(|_| tokio::spawn(work(backend, kind, Arc::clone(&jobs))))
        .collect();
    let mut wrong = Vec::new();
    for worker in workers {
        wrong.extend(worker.await.unwrap());
    }
    let (well, time) = (count - wrong.len(), began.elapsed());
    println!("{well} of {count} went as they must, in {time:.1?}");
    let texts = wrong.join("\n\n");
    assert!(wrong.is_empty(), "{} went wrong:\n{texts}", wrong.len());
}

/// Does jobs until there are none; what went wrong.
async fn work<J: Job>(
    backend: Backend,
    kind: Kind,
    jobs: Arc<Mutex<VecDeque<(J, usize)>>>,
) -> Vec<String> {
    let (mut wrong, mut pair) = (Vec::new(), None);
    loop {
        let job = jobs.lock().unwrap().pop_front();
        let Some((job, tries)) = job else {
            return wrong;
        };
        let mut own = match pair.take() {
            Some(pair) => pair,
            None => start(backend, kind).await,
        };
        let began = Instant::now();
        let watched = Witness::start(EVERY);
        // An assertion that fails is a job that went wrong, like others.
        let result = AssertUnwindSafe(job.run(&mut own)).catch_unwind().await;
        let (name, took) = (job.name(), began.elapsed().as_secs_f64());
        let still = watched.worst();
        match result.unwrap_or_else(|panic| Err(message(&*panic))) {
            Ok(how) => {
                println!("{name:<28} {took:6.2} s  {how}");
                pair = Some(own);
            }
            Err(why)
                if kind == Kind::PostCopy
                    && !own.switched
                    && tries < OUTRUN_AGAIN
                    && !why.contains(NEVER) =>
            {
                println!("{name:<28} {took:6.2} s  again: the guest did not outrun its copy");
                jobs.lock().unwrap().push_back((job, tries + 1));
            }
            Err(why) if still >= STILL && tries < AGAIN && !why.contains(NEVER) => {
                println!("{name:<28} {took:6.2} s  again: the host stood still for {still:.1?}");
                jobs.lock().unwrap().push_back((job, tries + 1));
            }
            Err(why) => {
                println!("{name:<28} {took:6.2} s  WRONG");
                let seen = text(&own.proxy.take_seen());
                wrong.push(format!("{name}: {why}\n{seen}"));
            }
        }
    }
}

/// A new pair.
async fn start(backend: Backend, kind: Kind) -> Pair {
    let mut tries = 0;
    loop {
        let watched = Witness::start(EVERY);
        let started = AssertUnwindSafe(Pair::start(backend, kind))
            .catch_unwind()
            .await;
        let still = watched.worst();
        let why = match started {
            Ok(pair) => return pair,
            Err(panic) => message(&*panic),
        };
        let excused = still >= STILL && tries < AGAIN && !why.contains(NEVER);
        assert!(excused, "a pair of nodes does not start: {why}");
        println!("a pair of nodes again: the host stood still for {still:.1?}");
        tries += 1;
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
    text.unwrap_or_else(|| "it panicked".to_owned())
}
