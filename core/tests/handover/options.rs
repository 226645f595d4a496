//! What an option asks for is seen on the link between the nodes.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_change_on_the_way_are_noticed_where_that_was_asked() {
    for backend in backends("pages_that_change").await {
        for verify_checksum in [true, false] {
            let here = node("node-01", backend).await;
            let there = node("node-02", backend).await;
            let link = link(&here, &there);
            let vms = here.client().vm();
            let vm = started(&vms, small("traveller")).await;
            let checked = MigrationOptions {
                verify_checksum,
                ..plain()
            };
            link.rule(Rule::at(Way::AToB, "pages", Fault::Corrupt));
            let begun = vms.migrate(&vm.id, there.name(), checked.clone()).await;
            let status = ended(&vms, &begun.unwrap().id).await;
            assert_eq!(link.rules_left(), 0, "{status:?}");
            if !verify_checksum {
                // Nobody looked.
                assert_eq!(status.state, MigrationState::Completed, "{status:?}");
                continue;
            }
            assert_eq!(status.state, MigrationState::Failed, "{status:?}");
            whole(&vms, &vm.id).await;
            let begun = vms.migrate(&vm.id, there.name(), checked).await;
            let status = ended(&vms, &begun.unwrap().id).await;
            assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            whole(&there.client().vm(), &vm.id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_take_as_many_connections_as_were_asked_for() {
    let processors = std::thread::available_parallelism().unwrap().get();
    if processors == 1 {
        return skipped("pages_take_as_many_connections", &"one CPU only");
    }
    for backend in backends("pages_take_as_many_connections").await {
        let here = node("node-01", backend).await;
        let there = node("node-02", backend).await;
        let link = link(&here, &there);
        let vms = here.client().vm();
        // The default is 4.
        for (parallel, most) in [(1, 1), (2, 2), (0, 4), (64, 64)] {
            let vm = started(&vms, small("traveller")).await;
            link.take_seen();
            let over = MigrationOptions {
                parallel,
                ..plain()
            };
            let begun = vms.migrate(&vm.id, there.name(), over).await.unwrap();
            let status = ended(&vms, &begun.id).await;
            assert_eq!(status.state, MigrationState::Completed, "{status:?}");
            let opened = link.take_seen();
            let opened = opened.iter().filter(|seen| seen.operation == "attach");
            let expected = processors.min(most);
            assert_eq!(
                (opened.count(), status.channels as usize),
                (expected, expected),
                "{status:?}"
            );
            let vms = there.client().vm();
            vms.stop(&vm.id, true).await.unwrap();
            vms.destroy(&vm.id).await.unwrap();
        }
    }
}
