//! Who may ask for what.

use dwcp::Role;
use serde_json::{Value, json};

use super::support::raw::{Raw, kind};
use super::{ADMIN, NOBODY, OPERATOR, PEER, Target, VIEWER};

/// Every operation, in a form that does nothing where it is allowed, and the least role for it.
fn operations() -> Vec<(u8, Value, Role)> {
    use Role::{Admin, Operator, Viewer};
    let vm = |operation: &str| json!({"operation": operation, "vm_id": NOBODY});
    let migration = |operation: &str| json!({"operation": operation, "migration_id": NOBODY});
    let console = json!({"operation": "console_write", "vm_id": NOBODY, "data": ""});
    let create =
        json!({"operation": "create", "request": {"config": {"name": "x", "priority": 1}}});
    let move_it = json!({"vm_id": NOBODY, "target_node": "node-02"});
    let plan = json!({"operation": "plan", "vm_id": NOBODY, "target_node": "node-02"});
    let force = json!({"operation": "resolve", "migration_id": NOBODY, "force": true});
    let snapshot = json!({"vm_id": NOBODY, "name": "first"});
    let restore = json!({"operation": "restore", "vm_id": NOBODY, "snapshot_id": NOBODY});
    let delete = json!({"operation": "delete", "snapshot_id": NOBODY});
    let progress = json!({"operation": "migration_progress", "migration_id": NOBODY, "credit": 1});
    vec![
        (kind::VM, create, Operator),
        (kind::VM, vm("start"), Operator),
        (kind::VM, vm("stop"), Operator),
        (kind::VM, vm("destroy"), Operator),
        (kind::VM, vm("pause"), Operator),
        (kind::VM, vm("resume"), Operator),
        (kind::VM, vm("reset"), Operator),
        (kind::VM, vm("update"), Operator),
        (kind::VM, vm("verify"), Operator),
        (kind::VM, console, Operator),
        (kind::VM, vm("get"), Viewer),
        (kind::VM, json!({"operation": "list"}), Viewer),
        (kind::VM, vm("guest_report"), Viewer),
        (kind::METRICS, json!({"vm_id": NOBODY}), Viewer),
        (kind::MIGRATION, move_it, Operator),
        (kind::MIGRATION, plan, Operator),
        (kind::MIGRATION, migration("cancel"), Operator),
        (kind::MIGRATION, migration("resolve"), Operator),
        (kind::MIGRATION, force, Admin),
        (kind::MIGRATION, migration("status"), Viewer),
        (kind::MIGRATION, json!({"operation": "list"}), Viewer),
        (kind::SNAPSHOT, snapshot, Operator),
        (kind::SNAPSHOT, restore, Operator),
        (kind::SNAPSHOT, delete, Operator),
        (kind::SNAPSHOT, vm("list"), Viewer),
        (kind::HEALTH, json!({}), Viewer),
        (kind::CONFIG, json!({}), Viewer),
        (kind::STREAM, vm("watch"), Viewer),
        (kind::STREAM, vm("stream_metrics"), Viewer),
        (kind::STREAM, vm("console"), Viewer),
        (kind::STREAM, progress, Viewer),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_may_do_what_its_row_says_and_nothing_else() {
    let target = Target::start().await;
    let before = target.state().await;
    let keys = [
        (Role::Viewer, VIEWER),
        (Role::Operator, OPERATOR),
        (Role::Admin, ADMIN),
        (Role::Node, PEER),
    ];
    // Told from one another by their order, but for the last, which people never have.
    let rank = |role| keys.iter().position(|(known, _)| *known == role).unwrap();
    for (role, key) in keys {
        let mut raw = Raw::extended(&target.address, Some(key));
        for (kind, payload, needed) in operations() {
            let answer = raw.call(kind, &payload);
            let allowed = role != Role::Node && rank(role) >= rank(needed);
            assert_eq!(
                answer.error() != Some(0x100e),
                allowed,
                "{role} asks for {payload}: {}",
                answer.text()
            );
        }
    }
    assert_eq!(target.state().await, before);
}

/// The operations between nodes are for nodes: an admin has no place in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_peers_speak_as_peers() {
    let target = Target::start().await;
    let before = target.state().await;
    let attach = json!({
        "operation": "attach", "migration_id": NOBODY, "token": "00000000000000000000000000000000",
        "channel": 0,
    });
    let question = json!({"operation": "whereabouts", "vms": [NOBODY]});
    for key in [VIEWER, OPERATOR, ADMIN] {
        let mut raw = Raw::extended(&target.address, Some(key));
        for first in [&attach, &question] {
            let answer = raw.call(kind::MIGRATION, first);
            assert_eq!(answer.error(), Some(0x100e), "{}", answer.text());
        }
        // It is refused and no more: the connection goes on.
        assert_eq!(raw.call(kind::HEALTH, &json!({})).kind, kind::OK);
    }
    let mut raw = Raw::extended(&target.address, Some(PEER));
    raw.ask(kind::MIGRATION, &attach);
    let answers = raw.rest();
    let codes: Vec<_> = answers.iter().map(|frame| frame.error()).collect();
    assert_eq!(codes, [Some(0x100b)], "{answers:?}");
    // What is known of a VM that never was here; and not of more than the limit.
    let mut raw = Raw::extended(&target.address, Some(PEER));
    raw.ask(kind::MIGRATION, &question);
    let answer = raw.next();
    assert_eq!(answer.kind, kind::OK, "{}", answer.text());
    let known = &answer.json()["vms"][0];
    assert_eq!(
        (&known["vm_id"], &known["epoch"]),
        (&json!(NOBODY), &json!(0))
    );
    assert_eq!(known.get("state"), None);
    let mut raw = Raw::extended(&target.address, Some(PEER));
    let many = json!({"operation": "whereabouts", "vms": vec![NOBODY; 1025]});
    let answer = raw.call(kind::MIGRATION, &many);
    assert_eq!(answer.error(), Some(0x1003), "{}", answer.text());
    assert_eq!(target.state().await, before);
}
