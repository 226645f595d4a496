//! The hard limit on the downtime, on a link that becomes slow once the guest is paused. What is tested
//! here by a real clock is what comes of it; when the limit strikes is tested by a fake one.

use super::support::Witness;
use super::*;

/// What a limited migration may take. Where timings are asserted a fifth of it is more than a busy host
/// keeps a thread waiting.
fn limit() -> Duration {
    Duration::from_millis(if times().1 { 1_000 } else { 300 })
}

fn limited() -> MigrationOptions {
    MigrationOptions {
        max_downtime: u64::try_from(limit().as_millis()).unwrap(),
        ..plain()
    }
}

/// Runs that look at what happens, or with `DWCP_LONG` as many as the promise is made for.
fn times() -> (u32, bool) {
    let long = std::env::var_os("DWCP_LONG").is_some();
    (if long { 100 } else { 2 }, long)
}

/// Migrations over a link that is made slow once the guest is paused: the guest is back.
async fn back_in_time(test: &str, slow: impl Fn(&FaultProxy)) {
    let (times, long) = times();
    for backend in backends(test).await {
        let (here, there) = (
            node("node-01", backend).await,
            node("node-02", backend).await,
        );
        let link = link(&here, &there);
        let vms = here.client().vm();
        let vm = started(&vms, small("limited")).await;
        let mut worst = Duration::ZERO;
        let (mut n, mut disturbed) = (0, 0);
        while n < times {
            // Forgets the longest silence so far.
            whole(&vms, &vm.id).await;
            let witness = long.then(|| Witness::start(Duration::from_millis(1)));
            slow(&link);
            let mut events = vms.watch(&vm.id).await.unwrap();
            let migration = vms.migrate(&vm.id, "node-02", limited()).await.unwrap();
            let status = ended(&vms, &migration.id).await;
            assert_eq!(status.state, MigrationState::Failed, "{n}: {status:?}");
            assert_says(&status.error.unwrap(), &["limit on downtime"]);
            let told = support::wait(&mut events, |event| event.message.contains("limit")).await;
            assert_eq!(told.event_type, dwcp::VMEventType::MigrationFailed);
            assert_says(
                &told.message,
                &["not moved to the node node-02", "max_downtime"],
            );
            assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Running);
            let before = vms.guest_report(&vm.id).await.unwrap();
            until("a beat", || async {
                vms.guest_report(&vm.id).await.unwrap().beats > before.beats + 1
            })
            .await;
            let report = vms.guest_report(&vm.id).await.unwrap();
            let gap = Duration::from_micros(report.longest_beat_gap_us);
            assert!(gap >= limit(), "{n}: it stood still for {gap:?} only");
            link.heal();
            until("the end of the arrival", || async {
                !has(&there, &vm.id).await
            })
            .await;
            // Timings are asserted where there is time for them, and of the guest's own only: a few times
            // in a row a thread has to be woken until it is back.
            let late = witness.map_or(Duration::ZERO, Witness::worst);
            if late > limit() / 20 {
                disturbed += 1;
                assert!(disturbed <= times, "this host is too busy to tell");
                continue;
            }
            n += 1;
            worst = worst.max(gap);
            assert!(!long || gap <= limit().mul_f64(1.2), "{n}: {gap:?}");
        }
        println!(
            "{backend:?}: {times} times, limit {:?}, longest silence {worst:?}; {disturbed} more in which \
             the host kept a thread waiting for a twentieth of the limit",
            limit()
        );
        whole(&vms, &vm.id).await;
        moved(&vms, &vm.id, &there).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_link_that_is_too_slow_for_the_state_the_guest_is_back() {
    back_in_time("on_a_link_too_slow_for_the_state", |link| {
        link.rule(Rule::at(Way::AToB, "state", Fault::Slow(Way::AToB, 100)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_link_that_is_too_slow_for_the_answer_the_guest_is_back() {
    back_in_time("on_a_link_too_slow_for_the_answer", |link| {
        link.rule(Rule::at(Way::BToA, "ready", Fault::Slow(Way::BToA, 100)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_limit_the_grant_is_revoked() {
    for backend in backends("past_the_limit_the_grant_is_revoked").await {
        let (here, there) = (
            node("node-01", backend).await,
            node("node-02", backend).await,
        );
        let link = link(&here, &there);
        let vms = here.client().vm();
        let vm = started(&vms, small("revoked")).await;
        // Also those that follow when the target says that it has heard of none.
        for n in 1..20 {
            link.rule(Rule::at(Way::AToB, "commit", Fault::Drop).nth(n));
        }
        let migration = vms.migrate(&vm.id, "node-02", limited()).await.unwrap();
        let status = ended(&vms, &migration.id).await;
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        assert_says(&status.error.unwrap(), &["limit on downtime"]);
        let seen = link.seen();
        assert!(
            seen.iter().any(|one| one.operation == "refused"),
            "{seen:?}"
        );
        whole(&vms, &vm.id).await;
        assert!(!has(&there, &vm.id).await);
        moved(&vms, &vm.id, &there).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_limit_a_target_that_is_silent_leaves_the_guest_paused() {
    for backend in backends("past_the_limit_a_silent_target").await {
        let (here, there) = (
            node("node-01", backend).await,
            node("node-02", backend).await,
        );
        let link = link(&here, &there);
        let vms = here.client().vm();
        let vm = started(&vms, small("silent")).await;
        cut_at(&link, Way::AToB, "commit");
        let migration = vms.migrate(&vm.id, "node-02", limited()).await.unwrap();
        let told = wait_for(&vms, &vm.id, VMState::Unknown).await;
        assert_says(
            &told.message,
            &["does not answer", "does not run", "resolve_migration"],
        );
        // Long past the limit nobody has run it: only the target can give it back.
        tokio::time::sleep(limit() * 2).await;
        assert_eq!(vms.get(&vm.id).await.unwrap().state, VMState::Unknown);
        assert_eq!(
            there.client().vm().get(&vm.id).await.unwrap().state,
            VMState::Migrating
        );
        // It is asked to, as soon as it can be.
        link.refuse(false);
        let status = ended(&vms, &migration.id).await;
        assert_eq!(status.state, MigrationState::Failed, "{status:?}");
        assert_says(&status.error.unwrap(), &["limit on downtime"]);
        whole(&vms, &vm.id).await;
    }
}

/// The switch is held up for a while that is known. Upper bounds are for benches: a busy host has every
/// guest stand still for longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_downtime_that_is_told_is_what_the_guest_saw() {
    const HELD: Duration = Duration::from_millis(400);
    // As the two clocks are known: to half of the fastest message there and back.
    const UNKNOWN: Duration = Duration::from_millis(50);
    for backend in backends("the_downtime_that_is_told").await {
        let (here, there) = (
            node("node-01", backend).await,
            node("node-02", backend).await,
        );
        let link = link(&here, &there);
        let vms = here.client().vm();
        let vm = started(&vms, small("timed")).await;
        // Forgets the longest silence so far.
        whole(&vms, &vm.id).await;
        link.rule(Rule::at(Way::AToB, "state", Fault::Delay(HELD)));
        let migration = vms.migrate(&vm.id, "node-02", plain()).await.unwrap();
        let status = ended(&vms, &migration.id).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(link.rules_left(), 0, "it was held up");
        let vms = there.client().vm();
        let beats = vms.guest_report(&vm.id).await.unwrap().beats;
        until("a beat", || async {
            vms.guest_report(&vm.id).await.unwrap().beats > beats + 1
        })
        .await;
        let report = vms.guest_report(&vm.id).await.unwrap();
        let seen = Duration::from_micros(report.longest_beat_gap_us);
        assert!(seen >= HELD, "{report:?}");
        let parts = &status.breakdown;
        let told = Duration::from_micros(parts.total_us);
        assert!(
            told >= HELD && status.downtime_us >= parts.total_us,
            "{status:?}"
        );
        assert!(
            u128::from(status.downtime) >= told.as_millis(),
            "{status:?}"
        );
        // While the vCPUs are told to stop, some still run.
        let stood = told.saturating_sub(Duration::from_micros(parts.stop_vcpus_us));
        assert!(seen + UNKNOWN >= stood, "{seen:?}, {status:?}");
    }
}
