//! What a node's side does for peers of the extended profile.

use super::*;

#[test]
fn a_call_is_answered_under_its_id() {
    let mut pair = Pair::connected();
    let asked = pair
        .client
        .call(&get(), Some(Duration::from_millis(1500)))
        .unwrap();
    let ServerEvent::Call {
        id,
        action,
        deadline,
    } = pair.server_event()
    else {
        panic!("no call")
    };
    assert_eq!(action, get());
    assert_eq!(deadline, Some(Duration::from_millis(1500)));
    assert!(pair.server.is_live(&id));
    let error = DWCPError::VMNotFound("vm-1".into());
    pair.server.reply(&id, Err(&error));
    // Later ones are nobody's.
    pair.server.reply(&id, Ok(&Outcome::Done));
    pair.server.end(&id, None);
    assert!(!pair.server.is_live(&id));
    let answer = ClientEvent::Reply {
        id: asked,
        result: Err(error),
    };
    assert_eq!(pair.client_event(), answer);
    assert!(pair.client_events.is_empty());
    assert_eq!(pair.client.in_flight(), 0);
}

#[test]
fn answers_come_in_any_order_and_in_one_write() {
    let mut pair = Pair::connected();
    let asked: Vec<u64> = (0..4)
        .map(|_| pair.client.call(&start(), None).unwrap())
        .collect();
    pair.drive();
    let calls: Vec<Id> = pair
        .server_events
        .drain(..)
        .map(|event| match event {
            ServerEvent::Call { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    for call in calls.iter().rev() {
        pair.server.reply(call, Ok(&Outcome::Done));
    }
    let written = pair.server.transmit().len();
    assert_eq!(written, 4 * (4 + 16 + 1 + 2), "one buffer has them all");
    pair.drive();
    for (event, id) in pair.client_events.drain(..).zip(asked.iter().rev()) {
        let result = Ok(Outcome::Done);
        assert_eq!(event, ClientEvent::Reply { id: *id, result });
    }
}

#[test]
fn nothing_is_read_while_auth_is_answered() {
    let mut raw = Raw::new(config());
    let mut bytes = encoded(FrameType::Auth, "a", br#"{"features":["x3.1"]}"#);
    bytes.extend(encoded(FrameType::Health, "1", b"{}"));
    raw.send_bytes(&bytes);
    assert!(matches!(raw.event(), Some(ServerEvent::Auth(_))));
    assert!(!raw.server.wants_input());
    assert_eq!(raw.event(), None);
    raw.send(FrameType::Health, "2", "{}");
    assert_eq!(raw.event(), None);

    raw.server.accept(accepted(), raw.now);
    let ids: Vec<_> = raw
        .events()
        .into_iter()
        .map(|event| match event {
            ServerEvent::Call { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [id("1"), id("2")]);
    assert!(raw.server.wants_input());
    let (frame_type, of, payload) = raw.frame();
    assert_eq!((frame_type, &*of), (FrameType::Vm, "a"));
    let reply: serde_json::Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(reply["success"], true);
    assert_eq!(reply["features"], serde_json::json!(["x3.1"]));
    assert_eq!(reply["limits"]["max_inflight"], 4);
    assert_eq!(reply["node"]["name"], "node-01");
}

#[test]
fn a_second_auth_is_an_error_and_changes_nothing() {
    let mut raw = Raw::extended();
    raw.send(FrameType::Auth, "b", r#"{"api_key":"other"}"#);
    assert_eq!(raw.error("b"), 0x1001);
    assert_eq!(raw.event(), None);
    raw.send(FrameType::Health, "1", "{}");
    assert!(matches!(raw.event(), Some(ServerEvent::Call { .. })));
}

#[test]
fn who_is_refused_learns_why_and_is_not_served() {
    let mut pair = Pair::new(client_config(), config());
    assert!(matches!(pair.server_event(), ServerEvent::Auth(_)));
    let error = DWCPError::Unavailable("the node drains".into());
    pair.server.refuse(&error, pair.now);
    let reason = Some(error.clone());
    assert_eq!(pair.server_event(), ServerEvent::Close { reason });
    assert_eq!(pair.client_event(), ClientEvent::Refused(error));
    assert!(pair.client.call(&get(), None).is_err());
    assert_eq!(pair.client.timeout(), None);
}

#[test]
fn a_request_that_cannot_be_read_is_answered_and_the_rest_goes_on() {
    let mut raw = Raw::extended();
    for (frame_type, payload) in [
        (FrameType::Vm, "garbage"),
        (FrameType::Vm, r#"{"operation":"dance"}"#),
        (FrameType::Stream, "{}"),
    ] {
        raw.send(frame_type, "1", payload);
        assert_eq!(raw.error("1"), 0x1001, "{payload}");
        assert_eq!(raw.event(), None);
    }
    raw.send(FrameType::Health, "1", "{}");
    assert!(matches!(raw.event(), Some(ServerEvent::Call { .. })));
}

#[test]
fn what_is_no_frame_of_a_peer_ends_the_connection() {
    let mut wrong_version = encoded(FrameType::Health, "9", b"{}");
    wrong_version[4] = 4;
    let mut unknown_type = encoded(FrameType::Health, "9", b"{}");
    unknown_type[5] = 0x7f;
    let mut lengths = encoded(FrameType::Health, "9", b"{}");
    lengths[3] += 1;
    let too_long = encoded(FrameType::Health, "9", &vec![b' '; FRAME_MAX]);
    for (bytes, of, code) in [
        (wrong_version, "", 0x1001),
        (unknown_type, "9", 0x1001),
        (lengths, "9", 0x1001),
        (too_long, "9", 0x1003),
        (vec![0, 0, 0, 15], "", 0x1001),
        (encoded(FrameType::Ok, "9", b"{}"), "9", 0x1001),
        (encoded(FrameType::Item, "9", b"{}"), "9", 0x1001),
        (encoded(FrameType::GoAway, "9", b"{}"), "9", 0x1001),
        (encoded(FrameType::Ping, "9", &[0; 65]), "9", 0x1001),
        (encoded(FrameType::Credit, "9", b"123"), "", 0x1001),
        (encoded(FrameType::Health, "", b"{}"), "", 0x1001),
    ] {
        let mut raw = Raw::extended();
        raw.send_bytes(&bytes);
        assert_eq!(raw.error(of), code, "{bytes:?}");
        assert!(raw.closed().is_some());
        assert!(!raw.server.wants_input());
        assert_eq!(raw.server.timeout(), None);
        raw.send(FrameType::Health, "1", "{}");
        assert_eq!(raw.event(), None);
        assert!(raw.frames().is_empty());
    }
}

#[test]
fn a_live_id_cannot_be_used_again() {
    for again in [FrameType::Health, FrameType::Auth, FrameType::Vm] {
        let mut raw = Raw::extended();
        raw.send(FrameType::Health, "1", "{}");
        assert!(matches!(raw.event(), Some(ServerEvent::Call { .. })));
        raw.send(again, "1", "{}");
        assert_eq!(raw.error(""), 0x1001);
        assert!(matches!(raw.closed(), Some(DWCPError::Protocol(_))));
        // There is no answer any more that could be taken for another.
        raw.server.reply(&id("1"), Ok(&Outcome::Done));
        assert!(raw.frames().is_empty());
    }
    // Nor does a frame of no type get an answer that looks like that of the call.
    let mut raw = Raw::extended();
    raw.send(FrameType::Health, "1", "{}");
    raw.events();
    raw.send(FrameType::Ok, "1", "{}");
    assert_eq!(raw.error(""), 0x1001);
    // After its answer it is free.
    let mut raw = Raw::extended();
    for _ in 0..3 {
        raw.send(FrameType::Health, "1", "{}");
        assert!(matches!(raw.event(), Some(ServerEvent::Call { .. })));
        raw.server.reply(&id("1"), Ok(&Outcome::Done));
        assert_eq!(raw.frame().0, FrameType::Ok);
    }
}

#[test]
fn cancel_is_told_once_and_answered_all_the_same() {
    let mut raw = Raw::extended();
    raw.send(FrameType::Cancel, "nobody", "");
    raw.send(FrameType::Health, "1", "{}");
    raw.send(FrameType::Cancel, "1", "");
    raw.send(FrameType::Cancel, "1", "");
    let events = raw.events();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1], ServerEvent::Cancel { id: id("1") });
    assert!(raw.frames().is_empty());
    raw.server
        .reply(&id("1"), Err(&DWCPError::Cancelled("as asked".into())));
    assert_eq!(raw.error("1"), 0x100d);
    assert!(raw.server.is_idle());
}

#[test]
fn after_going_away_only_what_runs_is_answered() {
    let mut pair = Pair::connected();
    let first = pair.client.call(&start(), None).unwrap();
    let crossing = {
        pair.drive();
        pair.server.go_away("maintenance");
        pair.client.call(&start(), None).unwrap()
    };
    pair.drive();
    assert_eq!(pair.server_events.len(), 1, "the second was not executed");
    pair.server.reply(&id("1"), Ok(&Outcome::Done));
    pair.drive();
    let why = "maintenance".to_owned();
    let expected = [
        ClientEvent::GoAway { why: why.clone() },
        ClientEvent::Reply {
            id: crossing,
            result: Err(DWCPError::Unavailable(why)),
        },
        ClientEvent::Reply {
            id: first,
            result: Ok(Outcome::Done),
        },
    ];
    assert_eq!(pair.client_events, expected);
    let refused = pair.client.call(&start(), None).unwrap_err();
    assert!(matches!(refused, DWCPError::Unavailable(_)));
    assert!(pair.server.is_idle());
}

#[test]
fn a_half_close_is_answered_to_the_end() {
    let mut raw = Raw::extended();
    raw.send(FrameType::Health, "1", "{}");
    raw.send(
        FrameType::Stream,
        "2",
        r#"{"operation":"console","vm_id":"v","credit":2}"#,
    );
    raw.server.receive_end(raw.now);
    let events = raw.events();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2], ServerEvent::Cancel { id: id("2") });
    raw.server.end(&id("2"), None);
    assert_eq!(raw.event(), None);
    raw.server.reply(&id("1"), Ok(&Outcome::Done));
    assert_eq!(raw.closed(), None);
    let types: Vec<_> = raw.frames().iter().map(|frame| frame.frame_type).collect();
    let expected = [
        FrameType::Ok,
        FrameType::Credit,
        FrameType::End,
        FrameType::Ok,
    ];
    assert_eq!(types, expected);

    // At once where nothing is in flight, and with a reason where a frame was begun.
    let mut raw = Raw::extended();
    raw.server.receive_end(raw.now);
    assert_eq!(raw.closed(), None);
    let mut raw = Raw::extended();
    raw.send_bytes(&[0, 0, 1]);
    raw.server.receive_end(raw.now);
    assert!(matches!(raw.closed(), Some(DWCPError::Connection(_))));
}

#[test]
fn a_half_close_while_auth_is_answered_waits_for_it() {
    let mut raw = Raw::new(config());
    let mut bytes = encoded(FrameType::Auth, "a", b"{}");
    bytes.extend(encoded(FrameType::Health, "1", b"{}"));
    raw.send_bytes(&bytes);
    raw.server.receive_end(raw.now);
    assert_eq!(raw.events().len(), 1);
    raw.server.accept(accepted(), raw.now);
    assert!(matches!(raw.event(), Some(ServerEvent::Call { .. })));
    raw.server.reply(&id("1"), Ok(&Outcome::Done));
    assert_eq!(raw.closed(), None);
    assert_eq!(raw.frames().len(), 2);
}

#[test]
fn a_connection_becomes_a_hand_overs() {
    let attach = r#"{"operation":"attach","migration_id":"m","token":"t","channel":0}"#;
    let mut raw = Raw::extended();
    let mut bytes = encoded(FrameType::Migration, "", attach.as_bytes());
    bytes.extend_from_slice(b"pages");
    raw.send_bytes(&bytes);
    let Some(ServerEvent::Peer { frame }) = raw.event() else {
        panic!("no frame of a peer")
    };
    assert_eq!(frame.payload, attach.as_bytes());
    assert!(!raw.server.wants_input());
    raw.send_bytes(b" of memory");
    raw.server.reply(&id(""), Ok(&Outcome::Done));
    assert_eq!(raw.frame().0, FrameType::Ok);
    assert_eq!(raw.event(), None);
    raw.pass(Duration::from_secs(3600));
    assert_eq!(raw.event(), None);
    assert_eq!(&raw.server.into_rest()[..], b"pages of memory");

    // Refused, it is a connection like any other. While a node goes away, its migrations do not.
    let mut raw = Raw::extended();
    raw.server.go_away("moving out");
    assert_eq!(raw.frame().0, FrameType::GoAway);
    let mut bytes = encoded(FrameType::Migration, "7", attach.as_bytes());
    bytes.extend(encoded(FrameType::Health, "8", b"{}"));
    raw.send_bytes(&bytes);
    assert_eq!(raw.events().len(), 1);
    let refused = DWCPError::PermissionDenied("not for people".into());
    raw.server.reply(&id("7"), Err(&refused));
    assert_eq!(raw.error("7"), 0x100e);
    assert_eq!(raw.event(), None);
    assert_eq!(raw.error("8"), 0x100c);
}
