//! Two nodes as processes of their own, and a proxy between them that breaks what they say to each
//! other: whatever is lost, late, doubled or killed, at most one of them runs the VM.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

#[path = "faults/matrix.rs"]
mod matrix;
#[path = "faults/pair.rs"]
mod pair;
#[path = "faults/proxy.rs"]
mod proxy;
#[path = "faults/random.rs"]
mod random;
#[path = "faults/stamps.rs"]
mod stamps;
mod support;
#[path = "faults/workers.rs"]
mod workers;

use dwcp::Backend;
use pair::Kind;
use support::node_process::backends;
use support::skipped;

/// KVM, where there is one: the guest's stamps are those of a real guest.
async fn best_backend(test: &str) -> Backend {
    let all = backends(|reason| skipped(&format!("{test} on KVM"), &reason)).await;
    *all.last().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_fault_at_every_message_ends_as_the_design_says() {
    matrix::whole(best_backend("every_fault_at_every_message").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_at_random_leave_one_runner_at_most_and_all_resolved() {
    random::runs(best_backend("faults_at_random").await, Kind::PreCopy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_end_as_the_design_says_where_both_nodes_have_one_memory() {
    matrix::in_one_memory(best_backend("faults_in_one_memory").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_at_random_in_one_memory_leave_one_runner_at_most() {
    let backend = best_backend("faults_at_random_in_one_memory").await;
    random::runs(backend, Kind::SameHost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_end_as_the_design_says_where_the_switch_comes_first() {
    matrix::after_the_switch(best_backend("faults_after_the_switch").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_at_random_after_the_switch_leave_one_runner_at_most() {
    let backend = best_backend("faults_at_random_after_the_switch").await;
    random::runs(backend, Kind::PostCopy).await;
}
