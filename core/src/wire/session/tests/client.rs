//! What a client's side does with what nodes send.

use super::*;
use crate::wire::frame::FrameRef;

/// A client that was let in, whose node is written by the test.
fn ready(config: ClientSessionConfig, auth: &str) -> ClientSession {
    let now = Instant::now();
    let mut client = ClientSession::new(config, now);
    let sent = client.transmit().split();
    let (frame, _) = FrameRef::parse(&sent, FRAME_MAX).unwrap().unwrap();
    assert_eq!(frame.head.frame_type, FrameType::Auth);
    client.receive(&encoded(FrameType::Vm, "0", auth.as_bytes()), now);
    client
}

fn extended() -> ClientSession {
    let auth = r#"{"success":true,"features":["x3.1"],"limits":{"max_inflight":2,"max_streams":1,"max_frame":4096}}"#;
    let mut client = ready(client_config(), auth);
    assert!(matches!(client.poll_event(), Some(ClientEvent::Ready(_))));
    client
}

fn receive(client: &mut ClientSession, frame_type: FrameType, id: &str, payload: &[u8]) {
    client.receive(&encoded(frame_type, id, payload), Instant::now());
}

#[test]
fn nothing_is_asked_before_auth_is_answered() {
    let mut client = ClientSession::new(client_config(), Instant::now());
    let early = client.call(&get(), None).unwrap_err();
    assert!(matches!(early, DWCPError::Connection(_)));
    assert!(client.subscribe(&console()).is_err());
    assert!(!client.is_ready());
    let sent = client.transmit().split();
    let (frame, length) = FrameRef::parse(&sent, FRAME_MAX).unwrap().unwrap();
    assert_eq!(length, sent.len());
    let auth: serde_json::Value = serde_json::from_slice(frame.payload).unwrap();
    assert_eq!(auth["api_key"], "key");
    assert_eq!(auth["version"], 3);
    assert_eq!(auth["features"], serde_json::json!(["x3.1"]));
    assert_eq!(auth["encoding"], "json");
    let printed = format!("{client:?}");
    assert!(!printed.contains("\"key\""), "{printed}");
}

