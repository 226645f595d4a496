//! Everything that a peer can do wrong to a node, over real sockets: each gets the error that the
//! protocol names, changes nothing, and costs nobody else anything.
//!
//! `errors` asks for what cannot be, `frames` sends what is none, `streams` breaks the rules of credit,
//! `closes` leaves at every moment, and `resources` tries to make the node hold more than its limits.

#![cfg(all(feature = "node", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails the test")]

mod support;

#[path = "hostile/closes.rs"]
mod closes;
#[path = "hostile/errors.rs"]
mod errors;
#[path = "hostile/fields.rs"]
mod fields;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/resources.rs"]
mod resources;
#[path = "hostile/roles.rs"]
mod roles;
#[path = "hostile/streams.rs"]
mod streams;

use dwcp::{Backend, Node, NodeBuilder, Role, VM, VMClient, VMEventType};
use serde_json::{Value, json};
use support::raw::{Frame, Raw, kind};
use support::{config, wait};

/// Keys of the node, by role.
const VIEWER: &str = "the-key-of-a-viewer";
const OPERATOR: &str = "the-key-of-an-operator";
const ADMIN: &str = "the-key-of-an-admin";
const PEER: &str = "the-key-of-a-peer";
/// An id that names nothing.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// A node in this process with a VM that runs and one that is stopped.
struct Target {
    node: Node,
    address: String,
    running: VM,
    stopped: VM,
}

impl Target {
    /// One with keys.
    async fn start() -> Target {
        Target::with(|node| node).await
    }

    async fn with(set_up: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Target {
        let builder = Node::builder("node-01")
            .backend(Backend::Sim)
            .api_key(VIEWER, Role::Viewer)
            .api_key(OPERATOR, Role::Operator)
            .api_key(ADMIN, Role::Admin)
            .api_key(PEER, Role::Node)
            .listen("127.0.0.1:0");
        Target::of(set_up(builder).start().await.unwrap()).await
    }

    /// One that needs no key.
    async fn open() -> Target {
        let builder = Node::builder("node-01").backend(Backend::Sim);
        Target::of(builder.listen("127.0.0.1:0").start().await.unwrap()).await
    }

    async fn of(node: Node) -> Target {
        let vms = node.client().vm();
        let running = vms.create(config("runs")).await.unwrap();
        let mut events = vms.watch(&running.id).await.unwrap();
        vms.start(&running.id).await.unwrap();
        // Nothing happens to it by itself after this.
        wait(&mut events, |event| event.event_type == VMEventType::Guest).await;
        let stopped = vms.create(config("rests")).await.unwrap();
        Target {
            address: node.address().unwrap().to_string(),
            running,
            stopped,
            node,
        }
    }

    fn vms(&self) -> VMClient {
        self.node.client().vm()
    }

    /// All that there is, but for figures.
    async fn state(&self) -> Value {
        state_of(&self.vms()).await
    }
}

async fn state_of(vms: &VMClient) -> Value {
    let mut all = serde_json::to_value(vms.list(()).await.unwrap()).unwrap();
    for vm in all.as_array_mut().unwrap() {
        vm.as_object_mut().unwrap().remove("metrics");
    }
    all
}

/// Asks whether the node still serves, on a connection that is new.
fn is_served(address: &str, key: Option<&str>) {
    let mut other = Raw::base(address, key);
    let health = other.call(kind::HEALTH, &json!({}));
    assert_eq!(health.json()["status"], "healthy", "{health:?}");
}

/// That a frame is an error, whose code is this and whose text says that.
fn is_error(frame: &Frame, code: u32, says: &str) {
    assert_eq!(
        frame.error(),
        Some(code),
        "{code:#06x}, not {}",
        frame.text()
    );
    assert!(frame.text().contains(says), "{says:?}: {}", frame.text());
}
