//! What messages look like on the wire.

use serde_json::{Value, json};

use super::super::message::{Body, Message};
use super::{abort, failed, message, offer, prepared, refused};

fn all() -> Vec<Body> {
    vec![
        Body::Prepare(Box::new(offer())),
        abort("enough"),
        Body::Commit,
        Body::Revoke,
        Body::Done,
        Body::Superseded { epoch: 8 },
        prepared(),
        Body::Unfit {
            reasons: vec!["too small".into()],
        },
        failed("broken"),
        Body::Ready,
        Body::Running,
        Body::Taken,
        refused("revoked"),
        Body::Pending,
        Body::Resolve,
        Body::Aborted,
        Body::Undecided,
    ]
}

#[test]
fn every_message_survives_the_wire_under_its_own_name() {
    for body in all() {
        let operation = body.operation();
        let message = message(body);
        let value = serde_json::to_value(&message).unwrap();
        assert_eq!(value["operation"], operation);
        assert_eq!(serde_json::from_value::<Message>(value).unwrap(), message);
    }
}

#[test]
fn a_message_is_one_flat_object() {
    assert_eq!(
        serde_json::to_value(message(prepared())).unwrap(),
        json!({
            "session": "m", "epoch": 7, "operation": "prepared",
            "node_uuid": "d", "token": "00ff", "channels": 4,
        })
    );
}

#[test]
fn that_memory_was_handed_over_is_said_where_it_was() {
    let said = json!({
        "session": "m", "epoch": 7, "operation": "prepared",
        "node_uuid": "d", "token": "00ff", "channels": 1, "handed": true,
    });
    let told = message(Body::Prepared {
        node_uuid: "d".into(),
        token: "00ff".into(),
        channels: 1,
        handed: true,
    });
    assert_eq!(serde_json::to_value(&told).unwrap(), said);
    assert_eq!(serde_json::from_value::<Message>(said).unwrap(), told);
}

#[test]
fn a_force_names_its_epoch_beside_the_sessions() {
    // Two fields would share the name: what is said of the other epoch has one of its own.
    let said = json!({"session": "m", "epoch": 7, "operation": "superseded", "by": 8});
    let told = message(Body::Superseded { epoch: 8 });
    assert_eq!(serde_json::to_value(&told).unwrap(), said);
    assert_eq!(serde_json::from_value::<Message>(said).unwrap(), told);
}

#[test]
fn what_is_unknown_or_missing_is_refused() {
    let refused = |value: Value| {
        serde_json::from_value::<Message>(value)
            .unwrap_err()
            .to_string()
    };
    let unknown = json!({"session": "m", "epoch": 7, "operation": "surrender"});
    assert!(refused(unknown).contains("unknown variant `surrender`"));
    let extra = json!({"session": "m", "epoch": 7, "operation": "refused", "reason": "", "x": 1});
    assert!(refused(extra).contains("unknown field `x`"));
    let missing = json!({"session": "m", "operation": "commit"});
    assert!(refused(missing).contains("missing field `epoch`"));
    let negative = json!({"session": "m", "epoch": -1, "operation": "commit"});
    assert!(refused(negative).contains("invalid value"));
}