#[test]
fn a_node_of_the_base_profile_does_only_if_it_may() {
    let reply = r#"{"success":true,"message":"hello"}"#;
    let mut client = ready(client_config(), reply);
    let Some(ClientEvent::Refused(error)) = client.poll_event() else {
        panic!("not refused")
    };
    assert!(error.to_string().contains("x3.1"), "{error}");
    assert_eq!(client.poll_event(), None);

    let accept_base = true;
    let config = ClientSessionConfig {
        accept_base,
        ..client_config()
    };
    let mut client = ready(config, reply);
    assert!(matches!(client.poll_event(), Some(ClientEvent::Ready(_))));
    assert!(client.subscribe(&console()).is_err());
    assert_eq!(client.timeout(), None, "no PING");
    for (action, payload, expected) in [
        (start(), "{}", Ok(Outcome::Done)),
        (
            get(),
            "DWCP error 0x1002 vm_not_found: vm-1",
            Err(DWCPError::VMNotFound("vm-1".into())),
        ),
        (
            start(),
            r#"{"code":4101,"name":"invalid_operation","message":"it runs"}"#,
            Err(DWCPError::InvalidOperation("it runs".into())),
        ),
    ] {
        let id = client.call(&action, None).unwrap();
        receive(
            &mut client,
            FrameType::Vm,
            &id.to_string(),
            payload.as_bytes(),
        );
        let result = expected;
        assert_eq!(client.poll_event(), Some(ClientEvent::Reply { id, result }));
    }
    let id = client.call(&get(), None).unwrap();
    let vm = serde_json::to_string(&crate::model::VM::default()).unwrap();
    let created = format!(r#"{{"vm":{vm},"message":"made"}}"#);
    receive(
        &mut client,
        FrameType::Vm,
        &id.to_string(),
        created.as_bytes(),
    );
    let event = client.poll_event();
    let Some(ClientEvent::Reply { result, .. }) = event else {
        panic!("{event:?}")
    };
    assert_eq!(result, Ok(Outcome::VM(Box::default())));
}

#[test]
fn every_way_of_refusing_is_understood() {
    for (frame_type, id, payload, code) in [
        (
            FrameType::Vm,
            "0",
            r#"{"success":false,"message":"no"}"#,
            0x1000,
        ),
        (
            FrameType::Vm,
            "0",
            "DWCP error 0x100c unavailable: no",
            0x100c,
        ),
        (
            FrameType::Error,
            "0",
            r#"{"code":4099,"message":"no"}"#,
            0x1003,
        ),
        (
            FrameType::Error,
            "",
            r#"{"code":4110,"message":"no"}"#,
            0x100e,
        ),
        (FrameType::Vm, "0", "gibberish", 0x1001),
        (FrameType::Vm, "5", "{}", 0x1001),
        (FrameType::Item, "0", "{}", 0x1001),
    ] {
        let mut client = ClientSession::new(client_config(), Instant::now());
        receive(&mut client, frame_type, id, payload.as_bytes());
        let Some(ClientEvent::Refused(error)) = client.poll_event() else {
            panic!("{payload}")
        };
        assert_eq!(error.code().unwrap().number(), code, "{payload}");
        assert_eq!(client.poll_event(), None);
    }
}

#[test]
fn the_nodes_limits_are_kept() {
    let mut client = extended();
    let first = client.call(&get(), None).unwrap();
    client.call(&get(), None).unwrap();
    client.subscribe(&console()).unwrap();
    let waiting = client.transmit().len();
    for refused in [client.call(&get(), None), client.subscribe(&console())] {
        assert!(matches!(refused, Err(DWCPError::ResourceLimit(_))));
    }
    receive(&mut client, FrameType::Error, &first.to_string(), b"{}");
    let long = Action::Get {
        vm_id: "x".repeat(4096),
    };
    let refused = client.call(&long, None);
    assert!(matches!(refused, Err(DWCPError::ResourceLimit(_))));
    assert_eq!(client.transmit().len(), waiting, "nothing was sent");
    assert_eq!(client.call(&get(), None), Ok(4), "no id was lost");
}

#[test]
fn a_stream_runs_on_the_credit_it_gives_back() {
    let mut pair = Pair::connected();
    let (stream, at_node) = pair.console();
    let mut received = 0;
    for round in 0..100 {
        while pair.server.item(&at_node, &printed("line\n")) {}
        pair.drive();
        let items = pair.client_events.drain(..).count();
        assert_eq!(items, if round == 0 { 8 } else { 4 });
        received += items;
        // Less than half a window is not worth a frame.
        pair.client.consumed(stream, 3);
        assert!(pair.client.transmit().is_empty());
        pair.client.consumed(stream, 1);
        assert!(!pair.client.transmit().is_empty());
        pair.drive();
        let credit = ServerEvent::Credit {
            id: at_node.clone(),
        };
        assert_eq!(pair.server_events.drain(..).as_slice(), [credit]);
    }
    assert_eq!(received, 8 + 99 * 4);
    pair.server.end(&at_node, None);
    let ended = ClientEvent::Ended {
        id: stream,
        error: None,
    };
    assert_eq!(pair.client_event(), ended);
    pair.client.consumed(stream, 8);
    assert!(pair.client.transmit().is_empty());
}

#[test]
fn what_is_typed_arrives_in_order_as_far_as_it_may() {
    let mut pair = Pair::connected();
    let (stream, at_node) = pair.console();
    let text: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut typed, mut taken) = (0, Vec::new());
    while taken.len() < text.len() {
        let room = pair.client.data_room(stream).min(text.len() - typed);
        pair.client
            .data(stream, &text[typed..typed + room])
            .unwrap();
        typed += room;
        let over = vec![0; pair.client.data_room(stream) + 1];
        assert!(pair.client.data(stream, &over).is_err());
        pair.drive();
        for event in pair.server_events.drain(..) {
            let ServerEvent::Data { id, bytes } = event else {
                panic!("{event:?}")
            };
            assert_eq!(id, at_node);
            pair.server.data_taken(&id, bytes.len());
            taken.extend_from_slice(&bytes);
        }
    }
    assert_eq!(taken, text);
}

#[test]
fn a_cancelled_stream_ends_and_is_silent_before() {
    let mut pair = Pair::connected();
    let (stream, at_node) = pair.console();
    assert!(pair.server.item(&at_node, &printed("on its way")));
    pair.client.cancel(stream);
    pair.client.cancel(stream);
    pair.drive();
    assert!(pair.client_events.is_empty());
    assert_eq!(
        pair.server_events.drain(..).as_slice(),
        [ServerEvent::Cancel {
            id: at_node.clone()
        }]
    );
    let gone = DWCPError::Cancelled("as asked".into());
    pair.server.end(&at_node, Some(&gone));
    let ended = ClientEvent::Ended {
        id: stream,
        error: Some(gone),
    };
    assert_eq!(pair.client_event(), ended);
    assert_eq!(pair.client.in_flight(), 0);
}

