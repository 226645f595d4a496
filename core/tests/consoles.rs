//! Several clients at the console of one VM: all read, one types.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

use std::time::{Duration, Instant};

use dwcp::{
    Backend, Client, ClientConfig, Console, DWCPError, MigrationOptions, MigrationState, Node, Role,
};
use futures::StreamExt;
use serde_json::json;
use support::raw::{Raw, frame, kind};
use support::{config, nodes, started};

/// Time for a node to notice that a console was closed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is typed is refused; the reason.
async fn refused(console: &Console) -> String {
    match console.write(b"b").await {
        Err(DWCPError::InvalidOperation(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// What is typed is taken as soon as nobody else types.
async fn may_type_soon(console: &Console) {
    let begin = Instant::now();
    while let Err(error) = console.write(b"c").await {
        assert!(matches!(error, DWCPError::InvalidOperation(_)), "{error}");
        assert!(begin.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn client(node: &Node, key: &str) -> Client {
    let config = ClientConfig::new("127.0.0.1")
        .with_port(node.address().unwrap().port())
        .with_tls_enabled(false)
        .with_api_key(key)
        .with_pool_size(2);
    Client::new(config).await.unwrap()
}

#[tokio::test]
async fn one_client_types_and_all_read() {
    for node in nodes("one_client_types_and_all_read", |node| node).await {
        let (one, other) = (node.client(), node.client());
        let vm = started(&one.vm(), config("web")).await;
        let first = one.vm().console(&vm.id).await.unwrap();
        let mut second = other.vm().console(&vm.id).await.unwrap();
        // Who reads has not typed yet.
        second.write(b"a").await.unwrap();
        drop(second);
        may_type_soon(&first).await;
        second = other.vm().console(&vm.id).await.unwrap();
        assert!(refused(&second).await.contains("(node-01, since "));
        // The same client, by another of its consoles; and that one closed does not give it up.
        let again = one.clone().vm().console(&vm.id).await.unwrap();
        again.write(b"a").await.unwrap();
        drop(again);
        first.write(b"a").await.unwrap();
        refused(&second).await;
        assert!(second.next().await.unwrap().starts_with(b"dwcp/pulse"));
        drop(first);
        may_type_soon(&second).await;
        // A reset leaves it; a stop does not.
        one.vm().reset(&vm.id).await.unwrap();
        let first = one.vm().console(&vm.id).await.unwrap();
        refused(&first).await;
        one.vm().stop(&vm.id, true).await.unwrap();
        one.vm().start(&vm.id).await.unwrap();
        let first = one.vm().console(&vm.id).await.unwrap();
        first.write(b"a").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_gives_the_keyboard_up() {
    let node = Node::builder("node-01")
        .backend(Backend::Sim)
        .listen("127.0.0.1:0")
        .named_key("hand", "the-key-of-hand", Role::Operator)
        .named_key("other", "the-key-of-other", Role::Operator)
        .start()
        .await
        .unwrap();
    let vm = started(&node.client().vm(), config("web")).await;
    let hand = client(&node, "the-key-of-hand").await;
    let held = hand.vm().console(&vm.id).await.unwrap();
    // Over either connection of its pool.
    for _ in 0..4 {
        held.write(b"a").await.unwrap();
    }
    let other = client(&node, "the-key-of-other").await;
    let waits = other.vm().console(&vm.id).await.unwrap();
    assert!(refused(&waits).await.contains("(hand, since "));
    let inside = node.client().vm().console(&vm.id).await.unwrap();
    assert!(refused(&inside).await.contains("(hand, since "));

    // What comes as data on a stream, from whoever calls itself what it likes, is held to the same.
    let address = node.address().unwrap().to_string();
    let raw = tokio::task::spawn_blocking(move || {
        let console = json!({
            "operation": "console", "vm_id": vm.id, "credit": 100, "writer": "me",
        });
        let mut raw = Raw::extended(&address, Some("the-key-of-other"));
        let stream = raw.ask(kind::STREAM, &console);
        assert_eq!(raw.next().kind, kind::OK);
        assert_eq!(raw.next().kind, kind::CREDIT);
        raw.send(&frame(kind::DATA, &stream, b"x"));
        // What the guest printed comes before it.
        let end = loop {
            let frame = raw.next();
            if frame.kind != kind::ITEM {
                break frame;
            }
        };
        assert!(end.text().contains("(hand, since "), "{end:?}");
        assert_eq!((end.kind, end.error()), (kind::ERROR, Some(0x1005)));
        raw
    });
    let raw = raw.await.unwrap();

    hand.close().await;
    may_type_soon(&waits).await;
    assert!(refused(&inside).await.contains("(other, since "));
    drop((held, raw));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_moved_has_one_keyboard() {
    let node = |name: &'static str| async move {
        let node = Node::builder(name).backend(Backend::Sim);
        node.listen("127.0.0.1:0").start().await.unwrap()
    };
    let (here, there) = (node("node-01").await, node("node-02").await);
    for (one, other) in [(&here, &there), (&there, &here)] {
        let address = other.address().unwrap().to_string();
        one.add_peer(other.name(), address).unwrap();
    }
    let vm = started(&here.client().vm(), config("traveller")).await;
    let (one, two) = (here.client().vm(), here.client().vm());
    let mut stays_open = one.console(&vm.id).await.unwrap();
    stays_open.write(b"a").await.unwrap();
    let options = MigrationOptions {
        encrypt_transport: false,
        max_downtime: 5_000,
        ..MigrationOptions::default()
    };
    let moving = one.migrate(&vm.id, "node-02", options).await.unwrap();
    let moves = one.migration_progress(&moving.id).await.unwrap();
    let last = moves.collect::<Vec<_>>().await.pop().unwrap();
    assert_eq!(last.state, MigrationState::Completed, "{last:?}");

    // Both ask the node that the VM left, over one connection between the nodes: it knows them apart.
    // Whoever types first there has it; who had it here has first to be there.
    let error = loop {
        may_type_soon(&stays_open).await;
        let elsewhere = two.console(&vm.id).await.unwrap();
        if let Err(error) = elsewhere.write(b"b").await {
            break error.to_string();
        }
    };
    assert!(error.contains("(node-01, since "), "{error}");
    let inside = there.client().vm().console(&vm.id).await.unwrap();
    assert!(refused(&inside).await.contains("(node-01, since "));
    assert!(stays_open.next().await.is_some());
    drop(stays_open);
    may_type_soon(&inside).await;
    let late = two.console(&vm.id).await.unwrap();
    assert!(refused(&late).await.contains("(node-02, since "));
}
