//! Many VMs on one node leave nothing behind. A binary of its own: it counts threads and files.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::time::{Duration, Instant};

use dwcp::{Backend, Node};
use support::{config, nodes, with};

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}"))
        .unwrap()
        .count()
}

/// VMs at once, idle most of the time.
fn how_many(node: &Node) -> usize {
    match node.backend() {
        Backend::Kvm => 200,
        _ => 50,
    }
}

#[test]
fn many_vms_beat_and_end_without_a_trace() {
    // Threads for blocking work end when they have been idle for this long, so that what is left
    // over can be counted.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_keep_alive(Duration::from_millis(50))
        .build()
        .unwrap();
    runtime.block_on(async {
        let before = (count("task"), count("fd"));
        for node in nodes("many_vms_beat", |node| node).await {
            let vms = node.client().vm();
            let idle = with(config("idle"), &[("working-set", "0"), ("beat-hz", "10")]);
            let mut ids = Vec::new();
            for _ in 0..how_many(&node) {
                ids.push(vms.create(idle.clone()).await.unwrap().id);
            }
            let starts = ids.iter().map(|id| vms.start(id));
            for started in futures::future::join_all(starts).await {
                started.unwrap();
            }
            assert_eq!(
                vms.list([("state", "running")]).await.unwrap().len(),
                ids.len()
            );
            let checks = ids.iter().map(|id| vms.verify(id));
            for report in futures::future::join_all(checks).await {
                let report = report.unwrap();
                assert!(report.verified && report.beats > 0, "{report:?}");
            }
            let running = count("task");
            assert!(running >= before.0 + ids.len(), "{running} threads");
            for (n, id) in ids.iter().enumerate() {
                vms.stop(id, n % 2 == 0).await.unwrap();
                vms.destroy(id).await.unwrap();
            }
            assert!(vms.list(()).await.unwrap().is_empty());
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // The runtime's own workers, and what it opened to wait for I/O, were there before.
            let now = (count("task"), count("fd"));
            if now.0 <= before.0 && now.1 <= before.1 {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{before:?} before, {now:?} after"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