#[test]
fn an_item_that_cannot_be_read_ends_its_stream_alone() {
    let mut client = extended();
    let progress = Subscription::MigrationProgress {
        migration_id: "m".into(),
    };
    let stream = client.subscribe(&progress).unwrap();
    let id = stream.to_string();
    receive(&mut client, FrameType::Ok, &id, b"{}");
    receive(&mut client, FrameType::Item, &id, b"gibberish");
    receive(&mut client, FrameType::Item, &id, b"gibberish");
    receive(&mut client, FrameType::End, &id, b"{}");
    assert_eq!(
        client.poll_event(),
        Some(ClientEvent::Opened { id: stream })
    );
    let event = client.poll_event();
    assert!(
        matches!(&event, Some(ClientEvent::Ended { error: Some(_), .. })),
        "{event:?}"
    );
    assert_eq!(client.poll_event(), None);
    assert_eq!(client.in_flight(), 0);
    assert!(client.is_ready());
}

#[test]
fn what_a_node_may_not_send_ends_the_connection() {
    let call: &[(FrameType, &str)] = &[];
    let opened: &[(FrameType, &str)] = &[(FrameType::Ok, "2")];
    for (before, frame_type, id, payload) in [
        (call, FrameType::Ok, "7", &b"{}"[..]),
        (call, FrameType::Ok, "01", b"{}"),
        (call, FrameType::Error, "7", b"{}"),
        (call, FrameType::Item, "1", b"{}"),
        (call, FrameType::End, "1", b"{}"),
        (call, FrameType::End, "2", b"{}"),
        (call, FrameType::Item, "2", b"early"),
        (call, FrameType::Credit, "1", &[0; 8]),
        (opened, FrameType::Ok, "2", b"{}"),
        (opened, FrameType::Credit, "2", &[0, 0, 0, 1]),
        (opened, FrameType::Credit, "2", b"?"),
        (call, FrameType::Vm, "1", b"{}"),
        (call, FrameType::Health, "1", b"{}"),
        (call, FrameType::Data, "2", b"x"),
        (call, FrameType::Ping, "", &[0; 65]),
    ] {
        let mut client = extended();
        client.call(&start(), None).unwrap();
        client.subscribe(&console()).unwrap();
        for (frame_type, id) in before {
            receive(&mut client, *frame_type, id, b"{}");
            client.poll_event();
        }
        receive(&mut client, frame_type, id, payload);
        let event = client.poll_event();
        let Some(ClientEvent::Close { reason }) = event else {
            panic!("{frame_type:?} for {id}: {event:?}")
        };
        assert!(matches!(reason, DWCPError::Protocol(_)), "{reason}");
        assert!(!client.wants_input() && client.timeout().is_none());
        receive(&mut client, FrameType::Ok, "1", b"{}");
        assert_eq!(client.poll_event(), None);
    }
}

#[test]
fn items_beyond_the_credit_end_the_connection() {
    let mut client = extended();
    let stream = client.subscribe(&console()).unwrap().to_string();
    receive(&mut client, FrameType::Ok, &stream, b"{}");
    for _ in 0..9 {
        receive(&mut client, FrameType::Item, &stream, b"x");
    }
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).collect();
    assert_eq!(events.len(), 10);
    assert!(matches!(events[9], ClientEvent::Close { .. }));
}

#[test]
fn the_node_says_why_it_closes() {
    let mut client = extended();
    client.call(&get(), None).unwrap();
    let why = br#"{"code":4102,"message":"too slow"}"#;
    receive(&mut client, FrameType::Error, "", why);
    let reason = DWCPError::Timeout("too slow".into());
    assert_eq!(client.poll_event(), Some(ClientEvent::Close { reason }));
    client.receive_end(Instant::now());
    assert_eq!(client.poll_event(), None);

    let mut client = extended();
    client.receive_end(Instant::now());
    assert!(matches!(
        client.poll_event(),
        Some(ClientEvent::Close {
            reason: DWCPError::Connection(_)
        })
    ));
}

#[test]
fn every_answer_of_a_vm_arrives() {
    let mut pair = Pair::connected();
    pair.piece = 7;
    let vm = Box::new(crate::model::VM::default());
    let asked = pair.client.call(&get(), None).unwrap();
    pair.drive();
    pair.server
        .reply(&id(&asked.to_string()), Ok(&Outcome::VM(vm.clone())));
    let reply = ClientEvent::Reply {
        id: asked,
        result: Ok(Outcome::VM(vm)),
    };
    assert_eq!(pair.client_event(), reply);
}
