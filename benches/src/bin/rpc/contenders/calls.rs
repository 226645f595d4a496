//! Calling, one after the other and many at once.

use std::time::{Duration, Instant};

use dwcp_benches::Failure;
use tokio::task::JoinSet;

/// Something that can be called. Clones share its connection.
pub(super) trait Caller: Clone + Send + 'static {
    /// One call, to its reply, which is read and looked at.
    fn call(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// So many calls, one after the other; how long each took, in microseconds.
pub(super) async fn sequential<C: Caller>(caller: &mut C, count: u32) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let began = Instant::now();
        caller.call().await?;
        times.push(microseconds(began));
    }
    Ok(times)
}

/// Always so many calls in flight, each by a task of its own, as in a program; how many a second were answered.
pub(super) async fn concurrent<C: Caller>(
    caller: &C,
    width: usize,
    time: Duration,
) -> Result<f64, Failure> {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for _ in 0..width {
        let mut caller = caller.clone();
        tasks.spawn(async move {
            let mut calls = 0_u32;
            while began.elapsed() < time {
                caller.call().await?;
                calls += 1;
            }
            Ok::<u32, Failure>(calls)
        });
    }
    let mut calls = 0.0;
    while let Some(task) = tasks.join_next().await {
        calls += f64::from(task??);
    }
    Ok(calls / began.elapsed().as_secs_f64())
}

/// The time since then.
pub(super) fn microseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}
