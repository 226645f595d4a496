//! Many VMs at once: how many a second are made, and are started.

use std::{sync::Arc, time::Instant};

use dwcp::VMClient;
use dwcp_benches::Failure;
use tokio::task::JoinSet;

use crate::support::config;

/// Callers that create, each one VM after the other.
pub(crate) const CREATORS: usize = 64;
/// VMs that each of them creates in a run.
const CREATES_EACH: usize = 16;
/// Callers that start, each one VM after the other.
pub(crate) const STARTERS: usize = 16;
/// VMs that each of them starts in a run. All run at once at the end.
const STARTS_EACH: usize = 2;
/// Memory of a VM: the least there is, for so many run at once.
const MEMORY: u64 = 16 << 20;

/// One run of creating; how many a second.
pub(crate) async fn creates(vms: &VMClient) -> Result<f64, Failure> {
    let (ids, rate) = create(vms, CREATORS, CREATES_EACH).await?;
    destroy(vms, ids).await?;
    Ok(rate)
}

/// One run of starting; how many a second run when the call returns.
pub(crate) async fn starts(vms: &VMClient) -> Result<f64, Failure> {
    let (ids, _) = create(vms, STARTERS, STARTS_EACH).await?;
    let began = Instant::now();
    let started = each(vms, &ids, |vms, id| async move {
        vms.start(&id).await?;
        Ok(())
    })
    .await;
    let rate = count(ids.iter().map(Vec::len).sum()) / began.elapsed().as_secs_f64();
    started?;
    each(vms, &ids, |vms, id| async move {
        vms.stop(&id, true).await?;
        Ok(())
    })
    .await?;
    destroy(vms, ids).await?;
    Ok(rate)
}

/// Creates VMs, by so many callers at once; the ids of each, and how many were created a second.
async fn create(
    vms: &VMClient,
    callers: usize,
    each: usize,
) -> Result<(Vec<Vec<String>>, f64), Failure> {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for caller in 0..callers {
        let vms = vms.clone();
        tasks.spawn(async move {
            let mut ids = Vec::with_capacity(each);
            for number in 0..each {
                let config = config(&format!("crowd-{caller}-{number}"), MEMORY)?;
                ids.push(vms.create(config).await?.id);
            }
            Ok::<_, Failure>(ids)
        });
    }
    let mut ids = Vec::new();
    while let Some(task) = tasks.join_next().await {
        ids.push(task??);
    }
    let rate = count(callers * each) / began.elapsed().as_secs_f64();
    Ok((ids, rate))
}

async fn destroy(vms: &VMClient, ids: Vec<Vec<String>>) -> Result<(), Failure> {
    each(vms, &ids, |vms, id| async move {
        vms.destroy(&id).await?;
        Ok(())
    })
    .await
}

/// Does something with every VM: each caller with its own, one after the other, all callers at once.
async fn each<F, W>(vms: &VMClient, ids: &[Vec<String>], work: F) -> Result<(), Failure>
where
    F: Fn(VMClient, String) -> W + Send + Sync + 'static,
    W: Future<Output = Result<(), Failure>> + Send,
{
    let work = Arc::new(work);
    let mut tasks = JoinSet::new();
    for ids in ids.iter().cloned() {
        let (vms, work) = (vms.clone(), Arc::clone(&work));
        tasks.spawn(async move {
            for id in ids {
                work(vms.clone(), id).await?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

/// A number of VMs as a figure.
fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
