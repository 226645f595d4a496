//! Hand-overs in which both nodes have the same memory, and what that asks of them.

use dwcp::MigrationMode;

use super::*;

/// Moves a VM in its memory, or by copying it.
fn by(same_host: SameHost) -> MigrationOptions {
    MigrationOptions {
        same_host,
        ..plain()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_run_in_its_memory_elsewhere_is_not_resumed_by_force() {
    for backend in backends("what_may_have_run").await {
        for (same_host, state) in [
            (SameHost::Never, VMState::Running),
            (SameHost::Require, VMState::Failed),
        ] {
            let here = node("node-01", backend).await;
            let there = node("node-02", backend).await;
            let link = link(&here, &there);
            let vms = here.client().vm();
            let vm = started(&vms, small("traveller")).await;
            // The target may take it, and is not heard of any more.
            cut_at(&link, Way::AToB, "commit");
            let begun = vms.migrate(&vm.id, there.name(), by(same_host)).await;
            let migration = begun.unwrap();
            wait_for(&vms, &vm.id, VMState::Unknown).await;
            // Nobody is there who could answer.
            drop(link);
            let forced = vms.resolve_migration(&migration.id, true).await;
            let now = vms.get(&vm.id).await.unwrap();
            assert_eq!(now.state, state, "{forced:?}");
            let status = vms.get_migration_status(&migration.id).await.unwrap();
            assert_eq!(status.state, MigrationState::Failed, "{status:?}");
            if same_host == SameHost::Never {
                forced.unwrap();
                whole(&vms, &vm.id).await;
                continue;
            }
            assert_eq!(status.mode, MigrationMode::SameHost);
            let told = forced.unwrap_err().to_string();
            for text in [now.reason.unwrap(), status.error.unwrap(), told] {
                assert_says(&text, &["handed over", "may have run"]);
            }
            // It is this node's, to begin anew.
            vms.start(&vm.id).await.unwrap();
            whole(&vms, &vm.id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_lost_before_the_grant_leaves_the_guest_in_its_memory() {
    for backend in backends("a_link_that_is_lost").await {
        let here = node("node-01", backend).await;
        let there = node("node-02", backend).await;
        let link = link(&here, &there);
        let vms = here.client().vm();
        let vm = started(&vms, small("traveller")).await;
        for (way, message) in [
            (Way::BToA, "prepared"),
            (Way::AToB, "attach"),
            (Way::AToB, "state"),
            (Way::BToA, "ready"),
        ] {
            link.rule(Rule::at(way, message, Fault::Cut));
            let begun = vms.migrate(&vm.id, there.name(), by(SameHost::Require));
            let status = ended(&vms, &begun.await.unwrap().id).await;
            let failed = status.state == MigrationState::Failed;
            assert!(failed, "{message}: {status:?}");
            whole(&vms, &vm.id).await;
        }
        until("the target's end", || async { !has(&there, &vm.id).await }).await;
        let begun = vms.migrate(&vm.id, there.name(), by(SameHost::Require));
        let status = ended(&vms, &begun.await.unwrap().id).await;
        assert_eq!(status.state, MigrationState::Completed, "{status:?}");
        assert_eq!(status.mode, MigrationMode::SameHost);
        whole(&there.client().vm(), &vm.id).await;
    }
}
